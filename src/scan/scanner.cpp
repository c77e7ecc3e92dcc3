#include "scan/scanner.h"

#include <fmt/format.h>
#include <yara.h>

#include <algorithm>
#include <cstring>
#include <unordered_set>

#include "base/limits.h"
#include "scan/libyara.h"

namespace underseer::scan {

namespace {

// libyara's view of a Content.
class Blocks {
  public:
    explicit Blocks(Content& content) : content_(content) {
        iterator_.context = this;
        iterator_.first = [](YR_MEMORY_BLOCK_ITERATOR* iterator) {
            return self(iterator->context).go_to(0);
        };
        iterator_.next = [](YR_MEMORY_BLOCK_ITERATOR* iterator) {
            Blocks& blocks = self(iterator->context);
            return blocks.go_to(blocks.number_ + 1);
        };
        iterator_.last_error = ERROR_SUCCESS;
        block_.context = this;
        block_.fetch_data = [](YR_MEMORY_BLOCK* block) -> const std::uint8_t* {
            Blocks& blocks = self(block->context);
            const Bytes bytes = blocks.content_.read(blocks.number_);
            if (bytes.size() < block->size) return nullptr;
            return reinterpret_cast<const std::uint8_t*>(bytes.data());
        };
    }
    Blocks(const Blocks&) = delete;

    YR_MEMORY_BLOCK_ITERATOR* iterator() { return &iterator_; }
    void set_file_bytes(std::uint64_t bytes) {
        file_bytes_ = bytes;
        iterator_.file_size = [](YR_MEMORY_BLOCK_ITERATOR* iterator) {
            return self(iterator->context).file_bytes_;
        };
    }

  private:
    static Blocks& self(void* context) { return *static_cast<Blocks*>(context); }
    YR_MEMORY_BLOCK* go_to(std::size_t number) {
        const auto block = content_.block(number);
        if (!block) return nullptr;
        number_ = number;
        block_.base = block->base;
        block_.size = block->size_bytes;
        return &block_;
    }

    Content& content_;
    std::size_t number_ = 0;
    std::uint64_t file_bytes_ = 0;
    YR_MEMORY_BLOCK block_{};
    YR_MEMORY_BLOCK_ITERATOR iterator_{};
};

std::string bounded(const char* text) {
    return text == nullptr ? "" : std::string(text).substr(0, limits::kMaxRuleTextBytes);
}

std::string text_of(const YR_META& meta) {
    if (meta.type == META_TYPE_INTEGER) return std::to_string(meta.integer);
    if (meta.type == META_TYPE_BOOLEAN) return meta.integer != 0 ? "true" : "false";
    return bounded(meta.string);
}

void add_strings(YR_SCAN_CONTEXT* context, YR_RULE* rule, RuleMatch& match) {
    const YR_STRING* string = nullptr;
    yr_rule_strings_foreach(rule, string) {
        if (STRING_IS_PRIVATE(string)) continue;
        std::unordered_set<std::uint64_t> seen;  // once in each of two blocks that overlap
        const YR_MATCH* at = context->matches[string->idx].head;
        while (at != nullptr) {
            // libyara packs them without regard to alignment.
            YR_MATCH found;
            std::memcpy(&found, static_cast<const void*>(at), sizeof found);
            at = found.next;
            const auto address = static_cast<std::uint64_t>(found.base + found.offset);
            if (found.is_private) continue;
            if (match.strings.size() >= limits::kMaxStringMatches) {
                ++match.string_count;
                continue;
            }
            if (!seen.insert(address).second) continue;
            ++match.string_count;
            const auto shown = static_cast<std::size_t>(std::max(found.data_length, 0));
            match.strings.push_back({bounded(string->identifier), address,
                                     static_cast<std::uint64_t>(std::max(found.match_length, 0)),
                                     std::string(reinterpret_cast<const char*>(found.data),
                                                 std::min(shown, limits::kMaxExcerptBytes))});
        }
    }
}

RuleMatch match_of(YR_SCAN_CONTEXT* context, YR_RULE* rule) {
    RuleMatch match{.rule = bounded(rule->identifier), .rule_file = rule->ns->name};
    const char* tag = nullptr;
    yr_rule_tags_foreach(rule, tag) {
        if (match.tags.size() < limits::kMaxRuleMeta) match.tags.push_back(bounded(tag));
    }
    const YR_META* meta = nullptr;
    yr_rule_metas_foreach(rule, meta) {
        if (match.meta.size() >= limits::kMaxRuleMeta) break;
        match.meta.emplace_back(bounded(meta->identifier), text_of(*meta));
    }
    add_strings(context, rule, match);
    return match;
}

struct Scan {
    std::vector<RuleMatch> matches;
    bool too_many = false;
};

int on_message(YR_SCAN_CONTEXT* context, int message, void* data, void* user) {
    auto& scan = *static_cast<Scan*>(user);
    if (message == CALLBACK_MSG_RULE_MATCHING) {
        scan.matches.push_back(match_of(context, static_cast<YR_RULE*>(data)));
    } else if (message == CALLBACK_MSG_TOO_MANY_MATCHES) {
        scan.too_many = true;  // of one string, which is looked for no further
    }
    return CALLBACK_CONTINUE;
}

struct DestroyScanner {
    void operator()(YR_SCANNER* scanner) const { yr_scanner_destroy(scanner); }
};

void define_variables(YR_SCANNER* scanner, const Subject& subject) {
    const std::string& path = subject.filepath;
    const std::string name = path.substr(path.rfind('/') + 1);
    const std::size_t dot = name.rfind('.');
    const std::string extension = dot == std::string::npos ? "" : name.substr(dot);
    const auto define = [&](const char* variable, const std::string& value) {
        yr_scanner_define_string_variable(scanner, variable, value.c_str());
    };
    define("filename", name);
    define("filepath", path);
    define("extension", extension);
    define("filetype", subject.filetype);
    define("owner", subject.owner);
}

// `fast`: of strings that only have to be there, the first match alone.
Result<std::vector<RuleMatch>> scan_once(const Rules& rules, Content& content,
                                         const Subject& subject, std::chrono::seconds budget,
                                         bool fast) {
    YR_SCANNER* made = nullptr;
    if (const int error = yr_scanner_create(rules.raw(), &made); error != ERROR_SUCCESS) {
        return fail(error_of(error, "scanning"));
    }
    const std::unique_ptr<YR_SCANNER, DestroyScanner> scanner(made);
    Scan scan;
    yr_scanner_set_callback(made, on_message, &scan);
    yr_scanner_set_timeout(made, static_cast<int>(std::max<std::int64_t>(budget.count(), 1)));
    // Its handler of SIGBUS and SIGSEGV is for files that are mapped; all of this has been copied.
    int flags = SCAN_FLAGS_REPORT_RULES_MATCHING | SCAN_FLAGS_NO_TRYCATCH;
    if (!subject.file_bytes) flags |= SCAN_FLAGS_PROCESS_MEMORY;
    if (fast) flags |= SCAN_FLAGS_FAST_MODE;
    yr_scanner_set_flags(made, flags);
    define_variables(made, subject);
    Blocks blocks(content);
    if (subject.file_bytes) blocks.set_file_bytes(*subject.file_bytes);
    const int error = yr_scanner_scan_mem_blocks(made, blocks.iterator());
    if (error != ERROR_SUCCESS) return fail(error_of(error, "scanning"));
    if (scan.too_many && !fast) return fail(error_of(ERROR_TOO_MANY_MATCHES, "scanning"));
    return std::move(scan.matches);
}

}  // namespace

Result<std::vector<RuleMatch>> scan(const Rules& rules, Content& content, const Subject& subject,
                                    std::chrono::seconds budget) {
    const auto end = std::chrono::steady_clock::now() + budget;
    auto matches = scan_once(rules, content, subject, budget, /*fast=*/false);
    // Content that is full of one string must not keep the others from being found.
    const auto left =
        std::chrono::duration_cast<std::chrono::seconds>(end - std::chrono::steady_clock::now());
    if (matches.has_value() || matches.error().code != Code::limit || left.count() < 1) {
        return matches;
    }
    return scan_once(rules, content, subject, left, /*fast=*/true);
}

}  // namespace underseer::scan
