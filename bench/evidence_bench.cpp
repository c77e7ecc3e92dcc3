// How long it takes to keep evidence of a VM that runs, and what it costs: by the agent, as a
// person orders it, beside the same bytes copied by `underseer dump`. A TCG guest of 512 MiB.
#include <fmt/format.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <optional>
#include <vector>

#include "testing/test_agent.h"
#include "testing/test_vm.h"

namespace {

using namespace underseer;
using testing::TestAgent;
using testing::TestVm;
constexpr int kRounds = 9;

double median(std::vector<double> values) {
    std::ranges::sort(values);
    return values[values.size() / 2];
}

double seconds_of(TestAgent& agent, const std::vector<std::string>& words) {
    const auto begin = std::chrono::steady_clock::now();
    const testing::RunResult ran = agent.cli(words);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    if (ran.status != 0) fmt::print("{}\n", ran.output);
    CHECK(ran.status == 0);
    return took.count();
}

}  // namespace

int main() {
    auto booted = TestVm::boot({.workload = false});
    if (!booted.has_value()) {
        fmt::print(stderr, "{}\n", booted.error().to_text());
        return 1;
    }
    TestVm vm = std::move(*booted);
    const std::string said = vm.output_of("sleep 100000 > /dev/null 2>&1 & echo $!");
    const std::string pid = said.substr(0, said.find('\n'));
    TestAgent agent(
        fmt::format("[evidence]\nkeep_bytes = {}\ntrace = \"off\"\n"
                    "[instances]\nonly = [\"name:{}\"]\n",
                    64ull << 30, vm.name()));
    agent.start();
    agent.wait_until_watched(vm.name());
    std::vector<double> lists, process, dump;
    const auto core = std::filesystem::temp_directory_path() / (vm.name() + ".core");
    std::vector<double> plain;
    for (int i = 0; i < kRounds; ++i) {
        lists.push_back(seconds_of(agent, {"act", vm.name(), "capture"}));
        process.push_back(seconds_of(agent, {"act", vm.name(), "capture", "--pid", pid}));
        dump.push_back(seconds_of(agent, {"act", vm.name(), "dump"}));
        const auto begin = std::chrono::steady_clock::now();
        CHECK(testing::run_program(
                  {testing::program_path("underseer"), "dump", vm.name(), core.native(), "--force"})
                  .status == 0);
        const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
        plain.push_back(took.count());
    }
    std::filesystem::remove(core);
    fmt::print("capture, the lists alone              {:6.0f} ms\n", 1000 * median(lists));
    fmt::print("capture --pid, of a small process      {:6.0f} ms\n", 1000 * median(process));
    fmt::print("dump, hashed and synced               {:6.0f} ms\n", 1000 * median(dump));
    fmt::print("underseer dump                        {:6.0f} ms, ratio {:.2f}\n",
               1000 * median(plain), median(dump) / median(plain));
}
