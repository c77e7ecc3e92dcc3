// InstanceWatch: one VM under watch. Its introspector, the schedule of its checks within the
// budget, and an honest account of when nobody was looking.
#pragma once

#include <functional>
#include <string>

#include "agent/job_runner.h"
#include "agent/status.h"
#include "hypervisor/vm.h"
#include "policy/policy.h"

namespace underseer::agent {

class InstanceWatch {
  public:
    struct Callbacks {
        // A check has answered: the CheckReport in wire form, not decoded here.
        std::function<void(InstanceWatch&, std::string report)> report;
        // Nobody looks from now on, and why; then, that somebody does again.
        std::function<void(InstanceWatch&, const std::string& why)> blind;
        std::function<void(InstanceWatch&, std::chrono::nanoseconds blind_for, bool first)> sighted;
        std::function<void(InstanceWatch&, const std::string& note)> note;
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

    // The registers of its CPUs, just told; empty: nothing was. Does the kernel that is looked into
    // run on them?
    void hear(std::vector<event::CpuRegisters> cpus);

    // What the analyser made of the last report of that. Returns whether to hear them again soon.
    bool heard(event::Outcome outcome, std::string reason);
    // What it made of the last report of a check.
    void judged(event::Outcome outcome, std::string reason, event::Coverage coverage,
                std::uint64_t time_ns);
    void set_open_findings(std::uint32_t count) { status_.open_findings = count; }

    // A user's question. False: not watched, or too many wait.
    bool ask(const Question& question, JobRunner::OnFrame on_frame, JobRunner::OnFailure failed);

    const hypervisor::Vm& vm() const { return vm_; }
    const event::Instance& instance() const { return status_.instance; }
    InstanceStatus status() const;

  private:
    using Instant = std::chrono::steady_clock::time_point;

    Result<StartedWorker> start_worker();
    void on_ready(const std::vector<std::string>& missing_layers);
    void on_lost(const Error& why, std::chrono::milliseconds until_restart);
    void learn_kernel();
    void plan_check(std::chrono::milliseconds from_now);
    // A question that a CheckReport answers. `done` gets it in wire form, or why there is none;
    // nothing when the worker is lost. False: too many wait.
    using OnReport = std::function<void(Result<std::string> report)>;
    bool ask_for_report(const Question& question, OnReport done);
    void check();
    void check_answered(Result<std::string> report);
    bool hearing_is_old() const;
    void answer_from_hearing(JobRunner::OnFrame on_frame, JobRunner::OnFailure failed) const;
    void begin_blindness(const std::string& why);
    void end_blindness();
    std::chrono::milliseconds period() const;
    std::chrono::milliseconds afforded() const { return afforded(status_.last_cost_ns); }
    std::chrono::milliseconds afforded(std::uint64_t cost_ns) const;
    bool search_due() const;
    std::chrono::milliseconds retry_delay() const;

    EventLoop* loop_;
    const policy::Policy* policy_;
    hypervisor::Vm vm_;
    Callbacks callbacks_;
    InstanceStatus status_;
    Instant seen_since_;
    Instant blind_since_;
    bool blind_ = true;
    bool blindness_told_ = false, sighted_once_ = false;
    EventLoop::Timer tell_blindness_ = 0;
    std::chrono::nanoseconds blind_before_{0};
    std::chrono::nanoseconds cost_at_start_{0};
    // Of searches of all RAM that the schedule asked for.
    Instant last_search_;
    std::uint64_t search_cost_ns_ = 0;
    bool searching_ = false;                    // the check that is being answered is one
    std::vector<event::CpuRegisters> unheard_;  // told before the worker was ready
    std::string hearing_;                       // the last report of what the CPUs run
    Instant heard_at_;
    unsigned doubtful_hearings_ = 0;  // in a row
    EventLoop::Timer next_check_ = 0;
    // Last member: it ends first, and its handlers use the rest.
    std::unique_ptr<JobRunner> worker_;
};

}  // namespace underseer::agent
