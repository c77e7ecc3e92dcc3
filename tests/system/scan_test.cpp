// `underseer scan`: a guest program keeps a text where programs keep things; the rule that looks
// for it names exactly the process, the region and the file, by every way to ask.
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <signal.h>

#include <charconv>
#include <future>
#include <map>
#include <set>
#include <thread>

#include "agent/agent_client.h"
#include "guest_linux/guest.h"
#include "guest_memory/cached_memory.h"
#include "guest_memory/sources.h"
#include "guests.h"
#include "json/value.h"
#include "program.h"
#include "testing/test_agent.h"

namespace underseer::testing {
namespace {

using namespace std::chrono_literals;

// The text is put together in tests/testing/guest/intruder.c, `mark`.
constexpr std::string_view kScanRule = R"(rule scan_test : test {
    meta:
        description = "the standard test file of scans"
    strings:
        $text = "UNDERSEER-STANDARD-SCAN-TEST-FILE!"
    condition:
        $text
}
)";
constexpr std::uint64_t kTextBytes = 34;

std::string text_at(const json::Value& value, std::string_view key) {
    return value.at(key).value().as_string().value();
}
std::uint64_t number_at(const json::Value& value, std::string_view key) {
    return value.at(key).value().as_uint().value();
}

// One string match of a scan, as it should be told.
struct FoundString {
    std::uint32_t pid = 0;
    std::string path;          // of the region
    std::string file;          // that the rule holds for; "": the process's own memory
    std::string permissions;   // of the region
    std::uint64_t offset = 0;  // into the region

    auto operator<=>(const FoundString&) const = default;
};
void PrintTo(const FoundString& found, std::ostream* out) {
    *out << fmt::format("pid {} {} {} + {:#x}, of '{}'", found.pid, found.permissions, found.path,
                        found.offset, found.file);
}

class Scan : public ::testing::Test {
  protected:
    static void SetUpTestSuite() {
        auto booted = TestVm::boot({.kernel = "6.1-cloud", .workload = false});
        if (booted.has_value()) vm_.emplace(std::move(*booted));
    }
    static void TearDownTestSuite() { vm_.reset(); }
    void SetUp() override {
        if (!vm_)
            GTEST_SKIP() << "the kernel 6.1-cloud is not at hand; tools/guests/make.py makes it";
        rules_ = write("marker.yar", kScanRule);
    }
    void TearDown() override {
        if (vm_) vm_->output_of("killall -9 intruder 2>/dev/null; rm -f /mnt/data/marked; true");
    }

    std::string write(const std::string& name, std::string_view words) {
        const std::string path = directory_ / name;
        const Fd file = open_file(path, O_WRONLY | O_CREAT | O_TRUNC, 0644).value();
        CHECK(write_all(file.get(), as_bytes(words)).has_value());
        return path;
    }
    Ran scan(const std::string& target, const std::string& words = "--direct") {
        return run(directory_, fmt::format("scan {} --rules {} {}", target, rules_, words));
    }

    // Returns its pid.
    std::uint32_t mark(const std::string& where) {
        const std::string said = vm_->output_of(
            fmt::format("rm -f /tmp/.intruder; /bin/intruder mark {} > /tmp/.intruder 2>&1 & "
                        "until grep -qs . /tmp/.intruder; do sleep 0.1; done; cat /tmp/.intruder",
                        where));
        std::uint32_t pid = 0;
        const auto [end, error] = std::from_chars(said.data(), said.data() + said.size(), pid);
        EXPECT_EQ(error, std::errc{}) << said;
        return pid;
    }

    // All that `scan --json` tells. Whatever else it says of each is checked here.
    static std::multiset<FoundString> found_in(const std::string& out) {
        std::multiset<FoundString> all;
        const auto report = json::Value::parse(out);
        EXPECT_TRUE(report.has_value()) << out;
        if (!report.has_value()) return all;
        EXPECT_EQ(text_at(*report, "outcome"), "finding");
        const auto matches = report->at("matches").value().elements().value();
        for (const json::Value& match : matches) {
            EXPECT_EQ(text_at(match, "rule"), "scan_test");
            EXPECT_TRUE(text_at(match, "rule_file").ends_with("marker.yar"));
            EXPECT_EQ(text_at(match, "comm"), "intruder");
            const auto strings = match.at("strings").value().elements().value();
            EXPECT_EQ(number_at(match, "string_count"), strings.size());
            for (const json::Value& string : strings) {
                const json::Value region = string.at("region").value();
                EXPECT_EQ(text_at(string, "identifier"), "$text");
                EXPECT_EQ(number_at(string, "size_bytes"), kTextBytes);
                EXPECT_EQ(text_at(string, "bytes").substr(0, 18),
                          "554e44455253454552");  // UNDERSEER
                EXPECT_EQ(number_at(string, "address"),
                          number_at(region, "begin") + number_at(string, "offset_bytes"));
                EXPECT_EQ(number_at(region, "pid"), number_at(match, "pid"));
                all.insert({static_cast<std::uint32_t>(number_at(match, "pid")),
                            text_at(region, "path"), text_at(match, "file"),
                            text_at(region, "permissions"), number_at(string, "offset_bytes")});
            }
        }
        return all;
    }
    // Where a guest's malloc has put it is its own business.
    static std::multiset<FoundString> without_heap_offset(std::multiset<FoundString> all) {
        std::multiset<FoundString> same;
        for (FoundString found : all) {
            if (found.path == "[heap]") found.offset = 0;
            same.insert(found);
        }
        return same;
    }

    struct Marked {
        std::uint32_t heap = 0, border = 0, memfd = 0, file = 0, other = 0;

        std::multiset<FoundString> expected() const {
            const std::string hidden = "/memfd:payload (deleted)", shared = "/mnt/data/marked";
            return {{heap, "[heap]", "", "rw-p", 0},
                    {border, "", "", "rw-p", 8192 - 10},
                    {memfd, hidden, hidden, "rw-s", 4096 + 16},
                    {file, shared, shared, "rw-s", 4096 + 16},
                    {other, shared, shared, "rw-s", 4096 + 16}};
        }
    };
    Marked mark_everywhere() {
        return {.heap = mark("heap"),
                .border = mark("border"),
                .memfd = mark("memfd payload"),
                .file = mark("file /mnt/data/marked"),
                .other = mark("file /mnt/data/marked")};
    }

    static std::optional<TestVm> vm_;
    Directory directory_;
    std::string rules_;
};
std::optional<TestVm> Scan::vm_;

TEST_F(Scan, names_process_region_and_file_and_nothing_besides) {
    Ran ran = scan(vm_->name(), "--direct --json");
    EXPECT_EQ(ran.status, 0) << ran.out << ran.err;
    const Marked marked = mark_everywhere();
    ran = scan(vm_->name(), "--direct --json");
    EXPECT_EQ(ran.status, 1) << ran.err;
    EXPECT_EQ(without_heap_offset(found_in(ran.out)), marked.expected());
    const auto coverage = json::Value::parse(ran.out).value().at("coverage").value();
    EXPECT_GT(number_at(coverage, "processes"), 5u);
    EXPECT_GT(number_at(coverage, "files"), 2u);
    EXPECT_GT(number_at(coverage, "bytes_scanned"), 1u << 20);
    EXPECT_EQ(number_at(coverage, "unreadable_pages"), 0u);
    EXPECT_EQ(number_at(coverage, "gap_count"), 0u) << ran.out;

    // One process alone, and one that is not there.
    ran = scan(vm_->name(), fmt::format("--direct --json --pid {}", marked.border));
    EXPECT_EQ(found_in(ran.out),
              (std::multiset<FoundString>{{marked.border, "", "", "rw-p", 8192 - 10}}));
    ran = scan(vm_->name(), "--direct --pid 4000000");
    EXPECT_EQ(ran.status, 3) << ran.out << ran.err;

    // As a person reads it.
    ran = scan(vm_->name());
    EXPECT_EQ(ran.status, 1);
    EXPECT_NE(ran.out.find("RULE"), std::string::npos) << ran.out;
    EXPECT_NE(ran.out.find("UNDERSEER-STANDARD-SCAN-TEST-FILE!"), std::string::npos);
    EXPECT_NE(ran.out.find("scan: finding"), std::string::npos);
    EXPECT_NE(ran.out.find("by 1 rule."), std::string::npos);
    EXPECT_EQ(ran.err.find('\x1b'), std::string::npos) << "no progress bar where nobody looks";

    vm_->output_of("killall -9 intruder; sleep 0.2");
    ran = scan(vm_->name());
    EXPECT_EQ(ran.status, 0) << ran.out << ran.err;
    EXPECT_NE(ran.out.find("scan: clean"), std::string::npos) << ran.out;
}

TEST_F(Scan, a_file_is_a_file_and_a_process_is_none) {
    write("more.yar", R"(
import "elf"
rule program { condition: filename == "intruder" and filetype == "ELF" and elf.type == elf.ET_EXEC }
rule own { condition: filepath == "/bin/intruder" and filesize > 0 and uint32be(0) == 0x7f454c46 }
)");
    rules_ = directory_ / "more.yar";
    const auto pid = mark("heap");
    const Ran ran = scan(vm_->name(), fmt::format("--direct --json --pid {}", pid));
    ASSERT_EQ(ran.status, 1) << ran.out << ran.err;
    const auto report = json::Value::parse(ran.out).value();
    std::multiset<std::pair<std::string, std::string>> found;
    const auto matches = report.at("matches").value().elements().value();
    for (const json::Value& match : matches) {
        found.insert({text_at(match, "rule"), text_at(match, "file")});
    }
    EXPECT_EQ(found, (std::multiset<std::pair<std::string, std::string>>{
                         {"program", "/bin/intruder"}, {"own", "/bin/intruder"}}));
}

TEST_F(Scan, an_image_says_the_same) {
    const Marked marked = mark_everywhere();
    const std::string image = directory_ / "guest.core";
    ASSERT_TRUE(vm_->dump_to(image, "elf").has_value());
    const Ran ran = scan(image, "--json");
    EXPECT_EQ(ran.status, 1) << ran.err;
    EXPECT_EQ(without_heap_offset(found_in(ran.out)), marked.expected());
}

TEST_F(Scan, wrong_rules_are_told_by_file_and_line) {
    const std::string wrong =
        write("wrong.yar", "rule wrong {\n    condition:\n        $nothing or false\n}\n");
    const Ran ran = scan(vm_->name(), "--direct --rules " + wrong);
    EXPECT_EQ(ran.status, 13) << ran.err;
    EXPECT_EQ(ran.out, "");
    EXPECT_NE(("\n" + ran.err).find("\n" + wrong + ":3: "), std::string::npos) << ran.err;
    EXPECT_NE(ran.err.find("$nothing"), std::string::npos) << ran.err;
    EXPECT_EQ(run(directory_, fmt::format("scan {} --direct", vm_->name())).status, 2);
    EXPECT_EQ(scan(vm_->name(), "--direct --rules /no/such/file.yar").status, 3);
}

TEST_F(Scan, rules_include_what_lies_below_them) {
    std::filesystem::create_directory(directory_ / "sub");
    write("sub/marker.yar", kScanRule);
    write("index.yar", "include \"./sub/marker.yar\"\n");
    rules_ = directory_ / "index.yar";
    mark("heap");
    EXPECT_EQ(scan(vm_->name()).status, 1);
    // What lies elsewhere is not read, whoever asks for it.
    rules_ = write("sub/outside.yar", "include \"../marker.yar\"\n");
    Ran ran = scan(vm_->name());
    EXPECT_EQ(ran.status, 13);
    EXPECT_NE(ran.err.find("outside.yar:1:"), std::string::npos) << ran.err;
    rules_ = write("sub/outside.yar", "\ninclude \"/etc/passwd\"\n");
    ran = scan(vm_->name());
    EXPECT_EQ(ran.status, 13);
    EXPECT_NE(ran.err.find("outside.yar:2:"), std::string::npos) << ran.err;
    // A folder is all the rules in it.
    std::filesystem::remove(directory_ / "sub/outside.yar");
    rules_ = directory_ / "sub";
    EXPECT_EQ(scan(vm_->name()).status, 1);
}

TEST_F(Scan, what_was_not_looked_at_in_time_is_not_clean) {
    rules_ = write("slow.yar", "rule slow { condition: for any i in (1..100000000) : (i == 0) }");
    const Ran ran = scan(vm_->name(), "--direct --timeout 1ms --json");
    EXPECT_EQ(ran.status, 10) << ran.out;
    const auto report = json::Value::parse(ran.out).value();
    EXPECT_EQ(text_at(report, "outcome"), "unavailable");
    EXPECT_EQ(text_at(report, "reason"), "the time was up");
    EXPECT_GT(number_at(report.at("coverage").value(), "gap_count"), 0u);
}

TEST_F(Scan, by_way_of_the_agent) {
    TestAgent agent(fmt::format("[instances]\nonly = [\"name:{}\"]\n", vm_->name()));
    agent.start();
    agent.wait_until_watched(vm_->name());
    const Marked marked = mark_everywhere();
    const std::size_t workers = agent.workers("introspector").size();
    const RunResult ran = agent.cli({"scan", vm_->name(), "--rules", rules_, "--json"});
    EXPECT_EQ(ran.status, 1) << ran.output;
    EXPECT_EQ(without_heap_offset(found_in(ran.output)), marked.expected());
    // It is logged once, however many questions it took.
    EXPECT_EQ(agent.logged("asked for 'scan'").size(), 1u);
    // Its worker goes with who asked, and that of the checks has noticed nothing.
    agent.wait_until("the scan's worker has ended",
                     [&] { return agent.workers("introspector").size() == workers; });
    EXPECT_EQ(number_at(agent.instance(vm_->name()).value(), "restarts"), 0u);

    const RunResult wrong =
        agent.cli({"scan", vm_->name(), "--rules", write("wrong.yar", "\nrule")});
    EXPECT_EQ(wrong.status, 13) << wrong.output;
    EXPECT_NE(wrong.output.find("wrong.yar:2:"), std::string::npos) << wrong.output;
    // Only who may read guests' memory.
    ::chmod(std::filesystem::path(rules_).parent_path().c_str(), 0755);
    const RunResult refused = agent.cli({"scan", vm_->name(), "--rules", rules_}, kNobody);
    EXPECT_EQ(refused.status, 5) << refused.output;
    EXPECT_NE(refused.output.find("needs the role"), std::string::npos) << refused.output;
}

TEST_F(Scan, the_agent_makes_one_scan_of_a_vm_at_a_time_and_says_so) {
    TestAgent agent(fmt::format("[instances]\nonly = [\"name:{}\"]\n", vm_->name()));
    agent.start();
    agent.wait_until_watched(vm_->name());
    // A client that has begun and goes on for as long as it is there.
    const auto client = [&] {
        return agent::AgentClient::connect(agent.directory() + "/run/control.sock").value();
    };
    const auto rules = [&](agent::AgentClient& asker) {
        return asker.ask<agent::CompiledRules>(
            {.kind = agent::ControlRequest::Kind::question,
             .instance = vm_->name(),
             .question = {.topic = agent::Topic::scan,
                          .scan = {.step = agent::ScanStep::rules,
                                   .rules = {{.file = "a.yar", .text = std::string(kScanRule)}}}}});
    };
    std::optional<agent::AgentClient> first(client());
    agent::AgentClient second = client();
    ASSERT_TRUE(rules(*first).has_value());
    const auto refused = rules(second);
    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().code, Code::unavailable);
    first.reset();
    agent.wait_until("the first has gone", [&] { return rules(second).has_value(); });
}

TEST(ScanOfAVm, that_ends_leaves_nobody_waiting) {
    auto booted = TestVm::boot({.workload = false});
    if (!booted.has_value() && booted.error().code == Code::unavailable)
        GTEST_SKIP() << booted.error().to_text();
    ASSERT_TRUE(booted.has_value()) << booted.error().to_text();
    TestVm vm = std::move(*booted);
    TestAgent agent(fmt::format("[instances]\nonly = [\"name:{}\"]\n", vm.name()));
    agent.start();
    agent.wait_until_watched(vm.name());
    // Workers that stand still stand for a long answer.
    const auto ask = [&](agent::Topic topic) {
        auto client = agent::AgentClient::connect(agent.directory() + "/run/control.sock").value();
        const agent::ControlRequest request{
            .kind = agent::ControlRequest::Kind::question,
            .instance = vm.name(),
            .question = {.topic = topic, .scan = {.step = agent::ScanStep::compile}}};
        return client.ask<agent::TextPart>(request);
    };
    for (const pid_t worker : agent.workers("introspector")) ::kill(worker, SIGSTOP);
    auto info = std::async(std::launch::async, ask, agent::Topic::info);
    auto scan = std::async(std::launch::async, ask, agent::Topic::scan);
    for (int i = 0; i < 100 && agent.workers("introspector").size() < 2; ++i) {
        std::this_thread::sleep_for(50ms);
    }
    for (const pid_t worker : agent.workers("introspector")) ::kill(worker, SIGSTOP);
    vm.power_off();
    for (auto* asked : {&info, &scan}) {
        if (asked->wait_for(20s) != std::future_status::ready) {
            ADD_FAILURE() << "no answer";
            agent.kill(SIGKILL);  // which is one
        }
        EXPECT_FALSE(asked->get().has_value());
    }
}

// ---- what is scanned, against what the kernel's structures say page by page

class PagesOfProcesses : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(, PagesOfProcesses, ::testing::ValuesIn(all_kernels()), test_name);

TEST_P(PagesOfProcesses, are_their_files_or_their_own) {
    if (GetParam() != "6.1-cloud" && !nightly()) GTEST_SKIP() << "in the nightly run only";
    auto vm = TestVm::boot({.kernel = GetParam()});
    if (!vm.has_value() && vm.error().code == Code::unavailable) {
        GTEST_SKIP() << vm.error().to_text();
    }
    ASSERT_TRUE(vm.has_value()) << vm.error().to_text();
    vm->pause();
    const agent::GuestSource source = source_of(*vm);
    std::vector<int> fds;
    for (const Fd& fd : source.fds) fds.push_back(fd.get());
    const auto memory = guest_memory::open_live(fds, source.layout, source.name).value();
    guest_memory::CachedMemory cache(memory.get());
    const auto guest = guest_linux::Guest::attach(&cache).value();
    guest->new_epoch();
    guest_linux::PageCache files(&guest->kernel());
    std::set<GuestVirt> seen;
    std::uint64_t of_files = 0, own = 0;
    for (const event::Task& task : guest->tasks({.user_memory = false}).items) {
        if (!task.is_process() || task.kernel_thread) continue;
        const auto process =
            guest->user_memory().process(GuestVirt{task.address}, task.pid).value();
        if (!process) continue;
        guest_linux::VirtualMemory pages(&cache, process->space);
        for (const auto& area : process->areas.items) {
            // The file as a whole: each page where it is said to be, and no others.
            if (area.file && seen.insert(area.file).second) {
                const std::uint64_t bytes = guest->user_memory().file_bytes(area.file).value();
                const auto list = guest->user_memory().file_pages(area.file);
                ASSERT_TRUE(list.has_value()) << area.vma.path << ": " << list.error().to_text();
                std::map<std::uint64_t, GuestPhys> there;
                for (const auto& [index, phys, count] : list->runs) {
                    for (std::uint64_t i = 0; i < count; ++i) {
                        EXPECT_TRUE(there.emplace(index + i, phys + i * kPageSize).second);
                    }
                }
                for (std::uint64_t i = 0; i * kPageSize < bytes; ++i) {
                    const auto page = files.page_of(area.file, i).value();
                    const auto found = there.find(i);
                    ASSERT_EQ(page.has_value(), found != there.end()) << area.vma.path << " " << i;
                    EXPECT_TRUE(!page || *page == found->second) << area.vma.path << " " << i;
                }
                of_files += there.size();
            }
            // Of the process: what is mapped and is not the file's.
            std::set<GuestVirt> listed;
            for (GuestVirt at{area.vma.begin}; at.value < area.vma.end;) {
                const auto part =
                    guest->user_memory().own_pages(process->space, area, at, 7).value();
                ASSERT_GT(part.next, at);
                at = part.next;
                for (const auto& run : part.runs) {
                    for (std::uint64_t i = 0; i < run.size_bytes; i += kPageSize) {
                        listed.insert(run.begin + i);
                        EXPECT_EQ(pages.translate(run.begin + i).value().phys, run.phys + i);
                    }
                }
            }
            for (GuestVirt at{area.vma.begin}; at.value < area.vma.end; at = at + kPageSize) {
                const auto there = pages.translate(at);
                bool wanted = there.has_value();
                if (wanted && area.file) {
                    const std::uint64_t offset = area.vma.offset_bytes + at.value - area.vma.begin;
                    const auto page = files.page_of(area.file, offset / kPageSize).value();
                    wanted = !page || *page != there->phys;
                }
                EXPECT_EQ(listed.contains(at), wanted)
                    << fmt::format("{} {:#x}", area.vma.path, at.value);
                own += wanted ? 1 : 0;
            }
        }
    }
    fmt::print("{} pages of {} files, {} of processes\n", of_files, seen.size(), own);
    EXPECT_GT(of_files, 100u);
    EXPECT_GT(own, 100u);
}

}  // namespace
}  // namespace underseer::testing
