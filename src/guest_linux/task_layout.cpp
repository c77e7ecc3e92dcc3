#include "guest_linux/task_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <unordered_set>
#include <vector>

#include "guest_linux/tasks.h"

namespace underseer::guest_linux {

namespace {

// task_struct has 6 to 10 KiB; what is looked for lies in front of its thread_struct.
constexpr std::uint32_t kMaxTaskBytes = 6144;
// Tasks that invariants are checked against.
constexpr std::size_t kMaxSample = 256, kMinSample = 8;
constexpr std::uint32_t kCommBytes = 16;  // TASK_COMM_LEN

// include/linux/sched.h, 5.10 to 7.2: pid, tgid, [stack_canary], real_parent, parent, children,
// sibling, group_leader stand in this order without a gap.
constexpr std::uint32_t kParent = 8, kChildren = 16, kSibling = 32, kGroupLeader = 48;

struct Sample {
    GuestVirt address;
    std::vector<std::byte> bytes;

    std::uint64_t word(std::uint32_t at) const {
        return load_le<std::uint64_t>(bytes, at).value_or(0);
    }
    std::uint32_t half(std::uint32_t at) const {
        return load_le<std::uint32_t>(bytes, at).value_or(0);
    }
};

class Derivation {
  public:
    explicit Derivation(Kernel& kernel) : kernel_(kernel) {}

    Result<std::map<std::string, Field, std::less<>>> run() {
        const GuestVirt init = TRY(kernel_.symbol("init_task"));
        first_ = TRY(sample(init));
        const auto family = find_family();
        if (!family) return fail(Code::unavailable, "init_task has no parent, children and leader");
        family_ = *family;
        const auto tasks = find_task_list();
        if (!tasks) return fail(Code::unavailable, "init_task has no list of tasks");
        const auto pid = find_pid();
        if (!pid) return fail(Code::unavailable, "the tasks have no process numbers");
        const auto comm = find_comm(*pid);
        const auto flags = find_flags(*pid);
        if (!comm || !flags) return fail(Code::unavailable, "the tasks have no names or flags");
        add("tasks", *tasks, 16);
        add("pid", *pid, 4);
        add("tgid", *pid + 4, 4);
        add("real_parent", family_, 8);
        add("parent", family_ + kParent, 8);
        add("children", family_ + kChildren, 16);
        add("sibling", family_ + kSibling, 16);
        add("group_leader", family_ + kGroupLeader, 8);
        add("comm", *comm, kCommBytes);
        add("flags", *flags, 4);
        find_threads();
        return std::move(found_);
    }

  private:
    void add(std::string_view member, std::uint32_t offset, std::uint32_t size) {
        add_to("task_struct", member, offset, size);
    }
    void add_to(std::string_view structure, std::string_view member, std::uint32_t offset,
                std::uint32_t size) {
        found_[fmt::format("{}.{}", structure, member)] = {
            .name = "", .offset = offset, .size_bytes = size};
    }

    Result<Sample> sample(GuestVirt at) {
        Sample result{at, std::vector<std::byte>(kMaxTaskBytes)};
        TRY(kernel_.memory().read(at, result.bytes));
        return result;
    }

    // The first task is its own parent and leader and has no siblings (init/init_task.c).
    std::optional<std::uint32_t> find_family() const {
        std::optional<std::uint32_t> found;
        const std::uint64_t self = first_.address.value;
        for (std::uint32_t at = 0; at + kGroupLeader + 8 <= kMaxTaskBytes; at += 8) {
            const std::uint64_t sibling = self + at + kSibling;
            if (first_.word(at) != self || first_.word(at + kParent) != self ||
                first_.word(at + kGroupLeader) != self || first_.word(at + kSibling) != sibling ||
                first_.word(at + kSibling + 8) != sibling) {
                continue;
            }
            if (found) return std::nullopt;
            found = at;
        }
        return found;
    }

    bool is_leader(const Sample& task) const {
        return task.word(family_ + kGroupLeader) == task.address.value;
    }

    // The ring through the first task in which every node is in a process, and in which the
    // children of the first task (init and kthreadd) are.
    std::optional<std::uint32_t> find_task_list() {
        std::optional<std::uint32_t> found;
        const GuestVirt child{first_.word(family_ + kChildren) - family_ - kSibling};
        for (std::uint32_t at = 0; at + 16 <= kMaxTaskBytes; at += 8) {
            const GuestVirt head = first_.address + at;
            if (first_.word(at) == head.value || first_.word(at) < 0xff00000000000000) continue;
            std::vector<Sample> tasks;
            bool good = true;
            const auto walked = kernel_.walk_list(
                head,
                [&](GuestVirt node) {
                    auto task = sample(node - at);
                    good = task.has_value() && is_leader(*task);
                    if (good) tasks.push_back(std::move(*task));
                    return good && tasks.size() < kMaxSample;
                },
                limits::kMaxTasks);
            const bool has_child = std::ranges::find(tasks, child, &Sample::address) != tasks.end();
            if (!walked.has_value() || !good || !has_child || tasks.size() < kMinSample) continue;
            if (found) return std::nullopt;
            found = at;
            tasks_ = std::move(tasks);
        }
        return found;
    }

    // Right before the family, with or without a stack canary (CONFIG_STACKPROTECTOR) between:
    // 0 in the first task, unique in all, 1 and 2 in its children.
    std::optional<std::uint32_t> find_pid() const {
        std::optional<std::uint32_t> found;
        for (const std::uint32_t back : {8u, 16u}) {
            if (family_ < back) continue;
            const std::uint32_t at = family_ - back;
            std::unordered_set<std::uint32_t> seen;
            const bool good = std::ranges::all_of(tasks_, [&](const Sample& task) {
                const std::uint32_t pid = task.half(at);
                const bool early = task.word(family_) == first_.address.value;
                return pid == task.half(at + 4) && pid != 0 && pid <= kPidMaxLimit &&
                       early == (pid <= 2) && seen.insert(pid).second;
            });
            if (!good || first_.word(at) != 0) continue;
            if (found) return std::nullopt;
            found = at;
        }
        return found;
    }

    const Sample* task_of(std::uint32_t pid_at, std::uint32_t pid) const {
        const auto task = std::ranges::find_if(
            tasks_, [&](const Sample& one) { return one.half(pid_at) == pid; });
        return task == tasks_.end() ? nullptr : &*task;
    }

    // "swapper/0" ("swapper" without SMP) in the first task, "kthreadd" in task 2, text in all.
    std::optional<std::uint32_t> find_comm(std::uint32_t pid) const {
        const Sample* kthreadd = task_of(pid, 2);
        if (!kthreadd) return std::nullopt;
        std::optional<std::uint32_t> found;
        const std::string_view text = as_text(first_.bytes);
        for (std::size_t at = text.find("swapper"); at != std::string_view::npos;
             at = text.find("swapper", at + 1)) {
            if (at + kCommBytes > text.size()) break;
            const std::string_view own = text.substr(at, kCommBytes);
            if (!own.starts_with(std::string_view("swapper/0\0", 10)) &&
                !own.starts_with(std::string_view("swapper\0", 8))) {
                continue;
            }
            if (!as_text(kthreadd->bytes).substr(at).starts_with(std::string_view("kthreadd\0", 9)))
                continue;
            if (found) return std::nullopt;
            found = static_cast<std::uint32_t>(at);
        }
        return found;
    }

    // PF_KTHREAD is set in the first task, in kthreadd and all that it has made, and in no other.
    // (A user process that is a child of kthreadd is a usermode helper, which has exec'ed since.)
    std::optional<std::uint32_t> find_flags(std::uint32_t pid) const {
        const Sample* kthreadd = task_of(pid, 2);
        const Sample* init = task_of(pid, 1);
        if (!kthreadd || !init) return std::nullopt;
        constexpr std::uint32_t kFirstMembers = 128;  // thread_info, __state, stack, usage, flags
        std::optional<std::uint32_t> found;
        for (std::uint32_t at = 0; at < kFirstMembers; at += 4) {
            const auto kernel_thread = [&](const Sample& task) {
                return (task.half(at) & kPfKthread) != 0;
            };
            std::size_t wrong = 0;
            for (const Sample& task : tasks_) {
                const bool made = task.word(family_) == kthreadd->address.value ||
                                  task.address == kthreadd->address;
                wrong += made != kernel_thread(task);
            }
            if (!kernel_thread(first_) || kernel_thread(*init) || wrong * 16 > tasks_.size()) {
                continue;
            }
            if (found) return std::nullopt;
            found = at;
        }
        return found;
    }

    // thread_node is alone on the list in signal_struct for a process of one thread: next and prev
    // lead to a head that leads back. The pointer from which that head is equally far in every task
    // is `signal`.
    void find_threads() {
        std::optional<std::uint32_t> node_at, signal_at, head_at;
        for (std::uint32_t at = family_ + kGroupLeader + 8; at < family_ + 512; at += 8) {
            std::vector<std::pair<const Sample*, std::uint64_t>> heads;
            for (const Sample& task : tasks_) {
                const std::uint64_t head = task.word(at), own = task.address.value + at;
                if (head != task.word(at + 8) || head == own) continue;
                const auto back = kernel_.memory().read<std::uint64_t>(GuestVirt{head});
                const auto before = kernel_.memory().read<std::uint64_t>(GuestVirt{head} + 8);
                if (back.has_value() && *back == own && before.has_value() && *before == own) {
                    heads.emplace_back(&task, head);
                }
            }
            if (heads.size() * 2 < tasks_.size() || heads.size() < kMinSample) continue;
            for (std::uint32_t signal = 0; signal < kMaxTaskBytes; signal += 8) {
                const std::uint64_t distance = heads[0].second - heads[0].first->word(signal);
                if (distance == 0 || distance > 64) continue;
                const bool same = std::ranges::all_of(heads, [&](const auto& one) {
                    return one.second - one.first->word(signal) == distance;
                });
                if (!same) continue;
                if (node_at) return;  // two places: neither is believed
                node_at = at;
                signal_at = signal;
                head_at = static_cast<std::uint32_t>(distance);
            }
        }
        if (!node_at) return;
        add("thread_node", *node_at, 16);
        add("signal", *signal_at, 8);
        add_to("signal_struct", "thread_head", *head_at, 16);
    }

    Kernel& kernel_;
    Sample first_;
    std::vector<Sample> tasks_;
    std::uint32_t family_ = 0;
    std::map<std::string, Field, std::less<>> found_;
};

}  // namespace

Result<std::map<std::string, Field, std::less<>>> derive_task_layout(Kernel& kernel) {
    return Derivation(kernel).run();
}

}  // namespace underseer::guest_linux
