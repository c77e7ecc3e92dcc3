#include "doctor.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>

#include "agent/paths.h"
#include "base/counted.h"
#include "detect/check.h"
#include "hypervisor/ram.h"
#include "output.h"
#include "policy/policy.h"
#include "target.h"
#include "vms.h"

namespace underseer::cli {

namespace {

namespace fs = std::filesystem;

// ok: as it should be. note: works without, and says what is lost. missing: something that is
// needed is not there.
enum class State : std::uint8_t { ok, note, missing };
std::string_view to_string(State state) {
    switch (state) {
        case State::ok:
            return "ok";
        case State::note:
            return "note";
        case State::missing:
            return "MISSING";
    }
    return "?";
}

struct Check {
    std::string name;
    State state = State::ok;
    std::string found;
    std::string next;  // what to do; "" when nothing is to be done
};

std::string first_line(const fs::path& path) {
    const std::string text = read_file(path, 65'536).value_or("");
    return text.substr(0, text.find('\n'));
}

// ---- the host ---------------------------------------------------------------------------------

Check rights(const hypervisor::Access& access) {
    if (access.capable) return {"rights", State::ok, "CAP_SYS_PTRACE is in effect", ""};
    return {"rights", State::missing,
            fmt::format("user {} without CAP_SYS_PTRACE: only own VMs can be read", ::geteuid()),
            "run with sudo, or ask the agent (it runs as root)"};
}

Check yama(const hypervisor::Access& access) {
    if (access.yama_scope >= 3) {
        return {"ptrace_scope", State::missing, "kernel.yama.ptrace_scope is 3: nobody may",
                "set kernel.yama.ptrace_scope = 2 in /etc/sysctl.d and boot"};
    }
    return {"ptrace_scope", State::ok,
            fs::exists("/proc/sys/kernel/yama/ptrace_scope")
                ? fmt::format("kernel.yama.ptrace_scope is {}", access.yama_scope)
                : "no Yama in this kernel",
            ""};
}

Check confinement(const hypervisor::Access& access) {
    if (access.confinement.empty()) return {"confinement", State::ok, "none", ""};
    return {"confinement", State::note,
            fmt::format("this program is confined as '{}'", access.confinement),
            "if VMs are not introspectable, allow that profile ptrace of the VMM"};
}

Check seccomp() {
    const std::string actions = first_line("/proc/sys/kernel/seccomp/actions_avail");
    if (actions.find("kill_process") != std::string::npos) {
        return {"seccomp", State::ok, "filters can kill a process", ""};
    }
    return {"seccomp", State::missing, "no seccomp filters: workers do not start without",
            "use a kernel with CONFIG_SECCOMP_FILTER=y (4.14 or later)"};
}

Check user_namespaces() {
    const std::string most = first_line("/proc/sys/user/max_user_namespaces");
    const std::string allowed = first_line("/proc/sys/kernel/unprivileged_userns_clone");
    if (!most.empty() && most != "0" && allowed != "0") {
        return {"user namespaces", State::ok, "allowed", ""};
    }
    return {"user namespaces", State::note,
            "not for ordinary users: their workers have no own namespaces (root's have)",
            "sysctl kernel.unprivileged_userns_clone=1 (or user.max_user_namespaces)"};
}

Check kvm() {
    if (::access("/dev/kvm", R_OK | W_OK) == 0) return {"kvm", State::ok, "/dev/kvm is there", ""};
    return {"kvm", State::note, "/dev/kvm cannot be used: VMs here are emulated (slow)",
            "enable virtualisation in the firmware; modprobe kvm_intel or kvm_amd"};
}

Check cgroups() {
    if (fs::exists("/sys/fs/cgroup/cgroup.controllers")) return {"cgroups", State::ok, "v2", ""};
    const bool hybrid = fs::exists("/sys/fs/cgroup/unified/cgroup.controllers");
    return {"cgroups", State::note, hybrid ? "v1 with v2 beside it (hybrid)" : "v1",
            "fine for VMs; boot with systemd.unified_cgroup_hierarchy=1 for v2"};
}

Check huge_pages() {
    const std::string mounts = read_file("/proc/mounts", 1u << 20).value_or("");
    const bool mounted = mounts.find(" hugetlbfs ") != std::string::npos;
    const std::string total = first_line("/proc/sys/vm/nr_hugepages");
    return {"hugetlbfs", State::ok,
            fmt::format("{}; {} huge page{}", mounted ? "mounted" : "not mounted",
                        total.empty() ? "no" : total, total == "1" ? "" : "s"),
            ""};
}

Check lockdown() {
    const std::string modes = first_line("/sys/kernel/security/lockdown");
    const std::size_t open = modes.find('['), close = modes.find(']');
    const std::string mode = open == std::string::npos || close < open
                                 ? "none"
                                 : modes.substr(open + 1, close - open - 1);
    return {"lockdown", State::ok, mode + " (VMs can be read whatever it is)", ""};
}

Check core_pattern() {
    const std::string pattern = first_line("/proc/sys/kernel/core_pattern");
    return {
        "core dumps", State::ok,
        fmt::format("to '{}'; workers never write one, a VMM's holds its guest's memory", pattern),
        ""};
}

// ---- the jail and libvirt: one worker answers for both ------------------------------------------

void ask_worker(std::vector<Check>& checks) {
    const std::string uri = agent::libvirt_uri();
    auto inquiry = agent::Inquiry::of_libvirt(uri);
    Result<std::vector<hypervisor::ManagerFacts>> answer;
    std::vector<std::string> missing;
    if (inquiry.has_value()) {
        answer = inquiry->wait(std::chrono::steady_clock::now() + agent::Inquiry::kLongest);
        missing = inquiry->missing_layers();
    } else {
        answer = fail(inquiry.error());
    }
    const bool closed = inquiry.has_value() && inquiry->greeted();
    if (!closed) {
        checks.push_back({"jail", State::missing,
                          "a worker could not close its jail: " + answer.error().to_text(),
                          "nothing can be looked into; see what the worker says above"});
    } else if (missing.empty()) {
        checks.push_back({"jail", State::ok, "a worker put on every layer", ""});
    } else {
        std::string layers;
        for (const std::string& layer : missing) layers += (layers.empty() ? "" : ", ") + layer;
        checks.push_back({"jail", State::note, "this host does not allow: " + layers,
                          "run as root, or allow user namespaces; the filter itself is on"});
    }
    if (answer.has_value()) {
        checks.push_back({"libvirt", State::ok,
                          fmt::format("{} runs {}", uri, counted(answer->size(), "domain")), ""});
    } else {
        checks.push_back({"libvirt", State::note, answer.error().to_text(),
                          "only needed where libvirt manages VMs: apt install libvirt0, start "
                          "libvirtd"});
    }
}

// ---- Underseer's own ----------------------------------------------------------------------------

Check agent_runs(const Options& options) {
    auto client = agent::AgentClient::connect(options.run_dir / agent::kControlSocketName);
    if (client.has_value()) return {"agent", State::ok, "runs and answers", ""};
    return {"agent", State::note, client.error().to_text(),
            "systemctl start underseerd; commands work without it"};
}

Check config_file(std::string name, const fs::path& path, const Result<void>& loaded,
                  std::string without) {
    if (loaded.has_value()) return {std::move(name), State::ok, path.string() + " is valid", ""};
    if (loaded.error().code == Code::not_found) {
        return {std::move(name), State::note,
                fmt::format("{} is not there: {}", path.string(), without), ""};
    }
    return {std::move(name), State::missing, loaded.error().to_text(),
            "correct it; the agent does not start with it"};
}

Check log_directory(const Options& options) {
    const fs::path path = options.state_dir / "log";
    struct stat status{};
    if (::lstat(path.c_str(), &status) != 0) {
        return {"log", errno == ENOENT ? State::note : State::missing,
                os_error(path.string()).to_text(), "the agent makes it when it starts"};
    }
    if (!S_ISDIR(status.st_mode) || status.st_uid != 0 || (status.st_mode & 022) != 0) {
        return {"log", State::missing,
                path.string() + " can be written by others than root: its events prove nothing",
                fmt::format("chown root {} && chmod 750 {}", path.string(), path.string())};
    }
    struct statvfs space{};
    if (::statvfs(path.c_str(), &space) != 0) {
        return {"log", State::missing, os_error(path.string()).to_text(), ""};
    }
    const std::uint64_t free = space.f_bavail * space.f_frsize;
    constexpr std::uint64_t kLittle = 1ull << 30;
    return {"log", free < kLittle ? State::note : State::ok,
            fmt::format("{} with {} free", path.string(), size_text(free)),
            free < kLittle ? "make room, or lower log.keep_bytes in the policy" : ""};
}

// ---- each VM ------------------------------------------------------------------------------------

Check vm_check(const KnownVms& known, const hypervisor::Vm& vm) {
    Check check{fmt::format("VM {}", vm.label()), State::ok, "can be looked into", ""};
    if (!vm.not_introspectable.empty()) {
        return {check.name, State::note, "not introspectable: " + vm.not_introspectable,
                "it is listed as such, and never as clean"};
    }
    if (vm.managed_by == "libvirt") {
        check.found += vm.state.empty() ? ", libvirt says nothing of it" : ", libvirt was asked";
        return check;
    }
    const auto trouble = std::ranges::find(known.troubles, vm.pid, &agent::Trouble::pid);
    if (trouble != known.troubles.end()) {
        return {check.name, State::note,
                check.found + "; its monitor was not asked: " + trouble->why.to_text(),
                "only its state and its RAM's sizes are not known from it"};
    }
    check.found += vm.qmp_socket.empty() ? ", has no QMP socket" : ", its monitor was asked";
    return check;
}

void print_checks(const std::vector<Check>& checks, bool as_json) {
    if (as_json) {
        std::string text;
        json::Writer writer(&text, json::Style::pretty);
        writer.begin_array();
        for (const Check& check : checks) {
            writer.begin_object()
                .member("check", check.name)
                .member("state", check.state == State::missing ? "missing" : to_string(check.state))
                .member("found", check.found)
                .member("next", check.next)
                .end_object();
        }
        writer.end_array();
        return fmt::print("{}\n", text);
    }
    Table table({{"CHECK"}, {"STATE"}, {"FOUND"}});
    for (const Check& check : checks) {
        table.add({check.name, std::string(to_string(check.state)), check.found});
    }
    print_table(table);
    bool titled = false;
    for (const Check& check : checks) {
        if (check.state == State::ok || check.next.empty()) continue;
        if (!std::exchange(titled, true)) print("\nWhat to do:\n");
        fmt::print("  {}: {}\n", printable(check.name), printable(check.next));
    }
}

}  // namespace

Result<int> doctor(const Options& options) {
    const hypervisor::Access access = hypervisor::access_to(::geteuid());
    std::vector<Check> checks{rights(access),    yama(access),  confinement(access), seccomp(),
                              user_namespaces(), kvm(),         cgroups(),           huge_pages(),
                              lockdown(),        core_pattern()};
    ask_worker(checks);
    checks.push_back(agent_runs(options));
    const auto valid = [](const auto& loaded) -> Result<void> {
        if (loaded.has_value()) return {};
        return fail(loaded.error());
    };
    checks.push_back(
        config_file("policy", options.policy,
                    valid(policy::load(options.policy.string(), detect::check_names())),
                    "the built-in one is in force"));
    checks.push_back(config_file("mapping file", options.instances,
                                 valid(policy::InstanceMap::load(options.instances.string())),
                                 "VMs have the owners that libvirt's metadata names"));
    checks.push_back(log_directory(options));
    const KnownVms known = TRY(know_vms(options));
    for (const hypervisor::Vm& vm : known.host.vms) checks.push_back(vm_check(known, vm));
    print_checks(checks, options.json);
    const bool missing =
        std::ranges::any_of(checks, [](const Check& c) { return c.state == State::missing; });
    return missing ? 1 : 0;
}

}  // namespace underseer::cli
