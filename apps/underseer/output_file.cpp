#include "output_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>

namespace underseer::cli {

Result<void> check_output(const Options& options) {
    if (options.argument.empty()) {
        return fail(Code::invalid_argument,
                    fmt::format("'{0}' needs the file to write: underseer {0} INSTANCE|IMAGE "
                                "OUTPUT",
                                options.command));
    }
    struct stat status{};
    if (::lstat(options.argument.c_str(), &status) != 0) {
        if (errno == ENOENT) return {};
        return fail(os_error(fmt::format("examining {}", options.argument)));
    }
    // Replacing a device or what a link leads to would be a surprise, --force or not.
    if (!S_ISREG(status.st_mode)) {
        return fail(Code::invalid_argument,
                    fmt::format("{} is there and no regular file", options.argument));
    }
    if (options.force) return {};
    return fail(Code::invalid_argument,
                fmt::format("{} is there already; --force replaces it", options.argument));
}

Result<PartialFile> PartialFile::create(const std::string& output) {
    std::string path = output + ".partial-XXXXXX";
    const int fd = ::mkostemp(path.data(), O_CLOEXEC);  // mode 0600
    if (fd < 0) return fail(os_error(fmt::format("creating a file beside {}", output)));
    return PartialFile(Fd(fd), std::move(path));
}

PartialFile::~PartialFile() {
    if (!path_.empty()) ::unlink(path_.c_str());
}

Result<void> PartialFile::keep_as(const std::string& output, bool replace) {
    if (::fsync(fd_.get()) != 0) return fail(os_error(fmt::format("saving {}", output)));
    const unsigned flags = replace ? 0 : RENAME_NOREPLACE;
    if (::renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, output.c_str(), flags) != 0) {
        return fail(os_error(fmt::format("naming the file {}", output)));
    }
    path_.clear();
    return {};
}

volatile std::sig_atomic_t StopSignals::stop_wanted = 0;

StopSignals::StopSignals() {
    stop_wanted = 0;
    struct sigaction action{};
    action.sa_handler = [](int) { stop_wanted = 1; };
    ::sigaction(SIGINT, &action, &interrupt_);
    ::sigaction(SIGTERM, &action, &terminate_);
}

StopSignals::~StopSignals() {
    ::sigaction(SIGINT, &interrupt_, nullptr);
    ::sigaction(SIGTERM, &terminate_, nullptr);
}

}  // namespace underseer::cli
