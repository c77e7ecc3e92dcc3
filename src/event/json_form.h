// The JSON of described types: one object, keys in the order of fields(). What could not be had is
// null, and its reason stands in the object's last member, "unavailable": {key: reason}.
#pragma once

#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "event/fields.h"
#include "json/writer.h"

namespace underseer::event {

class JsonForm {
  public:
    explicit JsonForm(json::Writer* writer) : writer_(*writer) {}

    template <typename T>
    void put(const T& value) {
        if constexpr (std::is_same_v<T, bool>) {
            writer_.value(value);
        } else if constexpr (std::is_enum_v<T>) {
            writer_.value(to_string(value));
        } else if constexpr (std::is_integral_v<T>) {
            put_number(static_cast<std::uint64_t>(value));
        } else if constexpr (Described<T>) {
            put_object(value);
        } else {
            put_special(value);
        }
    }

  private:
    using Reasons = std::vector<std::pair<std::string_view, std::string>>;

    template <typename T>
    void put_object(const T& value) {
        Reasons reasons;
        writer_.begin_object();
        put_fields(value, reasons);
        if (!reasons.empty()) {
            writer_.key("unavailable");
            writer_.begin_object();
            for (const auto& [key, reason] : reasons) {
                writer_.key(key);
                writer_.value(reason);
            }
            writer_.end_object();
        }
        writer_.end_object();
    }
    template <typename T>
    void put_fields(const T& value, Reasons& reasons) {
        for_each_field<T>(
            [&](const auto& field) { put_field(field, value.*(field.member), reasons); });
    }
    template <typename F, typename Member>
    void put_field(const F& field, const Member& member, Reasons&) {
        writer_.key(field.name);
        put(member);
    }
    template <typename Owner, typename T>
    void put_field(const Field<Owner, Observed<T>>& field, const Observed<T>& member,
                   Reasons& reasons) {
        writer_.key(field.name);
        if (member.available()) {
            put(member.value());
        } else {
            reasons.emplace_back(field.name, member.reason());
            writer_.value(nullptr);
        }
    }
    template <typename Owner, typename T>
    void put_field(const FlatField<Owner, Observed<T>>& field, const Observed<T>& member,
                   Reasons& reasons) {
        if (member.available()) {
            put_fields(member.value(), reasons);
        } else {
            reasons.emplace_back(field.name, member.reason());
        }
    }

    // Many readers keep numbers as doubles: what those cannot hold exactly is written as a string.
    void put_number(std::uint64_t value) {
        if (value > (1ull << 53)) {
            writer_.big(value);
        } else {
            writer_.value(value);
        }
    }
    void put_special(const std::string& text) { writer_.value(text); }
    template <typename T>
    void put_special(const std::vector<T>& items) {
        writer_.begin_array();
        for (const T& item : items) put(item);
        writer_.end_array();
    }

    json::Writer& writer_;
};

}  // namespace underseer::event
