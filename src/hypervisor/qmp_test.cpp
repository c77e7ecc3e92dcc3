#include "hypervisor/qmp.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <thread>

#include "base/limits.h"

namespace underseer::hypervisor {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

constexpr std::string_view kGreeting =
    R"({"QMP": {"version": {"qemu": {"micro": 2, "minor": 2, "major": 7}}, "capabilities": []}})";

// A monitor that sends a fixed text, in pieces, whatever it is asked.
class ScriptedPeer final : public QmpPeer {
  public:
    explicit ScriptedPeer(std::string text) : text_(std::move(text)) {}
    Result<void> write(std::string_view text) override {
        asked += text;
        return {};
    }
    Result<void> write_with(std::string_view text, int fd) override {
        given = fd;
        return write(text);
    }
    Result<std::size_t> read(MutableBytes into) override {
        const std::size_t count = std::min({into.size(), text_.size() - at_, std::size_t{7}});
        std::copy_n(as_bytes(text_).begin() + static_cast<std::ptrdiff_t>(at_), count,
                    into.begin());
        at_ += count;
        return count;
    }
    std::string asked;
    int given = -1;

  private:
    std::string text_;
    std::size_t at_ = 0;
};

// The greeting and one answer a question, in order; what is missing is answered with an error.
std::string script(std::vector<std::string> answers) {
    std::string text = std::string(kGreeting) + "\r\n";
    answers.insert(answers.begin(), "{}");
    for (std::size_t i = 0; i < 13; ++i) {
        const bool told = i < answers.size() && !answers[i].empty();
        text += told ? fmt::format(R"({{"return": {}, "id": {}}})", answers[i], i + 1)
                     : fmt::format(
                           R"({{"error": {{"class": "GenericError", "desc": "no"}}, "id": {}}})",
                           i + 1);
        text += "\r\n";
    }
    return text;
}

Result<ManagerFacts> facts_of(const std::string& text) {
    ScriptedPeer peer(text);
    return ask_qmp(peer);
}

const std::vector<std::string> kAnswers{
    R"({"status": "paused", "singlestep": false, "running": false})", R"({"name": "edge"})",
    R"({"UUID": "6f1a2b3c-0000-4000-8000-000000000001"})", R"({"enabled": true, "present": true})",
    R"({"base-memory": 1073741824, "plugged-memory": 0})",
    R"([{"id": "ram", "size": 1073741824, "share": true, "merge": true, "dump": true}])", "",
    R"("")", R"("pc-q35-7.2-machine")", R"("/objects/ram")", "0",
    // Shortened: of the general registers one is left.
    R"("\r\nCPU#0\r\nRAX=0000000000000000 RBX=0000000000000001\r\n)"
    R"(IDT=     fffffe0000000000 00000fff\r\nCR0=80050033 CR2=00007f0000001000 CR3=0000000003c0a000 )"
    R"(CR4=001000f0\r\nDR6=00000000ffff0ff0 DR7=0000000000000400\r\nEFER=0000000000000d01\r\n)"
    R"(\r\nCPU#1\r\nIDT=     0000000000000000 0000ffff\r\nCR0=60000010 CR2=0 CR3=0 CR4=0\r\n)"
    R"(EFER=0000000000000000\r\n")"};

TEST(Qmp, what_a_monitor_says_is_read) {
    const auto facts = facts_of(script(kAnswers));
    ASSERT_TRUE(facts.has_value()) << facts.error().to_text();
    EXPECT_EQ(facts->state, "paused");
    EXPECT_EQ(facts->name, "edge");
    EXPECT_EQ(facts->uuid, "6f1a2b3c-0000-4000-8000-000000000001");
    EXPECT_TRUE(facts->kvm);
    EXPECT_EQ(facts->memory_bytes, 1u << 30);
    ASSERT_EQ(facts->backends.size(), 1u);
    EXPECT_EQ(facts->backends[0], (RamBlock{"ram", 1u << 30, true, ""}));
    EXPECT_EQ(facts->machine, "pc-q35-7.2-machine");
    EXPECT_EQ(facts->ram_backend, "ram");
    EXPECT_EQ(facts->confidential, "");
    ASSERT_EQ(facts->cpus.size(), 2u);
    EXPECT_EQ(facts->cpus[0], (event::CpuRegisters{.cpu = 0,
                                                   .cr0 = 0x80050033,
                                                   .cr3 = 0x3c0a000,
                                                   .cr4 = 0x1000f0,
                                                   .efer = 0xd01,
                                                   .idt_base = 0xfffffe0000000000,
                                                   .idt_limit = 0xfff}));
    EXPECT_EQ(facts->cpus[1].cr0, 0x60000010u);
}

TEST(Qmp, a_cpu_whose_registers_are_not_whole_is_left_out) {
    for (const std::string& text :
         {std::string(R"("")"), std::string(R"("Error: unknown command\r\n")"),
          std::string(R"("CPU#0\r\nIDT= 10 20\r\nCR0=1 CR3=2 CR4=3\r\n")"),
          std::string(R"("CPU#x\r\nIDT= 10 20\r\nCR0=1 CR3=2 CR4=3\r\nEFER=4\r\n")"),
          std::string(R"("CPU#0\r\nIDT=\r\nCR0=1 CR3=2 CR4=3\r\nEFER=4\r\n")"),
          std::string(R"("CPU#0\r\nIDT= 1\r\nCR0=1 CR3=zz CR4=3\r\nEFER=4\r\n")"),
          std::string(R"("CPU#CPU#CPU#")")}) {
        auto answers = kAnswers;
        answers.back() = text;
        const auto facts = facts_of(script(answers));
        ASSERT_TRUE(facts.has_value()) << facts.error().to_text();
        EXPECT_TRUE(facts->cpus.empty()) << text;
    }
    auto answers = kAnswers;
    std::string many;
    for (std::size_t i = 0; i <= limits::kMaxToldCpus; ++i) {
        many += R"(CPU#1\r\nIDT= 10 20\r\nCR0=1 CR3=2 CR4=3\r\nEFER=4\r\n)";
    }
    answers.back() = '"' + many + '"';
    EXPECT_EQ(facts_of(script(answers)).error().code, Code::limit);
}

TEST(Qmp, nothing_but_questions_is_sent) {
    ScriptedPeer peer(script(kAnswers));
    ASSERT_TRUE(ask_qmp(peer).has_value());
    std::size_t commands = 0;
    for (std::size_t at = 0; (at = peer.asked.find("\"execute\": \"", at)) != std::string::npos;
         ++commands) {
        at += 12;
        const std::string_view rest = std::string_view(peer.asked).substr(at);
        EXPECT_TRUE(rest.starts_with("query-") || rest.starts_with("qom-get\"") ||
                    rest.starts_with("qmp_capabilities\"") ||
                    rest.starts_with(R"(human-monitor-command", "id": 13, "arguments": )"
                                     R"({"command-line": "info registers -a"}})"
                                     "\n"))
            << rest.substr(0, 40);
    }
    EXPECT_EQ(commands, 13u);
}

// ---- orders

constexpr const char* kRunning = R"({"status": "running", "singlestep": false, "running": true})";
constexpr const char* kPaused = R"({"status": "paused", "singlestep": false, "running": false})";

TEST(QmpOrders, are_sent_and_what_came_of_them_is_asked) {
    ScriptedPeer peer(script({kRunning, "{}", kPaused}));
    EXPECT_EQ(order_qmp(peer, event::Action::pause, false).value(), "paused");
    EXPECT_NE(peer.asked.find(R"("execute": "stop")"), std::string::npos);
    ScriptedPeer again(script({kPaused, "{}", kPaused}));
    EXPECT_EQ(order_qmp(again, event::Action::pause, false).value(), "it was paused already");
    ScriptedPeer back(script({kPaused, "{}", kRunning}));
    EXPECT_EQ(order_qmp(back, event::Action::resume, false).value(), "resumed");
    // One that says yes and goes on.
    ScriptedPeer deaf(script({kRunning, "{}", kRunning}));
    EXPECT_EQ(order_qmp(deaf, event::Action::pause, false).error().code, Code::unavailable);
    // One that refuses.
    ScriptedPeer refuses(script({kRunning, ""}));
    EXPECT_NE(order_qmp(refuses, event::Action::pause, false).error().to_text().find("stop: no"),
              std::string::npos);
    ScriptedPeer ends(std::string(kGreeting) +
                      "\n{\"return\": {}, \"id\": 1}\n{\"return\": " + kRunning + ", \"id\": 2}\n");
    EXPECT_EQ(order_qmp(ends, event::Action::kill, false).value(), "ended");
}

TEST(QmpOrders, cut_the_cards_and_not_what_lies_behind_them) {
    const std::string network =
        R"("virtio-net-pci.0: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:56\r\n)"
        R"( \\ net: index=0,type=hubport,\r\nhub 0\r\n \\ net: virtio-net-pci.1: index=0,type=nic,)"
        R"(model=virtio-net-pci,macaddr=52:54:00:12:34:58\r\n)"
        R"(e1000.0: index=0,type=nic,model=e1000,macaddr=52:54:00:12:34:57\r\n)"
        R"(od\"d: index=0,type=nic,model=e1000\r\n")";
    ScriptedPeer peer(script({network, "{}", "{}", "{}", "{}"}));
    EXPECT_EQ(order_qmp(peer, event::Action::isolate, false).value(),
              "cut off: virtio-net-pci.0, virtio-net-pci.1, e1000.0, od\"d");
    EXPECT_NE(peer.asked.find(R"("set_link", "id": 3, "arguments": )"
                              R"({"name":"virtio-net-pci.0","up":false}})"),
              std::string::npos)
        << peer.asked;
    EXPECT_NE(peer.asked.find(R"({"name":"od\"d","up":false})"), std::string::npos);
    ScriptedPeer dry(script({network}));
    EXPECT_EQ(order_qmp(dry, event::Action::reconnect, true).value(),
              "would be connected: virtio-net-pci.0, virtio-net-pci.1, e1000.0, od\"d");
    EXPECT_EQ(dry.asked.find("set_link"), std::string::npos);
    ScriptedPeer none(script({R"("")"}));
    EXPECT_EQ(order_qmp(none, event::Action::isolate, false).error().code, Code::unavailable);
    std::string many;
    for (std::size_t i = 0; i <= limits::kMaxNetworkCards; ++i) {
        many += fmt::format(R"(n{}: index=0,type=nic,model=e1000\r\n)", i);
    }
    ScriptedPeer flood(script({'"' + many + '"'}));
    EXPECT_EQ(order_qmp(flood, event::Action::isolate, false).error().code, Code::limit);
}

TEST(QmpOrders, of_a_dry_run_are_none) {
    for (const event::Action action :
         {event::Action::pause, event::Action::resume, event::Action::isolate,
          event::Action::reconnect, event::Action::kill}) {
        ScriptedPeer peer(script({kRunning}));
        (void)order_qmp(peer, action, true);
        for (const char* order : {"\"stop\"", "\"cont\"", "\"quit\"", "\"set_link\""}) {
            EXPECT_EQ(peer.asked.find(order), std::string::npos) << to_string(action);
        }
    }
}

// ---- the GDB server

constexpr const char* kDevices = R"([{"label": "serial0", "filename": "file"}])";
constexpr const char* kWaiting =
    R"("Waiting for gdb connection on device 'chardev:underseer-gdb'\r\n")";

TEST(QmpGdbServer, is_given_a_socket_and_started_without_a_path) {
    ScriptedPeer peer(script(
        {kRunning, kDevices, "{}", "{}", kWaiting, R"("Disabled gdbserver")", "", kRunning}));
    GdbServer server(&peer);
    ASSERT_TRUE(server.check().has_value());
    EXPECT_EQ(peer.given, -1);
    ASSERT_TRUE(server.start(17).has_value());
    EXPECT_EQ(peer.given, 17);
    ASSERT_TRUE(server.end().has_value());
    EXPECT_EQ(server.vm_state().value(), "running");
    EXPECT_NE(peer.asked.find(R"("execute": "getfd", "id": 4, "arguments": )"
                              R"({"fdname": "underseer-gdb"}})"),
              std::string::npos);
    EXPECT_NE(peer.asked.find(R"({"id": "underseer-gdb", "backend": {"type": "socket", "data": )"
                              R"({"server": false, "addr": {"type": "fd", )"
                              R"("data": {"str": "underseer-gdb"}}}}})"),
              std::string::npos)
        << peer.asked;
    EXPECT_NE(peer.asked.find("gdbserver chardev:underseer-gdb"), std::string::npos);
    EXPECT_NE(peer.asked.find("gdbserver none"), std::string::npos);
}

TEST(QmpGdbServer, is_not_started_where_it_would_be_in_the_way) {
    const auto why = [](const char* status, const std::string& devices) {
        ScriptedPeer peer(script({status, devices}));
        const auto checked = GdbServer(&peer).check();
        EXPECT_EQ(peer.asked.find("getfd"), std::string::npos);
        return checked.has_value() ? "" : checked.error().message;
    };
    EXPECT_EQ(why(kRunning, kDevices), "");
    EXPECT_EQ(why(kPaused, kDevices), "the VM does not run: it is paused");
    EXPECT_NE(why(kRunning, R"([{"label": "gdb"}])").find("has a GDB server already"),
              std::string::npos);
    EXPECT_NE(why(kRunning, R"([{"label": "underseer-gdb"}])").find("underseer act VM resume"),
              std::string::npos);
    EXPECT_NE(why(kRunning, "[7]"), "");
}

TEST(QmpGdbServer, that_qemu_does_not_start_is_an_error) {
    ScriptedPeer peer(script({kRunning, kDevices, "{}", "{}", R"("Could not open gdbserver")"}));
    GdbServer server(&peer);
    ASSERT_TRUE(server.check().has_value());
    EXPECT_EQ(server.start(17).error().code, Code::unavailable);
}

TEST(QmpGdbServer, a_flood_of_events_is_passed_over) {
    std::string text = script({kRunning, kDevices});
    text = text.substr(0, text.find("{\"error\""));
    const std::string event = "{\"event\": \"STOP\", \"timestamp\": {}}\n";
    const std::size_t events = 4 * limits::kMaxQmpEvents;
    for (std::size_t i = 0; i < events; ++i) text += event;
    text += fmt::format(R"({{"return": {}, "id": 4}})", kPaused) + "\n";
    ScriptedPeer peer(text);
    GdbServer server(&peer);
    ASSERT_TRUE(server.check().has_value());
    for (std::size_t left = events * event.size(); left > 100; left -= 7) {
        ASSERT_TRUE(server.pass_over_events().has_value());
    }
    EXPECT_EQ(server.vm_state().value(), "paused");
}

TEST(QmpGdbServer, that_was_left_behind_is_not_touched_without_sockets) {
    ScriptedPeer peer(script({kPaused, "{}", kRunning}));
    EXPECT_EQ(order_qmp(peer, event::Action::resume, false).value(), "resumed");
    EXPECT_EQ(peer.asked.find("gdbserver"), std::string::npos);
    const GdbSockets sockets = GdbSockets::make().value();
    ScriptedPeer none(script({kPaused, kDevices, "{}", kRunning}));
    EXPECT_EQ(order_qmp(none, event::Action::resume, false, &sockets).value(), "resumed");
    EXPECT_EQ(none.asked.find("gdbserver"), std::string::npos);
}

TEST(Qmp, an_old_qemu_that_knows_little_is_no_error) {
    const auto facts = facts_of(script({R"({"status": "running"})"}));
    ASSERT_TRUE(facts.has_value()) << facts.error().to_text();
    EXPECT_EQ(facts->state, "running");
    EXPECT_EQ(facts->memory_bytes, 0u);
}

TEST(Qmp, confidential_guests_say_so) {
    auto answers = kAnswers;
    answers[6] = R"({"enabled": true, "sev-type": "sev-snp", "policy": 196608})";
    EXPECT_NE(facts_of(script(answers))->confidential.find("sev-snp"), std::string::npos);
    answers[6] = "";
    answers[7] = R"("/objects/tdx0")";
    EXPECT_NE(facts_of(script(answers))->confidential.find("tdx0"), std::string::npos);
}

TEST(Qmp, events_between_are_passed_over_and_bounded) {
    std::string text = std::string(kGreeting) + "\n";
    const std::string event = "{\"event\": \"STOP\", \"timestamp\": {}}\n";
    EXPECT_TRUE(facts_of(text + event + script(kAnswers).substr(text.size() + 1)).has_value());
    for (std::size_t i = 0; i <= limits::kMaxQmpEvents; ++i) text += event;
    EXPECT_EQ(facts_of(text).error().code, Code::limit);
}

TEST(Qmp, nonsense_is_refused_in_bounded_space) {
    EXPECT_EQ(facts_of("").error().code, Code::gone);
    EXPECT_EQ(facts_of("hello\n").error().code, Code::malformed);
    EXPECT_EQ(facts_of("{}\n").error().code, Code::malformed);
    EXPECT_EQ(facts_of(std::string(kGreeting) + "\n{\"return\": {}, \"id\": 9}\n").error().code,
              Code::malformed);
    EXPECT_EQ(facts_of(std::string(limits::kMaxQmpLineBytes + 100, ' ')).error().code, Code::limit);
    for (std::size_t i = 0; i < kAnswers.size(); ++i) {
        auto answers = kAnswers;
        answers[i] = "[[7]]";
        const auto facts = facts_of(script(answers));
        EXPECT_FALSE(facts.has_value() && i != 0 && i != 1 && i != 2) << kAnswers[i];
    }
    std::string many = "[";
    for (std::size_t i = 0; i <= limits::kMaxRamBackends; ++i) {
        many += std::string(i == 0 ? "" : ",") + R"({"id": "x", "size": 1, "share": true})";
    }
    auto answers = kAnswers;
    answers[5] = many + "]";
    EXPECT_EQ(facts_of(script(answers)).error().code, Code::limit);
}

// ---- the socket -------------------------------------------------------------------------------

class QmpSockets : public ::testing::Test {
  protected:
    QmpSockets() {
        std::string pattern = (fs::temp_directory_path() / "underseer-qmp-XXXXXX").string();
        CHECK(::mkdtemp(pattern.data()) != nullptr);
        directory_ = pattern;
    }
    ~QmpSockets() override { fs::remove_all(directory_); }

    static Fd listening_at(const std::string& path) {
        Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        path.copy(address.sun_path, sizeof address.sun_path - 1);
        CHECK(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
        CHECK(::listen(fd.get(), 2) == 0);
        return fd;
    }
    std::string path() const { return directory_ + "/qmp"; }
    // Connecting costs a process its groups.
    QmpSocket socket_of(pid_t pid) const { return {path(), pid, ::geteuid(), ::getegid()}; }

    std::string directory_;
};

TEST_F(QmpSockets, the_vmm_itself_must_listen) {
    const Fd listening = listening_at(path());
    EXPECT_TRUE(connect_qmp(socket_of(::getpid())).has_value());
    const auto other = connect_qmp(socket_of(::getppid()));
    ASSERT_FALSE(other.has_value());
    EXPECT_EQ(other.error().code, Code::permission);
    EXPECT_NE(other.error().message.find("listens there, not the VMM"), std::string::npos);
}

TEST_F(QmpSockets, what_is_no_socket_or_anothers_is_not_connected_to) {
    {
        const Fd file = open_file(path(), O_CREAT | O_WRONLY, 0600).value();
    }
    EXPECT_NE(connect_qmp(socket_of(::getpid())).error().message.find("it is no socket"),
              std::string::npos);
    fs::remove(path());
    EXPECT_EQ(connect_qmp(socket_of(::getpid())).error().code, Code::not_found);
    const Fd listening = listening_at(directory_ + "/real");
    fs::create_symlink(directory_ + "/real", path());
    EXPECT_NE(connect_qmp(socket_of(::getpid())).error().message.find("it is no socket"),
              std::string::npos);
    QmpSocket magic = socket_of(::getpid());
    magic.path = fmt::format("/proc/self/root{}/real", directory_);
    EXPECT_FALSE(connect_qmp(magic).has_value());
    magic.path = "qmp";
    EXPECT_EQ(connect_qmp(magic).error().code, Code::unsupported);
}

TEST_F(QmpSockets, roots_rights_are_not_lent_to_a_path) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root: only root has rights to lend";
    const Fd listening = listening_at(path());
    QmpSocket socket = socket_of(::getpid());
    // The directory is root's alone: a VMM of user 65534 cannot have it there.
    socket.user = socket.group = 65534;
    EXPECT_EQ(connect_qmp(socket).error().code, Code::permission);
    ::chmod(directory_.c_str(), 0755);
    EXPECT_EQ(connect_qmp(socket).error().code, Code::permission);  // the socket is not writable
    ::chmod(path().c_str(), 0777);
    EXPECT_TRUE(connect_qmp(socket).has_value());
    ASSERT_EQ(::chown(path().c_str(), 1234, 1234), 0);
    EXPECT_NE(connect_qmp(socket).error().message.find("it is user 1234's"), std::string::npos);
    // And root is root again.
    EXPECT_TRUE(open_file("/etc/shadow", O_RDONLY).has_value());
}

TEST_F(QmpSockets, a_busy_monitor_is_left_alone_at_once) {
    const Fd listening = listening_at(path());
    std::vector<Fd> held;
    // Nobody accepts: the queue is full after one or two.
    Result<Fd> last = connect_qmp(socket_of(::getpid()));
    for (int i = 0; i < 8 && last.has_value(); ++i) {
        held.push_back(std::move(*last));
        last = connect_qmp(socket_of(::getpid()));
    }
    ASSERT_FALSE(last.has_value());
    EXPECT_EQ(last.error().code, Code::unavailable);
    const auto begun = std::chrono::steady_clock::now();
    const auto facts = ask_qmp(held.front().get(), 100ms);
    EXPECT_EQ(facts.error().code, Code::unavailable);
    EXPECT_LT(std::chrono::steady_clock::now() - begun, 2s);
}

}  // namespace
}  // namespace underseer::hypervisor
