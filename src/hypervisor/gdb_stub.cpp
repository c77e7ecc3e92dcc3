#include "hypervisor/gdb_stub.h"

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <optional>

#include "base/limits.h"
#include "base/os.h"

namespace underseer::hypervisor {

namespace {

// Where registers lie in the answer to 'g': x86_cpu_gdb_read_register() in target/i386/gdbstub.c.
// 16 general registers in the order of gpr_map, RIP, the flags and six selectors of 32 bits,
// FS_BASE, GS_BASE, KERNEL_GS_BASE, CR0, CR2, CR3, CR4, CR8, EFER; FPU and SSE follow.
constexpr std::size_t kRaxAt = 0, kRcxAt = 16, kRdxAt = 24, kRsiAt = 32, kRdiAt = 40, kRspAt = 56,
                      kR8At = 64, kR9At = 72, kRipAt = 128, kGsBaseAt = 172, kKernelGsBaseAt = 180,
                      kCr3At = 204, kEferAt = 228, kKnownBytes = 236;
constexpr std::uint64_t kLongModeActive = 1u << 10;  // EFER.LMA: else the layout is another

std::string framed(std::string_view text) {
    unsigned sum = 0;
    for (const char byte : text) sum += static_cast<unsigned char>(byte);
    return fmt::format("${}#{:02x}", text, sum & 0xff);
}

template <typename T>
std::optional<T> take_hex_number(std::string_view& text) {
    T value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
    if (error != std::errc{}) return std::nullopt;
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
    return value;
}

bool take_prefix(std::string_view& text, std::string_view prefix) {
    if (!text.starts_with(prefix)) return false;
    text.remove_prefix(prefix.size());
    return true;
}

// "p01.02", or "02" without the multiprocess extensions.
std::optional<GdbThread> take_thread(std::string_view& text) {
    GdbThread thread;
    if (take_prefix(text, "p")) {
        const auto process = take_hex_number<std::uint32_t>(text);
        if (!process || !take_prefix(text, ".")) return std::nullopt;
        thread.process = *process;
    }
    const auto number = take_hex_number<std::uint32_t>(text);
    if (!number) return std::nullopt;
    thread.thread = *number;
    return thread;
}

std::string text_of(GdbThread cpu) {
    return fmt::format("p{:x}.{:x}", cpu.process, cpu.thread);
}

Unexpected strange(std::string_view asked, std::string_view answer) {
    return fail(Code::malformed,
                fmt::format("QEMU's GDB server answers '{}' to {}", answer.substr(0, 40), asked));
}

// "T05thread:p01.02;" (gdb_vm_state_change() in gdbstub/gdbstub.c); "W00": the VM ends.
Result<GdbStop> parse_stop(std::string_view text) {
    const std::string_view whole = text;
    if (text.starts_with('W') || text.starts_with('X')) return fail(Code::gone, "the VM has ended");
    GdbStop stop;
    if (!take_prefix(text, "T") || text.size() < 2) return strange("a stop", whole);
    std::string_view number = text.substr(0, 2);
    const auto signal = take_hex_number<std::uint8_t>(number);
    text.remove_prefix(2);
    if (!signal || !number.empty() || !take_prefix(text, "thread:")) {
        return strange("a stop", whole);
    }
    const auto cpu = take_thread(text);
    if (!cpu || !text.starts_with(';')) return strange("a stop", whole);
    return GdbStop{*cpu, *signal};
}

Result<std::vector<std::byte>> parse_bytes(std::string_view digits) {
    std::vector<std::byte> bytes(digits.size() / 2);
    for (std::size_t i = 0; i < bytes.size(); ++i) {
        std::string_view two = digits.substr(2 * i, 2);
        const auto value = take_hex_number<std::uint8_t>(two);
        if (!value || !two.empty()) return strange("a question for registers", digits);
        bytes[i] = std::byte{*value};
    }
    return bytes;
}

std::string breakpoint(char order, std::uint64_t address) {
    return fmt::format("{}1,{:x},1", order, address);
}

}  // namespace

// ---- the socket -------------------------------------------------------------------------------

Result<void> GdbSocket::write(std::string_view bytes) {
    // Some packets have a hundred bytes; a socket whose buffer has no room for them is stuck.
    const ssize_t put = ::write(fd_, bytes.data(), bytes.size());
    if (put == static_cast<ssize_t>(bytes.size())) return {};
    if (put < 0 && errno == EPIPE) return fail(Code::gone, "QEMU has closed its GDB server");
    if (put < 0 && errno != EAGAIN) return fail(os_error("writing to QEMU's GDB server"));
    return fail(Code::unavailable, "QEMU's GDB server takes no more");
}

Result<std::size_t> GdbSocket::read(MutableBytes into) {
    const auto deadline = std::chrono::steady_clock::now() + longest_;
    for (;;) {
        const ssize_t got = ::read(fd_, into.data(), into.size());
        if (got >= 0) return static_cast<std::size_t>(got);
        if (errno == ECONNRESET) return 0;
        if (errno != EAGAIN && errno != EINTR) {
            return fail(os_error("reading from QEMU's GDB server"));
        }
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
            deadline - std::chrono::steady_clock::now());
        pollfd readable{fd_, POLLIN, 0};
        if (left.count() <= 0 || ::poll(&readable, 1, static_cast<int>(left.count())) == 0) {
            return fail(Code::unavailable, fmt::format("QEMU's GDB server does not answer within "
                                                       "{} ms",
                                                       longest_.count()));
        }
    }
}

// ---- packets ----------------------------------------------------------------------------------

// Nothing is acknowledged: QEMU takes the next packet for it (gdb_read_byte()), and an
// acknowledgement that reaches it while the VM runs would stop that.
Result<void> GdbStub::send(std::string_view one, std::string_view other) {
    return peer_->write(other.empty() ? framed(one) : framed(one) + framed(other));
}

Result<std::string> GdbStub::packet() {
    for (;;) {
        const std::size_t begin = pending_.find('$');
        const std::size_t before = std::min(begin, pending_.size());
        if (before > limits::kMaxGdbBytesBetween || pending_.find_first_not_of('+') < before) {
            return fail(Code::malformed, "QEMU's GDB server sends what is no packet");
        }
        const std::size_t end = pending_.find('#', before);
        if (end != std::string::npos && pending_.size() - end > 2) {
            std::string text = pending_.substr(begin + 1, end - begin - 1);
            const bool whole = framed(text) == pending_.substr(begin, end - begin + 3);
            pending_.erase(0, end + 3);
            if (!whole) return fail(Code::malformed, "a packet of QEMU's has a wrong checksum");
            return text;
        }
        if (pending_.size() > limits::kMaxGdbPacketBytes) {
            return fail(Code::limit, "QEMU's GDB server sends a packet without end");
        }
        TRY(read_more());
    }
}

Result<void> GdbStub::read_more() {
    std::array<std::byte, 4096> piece;
    const std::size_t got = TRY(peer_->read(piece));
    if (got == 0) return fail(Code::gone, "QEMU has closed its GDB server");
    pending_ += as_text(Bytes(piece).first(got));
    return {};
}

Result<void> GdbStub::take_ok(std::string_view what) {
    const std::string answer = TRY(packet().context(what));
    if (answer == "OK") return {};
    if (answer.empty()) {
        return fail(Code::unsupported, fmt::format("QEMU's GDB server knows no {}", what));
    }
    return strange(what, answer);
}

// ---- words ------------------------------------------------------------------------------------

Result<void> GdbStub::greet() {
    TRY(send("qSupported:multiprocess+"));
    const std::string features = TRY(packet());
    if (features.find("multiprocess+") == std::string::npos ||
        features.find("vContSupported+") == std::string::npos) {
        return fail(Code::unsupported, "QEMU's GDB server lacks multiprocess or vCont");
    }
    TRY(send("?"));  // handle_target_halt() removes all breakpoints
    TRY(parse_stop(TRY(packet())));
    return {};
}

Result<void> GdbStub::insert(std::uint64_t address) {
    TRY(send(breakpoint('Z', address)));
    return take_ok("hardware breakpoint");
}

Result<void> GdbStub::remove(std::uint64_t address) {
    TRY(send(breakpoint('z', address)));
    return take_ok("removal of a breakpoint");
}

Result<CpuState> GdbStub::registers(GdbThread cpu) {
    TRY(send("Hg" + text_of(cpu), "g"));
    TRY(take_ok("choice of a CPU"));
    const std::string answer = TRY(packet().context("the registers of a CPU"));
    const auto bytes = TRY(parse_bytes(answer));
    if (bytes.size() < kKnownBytes ||
        (*load_le<std::uint64_t>(bytes, kEferAt) & kLongModeActive) == 0) {
        return fail(Code::unsupported,
                    fmt::format("QEMU's GDB server tells {} bytes of registers, and not those of a "
                                "CPU in 64-bit mode",
                                bytes.size()));
    }
    const auto word = [&](std::size_t at) { return *load_le<std::uint64_t>(bytes, at); };
    return CpuState{.rax = word(kRaxAt),
                    .rcx = word(kRcxAt),
                    .rdx = word(kRdxAt),
                    .rsi = word(kRsiAt),
                    .rdi = word(kRdiAt),
                    .rsp = word(kRspAt),
                    .r8 = word(kR8At),
                    .r9 = word(kR9At),
                    .rip = word(kRipAt),
                    .gs_base = word(kGsBaseAt),
                    .kernel_gs_base = word(kKernelGsBaseAt),
                    .cr3 = word(kCr3At)};
}

Result<GdbStop> GdbStub::step_from(GdbThread cpu, std::uint64_t address) {
    TRY(send(breakpoint('z', address), fmt::format("vCont;s:{}", text_of(cpu))));
    TRY(take_ok("removal of a breakpoint"));
    running_ = true;
    return next_stop();
}

Result<void> GdbStub::go_on() {
    TRY(send("c"));
    running_ = true;
    return {};
}

Result<void> GdbStub::insert_and_go_on(std::uint64_t address) {
    TRY(send(breakpoint('Z', address), "c"));
    running_ = true;
    return take_ok("hardware breakpoint");
}

Result<void> GdbStub::detach() {
    TRY(send("D;1"));  // with multiprocess, a bare D is an error
    TRY(take_ok("detaching"));
    running_ = true;
    return {};
}

Result<GdbStop> GdbStub::next_stop() {
    const GdbStop stop = TRY(parse_stop(TRY(packet().context("waiting for a stop"))));
    running_ = false;
    return stop;
}

Result<std::optional<GdbStop>> GdbStub::stop_if_any() {
    if (!has_pending()) TRY(read_more());
    if (has_pending()) return std::optional(TRY(next_stop()));
    pending_.clear();
    return std::optional<GdbStop>();
}

// Any byte stops a VM that runs; one that a breakpoint has just stopped ignores it. So there is one
// answer in any case.
Result<GdbStop> GdbStub::interrupt() {
    TRY(peer_->write("\x03"));
    return next_stop();
}

}  // namespace underseer::hypervisor
