#include "sigma/match.h"

#include <arpa/inet.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <span>

#include "base/limits.h"
#include "sigma/glob.h"
#include "sigma/regex.h"

namespace underseer::sigma {

namespace {

enum class Truth : std::uint8_t { no, unknown, yes };

Truth truth_of(bool holds) {
    return holds ? Truth::yes : Truth::no;
}
Truth opposite(Truth truth) {
    return static_cast<Truth>(2 - static_cast<int>(truth));
}

// The best of them, or the worst.
template <typename Range, typename Judge>
Truth any_of(const Range& range, Judge&& judge) {
    Truth best = Truth::no;
    for (const auto& one : range) {
        best = std::max(best, judge(one));
        if (best == Truth::yes) break;
    }
    return best;
}
template <typename Range, typename Judge>
Truth all_of(const Range& range, Judge&& judge) {
    Truth worst = Truth::yes;
    for (const auto& one : range) {
        worst = std::min(worst, judge(one));
        if (worst == Truth::no) break;
    }
    return worst;
}

std::optional<std::int64_t> number_of(const std::string& text) {
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
    return value;
}

struct Address {
    std::array<unsigned char, 16> bytes{};
    bool v4 = false;
};
// "::ffff:10.0.0.1" is 10.0.0.1: so a socket for both families has it.
std::optional<Address> address_of(const std::string& text) {
    Address address;
    if (::inet_pton(AF_INET, text.c_str(), address.bytes.data()) == 1) {
        address.v4 = true;
        return address;
    }
    if (::inet_pton(AF_INET6, text.c_str(), address.bytes.data()) != 1) return std::nullopt;
    constexpr std::array<unsigned char, 12> kMapped{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    if (std::equal(kMapped.begin(), kMapped.end(), address.bytes.begin())) {
        std::copy(address.bytes.begin() + 12, address.bytes.end(), address.bytes.begin());
        address.v4 = true;
    }
    return address;
}

bool is_in(const std::string& text, const std::string& network, const std::string& length) {
    const auto address = address_of(text), base = address_of(network);
    const auto bits = number_of(length);
    if (!address || !base || !bits || address->v4 != base->v4) return false;
    for (std::size_t bit = 0; bit < static_cast<std::size_t>(*bits); ++bit) {
        const auto mask = static_cast<unsigned char>(0x80u >> bit % 8);
        if ((address->bytes[bit / 8] & mask) != (base->bytes[bit / 8] & mask)) return false;
    }
    return true;
}

bool compares(const std::string& text, const std::string& with, const std::string& how) {
    const auto left = number_of(text), right = number_of(with);
    if (!left || !right) return false;
    if (how == "<") return *left < *right;
    if (how == "<=") return *left <= *right;
    return how == ">" ? *left > *right : *left >= *right;
}

// One event, and what was made of it once for all rules.
class Judge {
  public:
    explicit Judge(const Event& event) : event_(event) {}

    Truth of(const Rule& rule) {
        std::vector<Truth> stack;
        std::vector<std::optional<Truth>> known(rule.selections.size());  // each is asked for once
        for (const Step& step : rule.condition) {
            if (step.kind == Step::Kind::selection) {
                auto& truth = known[step.number];
                if (!truth) truth = of(rule.selections[step.number]);
                stack.push_back(*truth);
                continue;
            }
            if (step.kind == Step::Kind::negation) {
                stack.back() = opposite(stack.back());
                continue;
            }
            const std::span<const Truth> taken(stack.data() + stack.size() - step.number,
                                               step.number);
            const Truth result =
                step.kind == Step::Kind::any ? std::ranges::max(taken) : std::ranges::min(taken);
            stack.resize(stack.size() - step.number);
            stack.push_back(result);
        }
        return stack.back();
    }

  private:
    Truth of(const Selection& selection) {
        return any_of(selection.groups, [&](const Group& group) {
            return all_of(group.items, [&](const Item& item) { return of(item); });
        });
    }

    Truth of(const Item& item) {
        const auto judge = [&](const Choice& choice) {
            return any_of(choice.any,
                          [&](const Pattern& pattern) { return of(pattern, item.field); });
        };
        const Truth truth = item.all ? all_of(item.values, judge) : any_of(item.values, judge);
        return item.negated ? opposite(truth) : truth;
    }

    Truth of(const Pattern& pattern, Field field) {
        using Kind = Pattern::Kind;
        const Value& value = event_[field];
        if (value.state == Value::State::unknown) return Truth::unknown;
        const bool is_there = value.state == Value::State::known;
        switch (pattern.kind) {
            case Kind::absent:
                return truth_of(!is_there);
            case Kind::present:
                return truth_of(is_there);
            case Kind::text:
                return truth_of(is_there && has_parts(pattern.cased ? value.text : lowered(field),
                                                      pattern.parts));
            case Kind::regex:
                return truth_of(is_there && matches(*pattern.program, value.text));
            case Kind::cidr:
                return truth_of(is_there && is_in(value.text, pattern.parts[0], pattern.parts[1]));
            case Kind::number:
                return truth_of(is_there &&
                                compares(value.text, pattern.parts[0], pattern.parts[1]));
            case Kind::field:
                break;
        }
        const Value& other = event_[pattern.other];
        if (other.state == Value::State::unknown) return Truth::unknown;
        const bool both = is_there && other.state == Value::State::known;
        return truth_of(both && (pattern.cased ? value.text == other.text
                                               : lowered(field) == lowered(pattern.other)));
    }

    const std::string& lowered(Field field) {
        auto& kept = lowered_[static_cast<std::size_t>(field)];
        if (!kept) kept = lower(event_[field].text);
        return *kept;
    }

    const Event& event_;
    std::array<std::optional<std::string>, kFieldCount> lowered_;
};

template <typename AnyRule, typename Each>
void each_item(AnyRule& rule, Each&& each) {
    for (auto& selection : rule.selections) {
        for (auto& group : selection.groups) {
            for (auto& item : group.items) each(item);
        }
    }
}
template <typename AnyRule, typename Each>
void each_pattern(AnyRule& rule, Each&& each) {
    each_item(rule, [&](auto& item) {
        for (auto& choice : item.values) {
            for (auto& pattern : choice.any) each(pattern);
        }
    });
}

Result<void> check_pattern(Pattern& pattern, std::size_t& regexes) {
    using Kind = Pattern::Kind;
    const std::size_t wanted = pattern.kind == Kind::regex                                  ? 1
                               : pattern.kind == Kind::cidr || pattern.kind == Kind::number ? 2
                                                                                            : 0;
    const bool well =
        pattern.kind == Kind::text ? !pattern.parts.empty() : pattern.parts.size() == wanted;
    if (!well) return fail(Code::malformed, "a value of a rule has not the parts of its kind");
    if (pattern.kind == Kind::cidr) {
        const auto base = address_of(pattern.parts[0]);
        const auto bits = number_of(pattern.parts[1]);
        if (!base || !bits || *bits < 0 || *bits > (base->v4 ? 32 : 128)) {
            return fail(Code::malformed, "a value of a rule is no network");
        }
    }
    if (pattern.kind != Kind::regex) return {};
    if (++regexes > limits::kMaxSigmaRegexes) {
        return fail(Code::limit, "more regular expressions than all rules together may have");
    }
    pattern.program = TRY(compile_regex(pattern.parts[0]));
    return {};
}

Result<void> check_condition(const Rule& rule) {
    std::size_t depth = 0;
    for (const Step& step : rule.condition) {
        const std::size_t needs = step.kind == Step::Kind::selection  ? 0
                                  : step.kind == Step::Kind::negation ? 1
                                                                      : step.number;
        const bool well = step.kind == Step::Kind::selection ? step.number < rule.selections.size()
                                                             : needs > 0 && needs <= depth;
        if (!well) return fail(Code::malformed, "the condition of a rule does not add up");
        depth = depth - needs + 1;
    }
    if (depth == 1) return {};
    return fail(Code::malformed, "the condition of a rule does not end with one truth");
}

}  // namespace

std::size_t Event::size_bytes() const {
    std::size_t bytes = 0;
    for (const Value& value : values) bytes += value.text.size();
    return bytes;
}

Result<Matcher> Matcher::of(std::vector<Rule> rules) {
    Matcher made;
    if (rules.size() > limits::kMaxSigmaFiles) {
        return fail(Code::limit, "there are more rules than files of rules may be");
    }
    std::size_t regexes = 0;
    for (Rule& rule : rules) {
        TRY(check_condition(rule).context(rule.name));
        std::uint64_t& patterns = made.patterns_[static_cast<std::size_t>(rule.category)];
        Result<void> checked;
        each_pattern(rule, [&](Pattern& pattern) {
            ++patterns;
            if (checked.has_value()) checked = check_pattern(pattern, regexes);
        });
        TRY(std::move(checked).context(rule.name));
    }
    made.rules_ = std::move(rules);
    return made;
}

Matcher::Verdict Matcher::judge(const Event& event) const {
    Verdict verdict;
    Judge judge(event);
    for (const Rule& rule : rules_) {
        if (rule.category != event.category) continue;
        const Truth truth = judge.of(rule);
        if (truth == Truth::yes) verdict.rules.push_back(&rule);
        if (truth == Truth::unknown) ++verdict.undecided;
    }
    return verdict;
}

std::size_t regexes_of(const Rule& rule) {
    std::size_t count = 0;
    each_pattern(rule, [&](const Pattern& pattern) {
        if (pattern.kind == Pattern::Kind::regex) ++count;
    });
    return count;
}

std::vector<Field> fields_of(const Rule& rule) {
    std::vector<Field> fields;
    each_item(rule, [&](const Item& item) {
        if (std::ranges::find(fields, item.field) == fields.end()) fields.push_back(item.field);
    });
    return fields;
}

}  // namespace underseer::sigma
