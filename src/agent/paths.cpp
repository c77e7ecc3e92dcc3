#include "agent/paths.h"

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
std::filesystem::path log_path(const std::filesystem::path& state_dir, std::string_view log) {
    return state_dir / "log" / log;
}

}  // namespace underseer::agent
