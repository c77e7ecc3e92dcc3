#include "agent/paths.h"

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

}  // namespace underseer::agent
