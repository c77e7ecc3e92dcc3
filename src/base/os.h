// The little of the operating system that every module needs: owned file descriptors, whole-buffer
// I/O and clocks.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace underseer {

// Owns one file descriptor.
class Fd {
  public:
    Fd() = default;
    explicit Fd(int fd) : fd_(fd) {}
    Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Fd& operator=(Fd&& other) noexcept {
        if (this != &other) {
            reset();
            fd_ = std::exchange(other.fd_, -1);
        }
        return *this;
    }
    Fd(const Fd&) = delete;
    Fd& operator=(const Fd&) = delete;
    ~Fd() { reset(); }

    int get() const { return fd_; }
    explicit operator bool() const { return fd_ >= 0; }
    int release() { return std::exchange(fd_, -1); }
    void reset();
    Result<Fd> duplicate() const;  // close-on-exec

  private:
    int fd_ = -1;
};

// open(2) with O_CLOEXEC added. The error names the path.
Result<Fd> open_file(const std::filesystem::path& path, int flags, mode_t mode = 0);

// Reads until `into` is full or the file ends; returns the number of bytes read. EINTR is retried.
Result<std::size_t> read_at(int fd, MutableBytes into, std::uint64_t offset);
Result<void> write_all(int fd, Bytes bytes);

// The whole of a small file (procfs files too). Fails with Code::limit beyond `limit_bytes`.
Result<std::string> read_file(const std::filesystem::path& path, std::size_t limit_bytes);

// Time comes through here, so that tests can set it.
class Clock {
  public:
    virtual ~Clock() = default;
    virtual std::chrono::system_clock::time_point wall() const = 0;
    virtual std::chrono::steady_clock::time_point monotonic() const = 0;

    static const Clock& system();
};

}  // namespace underseer
