#include "detect/event_rules/event_rules.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>
#include <span>
#include <unordered_map>
#include <unordered_set>

#include "base/counted.h"
#include "base/limits.h"
#include "detect/confirmed_check.h"
#include "detect/event_rules/events.h"
#include "detect/process_report.h"
#include "guest_linux/task_views.h"
#include "guest_linux/tasks.h"

namespace underseer::detect {

namespace {

using sigma::Category;
using sigma::Field;

// Findings of one guest that are kept of each severity, so that many that say little take nobody's
// place that says more; a report tells a hundred.
constexpr std::int64_t kMaxKeptFindings = 1000;
constexpr std::size_t kSeverities =
    static_cast<std::size_t>(last_enumerator(event::Severity{})) + 1;
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
        count(rules_.processes_), count(rules_.connections_), count(rules_.modules_);
        const auto listed = list_tasks();
        if (!listed.has_value()) {
            report_.outcome = event::Outcome::unavailable;
            report_.reason = listed.error().to_text();
            return std::move(report_);
        }
        look_at(Category::process_creation, Kind::process_start, &Look::look_at_processes);
        look_at(Category::network_connection, Kind::connection, &Look::look_at_connections);
        look_at(Category::driver_load, Kind::module_load, &Look::look_at_modules);
        tell();
        finish();
        return std::move(report_);
    }

  private:
    using Kind = event::ActivityKind;

    void look_at(Category category, Kind kind, void (Look::*look)()) {
        Logged& logged = rules_.logged_[static_cast<std::size_t>(kind)];
        const bool is_looked_at = logged.wanted || rules_.matcher_.judges(category);
        is_first_ = !logged.begun;
        is_listed_ = true;
        if (is_looked_at) (this->*look)();
        // As long as there was no list, what there is when it comes was there before.
        logged.begun = is_looked_at && (logged.begun || is_listed_);
    }

    void log_once(Kind kind, const sigma::Event& event, Judgement& kept,
                  std::uint64_t start_time = 0) {
        const Logged& logged = rules_.logged_[static_cast<std::size_t>(kind)];
        const bool is_known = std::exchange(kept.is_logged, true);
        if (is_known || !logged.wanted) return;
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
    void count(const Judged<Key>& judged) {
        for (const auto& [key, judgement] : judged) count(judgement, 1);
    }
    void count(const Judgement& judgement, int times) {
        for (const event::Finding& finding : judgement.findings) {
            kept_[static_cast<std::size_t>(finding.severity)] += times;
        }
    }

    Result<void> list_tasks() {
        TRY(snapshot_.kernel().require({members_.pid, members_.tgid}));
        std::unordered_set<GuestVirt> seen;
        for (const guest_linux::TaskViewResult& view : snapshot_.guest().task_views()) {
            note_gap(view);
            for (const GuestVirt address : view.tasks) {
                if (seen.insert(address).second) add_task(address);
            }
        }
        if (tasks_.empty()) return fail(Code::unavailable, "no task of the guest could be read");
        return {};
    }

    // Two views are what lists processes and threads; the others compare.
    void note_gap(const guest_linux::TaskViewResult& view) {
        using guest_linux::TaskView;
        const bool lists = view.view == TaskView::task_list || view.view == TaskView::thread_list;
        if (!lists || !view.gap) return;
        std::string text = fmt::format("{}: {}", to_string(view.view), *view.gap);
        add_gap(report_, text);
        if (view.broken) doubt_ = std::move(text);
    }

    void add_task(GuestVirt address) {
        auto task = read_listed(address);
        if (!task.has_value()) {
            return miss(task.error(), add_gap);
        }
        by_pid_.emplace(task->pid, tasks_.size());
        if (task->pid != task->tgid) threads_.emplace(task->tgid, tasks_.size());
        tasks_.push_back(*task);
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
        const auto [begin, end] = threads_.equal_range(listed.pid);
        for (auto thread = begin; thread != end; ++thread) {
            auto living = snapshot_.guest().task(tasks_[thread->second].address);
            if (!living.has_value() || living->state == "Z" || living->state == "X") continue;
            living->pid = listed.pid;
            living->start_time = task.start_time;
            return living;
        }
        return task;
    }

    // Of this look. Stands until the next event_of().
    Result<const event::Task*> process(const Listed& listed) {
        auto known = read_.find(listed.address.value);
        if (known == read_.end()) {
            auto read = read_process(listed);
            if (read.has_value()) text_bytes_ += bytes_of(*read);
            known = read_.emplace(listed.address.value, std::move(read)).first;
        }
        if (!known->second.has_value()) return fail(known->second.error());
        return &*known->second;
    }

    static std::size_t bytes_of(const event::Task& task) {
        std::size_t bytes = sizeof task;
        for (const auto* text : {&task.exe, &task.cwd, &task.root, &task.cgroup}) {
            if (text->available()) bytes += text->value().size();
        }
        if (!task.argv.available()) return bytes;
        for (const std::string& text : task.argv.value()) bytes += text.size() + sizeof text;
        return bytes;
    }

    Result<sigma::Event> event_of(const Listed& listed) {
        // What a guest can fork has no bound, and each may have a long command line.
        if (text_bytes_ > limits::kMaxTaskTextBytes) forget_processes();
        const event::Task* task = TRY(process(listed));
        const auto at = by_pid_.find(task->ppid.value_or(0));
        const event::Task* parent = nullptr;
        if (at != by_pid_.end() && at->first != 0) {
            const auto read = process(tasks_[at->second]);
            if (read.has_value()) {
                parent = *read;
            } else if (read.error().code == Code::limit) {
                return fail(read.error());
            }
        }
        return event_rules::process_event(*task, parent);
    }

    void forget_processes() {
        read_.clear();
        text_bytes_ = 0;
    }

    // Memory that is live is torn, and a process may just have become another program: what was
    // seen is told when it is there a second time.
    void look_again() {
        snapshot_.kernel().forget();
        forget_processes();
    }

    void look_at_processes() {
        Judged<Run> now;
        std::size_t judged = 0, missed = 0;
        for (const Listed& listed : tasks_) {
            if (listed.of_kernel || listed.pid != listed.tgid) continue;
            const bool is_judged =
                judge_once(rules_.processes_, now, listed.run, [&](Judgement& kept) {
                    return judge_process(listed, kept).context(fmt::format("pid {}", listed.pid));
                });
            const Judgement& known = now.at(listed.run);
            if (!is_judged) ++missed;
            if ((is_judged && !known.has_ended) || !known.findings.empty()) ++judged;
        }
        if (missed > 0 && judged == 0) {
            doubt_ = "no process could be read well enough to be judged";
        }
        rules_.processes_ = std::move(now);
    }

    Result<void> judge_process(const Listed& listed, Judgement& kept) {
        const sigma::Event event = TRY(event_of(listed));
        kept.has_ended = event[Field::image].state == sigma::Value::State::absent;
        if (kept.has_ended) {
            kept.findings.clear();
            kept.is_settled = true;
            return {};
        }
        // execve() counts before it lays out the arguments: they may come yet, and then are judged.
        const bool is_complete = !may_get_arguments(event);
        const Opinion opinion = judge(is_complete ? event : without_arguments(event));
        // Where a kernel does not tell one from the next, each would be told in every look.
        if (is_complete && listed.is_certain) {
            log_once(Kind::process_start, event, kept, listed.run.start_time);
        }
        if (!says_the_same(opinion, kept)) {
            look_again();
            const sigma::Event again = TRY(event_of(listed));
            if (again.values != event.values) {
                return fail(Code::unavailable, "it changed while it was looked at");
            }
        }
        // As the other checks of processes have it.
        const std::string key = fmt::format("{}:{:x}", listed.pid, listed.address.value);
        kept.findings.clear();
        for (const sigma::Rule* rule : opinion.rules) {
            event::Finding& finding =
                kept.findings.emplace_back(finding_of(*rule, event, subject_of(event), key));
            finding.subject_kind = "process";
            finding.pid = listed.pid;
        }
        kept.is_settled = is_complete && listed.is_certain;
        return opinion.settle(kept);
    }

    static bool may_get_arguments(const sigma::Event& event) {
        const sigma::Value& arguments = event[Field::command_line];
        return arguments.state == sigma::Value::State::known && arguments.text.empty();
    }
    static sigma::Event without_arguments(sigma::Event event) {
        event[Field::command_line] = sigma::Value::unknown();
        return event;
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
        auto sockets = TRY(snapshot_.guest().sockets().context("sockets"));
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
        for (event::Socket& socket : sockets.items) {
            if (!event_rules::is_connection(socket)) continue;
            std::optional<bool> initiated;
            if (socket.type == "tcp") {
                initiated = !served.contains({socket.net_namespace, socket.local_port});
            }
            const auto owners = std::exchange(socket.owner_pids, {});
            for (const std::uint32_t pid :
                 std::span(owners).first(std::min(owners.size(), kMaxHolders))) {
                const auto listed = by_pid_.find(pid);
                if (listed == by_pid_.end()) continue;  // it came since: the next look's
                found.emplace(Connection{tasks_[listed->second].address.value, pid, socket.address,
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
        if (!connections.has_value()) return miss_list(connections.error());
        Judged<Connection> now;
        std::vector<Connection> found;
        for (const auto& [key, seen] : *connections) {
            judge_once(rules_.connections_, now, key, [&](Judgement& kept) {
                return judge_connection(key, seen, kept, found)
                    .context(fmt::format("pid {} to {}", seen.pid, far_end(seen.socket)));
            });
        }
        keep_what_is_there(found, now, [&] { return list_connections(); });
        rules_.connections_ = std::move(now);
    }

    // Those of one process follow each other.
    Result<const sigma::Event*> holder_of(const Listed& listed) {
        if (holder_.first != listed.address) {
            holder_.second = TRY(event_of(listed));
            holder_.first = listed.address;
        }
        return &holder_.second;
    }

    Result<void> judge_connection(const Connection& key, const SeenConnection& seen,
                                  Judgement& kept, std::vector<Connection>& found) {
        const sigma::Event* holder = TRY(holder_of(tasks_[by_pid_.at(seen.pid)]));
        const sigma::Event event =
            event_rules::connection_event(*holder, seen.socket, seen.initiated);
        const Opinion opinion = judge(event);
        log_once(Kind::connection, event, kept);
        if (!says_the_same(opinion, kept)) found.push_back(key);
        kept.findings.clear();
        for (const sigma::Rule* rule : opinion.rules) {
            event::Finding& finding = kept.findings.emplace_back(finding_of(
                *rule, event, fmt::format("{} to {}", subject_of(event), far_end(seen.socket)),
                fmt::format("{}:{:x}:{:x}:{}", key.pid, key.task, key.socket, key.ends)));
            finding.subject_kind = "connection";
            finding.pid = seen.pid;
        }
        kept.is_settled = true;
        return opinion.settle(kept);
    }

    using Modules = std::map<Module, event::Module>;

    Result<Modules> list_modules() {
        auto modules = TRY(snapshot_.guest().modules().context("modules"));
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
        if (!modules.has_value()) return miss_list(modules.error());
        Judged<Module> now;
        std::vector<Module> found;
        for (const auto& [key, module] : *modules) {
            judge_once(rules_.modules_, now, key, [&](Judgement& kept) {
                return judge_module(key, module, kept, found).context(module.name);
            });
        }
        keep_what_is_there(found, now, [&] { return list_modules(); });
        rules_.modules_ = std::move(now);
    }

    Result<void> judge_module(const Module& key, const event::Module& module, Judgement& kept,
                              std::vector<Module>& found) {
        const sigma::Event event = event_rules::module_event(module);
        const Opinion opinion = judge(event);
        log_once(Kind::module_load, event, kept);
        if (!says_the_same(opinion, kept)) found.push_back(key);
        kept.findings.clear();
        for (const sigma::Rule* rule : opinion.rules) {
            kept.findings.push_back(finding_of(
                *rule, event, module.name, fmt::format("{:x}:{}", module.address, module.name)));
            kept.findings.back().subject_kind = "module";
        }
        kept.is_settled = true;
        return opinion.settle(kept);
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

    // What the rules say of an event.
    struct Opinion {
        std::vector<const sigma::Rule*> rules;  // that hold
        std::optional<Error> lacking;           // why there may be more

        Result<void> settle(Judgement& kept) const {
            if (!lacking) return {};
            kept.is_settled = false;
            return fail(*lacking);
        }
    };

    // What is settled holds for as long as it is there; what is not is judged, and where that
    // cannot be done is as it was: false then.
    template <typename Key, typename Judge>
    bool judge_once(Judged<Key>& before, Judged<Key>& now, const Key& key, Judge&& judge) {
        ++report_.coverage.looked_at;
        Judgement& kept = now[key];
        if (auto known = before.extract(key)) kept = std::move(known.mapped());
        if (is_first_) kept.is_logged = true;
        if (kept.is_settled) return true;
        // It is not even read, and has its turn in the next look.
        if (work_ > limits::kMaxSigmaWorkOfLook) {
            ++left_over_;
            return false;
        }
        count(kept, -1);
        const Result<void> judged = judge(kept);
        count(kept, 1);
        if (judged.has_value()) return true;
        miss(judged.error());
        return false;
    }

    Opinion judge(const sigma::Event& event) {
        // One by which nothing is judged is read to be logged.
        work_ += (event.size_bytes() + 1) * (rules_.matcher_.patterns(event.category) + 1);
        const sigma::Matcher::Verdict verdict = rules_.matcher_.judge(event);
        Opinion opinion;
        if (verdict.undecided > 0) {
            opinion.lacking = {Code::unavailable, 0,
                               fmt::format("what {} ask for could not be read",
                                           counted(verdict.undecided, "rule", "rules"))};
        }
        auto kept = kept_;
        for (const sigma::Rule* rule : verdict.rules) {
            if (kept[static_cast<std::size_t>(rule->severity)]++ < kMaxKeptFindings) {
                opinion.rules.push_back(rule);
            } else {
                opinion.lacking = {Code::limit, 0,
                                   fmt::format("more than {} findings by rules of severity {}",
                                               kMaxKeptFindings, to_string(rule->severity))};
            }
        }
        return opinion;
    }

    // Then it was seen a second time, and needs no other look.
    static bool says_the_same(const Opinion& opinion, const Judgement& kept) {
        return std::ranges::equal(opinion.rules, kept.findings, {}, &sigma::Rule::name,
                                  &event::Finding::rule);
    }

    // What was judged before is carried over by the lists alone: what cannot be judged now hides
    // none of it (add_limit), but what cannot be listed may (add_gap).
    void miss(const Error& why, void (*add)(event::CheckReport&, std::string) = add_limit) {
        ++report_.coverage.unreadable;
        std::string text = why.to_text();
        add(report_, text);
        // No honest guest is too much to be looked at.
        if (why.code == Code::limit) doubt_ = std::move(text);
    }

    // What cannot be listed at all is not clean.
    void miss_list(const Error& why) {
        miss(why, add_gap);
        doubt_ = why.to_text();
        is_listed_ = false;
    }

    // The gravest are told, and of those always the same.
    void tell() {
        std::vector<const event::Finding*> all;
        const auto gather = [&](const auto& judged) {
            for (const auto& [key, judgement] : judged) {
                for (const event::Finding& finding : judgement.findings) all.push_back(&finding);
            }
        };
        gather(rules_.processes_), gather(rules_.connections_), gather(rules_.modules_);
        std::ranges::stable_sort(all, std::greater<>(), &event::Finding::severity);
        if (all.size() > limits::kMaxFindingsOfReport) {
            add_gap(report_, fmt::format("{} findings: the {} gravest are told", all.size(),
                                         limits::kMaxFindingsOfReport));
            all.resize(limits::kMaxFindingsOfReport);
        }
        for (const event::Finding* finding : all) add_finding(report_, *finding);
    }

    void finish() {
        if (left_over_ > 0) {
            ++report_.coverage.unreadable;
            doubt_ = fmt::format(
                "there is more that is new than one look can judge: {} left for the next",
                counted(left_over_, "thing is", "things are"));
        }
        settle_doubt(report_, doubt_);
        if (report_.outcome == event::Outcome::unavailable) report_.findings.clear();
        if (report_.outcome == event::Outcome::finding) report_.reason.clear();
    }

    EventRules& rules_;
    Snapshot& snapshot_;
    Members members_;
    event::CheckReport report_;
    std::vector<Listed> tasks_;
    std::unordered_map<std::uint32_t, std::size_t> by_pid_;        // in tasks_
    std::unordered_multimap<std::uint32_t, std::size_t> threads_;  // by their process, in tasks_
    std::unordered_map<std::uint64_t, Result<event::Task>> read_;  // by address
    std::size_t text_bytes_ = 0;                                   // of their arguments
    std::pair<GuestVirt, sigma::Event> holder_;
    std::uint64_t left_over_ = 0;
    bool is_first_ = false;  // what is there was there before
    bool is_listed_ = true;  // what is looked at just now could be listed
    std::string doubt_;
    std::uint64_t work_ = 0;
    std::array<std::int64_t, kSeverities> kept_{};  // findings, by severity
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
