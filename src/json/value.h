// JSON that somebody else wrote: bounded parsing, then typed access whose errors name the place
// (`$.return.status: expected string, found number`). Wraps nlohmann-json, whose header appears in
// value.cpp only.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/limits.h"
#include "base/result.h"

namespace underseer::json {

enum class Kind : std::uint8_t { null, boolean, number, string, array, object };
std::string_view to_string(Kind kind);

struct ParseLimits {
    std::size_t bytes = limits::kMaxJsonBytes;
    std::size_t depth = limits::kMaxJsonDepth;  // arrays and objects inside one another
};

// A parsed document or a place in one. Cheap to copy: copies share the document.
class Value {
  public:
    // Exactly one RFC 8259 value, with white space around it. Code::malformed names the byte;
    // Code::limit when a bound is hit. Of two members with one name the last counts.
    static Result<Value> parse(std::string_view text, ParseLimits limits = {});

    Kind kind() const;
    bool is_null() const { return kind() == Kind::null; }
    const std::string& path() const { return path_; }  // `$.a[3].b`, for messages

    Result<Value> at(std::string_view key) const;           // an object's member
    std::optional<Value> find(std::string_view key) const;  // nothing: no object, or no member
    Result<std::vector<Value>> elements() const;            // of an array
    Result<std::vector<std::pair<std::string, Value>>> members() const;  // of an object, by name

    Result<std::string> as_string() const;
    Result<bool> as_bool() const;
    Result<double> as_double() const;
    Result<std::int64_t> as_int() const;    // a whole number that fits
    Result<std::uint64_t> as_uint() const;  // a whole number that fits, or its decimal digits as a
                                            // string (how JSON carries numbers above 2^53)

  private:
    struct Document;
    Value(std::shared_ptr<const Document> document, const void* node, std::string path)
        : document_(std::move(document)), node_(node), path_(std::move(path)) {}
    Unexpected expected(std::string_view what) const;

    std::shared_ptr<const Document> document_;
    const void* node_ = nullptr;  // inside document_
    std::string path_;
};

}  // namespace underseer::json
