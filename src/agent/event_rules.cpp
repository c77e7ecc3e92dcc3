#include "agent/event_rules.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "agent/introspector.h"
#include "base/limits.h"
#include "base/os.h"

namespace underseer::agent {

namespace {

namespace fs = std::filesystem;

constexpr std::size_t kFormPartBytes = kItemsFrameBytes - 64;  // one fills a frame

struct CompiledForm {
    std::vector<sigma::Rule> rules;
    std::vector<sigma::Refusal> refused;

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"rules", &CompiledForm::rules},
                          Field{"refused", &CompiledForm::refused}};
    }
};

bool is_rule_file(const fs::path& path) {
    return path.extension() == ".yml" || path.extension() == ".yaml";
}

// In an order of its own: by folder as named, then by path.
Result<void> add_folder(const fs::path& folder, std::vector<fs::path>& files) {
    std::vector<fs::path> found;
    std::error_code error;
    for (fs::recursive_directory_iterator entry(folder, error), end; !error && entry != end;
         entry.increment(error)) {
        std::error_code unknown;  // then who reads it says why
        if (!is_rule_file(entry->path()) || entry->is_directory(unknown)) continue;
        if (found.size() == limits::kMaxSigmaFiles) {
            return fail(Code::limit,
                        fmt::format("there are more than {} files of rules: name fewer folders",
                                    limits::kMaxSigmaFiles));
        }
        found.push_back(entry->path());
    }
    std::ranges::sort(found);
    files.insert(files.end(), found.begin(), found.end());
    if (!error) return {};
    return fail({Code::os, error.value(),
                 fmt::format("not all of the folder could be read: {}", error.message())});
}

// O_NONBLOCK: what is no ordinary file must not make anybody wait.
Result<std::string> read_rule_file(const fs::path& path, RuleOwner owner) {
    const Fd file = TRY(open_file(path, O_RDONLY | O_NONBLOCK));
    struct stat status{};
    if (::fstat(file.get(), &status) != 0) {
        return fail(os_error(fmt::format("examining {}", path.native())));
    }
    if (!S_ISREG(status.st_mode)) return fail(Code::unsupported, "it is no regular file");
    const bool trusted =
        (status.st_uid == 0 || status.st_uid == ::geteuid()) && (status.st_mode & 022) == 0;
    if (owner == RuleOwner::operator_only && !trusted) {
        return fail(Code::permission,
                    fmt::format("others than root can write to it (owner {}, mode {:o}): whoever "
                                "does decides what is told; chown root and chmod go-w it",
                                status.st_uid, status.st_mode & 07777));
    }
    // Of what was examined, whatever lies there by now.
    std::string text(limits::kMaxSigmaFileBytes + 1, '\0');
    text.resize(TRY(read_at(file.get(), std::as_writable_bytes(std::span(text)), 0)));
    return text;
}

// Each piece of a text in a part; a question holds as many as its bound allows.
class RuleSender {
  public:
    explicit RuleSender(Introspector* worker) : worker_(worker) {}

    Result<void> send(const std::string& file, const std::string& text) {
        std::size_t at = 0;
        do {
            RuleText part{
                .file = file, .text = text.substr(at, kMaxRuleTextInQuestion), .continues = at > 0};
            at += part.text.size();
            bytes_ += part.text.size() + part.file.size();
            question_.scan.rules.push_back(std::move(part));
            if (bytes_ >= kMaxRuleTextInQuestion) TRY(flush());
        } while (at < text.size());
        return {};
    }

    Result<std::string> finish() {
        if (!question_.scan.rules.empty()) TRY(flush());
        const auto answer = TRY(worker_->ask<TextPart>(question_));
        std::string form;
        for (const TextPart& part : answer.items) form += part.text;
        return form;
    }

  private:
    Result<void> flush() {
        TRY(worker_->ask<TextPart>(question_));
        question_.scan.rules.clear();
        bytes_ = 0;
        return {};
    }

    Introspector* worker_;
    Question question_{.topic = Topic::compile_rules};
    std::size_t bytes_ = 0;
};

Result<Introspector> start_compiler() {
    GuestSource source;
    source.name = "the compiler of rules";
    source.image = true;  // and no file of it
    source.scans = true;  // libyaml's buffers grow by realloc(3), as libyara's do
    auto compiler = TRY(Introspector::start(std::move(source)));
    // Who asks is the agent, at its start and when its policy is read again: thousands of rules
    // take some seconds.
    compiler.wait_at_most(std::chrono::seconds(20));
    return compiler;
}

// Folders in their place, as what is in them; what of them could not be had is refused.
std::vector<fs::path> files_of(std::span<const std::string> paths,
                               std::vector<sigma::Refusal>& refused) {
    std::vector<fs::path> files;
    for (const std::string& path : paths) {
        std::error_code error;
        if (!fs::is_directory(path, error)) {
            files.emplace_back(path);
        } else if (const auto added = add_folder(path, files); !added.has_value()) {
            refused.push_back({path, 0, added.error().to_text()});
        }
    }
    return files;
}

}  // namespace

std::vector<std::string> default_rule_paths() {
    return {"/usr/share/underseer/rules", "/etc/underseer/rules"};
}

Result<void> RuleCompiler::add(const std::vector<RuleText>& parts) {
    for (const RuleText& part : parts) {
        bytes_ += part.text.size() + part.file.size();
        if (bytes_ > limits::kMaxSigmaBytes || files_.size() >= limits::kMaxSigmaFiles) {
            return fail(Code::limit,
                        fmt::format("more than {} MiB of rules, or {} files",
                                    limits::kMaxSigmaBytes >> 20, limits::kMaxSigmaFiles));
        }
        if (!part.continues) {
            files_.emplace_back(part.file, part.text);
        } else if (!files_.empty() && files_.back().first == part.file) {
            files_.back().second += part.text;
        } else {
            return fail(Code::invalid_argument, "a part of a file of rules without its beginning");
        }
    }
    return {};
}

Result<std::string> RuleCompiler::compile() {
    sigma::RuleSet set;
    for (const auto& [name, text] : std::exchange(files_, {})) set.add(name, text);
    bytes_ = 0;
    std::string form = event::encode(CompiledForm{std::move(set.rules), std::move(set.refused)});
    if (form.size() > limits::kMaxSigmaFormBytes) {
        return fail(Code::limit, "the rules are more than can be handed on: take some away");
    }
    return form;
}

std::vector<fs::path> rule_files(const policy::Policy& policy) {
    std::vector<sigma::Refusal> refused;  // told when they are loaded
    auto files = files_of(policy.sigma_rules.value_or(default_rule_paths()), refused);
    std::erase_if(files, [](const fs::path& file) {
        std::error_code error;
        return !fs::is_regular_file(file, error);
    });
    return files;
}

Result<LoadedRules> load_event_rules(std::span<const std::string> paths, RuleOwner owner,
                                     bool must_be_there) {
    LoadedRules loaded;
    std::vector<std::pair<std::string, std::string>> texts;
    std::size_t bytes = 0;
    for (const fs::path& path : files_of(paths, loaded.refused)) {
        std::error_code error;
        if (!must_be_there && !fs::exists(fs::symlink_status(path, error))) continue;
        auto text = read_rule_file(path, owner);
        if (!text.has_value()) {
            loaded.refused.push_back({path.native(), 0, text.error().to_text()});
            continue;
        }
        bytes += text->size() + path.native().size();
        if (bytes > limits::kMaxSigmaBytes || texts.size() >= limits::kMaxSigmaFiles) {
            return fail(
                Code::limit,
                fmt::format("{}: there are more than {} MiB of rules, or {} files: name "
                            "fewer",
                            path.native(), limits::kMaxSigmaBytes >> 20, limits::kMaxSigmaFiles));
        }
        texts.emplace_back(path.native(), std::move(*text));
    }
    if (!texts.empty()) {
        auto worker = TRY(start_compiler());
        RuleSender sender(&worker);
        for (const auto& [name, text] : texts) TRY(sender.send(name, text));
        const std::string form = TRY(sender.finish());
        auto compiled = TRY(event::decode<CompiledForm>(as_bytes(form)));
        loaded.rules = std::move(compiled.rules);
        std::ranges::move(compiled.refused, std::back_inserter(loaded.refused));
    }
    loaded.form = event::encode(loaded.rules);
    return loaded;
}

Result<LoadedRules> load_event_rules(const policy::Policy& policy) {
    if (policy.sigma_rules) {
        return load_event_rules(*policy.sigma_rules, RuleOwner::operator_only, true);
    }
    return load_event_rules(default_rule_paths(), RuleOwner::operator_only, false);
}

std::string to_text(const sigma::Refusal& refusal) {
    if (refusal.file.empty()) return refusal.message;
    if (refusal.line == 0) return fmt::format("{}: {}", refusal.file, refusal.message);
    return fmt::format("{}:{}: {}", refusal.file, refusal.line, refusal.message);
}

Result<std::vector<sigma::Rule>> rules_of_form(std::string_view form) {
    return event::decode<std::vector<sigma::Rule>>(as_bytes(form));
}

}  // namespace underseer::agent
