#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <sys/mman.h>

#include <algorithm>

#include "guest_memory/compression.h"
#include "guest_memory/fake_images.h"
#include "guest_memory/sources.h"

namespace underseer::guest_memory {
namespace {

std::vector<FakeRange> two_ranges(std::size_t low_pages, std::size_t high_pages) {
    // A PCI hole: the second range begins at 4 GiB.
    return {{0, fake_memory_bytes(low_pages * kPageSize, 1)},
            {1ull << 32, fake_memory_bytes(high_pages * kPageSize, 2)}};
}

struct Form {
    const char* name;
    FakeFile (*make)(const std::vector<FakeRange>& ranges);
};
const Form kForms[] = {
    {"LiME", [](const auto& ranges) { return lime_image(ranges); }},
    {"ELF", [](const auto& ranges) { return elf_core_image(ranges); }},
    {"AVML", [](const auto& ranges) { return avml_image(ranges); }},
    {"AVML_odd",
     [](const auto& ranges) {
         return avml_image(ranges, {.plain_chunks = true, .chunk_bytes = 5000});
     }},
    {"kdump_zlib", [](const auto& ranges) { return kdump_image(ranges, {}); }},
    {"kdump_lzo",
     [](const auto& ranges) {
         return kdump_image(ranges, {.compression = KdumpCompression::lzo});
     }},
    {"kdump_snappy",
     [](const auto& ranges) {
         return kdump_image(ranges, {.compression = KdumpCompression::snappy, .header_version = 5});
     }},
    {"kdump_plain",
     [](const auto& ranges) {
         return kdump_image(ranges, {.compression = KdumpCompression::none});
     }},
    {"kdump_flattened",
     [](const auto& ranges) {
         return kdump_image(ranges, {.compression = KdumpCompression::lzo, .flattened = true});
     }},
};

class EveryForm : public ::testing::TestWithParam<Form> {};
INSTANTIATE_TEST_SUITE_P(Image, EveryForm, ::testing::ValuesIn(kForms),
                         [](const auto& form) { return std::string(form.param.name); });

TEST_P(EveryForm, reads_the_memory_it_was_made_from) {
    EXPECT_TRUE(rc::check([] {
        const auto ranges = two_ranges(*rc::gen::inRange<std::size_t>(1, 40),
                                       *rc::gen::inRange<std::size_t>(1, 40));
        const FakeFile file = GetParam().make(ranges);
        const Fd fd = fake_file(file);
        auto opened = open_image(fd.get(), file.size(), "image");
        if (!opened.has_value()) RC_FAIL(opened.error().to_text());
        GuestMemory& image = **opened;
        RC_ASSERT(image.regions().size() == 2u);
        for (const FakeRange& range : ranges) {
            std::vector<std::byte> got(range.bytes.size());
            RC_ASSERT(image.read(GuestPhys{range.begin}, got).has_value());
            RC_ASSERT(got == range.bytes);
            // And any piece, across whatever blocks there are.
            const auto at = *rc::gen::inRange<std::size_t>(0, range.bytes.size());
            const auto size = *rc::gen::inRange<std::size_t>(0, range.bytes.size() - at);
            got.resize(size);
            RC_ASSERT(image.read(GuestPhys{range.begin + at}, got).has_value());
            RC_ASSERT(std::ranges::equal(got, Bytes(range.bytes).subspan(at, size)));
        }
        std::byte one{};
        for (const std::uint64_t nowhere : {3ull << 30, 1ull << 40, ~0ull}) {
            const auto got = image.read(GuestPhys{nowhere}, {&one, 1});
            RC_ASSERT(!got.has_value() && got.error().code == Code::unreadable);
        }
    }));
}

TEST_P(EveryForm, cut_off_anywhere_is_refused_with_the_place) {
    const FakeFile whole = GetParam().make(two_ranges(3, 2));
    // A form is told by its first 16 bytes: without them it is raw memory.
    for (std::size_t size = 16; size < whole.size(); size += 1 + size / 16) {
        // A LiME or AVML file cut between two ranges is a whole one.
        const Fd fd = fake_file(Bytes(whole).first(size));
        const auto image = open_image(fd.get(), size, "mem.img");
        if (image.has_value()) continue;
        EXPECT_EQ(image.error().code, Code::malformed) << size;
        EXPECT_NE(image.error().message.find("mem.img"), std::string::npos);
        EXPECT_TRUE(image.error().message.find("truncated") != std::string::npos ||
                    image.error().message.find("ends inside") != std::string::npos)
            << image.error().message;
    }
    const Fd fd = fake_file(Bytes(whole).first(whole.size() - 1));
    EXPECT_FALSE(open_image(fd.get(), whole.size() - 1, "mem.img").has_value());
}

TEST_P(EveryForm, any_damaged_byte_is_survived) {
    const FakeFile good = GetParam().make({{0, fake_memory_bytes(2 * kPageSize, 1)},
                                           {1u << 20, fake_memory_bytes(2 * kPageSize, 2)}});
    std::vector<std::byte> page(kPageSize);
    for (std::size_t at = 0; at < good.size(); at += at < 1000 ? 1 : 37) {
        for (const unsigned flip : {0x01u, 0x80u, 0xffu}) {
            FakeFile bad = good;
            bad[at] ^= std::byte(flip);
            const Fd fd = fake_file(bad);
            auto image = open_image(fd.get(), bad.size(), "bad");
            if (!image.has_value()) continue;
            for (const RamRegion& region : (*image)->regions()) {
                (void)(*image)->read(region.begin, page);
                (void)(*image)->read(region.end() - 1, std::span(page).first(1));
            }
        }
    }
}

TEST(Image, an_empty_file_is_refused) {
    const Fd fd = fake_file({});
    const auto image = open_image(fd.get(), 0, "empty.raw");
    ASSERT_FALSE(image.has_value());
    EXPECT_EQ(image.error().to_text(), "empty.raw: the file is empty. Copy it again");
}

TEST(Kdump, pages_that_were_left_out_are_holes) {
    const auto bytes = fake_memory_bytes(20 * kPageSize, 4);
    const FakeFile file = kdump_image({{0, bytes}}, {.exclude_every = 3});
    const Fd fd = fake_file(file);
    auto image = open_image(fd.get(), file.size(), "vmcore").value();
    ASSERT_EQ(image->regions().size(), 1u);
    EXPECT_EQ(image->ram_bytes(), bytes.size());
    std::vector<std::byte> page(kPageSize);
    for (std::uint64_t number = 0; number < 20; ++number) {
        ReadOp op{GuestPhys{number * kPageSize}, page};
        image->read_many({&op, 1});
        EXPECT_EQ(op.status, number % 3 == 0 ? ReadStatus::hole : ReadStatus::ok) << number;
        if (number % 3 == 0) continue;
        EXPECT_TRUE(std::ranges::equal(page, Bytes(bytes).subspan(number * kPageSize, kPageSize)));
    }
    ReadOp beyond{GuestPhys{20 * kPageSize}, page};
    image->read_many({&beyond, 1});
    EXPECT_EQ(beyond.status, ReadStatus::outside);
}

TEST(Kdump, what_is_not_read_says_what_to_do) {
    const auto refusal = [](std::size_t at, std::byte value) {
        FakeFile file = kdump_image({{0, fake_memory_bytes(kPageSize, 4)}});
        file[at] = value;
        const Fd fd = fake_file(file);
        return open_image(fd.get(), file.size(), "vmcore").error();
    };
    EXPECT_NE(refusal(424, std::byte{0x20}).message.find("zstd"), std::string::npos);
    EXPECT_NE(refusal(kPageSize + 12, std::byte{1}).message.find("--reassemble"),
              std::string::npos);
    EXPECT_NE(refusal(273, std::byte{'9'}).message.find("x9"), std::string::npos);
    EXPECT_EQ(refusal(8, std::byte{9}).code, Code::unsupported);
    EXPECT_EQ(refusal(kPageSize + 96 + 5, std::byte{9}).code, Code::limit);
    EXPECT_EQ(refusal(kPageSize + 96 + 3, std::byte{9}).code, Code::malformed);
}

TEST(Kdump, a_damaged_page_fails_its_reads_and_says_where_and_why) {
    FakeFile file = kdump_image({{0, fake_memory_bytes(2 * kPageSize, 4)}});
    const std::size_t descriptor = 4 * kPageSize;
    file[descriptor + 12] = std::byte{2};  // says LZO
    const Fd fd = fake_file(file);
    auto image = open_image(fd.get(), file.size(), "vmcore").value();
    std::byte one{};
    const auto got = image->read(GuestPhys{8}, {&one, 1});
    ASSERT_FALSE(got.has_value());
    EXPECT_NE(got.error().message.find("LZO"), std::string::npos) << got.error().message;
    EXPECT_NE(got.error().message.find("0x4000"), std::string::npos) << got.error().message;
    EXPECT_TRUE(image->read(GuestPhys{kPageSize}, {&one, 1}).has_value());
}

TEST(Kdump, a_flattened_dump_of_something_else_or_without_an_end_is_refused) {
    const FakeFile other = flattened(lime_image({{0, fake_memory_bytes(kPageSize, 1)}}));
    const Fd one = fake_file(other);
    EXPECT_EQ(open_image(one.get(), other.size(), "flat").error().code, Code::unsupported);
    FakeFile far = flattened(kdump_image({{0, fake_memory_bytes(kPageSize, 1)}}));
    far[kPageSize] = std::byte{0x7f};
    const Fd two = fake_file(far);
    EXPECT_EQ(open_image(two.get(), far.size(), "flat").error().code, Code::malformed);
}

TEST(Avml, a_damaged_chunk_fails_its_reads_and_says_where_and_why) {
    FakeFile file = avml_image({{0, fake_memory_bytes(40 * kPageSize, 4)}}, {.plain_chunks = true});
    file[32 + 10 + 7 + 8 + 70] ^= std::byte{4};  // inside the first chunk's plain bytes
    const Fd fd = fake_file(file);
    auto image = open_image(fd.get(), file.size(), "mem.avml").value();
    std::vector<std::byte> page(kPageSize, std::byte{7});
    const auto got = image->read(GuestPhys{kPageSize}, page);
    ASSERT_FALSE(got.has_value());
    EXPECT_EQ(got.error().code, Code::os);
    EXPECT_NE(got.error().message.find("checksum"), std::string::npos) << got.error().message;
    EXPECT_NE(got.error().message.find("0x31"), std::string::npos) << got.error().message;
    EXPECT_TRUE(std::ranges::all_of(page, [](std::byte b) { return b == std::byte{0}; }));
    EXPECT_TRUE(image->read(GuestPhys{17 * kPageSize}, page).has_value()) << "the next chunk";
}

TEST(Avml, blocks_of_zeros_that_were_left_out_are_holes_and_not_the_end_of_memory) {
    constexpr std::size_t kPart = 16u << 20;
    std::vector<std::byte> bytes(3 * kPart);
    bytes.front() = bytes.back() = std::byte{1};
    const FakeFile file = avml_image({{0, std::move(bytes)}});
    const Fd fd = fake_file(file);
    auto image = open_image(fd.get(), file.size(), "mem.avml").value();
    std::byte one{};
    const auto status = [&](std::uint64_t at) {
        ReadOp op{GuestPhys{at}, {&one, 1}};
        image->read_many({&op, 1});
        return op.status;
    };
    EXPECT_EQ(status(kPart - 1), ReadStatus::ok);
    EXPECT_EQ(status(kPart), ReadStatus::hole);
    EXPECT_EQ(status(2 * kPart), ReadStatus::ok);
    EXPECT_EQ(status(3 * kPart), ReadStatus::outside);
}

TEST(Avml, a_length_that_does_not_fit_the_stream_is_refused) {
    FakeFile file = avml_image({{0, fake_memory_bytes(kPageSize, 4)}});
    file[file.size() - 8] ^= std::byte{1};
    const Fd fd = fake_file(file);
    EXPECT_EQ(open_image(fd.get(), file.size(), "mem.avml").error().code, Code::malformed);
}

TEST(Lzo, gives_back_what_was_compressed) {
    EXPECT_TRUE(rc::check([] {
        const auto seed = *rc::gen::arbitrary<unsigned>();
        const auto plain = fake_memory_bytes(*rc::gen::inRange<std::size_t>(1, 1u << 17), seed);
        const auto block = compress_lzo(plain);
        std::vector<std::byte> got(plain.size());
        const auto done = uncompress_lzo(block, got);
        if (!done.has_value()) RC_FAIL(done.error().to_text());
        RC_ASSERT(got == plain);
        // Neither more nor less than there is.
        RC_ASSERT(!uncompress_lzo(block, std::span(got).first(got.size() - 1)).has_value());
        got.push_back({});
        RC_ASSERT(!uncompress_lzo(block, got).has_value());
        const auto part = *rc::gen::inRange<std::size_t>(0, block.size());
        got.pop_back();
        RC_ASSERT(!uncompress_lzo(Bytes(block).first(part), got).has_value());
    }));
}

// What lzo1x_1_compress of liblzo2 2.10 makes of a text, zeros and the text's beginning.
TEST(Lzo, reads_what_the_original_wrote) {
    using namespace std::literals;
    constexpr auto kBlock =
        "\x00\x18underseer reads what a guest has written, d\x03\x05"
        "ever the0~\x00;  )%\x01\x00 \x00\x04\x00\x00\x0d\x00\x00\x00\x00\x00\x00\x00underseer\x11\x00\x00"sv;
    std::string plain =
        "underseer reads what a guest has written, whatever the guest has written; ";
    plain += plain;
    plain += std::string(300, '\0') + "underseer";
    std::string got(plain.size(), '?');
    const auto done =
        uncompress_lzo(as_bytes(kBlock), {reinterpret_cast<std::byte*>(got.data()), got.size()});
    ASSERT_TRUE(done.has_value()) << done.error().message;
    EXPECT_EQ(got, plain);
}

// Streams put together by hand from Documentation/staging/lzo.rst: each instruction once.
TEST(Lzo, every_instruction_does_what_the_description_says) {
    const auto text = [](std::string_view stream, std::size_t size) {
        std::string out(size, '?');
        const auto done = uncompress_lzo(as_bytes(stream),
                                         {reinterpret_cast<std::byte*>(out.data()), out.size()});
        return done.has_value() ? out : done.error().message;
    };
    using namespace std::literals;
    EXPECT_EQ(text("\x11\0\0"sv, 0), "");
    EXPECT_EQ(text("\x15"
                   "abcd\x11\0\0"sv,
                   4),
              "abcd");  // first byte: literals
    EXPECT_EQ(text("\x01"
                   "abcd\x11\0\0"sv,
                   4),
              "abcd");  // 0000LLLL
    EXPECT_EQ(text("\0\x01"
                   "abcdefghijklmnopqrs\x11\0\0"sv,
                   19),
              "abcdefghijklmnopqrs");
    EXPECT_EQ(text("\x13"
                   "ab\x04\0\x11\0\0"sv,
                   4),
              "abab");  // 0000DDSS, two bytes
    EXPECT_EQ(text("\x15"
                   "abcd\x4d\0X\x11\0\0"sv,
                   8),
              "abcdabcX");  // 01LDDDSS, and a literal
    EXPECT_EQ(text("\x15"
                   "abcd\x80\0\x11\0\0"sv,
                   9),
              "abcdddddd");  // 1LLDDDSS, overlapping
    EXPECT_EQ(text("\x15"
                   "abcd\x21\x0c\0\x11\0\0"sv,
                   7),
              "abcdabc");  // 001LLLLL
    EXPECT_NE(text("\x15"
                   "abcd\x21\x10\0\x11\0\0"sv,
                   7)
                  .find("before"),
              std::string::npos);
    EXPECT_NE(text("\x15"
                   "abcd\x11\0\0."sv,
                   4)
                  .find("after its end"),
              std::string::npos);
    EXPECT_NE(text("\x15"
                   "abcd\x20\0\0\0\0\0\0\0"sv,
                   9)
                  .find("beyond"),
              std::string::npos);
}

// The examples of RFC 3720, appendix B.4.
TEST(Crc32c, gives_the_values_of_the_rfc) {
    std::vector<std::byte> bytes(32, std::byte{0});
    EXPECT_EQ(crc32c(bytes), 0x8a9136aau);
    std::ranges::fill(bytes, std::byte{0xff});
    EXPECT_EQ(crc32c(bytes), 0x62a8ab43u);
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = std::byte(i);
    EXPECT_EQ(crc32c(bytes), 0x46dd794eu);
    EXPECT_EQ(crc32c(as_bytes("123456789")), 0xe3069283u);
}

TEST(Snappy, lengths_that_do_not_fit_are_refused) {
    const auto block = compress_snappy(fake_memory_bytes(kPageSize, 1));
    std::vector<std::byte> page(kPageSize);
    EXPECT_TRUE(uncompress_snappy(block, page).has_value());
    EXPECT_FALSE(uncompress_snappy(block, std::span(page).first(4095)).has_value());
    EXPECT_FALSE(uncompress_snappy(Bytes(block).first(block.size() - 1), page).has_value());
    const std::vector<std::byte> endless(5, std::byte{0xff});
    EXPECT_FALSE(snappy_length(endless).has_value());
    EXPECT_FALSE(snappy_length({}).has_value());
}

}  // namespace
}  // namespace underseer::guest_memory
