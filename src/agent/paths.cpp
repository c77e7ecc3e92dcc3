#include "agent/paths.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/os.h"

namespace underseer::agent {

std::filesystem::path enrolment_key_path(const std::filesystem::path& state_dir) {
    return state_dir / "keys" / "enrolment.pem";
}
std::filesystem::path public_key_path(const std::filesystem::path& state_dir) {
    return state_dir / "keys" / "enrolment.pub.pem";
}
std::filesystem::path manifest_path(const std::filesystem::path& state_dir) {
    return state_dir / "manifest";
}
std::filesystem::path evidence_path(const std::filesystem::path& state_dir) {
    return state_dir / "evidence";
}
std::filesystem::path log_path(const std::filesystem::path& state_dir, std::string_view log) {
    return state_dir / "log" / log;
}

Result<void> make_directory(const std::filesystem::path& path, mode_t mode) {
    std::error_code error;
    std::filesystem::create_directories(path.parent_path(), error);
    if (::mkdir(path.c_str(), mode) == 0) return {};
    if (errno != EEXIST) return fail(os_error("making the directory " + path.native()));
    struct stat status{};
    if (::lstat(path.c_str(), &status) != 0) return fail(os_error("examining " + path.native()));
    if (!S_ISDIR(status.st_mode) || status.st_uid != ::geteuid() || (status.st_mode & 022) != 0) {
        return fail(Code::permission,
                    fmt::format("{} must be a directory that only user {} can write to",
                                path.native(), ::geteuid()));
    }
    return {};
}

Result<void> replace_file(const std::filesystem::path& path, Bytes bytes) {
    const std::filesystem::path next = path.native() + ".new";
    const Fd fd = TRY(open_file(next, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600));
    TRY(write_all(fd.get(), bytes));
    if (::fsync(fd.get()) != 0 || ::rename(next.c_str(), path.c_str()) != 0) {
        return fail(os_error("replacing " + path.native()));
    }
    return {};
}

}  // namespace underseer::agent
