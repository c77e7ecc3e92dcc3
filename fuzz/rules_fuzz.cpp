// Border: YARA rules, which are others' text. Must hold: they are compiled or refused with a place
// and a reason, in bounded time, and what was compiled can be scanned by.
#include "base/limits.h"
#include "scan/scanner.h"

namespace {
using namespace underseer;

class FewBytes final : public scan::Content {
  public:
    std::optional<scan::Block> block(std::size_t number) override {
        if (number != 0) return std::nullopt;
        return scan::Block{0, kText.size()};
    }
    Bytes read(std::size_t) override { return as_bytes(kText); }

  private:
    static constexpr std::string_view kText =
        "\x7f"
        "ELF MZ some text, aaaaaaaaaaaaaaaa";
};
}  // namespace

// libyara leaks a little of what it has parsed when rules turn out to be wrong.
extern "C" const char* __lsan_default_suppressions() {
    return "leak:libyara.so";
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string text(reinterpret_cast<const char*>(data), size);
    for (const std::string& wanted : scan::find_includes(text)) {
        const std::string name = scan::included_name("rules/top.yar", wanted);
        CHECK(name.empty() || (name.front() != '/' && !name.starts_with("..")));
    }
    const std::vector<scan::RuleFile> files{{"rules/top.yar", text},
                                            {"rules/other.yar", text, /*only_included=*/true}};
    std::vector<scan::RuleError> errors;
    const auto rules = scan::Rules::compile(files, errors);
    CHECK(errors.size() <= limits::kMaxRuleErrors);
    if (!rules.has_value()) {
        CHECK(!errors.empty() || rules.error().code != Code::malformed);
        return 0;
    }
    CHECK(errors.empty());
    FewBytes content;
    (void)scan::scan(*rules, content, {}, std::chrono::seconds(2));
    return 0;
}
