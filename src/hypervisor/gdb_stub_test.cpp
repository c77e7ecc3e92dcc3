#include "hypervisor/gdb_stub.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/limits.h"
#include "base/os.h"

namespace underseer::hypervisor {
namespace {

using namespace std::chrono_literals;

std::string packet_of(std::string_view text) {
    unsigned sum = 0;
    for (const char byte : text) sum += static_cast<unsigned char>(byte);
    return fmt::format("+${}#{:02x}", text, sum % 256);
}

// A server that sends a fixed text, in pieces, whatever it is told.
class ScriptedServer final : public GdbPeer {
  public:
    explicit ScriptedServer(std::vector<std::string> packets) {
        for (const std::string& packet : packets) text_ += packet_of(packet);
    }
    static ScriptedServer of_bytes(std::string text) {
        ScriptedServer server({});
        server.text_ = std::move(text);
        return server;
    }
    Result<void> write(std::string_view bytes) override {
        told += bytes;
        return {};
    }
    Result<std::size_t> read(MutableBytes into) override {
        const std::size_t count = std::min({into.size(), text_.size() - at_, std::size_t{5}});
        std::memcpy(into.data(), text_.data() + at_, count);
        at_ += count;
        return count;
    }
    std::string told;

  private:
    std::string text_;
    std::size_t at_ = 0;
};

// What 'g' answers, with a number in each place.
std::string registers_text(bool long_mode = true) {
    std::vector<std::uint8_t> bytes(608);
    const auto put = [&](std::size_t at, std::uint64_t value) {
        std::memcpy(bytes.data() + at, &value, sizeof value);
    };
    put(0, 0x33), put(16, 0x44), put(24, 0x55), put(64, 0x66), put(72, 0x77);
    put(180, 0x7f00'0000'1000), put(32, 0x11), put(40, 0x22), put(56, 0xffffc90000123f50),
        put(128, 0xffffffff81003ef0);
    put(172, 0xffff88801f000000), put(204, 0x3c0a000), put(228, long_mode ? 0xd01 : 1);
    std::string text;
    for (const std::uint8_t byte : bytes) text += fmt::format("{:02x}", byte);
    return text;
}

TEST(GdbStub, says_what_qemu_understands_and_reads_what_it_answers) {
    ScriptedServer server({"PacketSize=1000;vContSupported+;multiprocess+", "T05thread:p01.01;",
                           "OK", "T05thread:p01.0a;", "OK", registers_text(), "OK",
                           "T05thread:p01.0a;", "OK", "T02thread:p01.02;", "OK"});
    GdbStub stub(&server);
    ASSERT_TRUE(stub.greet().has_value());
    ASSERT_TRUE(stub.insert(0xffffffff81003ef0).has_value());
    EXPECT_FALSE(stub.is_running());
    ASSERT_TRUE(stub.go_on().has_value());
    EXPECT_TRUE(stub.is_running());
    const auto stop = stub.next_stop();
    ASSERT_TRUE(stop.has_value()) << stop.error().to_text();
    EXPECT_EQ(stop->signal, GdbStop::kTrap);
    EXPECT_EQ(stop->cpu, (GdbThread{1, 10}));
    EXPECT_FALSE(stub.is_running());
    const auto cpu = stub.registers(stop->cpu);
    ASSERT_TRUE(cpu.has_value()) << cpu.error().to_text();
    EXPECT_EQ(*cpu, (CpuState{.rax = 0x33,
                              .rcx = 0x44,
                              .rdx = 0x55,
                              .rsi = 0x11,
                              .rdi = 0x22,
                              .rsp = 0xffffc90000123f50,
                              .r8 = 0x66,
                              .r9 = 0x77,
                              .rip = 0xffffffff81003ef0,
                              .gs_base = 0xffff88801f000000,
                              .kernel_gs_base = 0x7f00'0000'1000,
                              .cr3 = 0x3c0a000}));
    ASSERT_TRUE(stub.step_from(stop->cpu, cpu->rip).has_value());
    EXPECT_FALSE(stub.is_running());
    ASSERT_TRUE(stub.insert_and_go_on(cpu->rip).has_value());
    EXPECT_EQ(stub.interrupt().value().signal, 2);
    ASSERT_TRUE(stub.detach().has_value());
    std::string told;
    for (const char* packet :
         {"qSupported:multiprocess+", "?", "Z1,ffffffff81003ef0,1", "c", "Hgp1.a", "g",
          "z1,ffffffff81003ef0,1", "vCont;s:p1.a", "Z1,ffffffff81003ef0,1", "c", "", "D;1"}) {
        told += *packet == 0 ? "\x03" : packet_of(packet).substr(1);
    }
    EXPECT_EQ(server.told, told);
    EXPECT_TRUE(told.starts_with("$qSupported:multiprocess+#c6$?#3f")) << "as GDB sends it";
}

TEST(GdbStub, sends_no_acknowledgement_which_would_stop_a_vm_that_runs) {
    ScriptedServer server({"OK", "T05thread:p01.01;", "OK"});
    GdbStub stub(&server);
    ASSERT_TRUE(stub.insert_and_go_on(0x1000).has_value());
    ASSERT_TRUE(stub.next_stop().has_value());
    ASSERT_TRUE(stub.remove(0x1000).has_value());
    EXPECT_EQ(server.told.find('+'), std::string::npos);
}

// Else whoever waits for the socket waits for ever, and the guest with him.
TEST(GdbStub, knows_of_a_stop_that_came_together_with_an_answer) {
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    const Fd ours(ends[0]), theirs(ends[1]);
    const std::string both = packet_of("OK") + packet_of("T05thread:p01.02;");
    ASSERT_TRUE(write_all(theirs.get(), as_bytes(both)).has_value());
    GdbSocket socket(ours.get(), 50ms);
    GdbStub stub(&socket);
    EXPECT_FALSE(stub.has_pending());
    ASSERT_TRUE(stub.insert_and_go_on(0x1000).has_value());
    EXPECT_TRUE(stub.has_pending());
    EXPECT_EQ(stub.next_stop().value().cpu, (GdbThread{1, 2}));
    EXPECT_FALSE(stub.has_pending());
}

// Of an order without an answer it may come alone, and nothing after it for long.
TEST(GdbStub, does_not_take_an_acknowledgement_for_a_stop) {
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    const Fd ours(ends[0]), theirs(ends[1]);
    const std::string answer = packet_of("OK") + "+";
    ASSERT_TRUE(write_all(theirs.get(), as_bytes(answer)).has_value());
    GdbSocket socket(ours.get(), 50ms);
    GdbStub stub(&socket);
    ASSERT_TRUE(stub.insert_and_go_on(0x1000).has_value());
    EXPECT_FALSE(stub.has_pending());
    ASSERT_TRUE(write_all(theirs.get(), as_bytes(std::string_view("+"))).has_value());
    EXPECT_EQ(stub.stop_if_any().value(), std::nullopt);
    EXPECT_TRUE(stub.is_running());
    const std::string stop = packet_of("T05thread:p01.02;");
    ASSERT_TRUE(write_all(theirs.get(), as_bytes(stop)).has_value());
    EXPECT_EQ(stub.stop_if_any().value()->cpu, (GdbThread{1, 2}));
    EXPECT_FALSE(stub.is_running());
}

TEST(GdbStub, says_what_the_server_cannot_do_or_will_not) {
    const auto inserting = [](const std::string& answer) {
        ScriptedServer server({answer});
        return GdbStub(&server).insert(0x1000).error();
    };
    EXPECT_EQ(inserting("").code, Code::unsupported);
    EXPECT_EQ(inserting("E22").message, "QEMU's GDB server answers 'E22' to hardware breakpoint");
    ScriptedServer old({"PacketSize=1000"});
    EXPECT_EQ(GdbStub(&old).greet().error().code, Code::unsupported);
    ScriptedServer real_mode({"OK", registers_text(false)});
    EXPECT_EQ(GdbStub(&real_mode).registers({}).error().code, Code::unsupported);
    ScriptedServer short_of({"OK", registers_text().substr(0, 470)});
    EXPECT_EQ(GdbStub(&short_of).registers({}).error().code, Code::unsupported);
    ScriptedServer no_digits({"OK", std::string(608, 'x')});
    EXPECT_EQ(GdbStub(&no_digits).registers({}).error().code, Code::malformed);
}

TEST(GdbStub, takes_no_nonsense_for_a_stop) {
    for (const char* text : {"", "T", "T0", "Tzzthread:p01.01;", "T05", "T05thread:", "S05",
                             "T05thread:p01.01", "T05thread:p.1;", "T05thread:p1;", "T5thread:1;",
                             "T05thread:-1;", "T05thread:p1.100000000;", "OK"}) {
        ScriptedServer server({text});
        EXPECT_EQ(GdbStub(&server).next_stop().error().code, Code::malformed) << text;
    }
    ScriptedServer plain({"T02thread:02;"});
    EXPECT_EQ(GdbStub(&plain).next_stop().value().cpu, (GdbThread{1, 2}));
    ScriptedServer ended({"W00"});
    EXPECT_EQ(GdbStub(&ended).next_stop().error().code, Code::gone);
}

TEST(GdbStub, what_is_no_packet_or_has_no_end_is_refused) {
    const auto code = [](std::string bytes) {
        auto server = ScriptedServer::of_bytes(std::move(bytes));
        return GdbStub(&server).next_stop().error().code;
    };
    EXPECT_EQ(code(""), Code::gone);
    EXPECT_EQ(code("$T05thread:p01.01;"), Code::gone);
    EXPECT_EQ(code("$T05thread:p01.01;#00"), Code::malformed);
    EXPECT_EQ(code("$T05thread:p01.01;#9"), Code::gone);
    EXPECT_EQ(code("-$OK#9a"), Code::malformed);
    EXPECT_EQ(code("hello"), Code::malformed);
    EXPECT_EQ(code("#00"), Code::malformed);
    EXPECT_EQ(code(std::string(limits::kMaxGdbBytesBetween + 1, '+')), Code::malformed);
    EXPECT_EQ(code('$' + std::string(2 * limits::kMaxGdbPacketBytes, 'a')), Code::limit);
}

TEST(GdbStub, does_not_wait_for_a_server_that_is_silent_or_gone) {
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    ::signal(SIGPIPE, SIG_IGN);
    const Fd ours(ends[0]);
    Fd theirs(ends[1]);
    GdbSocket socket(ours.get(), 50ms);
    GdbStub stub(&socket);
    const auto begun = std::chrono::steady_clock::now();
    EXPECT_EQ(stub.insert(0x1000).error().code, Code::unavailable);
    EXPECT_LT(std::chrono::steady_clock::now() - begun, 5s);
    const std::string answer = packet_of("OK");
    ASSERT_TRUE(write_all(theirs.get(), as_bytes(answer)).has_value());
    EXPECT_TRUE(stub.insert(0x1000).has_value());
    theirs.reset();
    EXPECT_EQ(stub.insert(0x1000).error().code, Code::gone);
}

}  // namespace
}  // namespace underseer::hypervisor
