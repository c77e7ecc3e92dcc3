#include "agent/agent.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <set>
#include <utility>

#include "agent/introspector.h"
#include "base/counted.h"
#include "detect/check.h"
#include "detect/decoy_kernel/decoy_kernel.h"
#include "detect/watches.h"

namespace underseer::agent {

namespace {

using namespace std::chrono_literals;

constexpr std::ptrdiff_t kMaxScans = 2;  // of all VMs at once: each may take a GiB and a core
constexpr std::size_t kMaxToldRefusals = 100;

std::string host_name() {
    char name[256] = {};
    if (::gethostname(name, sizeof name - 1) != 0) return "unknown";
    return name;
}

std::string boot_id() {
    auto text = read_file("/proc/sys/kernel/random/boot_id", 64).value_or("unknown");
    while (!text.empty() && text.back() == '\n') text.pop_back();
    return text;
}

std::string process_key(const hypervisor::Vm& vm) {
    return fmt::format("{}@{}", vm.pid, vm.start_ticks);
}

std::string seconds(std::chrono::nanoseconds time) {
    return fmt::format("{:.1f} s", static_cast<double>(time.count()) / 1e9);
}

}  // namespace

Result<crypto::SigningKey> load_or_make_key(const std::filesystem::path& state_dir) {
    TRY(make_directory(state_dir, 0755));
    TRY(make_directory(state_dir / "keys", 0755));
    const auto path = enrolment_key_path(state_dir);
    if (::access(path.c_str(), F_OK) == 0) return crypto::SigningKey::load(path);
    auto key = TRY(crypto::SigningKey::generate());
    TRY(key.store(path));
    TRY(crypto::store_public_key(key.public_key(), public_key_path(state_dir)));
    return key;
}

Agent::Agent(AgentOptions options, EventLoop loop, crypto::SigningKey key)
    : options_(std::move(options)),
      loop_(std::move(loop)),
      key_(std::move(key)),
      host_(host_name()),
      started_ns_(Recorder::now_ns()) {}

Agent::~Agent() {
    for (const auto& [key, watched] : watched_) {
        if (watched.pidfd) loop_.unwatch(watched.pidfd.get());
    }
}

Result<std::unique_ptr<Agent>> Agent::start(AgentOptions options) {
    policy::Policy policy;
    if (!options.policy.empty()) {
        policy = TRY(policy::load(options.policy, detect::check_names()));
    }
    policy::InstanceMap instances;
    if (!options.instances.empty()) instances = TRY(policy::InstanceMap::load(options.instances));
    auto key = TRY(load_or_make_key(options.state_dir));
    auto loop = TRY(EventLoop::make());
    std::unique_ptr<Agent> agent(new Agent(std::move(options), std::move(loop), std::move(key)));
    agent->policy_ = std::move(policy);
    agent->instances_ = std::move(instances);
    TRY(agent->open());
    return agent;
}

Result<void> Agent::open() {
    TRY(make_directory(options_.run_dir, 0755));
    TRY(make_directory(options_.state_dir / "log", 0750));
    recorder_ = TRY(Recorder::open(&loop_, &key_,
                                   {.directory = options_.state_dir / "log",
                                    .boot_id = boot_id(),
                                    .segment_bytes = policy_.log_segment_bytes,
                                    .keep_bytes = policy_.log_keep_bytes},
                                   host_));
    responder_ = std::make_unique<Responder>(
        &loop_, &policy_, &key_, recorder_.get(), options_.state_dir,
        Responder::Callbacks{
            .find = [this](const std::string& id) { return find_watch(id); },
            .changed = [this](const hypervisor::Vm& vm) { managers_->ask_soon(vm); }});
    load_rules();
    integrity_ = check_integrity(options_.policy, rule_files(policy_),
                                 manifest_path(options_.state_dir), key_.public_key());
    record_start();
    log_refusals();
    TRY(judge_integrity());
    open_findings();
    open_baselines();
    TRY(loop_.watch_signals({SIGTERM, SIGINT, SIGHUP}, [this](int signal) { on_signal(signal); }));
    ::signal(SIGPIPE, SIG_IGN);
    control_ = TRY(ControlServer::listen(
        &loop_, &policy_, options_.run_dir / kControlSocketName,
        {.agent = [this] { return status(); },
         .instances =
             [this] {
                 std::vector<InstanceStatus> all;
                 for (const auto& [key, watched] : watched_) all.push_back(watched.watch->status());
                 return all;
             },
         .findings =
             [this] {
                 std::vector<event::OpenFinding> all;
                 for (const auto& [uid, finding] : findings_->open()) all.push_back(finding);
                 return all;
             },
         .instance = [this](const std::string& wanted) { return select(wanted); },
         .access =
             [this](const event::Asker& asker, const event::Instance& instance,
                    std::string_view operation, bool granted) {
                 recorder_->critical(event::access_event(
                     recorder_->source(), Recorder::now_ns(), asker, instance, operation, granted,
                     fmt::format("user {} {} '{}' of {}", asker.user,
                                 granted ? "asked for" : "was refused", operation, instance.name)));
             },
         .act =
             [this](InstanceWatch& watch, const event::Asker& asker, const ControlRequest& request,
                    Responder::Done done) {
                 responder_->obey(watch, asker, request, std::move(done));
             },
         .baselines = [this] { return baselines_->all(); },
         .keep_baseline =
             [this](BaselineFacts facts, const std::string& bytes) {
                 return baselines_->keep(std::move(facts), bytes);
             },
         .drop_baseline = [this](const std::string& id) { return baselines_->drop(id); },
         .left =
             [this](std::uint64_t asker) {
                 for (const auto& [key, watched] : watched_) watched.watch->asker_left(asker);
             }}));
    findings_->start_analyser();
    managers_ = std::make_unique<ManagerWatch>(
        &loop_, ManagerWatch::Callbacks{
                    .changed =
                        [this] {
                            if (looking_ != 0) return;
                            looking_ = loop_.after(0ms, [this] {
                                looking_ = 0;
                                look_around();
                            });
                        },
                    .note = [](const std::string& text) { say(LogLevel::notice, text); }});
    discover();
    return {};
}

// ---- start and stop ---------------------------------------------------------------------------

void Agent::record_start() {
    const event_log::OpenedLog& log = recorder_->opened();
    event::Details details{{"policy", options_.policy.empty() ? "built-in" : options_.policy},
                           {"rules", counted(rules_.rules.size(), "rule")},
                           {"integrity", integrity_.to_text()}};
    if (!options_.instances.empty()) {
        details.emplace_back("instances", options_.instances);
        details.emplace_back("instances_sha256", hash_of(options_.instances));
    }
    std::string message = "agent started";
    if (!log.fresh && !log.clean) {
        message = "agent started; the run before did not end by itself";
        details.emplace_back("gap",
                             "from the last event before this one until now nothing was "
                             "watched");
    }
    if (log.lost_events > 0) {
        details.emplace_back("lost_events", std::to_string(log.lost_events));
    }
    if (!log.found.empty()) details.emplace_back("log", log.found);
    recorder_->critical(event::agent_event(recorder_->source(), started_ns_,
                                           event::AgentActivity::start, message, details,
                                           integrity_.running));
    say(LogLevel::notice, message);
}

Result<void> Agent::judge_integrity() {
    if (integrity_.mismatches.empty()) return {};
    const event::Instance self{.host = host_, .kind = "host", .id = host_, .name = host_};
    const bool refuse = policy_.on_mismatch == policy::OnMismatch::refuse;
    event::FindingChange change;
    change.open = {.uid = fmt::format("{}:program_changed@{}", host_, started_ns_),
                   .instance_id = host_,
                   .finding = {.rule = "program_changed",
                               .title = "Underseer's own files are not those that were installed",
                               .severity = event::Severity::high,
                               .confidence = 100,
                               .technique = "T1554",
                               .subject_kind = "file",
                               .subject = integrity_.to_text(),
                               .key = "program_changed",
                               .advice = "Find out who changed them. After an upgrade or a change "
                                         "of policy of your own: underseerd --seal."},
                   .first_seen = started_ns_,
                   .last_seen = started_ns_,
                   .count = 1};
    log_change(self, change);
    if (!refuse) return {};
    recorder_->critical(event::agent_event(recorder_->source(), Recorder::now_ns(),
                                           event::AgentActivity::stop,
                                           "refused to run changed programs", {}, {}));
    TRY(recorder_->close());
    return fail(Code::permission,
                fmt::format("refusing to run, by policy: {}. After a change of your own: "
                            "underseerd --seal",
                            integrity_.to_text()));
}

void Agent::on_signal(int signal) {
    if (signal == SIGHUP) return reload_policy();
    say(LogLevel::notice, fmt::format("ending on SIG{}", ::sigabbrev_np(signal)));
    loop_.stop();
}

void Agent::reload_policy() {
    notify_reloading();
    auto policy = options_.policy.empty() ? policy::Policy{}
                                          : policy::load(options_.policy, detect::check_names());
    Result<policy::InstanceMap> instances;
    if (!options_.instances.empty()) instances = policy::InstanceMap::load(options_.instances);
    if (!instances.has_value() && policy.has_value()) policy = fail(instances.error());
    std::string message = "policy reloaded";
    if (policy.has_value()) {
        instances_ = std::move(*instances);
        look_around();  // whose a VM is may decide whether it is looked into
        policy_ = std::move(*policy);
        load_rules();
        log_refusals();
        tell_rules();
        recorder_->set_keep_bytes(policy_.log_keep_bytes);
        for (auto& [key, watched] : watched_) {
            watched.watch->policy_changed();
            watched.watch->event_rules_changed();
        }
    } else {
        message = "policy not reloaded, the old one stays: " + policy.error().to_text();
    }
    integrity_ = check_integrity(options_.policy, rule_files(policy_),
                                 manifest_path(options_.state_dir), key_.public_key());
    recorder_->critical(event::policy_event(recorder_->source(), Recorder::now_ns(), message,
                                            {{"path", options_.policy},
                                             {"rules", counted(rules_.rules.size(), "rule")},
                                             {"integrity", integrity_.to_text()},
                                             {"sha256", integrity_.running.back().sha256}}));
    say(policy.has_value() ? LogLevel::notice : LogLevel::warning, message);
    notify_manager("READY=1");
}

void Agent::load_rules() {
    auto loaded = load_event_rules(policy_);
    if (loaded.has_value()) {
        rules_ = std::move(*loaded);
        rule_form_ = std::make_shared<const std::string>(
            rules_.rules.empty() ? std::string() : std::exchange(rules_.form, {}));
    } else {
        rules_.refused.assign(1, {{}, 0, "the rules as they are now: " + loaded.error().to_text()});
    }
}

void Agent::log_refusals() {
    for (std::size_t i = 0; i < rules_.refused.size(); ++i) {
        std::string text = "a rule is not used: " + to_text(rules_.refused[i]);
        if (i == kMaxToldRefusals) {
            text = fmt::format("{} more rules are not used", rules_.refused.size() - i);
        }
        recorder_->critical(event::policy_event(recorder_->source(), Recorder::now_ns(), text, {}));
        say(LogLevel::warning, text);
        if (i == kMaxToldRefusals) return;
    }
}

void Agent::tell_rules() {
    AnalyserInput input{.kind = AnalyserInput::Kind::rules};
    for (const sigma::Rule& rule : rules_.rules) input.rules.push_back({rule.name, rule.severity});
    findings_->submit(std::move(input));
}

void Agent::feed_watchdog(std::chrono::milliseconds every) {
    notify_manager("WATCHDOG=1");
    loop_.after(every, [this, every] { feed_watchdog(every); });
}

Result<void> Agent::run() {
    notify_manager("READY=1");
    tell_status();
    if (const auto pace = watchdog_pace()) feed_watchdog(*pace);
    const auto ran = loop_.run();
    notify_manager("STOPPING=1");
    responder_->stop();
    findings_->write_file();
    recorder_->critical(event::agent_event(
        recorder_->source(), Recorder::now_ns(), event::AgentActivity::stop,
        ran.has_value() ? "agent stopped" : "agent stopped: " + ran.error().to_text(), {}, {}));
    TRY(recorder_->close());
    return ran;
}

void Agent::tell_status() {
    std::size_t watched = 0;
    for (const auto& [key, entry] : watched_) {
        if (entry.watch->status().state == WatchState::watched) ++watched;
    }
    std::string text = fmt::format("watching {} of {}", watched, counted(watched_.size(), "VM"));
    const std::size_t open = findings_->open().size();
    if (open != 0) text += fmt::format("; {} open", counted(open, "finding"));
    if (!recorder_->trouble().empty()) text = "NOT LOGGING: " + recorder_->trouble();
    if (std::exchange(told_, text) != text) notify_manager("STATUS=" + text);
}

// ---- instances --------------------------------------------------------------------------------

void Agent::discover() {
    look_around();
    loop_.after(policy_.discover_every, [this] { discover(); });
}

void Agent::look_around() {
    auto host = hypervisor::discover();
    if (!host.has_value()) {
        say(LogLevel::warning, host.error().to_text());
    } else {
        std::set<std::string> present, noted;
        managers_->update(host->vms);
        for (hypervisor::Vm& vm : host->vms) {
            present.insert(process_key(vm));
            const bool told = managers_->apply(vm);
            vm.notes.push_back(instances_.refused(traits_of(vm)));
            for (const std::string& note : vm.notes) {
                if (note.empty()) continue;
                const std::string text = fmt::format("{}: {}", vm.label(), note);
                if (!noted_.contains(text)) say(LogLevel::warning, text);
                noted.insert(text);
            }
            const auto known = watched_.find(process_key(vm));
            if (known != watched_.end()) {
                refresh(*known->second.watch, vm);
            } else if (told) {
                // Not before its manager has answered: whose it is may decide whether it may be
                // looked into.
                take_in(vm);
            }
            if (const auto at = watched_.find(process_key(vm)); at != watched_.end()) {
                at->second.watch->hear(managers_->take_cpus(vm));
            }
        }
        noted_ = std::move(noted);
        all_taken_in_ = std::ranges::all_of(
            present, [this](const std::string& key) { return watched_.contains(key); });
        std::vector<std::string> gone;
        for (const auto& [key, watched] : watched_) {
            if (!present.contains(key)) gone.push_back(key);
        }
        for (const std::string& key : gone) end_instance(key, "the VM has ended");
        std::map<pid_t, std::string> impostors;
        for (const hypervisor::Impostor& impostor : host->impostors) {
            impostors[impostor.pid] = impostor.why;
            if (impostors_.contains(impostor.pid)) continue;
            say(LogLevel::warning,
                fmt::format("not believed: pid {}: {}", impostor.pid, impostor.why));
        }
        impostors_ = std::move(impostors);
        findings_->close_orphans();
        share_out();
    }
    tell_status();
}

event::Instance Agent::instance_of(const hypervisor::Vm& vm) const {
    event::Instance instance;
    instance.host = host_;
    instance.kind = "vm";
    // Without a UUID nothing outlives the process; its pid and start time name it for good.
    // So it is for a second VM of one UUID, whoever gave it that: findings go by the id, and one
    // must not close those of the other.
    const auto* twin = find_watch(vm.uuid);
    const bool taken = twin != nullptr && process_key(twin->vm()) != process_key(vm);
    instance.id =
        vm.uuid.empty() || taken ? fmt::format("{}:{}", boot_id(), process_key(vm)) : vm.uuid;
    identify(vm, instance);
    return instance;
}

void Agent::identify(const hypervisor::Vm& vm, event::Instance& instance) const {
    const hypervisor::Identity identity = identity_of(instances_, vm);
    instance.name = vm.label();
    instance.tenant = identity.tenant;
    instance.app_instance_id = identity.app_instance_id;
    instance.app_d_id = identity.app_d_id;
    instance.labels = identity.labels;
    instance.image = vm.image;
}

void Agent::refresh(InstanceWatch& watch, const hypervisor::Vm& vm) {
    event::Instance instance = watch.instance();
    identify(vm, instance);
    const std::string state = watch.vm().state;
    const auto tell = [&](const std::string& what) {
        recorder_->critical(event::instance_event(
            recorder_->source(), Recorder::now_ns(), instance,
            fmt::format("VM {}: {}", instance.name, what),
            {{"state", vm.state}, {"not_introspectable", vm.not_introspectable}}));
        say(LogLevel::info, fmt::format("VM {}: {}", instance.name, what));
    };
    if (instance != watch.instance()) {
        findings_->name(instance);
        tell("belongs to another tenant or application by now");
    } else if (vm.state != state && !vm.state.empty() && !state.empty()) {
        tell(vm.state);
    }
    watch.refresh(vm, std::move(instance));
    responder_->put_right(watch);
}

void Agent::take_in(const hypervisor::Vm& vm) {
    const std::string key = process_key(vm);
    auto watch =
        std::make_unique<InstanceWatch>(&loop_, &policy_, vm, instance_of(vm), watch_callbacks());
    Watched& watched = watched_[key];
    watched.watch = std::move(watch);
    // Its RAM would live on in our introspector: the end must be noticed at once.
    watched.pidfd = Fd(static_cast<int>(::syscall(SYS_pidfd_open, vm.pid, 0)));
    if (watched.pidfd) {
        loop_.watch(watched.pidfd.get(), [this, key] { end_instance(key, "the VM has ended"); });
    }
    const event::Instance& instance = watched.watch->instance();
    findings_->name(instance);
    recorder_->critical(event::instance_event(recorder_->source(), Recorder::now_ns(), instance,
                                              fmt::format("VM {} is here", instance.name),
                                              {{"pid", std::to_string(vm.pid)},
                                               {"executable", vm.executable},
                                               {"machine", vm.machine},
                                               {"accelerator", vm.accelerator},
                                               {"memory_bytes", std::to_string(vm.memory_bytes)},
                                               {"ram", std::string(to_string(vm.backing))},
                                               {"managed_by", vm.managed_by},
                                               {"state", vm.state},
                                               {"not_introspectable", vm.not_introspectable}}));
    say(LogLevel::info, fmt::format("VM {} (pid {}) is here", instance.name, vm.pid));
    watched.watch->start();
    count_open(instance.id);
    responder_->take_over(*watched.watch);
    responder_->put_right(*watched.watch);
}

void Agent::share_out() {
    const auto count = std::max<std::ptrdiff_t>(
        1, std::ranges::count_if(
               watched_, [](const auto& entry) { return entry.second.watch->is_looked_into(); }));
    for (auto& [key, watched] : watched_) {
        watched.watch->bound_cost(policy_.host_cpu_percent / static_cast<double>(count));
    }
}

void Agent::end_instance(const std::string& key, const std::string& why) {
    const auto found = watched_.find(key);
    if (found == watched_.end()) return;
    if (found->second.pidfd) loop_.unwatch(found->second.pidfd.get());
    const InstanceStatus status = found->second.watch->status();
    found->second.watch->give_up(why);
    watched_.erase(found);
    responder_->ended(status.instance.id);
    recorder_->critical(
        event::instance_event(recorder_->source(), Recorder::now_ns(), status.instance,
                              fmt::format("VM {}: {}", status.instance.name, why),
                              {{"watched", seconds(std::chrono::nanoseconds(status.watched_ns))},
                               {"blind", seconds(std::chrono::nanoseconds(status.blind_ns))},
                               {"checks", std::to_string(status.checks)}}));
    say(LogLevel::info, fmt::format("VM {}: {}", status.instance.name, why));
    findings_->submit({.kind = AnalyserInput::Kind::end,
                       .time_ns = Recorder::now_ns(),
                       .instance_id = status.instance.id,
                       .why = why});
}

InstanceWatch* Agent::find_watch(const std::string& instance_id) const {
    for (const auto& [key, watched] : watched_) {
        if (watched.watch->instance().id == instance_id) return watched.watch.get();
    }
    return nullptr;
}

Result<InstanceWatch*> Agent::select(const std::string& wanted) {
    hypervisor::Host host;
    for (const auto& [key, watched] : watched_) host.vms.push_back(watched.watch->vm());
    const auto vm = TRY(hypervisor::select(host, wanted));
    return watched_.at(process_key(vm)).watch.get();
}

InstanceWatch::Callbacks Agent::watch_callbacks() {
    return {
        .report =
            [this](InstanceWatch& watch, std::string check, std::string report) {
                findings_->submit({.kind = AnalyserInput::Kind::report,
                                   .time_ns = Recorder::now_ns(),
                                   .instance_id = watch.instance().id,
                                   .check = std::move(check),
                                   .report = std::move(report),
                                   .compared_with = reference_of(watch.baseline())});
            },
        .blind =
            [this](InstanceWatch& watch, const std::string& why) {
                recorder_->critical(event::scan_event(
                    recorder_->source(), Recorder::now_ns(), watch.instance(),
                    event::ScanActivity::error, "all checks",
                    fmt::format("{} is not looked at: {}", watch.instance().name, why), {}, {}));
                say(LogLevel::warning,
                    fmt::format("{}: not looked at: {}", watch.instance().name, why));
            },
        .sighted =
            [this](InstanceWatch& watch, std::chrono::nanoseconds blind_for, bool first) {
                const std::string text = watch.instance().name +
                                         (first ? " is looked at for the first time, seen for "
                                                : " is looked at again after ") +
                                         seconds(blind_for);
                recorder_->critical(event::scan_event(
                    recorder_->source(), Recorder::now_ns(), watch.instance(),
                    first ? event::ScanActivity::started : event::ScanActivity::resumed,
                    "all checks", text, {}, {{"blind", seconds(blind_for)}}));
                say(LogLevel::info, text);
            },
        .check_blind =
            [this](InstanceWatch& watch, const CheckStatus& check) {
                recorder_->critical(
                    event::scan_event(recorder_->source(), Recorder::now_ns(), watch.instance(),
                                      event::ScanActivity::error, check.check,
                                      fmt::format("{}: {} can say nothing: {}",
                                                  watch.instance().name, check.check, check.reason),
                                      check.coverage, {}));
            },
        .check_sighted =
            [this](InstanceWatch& watch, const CheckStatus& check) {
                recorder_->critical(event::scan_event(
                    recorder_->source(), Recorder::now_ns(), watch.instance(),
                    event::ScanActivity::resumed, check.check,
                    fmt::format("{}: {} says something again", watch.instance().name, check.check),
                    {}, {{"blind", seconds(std::chrono::nanoseconds(check.blind_ns))}}));
            },
        .note =
            [](InstanceWatch& watch, const std::string& note) {
                say(LogLevel::warning, fmt::format("{}: {}", watch.instance().name, note));
            },
        .may_scan =
            [this] {
                const auto scanned = std::ranges::count_if(
                    watched_, [](const auto& one) { return one.second.watch->scanning(); });
                return scanned < kMaxScans;
            },
        .find_baseline =
            [this](const std::string& build_id, const std::string& variant) {
                return baselines_->find_for(build_id, variant);
            },
        .read_baseline = [this](const BaselineFacts& facts) { return baselines_->read(facts); },
        .code_seen =
            [this](InstanceWatch& watch, BaselineFacts facts, const std::string& bytes) {
                baselines_->keep_seen(watch.instance(), std::move(facts), bytes);
            },
        .activities =
            [this](InstanceWatch& watch, std::string activities) {
                findings_->submit({.kind = AnalyserInput::Kind::activities,
                                   .time_ns = Recorder::now_ns(),
                                   .instance_id = watch.instance().id,
                                   .check = std::string(detect::EventRules::kName),
                                   .report = std::move(activities)});
            },
        .kernel_known = [this](const InstanceWatch& watch) { findings_->name(watch.instance()); },
        .event_rules = [this] { return rule_form_; },
        .has_programs = [this] { return baselines_->has_programs(); },
        .programs = [this] { return baselines_->programs(); },
    };
}

// ---- findings ---------------------------------------------------------------------------------

void Agent::open_findings() {
    findings_ = std::make_unique<Findings>(
        &loop_, options_.state_dir / "open-findings", host_,
        Findings::Callbacks{
            .judged = [this](const std::string& id, const std::string& check,
                             const AnalyserVerdict& verdict,
                             std::uint64_t time_ns) { on_verdict(verdict, id, check, time_ns); },
            .not_judged =
                [this](const std::string& id, const std::string& check, std::string why,
                       std::uint64_t time_ns) {
                    InstanceWatch* watch = find_watch(id);
                    if (watch == nullptr) return;
                    watch->judged(check, {.reason = std::move(why)}, time_ns);
                },
            .did = [this](const std::string& id,
                          const event::ActivityReport& report) { log_activities(id, report); },
            .changed =
                [this](const event::Instance& instance, const event::FindingChange& change) {
                    log_change(instance, change);
                    count_open(instance.id);
                    tell_status();
                },
            .is_here =
                [this](const std::string& id) {
                    return !all_taken_in_ || find_watch(id) != nullptr;
                },
            .analyser_ready =
                [this] {
                    tell_rules();
                    findings_->close_orphans();
                },
            .analyser_lost =
                [this](const std::string& text) {
                    recorder_->critical(event::agent_event(recorder_->source(), Recorder::now_ns(),
                                                           event::AgentActivity::restart, text,
                                                           {{"worker", "analyser"}}, {}));
                    say(LogLevel::warning, text);
                },
            .trouble = [](const std::string& text) { say(LogLevel::warning, text); }});
}

void Agent::on_verdict(const AnalyserVerdict& verdict, const std::string& instance_id,
                       const std::string& check, std::uint64_t time_ns) {
    InstanceWatch* watch = find_watch(instance_id);
    if (watch == nullptr) return;
    recorder_->bulk(event::scan_event(
        recorder_->source(), time_ns, watch->instance(), event::ScanActivity::completed, check,
        fmt::format("{}: {}{}{}", check, to_string(verdict.outcome),
                    verdict.reason.empty() ? "" : ": ", verdict.reason),
        verdict.coverage, {{"outcome", std::string(to_string(verdict.outcome))}}));
    if (check == detect::DecoyKernelCheck::kName) {
        // What has to be heard several times is asked for again at once.
        if (watch->heard(verdict.outcome, verdict.reason)) managers_->ask_soon(watch->vm());
    } else {
        watch->judged(check, verdict, time_ns);
    }
    tell_status();
}

void Agent::log_change(const event::Instance& instance, const event::FindingChange& change) {
    const auto decision =
        policy::decide(policy_, instance, change.open.finding, std::chrono::system_clock::now());
    std::string event = event::finding_event(recorder_->source(), Recorder::now_ns(), instance,
                                             change, decision.alert, decision.suppressed);
    recorder_->critical(event);
    const event::Finding& finding = change.open.finding;
    const bool loud = decision.alert && change.change == event::Change::opened;
    say(loud ? LogLevel::critical : LogLevel::notice,
        fmt::format("{}{} {}: {} in {}: {}{}", loud ? "ALERT: " : "", finding.rule,
                    to_string(change.change), finding.title, instance.name, finding.subject,
                    change.reason.empty() ? "" : " (" + change.reason + ")"));
    if (change.change == event::Change::opened) {
        responder_->respond(instance, change.open, decision, std::move(event));
    }
}

void Agent::log_activities(const std::string& instance_id, const event::ActivityReport& report) {
    const InstanceWatch* watch = find_watch(instance_id);
    if (watch == nullptr) return;
    for (const event::Activity& activity : report.activities) {
        recorder_->bulk(event::activity_event(recorder_->source(), Recorder::now_ns(),
                                              watch->instance(), activity));
    }
    if (report.untold == 0) return;
    recorder_->critical(
        event::scan_event(recorder_->source(), Recorder::now_ns(), watch->instance(),
                          event::ScanActivity::error, std::string(detect::EventRules::kName),
                          fmt::format("{}: {} more has happened than one look tells",
                                      watch->instance().name, counted(report.untold, "event")),
                          {}, {}));
}

void Agent::count_open(const std::string& instance_id) {
    InstanceWatch* watch = find_watch(instance_id);
    if (watch == nullptr) return;
    const Findings::Count count = findings_->count(instance_id);
    watch->set_open_findings(count.open, count.hidden_process);
}

void Agent::open_baselines() {
    const auto each_watch = [this](auto&& tell) {
        for (auto& [key, watched] : watched_) tell(*watched.watch);
    };
    baselines_ = std::make_unique<Baselines>(
        &loop_, options_.state_dir, &key_,
        Baselines::Callbacks{.kernels_changed =
                                 [each_watch](bool some_removed) {
                                     each_watch([&](InstanceWatch& watch) {
                                         watch.baselines_changed(some_removed);
                                     });
                                 },
                             .programs_changed =
                                 [each_watch] {
                                     each_watch(
                                         [](InstanceWatch& watch) { watch.programs_changed(); });
                                 },
                             .in_use =
                                 [this](const BaselineFacts& one) {
                                     return std::ranges::any_of(watched_, [&](const auto& watched) {
                                         return watched.second.watch->baseline().id() == one.id();
                                     });
                                 }});
}

AgentStatus Agent::status() const {
    AgentStatus status;
    status.version = UNDERSEER_VERSION;
    status.host = host_;
    status.agent = recorder_->source().agent;
    status.pid = static_cast<std::uint32_t>(::getpid());
    status.started_ns = started_ns_;
    status.policy = options_.policy;
    status.log = options_.state_dir / "log";
    status.logged = recorder_->logged();
    status.log_trouble = recorder_->trouble();
    status.analyser_restarts = findings_->analyser_restarts();
    status.integrity = integrity_.to_text();
    status.rules = rules_.rules.size();
    status.refused_rules = rules_.refused;
    status.refused_rules.resize(std::min(status.refused_rules.size(), kMaxToldRefusals));
    const auto statm = read_file("/proc/self/statm", 256).value_or("0 0");
    unsigned long pages = 0;
    if (std::sscanf(statm.c_str(), "%*u %lu", &pages) == 1) {
        status.resident_bytes = pages * kPageSize;
    }
    return status;
}

}  // namespace underseer::agent
