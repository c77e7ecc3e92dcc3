// Border: a kernel's or program's file, which somebody has downloaded, and a baseline, which
// another host's operator may have made. All of it is the input. Must hold: whatever is read from
// it lies inside of it, and what was read once is read again as the same.
#include "guest_linux/built_kernel.h"
#include "guest_linux/program_set.h"

namespace {
using namespace underseer;
using namespace underseer::guest_linux;

void check(const BuiltKernel& kernel) {
    for (const StartPatch& one : kernel.patches) {
        CHECK(one.at + std::size_t{one.size_bytes} <= kernel.text.size());
        if (one.kind != StartPatch::Kind::alternative) continue;
        CHECK(one.other + std::size_t{one.other_bytes} <= kernel.replacements.size());
    }
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const Bytes input(reinterpret_cast<const std::byte*>(data), size);
    if (const auto packed = packed_kernel(input); packed.has_value()) {
        CHECK(packed->data() >= input.data() &&
              packed->data() + packed->size() <= input.data() + input.size());
    }
    if (const auto built = read_built_kernel(input); built.has_value()) {
        check(*built);
        const auto again = unpack_built_kernel(as_bytes(pack(*built)));
        CHECK(again.has_value() && again->text == built->text &&
              again->patches.size() == built->patches.size());
    }
    if (const auto unpacked = unpack_built_kernel(input); unpacked.has_value()) check(*unpacked);
    if (auto program = read_program(input); program.has_value()) {
        for (const KnownPages& part : program->pages) {
            CHECK((part.first + part.count()) * kPageSize < input.size() + kPageSize);
        }
        program->path = "/program";
        const std::string packed = pack(ProgramSet{.package = "set", .programs = {*program}});
        const auto again = unpack_programs(as_bytes(packed));
        CHECK(again.has_value() && pack(again->front()) == packed);
    }
    if (const auto sets = unpack_programs(input); sets.has_value()) {
        std::string packed;
        for (const ProgramSet& set : *sets) packed += pack(set);
        CHECK(packed == std::string(as_text(input)));
    }
    return 0;
}
