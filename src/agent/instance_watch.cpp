#include "agent/instance_watch.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "agent/introspector.h"
#include "agent/managers.h"
#include "agent/recorder.h"
#include "detect/check.h"
#include "detect/decoy_kernel/decoy_kernel.h"
#include "detect/hidden_process/hidden_process.h"
#include "detect/watches.h"
#include "hypervisor/discover.h"
#include "hypervisor/ram.h"

namespace underseer::agent {

namespace {

using namespace std::chrono_literals;

// Five looks half a second apart, and a guest that makes them slow.
constexpr auto kCheckDeadline = 60s;
// A VM that has just started has no kernel yet; the first check waits a moment, and one that could
// not look comes again sooner than the schedule says.
constexpr auto kFirstCheckAfter = 200ms;
constexpr std::chrono::milliseconds kRetryAfter = 2s;
constexpr auto kBootTime = 60s;
constexpr unsigned kHurriedHearings = 2 * detect::DecoyKernelCheck::kHearings;
constexpr auto kHearingHolds = 3 * ManagerWatch::kAskEvery;
constexpr std::chrono::milliseconds kQuietStart = 10s;
constexpr auto kScanDeadline = 30s;
constexpr std::chrono::milliseconds kScanIdle = 30s;
// A watch in which nothing changes ends after this, and the next one begins.
// The first is short: it says that there is a watch.
constexpr std::chrono::milliseconds kWatchFor = 10s, kFirstWatchFor = 500ms;
constexpr std::chrono::milliseconds kSuspiciousPeriod = 1ms;
// The reports of a watch, in their order, and the checks that judge the like of what they tell.
constexpr std::string_view kWatches[] = {detect::MemoryWatch::kName,
                                         detect::HiddenRunnerWatch::kName};
constexpr std::string_view kOfMemory[] = {"system_calls", "kernel_tables",  "kernel_hooks",
                                          "kernel_code",  "kernel_modules", "helper_programs"};
constexpr std::string_view kOfBaselines[] = {"kernel_code"};
constexpr std::string_view kOfPrograms[] = {"program_integrity"};
constexpr std::string_view kOfRunners[] = {detect::HiddenProcessCheck::kName};

// Whoever may look into a VM may not say what it is judged by.
bool is_agents(Topic topic) {
    switch (topic) {
        case Topic::baseline:
        case Topic::make_baseline:
        case Topic::see_code:
        case Topic::event_rules:
        case Topic::compile_rules:
        case Topic::programs:
        case Topic::evidence:
        case Topic::exact_trace:
            return true;
        default:
            return false;
    }
}

bool is_watch(std::string_view check) {
    return std::ranges::find(kWatches, check) != std::end(kWatches);
}

}  // namespace

std::string_view to_string(WatchState state) {
    switch (state) {
        case WatchState::attaching:
            return "attaching";
        case WatchState::watched:
            return "watched";
        case WatchState::restarting:
            return "restarting";
        case WatchState::excluded:
            return "excluded";
        case WatchState::unreadable:
            return "not introspectable";
    }
    return "unknown";
}

InstanceWatch::InstanceWatch(EventLoop* loop, const policy::Policy* policy, hypervisor::Vm vm,
                             event::Instance instance, Callbacks callbacks)
    : loop_(loop),
      policy_(policy),
      vm_(std::move(vm)),
      callbacks_(std::move(callbacks)),
      baseline_([this] { return worker_.get(); }, baseline_callbacks()),
      programs_(
          [](BaselinePart part) {
              return Question{.topic = Topic::programs, .baseline = std::move(part)};
          },
          [this](const Result<void>& result) { programs_taken(result); }),
      event_rules_([this](BaselinePart part) { return event_rules_question(std::move(part)); },
                   [this](const Result<void>& result) {
                       if (result.has_value()) return;
                       callbacks_.note(*this,
                                       "rules of events are not used: " + result.error().to_text());
                   }),
      seen_since_(std::chrono::steady_clock::now()),
      blind_since_(seen_since_),
      last_search_(seen_since_) {
    status_.instance = std::move(instance);
    status_.pid = static_cast<std::uint32_t>(vm_.pid);
    status_.vm_state = vm_.state;
    status_.kernel_reason = hypervisor::why_no_registers(vm_);
    follow_policy();
}

void InstanceWatch::follow_policy() {
    inspection_ = policy::inspection_of(*policy_, status_.instance);
    monitor_ = policy::monitor_of(*policy_, status_.instance);
    if (callbacks_.event_rules()->empty() && monitor_.events.empty()) {
        inspection_.check_every.insert_or_assign(std::string(detect::EventRules::kName),
                                                 std::nullopt);
    }
    // Without any it could only say so, of every guest and for ever.
    if (!callbacks_.has_programs()) {
        inspection_.check_every.insert_or_assign(std::string(kOfPrograms[0]), std::nullopt);
    }
    schedule_.follow(inspection_);
    std::vector<CheckStatus> each;
    std::vector<std::string_view> names(detect::check_names().begin(), detect::check_names().end());
    names.insert(names.end(), std::begin(kWatches), std::end(kWatches));
    for (const std::string_view name : names) {
        if (!period_of(std::string(name))) continue;
        const auto known = std::ranges::find(status_.each, name, &CheckStatus::check);
        each.push_back(known != status_.each.end()
                           ? *known
                           : CheckStatus{.check = std::string(name), .reason = "not made yet"});
    }
    status_.each = std::move(each);
    std::erase_if(silent_since_, [&](const auto& silent) {
        return std::ranges::find(status_.each, silent.first, &CheckStatus::check) ==
               status_.each.end();
    });
    summarise();
}

std::optional<std::chrono::milliseconds> InstanceWatch::period_of(const std::string& check) const {
    return is_watch(check) ? inspection_.watch_every : schedule_.period(check);
}

InstanceWatch::~InstanceWatch() {
    end_scan();
    loop_->cancel(next_check_);
    loop_->cancel(watch_again_);
    loop_->cancel(tell_blindness_);
}

void InstanceWatch::start() {
    baseline_.forget();
    status_.baseline.clear();
    status_.why = policy::excluded(*policy_, status_.instance);
    if (!status_.why.empty()) {
        status_.state = WatchState::excluded;
        return begin_blindness(status_.why);
    }
    if (!vm_.not_introspectable.empty()) {
        status_.state = WatchState::unreadable;
        status_.why = vm_.not_introspectable;
        return begin_blindness(status_.why);
    }
    status_.state = WatchState::attaching;
    worker_ = std::make_unique<JobRunner>(
        loop_, JobRunner::Callbacks{
                   .start = [this] { return start_worker("introspector", /*scans=*/false); },
                   .ready = [this](const auto& missing) { on_ready(missing); },
                   .lost = [this](const Error& why, auto wait) { on_lost(why, wait); }});
    worker_->start();
}

void InstanceWatch::policy_changed() {
    loop_->cancel(std::exchange(next_check_, 0));
    follow_policy();
    if (worker_ && policy::excluded(*policy_, status_.instance).empty()) {
        if (!inspection_.watch_every) stop_watching();
        schedule_.begin(std::chrono::steady_clock::now());
        return plan_check(kFirstCheckAfter);
    }
    give_up("it is not looked into as before: the policy or the VM has changed");
    worker_.reset();
    stop_watching();
    start();
}

void InstanceWatch::refresh(const hypervisor::Vm& vm, event::Instance instance) {
    const bool same_ram =
        vm.not_introspectable == vm_.not_introspectable && vm.ram_blocks == vm_.ram_blocks;
    const bool same_owner = instance == status_.instance;
    status_.instance = std::move(instance);
    vm_ = vm;
    status_.vm_state = vm.state;
    if (same_ram && !same_owner) policy_changed();
    if (same_ram) return;
    loop_->cancel(std::exchange(next_check_, 0));
    give_up("it is not looked into as before: the policy or the VM has changed");
    worker_.reset();
    stop_watching();
    start();
}

Result<StartedWorker> InstanceWatch::start_worker(std::string_view role, bool scans) {
    GuestSource source = TRY(live_source(vm_));
    source.scans = scans;
    return TRY(Introspector::begin(std::move(source), role)).release();
}

void InstanceWatch::on_ready(const std::vector<std::string>& missing_layers) {
    for (const std::string& layer : missing_layers) {
        callbacks_.note(*this, "this host does not allow a layer of the jail: " + layer);
    }
    event_rules_changed();
    if (callbacks_.has_programs()) programs_.send(*worker_, callbacks_.programs());
    hear(std::exchange(unheard_, {}));
    schedule_.begin(std::chrono::steady_clock::now());
    plan_check(kFirstCheckAfter);
}

void InstanceWatch::on_lost(const Error& why, std::chrono::milliseconds until_restart) {
    loop_->cancel(std::exchange(next_check_, 0));
    baseline_.forget();
    status_.baseline.clear();
    status_.state = WatchState::restarting;
    status_.why = fmt::format("{}; again in {} ms", why.to_text(), until_restart.count());
    begin_blindness(why.to_text());
}

void InstanceWatch::learn_kernel() {
    worker_->submit({.question = event::encode(Question{.topic = Topic::info}),
                     .on_frame =
                         [this](std::string_view frame, bool last) {
                             if (last) return true;
                             event::Decoder decoder{as_bytes(frame.substr(1))};
                             const auto info = decoder.get<event::SystemInfo>();
                             if (!info.has_value()) return false;
                             know_kernel(info->kernel_release);
                             return true;
                         },
                     .on_failure = [](const Error&) {}});
}

// What the policy says of its kernel holds from now on.
void InstanceWatch::know_kernel(std::string release) {
    status_.instance.kernel = std::move(release);
    callbacks_.kernel_known(*this);
    const policy::Inspection inspection = inspection_;
    const policy::Monitor monitor = monitor_;
    follow_policy();
    if (inspection == inspection_ && monitor.watches_the_same(monitor_)) return;
    policy_changed();
    event_rules_changed();
}

// A VM that boots is looked at often; one in which there is no Linux costs a search of all its RAM
// each time, and comes as often as the budget allows.
std::chrono::milliseconds InstanceWatch::retry_delay() const {
    const bool booting = std::chrono::steady_clock::now() - seen_since_ < kBootTime;
    return booting ? kRetryAfter
                   : std::max(kRetryAfter,
                              schedule_.afforded(std::chrono::nanoseconds(status_.last_cost_ns)));
}

// The first comes when one period has passed: an agent that starts does not search all VMs at once.
bool InstanceWatch::search_due() const {
    return inspection_.deep_search_every &&
           std::chrono::steady_clock::now() - last_search_ >=
               std::max(*inspection_.deep_search_every, schedule_.afforded(search_cost_));
}

void InstanceWatch::plan_check(std::chrono::milliseconds from_now) {
    loop_->cancel(next_check_);
    next_check_ = 0;
    if (!schedule_.next()) return begin_blindness("all checks are off by policy");
    next_check_ = loop_->after(from_now, [this] {
        next_check_ = 0;
        check();
    });
}

void InstanceWatch::plan_next_check() {
    const auto next = schedule_.next().value_or(std::chrono::steady_clock::now());
    const auto wait =
        std::chrono::ceil<std::chrono::milliseconds>(next - std::chrono::steady_clock::now());
    plan_check(std::max(wait, 0ms));
}

bool InstanceWatch::ask_for_reports(JobRunner& worker, const Question& question, std::size_t count,
                                    OnReports done) {
    return worker.submit(
        {.question = event::encode(question),
         .deadline = kCheckDeadline,
         .on_frame =
             [this, is_of_checks = &worker == worker_.get(), reports = std::make_shared<Reports>(),
              count, done = std::move(done)](std::string_view frame, bool last) {
                 event::Decoder frame_of{as_bytes(frame)};
                 const auto kind = frame_of.get<FrameKind>();
                 if (!kind.has_value()) return false;
                 if (*kind == FrameKind::signs) {
                     const auto signs = frame_of.get<guest_linux::Signs>();
                     if (is_of_checks || !signs.has_value()) return false;
                     stirred(*signs);
                     return true;
                 }
                 if (!last) {
                     // A report each and no more of them; the kind of the
                     // frame is its first byte.
                     reports->emplace_back(frame.substr(1));
                     return reports->size() <= count;
                 }
                 event::Decoder decoder{as_bytes(frame.substr(1))};
                 const auto end = decoder.get<AnswerEnd>();
                 if (!end.has_value()) return false;
                 if (is_of_checks) {
                     baseline_.answered(*end);
                     status_.baseline = baseline_.used().id();
                 }
                 if (end->failed) {
                     done(fail(error_of(*end)));
                 } else if (reports->size() != count) {
                     done(fail(Code::malformed, fmt::format("{} of {} reports: {}", reports->size(),
                                                            count, end->first_gap)));
                 } else {
                     done(std::move(*reports));
                 }
                 return true;
             },
         // on_lost() has told it already.
         .on_failure = [](const Error&) {}});
}

GuestBaseline::Callbacks InstanceWatch::baseline_callbacks() {
    return {.find =
                [this](const std::string& build_id, const std::string& variant) {
                    return callbacks_.find_baseline(build_id, variant);
                },
            .read = [this](const BaselineFacts& facts) { return callbacks_.read_baseline(facts); },
            .seen =
                [this](BaselineFacts facts, std::string bytes) {
                    callbacks_.code_seen(*this, std::move(facts), std::move(bytes));
                },
            .told =
                [this] {
                    status_.baseline = baseline_.used().id();
                    schedule_.hurry(kOfBaselines, std::chrono::steady_clock::now());
                    if (next_check_ != 0) plan_next_check();
                },
            .note = [this](const std::string& text) { callbacks_.note(*this, text); }};
}

void InstanceWatch::programs_changed() {
    follow_policy();
    if (!worker_ || !worker_->ready()) return;
    if (next_check_ != 0) plan_next_check();
    programs_.send(*worker_, callbacks_.programs());
}

void InstanceWatch::programs_taken(const Result<void>& result) {
    if (!result.has_value()) {
        return callbacks_.note(
            *this, "programs are not compared with their packages: " + result.error().to_text());
    }
    schedule_.hurry(kOfPrograms, std::chrono::steady_clock::now());
    if (next_check_ != 0) plan_next_check();
}

// A worker that is lost gets them when it is ready again.
void InstanceWatch::event_rules_changed() {
    if (worker_ && worker_->ready()) event_rules_.send(*worker_, callbacks_.event_rules());
}

Question InstanceWatch::event_rules_question(BaselinePart part) const {
    Question question{.topic = Topic::event_rules};
    question.event_rules = std::move(part);
    question.activities = monitor_.events;
    return question;
}

void InstanceWatch::check() {
    look_began_ = std::chrono::steady_clock::now();
    Question question{.topic = Topic::checks, .checks = schedule_.due(look_began_)};
    if (question.checks.empty()) return plan_next_check();
    question.out_of_turn = schedule_.is_out_of_turn(look_began_);
    cost_at_start_ = worker_->cpu_time();
    // What only a search of all RAM shows must not be closed by a check that has not searched: a
    // worker that was started anew does not know that there is something.
    const bool for_hidden = std::ranges::find(question.checks, detect::HiddenProcessCheck::kName) !=
                            question.checks.end();
    const bool suspicion = for_hidden && hidden_open_ && !question.out_of_turn;
    searching_ = for_hidden && !suspicion && !question.out_of_turn && search_due();
    // Counted from its start: one that no worker survives must not be tried again at once.
    if (searching_) last_search_ = look_began_;
    question.deep = suspicion || searching_;
    question.takes_activities =
        !monitor_.events.empty() &&
        std::ranges::find(question.checks, detect::EventRules::kName) != question.checks.end();
    const bool taken = ask_for_reports(
        *worker_, question, question.checks.size() + question.takes_activities,
        [this, names = question.checks, out_of_turn = question.out_of_turn](
            Result<Reports> reports) { checks_answered(names, out_of_turn, std::move(reports)); });
    if (!taken) plan_check(kRetryAfter);
}

void InstanceWatch::bound_cost(double percent) {
    bound_percent_ = percent;
    schedule_.bound(percent);
}

void InstanceWatch::hear(std::vector<event::CpuRegisters> cpus) {
    if (cpus.empty() || !worker_) return;
    if (!worker_->ready()) {
        unheard_ = std::move(cpus);
        return;
    }
    ask_for_reports(*worker_, {.topic = Topic::decoy_kernel, .cpus = std::move(cpus)}, 1,
                    [this](Result<Reports> reports) {
                        if (!reports.has_value()) {
                            heard(event::Outcome::unavailable, reports.error().message);
                            return;
                        }
                        hearing_ = reports->front();
                        heard_at_ = std::chrono::steady_clock::now();
                        callbacks_.report(*this, std::string(detect::DecoyKernelCheck::kName),
                                          std::move(reports->front()));
                    });
}

bool InstanceWatch::heard(event::Outcome outcome, std::string reason) {
    status_.kernel_outcome = outcome;
    status_.kernel_reason = std::move(reason);
    doubtful_hearings_ = outcome == event::Outcome::unavailable ? doubtful_hearings_ + 1 : 0;
    // Some guests are never vouched for: those wait as all others do.
    return doubtful_hearings_ > 0 && doubtful_hearings_ <= kHurriedHearings;
}

// What was true of the CPUs half a minute ago is not known to be true now.
bool InstanceWatch::hearing_is_old() const {
    return std::chrono::steady_clock::now() - heard_at_ > kHearingHolds;
}

void InstanceWatch::checks_answered(const std::vector<std::string>& names, bool out_of_turn,
                                    Result<Reports> reports) {
    ++status_.checks;
    const std::chrono::nanoseconds cost = worker_->cpu_time() - cost_at_start_;
    // A search is paid for by itself, and the checks in between go on at their pace.
    if (searching_) {
        search_cost_ = cost;
    } else {
        status_.last_cost_ns = static_cast<std::uint64_t>(cost.count());
    }
    if (searching_ && reports.has_value()) status_.last_search_ns = Recorder::now_ns();
    if (!reports.has_value()) {
        status_.state = WatchState::attaching;
        status_.why = reports.error().message;
        status_.instance.kernel.clear();  // it may boot another
        begin_blindness(status_.why);
        return plan_check(retry_delay());
    }
    schedule_.made(names, look_began_, std::chrono::nanoseconds(status_.last_cost_ns), out_of_turn);
    status_.state = WatchState::watched;
    status_.why.clear();
    end_blindness();
    if (status_.instance.kernel.empty()) learn_kernel();
    for (std::size_t i = 0; i < names.size(); ++i) {
        callbacks_.report(*this, names[i], std::move((*reports)[i]));
    }
    if (reports->size() > names.size()) {
        callbacks_.activities(*this, std::move(reports->back()));
    }
    plan_next_check();
    start_watching();
}

// ---- watched memory ---------------------------------------------------------------------------

// Not before a check has found the kernel: a VM in which there is no Linux costs a search of all
// its RAM each time, and one worker that makes it is enough.
void InstanceWatch::start_watching() {
    if (watcher_ || !inspection_.watch_every) return;
    watcher_ = std::make_unique<JobRunner>(
        loop_,
        JobRunner::Callbacks{
            .start = [this] { return start_worker("watcher", /*scans=*/false); },
            .ready = [this](const auto&) { watch_soon(); },
            .lost = [this](const Error& why,
                           std::chrono::milliseconds) { no_longer_watched(why.to_text()); }});
    watcher_->start();
}

void InstanceWatch::stop_watching() {
    loop_->cancel(std::exchange(watch_again_, 0));
    if (watcher_) earlier_watchers_ += watcher_->cpu_time();
    watcher_.reset();
}

void InstanceWatch::no_longer_watched(const std::string& why) {
    loop_->cancel(std::exchange(watch_again_, 0));
    for (const std::string_view check : kWatches) {
        judged(std::string(check), {.reason = why}, Recorder::now_ns());
    }
}

void InstanceWatch::watch() {
    if (!inspection_.watch_every) return stop_watching();
    watch_began_ = std::chrono::steady_clock::now();
    watch_cost_at_start_ = watcher_->cpu_time();
    Question question{.topic = Topic::watch};
    // Who hides may do so again: as often as all of the share allows.
    const bool suspicion = hidden_open_;
    const auto length = status_.watch.looks == 0 ? kFirstWatchFor : kWatchFor;
    const auto period =
        suspicion ? kSuspiciousPeriod : std::min(*inspection_.watch_every, kWatchFor);
    question.watch = {
        .for_ms = static_cast<std::uint32_t>(length.count()),
        .period_us = static_cast<std::uint32_t>(std::chrono::microseconds(period).count()),
        .core_ppm =
            1 + static_cast<std::uint32_t>(std::min(inspection_.cpu_percent, bound_percent_) * 1e4 /
                                           (suspicion ? 1 : 2)),
        .regions = monitor_.memory};
    ask_for_reports(*watcher_, question, 1 + std::size(kWatches),
                    [this](Result<Reports> reports) { watched(std::move(reports)); });
}

void InstanceWatch::count(const WatchTally& tally) {
    WatchTally& all = status_.watch;
    all.looks += tally.looks;
    all.longest_pause_ns = tally.longest_pause_ns;
    all.late_ns += tally.late_ns;
    all.samples += tally.samples;
    all.tasks_ran += tally.tasks_ran;
    all.pids_used += tally.pids_used;
    all.pids_unseen += tally.pids_unseen;
    for (CheckStatus& one : status_.each) {
        if (is_watch(one.check)) one.blind_ns += tally.late_ns;
    }
}

// First the tally, then the reports.
void InstanceWatch::watched(Result<Reports> reports) {
    Result<WatchTally> tally;
    if (reports.has_value()) {
        tally = event::decode<WatchTally>(as_bytes(reports->front()));
        if (!tally.has_value()) reports = fail(tally.error());
    }
    if (!reports.has_value()) {
        no_longer_watched(reports.error().message);
        // As long as the checks do not find the kernel, the watch would not either.
        watch_again_ = loop_->after(retry_delay(), [this] {
            watch_again_ = 0;
            if (status_.state == WatchState::watched) return watch();
            stop_watching();  // the next check that finds it starts it
        });
        return;
    }
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - watch_began_,
                                        cost = watcher_->cpu_time() - watch_cost_at_start_;
    if (took > kWatchFor / 2) schedule_.leave(100 * (cost / took));
    count(*tally);
    for (std::size_t i = 0; i < std::size(kWatches); ++i) {
        callbacks_.report(*this, std::string(kWatches[i]), std::move((*reports)[i + 1]));
    }
    watch_soon();
}

// Not from inside what the worker has called: watch() may be the end of it.
void InstanceWatch::watch_soon() {
    watch_again_ = loop_->after(0ms, [this] {
        watch_again_ = 0;
        watch();
    });
}

void InstanceWatch::stirred(guest_linux::Signs signs) {
    schedule_.stir(signs, std::chrono::steady_clock::now());
    if (next_check_ != 0) plan_next_check();
}

void InstanceWatch::follow_up(std::string_view watch) {
    const bool of_memory = watch == detect::MemoryWatch::kName;
    schedule_.hurry(of_memory ? std::span<const std::string_view>(kOfMemory) : kOfRunners,
                    std::chrono::steady_clock::now());
    // A look that is being taken plans the next one itself.
    if (next_check_ != 0) plan_next_check();
}

void InstanceWatch::judged(const std::string& check, AnalyserVerdict verdict,
                           std::uint64_t time_ns) {
    const auto found = std::ranges::find(status_.each, check, &CheckStatus::check);
    if (found == status_.each.end()) return;  // off by now
    CheckStatus& status = *found;
    const bool is_new =
        verdict.outcome == event::Outcome::finding && status.outcome != event::Outcome::finding;
    if (is_new && is_watch(check)) follow_up(check);
    ++status.made;
    status.last_ns = status_.last_check_ns = time_ns;
    // Only a look in turn takes back what was said before.
    if (verdict.partial && verdict.outcome != event::Outcome::finding) return;
    status.outcome = verdict.outcome;
    status.severity = verdict.severity;
    status.reason = std::move(verdict.reason);
    status.coverage = std::move(verdict.coverage);
    summarise();
    if (check == kOfBaselines[0] && status.outcome == event::Outcome::clean) {
        baseline_.found_clean();
    }
    const auto silent = silent_since_.find(check);
    if (status.outcome == event::Outcome::unavailable) {
        if (silent != silent_since_.end()) return;
        silent_since_[check] = std::chrono::steady_clock::now();
        callbacks_.check_blind(*this, status);
    } else if (silent != silent_since_.end()) {
        const std::chrono::nanoseconds lasted = std::chrono::steady_clock::now() - silent->second;
        status.blind_ns += static_cast<std::uint64_t>(lasted.count());
        silent_since_.erase(silent);
        callbacks_.check_sighted(*this, status);
    }
}

void InstanceWatch::summarise() {
    status_.last_outcome = event::Outcome::clean;
    status_.last_reason.clear();
    for (const CheckStatus& one : status_.each) {
        if (one.outcome == event::Outcome::clean) continue;
        if (one.outcome == event::Outcome::finding &&
            one.severity == event::Severity::informational) {
            continue;
        }
        if (status_.last_outcome == event::Outcome::finding) continue;
        if (status_.last_outcome == one.outcome) continue;  // the first of them stands for all
        status_.last_outcome = one.outcome;
        status_.last_reason = one.reason.empty() ? "" : one.check + ": " + one.reason;
    }
    if (status_.each.empty()) status_.last_outcome = event::Outcome::unavailable;
}

// A VM that has just appeared cannot be looked into at once: that is told when it lasts. Later on
// every stretch is told as it begins.
void InstanceWatch::begin_blindness(const std::string& why) {
    if (!blind_) {
        blind_ = true;
        blind_since_ = std::chrono::steady_clock::now();
    }
    if (blindness_told_) return;
    const auto grace = std::chrono::steady_clock::now() - seen_since_;
    if (!sighted_once_ && grace < kQuietStart && status_.state != WatchState::excluded) {
        loop_->cancel(tell_blindness_);
        tell_blindness_ = loop_->after(kQuietStart, [this, why] {
            tell_blindness_ = 0;
            if (blind_ && !sighted_once_) begin_blindness(why);
        });
        return;
    }
    blindness_told_ = true;
    callbacks_.blind(*this, why);
}

void InstanceWatch::end_blindness() {
    if (!blind_) return;
    blind_ = false;
    blindness_told_ = false;
    const std::chrono::nanoseconds lasted = std::chrono::steady_clock::now() - blind_since_;
    blind_before_ += lasted;
    callbacks_.sighted(*this, lasted, !std::exchange(sighted_once_, true));
}

bool InstanceWatch::ask(std::uint64_t asker, const Question& question, JobRunner::OnFrame on_frame,
                        JobRunner::OnFailure failed) {
    if (!worker_ || !worker_->ready()) return false;
    // A trace takes as long, and is made by the same worker.
    if (question.topic == Topic::scan || question.topic == Topic::trace) {
        return scan(asker, question, std::move(on_frame), std::move(failed));
    }
    if (question.topic == Topic::watch) {  // it would keep the checks waiting
        refuse(failed, "it is watched by the agent itself; underseer status says how");
        return true;
    }
    if (is_agents(question.topic)) {
        refuse(failed, "what a VM is compared with and judged by is the agent's to say");
        return true;
    }
    if (question.topic == Topic::decoy_kernel) {
        answer_from_hearing(std::move(on_frame), std::move(failed));
        return true;
    }
    return worker_->submit({.question = event::encode(question),
                            .deadline = kCheckDeadline,
                            .on_frame = std::move(on_frame),
                            .on_failure = std::move(failed)});
}

bool InstanceWatch::scan(std::uint64_t asker, const Question& question, JobRunner::OnFrame on_frame,
                         JobRunner::OnFailure failed) {
    if (scanner_ && scanning_for_ != asker) {
        refuse(failed, "somebody else scans or traces it just now; try again when that has ended");
        return true;
    }
    if (!scanner_) {
        if (!callbacks_.may_scan()) {
            refuse(failed,
                   "other VMs of this host are being scanned or traced; try again when that has "
                   "ended");
            return true;
        }
        scanning_for_ = asker;
        scanner_ = std::make_unique<JobRunner>(
            loop_, JobRunner::Callbacks{
                       .start = [this] { return start_worker("introspector", /*scans=*/true); },
                       .ready = [](const auto&) {},
                       // What it was told is gone with it. Not from inside its own handler.
                       .lost =
                           [this](const Error& why, auto) {
                               callbacks_.note(*this, "a scan has ended: " + why.to_text());
                               loop_->cancel(scan_lost_);
                               scan_lost_ = loop_->after(0ms, [this, said = why.to_text()] {
                                   scan_lost_ = 0;
                                   end_scan(said);  // a question may have come since
                               });
                           }});
        scanner_->start();
    }
    loop_->cancel(scan_idle_);
    scan_idle_ = loop_->after(kScanDeadline + kScanIdle, [this] {
        scan_idle_ = 0;
        end_scan();
    });
    return scanner_->submit({.question = event::encode(question),
                             .deadline = kScanDeadline,
                             .on_frame = std::move(on_frame),
                             .on_failure = std::move(failed)});
}

void InstanceWatch::asker_left(std::uint64_t asker) {
    if (!scanner_ || scanning_for_ != asker) return;
    loop_->cancel(scan_lost_);
    scan_lost_ = loop_->after(0ms, [this] {  // it may be its answer that could not be sent
        scan_lost_ = 0;
        end_scan();
    });
}

void InstanceWatch::end_scan(const std::string& why) {
    loop_->cancel(std::exchange(scan_idle_, 0));
    loop_->cancel(std::exchange(scan_lost_, 0));
    const auto scanner = std::exchange(scanner_, nullptr);
    if (scanner && !why.empty()) scanner->give_up({Code::unavailable, 0, why});
}

void InstanceWatch::give_up(const std::string& why) {
    end_scan(why);
    if (worker_) worker_->give_up({Code::unavailable, 0, why});
}

void InstanceWatch::refuse(const JobRunner::OnFailure& failed, std::string why) const {
    loop_->after(0ms, [failed, why = std::move(why)] { failed({Code::unavailable, 0, why}); });
}

// Registers are told when they are, not when somebody asks: the last hearing is the answer. It
// comes later, as every answer does.
void InstanceWatch::answer_from_hearing(JobRunner::OnFrame on_frame,
                                        JobRunner::OnFailure failed) const {
    if (hearing_.empty() || hearing_is_old()) {
        loop_->after(0ms, [failed = std::move(failed), why = status().kernel_reason] {
            failed({Code::unavailable, 0, why});
        });
        return;
    }
    loop_->after(0ms, [on_frame = std::move(on_frame), report = hearing_] {
        event::Encoder items, end;
        items.put(FrameKind::items);
        items.put_raw(report);
        on_frame(items.bytes(), /*last=*/false);
        end.put(FrameKind::end);
        end.put(AnswerEnd{});
        on_frame(end.bytes(), /*last=*/true);
    });
}

InstanceStatus InstanceWatch::status() const {
    InstanceStatus status = status_;
    if (status.kernel_outcome == event::Outcome::clean && hearing_is_old()) {
        status.kernel_outcome = event::Outcome::unavailable;
        status.kernel_reason = "the registers of its CPUs have not been told for a while";
    }
    const auto now = std::chrono::steady_clock::now();
    auto blind = blind_before_;
    if (blind_) blind += now - blind_since_;
    status.blind_ns = static_cast<std::uint64_t>(blind.count());
    status.watched_ns =
        static_cast<std::uint64_t>(std::chrono::nanoseconds(now - seen_since_).count());
    for (CheckStatus& one : status.each) {
        const auto ns = [](auto duration) {
            return static_cast<std::uint64_t>(std::chrono::nanoseconds(duration).count());
        };
        one.period_ns = ns(period_of(one.check).value_or(0ms));
        one.late_ns = ns(schedule_.late(one.check));
        if (const auto silent = silent_since_.find(one.check); silent != silent_since_.end()) {
            one.blind_ns += ns(now - silent->second);
        }
        if (is_watch(one.check)) continue;
        if (status.period_ns == 0 || one.period_ns < status.period_ns) {
            status.period_ns = one.period_ns;
        }
    }
    status.cpu_ns = static_cast<std::uint64_t>(earlier_watchers_.count());
    if (worker_) {
        status.cpu_ns += static_cast<std::uint64_t>(worker_->cpu_time().count());
        status.resident_bytes = worker_->resident_bytes();
        status.restarts = worker_->restarts();
    }
    if (watcher_) {
        status.cpu_ns += static_cast<std::uint64_t>(watcher_->cpu_time().count());
        status.resident_bytes += watcher_->resident_bytes();
    }
    return status;
}

}  // namespace underseer::agent
