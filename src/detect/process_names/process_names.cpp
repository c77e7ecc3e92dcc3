#include "detect/process_names/process_names.h"

#include <fmt/format.h>

#include <set>
#include <string>

#include "detect/process_report.h"

namespace underseer::detect::process_names {

namespace {

constexpr std::uint32_t kKthreadd = 2;  // init/main.c, rest_init()

constexpr Rule kRules[] = {
    {.id = "disguised_process",
     .title = "Program that calls itself a kernel thread",
     .severity = event::Severity::high,
     .confidence = 85,
     .technique = "T1036.011",
     .subject_kind = "process",
     .reads = "Name (comm) and first word of the command line of every process that runs a "
              "program: a word in brackets, as ps shows kernel threads, or a name that kernel "
              "threads of this guest have.",
     .misses = "A program under the name of another program: false_name tells some of those.",
     .benign = "A daemon that has the name of a kernel thread for its own (watchdogd) is known by "
               "its file's name and not told.",
     .advice = "Look at what it runs and holds open: underseer files, maps and sockets with --pid. "
               "If the program is not known, save its memory before it is ended."},
    {.id = "false_kernel_thread",
     .title = "Process that the kernel takes for a thread of its own",
     .severity = event::Severity::critical,
     .confidence = 90,
     .technique = "T1014",
     .subject_kind = "process",
     .reads = "The flag of kernel threads (PF_KTHREAD) and who started the task: kernel threads "
              "are children of kthreadd.",
     .misses = "A task whose parent was falsified as well.",
     .benign = "None known.",
     .advice = "Only code inside the kernel can set this flag: take the kernel as compromised. "
               "Save the guest's memory (underseer dump), take the instance off the network, and "
               "rebuild it."},
    {.id = "false_name",
     .title = "Program from a scratch folder under the name of a system's program",
     .severity = event::Severity::high,
     .confidence = 80,
     .technique = "T1036.005",
     .subject_kind = "process",
     .reads = "The path that the command line begins with against the file that is run: the one "
              "in a folder of the system, the other in /tmp, /var/tmp, /dev or /run.",
     .misses = "A program in another folder, and a command line that gives no path.",
     .benign = "Test harnesses that start a program under another's name.",
     .advice = "Look at the program's file and what it holds open (underseer files, maps and "
               "sockets with --pid); scan it."},
};
constexpr const Rule& kDisguised = kRules[0];
constexpr const Rule& kFalseThread = kRules[1];
constexpr const Rule& kFalseName = kRules[2];

// "kworker/0:1-events" -> "kworker/"; "" for a name without a slash.
std::string kind_of(const std::string& comm) {
    const std::size_t slash = comm.find('/');
    return slash == std::string::npos ? "" : comm.substr(0, slash + 1);
}

struct KernelNames {
    std::set<std::string> whole, kinds;

    explicit KernelNames(const std::vector<event::Task>& tasks) {
        for (const event::Task& task : tasks) {
            if (!task.kernel_thread) continue;
            whole.insert(task.comm);
            if (std::string kind = kind_of(task.comm); !kind.empty()) kinds.insert(kind);
        }
    }
    bool include(const std::string& comm) const {
        return whole.contains(comm) || kinds.contains(kind_of(comm));
    }
};

// With a space it is the title that some servers give themselves ("[celeryd: worker]").
bool in_brackets(std::string_view text) {
    return text.size() > 2 && text.starts_with('[') && text.ends_with(']') &&
           text.find(' ') == std::string_view::npos;
}

// The kernel cuts a name to 15 bytes.
bool is_named_after(const std::string& comm, std::string_view exe) {
    return base_name(without_deleted(exe)).substr(0, 15) == comm;
}

}  // namespace

std::span<const Rule> rules() {
    return kRules;
}

event::CheckReport inspect(Snapshot& snapshot) {
    const KernelNames names(snapshot.tasks().items);
    return judge_tasks(snapshot, Among::processes,
                       [&](const event::Task& process, event::CheckReport& report) -> Result<void> {
                           if (process.kernel_thread) {
                               if (!process.ppid.available()) {
                                   return fail(Code::unavailable, process.ppid.reason());
                               }
                               // 0: kthreadd itself and a CPU's idle task.
                               const std::uint32_t parent = process.ppid.value();
                               if (parent != 0 && parent != kKthreadd) {
                                   add_finding(report,
                                               about_process(kFalseThread, process, snapshot));
                               }
                               return {};
                           }
                           if (!process.exe.available())
                               return fail(Code::unavailable, process.exe.reason());
                           const std::string& exe = process.exe.value();
                           if (exe.empty()) return {};  // it has ended
                           const bool honest = is_named_after(process.comm, exe) && is_system(exe);
                           const auto& argv = process.argv;
                           std::string_view first;
                           if (argv.available() && !argv.value().empty())
                               first = argv.value().front();
                           if (in_brackets(first) || in_brackets(process.comm) ||
                               (names.include(process.comm) && !honest)) {
                               add_finding(report, about_process(kDisguised, process, snapshot));
                           } else if (is_system(first) && is_scratch(exe)) {
                               add_finding(report, about_process(kFalseName, process, snapshot));
                           }
                           if (!argv.available()) return fail(Code::unavailable, argv.reason());
                           return {};
                       });
}

}  // namespace underseer::detect::process_names
