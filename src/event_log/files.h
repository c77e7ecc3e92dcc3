// The file operations that a log needs, as a seam: tests put in its place a file system that loses
// unsynced bytes, tears writes and fails calls.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace underseer::event_log {

enum class OpenMode : std::uint8_t {
    read,
    write,       // read and write what is there
    create_new,  // read and write; Code::os with EEXIST when it is there
    create,      // read and write; made when absent
};

class File {
  public:
    virtual ~File() = default;
    // Fills `into` unless the file ends first; returns the bytes read.
    virtual Result<std::size_t> read_at(MutableBytes into, std::uint64_t offset) = 0;
    virtual Result<void> write_at(Bytes bytes, std::uint64_t offset) = 0;  // all, or an error
    virtual Result<void> truncate(std::uint64_t size) = 0;
    virtual Result<std::uint64_t> size() = 0;
    virtual Result<void> sync() = 0;  // content and size are on the disk when it returns
};

// Held for as long as it lives; the kernel drops it when the process dies.
class Lock {
  public:
    virtual ~Lock() = default;
};

class Files {
  public:
    virtual ~Files() = default;
    // Error when absent: Code::not_found. Symbolic links are not followed.
    virtual Result<std::unique_ptr<File>> open(const std::filesystem::path& path,
                                               OpenMode mode) = 0;
    virtual Result<std::vector<std::string>> list(const std::filesystem::path& directory) = 0;
    // Present already is no error. Parents must exist.
    virtual Result<void> make_directory(const std::filesystem::path& directory) = 0;
    virtual Result<void> remove(const std::filesystem::path& path) = 0;
    virtual Result<void> sync_directory(const std::filesystem::path& directory) = 0;
    // Code::unavailable when another process holds it.
    virtual Result<std::unique_ptr<Lock>> lock(const std::filesystem::path& path) = 0;
    virtual bool is_locked(const std::filesystem::path& path) = 0;

    static Files& system();
};

}  // namespace underseer::event_log
