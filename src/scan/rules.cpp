#include "scan/rules.h"

#include <fmt/format.h>
#include <yara.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#include <optional>

#include "base/bytes.h"
#include "base/limits.h"
#include "scan/libyara.h"
#include "scan/scanner.h"

namespace underseer::scan {

namespace {

// Every module that the library has, each used once: hashes fetch their algorithms, libmagic loads
// its database.
constexpr const char* kWarmUpRules = R"(
import "pe" import "elf" import "math" import "hash" import "magic" import "time" import "dotnet"
import "dex" import "macho" import "cuckoo" import "console"
rule strings_ {
    strings:
        $text = "warm" wide ascii
        $expression = /w[a-z]{2,3}m+ up/ nocase
    condition:
        all of them
}
rule parsers { condition: not pe.is_pe and not defined elf.type and time.now() > 0 }
rule hashes {
    condition:
        hash.md5(0, filesize) != "" and hash.sha1(0, filesize) != "" and
        hash.sha256(0, filesize) != "" and hash.checksum32(0, filesize) != 0 and
        hash.crc32(0, filesize) != 0 and math.entropy(0, filesize) > 0
}
rule magic_ { condition: magic.type() != "" and magic.mime_type() != "" }
)";

class WarmUpContent final : public Content {
  public:
    std::optional<Block> block(std::size_t number) override {
        if (number != 0) return std::nullopt;
        return Block{0, kText.size()};
    }
    Bytes read(std::size_t) override { return as_bytes(kText); }

  private:
    static constexpr std::string_view kText = "#!/bin/sh\necho warm up\n";
};

// One run of libyara's compiler.
class Compilation {
  public:
    Compilation(std::span<const RuleFile> files, std::vector<RuleError>& errors)
        : files_(files), errors_(errors) {
        for (const RuleFile& file : files) by_name_.emplace(file.name, &file);
    }
    ~Compilation() { discard(); }
    Compilation(const Compilation&) = delete;

    Result<YR_RULES*> run() {
        bool sound = true;
        for (const RuleFile& file : files_) {
            if (file.only_included) continue;
            if (!compiler_) TRY(begin());
            if (add(file)) continue;
            // A compiler that has met an error takes no more; what is wrong with the other files is
            // worth to be known all the same.
            sound = false;
            discard();
            if (errors_.size() >= limits::kMaxRuleErrors) break;
        }
        if (!sound) return fail(Code::malformed, "the rules have errors");
        if (!compiler_) return fail(Code::invalid_argument, "there are no rules");
        YR_RULES* rules = nullptr;
        if (const int error = yr_compiler_get_rules(compiler_, &rules); error != ERROR_SUCCESS) {
            return fail(error_of(error, "putting the rules together"));
        }
        return rules;
    }

  private:
    Result<void> begin() {
        if (const int error = yr_compiler_create(&compiler_); error != ERROR_SUCCESS) {
            compiler_ = nullptr;
            return fail(error_of(error, "starting the compiler of rules"));
        }
        yr_compiler_set_callback(compiler_, on_message, this);
        yr_compiler_set_include_callback(compiler_, on_include, nullptr, this);
        for (const char* variable : kExternalVariables) {
            yr_compiler_define_string_variable(compiler_, variable, "");
        }
        return {};
    }
    void discard() {
        if (compiler_ != nullptr) yr_compiler_destroy(compiler_);
        compiler_ = nullptr;
    }

    bool add(const RuleFile& file) {
        if (file.text.find('\0') != std::string::npos) {
            tell({file.name, 0, "it is no text"});
            return false;
        }
        current_ = &file;
        included_.clear();
        const std::size_t before = errors_.size();
        const int count = yr_compiler_add_string(compiler_, file.text.c_str(), file.name.c_str());
        if (count == 0) return true;
        if (errors_.size() == before && errors_.size() < limits::kMaxRuleErrors) {
            tell({file.name, 0, fmt::format("libyara's error {}", compiler_->last_error)});
        }
        return false;
    }

    void tell(RuleError error) {
        if (errors_.size() < limits::kMaxRuleErrors) errors_.push_back(std::move(error));
    }

    // libyara knows an included file by what its directive calls it, and the file that was added by
    // nothing.
    std::string name_of(const char* file) const {
        if (file == nullptr) return current_->name;
        const auto known = included_.find(file);
        return known == included_.end() ? file : known->second;
    }

    static void on_message(int level, const char* file, int line, const YR_RULE*,
                           const char* message, void* self) {
        if (level != YARA_ERROR_LEVEL_ERROR) return;
        std::string text = std::string(message).substr(0, limits::kMaxRuleTextBytes);
        constexpr std::string_view kNotIncluded = "callback failed to provide include resource: ";
        if (text.starts_with(kNotIncluded)) {
            text = fmt::format("there is no {} in or below the folder of the rules",
                               text.substr(kNotIncluded.size()));
        }
        auto& compilation = *static_cast<Compilation*>(self);
        const std::string name = compilation.name_of(file);
        compilation.tell({name,
                          line > 0 ? static_cast<std::uint32_t>(line) : compilation.last_line(name),
                          std::move(text)});
    }

    // Where libyara is at the end of a file, it names no line.
    std::uint32_t last_line(const std::string& name) const {
        const auto found = by_name_.find(name);
        if (found == by_name_.end() || found->second->text.empty()) return 0;
        const std::string& text = found->second->text;
        const auto ends = std::ranges::count(text, '\n');
        return static_cast<std::uint32_t>(ends + (text.back() == '\n' ? 0 : 1));
    }

    static const char* on_include(const char* wanted, const char* file, const char*, void* self) {
        auto& compilation = *static_cast<Compilation*>(self);
        const std::string name = included_name(compilation.name_of(file), wanted);
        const auto found = compilation.by_name_.find(name);
        if (found == compilation.by_name_.end()) return nullptr;
        compilation.included_[wanted] = name;
        const std::string& text = found->second->text;
        return text.find('\0') == std::string::npos ? text.c_str() : nullptr;
    }

    std::span<const RuleFile> files_;
    std::vector<RuleError>& errors_;
    std::map<std::string, const RuleFile*, std::less<>> by_name_;
    const RuleFile* current_ = nullptr;
    std::map<std::string, std::string, std::less<>> included_;  // directive to name
    YR_COMPILER* compiler_ = nullptr;
};

}  // namespace

Error error_of(int error, std::string_view doing) {
    if (error == ERROR_INSUFFICIENT_MEMORY || error == ERROR_TOO_MANY_MATCHES) {
        return {Code::limit, 0,
                fmt::format("{}: more memory would be needed than there is", doing)};
    }
    if (error == ERROR_SCAN_TIMEOUT) return {Code::limit, 0, fmt::format("{}: out of time", doing)};
    return {Code::malformed, 0, fmt::format("{}: libyara's error {}", doing, error)};
}

void initialize() {
    static const bool done = [] {
        CHECK(yr_initialize() == ERROR_SUCCESS);
        CHECK(yr_set_configuration_uint32(YR_CONFIG_MAX_MATCH_DATA, limits::kMaxExcerptBytes) ==
              ERROR_SUCCESS);
        return true;
    }();
    (void)done;
}

bool warm_up() {
    // At its first large array, qsort(3) asks the system how much memory there is.
    std::array<int, 1024> numbers{};
    std::qsort(numbers.data(), numbers.size(), sizeof(int), [](const void* a, const void* b) {
        return *static_cast<const int*>(a) - *static_cast<const int*>(b);
    });
    std::vector<RuleError> errors;
    const std::vector<RuleFile> wrong{{"wrong", "rule a { condition: $b /* */"}};
    (void)Rules::compile(wrong, errors);  // errors are told by another way
    const std::vector<RuleFile> right{{"warm", kWarmUpRules}};
    const auto rules = Rules::compile(right, errors);
    if (!rules.has_value()) return false;  // a library without one of the modules
    WarmUpContent content;
    const auto held = scan(*rules, content, {.file_bytes = content.block(0)->size_bytes},
                           std::chrono::seconds(60));
    return held.has_value() && held->size() == rules->count();
}

Result<Rules> Rules::compile(std::span<const RuleFile> files, std::vector<RuleError>& errors) {
    initialize();
    return Rules(TRY(Compilation(files, errors).run()));
}

Rules::Rules(YR_RULES* rules) : rules_(rules) {
    YR_RULES_STATS stats{};
    if (yr_rules_get_stats(rules, &stats) == ERROR_SUCCESS) count_ = stats.num_rules;
}

void Rules::Destroy::operator()(YR_RULES* rules) const {
    yr_rules_destroy(rules);
}

std::string included_name(std::string_view file, std::string_view wanted) {
    if (wanted.empty() || wanted.front() == '/') return "";
    std::vector<std::string_view> parts;
    const bool absolute = file.starts_with('/');
    const auto add = [&parts](std::string_view path) {
        while (!path.empty()) {
            const std::size_t end = std::min(path.find('/'), path.size());
            const std::string_view part = path.substr(0, end);
            path.remove_prefix(std::min(end + 1, path.size()));
            if (part.empty() || part == ".") continue;
            if (part == "..") {
                if (parts.empty() || parts.back() == "..") return false;
                parts.pop_back();
            } else {
                parts.push_back(part);
            }
        }
        return true;
    };
    const std::size_t folder = file.rfind('/');
    if (folder != std::string_view::npos) {
        // The folder of the file itself may be anywhere; what is wanted, only below where it
        // begins.
        std::string_view path = file.substr(0, folder);
        while (!path.empty()) {
            const std::size_t end = std::min(path.find('/'), path.size());
            if (end > 0 && path.substr(0, end) != ".") parts.push_back(path.substr(0, end));
            path.remove_prefix(std::min(end + 1, path.size()));
        }
    }
    if (!add(wanted)) return "";
    std::string name = absolute ? "/" : "";
    for (const std::string_view part : parts) {
        if (!name.empty() && name.back() != '/') name += '/';
        name += part;
    }
    return name;
}

std::vector<std::string> find_includes(std::string_view text) {
    constexpr std::string_view kWord = "include";
    std::vector<std::string> names;
    for (std::size_t at = text.find(kWord); at != std::string_view::npos;
         at = text.find(kWord, at)) {
        at += kWord.size();
        const std::size_t quote = text.find_first_not_of(" \t\r\n", at);
        if (quote == std::string_view::npos || text[quote] != '"') continue;
        const std::size_t end = text.find_first_of("\"\n", quote + 1);
        if (end == std::string_view::npos || text[end] != '"') continue;
        names.emplace_back(text.substr(quote + 1, end - quote - 1));
    }
    return names;
}

}  // namespace underseer::scan
