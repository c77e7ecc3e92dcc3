#include "event_log/chain_text.h"

#include <fmt/chrono.h>

#include "json/writer.h"

namespace underseer::event_log {
namespace {

// RFC 3339 in UTC with microseconds.
std::string time_text(std::chrono::system_clock::time_point time) {
    const auto seconds = std::chrono::floor<std::chrono::seconds>(time);
    const auto microseconds =
        std::chrono::duration_cast<std::chrono::microseconds>(time - seconds).count();
    return fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:06}Z",
                       fmt::gmtime(std::chrono::system_clock::to_time_t(seconds)), microseconds);
}

json::Writer begin(std::string& out, std::string_view kind, const RecordStart& start) {
    json::Writer writer(&out);
    writer.begin_object().member("kind", kind).member("ver", 1);
    writer.member("agent", start.agent).member("log", start.log).member("boot", start.boot_id);
    writer.member("epoch", start.epoch).member("batch", start.batch);
    writer.member("segment", start.segment);
    return writer;
}

}  // namespace

std::string epoch_header(const RecordStart& start, const EpochText& epoch) {
    std::string out;
    json::Writer writer = begin(out, "epoch", start);
    writer.member("offset", start.offset).member("seq", epoch.seq);
    writer.member("prev", crypto::to_hex(start.prev)).member("time", time_text(start.time));
    writer.member("key", crypto::to_hex(epoch.key));
    writer.member("enrolment", crypto::to_hex(epoch.enrolment));
    writer.member("oldest", epoch.oldest).member("cause", epoch.cause);
    const Recovery* recovery = epoch.recovery;
    writer.member("clean", recovery == nullptr || recovery->opened.clean);
    if (recovery != nullptr && recovery->opened.torn_bytes > 0) {
        writer.key("torn").begin_object();
        writer.member("chain_bytes", recovery->torn_chain_bytes);
        writer.member("event_bytes", recovery->torn_event_bytes).end_object();
    }
    if (recovery != nullptr && recovery->lost_batch_first != 0) {
        writer.key("lost").begin_object();
        writer.member("first_batch", recovery->lost_batch_first);
        writer.member("last_batch", recovery->lost_batch_last);
        writer.member("first_seq", recovery->lost_seq_first);
        writer.member("last_seq", recovery->lost_seq_last).end_object();
    }
    if (recovery != nullptr && !recovery->opened.found.empty()) {
        writer.member("found", recovery->opened.found);
    }
    writer.end_object();
    return out;
}

std::string batch_header(const RecordStart& start, const BatchText& batch) {
    std::string out;
    json::Writer writer = begin(out, "batch", start);
    writer.member("offset", start.offset).member("first_seq", batch.first_seq);
    writer.member("last_seq", batch.first_seq + batch.count - 1).member("n", batch.count);
    writer.member("bytes", batch.bytes).member("root", crypto::to_hex(batch.root));
    writer.member("prev", crypto::to_hex(start.prev)).member("time", time_text(start.time));
    writer.key("dropped").begin_object();
    for (const auto& [source, count] : *batch.dropped) writer.member(source, count);
    writer.end_object().member("key", batch.key_id);
    if (batch.closing) writer.member("closing", true);
    writer.end_object();
    return out;
}

std::string head_header(const RecordStart& start, const HeadText& head) {
    std::string out;
    json::Writer writer = begin(out, "head", start);
    writer.member("seq", head.seq).member("chain_end", head.chain_end);
    writer.member("events_end", head.events_end).member("hash", crypto::to_hex(head.hash));
    writer.member("time", time_text(start.time)).end_object();
    return out;
}

Result<std::string> signed_line(std::string_view what, std::string_view header,
                                const crypto::SigningKey& key) {
    std::string message = fmt::format("underseer-{}-v1", what);
    message += '\0';
    message += header;
    const crypto::Signature signature = TRY(key.sign(as_bytes(message)));
    return fmt::format("{} \"{}\"", header, crypto::to_hex(signature));
}

crypto::Digest GrowingTree::node(const crypto::Digest& left, const crypto::Digest& right) {
    std::array<std::byte, 65> bytes;
    bytes[0] = std::byte{1};
    std::copy(left.begin(), left.end(), bytes.begin() + 1);
    std::copy(right.begin(), right.end(), bytes.begin() + 33);
    hash_.update(bytes);
    return hash_.finish();
}

void GrowingTree::add(Bytes leaf) {
    constexpr std::byte kLeaf{0};
    hash_.update({&kLeaf, 1});
    hash_.update(leaf);
    crypto::Digest digest = hash_.finish();
    std::size_t level = 0;
    for (; (count_ >> level & 1) != 0; ++level) digest = node(subtrees_[level], digest);
    subtrees_[level] = digest;
    ++count_;
}

crypto::Digest GrowingTree::take_root() {
    const std::size_t count = std::exchange(count_, 0);
    if (count == 0) return hash_.finish();
    std::optional<crypto::Digest> root;
    for (std::size_t level = 0; count >> level != 0; ++level) {
        if ((count >> level & 1) == 0) continue;
        root = root ? node(subtrees_[level], *root) : subtrees_[level];
    }
    return *root;
}

}  // namespace underseer::event_log
