#include "event_log/writer.h"

#include <gtest/gtest.h>

#include "event_log/log_fixture.h"

namespace underseer::event_log {
namespace {

using std::chrono::milliseconds;

std::string what(const VerifyReport& report) {
    return report.to_text();
}

TEST(EventLog, what_was_appended_is_read_back_and_verifies) {
    LogFixture log;
    {
        Writer writer = log.open().value();
        EXPECT_TRUE(writer.opened().fresh);
        for (std::uint64_t i = 1; i <= 3000; ++i) {
            EXPECT_EQ(writer.append(as_bytes(some_event(i))).value().seq, i);
        }
        ASSERT_TRUE(writer.sync().has_value());
        EXPECT_EQ(writer.synced_seq(), 3000u);
        ASSERT_TRUE(writer.close().has_value());
    }
    const VerifyReport report = log.verify();
    EXPECT_EQ(report.state, LogState::intact) << what(report);
    EXPECT_EQ(report.events, 3000u);
    EXPECT_EQ(report.last_seq, 3000u);
    const auto events = LogFixture::events(log.files);
    ASSERT_EQ(events.size(), 3000u);
    EXPECT_EQ(events.at(2000), some_event(2000));
}

TEST(EventLog, the_events_file_holds_the_events_and_nothing_else) {
    LogFixture log;
    Writer writer = log.open().value();
    ASSERT_TRUE(writer.append(as_bytes("{\"a\":1}")).has_value());
    ASSERT_TRUE(writer.append(as_bytes("{\"a\":2}")).has_value());
    ASSERT_TRUE(writer.sync().has_value());
    EXPECT_EQ(log.files.content(kLog / "00000001.jsonl"), "{\"a\":1}\n{\"a\":2}\n");
}

TEST(EventLog, an_event_that_is_no_line_is_refused_and_the_log_goes_on) {
    LogFixture log;
    Writer writer = log.open().value();
    EXPECT_EQ(writer.append(as_bytes("a\nb")).error().code, Code::invalid_argument);
    EXPECT_EQ(writer.append({}).error().code, Code::invalid_argument);
    const std::string biggest(limits::kMaxEventBytes, 'x');
    EXPECT_FALSE(writer.append(as_bytes(biggest + "x")).has_value());
    EXPECT_TRUE(writer.append(as_bytes(biggest)).has_value());
    EXPECT_TRUE(writer.append(as_bytes("{}")).has_value());
    ASSERT_TRUE(writer.close().has_value());
    EXPECT_EQ(log.verify().state, LogState::intact);
    EXPECT_EQ(log.verify().events, 2u);
}

TEST(EventLog, batches_are_sealed_by_number_by_size_and_by_age) {
    LogFixture log;
    log.options.batch_events = 4;
    log.options.batch_bytes = 100;
    Writer writer = log.open().value();
    const auto batches = [&] { return log.verify().batches; };
    for (int i = 0; i < 4; ++i) ASSERT_TRUE(writer.append(as_bytes("x")).has_value());
    EXPECT_EQ(batches(), 1u);
    ASSERT_TRUE(writer.append(as_bytes(std::string(90, 'y'))).has_value());
    EXPECT_EQ(batches(), 1u);
    ASSERT_TRUE(writer.append(as_bytes(std::string(90, 'z'))).has_value());
    EXPECT_EQ(batches(), 2u);
    log.clock.now += milliseconds(999);
    ASSERT_TRUE(writer.tick().has_value());
    EXPECT_EQ(batches(), 2u);
    log.clock.now += milliseconds(1);
    ASSERT_TRUE(writer.tick().has_value());
    EXPECT_EQ(batches(), 3u);
}

TEST(EventLog, silence_is_signed_too) {
    LogFixture log;
    Writer writer = log.open().value();
    log.clock.now += log.options.heartbeat;
    ASSERT_TRUE(writer.tick().has_value());
    const VerifyReport report = log.verify();
    EXPECT_EQ(report.batches, 1u);
    EXPECT_EQ(report.events, 0u);
    EXPECT_EQ(report.state, LogState::intact) << what(report);
}

TEST(EventLog, dropped_events_are_counted_inside_the_chain) {
    LogFixture log;
    {
        Writer writer = log.open().value();
        writer.note_dropped("sensor", 3);
        ASSERT_TRUE(writer.sync().has_value());
        writer.note_dropped("sensor", 4);
        writer.note_dropped("net", 1);
        ASSERT_TRUE(writer.close().has_value());
    }
    {
        Writer writer = log.open().value();
        writer.note_dropped("sensor", 10);
        for (int i = 0; i < 100; ++i)
            writer.note_dropped(std::string(1000, '\x01') + std::to_string(i), 1);
        for (int i = 0; i < 100; ++i) {
            writer.note_dropped(std::string(63, '\x01') + std::string(1, static_cast<char>(i + 1)),
                                1);
        }
        ASSERT_TRUE(writer.close().has_value());
    }
    const VerifyReport report = log.verify();
    EXPECT_EQ(report.state, LogState::intact) << what(report);
    EXPECT_EQ(report.dropped.at("sensor"), 17u);
    EXPECT_EQ(report.dropped.at("net"), 1u);
    EXPECT_GT(report.dropped.at("other sources"), 0u);
}

TEST(EventLog, epochs_change_by_age_and_by_request_and_keys_differ) {
    LogFixture log;
    Writer writer = log.open().value();
    ASSERT_TRUE(writer.append(as_bytes("x")).has_value());
    ASSERT_TRUE(writer.rotate_epoch().has_value());
    ASSERT_TRUE(writer.append(as_bytes("y")).has_value());
    log.clock.now += log.options.epoch_age;
    ASSERT_TRUE(writer.tick().has_value());
    ASSERT_TRUE(writer.close().has_value());
    const VerifyReport report = log.verify();
    EXPECT_EQ(report.state, LogState::intact) << what(report);
    EXPECT_EQ(report.epochs, 3u);
    EXPECT_EQ(report.events, 2u);
}

TEST(EventLog, segments_are_begun_by_size_and_the_chain_runs_through) {
    LogFixture log;
    log.options.segment_bytes = 2000;
    log.options.batch_events = 10;
    {
        Writer writer = log.open().value();
        for (std::uint64_t i = 1; i <= 500; ++i) {
            ASSERT_TRUE(writer.append(as_bytes(some_event(i))).has_value());
        }
        ASSERT_TRUE(writer.close().has_value());
        EXPECT_GT(writer.segment(), 5u);
    }
    EXPECT_EQ(log.verify().state, LogState::intact) << what(log.verify());
    EXPECT_EQ(LogFixture::events(log.files).size(), 500u);
    Reader late = Reader::open(kLog, 321, log.files).value();
    EXPECT_EQ(late.next().value()->seq, 321u);
}

TEST(EventLog, segments_that_were_given_up_are_no_gap_but_removed_ones_are) {
    LogFixture log;
    log.options.segment_bytes = 500;
    log.options.batch_events = 5;
    Writer writer = log.open().value();
    for (std::uint64_t i = 1; i <= 100; ++i) {
        ASSERT_TRUE(writer.append(as_bytes(some_event(i))).has_value());
    }
    ASSERT_TRUE(writer.remove_segments_before(4).has_value());
    ASSERT_TRUE(writer.close().has_value());
    EXPECT_FALSE(log.files.has(kLog / "00000003.chain"));
    EXPECT_EQ(log.verify().state, LogState::intact) << what(log.verify());
    log.files.erase(kLog / "00000004.chain");
    log.files.erase(kLog / "00000004.jsonl");
    EXPECT_EQ(log.verify().state, LogState::gap) << what(log.verify());
}

TEST(EventLog, a_second_writer_is_refused) {
    LogFixture log;
    const Writer writer = log.open().value();
    EXPECT_EQ(log.open().error().code, Code::unavailable);
}

TEST(EventLog, after_a_clean_end_the_next_run_continues_the_chain) {
    LogFixture log;
    for (int run = 0; run < 3; ++run) {
        Writer writer = log.open().value();
        EXPECT_TRUE(writer.opened().clean);
        EXPECT_EQ(writer.opened().torn_bytes, 0u);
        ASSERT_TRUE(writer.append(as_bytes("x")).has_value());
        ASSERT_TRUE(writer.close().has_value());
        EXPECT_FALSE(writer.append(as_bytes("x")).has_value());
    }
    const VerifyReport report = log.verify();
    EXPECT_EQ(report.state, LogState::intact) << what(report);
    EXPECT_EQ(report.unclean_ends, 0u);
    EXPECT_EQ(report.last_seq, 3u);
}

TEST(EventLog, a_torn_tail_is_set_aside_and_recorded) {
    LogFixture log;
    std::optional<Writer> writer = log.open().value();
    ASSERT_TRUE(writer->append(as_bytes("safe")).has_value());
    ASSERT_TRUE(writer->sync().has_value());
    log.files.kill_process();
    writer.reset();
    const auto events = kLog / "00000001.jsonl";
    log.files.set(events, log.files.content(events) + "half an ev");
    EXPECT_EQ(log.verify().state, LogState::torn_tail) << what(log.verify());
    EXPECT_EQ(log.verify().exit_code(), 2);
    writer = log.open().value();
    EXPECT_FALSE(writer->opened().clean);
    EXPECT_EQ(writer->opened().torn_bytes, 10u);
    EXPECT_EQ(log.files.content(kLog / "00000001.jsonl.torn"), "half an ev");
    EXPECT_EQ(writer->append(as_bytes("next")).value().seq, 2u);
    ASSERT_TRUE(writer->close().has_value());
    const VerifyReport report = log.verify();
    EXPECT_EQ(report.state, LogState::intact) << what(report);
    EXPECT_EQ(report.unclean_ends, 1u);
}

TEST(EventLog, a_failed_sync_poisons_the_log_and_it_says_why) {
    LogFixture log;
    std::optional<Writer> writer = log.open().value();
    ASSERT_TRUE(writer->append(as_bytes("x")).has_value());
    ASSERT_TRUE(writer->seal_batch().has_value());
    log.files.fail_at(1);
    EXPECT_EQ(writer->sync().error().os_errno, EIO);
    EXPECT_EQ(writer->poison()->os_errno, EIO);
    const auto refused = writer->append(as_bytes("y"));
    EXPECT_EQ(refused.error().code, Code::unavailable);
    EXPECT_NE(refused.error().message.find("syncing"), std::string::npos);
    EXPECT_FALSE(writer->sync().has_value());
    writer.reset();
    EXPECT_TRUE(log.open().value().append(as_bytes("z")).has_value());
}

// A sync that failed leaves readable bytes that never reach the disk. The next run must not build
// upon them without writing them again.
TEST(EventLog, bytes_of_a_failed_sync_reach_the_disk_with_the_next_run) {
    LogFixture log;
    std::optional<Writer> writer = log.open().value();
    ASSERT_TRUE(writer->append(as_bytes("x")).has_value());
    ASSERT_TRUE(writer->seal_batch().has_value());
    log.files.fail_at(2);  // events reach the disk, the chain does not
    ASSERT_FALSE(writer->sync().has_value());
    writer.reset();
    writer = log.open().value();
    ASSERT_TRUE(writer->append(as_bytes("y")).has_value());
    ASSERT_TRUE(writer->sync().has_value());
    std::mt19937_64 randomness(1);
    log.files.cut_power(randomness);
    EXPECT_EQ(log.verify().state, LogState::intact) << what(log.verify());
    EXPECT_EQ(LogFixture::events(log.files).size(), 2u);
}

TEST(EventLog, a_log_of_another_agent_is_not_continued) {
    LogFixture log(1), other(2);
    ASSERT_TRUE(other.open().value().close().has_value());
    log.files = other.files.copy();
    EXPECT_EQ(log.open().error().code, Code::unavailable);
}

TEST(EventLog, a_log_that_was_tampered_with_is_continued_and_says_so) {
    LogFixture log;
    {
        Writer writer = log.open().value();
        ASSERT_TRUE(writer.append(as_bytes("one")).has_value());
        ASSERT_TRUE(writer.close().has_value());
    }
    log.files.set(kLog / "00000001.jsonl", "two\n");
    Writer writer = log.open().value();
    EXPECT_NE(writer.opened().found.find("tampering in 00000001.jsonl"), std::string::npos);
    ASSERT_TRUE(writer.append(as_bytes("three")).has_value());
    ASSERT_TRUE(writer.close().has_value());
    EXPECT_EQ(log.verify().state, LogState::tampered);
    EXPECT_EQ(log.files.content(kLog / "00000001.jsonl"), "two\n");
    // Even without the evidence the log remembers.
    log.files.set(kLog / "00000001.jsonl", "one\n");
    EXPECT_EQ(log.verify().state, LogState::gap) << what(log.verify());
}

TEST(EventLog, records_that_vanish_between_two_runs_are_a_gap_for_ever) {
    LogFixture log;
    std::optional<Writer> writer = log.open().value();
    ASSERT_TRUE(writer->append(as_bytes("one")).has_value());
    ASSERT_TRUE(writer->sync().has_value());
    const FakeFiles before = log.files.copy();
    ASSERT_TRUE(writer->append(as_bytes("two")).has_value());
    ASSERT_TRUE(writer->sync().has_value());
    writer.reset();
    log.files.set(kLog / "00000001.chain", before.content(kLog / "00000001.chain"));
    log.files.set(kLog / "00000001.jsonl", before.content(kLog / "00000001.jsonl"));
    EXPECT_EQ(log.verify().state, LogState::gap) << what(log.verify());
    writer = log.open().value();
    EXPECT_EQ(writer->opened().lost_batches, 1u);
    EXPECT_EQ(writer->opened().lost_events, 1u);
    EXPECT_EQ(writer->append(as_bytes("three")).value().seq, 3u);
    ASSERT_TRUE(writer->close().has_value());
    const VerifyReport report = log.verify();
    EXPECT_EQ(report.state, LogState::gap) << what(report);
    EXPECT_NE(what(report).find("the agent noticed it"), std::string::npos) << what(report);
}

TEST(EventLog, a_reader_follows_a_log_that_grows_over_segments_and_runs) {
    LogFixture log;
    log.options.segment_bytes = 600;
    Reader reader = Reader::open(kLog, 1, log.files).value();
    EXPECT_FALSE(reader.next().value().has_value());
    std::uint64_t seq = 0;
    for (int run = 0; run < 3; ++run) {
        Writer writer = log.open().value();
        for (int i = 0; i < 20; ++i) {
            ASSERT_TRUE(writer.append(as_bytes(some_event(++seq))).has_value());
            ASSERT_TRUE(writer.seal_batch().has_value());
            const auto event = reader.next().value();
            ASSERT_TRUE(event.has_value());
            EXPECT_EQ(event->seq, seq);
            EXPECT_EQ(event->bytes, some_event(seq));
            EXPECT_FALSE(reader.next().value().has_value());
            EXPECT_EQ(log.verify().state, LogState::intact) << what(log.verify());
        }
        if (run > 0) {
            ASSERT_TRUE(writer.close().has_value());
        }
    }
}

// The same on a real disk: names, modes, lock, and a second process's view.
TEST(EventLog, works_on_the_real_file_system) {
    std::string form = (std::filesystem::temp_directory_path() / "log_XXXXXX").string();
    ASSERT_NE(::mkdtemp(form.data()), nullptr);
    const std::filesystem::path directory = std::filesystem::path(form) / "critical";
    LogFixture log;
    for (int run = 0; run < 2; ++run) {
        Writer writer = Writer::open(directory, log.options, &log.enrolment).value();
        EXPECT_EQ(Writer::open(directory, log.options, &log.enrolment).error().code,
                  Code::unavailable);
        ASSERT_TRUE(writer.append(as_bytes("{\"a\":1}")).has_value());
        ASSERT_TRUE(writer.sync().has_value());
        const VerifyReport live = verify(directory, log.enrolment.public_key());
        EXPECT_EQ(live.state, LogState::intact) << what(live);
        EXPECT_TRUE(live.being_written);
    }
    const VerifyReport report = verify(directory, log.enrolment.public_key());
    EXPECT_EQ(report.state, LogState::intact) << what(report);
    EXPECT_FALSE(report.being_written);
    EXPECT_EQ(report.unclean_ends, 1u);
    Reader reader = Reader::open(directory).value();
    EXPECT_EQ(reader.next().value()->bytes, "{\"a\":1}");
    EXPECT_EQ(verify(directory / "none", log.enrolment.public_key()).exit_code(), 3);
    std::filesystem::remove_all(form);
}

}  // namespace
}  // namespace underseer::event_log
