#include "guests.h"

#include "agent/event_rules.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "detect/hidden_process/hidden_process.h"
#include "hypervisor/discover.h"
#include "hypervisor/ram.h"

namespace underseer::testing {

std::vector<std::string> all_kernels() {
    return {"5.10-cloud", "6.1-cloud", "6.1-generic", "6.12-cloud", "6.12-rt", "7.2-cloud"};
}

std::string test_name(const ::testing::TestParamInfo<std::string>& kernel) {
    std::string name = "kernel_" + kernel.param;
    std::ranges::replace(name, '.', '_');
    std::ranges::replace(name, '-', '_');
    return name;
}

bool nightly() {
    const char* set = std::getenv("UNDERSEER_NIGHTLY");
    return set && std::string_view(set) == "1";
}

agent::GuestSource source_of(const TestVm& vm) {
    const auto host = hypervisor::discover().value();
    const auto found = hypervisor::select(host, vm.name());
    if (!found.has_value()) fmt::print(stderr, "{}\n", found.error().to_text());
    CHECK(found.has_value());
    auto ram = hypervisor::open_ram(*found);
    if (!ram.has_value()) fmt::print(stderr, "{}\n", ram.error().to_text());
    CHECK(ram.has_value());
    agent::GuestSource source;
    source.name = vm.name();
    source.fds = std::move(ram->fds);
    source.vmm = std::move(ram->vmm);
    source.layout = std::move(ram->layouts.front());
    if (ram->layouts.size() > 1) source.alternative = std::move(ram->layouts[1]);
    return source;
}

agent::GuestSource image_source(const std::string& path) {
    agent::GuestSource source;
    source.name = path;
    source.image = true;
    source.fds.push_back(open_file(path, O_RDONLY).value());
    source.image_bytes = std::filesystem::file_size(path);
    return source;
}

agent::Introspector attach(const TestVm& vm) {
    return agent::Introspector::start(source_of(vm)).value();
}

const std::string& baseline_of(const std::string& kernel) {
    static std::map<std::string, std::string> made;
    auto& baseline = made[kernel];
    if (!baseline.empty()) return baseline;
    auto maker =
        agent::Introspector::start(image_source(TestVm::kernel_path(kernel) + "/vmlinuz")).value();
    const auto parts =
        maker.ask<agent::BaselineMadePart>({.topic = agent::Topic::make_baseline}).value();
    for (const agent::BaselineMadePart& part : parts.items) baseline += part.bytes;
    return baseline;
}

Result<void> use_baseline(agent::Introspector& introspector, const std::string& baseline) {
    for (std::size_t at = 0; at < baseline.size(); at += agent::kBaselinePartBytes) {
        agent::Question question{.topic = agent::Topic::baseline};
        question.baseline = agent::part_of(baseline, at);
        TRY(introspector.ask<event::CheckReport>(question));
    }
    return {};
}

Result<void> use_shipped_rules(agent::Introspector& introspector) {
    const std::string folder[] = {UNDERSEER_RULES};
    const auto rules =
        TRY(agent::load_event_rules(folder, agent::RuleOwner::anybody, /*must_be_there=*/true));
    CHECK(rules.refused.empty());
    for (std::size_t at = 0; at < rules.form.size(); at += agent::kBaselinePartBytes) {
        agent::Question question{.topic = agent::Topic::event_rules};
        question.event_rules = agent::part_of(rules.form, at);
        TRY(introspector.ask<agent::TextPart>(question));
    }
    return {};
}

agent::Question ask_for_hidden(bool deep) {
    return {.topic = agent::Topic::checks,
            .checks = {std::string(detect::HiddenProcessCheck::kName)},
            .deep = deep};
}

std::string start_long_arguments(TestVm& vm) {
    return vm.output_of(
        "/bin/workload long > /dev/null & while [ \"$(tr -cd '\\0' < /proc/$!/cmdline | wc -c)\" "
        "!= "
        "201 ]; do usleep 20000; done; echo $!");
}

}  // namespace underseer::testing
