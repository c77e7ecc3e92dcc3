#include "dump.h"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>

#include "base/counted.h"
#include "guest_memory/elf_writer.h"
#include "json/writer.h"
#include "output_file.h"
#include "ram_reader.h"
#include "table.h"

namespace underseer::cli {

namespace {

using Clock = std::chrono::steady_clock;
constexpr double kMib = 1u << 20;

// One line on standard error, drawn again ten times a second; nothing when that is no terminal.
class ProgressBar {
  public:
    ProgressBar() : shown_(::isatty(STDERR_FILENO) != 0) {}
    ~ProgressBar() {
        if (drawn_) fmt::print(stderr, "\r\x1b[K");
    }

    void show(std::uint64_t done, std::uint64_t all) {
        const Clock::time_point now = Clock::now();
        if (!shown_ || now - latest_ < std::chrono::milliseconds(100)) return;
        latest_ = now;
        constexpr std::uint64_t kWidth = 30;
        const std::uint64_t full = all == 0 ? kWidth : done * kWidth / all;
        const double seconds = std::chrono::duration<double>(now - start_).count();
        fmt::print(stderr, "\r\x1b[K[{:#<{}}{:.<{}}] {:.0f} of {:.0f} MiB, {:.0f} MiB/s", "", full,
                   "", kWidth - full, static_cast<double>(done) / kMib,
                   static_cast<double>(all) / kMib, static_cast<double>(done) / kMib / seconds);
        std::fflush(stderr);
        drawn_ = true;
    }

  private:
    bool shown_, drawn_ = false;
    Clock::time_point start_ = Clock::now(), latest_;
};

void print_summary(const Options& options, const RamReader& memory,
                   const guest_memory::ElfDump& dump) {
    if (!options.json) {
        fmt::print("{}: {:.0f} MiB of RAM, {:.0f} MiB of it not zero\n",
                   printable(options.argument), static_cast<double>(dump.ram_bytes) / kMib,
                   static_cast<double>(dump.stored_bytes) / kMib);
        return;
    }
    std::string text;
    json::Writer writer(&text, json::Style::pretty);
    writer.begin_object()
        .member("output", options.argument)
        .member("format", "elf")
        .member("ram_bytes", dump.ram_bytes)
        .member("file_bytes", dump.file_bytes)
        .member("stored_bytes", dump.stored_bytes)
        .member("absent_pages", dump.absent_pages)
        .member("failed_pages", dump.failed_pages)
        .member("first_failed", dump.first_failed.value)
        .member("first_failure", dump.why);
    writer.key("regions").begin_array();
    for (const guest_memory::RamRegion& region : memory.regions()) {
        writer.begin_object()
            .member("begin", region.begin.value)
            .member("size_bytes", region.size_bytes)
            .end_object();
    }
    writer.end_array().end_object();
    fmt::print("{}\n", text);
}

}  // namespace

Result<int> dump(agent::Introspector introspector, const Options& options) {
    auto memory = TRY(RamReader::open(&introspector));
    auto file = TRY(PartialFile::create(options.argument));
    const StopSignals stop;
    auto written = [&] {
        ProgressBar bar;
        return guest_memory::write_elf_core(memory, file.fd(),
                                            [&](std::uint64_t done, std::uint64_t all) {
                                                bar.show(done, all);
                                                return !memory.broken() && !stop.wanted();
                                            });
    }();
    if (stop.wanted()) return fail(Code::gone, "interrupted; no dump was written");
    if (memory.broken()) return fail(*memory.broken());
    const guest_memory::ElfDump dump = TRY(std::move(written));
    TRY(file.keep_as(options.argument, options.force));
    print_summary(options, memory, dump);
    if (dump.absent_pages != 0) {
        fmt::print(stderr, "underseer: {} absent from the source: zeros in the dump\n",
                   counted(dump.absent_pages, "page"));
    }
    if (dump.failed_pages == 0) return 0;
    fmt::print(stderr,
               "underseer: {} could not be read: zeros in the dump. The first, at {:#x}: {}\n",
               counted(dump.failed_pages, "page"), dump.first_failed.value,
               printable(dump.why.empty() ? "the source ends there" : dump.why));
    return 10;
}

}  // namespace underseer::cli
