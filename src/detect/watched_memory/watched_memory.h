// Watched memory: small parts of the kernel that decide who answers, compared many times a second.
// A change of what nobody has to change is a finding of its own, however soon it is undone; what
// the kernel alters itself there (ftrace, kprobes, static calls) is none.
//
// The other checks judge where things lead when they look, every ten seconds or less often. Who
// hooks for a moment, or puts things back when somebody may look, is seen here alone.
//
// TRUST: a guest's words. It can make the watch tell too much (up to a bound), and hide nothing by
// that: what is told is kept until it has been told.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "detect/check.h"

namespace underseer::detect {

// Kept over many looks at one guest, and so none of all_checks().
class MemoryWatch {
  public:
    static constexpr std::string_view kName = "watched_memory";
    static std::span<const Rule> rules();

    using Moment = std::chrono::steady_clock::time_point;
    // In the middle of being written: the kernel puts a breakpoint there first, and whoever sets
    // a program's name writes it character by character. Judged when it is still so after this.
    static constexpr std::chrono::milliseconds kSettles{100};
    // A change was made at most this long before it was seen, but for the time that late() tells.
    static constexpr std::chrono::milliseconds kMayBeLate{10};

    // What is there `now` is right, for as long as this lives. `memory` is read at each poll, and
    // must not be a cache; both must outlive this.
    MemoryWatch(guest_linux::Guest* guest, guest_memory::GuestMemory* memory, Moment now);
    MemoryWatch(const MemoryWatch&) = delete;

    // What the operator wants watched besides, from now on: what is there `now` is right. Those of
    // before are watched no more, but for what is asked for again.
    void monitor(const std::vector<event::MemoryRegion>& regions, Moment now);
    // Begins a report. Where the places lie is looked up anew, and must not have changed.
    void begin(Moment now);
    // Compares once. True when report() has something to tell that it has not told yet.
    bool poll(Moment now);
    // What was seen since begin(), and what has not been undone. `wall_now` is the time of day at
    // `now`.
    event::CheckReport report(std::chrono::system_clock::time_point wall_now, Moment now);

    // Since begin().
    std::uint64_t polls() const { return polls_; }
    std::chrono::nanoseconds longest_pause() const { return longest_; }
    // How long in all the last look was longer ago than kMayBeLate: what came and went then may
    // have been missed.
    std::chrono::nanoseconds late() const { return late_; }

    std::size_t places() const { return places_.size(); }
    std::size_t reads() const { return reads_.size(); }      // of one poll
    std::size_t bytes_read() const { return kept_.size(); }  // by one poll

  private:
    struct Place {
        guest_linux::WatchedPlace what;
        std::vector<GuestPhys> home, pages;  // of each page that it touches: at first, and now
        std::vector<std::byte> before, seen;
        Moment same{}, changed{};               // around the last change of `seen`
        std::optional<Moment> unsettled_since;  // `seen` differs and is not judged yet
        bool readable = false;                  // `before` is known
    };
    // A part of a place that lies in one page, in what one read brings.
    struct Piece {
        std::size_t place = 0, offset = 0, size_bytes = 0;
        std::size_t at = 0;  // where in that read
    };
    // Of places that lie close together, and what lies between them.
    struct Read {
        GuestPhys from;
        std::size_t size_bytes = 0;
        std::size_t kept_at = 0;                      // in `kept_`
        std::size_t first_piece = 0, pieces_end = 0;  // in `pieces_`
        bool is_kept = false;                         // `kept_` is what it brought last
    };
    struct Change {
        std::size_t place = 0;
        std::uint64_t offset = 0;
        std::string before, after;
        std::string moved;  // of a page that lies elsewhere by now: from where to where
        Moment same{}, seen{};
        std::optional<Moment> undone;
        std::uint64_t times = 1;  // of what may be written to: that it was seen to change
        std::string when;         // for people, as it was told first: two clocks never agree twice
        bool told = false, told_undone = false;
    };

    // What is there in places from that one on.
    void learn(std::size_t first, Moment now);
    // Whether places have moved.
    bool locate(Moment now);
    void plan_reads();
    // What is there now, until the next one; empty where it cannot be read.
    Bytes bytes_of(const Read& read);
    std::span<const Piece> pieces_of(const Read& read) const;
    void judge(std::size_t place, Moment now);
    static void wait_to_settle(Place& place, Moment now);
    void judge_code(Place& place, std::size_t index, Moment now);
    // Whether it is still as it was seen.
    bool is_still(std::size_t place);
    bool note(Change change);
    void judge_data(std::size_t index);
    void mark_undone(std::size_t place, Moment now);
    event::Finding finding(const Change& change, Snapshot& snapshot) const;

    guest_linux::Guest* guest_;
    guest_memory::GuestMemory* memory_;
    std::vector<Place> places_;
    std::vector<Read> reads_;
    std::vector<Piece> pieces_;
    // A look costs what it brings into the CPU's caches: what was read last lies in one piece and
    // is compared as such, and what is read now goes where the read before it went.
    std::vector<std::byte> kept_, scratch_;
    std::vector<std::size_t> unsettled_;  // places whose unsettled_since is set
    std::vector<Change> changes_;
    std::optional<guest_linux::CodeMap> code_;  // while something is judged
    guest_linux::Gaps gaps_, region_gaps_, judging_gaps_;
    std::vector<event::MemoryRegion> regions_;
    std::size_t own_places_ = 0;  // the others behind them are those of regions_
    Moment begun_{}, last_{};
    std::chrono::nanoseconds late_{0}, longest_{0};
    std::uint64_t polls_ = 0, partial_ = 0, blind_ = 0;  // that could read not all, and nothing
    std::uint64_t untold_ = 0;                           // changes beyond the bound
};

}  // namespace underseer::detect
