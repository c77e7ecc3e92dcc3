#include "event_log/fake_files.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace underseer::event_log {
namespace {

using Inode = FakeFiles::Inode;

void apply_change(std::string& content, const Inode::Change& change) {
    if (change.truncation) {
        content.resize(change.offset, '\0');
        return;
    }
    if (content.size() < change.offset + change.bytes.size()) {
        content.resize(change.offset + change.bytes.size(), '\0');
    }
    std::copy(change.bytes.begin(), change.bytes.end(),
              content.begin() + static_cast<std::ptrdiff_t>(change.offset));
}

class FakeFile final : public File {
  public:
    FakeFile(FakeFiles* files, std::shared_ptr<Inode> inode)
        : files_(files), inode_(std::move(inode)) {}

    Result<std::size_t> read_at(MutableBytes into, std::uint64_t offset) override {
        const std::string& content = inode_->cached;
        if (offset >= content.size()) return 0;
        const std::size_t size = std::min(into.size(), content.size() - offset);
        std::memcpy(into.data(), content.data() + offset, size);
        return size;
    }

    Result<void> write_at(Bytes bytes, std::uint64_t offset) override {
        const auto outcome = files_->next_call();
        if (outcome == FakeFiles::Outcome::half_done) bytes = bytes.first(bytes.size() / 2);
        if (outcome != FakeFiles::Outcome::failed) {
            change({false, offset, std::string(as_text(bytes))});
        }
        if (outcome != FakeFiles::Outcome::done) return fail(os_error("writing", ENOSPC));
        return {};
    }

    Result<void> truncate(std::uint64_t size) override {
        if (files_->next_call() != FakeFiles::Outcome::done) {
            return fail(os_error("truncating", EIO));
        }
        change({true, size, {}});
        return {};
    }

    Result<std::uint64_t> size() override { return inode_->cached.size(); }

    Result<void> sync() override {
        const auto outcome = files_->next_call();
        if (outcome == FakeFiles::Outcome::done) {
            for (const auto& one : inode_->unsynced) apply_change(inode_->on_disk, one);
        } else if (outcome == FakeFiles::Outcome::half_done && !inode_->unsynced.empty()) {
            apply_change(inode_->on_disk, inode_->unsynced.front());
        }
        // Failed or not, the pages count as clean (what Linux does since 4.13 too).
        inode_->unsynced.clear();
        if (outcome != FakeFiles::Outcome::done) return fail(os_error("syncing", EIO));
        return {};
    }

  private:
    void change(Inode::Change one) {
        apply_change(inode_->cached, one);
        inode_->unsynced.push_back(std::move(one));
    }

    FakeFiles* files_;
    std::shared_ptr<Inode> inode_;
};

class FakeLock final : public Lock {
  public:
    FakeLock(std::set<std::filesystem::path>* locks, std::filesystem::path path)
        : locks_(locks), path_(std::move(path)) {}
    ~FakeLock() override { locks_->erase(path_); }

  private:
    std::set<std::filesystem::path>* locks_;
    std::filesystem::path path_;
};

// What one unsynced write may have left of itself.
void survive(std::string& content, Inode::Change change, std::mt19937_64& randomness) {
    constexpr std::size_t kSector = 512;
    switch (change.truncation ? randomness() % 2 : randomness() % 5) {
        case 0:
            return;
        case 1:
            apply_change(content, change);
            return;
        case 2:
            change.bytes.resize(randomness() % (change.bytes.size() + 1));
            apply_change(content, change);
            return;
        case 3:  // the size reached the disk, the bytes did not
            if (content.size() < change.offset + change.bytes.size()) {
                content.resize(change.offset + change.bytes.size(), '\0');
            }
            return;
        default:
            for (std::size_t begin = 0; begin < change.bytes.size(); begin += kSector) {
                if (randomness() % 2 == 0) continue;
                apply_change(content,
                             {false, change.offset + begin, change.bytes.substr(begin, kSector)});
            }
    }
}

}  // namespace

FakeFiles::Outcome FakeFiles::next_call() {
    ++calls_;
    const bool now = calls_ == fail_at_ || calls_ == kill_at_;
    if (now) return calls_ % 2 == 0 ? Outcome::failed : Outcome::half_done;
    return killed() ? Outcome::failed : Outcome::done;
}

Result<std::unique_ptr<File>> FakeFiles::open(const std::filesystem::path& path, OpenMode mode) {
    auto found = entries_.find(path);
    if (found == entries_.end()) {
        if (mode == OpenMode::read || mode == OpenMode::write) {
            return fail(os_error("opening " + path.string(), ENOENT));
        }
        if (next_call() != Outcome::done) {
            return fail(os_error("opening " + path.string(), ENOSPC));
        }
        found = entries_.emplace(path, std::make_shared<Inode>()).first;
    } else if (mode == OpenMode::create_new) {
        return fail(os_error("opening " + path.string(), EEXIST));
    }
    return std::unique_ptr<File>(std::make_unique<FakeFile>(this, found->second));
}

Result<std::vector<std::string>> FakeFiles::list(const std::filesystem::path& directory) {
    std::vector<std::string> names;
    for (const auto& [path, inode] : entries_) {
        if (path.parent_path() == directory) names.push_back(path.filename().string());
    }
    return names;
}

Result<void> FakeFiles::make_directory(const std::filesystem::path&) {
    return {};
}

Result<void> FakeFiles::remove(const std::filesystem::path& path) {
    if (!entries_.contains(path)) return fail(os_error("removing " + path.string(), ENOENT));
    if (next_call() != Outcome::done) return fail(os_error("removing " + path.string(), EIO));
    entries_.erase(path);
    return {};
}

Result<void> FakeFiles::sync_directory(const std::filesystem::path& directory) {
    if (next_call() != Outcome::done) return fail(os_error("syncing a directory", EIO));
    const auto here = [&](const auto& entry) { return entry.first.parent_path() == directory; };
    std::erase_if(entries_on_disk_, here);
    std::copy_if(entries_.begin(), entries_.end(),
                 std::inserter(entries_on_disk_, entries_on_disk_.end()), here);
    return {};
}

Result<std::unique_ptr<Lock>> FakeFiles::lock(const std::filesystem::path& path) {
    if (!locks_.insert(path).second) return fail(Code::unavailable, "locked");
    return std::unique_ptr<Lock>(std::make_unique<FakeLock>(&locks_, path));
}

void FakeFiles::kill_process() {
    never_fail();
    locks_.clear();
}

void FakeFiles::cut_power(std::mt19937_64& randomness) {
    kill_process();
    // Entries that were made or removed since the last sync: each may have reached the disk.
    for (const auto& [path, inode] : entries_) {
        if (!entries_on_disk_.contains(path) && randomness() % 2 == 0) {
            entries_on_disk_[path] = inode;
        }
    }
    std::erase_if(entries_on_disk_, [&](const auto& entry) {
        return !entries_.contains(entry.first) && randomness() % 2 == 0;
    });
    entries_.clear();
    for (auto& [path, inode] : entries_on_disk_) {
        auto survivor = std::make_shared<Inode>();
        survivor->on_disk = inode->on_disk;
        for (const auto& change : inode->unsynced) survive(survivor->on_disk, change, randomness);
        survivor->cached = survivor->on_disk;
        entries_[path] = survivor;
        inode = survivor;
    }
}

std::string FakeFiles::content(const std::filesystem::path& path) const {
    const auto found = entries_.find(path);
    return found == entries_.end() ? std::string() : found->second->cached;
}

void FakeFiles::set(const std::filesystem::path& path, std::string content) {
    auto inode = std::make_shared<Inode>();
    inode->cached = inode->on_disk = std::move(content);
    entries_[path] = entries_on_disk_[path] = inode;
}

void FakeFiles::erase(const std::filesystem::path& path) {
    entries_.erase(path);
    entries_on_disk_.erase(path);
}

std::vector<std::filesystem::path> FakeFiles::paths() const {
    std::vector<std::filesystem::path> all;
    for (const auto& [path, inode] : entries_) all.push_back(path);
    return all;
}

FakeFiles FakeFiles::copy() const {
    FakeFiles other;
    for (const auto& [path, inode] : entries_) other.set(path, inode->cached);
    return other;
}

}  // namespace underseer::event_log
