// Border: Sigma rules, which are others' text. Must hold: each is compiled or refused with a
// reason, what was compiled is taken in wire form, and an event is judged by it, in bounded time.
#include "event/wire.h"
#include "sigma/compile.h"
#include "sigma/match.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace underseer;
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    sigma::RuleSet set;
    set.add("rules/fuzzed.yml", text);
    CHECK(set.rules.size() + set.refused.size() == 1);
    for (const sigma::Refusal& refusal : set.refused) CHECK(!refusal.message.empty());
    if (set.rules.empty()) return 0;
    auto handed_on = event::decode<std::vector<sigma::Rule>>(as_bytes(event::encode(set.rules)));
    const auto matcher = sigma::Matcher::of(std::move(handed_on).value());
    CHECK(matcher.has_value());
    sigma::Event event;
    event.category = set.rules.front().category;
    (void)matcher->judge(event);
    for (sigma::Value& value : event.values) {
        value = sigma::Value::of("/bin/sh -c 'id' -- 10.0.0.1 443 " + std::string(200, 'a'));
    }
    (void)matcher->judge(event);
    event[sigma::Field::command_line] = sigma::Value::unknown();
    (void)matcher->judge(event);
    return 0;
}
