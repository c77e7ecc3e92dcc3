// One line of a chain file, read back. docs/log-format.md has the grammar. Shared by those who
// read a log (Reader, verifier); the writer has its own side in chain_text.h.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "crypto/signing.h"
#include "event_log/verify.h"

namespace underseer::event_log {

// What an epoch record says: a new signing key, certified by the enrolment key.
struct EpochLine {
    crypto::PublicKey key{};
    crypto::PublicKey enrolment{};
    std::uint64_t seq = 0;     // of the next event
    std::uint64_t oldest = 0;  // segment with which the log is meant to begin
    bool clean = false;        // the run before ended by closing the log
    bool has_lost = false;     // the writer found synced batches missing when it opened the log
    std::string cause;
    std::string found;  // what was wrong with the log when the writer opened it
    std::uint64_t torn_bytes = 0;
};

// What a batch record says.
struct BatchLine {
    std::uint64_t first_seq = 0;
    std::uint64_t last_seq = 0;  // first_seq - 1 when there are no events
    std::uint64_t count = 0;
    std::uint64_t bytes = 0;
    crypto::Digest root{};
    std::string key;  // key_id of the epoch key
    bool closing = false;
    std::map<std::string, std::uint64_t> dropped;  // since this run of the writer began
};

// What the head file says: how far the log had been synced.
struct HeadLine {
    std::uint64_t seq = 0;  // last event; batch: last batch
    std::uint64_t chain_end = 0;
    std::uint64_t events_end = 0;
    crypto::Digest hash{};  // of the last chain line
};

struct ChainLine {
    std::string_view header;  // the signed bytes, inside the line given
    crypto::Signature signature{};
    crypto::Digest hash{};  // of the whole line

    std::uint64_t version = 0;
    std::string agent;
    std::string log;
    std::uint64_t epoch = 0;
    std::uint64_t batch = 0;  // epoch: the next one
    std::uint64_t segment = 0;
    std::uint64_t offset = 0;  // in the events file, where what this record tells of begins
    crypto::Digest prev{};     // hash of the line before
    std::string time;
    std::variant<EpochLine, BatchLine, HeadLine> body;

    const EpochLine* as_epoch() const { return std::get_if<EpochLine>(&body); }
    const BatchLine* as_batch() const { return std::get_if<BatchLine>(&body); }
    const HeadLine* as_head() const { return std::get_if<HeadLine>(&body); }

    // Whether `key` signed this record as the kind of record that it is.
    bool is_signed_by(const crypto::PublicKey& key) const;
};

// `line` is without its newline. TRUST: anybody may have written it; nothing is checked yet but
// the form.
Result<ChainLine> parse_chain_line(std::string_view line);

// Files of a log directory.
std::string chain_name(std::uint64_t segment);   // 00000001.chain
std::string events_name(std::uint64_t segment);  // 00000001.jsonl
inline constexpr std::string_view kHeadName = "head";
inline constexpr std::string_view kLockName = "lock";
inline constexpr std::size_t kHeadSlotBytes = 4096;

// The numbers of the segments of which `directory` holds either file, ascending.
Result<std::vector<std::uint64_t>> list_segments(Files& files,
                                                 const std::filesystem::path& directory);

// Lines of a file that may be of any size. A line over the bound is cut and marked.
class LineReader {
  public:
    struct Line {
        std::string_view text;  // without newline; valid until the next call
        std::uint64_t offset = 0;
        bool terminated = false;  // a newline follows
        bool overlong = false;    // reading cannot go on behind it
        std::uint64_t end() const { return offset + text.size() + (terminated ? 1 : 0); }
    };

    LineReader(File* file, std::uint64_t offset) : file_(file), next_(offset) {}
    Result<std::optional<Line>> next();  // nothing at the end of the file

  private:
    File* file_;
    std::uint64_t next_;
    std::string buffer_;
    std::size_t used_ = 0;  // of buffer_, by lines already given
};

}  // namespace underseer::event_log
