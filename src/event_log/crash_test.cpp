// Kill points: the process dies, the power goes, or a call fails, at any changing call of any run.
// Whatever happens, the log is then intact or ends in a torn tail, no event whose sync() returned
// is missing, and the next run continues.
//
// UNDERSEER_NIGHTLY=1 runs thousands of seeds instead of a hundred. A failure names its seed;
// UNDERSEER_SEED=n runs that one alone.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "event_log/log_fixture.h"

namespace underseer::event_log {
namespace {

class CrashingLog {
  public:
    explicit CrashingLog(std::uint64_t seed) : seed_(seed), random_(seed), log_(seed) {
        log_.options.segment_bytes = 1500 + random_() % 4000;
        log_.options.batch_events = 1 + random_() % 12;
    }

    // One run of the agent, cut short somewhere.
    void run() {
        enum { none, fail, kill, power } trouble = static_cast<decltype(none)>(random_() % 4);
        const std::uint64_t when = 1 + random_() % (random_() % 2 == 0 ? 25 : 400);
        if (trouble == fail) log_.files.fail_at(when);
        if (trouble == kill || trouble == power) log_.files.kill_at(when);
        unclean_ = true;
        auto writer = log_.open();
        if (writer) {
            note_opening();
            const std::uint64_t steps = random_() % 150;
            for (std::uint64_t i = 0; i < steps && step(*writer); ++i) {
            }
            if (trouble == none && random_() % 2 == 0 && writer->close()) {
                take_synced(*writer);
                unclean_ = false;
            }
        } else if (trouble == none) {
            ADD_FAILURE() << "seed " << seed_ << ": " << writer.error().to_text();
        }
        // The writer is still there: its lock must not outlive the process.
        if (trouble == power) {
            log_.files.cut_power(random_);
        } else {
            log_.files.kill_process();
        }
    }

    void check_after_crash() {
        const VerifyReport report = log_.verify();
        const bool honest = report.state == LogState::intact ||
                            report.state == LogState::torn_tail ||
                            (report.state == LogState::cannot_verify && !opened_once_);
        EXPECT_TRUE(honest) << "seed " << seed_ << ": " << report.to_text();
        check_synced_events();
    }

    // Without trouble: the log opens, goes on behind what was synced, and is intact.
    void check_recovery() {
        {
            auto writer = log_.open();
            ASSERT_TRUE(writer.has_value()) << "seed " << seed_ << ": " << writer.error().to_text();
            note_opening();
            EXPECT_GT(writer->next_seq(), last_synced()) << "seed " << seed_;
            EXPECT_EQ(writer->opened().lost_batches, 0u) << "seed " << seed_;
            EXPECT_EQ(writer->opened().found, "") << "seed " << seed_;
            EXPECT_TRUE(unclean_ || writer->opened().torn_bytes == 0) << "seed " << seed_;
            append(*writer);
            ASSERT_TRUE(writer->close().has_value());
            take_synced(*writer);
        }
        unclean_ = false;
        const VerifyReport report = log_.verify();
        EXPECT_EQ(report.state, LogState::intact) << "seed " << seed_ << ": " << report.to_text();
        EXPECT_EQ(report.last_seq, last_synced()) << "seed " << seed_;
        check_synced_events();
    }

  private:
    bool step(Writer& writer) {
        switch (random_() % 16) {
            case 0:
            case 1:
                if (!writer.sync()) return false;
                take_synced(writer);
                return true;
            case 2:
                return writer.seal_batch().has_value();
            case 3:
                return writer.rotate_epoch().has_value();
            case 4:
                writer.note_dropped("sensor", 1);
                return true;
            case 5:
                log_.clock.now += std::chrono::milliseconds(random_() % 40'000);
                if (!writer.tick()) return false;
                take_synced(writer);
                return true;
            case 6:
                if (random_() % 8 != 0 || writer.segment() < 3) return true;
                take_synced(writer);
                give_up_before(writer.segment() - 1);
                if (!writer.remove_segments_before(writer.segment() - 1)) return false;
                take_synced(writer);
                return true;
            default:
                return append(writer);
        }
    }

    bool append(Writer& writer) {
        std::string event = some_event(random_());
        event.append(random_() % 700, ' ');
        const std::uint64_t seq = writer.next_seq();
        unsynced_[seq] = event;
        const auto position = writer.append(as_bytes(event));
        EXPECT_EQ(position ? position->seq : seq, seq) << "seed " << seed_;
        return position.has_value();
    }

    void note_opening() {
        opened_once_ = true;
        unclean_ = true;
        unsynced_.clear();
    }

    // What the writer says is safe is promised from now on.
    void take_synced(const Writer& writer) {
        while (!unsynced_.empty() && unsynced_.begin()->first <= writer.synced_seq()) {
            promised_.insert(unsynced_.extract(unsynced_.begin()));
        }
    }

    void give_up_before(std::uint64_t segment) {
        Reader reader = Reader::open(kLog, 1, log_.files).value();
        for (auto event = reader.next().value(); event && event->segment < segment;
             event = reader.next().value()) {
            promised_.erase(event->seq);
        }
    }

    std::uint64_t last_synced() const { return promised_.empty() ? 0 : promised_.rbegin()->first; }

    void check_synced_events() {
        const auto found = LogFixture::events(log_.files);
        for (const auto& [seq, event] : promised_) {
            const auto there = found.find(seq);
            ASSERT_NE(there, found.end()) << "seed " << seed_ << ": event " << seq << " is lost";
            ASSERT_EQ(there->second, event) << "seed " << seed_ << ": event " << seq;
        }
    }

    std::uint64_t seed_;
    std::mt19937_64 random_;
    LogFixture log_;
    std::map<std::uint64_t, std::string> unsynced_;
    std::map<std::uint64_t, std::string> promised_;
    bool opened_once_ = false;
    bool unclean_ = true;
};

void crash_and_recover(std::uint64_t seed) {
    CrashingLog log(seed);
    for (int round = 0; round < 4 && !testing::Test::HasFailure(); ++round) {
        log.run();
        log.check_after_crash();
        if (seed % 2 == 0) log.check_recovery();  // odd: straight into the next trouble
    }
    if (!testing::Test::HasFailure()) log.check_recovery();
}

TEST(Crash, at_any_call_no_synced_event_is_lost_and_nothing_looks_tampered_with) {
    if (const char* seed = std::getenv("UNDERSEER_SEED")) {
        crash_and_recover(std::strtoull(seed, nullptr, 10));
        return;
    }
    const std::uint64_t seeds = std::getenv("UNDERSEER_NIGHTLY") != nullptr ? 5000 : 60;
    for (std::uint64_t seed = 1; seed <= seeds && !HasFailure(); ++seed) crash_and_recover(seed);
}

// Each single call of a small run, one after the other.
TEST(Crash, each_call_of_the_first_run_may_be_the_last) {
    for (const bool power : {false, true}) {
        for (std::uint64_t call = 1;; ++call) {
            LogFixture log(call);
            std::mt19937_64 randomness(call);
            log.files.kill_at(call);
            std::uint64_t synced = 0;
            bool finished = false;
            {
                auto writer = log.open();
                if (writer && writer->append(as_bytes("one")) && writer->sync()) {
                    synced = writer->synced_seq();
                    finished = writer->append(as_bytes("two")) && writer->close();
                    if (finished) synced = writer->synced_seq();
                }
            }
            power ? log.files.cut_power(randomness) : log.files.kill_process();
            const VerifyReport crashed = log.verify();
            EXPECT_TRUE(crashed.state == LogState::intact || crashed.state == LogState::torn_tail ||
                        (synced == 0 && crashed.state == LogState::cannot_verify))
                << "call " << call << ": " << crashed.to_text();
            EXPECT_GE(crashed.last_seq, synced) << "call " << call;
            auto writer = log.open();
            ASSERT_TRUE(writer.has_value()) << "call " << call << ": " << writer.error().to_text();
            ASSERT_TRUE(writer->close().has_value());
            EXPECT_EQ(log.verify().state, LogState::intact)
                << "call " << call << ": " << log.verify().to_text();
            if (finished) break;
        }
    }
}

}  // namespace
}  // namespace underseer::event_log
