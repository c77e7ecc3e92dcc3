// A file system in memory that breaks as real ones do: on a power cut each write since the last
// sync may be there, missing, torn or zeroed, whatever came after it; a directory entry that was
// not synced may be missing; a failed sync leaves bytes that can be read and never reach the disk.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>

#include "event_log/files.h"

namespace underseer::event_log {

class FakeFiles final : public Files {
  public:
    Result<std::unique_ptr<File>> open(const std::filesystem::path& path, OpenMode mode) override;
    Result<std::vector<std::string>> list(const std::filesystem::path& directory) override;
    Result<void> make_directory(const std::filesystem::path& directory) override;
    Result<void> remove(const std::filesystem::path& path) override;
    Result<void> sync_directory(const std::filesystem::path& directory) override;
    Result<std::unique_ptr<Lock>> lock(const std::filesystem::path& path) override;
    bool is_locked(const std::filesystem::path& path) override { return locks_.contains(path); }

    // The n-th changing call from now (1: the next) fails, leaving part of its work done.
    void fail_at(std::uint64_t call) { fail_at_ = calls_ + call; }
    // The process dies in that call: it and all later ones fail until restart().
    void kill_at(std::uint64_t call) { kill_at_ = calls_ + call; }
    void never_fail() { fail_at_ = kill_at_ = 0; }
    bool killed() const { return kill_at_ != 0 && calls_ >= kill_at_; }
    std::uint64_t calls() const { return calls_; }

    void kill_process();                          // locks go, all bytes stay
    void cut_power(std::mt19937_64& randomness);  // and what was not synced may go

    // Content as it can be read. For looking and for tampering; what is set counts as synced.
    std::string content(const std::filesystem::path& path) const;
    bool has(const std::filesystem::path& path) const { return entries_.contains(path); }
    void set(const std::filesystem::path& path, std::string content);
    void erase(const std::filesystem::path& path);
    std::vector<std::filesystem::path> paths() const;
    FakeFiles copy() const;  // without faults and locks

    struct Inode {
        struct Change {
            bool truncation = false;
            std::uint64_t offset = 0;  // truncation: the new size
            std::string bytes;
        };
        std::string cached;
        std::string on_disk;
        std::vector<Change> unsynced;
    };
    enum class Outcome : std::uint8_t { done, failed, half_done };
    Outcome next_call();

  private:
    std::map<std::filesystem::path, std::shared_ptr<Inode>> entries_;
    std::map<std::filesystem::path, std::shared_ptr<Inode>> entries_on_disk_;
    std::set<std::filesystem::path> locks_;
    std::uint64_t calls_ = 0;
    std::uint64_t fail_at_ = 0;
    std::uint64_t kill_at_ = 0;
};

}  // namespace underseer::event_log
