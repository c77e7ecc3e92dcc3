// QEMU's monitor (docs/interop/qmp-spec.txt of QEMU 7.2). It is asked: the questions are query-*,
// qom-get, and one line to the human monitor, "info registers -a": no QMP command tells CR3. It
// makes each CPU leave the guest for some microseconds, as any interrupt does. And it is told what
// an operator, or policy, wants done: five orders, and no others.
//
// TRUST: the socket's path is the VMM's word, and so is every byte that comes from it. A VMM that
// an attacker in the guest has taken over writes both.
#pragma once

#include <chrono>
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
    // Some bytes; 0 when the other side has closed. Code::unavailable when none come in time.
    virtual Result<std::size_t> read(MutableBytes into) = 0;
};

// Asks what ManagerFacts has room for. A question that this QEMU does not know leaves its fields
// empty. Code::unavailable when the monitor does not answer: it serves one client at a time.
Result<ManagerFacts> ask_qmp(QmpPeer& peer);
// The same over a connected socket, with so much time for everything, and a second at most for the
// greeting: a monitor that another client holds gives none.
Result<ManagerFacts> ask_qmp(int fd, std::chrono::milliseconds longest);

// Does it, and says what is so now: "paused". What is so already is done again without harm.
// With `dry_run` nothing is done, and it says what would be: "would be paused: it is running".
// `isolate` cuts every network card that QEMU itself gives the guest; a device that is passed
// through is none of them, which it says where there is no card.
Result<std::string> order_qmp(QmpPeer& peer, event::Action action, bool dry_run);
Result<std::string> order_qmp(int fd, event::Action action, bool dry_run,
                              std::chrono::milliseconds longest);

}  // namespace underseer::hypervisor
