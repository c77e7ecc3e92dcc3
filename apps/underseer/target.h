// What a command looks into: an image or a VM by an introspector of our own, or a VM by way of the
// agent that watches it.
#pragma once

#include <optional>
#include <string>

#include "agent/agent_client.h"
#include "agent/introspector.h"
#include "agent/managers.h"
#include "agent/trace_supervisor.h"
#include "options.h"

namespace underseer::cli {

class Target {
  public:
    // The agent is asked when one runs, unless options.direct; an image is never the agent's.
    static Result<Target> open(const Options& options);

    template <typename T>
    Result<agent::Answer<T>> ask(agent::Question question) {
        if (question.cpus.empty()) question.cpus = take_cpus();
        if (introspector_) return introspector_->ask<T>(question);
        return client_->ask<T>({.kind = agent::ControlRequest::Kind::question,
                                .instance = instance_,
                                .question = question});
    }

    bool is_agents() const { return client_.has_value(); }

    // Whether the guest's CPUs run the kernel that is looked into. Where nobody tells their
    // registers the report says so.
    Result<event::CheckReport> check_kernel();

  private:
    Target() = default;
    Result<event::CheckReport> hear_cpus();
    // The registers that were asked for at the start, once.
    std::vector<event::CpuRegisters> take_cpus();
    std::optional<agent::Introspector> introspector_;
    std::optional<hypervisor::Vm> vm_;  // that our introspector reads
    std::optional<agent::Inquiry> monitor_;
    std::optional<agent::AgentClient> client_;
    std::string instance_;  // of the agent's
};

// An introspector of our own for what options.target names, the agent running or not.
Result<agent::Introspector> open_introspector(const Options& options);

// A file for a worker to read; `what` it should be, for messages.
Result<agent::GuestSource> file_source(const std::string& path, std::string_view what);

// What an exact trace is made by. It is our own, the agent running or not: whoever may ask for one
// may do anything to the VM.
struct ExactTarget {
    hypervisor::Vm vm;
    agent::TraceSupervisor supervisor;
    agent::Introspector introspector;
    std::vector<event::CpuRegisters> cpus;  // as they were a moment ago
};
Result<ExactTarget> open_exact(const Options& options);
// Takes away what an exact trace has left that was killed with its supervisor; else that has done
// so by itself. Says what is so now.
Result<std::string> put_right(const hypervisor::Vm& vm, const Options& options);

bool names_an_image(const std::string& target);

}  // namespace underseer::cli
