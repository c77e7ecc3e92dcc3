// EvidenceKeeper: on an order or a finding, what there is to know of an instance goes into a bundle
// that the agent signs. The bytes are read and written by a jailed worker of its own, so that the
// checks go on beside it; this side plans, bounds and seals.
#pragma once

#include <deque>
#include <filesystem>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "agent/evidence_form.h"
#include "agent/job_runner.h"
#include "agent/trace_supervisor.h"
#include "crypto/signing.h"
#include "event/finding.h"
#include "hypervisor/discover.h"
#include "policy/policy.h"

namespace underseer::agent {

class EvidenceKeeper {
  public:
    struct Order {
        hypervisor::Vm vm;
        event::Instance instance;
        event::Action action = event::Action::capture;  // or dump
        std::optional<std::uint32_t> pid;               // the process that it is about
        std::string because;
        std::optional<event::OpenFinding> finding;  // that policy answers with it
    };
    struct Bundle {
        std::filesystem::path folder;
        std::string sha256;  // of bundle.jsonl, which has those of all files
        std::string text;    // "11 files, 34 MiB, in /var/lib/.."
    };
    using Done = std::function<void(const Result<Bundle>& result)>;

    // All of these must outlive this. Bundles lie in `state_dir`/evidence, where each instance has
    // a folder.
    EvidenceKeeper(EventLoop* loop, const policy::Policy* policy, const crypto::SigningKey* key,
                   std::filesystem::path state_dir);
    EvidenceKeeper(const EvidenceKeeper&) = delete;
    ~EvidenceKeeper();

    // `done` is called once, by the loop, after this has returned. One bundle of an instance is
    // made after the other.
    void keep(Order order, Done done);
    // Another order needs its monitor: an exact trace that is under way ends, and what it has seen
    // is kept.
    void end_exact_trace(const hypervisor::Vm& vm);
    // An order has left the VM in that state meanwhile: what is being made is of both.
    void state_changed(const std::string& instance, const std::string& state);
    // What is being made is sealed as it is, for that reason, and whoever waits is told, at once.
    void stop(const Error& why);
    // What would be done, or why it would not.
    Result<std::string> plan(const Order& order) const;

  private:
    struct Collection;
    // The files that the order calls for, none longer than the instance's quota leaves room for.
    struct Plan {
        std::filesystem::path folder;  // of the instance
        std::vector<OutputForm> outputs;
    };
    Result<Plan> make_plan(const Order& order) const;
    void begin(const std::string& instance);
    Result<void> start(Collection& collection);
    Result<StartedWorker> start_worker(Collection& collection);
    bool take(Collection& collection, std::string_view frame);
    // Of exact traces that are over, supervisors may still have to let their VM go.
    void look_after_supervisors();
    // Seals what there is. `why_not_all` has a message when the worker did not come to its end.
    void finish(const std::string& instance, const Error& why_not_all);
    Result<Bundle> seal(Collection& collection, const Error& why_not_all);

    EventLoop* loop_;
    const policy::Policy* policy_;
    const crypto::SigningKey* key_;
    std::filesystem::path state_dir_, folder_;
    // By instance id; the first of each is being made.
    std::map<std::string, std::deque<std::unique_ptr<Collection>>> collections_;
    struct Supervised {
        hypervisor::Vm vm;
        TraceSupervisor supervisor;
    };
    std::list<Supervised> supervised_;
    EventLoop::Timer supervised_timer_ = 0;
};

}  // namespace underseer::agent
