#include "sigma/compile.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "base/limits.h"
#include "sigma/condition.h"
#include "sigma/glob.h"
#include "sigma/match.h"
#include "sigma/regex.h"
#include "sigma/yaml.h"

namespace underseer::sigma {

namespace {

struct Advice {
    std::string_view what, instead;
};

// Modifiers of the specification that are not understood, and what would do.
constexpr std::array kRefusedModifiers{
    Advice{"expand", "write the values where the placeholder stands"},
    Advice{"wide", "command lines of Linux are no UTF-16"},
    Advice{"utf16", "command lines of Linux are no UTF-16"},
    Advice{"utf16le", "command lines of Linux are no UTF-16"},
    Advice{"utf16be", "command lines of Linux are no UTF-16"},
    Advice{"minute", "what is matched has no time"},
    Advice{"hour", "what is matched has no time"},
    Advice{"day", "what is matched has no time"},
    Advice{"week", "what is matched has no time"},
    Advice{"month", "what is matched has no time"},
    Advice{"year", "what is matched has no time"},
};
constexpr std::string_view kModifiers =
    "contains, startswith, endswith, all, cased, neq, re (with i, m, s), cidr, base64, "
    "base64offset, windash, lt, lte, gt, gte, exists and fieldref";

// Keys of a whole file that make something else of it than one rule.
constexpr std::array kRefusedKeys{
    Advice{"correlation", "a correlation looks at several events, and each is looked at by itself"},
    Advice{"action", "a collection is several rules: write each into a file of its own"},
    Advice{"filter", "a filter changes other rules: write it into those"},
};

constexpr std::array<std::pair<std::string_view, event::Severity>, 5> kLevels{{
    {"informational", event::Severity::informational},
    {"low", event::Severity::low},
    {"medium", event::Severity::medium},
    {"high", event::Severity::high},
    {"critical", event::Severity::critical},
}};

// Of `Field|modifier|modifier`.
struct Modifiers {
    bool contains = false, startswith = false, endswith = false, all = false, cased = false,
         neq = false, re = false, cidr = false, base64 = false, base64offset = false,
         windash = false, exists = false, fieldref = false;
    std::string_view compare;  // "<", "<=", ">", ">="
    std::string regex_flags;

    // A value is compared as it stands.
    bool is_plain() const { return matchers() == 0 && !base64 && !base64offset && !windash; }
    int matchers() const {
        return (contains || startswith || endswith ? 1 : 0) + re + cidr + exists + fieldref +
               !compare.empty();
    }
};

std::string base64(std::string_view bytes) {
    constexpr std::string_view kDigits =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::string text;
    for (std::size_t i = 0; i < bytes.size(); i += 3) {
        const auto byte = [&](std::size_t at) {
            return at < bytes.size() ? static_cast<unsigned char>(bytes[at]) : 0u;
        };
        const unsigned group = byte(i) << 16 | byte(i + 1) << 8 | byte(i + 2);
        text += kDigits[group >> 18 & 63];
        text += kDigits[group >> 12 & 63];
        text += i + 1 < bytes.size() ? kDigits[group >> 6 & 63] : '=';
        text += i + 2 < bytes.size() ? kDigits[group & 63] : '=';
    }
    return text;
}

// What of it stands in the encoding of any text that `bytes` are in, `offset` bytes after a group
// of three begins. Its first and last digits are shared with what stands around it.
std::string base64_within(std::string_view bytes, std::size_t offset) {
    constexpr std::size_t kFirst[] = {0, 2, 3};
    const std::string text = base64(std::string(offset, ' ').append(bytes));
    const std::size_t whole = (offset + bytes.size()) * 8 / 6;  // digits that nothing follows into
    if (whole <= kFirst[offset]) return "";
    return text.substr(kFirst[offset], whole - kFirst[offset]);
}

class Compiler {
  public:
    explicit Compiler(std::uint32_t& line) : line_(line) {}

    Result<Rule> compile(const Node& top) {
        TRY(expect(top, Node::Kind::map, "a rule is a map of keys: title, logsource, detection"));
        for (const Advice& key : kRefusedKeys) {
            if (const Node* there = top.find(key.what)) {
                return refuse(*there,
                              fmt::format("'{}' is not understood: {}", key.what, key.instead));
            }
        }
        rule_.title = TRY(text(top, "title", true));
        rule_.id = TRY(text(top, "id", false));
        rule_.description = TRY(text(top, "description", false));
        rule_.author = TRY(text(top, "author", false));
        TRY(take_status(top));
        TRY(take_level(top));
        TRY(take_tags(top));
        TRY(take_false_positives(top));
        TRY(take_log_source(top));
        TRY(take_detection(top));
        return std::move(rule_);
    }

  private:
    Unexpected refuse(const Node& node, std::string what, Code code = Code::unsupported) {
        line_ = node.line;
        return fail(code, std::move(what));
    }
    Result<void> expect(const Node& node, Node::Kind kind, std::string_view what) {
        if (node.kind == kind) return {};
        return refuse(node, std::string(what), Code::malformed);
    }
    Result<const Node*> need(const Node& map, std::string_view key) {
        const Node* node = map.find(key);
        if (node != nullptr) return node;
        return refuse(map, fmt::format("'{}' is missing", key), Code::malformed);
    }

    Result<std::string> text(const Node& map, std::string_view key, bool needed) {
        const Node* node = needed ? TRY(need(map, key)) : map.find(key);
        if (node == nullptr) return std::string();
        TRY(expect(*node, Node::Kind::scalar, fmt::format("'{}' is a text", key)));
        return node->text.substr(0, limits::kMaxSigmaTextBytes);
    }

    Result<void> take_status(const Node& top) {
        const std::string status = TRY(text(top, "status", false));
        if (status != "deprecated" && status != "unsupported") return {};
        return refuse(*top.find("status"),
                      fmt::format("its author has called it {}: take the one that replaces it, or "
                                  "change its status",
                                  status));
    }

    Result<void> take_level(const Node& top) {
        rule_.severity = event::Severity::low;
        const std::string level = TRY(text(top, "level", false));
        if (level.empty()) return {};
        const auto found =
            std::ranges::find(kLevels, level, [](const auto& one) { return one.first; });
        if (found == kLevels.end()) {
            return refuse(*top.find("level"),
                          fmt::format("'{}' is no level: it is informational, low, medium, high or "
                                      "critical",
                                      level),
                          Code::malformed);
        }
        rule_.severity = found->second;
        return {};
    }

    // "attack.t1059.004": the first is told with what is found.
    Result<void> take_tags(const Node& top) {
        const Node* tags = top.find("tags");
        if (tags == nullptr || tags->is_null()) return {};
        TRY(expect(*tags, Node::Kind::list, "'tags' is a list"));
        for (const Node& tag : tags->items) {
            constexpr std::string_view kPrefix = "attack.t";
            if (!tag.text.starts_with(kPrefix) || !rule_.technique.empty()) continue;
            const std::string_view number = std::string_view(tag.text).substr(kPrefix.size());
            const bool plain = number.find_first_not_of("0123456789.") == std::string_view::npos;
            if (plain && number.size() >= 4 && number.size() <= 8) {
                rule_.technique = fmt::format("T{}", number);
            }
        }
        return {};
    }

    Result<void> take_false_positives(const Node& top) {
        const Node* node = top.find("falsepositives");
        if (node == nullptr || node->is_null()) return {};
        constexpr std::size_t kMost = 16;
        if (node->kind == Node::Kind::scalar) {
            rule_.false_positives.push_back(node->text.substr(0, limits::kMaxSigmaTextBytes));
            return {};
        }
        TRY(expect(*node, Node::Kind::list, "'falsepositives' is a list of texts"));
        for (const Node& one : node->items) {
            if (rule_.false_positives.size() == kMost) break;
            TRY(expect(one, Node::Kind::scalar, "'falsepositives' is a list of texts"));
            rule_.false_positives.push_back(one.text.substr(0, limits::kMaxSigmaTextBytes));
        }
        return {};
    }

    Result<void> take_log_source(const Node& top) {
        const Node& source = *TRY(need(top, "logsource"));
        TRY(expect(source, Node::Kind::map, "'logsource' is a map: product and category"));
        const std::string product = TRY(text(source, "product", false));
        if (!product.empty() && product != "linux") {
            return refuse(*source.find("product"),
                          fmt::format("logsource product '{}': guests are Linux", product));
        }
        if (const Node* service = source.find("service")) {
            return refuse(*service,
                          fmt::format("logsource service '{}': logs that a guest writes itself are "
                                      "not read; a category is wanted: process_creation, "
                                      "network_connection or driver_load",
                                      service->text));
        }
        const std::string category = TRY(text(source, "category", true));
        const auto known = category_of(category);
        if (!known) {
            return refuse(*source.find("category"),
                          fmt::format("logsource category '{}' is not observed; there are "
                                      "process_creation, network_connection and driver_load",
                                      category));
        }
        rule_.category = *known;
        return {};
    }

    Result<void> take_detection(const Node& top) {
        const Node& detection = *TRY(need(top, "detection"));
        TRY(expect(detection, Node::Kind::map, "'detection' is a map: selections and a condition"));
        const Node& condition = *TRY(need(detection, "condition"));
        std::vector<std::string> names;
        for (std::size_t i = 0; i < detection.keys.size(); ++i) {
            const std::string& name = detection.keys[i];
            if (name == "condition") continue;
            if (name == "timeframe") {
                return refuse(detection.items[i],
                              "'timeframe' is not understood: each event is looked at by itself");
            }
            if (names.size() >= limits::kMaxSigmaSelections) {
                return refuse(detection.items[i], "more selections than any rule has", Code::limit);
            }
            rule_.selections.push_back(TRY(selection(name, detection.items[i])));
            names.push_back(name);
        }
        if (condition.kind == Node::Kind::map ||
            (condition.kind == Node::Kind::list && condition.items.empty())) {
            return refuse(condition, "'condition' is a text, or a list of texts", Code::malformed);
        }
        if (condition.kind == Node::Kind::scalar) return take_condition(condition, names);
        for (const Node& one : condition.items) {
            TRY(expect(one, Node::Kind::scalar, "a condition is a text"));
            TRY(take_condition(one, names));
        }
        rule_.condition.push_back(
            {Step::Kind::any, static_cast<std::uint32_t>(condition.items.size())});
        return {};
    }

    Result<void> take_condition(const Node& node, std::span<const std::string> names) {
        auto parsed = parse_condition(node.text, names, rule_.condition);
        if (parsed.has_value()) return {};
        return refuse(node, std::move(parsed).error().message, parsed.error().code);
    }

    Result<Selection> selection(const std::string& name, const Node& node) {
        Selection made{.name = name, .groups = {}};
        if (node.kind == Node::Kind::map) {
            made.groups.push_back(TRY(group(node)));
            return made;
        }
        const bool keywords =
            node.kind == Node::Kind::scalar || std::ranges::any_of(node.items, [](const Node& one) {
                return one.kind != Node::Kind::map;
            });
        if (keywords) {
            return refuse(node,
                          fmt::format("'{}' is a list of keywords, and what is observed is no text "
                                      "to look for them in: write 'CommandLine|contains:' before "
                                      "them",
                                      name));
        }
        for (const Node& one : node.items) made.groups.push_back(TRY(group(one)));
        if (!made.groups.empty()) return made;
        return refuse(node, fmt::format("'{}' is empty", name), Code::malformed);
    }

    Result<Group> group(const Node& map) {
        Group made;
        for (std::size_t i = 0; i < map.keys.size(); ++i) {
            made.items.push_back(TRY(item(map.keys[i], map.items[i])));
        }
        if (!made.items.empty()) return made;
        return refuse(map, "a selection without a field holds for everything", Code::malformed);
    }

    Result<Field> field(std::string_view name, const Node& node) {
        std::string known;
        for (const FieldInfo& info : all_fields()) {
            if (!info.is_of(rule_.category)) continue;
            if (info.name == name) return info.field;
            known += (known.empty() ? "" : ", ") + std::string(info.name);
        }
        if (name.empty()) {
            return refuse(node,
                          "keywords ('|all:') are not understood: write "
                          "'CommandLine|contains|all:'");
        }
        return refuse(node, fmt::format("the field '{}' is not known of a {}: it has {}", name,
                                        to_string(rule_.category), known));
    }

    Result<Modifiers> modifiers(std::string_view text, const Node& node) {
        Modifiers made;
        while (!text.empty()) {
            const std::string_view one = text.substr(0, text.find('|'));
            text.remove_prefix(std::min(one.size() + 1, text.size()));
            if (one == "contains") {
                made.contains = true;
            } else if (one == "startswith") {
                made.startswith = true;
            } else if (one == "endswith") {
                made.endswith = true;
            } else if (one == "all") {
                made.all = true;
            } else if (one == "cased") {
                made.cased = true;
            } else if (one == "neq") {
                made.neq = true;
            } else if (one == "re") {
                made.re = true;
            } else if (made.re && (one == "i" || one == "m" || one == "s")) {
                made.regex_flags += one;
            } else if (one == "cidr") {
                made.cidr = true;
            } else if (one == "base64") {
                made.base64 = true;
            } else if (one == "base64offset") {
                made.base64offset = true;
            } else if (one == "windash") {
                made.windash = true;
            } else if (one == "exists") {
                made.exists = true;
            } else if (one == "fieldref") {
                made.fieldref = true;
            } else if (one == "lt" || one == "lte" || one == "gt" || one == "gte") {
                made.compare = one == "lt" ? "<" : one == "lte" ? "<=" : one == "gt" ? ">" : ">=";
            } else {
                return refuse_modifier(one, node);
            }
        }
        const bool text_only = made.cased || made.base64 || made.base64offset || made.windash;
        const bool is_text = !(made.re || made.cidr || made.exists || !made.compare.empty());
        const bool encodes = made.base64 || made.base64offset;
        if (made.matchers() > 1 || (text_only && !is_text) || (encodes && made.windash) ||
            (made.fieldref && (encodes || made.windash))) {
            return refuse(node, "these modifiers say two different things of one value: keep one",
                          Code::malformed);
        }
        return made;
    }

    Unexpected refuse_modifier(std::string_view name, const Node& node) {
        for (const Advice& known : kRefusedModifiers) {
            if (known.what == name) {
                return refuse(node, fmt::format("the modifier '{}' is not understood: {}", name,
                                                known.instead));
            }
        }
        return refuse(node,
                      fmt::format("there is no modifier '{}'; there are {}", name, kModifiers));
    }

    Result<Item> item(std::string_view key, const Node& node) {
        const std::size_t bar = std::min(key.find('|'), key.size());
        Item made;
        made.field = TRY(field(key.substr(0, bar), node));
        const auto how = TRY(modifiers(key.substr(std::min(bar + 1, key.size())), node));
        made.all = how.all;
        made.negated = how.neq;
        if (node.kind == Node::Kind::map) {
            return refuse(node,
                          fmt::format("'{}' has a map as its value: it takes one value, or a "
                                      "list of them",
                                      key),
                          Code::malformed);
        }
        if (node.kind == Node::Kind::scalar) {
            made.values.push_back(TRY(choice(made.field, how, node)));
            return made;
        }
        for (const Node& one : node.items) {
            TRY(expect(one, Node::Kind::scalar, "a value of a list is a text or a number"));
            made.values.push_back(TRY(choice(made.field, how, one)));
        }
        if (!made.values.empty()) return made;
        return refuse(node, fmt::format("'{}' has an empty list", key), Code::malformed);
    }

    Result<Choice> choice(Field field, const Modifiers& how, const Node& node) {
        if (++patterns_ > limits::kMaxSigmaPatterns) {
            return refuse(node,
                          fmt::format("it has more than {} values: it takes too long over "
                                      "each event; write several rules",
                                      limits::kMaxSigmaPatterns),
                          Code::limit);
        }
        if (node.text.size() > limits::kMaxSigmaPatternBytes) {
            return refuse(node, "a value is longer than any command's", Code::limit);
        }
        if (node.is_null()) {
            if (!how.is_plain()) {
                return refuse(node, "a value is missing: nothing would be in everything",
                              Code::malformed);
            }
            return Choice{{{.kind = Pattern::Kind::absent}}};
        }
        if (how.exists) return exists(node);
        if (how.cidr) return cidr(node);
        if (how.re) return regular(how, node);
        if (how.fieldref) return reference(how, node);
        if (!how.compare.empty()) return number(how, node);
        TRY(check_known(field, node));
        if (how.base64 || how.base64offset) return encoded(how, node);
        return Choice{{TRY(pattern(tokens_of(node.text), how, node))}};
    }

    // What no guest tells: users' names are in a file of the guest's, which says what it likes.
    Result<void> check_known(Field field, const Node& node) {
        if (field == Field::initiated && lower(node.text) != "true" &&
            lower(node.text) != "false") {
            return refuse(node, "'Initiated' is true or false", Code::malformed);
        }
        const bool is_number = node.text.find_first_not_of("0123456789") == std::string::npos;
        if (field != Field::user || is_number || lower(node.text) == "root") return {};
        return refuse(node, fmt::format("the user '{}' is not known by name: write its number; "
                                        "only 0 is called root",
                                        node.text));
    }

    Result<Choice> exists(const Node& node) {
        const std::string word = lower(node.text);
        if (word != "true" && word != "false" && word != "yes" && word != "no") {
            return refuse(node, "'exists' is true or false", Code::malformed);
        }
        const bool there = word == "true" || word == "yes";
        return Choice{{{.kind = there ? Pattern::Kind::present : Pattern::Kind::absent}}};
    }

    Result<Choice> cidr(const Node& node) {
        const std::size_t slash = node.text.find('/');
        const std::string address = node.text.substr(0, slash);
        in6_addr raw{};
        const bool v4 = ::inet_pton(AF_INET, address.c_str(), &raw) == 1;
        const bool v6 = !v4 && ::inet_pton(AF_INET6, address.c_str(), &raw) == 1;
        const unsigned most = v4 ? 32 : 128;
        unsigned bits = most;
        bool well = v4 || v6;
        if (well && slash != std::string::npos) {
            const char* begin = node.text.data() + slash + 1;
            const char* end = node.text.data() + node.text.size();
            const auto [stop, error] = std::from_chars(begin, end, bits);
            well = error == std::errc{} && stop == end && bits <= most;
        }
        // A mapped address is the one that it stands for.
        well = well && !(v6 && address.starts_with("::ffff:"));
        if (!well) {
            return refuse(
                node, fmt::format("'{}' is no network: \"10.0.0.0/8\", \"fe80::/10\"", node.text),
                Code::malformed);
        }
        return Choice{{{.kind = Pattern::Kind::cidr, .parts = {address, std::to_string(bits)}}}};
    }

    Result<Choice> regular(const Modifiers& how, const Node& node) {
        std::string text = node.text;
        if (!how.regex_flags.empty()) text = fmt::format("(?{}){}", how.regex_flags, text);
        return Choice{{TRY(regex(std::move(text), node))}};
    }

    Result<Pattern> regex(std::string text, const Node& node) {
        const auto made = compile_regex(text);
        if (!made.has_value()) return refuse(node, made.error().message, made.error().code);
        return Pattern{.kind = Pattern::Kind::regex, .parts = {std::move(text)}};
    }

    Result<Choice> reference(const Modifiers& how, const Node& node) {
        const Field other = TRY(field(node.text, node));
        return Choice{{{.kind = Pattern::Kind::field, .cased = how.cased, .other = other}}};
    }

    Result<Choice> number(const Modifiers& how, const Node& node) {
        std::int64_t value = 0;
        const auto [end, error] =
            std::from_chars(node.text.data(), node.text.data() + node.text.size(), value);
        if (error != std::errc{} || end != node.text.data() + node.text.size()) {
            return refuse(node, fmt::format("'{}' is no whole number", node.text), Code::malformed);
        }
        return Choice{
            {{.kind = Pattern::Kind::number, .parts = {node.text, std::string(how.compare)}}}};
    }

    Result<Choice> encoded(const Modifiers& how, const Node& node) {
        std::string bytes;
        for (const Token& token : tokens_of(node.text)) {
            if (token.kind != Token::Kind::character) {
                return refuse(node, "a text that is encoded has no wildcards: write '\\*' for '*'",
                              Code::malformed);
            }
            bytes += token.character;
        }
        Modifiers outer = how;
        outer.cased = true;  // the same text in another case is another one in Base64
        Choice made;
        const std::size_t last = how.base64offset ? 2 : 0;
        for (std::size_t offset = 0; offset <= last; ++offset) {
            const std::string text =
                how.base64offset ? base64_within(bytes, offset) : base64(bytes);
            if (text.empty()) {
                return refuse(node, "too short: nothing of it is the same wherever it stands",
                              Code::malformed);
            }
            made.any.push_back(TRY(pattern(tokens_of(text), outer, node)));
        }
        return made;
    }

    Result<Pattern> pattern(std::vector<Token> tokens, const Modifiers& how, const Node& node) {
        const Token any{Token::Kind::any_text};
        if (how.contains || how.endswith) tokens.insert(tokens.begin(), any);
        if (how.contains || how.startswith) tokens.push_back(any);
        const bool needs_regex = how.windash || std::ranges::any_of(tokens, [](const Token& token) {
                                     return token.kind == Token::Kind::any_character;
                                 });
        if (needs_regex) return regex(regex_of(tokens, how.windash, how.cased), node);
        Pattern made{.kind = Pattern::Kind::text, .cased = how.cased, .parts = parts_of(tokens)};
        if (how.cased) return made;
        for (std::string& part : made.parts) part = lower(part);
        return made;
    }

    std::uint32_t& line_;
    Rule rule_;
    std::size_t patterns_ = 0;
};

// "/etc/underseer/rules/a.yml" -> "a"; "" where it cannot be a name.
std::string stem_of(std::string_view file) {
    file.remove_prefix(std::min(file.rfind('/') + 1, file.size()));  // npos + 1: nothing
    const std::string_view stem = file.substr(0, file.rfind('.'));
    const bool plain = stem.find_first_not_of(
                           "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                           "0123456789_.-") == std::string_view::npos;
    constexpr std::size_t kLongest = 100;
    return plain && stem.size() <= kLongest ? std::string(stem) : "";
}

}  // namespace

Result<Rule> compile(std::string_view file, std::string_view text, std::uint32_t& line) {
    line = 0;
    const std::string stem = stem_of(file);
    if (stem.empty()) {
        return fail(Code::malformed,
                    "a rule is called as its file, which has letters, digits and '_', '-', '.' in "
                    "its name: rename it");
    }
    const Node top = TRY(parse_yaml(text, line));
    Rule rule = TRY(Compiler(line).compile(top));
    rule.name = fmt::format("{}{}", kRulePrefix, stem);
    rule.file = file;
    line = 0;
    TRY(Matcher::of({rule}));
    return rule;
}

void RuleSet::add(std::string_view file, std::string_view text) {
    std::uint32_t line = 0;
    auto rule = compile(file, text, line);
    if (!rule.has_value()) {
        // It tells of what stands in the file, and goes to terminals and logs.
        std::string why = rule.error().message.substr(0, limits::kMaxSigmaTextBytes);
        std::ranges::replace_if(
            why, [](char c) { return static_cast<unsigned char>(c) < ' ' || c == 0x7f; }, '?');
        refused.push_back({std::string(file), line, std::move(why)});
        return;
    }
    const auto at = std::ranges::lower_bound(rules, rule->name, {}, &Rule::name);
    const bool replaces = at != rules.end() && at->name == rule->name;
    const std::size_t regexes = regexes_ + regexes_of(*rule) - (replaces ? regexes_of(*at) : 0);
    if (regexes > limits::kMaxSigmaRegexes) {
        refused.push_back({std::string(file), 0,
                           fmt::format("all rules together have more than {} regular expressions "
                                       "('re', '?', 'windash'): take some away",
                                       limits::kMaxSigmaRegexes)});
        return;
    }
    regexes_ = regexes;
    if (replaces) {
        *at = std::move(*rule);
    } else {
        rules.insert(at, std::move(*rule));
    }
}

}  // namespace underseer::sigma
