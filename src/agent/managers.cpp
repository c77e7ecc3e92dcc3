#include "agent/managers.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <cstdlib>
#include <set>
#include <utility>

#include "agent/answer.h"
#include "agent/discoverer_question.h"

namespace underseer::agent {

namespace {

using hypervisor::Identity;
using hypervisor::ManagerFacts;
using hypervisor::Vm;
using Clock = std::chrono::steady_clock;

std::string key_of(const Vm& vm) {
    return fmt::format("{}@{}", vm.pid, vm.start_ticks);
}

const ManagerFacts* domain_of(const std::vector<ManagerFacts>& domains, const Vm& vm) {
    const auto found = std::ranges::find_if(
        domains, [&](const ManagerFacts& facts) { return hypervisor::is_domain(facts, vm); });
    return found == domains.end() ? nullptr : &*found;
}

bool is_libvirts(const Vm& vm) {
    return vm.managed_by == "libvirt";
}

Error late() {
    return {Code::unavailable, 0, fmt::format("no answer within {} ms", Inquiry::kLongest.count())};
}

}  // namespace

// ---- one question -----------------------------------------------------------------------------

Result<Inquiry> Inquiry::start(const std::string& question) {
    auto [ours, theirs] = TRY(jail::Channel::pair());
    const int fds[] = {theirs.fd()};
    Inquiry inquiry(TRY(jail::Child::exec_worker("discoverer", fds)), std::move(ours));
    TRY(inquiry.channel_.send(question));
    return inquiry;
}

Result<Inquiry> Inquiry::of_monitor(const Vm& vm) {
    return start(event::encode(DiscovererQuestion{.kind = DiscovererQuestion::Kind::monitor,
                                                  .path = vm.qmp_socket,
                                                  .pid = static_cast<std::uint32_t>(vm.pid),
                                                  .user = vm.user,
                                                  .group = vm.group}));
}

Result<Inquiry> Inquiry::of_libvirt(const std::string& uri) {
    return start(
        event::encode(DiscovererQuestion{.kind = DiscovererQuestion::Kind::libvirt, .path = uri}));
}

Result<Inquiry> Inquiry::to_act(const Vm& vm, event::Action action, bool dry_run) {
    const DiscovererQuestion::Order order{.action = action, .dry_run = dry_run, .uuid = vm.uuid};
    if (is_libvirts(vm)) {
        // The UUID is the VMM's word: another's domain must not pay for who merely bears its name.
        if (vm.libvirt_name.empty() && !vm.in_libvirt_cgroup) {
            return fail(Code::unavailable,
                        "libvirt does not say that it is its domain, and nobody else can be told");
        }
        return start(event::encode(DiscovererQuestion{.kind = DiscovererQuestion::Kind::libvirt,
                                                      .path = libvirt_uri(),
                                                      .ordered = true,
                                                      .order = order}));
    }
    if (!hypervisor::has_monitor(vm)) {
        return fail(Code::unavailable,
                    fmt::format("nobody can be told: its VMM (pid {}) has no QMP socket (-qmp "
                                "unix:PATH,server=on,wait=off)",
                                vm.pid));
    }
    return start(event::encode(DiscovererQuestion{.kind = DiscovererQuestion::Kind::monitor,
                                                  .path = vm.qmp_socket,
                                                  .pid = static_cast<std::uint32_t>(vm.pid),
                                                  .user = vm.user,
                                                  .group = vm.group,
                                                  .ordered = true,
                                                  .order = order}));
}

Result<std::optional<std::vector<ManagerFacts>>> Inquiry::take() {
    const bool open = TRY(channel_.fill());
    while (const auto frame = TRY(channel_.next())) {
        if (!greeted_) {
            missing_layers_ = TRY(event::decode<std::vector<std::string>>(as_bytes(*frame)));
            greeted_ = true;
            continue;
        }
        event::Decoder decoder{as_bytes(*frame)};
        if (TRY(decoder.get<FrameKind>()) == FrameKind::end) {
            const AnswerEnd end = TRY(decoder.get<AnswerEnd>());
            if (end.failed) return fail(error_of(end));
            return std::optional(std::move(facts_));
        }
        while (!decoder.at_end()) {
            if (facts_.size() >= limits::kMaxDomains) {
                return fail(Code::limit, "the discoverer tells of VMs without end");
            }
            facts_.push_back(TRY(decoder.get<ManagerFacts>()));
        }
    }
    if (open) return std::optional<std::vector<ManagerFacts>>();
    const auto ending = child_.wait(std::chrono::seconds(1));
    return fail(Code::unavailable,
                fmt::format("the discoverer {}",
                            ending.has_value() ? ending->to_text() : "closed its channel"));
}

Result<std::vector<ManagerFacts>> Inquiry::wait(Clock::time_point deadline) {
    for (;;) {
        if (auto answer = TRY(take())) return std::move(*answer);
        const auto left =
            std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
        pollfd readable{fd(), POLLIN, 0};
        if (left.count() <= 0 || ::poll(&readable, 1, static_cast<int>(left.count())) == 0) {
            return fail(late());
        }
    }
}

std::string libvirt_uri() {
    const char* uri = std::getenv("LIBVIRT_DEFAULT_URI");
    return uri != nullptr && *uri != '\0' ? uri : hypervisor::kDefaultLibvirt;
}

// ---- identity ---------------------------------------------------------------------------------

policy::VmTraits traits_of(const Vm& vm) {
    return {.uuid = vm.uuid, .name = vm.name, .libvirt_name = vm.libvirt_name, .user = vm.user};
}

Identity identity_of(const policy::InstanceMap& map, const Vm& vm) {
    Identity identity = vm.identity;
    if (vm.executable.empty()) return {};  // what may not be examined is nobody's
    const policy::InstanceEntry* entry = map.find(traits_of(vm));
    if (entry == nullptr) return identity;
    const auto take = [](const std::string& from, std::string& into) {
        if (!from.empty()) into = from;
    };
    take(entry->tenant, identity.tenant);
    take(entry->app_instance_id, identity.app_instance_id);
    take(entry->app_d_id, identity.app_d_id);
    if (!entry->labels.empty()) identity.labels = entry->labels;
    return identity;
}

// ---- all at once ------------------------------------------------------------------------------

std::vector<Trouble> ask_managers(std::vector<Vm>& vms) {
    std::vector<Trouble> troubles;
    std::vector<std::pair<Vm*, Inquiry>> monitors;
    std::optional<Inquiry> libvirt;
    const auto started = [&](pid_t pid, Result<Inquiry> inquiry) -> std::optional<Inquiry> {
        if (inquiry.has_value()) return std::move(*inquiry);
        troubles.push_back({pid, inquiry.error()});
        return std::nullopt;
    };
    if (std::ranges::any_of(vms, is_libvirts)) {
        libvirt = started(-1, Inquiry::of_libvirt(libvirt_uri()));
    }
    for (Vm& vm : vms) {
        if (!hypervisor::has_monitor(vm)) continue;
        if (auto inquiry = started(vm.pid, Inquiry::of_monitor(vm))) {
            monitors.emplace_back(&vm, std::move(*inquiry));
        }
    }
    const auto deadline = Clock::now() + Inquiry::kLongest;
    for (auto& [vm, inquiry] : monitors) {
        const auto answer = inquiry.wait(deadline);
        if (!answer.has_value()) {
            troubles.push_back({vm->pid, answer.error()});
        } else if (answer->size() == 1) {
            hypervisor::apply_facts(answer->front(), *vm);
        }
    }
    if (!libvirt) return troubles;
    const auto domains = libvirt->wait(deadline);
    if (!domains.has_value()) {
        troubles.push_back({-1, domains.error()});
        return troubles;
    }
    for (Vm& vm : vms) {
        if (const ManagerFacts* facts = domain_of(*domains, vm)) {
            hypervisor::apply_facts(*facts, vm);
        }
    }
    return troubles;
}

Result<std::vector<event::CpuRegisters>> ask_registers(const Vm& vm) {
    if (!hypervisor::has_monitor(vm)) {
        return fail(Code::unavailable, hypervisor::why_no_registers(vm));
    }
    auto inquiry = TRY(Inquiry::of_monitor(vm));
    const auto facts = inquiry.wait(Clock::now() + Inquiry::kLongest);
    if (!facts.has_value()) return fail(Code::unavailable, facts.error().to_text());
    if (facts->empty() || facts->front().cpus.empty()) {
        return fail(Code::unavailable, hypervisor::why_no_registers(vm));
    }
    return facts->front().cpus;
}

// ---- again and again --------------------------------------------------------------------------

struct ManagerWatch::Subject {
    std::optional<Inquiry> running;
    EventLoop::Timer deadline = 0;
    std::vector<ManagerFacts> facts;
    bool settled = false;
    Clock::time_point next{};
    std::string told;                // the trouble that was told last
    std::set<std::string> asked_of;  // libvirt: VMs that there were when it was asked last
};

ManagerWatch::ManagerWatch(EventLoop* loop, Callbacks callbacks)
    : loop_(loop), callbacks_(std::move(callbacks)) {}

ManagerWatch::~ManagerWatch() {
    for (const auto& [key, subject] : subjects_) {
        loop_->cancel(subject->deadline);
        if (subject->running) loop_->unwatch(subject->running->fd());
    }
}

void ManagerWatch::update(const std::vector<Vm>& vms) {
    std::set<std::string> present, libvirts;
    for (const Vm& vm : vms) {
        if (is_libvirts(vm)) libvirts.insert(key_of(vm));
        if (hypervisor::has_monitor(vm)) present.insert(key_of(vm));
    }
    if (!libvirts.empty()) present.insert("");
    std::erase_if(subjects_, [&](const auto& entry) {
        if (present.contains(entry.first)) return false;
        loop_->cancel(entry.second->deadline);
        if (entry.second->running) loop_->unwatch(entry.second->running->fd());
        return true;
    });
    for (const Vm& vm : vms) {
        if (hypervisor::has_monitor(vm)) {
            ask(key_of(vm), [&] { return Inquiry::of_monitor(vm); });
        }
    }
    if (libvirts.empty()) return;
    auto& libvirt = subjects_[""];
    if (!libvirt) libvirt = std::make_unique<Subject>();
    // A domain that is new is asked about at once.
    const bool fresh = !std::ranges::includes(libvirt->asked_of, libvirts);
    if (fresh && !libvirt->running) libvirt->next = {};
    if (!libvirt->running && Clock::now() >= libvirt->next) libvirt->asked_of = libvirts;
    ask("", [] { return Inquiry::of_libvirt(libvirt_uri()); });
}

bool ManagerWatch::apply(Vm& vm) const {
    const bool libvirt = is_libvirts(vm);
    if (!libvirt && !hypervisor::has_monitor(vm)) return true;
    const std::string key = key_of(vm);
    const auto found = subjects_.find(libvirt ? "" : key);
    if (found == subjects_.end()) return false;
    const Subject& subject = *found->second;
    const ManagerFacts* facts = libvirt                 ? domain_of(subject.facts, vm)
                                : subject.facts.empty() ? nullptr
                                                        : &subject.facts.front();
    if (facts != nullptr) hypervisor::apply_facts(*facts, vm);
    const bool asked = !libvirt || (subject.asked_of.contains(key) && !subject.running);
    return facts != nullptr || (subject.settled && asked);
}

std::vector<event::CpuRegisters> ManagerWatch::take_cpus(const Vm& vm) {
    const auto found = subjects_.find(key_of(vm));
    if (found == subjects_.end() || found->second->facts.empty()) return {};
    return std::exchange(found->second->facts.front().cpus, {});
}

void ManagerWatch::ask_soon(const Vm& vm) {
    const auto found = subjects_.find(key_of(vm));
    if (found != subjects_.end()) found->second->next = {};
}

void ManagerWatch::ask(const std::string& key, Start start) {
    auto& subject = subjects_[key];
    if (!subject) subject = std::make_unique<Subject>();
    if (subject->running || Clock::now() < subject->next) return;
    subject->next = Clock::now() + kAskEvery;
    auto inquiry = start();
    if (!inquiry.has_value()) return finish(key, fail(inquiry.error()));
    subject->running.emplace(std::move(*inquiry));
    loop_->watch(subject->running->fd(), [this, key] { on_readable(key); });
    subject->deadline = loop_->after(Inquiry::kLongest, [this, key] { finish(key, fail(late())); });
}

void ManagerWatch::on_readable(const std::string& key) {
    auto answer = subjects_.at(key)->running->take();
    if (!answer.has_value()) return finish(key, fail(std::move(answer).error()));
    if (*answer) finish(key, std::move(**answer));
}

void ManagerWatch::finish(const std::string& key, Result<std::vector<ManagerFacts>> answer) {
    Subject& subject = *subjects_.at(key);
    loop_->cancel(std::exchange(subject.deadline, 0));
    if (subject.running) {
        loop_->unwatch(subject.running->fd());
        subject.running.reset();
    }
    subject.settled = true;
    const std::string trouble = answer.has_value() ? "" : answer.error().to_text();
    if (trouble != subject.told && !trouble.empty()) {
        callbacks_.note(fmt::format("{} is not asked about its VMs: {}",
                                    key.empty() ? "libvirt" : "the monitor of " + key, trouble));
    }
    subject.told = trouble;
    if (answer.has_value()) {
        subject.facts = std::move(*answer);
    } else {
        // What does not change stays true; the state may not.
        for (ManagerFacts& facts : subject.facts) facts.state.clear();
    }
    callbacks_.changed();
}

// ---- orders -----------------------------------------------------------------------------------

struct Actor::Deed {
    Vm vm;
    event::Action action{};
    bool dry_run = false;
    Done done;
    unsigned attempts = 0;
    std::optional<Inquiry> inquiry;
    EventLoop::Timer timer = 0;
};

Actor::Actor(EventLoop* loop) : loop_(loop) {}

Actor::~Actor() {
    for (const auto& [vm, queue] : deeds_) {
        loop_->cancel(queue.front()->timer);
        if (queue.front()->inquiry) loop_->unwatch(queue.front()->inquiry->fd());
    }
}

void Actor::stop(const Error& why) {
    for (const auto& [vm, queue] : std::exchange(deeds_, {})) {
        loop_->cancel(queue.front()->timer);
        if (queue.front()->inquiry) loop_->unwatch(queue.front()->inquiry->fd());
        for (const auto& deed : queue) deed->done(fail(why));
    }
}

void Actor::act(const Vm& vm, event::Action action, bool dry_run, Done done) {
    const std::string key = key_of(vm);
    auto& queue = deeds_[key];
    queue.push_back(std::make_unique<Deed>(
        Deed{.vm = vm, .action = action, .dry_run = dry_run, .done = std::move(done)}));
    if (queue.size() > 1) return;
    queue.front()->timer = loop_->after(std::chrono::milliseconds(0), [this, key] { begin(key); });
}

void Actor::begin(const std::string& vm) {
    Deed& deed = *deeds_.at(vm).front();
    deed.timer = 0;
    ++deed.attempts;
    auto inquiry = Inquiry::to_act(deed.vm, deed.action, deed.dry_run);
    if (!inquiry.has_value()) {
        deed.attempts = kAttempts;  // it would be no better a moment later
        return finish(vm, fail(std::move(inquiry).error()));
    }
    deed.inquiry.emplace(std::move(*inquiry));
    loop_->watch(deed.inquiry->fd(), [this, vm] { on_readable(vm); });
    deed.timer = loop_->after(Inquiry::kLongest, [this, vm] {
        deeds_.at(vm).front()->timer = 0;
        finish(vm, fail(late()));
    });
}

void Actor::on_readable(const std::string& vm) {
    auto answer = deeds_.at(vm).front()->inquiry->take();
    if (!answer.has_value()) return finish(vm, fail(std::move(answer).error()));
    if (!*answer) return;
    if ((*answer)->size() != 1) {
        return finish(vm, fail(Code::malformed, "the discoverer does not say what was done"));
    }
    finish(vm, std::move((*answer)->front().done));
}

void Actor::finish(const std::string& vm, Result<std::string> result) {
    const std::string key = vm;  // that may belong to the watch which ends here
    auto& queue = deeds_.at(key);
    Deed& deed = *queue.front();
    loop_->cancel(std::exchange(deed.timer, 0));
    if (deed.inquiry) {
        loop_->unwatch(deed.inquiry->fd());
        deed.inquiry.reset();
    }
    if (!result.has_value() && result.error().code == Code::unavailable &&
        deed.attempts < kAttempts) {
        deed.timer = loop_->after(kBetweenAttempts, [this, key] { begin(key); });
        return;
    }
    const Done done = std::move(deed.done);
    queue.pop_front();
    if (queue.empty()) {
        deeds_.erase(key);
    } else {
        queue.front()->timer =
            loop_->after(std::chrono::milliseconds(0), [this, key] { begin(key); });
    }
    done(result);
}

}  // namespace underseer::agent
