// Everything that somebody with write access to the files may do to a log is found, and called by
// its right name.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>

#include "event_log/chain_text.h"
#include "event_log/log_fixture.h"

namespace underseer::event_log {
namespace {

enum class Ending : std::uint8_t { closed, synced };

// Several segments, epochs, heartbeats and runs; all synced.
void fill(LogFixture& log, Ending ending) {
    log.options.segment_bytes = 3000;
    log.options.batch_events = 7;
    std::uint64_t number = 0;
    for (int run = 0; run < 2; ++run) {
        Writer writer = log.open().value();
        for (int i = 0; i < 40; ++i) {
            CHECK(writer.append(as_bytes(some_event(++number))).has_value());
            if (i % 20 == 3) writer.note_dropped("sensor", 2);
            if (i % 25 == 9) CHECK(writer.rotate_epoch().has_value());
            if (i % 30 == 5) {
                log.clock.now += log.options.heartbeat;
                CHECK(writer.tick().has_value());
            }
        }
        CHECK(writer.sync().has_value());
        if (run == 0 || ending == Ending::closed) CHECK(writer.close().has_value());
    }
}

LogFixture& log_with(Ending ending) {
    static LogFixture closed(1), synced(1);
    static const bool filled = [] {
        fill(closed, Ending::closed);
        fill(synced, Ending::synced);
        return true;
    }();
    CHECK(filled);
    return ending == Ending::closed ? closed : synced;
}

LogFixture& any_log() {
    return log_with(*rc::gen::element(Ending::closed, Ending::synced));
}

std::vector<std::filesystem::path> files_with(const FakeFiles& files, std::string_view extension) {
    std::vector<std::filesystem::path> found;
    for (const auto& path : files.paths()) {
        if (path.extension() == extension && !files.content(path).empty()) found.push_back(path);
    }
    return found;
}

std::size_t any_below(std::size_t end) {
    return *rc::gen::inRange<std::size_t>(0, end);
}

std::vector<std::string> lines_of(const std::string& text) {
    std::vector<std::string> lines;
    for (std::size_t begin = 0; begin < text.size();) {
        const std::size_t end = text.find('\n', begin);
        lines.push_back(text.substr(begin, end - begin + 1));
        begin = end + 1;
    }
    return lines;
}

std::string joined(const std::vector<std::string>& lines) {
    std::string text;
    for (const auto& line : lines) text += line;
    return text;
}

bool is_batch(const std::string& line) {
    return line.starts_with("{\"kind\":\"batch\"");
}

TEST(Tampering, the_log_that_is_tampered_with_below_is_intact) {
    for (const Ending ending : {Ending::closed, Ending::synced}) {
        const VerifyReport report = log_with(ending).verify();
        EXPECT_EQ(report.state, LogState::intact) << report.to_text();
        EXPECT_GE(report.segments, 4u);
        EXPECT_GT(report.epochs, report.segments);
        EXPECT_EQ(report.events, 80u);
    }
}

RC_GTEST_PROP(Tampering, any_changed_byte_is_found_and_its_place_is_named, ()) {
    LogFixture& log = any_log();
    FakeFiles files = log.files.copy();
    const auto extension = *rc::gen::element<std::string>(".chain", ".jsonl");
    const auto path = *rc::gen::elementOf(files_with(files, extension));
    std::string content = files.content(path);
    const std::size_t position = any_below(content.size());
    content[position] = static_cast<char>(content[position] ^ *rc::gen::inRange(1, 256));
    files.set(path, content);
    const VerifyReport report = log.verify_of(files);
    RC_LOG() << path << " byte " << position << "\n" << report.to_text();
    RC_ASSERT(report.state == LogState::tampered);
    RC_ASSERT(report.exit_code() == 1);
    RC_ASSERT(report.first_bad->file == path.filename());
    RC_ASSERT(report.first_bad->offset <= position);
    if (extension == ".chain") {
        // The line named is the one, or the one before when its newline was changed.
        const auto line = static_cast<std::uint64_t>(std::count(
            content.begin(), content.begin() + static_cast<std::ptrdiff_t>(position), '\n'));
        RC_ASSERT(report.first_bad->line == line + 1);
    }
}

RC_GTEST_PROP(Tampering, any_changed_byte_of_the_head_file_is_found, ()) {
    LogFixture& log = any_log();
    FakeFiles files = log.files.copy();
    std::string content = files.content(kLog / "head");
    const std::size_t position = any_below(content.size());
    content[position] = static_cast<char>(content[position] ^ *rc::gen::inRange(1, 256));
    files.set(kLog / "head", content);
    RC_ASSERT(log.verify_of(files).state == LogState::torn_tail);
    content[(position + 4096) % 8192] ^= 1;
    files.set(kLog / "head", content);
    RC_ASSERT(log.verify_of(files).state == LogState::tampered);
}

RC_GTEST_PROP(Tampering, bytes_cut_out_or_put_in_are_found, ()) {
    LogFixture& log = any_log();
    FakeFiles files = log.files.copy();
    const auto extension = *rc::gen::element<std::string>(".chain", ".jsonl");
    const auto path = *rc::gen::elementOf(files_with(files, extension));
    std::string content = files.content(path);
    const std::size_t position = any_below(content.size());
    if (*rc::gen::arbitrary<bool>()) {
        content.erase(position, 1 + any_below(300));
    } else {
        content.insert(position, *rc::gen::nonEmpty<std::string>());
    }
    RC_PRE(content != files.content(path));
    files.set(path, content);
    const VerifyReport report = log.verify_of(files);
    RC_LOG() << path << " byte " << position << "\n" << report.to_text();
    RC_ASSERT(report.state == LogState::tampered || report.state == LogState::gap);
}

RC_GTEST_PROP(Tampering, a_file_cut_short_anywhere_is_a_gap, ()) {
    LogFixture& log = any_log();
    FakeFiles files = log.files.copy();
    const auto extension = *rc::gen::element<std::string>(".chain", ".jsonl");
    const auto path = *rc::gen::elementOf(files_with(files, extension));
    const std::string content = files.content(path);
    files.set(path, content.substr(0, any_below(content.size())));
    const VerifyReport report = log.verify_of(files);
    RC_LOG() << path << "\n" << report.to_text();
    RC_ASSERT(report.state == LogState::gap);
}

// Both files of the newest segment end where a batch ends: only the head file knows.
RC_GTEST_PROP(Tampering, newest_batches_cut_off_cleanly_are_a_gap, ()) {
    LogFixture& log = any_log();
    FakeFiles files = log.files.copy();
    const auto chain = files_with(files, ".chain").back();
    const auto lines = lines_of(files.content(chain));
    const std::size_t kept = any_below(lines.size());
    files.set(chain, joined({lines.begin(), lines.begin() + static_cast<std::ptrdiff_t>(kept)}));
    std::uint64_t events_end = 0;
    for (std::size_t i = 0; i < kept; ++i) {
        if (!is_batch(lines[i])) continue;
        const auto field = [&](const std::string& name) {
            return std::stoull(
                lines[i].substr(lines[i].find("\"" + name + "\":") + name.size() + 3));
        };
        events_end = field("offset") + field("bytes");
    }
    auto events = chain;
    events.replace_extension(".jsonl");
    files.set(events, files.content(events).substr(0, events_end));
    const VerifyReport report = log.verify_of(files);
    RC_LOG() << report.to_text();
    RC_ASSERT(report.state == LogState::gap);
    // Without the head file it could not be known; then its absence is what is reported.
    files.erase(kLog / "head");
    RC_ASSERT(log.verify_of(files).state == LogState::gap);
}

RC_GTEST_PROP(Tampering, a_deleted_batch_record_is_a_gap, ()) {
    LogFixture& log = any_log();
    FakeFiles files = log.files.copy();
    const auto path = *rc::gen::elementOf(files_with(files, ".chain"));
    auto lines = lines_of(files.content(path));
    const std::size_t victim = any_below(lines.size());
    RC_PRE(is_batch(lines[victim]));
    lines.erase(lines.begin() + static_cast<std::ptrdiff_t>(victim));
    files.set(path, joined(lines));
    const VerifyReport report = log.verify_of(files);
    RC_LOG() << path << " line " << victim + 1 << "\n" << report.to_text();
    RC_ASSERT(report.state == LogState::gap);
}

RC_GTEST_PROP(Tampering, records_swapped_or_replayed_are_tampering, ()) {
    LogFixture& log = any_log();
    FakeFiles files = log.files.copy();
    const auto from = *rc::gen::elementOf(files_with(files, ".chain"));
    const auto to = *rc::gen::elementOf(files_with(files, ".chain"));
    auto lines = lines_of(files.content(from));
    const std::size_t one = any_below(lines.size());
    if (*rc::gen::arbitrary<bool>()) {
        const std::size_t other = any_below(lines.size());
        RC_PRE(one != other);
        std::swap(lines[one], lines[other]);
        files.set(from, joined(lines));
    } else {
        auto target = lines_of(files.content(to));
        target.insert(target.begin() + static_cast<std::ptrdiff_t>(any_below(target.size() + 1)),
                      lines[one]);
        files.set(to, joined(target));
    }
    const VerifyReport report = log.verify_of(files);
    RC_LOG() << from << " " << one << " to " << to << "\n" << report.to_text();
    RC_ASSERT(report.state == LogState::tampered);
}

RC_GTEST_PROP(Tampering, events_swapped_repeated_or_deleted_are_tampering, ()) {
    LogFixture& log = any_log();
    FakeFiles files = log.files.copy();
    const auto path = *rc::gen::elementOf(files_with(files, ".jsonl"));
    auto lines = lines_of(files.content(path));
    const std::size_t one = any_below(lines.size());
    const std::size_t other = any_below(lines.size());
    switch (*rc::gen::inRange(0, 3)) {
        case 0:
            RC_PRE(lines[one] != lines[other]);
            std::swap(lines[one], lines[other]);
            break;
        case 1:
            lines.insert(lines.begin() + static_cast<std::ptrdiff_t>(one), lines[other]);
            break;
        default:
            lines.erase(lines.begin() + static_cast<std::ptrdiff_t>(one));
    }
    const bool shorter = joined(lines).size() < files.content(path).size();
    files.set(path, joined(lines));
    const VerifyReport report = log.verify_of(files);
    RC_LOG() << path << "\n" << report.to_text();
    // In the last batch of a file a missing event cannot be told from a file cut short.
    RC_ASSERT(report.state == LogState::tampered || (shorter && report.state == LogState::gap));
}

RC_GTEST_PROP(Tampering, a_removed_segment_is_a_gap, ()) {
    LogFixture& log = any_log();
    FakeFiles files = log.files.copy();
    auto path = *rc::gen::elementOf(files_with(files, ".chain"));
    const int which = *rc::gen::inRange(0, 3);
    if (which != 1) files.erase(path);
    path.replace_extension(".jsonl");
    RC_PRE(which != 1 || !files.content(path).empty());
    if (which != 2) files.erase(path);
    const VerifyReport report = log.verify_of(files);
    RC_LOG() << path << " " << which << "\n" << report.to_text();
    RC_ASSERT(report.state == LogState::gap);
}

RC_GTEST_PROP(Tampering, an_older_segment_in_the_place_of_a_newer_is_tampering, ()) {
    LogFixture& log = any_log();
    FakeFiles files = log.files.copy();
    const auto chains = files_with(files, ".chain");
    auto from = *rc::gen::elementOf(chains);
    auto to = *rc::gen::elementOf(chains);
    RC_PRE(from != to);
    if (*rc::gen::arbitrary<bool>()) to = kLog / "00000099.chain";
    const std::string chain = files.content(from);
    files.set(to, chain);
    const std::string events = files.content(from.replace_extension(".jsonl"));
    files.set(to.replace_extension(".jsonl"), events);
    const VerifyReport report = log.verify_of(files);
    RC_LOG() << from << " to " << to << "\n" << report.to_text();
    RC_ASSERT(report.state == LogState::tampered);
}

RC_GTEST_PROP(Tampering, another_agents_segment_in_this_log_is_tampering, ()) {
    static LogFixture other(2);
    if (other.files.paths().empty()) fill(other, Ending::closed);
    LogFixture& log = any_log();
    FakeFiles files = log.files.copy();
    const auto chains = files_with(files, ".chain");
    auto path = *rc::gen::elementOf(chains);
    files.set(path, other.files.content(path));
    path.replace_extension(".jsonl");
    files.set(path, other.files.content(path));
    const VerifyReport report = log.verify_of(files);
    RC_LOG() << path << "\n" << report.to_text();
    RC_ASSERT(report.state == LogState::tampered);
}

TEST(Tampering, a_log_wholly_of_another_agent_cannot_be_verified) {
    LogFixture other(2);
    fill(other, Ending::closed);
    const VerifyReport report = log_with(Ending::closed).verify_of(other.files);
    EXPECT_EQ(report.state, LogState::cannot_verify) << report.to_text();
    EXPECT_EQ(report.exit_code(), 3);
    // One changed byte in it is tampering all the same where it is an epoch record's.
    FakeFiles changed = other.files.copy();
    std::string chain = changed.content(kLog / "00000001.chain");
    chain[40] ^= 1;
    changed.set(kLog / "00000001.chain", chain);
    EXPECT_EQ(log_with(Ending::closed).verify_of(changed).state, LogState::tampered);
}

// One enrolment key, two logs: the bulk log in the place of the critical one.
TEST(Tampering, the_other_log_of_the_same_agent_is_tampering_when_the_name_is_given) {
    LogFixture& log = log_with(Ending::closed);
    const auto state_for = [&](std::string agent, std::string name) {
        VerifyOptions options;
        options.agent = std::move(agent);
        options.log = std::move(name);
        return log.verify(options).state;
    };
    EXPECT_EQ(state_for("agent-1", "critical"), LogState::intact);
    EXPECT_EQ(state_for("agent-1", "bulk"), LogState::tampered);
    EXPECT_EQ(state_for("agent-7", "critical"), LogState::tampered);
}

TEST(Tampering, what_is_appended_after_the_end_is_tampering) {
    LogFixture& log = log_with(Ending::closed);
    for (const char* extension : {".chain", ".jsonl"}) {
        for (const char* text : {"{\"forged\":1}\n", "x"}) {
            FakeFiles files = log.files.copy();
            const auto path = files_with(files, extension).back();
            files.set(path, files.content(path) + text);
            const VerifyReport report = log.verify_of(files);
            EXPECT_EQ(report.state, LogState::tampered) << report.to_text();
        }
    }
}

// A record in the right form, rightly numbered and chained, signed by a key of the attacker.
TEST(Tampering, a_record_signed_by_a_key_that_nobody_certified_is_tampering) {
    LogFixture& log = log_with(Ending::closed);
    FakeFiles files = log.files.copy();
    const auto path = files_with(files, ".chain").back();
    auto lines = lines_of(files.content(path));
    const std::string last = lines.back().substr(0, lines.back().rfind(" \""));
    SeededRandom random(77);
    const auto key = crypto::SigningKey::generate(random).value();
    lines.back() = signed_line("batch", last, key).value() + "\n";
    files.set(path, joined(lines));
    EXPECT_EQ(log.verify_of(files).state, LogState::tampered);
    // Nor does the signature of one kind of record serve for another.
    lines.back() = signed_line("epoch", last, log.enrolment).value() + "\n";
    files.set(path, joined(lines));
    EXPECT_EQ(log.verify_of(files).state, LogState::tampered);
}

// What cannot be found, stated as a test: the log and its head file rolled back together.
// docs/log-format.md says so, and that the server's receipts find it.
TEST(Tampering, log_and_head_file_rolled_back_together_are_not_found_here) {
    LogFixture log;
    Writer writer = log.open().value();
    ASSERT_TRUE(writer.append(as_bytes("one")).has_value());
    ASSERT_TRUE(writer.sync().has_value());
    FakeFiles earlier = log.files.copy();
    ASSERT_TRUE(writer.append(as_bytes("two")).has_value());
    ASSERT_TRUE(writer.sync().has_value());
    EXPECT_EQ(log.verify_of(earlier).state, LogState::intact);
    earlier.set(kLog / "head", log.files.content(kLog / "head"));
    EXPECT_EQ(log.verify_of(earlier).state, LogState::gap);
}

}  // namespace
}  // namespace underseer::event_log
