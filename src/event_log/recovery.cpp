#include "event_log/recovery.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

namespace underseer::event_log {
namespace {

constexpr std::size_t kCopyBytes = 1u << 20;

// Calls `use` with the bytes of `file` from `begin` to `end`, piece by piece.
template <typename Use>
Result<void> for_pieces(File& file, std::uint64_t begin, std::uint64_t end, Use use) {
    std::vector<std::byte> buffer(std::min<std::uint64_t>(kCopyBytes, end - begin));
    while (begin < end) {
        const std::size_t wanted = std::min<std::uint64_t>(buffer.size(), end - begin);
        const std::size_t got = TRY(file.read_at(MutableBytes(buffer).first(wanted), begin));
        if (got == 0) return fail(Code::unavailable, "a log file shrank while it was being read");
        TRY(use(Bytes(buffer).first(got), begin));
        begin += got;
    }
    return {};
}

class Recoverer {
  public:
    Recoverer(const std::filesystem::path& directory, Files& files)
        : directory_(directory), files_(files) {}

    // The bytes of one file of the newest segment behind `keep` go to a file of their own.
    Result<std::uint64_t> set_aside(const std::string& name, std::uint64_t keep, OpenedLog& opened);
    // A sync that failed may have left bytes that can be read and never reach the disk: they are
    // written once more, from what is known to be synced.
    Result<void> write_again(const std::string& name, std::uint64_t begin, std::uint64_t end);
    Result<void> remove_if_there(const std::string& name);

  private:
    Result<std::pair<std::string, std::unique_ptr<File>>> new_torn_file(const std::string& name);

    const std::filesystem::path& directory_;
    Files& files_;
};

Result<std::pair<std::string, std::unique_ptr<File>>> Recoverer::new_torn_file(
    const std::string& name) {
    constexpr int kMaxTornFiles = 1000;  // of one segment number; each took a crash
    for (int number = 1; number <= kMaxTornFiles; ++number) {
        const std::string torn =
            number == 1 ? name + ".torn" : fmt::format("{}.torn.{}", name, number);
        auto file = files_.open(directory_ / torn, OpenMode::create_new);
        if (file) return std::pair(torn, std::move(*file));
        if (file.error().os_errno != EEXIST) return fail(file.error());
    }
    return fail(Code::limit, fmt::format("there are {} torn tails of {} already; move them away",
                                         kMaxTornFiles, name));
}

Result<std::uint64_t> Recoverer::set_aside(const std::string& name, std::uint64_t keep,
                                           OpenedLog& opened) {
    auto file = files_.open(directory_ / name, OpenMode::write);
    if (!file && file.error().code == Code::not_found) return 0;
    if (!file) return fail(file.error());
    const std::uint64_t size = TRY((*file)->size());
    if (size <= keep) return 0;
    auto [torn_name, torn] = TRY(new_torn_file(name));
    TRY(for_pieces(**file, keep, size, [&](Bytes bytes, std::uint64_t offset) {
        return torn->write_at(bytes, offset - keep);
    }));
    TRY(torn->sync());
    TRY(files_.sync_directory(directory_));
    TRY((*file)->truncate(keep));
    TRY((*file)->sync());
    opened.torn_bytes += size - keep;
    opened.torn_files.push_back(torn_name);
    return size - keep;
}

Result<void> Recoverer::write_again(const std::string& name, std::uint64_t begin,
                                    std::uint64_t end) {
    auto file = TRY(files_.open(directory_ / name, OpenMode::write));
    if (begin < end) {
        TRY(for_pieces(*file, begin, end, [&](Bytes bytes, std::uint64_t offset) {
            return file->write_at(bytes, offset);
        }));
    }
    return file->sync();
}

Result<void> Recoverer::remove_if_there(const std::string& name) {
    auto removed = files_.remove(directory_ / name);
    if (!removed && removed.error().code == Code::not_found) return {};
    return removed;
}

std::string what_was_found(const Walk& walk) {
    if (walk.head.state == Head::State::absent) return "the head file was missing";
    if (walk.head.state == Head::State::damaged) return "the head file was damaged";
    if (walk.report.state != LogState::tampered || !walk.report.first_bad) return "";
    const BadRecord& bad = *walk.report.first_bad;
    constexpr std::size_t kMaxFoundBytes = 256;  // the head file repeats it in a slot of 4 KiB
    return fmt::format("tampering in {}, line {}, byte {}: {}", bad.file, bad.line, bad.offset,
                       bad.what)
        .substr(0, kMaxFoundBytes);
}

Result<void> repair_newest_segment(Recoverer& recoverer, const Walk& walk, Recovery& recovery) {
    const LogEnd& end = walk.end;
    const std::string chain = chain_name(end.segment);
    const std::string events = events_name(end.segment);
    // Chain first: without its record an event is torn, never the other way round.
    recovery.torn_chain_bytes = TRY(recoverer.set_aside(chain, end.chain_end, recovery.opened));
    recovery.torn_event_bytes = TRY(recoverer.set_aside(events, end.events_end, recovery.opened));
    if (end.chain_end == 0) {  // nothing genuine in it: the next segment takes its number
        TRY(recoverer.remove_if_there(chain));
        TRY(recoverer.remove_if_there(events));
        recovery.segment = end.segment;
        return {};
    }
    const bool head_is_here =
        walk.head.state == Head::State::valid && walk.head.segment == end.segment;
    TRY(recoverer.write_again(chain, head_is_here ? walk.head.line.chain_end : 0, end.chain_end));
    if (end.events_end > 0) {
        TRY(recoverer.write_again(events, head_is_here ? walk.head.line.events_end : 0,
                                  end.events_end));
    }
    return {};
}

}  // namespace

Result<Recovery> recover(const std::filesystem::path& directory,
                         const std::filesystem::path& head_path, const WriterOptions& options,
                         const crypto::PublicKey& enrolment, Files& files) {
    const auto segments = TRY(list_segments(files, directory));
    VerifyOptions verify;
    verify.head = head_path;
    verify.agent = options.agent;
    verify.log = options.log;
    // The newest may hold nothing: the one before then says where the log ends.
    // And the head file may be older than that, when runs died before they could write it.
    if (segments.size() > 1) {
        verify.first_segment = segments[segments.size() - 2];
        const Head head = TRY(read_head(files, head_path, enrolment));
        if (head.state == Head::State::valid) {
            verify.first_segment = std::min(verify.first_segment, head.segment);
        }
    }
    const Walk walk = walk_log(directory, enrolment, verify, files, InUse::by_nobody);
    const LogEnd& end = walk.end;
    if (end.blocked) {
        return fail(Code::unavailable,
                    fmt::format("the log in {} cannot be continued: {} (move the directory away to "
                                "begin a new one)",
                                directory.string(), walk.report.first_bad->what));
    }
    Recovery recovery;
    recovery.opened.fresh = segments.empty() && !end.truncated;
    recovery.opened.clean = recovery.opened.fresh || end.clean;
    if (recovery.opened.fresh) return recovery;

    recovery.segment = end.segment + 1;
    recovery.epoch = end.epoch + 1;
    recovery.batch = end.batch + 1;
    recovery.seq = end.seq + 1;
    recovery.prev = end.hash;
    recovery.oldest = end.oldest;
    recovery.head_slot = walk.head.state == Head::State::valid ? 1 - walk.head.slot : 0;
    recovery.opened.found = what_was_found(walk);
    if (!segments.empty() && !end.segment_tampered) {
        Recoverer recoverer(directory, files);
        TRY(repair_newest_segment(recoverer, walk, recovery)
                .context("setting a torn tail of the log aside"));
    }
    if (end.truncated) {
        recovery.segment = std::max(recovery.segment, walk.head.segment + 1);
        recovery.epoch = std::max(recovery.epoch, walk.head.epoch + 1);
        recovery.lost_batch_first = end.batch + 1;
        recovery.lost_batch_last = walk.head.batch;
        recovery.lost_seq_first = end.seq + 1;
        recovery.lost_seq_last = walk.head.line.seq;
        recovery.batch = std::max(recovery.batch, walk.head.batch + 1);
        recovery.seq = std::max(recovery.seq, walk.head.line.seq + 1);
        recovery.opened.lost_batches = walk.head.batch - end.batch;
        recovery.opened.lost_events =
            walk.head.line.seq > end.seq ? walk.head.line.seq - end.seq : 0;
    }
    recovery.opened.next_seq = recovery.seq;
    TRY(files.sync_directory(directory));
    return recovery;
}

}  // namespace underseer::event_log
