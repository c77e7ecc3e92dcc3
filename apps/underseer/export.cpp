#include "export.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/os.h"
#include "output_file.h"
#include "table.h"
#include "target.h"

namespace underseer::cli {

namespace {

using agent::Question;
using agent::Topic;

// The guest gives its release: nothing of it may lead to another directory or hide the file.
std::string file_name_of(std::string release) {
    constexpr std::size_t kMaxReleaseBytes = 64;  // __NEW_UTS_LEN, include/uapi/linux/utsname.h
    release.resize(std::min(release.size(), kMaxReleaseBytes));
    for (char& c : release) {
        const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                           (c >= '0' && c <= '9') || c == '-' || c == '+' || c == '.' || c == '_';
        if (!plain) c = '_';
    }
    return "linux-" + release + ".json";
}

}  // namespace

Result<int> export_symbols(Options options) {
    const bool named = !options.argument.empty();
    if (named) TRY(check_output(options));
    auto introspector = TRY(open_introspector(options));
    if (!named) {
        const auto info = TRY(introspector.ask<event::SystemInfo>({.topic = Topic::info}));
        if (info.items.size() != 1) {
            return fail(Code::malformed, "the introspector sent no system");
        }
        options.argument = file_name_of(info.items.front().kernel_release);
        TRY(check_output(options));
    }
    // Every part but the last is full, so a worker that speaks the truth needs no more of them.
    constexpr std::size_t kMaxParts = limits::kMaxSymbolFileBytes / (agent::kItemsFrameBytes / 2);
    const auto parts =
        TRY(introspector.ask<agent::TextPart>({.topic = Topic::symbol_file}, kMaxParts));
    auto file = TRY(PartialFile::create(options.argument));
    const StopSignals stop;
    std::uint64_t bytes = 0;
    for (const agent::TextPart& part : parts.items) {
        if (stop.wanted()) return fail(Code::gone, "interrupted; no symbol file was written");
        TRY(write_all(file.fd(), as_bytes(part.text)));
        bytes += part.text.size();
    }
    TRY(file.keep_as(options.argument, options.force));
    fmt::print("{}: {:.1f} MiB\n", printable(options.argument),
               static_cast<double>(bytes) / (1u << 20));
    return 0;
}

}  // namespace underseer::cli
