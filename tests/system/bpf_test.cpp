// BPF as a guest uses it, against what its own kernel lists and what was attached.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <optional>
#include <set>
#include <sstream>

#include "detect/check.h"
#include "guests.h"

namespace underseer::testing {
namespace {

using agent::Topic;

class Bpf : public ::testing::TestWithParam<std::string> {
  protected:
    void SetUp() override {
        if (GetParam() != "6.1-cloud" && !nightly()) GTEST_SKIP() << "in the nightly run only";
        auto booted = TestVm::boot({.kernel = GetParam(), .workload = false});
        if (!booted.has_value() && booted.error().code == Code::unavailable) {
            GTEST_SKIP() << booted.error().to_text();
        }
        ASSERT_TRUE(booted.has_value()) << booted.error().to_text();
        vm_.emplace(std::move(*booted));
        introspector_.emplace(attach(*vm_));
        vm_->output_of(
            "/bin/bpf_user attach > /tmp/bpf 2> /tmp/lacks & "
            "until grep -q ready /tmp/bpf; do sleep 0.1; done");
        std::istringstream said(vm_->output_of("cat /tmp/bpf"));
        said >> pid_;
        for (std::string program, kind, target; said >> program && program != "ready";) {
            said >> kind;
            std::getline(said >> std::ws, target);
            attached_.emplace(program, kind + " " + target);
        }
    }

    template <typename T>
    std::vector<T> ask(Topic topic) {
        const auto answer = introspector_->ask<T>({.topic = topic});
        EXPECT_TRUE(answer.has_value()) << answer.error().to_text();
        if (!answer.has_value()) return {};
        EXPECT_EQ(answer->unreadable, 0u) << answer->first_gap;
        return answer->items;
    }
    // The lines of what the guest's kernel lists itself that begin with this word.
    std::set<std::string> listed(const std::string& word) {
        std::istringstream said(vm_->output_of("/bin/bpf_user list"));
        std::set<std::string> lines;
        for (std::string line; std::getline(said, line);) {
            if (line.starts_with(word + " ")) lines.insert(line);
        }
        return lines;
    }

    std::optional<TestVm> vm_;
    std::optional<agent::Introspector> introspector_;
    std::uint32_t pid_ = 0;
    std::map<std::string, std::string> attached_;  // by program
};
INSTANTIATE_TEST_SUITE_P(, Bpf, ::testing::ValuesIn(all_kernels()), test_name);

// Enumerators of include/uapi/linux/bpf.h, which do not change.
std::uint32_t number_of(const std::string& word, const std::map<std::string, std::uint32_t>& all) {
    const auto found = all.find(word);
    EXPECT_NE(found, all.end()) << word;
    return found == all.end() ? 0 : found->second;
}

TEST_P(Bpf, is_listed_as_by_the_kernel_itself) {
    const std::map<std::string, std::uint32_t> program_types{
        {"kprobe", 2},          {"sched_cls", 3},  {"tracepoint", 5},      {"xdp", 6},
        {"perf_event", 7},      {"cgroup_skb", 8}, {"cgroup_sock", 9},     {"cgroup_device", 15},
        {"raw_tracepoint", 17}, {"tracing", 26},   {"flow_dissector", 22}, {"lsm", 29},
        {"sk_lookup", 30},      {"syscall", 31},   {"netfilter", 32}};
    const std::map<std::string, std::uint32_t> map_types{{"hash", 1}, {"array", 2}};
    const std::map<std::string, std::uint32_t> link_types{
        {"raw_tracepoint", 1}, {"tracing", 2},    {"cgroup", 3},
        {"iter", 4},           {"netns", 5},      {"xdp", 6},
        {"perf_event", 7},     {"netfilter", 10}, {"tcx", 11}};
    std::set<std::string> programs, maps, links;
    for (const auto& one : ask<event::BpfProgram>(Topic::bpf_programs)) {
        EXPECT_TRUE(one.listed) << one.name;
        EXPECT_TRUE(one.has_symbol.value()) << one.name;
        EXPECT_EQ(one.owner_pids,
                  (one.name.starts_with("u_") ? std::vector{pid_} : std::vector<std::uint32_t>{}))
            << one.name;
        std::string line =
            fmt::format("program {} {} {} ", one.id, number_of(one.type, program_types),
                        one.name.empty() ? "-" : one.name);
        for (const std::uint32_t map : one.map_ids.value()) line += fmt::format("{},", map);
        programs.insert(line);
    }
    for (const auto& one : ask<event::BpfMap>(Topic::bpf_maps)) {
        EXPECT_TRUE(one.listed) << one.name;
        EXPECT_EQ(one.frozen, one.name == "u_array" || !one.name.starts_with("u_")) << one.name;
        maps.insert(fmt::format("map {} {} {} {} {} {}", one.id, number_of(one.type, map_types),
                                one.name.empty() ? "-" : one.name, one.key_bytes, one.value_bytes,
                                one.max_entries));
    }
    for (const auto& one : ask<event::BpfLink>(Topic::bpf_links)) {
        EXPECT_TRUE(one.listed) << one.target.value();
        EXPECT_EQ(one.owner_pids, std::vector{pid_}) << one.target.value();
        links.insert(fmt::format("link {} {} {}", one.id, number_of(one.type, link_types),
                                 one.program_id.value()));
    }
    EXPECT_EQ(programs, listed("program"));
    EXPECT_EQ(maps, listed("map"));
    EXPECT_EQ(links, listed("link"));
}

TEST_P(Bpf, is_attached_where_its_owner_has_attached_it) {
    // Every one of these kernels has these; what else it lacks, it has said.
    for (const char* program :
         {"u_raw", "u_fentry", "u_fexit", "u_lsm", "u_iter", "u_kprobe", "u_tracepoint", "u_perf",
          "u_group", "u_group_link", "u_xdp_link", "u_xdp", "u_tc", "u_lookup", "u_dissector"}) {
        EXPECT_TRUE(attached_.contains(program)) << program << vm_->output_of("cat /tmp/lacks");
    }
    std::map<std::string, std::string> seen;
    for (const auto& one : ask<event::BpfProgram>(Topic::bpf_programs)) {
        for (const event::BpfAttachment& place : one.attachments.value()) {
            EXPECT_FALSE(seen.contains(one.name)) << one.name << " is attached once";
            seen[one.name] = place.kind + " " + place.target;
        }
    }
    EXPECT_EQ(seen, attached_);
    // A link says the same as its program.
    for (const auto& one : ask<event::BpfLink>(Topic::bpf_links)) {
        EXPECT_TRUE(std::ranges::any_of(attached_,
                                        [&](const auto& attached) {
                                            return attached.second ==
                                                   one.kind + " " + one.target.value();
                                        }))
            << one.kind << " " << one.target.value();
    }
}

TEST_P(Bpf, is_no_finding) {
    const auto reports =
        introspector_->ask<event::CheckReport>({.topic = Topic::checks}).value().items;
    EXPECT_EQ(reports.size(),
              detect::all_checks().size() - 2);  // there are no rules of events, and no programs
    for (const event::CheckReport& report : reports) {
        EXPECT_NE(report.outcome, event::Outcome::unavailable)
            << report.check << ": " << report.reason;
        for (const event::Finding& finding : report.findings) {
            ADD_FAILURE() << finding.rule << ": " << finding.subject;
        }
    }
    vm_->output_of(fmt::format("kill -9 {}; sleep 0.5; rmdir /sys/fs/cgroup/bpf", pid_));
    // What has no link outlives its owner; the kernel takes its time to empty a cgroup.
    std::map<std::string, std::string> seen, left;
    for (const char* program : {"u_xdp", "u_tc", "u_dissector"}) {
        if (attached_.contains(program)) left[program] = attached_[program];
    }
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    do {
        seen.clear();
        for (const auto& one : ask<event::BpfProgram>(Topic::bpf_programs)) {
            for (const event::BpfAttachment& place : one.attachments.value()) {
                seen[one.name] = place.kind + " " + place.target;
            }
        }
    } while (seen != left && std::chrono::steady_clock::now() < deadline);
    EXPECT_EQ(seen, left);
    EXPECT_EQ(ask<event::BpfLink>(Topic::bpf_links).size(), 0u);
}

}  // namespace
}  // namespace underseer::testing
