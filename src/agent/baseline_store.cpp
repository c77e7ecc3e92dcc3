#include "agent/baseline_store.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdio>

#include "agent/paths.h"
#include "base/limits.h"
#include "base/os.h"
#include "crypto/hash.h"
#include "event_log/signed_bundle.h"
#include "guest_linux/guest.h"

namespace underseer::agent {

namespace {

constexpr std::string_view kKernelFile = "kernel.baseline", kProgramsFile = "programs.baseline",
                           kKind = "baseline";
// A host's guests run some ten kernels, and each may say that it is another one as often as it
// likes.
constexpr std::size_t kMaxBaselines = 256, kMaxSeen = 64, kMaxSeenInGuest = 4;
constexpr std::size_t kMaxBuildIdDigits = 128, kMaxTextBytes = 256, kMaxPackageBytes = 200;
constexpr std::string_view kUnfinished = ".new";

std::string_view file_of(const BaselineFacts& facts) {
    return facts.is_of_programs() ? kProgramsFile : kKernelFile;
}

std::string_view form_of(const BaselineFacts& facts) {
    return facts.is_of_programs() ? guest_linux::program_set_form() : guest_linux::baseline_form();
}

// It becomes a file's name.
bool is_digits(std::string_view text) {
    return text.size() <= kMaxBuildIdDigits &&
           text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

// So does this; by what is between its parts it is no build id.
bool is_package(std::string_view text) {
    return text.size() <= kMaxPackageBytes && text.find('_') != std::string_view::npos &&
           !text.starts_with('.') && !text.ends_with(kUnfinished) &&
           std::ranges::all_of(text, [](char c) {
               return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                      std::string_view("+~:_-.").find(c) != std::string_view::npos;
           });
}

bool is_identified(const BaselineFacts& facts) {
    if (facts.is_of_programs()) {
        return is_package(facts.package) && facts.build_id.empty() && facts.variant.empty();
    }
    return !facts.build_id.empty() && is_digits(facts.build_id) && is_digits(facts.variant);
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
        if (entry->path().extension() == kUnfinished) continue;
        auto facts = load(entry->path());
        if (facts.has_value()) {
            kept_.push_back(std::move(*facts));
        } else {
            troubles_.push_back(facts.error().to_text());
        }
    }
    std::ranges::sort(kept_, {}, &BaselineFacts::name);
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
                        .variant = about("variant"),
                        .seen_in = about("seen_in"),
                        .release = about("release"),
                        .source = about("source"),
                        .made_ns = bundle.made_ns,
                        .text_bytes = number_in(about("text_bytes")),
                        .places = number_in(about("places")),
                        .bytes = bundle.files[0].bytes,
                        .sha256 = bundle.files[0].sha256,
                        .package = about("package"),
                        .programs = number_in(about("programs")),
                        .left_out = number_in(about("left_out"))};
    if (about("form") != form_of(facts)) {
        return fail(Code::unsupported, folder.native() +
                                           ": it is of another version of Underseer. Make it anew: "
                                           "underseer baseline make");
    }
    if (folder_of(facts.id()) != folder) {
        return fail(Code::malformed, folder.native() + ": it is that of something else");
    }
    return facts;
}

const BaselineFacts* BaselineStore::find(std::string_view id) const {
    const auto found =
        std::ranges::find_if(kept_, [&](const BaselineFacts& one) { return one.id() == id; });
    return found == kept_.end() ? nullptr : &*found;
}

bool BaselineStore::has_programs() const {
    return std::ranges::any_of(kept_, &BaselineFacts::is_of_programs);
}

const BaselineFacts* BaselineStore::find_for(const std::string& build_id,
                                             const std::string& variant) const {
    if (const BaselineFacts* built = find(build_id)) return built;
    if (variant.empty()) return nullptr;
    return find(BaselineFacts{.build_id = build_id, .variant = variant}.id());
}

std::filesystem::path BaselineStore::folder_of(std::string_view id) const {
    return folder_ / id;
}

Result<std::vector<std::string>> BaselineStore::make_room(const BaselineFacts& seen,
                                                          const InUse& in_use) const {
    std::vector<std::string> going;
    const auto drop_oldest = [&](std::size_t most, auto&& is_one) -> Result<void> {
        std::vector<BaselineFacts> those;
        std::ranges::copy_if(kept_, std::back_inserter(those), [&](const BaselineFacts& one) {
            return is_one(one) && std::ranges::find(going, one.id()) == going.end();
        });
        std::ranges::sort(those, {}, &BaselineFacts::made_ns);
        std::size_t too_many = those.size() + 1 - std::min(most, those.size() + 1);
        for (const BaselineFacts& one : those) {
            if (too_many == 0) return {};
            if (in_use && in_use(one)) continue;
            going.push_back(one.id());
            --too_many;
        }
        if (too_many == 0) return {};
        return fail(Code::limit, fmt::format("{} that were seen in guests are kept already, and in "
                                             "use: make some of kernels' files instead "
                                             "(underseer baseline make)",
                                             those.size()));
    };
    TRY(drop_oldest(kMaxSeenInGuest, [&](const BaselineFacts& one) {
        return one.is_seen() && one.seen_in == seen.seen_in;
    }));
    TRY(drop_oldest(kMaxSeen, [](const BaselineFacts& one) { return one.is_seen(); }));
    return going;
}

Result<void> BaselineStore::keep(BaselineFacts facts, std::string_view bytes, const InUse& in_use) {
    if (!is_identified(facts) || facts.release.size() > kMaxTextBytes ||
        facts.source.size() > kMaxTextBytes || facts.seen_in.size() > kMaxTextBytes ||
        facts.bytes != bytes.size() || facts.sha256 != hash_text(bytes)) {
        return fail(Code::invalid_argument, "the baseline is not what it is said to be");
    }
    const std::string id = facts.id();
    const bool is_new = find(id) == nullptr;
    std::vector<std::string> going;
    if (is_new && facts.is_seen()) going = TRY(make_room(facts, in_use));
    if (facts.is_of_programs()) TRY(check_room(facts));
    const auto of_kernels = static_cast<std::size_t>(std::ranges::count_if(
        kept_, [](const BaselineFacts& one) { return !one.is_of_programs(); }));
    if (is_new && !facts.is_of_programs() && of_kernels >= kMaxBaselines) {
        return fail(Code::limit,
                    fmt::format("{} baselines of kernels are kept already: remove some that are "
                                "not needed (underseer baseline rm)",
                                of_kernels));
    }
    TRY(write(facts, bytes));
    forget(id);
    kept_.push_back(std::move(facts));
    std::ranges::sort(kept_, {}, &BaselineFacts::name);
    for (const std::string& one : going) TRY(drop(one));
    return {};
}

// All of them go to each worker.
Result<void> BaselineStore::check_room(const BaselineFacts& programs) const {
    std::size_t sets = 1;
    std::uint64_t bytes = programs.bytes;
    for (const BaselineFacts& one : kept_) {
        if (!one.is_of_programs() || one.id() == programs.id()) continue;
        ++sets;
        bytes += one.bytes;
    }
    if (sets <= limits::kMaxProgramSets && bytes <= limits::kMaxProgramSetBytes) return {};
    return fail(Code::limit, fmt::format("with it the baselines of {} packages would have {} MiB: "
                                         "remove some that are not needed (underseer baseline rm)",
                                         sets, bytes >> 20));
}

// At each moment there is the one before, or this one.
Result<void> BaselineStore::write(const BaselineFacts& facts, std::string_view bytes) const {
    TRY(make_directory(folder_, 0750));
    const auto folder = folder_of(facts.id());
    const std::filesystem::path next = folder.native() + std::string(kUnfinished);
    std::error_code error;
    std::filesystem::remove_all(next, error);
    TRY(make_directory(next, 0750));
    TRY(replace_file(next / file_of(facts), as_bytes(bytes)));
    const event_log::SignedBundle bundle{.made_ns = facts.made_ns,
                                         .about = {{"form", std::string(form_of(facts))},
                                                   {"build_id", facts.build_id},
                                                   {"variant", facts.variant},
                                                   {"seen_in", facts.seen_in},
                                                   {"release", facts.release},
                                                   {"source", facts.source},
                                                   {"text_bytes", std::to_string(facts.text_bytes)},
                                                   {"places", std::to_string(facts.places)},
                                                   {"package", facts.package},
                                                   {"programs", std::to_string(facts.programs)},
                                                   {"left_out", std::to_string(facts.left_out)}},
                                         .files = {{.name = std::string(file_of(facts)),
                                                    .kind = std::string(kKind),
                                                    .bytes = facts.bytes,
                                                    .sha256 = facts.sha256,
                                                    .why_not = {},
                                                    .gaps = {}}}};
    TRY(bundle.store(next, *key_));
    const unsigned flags = std::filesystem::exists(folder, error) ? RENAME_EXCHANGE : 0;
    if (::renameat2(AT_FDCWD, next.c_str(), AT_FDCWD, folder.c_str(), flags) != 0) {
        return fail(os_error("keeping " + folder.native()));
    }
    std::filesystem::remove_all(next, error);
    return {};
}

Result<void> BaselineStore::drop(std::string_view id) {
    if (find(id) == nullptr) {
        return fail(Code::not_found, fmt::format("no baseline {} is kept", id));
    }
    std::error_code error;
    std::filesystem::remove_all(folder_of(id), error);
    if (error) return fail(os_error(fmt::format("removing {}", id), error.value()));
    forget(id);
    return {};
}

void BaselineStore::forget(std::string_view id) {
    std::erase_if(kept_, [&](const auto& one) { return one.id() == id; });
}

Result<std::string> BaselineStore::read(BaselineFacts facts) {
    const auto path = folder_of(facts.id()) / file_of(facts);
    auto bytes = read_file(path, limits::kMaxBaselineBytes);
    if (bytes.has_value() && hash_text(*bytes) == facts.sha256) return bytes;
    const bool is_for_now = !bytes.has_value() && bytes.error().code != Code::not_found;
    if (!is_for_now) forget(facts.id());
    if (!bytes.has_value()) return bytes;
    return fail(Code::permission,
                fmt::format("{} is not what was kept: somebody has changed it. Make it anew: "
                            "underseer baseline make",
                            path.native()));
}

}  // namespace underseer::agent
