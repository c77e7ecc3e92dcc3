#include <algorithm>
#include <map>

#include "guest_memory/fake_images.h"

namespace underseer::guest_memory {

namespace {

class LzoWriter {
  public:
    explicit LzoWriter(Bytes plain) : plain_(plain) {}

    std::vector<std::byte> run() {
        std::map<std::uint32_t, std::size_t> latest;  // where three bytes were seen last
        const auto key = [&](std::size_t at) {
            return load_le<std::uint32_t>(plain_, at).value_or(0) & 0xffffff;
        };
        std::size_t at = 0;
        while (at + 4 <= plain_.size()) {
            const auto seen = latest.find(key(at));
            std::size_t from = seen == latest.end() ? at : seen->second;
            std::size_t length = match_length(from, at);
            if (length < 3 && at > 0 && at - begin_ >= 1 && at - begin_ <= 3 && out_any_) {
                // The two-byte match, which only stands behind one to three literals.
                for (from = at - 1; from > 0 && at - from < 1024; --from) {
                    if ((length = std::min<std::size_t>(match_length(from, at), 2)) == 2) break;
                }
                if (length < 2 || at - from > 1024) length = 0;
            } else if (length < 3 || at - from > 49151) {
                length = 0;
            }
            if (length == 0) {
                latest[key(at)] = at;
                ++at;
                continue;
            }
            match(at, at - from, length);
            for (std::size_t i = at; i < at + length && i + 4 <= plain_.size(); ++i) {
                latest[key(i)] = i;
            }
            at += length;
            begin_ = at;
        }
        literals(plain_.size());
        put(0x11);
        put(0);
        put(0);
        return std::move(out_);
    }

  private:
    void put(std::size_t byte) { out_.push_back(std::byte(byte & 0xff)); }

    std::size_t match_length(std::size_t from, std::size_t at) const {
        if (from >= at) return 0;
        std::size_t length = 0;
        while (at + length < plain_.size() && plain_[from + length] == plain_[at + length])
            ++length;
        return length;
    }

    void put_length(std::size_t code, std::size_t value, std::size_t most) {
        if (value <= most) {
            put(code | value);
            return;
        }
        put(code);
        for (value -= most; value > 255; value -= 255) put(0);
        put(value);
    }

    // Puts out what lies before `end` and has no instruction yet. Leaves how many that were.
    void literals(std::size_t end) {
        count_ = end - begin_;
        if (count_ == 0) return;
        if (!out_any_ && count_ <= 238) {
            put(17 + count_);
        } else if (out_any_ && count_ <= 3) {
            out_[low_bits_] |= std::byte(count_);
        } else if (count_ > 3) {
            put_length(0, count_ - 3, 15);
        }
        out_any_ = true;
        const Bytes bytes = plain_.subspan(begin_, count_);
        out_.insert(out_.end(), bytes.begin(), bytes.end());
        begin_ = end;
    }

    void match(std::size_t at, std::size_t distance, std::size_t length) {
        literals(at);
        low_bits_ = out_.size();
        if (length == 2) {
            put(((distance - 1) & 3) << 2);
            put((distance - 1) >> 2);
        } else if (length == 3 && count_ >= 4 && distance > 2048 && distance <= 3072) {
            put(((distance - 2049) & 3) << 2);
            put((distance - 2049) >> 2);
        } else if (length <= 8 && distance <= 2048) {
            const std::size_t code = length <= 4 ? 64 | (length - 3) << 5 : 128 | (length - 5) << 5;
            put(code | ((distance - 1) & 7) << 2);
            put((distance - 1) >> 3);
        } else if (distance <= 16384) {
            put_length(32, length - 2, 31);
            put_distance(distance - 1);
        } else {
            const std::size_t far = distance - 16384;
            put_length(16 | (far >> 14) << 3, length - 2, 7);
            put_distance(far & 0x3fff);
        }
    }
    void put_distance(std::size_t value) {
        low_bits_ = out_.size();
        put(value << 2);
        put(value >> 6);
    }

    Bytes plain_;
    std::vector<std::byte> out_;
    std::size_t begin_ = 0;     // of the literals that are due
    std::size_t count_ = 0;     // literals before the latest match
    std::size_t low_bits_ = 0;  // the byte that tells how many literals follow a match
    bool out_any_ = false;
};

}  // namespace

std::vector<std::byte> compress_lzo(Bytes plain) {
    return LzoWriter(plain).run();
}

}  // namespace underseer::guest_memory
