// What a guest feels of being watched: work inside it without anybody who watches, with an agent at
// its default policy and the rules that come with it, and with auditd in the guest itself, in
// turns, on a guest of one CPU. And what the agent takes meanwhile. TCG guests.
//
//     workload_bench [ROUNDS]    9 unless said otherwise: some 2 % can be told apart; 25: some 1 %
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <sstream>
#include <thread>

#include "testing/test_agent.h"
#include "testing/test_vm.h"

namespace {

using namespace underseer;
using testing::TestAgent;
using testing::TestVm;

constexpr double kSeconds = 3;

double median(std::vector<double> values) {
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::ranges::nth_element(values, middle);
    return *middle;
}

// How many of `pairs` sorted ratios lie outside of the 95 % interval of their median at each end:
// the most for which the binomial distribution gives either end at most 2.5 %.
std::size_t outside(std::size_t pairs) {
    double term = std::pow(0.5, static_cast<double>(pairs)), sum = term;
    std::size_t count = 0;
    while (sum <= 0.025) {
        ++count;
        term *= static_cast<double>(pairs - count + 1) / static_cast<double>(count);
        sum += term;
    }
    return count == 0 ? 0 : count - 1;
}

// The median of paired ratios, and the 95 % interval of that median by order statistics.
struct Ratio {
    double middle, low, high;
};
Ratio ratio_of(const std::vector<double>& with, const std::vector<double>& without) {
    std::vector<double> ratios;
    for (std::size_t i = 0; i < with.size(); ++i) ratios.push_back(with[i] / without[i]);
    std::ranges::sort(ratios);
    const std::size_t beyond = outside(ratios.size());
    return {ratios[ratios.size() / 2], ratios[beyond], ratios[ratios.size() - 1 - beyond]};
}

std::string text_of(const Ratio& ratio) {
    return fmt::format("{:.3f} ({:.3f} to {:.3f})", ratio.middle, ratio.low, ratio.high);
}

std::vector<double> measure(TestVm& vm, const std::string& work) {
    std::istringstream line(
        vm.output_of(fmt::format("/bin/workload measure_{} {}", work, kSeconds)));
    std::vector<double> numbers;
    for (double number = 0; line >> number;) numbers.push_back(number);
    CHECK(!numbers.empty());
    return numbers;
}

// What a round's numbers of one kind of work are.
struct Column {
    const char* work;
    std::size_t index;
    const char* what;
};
constexpr Column kColumns[] = {{"gap", 0, "longest gap of a clock loop, us"},
                               {"spin", 0, "CPU-bound, rounds/s"},
                               {"forks", 0, "forks/s"},
                               {"starts", 0, "programs started/s"},
                               {"requests", 0, "requests/s"},
                               {"paced", 0, "1000 requests/s, median us"},
                               {"paced", 1, "1000 requests/s, p99 us"},
                               {"paced", 2, "1000 requests/s, p99.9 us"}};

// Who watches meanwhile.
enum Arm : std::size_t { kNobody, kAgent, kAuditd };
constexpr std::size_t kArms = 3;

}  // namespace

int main(int argc, char** argv) {
    const int rounds = argc > 1 ? std::atoi(argv[1]) : 9;
    if (rounds < 1) {
        fmt::print(stderr, "usage: workload_bench [ROUNDS]\n");
        return 2;
    }
    auto booted = TestVm::boot({.memory_mib = 1024, .workload = false, .disk = true});
    if (!booted.has_value()) {
        fmt::print(stderr, "{}\n", booted.error().to_text());
        return 1;
    }
    TestVm& vm = *booted;
    TestAgent agent(fmt::format("[rules]\nsigma = [\"{}\"]\n", UNDERSEER_RULES));
    // As it is where nobody has asked for the kernel's audit.
    vm.output_of("load no_audit");
    std::map<std::string, std::vector<std::vector<double>>> measured[kArms];
    std::vector<double> cpu, worker_rss;
    for (int round = 0; round < rounds; ++round) {
        for (std::size_t turn = 0; turn < kArms; ++turn) {
            const auto arm = static_cast<Arm>((turn + static_cast<std::size_t>(round)) % kArms);
            if (arm == kAgent) {
                agent.start();
                agent.wait_until_watched(vm.name());
            }
            if (arm == kAuditd) vm.output_of("load audit");
            for (const char* work : {"gap", "spin", "forks", "starts", "requests", "paced"}) {
                measured[arm][work].push_back(measure(vm, work));
            }
            if (arm == kAuditd) vm.output_of("load no_audit");
            if (arm == kAgent) {
                const auto status = agent.instance(vm.name()).value();
                const auto number = [&](const char* key) {
                    return static_cast<double>(status.at(key).value().as_uint().value());
                };
                cpu.push_back(100 * number("cpu_ns") / number("watched_ns"));
                worker_rss.push_back(number("resident_bytes") / (1 << 20));
                agent.kill(SIGTERM);
            }
        }
    }
    fmt::print(
        "one guest, {} rounds of {} s each; ratios are those of a round, their median and its 95 % "
        "interval\n",
        rounds, kSeconds);
    fmt::print("{:<33}{:>9}{:>9}{:>9}   {:<26}{:<26}{}\n", "", "nobody", "agent", "auditd",
               "agent/nobody", "auditd/nobody", "agent/auditd");
    for (const Column& column : kColumns) {
        std::vector<double> numbers[kArms];
        for (std::size_t arm = 0; arm < kArms; ++arm) {
            for (const auto& of_round : measured[arm][column.work]) {
                numbers[arm].push_back(of_round[column.index]);
            }
        }
        fmt::print("{:<33}{:>9.1f}{:>9.1f}{:>9.1f}   {:<26}{:<26}{}\n", column.what,
                   median(numbers[kNobody]), median(numbers[kAgent]), median(numbers[kAuditd]),
                   text_of(ratio_of(numbers[kAgent], numbers[kNobody])),
                   text_of(ratio_of(numbers[kAuditd], numbers[kNobody])),
                   text_of(ratio_of(numbers[kAgent], numbers[kAuditd])));
    }
    fmt::print("{:<33}{:>9}{:>9.2f}\n", "the workers' share of a core, %", "", median(cpu));
    fmt::print("{:<33}{:>9}{:>9.1f}\n", "the worker's memory, MiB", "", median(worker_rss));
}
