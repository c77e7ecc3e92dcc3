#include "sigma/condition.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/limits.h"
#include "sigma/glob.h"

namespace underseer::sigma {

namespace {

// or < and < not, as the specification has them.
class Parser {
  public:
    Parser(std::string_view text, std::span<const std::string> names, std::vector<Step>& steps)
        : rest_(text), names_(names), steps_(steps) {
        next();
    }

    Result<void> parse() {
        TRY(either(0));
        if (!word_.empty()) return unexpected();
        return {};
    }

  private:
    Result<void> either(std::size_t depth) { return several("or", Step::Kind::any, depth); }
    Result<void> both(std::size_t depth) { return several("and", Step::Kind::all, depth); }

    Result<void> several(std::string_view joint, Step::Kind kind, std::size_t depth) {
        std::uint32_t count = 0;
        do {
            if (count > 0) next();
            TRY(kind == Step::Kind::any ? both(depth) : one(depth));
            ++count;
        } while (is(joint));
        return count == 1 ? Result<void>{} : add({kind, count});
    }

    Result<void> one(std::size_t depth) {
        if (depth > limits::kMaxSigmaDepth) {
            return fail(Code::limit, "the condition nests deeper than any rule's");
        }
        if (is("not")) {
            next();
            TRY(one(depth + 1));
            return add({Step::Kind::negation, 0});
        }
        if (word_ == "(") {
            next();
            TRY(either(depth + 1));
            if (word_ != ")") return fail(Code::malformed, "a ')' is missing in the condition");
            next();
            return {};
        }
        if (is("and") || is("or") || is("of") || is("them") || word_ == ")" || word_.empty()) {
            return unexpected();
        }
        const std::string_view word = word_;
        next();
        if (is("of")) return several_of(word);
        const auto found = std::ranges::find(names_, word);
        if (found != names_.end()) {
            return add({Step::Kind::selection, static_cast<std::uint32_t>(found - names_.begin())});
        }
        if (word == "|" || word == "near") return aggregation();
        return fail(Code::malformed,
                    fmt::format("the condition names '{}', and detection has no such selection; "
                                "it has {}",
                                word, fmt::join(names_, ", ")));
    }

    // "1 of selection_*", "all of them"
    Result<void> several_of(std::string_view how_many) {
        const std::string many = lower(how_many);
        if (many != "1" && many != "any" && many != "all") {
            return fail(Code::unsupported,
                        fmt::format("'{} of': only '1 of' and 'all of' are understood", how_many));
        }
        next();
        const std::string_view pattern = word_;
        if (pattern.empty()) return unexpected();
        const bool them = is("them");
        next();
        std::uint32_t count = 0;
        for (std::size_t i = 0; i < names_.size(); ++i) {
            // "Them" leaves out those that begin with an underscore.
            const bool meant = them ? !names_[i].starts_with('_') : is_like(names_[i], pattern);
            if (!meant) continue;
            TRY(add({Step::Kind::selection, static_cast<std::uint32_t>(i)}));
            ++count;
        }
        if (count == 0) {
            return fail(Code::malformed,
                        fmt::format("'{} of {}': no selection is called so", how_many, pattern));
        }
        return add({many == "all" ? Step::Kind::all : Step::Kind::any, count});
    }

    Result<void> add(Step step) {
        if (steps_.size() >= limits::kMaxSigmaSteps) {
            return fail(Code::limit, "the condition is longer than any rule's");
        }
        steps_.push_back(step);
        return {};
    }

    Unexpected unexpected() const {
        if (word_ == "|" || is("near")) return aggregation();
        if (word_.empty()) {
            return fail(Code::malformed, "the condition ends where a selection should stand");
        }
        return fail(Code::malformed, fmt::format("'{}' is out of place in the condition", word_));
    }
    static Unexpected aggregation() {
        return fail(Code::unsupported,
                    "aggregations in a condition ('| count()', 'near') look at several events, and "
                    "are not understood: each event is looked at by itself");
    }

    bool is(std::string_view keyword) const { return lower(word_) == keyword; }

    void next() {
        constexpr std::string_view kSpace = " \t\r\n", kSingle = "()|";
        rest_.remove_prefix(std::min(rest_.find_first_not_of(kSpace), rest_.size()));
        std::size_t end = std::min(rest_.find_first_of(" \t\r\n()|"), rest_.size());
        if (!rest_.empty() && kSingle.find(rest_.front()) != std::string_view::npos) end = 1;
        word_ = rest_.substr(0, end);
        rest_.remove_prefix(end);
    }

    std::string_view rest_, word_;
    std::span<const std::string> names_;
    std::vector<Step>& steps_;
};

}  // namespace

Result<void> parse_condition(std::string_view text, std::span<const std::string> names,
                             std::vector<Step>& steps) {
    return Parser(text, names, steps).parse();
}

}  // namespace underseer::sigma
