// The command line as a person meets it when something is wrong: what is said, and the exit status.
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "guest_memory/fake_images.h"
#include "guests.h"
#include "json/value.h"
#include "testing/test_agent.h"

namespace underseer::testing {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

class Cli : public ::testing::Test {
  protected:
    Cli() {
        std::string name = fs::temp_directory_path() / "underseer-cli-XXXXXX";
        CHECK(::mkdtemp(name.data()) != nullptr);
        ::chmod(name.c_str(), 0755);
        directory_ = name;
    }
    ~Cli() override {
        std::error_code ignored;
        fs::remove_all(directory_, ignored);
    }

    std::string write(const std::string& name, Bytes bytes, mode_t mode = 0644) {
        const std::string path = directory_ / name;
        const Fd file = open_file(path, O_WRONLY | O_CREAT | O_TRUNC, mode).value();
        CHECK(write_all(file.get(), bytes).has_value());
        return path;
    }
    // Runs `underseer WORDS`, without an agent, and expects this status and this in what it says.
    void expect(int status, const std::vector<std::string>& words, const std::string& said,
                unsigned user = 0) {
        std::vector<std::string> all{program_path("underseer")};
        all.insert(all.end(), words.begin(), words.end());
        const RunResult ran = run_program(all, user);
        EXPECT_EQ(ran.status, status) << words[0] << ": " << ran.output;
        EXPECT_NE(ran.output.find(said), std::string::npos) << ran.output;
        EXPECT_EQ(ran.output.find('\x1b'), std::string::npos);
    }

    fs::path directory_;
};

TEST_F(Cli, wrong_words) {
    expect(2, {"pss", "vm"}, "Did you mean 'ps'?");
    expect(2, {"ps"}, "'ps' needs INSTANCE|IMAGE");
    expect(2, {"modules", "vm", "--threads"}, "does not take --threads");
    expect(0, {"ps", "--help"}, "usage: underseer ps");
    expect(0, {"--version"}, "underseer ");
}

TEST_F(Cli, no_such_vm_or_file) {
    expect(3, {"ps", "no-such-vm", "--direct"}, "no-such-vm");
    expect(3, {"ps", "/no/such/image"}, "/no/such/image");
}

TEST_F(Cli, what_is_no_image) {
    const std::string fifo = directory_ / "fifo";
    ASSERT_EQ(::mkfifo(fifo.c_str(), 0644), 0);
    expect(8, {"ps", directory_}, "a directory");
    expect(8, {"ps", fifo}, "no regular file");
    expect(8, {"ps", "/dev/zero"}, "no regular file");
    expect(8, {"report", "/dev/zero", directory_ / "r.html"}, "no regular file");
    EXPECT_FALSE(fs::exists(directory_ / "r.html"));
}

TEST_F(Cli, an_image_that_may_not_be_read) {
    const std::string image =
        write("secret.raw", guest_memory::fake_memory_bytes(1u << 20, 1), 0600);
    expect(5, {"ps", image}, "secret.raw", kNobody);
}

TEST_F(Cli, a_truncated_image) {
    const auto whole =
        guest_memory::avml_image({{0, guest_memory::fake_memory_bytes(4u << 20, 1)}});
    const std::string image = write("cut.avml", std::span(whole).first(whole.size() / 2));
    expect(7, {"ps", image}, "cut.avml");
}

TEST_F(Cli, an_image_without_linux) {
    const std::string image = write("other.raw", guest_memory::fake_memory_bytes(4u << 20, 1));
    expect(12, {"ps", image}, "other.raw");
    expect(12, {"report", image, directory_ / "r.html"}, "other.raw");
    EXPECT_FALSE(fs::exists(directory_ / "r.html"));
}

TEST_F(Cli, two_vms_of_one_name) {
    const auto twin = [] {
        return jail::Child::fork([] {
                   const int null = ::open("/dev/null", O_RDWR);
                   for (int fd = 0; fd < 3; ++fd) ::dup2(null, fd);
                   ::execl("/usr/bin/qemu-system-x86_64", "qemu-system-x86_64", "-name",
                           "underseer-twin", "-S", "-m", "32", "-accel", "tcg", "-display", "none",
                           "-nodefaults", static_cast<char*>(nullptr));
                   return 127;
               })
            .value();
    };
    auto one = twin(), other = twin();
    RunResult ran;
    for (int tries = 0; tries < 100 && ran.status != 4; ++tries) {
        std::this_thread::sleep_for(100ms);
        ran = run_program({program_path("underseer"), "ps", "underseer-twin", "--direct"});
    }
    EXPECT_EQ(ran.status, 4) << ran.output;
    // It says how to tell them apart.
    EXPECT_NE(ran.output.find(std::to_string(one.pid())), std::string::npos) << ran.output;
    EXPECT_NE(ran.output.find(std::to_string(other.pid())), std::string::npos) << ran.output;
    one.kill(), other.kill();
    (void)one.wait(10s), (void)other.wait(10s);
}

class CliOnAGuest : public Cli {
  protected:
    void SetUp() override {
        auto vm = TestVm::boot({.memory_mib = 256});
        if (!vm.has_value() && vm.error().code == Code::unavailable) {
            GTEST_SKIP() << vm.error().to_text();
        }
        ASSERT_TRUE(vm.has_value()) << vm.error().to_text();
        vm_.emplace(std::move(*vm));
    }
    std::optional<TestVm> vm_;
};

TEST_F(CliOnAGuest, needs_root_and_tells_when_the_vm_ends) {
    expect(5, {"ps", vm_->name(), "--direct"}, vm_->name(), kNobody);
    std::thread off([&] {
        std::this_thread::sleep_for(4s);
        vm_->power_off();
    });
    expect(11, {"ps", vm_->name(), "--direct", "--watch", "--json"}, "ended");
    off.join();
    expect(3, {"ps", vm_->name(), "--direct"}, vm_->name());
}

TEST_F(CliOnAGuest, one_process_is_all_that_pid_shows) {
    const auto shown = [&](const std::string& command, const std::vector<std::string>& options) {
        std::vector<std::string> words{program_path("underseer"), command, vm_->name(), "--direct",
                                       "--json"};
        words.insert(words.end(), options.begin(), options.end());
        const RunResult ran = run_program(words);
        EXPECT_EQ(ran.status, 0) << ran.output;
        return json::Value::parse(ran.output).value().elements().value();
    };
    const auto owners = [](const json::Value& socket) {
        return socket.at("owner_pids").value().elements().value();
    };
    const auto sockets = shown("sockets", {});
    const auto held = std::ranges::find_if(
        sockets, [&](const json::Value& socket) { return owners(socket).size() == 1; });
    ASSERT_NE(held, sockets.end());
    const std::uint64_t pid = owners(*held).front().as_uint().value();
    for (const std::string command : {"ps", "files", "maps", "sockets"}) {
        SCOPED_TRACE(command);
        const auto one = shown(command, {"--pid", std::to_string(pid)});
        EXPECT_GT(one.size(), 0u);
        EXPECT_LT(one.size(), shown(command, {}).size());
        for (const json::Value& item : one) {
            if (command != "sockets") {
                EXPECT_EQ(item.at("pid").value().as_uint().value(), pid);
                continue;
            }
            EXPECT_TRUE(std::ranges::any_of(owners(item), [&](const json::Value& owner) {
                return owner.as_uint().value() == pid;
            }));
        }
    }
}

// An unprivileged process can have so many descriptors, and so long a command line so often, that
// all of them are more than a worker may hold.
TEST_F(CliOnAGuest, hoarders_make_a_gap_and_blind_nobody) {
    if (!nightly()) GTEST_SKIP() << "in the nightly run only";
    using agent::Topic;
    agent::Introspector introspector = attach(*vm_);
    const auto hoard = [&](const std::string& what) {
        vm_->output_of(
            fmt::format("workload hoard_{} > /dev/null 2>&1 & "
                        "until [ -e /tmp/hoarded ]; do sleep 0.2; done; "
                        "sleep 2; rmdir /tmp/hoarded",
                        what));
    };
    hoard("words");
    const auto tasks = introspector.ask<event::Task>({.topic = Topic::tasks}).value().items;
    std::size_t with = 0, without = 0;
    for (const event::Task& task : tasks) {
        if (!task.argv.available()) {
            EXPECT_NE(task.argv.reason().find("--pid"), std::string::npos) << task.argv.reason();
            if (without++ > 0) continue;
            const auto alone = introspector.ask<event::Task>(
                {.topic = Topic::tasks, .one_pid = true, .pid = task.pid});
            EXPECT_EQ(alone.value().items.front().argv.value().front(), "hoarder");
        } else if (!task.argv.value().empty() && task.argv.value().front() == "hoarder") {
            ++with;
        }
    }
    EXPECT_GT(with, 400u);
    EXPECT_GT(without, 20u);
    hoard("files");
    const auto files = introspector.ask<event::OpenFile>({.topic = Topic::open_files});
    ASSERT_TRUE(files.has_value()) << files.error().to_text();
    EXPECT_EQ(files->items.size(), 1u << 20);
    EXPECT_NE(files->first_gap.find("more than 1048576"), std::string::npos) << files->first_gap;
}

// Whether text is UTF-8 without anything a terminal obeys.
void expect_harmless(const std::string& text) {
    for (const char c : text) {
        ASSERT_TRUE(static_cast<unsigned char>(c) >= 0x20 || c == '\n') << text.substr(0, 500);
        ASSERT_NE(c, '\x7f');
    }
    EXPECT_EQ(text.find("\xc2\x9b"), std::string::npos) << "CSI in one character";
    EXPECT_EQ(text.find('\xff'), std::string::npos) << "no UTF-8";
}

TEST_F(CliOnAGuest, nothing_that_it_writes_steers_a_terminal_or_a_browser) {
    vm_->output_of(
        "E=$(printf '\\033]0;owned\\007'); R=$(printf 'gpj.\\342\\200\\256exe'); "
        "B=$(printf '\\377\\376\\302\\233'); L=$(head -c 65000 /dev/zero | tr '\\0' A); "
        "sh -c 'printf \"<b>\\033[2J\" > /proc/$$/comm; sleep 1000; true' "
        "'<script>alert(1)</script>' "
        "'\"><img src=x onerror=alert(1)>' \"$E\" \"$R\" \"$B\" \"$L\" >/dev/null 2>&1 & "
        "sleep 1");
    const auto run = [&](std::vector<std::string> words, int status = 0) {
        words.insert(words.begin(), program_path("underseer"));
        words.push_back("--direct");
        RunResult ran = run_program(words);
        EXPECT_EQ(ran.status, status) << ran.output;
        return ran.output;
    };
    for (const char* command : {"ps", "tree", "files", "maps", "dmesg"}) {
        expect_harmless(run({command, vm_->name()}));
    }
    const std::string shown = run({"ps", vm_->name()});
    EXPECT_NE(shown.find("\\x1b]0;owned\\x07"), std::string::npos);
    EXPECT_NE(shown.find("gpj.\\xe2\\x80\\xaeexe"), std::string::npos);
    const std::string text = run({"ps", vm_->name(), "--json"});
    expect_harmless(text);
    EXPECT_TRUE(json::Value::parse(text).has_value());
    EXPECT_NE(text.find("\\u001b]0;owned"), std::string::npos);

    const std::string output = directory_ / "report.html";
    run({"report", vm_->name(), output}, 1);  // there is much to find in a zoo
    const std::string page = read_file(output, 16u << 20).value();
    expect_harmless(page);
    EXPECT_EQ(page.find("<script"), std::string::npos);
    EXPECT_EQ(page.find("<img"), std::string::npos);
    EXPECT_NE(page.find("&lt;script&gt;alert(1)"), std::string::npos);
    EXPECT_NE(page.find(vm_->release()), std::string::npos);
    EXPECT_LT(page.size(), 1u << 20) << "64 KiB of arguments are cut";
    struct stat status{};
    ASSERT_EQ(::stat(output.c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 07777, 0600u);
    expect(2, {"report", vm_->name(), output, "--direct"}, "--force");
    EXPECT_EQ(read_file(output, 16u << 20).value(), page);
    expect(1, {"report", vm_->name(), output, "--direct", "--force"}, "report.html");
}

TEST_F(CliOnAGuest, a_report_on_an_image_names_its_hash) {
    const std::string core = directory_ / "guest.core", output = directory_ / "report.html";
    // There is something to find as soon as a program runs whose file is gone.
    vm_->output_of(
        "while ! ls -l /proc/[0-9]*/exe 2>/dev/null | grep -q deleted; do sleep 0.1; done");
    ASSERT_TRUE(vm_->dump_to(core, "elf").has_value());
    expect(1, {"report", core, output}, "report.html");
    const RunResult hashed = run_program({"/usr/bin/sha256sum", core});
    const std::string page = read_file(output, 16u << 20).value();
    EXPECT_NE(page.find(hashed.output.substr(0, 64)), std::string::npos);
    EXPECT_EQ(std::distance(fs::directory_iterator(directory_), fs::directory_iterator()), 2);
}

// Hidden by our module: the guest's own ps does not show it any more.
TEST_F(CliOnAGuest, a_report_shows_what_the_guest_hides) {
    if (vm_->run("insmod /lib/modules/underseer_hide.ko").value().status != 0) {
        GTEST_SKIP() << "no hiding module is built for this kernel";
    }
    const std::string victim = vm_->output_of(
        "R=$(printf 'gpj.\\342\\200\\256exe'); sh -c 'printf \"<img src=x>\" > /proc/$$/comm; "
        "sleep 1000; true' '<script>alert(1)</script>' '\"><img src=x onerror=alert(2)>' \"$R\" "
        ">/dev/null 2>&1 & echo $!; sleep 1");
    const std::string pid = victim.substr(0, victim.find('\n'));
    vm_->output_of(fmt::format("echo '1 {}' > /sys/module/underseer_hide/parameters/command", pid));
    const std::string core = directory_ / "guest.core";
    ASSERT_TRUE(vm_->dump_to(core, "elf").has_value());
    for (const std::string& subject : {vm_->name(), core}) {
        SCOPED_TRACE(subject);
        const std::string output = directory_ / "report.html";
        expect(1, {"report", subject, output, "--direct", "--force"}, " findings, ");
        const std::string page = read_file(output, 16u << 20).value();
        expect_harmless(page);
        EXPECT_NE(page.find("<div class=\"verdict bad\">"), std::string::npos);
        const std::size_t begin = page.find("<section id=\"findings\">");
        const std::string finding = page.substr(begin, page.find("</section>", begin) - begin);
        EXPECT_NE(finding.find("&lt;img src=x&gt; (pid " + pid + ")"), std::string::npos)
            << finding;
        EXPECT_NE(finding.find("<td>task_list</td>"), std::string::npos) << finding;
        const std::string marked = fmt::format(
            "<span class=\"pid\">{}</span> <span class=\"hidden\">hidden: missing in "
            "task_list</span>",
            pid);
        EXPECT_NE(page.find(marked), std::string::npos);
        expect(0, {"tree", subject, "--direct"}, "─ " + pid + "! sh -c");
        // Its arguments stand in the tree, and are text there.
        EXPECT_NE(page.find("&lt;script&gt;alert(1)"), std::string::npos);
        EXPECT_NE(page.find("&quot;&gt;&lt;img src=x onerror=alert(2)&gt;"), std::string::npos);
        EXPECT_NE(page.find("gpj.\\xe2\\x80\\xaeexe"), std::string::npos);
        EXPECT_EQ(page.find("<script"), std::string::npos);
        EXPECT_EQ(page.find("<img"), std::string::npos);
    }
}

}  // namespace
}  // namespace underseer::testing
