// The agent: finds the VMs of this host, keeps an introspector at each and one analyser for all,
// decides about what they find, and logs it.
//
//     discover -> InstanceWatch (introspector) -> report -> analyser -> finding -> decide ->
//     Recorder
//
// One thread, one event loop. Everything that an attacker may have written is parsed in the
// workers.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "agent/baselines.h"
#include "agent/control_server.h"
#include "agent/event_rules.h"
#include "agent/findings.h"
#include "agent/instance_watch.h"
#include "agent/integrity.h"
#include "agent/managers.h"
#include "agent/paths.h"
#include "agent/recorder.h"
#include "agent/responder.h"
#include "agent/service_manager.h"  // say(): also before there is an Agent
#include "hypervisor/discover.h"

namespace underseer::agent {

struct AgentOptions {
    std::string policy;               // file; "": the built-in policy
    std::string instances;            // the mapping file; "": there is none
    std::filesystem::path state_dir;  // keys, logs, manifest, open findings
    std::filesystem::path run_dir;    // control socket
};

// The enrolment key, made at the first start.
Result<crypto::SigningKey> load_or_make_key(const std::filesystem::path& state_dir);

class Agent {
  public:
    // Opens the log, records what runs, and starts watching. Code::permission when what runs is not
    // what was installed and the policy says to refuse.
    static Result<std::unique_ptr<Agent>> start(AgentOptions options);
    Agent(const Agent&) = delete;
    ~Agent();

    // Until SIGTERM or SIGINT. SIGHUP reloads the policy.
    Result<void> run();

  private:
    Agent(AgentOptions options, EventLoop loop, crypto::SigningKey key);
    Result<void> open();
    void record_start();
    Result<void> judge_integrity();
    void on_signal(int signal);
    void reload_policy();
    // Those that the policy names.
    void load_rules();
    void tell_rules();  // the analyser
    void log_refusals();
    void tell_status();  // the service manager, when it has changed
    void feed_watchdog(std::chrono::milliseconds every);

    void discover();
    void look_around();
    void take_in(const hypervisor::Vm& vm);
    void refresh(InstanceWatch& watch, const hypervisor::Vm& vm);
    // Whose the VM is, and what is known of it beyond doubt.
    void identify(const hypervisor::Vm& vm, event::Instance& instance) const;
    // Of the CPU time that all may take together.
    void share_out();
    void end_instance(const std::string& id, const std::string& why);
    event::Instance instance_of(const hypervisor::Vm& vm) const;
    InstanceWatch* find_watch(const std::string& instance_id) const;
    Result<InstanceWatch*> select(const std::string& wanted);
    InstanceWatch::Callbacks watch_callbacks();

    void open_findings();
    // Of a report about `check` of an instance.
    void on_verdict(const AnalyserVerdict& verdict, const std::string& instance_id,
                    const std::string& check, std::uint64_t time_ns);
    void log_change(const event::Instance& instance, const event::FindingChange& change);
    void log_activities(const std::string& instance_id, const event::ActivityReport& report);
    void count_open(const std::string& instance_id);
    void open_baselines();

    AgentStatus status() const;

    AgentOptions options_;
    EventLoop loop_;
    crypto::SigningKey key_;
    policy::Policy policy_;
    policy::InstanceMap instances_;
    std::string host_;
    LoadedRules rules_;
    std::shared_ptr<const std::string> rule_form_ = std::make_shared<const std::string>();
    Integrity integrity_;
    std::uint64_t started_ns_ = 0;
    std::unique_ptr<Recorder> recorder_;
    std::unique_ptr<Findings> findings_;
    struct Watched {
        Fd pidfd;
        std::unique_ptr<InstanceWatch> watch;
    };
    std::map<std::string, Watched> watched_;  // by pid and start time
    // Every VM of the last look is watched; not so while a manager has yet to say whose one is.
    bool all_taken_in_ = false;
    std::map<pid_t, std::string> impostors_;
    std::string told_;             // the service manager
    std::set<std::string> noted_;  // what was said about VMs that are here
    std::unique_ptr<ManagerWatch> managers_;
    std::unique_ptr<Responder> responder_;
    std::unique_ptr<Baselines> baselines_;
    EventLoop::Timer looking_ = 0;
    std::unique_ptr<ControlServer> control_;
};

}  // namespace underseer::agent
