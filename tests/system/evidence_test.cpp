// What the agent keeps as evidence, against what is in the guest.
#include <elf.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/procfs.h>
#include <sys/stat.h>
#include <sys/user.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <thread>

#include "acted_vm.h"
#include "crypto/hash.h"
#include "outside_rootkit.h"

namespace underseer::testing {
namespace {

namespace fs = std::filesystem;

class KeptEvidence : public ActedUponVm {
  protected:
    // A shell of the guest that sleeps, with a word in its memory that is nowhere else.
    std::string start_process() {
        const std::string pid =
            vm_->output_of("WORD=only_$((6 * 7))_here sleep 1000 > /dev/null 2>&1 & echo $!");
        return pid.substr(0, pid.find('\n'));
    }
    // Makes system calls without end, once /tmp/series-go is there.
    std::string start_series() {
        const std::string pid = vm_->output_of(
            "rm -f /tmp/series*; /bin/workload series 1000000 > /dev/null 2>&1 & echo $!");
        return pid.substr(0, pid.find('\n'));
    }
    // From the list of tasks, all in one moment.
    void hide(const std::vector<std::string>& pids) {
        OutsideRootkit rootkit(&*vm_);
        vm_->pause();
        for (const std::string& pid : pids) {
            rootkit.unlink(rootkit.task_of(static_cast<std::uint32_t>(std::stoul(pid))), "tasks");
        }
        vm_->resume();
    }
    void wait_until_gathering() {
        agent_->wait_until("evidence is gathered", [&] {
            const auto workers = agent_->workers("introspector");
            return std::ranges::any_of(workers,
                                       [](pid_t worker) { return writes(worker, ".json"); });
        });
    }
    // The bundles, as `underseer evidence WORDS --json` tells of them.
    std::vector<json::Value> bundles(std::string verb = "ls") {
        const RunResult ran = agent_->cli({"evidence", verb, "--json"});
        return json::Value::parse(ran.output).value().elements().value();
    }
    json::Value only_bundle() {
        const auto all = bundles("verify");
        CHECK(all.size() == 1);
        return all[0];
    }
    static std::string text(const json::Value& object, std::string_view key) {
        return object.at(key).value().as_string().value();
    }
    static fs::path folder_of(const json::Value& bundle) { return text(bundle, "folder"); }
    static std::optional<json::Value> file(const json::Value& bundle, const std::string& name) {
        const auto files = bundle.at("files").value().elements().value();
        for (const json::Value& one : files) {
            if (text(one, "name") == name) return one;
        }
        return std::nullopt;
    }
    // Whether a worker has a file open whose name ends so.
    static bool writes(pid_t worker, const std::string& end) {
        std::error_code error;
        for (const auto& fd : fs::directory_iterator(fmt::format("/proc/{}/fd", worker), error)) {
            if (fs::read_symlink(fd.path(), error).native().ends_with(end)) return true;
        }
        return false;
    }
    static std::string content(const fs::path& path) { return read_file(path, 1u << 30).value(); }
    static json::Value json_at(const fs::path& path) {
        return json::Value::parse(content(path)).value();
    }
};

// The file offset of an address; nothing where the core does not have it.
std::optional<std::uint64_t> offset_of(const std::string& core, std::uint64_t address) {
    Elf64_Ehdr header;
    CHECK(core.size() > sizeof header);
    std::memcpy(&header, core.data(), sizeof header);
    for (unsigned i = 0; i < header.e_phnum; ++i) {
        Elf64_Phdr program;
        std::memcpy(&program, core.data() + header.e_phoff + i * sizeof program, sizeof program);
        if (program.p_type != PT_LOAD || address < program.p_vaddr ||
            address >= program.p_vaddr + program.p_filesz) {
            continue;
        }
        return program.p_offset + address - program.p_vaddr;
    }
    return std::nullopt;
}

// Those of the first thread that a core has.
std::optional<user_regs_struct> registers_in(const std::string& core) {
    Elf64_Phdr notes;
    std::memcpy(&notes, core.data() + sizeof(Elf64_Ehdr), sizeof notes);
    CHECK(notes.p_type == PT_NOTE);
    Elf64_Nhdr note;
    std::memcpy(&note, core.data() + notes.p_offset, sizeof note);
    if (note.n_type != NT_PRSTATUS) return std::nullopt;
    elf_prstatus state;
    std::memcpy(&state, core.data() + notes.p_offset + sizeof note + 8, sizeof state);
    user_regs_struct registers;
    std::memcpy(&registers, &state.pr_reg, sizeof registers);
    return registers;
}

// Only where policy says so: it stops the VM at each system call.
TEST_F(KeptEvidence, has_every_call_of_a_process_where_policy_wants_an_exact_trace) {
    const std::string pid = start_series();
    vm_->output_of("touch /tmp/series-go");
    start_agent("[evidence]\ntrace = \"1s\"\nexact_stops = 100000\n");
    const RunResult ran = act("capture", {"--pid", pid});
    ASSERT_EQ(ran.status, 0) << ran.output;
    const json::Value bundle = only_bundle();
    EXPECT_EQ(text(bundle, "state"), "intact");
    const std::string base = folder_of(bundle) / ("process-" + pid);
    const json::Value exact = json_at(base + ".calls.json");
    const auto summary = exact.at("summary").value();
    EXPECT_EQ(text(summary, "comm"), "workload");
    EXPECT_EQ(text(summary, "ended"), "the time is over");
    EXPECT_EQ(text(summary, "trouble"), "");
    const auto calls = exact.at("calls").value().elements().value();
    const auto makes_file = [](const json::Value& call) {
        const auto arguments = call.at("arguments").value().elements().value();
        return text(call, "name") == "openat" && arguments.size() > 1 &&
               text(arguments[1], "text").starts_with("\"/tmp/series-");
    };
    EXPECT_GT(std::ranges::count_if(calls, makes_file), 1);
    EXPECT_TRUE(json_at(base + ".trace.json").at("threads").has_value());
    // The VM runs on, and nobody is left.
    EXPECT_EQ(vm_->output_of("/bin/busybox echo here"), "here\n");
    agent_->wait_until("the supervisor is gone", [&] {
        return agent_->workers("supervisor").empty() &&
               fs::is_empty(agent_->directory() + "/state/traced");
    });
}

// The monitor is the supervisor's as long as it traces.
TEST_F(KeptEvidence, of_an_exact_trace_makes_no_order_wait) {
    const std::string pid = start_series();
    start_agent("[evidence]\ntrace = \"15s\"\nexact_stops = 100000\n");
    auto capturing =
        jail::Child::fork([&] { return act("capture", {"--pid", pid}).status; }).value();
    agent_->wait_until("it is traced", [&] { return !agent_->workers("supervisor").empty(); });
    std::this_thread::sleep_for(std::chrono::seconds(5));
    const auto begun = std::chrono::steady_clock::now();
    const RunResult paused = act("pause");
    EXPECT_EQ(paused.status, 0) << paused.output;
    EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(5));
    EXPECT_EQ(vm_->state(), "paused");
    EXPECT_EQ(act("resume").status, 0);
    ASSERT_EQ(capturing.wait(std::chrono::seconds(60)).value().status, 0);
    const std::string base = folder_of(only_bundle()) / ("process-" + pid);
    const json::Value exact = json_at(base + ".calls.json");
    EXPECT_EQ(text(exact.at("summary").value(), "ended"),
              "whoever asked for it has ended, or ended it");
    EXPECT_FALSE(exact.at("calls").value().elements().value().empty());
    EXPECT_EQ(vm_->output_of("/bin/busybox echo here"), "here\n");
}

TEST_F(KeptEvidence, has_samples_where_a_trace_comes_to_too_many_stops) {
    const std::string pid = start_series();
    vm_->output_of("touch /tmp/series-go");
    start_agent("[evidence]\ntrace = \"3s\"\nexact_stops = 20\n");
    ASSERT_EQ(act("capture", {"--pid", pid}).status, 0);
    const json::Value bundle = only_bundle();
    const std::string base = folder_of(bundle) / ("process-" + pid);
    const auto summary = json_at(base + ".calls.json").at("summary").value();
    EXPECT_TRUE(summary.at("over_ceiling").value().as_bool().value());
    const auto gaps = file(bundle, "process-" + pid + ".calls.json")->at("gaps").value();
    EXPECT_FALSE(gaps.elements().value().empty());
    const auto sampled = json_at(base + ".trace.json").at("summary").value();
    EXPECT_GT(sampled.at("samples").value().as_uint().value(), 5u);
}

TEST_F(KeptEvidence, of_a_process_is_what_the_guest_has) {
    const std::string pid = start_process();
    start_agent("[evidence]\ntrace = \"500ms\"\n");
    const RunResult dry = act("capture", {"--pid", pid, "--dry-run"});
    EXPECT_EQ(dry.status, 0);
    EXPECT_NE(dry.output.find("would be kept: 12 files"), std::string::npos) << dry.output;
    EXPECT_TRUE(bundles().empty());

    const RunResult ran = act("capture", {"--pid", pid});
    ASSERT_EQ(ran.status, 0) << ran.output;
    EXPECT_NE(ran.output.find(": 12 files, "), std::string::npos) << ran.output;
    const json::Value bundle = only_bundle();
    EXPECT_EQ(text(bundle, "state"), "intact");
    EXPECT_EQ(text(bundle, "instance"), vm_->name());
    EXPECT_EQ(text(bundle, "vm_state"), "running");
    const fs::path folder = folder_of(bundle);
    const std::string base = folder / ("process-" + pid);

    // Its memory: the word, where its environment lies.
    const std::string core = content(base + ".core");
    EXPECT_NE(core.find("WORD=only_42_here"), std::string::npos);
    EXPECT_NE(core.find("/bin/busybox"), std::string::npos) << "NT_FILE";
    const std::string maps = vm_->output_of("cat /proc/" + pid + "/maps");
    const std::uint64_t program = std::stoull(maps, nullptr, 16);
    const auto begin = offset_of(core, program);
    ASSERT_TRUE(begin) << maps;
    EXPECT_EQ(core.substr(*begin, 4), ELFMAG);
    // Where it was, as the guest's own /proc/PID/syscall says: "230 0x1 .. SP PC".
    const std::string call = vm_->output_of("cat /proc/" + pid + "/syscall");
    const std::size_t sp = call.rfind(" 0x", call.rfind(" 0x") - 1);
    const auto registers = registers_in(core);
    ASSERT_TRUE(registers);
    EXPECT_EQ(registers->orig_rax, std::stoull(call));
    EXPECT_EQ(registers->rsp, std::stoull(call.substr(sp), nullptr, 16)) << call;
    EXPECT_EQ(registers->rip, std::stoull(call.substr(call.rfind(' ')), nullptr, 16)) << call;
    // Its program, byte for byte: all of it is in the memory of this guest.
    const std::string sum = vm_->output_of("sha256sum /bin/busybox").substr(0, 64);
    EXPECT_EQ(text(*file(bundle, "process-" + pid + ".exe"), "sha256"), sum);
    EXPECT_EQ(crypto::to_hex(crypto::sha256(as_bytes(content(base + ".exe")))), sum);
    // The rest.
    EXPECT_EQ(json_at(base + ".trace.json").at("summary").value().at("pid").value().as_uint(),
              std::stoul(pid));
    EXPECT_NE(content(base + ".maps.json").find("/bin/busybox"), std::string::npos);
    EXPECT_NE(content(base + ".files.json").find("/dev/null"), std::string::npos);
    EXPECT_NE(content(folder / "processes.json").find("\"pid\": " + pid), std::string::npos);
    EXPECT_EQ(content(folder / "processes.json").find("only_42_here"), std::string::npos)
        << "no environment, by policy";
    EXPECT_NE(content(folder / "system.json").find(vm_->release()), std::string::npos);
    EXPECT_NE(content(folder / "kernel_log.json").find("Linux version"), std::string::npos);
    struct stat status{};
    ASSERT_EQ(::stat(folder.c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0700u);

    // The log vouches for the list, and who wanted it is known.
    const auto logged = agent_->logged(fmt::format("capture {}: 12 files", vm_->name()));
    ASSERT_EQ(logged.size(), 1u);
    EXPECT_EQ(text(logged[0].at("unmapped").value(), "evidence_sha256"),
              crypto::to_hex(crypto::sha256(as_bytes(content(folder / "bundle.jsonl")))));

    // Whoever touches it is told on.
    std::ofstream(folder / "modules.json", std::ios::app) << ' ';
    const RunResult verified = agent_->cli({"evidence", "verify"});
    EXPECT_EQ(verified.status, 1);
    EXPECT_NE(verified.output.find("modules.json: changed"), std::string::npos) << verified.output;
}

TEST_F(KeptEvidence, of_a_process_that_is_not_there_says_so) {
    start_agent();
    const RunResult ran = act("capture", {"--pid", "4194000"});
    ASSERT_EQ(ran.status, 0) << ran.output;
    EXPECT_NE(ran.output.find("7 files (5 could not be had)"), std::string::npos) << ran.output;
    const json::Value bundle = only_bundle();
    EXPECT_EQ(text(bundle, "state"), "intact");
    EXPECT_NE(text(*file(bundle, "process-4194000.core"), "why_not").find("no process has the pid"),
              std::string::npos);
    EXPECT_FALSE(fs::exists(folder_of(bundle) / "process-4194000.core"));
}

TEST_F(KeptEvidence, is_for_who_may_and_within_its_quota) {
    start_agent("[evidence]\nkeep_bytes = 134217728\n");
    EXPECT_EQ(act("capture", {}, kNobody).status, 5);
    EXPECT_EQ(act("capture", {"--dry-run"}, kNobody).status, 5);
    EXPECT_EQ(act("pause", {"--pid", "1"}).status, 2);
    const RunResult made = act("capture", {"--json"});
    ASSERT_EQ(made.status, 0) << made.output;
    const auto results = json::Value::parse(made.output).value().elements().value();
    EXPECT_EQ(text(results.at(0), "evidence"), folder_of(bundles()[0]));
    // Its RAM is more than what is left.
    const RunResult dump = act("dump");
    ASSERT_EQ(dump.status, 0) << dump.output;
    EXPECT_NE(dump.output.find("1 file (1 could not be had)"), std::string::npos) << dump.output;
    // What is kept is not removed for what comes.
    const fs::path instance = folder_of(bundles()[0]).parent_path();
    std::ofstream(instance / "filler") << std::string(80u << 20, 'x');
    const RunResult refused = act("capture");
    EXPECT_EQ(refused.status, 8) << refused.output;
    EXPECT_NE(refused.output.find("keep_bytes"), std::string::npos) << refused.output;
    EXPECT_EQ(act("capture", {"--dry-run"}).status, 8);
    EXPECT_EQ(bundles().size(), 2u);
    EXPECT_EQ(agent_->logged(fmt::format("capture {}: not done", vm_->name())).size(), 1u);
}

// A guest that breaks the worker takes back nothing.
TEST_F(KeptEvidence, outlives_the_worker_that_gathers_it) {
    const std::string pid = start_process();
    start_agent("[evidence]\ntrace = \"1m\"\n");
    std::thread asker([&] {
        const RunResult ran = act("capture", {"--pid", pid});
        EXPECT_EQ(ran.status, 0) << ran.output;
        EXPECT_NE(ran.output.find("4 files (8 could not be had)"), std::string::npos) << ran.output;
    });
    pid_t gathering = -1;
    agent_->wait_until("evidence is gathered", [&] {
        for (const pid_t worker : agent_->workers("introspector")) {
            if (writes(worker, ".trace.json")) gathering = worker;
        }
        return gathering != -1;
    });
    ::sleep(3);
    ::kill(gathering, SIGKILL);
    asker.join();
    const json::Value bundle = only_bundle();
    EXPECT_EQ(text(bundle, "state"), "intact");
    EXPECT_NE(content(folder_of(bundle) / ("process-" + pid + ".core")).find("WORD=only_42_here"),
              std::string::npos);
    EXPECT_NE(text(*file(bundle, "processes.json"), "why_not").find("SIGKILL"), std::string::npos);
}

// A VM that policy has stopped for a while does not stay so because the agent ends meanwhile.
TEST_F(KeptEvidence, is_sealed_when_the_agent_ends_and_the_vm_goes_on) {
    const std::string pid = start_process();
    start_agent(
        "[schedule]\nhidden_process = \"1s\"\ncpu_percent = 100\n"
        "[[act]]\nrule = \"hidden_process\"\ndo = [\"pause\", \"capture\", \"dump\", "
        "\"resume\"]\n");
    hide({pid});
    wait_until_gathering();
    EXPECT_EQ(agent_->kill(SIGTERM), 0);
    EXPECT_EQ(vm_->output_of("echo here"), "here\n");
    const json::Value bundle = only_bundle();
    EXPECT_EQ(text(bundle, "state"), "intact");
    EXPECT_EQ(text(*file(bundle, "system.json"), "why_not"), "the agent ends");
    EXPECT_EQ(agent_->logged(fmt::format("dump {}: not done: the agent ends", vm_->name())).size(),
              1u);
    EXPECT_EQ(agent_->logged(fmt::format("resume {}: resumed", vm_->name())).size(), 1u);
}

TEST_F(KeptEvidence, that_a_killed_agent_was_gathering_leaves_no_vm_paused_for_good) {
    const std::string pid = start_process();
    start_agent(
        "[schedule]\nhidden_process = \"1s\"\ncpu_percent = 100\n"
        "[[act]]\nrule = \"hidden_process\"\ndo = [\"pause\", \"capture\", \"resume\"]\n");
    hide({pid});
    wait_until_gathering();
    EXPECT_EQ(agent_->kill(SIGKILL), -SIGKILL);
    EXPECT_EQ(vm_->state(), "paused");
    EXPECT_TRUE(bundles().empty()) << "nobody has signed it";
    agent_->start();
    agent_->wait_until("the VM goes on", [&] { return vm_->state() == "running"; });
    EXPECT_EQ(vm_->output_of("echo here"), "here\n");
    EXPECT_EQ(agent_->logged(fmt::format("resume {}: resumed", vm_->name())).size(), 1u);
    // Once: who pauses it now by hand finds it paused.
    EXPECT_EQ(agent_->kill(SIGTERM), 0);
    vm_->pause();
    agent_->start();
    agent_->wait_until("it has been looked at", [&] {
        const auto seen = agent_->instance(vm_->name());
        return seen && seen->at("checks").value().as_uint().value() > 0;
    });
    EXPECT_EQ(vm_->state(), "paused");
    vm_->resume();
}

// The VM goes on when the evidence of both is there, and not before.
TEST_F(KeptEvidence, of_two_findings_at_once_is_of_a_vm_that_stands_still) {
    const std::vector<std::string> pids{start_process(), start_process()};
    start_agent(
        "[schedule]\nhidden_process = \"1s\"\ncpu_percent = 100\n"
        "[[act]]\nrule = \"hidden_process\"\ndo = [\"pause\", \"capture\", \"resume\"]\n");
    hide(pids);
    const std::string resumed = fmt::format("resume {}: resumed", vm_->name());
    agent_->wait_until("it goes on", [&] { return !agent_->logged(resumed).empty(); });
    EXPECT_EQ(bundles().size(), 2u);
    EXPECT_EQ(agent_->logged(resumed).size(), 1u);
    EXPECT_EQ(agent_->logged(fmt::format("resume {}: left to", vm_->name())).size(), 1u);
    EXPECT_EQ(vm_->output_of("echo here"), "here\n");
}

TEST_F(KeptEvidence, of_a_module_is_its_memory) {
    start_agent(
        "[schedule]\nkernel_modules = \"1s\"\ncpu_percent = 100\n"
        "[[act]]\nrule = \"foreign_module\"\ndo = [\"capture\"]\n");
    if (vm_->run("insmod /lib/modules/underseer_hide.ko").value().status != 0) {
        GTEST_SKIP() << "no module of ours is built for this kernel";
    }
    agent_->wait_until("it is kept", [&] { return !bundles().empty(); });
    const json::Value bundle = only_bundle();
    EXPECT_EQ(text(bundle, "state"), "intact");
    const std::string core = content(folder_of(bundle) / "module-underseer_hide.core");
    // Its code, where the guest says that it lies, and a name that only this module has.
    const std::uint64_t code =
        std::stoull(vm_->output_of("cat /sys/module/underseer_hide/sections/.text"), nullptr, 16);
    EXPECT_TRUE(offset_of(core, code)) << fmt::format("{:#x}", code);
    EXPECT_NE(core.find("kallsyms_lookup_name"), std::string::npos);
    const auto rules = json_at(folder_of(bundle) / "finding.json").at("finding").value();
    EXPECT_EQ(text(rules, "rule"), "foreign_module");
}

// Who lets a VM go on while policy looks at it is told as the reason why the memory is not of one
// moment.
TEST_F(KeptEvidence, of_a_vm_that_a_person_lets_go_on_says_so) {
    const std::string pid = start_process();
    start_agent(
        "[schedule]\nhidden_process = \"1s\"\ncpu_percent = 100\n"
        "[[act]]\nrule = \"hidden_process\"\ndo = [\"pause\", \"dump\", \"resume\"]\n");
    hide({pid});
    agent_->wait_until("it stands still", [&] {
        return !agent_->logged(fmt::format("pause {}", vm_->name())).empty();
    });
    EXPECT_EQ(act("resume").status, 0);
    agent_->wait_until("it is kept", [&] { return !bundles().empty(); });
    EXPECT_EQ(text(only_bundle(), "vm_state"), "paused, then running");
}

// The chain that policy makes: the VM stands still while it is looked at, and goes on.
TEST_F(KeptEvidence, of_a_finding_is_kept_by_policy) {
    const std::string pid = start_process();
    const fs::path told = fs::temp_directory_path() / (vm_->name() + "-told");
    const fs::path program = told.native() + ".sh";
    std::ofstream(program) << "#!/bin/sh\ncat > " << told.native() << "; echo ticket 12\n";
    fs::permissions(program, fs::perms::owner_all);
    start_agent(
        "[schedule]\nhidden_process = \"1s\"\ncpu_percent = 100\n"
        "[evidence]\ntrace = \"200ms\"\n"
        "[[act]]\nrule = \"hidden_process\"\ndo = [\"pause\", \"capture\", \"dump\", "
        "\"resume\"]\nrun = \"" +
        program.native() + "\"\n");
    hide({pid});
    const json::Value finding = agent_->wait_for_finding("hidden_process");
    agent_->wait_until("the operator's program was told", [&] {
        return !agent_->logged(fmt::format("run {}: {}: ticket 12", vm_->name(), program.native()))
                    .empty();
    });
    EXPECT_EQ(text(json_at(told).at("finding_info").value(), "uid"), text(finding, "uid"));
    fs::remove(told);
    fs::remove(program);
    EXPECT_EQ(vm_->output_of("echo here"), "here\n");
    const auto kept = bundles("verify");
    ASSERT_EQ(kept.size(), 2u);
    const std::string uid = text(finding, "uid");
    for (const json::Value& bundle : kept) {
        EXPECT_EQ(text(bundle, "state"), "intact");
        EXPECT_EQ(text(bundle, "finding_uid"), uid);
        EXPECT_EQ(text(bundle, "vm_state"), "paused");
        EXPECT_EQ(text(json_at(folder_of(bundle) / "finding.json"), "uid"), uid);
    }
    EXPECT_NE(content(folder_of(kept[0]) / ("process-" + pid + ".core")).find("WORD=only_42_here"),
              std::string::npos);
    EXPECT_NE(content(folder_of(kept[0]) / "processes.json").find("\"pid\": " + pid),
              std::string::npos);
    // The dump is a memory image as any other.
    const fs::path core = folder_of(kept[1]) / "memory.core";
    const RunResult check =
        run_program({program_path("underseer"), "check", core, "--only", "hidden_process"});
    EXPECT_EQ(check.status, 1);
    EXPECT_NE(check.output.find(fmt::format("sleep (pid {})", pid)), std::string::npos)
        << check.output;
    const auto order = agent_->logged(vm_->name() + ": ");
    std::vector<std::string> done;
    for (const json::Value& event : order) {
        if (event.at("class_uid").value().as_uint().value() != 7001u) continue;
        done.push_back(text(event, "command_uid"));
    }
    EXPECT_EQ(done, (std::vector<std::string>{"pause", "capture", "dump", "resume", "run"}));
}

}  // namespace
}  // namespace underseer::testing
