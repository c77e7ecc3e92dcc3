#include "agent/recorder.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace underseer::agent {

namespace {

using namespace std::chrono_literals;

constexpr auto kTick = 250ms;
// A log that failed is opened again after this many ticks, and old segments are looked for.
constexpr unsigned kReopenTicks = 20, kRetentionTicks = 240;

}  // namespace

std::uint64_t Recorder::now_ns() {
    return static_cast<std::uint64_t>(
        std::chrono::nanoseconds(std::chrono::system_clock::now().time_since_epoch()).count());
}

Recorder::Recorder(EventLoop* loop, const crypto::SigningKey* key, Options options,
                   std::string host)
    : loop_(loop),
      key_(key),
      options_(std::move(options)),
      source_{std::move(host), crypto::key_id(key->public_key())} {}

Recorder::~Recorder() {
    loop_->cancel(ticking_);
    loop_->cancel(syncing_);
}

Result<std::unique_ptr<Recorder>> Recorder::open(EventLoop* loop, const crypto::SigningKey* key,
                                                 Options options, std::string host) {
    std::unique_ptr<Recorder> recorder(
        new Recorder(loop, key, std::move(options), std::move(host)));
    TRY(recorder->open_log(recorder->critical_));
    recorder->opened_ = recorder->critical_.writer->opened();
    TRY(recorder->open_log(recorder->bulk_));
    recorder->tick();
    return recorder;
}

Result<void> Recorder::open_log(Log& log) {
    event_log::WriterOptions options;
    options.agent = source_.agent;
    options.log = log.name;
    options.boot_id = options_.boot_id;
    options.segment_bytes = options_.segment_bytes;
    auto writer =
        TRY(event_log::Writer::open(options_.directory / log.name, std::move(options), key_));
    log.writer.emplace(std::move(writer));
    if (log.lost > 0) log.writer->note_dropped("recorder", std::exchange(log.lost, 0));
    log.trouble.clear();
    return {};
}

const event_log::OpenedLog& Recorder::opened() const {
    return opened_;
}

void Recorder::failed(Log& log, const Error& error) {
    log.writer.reset();
    log.trouble = error.to_text();
    fmt::print(stderr, "<2>the {} log takes no more events: {}; trying again\n", log.name,
               log.trouble);
}

void Recorder::append(Log& log, const std::string& line) {
    if (!log.writer) {
        ++log.lost;
        return;
    }
    if (auto written = log.writer->append(as_bytes(line)); !written.has_value()) {
        ++log.lost;
        // An event that is too long is lost alone; a log that failed takes no more.
        if (log.writer->poison()) return failed(log, written.error());
        log.writer->note_dropped("recorder", std::exchange(log.lost, 0));
        return;
    }
    ++logged_;
}

void Recorder::critical(const std::string& line) {
    append(critical_, line);
    if (syncing_ != 0) return;
    // All that comes in this round of the loop shares one sync.
    syncing_ = loop_->after(0ms, [this] {
        syncing_ = 0;
        if (!critical_.writer) return;
        if (auto synced = critical_.writer->sync(); !synced.has_value()) {
            failed(critical_, synced.error());
        }
    });
}

void Recorder::bulk(const std::string& line) {
    append(bulk_, line);
}

std::string Recorder::trouble() const {
    if (!critical_.trouble.empty()) return "critical: " + critical_.trouble;
    return bulk_.trouble.empty() ? "" : "bulk: " + bulk_.trouble;
}

void Recorder::tick() {
    ++ticks_;
    for (Log* log : {&critical_, &bulk_}) {
        if (log->writer) {
            if (auto ticked = log->writer->tick(); !ticked.has_value()) {
                failed(*log, ticked.error());
            }
            if (ticks_ % kRetentionTicks == 0) remove_old(*log);
        } else if (ticks_ % kReopenTicks == 0) {
            if (auto opened = open_log(*log); !opened.has_value()) {
                log->trouble = opened.error().to_text();
            }
        }
    }
    ticking_ = loop_->after(kTick, [this] { tick(); });
}

// Oldest first, whole segments, never the newest: until the events that are left fit.
void Recorder::remove_old(Log& log) {
    if (!log.writer) return;
    std::vector<std::pair<std::uint64_t, std::uint64_t>> segments;  // number, bytes
    std::error_code ignored;
    for (const auto& entry :
         std::filesystem::directory_iterator(options_.directory / log.name, ignored)) {
        const std::string stem = entry.path().stem();
        if (entry.path().extension() != ".jsonl") continue;
        std::uint64_t number = 0;
        const auto parsed = std::from_chars(stem.data(), stem.data() + stem.size(), number);
        if (parsed.ec == std::errc{}) segments.emplace_back(number, entry.file_size(ignored));
    }
    std::ranges::sort(segments, std::greater{});
    std::uint64_t kept = 0;
    for (const auto& [number, bytes] : segments) {
        kept += bytes;
        if (kept <= options_.keep_bytes || number == segments.front().first) continue;
        if (auto removed = log.writer->remove_segments_before(number + 1); !removed.has_value()) {
            failed(log, removed.error());
        }
        return;
    }
}

Result<void> Recorder::close() {
    for (Log* log : {&critical_, &bulk_}) {
        if (log->writer) TRY(log->writer->close());
    }
    return {};
}

}  // namespace underseer::agent
