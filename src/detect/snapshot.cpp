#include "detect/snapshot.h"

namespace underseer::detect {

namespace {

bool has_ended(const event::Task& task) {
    return task.state == "Z" || task.state == "X";
}

// A process whose first thread has ended goes on with the others: it is shown as one of them is,
// under its own number. Else a program could withdraw from every check of processes by that.
void show_by_living_threads(std::vector<event::Task>& tasks) {
    std::unordered_map<std::uint32_t, event::Task*> ended;  // by number
    for (event::Task& task : tasks) {
        if (task.is_process() && has_ended(task)) ended.emplace(task.pid, &task);
    }
    if (ended.empty()) return;
    for (const event::Task& thread : tasks) {
        const auto found = ended.find(thread.tgid);
        if (found == ended.end() || thread.is_process() || has_ended(thread)) continue;
        event::Task shown = thread;
        shown.pid = thread.tgid;
        shown.start_time = found->second->start_time;
        *found->second = std::move(shown);
        ended.erase(found);
    }
}

template <typename T, typename Read>
const T& once(std::optional<T>& kept, Read&& read) {
    if (!kept) kept.emplace(read());
    return *kept;
}

}  // namespace

Snapshot::Snapshot(guest_linux::Guest* guest, Turn turn) : guest_(guest), turn_(turn) {
    guest_->new_epoch();
}

const guest_linux::Listing<event::Task>& Snapshot::tasks() {
    if (!tasks_) {
        tasks_ = is_partial() ? guest_->tasks_since(changed_) : guest_->tasks_to_remember();
        show_by_living_threads(tasks_->items);
        for (const event::Task& task : tasks_->items) {
            if (task.is_process()) processes_.emplace(task.pid, &task);
        }
    }
    return *tasks_;
}

const Result<guest_linux::CodeMap>& Snapshot::code() {
    return once(code_, [&] { return guest_->code_map(); });
}

const Result<guest_linux::WaysOut>& Snapshot::ways_out_of_code() {
    return once(ways_out_, [&]() -> Result<guest_linux::WaysOut> {
        if (!code().has_value()) return fail(code().error());
        return guest_->ways_out_of_code(*code());
    });
}

const Result<guest_linux::WaysOut>& Snapshot::ways_out_of_constants() {
    return once(constant_ways_out_, [&]() -> Result<guest_linux::WaysOut> {
        if (!code().has_value()) return fail(code().error());
        return guest_->pointers_out_of_constants(*code());
    });
}

const Result<guest_linux::CodeComparison>& Snapshot::altered_code() {
    return once(altered_, [&]() -> Result<guest_linux::CodeComparison> {
        if (!code().has_value()) return fail(code().error());
        return guest_->compare_code(*code());
    });
}

const Result<guest_linux::CodeComparison>* Snapshot::code_unlike_built() {
    return code_unlike_known(/*is_seen=*/false);
}

const Result<guest_linux::CodeComparison>* Snapshot::code_unlike_first_seen() {
    return code_unlike_known(/*is_seen=*/true);
}

const Result<guest_linux::CodeComparison>* Snapshot::code_unlike_known(bool is_seen) {
    if (!guest_->knows_built() || guest_->built_is_seen() != is_seen) return nullptr;
    return &once(unlike_known_, [&]() -> Result<guest_linux::CodeComparison> {
        if (!code().has_value()) return fail(code().error());
        return guest_->compare_built(*code());
    });
}

const Result<guest_linux::BpfObjects>& Snapshot::bpf() {
    return once(bpf_, [&] { return guest_->bpf(); });
}

const guest_linux::DispatchReport& Snapshot::system_calls() {
    return once(system_calls_, [&] {
        guest_linux::DispatchReport gates = guest_->system_calls();
        // Tracers may call at the begin of the kernel's switch as of any function, and probes be
        // anywhere in it: whom these lead to is judged where they are registered (hooks()).
        std::erase_if(gates.misdirected, [&](const guest_linux::Misdirection& one) {
            using Kind = guest_linux::CodeOwner::Kind;
            if (!code().has_value()) return false;
            const auto owner = code()->owner_of(one.target);
            return owner && (owner->kind == Kind::kprobes ||
                             (one.is_trace_site &&
                              (owner->kind == Kind::ftrace || owner->kind == Kind::bpf)));
        });
        return gates;
    });
}

const guest_linux::BindingList& Snapshot::bindings() {
    return once(bindings_, [&] { return guest_->bindings(); });
}

const guest_linux::HookList& Snapshot::hooks() {
    return once(hooks_, [&] { return guest_->hooks(); });
}

const event::Task* Snapshot::process(std::uint32_t pid) {
    tasks();
    const auto found = processes_.find(pid);
    return found == processes_.end() ? nullptr : found->second;
}

}  // namespace underseer::detect
