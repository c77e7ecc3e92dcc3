#include "detect/event_rules/event_rules.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>
#include <unordered_map>

#include "base/counted.h"
#include "base/limits.h"
#include "detect/confirmed_check.h"
#include "detect/event_rules/events.h"
#include "detect/process_report.h"
#include "guest_linux/tasks.h"

namespace underseer::detect {

namespace {

using sigma::Category;
using sigma::Field;

// Of Run::execs: such a program is judged again in the next look.
constexpr std::uint64_t kUnsettled = ~0ull;
// Findings of one guest that are kept; a report tells a hundred.
constexpr std::size_t kMaxKeptFindings = 1000;
// A socket that a server's children have inherited.
constexpr std::size_t kMaxHolders = 16;
// Of one finding, all that is shown of an event together: a report is one frame.
constexpr std::size_t kMaxShownBytes = 4096;

// The members of a task_struct by which a program that runs is told from another.
struct Members {
    guest_linux::Field pid, tgid, flags, start_time, execs;

    explicit Members(const guest_linux::Kernel& kernel)
        : pid(kernel.field("task_struct", "pid")),
          tgid(kernel.field("task_struct", "tgid")),
          flags(kernel.field("task_struct", "flags")),
          start_time(kernel.field("task_struct", {"start_boottime", "real_start_time"})),
          // Counted by begin_new_exec() (fs/exec.c).
          execs(kernel.field("task_struct", "self_exec_id")) {}
};

std::string cut(const std::string& text, std::size_t bytes) {
    return text.size() <= bytes ? text : text.substr(0, bytes) + " ..";
}

event::Finding finding_of(const sigma::Rule& rule, const sigma::Event& event, std::string subject,
                          std::string key) {
    event::Finding finding;
    finding.rule = rule.name;
    finding.title = rule.title;
    finding.severity = rule.severity;
    finding.confidence = EventRules::kConfidence;
    finding.technique = rule.technique;
    finding.subject = std::move(subject);
    finding.key = std::move(key);
    // What it rests on, then what a person asks first.
    std::vector<Field> shown = sigma::fields_of(rule);
    for (const Field field : {Field::image, Field::command_line, Field::user, Field::parent_image,
                              Field::destination_ip, Field::destination_port, Field::container_id,
                              Field::image_loaded}) {
        if (std::ranges::find(shown, field) == shown.end()) shown.push_back(field);
    }
    std::size_t left = kMaxShownBytes;
    for (const Field field : shown) {
        const sigma::Value& value = event[field];
        if (value.state != sigma::Value::State::known || left == 0) continue;
        std::string text = cut(value.text, std::min(left, limits::kMaxEvidenceTextBytes));
        left -= std::min(left, text.size());
        finding.evidence.push_back({std::string(sigma::name_of(field)), std::move(text), 0, {}});
    }
    finding.advice = cut(rule.description, limits::kMaxSigmaTextBytes);
    if (!rule.false_positives.empty()) {
        finding.advice +=
            fmt::format("{}What else looks like it: {}.", finding.advice.empty() ? "" : " ",
                        cut(fmt::format("{}", fmt::join(rule.false_positives, "; ")),
                            limits::kMaxSigmaTextBytes));
    }
    return finding;
}

}  // namespace

// One look. What is known keeps what was found about it; what is new is read and judged.
class EventRules::Look {
  public:
    Look(EventRules& rules, Snapshot& snapshot)
        : rules_(rules), snapshot_(snapshot), members_(snapshot.kernel()) {}

    event::CheckReport report() {
        report_.check = kName;
        report_.outcome = event::Outcome::clean;
        kept_ = count(rules_.processes_) + count(rules_.connections_) + count(rules_.modules_);
        const auto listed = list_tasks();
        if (!listed.has_value()) {
            report_.outcome = event::Outcome::unavailable;
            report_.reason = listed.error().to_text();
            return std::move(report_);
        }
        look_at(Category::process_creation, Kind::process_start, &Look::look_at_processes);
        look_at(Category::network_connection, Kind::connection, &Look::look_at_connections);
        look_at(Category::driver_load, Kind::module_load, &Look::look_at_modules);
        tell(rules_.processes_);
        tell(rules_.connections_);
        tell(rules_.modules_);
        finish();
        return std::move(report_);
    }

  private:
    using Kind = event::ActivityKind;

    void look_at(Category category, Kind kind, void (Look::*look)()) {
        Logged& logged = rules_.logged_[static_cast<std::size_t>(kind)];
        const bool is_looked_at = logged.wanted || rules_.matcher_.judges(category);
        if (is_looked_at) (this->*look)();
        logged.begun = is_looked_at;
    }

    void log(Kind kind, const sigma::Event& event, std::uint64_t start_time = 0) {
        const Logged& logged = rules_.logged_[static_cast<std::size_t>(kind)];
        if (!logged.wanted || !logged.begun) return;
        event::ActivityReport& report = rules_.activities_;
        if (report.activities.size() == limits::kMaxActivitiesOfReport) {
            ++report.untold;
            return;
        }
        report.activities.push_back(event_rules::activity_of(kind, event));
        report.activities.back().start_time = start_time;
    }

    struct Listed {
        GuestVirt address;
        std::uint32_t pid = 0, tgid = 0;
        bool of_kernel = false;
        Run run;
        bool is_certain = false;  // that it is the same as one before
    };

    template <typename Key>
    static std::size_t count(const Judged<Key>& judged) {
        std::size_t findings = 0;
        for (const auto& [key, found] : judged) findings += found.size();
        return findings;
    }

    Result<void> list_tasks() {
        TRY(snapshot_.kernel().require({members_.pid, members_.tgid}));
        for (const GuestVirt address : snapshot_.guest().task_addresses()) {
            auto task = read_listed(address);
            if (task.has_value()) {
                by_pid_.emplace(task->pid, tasks_.size());
                tasks_.push_back(*task);
            } else {
                ++report_.coverage.unreadable;
                add_gap(report_, task.error().to_text());
            }
        }
        if (tasks_.empty()) return fail(Code::unavailable, "no task of the guest could be read");
        return {};
    }

    Result<Listed> read_listed(GuestVirt address) {
        guest_linux::Kernel& kernel = snapshot_.kernel();
        Listed task{.address = address};
        task.pid = static_cast<std::uint32_t>(TRY(kernel.read(address, members_.pid)));
        task.tgid = static_cast<std::uint32_t>(TRY(kernel.read(address, members_.tgid)));
        const auto flags = kernel.read(address, members_.flags);
        task.of_kernel = flags.has_value() && (*flags & guest_linux::kPfKthread) != 0;
        const auto start = kernel.read(address, members_.start_time);
        const auto execs = kernel.read(address, members_.execs);
        task.run = {address.value, task.pid, start.has_value() ? *start : 0,
                    execs.has_value() ? *execs : 0};
        // Where a kernel does not tell that, each look takes all for new.
        task.is_certain = start.has_value() && execs.has_value();
        return task;
    }

    // Whoever it is shown by: a process whose first thread has ended goes on with the others.
    Result<event::Task> read_process(const Listed& listed) {
        auto task = TRY(snapshot_.guest().task(listed.address));
        if (task.state != "Z" && task.state != "X") return task;
        for (const Listed& thread : tasks_) {
            if (thread.tgid != listed.pid || thread.pid == listed.pid) continue;
            auto living = snapshot_.guest().task(thread.address);
            if (!living.has_value() || living->state == "Z" || living->state == "X") continue;
            living->pid = listed.pid;
            living->start_time = task.start_time;
            return living;
        }
        return task;
    }

    // Of this look; null where it cannot be read.
    const event::Task* process(const Listed& listed) {
        const auto known = read_.find(listed.address.value);
        if (known != read_.end()) return known->second ? &*known->second : nullptr;
        auto read = read_process(listed);
        auto& kept = read_[listed.address.value];
        if (read.has_value()) kept = std::move(*read);
        return kept ? &*kept : nullptr;
    }

    Result<sigma::Event> event_of(const Listed& listed) {
        const event::Task* task = process(listed);
        if (task == nullptr) return fail(Code::unavailable, "it cannot be read");
        const auto parent = by_pid_.find(task->ppid.value_or(0));
        const bool has_parent = parent != by_pid_.end() && parent->first != 0;
        return event_rules::process_event(*task,
                                          has_parent ? process(tasks_[parent->second]) : nullptr);
    }

    // Memory that is live is torn, and a process may just have become another program: what was
    // seen is told when it is there a second time.
    void look_again() {
        snapshot_.kernel().forget();
        read_.clear();
    }

    void look_at_processes() {
        Judged<Run> now;
        for (const Listed& listed : tasks_) {
            if (listed.of_kernel || listed.pid != listed.tgid) continue;
            ++report_.coverage.looked_at;
            if (listed.is_certain && carry_over(rules_.processes_, now, listed.run)) continue;
            auto judged = judge_process(listed);
            if (judged.has_value()) {
                now.emplace(judged->run, std::move(judged->findings));
                continue;
            }
            // Of one that cannot be told from another, nothing is carried over: what was found
            // about it may hold yet.
            miss(fmt::format("pid {}", listed.pid), judged.error(),
                 listed.is_certain ? add_limit : add_gap);
        }
        rules_.processes_ = std::move(now);
        rules_.told_unjudged_ = std::move(told_unjudged_);
    }

    struct JudgedProcess {
        Run run;
        std::vector<event::Finding> findings;
    };

    Result<JudgedProcess> judge_process(const Listed& listed) {
        const sigma::Event event = TRY(event_of(listed));
        JudgedProcess judged{.run = listed.run};
        if (event[Field::image].state == sigma::Value::State::absent)
            return judged;  // it has ended
        // execve() counts before it lays out the arguments: they may come yet, and then are judged.
        const sigma::Value& arguments = event[Field::command_line];
        const bool is_complete =
            arguments.state != sigma::Value::State::known || !arguments.text.empty();
        if (!is_complete) judged.run.execs = kUnsettled;
        auto judgement = judge(event);
        // Where a kernel does not tell one from the next, each would be told in every look.
        const bool is_new = listed.is_certain && !rules_.told_unjudged_.contains(listed.run);
        if (is_complete && is_new) log(Kind::process_start, event, listed.run.start_time);
        if (!judgement.has_value()) {
            if (is_complete) told_unjudged_.insert(listed.run);
            return fail(judgement.error());
        }
        const auto verdict = std::move(*judgement);
        if (verdict.rules.empty()) return judged;
        look_again();
        const sigma::Event again = TRY(event_of(listed));
        if (again.values != event.values) {
            return fail(Code::unavailable, "it changed while it was looked at");
        }
        // As the other checks of processes have it.
        const std::string key = fmt::format("{}:{:x}", listed.pid, listed.address.value);
        for (const sigma::Rule* rule : verdict.rules) {
            event::Finding& finding =
                judged.findings.emplace_back(finding_of(*rule, event, subject_of(event), key));
            finding.subject_kind = "process";
            finding.pid = listed.pid;
        }
        return judged;
    }

    static std::string subject_of(const sigma::Event& event) {
        return fmt::format("{} (pid {})", event[Field::comm].text, event[Field::process_id].text);
    }

    struct SeenConnection {
        event::Socket socket;
        std::uint32_t pid = 0;
        std::optional<bool> initiated;
    };
    using Connections = std::map<Connection, SeenConnection>;

    Result<Connections> list_connections() {
        const auto sockets = TRY(snapshot_.guest().sockets());
        if (sockets.unreadable > 0) {
            report_.coverage.unreadable += sockets.unreadable;
            add_gap(report_, "sockets: " + sockets.first_error);
        }
        std::set<std::pair<std::uint32_t, std::uint32_t>> served;  // network namespace, port
        for (const event::Socket& socket : sockets.items) {
            if (socket.type == "tcp" && socket.state == "LISTEN") {
                served.insert({socket.net_namespace, socket.local_port});
            }
        }
        Connections found;
        for (const event::Socket& socket : sockets.items) {
            if (!event_rules::is_connection(socket)) continue;
            std::optional<bool> initiated;
            if (socket.type == "tcp") {
                initiated = !served.contains({socket.net_namespace, socket.local_port});
            }
            const auto holders = std::min(socket.owner_pids.size(), kMaxHolders);
            for (std::size_t i = 0; i < holders; ++i) {
                const std::uint32_t pid = socket.owner_pids[i];
                const auto listed = by_pid_.find(pid);
                if (listed == by_pid_.end()) continue;  // it came since: the next look's
                found.emplace(Connection{socket.address, tasks_[listed->second].address.value, pid,
                                         fmt::format("{}:{}>{}", socket.type, socket.local_port,
                                                     far_end(socket))},
                              SeenConnection{socket, pid, initiated});
            }
        }
        return found;
    }

    static std::string far_end(const event::Socket& socket) {
        return fmt::format("{}:{}", socket.remote_address, socket.remote_port);
    }

    void look_at_connections() {
        const auto connections = list_connections();
        if (!connections.has_value()) return miss("sockets", connections.error(), add_gap);
        Judged<Connection> now;
        std::vector<Connection> found;
        for (const auto& [key, seen] : *connections) {
            ++report_.coverage.looked_at;
            if (carry_over(rules_.connections_, now, key)) continue;
            auto judged = judge_connection(key, seen);
            if (!judged.has_value()) {
                miss(fmt::format("pid {} to {}", seen.pid, far_end(seen.socket)), judged.error());
                continue;
            }
            if (!judged->empty()) found.push_back(key);
            now.emplace(key, std::move(*judged));
        }
        keep_what_is_there(found, now, [&] { return list_connections(); });
        rules_.connections_ = std::move(now);
    }

    Result<std::vector<event::Finding>> judge_connection(const Connection& key,
                                                         const SeenConnection& seen) {
        const Listed& holder = tasks_[by_pid_.at(seen.pid)];
        const sigma::Event event =
            event_rules::connection_event(TRY(event_of(holder)), seen.socket, seen.initiated);
        const auto verdict = TRY(judge(event));
        log(Kind::connection, event);
        std::vector<event::Finding> findings;
        for (const sigma::Rule* rule : verdict.rules) {
            event::Finding& finding = findings.emplace_back(finding_of(
                *rule, event, fmt::format("{} to {}", subject_of(event), far_end(seen.socket)),
                fmt::format("{}:{:x}:{:x}:{}", key.pid, key.task, key.socket, key.ends)));
            finding.subject_kind = "connection";
            finding.pid = seen.pid;
        }
        return findings;
    }

    using Modules = std::map<Module, event::Module>;

    Result<Modules> list_modules() {
        auto modules = TRY(snapshot_.guest().modules());
        if (modules.unreadable > 0) {
            report_.coverage.unreadable += modules.unreadable;
            add_gap(report_, "modules: " + modules.first_error);
        }
        Modules found;
        for (event::Module& module : modules.items) {
            Module key{module.address, module.name};
            found.emplace(std::move(key), std::move(module));
        }
        return found;
    }

    void look_at_modules() {
        const auto modules = list_modules();
        if (!modules.has_value()) return miss("modules", modules.error(), add_gap);
        Judged<Module> now;
        std::vector<Module> found;
        for (const auto& [key, module] : *modules) {
            ++report_.coverage.looked_at;
            if (carry_over(rules_.modules_, now, key)) continue;
            const sigma::Event event = event_rules::module_event(module);
            const auto verdict = judge(event);
            if (!verdict.has_value()) {
                miss(module.name, verdict.error());
                continue;
            }
            log(Kind::module_load, event);
            std::vector<event::Finding> findings;
            for (const sigma::Rule* rule : verdict->rules) {
                findings.push_back(finding_of(*rule, event, module.name,
                                              fmt::format("{:x}:{}", module.address, module.name)));
                findings.back().subject_kind = "module";
            }
            if (!findings.empty()) found.push_back(key);
            now.emplace(key, std::move(findings));
        }
        keep_what_is_there(found, now, [&] { return list_modules(); });
        rules_.modules_ = std::move(now);
    }

    // Of what was `found` just now; what is not there a second time is new in the next look.
    template <typename Key, typename List>
    void keep_what_is_there(const std::vector<Key>& found, Judged<Key>& now, List&& list) {
        if (found.empty()) return;
        look_again();
        const auto again = list();
        for (const Key& key : found) {
            if (!again.has_value() || !again->contains(key)) now.erase(key);
        }
    }

    template <typename Key>
    static bool carry_over(Judged<Key>& before, Judged<Key>& now, const Key& key) {
        const auto known = before.find(key);
        if (known == before.end()) return false;
        now.insert(before.extract(known));
        return true;
    }

    // Which rules hold; an error where that is not to be known, so that it is asked again.
    Result<sigma::Matcher::Verdict> judge(const sigma::Event& event) {
        work_ += (event.size_bytes() + 1) * rules_.matcher_.patterns(event.category);
        if (work_ > limits::kMaxSigmaWorkOfLook) {
            return fail(Code::limit, "there is more that is new than one look can judge");
        }
        sigma::Matcher::Verdict verdict = rules_.matcher_.judge(event);
        kept_ += verdict.rules.size();
        if (kept_ > kMaxKeptFindings) {
            return fail(Code::limit,
                        fmt::format("more than {} findings by rules", kMaxKeptFindings));
        }
        if (verdict.rules.empty() && verdict.undecided > 0) {
            return fail(Code::unavailable,
                        fmt::format("what {} ask for could not be read",
                                    counted(verdict.undecided, "rule", "rules")));
        }
        return verdict;
    }

    // What was judged before is carried over by the lists alone: what cannot be judged now hides
    // none of it (add_limit), but what cannot be listed may (add_gap).
    void miss(const std::string& what, const Error& why,
              void (*add)(event::CheckReport&, std::string) = add_limit) {
        ++report_.coverage.unreadable;
        std::string text = fmt::format("{}: {}", what, why.to_text());
        add(report_, text);
        // No honest guest is too much to be looked at.
        if (why.code == Code::limit) doubt_ = std::move(text);
    }

    template <typename Key>
    void tell(const Judged<Key>& judged) {
        for (const auto& [key, found] : judged) {
            for (const event::Finding& finding : found) add_finding(report_, finding);
        }
    }

    void finish() {
        settle_doubt(report_, doubt_);
        auto& findings = report_.findings;
        if (report_.outcome == event::Outcome::unavailable) findings.clear();
        if (report_.outcome == event::Outcome::finding) report_.reason.clear();
        // The gravest are told, and of those always the same.
        std::ranges::stable_sort(findings, std::greater<>(), &event::Finding::severity);
        if (findings.size() <= limits::kMaxFindingsOfReport) return;
        add_gap(report_, fmt::format("{} findings: the {} gravest are told", findings.size(),
                                     limits::kMaxFindingsOfReport));
        findings.resize(limits::kMaxFindingsOfReport);
    }

    EventRules& rules_;
    Snapshot& snapshot_;
    Members members_;
    event::CheckReport report_;
    std::vector<Listed> tasks_;
    std::unordered_map<std::uint32_t, std::size_t> by_pid_;               // in tasks_
    std::unordered_map<std::uint64_t, std::optional<event::Task>> read_;  // by address
    std::set<Run> told_unjudged_;                                         // in this look
    std::string doubt_;
    std::uint64_t work_ = 0;
    std::size_t kept_ = 0;
};

void EventRules::log(const std::vector<event::ActivityKind>& kinds) {
    for (std::size_t i = 0; i < logged_.size(); ++i) {
        logged_[i].wanted =
            std::ranges::find(kinds, static_cast<event::ActivityKind>(i)) != kinds.end();
    }
}

bool EventRules::has_work() const {
    return !matcher_.rules().empty() || std::ranges::any_of(logged_, &Logged::wanted);
}

void EventRules::forget_guest() {
    processes_.clear();
    connections_.clear();
    modules_.clear();
    for (Logged& logged : logged_) logged.begun = false;
}

event::CheckReport EventRules::look(Snapshot& snapshot) {
    return Look(*this, snapshot).report();
}

namespace {

class EventRulesCheck final : public Check {
  public:
    explicit EventRulesCheck(EventRules* rules) : rules_(rules) {}

    void look(Snapshot& snapshot) override {
        done_ = true;
        if (rules_ != nullptr && rules_->has_work()) {
            report_ = rules_->look(snapshot);
            return;
        }
        report_ = {.check = std::string(EventRules::kName),
                   .outcome = event::Outcome::unavailable,
                   .reason =
                       "there are no rules: [rules] in the agent's policy, or "
                       "underseer check --rules, names some"};
    }
    bool done() const override { return done_; }
    std::chrono::milliseconds pause() const override { return std::chrono::milliseconds(0); }
    event::CheckReport report(guest_linux::Guest&) override { return std::move(report_); }

  private:
    EventRules* rules_;
    event::CheckReport report_;
    bool done_ = false;
};

}  // namespace

std::unique_ptr<Check> make_event_rules_check(EventRules* rules) {
    return std::make_unique<EventRulesCheck>(rules);
}

}  // namespace underseer::detect
