#include "event_log/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/os.h"

namespace underseer::event_log {
namespace {

class SystemFile final : public File {
  public:
    SystemFile(Fd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}

    Result<std::size_t> read_at(MutableBytes into, std::uint64_t offset) override {
        return underseer::read_at(fd_.get(), into, offset).context(path_);
    }

    Result<void> write_at(Bytes bytes, std::uint64_t offset) override {
        while (!bytes.empty()) {
            const ssize_t written =
                ::pwrite(fd_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
            if (written < 0 && errno == EINTR) continue;
            if (written < 0) return fail(os_error("writing " + path_));
            bytes = bytes.subspan(static_cast<std::size_t>(written));
            offset += static_cast<std::uint64_t>(written);
        }
        return {};
    }

    Result<void> truncate(std::uint64_t size) override {
        if (::ftruncate(fd_.get(), static_cast<off_t>(size)) != 0) {
            return fail(os_error("truncating " + path_));
        }
        return {};
    }

    Result<std::uint64_t> size() override {
        struct stat status{};
        if (::fstat(fd_.get(), &status) != 0) return fail(os_error("examining " + path_));
        return static_cast<std::uint64_t>(status.st_size);
    }

    // fdatasync writes what is needed to read the bytes back: the size too (fdatasync(2)).
    Result<void> sync() override {
        if (::fdatasync(fd_.get()) != 0) return fail(os_error("syncing " + path_));
        return {};
    }

  private:
    Fd fd_;
    std::string path_;
};

class SystemLock final : public Lock {
  public:
    explicit SystemLock(Fd fd) : fd_(std::move(fd)) {}

  private:
    Fd fd_;
};

class SystemFiles final : public Files {
  public:
    Result<std::unique_ptr<File>> open(const std::filesystem::path& path, OpenMode mode) override {
        // O_NONBLOCK: a FIFO planted under the name of a segment must not hang the reader.
        int flags = O_NOFOLLOW | O_NONBLOCK | (mode == OpenMode::read ? O_RDONLY : O_RDWR);
        if (mode == OpenMode::create_new) flags |= O_CREAT | O_EXCL;
        if (mode == OpenMode::create) flags |= O_CREAT;
        Fd fd = TRY(open_file(path, flags, 0640));
        struct stat status{};
        if (::fstat(fd.get(), &status) != 0) return fail(os_error("examining " + path.string()));
        if (!S_ISREG(status.st_mode)) {
            return fail(Code::malformed, path.string() + " is no regular file");
        }
        return std::unique_ptr<File>(std::make_unique<SystemFile>(std::move(fd), path.string()));
    }

    Result<std::vector<std::string>> list(const std::filesystem::path& directory) override {
        std::error_code error;
        std::vector<std::string> names;
        for (auto entry = std::filesystem::directory_iterator(directory, error);
             !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
            names.push_back(entry->path().filename().string());
        }
        if (error) return fail(os_error("listing " + directory.string(), error.value()));
        std::sort(names.begin(), names.end());
        return names;
    }

    Result<void> make_directory(const std::filesystem::path& directory) override {
        if (::mkdir(directory.c_str(), 0750) != 0 && errno != EEXIST) {
            return fail(os_error("making directory " + directory.string()));
        }
        return {};
    }

    Result<void> remove(const std::filesystem::path& path) override {
        if (::unlink(path.c_str()) != 0) return fail(os_error("removing " + path.string()));
        return {};
    }

    Result<void> sync_directory(const std::filesystem::path& directory) override {
        const Fd fd = TRY(open_file(directory, O_RDONLY | O_DIRECTORY));
        if (::fsync(fd.get()) != 0) return fail(os_error("syncing " + directory.string()));
        return {};
    }

    // An open-file-description lock (fcntl(2)): it can be tested without taking it, so that looking
    // never keeps a writer out.
    Result<std::unique_ptr<Lock>> lock(const std::filesystem::path& path) override {
        Fd fd = TRY(open_file(path, O_RDWR | O_CREAT | O_NOFOLLOW, 0640));
        struct flock whole = whole_file(F_WRLCK);
        if (::fcntl(fd.get(), F_OFD_SETLK, &whole) != 0) {
            if (errno != EAGAIN && errno != EACCES) {
                return fail(os_error("locking " + path.string()));
            }
            return fail(
                Code::unavailable,
                fmt::format("another process writes this log ({} is locked)", path.string()));
        }
        return std::unique_ptr<Lock>(std::make_unique<SystemLock>(std::move(fd)));
    }

    bool is_locked(const std::filesystem::path& path) override {
        const auto fd = open_file(path, O_RDONLY | O_NOFOLLOW);
        struct flock whole = whole_file(F_RDLCK);
        return fd && ::fcntl(fd->get(), F_OFD_GETLK, &whole) == 0 && whole.l_type != F_UNLCK;
    }

  private:
    static struct flock whole_file(short type) {
        struct flock range{};
        range.l_type = type;
        range.l_whence = SEEK_SET;
        return range;
    }
};

}  // namespace

Files& Files::system() {
    static SystemFiles files;
    return files;
}

}  // namespace underseer::event_log
