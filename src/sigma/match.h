// Matcher: which rules an event is told by.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "sigma/rule.h"

namespace underseer::sigma {

// What a field of an event is: a text, not there, or not to be had. Of the last a rule says nothing
// that rests on it, neither that it holds nor that it does not.
struct Value {
    enum class State : std::uint8_t { absent, known, unknown };

    State state = State::absent;
    std::string text;

    bool operator==(const Value&) const = default;
    static Value of(std::string text) { return {State::known, std::move(text)}; }
    static Value unknown() { return {State::unknown, {}}; }
};

struct Event {
    Category category{};
    std::array<Value, kFieldCount> values;

    Value& operator[](Field field) { return values[static_cast<std::size_t>(field)]; }
    const Value& operator[](Field field) const { return values[static_cast<std::size_t>(field)]; }
    std::size_t size_bytes() const;
};

class Matcher {
  public:
    Matcher() = default;
    // Code::malformed when they are none that compile() has made.
    static Result<Matcher> of(std::vector<Rule> rules);

    const std::vector<Rule>& rules() const { return rules_; }
    bool judges(Category category) const { return patterns(category) > 0; }
    // Of all rules about it: what an event costs is their number times its bytes.
    std::uint64_t patterns(Category category) const {
        return patterns_[static_cast<std::size_t>(category)];
    }

    struct Verdict {
        std::vector<const Rule*> rules;  // that hold
        std::size_t undecided = 0;       // that rest on what is unknown
    };
    Verdict judge(const Event& event) const;

  private:
    std::vector<Rule> rules_;
    std::array<std::uint64_t, 3> patterns_{};
};

std::size_t regexes_of(const Rule& rule);
// Fields that a rule looks at, each once.
std::vector<Field> fields_of(const Rule& rule);

}  // namespace underseer::sigma
