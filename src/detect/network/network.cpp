#include "detect/network/network.h"

#include <fmt/format.h>

#include <algorithm>

#include "detect/code_report.h"

namespace underseer::detect::network {

namespace {

constexpr unsigned kAttempts = 3;
constexpr std::uint32_t kPromiscuous = 0x100;  // IFF_PROMISC, include/uapi/linux/if.h

constexpr Rule kRules[] = {
    {.id = "hidden_socket",
     .title = "Socket that waits for others and that no process has",
     .severity = event::Severity::high,
     .confidence = 80,
     .technique = "T1205",
     .subject_kind = "socket",
     .reads = "The kernel's own tables of TCP listeners, UDP and raw sockets, of every network "
              "namespace, against the open files of every process: a socket that a program made "
              "is in one of them, unless a part of the kernel serves it (NFS, tunnels).",
     .misses = "A socket that is in no table: nobody can reach it by its port. A hook of "
               "netfilter or a packet type that needs no socket (see kernel_hooks).",
     .benign = "A socket on its way from one process to another (SCM_RIGHTS), or that only "
               "io_uring holds.",
     .advice = "A process is hidden, or its files are: run underseer check --deep. Save its memory "
               "(underseer dump) and take the instance off the network."},
    {.id = "kernel_socket",
     .title = "Code of the kernel waits at a socket of its own",
     .severity = event::Severity::medium,
     .confidence = 60,
     .technique = "T1205",
     .subject_kind = "socket",
     .reads =
         "Listening and bound sockets that the kernel has made for itself, but for those that "
         "it or a module of its own serves by a function of that part (NFS, WireGuard, VXLAN).",
     .misses = "A module that sets the function of another part.",
     .benign = "File and block servers in the kernel that wait in a thread (ksmbd, iSCSI targets).",
     .advice = "Is such a server meant to be in this instance? (underseer modules)"},
    {.id = "hidden_promiscuous_mode",
     .title = "Interface that takes packets for others, and hides it",
     .severity = event::Severity::high,
     .confidence = 90,
     .technique = "T1040",
     .subject_kind = "interface",
     .reads = "How many want each interface to take all packets, against its flag that says so: "
              "the kernel keeps both alike.",
     .misses = "A hook that is given packets without it.",
     .benign = "None known.",
     .advice = "Somebody listens and has altered the kernel's data: underseer check --only "
               "packet_sockets, kernel_hooks."},
    {.id = "promiscuous_interface",
     .title = "Interface that takes packets for others",
     .severity = event::Severity::informational,
     .confidence = 90,
     .technique = "T1040",
     .subject_kind = "interface",
     .reads =
         "The kernel's count of those who want an interface to take all packets. A bridge wants "
         "that of its ports by itself: for one of these it takes a second.",
     .misses = "Who listens to what comes anyway.",
     .benign = "Bonds, virtual machines inside, packet dumpers.",
     .advice = "Who asked for it? underseer check --only packet_sockets."},
    {.id = "changed_mac",
     .title = "Interface with another hardware address than it came with",
     .severity = event::Severity::informational,
     .confidence = 70,
     .technique = "T1036",
     .subject_kind = "interface",
     .reads = "Each interface's address against the permanent one that its driver has read.",
     .misses = "Drivers that keep no permanent one; another MAC in packets of raw sockets.",
     .benign = "Bonds, bridges, and addresses set by configuration.",
     .advice = "Is this address in its configuration?"},
};
enum : std::size_t { kHidden, kKernel, kHiddenMode, kMode, kMac };

bool waits(const event::Socket& socket) {
    if (socket.family != "inet" && socket.family != "inet6") return false;
    return socket.state == "LISTEN" || socket.type == "udp" || socket.type == "raw";
}

// Null where it is as it should be.
const Rule* judge(const event::Socket& socket, const guest_linux::CodeMap& code,
                  GuestVirt default_receiver) {
    const GuestVirt receiver{socket.receiver};
    const auto owner = code.owner_of(receiver);
    const bool is_served = receiver != default_receiver && owner && !owner->is_foreign;
    if (is_served) return nullptr;
    return &kRules[socket.of_kernel ? kKernel : kHidden];
}

std::string end_text(const event::Socket& socket) {
    return fmt::format("{} {}:{}", socket.type, socket.local_address, socket.local_port);
}

// Of those who wait for others, whom no process has.
std::vector<const event::Socket*> unheld(const guest_linux::Listing<event::Socket>& sockets) {
    std::vector<const event::Socket*> found;
    for (const event::Socket& socket : sockets.items) {
        if (waits(socket) && socket.owner_pids.empty()) found.push_back(&socket);
    }
    return found;
}

// Returns what keeps them from being judged whole.
std::string judge_sockets(Snapshot& snapshot, event::CheckReport& report) {
    guest_linux::Gaps tables;
    auto sockets = snapshot.guest().sockets(&tables);
    const auto is_torn = [&] {
        if (!sockets.has_value()) return true;
        return !tables.broken.empty() || (sockets->unreadable > 0 && !unheld(*sockets).empty());
    };
    for (unsigned attempt = 1; is_torn() && attempt < kAttempts; ++attempt) {
        snapshot.kernel().forget();
        tables = {};
        sockets = snapshot.guest().sockets(&tables);
    }
    if (!sockets.has_value()) return sockets.error().to_text();
    report.coverage.looked_at += sockets->items.size();
    report.coverage.unreadable += sockets->unreadable;
    if (sockets->unreadable > 0) add_gap(report, sockets->first_error);
    add_gaps(report, tables);
    if (!tables.empty()) return tables.texts.front();
    // Whose files could not be read may have it.
    if (is_torn()) return sockets->first_error;
    const auto receiver = snapshot.kernel().symbol("sock_def_readable");
    std::string doubt;
    for (const event::Socket* const one : unheld(*sockets)) {
        const event::Socket& socket = *one;
        const auto& code = snapshot.code();
        if (!code.has_value()) return code.error().to_text();
        const Rule* rule = judge(socket, *code, receiver.value_or(GuestVirt{}));
        if (rule == nullptr) continue;
        if (!code->gaps.empty()) {
            doubt = code->gaps.texts.front();
            continue;
        }
        event::Finding finding =
            rule->about(end_text(socket), fmt::format("{:x}:{}", socket.address, end_text(socket)));
        finding.evidence = {
            {"made by",
             socket.of_kernel ? "the kernel" : fmt::format("a program of uid {}", socket.uid),
             socket.address,
             {}},
            {"namespace", fmt::format("{}", socket.net_namespace), 0, {}},
            {"called when something comes",
             owner_text(GuestVirt{socket.receiver}, snapshot),
             socket.receiver,
             {}}};
        add_finding(report, std::move(finding));
    }
    return doubt;
}

std::string judge_interfaces(Snapshot& snapshot, event::CheckReport& report) {
    const auto interfaces = snapshot.guest().interfaces();
    if (!interfaces.has_value()) return interfaces.error().to_text();
    report.coverage.looked_at += interfaces->items.size();
    report.coverage.unreadable += interfaces->unreadable;
    const auto tell = [&](const Rule& rule, const event::NetworkInterface& one, std::string name,
                          std::string text) {
        event::Finding finding =
            rule.about(one.name, fmt::format("{}:{}", one.net_namespace, one.name));
        finding.evidence = {{std::move(name), std::move(text), 0, {}},
                            {"namespace", fmt::format("{}", one.net_namespace), 0, {}}};
        add_finding(report, std::move(finding));
    };
    for (const event::NetworkInterface& one : interfaces->items) {
        const bool says_so = (one.flags & kPromiscuous) != 0;
        const bool of_bridge = one.bridge.available() && !one.bridge.value().empty();
        if (one.promiscuity > 0 && !says_so) {
            tell(kRules[kHiddenMode], one, "flags", fmt::format("{:#x}", one.flags));
        } else if (one.promiscuity > (of_bridge ? 1u : 0u)) {
            tell(kRules[kMode], one, "flags", fmt::format("{:#x}", one.flags));
        }
        const bool has_permanent = one.permanent_mac.find_first_not_of("0:") != std::string::npos;
        if (has_permanent && one.mac != one.permanent_mac) {
            tell(kRules[kMac], one, "address",
                 fmt::format("{}, permanent {}", one.mac, one.permanent_mac));
        }
    }
    return interfaces->unreadable > 0 ? interfaces->first_error : "";
}

}  // namespace

std::span<const Rule> rules() {
    return kRules;
}

event::CheckReport inspect(Snapshot& snapshot) {
    event::CheckReport report{};
    report.outcome = event::Outcome::clean;
    const std::string of_sockets = judge_sockets(snapshot, report),
                      of_interfaces = judge_interfaces(snapshot, report);
    settle_doubt(report, of_sockets);
    settle_doubt(report, of_interfaces);
    return report;
}

}  // namespace underseer::detect::network
