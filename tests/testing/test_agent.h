// TestAgent: a real underseerd with directories of its own, and the CLI to ask it.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "json/value.h"
#include "testing/test_vm.h"

namespace underseer::testing {

inline constexpr unsigned kNobody = 65534;  // a user with no right to anything

// Runs a program and waits for its end. `user`: who runs it (0: as we are).
RunResult run_program(const std::vector<std::string>& words, unsigned user = 0);
std::string program_path(const std::string& name);

class TestAgent {
  public:
    // `policy` is the text of its policy file.
    explicit TestAgent(const std::string& policy);
    ~TestAgent();
    TestAgent(const TestAgent&) = delete;

    void use_instances(std::string path) { instances_ = std::move(path); }
    void start();                  // and waits until it answers
    int start_and_wait_for_end();  // for an agent that must refuse: its exit status
    int kill(int signal);          // and waits for its end: its exit status, or -signal
    void signal(int signal);
    void write_policy(const std::string& text);

    // `underseer WORDS --run ..`, of this agent; of log and evidence --state
    RunResult cli(std::vector<std::string> words, unsigned user = 0);
    json::Value status();
    // Those that are open; by a rule, those of that rule.
    std::vector<json::Value> findings(std::string_view rule = {});
    // Every event of the critical log.
    std::vector<json::Value> logged();
    std::vector<json::Value> logged_in_bulk();
    // Those whose message contains `text`.
    std::vector<json::Value> logged(const std::string& text);
    // The status of one instance; nothing when it is not there.
    std::optional<json::Value> instance(const std::string& name);

    // Waits until `condition` holds. CHECKs that it does within a minute.
    void wait_until(const std::string& what, const std::function<bool()>& condition);
    void wait_until_watched(const std::string& vm);
    json::Value wait_for_finding(const std::string& rule);

    pid_t pid() const { return agent_->pid(); }
    // Pids of its workers in a role ("introspector", "analyser").
    std::vector<pid_t> workers(const std::string& role);
    std::string directory() const { return directory_; }
    std::string errors();  // what it said on standard error
    // What it told its service manager (sd_notify); filled by wait_until() and kill(). The manager
    // wants to hear from it every second.
    std::vector<std::string> notified;
    bool was_notified(std::string_view start) const;

  private:
    void launch();
    void take_notifications();

    std::string directory_, instances_;
    std::optional<jail::Child> agent_;
    Fd notify_;
};

}  // namespace underseer::testing
