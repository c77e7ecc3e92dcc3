// Result<T>, Error, TRY and CHECK: how a function says that it could not do its work.
//
// Four kinds of failure, one mechanism each:
//   our own bug                    CHECK: abort; the supervisor restarts the process and records it
//   hostile or malformed input     Result with Code::malformed (never CHECK, never an exception)
//   the environment                Result with Code::os and the errno
//   part of the answer is missing  not an error: a value with its coverage
#pragma once

#include <cstdint>
#include <expected>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace underseer {

// Closed set, for branching and for exit codes. The text beside it is for people.
enum class Code : std::uint8_t {
    malformed = 1,         // bytes do not have the form they must have
    not_found = 2,         // the thing asked for is not there
    unavailable = 3,       // the source cannot give it (no BTF, symbol missing)
    limit = 4,             // a bound from limits.h was reached
    os = 5,                // a system call failed; Error::os_errno says how
    permission = 6,        // this user or role may not do it
    unsupported = 7,       // a form that we know and do not handle
    ambiguous = 8,         // more than one thing answers to that name
    invalid_argument = 9,  // the caller (a person or a program) asked for something senseless
    gone = 10,             // it was there and has ended since
    not_linux = 11,        // the memory holds no Linux kernel that could be found
    unreadable = 12,       // memory that is not there: a hole in an image, a page not mapped
};

inline constexpr Code kLastCode = Code::unreadable;
std::string_view to_string(Code code);

struct Error {
    Code code = Code::malformed;
    int os_errno = 0;
    std::string message;  // what was being done, with which input, and what to do next

    // Puts "what: " before the message. Used while the error travels up.
    Error&& with_context(std::string_view what) &&;
    std::string to_text() const;  // message, plus strerror for Code::os
};

// Error for the system call that just failed (reads errno).
Error os_error(std::string_view doing);
Error os_error(std::string_view doing, int error_number);

using Unexpected = std::unexpected<Error>;

[[nodiscard]] inline Unexpected fail(Code code, std::string message) {
    return Unexpected(Error{code, 0, std::move(message)});
}
[[nodiscard]] inline Unexpected fail(Error error) {
    return Unexpected(std::move(error));
}

// A value or an Error. std::expected of g++ 12 has neither and_then nor transform; ours are here.
template <typename T>
class [[nodiscard]] Result : public std::expected<T, Error> {
  public:
    using std::expected<T, Error>::expected;

    template <typename F>
    auto and_then(F&& next) && -> std::invoke_result_t<F, T&&> {
        if (!this->has_value()) return Unexpected(std::move(this->error()));
        return std::forward<F>(next)(std::move(**this));
    }
    template <typename F>
    auto transform(F&& change) && -> Result<std::invoke_result_t<F, T&&>> {
        if (!this->has_value()) return Unexpected(std::move(this->error()));
        return std::forward<F>(change)(std::move(**this));
    }
    Result&& context(std::string_view what) && {
        if (!this->has_value()) std::move(this->error()).with_context(what);
        return std::move(*this);
    }
};

template <>
class [[nodiscard]] Result<void> : public std::expected<void, Error> {
  public:
    using std::expected<void, Error>::expected;

    Result&& context(std::string_view what) && {
        if (!this->has_value()) std::move(this->error()).with_context(what);
        return std::move(*this);
    }
};

[[noreturn]] void check_failed(const char* condition, const char* file, int line);

namespace detail {
template <typename T>
T take(Result<T>&& result) {
    return std::move(*result);
}
inline void take(Result<void>&&) {}
}  // namespace detail
}  // namespace underseer

// Always on: a broken invariant of our own. Never used on foreign input.
#define CHECK(condition)                                 \
    (static_cast<bool>(condition) ? static_cast<void>(0) \
                                  : ::underseer::check_failed(#condition, __FILE__, __LINE__))

// The value of a Result, or returns its error from the enclosing function. Not behind a temporary
// of the same expression that owns memory: GCC 12 does not destroy it when this returns.
#define TRY(expression) UNDERSEER_TRY_AS_(__COUNTER__, expression)
#define UNDERSEER_TRY_AS_(number, expression) UNDERSEER_TRY_WITH_(number, expression)
#define UNDERSEER_TRY_WITH_(number, expression) \
    UNDERSEER_TRY_NAMED_(try_result_##number, expression)
#define UNDERSEER_TRY_NAMED_(name, expression)                                              \
    (__extension__({                                                                        \
        auto name = (expression); /* a name of its own: one TRY may stand inside another */ \
        if (!name.has_value()) return ::underseer::Unexpected(std::move(name).error());     \
        ::underseer::detail::take(std::move(name));                                         \
    }))
