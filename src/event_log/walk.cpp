#include "event_log/walk.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "base/limits.h"

namespace underseer::event_log {
namespace {

// RFC 6962, section 2.1, straight from its definition. The lists are at most 1024 long, so the
// recursion is at most 11 deep.
crypto::Digest merkle_root(std::span<const crypto::Digest> leaves, crypto::Sha256& hash) {
    if (leaves.empty()) return hash.finish();
    if (leaves.size() == 1) return leaves[0];
    std::size_t left = 1;
    while (left * 2 < leaves.size()) left *= 2;
    const crypto::Digest a = merkle_root(leaves.first(left), hash);
    const crypto::Digest b = merkle_root(leaves.subspan(left), hash);
    constexpr std::byte kNode{1};
    hash.update({&kNode, 1});
    hash.update(a);
    hash.update(b);
    return hash.finish();
}

crypto::Digest merkle_root_of_lines(std::string_view lines, std::uint64_t& count) {
    crypto::Sha256 hash;
    std::vector<crypto::Digest> leaves;
    while (!lines.empty()) {
        const std::size_t newline = lines.find('\n');
        constexpr std::byte kLeaf{0};
        hash.update({&kLeaf, 1});
        hash.update(as_bytes(lines.substr(0, newline)));
        leaves.push_back(hash.finish());
        if (newline == std::string_view::npos) break;
        lines.remove_prefix(newline + 1);
    }
    count = leaves.size();
    return merkle_root(leaves, hash);
}

class Walker {
  public:
    Walker(const std::filesystem::path& directory, const crypto::PublicKey& enrolment,
           const VerifyOptions& options, Files& files)
        : directory_(directory), enrolment_(enrolment), options_(options), files_(files) {}

    Walk walk(InUse in_use);

  private:
    enum class Then : std::uint8_t { go_on, leave_segment };

    void look_at_head();
    void walk_segment(std::uint64_t segment);
    Then take_line(const LineReader::Line& line);
    Then take_unterminated(const LineReader::Line& line);
    Then take_epoch(const ChainLine& line);
    std::optional<bool> epoch_connects(const ChainLine& line, const EpochLine& epoch);
    Then take_batch(const ChainLine& line);
    Then check_identity(const ChainLine& line);
    Then check_events(const ChainLine& line, const BatchLine& batch);
    void accept(const ChainLine& line, std::uint64_t seq, std::uint64_t events_end);
    void settle_loose(bool records_missing);
    void end_segment();
    void compare_with_head();
    void compare_with_oldest();
    std::uint64_t find_oldest(const std::vector<std::uint64_t>& segments);

    void problem(LogState state, std::string file, std::uint64_t line, std::uint64_t offset,
                 std::string what);
    // A record that is not as it must be: damage behind the last synced record is what a crash
    // leaves, damage before it is not.
    Then bad_line(LogState state, std::string what);
    void misplaced_line(std::string what);
    bool behind_head() const {
        return head_.state == Head::State::valid &&
               (segment_ > head_.segment ||
                (segment_ == head_.segment && line_.offset >= head_.line.chain_end));
    }
    bool known() const { return end_.epoch != 0; }  // a genuine record has been seen

    const std::filesystem::path& directory_;
    const crypto::PublicKey& enrolment_;
    const VerifyOptions& options_;
    Files& files_;

    VerifyReport report_;
    LogEnd end_;
    Head head_;
    bool passed_head_ = false;
    bool foreign_ = false;  // inside records of another enrolment key
    bool foreign_seen_ = false;
    bool ours_seen_ = false;
    bool resync_ = false;  // after a bad record the next genuine one need not connect
    std::optional<crypto::PublicKey> epoch_key_;
    std::map<std::uint64_t, crypto::PublicKey> keys_;   // of all epochs seen
    std::map<std::string, std::uint64_t> run_dropped_;  // of the run being walked

    std::uint64_t segment_ = 0;
    std::uint64_t newest_ = 0;
    std::uint64_t first_genuine_ = 0;      // segment of the first genuine record
    std::uint64_t segment_first_seq_ = 0;  // of its first event, for line numbers
    std::unique_ptr<File> events_;
    std::uint64_t events_size_ = 0;
    // Bytes behind the last record of a segment that is not the newest. Part of a gap when records
    // are missing before the next segment; otherwise somebody appended them.
    std::vector<BadRecord> loose_;
    LineReader::Line line_;  // being looked at
    std::uint64_t line_number_ = 0;
};

void Walker::problem(LogState state, std::string file, std::uint64_t line, std::uint64_t offset,
                     std::string what) {
    report_.state = std::max(report_.state, state);
    if (state == LogState::cannot_verify) end_.blocked = true;
    if (!report_.first_bad) {
        report_.first_bad = {std::move(file), line, offset, end_.seq + 1, std::move(what)};
    }
}

Walker::Then Walker::bad_line(LogState state, std::string what) {
    const bool crash = behind_head() && state != LogState::cannot_verify && !end_.clean;
    problem(crash ? LogState::torn_tail : state, chain_name(segment_), line_number_, line_.offset,
            std::move(what));
    if (crash) return Then::leave_segment;
    if (state == LogState::tampered && segment_ == newest_) end_.segment_tampered = true;
    resync_ = true;
    return Then::go_on;
}

// A genuine record in a place where it must not be: no crash does that.
void Walker::misplaced_line(std::string what) {
    problem(LogState::tampered, chain_name(segment_), line_number_, line_.offset, std::move(what));
    if (segment_ == newest_) end_.segment_tampered = true;
    resync_ = true;
}

// ---- one record ------------------------------------------------------------------------------

Walker::Then Walker::take_line(const LineReader::Line& line) {
    line_ = line;
    ++line_number_;
    if (line.overlong) {
        bad_line(LogState::tampered,
                 "a line longer than any record; the rest of the file is not "
                 "looked at");
        return Then::leave_segment;
    }
    if (!line.terminated) return take_unterminated(line);
    const auto parsed = parse_chain_line(line.text);
    if (!parsed) {
        return foreign_ ? Then::go_on : bad_line(LogState::tampered, parsed.error().message);
    }
    return parsed->as_epoch()   ? take_epoch(*parsed)
           : parsed->as_batch() ? take_batch(*parsed)
                                : bad_line(LogState::tampered, "a head record in a chain file");
}

Walker::Then Walker::take_unterminated(const LineReader::Line& line) {
    if (foreign_) return Then::leave_segment;
    if (report_.being_written && segment_ == newest_ && behind_head()) {
        report_.notes.push_back("the last record is being written");
        return Then::leave_segment;
    }
    // A whole record followed by one byte that is no newline: that byte was changed.
    const auto whole = parse_chain_line(line.text.substr(0, line.text.size() - 1));
    if (whole && epoch_key_ && whole->is_signed_by(*epoch_key_)) {
        bad_line(LogState::tampered, "the newline behind this record was changed");
        return Then::leave_segment;
    }
    const char* const what = "the file ends in the middle of a record";
    if (segment_ != newest_) {
        loose_.push_back({chain_name(segment_), line_number_, line.offset, 0, what});
    } else if (end_.clean) {
        bad_line(LogState::tampered, "bytes were appended after the log was closed");
    } else {
        bad_line(head_.state == Head::State::valid ? LogState::gap : LogState::torn_tail, what);
    }
    return Then::leave_segment;
}

Walker::Then Walker::check_identity(const ChainLine& line) {
    if (line.version != 1) {
        problem(LogState::cannot_verify, chain_name(segment_), line_number_, line_.offset,
                fmt::format("record of version {}; this program knows version 1", line.version));
        return Then::leave_segment;
    }
    const auto differs = [&](std::string_view what, const std::string& is,
                             const std::string& must) {
        misplaced_line(
            fmt::format("this record belongs to {} \"{}\", the log to \"{}\"", what, is, must));
    };
    if (report_.agent.empty() && report_.log.empty()) {
        report_.agent = options_.agent.value_or(line.agent);
        report_.log = options_.log.value_or(line.log);
    }
    if (line.agent != report_.agent) {
        differs("agent", line.agent, report_.agent);
        return Then::leave_segment;
    }
    if (line.log != report_.log) {
        differs("log", line.log, report_.log);
        return Then::leave_segment;
    }
    if (line.segment != segment_) {
        misplaced_line(fmt::format("this record belongs to segment {}", line.segment));
        return Then::leave_segment;
    }
    return Then::go_on;
}

// Whether a genuine epoch record follows upon what was seen last. False: records are missing
// (reported). Nothing: it must not stand here (reported).
std::optional<bool> Walker::epoch_connects(const ChainLine& line, const EpochLine& epoch) {
    const auto gap = [&](std::string what) {
        problem(LogState::gap, chain_name(segment_), line_number_, line_.offset, std::move(what));
        return false;
    };
    const std::string_view noticed =
        epoch.has_lost ? "; the agent noticed it when it opened the log" : "";
    if (resync_ || !known()) {
        if (epoch.has_lost || (!known() && !resync_ && segment_ == 1 && epoch.seq > 1)) {
            return gap(fmt::format("records before batch {} (event {}) are missing{}", line.batch,
                                   epoch.seq, noticed));
        }
        return !resync_;
    }
    if (line.epoch <= end_.epoch || line.batch <= end_.batch || epoch.seq <= end_.seq) {
        misplaced_line("a record from earlier in the log, replayed");
        return std::nullopt;
    }
    if (line.epoch > end_.epoch + 1 || line.batch > end_.batch + 1 || epoch.seq > end_.seq + 1 ||
        epoch.has_lost) {
        return gap(fmt::format("batches {} to {} (events {} to {}) are missing{}", end_.batch + 1,
                               line.batch - 1, end_.seq + 1, epoch.seq - 1, noticed));
    }
    if (line.prev != end_.hash || line.offset != end_.events_end) {
        misplaced_line("this record does not continue the one before");
        return std::nullopt;
    }
    return true;
}

Walker::Then Walker::take_epoch(const ChainLine& line) {
    const EpochLine& epoch = *line.as_epoch();
    if (epoch.enrolment != enrolment_) {
        if (!line.is_signed_by(epoch.enrolment)) {
            return bad_line(LogState::tampered, "an epoch record that no enrolment key has signed");
        }
        foreign_ = foreign_seen_ = true;
        if (ours_seen_) {
            misplaced_line("from here on the records are another agent's: enrolment key " +
                           crypto::key_id(epoch.enrolment));
        }
        epoch_key_.reset();
        return Then::go_on;
    }
    if (!line.is_signed_by(enrolment_)) {
        return bad_line(LogState::tampered, "the enrolment key did not sign this epoch record");
    }
    foreign_ = false;
    ours_seen_ = true;
    if (check_identity(line) == Then::leave_segment) return Then::leave_segment;
    const std::optional<bool> connects = epoch_connects(line, epoch);
    if (!connects) return Then::go_on;
    settle_loose(!*connects || !known());
    if (!epoch.found.empty()) {
        problem(LogState::gap, chain_name(segment_), line_number_, line_.offset,
                "when the agent opened the log here it found: " + epoch.found);
    }
    if (epoch.cause == "start") {
        for (const auto& [source, count] : run_dropped_) report_.dropped[source] += count;
        run_dropped_.clear();
        if (!epoch.clean && known()) {
            ++report_.unclean_ends;
            report_.notes.push_back(fmt::format(
                "segment {}: the run before did not close the log; {} torn bytes were set aside, "
                "and events that had not been synced may be missing before event {}",
                segment_, epoch.torn_bytes, epoch.seq));
        }
    }
    if (!epoch_key_) segment_first_seq_ = epoch.seq;
    epoch_key_ = keys_[line.epoch] = epoch.key;
    end_.oldest = epoch.oldest;
    ++report_.epochs;
    accept(line, epoch.seq - 1, line.offset);
    end_.batch = line.batch - 1;
    return Then::go_on;
}

Walker::Then Walker::take_batch(const ChainLine& line) {
    if (foreign_) return Then::go_on;
    const BatchLine& batch = *line.as_batch();
    const auto its_key = keys_.find(line.epoch);
    if (its_key != keys_.end() && (line.epoch != end_.epoch || !epoch_key_) &&
        line.is_signed_by(its_key->second)) {
        misplaced_line(fmt::format("a record of epoch {} outside it, replayed", line.epoch));
        return Then::go_on;
    }
    if (!epoch_key_ || line.epoch != end_.epoch || !line.is_signed_by(*epoch_key_)) {
        return bad_line(LogState::tampered,
                        fmt::format("the key of its epoch did not sign this record (it says epoch "
                                    "{}, batch {})",
                                    line.epoch, line.batch));
    }
    if (check_identity(line) == Then::leave_segment) return Then::leave_segment;
    if (batch.key != crypto::key_id(*epoch_key_) ||
        batch.last_seq + 1 != batch.first_seq + batch.count) {
        return bad_line(LogState::tampered, "a signed record that contradicts itself");
    }
    if (!resync_) {
        if (line.batch <= end_.batch) {
            misplaced_line(fmt::format("batch {} stands here again", line.batch));
            return Then::go_on;
        }
        if (line.batch > end_.batch + 1) {
            problem(LogState::gap, chain_name(segment_), line_number_, line_.offset,
                    fmt::format("batches {} to {} (events {} to {}) are missing", end_.batch + 1,
                                line.batch - 1, end_.seq + 1, batch.first_seq - 1));
        } else if (line.prev != end_.hash || batch.first_seq != end_.seq + 1 ||
                   line.offset != end_.events_end) {
            misplaced_line("this record does not continue the one before");
            return Then::go_on;
        }
    }
    if (check_events(line, batch) == Then::leave_segment) return Then::leave_segment;
    if (report_.first_seq == 0 && batch.count > 0) report_.first_seq = batch.first_seq;
    if (batch.count > 0) report_.last_seq = batch.last_seq;
    report_.events += batch.count;
    ++report_.batches;
    run_dropped_ = batch.dropped;
    accept(line, batch.last_seq, line.offset + batch.bytes);
    end_.clean = batch.closing;
    return Then::go_on;
}

// A genuine record: the walk goes on from it.
void Walker::accept(const ChainLine& line, std::uint64_t seq, std::uint64_t events_end) {
    if (first_genuine_ == 0) first_genuine_ = segment_;
    end_.epoch = line.epoch;
    end_.batch = line.batch;
    end_.seq = seq;
    end_.hash = line.hash;
    end_.clean = false;
    end_.chain_end = line_.end();
    end_.events_end = events_end;
    resync_ = false;
    if (head_.state != Head::State::valid || segment_ != head_.segment) return;
    if (line_.end() == head_.line.chain_end) {
        passed_head_ = true;
        if (line.hash != head_.line.hash) {
            problem(LogState::tampered, chain_name(segment_), line_number_, line_.offset,
                    "the head file knows another record in this place");
        }
    }
}

// The events that a genuine record speaks of. Bad ones are reported; the record still counts, so
// that those behind it are judged on their own.
Walker::Then Walker::check_events(const ChainLine& line, const BatchLine& batch) {
    std::string bytes(batch.bytes, '\0');
    std::size_t got = 0;
    if (events_ && batch.bytes > 0) {
        const auto read = events_->read_at(
            {reinterpret_cast<std::byte*>(bytes.data()), bytes.size()}, line.offset);
        if (!read) {
            problem(LogState::cannot_verify, events_name(segment_), 0, line.offset,
                    read.error().to_text());
            return Then::go_on;
        }
        got = *read;
    }
    const bool crash = behind_head() && !end_.clean;
    const auto bad = [&](LogState state, std::string what) {
        problem(crash ? LogState::torn_tail : state, events_name(segment_),
                batch.first_seq - segment_first_seq_ + 1, line.offset,
                fmt::format("batch {} (events {} to {}): {}", line.batch, batch.first_seq,
                            batch.last_seq, what));
        if (!crash && state == LogState::tampered && segment_ == newest_) {
            end_.segment_tampered = true;
        }
        return crash ? Then::leave_segment : Then::go_on;
    };
    if (got < bytes.size()) return bad(LogState::gap, "the file ends before its last event");
    std::uint64_t count = 0;
    const crypto::Digest root = merkle_root_of_lines(bytes, count);
    if (count != batch.count || root != batch.root || (!bytes.empty() && bytes.back() != '\n')) {
        return bad(LogState::tampered, "its events are not those that were signed");
    }
    return Then::go_on;
}

// ---- segments --------------------------------------------------------------------------------

void Walker::settle_loose(bool records_missing) {
    const LogState state = records_missing ? LogState::gap : LogState::tampered;
    for (BadRecord& bytes : loose_) {
        problem(state, std::move(bytes.file), bytes.line, bytes.offset, std::move(bytes.what));
    }
    loose_.clear();
}

void Walker::walk_segment(std::uint64_t segment) {
    if (segment_ != 0 && segment != segment_ + 1) {
        problem(LogState::gap, chain_name(segment_ + 1), 0, 0,
                fmt::format("segments {} to {} are missing", segment_ + 1, segment - 1));
    }
    segment_ = segment;
    line_number_ = 0;
    line_ = {};
    foreign_ = false;
    epoch_key_.reset();  // each segment begins with its own
    end_.segment = segment;
    end_.chain_end = end_.events_end = 0;
    end_.clean = false;  // a run that closed the log has begun no other segment
    ++report_.segments;

    events_.reset();
    events_size_ = 0;
    auto events = files_.open(directory_ / events_name(segment), OpenMode::read);
    if (events) {
        events_ = std::move(*events);
        events_size_ = events_->size().value_or(0);
    } else if (events.error().code != Code::not_found) {
        problem(LogState::cannot_verify, events_name(segment), 0, 0, events.error().to_text());
    }
    const auto chain = files_.open(directory_ / chain_name(segment), OpenMode::read);
    if (!chain) {
        // Absent: end_segment() finds the events uncovered, the next segment the records missing.
        if (chain.error().code != Code::not_found) {
            problem(LogState::cannot_verify, chain_name(segment), 0, 0, chain.error().to_text());
        }
        end_segment();
        return;
    }
    LineReader reader(chain->get(), 0);
    for (;;) {
        const auto line = reader.next();
        if (!line) {
            problem(LogState::cannot_verify, chain_name(segment), line_number_ + 1, line_.end(),
                    line.error().to_text());
            break;
        }
        if (!*line) break;
        if (take_line(**line) == Then::leave_segment || !(*line)->terminated) break;
    }
    line_.text = {};
    end_segment();
}

void Walker::end_segment() {
    if (foreign_ || events_size_ <= end_.events_end) return;
    const std::uint64_t bytes = events_size_ - end_.events_end;
    if (segment_ != newest_) {
        loose_.push_back({events_name(segment_), 0, end_.events_end, 0,
                          fmt::format("{} bytes of events that no record covers", bytes)});
    } else if (report_.being_written) {
        report_.notes.push_back("events are being written");
    } else if (end_.clean) {
        end_.segment_tampered = true;
        problem(LogState::tampered, events_name(segment_), 0, end_.events_end,
                fmt::format("{} bytes were appended after the log was closed", bytes));
    } else {
        problem(LogState::torn_tail, events_name(segment_), 0, end_.events_end,
                fmt::format("{} bytes of events without a signed record", bytes));
    }
}

// ---- the log as a whole ----------------------------------------------------------------------

void Walker::look_at_head() {
    if (!options_.expect_head) return;
    const auto path = options_.head.empty() ? directory_ / kHeadName : options_.head;
    for (int attempt = 0; attempt < 3; ++attempt) {
        auto head = read_head(files_, path, enrolment_);
        if (!head) {
            problem(LogState::cannot_verify, path.filename().string(), 0, 0,
                    head.error().to_text());
            return;
        }
        head_ = std::move(*head);
        // A slot that is just being written looks damaged.
        if (!report_.being_written || !head_.one_slot_damaged) break;
    }
}

void Walker::compare_with_head() {
    if (!options_.expect_head || (foreign_seen_ && !ours_seen_)) return;
    if (head_.state == Head::State::absent) {
        problem(LogState::gap, std::string(kHeadName), 0, 0,
                "there is no head file: whether the newest records were cut off cannot be known");
        return;
    }
    if (head_.state == Head::State::damaged) {
        problem(LogState::tampered, std::string(kHeadName), 0, 0,
                "the head file holds no record that this agent signed");
        return;
    }
    if (head_.one_slot_damaged) {
        problem(LogState::torn_tail, std::string(kHeadName), 0, 0,
                "one of the two records of the head file is damaged");
    }
    if (!report_.agent.empty() && (head_.agent != report_.agent || head_.log != report_.log)) {
        problem(LogState::tampered, std::string(kHeadName), 0, 0,
                "the head file belongs to another log");
        return;
    }
    const bool nothing_was_synced = head_.line.chain_end == 0;
    if (passed_head_ || nothing_was_synced) return;
    const bool shorter = end_.segment < head_.segment ||
                         (end_.segment == head_.segment && end_.chain_end < head_.line.chain_end);
    end_.truncated = shorter && end_.batch <= head_.batch;
    problem(
        end_.truncated ? LogState::gap : LogState::tampered, chain_name(end_.segment),
        line_number_ + 1, end_.chain_end,
        end_.truncated
            ? fmt::format("the log ends at batch {} (event {}), but had been synced up to batch "
                          "{} (event {})",
                          end_.batch, end_.seq, head_.batch, head_.line.seq)
            : fmt::format("the head file knows a record of segment {} that is not there",
                          head_.segment));
}

void Walker::compare_with_oldest() {
    if (options_.first_segment == 0 && known() && first_genuine_ > end_.oldest) {
        problem(LogState::gap, chain_name(end_.oldest), 0, 0,
                fmt::format("the log begins with segment {}, but should with {}", first_genuine_,
                            end_.oldest));
    }
}

// The segment with which the log is meant to begin, as its newest certified record says. Looked up
// first: files from before may be half removed.
std::uint64_t Walker::find_oldest(const std::vector<std::uint64_t>& segments) {
    for (std::size_t i = segments.size(); i-- > 0;) {
        const auto chain = files_.open(directory_ / chain_name(segments[i]), OpenMode::read);
        if (!chain) continue;
        LineReader reader(chain->get(), 0);
        std::uint64_t oldest = 0;
        for (;;) {
            const auto line = reader.next();
            if (!line || !*line || !(*line)->terminated) break;
            if (!(*line)->text.starts_with("{\"kind\":\"epoch\"")) continue;
            const auto record = parse_chain_line((*line)->text);
            if (record && record->as_epoch() && record->segment == segments[i] &&
                record->is_signed_by(enrolment_)) {
                oldest = record->as_epoch()->oldest;
            }
        }
        if (oldest != 0) return oldest;
    }
    return 1;
}

Walk Walker::walk(InUse in_use) {
    report_.being_written =
        in_use == InUse::ask_the_lock && files_.is_locked(directory_ / kLockName);
    look_at_head();
    const auto segments = list_segments(files_, directory_);
    if (!segments || segments->empty()) {
        if (head_.state == Head::State::valid && head_.line.chain_end > 0) {
            end_.truncated = true;
            problem(LogState::gap, std::string(kHeadName), 0, 0,
                    fmt::format("all segments are missing; the log had been synced up to batch {} "
                                "(event {})",
                                head_.batch, head_.line.seq));
        } else {
            problem(LogState::cannot_verify, "", 0, 0,
                    segments ? fmt::format("no log in {}", directory_.string())
                             : segments.error().to_text());
            end_.blocked = !segments && segments.error().code != Code::not_found;
        }
        return {std::move(report_), std::move(end_), std::move(head_)};
    }
    newest_ = segments->back();
    const std::uint64_t oldest = find_oldest(*segments);
    if (segments->front() < oldest && options_.first_segment == 0) {
        problem(LogState::torn_tail, chain_name(segments->front()), 0, 0,
                fmt::format("the log begins with segment {}; files of earlier ones are left over "
                            "from their removal, or were put there",
                            oldest));
    }
    for (const std::uint64_t segment : *segments) {
        if (segment >= std::max(options_.first_segment, oldest)) walk_segment(segment);
    }
    settle_loose(report_.state >= LogState::gap);
    if (foreign_seen_ && !ours_seen_ && report_.state != LogState::tampered) {
        problem(LogState::cannot_verify, chain_name(segments->front()), 1, 0,
                "this log is signed under another enrolment key: the wrong key was given, or it is "
                "the log of another agent");
    } else if (foreign_seen_ && ours_seen_) {
        problem(LogState::tampered, chain_name(segments->front()), 1, 0,
                "parts of the log are signed under another enrolment key");
    }
    for (const auto& [source, count] : run_dropped_) report_.dropped[source] += count;
    compare_with_head();
    compare_with_oldest();
    if (!known() && report_.state == LogState::intact) {
        problem(LogState::cannot_verify, chain_name(newest_), 1, 0, "the log holds no record");
        end_.blocked = false;
    }
    return {std::move(report_), std::move(end_), std::move(head_)};
}

}  // namespace

Walk walk_log(const std::filesystem::path& directory, const crypto::PublicKey& enrolment,
              const VerifyOptions& options, Files& files, InUse in_use) {
    return Walker(directory, enrolment, options, files).walk(in_use);
}

}  // namespace underseer::event_log
