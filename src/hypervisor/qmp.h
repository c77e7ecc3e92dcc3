// QEMU's monitor (docs/interop/qmp-spec.txt of QEMU 7.2). It is asked: the questions are query-*,
// qom-get, and one line to the human monitor, "info registers -a": no QMP command tells CR3. It
// makes each CPU leave the guest for some microseconds, as any interrupt does. And it is told what
// an operator, or policy, wants done: five orders; and to start and end its GDB server.
//
// TRUST: the socket's path is the VMM's word, and so is every byte that comes from it. A VMM that
// an attacker in the guest has taken over writes both.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>

#include "base/os.h"
#include "event/finding.h"
#include "hypervisor/vm.h"

namespace underseer::hypervisor {

// Whose monitor it is.
struct QmpSocket {
    std::string path;
    pid_t pid = -1;
    uid_t user = 0;
    gid_t group = 0;
};

// Connects with no more rights on the file system than the VMM's own user, whatever the path leads
// to, and only to a socket that the VMM itself listens on (SO_PEERCRED: a process that calls
// listen() leaves its pid there). Never waits for a monitor that is busy. REQUIRES: the calling
// process has one thread; it loses its supplementary groups. The path's lookup may hang (FUSE):
// call it in a process that can be killed.
Result<Fd> connect_qmp(const QmpSocket& socket);

// The two directions of a monitor's socket.
class QmpPeer {
  public:
    virtual ~QmpPeer() = default;
    virtual Result<void> write(std::string_view text) = 0;
    // The same with a file descriptor that goes along (SCM_RIGHTS).
    virtual Result<void> write_with(std::string_view text, int fd);
    // Some bytes; 0 when the other side has closed. Code::unavailable when none come in time.
    virtual Result<std::size_t> read(MutableBytes into) = 0;
};

// Over a connected socket that never waits. A second at most until the greeting: a monitor that
// another client holds gives none.
class QmpSocketPeer final : public QmpPeer {
  public:
    // `longest`: for all that is asked.
    QmpSocketPeer(int fd, std::chrono::milliseconds longest);
    Result<void> write(std::string_view text) override;
    Result<void> write_with(std::string_view text, int fd) override;
    Result<std::size_t> read(MutableBytes into) override;
    // From now on so much time for what is asked.
    void renew(std::chrono::milliseconds longest);

  private:
    int fd_;
    std::chrono::steady_clock::time_point whole_, deadline_;
};

// Asks what ManagerFacts has room for. A question that this QEMU does not know leaves its fields
// empty. Code::unavailable when the monitor does not answer: it serves one client at a time.
Result<ManagerFacts> ask_qmp(QmpPeer& peer);
// The same over a connected socket, with so much time for everything.
Result<ManagerFacts> ask_qmp(int fd, std::chrono::milliseconds longest);

// Both ends of what QEMU's GDB server is spoken to through.
struct GdbSockets {
    Fd ours, theirs;
    static Result<GdbSockets> make();
};

// Does it, and says what is so now: "paused". What is so already is done again without harm.
// With `dry_run` nothing is done, and it says what would be: "would be paused: it is running".
// `isolate` cuts every network card that QEMU itself gives the guest; a device that is passed
// through is none of them, which it says where there is no card.
// A VM that an exact trace has left behind, its supervisor killed too, stands still at a breakpoint
// or will: where `gdb` is given, to resume it puts that right first.
Result<std::string> order_qmp(QmpPeer& peer, event::Action action, bool dry_run,
                              const GdbSockets* gdb = nullptr);
Result<std::string> order_qmp(int fd, event::Action action, bool dry_run,
                              std::chrono::milliseconds longest, const GdbSockets* gdb = nullptr);

// ---- the GDB server ---------------------------------------------------------------------------

// The monitor of a VM that is debugged, for as long as it is: QEMU's GDB server, started at run
// time on one end of a pair of sockets, so that there is no path at which others could connect.
class GdbServer {
  public:
    // `peer` must outlive this.
    explicit GdbServer(QmpPeer* peer);
    ~GdbServer();
    GdbServer(const GdbServer&) = delete;

    // Greets the monitor. Code::unavailable, with the reason, when the VM does not run, or has a
    // debugger already, or has had one of ours that was killed.
    Result<void> check();
    // Gives QEMU `socket` and starts the server, which stops the VM.
    Result<void> start(int socket);
    // Ends it; the VM goes on or stands still as before.
    Result<void> end();
    // In QEMU's words: "running", "paused", "debug", ..
    Result<std::string> vm_state();
    // Forgets the events that have come; when the monitor has something to say. It waits for
    // nobody who does not read it, and keeps all that he has not read.
    Result<void> pass_over_events();

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace underseer::hypervisor
