#include "detect/packet_sockets/packet_sockets.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "detect/process_report.h"

namespace underseer::detect::packet_sockets {

namespace {

// Programs of distributions whose work this is.
constexpr std::array<std::string_view, 34> kKnown{
    "NetworkManager", "arping",
    "arpwatch",       "avahi-autoipd",
    "bird",           "busybox",
    "dhclient",       "dhcpcd",
    "dhcpd",          "dnsmasq",
    "dumpcap",        "fping",
    "hostapd",        "iputils-arping",
    "keepalived",     "lldpd",
    "mtr-packet",     "nmap",
    "ntopng",         "pppd",
    "ping",           "radvd",
    "rdisc",          "snort",
    "suricata",       "systemd-networkd",
    "tcpdump",        "tcptraceroute",
    "tracepath",      "traceroute",
    "tshark",         "wpa_supplicant",
    "zebra",          "zeek",
};

constexpr Rule kRules[] = {
    {.id = "foreign_sniffer",
     .title = "Program from outside of the system reads the network below its connections",
     .severity = event::Severity::medium,
     .confidence = 65,
     .technique = "T1040",
     .subject_kind = "process",
     .reads = "Packet and raw sockets in the kernel's tables and who holds them open, and the "
              "program's file: in none of the system's folders, deleted, or in memory only. Back "
              "doors wait in this way for a packet that opens them (T1205.002).",
     .misses = "A program in one of the system's folders: other_sniffer tells those that are not "
               "known for it. What a BPF program at an interface reads needs no socket.",
     .benign = "Monitoring agents that are installed under /srv or /home, and in containers.",
     .advice = "Look at what it holds open (underseer files, sockets with --pid) and at its file."},
    {.id = "other_sniffer",
     .title = "Program that is not known for it reads the network below its connections",
     .severity = event::Severity::informational,
     .confidence = 60,
     .technique = "T1040",
     .subject_kind = "file",
     .reads = "As foreign_sniffer, for programs in the system's folders whose names are not those "
              "of a DHCP client, a packet dumper, a router or the like; one finding for each.",
     .misses = "As foreign_sniffer, and a program under such a name.",
     .benign = "Any monitoring or routing program that this list does not have.",
     .advice = "Is this its work?"},
};
constexpr const Rule& kForeign = kRules[0];
constexpr const Rule& kOther = kRules[1];

}  // namespace

std::span<const Rule> rules() {
    return kRules;
}

event::CheckReport inspect(Snapshot& snapshot) {
    const auto sockets = snapshot.guest().sockets();
    if (!sockets.has_value()) {
        return {.outcome = event::Outcome::unavailable, .reason = sockets.error().to_text()};
    }
    event::CheckReport report{};
    report.outcome = event::Outcome::clean;
    report.coverage.looked_at = sockets->items.size();
    report.coverage.unreadable = sockets->unreadable;
    if (sockets->unreadable > 0) add_gap(report, sockets->first_error);
    std::map<std::uint32_t, std::string> holders;  // and what kind of socket
    for (const event::Socket& socket : sockets->items) {
        const bool packet = socket.family == "packet";
        // Those of netlink are raw by their type, and lead to the kernel.
        if (!packet && (socket.type != "raw" || socket.family == "netlink")) continue;
        for (const std::uint32_t pid : socket.owner_pids) {
            holders.try_emplace(pid, packet ? "packet" : "raw " + socket.family);
        }
    }
    std::set<std::string> others;
    for (const auto& [pid, kind] : holders) {
        const event::Task* holder = snapshot.process(pid);
        if (holder == nullptr) {
            add_gap(report,
                    fmt::format("pid {}, which holds a {} socket, is in no list", pid, kind));
            continue;
        }
        if (!holder->exe.available()) {
            add_gap(report,
                    fmt::format("{} (pid {}): {}", holder->comm, pid, holder->exe.reason()));
            continue;
        }
        const std::string& exe = holder->exe.value();
        const bool foreign = !is_system(exe) || is_deleted(exe);
        if (!foreign && std::ranges::find(kKnown, base_name(exe)) != kKnown.end()) continue;
        if (!foreign && !others.insert(exe).second) continue;
        event::Finding finding = foreign ? about_process(kForeign, *holder, snapshot)
                                         : about_program(kOther, exe, *holder, snapshot);
        finding.evidence.push_back({"socket", kind, 0, {}});
        add_finding(report, std::move(finding));
    }
    return report;
}

}  // namespace underseer::detect::packet_sockets
