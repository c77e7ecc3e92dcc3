// What this agent runs, and whether it is what was installed.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "crypto/signing.h"
#include "event/ocsf.h"

namespace underseer::agent {

struct Integrity {
    std::vector<event::ProgramHash> running;  // this program, the CLI beside it, the policy
    bool has_manifest = false;
    std::vector<std::string> mismatches;  // "/usr/sbin/underseerd: changed"

    std::string to_text() const;  // "as installed", "no manifest", the mismatches
};

// The SHA-256 of a file in hexadecimal, or why there is none.
std::string hash_of(const std::filesystem::path& path);

using RuleFiles = std::vector<std::filesystem::path>;

// The files whose hashes are recorded and sealed: this executable, the `underseer` beside it (or in
// ../bin), and `policy` when it is not empty. None when this executable cannot be named.
std::vector<std::filesystem::path> own_files(const std::string& policy);

// Hashes the executable that runs (not whatever lies at its path by now) and the policy, and
// compares them, and the rules, with the manifest signed by `key`.
Integrity check_integrity(const std::string& policy, const RuleFiles& rules,
                          const std::filesystem::path& manifest, const crypto::PublicKey& key);

// Signs what is installed now. Run by the package and by whoever changes the policy.
Result<void> seal(const std::string& policy, const RuleFiles& rules,
                  const std::filesystem::path& manifest, const crypto::SigningKey& key);

}  // namespace underseer::agent
