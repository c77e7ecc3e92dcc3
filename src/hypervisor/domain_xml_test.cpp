#include <gtest/gtest.h>

#include "base/limits.h"
#include "hypervisor/libvirt.h"

namespace underseer::hypervisor {
namespace {

std::string domain(std::string_view metadata, std::string_view more = "") {
    return std::string(
               "<domain type='kvm' id='3'><name>edge-1</name>"
               "<uuid>6f1a2b3c-0000-4000-8000-000000000001</uuid><metadata>") +
           std::string(metadata) +
           "</metadata><memory unit='KiB'>1048576</memory>"
           "<os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>" +
           std::string(more) + "</domain>";
}

TEST(DomainXml, what_is_asked_for_is_read) {
    const auto facts = parse_domain_xml(domain(R"(
        <libosinfo:libosinfo xmlns:libosinfo="http://libosinfo.org/"><x/></libosinfo:libosinfo>
        <underseer:instance xmlns:underseer="https://underseer.example/ns/instance/1"
            tenant="acme &amp; sons" app_instance_id="8a7e" app_d_id="cache-2.1" labels=" gpu
            edge"/>)"))
                           .value();
    EXPECT_EQ(facts.source, "libvirt");
    EXPECT_EQ(facts.name, "edge-1");
    EXPECT_EQ(facts.uuid, "6f1a2b3c-0000-4000-8000-000000000001");
    EXPECT_EQ(facts.machine, "pc-q35-7.2");
    EXPECT_TRUE(facts.kvm);
    EXPECT_EQ(facts.memory_bytes, 1u << 30);
    EXPECT_EQ(facts.identity, (Identity{"acme & sons", "8a7e", "cache-2.1", {"gpu", "edge"}}));
    EXPECT_EQ(facts.confidential, "");
}

TEST(DomainXml, the_namespace_counts_and_not_the_prefix) {
    EXPECT_EQ(
        parse_domain_xml(
            domain(R"(<u:instance xmlns:u="https://underseer.example/ns/instance/1" tenant="a"/>)"))
            ->identity.tenant,
        "a");
    EXPECT_EQ(
        parse_domain_xml(
            domain(R"(<instance xmlns="https://underseer.example/ns/instance/1" tenant="a"/>)"))
            ->identity.tenant,
        "a");
    EXPECT_EQ(
        parse_domain_xml(
            domain(R"(<underseer:instance xmlns:underseer="https://other.example/" tenant="a"/>)"))
            ->identity.tenant,
        "");
    EXPECT_EQ(parse_domain_xml(domain(R"(<underseer:instance tenant="a"/>)"))->identity.tenant, "");
}

TEST(DomainXml, confidential_domains_say_so) {
    const auto facts = parse_domain_xml(domain("", "<launchSecurity type='sev'/>")).value();
    EXPECT_NE(facts.confidential.find("(sev)"), std::string::npos);
}

TEST(DomainXml, hostile_documents_are_bounded) {
    EXPECT_EQ(parse_domain_xml("").error().code, Code::malformed);
    EXPECT_EQ(parse_domain_xml("<domain><name>x").error().code, Code::malformed);
    EXPECT_EQ(parse_domain_xml("<network/>").error().code, Code::malformed);
    EXPECT_EQ(parse_domain_xml(std::string(limits::kMaxDomainXmlBytes + 1, ' ')).error().code,
              Code::limit);
    // No entity of a document's own is expanded, and nesting costs no stack.
    const auto bomb = parse_domain_xml(
        "<!DOCTYPE d [<!ENTITY a \"aaaaaaaaaa\">]><domain><name>&a;</name></domain>");
    EXPECT_EQ(bomb->name, "&a;");
    std::string deep = "<domain>";
    for (int i = 0; i < 200'000; ++i) deep += "<a>";
    EXPECT_EQ(parse_domain_xml(deep).error().code, Code::malformed);
    const auto memory =
        parse_domain_xml("<domain><memory unit='TiB'>99999999999999999999</memory></domain>");
    EXPECT_EQ(memory->memory_bytes, 0u);
    const auto name =
        parse_domain_xml("<domain><name>" + std::string(100'000, 'x') + "</name></domain>");
    EXPECT_EQ(name->name.size(), limits::kMaxManagerTextBytes);
}

}  // namespace
}  // namespace underseer::hypervisor
