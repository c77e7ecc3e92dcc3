#include "dump.h"

#include <fmt/format.h>

#include <cstdio>

#include "base/counted.h"
#include "guest_memory/elf_writer.h"
#include "json/writer.h"
#include "output_file.h"
#include "progress.h"
#include "ram_reader.h"
#include "table.h"

namespace underseer::cli {

namespace {

constexpr double kMib = 1u << 20;

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

std::string text_of(std::uint64_t done, std::uint64_t all, const ProgressBar& bar) {
    return fmt::format("{:.0f} of {:.0f} MiB, {:.0f} MiB/s", static_cast<double>(done) / kMib,
                       static_cast<double>(all) / kMib,
                       static_cast<double>(done) / kMib / bar.seconds());
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
                                                bar.show(done, all, text_of(done, all, bar));
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
