#include "detect/snapshot.h"

namespace underseer::detect {

Snapshot::Snapshot(guest_linux::Guest* guest) : guest_(guest) {
    guest_->new_epoch();
}

const guest_linux::Listing<event::Task>& Snapshot::tasks() {
    if (!tasks_) {
        tasks_ = guest_->tasks();
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
