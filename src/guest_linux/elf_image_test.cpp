#include "guest_linux/elf_image.h"

#include <elf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/auxv.h>

#include <cstring>

#include "base/limits.h"
#include "base/os.h"
#include "guest_linux/elf_symbols.h"
#include "guest_linux/fake_elf.h"

namespace underseer::guest_linux {
namespace {

FakeElf program() {
    FakeElf elf;
    elf.symbols = {{.name = "outer", .offset = 0x1000, .size_bytes = 0x80},
                   {.name = "inner", .offset = 0x1100, .size_bytes = 0x80, .local = true},
                   {.name = "__libc_read", .offset = 0x1200, .size_bytes = 0x20},
                   {.name = "__read", .offset = 0x1200, .size_bytes = 0x20},
                   {.name = "read", .offset = 0x1200, .size_bytes = 0x20},
                   {.name = "restore", .offset = 0x1300, .size_bytes = 0},
                   {.name = "some_data", .offset = 0x1010, .size_bytes = 4, .type = 1}};
    return elf;
}

struct Opened {
    explicit Opened(const std::string& bytes, std::vector<std::uint64_t> missing = {},
                    std::uint64_t bias = 0)
        : read(read_text(bytes, 0, std::move(missing))) {
        std::uint64_t budget = limits::kMaxTracedIndexBytes;
        auto parsed = ElfImage::of(read);
        if (!parsed.has_value()) return;
        image = std::move(*parsed);
        symbols = ElfSymbols::of(*image, read, bias, budget);
    }
    std::string name(std::uint64_t address,
                     std::optional<ElfSymbols::Bounds> bounds = std::nullopt) const {
        const auto found = symbols.find(read, address, bounds);
        return found.has_value() ? found->name + "+" + std::to_string(found->offset_bytes) : "";
    }

    ReadFile read;
    std::optional<ElfImage> image;
    ElfSymbols symbols;
};

TEST(ElfImage, knows_where_its_code_is_in_the_file_and_in_memory) {
    const std::string bytes = program().build();
    const Opened elf(bytes);
    ASSERT_TRUE(elf.image);
    EXPECT_EQ(elf.image->code_at(0x1010), 0x401010u);
    EXPECT_EQ(elf.image->code_at(0x10), std::nullopt);  // its header is none
    EXPECT_EQ(elf.image->code_at(0x3000), std::nullopt);
    EXPECT_EQ(elf.image->offset_of(0x401010), 0x1010u);
    EXPECT_EQ(elf.image->offset_of(0x1010), std::nullopt);
    EXPECT_TRUE(elf.image->is_code(0x402fff));
    EXPECT_FALSE(elf.image->is_code(0x403000));
    std::uint64_t word = 0;
    EXPECT_FALSE(
        elf.image->read(elf.read, 0x1010, std::as_writable_bytes(std::span(&word, 1))).has_value());
}

TEST(ElfImage, finds_its_unwind_information_with_and_without_a_table) {
    for (const bool table : {true, false}) {
        FakeElf elf = program();
        elf.table = table;
        const std::string bytes = elf.build();
        const Opened opened(bytes);
        std::uint64_t budget = limits::kMaxTracedIndexBytes;
        const auto info = opened.image->call_frame_info(opened.read, budget);
        ASSERT_TRUE(info.has_value()) << info.error().to_text();
        const ReadImage read = [&](std::uint64_t at, MutableBytes into) {
            return opened.image->read(opened.read, at, into);
        };
        std::uint64_t walk = limits::kMaxCfiBytesOfWalk;
        EXPECT_EQ(info->row_at(read, 0x401110, walk).value().begin, 0x401100u);
        EXPECT_EQ(info->row_at(read, 0x401190, walk).error().code, Code::not_found);
        // Only the whole of it has a cost that stays.
        EXPECT_EQ(budget == limits::kMaxTracedIndexBytes, table);
        budget = 10;
        EXPECT_EQ(opened.image->call_frame_info(opened.read, budget).has_value(), table);
    }
    // Its list of sections is not in memory.
    FakeElf elf = program();
    elf.table = false;
    const std::string bytes = elf.build();
    const Opened torn(bytes, {elf.sections_at & kPageMask});
    std::uint64_t budget = limits::kMaxTracedIndexBytes;
    EXPECT_EQ(torn.image->call_frame_info(torn.read, budget).error().code, Code::unavailable);
}

// A part of a section that is not there hides what follows: that is not "nothing is said of it".
TEST(ElfImage, does_not_take_unwind_information_that_is_not_in_memory_for_none) {
    FakeCfi cfi(0x403000);
    const std::uint64_t common = cfi.add_common();
    for (std::uint64_t i = 0; i < 400; ++i) {
        cfi.add_function(common, 0x401000 + 0x10 * i, 0x10, "");
    }
    const ReadImage read = read_text(cfi.bytes(), 0x403000, {0x1000});
    const auto info = CallFrameInfo::without_table(read, 0x403000, cfi.bytes().size()).value();
    std::uint64_t budget = limits::kMaxCfiBytesOfWalk;
    EXPECT_TRUE(info.row_at(read, 0x401000, budget).has_value());
    EXPECT_EQ(info.row_at(read, 0x401000 + 0x10 * 399, budget).error().code, Code::unavailable);
}

TEST(ElfImage, is_not_made_of_what_is_no_program) {
    const std::string clean = program().build();
    const auto error = [&](std::size_t at, std::uint16_t value) {
        std::string bytes = clean;
        std::memcpy(bytes.data() + at, &value, sizeof value);
        const auto image = ElfImage::of(read_text(bytes));
        return image.has_value() ? std::optional<Code>() : image.error().code;
    };
    EXPECT_EQ(error(0, 0), Code::malformed);
    EXPECT_EQ(error(4, 1), Code::unsupported);     // 32 bits
    EXPECT_EQ(error(18, 183), Code::unsupported);  // AArch64
    EXPECT_EQ(error(56, 0xffff), Code::limit);
    EXPECT_FALSE(ElfImage::of(read_text(clean.substr(0, 30))).has_value());
    const std::string none;
    EXPECT_FALSE(ElfImage::of(read_text(none)).has_value());
}

TEST(ElfSymbols, name_the_function_that_an_address_is_in) {
    const std::string bytes = program().build();
    const Opened elf(bytes);
    EXPECT_EQ(elf.name(0x401000), "outer+0");
    EXPECT_EQ(elf.name(0x401013), "outer+19");
    EXPECT_EQ(elf.name(0x401170), "inner+112");
    // Between two functions, before the first, and data.
    EXPECT_EQ(elf.name(0x401080), "");
    EXPECT_EQ(elf.name(0x400fff), "");
    EXPECT_EQ(elf.name(0x409000), "");
    // That name of several which people know.
    EXPECT_EQ(elf.name(0x401201), "read+1");
    // Without a size its end has to be known from elsewhere.
    EXPECT_EQ(elf.name(0x401305), "");
    EXPECT_EQ(elf.name(0x401305, ElfSymbols::Bounds{0x4012ff, 0x401310}), "restore+5");
    EXPECT_EQ(elf.name(0x401305, ElfSymbols::Bounds{0x401301, 0x401310}), "");
}

TEST(ElfSymbols, are_found_by_the_names_of_functions) {
    FakeElf program_of_all = program();
    program_of_all.symbols.push_back(
        {.name = "memcpy", .offset = 0x1400, .size_bytes = 0x20, .type = STT_GNU_IFUNC});
    const std::string bytes = program_of_all.build();
    const Opened elf(bytes);
    std::uint64_t unread = 0;
    const auto named = [&](const Opened& opened, auto&& is_wanted) {
        std::string all;
        for (const auto& one : opened.symbols.functions(opened.read, is_wanted, unread)) {
            all += fmt::format("{}@{:#x} ", one.name, one.address);
        }
        return all;
    };
    const auto any = [](std::string_view) { return true; };
    EXPECT_EQ(named(elf, any), "outer@0x401000 inner@0x401100 read@0x401200 restore@0x401300 ");
    EXPECT_EQ(named(elf, [](std::string_view name) { return name == "__read"; }),
              "__read@0x401200 ");
    EXPECT_EQ(unread, 0u);
    FakeElf large;
    for (int i = 0; i < 400; ++i) large.symbols.push_back({.name = fmt::format("f{:040}", i)});
    const std::string many = large.build();
    for (std::uint64_t page = 0x3000; page < many.size(); page += kPageSize) {
        named(Opened(many, {page}), any);
    }
    EXPECT_GT(unread, 10u);
}

TEST(ElfSymbols, are_those_of_the_dynamic_linker_where_there_are_no_others) {
    for (const bool gnu_hash : {true, false}) {
        for (const std::uint64_t relocated_by : {0ull, 0x7f0000000000ull}) {
            FakeElf elf = program();
            std::swap(elf.symbols, elf.dynamic_symbols);
            elf.gnu_hash = gnu_hash;
            elf.base = 0;
            elf.relocated_by = relocated_by;
            const std::string bytes = elf.build();
            // No page behind the segments is in memory.
            const Opened opened(bytes, {elf.symbols_at & kPageMask}, relocated_by);
            EXPECT_EQ(opened.name(0x1013), "outer+19") << gnu_hash << relocated_by;
            EXPECT_EQ(opened.name(0x1201), "read+1");
            EXPECT_EQ(opened.name(0x1080), "");
        }
    }
}

TEST(ElfSymbols, that_are_not_in_memory_name_nothing_wrong) {
    FakeElf elf;
    for (std::uint64_t i = 0; i < 400; ++i) {
        elf.symbols.push_back({.name = "f" + std::to_string(i), .offset = 0x1000 + 16 * i});
    }
    const std::string bytes = elf.build();
    const Opened whole(bytes);
    const Opened torn(bytes, {(elf.symbols_at & kPageMask) + kPageSize});
    std::size_t named = 0;
    for (std::uint64_t i = 0; i < 400; ++i) {
        const std::string name = torn.name(0x401003 + 16 * i);
        EXPECT_EQ(whole.name(0x401003 + 16 * i), "f" + std::to_string(i) + "+3");
        if (name.empty()) continue;
        EXPECT_EQ(name, "f" + std::to_string(i) + "+3");
        ++named;
    }
    EXPECT_GT(named, 100u);
    EXPECT_LT(named, 300u);
}

TEST(ElfSymbols, are_no_more_than_there_is_room_for) {
    const std::string bytes = program().build();
    const ReadFile read = read_text(bytes);
    const ElfImage image = ElfImage::of(read).value();
    std::uint64_t budget = 100;
    const ElfSymbols symbols = ElfSymbols::of(image, read, 0, budget);
    EXPECT_TRUE(symbols.is_cut());
    EXPECT_FALSE(symbols.find(read, 0x401000, std::nullopt).has_value());
}

TEST(ElfSymbols, with_names_without_end_are_cut) {
    FakeElf elf = program();
    elf.symbols[0].name = std::string(5000, 'x');
    const std::string bytes = elf.build();
    EXPECT_EQ(Opened(bytes).name(0x401000), std::string(256, 'x') + "+0");
}

// The kernel's own, as this process has it mapped.
TEST(ElfImage, of_the_vdso_has_names_and_unwind_information) {
    const std::uint64_t begin = ::getauxval(AT_SYSINFO_EHDR);
    if (begin == 0) GTEST_SKIP() << "this kernel has no vDSO";
    const Fd memory = open_file("/proc/self/mem", O_RDONLY).value();
    const ReadFile read = [&](std::uint64_t offset, MutableBytes into) -> Result<void> {
        const auto got =
            ::pread(memory.get(), into.data(), into.size(), static_cast<off_t>(begin + offset));
        if (got == static_cast<ssize_t>(into.size())) return {};
        return fail(Code::unavailable, "no such memory");
    };
    const ElfImage image = ElfImage::of(read).value();
    std::uint64_t budget = limits::kMaxTracedIndexBytes, walk = limits::kMaxCfiBytesOfWalk;
    const ElfSymbols symbols = ElfSymbols::of(image, read, begin, budget);
    const CallFrameInfo info = image.call_frame_info(read, budget).value();
    const ReadImage read_image = [&](std::uint64_t at, MutableBytes into) {
        return image.read(read, at, into);
    };
    bool found = false;
    for (std::uint64_t offset = 0; offset < 4 * kPageSize && !found; offset += 16) {
        const auto address = image.code_at(offset);
        if (!address) continue;
        const auto symbol = symbols.find(read, *address, std::nullopt);
        if (!symbol.has_value() || symbol->name != "clock_gettime") continue;
        found = true;
        const auto row = info.row_at(read_image, *address, walk);
        ASSERT_TRUE(row.has_value()) << row.error().to_text();
        EXPECT_GE(*address, row->begin);
    }
    EXPECT_TRUE(found);
}

// Whatever single word of the file is forged.
TEST(ElfImage, bears_any_word) {
    FakeElf elf = program();
    elf.dynamic_symbols = elf.symbols;
    const std::string clean = elf.build();
    const auto forge = [&](std::size_t at) {
        for (const std::uint32_t value : {0u, 1u, 0x1000u, 0x403000u, 0x7fffffffu, ~0u}) {
            std::string bytes = clean;
            std::memcpy(bytes.data() + at, &value, sizeof value);
            const Opened opened(bytes);
            if (!opened.image) continue;
            std::uint64_t budget = limits::kMaxTracedIndexBytes;
            (void)opened.image->call_frame_info(opened.read, budget);
            for (const std::uint64_t address : {0x401000u, 0x401201u, 0x401305u}) {
                (void)opened.name(address, ElfSymbols::Bounds{0x401000, 0x402000});
            }
        }
    };
    for (std::size_t at = 0; at < 0x200; at += 4) forge(at);
    for (std::size_t at = elf.frames_at; at + 4 <= clean.size(); at += 4) forge(at);
}

}  // namespace
}  // namespace underseer::guest_linux
