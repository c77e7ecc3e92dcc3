#include "agent/baseline_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "agent/paths.h"
#include "base/limits.h"
#include "base/os.h"
#include "crypto/hash.h"
#include "event_log/signed_bundle.h"

namespace underseer::agent {

namespace {

constexpr std::string_view kFileName = "kernel.baseline", kKind = "baseline";
// A host's guests run some ten kernels.
constexpr std::size_t kMaxBaselines = 256;
constexpr std::size_t kMaxBuildIdDigits = 128, kMaxTextBytes = 256;

// It becomes a file's name.
bool is_build_id(std::string_view text) {
    return !text.empty() && text.size() <= kMaxBuildIdDigits &&
           text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

std::string hash_text(std::string_view bytes) {
    return crypto::to_hex(crypto::sha256(as_bytes(bytes)));
}

std::uint64_t number_in(const std::string& text) {
    std::uint64_t number = 0;
    std::from_chars(text.data(), text.data() + text.size(), number);
    return number;
}

}  // namespace

BaselineStore::BaselineStore(const std::filesystem::path& state_dir, const crypto::SigningKey* key)
    : folder_(state_dir / "baselines"), key_(key) {
    std::error_code error;
    for (auto entry = std::filesystem::directory_iterator(folder_, error);
         !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
        // What keep() had begun when it was cut off.
        if (entry->path().extension() == ".new") continue;
        auto facts = load(entry->path());
        if (facts.has_value()) {
            kept_.push_back(std::move(*facts));
        } else {
            troubles_.push_back(facts.error().to_text());
        }
    }
    std::ranges::sort(kept_, {}, &BaselineFacts::release);
}

Result<BaselineFacts> BaselineStore::load(const std::filesystem::path& folder) const {
    const auto bundle = TRY(event_log::SignedBundle::load(folder, key_->public_key()));
    if (bundle.files.size() != 1 || bundle.files[0].kind != kKind) {
        return fail(Code::malformed, folder.native() + ": it is no baseline");
    }
    const auto about = [&](std::string_view name) {
        const std::string* value = bundle.find(name);
        return value == nullptr ? std::string() : *value;
    };
    BaselineFacts facts{.build_id = about("build_id"),
                        .release = about("release"),
                        .source = about("source"),
                        .made_ns = bundle.made_ns,
                        .text_bytes = number_in(about("text_bytes")),
                        .places = number_in(about("places")),
                        .bytes = bundle.files[0].bytes,
                        .sha256 = bundle.files[0].sha256};
    if (folder_of(facts.build_id) != folder) {
        return fail(Code::malformed, folder.native() + ": it is that of another kernel");
    }
    return facts;
}

const BaselineFacts* BaselineStore::find(std::string_view build_id) const {
    const auto found = std::ranges::find(kept_, build_id, &BaselineFacts::build_id);
    return found == kept_.end() ? nullptr : &*found;
}

std::filesystem::path BaselineStore::folder_of(std::string_view build_id) const {
    return folder_ / build_id;
}

Result<void> BaselineStore::keep(BaselineFacts facts, std::string_view bytes) {
    if (!is_build_id(facts.build_id) || facts.release.size() > kMaxTextBytes ||
        facts.source.size() > kMaxTextBytes || facts.bytes != bytes.size() ||
        facts.sha256 != hash_text(bytes)) {
        return fail(Code::invalid_argument, "the baseline is not what it is said to be");
    }
    const bool is_new = find(facts.build_id) == nullptr;
    if (is_new && kept_.size() >= kMaxBaselines) {
        return fail(Code::limit, fmt::format("{} baselines are kept already: remove some that are "
                                             "not needed (underseer baseline rm)",
                                             kept_.size()));
    }
    TRY(make_directory(folder_, 0750));
    const auto folder = folder_of(facts.build_id);
    const std::filesystem::path next = folder.native() + ".new";
    std::error_code error;
    std::filesystem::remove_all(next, error);
    TRY(make_directory(next, 0750));
    TRY(replace_file(next / kFileName, as_bytes(bytes)));
    const event_log::SignedBundle bundle{.made_ns = facts.made_ns,
                                         .about = {{"build_id", facts.build_id},
                                                   {"release", facts.release},
                                                   {"source", facts.source},
                                                   {"text_bytes", std::to_string(facts.text_bytes)},
                                                   {"places", std::to_string(facts.places)}},
                                         .files = {{.name = std::string(kFileName),
                                                    .kind = std::string(kKind),
                                                    .bytes = facts.bytes,
                                                    .sha256 = facts.sha256,
                                                    .why_not = {},
                                                    .gaps = {}}}};
    TRY(bundle.store(next, *key_));
    std::filesystem::remove_all(folder, error);
    std::filesystem::rename(next, folder, error);
    if (error) return fail(os_error("keeping " + folder.native(), error.value()));
    std::erase_if(kept_, [&](const auto& one) { return one.build_id == facts.build_id; });
    kept_.push_back(std::move(facts));
    std::ranges::sort(kept_, {}, &BaselineFacts::release);
    return {};
}

Result<void> BaselineStore::drop(std::string_view build_id) {
    if (find(build_id) == nullptr) {
        return fail(Code::not_found, fmt::format("no baseline of build id {} is kept", build_id));
    }
    std::error_code error;
    std::filesystem::remove_all(folder_of(build_id), error);
    if (error) return fail(os_error(fmt::format("removing {}", build_id), error.value()));
    std::erase_if(kept_, [&](const auto& one) { return one.build_id == build_id; });
    return {};
}

Result<std::string> BaselineStore::read(const BaselineFacts& facts) const {
    const auto path = folder_of(facts.build_id) / kFileName;
    std::string bytes = TRY(read_file(path, limits::kMaxBaselineBytes));
    if (hash_text(bytes) != facts.sha256) {
        return fail(Code::permission,
                    fmt::format("{} is not what was kept: somebody has changed it. Make it anew: "
                                "underseer baseline make",
                                path.native()));
    }
    return bytes;
}

}  // namespace underseer::agent
