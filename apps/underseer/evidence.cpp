#include "evidence.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "agent/paths.h"
#include "base/counted.h"
#include "event_log/signed_bundle.h"
#include "output.h"

namespace underseer::cli {

namespace {

using event_log::SignedBundle;

bool is_bundle(const std::filesystem::path& folder) {
    std::error_code error;
    return std::filesystem::is_regular_file(
        std::filesystem::symlink_status(folder / SignedBundle::kFileName, error));
}

// `folder` itself, or those below it: of one instance, or of all.
Result<std::vector<std::filesystem::path>> bundles_at(const std::filesystem::path& folder) {
    std::vector<std::filesystem::path> found;
    if (is_bundle(folder)) return std::vector{folder};
    std::error_code error;
    if (!std::filesystem::exists(folder, error)) {
        if (error) return fail(os_error("examining " + folder.native(), error.value()));
        return found;
    }
    for (auto entry = std::filesystem::recursive_directory_iterator(folder, error);
         !error && entry != std::filesystem::recursive_directory_iterator();
         entry.increment(error)) {
        if (is_bundle(entry->path())) {
            found.push_back(entry->path());
            entry.disable_recursion_pending();
        }
    }
    if (error) return fail(os_error("listing " + folder.native(), error.value()));
    // By the time that their names begin with.
    std::ranges::sort(found, {}, [](const auto& path) { return path.filename(); });
    return found;
}

BundleFact fact_of(const std::filesystem::path& folder, const crypto::PublicKey& key,
                   bool compare) {
    BundleFact fact{.folder = folder.native(), .state = "tampered"};
    auto bundle = SignedBundle::load(folder, key);
    if (!bundle.has_value()) {
        fact.problems.push_back(bundle.error().to_text());
        return fact;
    }
    const auto about = [&](std::string_view name) {
        const std::string* value = bundle->find(name);
        return value == nullptr ? std::string() : *value;
    };
    fact.made = bundle->made_ns;
    fact.host = about("host");
    fact.instance = about("instance");
    fact.instance_id = about("instance_id");
    fact.tenant = about("tenant");
    fact.vm_state = about("vm_state");
    fact.action = about("action");
    fact.because = about("because");
    fact.finding_uid = about("finding_uid");
    for (const event_log::BundleFile& file : bundle->files) {
        fact.files.push_back(
            {file.name, file.kind, file.bytes, file.sha256, file.why_not, file.gaps});
        struct stat status{};
        if (::lstat((folder / file.name).c_str(), &status) == 0) {
            fact.stored_bytes += static_cast<std::uint64_t>(status.st_blocks) * 512;
        }
    }
    if (compare) {
        for (const auto& [name, what] : bundle->compare(folder)) {
            fact.problems.push_back(name + ": " + what);
        }
    }
    fact.state = !fact.problems.empty() ? "tampered" : compare ? "intact" : "signed";
    return fact;
}

std::uint64_t kept_files(const BundleFact& fact) {
    return static_cast<std::uint64_t>(std::ranges::count_if(
        fact.files, [](const EvidenceFileFact& file) { return file.why_not.empty(); }));
}

Tone tone_of(const BundleFact& fact) {
    return fact.state == "tampered" ? Tone::bad : Tone::good;
}

void print_list(const std::vector<BundleFact>& facts, const std::filesystem::path& folder) {
    Table table({{"MADE (UTC)"},
                 {"INSTANCE"},
                 {"ACTION"},
                 {"FILES", Align::right},
                 {"SIZE", Align::right},
                 {"BECAUSE"},
                 {"LIST"},
                 {"FOLDER"}});
    for (const BundleFact& fact : facts) {
        table.add({time_text(fact.made), fact.instance, fact.action,
                   std::to_string(kept_files(fact)), size_text(fact.stored_bytes), fact.because,
                   fact.state == "tampered" ? "TAMPERED" : fact.state, fact.folder});
    }
    print_table(table);
    if (table.empty()) print("No evidence is kept below " + printable(folder.native()) + ".\n");
}

void print_verdict(const BundleFact& fact) {
    fmt::print("{}: {}\n", printable(fact.folder), toned(tone_of(fact), fact.state));
    if (fact.made != 0) {
        fmt::print("  {} of {} ({}) at {} UTC: {}\n", printable(fact.action),
                   printable(fact.instance), printable(fact.instance_id), time_text(fact.made),
                   printable(fact.because));
    }
    for (const EvidenceFileFact& file : fact.files) {
        fmt::print(
            "  {:<28}{}\n", printable(file.name),
            file.why_not.empty() ? size_text(file.bytes) : "not there: " + printable(file.why_not));
        for (const std::string& gap : file.gaps) fmt::print("    not seen: {}\n", printable(gap));
    }
    for (const std::string& problem : fact.problems) {
        print(toned(Tone::bad, "  " + printable(problem)) + "\n");
    }
}

}  // namespace

Result<int> evidence(const Options& options) {
    const bool verify = options.target == "verify";
    const auto key_path =
        options.key.empty() ? agent::public_key_path(options.state_dir) : options.key;
    const auto key = TRY(crypto::load_public_key(key_path).context(
        "the public enrolment key that evidence is verified against (--key FILE)"));
    const std::filesystem::path folder = options.argument.empty()
                                             ? agent::evidence_path(options.state_dir)
                                             : std::filesystem::path(options.argument);
    const auto bundles = TRY(bundles_at(folder));
    if (bundles.empty() && !options.argument.empty()) {
        return fail(Code::not_found, "no evidence is kept below " + folder.native());
    }
    std::vector<BundleFact> facts;
    for (const auto& bundle : bundles) facts.push_back(fact_of(bundle, key, verify));
    if (options.json) {
        print_json(facts);
    } else if (verify) {
        for (const BundleFact& fact : facts) print_verdict(fact);
    } else {
        print_list(facts, folder);
    }
    const bool tampered =
        std::ranges::any_of(facts, [](const BundleFact& fact) { return fact.state == "tampered"; });
    return verify && tampered ? 1 : 0;
}

}  // namespace underseer::cli
