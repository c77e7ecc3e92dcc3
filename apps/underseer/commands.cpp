#include "commands.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "agent_commands.h"
#include "base/counted.h"
#include "baseline.h"
#include "checks.h"
#include "demo.h"
#include "detect/hidden_process/hidden_process.h"
#include "doctor.h"
#include "dump.h"
#include "event_rules.h"
#include "evidence.h"
#include "explain.h"
#include "export.h"
#include "hypervisor/discover.h"
#include "listings.h"
#include "manual_text.h"
#include "output.h"
#include "output_file.h"
#include "report.h"
#include "scan.h"
#include "target.h"
#include "trace.h"
#include "vms.h"

namespace underseer::cli {

namespace {

using agent::Question;
using agent::Topic;

// ---- commands ---------------------------------------------------------------------------------

void warn_of_gap(std::uint32_t unreadable, const std::string& first) {
    if (unreadable == 0) return;
    fmt::print(stderr, "underseer: {} could not be read; the first: {}\n",
               counted(unreadable, "entry", "entries"), printable(first));
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

Result<int> bpf(const Options& options) {
    if (options.maps && options.links) {
        return fail(Code::invalid_argument, "--maps or --links, one at a time");
    }
    if (options.maps) return list<event::BpfMap, Topic::bpf_maps>(options);
    if (options.links) return list<event::BpfLink, Topic::bpf_links>(options);
    return list<event::BpfProgram, Topic::bpf_programs>(options);
}

Result<int> tree(const Options& options) {
    Target target = TRY(Target::open(options));
    const auto answer = TRY(ask<event::Task>(target, options, Topic::tasks));
    if (options.json) {
        print_json(answer.items);
        return 0;
    }
    const auto checked = target.ask<event::CheckReport>(
        {.topic = Topic::checks, .checks = {std::string(detect::HiddenProcessCheck::kName)}});
    const auto reports = checked.has_value() ? checked->items : std::vector<event::CheckReport>{};
    const HiddenTasks hidden = hidden_among(answer.items, reports);
    print(tree_of(answer.items, hidden));
    const auto tell = [](Tone tone, const std::string& line) { print(toned(tone, line) + "\n"); };
    if (!hidden.missing_in.empty()) {
        tell(Tone::bad, fmt::format("! hidden: {} that the kernel's own lists do not agree about; "
                                    "underseer check has the evidence",
                                    counted(hidden.missing_in.size(), "process", "processes")));
    }
    for (const std::string& subject : hidden.unlisted) {
        tell(Tone::bad,
             fmt::format(
                 "! hidden, and not in this tree (a thread, or in none of the kernel's lists): {}; "
                 "underseer check has the evidence",
                 printable(subject)));
    }
    if (!checked.has_value()) {
        tell(Tone::warning,
             "Whether any is hidden was not judged: " + printable(checked.error().to_text()));
    }
    for (const event::CheckReport& report : reports) {
        if (report.outcome != event::Outcome::unavailable) continue;
        tell(Tone::warning, "Whether any is hidden was not judged: " + printable(report.reason));
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
    auto asked = run_checks(target, options);
    if (patience) fmt::print(stderr, "\r\x1b[K");
    const auto answer = TRY(std::move(asked));
    warn_of_gap(answer.unreadable, answer.first_gap);
    if (options.json) {
        print_json(answer.items);
    } else {
        for (const event::CheckReport& report : answer.items) print(text_of(report));
    }
    return outcome_of(answer.items);
}

Result<int> dump_memory(const Options& options) {
    TRY(check_output(options));
    return dump(TRY(open_introspector(options)), options);
}

Result<int> export_symbols_of(const Options& options) {
    return export_symbols(options);
}

// ---- the table --------------------------------------------------------------------------------

using program::Exit;
using program::Kind;
using program::Word;

constexpr std::string_view kLook = "Look into a VM or an image";
constexpr std::string_view kJudge = "Judge";
constexpr std::string_view kAgent = "The agent of this host";
constexpr std::string_view kFiles = "Files";
constexpr std::string_view kHidden;  // made for programs

struct Row {
    program::Command text;
    Result<int> (*run)(const Options&);
};

// What comes of looking into a guest: exit_status() has the same numbers.
std::vector<Exit> of_a_guest(std::vector<Exit> exits = {}) {
    const std::vector<Exit> common{{3, "there is no such VM or file"},
                                   {4, "several VMs have that name"},
                                   {5, "not allowed: not root, or not in the agent's policy"},
                                   {6, "it cannot be looked into, or not at present"},
                                   {7, "the image is truncated or malformed"},
                                   {8, "not an image, or a form or size that is not supported"},
                                   {11, "the VM has ended"},
                                   {12, "there is no Linux kernel in its memory"}};
    for (const Exit& one : common) {
        if (std::ranges::find(exits, one.status, &Exit::status) == exits.end()) {
            exits.push_back(one);
        }
    }
    return exits;
}

program::Command looking(std::string_view name, std::string_view what, std::string_view more,
                         std::vector<const program::Option*> options) {
    options.insert(options.end(), {&option::kJson, &option::kDirect, &option::kRun});
    return {.name = name,
            .group = kLook,
            .what = what,
            .more = more,
            .words = {{"INSTANCE|IMAGE", Kind::target}},
            .options = std::move(options),
            .exits = of_a_guest()};
}

Result<int> help(const Options& options);
Result<int> print_manual(const Options& options);
Result<int> print_completion(const Options& options);
Result<int> print_names(const Options& options);

const std::vector<Row>& rows() {
    using namespace option;
    static const std::vector<Row> all{
        {{.name = "ls",
          .group = kLook,
          .what = "the VMs of this host, and whether they can be looked into",
          .more = "With --json nothing of a guest is read. Tenants and MEC identities come from "
                  "libvirt's metadata or the mapping file (docs/instances.md).",
          .words = {},
          .options = {&kJson, &kInstances, &kDirect, &kRun},
          .exits = {}},
         ls},
        {{.name = "doctor",
          .group = kAgent,
          .what = "what this host allows, what is missing, and how to get it",
          .more = "",
          .words = {},
          .options = {&kJson, &kInstances, &kPolicy, &kState, &kRun},
          .exits = {{1, "something that is needed is missing"}}},
         doctor},
        {looking("info", "kernel, build id, boot time, and how they were found", "", {}), info},
        {looking("ps", "processes",
                 "Processes of all the kernel's lists, so that one that is hidden from some is "
                 "there too; underseer tree marks it, underseer check says what it is hidden from. "
                 "START is in the guest's own clock. What could not be read is shown as '?'; "
                 "--json has the reason. Values of environment variables come with --environment, "
                 "where the agent's policy allows it.",
                 {&kPid, &kThreads, &kEnvironment, &kWatch}),
         list<event::Task, Topic::tasks>},
        {looking("tree", "processes as a tree of parents and children",
                 "A process that the hidden-process check finds has a '!' behind its pid; where "
                 "the kernel's lists differ that takes some seconds more. With --json nothing is "
                 "judged: underseer check --json does that.",
                 {&kThreads}),
         tree},
        {looking("files", "open files", "", {&kPid, &kWatch}),
         list<event::OpenFile, Topic::open_files>},
        {looking("maps", "memory mappings", "", {&kPid, &kWatch}),
         list<event::Vma, Topic::memory_maps>},
        {looking("sockets", "sockets and who holds them", "", {&kPid, &kWatch}),
         list<event::Socket, Topic::sockets>},
        {looking("modules", "loaded kernel modules", "", {&kWatch}),
         list<event::Module, Topic::modules>},
        {looking("bpf", "BPF programs and where they are attached, maps, links",
                 "What bpftool shows in the guest, and what it does not: programs, maps and links "
                 "come from the kernel's tables and from the places where programs are attached. "
                 "What a table should have and has not is marked with '!'; underseer check judges "
                 "it. Programs of sockets, of maps of programs and of tunnels' routes are told "
                 "without these places.",
                 {&kMaps, &kLinks, &kWatch}),
         bpf},
        {looking("mounts", "mounts of every namespace", "", {&kWatch}),
         list<event::Mount, Topic::mounts>},
        {looking("interfaces", "network interfaces and their addresses", "", {&kWatch}),
         list<event::NetworkInterface, Topic::interfaces>},
        {looking("dmesg", "the kernel's log", "", {&kWatch}),
         list<event::KernelLogLine, Topic::kernel_log>},
        {{.name = "check",
          .group = kJudge,
          .what = "judges it: hidden processes, rootkits, stolen credentials",
          .more =
              "Each check is clean, has found something, or says why it could not look. What is "
              "found is there in several looks, some seconds apart at most. underseer explain says "
              "of each rule what it rests on, what it misses and what else looks like it. Where "
              "nobody tells the CPUs' registers (libvirt, no QMP socket) decoy_kernel is "
              "unavailable, which does not change the exit status. event_rules matches what is "
              "started, connected and loaded by Sigma rules: those of --rules, else those that are "
              "installed; where the agent is asked, those of its policy.",
          .words = {{"INSTANCE|IMAGE", Kind::target}},
          .options = {&kOnly, &kDeep, &kBaseline, &kSigmaRules, &kJson, &kDirect, &kRun},
          .exits = of_a_guest({{1, "something was found"}, {10, "a check could not look"}})},
         check},
        {{.name = "scan",
          .group = kJudge,
          .what = "looks through the memory of its processes by YARA rules",
          .more =
              "A rule is judged over each file that a process has mapped, as a file and once for "
              "all processes, and over what each process has of its own, as yara does with a pid. "
              "Told are the process, the region and the file. Only what is in RAM is looked at; "
              "what is not, or cannot be read, is told.\n\n"
              "Rules are compiled in the jailed process that reads the guest. Each file has a "
              "namespace of its own; include directives find files in or below the folder of the "
              "file that was named. The variables filename, filepath, extension, filetype and "
              "owner are there.",
          .words = {{"INSTANCE|IMAGE", Kind::target}},
          .options = {&kRules, &kPid, &kTimeout, &kJson, &kDirect, &kRun},
          .exits =
              of_a_guest({{1, "a rule matches"},
                          {10, "no rule matches, and not all could be looked at"},
                          {13, "the rules have errors: each is told with its file and line"}})},
         scan},
        {{.name = "trace",
          .group = kLook,
          .what = "what one process does: system calls and call stacks of its threads",
          .more =
              "Its memory is read a hundred times a second, and nothing in the VM is touched. Told "
              "are, of each thread, in which share of the samples it was where: its system call "
              "with the arguments, its call stack in the kernel, and that of its program. "
              "What is shorter than the time between two samples is seen by chance, or not. Of a "
              "thread that is on a CPU only its CPU knows where it is: then the CPU time that the "
              "guest itself counts says whether it runs in its program (user) or in the kernel "
              "(system).\n\n"
              "A '?' before a function marks a guess, as in the kernel's own messages: no table "
              "leads to it, and its address lies on the stack. Functions of the program have the "
              "names that its files' symbols give them, as far as those are in the guest's memory; "
              "else the place in the file is told. 'By its frame pointer' marks a caller that was "
              "found by the register rbp, as the file says nothing of that stack: callers may be "
              "missing before it. Where a stack could not be followed further, the reason is told. "
              "An image is one sample.\n\n"
              "With --exact every system call is told, with what its arguments point to and its "
              "result, as strace does. The VM pays for it: QEMU's GDB server is started over its "
              "monitor, two hardware breakpoints stand where system calls enter and leave the "
              "kernel, and each time that any process makes one all CPUs stand still for a "
              "moment.\n\n"
              "With --functions it is the calls of up to three functions instead, as ltrace shows "
              "them: the six registers that may hold arguments, with the text that one points to, "
              "the result, and who calls. 'libssl.so.3:SSL_write' is one of a library, 'SSL_*' any "
              "so named of whatever the process has mapped, 'kernel:tcp_connect' one of the "
              "kernel. Their names are those of its files' symbols, as far as those are in the "
              "guest's memory. Other processes stop the VM only where they have the same code at "
              "the same address. Where more calls are out than there are breakpoints left to wait "
              "for their return, the result is not seen.\n\n"
              "More such stops in a second than --stops end it, and the trace goes on by "
              "samples. A process of its own takes the breakpoints away whatever ends the trace, "
              "kill -9 included; were that killed too, the agent does, or 'underseer act VM "
              "resume'. It needs root and a VM with a QMP socket that libvirt does not manage. "
              "Calls of 32-bit programs are not seen, nor are those of child processes. What "
              "another thread changes while a call is made may be told as it was before.",
          .words = {{"INSTANCE|IMAGE", Kind::target}},
          .options = {&kPid, &kFor, &kExact, &kSyscalls, &kFunctions, &kStops, &kJson, &kDirect,
                      &kRun, &kState},
          .exits = of_a_guest({{3, "there is no such VM, file or process"},
                               {10, "not all of it could be seen; what not is told"}})},
         trace},
        {{.name = "explain",
          .group = kJudge,
          .what = "what a rule rests on, what it misses, what to do",
          .more = "Without RULE: every rule there is, by check.",
          .words = {{"RULE", Kind::text, false}},
          .options = {&kPolicy, &kJson},
          .exits = {{3, "there is no such rule"}}},
         explain},
        {{.name = "rules",
          .group = kJudge,
          .what = "Sigma rules of events: which there are, and what is understood",
          .more =
              "check reads a file, or every *.yml of a folder, in a jail, and says of each rule "
              "that is not understood in which line and why, and what would do (docs/sigma.md has "
              "the part of Sigma that is). ls lists those of the agent's policy, or of PATH. A "
              "rule "
              "is called sigma: and its file's name, in findings and in the policy.",
          .words = {{.name = "ls|check", .kind = Kind::choice, .choices = {"ls", "check"}},
                    {"PATH", Kind::file, false}},
          .options = {&kPolicy, &kJson},
          .exits = {{3, "there are none"}, {13, "check: a rule is refused"}}},
         event_rules},
        {{.name = "findings",
          .group = kJudge,
          .what = "what the agent has found and is still so",
          .more = "",
          .words = {},
          .options = {&kJson, &kRun},
          .exits = {{1, "a finding is open that is more than informational"},
                    {3, "no agent runs"},
                    {5, "not allowed"}}},
         findings},
        {{.name = "act",
          .group = kJudge,
          .what = "a VM is paused, cut off or ended, or its evidence kept",
          .more =
              "pause: its CPUs stop, its memory stays as it is and can be dumped; resume lets "
              "it go on. isolate: each network card that QEMU gives it loses its link; "
              "reconnect undoes that. kill: as pulling the plug. The agent does it, through "
              "libvirt where that manages the VM, else through QEMU's monitor. capture keeps "
              "its processes, sockets, modules and log, and with --pid that process's memory, "
              "program, files and a short trace of it, as signed evidence; dump keeps all of "
              "its memory; underseer evidence lists what is kept. Each is logged: who wanted it "
              "and what came of it. Policy does the same by itself about what is found: [[act]] "
              "in underseer-policy(5).",
          .words = {{"INSTANCE", Kind::target},
                    {.name = "ACTION",
                     .kind = Kind::choice,
                     .choices = {"pause", "resume", "isolate", "reconnect", "kill", "capture",
                                 "dump"}}},
          .options = {&kPid, &kDryRun, &kJson, &kRun},
          .exits = {{3, "no agent runs, or there is no such VM"},
                    {5, "not allowed"},
                    {6, "it was not done: the message says why"},
                    {8,
                     "it was not done: libvirt keeps that, or there is no room for more "
                     "evidence; the message says what to do"}}},
         act},
        {{.name = "status",
          .group = kAgent,
          .what = "the agent, and how well it sees each instance",
          .more = "",
          .words = {},
          .options = {&kJson, &kWatch, &kRun},
          .exits = {{3, "no agent runs"}, {5, "not allowed"}}},
         status},
        {{.name = "log",
          .group = kAgent,
          .what = "the agent's signed log: shown, followed or verified",
          .more = "Without DIRECTORY the logs in the agent's state directory are meant; verify "
                  "then takes both.",
          .words = {{.name = "show|follow|verify",
                     .kind = Kind::choice,
                     .choices = {"show", "follow", "verify"}},
                    {"DIRECTORY", Kind::directory, false}},
          .options = {&kJson, &kBulk, &kState, &kKey},
          .exits = {{1, "verify: the log was tampered with"},
                    {2, "verify: a torn tail or a gap (or wrong use)"},
                    {3, "verify: it cannot be verified; else: there is no such log"}}},
         log},
        {{.name = "evidence",
          .group = kAgent,
          .what = "what was kept of VMs, as signed bundles: listed or verified",
          .more =
              "A bundle is a folder: files, and bundle.jsonl in which the agent has signed what "
              "they are and their SHA-256. Without FOLDER all bundles below the agent's state "
              "directory are meant. What is not needed any more is removed with rm: the agent "
              "removes none.",
          .words = {{.name = "ls|verify", .kind = Kind::choice, .choices = {"ls", "verify"}},
                    {"FOLDER", Kind::directory, false}},
          .options = {&kJson, &kState, &kKey},
          .exits = {{1, "verify: a file or the list was changed"},
                    {3, "there is no such bundle, or no key to verify it with"},
                    {5, "not allowed"}}},
         evidence},
        {{.name = "baseline",
          .group = kAgent,
          .what = "kernels and programs as built, which guests are compared with",
          .more =
              "make reads a kernel (vmlinuz, vmlinux) or a distribution's package of one "
              "(linux-image-VERSION.deb), in a jail, and hands what it has made of it to the "
              "agent, which keeps it signed. From then on kernel_code compares the code of each "
              "guest that runs this very build with it, so that what was altered before the agent "
              "first looked is seen too. FILE may also be what --output has written. Where there "
              "is none, guests of one build are compared with the first of them that was found "
              "clean.\n\n"
              "Of a package without a kernel (openssh-server_VERSION_amd64.deb), and of a program "
              "or "
              "library by itself, it keeps which pages each file loads: program_integrity then "
              "tells "
              "of what guests execute that is not as the package has it. Several may be given at "
              "once, those that guests are made of.\n\n"
              "ls lists what is kept, and which VMs it is used for; rm removes one by its "
              "id: of one that was first seen, another one is taken.",
          .words = {{.name = "make|ls|rm", .kind = Kind::choice, .choices = {"make", "ls", "rm"}},
                    {.name = "FILE|ID", .kind = Kind::file, .required = false, .repeated = true}},
          .options = {&kOutput, &kForce, &kJson, &kRun},
          .exits = {{3, "no agent runs, or there is no such file or baseline"},
                    {5, "not allowed"},
                    {8, "the file is no kernel and no program that is understood"}}},
         baseline},
        {{.name = "dump",
          .group = kFiles,
          .what = "its memory as an ELF core",
          .more = "Pages that cannot be read are zeros in the dump, and told. The file appears "
                  "under its name when it is whole.",
          .words = {{"INSTANCE|IMAGE", Kind::target}, {"OUTPUT", Kind::file}},
          .options = {&kForce, &kJson},
          .exits = of_a_guest({{10, "pages are missing in the dump"}})},
         dump_memory},
        {{.name = "demo",
          .group = kAgent,
          .what = "a small guest hides a process, and you see who notices",
          .more = "Boots a guest with a stock kernel under an agent of its own, and leaves both "
                  "running until Ctrl-C. What it fetches is kept in /var/cache/underseer.",
          .words = {},
          .options = {&kOnce},
          .exits = {{1,
                     "the demo has failed, or packages that it needs are missing; it says which"},
                    {3, "the demo is not installed"}}},
         demo},
        {{.name = "export",
          .group = kFiles,
          .what = "its kernel's symbols and types, for Volatility 3",
          .more = "A symbol file (ISF) of a kernel that nobody has debug information for. Put it "
                  "into a folder named linux under Volatility's symbol path. Without OUTPUT it is "
                  "named after the kernel.",
          .words = {{"INSTANCE|IMAGE", Kind::target}, {"OUTPUT", Kind::file, false}},
          .options = {&kForce},
          .exits = of_a_guest()},
         export_symbols_of},
        {{.name = "report",
          .group = kFiles,
          .what = "what there is to see in it, as one HTML file to hand on",
          .more = "System, findings, processes, modules, sockets, mounts, interfaces, kernel log; "
                  "what could not be seen and why; the SHA-256 of an image. The file needs nothing "
                  "but a browser, and nothing in it runs. Without OUTPUT it is named after what it "
                  "is about. It is readable by you only: it holds what the guest's memory held.",
          .words = {{"INSTANCE|IMAGE", Kind::target}, {"OUTPUT", Kind::file, false}},
          .options = {&kBaseline, &kForce, &kJson, &kDirect, &kRun},
          .exits = of_a_guest({{1, "the report has a finding that is more than informational"},
                               {10, "a check could not look"}})},
         report},
        {{.name = "help",
          .group = kHidden,
          .what = "the same as COMMAND --help",
          .more = "",
          .words = {{"COMMAND", Kind::text, false}},
          .options = {},
          .exits = {}},
         help},
        {{.name = "manual",
          .group = kHidden,
          .what = "the source of a manual page",
          .more = "",
          .words = {{.name = "underseer|underseer-policy",
                     .kind = Kind::choice,
                     .choices = {"underseer", "underseer-policy"}}},
          .options = {},
          .exits = {}},
         print_manual},
        {{.name = "completion",
          .group = kHidden,
          .what = "a completion script",
          .more = "",
          .words =
              {{.name = "bash|zsh|fish", .kind = Kind::choice, .choices = {"bash", "zsh", "fish"}}},
          .options = {},
          .exits = {}},
         print_completion},
        {{.name = "names",
          .group = kHidden,
          .what = "what an INSTANCE may be called here, one a line; for completion",
          .more = "",
          .words = {},
          .options = {},
          .exits = {}},
         print_names},
    };
    return all;
}

Result<int> help(const Options& options) {
    if (options.target.empty()) {
        print(program::help_of(description(), text_width()));
        return 0;
    }
    const program::Command* command = program::find_command(description(), options.target);
    if (command == nullptr) {
        return fail(Code::invalid_argument, fmt::format("there is no command '{}'; see underseer "
                                                        "--help",
                                                        options.target));
    }
    print(program::help_of(description(), *command, text_width()));
    return 0;
}

Result<int> print_manual(const Options& options) {
    print(program::manual_of(options.target == "underseer" ? description() : policy_manual()));
    return 0;
}

constexpr std::string_view kNamesCommand = "underseer names";

Result<int> print_completion(const Options& options) {
    print(options.target == "bash"  ? program::bash_completion(description(), kNamesCommand)
          : options.target == "zsh" ? program::zsh_completion(description(), kNamesCommand)
                                    : program::fish_completion(description(), kNamesCommand));
    return 0;
}

// A name that a shell could take for something else is offered as its pid.
Result<int> print_names(const Options&) {
    for (const hypervisor::Vm& vm : TRY(hypervisor::discover()).vms) {
        const bool plain = vm.label().find_first_not_of(
                               "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                               "._:@+-") == std::string::npos;
        fmt::print("{}\n", plain ? vm.label() : std::to_string(vm.pid));
    }
    return 0;
}

}  // namespace

const program::Program& description() {
    static const program::Program underseer = [] {
        program::Program made{
            .name = "underseer",
            .section = 1,
            .what = "looks into Linux VMs and memory images from outside",
            .more =
                "Looks into a running Linux VM, or into an image of its memory, from outside: "
                "nothing is installed or changed in it, and it is never paused.\n\n"
                "INSTANCE is a VM's name, UUID or pid; IMAGE a file (LiME, AVML, ELF core, "
                "kdump-compressed, raw). A word with a slash, or one that names a file, is an "
                "image.",
            .groups = {kLook, kJudge, kAgent, kFiles},
            .commands = {},
            .options = {&option::kHelp, &option::kVersion},
            .exits = {{0, "all is well"},
                      {2, "wrong use: a word or an option that the command does not take"},
                      {9, "the system failed: the message says at what"}},
            .sections = manual_sections(),
            .see_also = {"underseerd(8)", "underseer-policy(5)"}};
        for (const Row& row : rows()) made.commands.push_back(row.text);
        return made;
    }();
    return underseer;
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
        case Code::unreadable:
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
    if (options.version) {
        fmt::print("underseer {}\n", UNDERSEER_VERSION);
        return 0;
    }
    if (options.command.empty() || options.help) {
        Options about;
        about.target = options.command;
        TRY(help(about));
        return options.command.empty() && !options.help ? 2 : 0;
    }
    const auto row = std::ranges::find_if(
        rows(), [&](const Row& one) { return one.text.name == options.command; });
    CHECK(row != rows().end());
    return row->run(options);
}

}  // namespace underseer::cli
