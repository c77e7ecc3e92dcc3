#include "agent/check_schedule.h"

#include <algorithm>

#include "detect/check.h"

namespace underseer::agent {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;

void CheckSchedule::follow(const policy::Policy& policy) {
    cpu_percent_ = policy.cpu_percent;
    std::vector<Entry> entries;
    for (const detect::CheckKind& kind : detect::all_checks()) {
        Entry entry{.name = std::string(kind.name)};
        if (const Entry* known = find(entry.name)) entry = *known;
        entry.every = policy.period_of(kind.name, kind.every);
        entries.push_back(std::move(entry));
    }
    entries_ = std::move(entries);
}

void CheckSchedule::begin(Instant when) {
    for (Entry& entry : entries_) entry.due = when;
    paid_at_ = when;
}

std::optional<CheckSchedule::Instant> CheckSchedule::next() const {
    std::optional<Instant> next;
    for (const Entry& entry : entries_) {
        if (entry.every && (!next || entry.due < *next)) next = entry.due;
    }
    if (next) next = std::max(*next, paid_at_);
    return next;
}

std::vector<std::string> CheckSchedule::due(Instant now) const {
    std::vector<std::string> names;
    if (now < paid_at_) return names;
    for (const Entry& entry : entries_) {
        if (entry.every && entry.due <= now + kTogether) names.push_back(entry.name);
    }
    return names;
}

void CheckSchedule::made(const std::vector<std::string>& names, Instant started, nanoseconds cost) {
    for (Entry& entry : entries_) {
        if (std::ranges::find(names, entry.name) == names.end()) continue;
        entry.cost = cost;
        if (entry.every) entry.due = started + *entry.every;
    }
    paid_at_ = started + afforded(cost);
}

std::optional<milliseconds> CheckSchedule::period(const std::string& name) const {
    const Entry* entry = find(name);
    if (entry == nullptr || !entry->every) return std::nullopt;
    return std::max(*entry->every, afforded(entry->cost));
}

milliseconds CheckSchedule::afforded(nanoseconds cost) const {
    return milliseconds(
        static_cast<std::int64_t>(static_cast<double>(cost.count()) / 1e6 / (cpu_percent_ / 100)));
}

const CheckSchedule::Entry* CheckSchedule::find(const std::string& name) const {
    const auto found = std::ranges::find(entries_, name, &Entry::name);
    return found == entries_.end() ? nullptr : &*found;
}

}  // namespace underseer::agent
