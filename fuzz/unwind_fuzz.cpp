// Border: the kernel's tables to unwind by, and a task's stack. A genuine kernel has been attached
// to; the input is what its tables and the stack hold. Must hold: the walk ends, within the stack
// and its bound, and says why where it does not reach the stack's begin.
#include "guest_linux/call_stack.h"
#include "guest_linux/fake_guest.h"

namespace {
using namespace underseer;
using namespace underseer::guest_linux;

constexpr unsigned kEntries = 64;
constexpr std::size_t kIpBytes = 4 * kEntries, kEntryBytes = 6 * kEntries, kStackBytes = 4096;

struct Tables {
    Tables() {
        guest.define("orc_entry", 6,
                     "sp_offset:short@0 bp_offset:short@2 sp_reg:int@4/0/4 bp_reg:int@4/4/4 "
                     "type:int@4/8/3 signal:int@4/11/1");
        code = guest.add_function("first", "\x90");
        guest.add_function("second", "\x90");
        guest.add_function("_etext", "\x90");
        ips = guest.allocate(kIpBytes + kEntryBytes, kPageSize);
        entries = ips + kIpBytes;
        guest.add_symbol("__start_orc_unwind_ip", 'R', ips.value);
        guest.add_symbol("__stop_orc_unwind_ip", 'R', ips.value + kIpBytes);
        guest.add_symbol("__start_orc_unwind", 'R', entries.value);
        guest.add_symbol("__stop_orc_unwind", 'R', entries.value + kEntryBytes);
        guest.finish();
        kernel = Kernel::attach(&guest).value();
    }

    FakeGuest guest{{}};
    GuestVirt code, ips, entries;
    std::unique_ptr<Kernel> kernel;
};

void walk(Tables& tables, const StackCopy& stack) {
    auto unwind = UnwindTables::of(tables.kernel.get(), &tables.kernel->memory()).value();
    const UnwindBy by{.is_code = [&](GuestVirt at) { return unwind.is_code(at); },
                      .find = [&](GuestVirt at) { return unwind.find(at); }};
    const StackStart start{.code = tables.code + 16,
                           .sp = stack.begin.value,
                           .bp = stack.word(stack.begin.value).value_or(0)};
    const CallStack found = walk_stack(stack, start, by);
    CHECK(found.frames.size() <= limits::kMaxStackFrames);
    for (const auto& frame : found.frames) {
        CHECK(unwind.is_code(frame.code));
        CHECK(!frame.is_guess || !found.ended.empty());
    }
    if (found.user_registers) CHECK(found.ended.empty());
    (void)read_user_registers(stack, false);
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static Tables tables;
    std::vector<std::byte> bytes(kIpBytes + kEntryBytes + kStackBytes);
    std::memcpy(bytes.data(), data, std::min(size, bytes.size()));
    // So that inputs need not know where the code lies: these are offsets into it.
    for (unsigned i = 0; i < kEntries; ++i) {
        std::int32_t offset = 0;
        std::memcpy(&offset, bytes.data() + 4 * i, sizeof offset);
        const std::uint64_t at = tables.code.value - (tables.ips.value + 4 * i);
        offset = static_cast<std::int32_t>(static_cast<std::uint32_t>(offset) +
                                           static_cast<std::uint32_t>(at));
        std::memcpy(bytes.data() + 4 * i, &offset, sizeof offset);
    }
    std::memcpy(tables.guest.host(tables.ips), bytes.data(), kIpBytes + kEntryBytes);
    StackCopy stack{.begin = GuestVirt{0xffffc90000010000},
                    .bytes = {bytes.begin() + kIpBytes + kEntryBytes, bytes.end()}};
    // Words that are small are places in the code, or in the stack.
    for (std::size_t at = 0; at < kStackBytes; at += 8) {
        std::uint64_t word = 0;
        std::memcpy(&word, stack.bytes.data() + at, sizeof word);
        if (word != 0 && word < 2048) word += tables.code.value;
        if (word >= 2048 && word < 2048 + kStackBytes) word += stack.begin.value - 2048;
        std::memcpy(stack.bytes.data() + at, &word, sizeof word);
    }
    tables.kernel->new_epoch();
    walk(tables, stack);
    return 0;
}
