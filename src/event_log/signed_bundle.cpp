#include "event_log/signed_bundle.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "base/limits.h"
#include "base/os.h"
#include "event_log/signed_lines.h"
#include "json/writer.h"

namespace underseer::event_log {
namespace {

constexpr std::string_view kEvidenceDomain = "underseer-evidence-v1";

Result<void> sync_folder(const std::filesystem::path& folder) {
    const Fd fd = TRY(open_file(folder, O_RDONLY | O_DIRECTORY));
    if (::fsync(fd.get()) != 0) return fail(os_error("syncing " + folder.native()));
    return {};
}

Result<std::vector<std::string>> texts_of(const json::Value& list) {
    std::vector<std::string> texts;
    for (const json::Value& item : TRY(list.elements())) texts.push_back(TRY(item.as_string()));
    return texts;
}

Result<BundleFile> file_of(const json::Value& line) {
    BundleFile file;
    file.name = TRY(TRY(line.at("file")).as_string());
    file.kind = TRY(TRY(line.at("kind")).as_string());
    file.bytes = TRY(TRY(line.at("bytes")).as_uint());
    file.sha256 = TRY(TRY(line.at("sha256")).as_string());
    file.why_not = TRY(TRY(line.at("why_not")).as_string());
    file.gaps = TRY(texts_of(TRY(line.at("gaps"))));
    if (file.name.empty() || file.name.find('/') != std::string::npos || file.name == "..") {
        return fail(Code::malformed, fmt::format("'{}' is no name of a file in it", file.name));
    }
    return file;
}

// "" when it is what was signed.
std::string difference(const std::filesystem::path& path, const BundleFile& file) {
    const auto fd = open_file(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
    if (!fd.has_value()) {
        return fd.error().code == Code::not_found ? "missing" : fd.error().to_text();
    }
    struct stat status{};
    if (::fstat(fd->get(), &status) != 0) return os_error("examining it").to_text();
    if (!S_ISREG(status.st_mode)) return "no regular file";
    if (static_cast<std::uint64_t>(status.st_size) != file.bytes) return "changed";
    const auto digest = crypto::sha256_of_fd(fd->get(), file.bytes);
    if (!digest.has_value()) return digest.error().to_text();
    return crypto::to_hex(*digest) == file.sha256 ? "" : "changed";
}

}  // namespace

const std::string* SignedBundle::find(std::string_view about_key) const {
    for (const auto& [key, value] : about) {
        if (key == about_key) return &value;
    }
    return nullptr;
}

Result<std::string> SignedBundle::store(const std::filesystem::path& folder,
                                        const crypto::SigningKey& key) const {
    std::string text;
    json::Writer head(&text);
    head.begin_object().member("bundle", kEvidenceDomain).member("made", made_ns);
    head.key("about").begin_object();
    for (const auto& [name, value] : about) head.member(name, value);
    head.end_object().end_object();
    text += '\n';
    for (const BundleFile& file : files) {
        json::Writer line(&text);
        line.begin_object()
            .member("file", file.name)
            .member("kind", file.kind)
            .member("bytes", file.bytes)
            .member("sha256", file.sha256)
            .member("why_not", file.why_not);
        line.key("gaps").begin_array();
        for (const std::string& gap : file.gaps) line.value(gap);
        line.end_array().end_object();
        text += '\n';
    }
    text = TRY(
        sign_lines(std::move(text), kEvidenceDomain, key).context("signing " + folder.native()));
    const auto path = folder / kFileName;
    {
        const Fd fd = TRY(open_file(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600));
        TRY(write_all(fd.get(), as_bytes(text)).context(path.native()));
        if (::fsync(fd.get()) != 0) return fail(os_error("syncing " + path.native()));
    }
    TRY(sync_folder(folder));
    TRY(sync_folder(folder.parent_path()));
    return crypto::to_hex(crypto::sha256(as_bytes(text)));
}

Result<SignedBundle> SignedBundle::load(const std::filesystem::path& folder,
                                        const crypto::PublicKey& key) {
    const std::string text = TRY(read_file(folder / kFileName, limits::kMaxManifestBytes));
    const auto lines = TRY(signed_lines(text, kEvidenceDomain, key).context(folder.native()));
    if (lines.empty()) return fail(Code::malformed, folder.native() + ": it says nothing");
    SignedBundle bundle;
    bundle.made_ns = TRY(TRY(lines.front().at("made")).as_uint());
    for (const auto& [name, value] : TRY(TRY(lines.front().at("about")).members())) {
        bundle.about.emplace_back(name, TRY(value.as_string()));
    }
    for (std::size_t i = 1; i < lines.size(); ++i) {
        bundle.files.push_back(TRY(file_of(lines[i]).context(folder.native())));
    }
    return bundle;
}

std::vector<SignedBundle::Mismatch> SignedBundle::compare(
    const std::filesystem::path& folder) const {
    std::vector<Mismatch> mismatches;
    for (const BundleFile& file : files) {
        if (!file.why_not.empty()) continue;
        if (std::string what = difference(folder / file.name, file); !what.empty()) {
            mismatches.push_back({file.name, std::move(what)});
        }
    }
    std::error_code error;
    for (auto entry = std::filesystem::directory_iterator(folder, error);
         !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
        const std::string name = entry->path().filename().native();
        const bool known =
            name == kFileName || std::ranges::any_of(files, [&](const BundleFile& file) {
                return file.name == name && file.why_not.empty();
            });
        if (!known) mismatches.push_back({name, "not in the bundle"});
    }
    if (error)
        mismatches.push_back({folder.native(), os_error("listing", error.value()).to_text()});
    return mismatches;
}

}  // namespace underseer::event_log
