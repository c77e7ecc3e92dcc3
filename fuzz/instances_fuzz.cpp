// Border: texts that name owners of VMs: the first byte chooses between a domain's XML, which
// whoever defined the domain wrote, and the operator's mapping file. Must hold: parsing ends with a
// value or an error that has a text.
#include "hypervisor/libvirt.h"
#include "policy/instance_map.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace underseer;
    if (size == 0) return 0;
    const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
    if (data[0] == 'X') {
        const auto facts = hypervisor::parse_domain_xml(text);
        CHECK(facts.has_value() || !facts.error().message.empty());
    } else {
        const auto map = policy::InstanceMap::parse(text, "instances.toml");
        CHECK(map.has_value() || map.error().message.find("instances.toml:") == 0);
    }
    return 0;
}
