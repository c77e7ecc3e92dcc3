// What sees packets: netfilter, packet types, protocols and families of sockets.
#include <fmt/format.h>

#include <array>

#include "guest_linux/hook_collector.h"

namespace underseer::guest_linux {

namespace {

constexpr std::uint64_t kMaxEntries = 1024;  // MAX_HOOK_COUNT, net/netfilter/core.c
constexpr std::size_t kPacketBuckets = 16;   // PTYPE_HASH_SIZE, include/linux/netdevice.h
constexpr std::size_t kMaxProtocols = 256;   // MAX_INET_PROTOS, include/net/protocol.h
constexpr std::size_t kMaxFamilies = 64;     // AF_MAX is 46

class NetworkHooks {
  public:
    explicit NetworkHooks(HookCollector& collector) : to_(collector), kernel_(collector.kernel) {}

    Result<void> namespaces() {
        const Field node = kernel_.field("net", "list");
        return to_.each(
            TRY(kernel_.symbol("net_namespace_list")), node, [&](GuestVirt net) -> Result<void> {
                TRY(filters_of(net));
                TRY(packet_list(net, kernel_.field("net", "ptype_all"), "all packets"));
                TRY(packet_list(net, kernel_.field("net", "ptype_specific"), "packets of a kind"));
                return devices_of(net);
            });
    }

    Result<void> packets() {
        // A list of its own until 6.8, a part of net_hotdata until 6.13, of each namespace since.
        if (const auto all = kernel_.symbol("ptype_all"); all.has_value()) {
            TRY(packets_of(*all, "all packets"));
        }
        if (const auto all = kernel_.symbol("net_hotdata"); all.has_value()) {
            TRY(packet_list(*all, kernel_.field("net_hotdata", "ptype_all"), "all packets"));
        }
        const GuestVirt base = TRY(kernel_.symbol("ptype_base"));
        for (std::size_t i = 0; i < kPacketBuckets; ++i) {
            TRY(packets_of(base + 16 * i, "packets of a kind"));
        }
        return {};
    }

    Result<void> protocols() {
        for (const auto& [table, structure] :
             {std::pair{"inet_protos", "net_protocol"}, {"inet6_protos", "inet6_protocol"}}) {
            const auto at = kernel_.symbol(table);
            if (!at.has_value()) continue;
            TRY(to_.each_pointer(*at, kMaxProtocols, [&](GuestVirt protocol, std::size_t i) {
                return to_.add_operations(HookKind::protocol, fmt::format("{}[{}]", table, i),
                                          structure, protocol);
            }));
        }
        const GuestVirt families = TRY(kernel_.symbol("net_families"));
        const auto behind = kernel_.symbols().after(families);
        const std::size_t count =
            behind ? std::min<std::size_t>((*behind - families) / 8, kMaxFamilies) : 0;
        return to_.each_pointer(families, count, [&](GuestVirt family, std::size_t i) {
            return to_.add_operations(HookKind::protocol, fmt::format("net_families[{}]", i),
                                      "net_proto_family", family);
        });
    }

  private:
    // struct netns_nf: for each family an array of chains, one for each place on a packet's way.
    Result<void> filters_of(GuestVirt net) {
        constexpr std::array kFamilies{
            std::pair{"nf.hooks_ipv4", "IPv4"}, std::pair{"nf.hooks_ipv6", "IPv6"},
            std::pair{"nf.hooks_arp", "ARP"}, std::pair{"nf.hooks_bridge", "bridge"}};
        constexpr std::array<std::string_view, 5> kPlaces{"prerouting", "input", "forward",
                                                          "output", "postrouting"};
        for (const auto& [member, family] : kFamilies) {
            const Field array = kernel_.field("net", member);
            if (!array.known()) continue;
            TRY(to_.each_pointer(net + array.offset, std::min(array.size_bytes / 8, 16u),
                                 [&](GuestVirt chain, std::size_t i) {
                                     return chain_of(
                                         chain, fmt::format(
                                                    "{} {}", family,
                                                    i < kPlaces.size() ? kPlaces[i] : "elsewhere"));
                                 }));
        }
        return {};
    }

    // struct nf_hook_entries: a number, and so many functions with their data.
    Result<void> chain_of(GuestVirt chain, const std::string& place) {
        const Field count = kernel_.field("nf_hook_entries", "num_hook_entries"),
                    function = kernel_.field("nf_hook_entry", "hook");
        TRY(kernel_.require({count, function}));
        const std::uint64_t entries = TRY(kernel_.require_size_of("nf_hook_entries")),
                            step = TRY(kernel_.require_size_of("nf_hook_entry"));
        const std::uint64_t many = TRY(kernel_.read(chain, count));
        if (many > kMaxEntries) return fail(Code::limit, "a chain of netfilter is too long");
        for (std::uint64_t i = 0; i < many; ++i) {
            const GuestVirt record = chain + entries + i * step;
            const GuestVirt target = TRY(kernel_.read_pointer(record, function));
            to_.add({HookKind::netfilter, place, target, record, {}, false});
        }
        return {};
    }

    Result<void> devices_of(GuestVirt net) {
        const Field all = kernel_.field("net", "dev_base_head"),
                    node = kernel_.field("net_device", "dev_list"),
                    name = kernel_.field("net_device", "name");
        TRY(kernel_.require({all, name}));
        return to_.each(net + all.offset, node, [&](GuestVirt device) -> Result<void> {
            const std::string called = TRY(kernel_.read_text(device, name));
            for (const auto& [member, way] :
                 {std::pair{"nf_hooks_ingress", "ingress"}, {"nf_hooks_egress", "egress"}}) {
                const Field chain = kernel_.field("net_device", member);
                if (!chain.known()) continue;
                const GuestVirt at = TRY(kernel_.read_pointer(device, chain));
                if (at) TRY(chain_of(at, fmt::format("{} {}", called, way)));
            }
            // What takes all packets of a bridge's or bond's part.
            if (const Field taker = kernel_.field("net_device", "rx_handler"); taker.known()) {
                const GuestVirt target = TRY(kernel_.read_pointer(device, taker));
                to_.add({HookKind::packet, called, target, device + taker.offset, {}, false});
            }
            TRY(packet_list(device, kernel_.field("net_device", "ptype_all"), called));
            return packet_list(device, kernel_.field("net_device", "ptype_specific"), called);
        });
    }

    Result<void> packet_list(GuestVirt owner, const Field& list, const std::string& point) {
        if (!list.known()) return {};
        return packets_of(owner + list.offset, point);
    }
    Result<void> packets_of(GuestVirt head, const std::string& point) {
        const Field node = kernel_.field("packet_type", "list"),
                    function = kernel_.field("packet_type", "func");
        return to_.each(head, node, [&](GuestVirt type) -> Result<void> {
            const GuestVirt target = TRY(kernel_.read_pointer(type, function));
            to_.add({HookKind::packet, point, target, type, {}, false});
            return {};
        });
    }

    HookCollector& to_;
    Kernel& kernel_;
};

}  // namespace

void collect_network_hooks(HookCollector& collector) {
    NetworkHooks hooks(collector);
    collector.part("network namespaces", [&] { return hooks.namespaces(); });
    collector.part("packet types", [&] { return hooks.packets(); });
    collector.part("protocols", [&] { return hooks.protocols(); });
}

}  // namespace underseer::guest_linux
