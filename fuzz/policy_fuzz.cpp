// Border: a policy file. Must hold: it is accepted or refused with a place and a reason.
#include "policy/policy.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace underseer;
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    constexpr std::string_view kChecks[] = {"hidden_process"};
    const auto policy = policy::parse(text, "policy.toml", kChecks);
    if (!policy.has_value()) CHECK(!policy.error().message.empty());
    return 0;
}
