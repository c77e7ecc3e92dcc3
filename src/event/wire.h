// The binary form of described types between our own processes: little-endian, fields in the order
// of T::fields(), no tags. Both sides are one build. The decoder trusts nothing: a worker that an
// attacker has taken over writes these bytes.
#pragma once

#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "base/bytes.h"
#include "base/limits.h"
#include "event/fields.h"

namespace underseer::event {

class Encoder {
  public:
    template <typename T>
    void put(const T& value) {
        if constexpr (std::is_same_v<T, bool>) {
            put<std::uint8_t>(value ? 1 : 0);
        } else if constexpr (std::is_enum_v<T>) {
            put(static_cast<std::underlying_type_t<T>>(value));
        } else if constexpr (std::is_integral_v<T>) {
            out_.append(reinterpret_cast<const char*>(&value), sizeof value);
        } else if constexpr (Described<T>) {
            for_each_field<T>([&](const auto& field) { put(value.*(field.member)); });
        } else {
            put_special(value);
        }
    }
    // Bytes that are encoded already.
    void put_raw(std::string_view bytes) { out_ += bytes; }
    const std::string& bytes() const { return out_; }
    std::string take() { return std::move(out_); }

  private:
    void put_special(const std::string& text) {
        put(static_cast<std::uint32_t>(text.size()));
        out_ += text;
    }
    template <typename T>
    void put_special(const std::vector<T>& items) {
        put(static_cast<std::uint32_t>(items.size()));
        for (const T& item : items) put(item);
    }
    template <typename T>
    void put_special(const Observed<T>& observed) {
        put(observed.available());
        if (observed.available()) {
            put(observed.value());
        } else {
            put(observed.reason());
        }
    }

    std::string out_;
};

class Decoder {
  public:
    explicit Decoder(Bytes bytes) : cursor_(bytes) {}

    template <typename T>
    Result<T> get() {
        T value{};
        TRY(fill(value));
        return value;
    }
    bool at_end() const { return cursor_.at_end(); }
    std::size_t position() const { return cursor_.position(); }

  private:
    template <typename T>
    Result<void> fill(T& value) {
        if constexpr (std::is_same_v<T, bool>) {
            const auto raw = TRY(cursor_.read<std::uint8_t>());
            if (raw > 1) return fail(Code::malformed, "a truth value is neither 0 nor 1");
            value = raw == 1;
        } else if constexpr (std::is_enum_v<T>) {
            // The largest enumerator is found by argument-dependent lookup: every enum that crosses
            // a process says which one it is.
            using Raw = std::underlying_type_t<T>;
            const Raw raw = TRY(cursor_.read<Raw>());
            if (raw > static_cast<Raw>(last_enumerator(T{}))) {
                return fail(Code::malformed, "an enumeration value is out of range");
            }
            value = static_cast<T>(raw);
        } else if constexpr (std::is_integral_v<T>) {
            value = TRY(cursor_.read<T>());
        } else if constexpr (Described<T>) {
            return fill_fields(value);
        } else {
            return fill_special(value);
        }
        return {};
    }
    template <typename T>
    Result<void> fill_fields(T& value) {
        Result<void> outcome;
        for_each_field<T>([&](const auto& field) {
            if (!outcome.has_value()) return;
            outcome = fill(value.*(field.member));
            if (!outcome.has_value()) outcome = std::move(outcome).context(field.name);
        });
        return outcome;
    }
    Result<void> fill_special(std::string& text);
    template <typename T>
    Result<void> fill_special(std::vector<T>& items) {
        const auto count = TRY(cursor_.read<std::uint32_t>());
        // Every item takes at least one byte, so a count beyond the rest of the frame is a lie.
        if (count > cursor_.remaining())
            return fail(Code::malformed, "a list is longer than its frame");
        items.clear();
        for (std::uint32_t i = 0; i < count; ++i) {
            T item{};
            TRY(fill(item));
            items.push_back(std::move(item));
        }
        return {};
    }
    template <typename T>
    Result<void> fill_special(Observed<T>& observed) {
        bool available = false;
        TRY(fill(available));
        if (available) {
            T value{};
            TRY(fill(value));
            observed = Observed<T>(std::move(value));
        } else {
            std::string reason;
            TRY(fill(reason));
            observed = Observed<T>::unavailable(std::move(reason));
        }
        return {};
    }

    ByteCursor cursor_;
};

template <typename T>
std::string encode(const T& value) {
    Encoder encoder;
    encoder.put(value);
    return encoder.take();
}

// Fails when bytes are left over: a frame is exactly one value.
template <typename T>
Result<T> decode(Bytes bytes) {
    Decoder decoder(bytes);
    T value = TRY(decoder.get<T>());
    if (!decoder.at_end()) return fail(Code::malformed, "bytes are left after the value");
    return value;
}

}  // namespace underseer::event
