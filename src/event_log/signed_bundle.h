// A signed bundle: a folder of files, and `bundle.jsonl`, in which the agent has signed what they
// are, of what and why they were made, their lengths and their SHA-256. Evidence is kept so
// (docs/evidence.md describes it), and baselines of kernels.
#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "crypto/signing.h"

namespace underseer::event_log {

struct BundleFile {
    std::string name;  // "processes.json"
    std::string kind;  // "processes"
    std::uint64_t bytes = 0;
    std::string sha256;             // hexadecimal
    std::string why_not;            // why there is no such file; "": there is
    std::vector<std::string> gaps;  // what of it could not be had
};

struct SignedBundle {
    static constexpr std::string_view kFileName = "bundle.jsonl";

    std::uint64_t made_ns = 0;                               // since the epoch
    std::vector<std::pair<std::string, std::string>> about;  // "instance": "web-1", ..
    std::vector<BundleFile> files;

    const std::string* find(std::string_view about_key) const;

    // Writes and syncs bundle.jsonl in `folder`, which has the files already. Returns its SHA-256,
    // hexadecimal, for the log.
    Result<std::string> store(const std::filesystem::path& folder,
                              const crypto::SigningKey& key) const;

    // Code::not_found when `folder` has none, Code::permission when `key` did not sign it: then
    // nothing in it may be believed.
    static Result<SignedBundle> load(const std::filesystem::path& folder,
                                     const crypto::PublicKey& key);

    struct Mismatch {
        std::string name;
        std::string what;  // "changed", "missing", "not in the bundle", or why it is unreadable
    };
    // Against the files as they are.
    std::vector<Mismatch> compare(const std::filesystem::path& folder) const;
};

}  // namespace underseer::event_log
