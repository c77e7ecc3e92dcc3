#include "event_log/reader.h"

#include <fmt/format.h>

#include "event_log/chain_line.h"

namespace underseer::event_log {

class Reader::Core {
  public:
    Core(std::filesystem::path directory, std::uint64_t from_seq, Files& files)
        : directory_(std::move(directory)), from_seq_(from_seq), files_(files) {}

    Result<void> find_start();
    Result<std::optional<Record>> next_record();
    Result<std::optional<LoggedEvent>> next();

  private:
    Result<std::optional<std::uint64_t>> segment_behind(std::uint64_t segment);
    Result<void> enter(std::uint64_t segment);
    Result<std::optional<LineReader::Line>> next_line();
    Result<Record> record_of(const LineReader::Line& line);

    const std::filesystem::path directory_;
    const std::uint64_t from_seq_;
    Files& files_;
    std::uint64_t segment_ = 0;
    std::unique_ptr<File> chain_;
    std::unique_ptr<File> events_;
    std::optional<LineReader> lines_;
    bool segment_spoilt_ = false;  // nothing more to be read from it

    Record batch_;  // whose events are being given
    std::size_t given_bytes_ = 0;
    std::uint64_t given_ = 0;
};

// The newest segment whose first record stands before the event that is wanted.
Result<void> Reader::Core::find_start() {
    const auto segments = TRY(list_segments(files_, directory_));
    for (std::size_t i = segments.size(); i-- > 0;) {
        const auto chain = files_.open(directory_ / chain_name(segments[i]), OpenMode::read);
        if (!chain) continue;
        LineReader lines(chain->get(), 0);
        const auto line = lines.next();
        if (!line || !*line || !(*line)->terminated) continue;
        const auto record = parse_chain_line((*line)->text);
        if (i > 0 && (!record || !record->as_epoch() || record->as_epoch()->seq > from_seq_)) {
            continue;
        }
        segment_ = segments[i] - 1;
        return {};
    }
    return {};
}

Result<std::optional<std::uint64_t>> Reader::Core::segment_behind(std::uint64_t segment) {
    for (const std::uint64_t number : TRY(list_segments(files_, directory_))) {
        if (number > segment) return number;
    }
    return std::nullopt;
}

Result<void> Reader::Core::enter(std::uint64_t segment) {
    auto chain = files_.open(directory_ / chain_name(segment), OpenMode::read);
    auto events = files_.open(directory_ / events_name(segment), OpenMode::read);
    segment_ = segment;
    segment_spoilt_ = false;
    lines_.reset();
    chain_ = chain ? std::move(*chain) : nullptr;
    events_ = events ? std::move(*events) : nullptr;
    if (!chain) return fail(chain.error());
    lines_.emplace(chain_.get(), 0);
    return {};
}

Result<std::optional<LineReader::Line>> Reader::Core::next_line() {
    std::optional<std::uint64_t> behind;
    for (;;) {
        if (lines_ && !segment_spoilt_) {
            const auto line = TRY(lines_->next());
            if (line && line->overlong) segment_spoilt_ = true;
            if (line && (line->terminated || line->overlong)) return line;
        }
        // A writer has finished a segment when it begins the next: one more look at this one,
        // since what was missing may have come before the next was there.
        if (behind) {
            TRY(enter(*behind));
            behind.reset();
            continue;
        }
        behind = TRY(segment_behind(segment_));
        if (!behind) return std::nullopt;
    }
}

Result<Record> Reader::Core::record_of(const LineReader::Line& line) {
    const auto parsed = TRY(parse_chain_line(line.text).context(
        fmt::format("{}, byte {}", chain_name(segment_), line.offset)));
    Record record;
    record.line = line.text;
    record.epoch = parsed.epoch;
    record.batch = parsed.batch;
    record.segment = segment_;
    record.time = parsed.time;
    if (const EpochLine* epoch = parsed.as_epoch()) {
        record.kind = Record::Kind::epoch;
        record.first_seq = epoch->seq;
        return record;
    }
    const BatchLine* batch = parsed.as_batch();
    if (batch == nullptr) return fail(Code::malformed, "a head record in a chain file");
    record.first_seq = batch->first_seq;
    record.count = batch->count;
    record.events.resize(batch->bytes);
    if (batch->bytes == 0) return record;
    const std::size_t got =
        events_ ? TRY(events_->read_at(
                      {reinterpret_cast<std::byte*>(record.events.data()), record.events.size()},
                      parsed.offset))
                : 0;
    if (got < record.events.size() || record.events.back() != '\n') {
        return fail(Code::malformed,
                    fmt::format("{} does not hold the events of batch {} at byte {} (run a "
                                "verification)",
                                events_name(segment_), record.batch, parsed.offset));
    }
    return record;
}

Result<std::optional<Record>> Reader::Core::next_record() {
    for (;;) {
        const auto line = TRY(next_line());
        if (!line) return std::nullopt;
        Record record = TRY(record_of(*line));
        if (record.first_seq + record.count <= from_seq_ && record.count > 0) continue;
        return record;
    }
}

Result<std::optional<LoggedEvent>> Reader::Core::next() {
    for (;;) {
        while (given_bytes_ < batch_.events.size()) {
            const std::string_view rest = std::string_view(batch_.events).substr(given_bytes_);
            const std::string_view bytes = rest.substr(0, rest.find('\n'));
            given_bytes_ += bytes.size() + 1;
            const std::uint64_t seq = batch_.first_seq + given_++;
            if (seq >= from_seq_) return LoggedEvent{seq, batch_.segment, bytes, batch_.time};
        }
        given_bytes_ = given_ = 0;
        batch_.events.clear();
        auto record = TRY(next_record());
        if (!record) return std::nullopt;
        batch_ = std::move(*record);
    }
}

Reader::Reader(std::unique_ptr<Core> core) : core_(std::move(core)) {}
Reader::Reader(Reader&&) noexcept = default;
Reader& Reader::operator=(Reader&&) noexcept = default;
Reader::~Reader() = default;

Result<Reader> Reader::open(const std::filesystem::path& directory, std::uint64_t from_seq,
                            Files& files) {
    auto core = std::make_unique<Core>(directory, from_seq, files);
    TRY(core->find_start().context("opening the log in " + directory.string()));
    return Reader(std::move(core));
}

Result<std::optional<Record>> Reader::next_record() {
    return core_->next_record();
}
Result<std::optional<LoggedEvent>> Reader::next() {
    return core_->next();
}

}  // namespace underseer::event_log
