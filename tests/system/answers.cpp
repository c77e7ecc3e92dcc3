#include "answers.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "agent/process_trace.h"
#include "detect/check.h"
#include "detect/hidden_process/hidden_process.h"
#include "detect/watches.h"
#include "sigma/compile.h"

namespace underseer::testing {

namespace {

// One of each category, that what they rest on is asked for.
sigma::Matcher event_rules_of_all() {
    sigma::RuleSet set;
    for (const char* category : {"process_creation", "network_connection"}) {
        set.add(std::string(category) + ".yml",
                std::string("title: x\nlogsource: {product: linux, category: ") + category +
                    "}\ndetection:\n  a: {CommandLine|contains: workload}\n  condition: a\n");
    }
    set.add("driver_load.yml",
            "title: x\nlogsource: {product: linux, category: driver_load}\n"
            "detection:\n  a: {ImageLoaded: '*'}\n  condition: a\n");
    return sigma::Matcher::of(std::move(set.rules)).value();
}

// Of all checks but that of hidden processes, whose views are compared by themselves.
std::vector<event::CheckReport> reports_of(guest_linux::Guest& guest) {
    std::vector<std::string> names;
    for (const std::string_view name : detect::check_names()) {
        if (name != detect::HiddenProcessCheck::kName) names.emplace_back(name);
    }
    detect::EventRules rules;
    rules.know(event_rules_of_all());
    return detect::run(detect::make_checks(names, {.event_rules = &rules}), guest, [](auto) {});
}

// What one process of the workload does, the only one with that name. Functions are told by where
// they are: of several names of one another may be left when a page of them is gone.
void add_trace(guest_linux::Guest& guest, Answers& all) {
    constexpr std::string_view kTopic = "trace";
    auto& fields = all.fields[std::string(kTopic)];
    auto& gaps = all.gaps[std::string(kTopic)];
    const auto tasks = guest.tasks({.user_memory = false, .paths = false}).items;
    const auto process = std::ranges::find_if(
        tasks, [](const event::Task& task) { return task.comm.starts_with("\x1b[31mred"); });
    if (process == tasks.end()) {
        gaps.insert("the process is not there");
        return;
    }
    agent::ProcessTrace trace;
    const auto parts = trace.begin(
        guest, &guest.kernel().physical(),
        {.begin = true, .for_ms = agent::kMinTraceMs, .period_us = agent::kMaxTracePeriodUs},
        process->tgid);
    if (!parts.has_value()) {
        gaps.insert(parts.error().to_text());
        return;
    }
    for (const agent::TracePart& part : parts->items) {
        gaps.insert(part.summary.gaps.begin(), part.summary.gaps.end());
        for (const agent::TraceThread& thread : part.threads) {
            for (const agent::TraceMoment& moment : thread.moments) {
                const auto add = [&](std::string_view what, std::string text) {
                    fields[fmt::format("{} {}", thread.pid, what)] = std::move(text);
                };
                add("state", std::string(to_string(moment.state)));
                for (const std::string& ended : {moment.stack_ended, moment.user_stack_ended}) {
                    if (!ended.empty()) gaps.insert(fmt::format("{} {}", thread.pid, ended));
                }
                if (moment.mode == agent::ThreadMode::unknown) continue;
                add("mode", std::string(to_string(moment.mode)));
                if (moment.call.available()) add("call", moment.call.value().name);
                for (std::size_t i = 0; i < moment.stack.size(); ++i) {
                    if (moment.stack[i].is_guess) break;
                    add(fmt::format("kernel {}", i), fmt::format("{:#x}", moment.stack[i].address));
                }
                for (std::size_t i = 0; i < moment.user_stack.size(); ++i) {
                    const auto& frame = moment.user_stack[i];
                    const std::string which = fmt::format("program {}", i);
                    add(which, fmt::format("{:#x}", frame.address));
                    if (frame.file.empty()) continue;
                    add(which + " place", fmt::format("{}+{:#x}", frame.file, frame.offset_bytes));
                    if (frame.symbol.empty()) {
                        gaps.insert(fmt::format("{} {} has no name", thread.pid, which));
                    } else {
                        add(which + " offset", frame.symbol.substr(frame.symbol.find('+')));
                    }
                }
            }
        }
    }
}

}  // namespace

Answers all_answers(guest_linux::Guest& guest, Search search, std::string_view only) {
    guest.new_epoch();
    Answers all;
    const auto wanted = [&](std::string_view topic) { return only.empty() || only == topic; };
    if (wanted("info")) {
        event::SystemInfo info = guest.info();
        info.notes.clear();  // they say what is missing
        all.add("info", "", info);
    }
    const auto at = [](const auto& item) { return fmt::format("{:#x}", item.address); };
    if (wanted("tasks")) all.add_all<event::Task>("tasks", guest.tasks({.environment = true}), at);
    if (wanted("modules")) all.add_all<event::Module>("modules", guest.modules(), at);
    if (wanted("sockets")) all.add_all<event::Socket>("sockets", guest.sockets(), at);
    if (wanted("files")) {
        all.add_all<event::OpenFile>("files", guest.open_files(std::nullopt), [](const auto& file) {
            return fmt::format("pid {} fd {}", file.pid, file.fd);
        });
    }
    if (wanted("maps")) {
        all.add_all<event::Vma>("maps", guest.memory_maps(std::nullopt), [](const auto& area) {
            return fmt::format("pid {} {:#x}", area.pid, area.begin);
        });
    }
    if (wanted("BPF programs")) {
        all.add_all<event::BpfProgram>("BPF programs", guest.bpf_programs(), at);
    }
    if (wanted("BPF maps")) all.add_all<event::BpfMap>("BPF maps", guest.bpf_maps(), at);
    if (wanted("BPF links")) all.add_all<event::BpfLink>("BPF links", guest.bpf_links(), at);
    if (wanted("mounts")) {
        all.add_all<event::Mount>("mounts", guest.mounts(), [](const auto& mount) {
            return fmt::format("namespace {} mount {}", mount.mnt_namespace, mount.id);
        });
    }
    if (wanted("interfaces")) {
        const auto which = [](const auto& item) {
            return fmt::format("namespace {} interface {}", item.net_namespace, item.index);
        };
        all.add_all<event::NetworkInterface>("interfaces", guest.interfaces(), which);
    }
    if (wanted("log")) {
        all.add_all<event::KernelLogLine>("log", guest.kernel_log(), [](const auto& line) {
            return fmt::format("line {}", line.sequence);
        });
    }
    if (wanted("checks")) {
        for (const event::CheckReport& report : reports_of(guest)) {
            auto& gaps = all.gaps[report.check];
            gaps.insert(report.coverage.gaps.begin(), report.coverage.gaps.end());
            gaps.insert(report.coverage.limits.begin(), report.coverage.limits.end());
            if (report.outcome == event::Outcome::unavailable) gaps.insert(report.reason);
            auto& fields = all.fields[report.check];
            for (const event::Finding& finding : report.findings) {
                fields[finding.rule + " " + finding.key] = finding.subject;
            }
        }
    }
    if (wanted("trace")) add_trace(guest, all);
    if (!only.empty()) return all;
    auto views = guest.task_views();
    if (search == Search::ram)
        views.push_back(guest.ram_scan(guest.find_task_places(views), views));
    for (const auto& view : views) {
        const std::string topic(to_string(view.view));
        if (view.gap) all.gaps[topic].insert(*view.gap);
        for (const GuestVirt task : view.tasks) {
            all.fields[topic][fmt::format("{:#x}", task.value)] = "";
        }
    }
    return all;
}

void expect_truth_or_a_gap(const Answers& said, const Answers& whole, Search search) {
    const auto of = [](const auto& topics, const std::string& topic) {
        const auto found = topics.find(topic);
        return found == topics.end() ? typename std::decay_t<decltype(topics)>::mapped_type{}
                                     : found->second;
    };
    std::set<std::string> topics;  // of both: one that is empty in truth may be invented
    for (const Answers* answers : {&said, &whole}) {
        for (const auto& [topic, fields] : answers->fields) topics.insert(topic);
    }
    for (const std::string& topic : topics) {
        if (topic == "ram_scan" && search == Search::no) continue;
        const auto truth = of(whole.fields, topic), fields = of(said.fields, topic);
        const bool gap = of(said.gaps, topic) != of(whole.gaps, topic);
        std::size_t wrong = 0;
        for (const auto& [which, text] : fields) {
            const auto true_text = truth.find(which);
            if (true_text != truth.end() && true_text->second == text) continue;
            // As far as owners could be found: the gap says that there may be others.
            if (gap && which.ends_with(".owner_pids")) continue;
            if (++wrong > 1) continue;  // one of a topic tells enough
            ADD_FAILURE() << topic << " " << which << " is " << text << ", in truth "
                          << (true_text == truth.end() ? "nothing" : true_text->second);
        }
        EXPECT_TRUE(wrong != 0 || fields.size() == truth.size() || gap)
            << topic << ": " << fields.size() << " of " << truth.size() << " fields, and no gap";
    }
}

}  // namespace underseer::testing
