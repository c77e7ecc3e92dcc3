#include <arpa/inet.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>

#include "guest_linux/network.h"

namespace underseer::guest_linux {

namespace {

constexpr std::uint64_t kMaxHardwareAddress = 32;  // MAX_ADDR_LEN, include/linux/netdevice.h
constexpr std::size_t kMaxKindBytes = 16;

class InterfaceReader {
  public:
    explicit InterfaceReader(Kernel& kernel) : kernel_(kernel) {}

    Result<void> list_all(Listing<event::NetworkInterface>& listing) {
        const GuestVirt head = TRY(kernel_.symbol("net_namespace_list"));
        return kernel_.walk_list(head, [&](GuestVirt node) {
            const GuestVirt net = node - net_list_.offset;
            auto listed = list_namespace(net, listing);
            if (!listed.has_value()) listing.note(listed.error());
            return true;
        });
    }

  private:
    Result<void> list_namespace(GuestVirt net, Listing<event::NetworkInterface>& listing) {
        const auto number = static_cast<std::uint32_t>(TRY(kernel_.read(net, net_inum_)));
        return kernel_.walk_list(net + devices_.offset, [&](GuestVirt node) {
            auto item = read(node - device_node_.offset);
            if (item.has_value()) {
                item->net_namespace = number;
                listing.items.push_back(std::move(*item));
            } else {
                listing.note(item.error());
            }
            return true;
        });
    }

    Result<event::NetworkInterface> read(GuestVirt device) {
        event::NetworkInterface result;
        result.name = TRY(kernel_.read_text(device, name_));
        result.index = static_cast<std::uint32_t>(TRY(kernel_.read(device, index_)));
        result.flags = static_cast<std::uint32_t>(TRY(kernel_.read(device, flags_)));
        result.mtu = static_cast<std::uint32_t>(TRY(kernel_.read(device, mtu_)));
        result.promiscuity = static_cast<std::uint32_t>(TRY(kernel_.read(device, promiscuity_)));
        result.bridge = observed(bridge_of(device));
        const std::uint64_t length =
            std::min(TRY(kernel_.read(device, address_length_)), kMaxHardwareAddress);
        result.mac = TRY(hardware_address(TRY(kernel_.read_pointer(device, address_)), length));
        result.permanent_mac = TRY(hardware_address(device + permanent_address_.offset, length));
        result.addresses = observed(addresses(device));
        return result;
    }

    // The device that it has been put under (netdev_master_upper_dev_get(), net/core/dev.c: the
    // first of those above it, if that is its master), when that is a bridge.
    Result<std::string> bridge_of(GuestVirt device) {
        TRY(kernel_.require(
            {above_, above_node_, above_device_, is_master_, link_operations_, kind_}));
        GuestVirt above;
        TRY(kernel_.walk_list(device + above_.offset, [&](GuestVirt node) {
            above = node - above_node_.offset;
            return false;
        }));
        if (!above || TRY(kernel_.read(above, is_master_)) == 0) return std::string();
        const GuestVirt master = TRY(kernel_.read_pointer(above, above_device_));
        const GuestVirt operations = TRY(kernel_.read_pointer(master, link_operations_));
        if (!operations) return std::string();
        const GuestVirt kind = TRY(kernel_.read_pointer(operations, kind_));
        if (TRY(kernel_.memory().read_cstring(kind, kMaxKindBytes)) != "bridge")
            return std::string();
        return kernel_.read_text(master, name_);
    }

    Result<std::string> hardware_address(GuestVirt at, std::uint64_t length) {
        std::vector<std::uint8_t> bytes(length);
        TRY(kernel_.memory().read(at, std::as_writable_bytes(std::span(bytes))));
        return fmt::format("{:02x}", fmt::join(bytes, ":"));
    }

    Result<std::vector<std::string>> addresses(GuestVirt device) {
        std::vector<std::string> all;
        TRY(add_v4(device, all));
        TRY(add_v6(device, all));
        return all;
    }

    Result<void> add_v4(GuestVirt device, std::vector<std::string>& all) {
        const GuestVirt in_device = TRY(kernel_.read_pointer(device, ip_));
        if (!in_device) return {};
        GuestVirt address = TRY(kernel_.read_pointer(in_device, v4_list_));
        CircleGuard circle;
        for (std::size_t step = 0; address; ++step) {
            if (step >= limits::kMaxListSteps || circle.closes_at(address)) {
                return fail(Code::limit, "too many addresses of an interface, or a circle of them");
            }
            char text[INET_ADDRSTRLEN] = "";
            const auto raw = static_cast<std::uint32_t>(TRY(kernel_.read(address, v4_local_)));
            ::inet_ntop(AF_INET, &raw, text, sizeof text);
            all.push_back(fmt::format("{}/{}", text, TRY(kernel_.read(address, v4_prefix_))));
            address = TRY(kernel_.read_pointer(address, v4_next_));
        }
        return {};
    }

    Result<void> add_v6(GuestVirt device, std::vector<std::string>& all) {
        const GuestVirt in6_device = TRY(kernel_.read_pointer(device, ip6_));
        if (!in6_device) return {};
        TRY(kernel_.require({v6_list_, v6_node_, v6_address_, v6_prefix_}));
        Result<void> worst;
        TRY(kernel_.walk_list(in6_device + v6_list_.offset, [&](GuestVirt node) {
            const GuestVirt address = node - v6_node_.offset;
            std::array<std::byte, 16> raw{};
            char text[INET6_ADDRSTRLEN] = "";
            worst = kernel_.memory().read(address + v6_address_.offset, raw);
            const auto prefix = kernel_.read(address, v6_prefix_);
            if (worst.has_value() && !prefix.has_value()) worst = fail(prefix.error());
            if (!worst.has_value()) return false;
            ::inet_ntop(AF_INET6, raw.data(), text, sizeof text);
            all.push_back(fmt::format("{}/{}", text, *prefix));
            return true;
        }));
        return worst;
    }

    Kernel& kernel_;
    Field net_list_ = kernel_.field("net", "list");
    Field net_inum_ = kernel_.field("net", "ns.inum");
    Field devices_ = kernel_.field("net", "dev_base_head");
    Field device_node_ = kernel_.field("net_device", "dev_list");
    Field name_ = kernel_.field("net_device", "name");
    Field index_ = kernel_.field("net_device", "ifindex");
    Field flags_ = kernel_.field("net_device", "flags");
    Field mtu_ = kernel_.field("net_device", "mtu");
    Field promiscuity_ = kernel_.field("net_device", "promiscuity");
    Field above_ = kernel_.field("net_device", "adj_list.upper");
    Field above_node_ = kernel_.field("netdev_adjacent", "list");
    Field above_device_ = kernel_.field("netdev_adjacent", "dev");
    Field is_master_ = kernel_.field("netdev_adjacent", "master");
    Field link_operations_ = kernel_.field("net_device", "rtnl_link_ops");
    Field kind_ = kernel_.field("rtnl_link_ops", "kind");
    Field address_ = kernel_.field("net_device", "dev_addr");
    Field address_length_ = kernel_.field("net_device", "addr_len");
    Field permanent_address_ = kernel_.field("net_device", "perm_addr");
    Field ip_ = kernel_.field("net_device", "ip_ptr");
    Field ip6_ = kernel_.field("net_device", "ip6_ptr");
    Field v4_list_ = kernel_.field("in_device", "ifa_list");
    Field v4_next_ = kernel_.field("in_ifaddr", "ifa_next");
    Field v4_local_ = kernel_.field("in_ifaddr", "ifa_local");
    Field v4_prefix_ = kernel_.field("in_ifaddr", "ifa_prefixlen");
    Field v6_list_ = kernel_.field("inet6_dev", "addr_list");
    Field v6_node_ = kernel_.field("inet6_ifaddr", "if_list");
    Field v6_address_ = kernel_.field("inet6_ifaddr", "addr");
    Field v6_prefix_ = kernel_.field("inet6_ifaddr", "prefix_len");
};

}  // namespace

Result<Listing<event::NetworkInterface>> list_interfaces(Kernel& kernel) {
    Listing<event::NetworkInterface> listing;
    TRY(InterfaceReader(kernel).list_all(listing));
    return listing;
}

}  // namespace underseer::guest_linux
