// Findings: what is open of all VMs. Reports go to the jailed analyser, which says how the findings
// change by them; what is open outlives analysers and, in a file, the agent.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "agent/analyser.h"
#include "agent/job_runner.h"

namespace underseer::agent {

class Findings {
  public:
    struct Callbacks {
        // A report of a check was judged: after the changes that come of it.
        std::function<void(const std::string& instance_id, const std::string& check,
                           const AnalyserVerdict& verdict, std::uint64_t time_ns)>
            judged;
        // It could not be, and why.
        std::function<void(const std::string& instance_id, const std::string& check,
                           std::string why, std::uint64_t time_ns)>
            not_judged;
        // What an instance was seen to do.
        std::function<void(const std::string& instance_id, const event::ActivityReport& report)>
            did;
        // Already counted among what is open, or not any more. It is in the file by the next round
        // of the loop.
        std::function<void(const event::Instance& instance, const event::FindingChange& change)>
            changed;
        // Whether that VM is watched, or may yet turn out to be. Of others nothing stays open, and
        // then they are forgotten.
        std::function<bool(const std::string& instance_id)> is_here;
        // A new analyser, who knows nothing, is ready: before it is told what is open.
        std::function<void()> analyser_ready;
        std::function<void(const std::string& text)> analyser_lost;
        std::function<void(const std::string& text)> trouble;
    };

    // Reads what the run before left in `file`, if it can be read. `loop` must outlive this.
    Findings(EventLoop* loop, std::filesystem::path file, std::string host, Callbacks callbacks);
    Findings(const Findings&) = delete;
    ~Findings();

    void start_analyser();
    void submit(AnalyserInput input);
    // Closes what belongs to VMs that are not here, once there is an analyser to do so.
    void close_orphans();
    // What findings say of this instance is said with its names of now.
    void name(const event::Instance& instance) { instances_[instance.id] = instance; }
    void write_file();

    const std::map<std::string, event::OpenFinding>& open() const { return open_; }  // by uid
    struct Count {
        std::uint32_t open = 0;
        bool hidden_process = false;  // one of them is
    };
    Count count(const std::string& instance_id) const;
    unsigned analyser_restarts() const { return analyser_ ? analyser_->restarts() : 0; }

  private:
    void read_file_of_run_before();
    void restore();
    void take(const event::FindingChange& change);
    void took(const AnalyserVerdict& verdict, const std::string& instance_id,
              const std::string& check, std::uint64_t time_ns);

    EventLoop* loop_;
    std::filesystem::path file_;
    std::string host_;
    Callbacks callbacks_;
    std::map<std::string, event::OpenFinding> open_;    // by uid
    std::map<std::string, event::Instance> instances_;  // by id
    std::unique_ptr<JobRunner> analyser_;
    std::uint64_t next_ticket_ = 1;
    EventLoop::Timer writing_ = 0;
};

}  // namespace underseer::agent
