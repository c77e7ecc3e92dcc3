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

}  // namespace

Snapshot::Snapshot(guest_linux::Guest* guest) : guest_(guest) {
    guest_->new_epoch();
}

const guest_linux::Listing<event::Task>& Snapshot::tasks() {
    if (!tasks_) {
        tasks_ = guest_->tasks();
        show_by_living_threads(tasks_->items);
        for (const event::Task& task : tasks_->items) {
            if (task.is_process()) processes_.emplace(task.pid, &task);
        }
    }
    return *tasks_;
}

const Result<guest_linux::CodeMap>& Snapshot::code() {
    if (!code_) code_ = guest_->code_map();
    return *code_;
}

const event::Task* Snapshot::process(std::uint32_t pid) {
    tasks();
    const auto found = processes_.find(pid);
    return found == processes_.end() ? nullptr : found->second;
}

}  // namespace underseer::detect
