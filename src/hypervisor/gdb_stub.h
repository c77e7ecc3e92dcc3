// QEMU's GDB server (gdbstub/gdbstub.c and target/i386/gdbstub.c of QEMU 7.2), spoken to by the
// remote protocol (GDB manual, appendix "GDB Remote Serial Protocol"). To it a VM is a process and
// its CPUs are threads. Of the protocol only what is here is ever sent: it could write memory and
// give orders to the human monitor.
//
// TRUST: every byte that comes is the VMM's word.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/result.h"

namespace underseer::hypervisor {

// The two directions of the server's socket.
class GdbPeer {
  public:
    virtual ~GdbPeer() = default;
    virtual Result<void> write(std::string_view bytes) = 0;
    // Some bytes; 0 when the other side has closed. Code::unavailable when none come in time.
    virtual Result<std::size_t> read(MutableBytes into) = 0;
};

// Over a connected socket that never waits, with so much time for each answer. REQUIRES: SIGPIPE is
// ignored.
class GdbSocket final : public GdbPeer {
  public:
    GdbSocket(int fd, std::chrono::milliseconds longest) : fd_(fd), longest_(longest) {}
    Result<void> write(std::string_view bytes) override;
    Result<std::size_t> read(MutableBytes into) override;

  private:
    int fd_;
    std::chrono::milliseconds longest_;
};

struct GdbThread {
    std::uint32_t process = 1, thread = 1;
    bool operator==(const GdbThread&) const = default;
};

// Why all CPUs stand still.
struct GdbStop {
    // GDB's numbers (include/gdb/signals.def). QEMU gives the first where a CPU has met a
    // breakpoint or made its step, and another where the VM was stopped by anything else.
    static constexpr std::uint8_t kTrap = 5;

    GdbThread cpu;
    std::uint8_t signal = 0;
    bool operator==(const GdbStop&) const = default;
};

struct CpuState {
    std::uint64_t rax = 0, rcx = 0, rdx = 0, rsi = 0, rdi = 0, rsp = 0, r8 = 0, r9 = 0, rip = 0;
    // The second is the kernel's while a program runs, and the program's while the kernel does.
    std::uint64_t gs_base = 0, kernel_gs_base = 0;
    std::uint64_t cr3 = 0;
    bool operator==(const CpuState&) const = default;
};

class GdbStub {
  public:
    // `peer` must outlive this.
    explicit GdbStub(GdbPeer* peer) : peer_(peer) {}

    // The first words to a server that has just been given its socket, and has stopped the VM for
    // that. Breakpoints that another client has left are gone after it.
    Result<void> greet();

    // Hardware breakpoints, of all CPUs. Software ones are never used: with KVM they are written
    // into the guest's memory. REQUIRES: the VM is stopped, as for all up to detach().
    Result<void> insert(std::uint64_t address);
    Result<void> remove(std::uint64_t address);
    Result<CpuState> registers(GdbThread cpu);
    // One instruction of one CPU, at which there is a breakpoint: it would only be met again. It
    // is not there any more when this returns. Where several CPUs have met one at the same time,
    // QEMU may take the stop of another for the step's: then this one meets it once more.
    Result<GdbStop> step_from(GdbThread cpu, std::uint64_t address);
    // All CPUs go on; with a breakpoint put (back) there first.
    Result<void> go_on();
    Result<void> insert_and_go_on(std::uint64_t address);
    // All breakpoints are removed and the VM goes on. Nothing can be said to the server after it.
    Result<void> detach();

    // Waits until the VM is stopped. REQUIRES: it runs, as for the next one.
    Result<GdbStop> next_stop();
    // Takes what has come, of which there is something: a stop, or no more than an acknowledgement
    // of what was sent before.
    Result<std::optional<GdbStop>> stop_if_any();
    // Whether a stop, or its begin, has come with an answer, and waits in the socket no longer.
    bool has_pending() const { return pending_.find_first_not_of('+') != std::string::npos; }
    // Stops it.
    Result<GdbStop> interrupt();

    bool is_running() const { return running_; }

  private:
    Result<void> send(std::string_view one, std::string_view other = {});
    Result<std::string> packet();
    Result<void> read_more();
    Result<void> take_ok(std::string_view what);

    GdbPeer* peer_;
    std::string pending_;
    bool running_ = false;
};

}  // namespace underseer::hypervisor
