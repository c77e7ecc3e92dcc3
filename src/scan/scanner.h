// Compiled rules over content. libyara looks at hostile bytes here: in a jail.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "scan/rules.h"

namespace underseer::scan {

struct Block {
    std::uint64_t base = 0;  // address of its first byte, or offset in a file
    std::uint64_t size_bytes = 0;
};

// What is scanned, in blocks of ascending addresses. What spans two blocks is not found: whoever
// cuts a stretch that hangs together lets them overlap, and is told each match once.
class Content {
  public:
    virtual ~Content() = default;
    // Nothing behind the last one. Rules look at the blocks again after the first pass: by then
    // there must be neither more of them nor other ones.
    virtual std::optional<Block> block(std::size_t number) = 0;
    // The whole of a block, valid until the next call; empty when it cannot be read. Block 0 is
    // read again and again: uint32(0).
    virtual Bytes read(std::size_t number) = 0;
};

struct Subject {
    // Of a file: its size, which rules know as `filesize`. Nothing: a process's memory, where it is
    // undefined, as in `yara PID`.
    std::optional<std::uint64_t> file_bytes;
    // For the variables of the same names; the path's parts are filename and extension.
    std::string filepath, filetype, owner;
};

struct StringMatch {
    std::string identifier;  // "$a"
    std::uint64_t address = 0;
    std::uint64_t size_bytes = 0;
    std::string excerpt;  // its first bytes
};

struct RuleMatch {
    std::string rule;
    std::string rule_file;  // its namespace
    std::vector<std::string> tags;
    std::vector<std::pair<std::string, std::string>> meta;
    std::uint64_t string_count = 0;
    std::vector<StringMatch> strings;  // limits::kMaxStringMatches of them
};

// Code::limit when the time is up or memory runs out: nothing is known then.
Result<std::vector<RuleMatch>> scan(const Rules& rules, Content& content, const Subject& subject,
                                    std::chrono::seconds budget);

}  // namespace underseer::scan
