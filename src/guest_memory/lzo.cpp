// LZO1X, written from the description of the stream in Documentation/staging/lzo.rst of Linux 6.12
// (bitstream version 0, which is all that dumps hold), not from any decompressor.
//
// A stream is a row of instructions. Each copies a match from what has been put out already, or a
// long run of literals; the low two bits of a match add up to three literals behind it. What an
// instruction below 16 means depends on how many literals were copied just before it.
#include <fmt/format.h>

#include <algorithm>

#include "guest_memory/compression.h"

namespace underseer::guest_memory {

namespace {

class Lzo {
  public:
    Lzo(Bytes in, MutableBytes out) : in_(in), out_(out) {}

    Result<void> run() {
        const unsigned first = TRY(byte());
        if (first > 17) {  // literals at once: there is nothing yet that could match
            TRY(literals(first - 17));
            literals_before_ = std::min<std::size_t>(first - 17, kMany);
        } else {
            at_ = 0;
        }
        while (!ended_) TRY(instruction(TRY(byte())));
        if (at_ != in_.size()) return damaged("bytes after its end");
        if (done_ != out_.size()) return damaged("too little in it");
        return {};
    }

  private:
    static constexpr std::size_t kMany = 4;  // "four or more literals"

    Unexpected damaged(std::string_view how) const {
        return fail(Code::malformed,
                    fmt::format("an LZO block is damaged: {} (byte {} of {}, {} of {} put out)",
                                how, at_, in_.size(), done_, out_.size()));
    }

    Result<unsigned> byte() {
        if (at_ >= in_.size()) return damaged("cut off");
        return std::to_integer<unsigned>(in_[at_++]);
    }
    Result<unsigned> two_bytes() {
        const unsigned low = TRY(byte());
        return low | TRY(byte()) << 8;
    }
    // A length of `bits` bits. None set: it goes on in the bytes that follow, 255 for each zero.
    Result<std::size_t> length(unsigned code, unsigned bits) {
        const unsigned most = (1u << bits) - 1;
        if ((code & most) != 0) return code & most;
        std::size_t value = most;
        for (;;) {
            const unsigned next = TRY(byte());
            value += next == 0 ? 255 : next;
            if (next != 0) return value;
            if (value > out_.size()) return damaged("a length beyond the block's size");
        }
    }

    Result<void> literals(std::size_t count) {
        if (count > in_.size() - at_) return damaged("literals cut off");
        if (count > out_.size() - done_) return damaged("more literals than there is room for");
        std::ranges::copy(in_.subspan(at_, count), out_.subspan(done_).begin());
        at_ += count;
        done_ += count;
        return {};
    }

    // A match may overlap what it puts out: byte by byte is its meaning.
    Result<void> match(std::size_t distance, std::size_t count, unsigned literals_behind) {
        if (distance > done_) return damaged("a match before the beginning");
        if (count > out_.size() - done_) return damaged("a match longer than there is room for");
        for (std::size_t i = 0; i < count; ++i, ++done_) out_[done_] = out_[done_ - distance];
        literals_before_ = literals_behind;
        return literals(literals_behind);
    }

    Result<void> instruction(unsigned code) {
        if (code >= 64) {  // 1LLDDDSS and 01LDDDSS, one more byte of distance
            const std::size_t count = code >= 128 ? 5 + (code >> 5 & 3) : 3 + (code >> 5 & 1);
            const unsigned high = TRY(byte());
            return match((high << 3) + (code >> 2 & 7) + 1, count, code & 3);
        }
        if (code >= 32) {  // 001LLLLL
            const std::size_t count = 2 + TRY(length(code, 5));
            const unsigned operand = TRY(two_bytes());
            return match((operand >> 2) + 1, count, operand & 3);
        }
        if (code >= 16) {  // 0001HLLL; the smallest distance is the end of the stream
            const std::size_t count = 2 + TRY(length(code, 3));
            const unsigned operand = TRY(two_bytes());
            const std::size_t distance = 16384 + ((code & 8) << 11) + (operand >> 2);
            ended_ = distance == 16384;
            return ended_ ? Result<void>() : match(distance, count, operand & 3);
        }
        if (literals_before_ == 0) {  // 0000LLLL: a long run of literals
            const std::size_t count = 3 + TRY(length(code, 4));
            literals_before_ = kMany;
            return literals(count);
        }
        // 0000DDSS: a short match, near after a few literals, further off after many
        const std::size_t near = (TRY(byte()) << 2) + (code >> 2) + 1;
        return literals_before_ == kMany ? match(near + 2048, 3, code & 3)
                                         : match(near, 2, code & 3);
    }

    Bytes in_;
    MutableBytes out_;
    std::size_t at_ = 0, done_ = 0;
    std::size_t literals_before_ = 0;
    bool ended_ = false;
};

}  // namespace

Result<void> uncompress_lzo(Bytes block, MutableBytes into) {
    return Lzo(block, into).run();
}

}  // namespace underseer::guest_memory
