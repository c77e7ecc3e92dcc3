#include "event_log/chain_line.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "base/limits.h"
#include "json/value.h"

namespace underseer::event_log {
namespace {

constexpr std::size_t kSignatureDigits = 128;
// A space, a quote, the digits, a quote.
constexpr std::size_t kSignatureText = kSignatureDigits + 3;

template <std::size_t Size>
Result<std::array<std::byte, Size>> bytes_of(const json::Value& object, std::string_view key) {
    std::array<std::byte, Size> bytes;
    const json::Value member = TRY(object.at(key));
    TRY(crypto::parse_hex(TRY(member.as_string()), bytes).context(member.path()));
    return bytes;
}

Result<std::uint64_t> number_of(const json::Value& object, std::string_view key) {
    return TRY(object.at(key)).as_uint();
}

Result<std::string> text_of(const json::Value& object, std::string_view key) {
    return TRY(object.at(key)).as_string();
}

Result<EpochLine> parse_epoch(const json::Value& header) {
    EpochLine epoch;
    epoch.key = TRY((bytes_of<32>(header, "key")));
    epoch.enrolment = TRY((bytes_of<32>(header, "enrolment")));
    epoch.seq = TRY(number_of(header, "seq"));
    epoch.oldest = TRY(number_of(header, "oldest"));
    epoch.clean = TRY(TRY(header.at("clean")).as_bool());
    epoch.cause = TRY(text_of(header, "cause"));
    if (const auto found = header.find("found")) epoch.found = TRY(found->as_string());
    epoch.has_lost = header.find("lost").has_value();
    if (const auto torn = header.find("torn")) {
        epoch.torn_bytes =
            TRY(number_of(*torn, "chain_bytes")) + TRY(number_of(*torn, "event_bytes"));
    }
    return epoch;
}

Result<BatchLine> parse_batch(const json::Value& header) {
    BatchLine batch;
    batch.first_seq = TRY(number_of(header, "first_seq"));
    batch.last_seq = TRY(number_of(header, "last_seq"));
    batch.count = TRY(number_of(header, "n"));
    batch.bytes = TRY(number_of(header, "bytes"));
    batch.root = TRY((bytes_of<32>(header, "root")));
    batch.key = TRY(text_of(header, "key"));
    batch.closing = header.find("closing").has_value();
    for (const auto& [source, count] : TRY(TRY(header.at("dropped")).members())) {
        batch.dropped[source] = TRY(count.as_uint());
    }
    if (batch.count > limits::kMaxBatchEvents || batch.bytes > limits::kMaxBatchBytes) {
        return fail(Code::limit, fmt::format("a batch of {} events and {} bytes is over the limit",
                                             batch.count, batch.bytes));
    }
    return batch;
}

Result<HeadLine> parse_head(const json::Value& header) {
    HeadLine head;
    head.seq = TRY(number_of(header, "seq"));
    head.chain_end = TRY(number_of(header, "chain_end"));
    head.events_end = TRY(number_of(header, "events_end"));
    head.hash = TRY((bytes_of<32>(header, "hash")));
    return head;
}

Result<void> parse_header(const json::Value& header, ChainLine& line) {
    const std::string kind = TRY(text_of(header, "kind"));
    line.version = TRY(number_of(header, "ver"));
    line.agent = TRY(text_of(header, "agent"));
    line.log = TRY(text_of(header, "log"));
    line.epoch = TRY(number_of(header, "epoch"));
    line.batch = TRY(number_of(header, "batch"));
    line.segment = TRY(number_of(header, "segment"));
    line.time = TRY(text_of(header, "time"));
    if (kind == "head") {
        line.body = TRY(parse_head(header));
        return {};
    }
    line.offset = TRY(number_of(header, "offset"));
    line.prev = TRY((bytes_of<32>(header, "prev")));
    if (kind == "epoch") {
        line.body = TRY(parse_epoch(header));
    } else if (kind == "batch") {
        line.body = TRY(parse_batch(header));
    } else {
        return fail(Code::unsupported, "a record of a kind that this version does not know");
    }
    return {};
}

std::optional<std::uint64_t> segment_of(std::string_view name) {
    if (name.size() < 8) return std::nullopt;
    const std::string_view digits = name.substr(0, 8);
    const std::string_view extension = name.substr(8);
    if (extension != ".chain" && extension != ".jsonl") return std::nullopt;
    std::uint64_t number = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
    if (error != std::errc() || end != digits.data() + digits.size() || number == 0) {
        return std::nullopt;
    }
    return number;
}

}  // namespace

bool ChainLine::is_signed_by(const crypto::PublicKey& key) const {
    using namespace std::string_view_literals;
    std::string message(as_epoch()   ? "underseer-epoch-v1\0"sv
                        : as_batch() ? "underseer-batch-v1\0"sv
                                     : "underseer-head-v1\0"sv);
    message += header;
    return crypto::is_signed_by(key, as_bytes(message), signature);
}

Result<ChainLine> parse_chain_line(std::string_view text) {
    if (text.size() <= kSignatureText || text.size() > limits::kMaxChainLineBytes) {
        return fail(Code::malformed, "no record: wrong length");
    }
    ChainLine line;
    line.header = text.substr(0, text.size() - kSignatureText);
    const std::string_view signature = text.substr(line.header.size());
    if (!signature.starts_with(" \"") || !signature.ends_with('"')) {
        return fail(Code::malformed, "no record: it does not end in a signature");
    }
    TRY(crypto::parse_hex(signature.substr(2, kSignatureDigits), line.signature)
            .context("signature"));
    line.hash = crypto::sha256(as_bytes(text));
    const json::Value header = TRY(json::Value::parse(line.header, {.depth = 4}));
    TRY(parse_header(header, line));
    return line;
}

std::string chain_name(std::uint64_t segment) {
    return fmt::format("{:08}.chain", segment);
}

std::string events_name(std::uint64_t segment) {
    return fmt::format("{:08}.jsonl", segment);
}

Result<std::vector<std::uint64_t>> list_segments(Files& files,
                                                 const std::filesystem::path& directory) {
    std::vector<std::uint64_t> segments;
    for (const std::string& name : TRY(files.list(directory))) {
        if (const auto number = segment_of(name)) segments.push_back(*number);
    }
    std::sort(segments.begin(), segments.end());
    segments.erase(std::unique(segments.begin(), segments.end()), segments.end());
    return segments;
}

Result<std::optional<LineReader::Line>> LineReader::next() {
    constexpr std::size_t kChunk = 64u << 10;
    for (;;) {
        const std::string_view rest = std::string_view(buffer_).substr(used_);
        const std::size_t newline = rest.find('\n');
        if (newline != std::string_view::npos && newline <= limits::kMaxChainLineBytes) {
            Line line{rest.substr(0, newline), next_, true, false};
            used_ += newline + 1;
            next_ += newline + 1;
            return line;
        }
        if (rest.size() > limits::kMaxChainLineBytes) {
            return Line{rest.substr(0, limits::kMaxChainLineBytes), next_, false, true};
        }
        buffer_.erase(0, used_);
        used_ = 0;
        const std::size_t kept = buffer_.size();
        buffer_.resize(kept + kChunk);
        const auto got = file_->read_at(
            {reinterpret_cast<std::byte*>(buffer_.data()) + kept, kChunk}, next_ + kept);
        buffer_.resize(kept + (got ? *got : 0));
        if (!got) return fail(got.error());
        if (*got > 0) continue;
        if (buffer_.empty()) return std::nullopt;
        return Line{std::string_view(buffer_), next_, false, false};
    }
}

}  // namespace underseer::event_log
