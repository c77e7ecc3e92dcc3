// What a guest feels of being watched: work inside it with an agent at its default schedule and
// without one, in turns, on a guest of one CPU. And what the agent takes meanwhile. TCG guests.
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

constexpr double kSeconds = 4;

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

std::vector<double> measure(TestVm& vm, const std::string& work) {
    std::istringstream line(
        vm.output_of(fmt::format("/bin/workload measure_{} {}", work, kSeconds)));
    std::vector<double> numbers;
    for (double number = 0; line >> number;) numbers.push_back(number);
    CHECK(!numbers.empty());
    return numbers;
}

struct Column {
    const char* work;
    std::size_t index;
    const char* what;
};
constexpr Column kColumns[] = {{"gap", 0, "longest gap of a clock loop, us"},
                               {"spin", 0, "CPU-bound, rounds/s"},
                               {"forks", 0, "forks/s"},
                               {"requests", 0, "requests/s"},
                               {"requests", 1, "request, median us"},
                               {"requests", 2, "request, p99 us"}};

}  // namespace

int main(int argc, char** argv) {
    const int rounds = argc > 1 ? std::atoi(argv[1]) : 9;
    if (rounds < 1) {
        fmt::print(stderr, "usage: workload_bench [ROUNDS]\n");
        return 2;
    }
    auto booted = TestVm::boot({.workload = false});
    if (!booted.has_value()) {
        fmt::print(stderr, "{}\n", booted.error().to_text());
        return 1;
    }
    TestVm& vm = *booted;
    TestAgent agent("");
    std::map<std::string, std::vector<std::vector<double>>> with, without;
    std::vector<double> cpu, worker_rss;
    for (int round = 0; round < rounds; ++round) {
        for (const bool watched : {round % 2 == 0, round % 2 != 0}) {
            if (watched) {
                agent.start();
                agent.wait_until_watched(vm.name());
            }
            for (const char* work : {"gap", "spin", "forks", "requests"}) {
                (watched ? with : without)[work].push_back(measure(vm, work));
            }
            if (watched) {
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
    fmt::print("one guest, {} rounds of {} s, the agent at its default schedule\n", rounds,
               kSeconds);
    fmt::print("{:<34}{:>12}{:>12}{:>14}   {}\n", "", "without", "with", "with/without",
               "95 % interval");
    for (const Column& column : kColumns) {
        std::vector<double> on, off;
        for (const auto& numbers : with[column.work]) on.push_back(numbers[column.index]);
        for (const auto& numbers : without[column.work]) off.push_back(numbers[column.index]);
        const Ratio ratio = ratio_of(on, off);
        fmt::print("{:<34}{:>12.1f}{:>12.1f}{:>14.3f}   {:.3f} to {:.3f}\n", column.what,
                   median(off), median(on), ratio.middle, ratio.low, ratio.high);
    }
    fmt::print("{:<34}{:>12}{:>12.2f}\n", "the worker's share of a core, %", "", median(cpu));
    fmt::print("{:<34}{:>12}{:>12.1f}\n", "the worker's memory, MiB", "", median(worker_rss));
}
