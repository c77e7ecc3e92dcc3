#include "guest_linux/page_store.h"

#include <sys/auxv.h>
#include <zstd.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/result.h"

namespace underseer::guest_linux {

namespace {

constexpr std::size_t kBlockPages = 16;  // more make it smaller, and each difference dearer
constexpr std::size_t kBlockBytes = kBlockPages * kPageSize;
constexpr int kLevel = 1;
constexpr std::size_t kPieceBytes = 64u << 10;
constexpr std::size_t kHalf = kPageSize / sizeof(std::uint32_t) / 2;

// What nobody outside of this process knows: the kernel's 16 random bytes for it, drawn out.
struct Key {
    std::array<std::uint32_t, 2 * kHalf> words;

    Key() {
        std::array<std::uint64_t, 2> seed{};
        if (const auto at = ::getauxval(AT_RANDOM); at != 0) {
            std::memcpy(seed.data(), reinterpret_cast<const void*>(at), sizeof seed);
        }
        // SplitMix64 (Steele, Lea, Flood 2014), twice: neither half of the seed alone tells a word.
        const auto next = [](std::uint64_t& state) {
            std::uint64_t z = state += 0x9e3779b97f4a7c15;
            z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
            z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
            return z ^ (z >> 31);
        };
        for (std::uint32_t& word : words) {
            word = static_cast<std::uint32_t>((next(seed[0]) ^ next(seed[1])) >> 32);
        }
    }
};

}  // namespace

// NH (Black, Halevi, Krawczyk, Krovetz, Rogaway 1999; RFC 4418, 5.2).
std::uint64_t page_hash(PageBytes bytes) {
    static const Key key;
    std::array<std::uint32_t, 2 * kHalf> message;
    std::memcpy(message.data(), bytes.data(), kPageSize);
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < kHalf; ++i) {
        sum +=
            std::uint64_t{message[i] + key.words[i]} * (message[kHalf + i] + key.words[kHalf + i]);
    }
    return sum;
}

std::size_t PageHashes::bytes_of(std::size_t page) const {
    return std::min<std::size_t>(kPageSize, size_bytes - page * kPageSize);
}

PageHashes hash_pages(Kernel& kernel, GuestVirt begin, std::uint64_t size_bytes) {
    PageHashes hashes{.begin = begin, .size_bytes = size_bytes, .of = {}};
    hashes.of.resize((size_bytes + kPageSize - 1) / kPageSize);
    std::vector<std::byte> piece(kPieceBytes);
    for (std::size_t page = 0; page < hashes.of.size(); page += kPieceBytes / kPageSize) {
        const std::size_t pages = std::min(kPieceBytes / kPageSize, hashes.of.size() - page),
                          first = page * kPageSize;
        const auto bytes =
            std::span(piece).first(std::min<std::size_t>(kPieceBytes, size_bytes - first));
        const bool whole = kernel.memory().read(begin + first, bytes).has_value();
        for (std::size_t i = 0; i < pages; ++i) {
            const auto one = std::span(piece).subspan(i * kPageSize).first<kPageSize>();
            const std::size_t has = hashes.bytes_of(page + i);
            if (!whole &&
                !kernel.memory().read(begin + first + i * kPageSize, one.first(has)).has_value()) {
                continue;
            }
            std::ranges::fill(one.subspan(has), std::byte{0});
            hashes.of[page + i] = page_hash(one);
        }
    }
    return hashes;
}

void PageStore::keep(std::size_t page, PageBytes bytes) {
    CHECK(!hashes_[page]);
    std::memcpy(open(page), bytes.data(), kPageSize);
    is_changed_ = true;
    hashes_[page] = page_hash(bytes);
}

PageBytes PageStore::bytes(std::size_t page) {
    CHECK(hashes_[page]);
    return PageBytes(open(page), kPageSize);
}

void PageStore::close() {
    if (is_changed_) {
        std::vector<std::byte> packed(ZSTD_compressBound(kBlockBytes));
        const std::size_t size =
            ZSTD_compress(packed.data(), packed.size(), raw_.data(), raw_.size(), kLevel);
        CHECK(ZSTD_isError(size) == 0);
        blocks_[opened_].assign(packed.begin(), packed.begin() + static_cast<std::ptrdiff_t>(size));
    }
    is_changed_ = false;
    raw_ = {};
}

std::byte* PageStore::open(std::size_t page) {
    const std::size_t block = page / kBlockPages, at = page % kBlockPages * kPageSize;
    if (!raw_.empty() && opened_ == block) return raw_.data() + at;
    close();
    if (blocks_.empty()) blocks_.resize((size() + kBlockPages - 1) / kBlockPages);
    raw_.assign(kBlockBytes, std::byte{0});
    opened_ = block;
    const auto& packed = blocks_[block];
    if (!packed.empty()) {
        CHECK(ZSTD_decompress(raw_.data(), raw_.size(), packed.data(), packed.size()) ==
              kBlockBytes);
    }
    return raw_.data() + at;
}

}  // namespace underseer::guest_linux
