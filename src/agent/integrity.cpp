#include "agent/integrity.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/auxv.h>

#include "base/limits.h"
#include "base/os.h"
#include "event_log/manifest.h"

namespace underseer::agent {

std::string hash_of(const std::filesystem::path& path) {
    const auto fd = open_file(path, O_RDONLY);
    if (!fd.has_value()) return fd.error().to_text();
    const auto digest = crypto::sha256_of_fd(fd->get(), limits::kMaxManifestFileBytes);
    return digest.has_value() ? crypto::to_hex(*digest) : digest.error().to_text();
}

std::string Integrity::to_text() const {
    if (!has_manifest && mismatches.empty()) return "no manifest (underseerd --seal makes one)";
    if (mismatches.empty()) return "as installed";
    std::string text;
    for (const std::string& mismatch : mismatches) text += (text.empty() ? "" : "; ") + mismatch;
    return text;
}

std::vector<std::filesystem::path> own_files(const std::string& policy) {
    std::vector<std::filesystem::path> files;
    std::error_code error;
    auto self = std::filesystem::read_symlink("/proc/self/exe", error);
    if (error) {
        // A package is installed where no procfs is mounted. The kernel also tells every program
        // the path that it was started by.
        const char* started_by = reinterpret_cast<const char*>(::getauxval(AT_EXECFN));
        self = std::filesystem::canonical(started_by == nullptr ? "" : started_by, error);
    }
    if (error) return files;
    files.push_back(self);
    for (const auto& beside :
         {self.parent_path() / "underseer", self.parent_path() / "../bin/underseer"}) {
        const auto cli = std::filesystem::weakly_canonical(beside, error);
        if (error || !std::filesystem::is_regular_file(cli, error)) continue;
        files.push_back(cli);
        break;
    }
    if (!policy.empty()) files.push_back(std::filesystem::absolute(policy));
    return files;
}

Integrity check_integrity(const std::string& policy, const RuleFiles& rules,
                          const std::filesystem::path& manifest, const crypto::PublicKey& key) {
    Integrity integrity;
    const auto files = own_files(policy);
    std::string running_hash;
    for (std::size_t i = 0; i < files.size(); ++i) {
        // The first is this program: what runs is behind /proc/self/exe, wherever it lies.
        const std::string hash = hash_of(i == 0 ? "/proc/self/exe" : files[i]);
        if (i == 0) running_hash = hash;
        integrity.running.push_back({files[i], hash});
    }
    std::error_code error;
    if (!std::filesystem::exists(manifest, error)) return integrity;
    integrity.has_manifest = true;
    const auto sealed = event_log::Manifest::load(manifest, key);
    if (!sealed.has_value()) {
        integrity.mismatches.push_back(sealed.error().to_text());
        return integrity;
    }
    auto sealed_files = files;
    sealed_files.insert(sealed_files.end(), rules.begin(), rules.end());
    for (const auto& mismatch : sealed->compare(sealed_files)) {
        integrity.mismatches.push_back(fmt::format("{}: {}", mismatch.path, mismatch.what));
    }
    for (const auto& entry : sealed->entries) {
        if (files.empty() || entry.path != files.front()) continue;
        if (crypto::to_hex(entry.sha256) == running_hash || !integrity.mismatches.empty()) continue;
        integrity.mismatches.push_back(entry.path + ": the running program is another one");
    }
    return integrity;
}

Result<void> seal(const std::string& policy, const RuleFiles& rules,
                  const std::filesystem::path& manifest, const crypto::SigningKey& key) {
    auto own = own_files(policy);
    if (own.empty()) {
        return fail(Code::unavailable,
                    "cannot tell which program this is, so that it cannot be signed; is /proc "
                    "mounted?");
    }
    own.insert(own.end(), rules.begin(), rules.end());
    return TRY(event_log::Manifest::of(own)).store(manifest, key);
}

}  // namespace underseer::agent
