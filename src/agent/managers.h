// What manages the VMs of this host is asked about them, and told what is to be done to them:
// libvirt where it does, a VMM's own QMP monitor else. One process a question or order, the
// discoverer: it connects, closes its jail, asks, parses and ends; whatever comes of it, a question
// has its answer or the reason why not in bounded time.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "event/finding.h"
#include "hypervisor/discover.h"
#include "hypervisor/libvirt.h"
#include "jail/channel.h"
#include "jail/jail.h"
#include "policy/instance_map.h"

namespace underseer::agent {

// A question on its way.
class Inquiry {
  public:
    static constexpr std::chrono::milliseconds kLongest{3000};

    static Result<Inquiry> of_monitor(const hypervisor::Vm& vm);
    static Result<Inquiry> of_libvirt(const std::string& uri);
    // An order: the answer is one ManagerFacts that says what was done. Code::unavailable, with
    // what to do instead, when nobody can be told.
    static Result<Inquiry> to_act(const hypervisor::Vm& vm, event::Action action, bool dry_run);

    int fd() const { return channel_.fd(); }  // readable when take() has something to do
    // The answer once it is whole; nothing before. Code::unavailable when the discoverer has ended
    // without one.
    Result<std::optional<std::vector<hypervisor::ManagerFacts>>> take();
    // Waits for it, until `deadline` at the latest.
    Result<std::vector<hypervisor::ManagerFacts>> wait(
        std::chrono::steady_clock::time_point deadline);
    bool greeted() const { return greeted_; }  // the discoverer's jail is closed
    // Layers of the jail that this host did not allow.
    const std::vector<std::string>& missing_layers() const { return missing_layers_; }

  private:
    Inquiry(jail::Child child, jail::Channel channel)
        : child_(std::move(child)), channel_(std::move(channel)) {}
    static Result<Inquiry> start(const std::string& question);

    jail::Child child_;
    jail::Channel channel_;
    bool greeted_ = false;
    std::vector<std::string> missing_layers_;
    std::vector<hypervisor::ManagerFacts> facts_;
};

// The libvirt that is asked: $LIBVIRT_DEFAULT_URI, or that of the system.
std::string libvirt_uri();

// Whose a VM is: the mapping file's word before libvirt's, field by field.
hypervisor::Identity identity_of(const policy::InstanceMap& map, const hypervisor::Vm& vm);
policy::VmTraits traits_of(const hypervisor::Vm& vm);

// What came of asking about one VM, or about all of libvirt's.
struct Trouble {
    pid_t pid = -1;  // -1: libvirt
    Error why;
};

// Asks about all VMs at once, adds what is said to them, and tells what could not be had.
std::vector<Trouble> ask_managers(std::vector<hypervisor::Vm>& vms);

// The registers of the CPUs of one VM, now. Code::unavailable when nobody tells them.
Result<std::vector<event::CpuRegisters>> ask_registers(const hypervisor::Vm& vm);

// The same as ask_managers() for an event loop, again and again: state changes, and libvirt may be
// away for a while.
class ManagerWatch {
  public:
    static constexpr std::chrono::milliseconds kAskEvery{10'000};

    struct Callbacks {
        std::function<void()> changed;  // something was said
        std::function<void(const std::string& text)> note;
    };
    // `loop` must outlive this.
    ManagerWatch(EventLoop* loop, Callbacks callbacks);
    ManagerWatch(const ManagerWatch&) = delete;
    ~ManagerWatch();

    // The VMs that there are now: those whose time has come are asked about.
    void update(const std::vector<hypervisor::Vm>& vms);
    // Adds what was said last. False as long as the first answer is still to come.
    bool apply(hypervisor::Vm& vm) const;
    // The registers of its CPUs, once for each time that they are told; else empty.
    std::vector<event::CpuRegisters> take_cpus(const hypervisor::Vm& vm);
    // The next update() asks about it, whenever it was asked about last.
    void ask_soon(const hypervisor::Vm& vm);

  private:
    struct Subject;
    using Start = std::function<Result<Inquiry>()>;
    void ask(const std::string& key, Start start);
    void on_readable(const std::string& key);
    void finish(const std::string& key, Result<std::vector<hypervisor::ManagerFacts>> answer);

    EventLoop* loop_;
    Callbacks callbacks_;
    // By pid and start time; libvirt has the key "".
    std::map<std::string, std::unique_ptr<Subject>> subjects_;
};

// Does things to VMs, for an event loop: a process for each, and one after the other to one VM. A
// monitor serves one client at a time: when another holds it, it is tried again for a while.
class Actor {
  public:
    // What is so now, or why it was not done.
    using Done = std::function<void(const Result<std::string>& result)>;

    explicit Actor(EventLoop* loop);  // must outlive this
    Actor(const Actor&) = delete;
    ~Actor();

    // `done` is called once, by the loop, after this has returned.
    void act(const hypervisor::Vm& vm, event::Action action, bool dry_run, Done done);
    // Nothing more is done: whoever waits is told so, at once.
    void stop(const Error& why);

  private:
    static constexpr unsigned kAttempts = 4;
    static constexpr std::chrono::milliseconds kBetweenAttempts{200};

    struct Deed;
    void begin(const std::string& vm);
    void on_readable(const std::string& vm);
    void finish(const std::string& vm, Result<std::string> result);

    EventLoop* loop_;
    std::map<std::string, std::deque<std::unique_ptr<Deed>>> deeds_;  // by pid and start time
};

// The inside of the jail: answers the one question that comes over the channel.
Result<void> run_discoverer(jail::Channel channel);

}  // namespace underseer::agent
