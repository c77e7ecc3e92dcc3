#include "event_log/manifest.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "base/limits.h"
#include "base/os.h"
#include "event_log/signed_lines.h"
#include "json/writer.h"

namespace underseer::event_log {
namespace {

constexpr std::string_view kManifestDomain = "underseer-manifest-v1";

Result<crypto::Digest> hash_of(const std::filesystem::path& path) {
    const Fd fd = TRY(open_file(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK));
    struct stat status{};
    if (::fstat(fd.get(), &status) != 0) return fail(os_error("examining " + path.string()));
    if (!S_ISREG(status.st_mode)) {
        return fail(Code::malformed, path.string() + " is no regular file");
    }
    return crypto::sha256_of_fd(fd.get(), limits::kMaxManifestFileBytes).context(path.string());
}

// Regular files at and under `place`, absolute.
Result<std::vector<std::string>> files_under(const std::filesystem::path& place) {
    std::error_code error;
    const auto root = std::filesystem::absolute(place, error).lexically_normal();
    const auto status = std::filesystem::symlink_status(root, error);
    if (error) return fail(os_error("examining " + place.string(), error.value()));
    std::vector<std::string> found;
    if (!std::filesystem::is_directory(status)) {
        found.push_back(root.string());
        return found;
    }
    for (auto entry = std::filesystem::recursive_directory_iterator(root, error);
         !error && entry != std::filesystem::recursive_directory_iterator();
         entry.increment(error)) {
        if (std::filesystem::is_regular_file(entry->symlink_status(error))) {
            found.push_back(entry->path().string());
        }
        if (found.size() > limits::kMaxManifestFiles) {
            return fail(Code::limit, fmt::format("more than {} files under {}",
                                                 limits::kMaxManifestFiles, place.string()));
        }
    }
    if (error) return fail(os_error("listing " + place.string(), error.value()));
    return found;
}

}  // namespace

Result<Manifest> Manifest::of(const std::vector<std::filesystem::path>& places) {
    Manifest manifest;
    for (const auto& place : places) {
        for (std::string& path : TRY(files_under(place))) {
            const crypto::Digest digest = TRY(hash_of(path));
            manifest.entries.push_back({std::move(path), digest});
        }
    }
    const auto by_path = [](const ManifestEntry& a, const ManifestEntry& b) {
        return a.path < b.path;
    };
    std::sort(manifest.entries.begin(), manifest.entries.end(), by_path);
    const auto same = [](const ManifestEntry& a, const ManifestEntry& b) {
        return a.path == b.path;
    };
    manifest.entries.erase(std::unique(manifest.entries.begin(), manifest.entries.end(), same),
                           manifest.entries.end());
    return manifest;
}

Result<void> Manifest::store(const std::filesystem::path& file,
                             const crypto::SigningKey& key) const {
    std::string text;
    for (const ManifestEntry& entry : entries) {
        json::Writer writer(&text);
        writer.begin_object().member("path", entry.path);
        writer.member("sha256", crypto::to_hex(entry.sha256)).end_object();
        text += '\n';
    }
    text = TRY(sign_lines(std::move(text), kManifestDomain, key).context("signing the manifest"));
    const std::string temporary = fmt::format("{}.new.{}", file.string(), ::getpid());
    {
        const Fd fd = TRY(open_file(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0644));
        TRY(write_all(fd.get(), as_bytes(text)).context(temporary));
        if (::fsync(fd.get()) != 0) return fail(os_error("syncing " + temporary));
    }
    if (std::rename(temporary.c_str(), file.c_str()) != 0) {
        return fail(os_error("storing " + file.string()));
    }
    return {};
}

Result<Manifest> Manifest::load(const std::filesystem::path& file, const crypto::PublicKey& key) {
    const std::string text =
        TRY(read_file(file, limits::kMaxManifestBytes).context("reading the manifest"));
    const auto lines = signed_lines(text, kManifestDomain, key);
    if (!lines.has_value() && lines.error().code == Code::permission) {
        return fail(Code::permission,
                    fmt::format("manifest {} is not signed by key {}: it was changed, or written "
                                "under another enrolment (write it again after checking the "
                                "installed files)",
                                file.string(), crypto::key_id(key)));
    }
    if (!lines.has_value()) return fail(lines.error());
    Manifest manifest;
    for (const json::Value& line : *lines) {
        ManifestEntry entry;
        entry.path = TRY(TRY(line.at("path")).as_string());
        TRY(crypto::parse_hex(TRY(TRY(line.at("sha256")).as_string()), entry.sha256));
        manifest.entries.push_back(std::move(entry));
    }
    return manifest;
}

std::vector<Manifest::Mismatch> Manifest::compare(
    const std::vector<std::filesystem::path>& places) const {
    std::vector<Mismatch> mismatches;
    for (const ManifestEntry& entry : entries) {
        const auto digest = hash_of(entry.path);
        if (!digest) {
            const bool missing = digest.error().code == Code::not_found;
            mismatches.push_back({entry.path, missing ? "missing" : digest.error().to_text()});
        } else if (*digest != entry.sha256) {
            mismatches.push_back({entry.path, "changed"});
        }
    }
    for (const auto& place : places) {
        const auto found = files_under(place);
        if (!found) {
            mismatches.push_back({place.string(), found.error().to_text()});
            continue;
        }
        for (const std::string& path : *found) {
            const auto known =
                std::lower_bound(entries.begin(), entries.end(), path,
                                 [](const ManifestEntry& entry, const std::string& name) {
                                     return entry.path < name;
                                 });
            if (known == entries.end() || known->path != path) {
                mismatches.push_back({path, "not in the manifest"});
            }
        }
    }
    return mismatches;
}

}  // namespace underseer::event_log
