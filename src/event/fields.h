// Field descriptions: a type says once which fields it has and what they are called. The wire form,
// the JSON and the documentation are made from that one list.
//
//     struct Mount {
//         std::string source;
//         static constexpr auto fields() { return std::tuple{Field{"source", &Mount::source}}; }
//     };
#pragma once

#include <concepts>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

namespace underseer::event {

template <typename Owner, typename Member>
struct Field {
    std::string_view name;  // the JSON key: stable, snake_case
    Member Owner::* member;

    constexpr Field(std::string_view key, Member Owner::* pointer) : name(key), member(pointer) {}
};

// A described member whose own fields stand beside the owner's in JSON ("uid", not
// "credentials": {"uid"}).
template <typename Owner, typename Member>
struct FlatField : Field<Owner, Member> {
    using Field<Owner, Member>::Field;
};
template <typename Owner, typename Member>
FlatField(std::string_view, Member Owner::*) -> FlatField<Owner, Member>;

template <typename T>
concept Described = requires { T::fields(); };

template <Described T, typename Visit>
constexpr void for_each_field(Visit&& visit) {
    std::apply([&](const auto&... field) { (visit(field), ...); }, T::fields());
}

// A value that was looked for: either it, or why it could not be had. Never silently empty.
template <typename T>
class Observed {
  public:
    Observed() = default;
    Observed(T value) : value_(std::move(value)) {}  // NOLINT(google-explicit-constructor)
    static Observed unavailable(std::string reason) {
        Observed gap;
        gap.reason_ = std::move(reason);
        return gap;
    }

    bool available() const { return value_.has_value(); }
    const T& value() const { return *value_; }
    T value_or(T other) const { return value_ ? *value_ : std::move(other); }
    const std::string& reason() const { return reason_; }
    bool operator==(const Observed&) const = default;

  private:
    std::optional<T> value_;
    std::string reason_ = "not looked at";
};

}  // namespace underseer::event
