// `underseer export`: the symbol file of a real kernel, against what the guest says of itself, and
// read by Volatility 3 where UNDERSEER_VOLATILITY names its vol.py.
#include <fmt/format.h>

#include <set>

#include "guests.h"
#include "json/value.h"
#include "program.h"

namespace underseer::testing {
namespace {

constexpr std::size_t kMaxIsfBytes = 64u << 20;

class Export : public ::testing::TestWithParam<std::string> {
  protected:
    void SetUp() override {
        if (!nightly() && GetParam() != "6.1-cloud") GTEST_SKIP() << "in the nightly run only";
        // Volatility 3 (2.11) walks page tables of four levels only.
        auto vm = TestVm::boot({.kernel = GetParam(), .memory_mib = 256, .append = "no5lvl"});
        if (!vm.has_value() && vm.error().code == Code::unavailable) {
            GTEST_SKIP() << vm.error().to_text();
        }
        ASSERT_TRUE(vm.has_value()) << vm.error().to_text();
        vm_.emplace(std::move(*vm));
        std::filesystem::create_directory(directory_ / "linux");
        std::filesystem::create_directory(directory_ / "cache");
        path_ = directory_ / "linux/symbols.json";
        const Ran ran = run(directory_, fmt::format("export {} {}", vm_->name(), path_));
        ASSERT_EQ(ran.status, 0) << ran.err;
    }

    std::optional<TestVm> vm_;
    const Directory directory_;
    std::string path_;
};
INSTANTIATE_TEST_SUITE_P(, Export, ::testing::ValuesIn(all_kernels()), test_name);

TEST_P(Export, gives_the_addresses_and_layouts_that_the_guest_has) {
    const std::string text = read_file(path_, kMaxIsfBytes).value();
    const auto isf = json::Value::parse(text, {.bytes = kMaxIsfBytes}).value();
    const auto symbols = isf.at("symbols").value();
    const auto info =
        attach(*vm_).ask<event::SystemInfo>({.topic = agent::Topic::info}).value().items.front();
    // The guest's own table, less what its modules add.
    std::set<std::string> names;
    const std::string own = vm_->output_of("grep -v '\\[' /proc/kallsyms");
    std::size_t wrong = 0;
    for (std::size_t at = 0; at < own.size();) {
        const std::string line = own.substr(at, own.find('\n', at) - at);
        at += line.size() + 1;
        const std::string name = line.substr(19);
        if (!names.insert(name).second) continue;
        const std::uint64_t address = std::stoull(line.substr(0, 16), nullptr, 16);
        const bool moves = address >= 0xffffffff80000000;
        const auto symbol = symbols.at(name);
        // Of several of one name it may be another than the first in order of address.
        if (!symbol.has_value() || symbol->at("address").value().as_uint().value() !=
                                       address - (moves ? info.kaslr_slide_bytes : 0)) {
            ++wrong;
        }
    }
    EXPECT_GT(names.size(), 60'000u);
    EXPECT_EQ(symbols.members().value().size(), names.size());
    EXPECT_LT(wrong, names.size() / 100);
    const auto types = isf.at("user_types").value();
    EXPECT_GT(types.members().value().size(), 5'000u);
    EXPECT_TRUE(types.at("task_struct").value().at("fields").value().find("tasks").has_value());
    // The same again, byte for byte, and no file is replaced unasked.
    EXPECT_EQ(run(directory_, fmt::format("export {} {}", vm_->name(), path_)).status, 2);
    ASSERT_EQ(run(directory_, fmt::format("export --force {} {}", vm_->name(), path_)).status, 0);
    EXPECT_EQ(read_file(path_, kMaxIsfBytes).value(), text);
}

TEST_P(Export, is_what_volatility_reads) {
    const char* volatility = std::getenv("UNDERSEER_VOLATILITY");
    if (volatility == nullptr) {
        GTEST_SKIP() << "no copy of Volatility 3 at hand: UNDERSEER_VOLATILITY names no vol.py";
    }
    const std::string listed = vm_->output_of("ls /proc");
    vm_->pause();
    const std::string core = directory_ / "guest.core";
    ASSERT_EQ(run(directory_, fmt::format("dump {} {}", vm_->name(), core)).status, 0);
    const auto ask = [&](const std::string& plugin) {
        const std::string out = directory_ / "answer";
        const int status = std::system(
            fmt::format(
                "python3 '{}' -q --offline --cache-path {} -s {} -f {} -r json {} > {} 2> {}",
                volatility, directory_ / "cache", directory_ / "", core, plugin, out,
                directory_ / "errors")
                .c_str());
        EXPECT_EQ(WEXITSTATUS(status), 0)
            << plugin << ": " << read_file(directory_ / "errors", 1u << 20).value();
        auto answer = json::Value::parse(read_file(out, 64u << 20).value(), {.bytes = 64u << 20});
        EXPECT_TRUE(answer.has_value()) << plugin << ": " << answer.error().to_text();
        return answer.has_value() ? answer->elements().value() : std::vector<json::Value>{};
    };
    std::set<std::uint64_t> seen;
    for (const json::Value& process : ask("linux.pslist.PsList")) {
        seen.insert(process.at("PID").value().as_uint().value());
    }
    std::size_t expected = 0, missing = 0;
    for (std::size_t at = 0; at < listed.size();) {
        const std::string name = listed.substr(at, listed.find('\n', at) - at);
        at += name.size() + 1;
        if (name.empty() || name.find_first_not_of("0123456789") != std::string::npos) continue;
        ++expected;
        if (!seen.contains(std::stoull(name))) ++missing;
    }
    EXPECT_GT(expected, 20u);
    EXPECT_LE(missing, 1u);  // that of ls itself
    EXPECT_FALSE(ask("linux.lsmod.Lsmod").empty());
    EXPECT_FALSE(ask("linux.lsof.Lsof").empty());
}

}  // namespace
}  // namespace underseer::testing
