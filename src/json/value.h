// JSON input that somebody else wrote: parsed with bounds, read with errors that name the place.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace underseer::json {

// A parsed value, or a part of one; copies are cheap and keep the whole document alive.
class Value {
  public:
    // Code::malformed with the position; Code::limit beyond `max_bytes` or 64 levels.
    static Result<Value> parse(std::string_view text, std::size_t max_bytes = 16u << 20);

    // Code::not_found names the path ("$.return.status"); Code::malformed when this is no object.
    Result<Value> at(std::string_view key) const;
    bool has(std::string_view key) const;
    Result<std::vector<Value>> items() const;  // of an array

    Result<std::string> string() const;
    Result<std::int64_t> integer() const;
    Result<std::uint64_t> unsigned_integer() const;
    Result<bool> boolean() const;

  private:
    struct Document;
    Value(std::shared_ptr<const Document> document, const void* node, std::string path);
    Unexpected wrong_type(std::string_view wanted) const;

    std::shared_ptr<const Document> document_;
    const void* node_ = nullptr;
    std::string path_;
};

}  // namespace underseer::json
