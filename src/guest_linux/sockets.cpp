#include <arpa/inet.h>
#include <fmt/format.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <set>
#include <unordered_map>
#include <unordered_set>

#include "guest_linux/network.h"

namespace underseer::guest_linux {

namespace {

// include/net/tcp_states.h, in the words of ss(8) and netstat(8).
constexpr std::array<std::string_view, 13> kTcpStates{
    "",      "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2",   "TIME_WAIT",
    "CLOSE", "CLOSE_WAIT",  "LAST_ACK", "LISTEN",   "CLOSING",   "NEW_SYN_RECV"};
constexpr std::uint64_t kTcpTimeWait = 6, kTcpListen = 10, kTcpNewSynRecv = 12;

constexpr std::size_t kMaxTables = 1024;  // of sockets, of all network namespaces

struct FamilyName {
    std::uint64_t number;
    std::string_view name;
};
constexpr std::array<FamilyName, 10> kFamilies{{{AF_UNIX, "unix"},
                                                {AF_INET, "inet"},
                                                {AF_INET6, "inet6"},
                                                {AF_NETLINK, "netlink"},
                                                {AF_PACKET, "packet"},
                                                {AF_ALG, "alg"},
                                                {AF_VSOCK, "vsock"},
                                                {AF_BLUETOOTH, "bluetooth"},
                                                {AF_XDP, "xdp"},
                                                {AF_KEY, "key"}}};

std::string_view type_name(std::uint64_t type) {
    switch (type) {
        case SOCK_STREAM:
            return "stream";
        case SOCK_DGRAM:
            return "dgram";
        case SOCK_RAW:
            return "raw";
        case SOCK_RDM:
            return "rdm";
        case SOCK_SEQPACKET:
            return "seqpacket";
        case SOCK_PACKET:
            return "packet";
        default:
            return "other";
    }
}

std::uint32_t from_network_order(std::uint64_t port) {
    return std::byteswap(static_cast<std::uint16_t>(port));
}

class SocketReader {
  public:
    explicit SocketReader(Kernel& kernel) : kernel_(kernel) {}

    Result<event::Socket> read(GuestVirt sk) {
        event::Socket result;
        result.address = sk.value;
        const std::uint64_t family = TRY(kernel_.read(sk, family_));
        result.family = fmt::format("af_{}", family);
        for (const FamilyName& known : kFamilies) {
            if (known.number == family) result.family = known.name;
        }
        const std::uint64_t state = TRY(kernel_.read(sk, state_));
        TRY(read_namespace(sk, result));
        if (family == AF_INET || family == AF_INET6) {
            TRY(read_inet(sk, family, state, result));
            return result;
        }
        result.type = type_name(TRY(kernel_.read(sk, type_)));
        TRY(read_owner(sk, result));
        if (family == AF_UNIX) TRY(read_unix(sk, state, result));
        if (family == AF_PACKET) TRY(read_packet(sk, result));
        if (family == AF_NETLINK) {
            result.local_port = static_cast<std::uint32_t>(TRY(kernel_.read(sk, netlink_portid_)));
            result.remote_port = static_cast<std::uint32_t>(TRY(kernel_.read(sk, protocol_)));
        }
        return result;
    }

    // Every socket in the kernel's own tables of them, of all network namespaces: visit(sk). A
    // table that cannot be read is noted in `listing`, and in `waiting` unless it is that of
    // connections.
    template <typename Visit>
    void for_each_hashed(Visit&& visit, Listing<event::Socket>& listing, Gaps& waiting) {
        const auto part = [&](std::string_view what, const Result<void>& walked) {
            if (walked.has_value()) return;
            listing.note(walked.error());
            waiting.add(what, walked.error());
        };
        std::vector<GuestVirt> tcp, udp;
        part("the tables of sockets", find_tables(tcp, udp));
        for (const GuestVirt info : tcp) {
            const auto connections = walk_established(info, visit);
            if (!connections.has_value()) listing.note(connections.error());
            part("TCP listeners", walk_listeners(info, visit));
        }
        for (const GuestVirt table : udp) part("UDP", walk_udp(table, visit));
        for (const std::string_view table : {"raw_v4_hashinfo", "raw_v6_hashinfo"}) {
            // Where IPv6 is a module or left out there is no such table among the kernel's own.
            if (const auto info = kernel_.symbol(table); info.has_value()) {
                part("raw sockets", walk_raw(*info, visit));
            }
        }
    }

  private:
    // The kernel's, and since 6.1 (UDP: 6.2) those that a network namespace may have for itself.
    Result<void> find_tables(std::vector<GuestVirt>& tcp, std::vector<GuestVirt>& udp) {
        tcp = {TRY(kernel_.symbol("tcp_hashinfo"))};
        udp = {TRY(kernel_.symbol("udp_table"))};
        const auto add = [&](GuestVirt net, const Field& field,
                             std::vector<GuestVirt>& tables) -> Result<void> {
            if (!field.known() || field.size_bytes != sizeof(std::uint64_t)) return {};
            const GuestVirt table = TRY(kernel_.read_pointer(net, field));
            const bool is_new = std::ranges::find(tables, table) == tables.end();
            if (table && is_new && tables.size() < kMaxTables) tables.push_back(table);
            return {};
        };
        Result<void> inside;
        TRY(kernel_.walk_list(TRY(kernel_.symbol("net_namespace_list")), [&](GuestVirt node) {
            inside = add(node - net_list_.offset, net_tcp_, tcp);
            if (inside.has_value()) inside = add(node - net_list_.offset, net_udp_, udp);
            return inside.has_value();
        }));
        return inside;
    }

    // A table of `count` chains: the pointer that begins each is `head` bytes into its entry.
    template <typename Visit>
    Result<void> walk_chains(GuestVirt table, std::uint64_t count, std::uint64_t step,
                             std::uint64_t head, Visit&& visit) {
        TRY(kernel_.require({nulls_node_}));
        if (count > limits::kMaxSocketChains || head + sizeof(std::uint64_t) > step) {
            return fail(Code::limit, "a table of sockets is too large");
        }
        std::vector<std::byte> entries(count * step);
        TRY(kernel_.memory().read(table, entries));
        for (std::uint64_t i = 0; i < count; ++i) {
            std::uint64_t first;
            std::memcpy(&first, entries.data() + i * step + head, sizeof first);
            TRY(walk_nulls(first, nulls_node_, visit));
        }
        return {};
    }

    template <typename Visit>
    Result<void> walk_established(GuestVirt info, Visit&& visit) {
        const GuestVirt table = TRY(kernel_.read_pointer(info, ehash_));
        const std::uint64_t mask = TRY(kernel_.read(info, ehash_mask_));
        return walk_chains(table, mask + 1, sizeof(std::uint64_t), 0, visit);
    }

    // A fixed table before 5.19, then the one that is also by address (net/ipv4/inet_hashtables.c).
    template <typename Visit>
    Result<void> walk_listeners(GuestVirt info, Visit&& visit) {
        TRY(kernel_.require({listeners_head_}));
        const std::uint64_t step = TRY(kernel_.require_size_of("inet_listen_hashbucket"));
        if (fixed_listeners_.known()) {
            return walk_chains(info + fixed_listeners_.offset, fixed_listeners_.size_bytes / step,
                               step, listeners_head_.offset, visit);
        }
        const GuestVirt table = TRY(kernel_.read_pointer(info, listeners_));
        const std::uint64_t mask = TRY(kernel_.read(info, listeners_mask_));
        return walk_chains(table, mask + 1, step, listeners_head_.offset, visit);
    }

    template <typename Visit>
    Result<void> walk_udp(GuestVirt udp, Visit&& visit) {
        TRY(kernel_.require({udp_head_}));
        const std::uint64_t step = TRY(kernel_.require_size_of("udp_hslot"));
        const GuestVirt table = TRY(kernel_.read_pointer(udp, udp_hash_));
        const std::uint64_t mask = TRY(kernel_.read(udp, udp_mask_));
        return walk_chains(table, mask + 1, step, udp_head_.offset, visit);
    }

    template <typename Visit>
    Result<void> walk_raw(GuestVirt info, Visit&& visit) {
        TRY(kernel_.require({raw_chains_}));
        return walk_chains(info + raw_chains_.offset, raw_chains_.size_bytes / 8, 8, 0, visit);
    }

    // hlist_nulls: an odd pointer ends the chain (include/linux/list_nulls.h).
    template <typename Visit>
    Result<void> walk_nulls(std::uint64_t node, const Field& member, Visit&& visit) {
        CircleGuard circle;
        for (std::size_t step = 0; node != 0 && (node & 1) == 0; ++step) {
            if (step >= limits::kMaxListSteps || circle.closes_at(GuestVirt{node})) {
                return fail(Code::limit, "a chain of sockets is too long, or a circle");
            }
            // Many chains may lead into the same one.
            if (++hashed_ > limits::kMaxHashedSockets) {
                return fail(Code::limit, "there are more sockets than can be looked at");
            }
            visit(GuestVirt{node} - member.offset);
            node = TRY(kernel_.memory().read<std::uint64_t>(GuestVirt{node}));
        }
        return {};
    }

    Result<void> read_namespace(GuestVirt sk, event::Socket& result) {
        const GuestVirt net = TRY(kernel_.read_pointer(sk, net_));
        if (net)
            result.net_namespace = static_cast<std::uint32_t>(TRY(kernel_.read(net, net_inum_)));
        return {};
    }

    // Inode and user: of full sockets only; TIME_WAIT and request sockets are smaller structs.
    Result<void> read_owner(GuestVirt sk, event::Socket& result) {
        result.uid = static_cast<std::uint32_t>(TRY(kernel_.read(sk, uid_)));
        if (of_kernel_.known()) result.of_kernel = TRY(kernel_.read(sk, of_kernel_)) != 0;
        if (data_ready_.known()) result.receiver = TRY(kernel_.read(sk, data_ready_));
        const GuestVirt socket = TRY(kernel_.read_pointer(sk, socket_));
        if (!socket) return {};
        TRY(kernel_.require({alloc_socket_, alloc_inode_}));
        const GuestVirt inode = socket - alloc_socket_.offset + alloc_inode_.offset;
        result.inode = TRY(kernel_.read(inode, inode_number_));
        return {};
    }

    Result<std::string> address_text(GuestVirt sk, std::uint64_t family, const Field& v4,
                                     const Field& v6) {
        char text[INET6_ADDRSTRLEN] = "";
        std::array<std::byte, 16> raw{};
        const Field& field = family == AF_INET ? v4 : v6;
        if (!field.known()) return fail(Code::unavailable, "socket addresses are not known");
        const std::size_t bytes = family == AF_INET ? 4 : 16;
        TRY(kernel_.memory().read(sk + field.offset, std::span(raw).first(bytes)));
        ::inet_ntop(static_cast<int>(family), raw.data(), text, sizeof text);
        return std::string(text);
    }

    Result<void> read_inet(GuestVirt sk, std::uint64_t family, std::uint64_t state,
                           event::Socket& result) {
        result.local_address = TRY(address_text(sk, family, local_v4_, local_v6_));
        result.remote_address = TRY(address_text(sk, family, remote_v4_, remote_v6_));
        result.local_port = static_cast<std::uint32_t>(TRY(kernel_.read(sk, local_port_)));
        result.remote_port = from_network_order(TRY(kernel_.read(sk, remote_port_)));
        if (state < kTcpStates.size()) result.state = kTcpStates[state];
        if (state == kTcpTimeWait || state == kTcpNewSynRecv) {
            result.type = "tcp";
            return {};
        }
        TRY(read_owner(sk, result));
        const std::uint64_t type = TRY(kernel_.read(sk, type_));
        const std::uint64_t protocol = TRY(kernel_.read(sk, protocol_));
        if (type == SOCK_STREAM && protocol == IPPROTO_TCP) {
            result.type = "tcp";
        } else if (type == SOCK_DGRAM && protocol == IPPROTO_UDP) {
            result.type = "udp";
        } else if (type == SOCK_RAW) {
            result.type = "raw";
            result.local_port = static_cast<std::uint32_t>(protocol);
        } else if (type == SOCK_DGRAM && (protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6)) {
            result.type = "ping";
        } else {
            result.type = fmt::format("{}/{}", type_name(type), protocol);
        }
        return {};
    }

    Result<void> read_unix(GuestVirt sk, std::uint64_t state, event::Socket& result) {
        result.state = state == kTcpListen ? "LISTEN" : state == 1 ? "CONNECTED" : "UNCONNECTED";
        result.local_address = TRY(unix_name(sk));
        const GuestVirt peer = TRY(kernel_.read_pointer(sk, unix_peer_));
        if (peer) result.remote_address = TRY(unix_name(peer));
        return {};
    }

    // sockaddr_un {family, path}; an abstract name begins with NUL and is shown with '@'.
    Result<std::string> unix_name(GuestVirt sk) {
        const GuestVirt address = TRY(kernel_.read_pointer(sk, unix_addr_));
        if (!address) return std::string();
        const std::uint64_t length = TRY(kernel_.read(address, unix_addr_len_));
        if (length <= 2 || length > 110) return std::string();
        std::string name(length - 2, '\0');
        TRY(kernel_.memory().read(address + unix_addr_name_.offset + 2,
                                  std::as_writable_bytes(std::span(name))));
        if (name.front() != '\0') return name.substr(0, name.find('\0'));
        for (char& c : name) {
            if (c == '\0') c = '@';  // as /proc/net/unix does
        }
        return name;
    }

    Result<void> read_packet(GuestVirt sk, event::Socket& result) {
        result.local_port = from_network_order(TRY(kernel_.read(sk, packet_protocol_)));
        const std::uint64_t index = TRY(kernel_.read(sk, packet_interface_));
        if (index != 0) result.local_address = fmt::format("if{}", index);
        return {};
    }

    Kernel& kernel_;
    std::size_t hashed_ = 0;
    Field family_ = kernel_.field("sock", "__sk_common.skc_family");
    Field state_ = kernel_.field("sock", "__sk_common.skc_state");
    Field net_ = kernel_.field("sock", "__sk_common.skc_net.net");
    Field local_v4_ = kernel_.field("sock", "__sk_common.skc_rcv_saddr");
    Field remote_v4_ = kernel_.field("sock", "__sk_common.skc_daddr");
    Field local_v6_ = kernel_.field("sock", "__sk_common.skc_v6_rcv_saddr");
    Field remote_v6_ = kernel_.field("sock", "__sk_common.skc_v6_daddr");
    Field local_port_ = kernel_.field("sock", "__sk_common.skc_num");
    Field remote_port_ = kernel_.field("sock", "__sk_common.skc_dport");
    Field nulls_node_ = kernel_.field("sock", "__sk_common.skc_nulls_node");
    Field type_ = kernel_.field("sock", "sk_type");
    Field protocol_ = kernel_.field("sock", "sk_protocol");
    Field uid_ = kernel_.field("sock", "sk_uid");
    Field socket_ = kernel_.field("sock", "sk_socket");
    Field net_inum_ = kernel_.field("net", "ns.inum");
    Field alloc_socket_ = kernel_.field("socket_alloc", "socket");
    Field alloc_inode_ = kernel_.field("socket_alloc", "vfs_inode");
    Field inode_number_ = kernel_.field("inode", "i_ino");
    Field unix_addr_ = kernel_.field("unix_sock", "addr");
    Field unix_peer_ = kernel_.field("unix_sock", "peer");
    Field unix_addr_len_ = kernel_.field("unix_address", "len");
    Field unix_addr_name_ = kernel_.field("unix_address", "name");
    Field packet_protocol_ = kernel_.field("packet_sock", "num");
    Field packet_interface_ = kernel_.field("packet_sock", "ifindex");
    Field netlink_portid_ = kernel_.field("netlink_sock", "portid");
    Field ehash_ = kernel_.field("inet_hashinfo", "ehash");
    Field ehash_mask_ = kernel_.field("inet_hashinfo", "ehash_mask");
    Field of_kernel_ = kernel_.field("sock", "sk_kern_sock");
    Field data_ready_ = kernel_.field("sock", "sk_data_ready");
    Field net_list_ = kernel_.field("net", "list");
    Field net_tcp_ = kernel_.field("net", "ipv4.tcp_death_row.hashinfo");
    Field net_udp_ = kernel_.field("net", "ipv4.udp_table");
    Field fixed_listeners_ = kernel_.field("inet_hashinfo", "listening_hash");
    Field listeners_ = kernel_.field("inet_hashinfo", "lhash2");
    Field listeners_mask_ = kernel_.field("inet_hashinfo", "lhash2_mask");
    Field listeners_head_ = kernel_.field("inet_listen_hashbucket", {"nulls_head", "head"});
    Field udp_hash_ = kernel_.field("udp_table", "hash");
    Field udp_mask_ = kernel_.field("udp_table", "mask");
    Field udp_head_ = kernel_.field("udp_hslot", "head");
    Field raw_chains_ = kernel_.field("raw_hashinfo", "ht");
};

}  // namespace

Result<void> add_sockets(Kernel& kernel, OpenFiles& files, const std::vector<GuestVirt>& tasks,
                         Listing<event::Socket>& listing, Gaps& waiting) {
    SocketReader reader(kernel);
    const Field tgid = kernel.field("task_struct", "tgid");
    TRY(kernel.require({tgid}));
    std::unordered_map<GuestVirt, std::size_t> known;
    std::set<std::pair<std::uint32_t, GuestVirt>> tables;  // of a process, that were looked at
    const auto add = [&](GuestVirt sk) -> event::Socket* {
        const auto found = known.find(sk);
        if (found != known.end()) return &listing.items[found->second];
        auto socket = reader.read(sk);
        if (!socket.has_value()) {
            listing.note(socket.error());
            return nullptr;
        }
        known.emplace(sk, listing.items.size());
        listing.items.push_back(std::move(*socket));
        return &listing.items.back();
    };
    const auto add_those_of = [&](GuestVirt task) -> Result<void> {
        const auto owner = static_cast<std::uint32_t>(TRY(kernel.read(task, tgid)));
        // Threads share their process's files, but need not; and the first may have ended.
        const GuestVirt table = TRY(files.table_of(task));
        if (!table || !tables.emplace(owner, table).second) return {};
        return files.for_each(task, [&](std::uint32_t, GuestVirt file) {
            const auto sk = files.socket_of(file);
            if (!sk.has_value()) return listing.note(sk.error());
            if (!*sk) return;
            event::Socket* socket = add(*sk);
            if (socket == nullptr) return;
            auto& owners = socket->owner_pids;
            if (std::ranges::find(owners, owner) == owners.end()) owners.push_back(owner);
        });
    };
    for (const GuestVirt task : tasks) {
        const auto added = add_those_of(task);
        if (!added.has_value()) listing.note(added.error());
    }
    reader.for_each_hashed([&](GuestVirt sk) { add(sk); }, listing, waiting);
    for (event::Socket& socket : listing.items) std::ranges::sort(socket.owner_pids);
    return {};
}

}  // namespace underseer::guest_linux
