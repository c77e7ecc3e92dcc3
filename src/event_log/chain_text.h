// The writer's side of the chain format: records as text, and the Merkle tree as it grows.
#pragma once

#include <chrono>
#include <map>
#include <string>

#include "crypto/signing.h"
#include "event_log/recovery.h"

namespace underseer::event_log {

// Fields that every record begins with.
struct RecordStart {
    std::string_view agent;
    std::string_view log;
    std::string_view boot_id;
    std::uint64_t epoch = 0;
    std::uint64_t batch = 0;
    std::uint64_t segment = 0;
    std::uint64_t offset = 0;
    crypto::Digest prev{};
    std::chrono::system_clock::time_point time;
};

struct EpochText {
    crypto::PublicKey key;
    crypto::PublicKey enrolment;
    std::uint64_t seq = 0;
    std::uint64_t oldest = 0;
    std::string_view cause;              // start, segment, age, request, prune
    const Recovery* recovery = nullptr;  // cause start: what the log was like
};
std::string epoch_header(const RecordStart& start, const EpochText& epoch);

struct BatchText {
    std::uint64_t first_seq = 0;
    std::uint64_t count = 0;
    std::uint64_t bytes = 0;
    crypto::Digest root;
    std::string_view key_id;
    bool closing = false;
    const std::map<std::string, std::uint64_t, std::less<>>* dropped = nullptr;
};
std::string batch_header(const RecordStart& start, const BatchText& batch);

struct HeadText {
    std::uint64_t seq = 0;
    std::uint64_t chain_end = 0;
    std::uint64_t events_end = 0;
    crypto::Digest hash;
};
std::string head_header(const RecordStart& start, const HeadText& head);

// `header "signature"`, without newline. `what` is epoch, batch or head.
Result<std::string> signed_line(std::string_view what, std::string_view header,
                                const crypto::SigningKey& key);

// RFC 6962 tree hash of leaves that come one by one: keeps the roots of the complete subtrees, one
// for each bit of the number of leaves.
class GrowingTree {
  public:
    void add(Bytes leaf);
    crypto::Digest take_root();  // and begins anew
    std::size_t size() const { return count_; }

  private:
    crypto::Digest node(const crypto::Digest& left, const crypto::Digest& right);

    crypto::Sha256 hash_;
    std::array<crypto::Digest, 64> subtrees_;
    std::size_t count_ = 0;
};

}  // namespace underseer::event_log
