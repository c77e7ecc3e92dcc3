// A libvirt domain's XML. Wraps pugixml, which knows no DTD and expands no entities but XML's own
// five: nothing in a document makes it grow.
#include <fmt/format.h>

#include <charconv>
#include <optional>
#include <pugixml.hpp>

#include "base/limits.h"
#include "hypervisor/libvirt.h"

namespace underseer::hypervisor {

namespace {

std::string text_of(const char* text) {
    return std::string(std::string_view(text).substr(0, limits::kMaxManagerTextBytes));
}

// "KiB" unless it says otherwise (libvirt's docs/formatdomain.rst, "Memory Allocation").
std::optional<std::uint64_t> size_of(const pugi::xml_node& node) {
    const std::string_view text = node.text().get();
    const std::string_view unit = node.attribute("unit").as_string("KiB");
    std::uint64_t number = 0, bytes = 0;
    if (std::from_chars(text.data(), text.data() + text.size(), number).ec != std::errc{}) {
        return std::nullopt;
    }
    constexpr std::pair<std::string_view, std::uint64_t> kUnits[] = {{"b", 1},
                                                                     {"bytes", 1},
                                                                     {"KB", 1000},
                                                                     {"k", 1u << 10},
                                                                     {"KiB", 1u << 10},
                                                                     {"MB", 1'000'000},
                                                                     {"M", 1u << 20},
                                                                     {"MiB", 1u << 20},
                                                                     {"G", 1ull << 30},
                                                                     {"GiB", 1ull << 30},
                                                                     {"T", 1ull << 40},
                                                                     {"TiB", 1ull << 40},
                                                                     {"GB", 1'000'000'000}};
    for (const auto& [name, factor] : kUnits) {
        if (unit != name || __builtin_mul_overflow(number, factor, &bytes)) continue;
        return bytes;
    }
    return std::nullopt;
}

// Whether the name of a node is `local` in our namespace: pugixml leaves prefixes as they are, so
// the declaration that binds one is looked for upwards, at most as deep as a domain nests.
bool is_ours(const pugi::xml_node& node, std::string_view local) {
    const std::string_view name = node.name();
    const std::size_t colon = name.find(':');
    const bool prefixed = colon != std::string_view::npos;
    if ((prefixed ? name.substr(colon + 1) : name) != local) return false;
    const std::string wanted =
        prefixed ? fmt::format("xmlns:{}", name.substr(0, colon)) : std::string("xmlns");
    pugi::xml_node at = node;
    for (int depth = 0; at && depth < 8; ++depth, at = at.parent()) {
        if (const auto declared = at.attribute(wanted.c_str())) {
            return declared.value() == kMetadataNamespace;
        }
    }
    return false;
}

// As XML has lists: between blanks.
std::vector<std::string> labels_of(std::string_view text) {
    constexpr std::string_view kBlanks = " \t\r\n";
    std::vector<std::string> labels;
    while (labels.size() < limits::kMaxLabels) {
        const std::size_t begin = text.find_first_not_of(kBlanks);
        if (begin == std::string_view::npos) break;
        text.remove_prefix(begin);
        labels.emplace_back(text.substr(0, text.find_first_of(kBlanks)));
        text.remove_prefix(labels.back().size());
    }
    return labels;
}

}  // namespace

Result<ManagerFacts> parse_domain_xml(std::string_view xml) {
    if (xml.size() > limits::kMaxDomainXmlBytes) {
        return fail(Code::limit, fmt::format("a domain's XML has {} bytes; at most {} are taken",
                                             xml.size(), limits::kMaxDomainXmlBytes));
    }
    pugi::xml_document document;
    const auto parsed = document.load_buffer(xml.data(), xml.size());
    if (!parsed) {
        return fail(Code::malformed, fmt::format("a domain's XML is malformed at byte {}: {}",
                                                 parsed.offset, parsed.description()));
    }
    const pugi::xml_node domain = document.child("domain");
    if (!domain) return fail(Code::malformed, "a domain's XML has no <domain>");
    ManagerFacts facts{.source = "libvirt"};
    facts.name = text_of(domain.child("name").text().get());
    facts.uuid = text_of(domain.child("uuid").text().get());
    facts.machine = text_of(domain.child("os").child("type").attribute("machine").value());
    facts.kvm = std::string_view(domain.attribute("type").value()) == "kvm";
    // <memory> counts what is plugged in later too; a domain with such slots has <maxMemory>.
    if (const auto size = size_of(domain.child("memory")); size && !domain.child("maxMemory")) {
        facts.memory_bytes = *size;
    }
    if (const auto guard = domain.child("launchSecurity")) {
        facts.confidential = fmt::format("a confidential VM ({}): its memory is encrypted",
                                         text_of(guard.attribute("type").as_string("?")));
    }
    for (const pugi::xml_node& node : domain.child("metadata").children()) {
        if (!is_ours(node, "instance")) continue;
        facts.identity = {text_of(node.attribute("tenant").value()),
                          text_of(node.attribute("app_instance_id").value()),
                          text_of(node.attribute("app_d_id").value()),
                          labels_of(text_of(node.attribute("labels").value()))};
        break;
    }
    return facts;
}

}  // namespace underseer::hypervisor
