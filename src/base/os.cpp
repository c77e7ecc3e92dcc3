#include "base/os.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>

namespace underseer {

void Fd::reset() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

Result<Fd> Fd::duplicate() const {
    const int copy = ::fcntl(fd_, F_DUPFD_CLOEXEC, 0);
    if (copy < 0) return fail(os_error("duplicating a file descriptor"));
    return Fd(copy);
}

Result<Fd> open_file(const std::filesystem::path& path, int flags, mode_t mode) {
    const int fd = ::open(path.c_str(), flags | O_CLOEXEC, mode);
    if (fd < 0) return fail(os_error(fmt::format("opening {}", path.string())));
    return Fd(fd);
}

Result<std::size_t> read_at(int fd, MutableBytes into, std::uint64_t offset) {
    std::size_t done = 0;
    while (done < into.size()) {
        const ssize_t got =
            ::pread(fd, into.data() + done, into.size() - done, static_cast<off_t>(offset + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return fail(os_error(fmt::format("reading at offset {:#x}", offset + done)));
        if (got == 0) break;
        done += static_cast<std::size_t>(got);
    }
    return done;
}

Result<void> write_all(int fd, Bytes bytes) {
    while (!bytes.empty()) {
        const ssize_t written = ::write(fd, bytes.data(), bytes.size());
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) return fail(os_error("writing"));
        bytes = bytes.subspan(static_cast<std::size_t>(written));
    }
    return {};
}

Result<std::string> read_file(const std::filesystem::path& path, std::size_t limit_bytes) {
    const Fd fd = TRY(open_file(path, O_RDONLY));
    std::string text;
    char buffer[16384];
    for (;;) {
        const ssize_t got = ::read(fd.get(), buffer, sizeof buffer);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return fail(os_error(fmt::format("reading {}", path.string())));
        if (got == 0) return text;
        if (text.size() + static_cast<std::size_t>(got) > limit_bytes) {
            return fail(Code::limit,
                        fmt::format("{} is larger than {} bytes", path.string(), limit_bytes));
        }
        text.append(buffer, static_cast<std::size_t>(got));
    }
}

namespace {
class SystemClock final : public Clock {
  public:
    std::chrono::system_clock::time_point wall() const override {
        return std::chrono::system_clock::now();
    }
    std::chrono::steady_clock::time_point monotonic() const override {
        return std::chrono::steady_clock::now();
    }
};
}  // namespace

const Clock& Clock::system() {
    static const SystemClock clock;
    return clock;
}

}  // namespace underseer
