#include "agent/check_schedule.h"

#include <algorithm>

#include "detect/check.h"

namespace underseer::agent {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;

void CheckSchedule::follow(const policy::Inspection& inspection) {
    cpu_percent_ = inspection.cpu_percent;
    std::vector<Entry> entries;
    for (const detect::CheckKind& kind : detect::all_checks()) {
        Entry entry{.name = std::string(kind.name)};
        if (const Entry* known = find(entry.name)) entry = *known;
        entry.every = inspection.period_of(kind.name, kind.every);
        entry.signs = kind.signs;
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
        if (!entry.every) continue;
        const Instant due = entry.early ? std::min(entry.due, *entry.early) : entry.due;
        if (!next || due < *next) next = due;
    }
    if (next) next = std::max(*next, paid_at_);
    return next;
}

std::vector<std::string> CheckSchedule::due(Instant now) const {
    std::vector<std::string> names;
    if (now < paid_at_) return names;
    for (const Entry& entry : entries_) {
        const bool is_due = entry.due <= now + kTogether || (entry.early && *entry.early <= now);
        if (entry.every && is_due) names.push_back(entry.name);
    }
    return names;
}

bool CheckSchedule::is_out_of_turn(Instant now) const {
    return std::ranges::none_of(
        entries_, [&](const Entry& entry) { return entry.every && entry.due <= now + kTogether; });
}

void CheckSchedule::made(const std::vector<std::string>& names, Instant started, nanoseconds cost,
                         bool out_of_turn) {
    for (Entry& entry : entries_) {
        if (std::ranges::find(names, entry.name) == names.end()) continue;
        if (!out_of_turn) {
            entry.cost = cost;
            if (entry.every && started > entry.due + kTogether) entry.late += started - entry.due;
            if (entry.every && entry.hurried <= started) entry.due = started + *entry.every;
        }
        // A look that was made for another reason may have come before what the sign was of.
        if (entry.early && *entry.early <= started) entry.early.reset();
        entry.looked = started;
    }
    paid_at_ = std::max(paid_at_, started - kSaves) + afforded(cost);
}

void CheckSchedule::stir(guest_linux::Signs signs, Instant now) {
    for (Entry& entry : entries_) {
        if ((entry.signs & signs) == 0) continue;
        const Instant early = std::max(now + kLookAfterSign, entry.looked + kBetweenLooksForSigns);
        if (!entry.early || early < *entry.early) entry.early = early;
    }
}

void CheckSchedule::hurry(std::span<const std::string_view> names, Instant now) {
    for (Entry& entry : entries_) {
        if (std::ranges::find(names, entry.name) == names.end()) continue;
        entry.due = entry.hurried = now;
    }
    paid_at_ = std::min(paid_at_, now);
}

std::optional<milliseconds> CheckSchedule::period(const std::string& name) const {
    const Entry* entry = find(name);
    if (entry == nullptr || !entry->every) return std::nullopt;
    return std::max(*entry->every, afforded(entry->cost));
}

nanoseconds CheckSchedule::late(const std::string& name) const {
    const Entry* entry = find(name);
    return entry == nullptr ? nanoseconds(0) : entry->late;
}

milliseconds CheckSchedule::afforded(nanoseconds cost) const {
    const double share = std::min(cpu_percent_, bound_percent_);
    const double percent = std::max(share - left_to_others_, share / 2);
    return milliseconds(
        static_cast<std::int64_t>(static_cast<double>(cost.count()) / 1e6 / (percent / 100)));
}

const CheckSchedule::Entry* CheckSchedule::find(const std::string& name) const {
    const auto found = std::ranges::find(entries_, name, &Entry::name);
    return found == entries_.end() ? nullptr : &*found;
}

}  // namespace underseer::agent
