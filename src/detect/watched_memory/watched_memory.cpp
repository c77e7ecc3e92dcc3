#include "detect/watched_memory/watched_memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "detect/code_report.h"
#include "detect/helper_programs/helper_programs.h"
#include "detect/moment_text.h"

namespace underseer::detect {

namespace {

using guest_linux::WatchedPlace;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::system_clock;
using Kind = WatchedPlace::Kind;

// A read costs as much as copying so many bytes: places that lie closer are read as one.
constexpr std::uint64_t kGapBytes = 4096;
constexpr std::uint64_t kMaxReadBytes = 64u << 10;
constexpr std::size_t kMaxChanges = 64;
constexpr std::size_t kShownInstructions = 3, kShownBytes = 16;
constexpr std::byte kBreakpoint{0xcc};

constexpr std::string_view kAdvice =
    "Nothing in an ordinary system writes there once the kernel is up. Save the guest's memory "
    "(underseer dump) before anything else: what did this may be gone from it soon. Then take the "
    "instance off the network, and rebuild it.";

constexpr Rule kRules[] = {
    {.id = "watched_memory_changed",
     .title = "The kernel's entry, or a table of its functions, was changed",
     .severity = event::Severity::critical,
     .confidence = 95,
     .technique = "T1014",
     .subject_kind = "place",
     .reads = "Each byte of the tables and the code that answer system calls, of the table of "
              "interrupts, of what security modules have registered, of the operations that show "
              "processes, modules and sockets in /proc and take in what is typed: against what "
              "was there when the watch began, some hundred times a second (as the policy says).",
     .misses = "What was changed before the watch began, and what was put back between two looks. "
               "Tables of modules. An instruction that became a breakpoint for less than a tenth "
               "of a second.",
     .benign = "None known on the kernels that the tests boot: what ftrace, kprobes, static calls "
               "and live patches write is told apart.",
     .advice = kAdvice},
    {.id = "kernel_program_changed",
     .title = "The kernel was told to start another program",
     .severity = event::Severity::high,
     .confidence = 80,
     .technique = "T1611",
     .subject_kind = "setting",
     .reads = "The names of the programs that the kernel starts as root for a crash (core_pattern) "
              "and a module (modprobe), some hundred times a second.",
     .misses = "A name that stood there for less than a tenth of a second.",
     .benign = "A crash reporter that is installed outside of the system's folders.",
     .advice = "Who set it? A container that can write there can take over the instance."},
    {.id = "monitored_memory_changed",
     .title = "Memory that is monitored was changed",
     .severity = event::Severity::medium,
     .confidence = 100,
     .technique = "T1565.003",
     .subject_kind = "place",
     .reads =
         "Each byte of the memory that a [[monitor]] section of the policy names, against what "
         "was there when it was first looked at, as often as the watch looks.",
     .misses = "What was changed before the watch began, and what was put back between two looks. "
               "A symbol that the guest's kernel does not have is told as a gap.",
     .benign = "Whatever ordinarily writes there: that it does not is the operator's word.",
     .advice = "What may write there, and has it? Save the guest's memory (underseer dump) if "
               "nothing may."},
};
constexpr const Rule& kChanged = kRules[0];
constexpr const Rule& kMonitored = kRules[2];
constexpr const Rule& kProgram = kRules[1];

std::string_view text_of(std::string_view bytes) {
    return bytes.substr(0, bytes.find('\0'));
}

std::uint64_t word_of(std::string_view bytes, std::size_t offset = 0) {
    return load_le<std::uint64_t>(as_bytes(bytes), offset).value_or(0);
}

// Whose it is, whether it can be executed or is data.
std::string leads_to(GuestVirt target, Snapshot& snapshot) {
    if (!target) return "nothing";
    const auto& code = snapshot.code();
    const std::string where = guest_linux::symbol_text(snapshot.kernel(), target);
    if (!code.has_value()) return where;
    if (const auto owner = code->owner_of(target)) {
        return fmt::format("{} ({})", owner->to_text(), where);
    }
    const auto owner = code->memory.find(target.value);
    return fmt::format("{} ({})", owner ? owner->value.to_text() : "memory of nobody", where);
}

void add_pointer(event::Finding& finding, std::string name, GuestVirt target, Snapshot& snapshot) {
    const auto& code = snapshot.code();
    if (target && code.has_value() && code->owner_of(target)) {
        finding.evidence.push_back(code_evidence(std::move(name), target, snapshot));
    } else {
        finding.evidence.push_back({std::move(name), leads_to(target, snapshot), target.value, {}});
    }
}

// Where the instruction begins in which `at` lies.
std::size_t instruction_around(Bytes code, GuestVirt begin, GuestVirt at) {
    guest_linux::Disassembler disassembler;
    std::size_t found = at - begin;
    disassembler.decode(code, begin, [&](const guest_linux::Instruction& one) {
        if (one.at > at) return false;
        if (at - one.at < one.size_bytes) found = one.at - begin;
        return true;
    });
    return found;
}

// Where the first instruction jumps to, or what it calls.
std::optional<GuestVirt> target_of(Bytes code, GuestVirt at) {
    guest_linux::Disassembler disassembler;
    std::optional<GuestVirt> target;
    disassembler.decode(code, at, [&](const guest_linux::Instruction& one) {
        target = one.target;
        return false;
    });
    return target;
}

// The instructions from the changed one on, and where that leads.
void add_code(event::Finding& finding, const char* name, GuestVirt at, const std::string& bytes,
              Snapshot& snapshot) {
    guest_linux::Disassembler disassembler;
    const auto target = target_of(as_bytes(bytes), at);
    std::string text = disassembler.text(as_bytes(bytes), at, kShownInstructions);
    if (target) text += fmt::format("; to {}", leads_to(*target, snapshot));
    finding.evidence.push_back({name, std::move(text), at.value, bytes});
}

}  // namespace

std::span<const Rule> MemoryWatch::rules() {
    return kRules;
}

MemoryWatch::MemoryWatch(guest_linux::Guest* guest, guest_memory::GuestMemory* memory, Moment now)
    : guest_(guest), memory_(memory), begun_(now), last_(now) {
    guest_->new_epoch();
    guest_linux::WatchList list = guest_->watched();
    gaps_ = std::move(list.gaps);
    for (WatchedPlace& what : list.places) {
        Place place{.what = std::move(what), .pages = {}, .before = {}, .seen = {}};
        place.before.resize(place.what.size_bytes);
        places_.push_back(std::move(place));
    }
    own_places_ = places_.size();
    learn(0, now);
}

void MemoryWatch::monitor(const std::vector<event::MemoryRegion>& regions, Moment now) {
    if (regions == regions_) return;
    regions_ = regions;
    const std::vector<Place> old =
        std::vector(places_.begin() + static_cast<std::ptrdiff_t>(own_places_), places_.end());
    std::vector<Change> old_changes;
    std::erase_if(changes_, [&](Change& change) {
        if (change.place < own_places_) return false;
        old_changes.push_back(std::move(change));
        return true;
    });
    std::erase_if(unsettled_, [&](std::size_t place) { return place >= own_places_; });
    places_.resize(own_places_);
    guest_linux::WatchList list = guest_->watched(regions);
    region_gaps_ = std::move(list.gaps);
    for (WatchedPlace& what : list.places) {
        Place place{.what = std::move(what), .pages = {}, .before = {}, .seen = {}};
        place.before.resize(place.what.size_bytes);
        places_.push_back(std::move(place));
    }
    learn(own_places_, now);
    for (std::size_t i = own_places_; i < places_.size(); ++i) {
        Place& place = places_[i];
        const auto same = std::ranges::find_if(old, [&](const Place& one) {
            return one.readable && one.what.begin == place.what.begin &&
                   one.what.size_bytes == place.what.size_bytes;
        });
        if (same == old.end()) continue;
        const auto was = own_places_ + static_cast<std::size_t>(same - old.begin());
        place = *same;
        for (Change& change : old_changes) {
            if (change.place != was) continue;
            change.place = i;
            changes_.push_back(std::move(change));
        }
    }
    plan_reads();
}

void MemoryWatch::learn(std::size_t first, Moment now) {
    (void)locate(now);
    const auto fresh = std::span(places_).subspan(first);
    for (Place& place : fresh) place.readable = !place.pages.empty();
    plan_reads();
    for (const Read& read : reads_) {
        const auto pieces = pieces_of(read);
        if (std::ranges::none_of(pieces,
                                 [&](const Piece& piece) { return piece.place >= first; })) {
            continue;
        }
        const Bytes bytes = bytes_of(read);
        for (const Piece& piece : pieces) {
            if (piece.place < first) continue;
            Place& place = places_[piece.place];
            if (bytes.empty()) {
                place.readable = false;
            } else {
                std::memcpy(place.before.data() + piece.offset, bytes.data() + piece.at,
                            piece.size_bytes);
            }
        }
    }
    for (Place& place : fresh) {
        place.seen = place.before;
        if (place.readable) continue;
        auto& gaps = first == 0 ? gaps_ : region_gaps_;
        gaps.add(place.what.name, {Code::unreadable, 0, "it could not be read at first"});
    }
    plan_reads();
}

Bytes MemoryWatch::bytes_of(const Read& read) {
    const auto into = std::span(scratch_).first(read.size_bytes);
    guest_memory::ReadOp op{read.from, into};
    memory_->read_many({&op, 1});
    return op.status == guest_memory::ReadStatus::ok ? Bytes(into) : Bytes();
}

std::span<const MemoryWatch::Piece> MemoryWatch::pieces_of(const Read& read) const {
    return std::span(pieces_).subspan(read.first_piece, read.pieces_end - read.first_piece);
}

// Through the guest's page tables, as they are now. What is in the kernel's image stays where it
// is.
bool MemoryWatch::locate(Moment now) {
    bool moved = false;
    guest_linux::VirtualMemory& memory = guest_->kernel().memory();
    for (std::size_t i = 0; i < places_.size(); ++i) {
        Place& place = places_[i];
        const std::uint64_t first = place.what.begin.value & kPageMask;
        std::vector<GuestPhys> pages;
        for (GuestVirt page{first}; page < place.what.begin + place.what.size_bytes;
             page = page + kPageSize) {
            const auto found = memory.translate(page);
            if (!found.has_value()) break;
            pages.push_back(found->phys);
        }
        const std::size_t wanted =
            (place.what.begin.value + place.what.size_bytes - 1 - first) / kPageSize + 1;
        if (pages.size() != wanted) {
            if (place.pages.empty()) continue;
            gaps_.add(place.what.name, {Code::unreadable, 0, "it is not mapped any more"});
            continue;
        }
        if (place.home.empty()) place.home = pages;
        for (Change& change : changes_) {
            const bool is_back =
                change.place == i && !change.moved.empty() &&
                pages[change.offset / kPageSize] == place.home[change.offset / kPageSize];
            if (is_back && !change.undone) change.undone = now;
        }
        for (std::size_t k = 0; k < pages.size(); ++k) {
            if (place.home[k] == pages[k]) continue;
            Change change{.place = i, .offset = k * kPageSize, .same = begun_, .seen = now};
            change.moved = fmt::format("from {:#x} to {:#x}", place.home[k].value, pages[k].value);
            note(std::move(change));
        }
        moved |= place.pages != pages;
        place.pages = std::move(pages);
    }
    return moved;
}

void MemoryWatch::plan_reads() {
    struct Part {
        GuestPhys at;
        Piece piece;
    };
    std::vector<Part> parts;
    for (std::size_t i = 0; i < places_.size(); ++i) {
        const Place& place = places_[i];
        if (!place.readable) continue;
        const std::uint64_t begin = place.what.begin.value, end = begin + place.what.size_bytes;
        for (std::size_t k = 0; k < place.pages.size(); ++k) {
            const std::uint64_t page = (begin & kPageMask) + k * kPageSize;
            const std::uint64_t from = std::max(page, begin), to = std::min(page + kPageSize, end);
            parts.push_back({place.pages[k] + (from - page),
                             {.place = i,
                              .offset = static_cast<std::size_t>(from - begin),
                              .size_bytes = static_cast<std::size_t>(to - from)}});
        }
    }
    std::ranges::sort(parts, {}, &Part::at);
    reads_.clear();
    pieces_.clear();
    std::size_t longest = 0, bytes = 0;
    for (Part& part : parts) {
        const GuestPhys end = part.at + part.piece.size_bytes;
        Read* last = reads_.empty() ? nullptr : &reads_.back();
        const bool joins = last != nullptr &&
                           part.at.value <= last->from.value + last->size_bytes + kGapBytes &&
                           end.value - last->from.value <= kMaxReadBytes;
        if (!joins) {
            reads_.push_back({.from = part.at, .first_piece = pieces_.size()});
            last = &reads_.back();
        }
        last->size_bytes = std::max<std::size_t>(last->size_bytes, end - last->from);
        part.piece.at = part.at - last->from;
        pieces_.push_back(part.piece);
        last->pieces_end = pieces_.size();
    }
    for (Read& read : reads_) {
        read.kept_at = bytes;
        bytes += read.size_bytes;
        longest = std::max(longest, read.size_bytes);
    }
    kept_.resize(bytes);
    scratch_.resize(longest);
}

void MemoryWatch::begin(Moment now) {
    guest_->new_epoch();
    begun_ = last_;
    std::erase_if(changes_, [](const Change& one) { return one.told_undone && one.undone; });
    if (locate(now)) plan_reads();
    late_ = longest_ = {};
    polls_ = partial_ = blind_ = untold_ = 0;
    judging_gaps_ = {};
}

bool MemoryWatch::poll(Moment now) {
    const nanoseconds pause = now - last_;
    longest_ = std::max(longest_, pause);
    if (pause > kMayBeLate) late_ += pause - kMayBeLate;
    ++polls_;
    std::vector<std::size_t> differing;
    std::size_t unread = 0;
    for (Read& read : reads_) {
        const Bytes bytes = bytes_of(read);
        if (bytes.empty()) {
            ++unread;
            continue;
        }
        std::byte* const kept = kept_.data() + read.kept_at;
        if (read.is_kept && std::memcmp(kept, bytes.data(), bytes.size()) == 0) continue;
        std::memcpy(kept, bytes.data(), bytes.size());
        read.is_kept = true;
        for (const Piece& piece : pieces_of(read)) {
            std::byte* const seen = places_[piece.place].seen.data() + piece.offset;
            const std::byte* const is = bytes.data() + piece.at;
            if (std::memcmp(seen, is, piece.size_bytes) == 0) continue;
            std::memcpy(seen, is, piece.size_bytes);
            differing.push_back(piece.place);
        }
    }
    if (unread > 0) ++(unread == reads_.size() ? blind_ : partial_);
    for (const std::size_t place : unsettled_) {
        if (now - *places_[place].unsettled_since >= kSettles) differing.push_back(place);
    }
    std::ranges::sort(differing);
    const auto [from, to] = std::ranges::unique(differing);
    differing.erase(from, to);
    for (const std::size_t place : differing) {
        mark_undone(place, now);
        judge(place, now);
        unsettled_.push_back(place);
    }
    std::erase_if(unsettled_, [&](std::size_t one) { return !places_[one].unsettled_since; });
    std::ranges::sort(unsettled_);
    unsettled_.erase(std::ranges::unique(unsettled_).begin(), unsettled_.end());
    code_.reset();
    last_ = now;
    return std::ranges::any_of(changes_, [](const Change& change) { return !change.told; });
}

// What is not as it was any more, and not as it was changed to either.
void MemoryWatch::mark_undone(std::size_t place, Moment now) {
    for (Change& change : changes_) {
        if (change.place != place || change.undone || !change.moved.empty()) continue;
        const auto is = std::span(places_[place].seen).subspan(change.offset, change.after.size());
        if (as_text(is) != change.after) change.undone = now;
    }
}

void MemoryWatch::wait_to_settle(Place& place, Moment now) {
    if (!place.unsettled_since) place.unsettled_since = now;
}

void MemoryWatch::judge(std::size_t index, Moment now) {
    Place& place = places_[index];
    if (!place.unsettled_since) place.same = last_, place.changed = now;
    if (place.seen == place.before) {
        place.unsettled_since.reset();
        return;
    }
    if (place.what.kind == Kind::code) return judge_code(place, index, now);
    if (place.what.kind == Kind::data) return judge_data(index);
    const bool settled = place.unsettled_since && now - *place.unsettled_since >= kSettles;
    if (place.what.kind == Kind::program && !settled) return wait_to_settle(place, now);
    place.unsettled_since.reset();
    const std::size_t unit = place.what.unit_bytes();
    for (std::size_t at = 0; at + unit <= place.seen.size(); at += unit) {
        const auto was = as_text(std::span(place.before).subspan(at, unit)),
                   is = as_text(std::span(place.seen).subspan(at, unit));
        if (was == is) continue;
        if (place.what.kind == Kind::program &&
            helper_programs::foreign_program(place.what.name, text_of(is)).empty()) {
            continue;
        }
        note({.place = index,
              .offset = at,
              .before = std::string(was),
              .after = std::string(is),
              .same = place.same,
              .seen = place.changed});
    }
}

// One change for a place, whatever is written there and however often: the first byte that differs
// now.
void MemoryWatch::judge_data(std::size_t index) {
    Place& place = places_[index];
    place.unsettled_since.reset();
    const auto at = static_cast<std::size_t>(std::ranges::mismatch(place.before, place.seen).in1 -
                                             place.before.begin());
    const std::size_t bytes = std::min(kShownBytes, place.seen.size() - at);
    Change change{.place = index,
                  .offset = at,
                  .before = std::string(as_text(std::span(place.before).subspan(at, bytes))),
                  .after = std::string(as_text(std::span(place.seen).subspan(at, bytes))),
                  .same = place.same,
                  .seen = place.changed};
    const auto known = std::ranges::find_if(
        changes_, [&](const Change& one) { return one.place == index && one.moved.empty(); });
    if (known == changes_.end()) {
        note(std::move(change));
        return;
    }
    change.times = known->times + 1;
    change.told = known->told;
    *known = std::move(change);
}

void MemoryWatch::judge_code(Place& place, std::size_t index, Moment now) {
    const auto first = static_cast<std::size_t>(
        std::ranges::mismatch(place.before, place.seen).in1 - place.before.begin());
    const bool settled = place.unsettled_since && now - *place.unsettled_since >= kSettles;
    // Where an instruction begins: a byte of an operand may look like that too.
    const bool is_being_written =
        place.seen[first] == kBreakpoint &&
        instruction_around(place.before, place.what.begin, place.what.begin + first) == first;
    if (is_being_written && !settled) return wait_to_settle(place, now);
    place.unsettled_since.reset();
    if (!code_) {
        guest_->new_epoch();
        auto mapped = guest_->code_map();
        if (!mapped.has_value()) {
            judging_gaps_.add(place.what.name, mapped.error());
            place.unsettled_since = now;
            return;
        }
        code_ = std::move(*mapped);
    }
    const auto compared = guest_->compare_code(*code_, place.what.begin, place.before, place.seen);
    if (compared.altered.empty()) return;
    // The kernel's records of what it writes are those of now: what it has taken back meanwhile is
    // not in them any more.
    const bool lasts = is_still(index);
    for (const guest_linux::CodeAlteration& one : compared.altered) {
        const std::size_t at = instruction_around(place.before, place.what.begin, one.at);
        const std::size_t bytes = std::min(kShownBytes, place.seen.size() - at);
        const auto after = std::span(place.seen).subspan(at, bytes);
        // Who could not be asked may be the one whom it leads to, or who writes there.
        const auto target = target_of(after, place.what.begin + at);
        const auto owner = target ? code_->owner_of(*target) : std::nullopt;
        if (!lasts && after[0] == kBreakpoint) continue;
        if (!lasts && target && !owner) {
            judging_gaps_.add(place.what.name,
                              {Code::unavailable, 0, "it was put back before it could be judged"});
            continue;
        }
        const bool is_owned = !target || owner.has_value();
        const auto& gaps = is_owned || code_->gaps.empty() ? compared.gaps : code_->gaps;
        if (!gaps.empty()) {
            judging_gaps_.add(place.what.name, {Code::unavailable, 0, gaps.texts.front()});
            place.unsettled_since = now;
            continue;
        }
        note({.place = index,
              .offset = at,
              .before = std::string(as_text(std::span(place.before).subspan(at, bytes))),
              .after = std::string(as_text(after)),
              .same = place.same,
              .seen = place.changed});
    }
}

bool MemoryWatch::is_still(std::size_t place) {
    const std::byte* const seen = places_[place].seen.data();
    return std::ranges::all_of(reads_, [&](const Read& read) {
        const auto pieces = pieces_of(read);
        if (std::ranges::find(pieces, place, &Piece::place) == pieces.end()) return true;
        const Bytes bytes = bytes_of(read);
        return !bytes.empty() && std::ranges::all_of(pieces, [&](const Piece& piece) {
            return piece.place != place ||
                   std::memcmp(seen + piece.offset, bytes.data() + piece.at, piece.size_bytes) == 0;
        });
    });
}

bool MemoryWatch::note(Change change) {
    const auto known = std::ranges::find_if(changes_, [&](const Change& one) {
        return one.place == change.place && one.offset == change.offset &&
               one.after == change.after && one.moved == change.moved;
    });
    if (known != changes_.end()) {
        known->undone.reset();
        return false;
    }
    if (changes_.size() == kMaxChanges) {
        ++untold_;
        return false;
    }
    changes_.push_back(std::move(change));
    return true;
}

event::Finding MemoryWatch::finding(const Change& change, Snapshot& snapshot) const {
    const WatchedPlace& place = places_[change.place].what;
    const GuestVirt at = place.begin + change.offset;
    const std::string name = guest_linux::watched_name(snapshot.kernel(), place, change.offset);
    event::Finding finding;
    if (!change.moved.empty()) {
        finding = kChanged.about(fmt::format("{} lies elsewhere in memory", place.name),
                                 fmt::format("{:x}:{}", at.value, change.moved));
        finding.evidence = {{"physical address", change.moved, at.value, {}}};
    } else if (place.kind == Kind::program) {
        const std::string_view text = text_of(change.after);
        finding =
            kProgram.about(fmt::format("{} = {}", name, text), fmt::format("{}:{}", name, text));
        finding.evidence = {{"before", std::string(text_of(change.before)), at.value, {}},
                            {"after", std::string(text), at.value, {}}};
    } else if (place.kind == Kind::data) {
        finding = kMonitored.about(name, fmt::format("{:x}", place.begin.value));
        const auto shown = [&](const std::string& bytes) {
            return fmt::format("{} bytes at {}", bytes.size(),
                               guest_linux::symbol_text(snapshot.kernel(), at));
        };
        finding.evidence = {{"before", shown(change.before), at.value, change.before},
                            {"after", shown(change.after), at.value, change.after}};
        if (change.times > 1) {
            finding.evidence.push_back(
                {"changed",
                 fmt::format("{} times since it was first looked at", change.times),
                 0,
                 {}});
        }
    } else if (place.kind == Kind::code) {
        finding = kChanged.about(name, fmt::format("{:x}:{:x}", at.value, word_of(change.after)));
        add_code(finding, "before", at, change.before, snapshot);
        add_code(finding, "after", at, change.after, snapshot);
    } else {
        const auto target = [&](const std::string& bytes) {
            return place.kind == Kind::gates
                       ? guest_linux::gate_target(word_of(bytes), word_of(bytes, 8))
                       : GuestVirt{word_of(bytes)};
        };
        finding =
            kChanged.about(name, fmt::format("{:x}:{:x}", at.value, target(change.after).value));
        add_pointer(finding, "before", target(change.before), snapshot);
        add_pointer(finding, "after", target(change.after), snapshot);
        finding.evidence.push_back(
            {"written at", fmt::format("{} bytes", change.after.size()), at.value, change.after});
    }
    std::string seen = change.when;
    if (change.undone) {
        seen += fmt::format("; put back after {} to {}", ms_text(*change.undone - change.seen),
                            ms_text(*change.undone - change.same));
    }
    finding.evidence.push_back({"seen", std::move(seen), 0, {}});
    return finding;
}

event::CheckReport MemoryWatch::report(system_clock::time_point wall_now, Moment now) {
    event::CheckReport report{};
    report.check = kName;
    report.outcome = event::Outcome::clean;
    for (const Place& place : places_) {
        ++(place.readable ? report.coverage.looked_at : report.coverage.unreadable);
    }
    add_gaps(report, gaps_);
    add_gaps(report, region_gaps_);
    add_gaps(report, judging_gaps_);
    if (partial_ + blind_ > 0) {
        add_gap(report,
                fmt::format("{} of {} looks could not read all of it", partial_ + blind_, polls_));
    }
    if (untold_ > 0) add_gap(report, fmt::format("{} more changes than are told", untold_));
    if (!changes_.empty()) {
        Snapshot snapshot(guest_);
        for (Change& change : changes_) {
            if (change.when.empty()) {
                change.when = fmt::format("as before at {} UTC, changed {} later at the latest",
                                          time_text(wall_of(change.same, wall_now, now)),
                                          ms_text(change.seen - change.same));
            }
            add_finding(report, finding(change, snapshot));
            change.told = true;
            change.told_undone = change.undone.has_value();
        }
    }
    // A place that the guest may itself have made unfindable, and a change that could not be
    // judged.
    settle_doubt(report, gaps_.broken);
    if (!judging_gaps_.empty()) settle_doubt(report, judging_gaps_.texts.front());
    const bool saw_nothing = report.coverage.looked_at == 0 || (polls_ > 0 && blind_ == polls_);
    if (saw_nothing && report.findings.empty()) {
        report.outcome = event::Outcome::unavailable;
        report.reason = report.coverage.gaps.empty() ? "there was nothing to look at"
                                                     : report.coverage.gaps.front();
    }
    return report;
}

}  // namespace underseer::detect
