// Border: what is scanned, which a guest has written. Must hold: scanning ends, as a file and as a
// process's memory, however its blocks lie, and what it tells lies within them.
#include "base/limits.h"
#include "scan/scanner.h"

namespace {
using namespace underseer;

const scan::Rules& rules() {
    static const scan::Rules compiled = [] {
        const std::vector<scan::RuleFile> files{{"rules.yar", R"(
import "elf" import "pe" import "dotnet" import "dex" import "macho" import "hash" import "math"
import "magic"
rule found {
    meta: n = 1
    strings:
        $text = "MARKER" nocase wide ascii
        $expression = /k[a-z]{1,20}=[^ ]+/
        $hex = { 7f 45 4c 46 [2-300] ( 01 | 02 ) ?? }
        $xor = "secret" xor
        $base64 = "password" base64
    condition: any of them
}
rule modules {
    condition:
        elf.number_of_sections > 1 or pe.number_of_sections > 1 or pe.imphash() == "x" or
        pe.number_of_signatures > 0 or dotnet.number_of_streams > 1 or
        dex.header.file_size > 1 or macho.ncmds > 1 or hash.md5(0, filesize) == "x" or
        math.entropy(0, filesize) > 7.9 or magic.type() contains "x" or uint32(0) == 1
})"}};
        std::vector<scan::RuleError> errors;
        auto made = scan::Rules::compile(files, errors);
        CHECK(made.has_value());
        return std::move(*made);
    }();
    return compiled;
}

// The first byte says how the rest is cut, and whether the parts lie apart.
class Cut final : public scan::Content {
  public:
    Cut(Bytes bytes, std::uint8_t how)
        : bytes_(bytes), step_(1u << (how & 15)), gap_((how & 16) != 0 ? 4096 : 0) {}
    std::optional<scan::Block> block(std::size_t number) override {
        const std::size_t from = number * step_;
        if (from >= bytes_.size()) return std::nullopt;
        return scan::Block{from + number * gap_, read(number).size()};
    }
    Bytes read(std::size_t number) override {
        const std::size_t from = number * step_;
        return bytes_.subspan(from, std::min(step_, bytes_.size() - from));
    }

  private:
    Bytes bytes_;
    std::size_t step_;
    std::uint64_t gap_;
};
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    const Bytes bytes(reinterpret_cast<const std::byte*>(data) + 1, size - 1);
    for (const bool file : {false, true}) {
        Cut content(bytes, data[0]);
        scan::Subject subject{.filepath = "/bin/x"};
        if (file) subject.file_bytes = bytes.size();
        const auto matches = scan::scan(rules(), content, subject, std::chrono::seconds(2));
        if (!matches.has_value()) continue;
        CHECK(matches->size() <= 2);
        for (const scan::RuleMatch& match : *matches) {
            CHECK(match.string_count >= match.strings.size());
            for (const scan::StringMatch& string : match.strings) {
                CHECK(string.excerpt.size() <= limits::kMaxExcerptBytes);
                CHECK(string.size_bytes <= bytes.size());
            }
        }
    }
    return 0;
}
