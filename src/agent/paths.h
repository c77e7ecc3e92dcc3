// Where the agent keeps things, and where others find them.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string_view>

#include "base/bytes.h"
#include "base/result.h"

namespace underseer::agent {

inline constexpr std::string_view kDefaultStateDir = "/var/lib/underseer";
inline constexpr std::string_view kDefaultRunDir = "/run/underseer";
inline constexpr std::string_view kDefaultPolicy = "/etc/underseer/policy.toml";
inline constexpr std::string_view kDefaultInstances = "/etc/underseer/instances.toml";
inline constexpr std::string_view kControlSocketName = "control.sock";  // in the run directory

std::filesystem::path enrolment_key_path(const std::filesystem::path& state_dir);
std::filesystem::path public_key_path(const std::filesystem::path& state_dir);
std::filesystem::path manifest_path(const std::filesystem::path& state_dir);
std::filesystem::path evidence_path(const std::filesystem::path& state_dir);
// `log` is "critical" or "bulk".
std::filesystem::path log_path(const std::filesystem::path& state_dir, std::string_view log);

// Makes a directory of the agent's, unless it is there. Code::permission when others may write to
// it.
Result<void> make_directory(const std::filesystem::path& path, mode_t mode);

// Puts `bytes` in the place of a file of the agent's, whole and synced or not at all.
Result<void> replace_file(const std::filesystem::path& path, Bytes bytes);

}  // namespace underseer::agent
