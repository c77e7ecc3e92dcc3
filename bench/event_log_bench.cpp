// What signing costs: events a second into the signed, chained log on one core, against plain
// appending of the same bytes (same block size, same number of syncs). `--json` for machines.
//
// Rounds of both are interleaved; the figures are medians, the ratio is the median of the paired
// ratios. CPU seconds stand beside: the disk is shared, the processor's work is the log's own.
#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "crypto/signing.h"
#include "event_log/verify.h"
#include "event_log/writer.h"
#include "json/writer.h"

namespace {

using namespace underseer;

constexpr int kRounds = 9;
constexpr std::size_t kEvents = 200'000;
constexpr std::size_t kSyncEvery = 50'000;  // a second's worth at a high rate

struct Cost {
    double wall_s = 0;
    double cpu_s = 0;
};

double cpu_seconds() {
    rusage usage{};
    ::getrusage(RUSAGE_SELF, &usage);
    const auto seconds = [](const timeval& time) {
        return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
    };
    return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

template <typename F>
Cost cost_of(F&& work) {
    const double cpu = cpu_seconds();
    const auto start = std::chrono::steady_clock::now();
    work();
    return {std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(),
            cpu_seconds() - cpu};
}

// OCSF process activities of about 600 bytes, all different.
std::vector<std::string> make_events() {
    std::vector<std::string> events;
    for (std::size_t i = 0; i < kEvents; ++i) {
        std::string text;
        json::Writer writer(&text);
        writer.begin_object().member("class_uid", 1007).member("category_uid", 1);
        writer.member("activity_id", 1)
            .member("severity_id", 1)
            .member("time", 1'800'000'000'000 + i);
        writer.key("metadata").begin_object().member("version", "1.9.0");
        writer.member("uid", fmt::format("{:032x}", i * 0x9e3779b97f4a7c15ull)).end_object();
        writer.key("process").begin_object().member("pid", i % 32768).member("name", "bash");
        writer.member("cmd_line", std::string(280, static_cast<char>('a' + i % 26)));
        writer.key("file").begin_object().member("path", "/usr/bin/bash").end_object().end_object();
        writer.key("device").begin_object().member("uid", "1b4e28ba-2fa1-11d2-883f-0016d3cca427");
        writer.member("hostname", "edge-host-17").end_object();
        writer.member("message", fmt::format("process {} started in instance web-{}", i, i % 40));
        writer.end_object();
        events.push_back(std::move(text));
    }
    return events;
}

Cost signed_log(const std::filesystem::path& directory, const std::vector<std::string>& events,
                const crypto::SigningKey& enrolment) {
    event_log::WriterOptions options;
    options.agent = "bench";
    options.log = "bulk";
    options.boot_id = "boot";
    auto writer = event_log::Writer::open(directory, options, &enrolment).value();
    return cost_of([&] {
        for (std::size_t i = 0; i < events.size(); ++i) {
            writer.append(as_bytes(events[i])).value();
            if ((i + 1) % kSyncEvery == 0) CHECK(writer.sync().has_value());
        }
    });
}

Cost plain_append(const std::filesystem::path& path, const std::vector<std::string>& events) {
    const Fd fd = open_file(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600).value();
    std::string block;
    block.reserve(limits::kMaxBatchBytes);
    return cost_of([&] {
        std::size_t held = 0;
        const auto flush = [&] {
            CHECK(write_all(fd.get(), as_bytes(block)).has_value());
            block.clear();
            held = 0;
        };
        for (std::size_t i = 0; i < events.size(); ++i) {
            block += events[i];
            block += '\n';
            if (++held == limits::kMaxBatchEvents) flush();
            if ((i + 1) % kSyncEvery == 0) {
                flush();
                CHECK(::fdatasync(fd.get()) == 0);
            }
        }
    });
}

double median(std::vector<double> values) {
    std::ranges::nth_element(values,
                             values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2));
    return values[values.size() / 2];
}

void pin_to_this_core() {
    cpu_set_t cores;
    CPU_ZERO(&cores);
    CPU_SET(static_cast<unsigned>(std::max(0, ::sched_getcpu())), &cores);
    ::sched_setaffinity(0, sizeof cores, &cores);
}

}  // namespace

int main(int argc, char** argv) {
    const bool as_json = argc > 1 && std::strcmp(argv[1], "--json") == 0;
    std::string form = (std::filesystem::temp_directory_path() / "log_bench_XXXXXX").string();
    CHECK(::mkdtemp(form.data()) != nullptr);
    const std::filesystem::path place = form;
    pin_to_this_core();

    const auto events = make_events();
    std::size_t bytes = 0;
    for (const auto& event : events) bytes += event.size() + 1;
    const auto enrolment = crypto::SigningKey::generate().value();

    const auto count = static_cast<double>(kEvents);
    std::vector<double> signed_rate, signed_cpu_rate, plain_rate, plain_cpu_rate, wall_ratio,
        verify_rate;
    for (int round = 0; round < kRounds; ++round) {
        const auto directory = place / "log";
        const Cost plain = plain_append(place / "plain", events);
        const Cost with_log = signed_log(directory, events, enrolment);
        const Cost verifying = cost_of([&] {
            const auto report = event_log::verify(directory, enrolment.public_key());
            CHECK(report.state == event_log::LogState::intact && report.events == kEvents);
        });
        std::filesystem::remove_all(directory);
        plain_rate.push_back(count / plain.wall_s);
        plain_cpu_rate.push_back(count / plain.cpu_s);
        signed_rate.push_back(count / with_log.wall_s);
        signed_cpu_rate.push_back(count / with_log.cpu_s);
        wall_ratio.push_back(plain.wall_s / with_log.wall_s);
        verify_rate.push_back(count / verifying.wall_s);
    }
    std::filesystem::remove_all(place);

    if (as_json) {
        std::string out;
        json::Writer writer(&out, json::Style::pretty);
        writer.begin_object().member("bench", "event_log").member("rounds", kRounds);
        writer.member("events", kEvents).member("bytes_per_event", bytes / kEvents);
        writer.member("signed_events_per_s", median(signed_rate));
        writer.member("signed_events_per_cpu_s", median(signed_cpu_rate));
        writer.member("plain_events_per_s", median(plain_rate));
        writer.member("plain_events_per_cpu_s", median(plain_cpu_rate));
        writer.member("ratio_to_plain", median(wall_ratio));
        writer.member("verified_events_per_s", median(verify_rate)).end_object();
        fmt::print("{}\n", out);
        return 0;
    }
    fmt::print("event log: {} events of {} bytes, sync every {}, median of {} interleaved rounds\n",
               kEvents, bytes / kEvents, kSyncEvery, kRounds);
    fmt::print("{:<34}{:>14}{:>18}\n", "", "events/s", "events/CPU-s");
    fmt::print("{:<34}{:>14.0f}{:>18.0f}\n", "plain append", median(plain_rate),
               median(plain_cpu_rate));
    fmt::print("{:<34}{:>14.0f}{:>18.0f}   goal >= 200000\n", "signed, chained log",
               median(signed_rate), median(signed_cpu_rate));
    fmt::print("{:<34}{:>14.2f}\n", "signed / plain", median(wall_ratio));
    fmt::print("{:<34}{:>14.0f}\n", "verification", median(verify_rate));
}
