#include "event_log/writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "event_log/chain_text.h"

namespace underseer::event_log {

using SteadyTime = std::chrono::steady_clock::time_point;

class Writer::Core {
  public:
    Core(std::filesystem::path directory, WriterOptions options,
         const crypto::SigningKey* enrolment, Dependencies dependencies, std::unique_ptr<Lock> lock,
         Recovery recovery)
        : directory_(std::move(directory)),
          options_(std::move(options)),
          enrolment_(*enrolment),
          clock_(*dependencies.clock),
          files_(*dependencies.files),
          random_(*dependencies.random),
          lock_(std::move(lock)),
          recovery_(std::move(recovery)),
          segment_(recovery_.segment),
          epoch_(recovery_.epoch - 1),
          batch_(recovery_.batch),
          seq_(recovery_.seq),
          synced_seq_(recovery_.seq - 1),
          oldest_(recovery_.oldest),
          prev_(recovery_.prev) {
        pending_.reserve(options_.batch_bytes);
    }

    Result<void> begin();
    Result<Position> append(Bytes event);
    void note_dropped(std::string_view source, std::uint64_t count);
    Result<void> seal(bool closing);
    Result<void> seal_if_pending() {
        return tree_.size() > 0 || drops_changed_ ? seal(false) : Result<void>{};
    }
    Result<void> sync();
    Result<void> begin_epoch(std::string_view cause);
    Result<void> tick();
    Result<void> close();
    Result<void> remove_segments_before(std::uint64_t segment);
    Result<void> remove_given_up();

    // Runs a step of writing. The first that fails poisons the log.
    template <typename Step>
    auto guarded(Step step) -> decltype(step()) {
        if (poison_) return fail(refusal());
        auto done = step();
        if (!done) poison_ = done.error();
        return done;
    }

    std::optional<Error> poison_;
    std::uint64_t next_seq() const { return seq_ + tree_.size(); }
    std::uint64_t synced_seq() const { return synced_seq_; }
    std::uint64_t segment() const { return segment_; }
    const OpenedLog& opened() const { return recovery_.opened; }

  private:
    Error refusal() const;
    RecordStart start() const;
    bool is_due(SteadyTime since, std::chrono::milliseconds age) const {
        return clock_.monotonic() - since >= age;
    }
    Result<void> write_chain(const std::string& line);
    Result<void> new_segment();
    Result<void> sync_files();
    Result<void> write_head();

    const std::filesystem::path directory_;
    const WriterOptions options_;
    const crypto::SigningKey& enrolment_;
    const Clock& clock_;
    Files& files_;
    crypto::Random& random_;
    std::unique_ptr<Lock> lock_;
    Recovery recovery_;

    std::uint64_t segment_;
    std::uint64_t epoch_;
    std::uint64_t batch_;  // number of the next one
    std::uint64_t seq_;    // of the first event of the next batch
    std::uint64_t synced_seq_;
    std::uint64_t oldest_;
    crypto::Digest prev_;

    std::unique_ptr<File> chain_;
    std::unique_ptr<File> events_;
    std::unique_ptr<File> head_;
    std::uint64_t chain_end_ = 0;
    std::uint64_t events_end_ = 0;
    unsigned head_slot_ = 0;

    std::optional<crypto::SigningKey> epoch_key_;
    std::string epoch_key_id_;
    std::string epoch_line_;

    std::string pending_;  // events of the batch being gathered, each with its newline
    GrowingTree tree_;
    std::map<std::string, std::uint64_t, std::less<>> dropped_;
    bool drops_changed_ = false;
    bool unsynced_ = false;
    SteadyTime batch_begun_;
    SteadyTime last_sealed_;
    SteadyTime unsynced_since_;
    SteadyTime epoch_begun_;
};

// ---- opening ---------------------------------------------------------------------------------

Result<void> Writer::Core::begin() {
    const auto head_path = options_.head.empty() ? directory_ / kHeadName : options_.head;
    head_ = TRY(files_.open(head_path, OpenMode::create));
    TRY(files_.sync_directory(head_path.has_parent_path() ? head_path.parent_path() : "."));
    head_slot_ = recovery_.head_slot;
    if (recovery_.opened.fresh) {
        // Before the first segment: from now on a log without a head file has lost it. Signed
        // with a key that no record of the log will use.
        TRY(head_->truncate(0));
        epoch_key_ = TRY(crypto::SigningKey::generate(random_));
        const EpochText text{
            epoch_key_->public_key(), enrolment_.public_key(), 1, 1, "fresh", nullptr};
        epoch_line_ = TRY(signed_line("epoch", epoch_header(start(), text), enrolment_));
        TRY(write_head());
    } else if (TRY(head_->size()) > 2 * kHeadSlotBytes) {
        TRY(head_->truncate(2 * kHeadSlotBytes));
    }
    TRY(new_segment());
    TRY(begin_epoch("start"));
    TRY(sync());
    unsynced_ = true;  // the other slot too: one of them may never have reached the disk
    TRY(sync());
    return remove_given_up();  // a removal may have been interrupted
}

Result<void> Writer::Core::new_segment() {
    chain_ = TRY(files_.open(directory_ / chain_name(segment_), OpenMode::create_new));
    events_ = TRY(files_.open(directory_ / events_name(segment_), OpenMode::create_new));
    TRY(files_.sync_directory(directory_));
    chain_end_ = events_end_ = 0;
    return {};
}

Result<void> Writer::Core::begin_epoch(std::string_view cause) {
    // The old key goes before the new one signs: what it signed cannot be added to any more.
    epoch_key_.reset();
    epoch_key_ = TRY(crypto::SigningKey::generate(random_));
    epoch_key_id_ = crypto::key_id(epoch_key_->public_key());
    ++epoch_;
    const EpochText text{epoch_key_->public_key(),
                         enrolment_.public_key(),
                         seq_,
                         oldest_,
                         cause,
                         cause == "start" ? &recovery_ : nullptr};
    epoch_line_ = TRY(signed_line("epoch", epoch_header(start(), text), enrolment_));
    TRY(write_chain(epoch_line_));
    epoch_begun_ = last_sealed_ = clock_.monotonic();
    return {};
}

// ---- events ----------------------------------------------------------------------------------

Error Writer::Core::refusal() const {
    return Error{Code::unavailable, poison_->os_errno,
                 fmt::format("the log takes nothing more after a failure: {} (open it again)",
                             poison_->message)};
}

Result<Position> Writer::Core::append(Bytes event) {
    if (event.empty() ||
        event.size() > std::min(options_.batch_bytes - 1, limits::kMaxEventBytes)) {
        return fail(Code::invalid_argument,
                    fmt::format("an event of {} bytes; 1 to {} can be logged", event.size(),
                                std::min(options_.batch_bytes - 1, limits::kMaxEventBytes)));
    }
    if (std::memchr(event.data(), '\n', event.size()) != nullptr) {
        return fail(Code::invalid_argument, "an event with a newline: one line is one event");
    }
    if (poison_) return fail(refusal());
    if (pending_.size() + event.size() + 1 > options_.batch_bytes) {
        TRY(guarded([&] { return seal(false); }));
    }
    if (tree_.size() == 0) batch_begun_ = clock_.monotonic();
    tree_.add(event);
    pending_ += as_text(event);
    pending_ += '\n';
    const Position position{next_seq() - 1};
    if (tree_.size() >= options_.batch_events) TRY(guarded([&] { return seal(false); }));
    return position;
}

void Writer::Core::note_dropped(std::string_view source, std::uint64_t count) {
    source = source.substr(0, limits::kMaxDropSourceBytes);
    auto found = dropped_.find(source);
    if (found == dropped_.end()) {
        const bool room = dropped_.size() + 1 < limits::kMaxDropSources;
        found = dropped_.try_emplace(room ? std::string(source) : "other sources", 0).first;
    }
    found->second += count;
    drops_changed_ = drops_changed_ || count > 0;
}

RecordStart Writer::Core::start() const {
    return {options_.agent, options_.log, options_.boot_id, epoch_, batch_, segment_,
            events_end_,    prev_,        clock_.wall()};
}

Result<void> Writer::Core::write_chain(const std::string& line) {
    TRY(chain_->write_at(as_bytes(line + '\n'), chain_end_));
    chain_end_ += line.size() + 1;
    prev_ = crypto::sha256(as_bytes(line));
    if (!unsynced_) unsynced_since_ = clock_.monotonic();
    unsynced_ = true;
    return {};
}

Result<void> Writer::Core::seal(bool closing) {
    BatchText batch;
    batch.first_seq = seq_;
    batch.count = tree_.size();
    batch.bytes = pending_.size();
    batch.root = tree_.take_root();
    batch.key_id = epoch_key_id_;
    batch.closing = closing;
    batch.dropped = &dropped_;
    const std::string line = TRY(signed_line("batch", batch_header(start(), batch), *epoch_key_));
    // Events first: a reader that sees the record finds them.
    TRY(events_->write_at(as_bytes(pending_), events_end_));
    TRY(write_chain(line));
    events_end_ += pending_.size();
    seq_ += batch.count;
    ++batch_;
    pending_.clear();
    drops_changed_ = false;
    last_sealed_ = clock_.monotonic();
    if (closing || std::max(events_end_, chain_end_) < options_.segment_bytes) return {};
    TRY(sync_files());
    ++segment_;
    TRY(new_segment());
    return begin_epoch("segment");
}

// ---- durability ------------------------------------------------------------------------------

Result<void> Writer::Core::sync() {
    TRY(seal_if_pending());
    return sync_files();
}

Result<void> Writer::Core::sync_files() {
    if (!unsynced_) return {};
    TRY(events_->sync());
    TRY(chain_->sync());
    TRY(write_head());
    unsynced_ = false;
    synced_seq_ = seq_ - 1;
    return {};
}

// The head promises what is on the disk: it is written after that is so.
Result<void> Writer::Core::write_head() {
    RecordStart at = start();
    at.batch = batch_ - 1;
    const HeadText text{seq_ - 1, chain_end_, events_end_, prev_};
    const std::string line = TRY(signed_line("head", head_header(at, text), *epoch_key_));
    std::string slot = epoch_line_ + '\n' + line + '\n';
    CHECK(slot.size() < kHeadSlotBytes);
    slot.resize(kHeadSlotBytes - 1, ' ');
    slot += '\n';
    TRY(head_->write_at(as_bytes(slot), head_slot_ * kHeadSlotBytes));
    TRY(head_->sync());
    head_slot_ ^= 1u;
    return {};
}

// ---- what is due -----------------------------------------------------------------------------

Result<void> Writer::Core::tick() {
    if (tree_.size() > 0 && is_due(batch_begun_, options_.batch_age)) TRY(seal(false));
    if (is_due(last_sealed_, options_.heartbeat)) TRY(seal(false));
    if (is_due(epoch_begun_, options_.epoch_age)) {
        TRY(seal_if_pending());
        TRY(begin_epoch("age"));
    }
    if (unsynced_ && is_due(unsynced_since_, options_.sync_age)) return sync_files();
    return {};
}

Result<void> Writer::Core::close() {
    TRY(seal(true));
    TRY(sync_files());
    poison_ = Error{Code::unavailable, 0, "it was closed"};
    lock_.reset();
    return {};
}

Result<void> Writer::Core::remove_segments_before(std::uint64_t segment) {
    segment = std::min(segment, segment_);
    if (segment <= oldest_) return {};
    TRY(seal_if_pending());
    oldest_ = segment;
    TRY(begin_epoch("prune"));
    TRY(sync_files());
    return remove_given_up();
}

Result<void> Writer::Core::remove_given_up() {
    for (const std::uint64_t number : TRY(list_segments(files_, directory_))) {
        if (number >= oldest_) break;
        for (const std::string& name : {chain_name(number), events_name(number)}) {
            auto removed = files_.remove(directory_ / name);
            if (!removed && removed.error().code != Code::not_found) return removed;
        }
    }
    return files_.sync_directory(directory_);
}

// ---- the public face -------------------------------------------------------------------------

Writer::Writer(std::unique_ptr<Core> core) : core_(std::move(core)) {}
Writer::Writer(Writer&&) noexcept = default;
Writer& Writer::operator=(Writer&&) noexcept = default;
Writer::~Writer() = default;

Result<Writer> Writer::open(const std::filesystem::path& directory, WriterOptions options,
                            const crypto::SigningKey* enrolment, Dependencies dependencies) {
    CHECK(enrolment != nullptr);
    constexpr std::size_t kMaxNameBytes = 128;
    for (const std::string* name : {&options.agent, &options.log, &options.boot_id}) {
        const auto printable = [](char c) { return c > ' ' && c <= '~' && c != '"' && c != '\\'; };
        if (name->empty() || name->size() > kMaxNameBytes ||
            !std::all_of(name->begin(), name->end(), printable)) {
            return fail(Code::invalid_argument,
                        fmt::format("a log needs the names of agent, log and boot, each of 1 to {} "
                                    "printable ASCII characters without space, quote or backslash",
                                    kMaxNameBytes));
        }
    }
    options.batch_events =
        std::clamp<std::size_t>(options.batch_events, 1, limits::kMaxBatchEvents);
    options.batch_bytes = std::clamp<std::size_t>(options.batch_bytes, 2, limits::kMaxBatchBytes);
    Files& files = *dependencies.files;
    const std::string doing = "opening the log in " + directory.string();
    TRY(files.make_directory(directory).context(doing));
    TRY(files.sync_directory(directory.has_parent_path() ? directory.parent_path() : ".")
            .context(doing));
    auto lock = TRY(files.lock(directory / kLockName).context(doing));
    const auto head = options.head.empty() ? directory / kHeadName : options.head;
    Recovery recovery =
        TRY(recover(directory, head, options, enrolment->public_key(), files).context(doing));
    Writer writer(std::make_unique<Core>(directory, std::move(options), enrolment, dependencies,
                                         std::move(lock), std::move(recovery)));
    TRY(writer.core_->begin().context(doing));
    return writer;
}

Result<Position> Writer::append(Bytes event) {
    return core_->append(event);
}
void Writer::note_dropped(std::string_view source, std::uint64_t count) {
    core_->note_dropped(source, count);
}
Result<void> Writer::seal_batch() {
    return core_->guarded([&] { return core_->seal_if_pending(); });
}
Result<void> Writer::sync() {
    return core_->guarded([&] { return core_->sync(); });
}
Result<void> Writer::rotate_epoch() {
    return core_->guarded([&]() -> Result<void> {
        TRY(core_->seal_if_pending());
        return core_->begin_epoch("request");
    });
}
Result<void> Writer::tick() {
    return core_->guarded([&] { return core_->tick(); });
}
Result<void> Writer::close() {
    return core_->guarded([&] { return core_->close(); });
}
Result<void> Writer::remove_segments_before(std::uint64_t segment) {
    return core_->guarded([&] { return core_->remove_segments_before(segment); });
}
const std::optional<Error>& Writer::poison() const {
    return core_->poison_;
}
std::uint64_t Writer::next_seq() const {
    return core_->next_seq();
}
std::uint64_t Writer::synced_seq() const {
    return core_->synced_seq();
}
std::uint64_t Writer::segment() const {
    return core_->segment();
}
const OpenedLog& Writer::opened() const {
    return core_->opened();
}

}  // namespace underseer::event_log
