#include "guest_linux/call_frame_info.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <link.h>
#include <ucontext.h>
#include <unwind.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "base/limits.h"
#include "base/os.h"
#include "guest_linux/fake_elf.h"
#include "guest_linux/user_stack.h"

namespace underseer::guest_linux {
namespace {

constexpr std::uint64_t kCfiAt = 0x403000, kFunction = 0x401000;

// One function of 0x80 bytes, and what holds at a place in it.
Result<UnwindRow> row_of(std::string_view program, std::uint64_t offset,
                         std::string_view common_program = FakeCfi::kUsualBegin,
                         std::string_view augmentation = "zR") {
    FakeCfi cfi(kCfiAt);
    cfi.add_function(cfi.add_common(common_program, augmentation), kFunction, 0x80, program);
    const ReadImage read = read_text(cfi.bytes(), kCfiAt);
    const auto info = CallFrameInfo::without_table(read, kCfiAt, cfi.bytes().size()).value();
    std::uint64_t budget = limits::kMaxCfiBytesOfWalk;
    return info.row_at(read, kFunction + offset, budget);
}

struct FakeProcess {
    DwarfRegisters registers;
    std::map<std::uint64_t, std::uint64_t> words;
    ReadWord word = [this](GuestVirt at) -> Result<std::uint64_t> {
        const auto found = words.find(at.value);
        if (found == words.end()) return fail(Code::unreadable, "no such word");
        return found->second;
    };
};

TEST(CallFrameInfo, says_where_the_caller_is_at_each_place_of_a_function) {
    // push %rbp; mov %rsp,%rbp; push %rbx; ..; leave; ret
    const std::string program("\x41\x0e\x10\x86\x02\x43\x0d\x06\x41\x83\x03\x02\x20\x0c\x07\x08",
                              16);
    const UnwindRow begin = row_of(program, 0).value();
    EXPECT_EQ(begin.begin, kFunction);
    EXPECT_EQ(begin.end, kFunction + 0x80);
    EXPECT_EQ(begin.cfa_register, kDwarfRsp);
    EXPECT_EQ(begin.cfa_offset, 8u);
    EXPECT_EQ(begin.registers[kDwarfRip].kind, RegisterRule::Kind::at_offset);
    EXPECT_EQ(begin.registers[kDwarfRip].number, -8);
    EXPECT_EQ(begin.registers[kDwarfRbp].kind, RegisterRule::Kind::unspecified);
    const UnwindRow body = row_of(program, 0x10).value();
    EXPECT_EQ(body.cfa_register, kDwarfRbp);
    EXPECT_EQ(body.cfa_offset, 16u);
    EXPECT_EQ(body.registers[kDwarfRbp].number, -16);
    EXPECT_EQ(body.registers[3].number, -24);
    const UnwindRow end = row_of(program, 0x30).value();
    EXPECT_EQ(end.cfa_register, kDwarfRsp);
    EXPECT_EQ(end.cfa_offset, 8u);
    EXPECT_EQ(row_of(program, 0x80).error().code, Code::not_found);

    FakeProcess process;
    process.registers = {};
    process.registers[kDwarfRbp] = 0x7000;
    process.registers[kDwarfRsp] = 0x6000;
    process.registers[12] = 0x12;
    process.registers[0] = 0x99;
    process.words = {{0x7008, 0x401234}, {0x7000, 0x7100}};
    const DwarfRegisters caller = caller_of(body, process.registers, process.word).value();
    EXPECT_EQ(caller[kDwarfRip], 0x401234u);
    EXPECT_EQ(caller[kDwarfRsp], 0x7010u);
    EXPECT_EQ(caller[kDwarfRbp], 0x7100u);
    EXPECT_EQ(caller[12], 0x12u);
    // A call changes it; and that one is where nothing can be read.
    EXPECT_FALSE(caller[0]);
    EXPECT_FALSE(caller[3]);
}

TEST(CallFrameInfo, is_searched_by_its_table_as_without) {
    FakeCfi cfi(kCfiAt);
    const std::uint64_t common = cfi.add_common(), other = cfi.add_common({}, "zPLR", 3);
    for (std::uint32_t i = 0; i < 9; ++i) {
        // Not in the order of their code.
        const std::uint64_t begin = kFunction + 0x100 * (i * 5 % 9);
        cfi.add_function(i % 2 == 0 ? common : other, begin, 0x40, "\x0c\x07\x10\x90\x02");
    }
    cfi.add_end();
    const std::uint64_t table_at = kCfiAt + cfi.bytes().size();
    const std::string bytes = cfi.bytes() + cfi.table(table_at);
    const ReadImage read = read_text(bytes, kCfiAt);
    const auto by_table = CallFrameInfo::with_table(read, table_at).value();
    const auto without = CallFrameInfo::without_table(read, kCfiAt, cfi.bytes().size()).value();
    for (std::uint64_t at = kFunction - 0x20; at < kFunction + 0xa00; at += 0x10) {
        std::uint64_t budget = limits::kMaxCfiBytesOfWalk;
        const auto one = by_table.row_at(read, at, budget), two = without.row_at(read, at, budget);
        ASSERT_EQ(one.has_value(), two.has_value()) << std::hex << at;
        EXPECT_EQ(one.has_value(), at >= kFunction && at < kFunction + 0x900 && at % 0x100 < 0x40);
        if (!one.has_value()) {
            EXPECT_EQ(one.error().code, Code::not_found);
            EXPECT_EQ(two.error().code, Code::not_found);
            continue;
        }
        EXPECT_EQ(one->begin, at / 0x100 * 0x100);
        EXPECT_EQ(one->end, two->end);
    }
}

TEST(CallFrameInfo, remembers_states_and_restores_registers) {
    // Saves rbx and r12; an early return in the middle; and at last rbx is as it began.
    const std::string program(
        "\x83\x03\x8c\x04\x0e\x20\x41\x0a\x0e\x08\xc3\xcc\x41\x0b\x41\xc3\x41"
        "\x05\x0d\x05\x06\x0d\x41\x07\x0c\x08\x03\x09\x0e\x06",
        30);
    EXPECT_EQ(row_of(program, 0).value().registers[3].number, -24);
    const UnwindRow early = row_of(program, 1).value();
    EXPECT_EQ(early.cfa_offset, 8u);
    EXPECT_EQ(early.registers[3].kind, RegisterRule::Kind::unspecified);
    EXPECT_EQ(early.registers[12].kind, RegisterRule::Kind::unspecified);
    const UnwindRow on = row_of(program, 2).value();
    EXPECT_EQ(on.cfa_offset, 0x20u);
    EXPECT_EQ(on.registers[3].number, -24);
    EXPECT_EQ(on.registers[12].number, -32);
    EXPECT_EQ(row_of(program, 3).value().registers[3].kind, RegisterRule::Kind::unspecified);
    const UnwindRow last = row_of(program, 5).value();
    EXPECT_EQ(last.registers[13].kind, RegisterRule::Kind::unspecified);
    EXPECT_EQ(last.registers[12].kind, RegisterRule::Kind::undefined);
    EXPECT_EQ(last.registers[3].kind, RegisterRule::Kind::same);
    EXPECT_EQ(last.registers[14].kind, RegisterRule::Kind::of_register);
}

// DW_CFA_def_cfa_expression as ld writes it for .plt: rsp+8, and 8 more behind its push.
TEST(CallFrameInfo, computes_the_stack_of_a_plt) {
    const std::string program(
        "\x0e\x10\x46\x0e\x18\x4a\x0f\x0b\x77\x08\x80\x00\x3f\x1a\x3b\x2a\x33"
        "\x24\x22",
        19);
    const UnwindRow row = row_of(program, 0x20).value();
    FakeProcess process;
    process.registers[kDwarfRsp] = 0x7000;
    process.words = {{0x7000, 1}, {0x7008, 2}};
    for (const auto& [rip, result] : {std::pair{0x401020u, 1u}, {0x40102au, 1u}, {0x40102bu, 2u}}) {
        process.registers[kDwarfRip] = rip;
        const DwarfRegisters caller = caller_of(row, process.registers, process.word).value();
        EXPECT_EQ(caller[kDwarfRip], result);
        EXPECT_EQ(caller[kDwarfRsp], 0x7000 + 8 * result);
    }
}

// As glibc says of __restore_rt: all registers are in a struct ucontext on the stack.
TEST(CallFrameInfo, finds_the_registers_that_a_signal_saved) {
    const std::string program(
        "\x0f\x04\x77\xa0\x01\x06"   // the CFA is the saved rsp
        "\x10\x06\x03\x77\xf8\x00"   // rbp
        "\x10\x07\x03\x77\xa0\x01"   // rsp
        "\x10\x10\x03\x77\xa8\x01",  // rip
        24);
    const UnwindRow row = row_of(program, 0, {}, "zRS").value();
    EXPECT_TRUE(row.is_signal);
    FakeProcess process;
    process.registers[kDwarfRsp] = 0x7000;
    process.words = {{0x7078, 0x9000}, {0x70a0, 0x8000}, {0x70a8, 0x401234}};
    const DwarfRegisters caller = caller_of(row, process.registers, process.word).value();
    EXPECT_EQ(caller[kDwarfRbp], 0x9000u);
    EXPECT_EQ(caller[kDwarfRsp], 0x8000u);
    EXPECT_EQ(caller[kDwarfRip], 0x401234u);
    process.words.erase(0x70a8);
    EXPECT_FALSE(caller_of(row, process.registers, process.word).has_value());
    process.words.erase(0x70a0);
    EXPECT_FALSE(caller_of(row, process.registers, process.word).has_value());
}

TEST(CallFrameInfo, says_what_it_does_not_support) {
    const auto error = [](const Result<UnwindRow>& row) {
        return row.has_value() ? "" : row.error().to_text();
    };
    EXPECT_NE(error(row_of("\x2d", 0)).find("operation 0x2d"), std::string::npos);
    EXPECT_NE(error(row_of("\x0b", 0)).find("restores no state"), std::string::npos);
    EXPECT_NE(error(row_of(std::string(40, '\x0a'), 0)).find("too many states"), std::string::npos);
    EXPECT_NE(error(row_of("\x0f\x7f\x77", 0)).find("wanted"), std::string::npos);
    EXPECT_NE(error(row_of("\x0f\xff\x7f", 0)).find("16383 bytes"), std::string::npos);
    EXPECT_NE(error(row_of(std::string("\x0e") + std::string(12, '\xff'), 0)).find("64 bits"),
              std::string::npos);
    // A part that is not known leaves no function to be found.
    EXPECT_EQ(row_of("", 0, FakeCfi::kUsualBegin, "zX").error().code, Code::not_found);
    EXPECT_EQ(row_of("", 0, FakeCfi::kUsualBegin, "eh").error().code, Code::not_found);

    FakeProcess process;
    process.registers[kDwarfRsp] = 0x7000;
    const auto computed = [&](std::string_view expression) {
        std::string program{'\x0f', static_cast<char>(expression.size())};
        program += expression;
        const UnwindRow row = row_of(program, 0).value();
        const auto caller = caller_of(row, process.registers, process.word);
        return caller.has_value() ? std::string() : caller.error().to_text();
    };
    EXPECT_NE(computed("\x2f").find("operation 0x2f"), std::string::npos);  // a jump
    EXPECT_NE(computed("\x22").find("no value"), std::string::npos);
    EXPECT_NE(computed("").find("no value"), std::string::npos);
    EXPECT_NE(computed(std::string(40, '\x31')).find("larger stack"), std::string::npos);
    EXPECT_NE(computed(std::string("\x73\x00", 2)).find("register 3"), std::string::npos);
    EXPECT_NE(computed(std::string("\x8f\x00", 2)).find("register 31"), std::string::npos);
    // Whose stack hangs on a register that is not known, and whose caller is not told.
    const UnwindRow hanging = row_of(std::string("\x0c\x03\x08", 3), 0).value();
    EXPECT_FALSE(caller_of(hanging, process.registers, process.word).has_value());
    const UnwindRow silent = row_of("", 0, "\x0c\x07\x08").value();
    EXPECT_FALSE(caller_of(silent, process.registers, process.word).has_value());
}

TEST(CallFrameInfo, leads_no_further_than_its_bounds) {
    FakeCfi cfi(kCfiAt);
    const std::uint64_t common = cfi.add_common();
    cfi.add_function(common, kFunction, 0x80, "");
    std::string bytes = cfi.bytes();
    const std::uint64_t function = bytes.size() - 24;
    const auto row = [&](std::uint64_t budget = limits::kMaxCfiBytesOfWalk) {
        // A table with one entry, so that it is parsed whatever a scan would think of it.
        const std::string all = bytes + cfi.table(kCfiAt + bytes.size());
        const ReadImage read = read_text(all, kCfiAt);
        return CallFrameInfo::with_table(read, kCfiAt + bytes.size())
            .value()
            .row_at(read, kFunction, budget);
    };
    ASSERT_TRUE(row().has_value());
    EXPECT_EQ(row(20).error().code, Code::limit);
    const auto put = [&](std::uint64_t at, std::uint32_t word) {
        std::memcpy(bytes.data() + at, &word, sizeof word);
    };
    put(function + 4, 0);  // a CIE in its place
    EXPECT_EQ(row().error().code, Code::malformed);
    put(function + 4, 4);  // of itself
    EXPECT_EQ(row().error().code, Code::malformed);
    put(function + 4, static_cast<std::uint32_t>(function + 4));
    ASSERT_TRUE(row().has_value());
    put(function, ~0u);
    EXPECT_EQ(row().error().code, Code::limit);
    put(function, 0);
    EXPECT_FALSE(row().has_value());
    put(function, limits::kMaxCfiEntryBytes);
    EXPECT_EQ(row().error().code, Code::unreadable);
}

// Whatever single word is forged, and wherever the bytes end.
TEST(CallFrameInfo, bears_any_word) {
    FakeCfi cfi(kCfiAt);
    const std::uint64_t common = cfi.add_common();
    cfi.add_function(
        common, kFunction, 0x80,
        std::string("\x41\x0e\x10\x0a\x0f\x03\x77\x08\x06\x41\x0b\x16\x03\x02\x77\x00", 16));
    const std::uint64_t table_at = kCfiAt + cfi.bytes().size();
    const std::string clean = cfi.bytes() + cfi.table(table_at);
    FakeProcess process;
    process.registers.fill(kCfiAt);
    const auto look = [&](const std::string& bytes) {
        const ReadImage read = read_text(bytes, kCfiAt);
        for (const auto& info : {CallFrameInfo::with_table(read, table_at),
                                 CallFrameInfo::without_table(read, kCfiAt, cfi.bytes().size())}) {
            if (!info.has_value()) continue;
            for (const std::uint64_t at : {kFunction, kFunction + 1, kFunction + 2}) {
                std::uint64_t budget = limits::kMaxCfiBytesOfWalk;
                const auto row = info->row_at(read, at, budget);
                if (row.has_value()) (void)caller_of(*row, process.registers, process.word);
            }
        }
    };
    for (std::size_t i = 0; i < clean.size(); ++i) {
        look(clean.substr(0, i));
        for (unsigned value = 0; value < 256; value += i % 3 == 0 ? 1u : 5u) {
            std::string forged = clean;
            forged[i] = static_cast<char>(value);
            look(forged);
        }
    }
}

// ---- this very program, by what its compiler wrote

struct LoadedModule {
    std::uint64_t bias = 0, begin = 0, end = 0, header = 0;
};

std::vector<LoadedModule> own_modules() {
    std::vector<LoadedModule> modules;
    ::dl_iterate_phdr(
        [](dl_phdr_info* info, std::size_t, void* to) {
            LoadedModule module{.bias = info->dlpi_addr, .begin = ~std::uint64_t{0}};
            for (int i = 0; i < info->dlpi_phnum; ++i) {
                const ElfW(Phdr)& segment = info->dlpi_phdr[i];
                const std::uint64_t at = info->dlpi_addr + segment.p_vaddr;
                if (segment.p_type == PT_GNU_EH_FRAME) module.header = at;
                if (segment.p_type != PT_LOAD) continue;
                module.begin = std::min(module.begin, at);
                module.end = std::max(module.end, at + segment.p_memsz);
            }
            static_cast<std::vector<LoadedModule>*>(to)->push_back(module);
            return 0;
        },
        &modules);
    return modules;
}

struct Captured {
    std::vector<std::uint64_t> by_gcc;
    UserRegisters registers;
    UserStack ours;
};

// Reads past the sanitizer, which would not have the stack read so.
class OwnMemory {
  public:
    Result<void> read(std::uint64_t at, MutableBytes into) const {
        const auto got = ::pread(file_.get(), into.data(), into.size(), static_cast<off_t>(at));
        if (got == static_cast<ssize_t>(into.size())) return {};
        return fail(Code::unreadable, "no such memory");
    }

  private:
    Fd file_ = open_file("/proc/self/mem", O_RDONLY).value();
};

UserStack walk_self(const UserRegisters& registers) {
    static const OwnMemory memory;
    const ReadImage read = [&](std::uint64_t at, MutableBytes into) {
        return memory.read(at, into);
    };
    const std::vector<LoadedModule> modules = own_modules();
    UnwindRow row;
    const auto module_of = [&](GuestVirt at) {
        return std::ranges::find_if(modules, [&](const LoadedModule& one) {
            return at.value >= one.begin && at.value < one.end;
        });
    };
    const UnwindUserBy by{.is_code = [&](GuestVirt at) { return module_of(at) != modules.end(); },
                          .find = [&](GuestVirt at) -> Result<const UnwindRow*> {
                              const auto module = module_of(at);
                              if (module == modules.end())
                                  return fail(Code::not_found, "nothing is there");
                              std::uint64_t budget = limits::kMaxCfiBytesOfWalk;
                              const auto info =
                                  TRY(CallFrameInfo::with_table(read, module->header));
                              row = TRY(info.row_at(read, at.value, budget));
                              return &row;
                          },
                          .word = [&](GuestVirt at) -> Result<std::uint64_t> {
                              std::uint64_t value = 0;
                              TRY(read(at.value, std::as_writable_bytes(std::span(&value, 1))));
                              return value;
                          }};
    return walk_user_stack(registers, by);
}

__attribute__((noinline)) void capture(Captured& captured) {
    ::_Unwind_Backtrace(
        [](_Unwind_Context* context, void* to) {
            static_cast<Captured*>(to)->by_gcc.push_back(::_Unwind_GetIP(context));
            return _URC_NO_REASON;
        },
        &captured);
    ucontext_t context;
    ::getcontext(&context);
    static constexpr int kOrder[] = {REG_RAX, REG_RDX, REG_RCX, REG_RBX, REG_RSI, REG_RDI,
                                     REG_RBP, REG_RSP, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                     REG_R12, REG_R13, REG_R14, REG_R15, REG_RIP};
    for (unsigned i = 0; i < kDwarfRegisters; ++i) {
        captured.registers.registers[i] =
            static_cast<std::uint64_t>(context.uc_mcontext.gregs[kOrder[i]]);
    }
    captured.registers.code = GuestVirt{*captured.registers.registers[kDwarfRip]};
    captured.ours = walk_self(captured.registers);
}

__attribute__((noinline)) void capture_deeper(Captured& captured, int depth) {
    char room[100];
    if (depth == 0) {
        capture(captured);
    } else {
        capture_deeper(captured, depth - 1);
    }
    asm volatile("" : : "r"(room) : "memory");  // no tail call, and a frame of some length
}

TEST(CallFrameInfo, of_this_program_leads_where_gccs_own_unwinder_goes) {
    Captured captured;
    capture_deeper(captured, 20);
    EXPECT_EQ(captured.ours.ended, "");
    std::vector<std::uint64_t> ours;
    for (const UserFrame& frame : captured.ours.frames) {
        EXPECT_FALSE(frame.by_frame_pointer);
        ours.push_back(frame.code.value);
    }
    ASSERT_GT(ours.size(), 24u);
    // The first is another place of the same function; gcc's ends with a 0 where nobody has called.
    ASSERT_GE(captured.by_gcc.size(), ours.size());
    EXPECT_EQ(std::vector(ours.begin() + 1, ours.end()),
              std::vector(captured.by_gcc.begin() + 1,
                          captured.by_gcc.begin() + static_cast<std::ptrdiff_t>(ours.size())));
}

}  // namespace
}  // namespace underseer::guest_linux
