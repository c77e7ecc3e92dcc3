// Border: a program's ELF file, its unwind information and symbols, and its stack. All of it is the
// input. Must hold: files are opened, functions found and named, and the walk ends, within the
// bounds of each, and says why where it does not reach the stack's begin.
#include "guest_linux/elf_symbols.h"
#include "guest_linux/fake_elf.h"
#include "guest_linux/user_stack.h"

namespace {
using namespace underseer;
using namespace underseer::guest_linux;

constexpr std::uint64_t kStackAt = 0x7ffd0000;
constexpr std::size_t kStackBytes = 4096;

struct Process {
    std::string file;
    std::string stack;
    std::uint64_t bias = 0;  // how much further up the file is loaded
};

void walk(const Process& process) {
    const ReadFile read = read_text(process.file);
    const auto image = ElfImage::of(read);
    if (!image.has_value()) return;
    std::uint64_t index_bytes = 1u << 20, walk_bytes = limits::kMaxCfiBytesOfWalk;
    const auto frames = image->call_frame_info(read, index_bytes);
    const ElfSymbols symbols = ElfSymbols::of(*image, read, process.bias, index_bytes);
    const ReadImage read_image = [&](std::uint64_t at, MutableBytes into) {
        return image->read(read, at, into);
    };
    UnwindRow row;
    const UnwindUserBy by{
        .is_code = [&](GuestVirt at) { return image->is_code(at.value - process.bias); },
        .find = [&](GuestVirt at) -> Result<const UnwindRow*> {
            if (!frames.has_value()) return fail(frames.error());
            row = TRY(frames->row_at(read_image, at.value - process.bias, walk_bytes));
            return &row;
        },
        .word = [&](GuestVirt at) -> Result<std::uint64_t> {
            const auto word = load_le<std::uint64_t>(as_bytes(process.stack), at.value - kStackAt);
            if (!word) return fail(Code::unavailable, "not on the stack");
            return *word;
        }};
    UserRegisters registers{.code = GuestVirt{0x401110 + process.bias}};
    registers.registers.fill(kStackAt + 16);
    registers.registers[kDwarfRip] = registers.code.value;
    const UserStack found = walk_user_stack(registers, by);
    CHECK(!found.frames.empty() && found.frames.size() <= limits::kMaxUserStackFrames);
    for (const UserFrame& frame : found.frames) {
        CHECK(!frame.is_caller || by.is_code(frame.code));
        const std::uint64_t address = frame.executed().value - process.bias;
        const auto named = symbols.find(read, address, ElfSymbols::Bounds{row.begin, row.end});
        if (!named.has_value()) continue;
        CHECK(!named->name.empty() && named->name.size() <= 256);
        CHECK(named->offset_bytes <= address);
    }
}
}  // namespace

// {a byte: relocated or not; the stack; the file}
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    std::string input(reinterpret_cast<const char*>(data), size);
    if (input.size() < 1 + kStackBytes) input.resize(1 + kStackBytes);
    const std::uint64_t bias = (input[0] & 1) != 0 ? 0x7f0000000000 : 0u;
    walk({.file = input.substr(1 + kStackBytes),
          .stack = input.substr(1, kStackBytes),
          .bias = bias});
    return 0;
}
