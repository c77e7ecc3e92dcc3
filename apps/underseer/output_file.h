// A file that a command writes: whole and under its name, or not at all.
#pragma once

#include <csignal>
#include <string>
#include <utility>

#include "base/os.h"
#include "options.h"

namespace underseer::cli {

// Fails before anything is read when options.argument may not be written.
Result<void> check_output(const Options& options);

// A file grows under a name of its own and gets its real one when it is whole, so that nobody
// takes half a file for a whole one. Removed again when it is not kept.
class PartialFile {
  public:
    static Result<PartialFile> create(const std::string& output);
    PartialFile(PartialFile&& other) noexcept
        : fd_(std::move(other.fd_)), path_(std::exchange(other.path_, {})) {}
    PartialFile& operator=(PartialFile&&) = delete;
    ~PartialFile();

    int fd() const { return fd_.get(); }

    Result<void> keep_as(const std::string& output, bool replace);

  private:
    PartialFile(Fd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}

    Fd fd_;
    std::string path_;
};

// Ctrl-C and a plain kill end the writing in order, so that the partial file goes.
class StopSignals {
  public:
    StopSignals();
    StopSignals(const StopSignals&) = delete;
    StopSignals& operator=(const StopSignals&) = delete;
    ~StopSignals();
    bool wanted() const { return stop_wanted != 0; }

  private:
    static volatile std::sig_atomic_t stop_wanted;
    struct sigaction interrupt_{}, terminate_{};
};

}  // namespace underseer::cli
