// What is done about an instance: by a person's order, or by policy about a finding. Whatever comes
// of it is logged with who or what wanted it.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "agent/evidence.h"
#include "agent/hook_program.h"
#include "agent/instance_watch.h"
#include "agent/managers.h"
#include "agent/recorder.h"
#include "agent/status.h"
#include "event/ocsf.h"

namespace underseer::agent {

class Responder {
  public:
    // What is so now, or why it was not done.
    using Done = std::function<void(const Result<ActionResult>& result)>;
    struct Callbacks {
        std::function<const InstanceWatch*(const std::string& instance_id)> find;
        std::function<void(const hypervisor::Vm&)> changed;  // something was done to it
    };

    // All of these must outlive this.
    Responder(EventLoop* loop, const policy::Policy* policy, const crypto::SigningKey* key,
              Recorder* recorder, const std::filesystem::path& state_dir, Callbacks callbacks);

    // `done` is called once, later.
    void obey(const InstanceWatch& watch, const event::Asker& asker, const ControlRequest& request,
              Done done);
    // What policy wants done about it, one after the other; one that fails ends nothing. `event`:
    // what the log has of the finding, for programs.
    void respond(const event::Instance& instance, const event::OpenFinding& finding,
                 const policy::Decision& decision, std::string event) {
        go_on({instance, finding, decision.actions, decision.programs, std::move(event)});
    }

    // A VM that is here: what an agent that was killed had stopped for a while goes on.
    void take_over(const InstanceWatch& watch);
    // A VM that has been here: what an exact trace has left in it that was killed with its
    // supervisor is taken away.
    void put_right(const InstanceWatch& watch);
    // The VM has ended: nothing is owed to it.
    void ended(const std::string& instance_id);
    // The agent ends: what is being done ends too, and what policy has stopped for a while goes on:
    // of what is still to be done, that which undoes something is.
    void stop();

  private:
    // What is still to be done about a finding.
    struct Chain {
        event::Instance instance;
        event::OpenFinding finding;
        std::vector<event::Action> actions;
        std::vector<std::string> programs;  // after them
        std::string event;
        bool has_stopped = false;  // the VM is as orders have left it, and not as its manager says
    };
    // That something is to be undone later: it is kept on the disk until it is.
    struct Owed {
        std::string instance_id;
        event::Action action{};
        std::string rule, finding_uid;

        bool is(const Chain& chain, event::Action undone) const {
            return instance_id == chain.instance.id && action == undone &&
                   finding_uid == chain.finding.uid;
        }
        static constexpr auto fields() {
            using event::Field;
            return std::tuple{Field{"instance_id", &Owed::instance_id},
                              Field{"action", &Owed::action}, Field{"rule", &Owed::rule},
                              Field{"finding_uid", &Owed::finding_uid}};
        }
    };
    void owe(const Chain& chain, event::Action done);
    // Evidence of one finding is not of a VM that has gone on because that of another was ready.
    bool is_held_by_another(const Chain& chain, event::Action action) const;
    void paid(const std::string& instance_id, std::optional<event::Action> action);
    void save_owed();
    void go_on(Chain chain);
    void run_program(Chain chain);
    // Of a chain, when the agent ends.
    Result<std::string> do_last(const InstanceWatch& watch, event::Action action) const;
    void act(const InstanceWatch& watch, event::ActionTaken taken, Done done);
    void keep_evidence(EvidenceKeeper::Order order, event::ActionTaken taken, Done done);
    void log(const event::Instance& instance, const event::ActionTaken& taken);
    void note_state(const std::string& instance_id, event::Action done);

    EventLoop* loop_;
    bool stopping_ = false;
    Recorder* recorder_;
    Callbacks callbacks_;
    Actor actor_;
    EvidenceKeeper evidence_;
    HookPrograms programs_;
    std::filesystem::path state_dir_, owed_path_;
    std::map<std::string, std::chrono::steady_clock::time_point>
        tried_;  // put_right(), by instance
    std::vector<Owed> owed_;
    // "paused" or "running", as the last order has left each instance: its manager says it later.
    std::map<std::string, std::string> left_as_;
};

}  // namespace underseer::agent
