#include "detect/credentials/credentials.h"

#include <fmt/format.h>

#include <unordered_map>
#include <vector>

#include "detect/process_report.h"

namespace underseer::detect::credentials {

namespace {

using guest_linux::Field;
using guest_linux::Kernel;

constexpr std::string_view kAdvice =
    "Only code inside the kernel can bring this about: an exploit or a rootkit. Find out how the "
    "process came to run (underseer tree), save its memory (underseer dump), and rebuild the "
    "instance with a kernel that is up to date.";

constexpr Rule kRules[] = {
    {.id = "kernel_credentials",
     .title = "Process with the kernel's own credentials",
     .severity = event::Severity::critical,
     .confidence = 95,
     .technique = "T1068",
     .subject_kind = "process",
     .reads = "The credentials (struct cred) of every task: those with which the kernel itself "
              "began (init_cred) belong to no program. commit_creds(&init_cred) is how exploits "
              "become root.",
     .misses = "A copy of the kernel's credentials: root_without_ancestry tells some of those.",
     .benign = "None known.",
     .advice = kAdvice},
    {.id = "shared_credentials",
     .title = "Two processes share one set of credentials",
     .severity = event::Severity::critical,
     .confidence = 95,
     .technique = "T1068",
     .subject_kind = "process",
     .reads = "The address of every task's real_cred. A process is given a set of its own when it "
              "is forked (copy_creds(), kernel/cred.c); only the threads of one process share.",
     .misses = "Credentials that were copied and not shared.",
     .benign = "None known.",
     .advice = kAdvice},
    {.id = "tampered_credentials",
     .title = "Credentials that were changed in place",
     .severity = event::Severity::critical,
     .confidence = 95,
     .technique = "T1068",
     .subject_kind = "process",
     .reads = "What the kernel keeps alike in every set of credentials: the real uid and that of "
              "its user_struct (set_user(), kernel/sys.c); effective capabilities are permitted "
              "ones, ambient ones are permitted and inheritable (security/commoncap.c).",
     .misses = "A change that keeps to these rules.",
     .benign = "None known.",
     .advice = kAdvice},
    {.id = "root_without_ancestry",
     .title = "Root process that nobody could have made root",
     .severity = event::Severity::high,
     .confidence = 75,
     .technique = "T1068",
     .subject_kind = "process",
     .reads = "A process of root whose supplementary groups are those with which the kernel began, "
              "while its parent is no root and has others: groups are inherited, su and sudo set "
              "new ones, and prepare_kernel_cred() takes the kernel's.",
     .misses = "A process whose parent has ended, or is root.",
     .benign = "A program that forked a helper before it gave up root itself is known by its file "
               "in a folder of the system, the same for both, and not told.",
     .advice = kAdvice},
    {.id = "full_capabilities",
     .title = "All capabilities without being root",
     .severity = event::Severity::medium,
     .confidence = 60,
     .technique = "T1548",
     .subject_kind = "process",
     .reads = "Effective capabilities of every process in the guest's first user namespace, of "
              "another user than root.",
     .misses = "Some capabilities that are as good as all (CAP_SYS_ADMIN, CAP_SYS_MODULE).",
     .benign = "A program file that was given all capabilities with setcap.",
     .advice = "Find out who gave them: getcap on its file, AmbientCapabilities= of its service."},
};
constexpr const Rule& kKernelCredentials = kRules[0];
constexpr const Rule& kShared = kRules[1];
constexpr const Rule& kTampered = kRules[2];
constexpr const Rule& kNoAncestry = kRules[3];
constexpr const Rule& kFullCapabilities = kRules[4];

// What is compared of one struct cred and is nothing that an operator is shown.
struct Cred {
    GuestVirt at;
    std::uint32_t user_uid = 0;  // of its user_struct
    GuestVirt user_namespace, groups;
};

class CredReader {
  public:
    explicit CredReader(Kernel& kernel) : kernel_(kernel) {}

    Result<void> require() const {
        return kernel_.require({real_cred_, user_, user_uid_, user_ns_, groups_, cap_effective_});
    }
    Result<Cred> read(GuestVirt task) {
        Cred cred;
        cred.at = TRY(kernel_.read_pointer(task, real_cred_));
        const GuestVirt user = TRY(kernel_.read_pointer(cred.at, user_));
        cred.user_uid = static_cast<std::uint32_t>(TRY(kernel_.read(user, user_uid_)));
        cred.user_namespace = TRY(kernel_.read_pointer(cred.at, user_ns_));
        cred.groups = TRY(kernel_.read_pointer(cred.at, groups_));
        return cred;
    }
    Result<std::uint64_t> effective(const Cred& cred) {
        return kernel_.read(cred.at, cap_effective_);
    }

  private:
    Kernel& kernel_;
    Field real_cred_ = kernel_.field("task_struct", "real_cred");
    Field user_ = kernel_.field("cred", "user");
    Field user_uid_ = kernel_.field("user_struct", "uid");
    Field user_ns_ = kernel_.field("cred", "user_ns");
    Field groups_ = kernel_.field("cred", "group_info");
    Field cap_effective_ = kernel_.field("cred", "cap_effective");
};

// Why the kernel cannot have made these; "" when it can.
std::string contradiction(const event::Credentials& c, const Cred& cred) {
    if (c.uid != cred.user_uid) {
        return fmt::format("uid {}, and counted as a process of uid {}", c.uid, cred.user_uid);
    }
    if ((c.cap_effective & ~c.cap_permitted) != 0) {
        return fmt::format("effective capabilities {:#x} that are not permitted ({:#x})",
                           c.cap_effective, c.cap_permitted);
    }
    if ((c.cap_ambient & ~(c.cap_permitted & c.cap_inheritable)) != 0) {
        return fmt::format("ambient capabilities {:#x} that are not permitted and inheritable",
                           c.cap_ambient);
    }
    return "";
}

class Judge {
  public:
    Judge(Snapshot& snapshot, const Cred& kernels, std::uint64_t all_capabilities)
        : snapshot_(snapshot),
          reader_(snapshot.kernel()),
          kernels_(kernels),
          all_capabilities_(all_capabilities) {}

    // Threads too: an exploit changes the credentials of the thread that runs it.
    Result<void> judge(const event::Task& task, event::CheckReport& report) {
        if (task.state == "Z" || task.state == "X") return {};
        if (!task.credentials.available()) {
            return fail(Code::unavailable, task.credentials.reason());
        }
        const event::Credentials& c = task.credentials.value();
        const Cred cred = TRY(reader_.read(GuestVirt{task.address}));
        const auto tell = [&](const Rule& rule, std::string name, std::string text) {
            event::Finding finding = about_process(rule, task, snapshot_);
            finding.evidence.push_back({std::move(name), std::move(text), cred.at.value, {}});
            add_finding(report, std::move(finding));
        };
        const auto [first, fresh] = owners_.try_emplace(cred.at, &task);
        if (cred.at == kernels_.at) {
            if (task.pid != 0) tell(kKernelCredentials, "credentials", "init_cred");
        } else if (!fresh && first->second->tgid != task.tgid) {
            tell(kShared, "shared with",
                 fmt::format("{} (pid {})", first->second->comm, first->second->pid));
        }
        if (std::string why = contradiction(c, cred); !why.empty()) {
            tell(kTampered, "contradiction", std::move(why));
        }
        if (task.kernel_thread || !task.is_process()) return {};
        if (c.euid != 0) {
            if (cred.user_namespace == kernels_.user_namespace &&
                (c.cap_effective & all_capabilities_) == all_capabilities_) {
                tell(kFullCapabilities, "effective capabilities",
                     fmt::format("{:#x}", c.cap_effective));
            }
        } else if (cred.groups == kernels_.groups && TRY(parent_is_no_root(task))) {
            tell(kNoAncestry, "supplementary groups", "those of the kernel's start");
        }
        return {};
    }

  private:
    Result<bool> parent_is_no_root(const event::Task& task) {
        if (!task.ppid.available()) return fail(Code::unavailable, task.ppid.reason());
        const event::Task* parent = snapshot_.process(task.ppid.value());
        if (parent == nullptr || parent->kernel_thread) return false;
        if (!parent->credentials.available()) {
            return fail(Code::unavailable, parent->credentials.reason());
        }
        const event::Credentials& c = parent->credentials.value();
        if (c.uid == 0 || c.euid == 0 || c.suid == 0) return false;
        for (const event::Task* one : {&task, parent}) {
            if (!one->exe.available()) return fail(Code::unavailable, one->exe.reason());
        }
        const std::string& exe = task.exe.value();
        if (exe == parent->exe.value() && is_system(exe)) return false;
        return TRY(reader_.read(GuestVirt{parent->address})).groups != kernels_.groups;
    }

    Snapshot& snapshot_;
    CredReader reader_;
    const Cred kernels_;
    const std::uint64_t all_capabilities_;
    std::unordered_map<GuestVirt, const event::Task*> owners_;
};

Result<event::CheckReport> judge_all(Snapshot& snapshot) {
    CredReader reader(snapshot.kernel());
    TRY(reader.require());
    const Cred kernels = TRY(reader.read(TRY(snapshot.kernel().symbol("init_task"))));
    Judge judge(snapshot, kernels, TRY(reader.effective(kernels)));
    return judge_tasks(snapshot, Among::threads,
                       [&](const event::Task& task, event::CheckReport& report) {
                           return judge.judge(task, report);
                       });
}

}  // namespace

std::span<const Rule> rules() {
    return kRules;
}

event::CheckReport inspect(Snapshot& snapshot) {
    auto report = judge_all(snapshot);
    if (report.has_value()) return std::move(*report);
    return {.outcome = event::Outcome::unavailable, .reason = report.error().to_text()};
}

}  // namespace underseer::detect::credentials
