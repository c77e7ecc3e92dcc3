#include "commands.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <thread>

#include "agent_commands.h"
#include "dump.h"
#include "export.h"
#include "hypervisor/discover.h"
#include "listings.h"
#include "output.h"
#include "output_file.h"
#include "target.h"

namespace underseer::cli {

namespace {

using agent::Question;
using agent::Topic;

// ---- commands ---------------------------------------------------------------------------------

void warn_of_gap(std::uint32_t unreadable, const std::string& first) {
    if (unreadable == 0) return;
    fmt::print(stderr, "underseer: {} entries could not be read; the first: {}\n", unreadable,
               printable(first));
}

template <typename T>
Result<agent::Answer<T>> ask(Target& target, const Options& options, Topic topic) {
    const Question question{.topic = topic,
                            .one_pid = options.pid.has_value(),
                            .pid = options.pid.value_or(0),
                            .environment = options.environment,
                            .threads = options.threads,
                            .deep = options.deep};
    auto answer = TRY(target.ask<T>(question));
    warn_of_gap(answer.unreadable, answer.first_gap);
    return answer;
}

template <typename T, Topic topic>
Result<int> list(const Options& options) {
    Target target = TRY(Target::open(options));
    for (;;) {
        const auto answer = TRY(ask<T>(target, options, topic));
        if (options.watch && on_terminal()) print("\x1b[H\x1b[2J");
        if (options.json) {
            print_json(answer.items);
        } else {
            print_table(table_of(answer.items));
        }
        if (!options.watch) return 0;
        std::fflush(stdout);
        std::this_thread::sleep_for(std::chrono::seconds(1));
    }
}

Result<int> tree(const Options& options) {
    Target target = TRY(Target::open(options));
    const auto answer = TRY(ask<event::Task>(target, options, Topic::tasks));
    if (options.json) {
        print_json(answer.items);
    } else {
        print(tree_of(answer.items));
    }
    return 0;
}

Result<int> info(const Options& options) {
    Target target = TRY(Target::open(options));
    const auto answer = TRY(ask<event::SystemInfo>(target, options, Topic::info));
    if (answer.items.size() != 1) return fail(Code::malformed, "the introspector sent no system");
    if (options.json) {
        print_json(answer.items.front());
    } else {
        print(text_of(answer.items.front()));
    }
    return 0;
}

Result<int> check(const Options& options) {
    Target target = TRY(Target::open(options));
    const bool patience = options.deep && ::isatty(STDERR_FILENO) != 0;
    if (patience) fmt::print(stderr, "Searching all of the guest's memory ..");
    auto asked = ask<event::CheckReport>(target, options, Topic::hidden_processes);
    if (patience) fmt::print(stderr, "\r\x1b[K");
    const auto answer = TRY(std::move(asked));
    int status = 0;
    for (const event::CheckReport& report : answer.items) {
        if (!options.json) print(text_of(report));
        if (report.outcome == event::Outcome::finding) status = 1;
        if (report.outcome == event::Outcome::unavailable && status == 0) status = 10;
    }
    if (options.json) print_json(answer.items);
    return status;
}

Result<int> dump_memory(const Options& options) {
    TRY(check_output(options));
    return dump(TRY(open_introspector(options)), options);
}

Result<int> export_kernel(const Options& options) {
    return export_symbols(options);
}

void print_host_json(const hypervisor::Host& host) {
    std::string text;
    json::Writer writer(&text, json::Style::pretty);
    writer.begin_array();
    for (const hypervisor::Vm& vm : host.vms) {
        writer.begin_object()
            .member("name", vm.name)
            .member("uuid", vm.uuid)
            .member("pid", vm.pid)
            .member("memory_bytes", vm.memory_bytes)
            .member("machine", vm.machine)
            .member("accelerator", vm.accelerator)
            .member("ram", to_string(vm.backing))
            .member("managed_by", vm.managed_by)
            .member("executable", vm.executable)
            .member("not_introspectable", vm.not_introspectable)
            .end_object();
    }
    writer.end_array();
    fmt::print("{}\n", text);
}

Result<int> ls(const Options& options) {
    const hypervisor::Host host = TRY(hypervisor::discover());
    if (options.json) {
        print_host_json(host);
        return 0;
    }
    Table table({{"NAME"},
                 {"PID", Align::right},
                 {"MEMORY", Align::right},
                 {"MACHINE"},
                 {"ACCEL"},
                 {"RAM"},
                 {"MANAGED"},
                 {"KERNEL"}});
    for (const hypervisor::Vm& vm : host.vms) {
        Options one = options;
        one.target = std::to_string(vm.pid);
        std::string kernel = "not introspectable: " + vm.not_introspectable;
        if (vm.not_introspectable.empty()) {
            auto opened = Target::open(one);
            auto answer = opened.has_value() ? ask<event::SystemInfo>(*opened, one, Topic::info)
                                             : Result<agent::Answer<event::SystemInfo>>(
                                                   Unexpected(std::move(opened).error()));
            kernel = !answer.has_value()     ? "not introspectable: " + answer.error().to_text()
                     : answer->items.empty() ? "?"
                                             : answer->items.front().kernel_release;
        }
        table.add({vm.label(), std::to_string(vm.pid), fmt::format("{} MiB", vm.memory_bytes >> 20),
                   vm.machine, vm.accelerator, std::string(to_string(vm.backing)), vm.managed_by,
                   kernel});
    }
    print_table(table);
    if (table.empty()) fmt::print(stderr, "No VM runs on this host.\n");
    for (const hypervisor::Impostor& impostor : host.impostors) {
        fmt::print(stderr, "not believed: pid {}: {}\n", impostor.pid, printable(impostor.why));
    }
    return 0;
}

struct Command {
    std::string_view name;
    std::string_view what;
    Result<int> (*run)(const Options&);
};

constexpr std::array<Command, 18> kCommands{{
    {"ls", "the VMs of this host, and whether they can be looked into", ls},
    {"info", "kernel, build id, boot time, how it was found", info},
    {"ps", "processes (--threads, --environment with --json)", list<event::Task, Topic::tasks>},
    {"tree", "processes as a tree", tree},
    {"files", "open files", list<event::OpenFile, Topic::open_files>},
    {"maps", "memory mappings", list<event::Vma, Topic::memory_maps>},
    {"sockets", "sockets and who holds them", list<event::Socket, Topic::sockets>},
    {"modules", "loaded kernel modules", list<event::Module, Topic::modules>},
    {"mounts", "mounts of every namespace", list<event::Mount, Topic::mounts>},
    {"interfaces", "network interfaces", list<event::NetworkInterface, Topic::interfaces>},
    {"dmesg", "the kernel's log", list<event::KernelLogLine, Topic::kernel_log>},
    {"check", "looks for hidden processes (--deep); exit status 1 when there is one", check},
    {"status", "the agent of this host, and how well it sees each instance", status},
    {"findings", "what is open; exit status 1 when something is", findings},
    {"log", "log show | follow | verify [DIRECTORY]: the agent's signed log", log},
    {"dump", "its memory as an ELF core: dump INSTANCE|IMAGE OUTPUT (--force)", dump_memory},
    {"export", "symbols for Volatility 3: export INSTANCE|IMAGE [OUTPUT]", export_kernel},
    {"help", "this text", nullptr},
}};

}  // namespace

std::string help_text() {
    std::string text =
        "usage: underseer COMMAND [INSTANCE|IMAGE] [options]\n\n"
        "Looks into a running Linux VM, or into an image of its memory, from outside: nothing is\n"
        "installed or changed in it. INSTANCE is a VM's name, UUID or pid; IMAGE a file (LiME, "
        "AVML,\n"
        "ELF core, kdump-compressed, raw).\n\nCommands:\n";
    for (const Command& command : kCommands) {
        text += fmt::format("  {:<12}{}\n", command.name, command.what);
    }
    text +=
        "\nOptions:\n"
        "  --pid N       of one process only\n"
        "  --json        for programs: stable keys, numbers above 2^53 as strings\n"
        "  --threads     every thread, not only processes\n"
        "  --deep        of check: search all memory too, for what no list leads to\n"
        "  --watch       again every second\n"
        "  --direct      look into the VM ourselves even when an agent runs\n"
        "  --bulk        of log: the bulk log instead of the critical one\n"
        "  --state DIR   the agent's state directory (/var/lib/underseer)\n"
        "  --run DIR     where its control socket is (/run/underseer)\n"
        "  --key FILE    of log verify: the public enrolment key\n"
        "  --force       dump, export: replace the output file\n"
        "\nExit status: 0 well; 1 a check has found something; 2 wrong use; 3 no such VM or file;\n"
        "4 several VMs of that name; 5 not allowed (not root?); 6 cannot be looked into; 7 "
        "malformed\n"
        "or truncated image; 8 a form or size that is not supported; 9 the system failed; 10 a "
        "check\n"
        "could not look, or a dump lacks pages; 11 the VM has ended; 12 no Linux kernel in its "
        "memory.\nlog verify: 0 intact; 1 tampered; 2 torn tail or gap; 3 cannot be verified.\n";
    return text;
}

int exit_status(const Error& error) {
    switch (error.code) {
        case Code::invalid_argument:
            return 2;
        case Code::not_found:
            return 3;
        case Code::ambiguous:
            return 4;
        case Code::permission:
            return 5;
        case Code::unavailable:
            return 6;
        case Code::malformed:
            return 7;
        case Code::unsupported:
        case Code::limit:
            return 8;
        case Code::os:
            return 9;
        case Code::gone:
            return 11;
        case Code::not_linux:
            return 12;
    }
    return 9;
}

Result<int> run(const Options& options) {
    if (options.help || options.command.empty() || options.command == "help") {
        print(help_text());
        return options.command.empty() && !options.help ? 2 : 0;
    }
    for (const Command& command : kCommands) {
        if (command.name == options.command) return command.run(options);
    }
    return fail(Code::invalid_argument,
                fmt::format("there is no command '{}'; see underseer --help", options.command));
}

}  // namespace underseer::cli
