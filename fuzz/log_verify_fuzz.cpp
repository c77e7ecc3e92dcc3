// Border: a log directory that somebody else has written to. The input edits the files of a genuine
// log. Must hold: verification ends, and a log that is not the genuine one is never called intact.
#include "event_log/log_fixture.h"

namespace {
using namespace underseer;
using namespace underseer::event_log;

const LogFixture& genuine() {
    static LogFixture log(1);
    static const bool filled = [] {
        log.options.segment_bytes = 3000;
        log.options.batch_events = 5;
        Writer writer = log.open().value();
        for (std::uint64_t i = 0; i < 40; ++i) {
            CHECK(writer.append(as_bytes(some_event(i))).has_value());
            if (i == 20) CHECK(writer.rotate_epoch().has_value());
        }
        CHECK(writer.close().has_value());
        return true;
    }();
    CHECK(filled);
    return log;
}

// {file, what, where (2 bytes), how many, the bytes}: put over, put in, or cut out.
bool edit(ByteCursor& cursor, FakeFiles& files) {
    const auto file = cursor.read<std::uint8_t>();
    const auto what = cursor.read<std::uint8_t>();
    const auto where = cursor.read<std::uint16_t>();
    const auto size = cursor.read<std::uint8_t>();
    if (!file.has_value() || !what.has_value() || !where.has_value() || !size.has_value()) {
        return false;
    }
    const auto paths = files.paths();
    if (paths.empty()) return false;
    const auto& path = paths[*file % paths.size()];
    std::string content = files.content(path);
    const std::size_t at = *where % (content.size() + 1);
    const std::size_t count = std::min<std::size_t>(*size, content.size() - at);
    if (*what % 8 == 7) {
        files.erase(path);
        return true;
    }
    if (*what % 4 == 3) {
        content.erase(at, count);
    } else {
        const auto bytes = cursor.read_bytes(std::min<std::size_t>(*size, cursor.remaining()));
        if (!bytes.has_value()) return false;
        if (*what % 4 == 0) content.insert(at, as_text(*bytes));
        if (*what % 4 != 0) content.replace(at, std::min(count, bytes->size()), as_text(*bytes));
    }
    files.set(path, std::move(content));
    return true;
}

bool same(const FakeFiles& one, const FakeFiles& other) {
    if (one.paths() != other.paths()) return false;
    for (const auto& path : one.paths()) {
        if (one.content(path) != other.content(path)) return false;
    }
    return true;
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const LogFixture& log = genuine();
    FakeFiles files = log.files.copy();
    ByteCursor cursor(Bytes(reinterpret_cast<const std::byte*>(data), size));
    for (int edits = 0; edits < 8 && edit(cursor, files); ++edits) {
    }
    const VerifyReport report = log.verify_of(files);
    // The two slots of the head file differ in age only; an empty lock file is nothing.
    const bool genuine_still = same(log.files, files);
    if (genuine_still) CHECK(report.state == LogState::intact);
    if (!genuine_still && report.state == LogState::intact) {
        for (const auto& path : log.files.paths()) {
            if (path.extension() != ".jsonl" && path.extension() != ".chain") continue;
            CHECK(files.has(path) && files.content(path) == log.files.content(path));
        }
    }
    (void)report.to_text();
    return 0;
}
