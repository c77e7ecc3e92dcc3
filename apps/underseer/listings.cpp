#include "listings.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <map>
#include <set>

#include "base/counted.h"
#include "detect/check.h"
#include "detect/hidden_process/hidden_process.h"
#include "output.h"

namespace underseer::cli {

namespace {

constexpr std::uint64_t kNanosPerSecond = 1'000'000'000;
constexpr std::size_t kMaxIndent = 64;

std::string when(const event::Observed<std::uint64_t>& time_ns) {
    if (!time_ns.available()) return "?";
    const auto seconds = static_cast<std::time_t>(time_ns.value() / kNanosPerSecond);
    return fmt::format("{:%Y-%m-%d %H:%M:%S}", fmt::gmtime(seconds));
}

std::string number_of(const event::Observed<std::uint32_t>& number) {
    return number.available() ? std::to_string(number.value()) : "?";
}

std::string numbers_of(const event::Observed<std::vector<std::uint32_t>>& numbers) {
    return numbers.available() ? fmt::format("{}", fmt::join(numbers.value(), ",")) : "?";
}

std::string user_of(const event::Task& task) {
    return task.credentials.available() ? std::to_string(task.credentials.value().uid) : "?";
}

// What ps(1) shows as the command: the arguments, or the name in brackets where there are none.
std::string command_of(const event::Task& task) {
    const auto words = task.argv.value_or({});
    if (words.empty()) return fmt::format("[{}]", task.comm);
    return fmt::format("{}", fmt::join(words, " "));
}

std::string short_id(const std::string& id) {
    return id.substr(0, 12);
}

// Of what no table of the guest has, though it is there.
std::string marked(std::uint32_t id, bool listed) {
    return fmt::format("{}{}", id, listed ? "" : "!");
}

std::string end_point(const std::string& address, std::uint32_t port) {
    if (address.empty() && port == 0) return "";
    return address.find(':') == std::string::npos ? fmt::format("{}:{}", address, port)
                                                  : fmt::format("[{}]:{}", address, port);
}

}  // namespace

Table table_of(const std::vector<event::Task>& tasks) {
    Table table({{"PID", Align::right},
                 {"PPID", Align::right},
                 {"UID", Align::right},
                 {"S"},
                 {"STARTED (UTC)"},
                 {"CONTAINER"},
                 {"EXE"},
                 {"COMMAND"}});
    for (const event::Task& task : tasks) {
        table.add({std::to_string(task.pid), number_of(task.ppid), user_of(task), task.state,
                   when(task.start_time), short_id(task.container_id.value_or("?")),
                   task.kernel_thread ? "" : task.exe.value_or("?"), command_of(task)});
    }
    return table;
}

Table table_of(const std::vector<event::OpenFile>& files) {
    Table table({{"PID", Align::right},
                 {"FD", Align::right},
                 {"FLAGS", Align::right},
                 {"POSITION", Align::right},
                 {"INODE", Align::right},
                 {"PATH"}});
    for (const event::OpenFile& file : files) {
        table.add({std::to_string(file.pid), std::to_string(file.fd),
                   fmt::format("{:o}", file.flags), std::to_string(file.position_bytes),
                   std::to_string(file.inode), file.path});
    }
    return table;
}

Table table_of(const std::vector<event::Vma>& areas) {
    Table table({{"PID", Align::right},
                 {"BEGIN", Align::right},
                 {"END", Align::right},
                 {"PERM"},
                 {"OFFSET", Align::right},
                 {"INODE", Align::right},
                 {"PATH"}});
    for (const event::Vma& area : areas) {
        table.add({std::to_string(area.pid), fmt::format("{:x}", area.begin),
                   fmt::format("{:x}", area.end), area.permissions,
                   fmt::format("{:x}", area.offset_bytes), std::to_string(area.inode), area.path});
    }
    return table;
}

Table table_of(const std::vector<event::Module>& modules) {
    Table table({{"MODULE"},
                 {"SIZE", Align::right},
                 {"REFS", Align::right},
                 {"STATE"},
                 {"TAINTS"},
                 {"TEXT"},
                 {"USED BY"}});
    for (const event::Module& module : modules) {
        table.add({module.name, std::to_string(module.size_bytes),
                   std::to_string(module.reference_count), module.state, module.taints,
                   fmt::format("{:x}", module.text_begin),
                   fmt::format("{}", fmt::join(module.used_by, ","))});
    }
    return table;
}

Table table_of(const std::vector<event::Socket>& sockets) {
    Table table({{"FAMILY"},
                 {"TYPE"},
                 {"STATE"},
                 {"LOCAL"},
                 {"REMOTE"},
                 {"INODE", Align::right},
                 {"UID", Align::right},
                 {"PIDS"}});
    for (const event::Socket& socket : sockets) {
        table.add({socket.family, socket.type, socket.state,
                   socket.family == "unix" ? socket.local_address
                                           : end_point(socket.local_address, socket.local_port),
                   socket.family == "unix" ? socket.remote_address
                                           : end_point(socket.remote_address, socket.remote_port),
                   std::to_string(socket.inode), std::to_string(socket.uid),
                   fmt::format("{}", fmt::join(socket.owner_pids, ","))});
    }
    return table;
}

Table table_of(const std::vector<event::BpfProgram>& programs) {
    Table table({{"ID", Align::right},
                 {"TYPE"},
                 {"NAME"},
                 {"UID", Align::right},
                 {"MAPS"},
                 {"PIDS"},
                 {"ATTACHED TO"}});
    for (const event::BpfProgram& program : programs) {
        std::vector<std::string> places;
        if (!program.attachments.available()) places.emplace_back("?");
        const auto attachments = program.attachments.value_or({});
        for (const event::BpfAttachment& one : attachments) {
            places.push_back(fmt::format("{} {}", one.kind, one.target));
        }
        table.add({marked(program.id, program.listed), program.type, program.name,
                   std::to_string(program.uid), numbers_of(program.map_ids),
                   fmt::format("{}", fmt::join(program.owner_pids, ",")),
                   fmt::format("{}", fmt::join(places, "; "))});
    }
    return table;
}

Table table_of(const std::vector<event::BpfMap>& maps) {
    Table table({{"ID", Align::right},
                 {"TYPE"},
                 {"NAME"},
                 {"KEY", Align::right},
                 {"VALUE", Align::right},
                 {"ENTRIES", Align::right},
                 {"FLAGS", Align::right},
                 {"FROZEN"},
                 {"PROGRAMS"},
                 {"PIDS"}});
    for (const event::BpfMap& map : maps) {
        table.add({marked(map.id, map.listed), map.type, map.name, std::to_string(map.key_bytes),
                   std::to_string(map.value_bytes), std::to_string(map.max_entries),
                   fmt::format("{:#x}", map.flags), map.frozen ? "yes" : "no",
                   numbers_of(map.program_ids), fmt::format("{}", fmt::join(map.owner_pids, ","))});
    }
    return table;
}

Table table_of(const std::vector<event::BpfLink>& links) {
    Table table(
        {{"ID", Align::right}, {"TYPE"}, {"PROGRAM", Align::right}, {"PIDS"}, {"ATTACHED TO"}});
    for (const event::BpfLink& link : links) {
        table.add({marked(link.id, link.listed), link.type, number_of(link.program_id),
                   fmt::format("{}", fmt::join(link.owner_pids, ",")),
                   fmt::format("{} {}", link.kind, link.target.value_or("?"))});
    }
    return table;
}

std::string source_of(const event::Mount& mount) {
    return mount.root == "/" ? mount.source : fmt::format("{}[{}]", mount.source, mount.root);
}

Table table_of(const std::vector<event::Mount>& mounts) {
    Table table({{"NAMESPACE", Align::right},
                 {"ID", Align::right},
                 {"PARENT", Align::right},
                 {"TARGET"},
                 {"TYPE"},
                 {"OPTIONS"},
                 {"SOURCE"}});
    for (const event::Mount& mount : mounts) {
        table.add({std::to_string(mount.mnt_namespace), std::to_string(mount.id),
                   std::to_string(mount.parent_id), mount.target, mount.fs_type, mount.options,
                   source_of(mount)});
    }
    return table;
}

Table table_of(const std::vector<event::NetworkInterface>& interfaces) {
    Table table({{"NAMESPACE", Align::right},
                 {"INDEX", Align::right},
                 {"NAME"},
                 {"FLAGS", Align::right},
                 {"MTU", Align::right},
                 {"MAC"},
                 {"ADDRESSES"}});
    for (const event::NetworkInterface& item : interfaces) {
        table.add({std::to_string(item.net_namespace), std::to_string(item.index), item.name,
                   fmt::format("{:#x}", item.flags), std::to_string(item.mtu), item.mac,
                   item.addresses.available()
                       ? fmt::format("{}", fmt::join(item.addresses.value(), " "))
                       : "?"});
    }
    return table;
}

Table table_of(const std::vector<event::KernelLogLine>& lines) {
    Table table({{"TIME", Align::right}, {"LEVEL", Align::right}, {"TEXT"}});
    for (const event::KernelLogLine& line : lines) {
        table.add({fmt::format("{}.{:06}", line.time_since_boot_ns / kNanosPerSecond,
                               line.time_since_boot_ns % kNanosPerSecond / 1000),
                   std::to_string(line.level), line.text});
    }
    return table;
}

HiddenTasks hidden_among(const std::vector<event::Task>& tasks,
                         const std::vector<event::CheckReport>& reports) {
    HiddenTasks hidden;
    for (const event::CheckReport& report : reports) {
        for (const event::Finding& finding : report.findings) {
            using detect::HiddenProcessCheck;
            if (finding.rule != HiddenProcessCheck::kName) continue;
            const auto task = std::ranges::find_if(tasks, [&](const event::Task& one) {
                return HiddenProcessCheck::is_about(finding, one.pid, GuestVirt{one.address});
            });
            if (task == tasks.end()) {
                hidden.unlisted.push_back(finding.subject);
                continue;
            }
            const auto missing =
                std::ranges::find(finding.evidence, "missing in", &event::Evidence::name);
            hidden.missing_in[task->address] =
                missing == finding.evidence.end() ? "?" : missing->text;
        }
    }
    return hidden;
}

std::string tree_of(const std::vector<event::Task>& tasks, const HiddenTasks& hidden) {
    std::map<std::uint32_t, std::vector<const event::Task*>> children;
    std::set<std::uint32_t> pids;
    for (const event::Task& task : tasks) pids.insert(task.pid);
    for (const event::Task& task : tasks) {
        const std::uint32_t parent = task.ppid.value_or(0);
        children[pids.contains(parent) && parent != task.pid ? parent : 0].push_back(&task);
    }
    std::string text;
    struct Pending {
        const event::Task* task;
        std::size_t depth;
        std::string lead;
        bool last;
    };
    std::vector<Pending> stack;
    const auto push = [&](std::uint32_t parent, std::size_t depth, const std::string& lead) {
        const auto& list = children[parent];
        for (std::size_t i = list.size(); i-- > 0;) {
            stack.push_back({list[i], depth, lead, i + 1 == list.size()});
        }
        children[parent].clear();
    };
    std::set<const event::Task*> shown;
    const auto print_all = [&] {
        while (!stack.empty()) {
            const Pending top = stack.back();
            stack.pop_back();
            if (!shown.insert(top.task).second) continue;
            const std::string pid = hidden.contains(*top.task)
                                        ? toned(Tone::bad, fmt::format("{}!", top.task->pid))
                                        : std::to_string(top.task->pid);
            text += fmt::format("{}{}{} {}\n", top.lead, top.last ? "└─ " : "├─ ", pid,
                                printable(command_of(*top.task)));
            // What is nested deeper than anybody reads stands on the last level.
            const bool deepest = top.depth >= kMaxIndent;
            push(top.task->pid, deepest ? top.depth : top.depth + 1,
                 deepest ? top.lead : top.lead + (top.last ? "   " : "│  "));
        }
    };
    push(0, 0, "");
    print_all();
    // Whoever is in a cycle of parents, which a guest may forge, hangs from no root.
    for (const event::Task& task : tasks) {
        if (shown.contains(&task)) continue;
        stack.push_back({&task, 0, "", true});
        print_all();
    }
    return text;
}

std::string isolation_of(const event::SystemInfo& info) {
    if (!info.page_table_isolation.available()) return ", isolation unavailable";
    return info.page_table_isolation.value() ? ", isolated (PTI)" : "";
}

std::string text_of(const event::SystemInfo& info) {
    const auto text = [](const event::Observed<std::string>& value) {
        return printable(value.available() ? value.value() : "unavailable: " + value.reason());
    };
    const auto time = [](const event::Observed<std::uint64_t>& value) {
        return value.available() ? when(value) + " UTC"
                                 : printable("unavailable: " + value.reason());
    };
    std::string out;
    const auto line = [&](std::string_view name, const std::string& value) {
        out += fmt::format("{:<20}{}\n", name, value);
    };
    line("Kernel", printable(info.kernel_release));
    line("Banner", printable(info.banner));
    line("Build id", text(info.build_id));
    line("Host name", text(info.host_name));
    line("Booted", time(info.boot_time));
    line("Its clock says", time(info.wall_clock));
    line("CPUs", number_of(info.cpus));
    line("KASLR slide", fmt::format("{:#x}", info.kaslr_slide_bytes));
    line("Image at", fmt::format("{:#x} (physical)", info.physical_base));
    line("Page tables", fmt::format("{} levels at {:#x}{}", info.page_table_levels,
                                    info.page_table_root, isolation_of(info)));
    line("Model", fmt::format("{} symbols, {} types", info.symbol_count, info.type_count));
    for (const std::string& note : info.notes) line("", printable(note));
    return out;
}

std::string text_of(const event::CheckReport& report) {
    std::string out = fmt::format("{}: {}", report.check, to_string(report.outcome));
    if (!report.reason.empty()) out += fmt::format(" ({})", printable(report.reason));
    const detect::CheckKind* kind = detect::find_check(report.check);
    const std::string_view what = kind == nullptr ? "CPU" : kind->counts;
    const std::string many = what == "process" ? "processes" : fmt::format("{}s", what);
    out += fmt::format("\n  looked at {}, {} unreadable\n",
                       counted(report.coverage.looked_at, what, many), report.coverage.unreadable);
    for (const std::string& gap : report.coverage.gaps) {
        out += fmt::format("  not covered: {}\n", printable(gap));
    }
    for (const std::string& limit : report.coverage.limits) {
        out += fmt::format("  not known: {}\n", printable(limit));
    }
    for (const event::Finding& finding : report.findings) {
        out += fmt::format("\n  {} [{}, {}]\n  {}: {}\n", printable(finding.title),
                           to_string(finding.severity), finding.technique, finding.subject_kind,
                           printable(finding.subject));
        for (const event::Evidence& item : finding.evidence) {
            out += fmt::format("    {:<14}{}", item.name, printable(item.text));
            if (item.address != 0) out += fmt::format(" at {:#x}", item.address);
            out += '\n';
        }
        out += fmt::format("  {}\n", printable(finding.advice));
    }
    return out;
}

}  // namespace underseer::cli
