// InstanceWatch: one VM under watch. Its introspector and the schedule of its checks, the watcher
// of its memory, both within the budget, and an honest account of when nobody was looking.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "agent/analyser.h"
#include "agent/check_schedule.h"
#include "agent/guest_baseline.h"
#include "agent/job_runner.h"
#include "agent/part_sender.h"
#include "agent/status.h"
#include "hypervisor/discover.h"
#include "policy/policy.h"

namespace underseer::agent {

class InstanceWatch {
  public:
    struct Callbacks {
        // A check has answered: its CheckReport in wire form, not decoded here.
        std::function<void(InstanceWatch&, std::string check, std::string report)> report;
        // Nobody looks from now on, and why; then, that somebody does again.
        std::function<void(InstanceWatch&, const std::string& why)> blind;
        std::function<void(InstanceWatch&, std::chrono::nanoseconds blind_for, bool first)> sighted;
        // One check can say nothing from now on, while others may; then, that it does again.
        std::function<void(InstanceWatch&, const CheckStatus& check)> check_blind, check_sighted;
        std::function<void(InstanceWatch&, const std::string& note)> note;
        // Whether this host has room for one more scan.
        std::function<bool()> may_scan;
        // How the kernel with this build id was built, or first seen in that variant; and what is
        // kept of that: see GuestBaseline.
        std::function<std::optional<BaselineFacts>(const std::string& build_id,
                                                   const std::string& variant)>
            find_baseline;
        std::function<std::shared_ptr<const KeptBaseline>(const BaselineFacts& facts)>
            read_baseline;
        // A kernel that was seen for the first time: see GuestBaseline.
        std::function<void(InstanceWatch&, BaselineFacts facts, std::string bytes)> code_seen;
        // What it was seen to do, if the policy wants that told: an ActivityReport, as above.
        std::function<void(InstanceWatch&, std::string activities)> activities;
        // instance() says now which kernel it runs.
        std::function<void(const InstanceWatch&)> kernel_known;
        // The rules of events that hold now, as introspectors get them; "": there are none.
        std::function<std::shared_ptr<const std::string>()> event_rules;
        // Whether the agent knows programs of packages; and all of them, as introspectors get them.
        std::function<bool()> has_programs;
        std::function<std::shared_ptr<const std::string>()> programs;
    };

    // All of these must outlive this. `policy` may change in place: call policy_changed().
    InstanceWatch(EventLoop* loop, const policy::Policy* policy, hypervisor::Vm vm,
                  event::Instance instance, Callbacks callbacks);
    InstanceWatch(const InstanceWatch&) = delete;
    ~InstanceWatch();

    // Says whether the instance is watched at all (it may be excluded, or not readable), and
    // starts.
    void start();
    void policy_changed();
    // What discovery says of the same VM by now: a VMM that has just started has no RAM yet.
    void refresh(const hypervisor::Vm& vm, event::Instance instance);

    // The agent keeps others by now; or, if some were removed, fewer.
    void baselines_changed(bool some_removed) { baseline_.kept_changed(some_removed); }
    // What its kernel's code is compared with; build_id "": with nothing.
    const BaselineFacts& baseline() const { return baseline_.used(); }
    void event_rules_changed();
    void programs_changed();

    // How much of a core it may take at most, in percent, whatever the policy says of one VM.
    void bound_cost(double percent);

    // The registers of its CPUs, just told; empty: nothing was. Does the kernel that is looked into
    // run on them?
    void hear(std::vector<event::CpuRegisters> cpus);

    // What the analyser made of the last report of that. Returns whether to hear them again soon.
    bool heard(event::Outcome outcome, std::string reason);
    // What it made of the last report of a check.
    void judged(const std::string& check, AnalyserVerdict verdict, std::uint64_t time_ns);
    // What is open now, and whether a hidden process is among it: then each look for hidden
    // processes searches all RAM.
    void set_open_findings(std::uint32_t count, bool hidden_process) {
        status_.open_findings = count;
        hidden_open_ = hidden_process;
    }

    // A user's question. False: not watched, or too many wait. `asker`: who, in the agent's count:
    // a scan takes many questions and belongs to one.
    bool ask(std::uint64_t asker, const Question& question, JobRunner::OnFrame on_frame,
             JobRunner::OnFailure failed);
    // Its scan is over, if it has one here.
    void asker_left(std::uint64_t asker);
    bool scanning() const { return scanner_ != nullptr; }
    // The VM has ended, or will not be looked into any more: whoever waits for an answer is told.
    void give_up(const std::string& why);

    // Neither excluded nor unreadable.
    bool is_looked_into() const { return worker_ != nullptr; }
    const hypervisor::Vm& vm() const { return vm_; }
    const event::Instance& instance() const { return status_.instance; }
    InstanceStatus status() const;

  private:
    using Instant = std::chrono::steady_clock::time_point;

    Result<StartedWorker> start_worker(std::string_view role, bool scans);
    void on_ready(const std::vector<std::string>& missing_layers);
    void on_lost(const Error& why, std::chrono::milliseconds until_restart);
    void learn_kernel();
    void know_kernel(std::string release);
    GuestBaseline::Callbacks baseline_callbacks();
    void programs_taken(const Result<void>& result);
    Question event_rules_question(BaselinePart part) const;
    // The next look at the earliest in this time, or when the schedule has it.
    void plan_check(std::chrono::milliseconds from_now);
    void plan_next_check();
    // A question that CheckReports answer, as many as `count`. `done` gets them in wire form, or
    // why there are none; nothing when the worker is lost. False: too many wait.
    using Reports = std::vector<std::string>;
    using OnReports = std::function<void(Result<Reports> reports)>;
    bool ask_for_reports(JobRunner& worker, const Question& question, std::size_t count,
                         OnReports done);
    void check();
    // Its memory is watched by a worker of its own: that of the checks is busy for seconds.
    void start_watching();
    void stop_watching();
    void watch();
    void watch_soon();
    void watched(Result<Reports> reports);
    void no_longer_watched(const std::string& why);
    void count(const WatchTally& tally);
    // Something moves in the guest: those who judge the like are made soon.
    void stirred(guest_linux::Signs signs);
    // The checks that judge the like of what a watch has seen are made now.
    void follow_up(std::string_view watch);
    void checks_answered(const std::vector<std::string>& names, bool out_of_turn,
                         Result<Reports> reports);
    void follow_policy();
    // Nothing: it is off.
    std::optional<std::chrono::milliseconds> period_of(const std::string& check) const;
    bool hearing_is_old() const;
    // A scan has a worker of its own, so that the checks go on beside it, and nothing of it
    // remains.
    bool scan(std::uint64_t asker, const Question& question, JobRunner::OnFrame on_frame,
              JobRunner::OnFailure failed);
    void end_scan(const std::string& why = {});  // why: told to who waits for an answer
    void refuse(const JobRunner::OnFailure& failed, std::string why) const;
    void answer_from_hearing(JobRunner::OnFrame on_frame, JobRunner::OnFailure failed) const;
    void begin_blindness(const std::string& why);
    void end_blindness();
    void summarise();
    bool search_due() const;
    std::chrono::milliseconds retry_delay() const;

    EventLoop* loop_;
    const policy::Policy* policy_;
    policy::Inspection inspection_;  // of this one
    policy::Monitor monitor_;
    hypervisor::Vm vm_;
    Callbacks callbacks_;
    GuestBaseline baseline_;
    PartSender programs_, event_rules_;
    InstanceStatus status_;
    Instant seen_since_;
    Instant blind_since_;
    bool blind_ = true;
    bool blindness_told_ = false, sighted_once_ = false;
    EventLoop::Timer tell_blindness_ = 0;
    std::chrono::nanoseconds blind_before_{0};
    CheckSchedule schedule_;
    double bound_percent_ = 100;
    std::map<std::string, Instant> silent_since_;  // checks that can say nothing
    Instant look_began_;
    std::chrono::nanoseconds cost_at_start_{0};
    // Of searches of all RAM that the schedule asked for.
    Instant last_search_;
    std::chrono::nanoseconds search_cost_{0};
    bool searching_ = false;                    // the look that is being taken is one
    bool hidden_open_ = false;                  // a hidden process is known
    std::vector<event::CpuRegisters> unheard_;  // told before the worker was ready
    std::string hearing_;                       // the last report of what the CPUs run
    Instant heard_at_;
    unsigned doubtful_hearings_ = 0;  // in a row
    EventLoop::Timer next_check_ = 0;
    std::uint64_t scanning_for_ = 0;
    EventLoop::Timer scan_idle_ = 0, scan_lost_ = 0;
    EventLoop::Timer watch_again_ = 0;
    Instant watch_began_;
    std::chrono::nanoseconds watch_cost_at_start_{0}, earlier_watchers_{0};
    // Last members: they end first, and their handlers use the rest.
    std::unique_ptr<JobRunner> worker_, scanner_, watcher_;
};

}  // namespace underseer::agent
