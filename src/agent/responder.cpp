#include "agent/responder.h"

#include <fmt/format.h>

#include <algorithm>

#include "agent/paths.h"
#include "agent/service_manager.h"
#include "agent/trace_supervisor.h"
#include "base/limits.h"
#include "base/os.h"

namespace underseer::agent {

namespace {

EvidenceKeeper::Order order_for(const InstanceWatch& watch, const event::ActionTaken& taken) {
    return {.vm = watch.vm(),
            .instance = watch.instance(),
            .action = taken.action,
            .pid = {},
            .because = taken.because,
            .finding = {}};
}

Error the_agent_ends() {
    return {Code::gone, 0, "the agent ends"};
}

ActionResult result_of(const event::Instance& instance, const event::ActionTaken& taken) {
    return {.instance = instance.name,
            .action = std::string(event::to_string(taken.action)),
            .result = taken.result,
            .evidence = taken.evidence};
}

// What undoes an action; nothing where nothing does.
std::optional<event::Action> undoing(event::Action action) {
    if (action == event::Action::pause) return event::Action::resume;
    if (action == event::Action::isolate) return event::Action::reconnect;
    return std::nullopt;
}

std::optional<std::uint32_t> some_pid(std::uint32_t pid) {
    return pid == 0 ? std::nullopt : std::optional(pid);
}

}  // namespace

Responder::Responder(EventLoop* loop, const policy::Policy* policy, const crypto::SigningKey* key,
                     Recorder* recorder, const std::filesystem::path& state_dir,
                     Callbacks callbacks)
    : loop_(loop),
      recorder_(recorder),
      callbacks_(std::move(callbacks)),
      actor_(loop),
      evidence_(loop, policy, key, state_dir),
      programs_(loop),
      state_dir_(state_dir),
      owed_path_(state_dir / "owed") {
    const auto bytes = read_file(owed_path_, limits::kMaxFrameBytes);
    if (!bytes.has_value()) return;
    auto owed = event::decode<std::vector<Owed>>(as_bytes(*bytes));
    if (owed.has_value()) {
        owed_ = std::move(*owed);
    } else {
        say(LogLevel::warning, fmt::format("{} cannot be read: VMs that policy has paused for a "
                                           "while may stay so",
                                           owed_path_.native()));
    }
}

// ---- what is to be undone ---------------------------------------------------------------------

void Responder::owe(const Chain& chain, event::Action done) {
    const auto undo = undoing(done);
    if (!undo || std::ranges::find(chain.actions, *undo) == chain.actions.end()) return;
    owed_.push_back({chain.instance.id, *undo, chain.finding.finding.rule, chain.finding.uid});
    save_owed();
}

bool Responder::is_held_by_another(const Chain& chain, event::Action action) const {
    return std::ranges::any_of(owed_, [&](const Owed& owed) {
        return owed.instance_id == chain.instance.id && owed.action == action &&
               !owed.is(chain, action);
    });
}

void Responder::paid(const std::string& instance_id, std::optional<event::Action> action) {
    const auto erased = std::erase_if(owed_, [&](const Owed& owed) {
        return owed.instance_id == instance_id && (!action || owed.action == *action);
    });
    if (erased != 0) save_owed();
}

void Responder::save_owed() {
    const std::string bytes = event::encode(owed_);
    const auto written = replace_file(owed_path_, as_bytes(bytes));
    if (!written.has_value()) say(LogLevel::warning, written.error().to_text());
}

// Whoever wanted it: a person's order may come between two of policy.
void Responder::note_state(const std::string& instance_id, event::Action done) {
    if (done != event::Action::pause && done != event::Action::resume) return;
    const std::string state = done == event::Action::pause ? "paused" : "running";
    left_as_[instance_id] = state;
    evidence_.state_changed(instance_id, state);
}

void Responder::put_right(const InstanceWatch& watch) {
    constexpr std::chrono::minutes kBetweenTries{1};
    if (!TraceRecord::is_owed(state_dir_, watch.vm())) return;
    const auto now = std::chrono::steady_clock::now();
    const auto [tried, is_first] = tried_.try_emplace(watch.instance().id, now);
    if (!is_first && now - tried->second < kBetweenTries) return;
    tried->second = now;
    act(watch,
        {.action = event::Action::resume,
         .because = "an exact trace was killed together with its supervisor"},
        [](const auto&) {});
}

void Responder::ended(const std::string& instance_id) {
    tried_.erase(instance_id);
    left_as_.erase(instance_id);
    paid(instance_id, std::nullopt);
}

void Responder::take_over(const InstanceWatch& watch) {
    for (const Owed& owed : owed_) {
        if (owed.instance_id != watch.instance().id) continue;
        act(watch,
            {.action = owed.action,
             .because =
                 fmt::format("policy, because of {}; the agent was gone before it", owed.rule),
             .finding_uid = owed.finding_uid},
            [](const auto&) {});
    }
}

// ---- orders, and what policy wants ------------------------------------------------------------

void Responder::act(const InstanceWatch& watch, event::ActionTaken taken, Done done) {
    evidence_.end_exact_trace(watch.vm());
    actor_.act(watch.vm(), taken.action, /*dry_run=*/false,
               [this, taken = std::move(taken), vm = watch.vm(), instance = watch.instance(),
                done = std::move(done)](const Result<std::string>& result) mutable {
                   taken.done = result.has_value();
                   taken.result = result.has_value() ? *result : result.error().to_text();
                   log(instance, taken);
                   if (taken.done) paid(instance.id, taken.action);
                   if (taken.done) note_state(instance.id, taken.action);
                   if (taken.done && taken.action == event::Action::resume &&
                       TraceRecord::is_owed(state_dir_, vm)) {
                       TraceRecord::settle(state_dir_, vm);
                   }
                   callbacks_.changed(vm);
                   if (!result.has_value()) return done(fail(result.error()));
                   done(result_of(instance, taken));
               });
}

void Responder::keep_evidence(EvidenceKeeper::Order order, event::ActionTaken taken, Done done) {
    const event::Instance instance = order.instance;
    evidence_.keep(std::move(order),
                   [this, taken = std::move(taken), instance,
                    done = std::move(done)](const Result<EvidenceKeeper::Bundle>& kept) mutable {
                       taken.done = kept.has_value();
                       if (kept.has_value()) {
                           taken.result = kept->text;
                           taken.evidence = kept->folder.native();
                           taken.evidence_sha256 = kept->sha256;
                       } else {
                           taken.result = kept.error().to_text();
                       }
                       log(instance, taken);
                       if (!kept.has_value()) return done(fail(kept.error()));
                       done(result_of(instance, taken));
                   });
}

void Responder::log(const event::Instance& instance, const event::ActionTaken& taken) {
    recorder_->critical(
        event::action_event(recorder_->source(), Recorder::now_ns(), instance, taken));
    say(taken.done ? LogLevel::notice : LogLevel::critical,
        fmt::format("{} {}: {}{} ({})", to_string(taken.action), instance.name,
                    taken.done ? "" : "NOT DONE: ", taken.result, taken.because));
}

void Responder::obey(const InstanceWatch& watch, const event::Asker& asker,
                     const ControlRequest& request, Done done) {
    event::ActionTaken taken{.action = request.action,
                             .because = fmt::format("user {} wants it", asker.user),
                             .asker = asker};
    EvidenceKeeper::Order order = order_for(watch, taken);
    order.pid = some_pid(request.pid);
    if (!request.dry_run) {
        if (!event::keeps_evidence(request.action)) {
            return act(watch, std::move(taken), std::move(done));
        }
        if (watch.is_looked_into()) {
            return keep_evidence(std::move(order), std::move(taken), std::move(done));
        }
    }
    auto tell = [instance = watch.instance(), taken = std::move(taken),
                 done = std::move(done)](const Result<std::string>& answer) mutable {
        if (!answer.has_value()) return done(fail(answer.error()));
        taken.result = *answer;
        ActionResult result = result_of(instance, taken);
        result.dry_run = true;
        done(result);
    };
    if (!event::keeps_evidence(request.action)) {
        return actor_.act(watch.vm(), request.action, /*dry_run=*/true, std::move(tell));
    }
    auto answer =
        watch.is_looked_into()
            ? evidence_.plan(order)
            : Result<std::string>(
                  fail(Code::unavailable, fmt::format("{} is not looked into: {}",
                                                      watch.instance().name, watch.status().why)));
    // Answers come later.
    loop_->after(std::chrono::milliseconds(0),
                 [tell = std::move(tell), answer = std::move(answer)]() mutable { tell(answer); });
}

void Responder::go_on(Chain chain) {
    if (chain.actions.empty() && !chain.programs.empty()) return run_program(std::move(chain));
    if (chain.actions.empty()) return;
    const event::OpenFinding& finding = chain.finding;
    event::ActionTaken taken{.action = chain.actions.front(),
                             .because = fmt::format("policy, because of {}", finding.finding.rule),
                             .finding_uid = finding.uid};
    chain.actions.erase(chain.actions.begin());
    const InstanceWatch* watch = callbacks_.find(chain.instance.id);
    if (watch == nullptr) {
        taken.result = chain.instance.kind == "vm" ? "the VM has ended" : "it is no VM";
        log(chain.instance, taken);
        return go_on(std::move(chain));
    }
    if (is_held_by_another(chain, taken.action)) {
        taken.done = true;
        taken.result = "left to another finding, for which it still stands so";
        std::erase_if(owed_, [&](const Owed& owed) { return owed.is(chain, taken.action); });
        save_owed();
        log(chain.instance, taken);
        return go_on(std::move(chain));
    }
    if (stopping_) {
        const auto result = do_last(*watch, taken.action);
        taken.done = result.has_value();
        taken.result = result.has_value() ? *result : result.error().to_text();
        log(chain.instance, taken);
        if (taken.done) paid(chain.instance.id, taken.action);
        return go_on(std::move(chain));
    }
    owe(chain, taken.action);
    if (event::keeps_evidence(taken.action)) {
        EvidenceKeeper::Order order = order_for(*watch, taken);
        order.pid = some_pid(finding.finding.pid);
        order.finding = finding;
        const auto left = left_as_.find(chain.instance.id);
        if (chain.has_stopped && left != left_as_.end()) order.vm.state = left->second;
        return keep_evidence(std::move(order), std::move(taken),
                             [this, chain = std::move(chain)](const auto&) { go_on(chain); });
    }
    const event::Action action = taken.action;
    act(*watch, std::move(taken),
        [this, action, chain = std::move(chain)](const Result<ActionResult>& result) mutable {
            chain.has_stopped |= result.has_value() && action == event::Action::pause;
            go_on(std::move(chain));
        });
}

Result<std::string> Responder::do_last(const InstanceWatch& watch, event::Action action) const {
    if (action != event::Action::resume && action != event::Action::reconnect)
        return fail(the_agent_ends());
    auto inquiry = TRY(Inquiry::to_act(watch.vm(), action, /*dry_run=*/false));
    const auto facts = TRY(inquiry.wait(std::chrono::steady_clock::now() + Inquiry::kLongest));
    if (facts.size() != 1)
        return fail(Code::malformed, "the discoverer does not say what was done");
    return facts.front().done;
}

void Responder::stop() {
    stopping_ = true;
    evidence_.stop(the_agent_ends());
    actor_.stop(the_agent_ends());
    programs_.stop(the_agent_ends());
}

void Responder::run_program(Chain chain) {
    const std::string program = chain.programs.front();
    chain.programs.erase(chain.programs.begin());
    if (stopping_) return go_on(std::move(chain));
    event::ActionTaken taken{
        .action = event::Action::run,
        .because = fmt::format("policy, because of {}", chain.finding.finding.rule),
        .finding_uid = chain.finding.uid};
    const std::string event = chain.event + '\n';
    programs_.run(program, event,
                  [this, taken = std::move(taken),
                   chain = std::move(chain)](const Result<std::string>& result) mutable {
                      taken.done = result.has_value();
                      taken.result = result.has_value() ? *result : result.error().to_text();
                      log(chain.instance, taken);
                      go_on(std::move(chain));
                  });
}

}  // namespace underseer::agent
