// What was installed: a signed list of programs and policy files with their SHA-256. Written at
// package installation or enrolment, checked when the agent starts.
//
// A text file: one line of JSON for each file, in order of path, and a last line with the
// signature. `jq` reads it.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "crypto/signing.h"

namespace underseer::event_log {

struct ManifestEntry {
    std::string path;  // absolute
    crypto::Digest sha256{};
};

struct Manifest {
    std::vector<ManifestEntry> entries;  // ascending by path

    // Every regular file under the places given (files or directories). Links are not followed.
    static Result<Manifest> of(const std::vector<std::filesystem::path>& places);

    Result<void> store(const std::filesystem::path& file, const crypto::SigningKey& key) const;

    // Code::permission when `key` did not sign it: then nothing in it may be believed.
    static Result<Manifest> load(const std::filesystem::path& file, const crypto::PublicKey& key);

    struct Mismatch {
        std::string path;
        std::string what;  // "changed", "missing", "not in the manifest", or why it is unreadable
    };
    // Compares with the files as they are. `places`: where files that the manifest does not know
    // are mismatches too.
    std::vector<Mismatch> compare(const std::vector<std::filesystem::path>& places) const;
};

}  // namespace underseer::event_log
