// The introspector: the jailed process that reads one guest, and the handle on it for whoever asks.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "agent/answer.h"
#include "agent/evidence_writer.h"
#include "agent/job_runner.h"
#include "base/os.h"
#include "guest_memory/ram_layout.h"
#include "hypervisor/ram.h"
#include "jail/channel.h"
#include "jail/jail.h"

namespace underseer::agent {

// What an introspector reads. Exactly one of the two forms.
struct GuestSource {
    std::string name;  // for messages: the VM's name, the image's path
    bool image = false;
    std::uint64_t image_bytes = 0;
    std::vector<Fd> fds;                              // of an image: one
    std::vector<guest_memory::RamSlice> layout;       // of a live guest
    std::vector<guest_memory::RamSlice> alternative;  // tried when no kernel is found in `layout`
    bool scans = false;  // the worker makes YARA scans too: its jail takes a little more
    std::vector<EvidenceOutput> outputs;  // of Topic::evidence
    Fd supervisor;                        // the tracer's end of its line, of Topic::exact_trace
    Fd vmm;  // pidfd of a live guest's VMM, when it is known: its RAM may outlive it
};

// The memory of a VM of this host, opened. As hypervisor::open_ram().
Result<GuestSource> live_source(const hypervisor::Vm& vm);

class Introspector {
  public:
    // Starts the worker and hands it the fds. Nothing of the guest is read in this process.
    static Result<Introspector> start(GuestSource source);
    // The same without waiting until the jail is closed, for an event loop: the first frame is
    // then that of missing_layers(). `role` is what the worker is called.
    static Result<Introspector> begin(GuestSource source, std::string_view role = "introspector");

    // Asks and waits. Code::unavailable with the way it ended when the worker is gone; Code::gone
    // when the VM has ended.
    template <typename T>
    Result<Answer<T>> ask(const Question& question, std::size_t max_items = kMaxAnswerItems);

    // The same of an answer without a known end: `take` is given each item when it comes.
    template <typename T>
    Result<void> ask_each(const Question& question, const std::function<void(T)>& take);

    // Layers of the jail that this host did not allow; empty on a normal host as root.
    Result<std::vector<std::string>> missing_layers();

    // For who must not wait for ever: a worker that has not answered all that it is asked so long
    // from now is ended, however it spends the time, and an answer then is Code::unavailable.
    void wait_at_most(std::chrono::milliseconds patience) {
        patience_ = patience;
        deadline_ = std::chrono::steady_clock::now() + patience;
    }

    jail::Child& process() { return child_; }

    // Gives up this handle: for a JobRunner.
    StartedWorker release() { return {std::move(child_), std::move(channel_)}; }

  private:
    Introspector(std::string name, jail::Child child, jail::Channel channel, Fd vmm)
        : name_(std::move(name)),
          child_(std::move(child)),
          channel_(std::move(channel)),
          vmm_(std::move(vmm)) {}
    Result<void> check_vmm() const;
    Result<std::string> receive();
    Result<void> send(const Question& question);
    // Until the channel is ready for `events`, or the patience is at its end.
    Result<void> wait(short events);
    Result<std::string> receive_in_time();
    Result<void> send_in_time(std::string_view frame);

    std::string name_;
    jail::Child child_;
    jail::Channel channel_;
    Fd vmm_;
    std::vector<std::string> missing_layers_;
    std::optional<std::chrono::milliseconds> patience_;
    std::chrono::steady_clock::time_point deadline_;
};

template <typename T>
Result<Answer<T>> Introspector::ask(const Question& question, std::size_t max_items) {
    TRY(send(question));
    auto answer = read_answer<T>(name_, [this] { return receive(); }, max_items);
    TRY(check_vmm());
    return answer;
}

template <typename T>
Result<void> Introspector::ask_each(const Question& question, const std::function<void(T)>& take) {
    TRY(send(question));
    auto answered = read_each<T>([this] { return receive(); }, take);
    if (!answered.has_value()) return Unexpected(std::move(answered).error());
    return check_vmm();
}

}  // namespace underseer::agent
