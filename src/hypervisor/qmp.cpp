#include "hypervisor/qmp.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <linux/openat2.h>
#include <poll.h>
#include <sys/fsuid.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <utility>

#include "base/limits.h"
#include "hypervisor/gdb_stub.h"
#include "json/value.h"
#include "json/writer.h"

namespace underseer::hypervisor {

namespace {

using json::Value;

// ---- connecting -------------------------------------------------------------------------------

// The rights of a user on the file system and nothing more, for as long as this lives: a file
// system user id that is not 0 takes CAP_DAC_OVERRIDE and its like out of effect (capabilities(7)).
class FileSystemUser {
  public:
    FileSystemUser(uid_t user, gid_t group) {
        if (::geteuid() == 0) (void)::setgroups(0, nullptr);
        old_group_ = static_cast<gid_t>(::setfsgid(group));
        old_user_ = static_cast<uid_t>(::setfsuid(user));
    }
    FileSystemUser(const FileSystemUser&) = delete;
    ~FileSystemUser() {
        ::setfsuid(old_user_);
        ::setfsgid(old_group_);
    }

  private:
    uid_t old_user_ = 0;
    gid_t old_group_ = 0;
};

// ---- talking ----------------------------------------------------------------------------------

std::string cut(std::string text) {
    if (text.size() > limits::kMaxManagerTextBytes) text.resize(limits::kMaxManagerTextBytes);
    return text;
}

Result<void> take_text(const Value& answer, std::string_view key, std::string& into) {
    if (const auto member = answer.find(key)) into = cut(TRY(member->as_string()));
    return {};
}

class Conversation {
  public:
    explicit Conversation(QmpPeer* peer) : peer_(peer) {}

    Result<void> greet() {
        const Value greeting = TRY(next_object());
        TRY(greeting.at("QMP"));
        TRY(ask("qmp_capabilities", ""));
        return {};
    }

    // What the command returns; nothing when this QEMU answers with an error: it does not know the
    // command, or has nothing to say (query-sev without SEV).
    Result<std::optional<Value>> ask(std::string_view command, std::string_view arguments) {
        const Value answer = TRY(answer_to(command, arguments));
        if (answer.find("error")) return std::optional<Value>();
        return std::optional(TRY(answer.at("return")));
    }

    // The same where an error is one.
    Result<Value> order(std::string_view command, std::string_view arguments) {
        return order_with(command, arguments, std::nullopt);
    }
    Result<Value> order_with(std::string_view command, std::string_view arguments,
                             std::optional<int> fd) {
        const Value answer = TRY(answer_to(command, arguments, fd));
        if (const auto error = answer.find("error")) {
            std::string why;
            TRY(take_text(*error, "desc", why));
            return fail(Code::unavailable, fmt::format("QEMU refuses {}: {}", command, why));
        }
        return answer.at("return");
    }

    // What has come since the last answer, as far as it is there, and was not asked for.
    Result<void> pass_over() {
        begin_anew();
        std::array<std::byte, 16u << 10> piece;
        const std::size_t got = TRY(peer_->read(piece));
        if (got == 0) return fail(Code::gone, "the monitor was closed");
        pending_ += as_text(Bytes(piece).first(got));
        const std::size_t end = pending_.rfind('\n');
        if (end != std::string::npos) pending_.erase(0, end + 1);
        if (pending_.size() <= limits::kMaxQmpLineBytes) return {};
        return fail(Code::limit, "the monitor sends a line without end");
    }
    // The bounds are those of one exchange.
    void begin_anew() { taken_ = events_ = 0; }

  private:
    Result<Value> answer_to(std::string_view command, std::string_view arguments,
                            std::optional<int> fd = std::nullopt) {
        const std::uint64_t id = ++last_id_;
        const std::string text =
            fmt::format(R"({{"execute": "{}", "id": {}{}{}}})"
                        "\n",
                        command, id, arguments.empty() ? "" : R"(, "arguments": )", arguments);
        TRY(fd ? peer_->write_with(text, *fd) : peer_->write(text));
        for (;;) {
            const Value answer = TRY(next_object());
            if (answer.find("event")) {
                if (++events_ > limits::kMaxQmpEvents) {
                    return fail(Code::limit, "the monitor sends events without end");
                }
                continue;
            }
            if (TRY(TRY(answer.at("id")).as_uint()) != id) {
                return fail(Code::malformed, "the monitor answers what was not asked");
            }
            return answer;
        }
    }

    // One line, which must hold one JSON value.
    Result<Value> next_object() {
        std::size_t end = 0, searched = 0;
        while ((end = pending_.find('\n', searched)) == std::string::npos) {
            searched = pending_.size();
            if (pending_.size() > limits::kMaxQmpLineBytes || taken_ > limits::kMaxQmpBytes) {
                return fail(Code::limit, "the monitor sends more than any answer needs");
            }
            std::array<std::byte, 16u << 10> piece;
            const std::size_t got = TRY(peer_->read(piece));
            if (got == 0) return fail(Code::gone, "the monitor was closed");
            taken_ += got;
            pending_ += as_text(Bytes(piece).first(got));
        }
        auto value = Value::parse(std::string_view(pending_).substr(0, end));
        pending_.erase(0, end + 1);
        return std::move(value).context("the monitor sends what is no QMP");
    }

    QmpPeer* peer_;
    std::string pending_;
    std::size_t taken_ = 0, events_ = 0;
    std::uint64_t last_id_ = 0;
};

Result<void> take_status(const Value& answer, ManagerFacts& facts) {
    return take_text(answer, "status", facts.state);
}
Result<void> take_name(const Value& answer, ManagerFacts& facts) {
    return take_text(answer, "name", facts.name);  // absent when it has none
}
Result<void> take_uuid(const Value& answer, ManagerFacts& facts) {
    TRY(take_text(answer, "UUID", facts.uuid));
    if (facts.uuid.find_first_not_of("0-") == std::string::npos) facts.uuid.clear();
    return {};
}
Result<void> take_kvm(const Value& answer, ManagerFacts& facts) {
    facts.kvm = TRY(TRY(answer.at("enabled")).as_bool());
    return {};
}
Result<void> take_memory(const Value& answer, ManagerFacts& facts) {
    facts.memory_bytes = TRY(TRY(answer.at("base-memory")).as_uint());
    if (const auto plugged = answer.find("plugged-memory")) {
        facts.plugged_bytes = TRY(plugged->as_uint());
    }
    return {};
}
Result<void> take_backends(const Value& answer, ManagerFacts& facts) {
    for (const Value& item : TRY(answer.elements())) {
        if (facts.backends.size() >= limits::kMaxRamBackends) {
            return fail(Code::limit, "the monitor tells of too many memory backends");
        }
        RamBlock block;
        TRY(take_text(item, "id", block.id));
        block.size_bytes = TRY(TRY(item.at("size")).as_uint());
        block.shared = TRY(TRY(item.at("share")).as_bool());
        facts.backends.push_back(std::move(block));
    }
    return {};
}
Result<void> take_sev(const Value& answer, ManagerFacts& facts) {
    if (!TRY(TRY(answer.at("enabled")).as_bool())) return {};
    std::string kind = "SEV";
    if (const auto type = answer.find("sev-type")) kind = cut(TRY(type->as_string()));
    facts.confidential = fmt::format("a confidential VM ({}): its memory is encrypted", kind);
    return {};
}
// A link: the path of the object that encrypts its memory, "" when there is none.
Result<void> take_guard(const Value& answer, ManagerFacts& facts) {
    const std::string object = TRY(answer.as_string());
    if (object.empty() || !facts.confidential.empty()) return {};
    facts.confidential = cut(fmt::format("a confidential VM ({}): its memory is encrypted",
                                         object.substr(object.rfind('/') + 1)));
    return {};
}
Result<void> take_machine(const Value& answer, ManagerFacts& facts) {
    facts.machine = cut(TRY(answer.as_string()));
    return {};
}
Result<void> take_ram_backend(const Value& answer, ManagerFacts& facts) {
    const std::string object = TRY(answer.as_string());
    facts.ram_backend = cut(object.substr(object.rfind('/') + 1));
    return {};
}
Result<void> take_low_limit(const Value& answer, ManagerFacts& facts) {
    facts.max_ram_below_4g = TRY(answer.as_uint());
    return {};
}

// ---- registers --------------------------------------------------------------------------------

// The number in base 16 at the beginning of `text`, after blanks; `text` goes on behind it.
std::optional<std::uint64_t> take_hex(std::string_view& text) {
    text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
    if (error != std::errc{}) return std::nullopt;
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
    return value;
}

// What stands behind "NAME=" in one CPU's part of "info registers" (x86_cpu_dump_state(),
// target/i386/cpu-dump.c of QEMU 7.2), a name that begins a line or follows a blank; up to two
// numbers.
std::optional<std::array<std::uint64_t, 2>> register_in(std::string_view text,
                                                        std::string_view name, bool two) {
    for (std::size_t at = text.find(name); at != std::string_view::npos;
         at = text.find(name, at + 1)) {
        if (at == 0 || (text[at - 1] != ' ' && text[at - 1] != '\n')) continue;
        std::string_view rest = text.substr(at + name.size());
        const auto first = take_hex(rest);
        const auto second = two ? take_hex(rest) : 0;
        if (!first || !second) return std::nullopt;
        return std::array{*first, *second};
    }
    return std::nullopt;
}

// A CPU whose part is not whole is left out: what is not told is not known.
Result<void> take_registers(const Value& answer, ManagerFacts& facts) {
    constexpr std::string_view kCpu = "CPU#";
    const std::string text_of_all = TRY(answer.as_string());
    for (std::size_t at = text_of_all.find(kCpu); at != std::string::npos;) {
        const std::size_t next = text_of_all.find(kCpu, at + 1);
        const std::string_view text = std::string_view(text_of_all).substr(at, next - at);
        at = next;
        event::CpuRegisters cpu;
        const std::string_view number = text.substr(kCpu.size());
        const auto read = std::from_chars(number.data(), number.data() + number.size(), cpu.cpu);
        bool whole = read.ec == std::errc{};
        for (const auto& [name, into] : {std::pair{"CR0=", &cpu.cr0},
                                         {"CR3=", &cpu.cr3},
                                         {"CR4=", &cpu.cr4},
                                         {"EFER=", &cpu.efer}}) {
            const auto value = register_in(text, name, /*two=*/false);
            whole &= value.has_value();
            if (value) *into = value->front();
        }
        const auto idt = register_in(text, "IDT=", /*two=*/true);
        if (!whole || !idt) continue;
        cpu.idt_base = idt->front();
        cpu.idt_limit = idt->back();
        if (facts.cpus.size() >= limits::kMaxToldCpus) {
            return fail(Code::limit, "the monitor tells of too many CPUs");
        }
        facts.cpus.push_back(cpu);
    }
    return {};
}

// ---- the GDB server ---------------------------------------------------------------------------

// What QEMU calls our socket, and the character device that is made of it.
constexpr std::string_view kGdbSocket = "underseer-gdb";

enum class GdbServerSeen : std::uint8_t { none, ours, anothers };

// By the character devices that there are: "gdb" is that of -gdb, -s and the monitor's "gdbserver
// tcp:.." (gdbserver_start() in gdbstub/gdbstub.c).
Result<GdbServerSeen> seen_gdb_server(Conversation& monitor) {
    auto seen = GdbServerSeen::none;
    const Value devices = TRY(monitor.order("query-chardev", ""));
    const auto all = TRY(devices.elements());
    for (const Value& device : all) {
        const std::string label = TRY(TRY(device.at("label")).as_string());
        if (label == "gdb") return GdbServerSeen::anothers;
        if (label == kGdbSocket) seen = GdbServerSeen::ours;
    }
    return seen;
}

Result<std::string> tell_human_monitor(Conversation& monitor, std::string_view line) {
    const std::string arguments = fmt::format(R"({{"command-line": "{}"}})", line);
    return TRY(monitor.order("human-monitor-command", arguments)).as_string();
}

// qapi/char.json, ChardevSocket: a "fd" that was given by getfd before.
Result<void> start_gdb_server(Conversation& monitor, int socket) {
    TRY(monitor.order_with("getfd", fmt::format(R"({{"fdname": "{}"}})", kGdbSocket), socket));
    TRY(monitor.order(
        "chardev-add",
        fmt::format(R"({{"id": "{0}", "backend": {{"type": "socket", "data": {{"server": false, )"
                    R"("addr": {{"type": "fd", "data": {{"str": "{0}"}}}}}}}}}})",
                    kGdbSocket)));
    const std::string said =
        TRY(tell_human_monitor(monitor, fmt::format("gdbserver chardev:{}", kGdbSocket)));
    if (said.starts_with("Waiting for gdb connection")) return {};
    return fail(Code::unavailable, "QEMU does not start its GDB server: " + cut(said));
}

Result<void> end_gdb_server(Conversation& monitor) {
    TRY(tell_human_monitor(monitor, "gdbserver none"));
    // QEMU 7.2 has removed it with the server (qemu_chr_fe_deinit(.., true)), and says so.
    TRY(monitor.ask("chardev-remove", fmt::format(R"({{"id": "{}"}})", kGdbSocket)));
    return {};
}

// ---- orders -----------------------------------------------------------------------------------

Result<std::string> status_of(Conversation& monitor) {
    std::string status;
    TRY(take_text(TRY(monitor.order("query-status", "")), "status", status));
    return status;
}

// The network cards of "info network" (print_net_client() in net/net.c and net_hub_info() in
// net/hub.c of QEMU 7.2): "virtio-net-pci.0: index=0,type=nic,model=..", behind the name of its
// port where it is at a hub: "port: virtio-net-pci.0: index=..".
Result<std::vector<std::string>> network_cards(Conversation& monitor) {
    const std::string text =
        TRY(TRY(monitor.order("human-monitor-command", R"({"command-line": "info network"})"))
                .as_string());
    std::vector<std::string> cards;
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t end = std::min(text.find('\n', at), text.size());
        std::string_view line = std::string_view(text).substr(at, end - at);
        at = end + 1;
        const std::size_t colon = line.find(": index=");
        if (colon == std::string_view::npos || line.find(",type=nic,") == std::string_view::npos) {
            continue;
        }
        line = line.substr(0, colon);
        line.remove_prefix(line.find_last_of(' ') + 1);  // npos + 1: none
        if (cards.size() >= limits::kMaxNetworkCards) {
            return fail(Code::limit, "the monitor tells of too many network cards");
        }
        if (std::ranges::find(cards, line) == cards.end()) cards.emplace_back(line);
    }
    return cards;
}

std::string list_text(const std::vector<std::string>& names) {
    std::string text;
    for (const std::string& name : names) text += (text.empty() ? "" : ", ") + cut(name);
    return text;
}

// A client that has ended leaves the VM at its breakpoints, which neither "cont" nor the end of the
// server takes away: only a new client does.
Result<void> replace_gdb_client(Conversation& monitor, const GdbSockets& sockets) {
    constexpr std::chrono::milliseconds kLongestAnswer{1000};
    TRY(end_gdb_server(monitor));
    TRY(start_gdb_server(monitor, sockets.theirs.get()));
    GdbSocket socket(sockets.ours.get(), kLongestAnswer);
    GdbStub stub(&socket);
    TRY(stub.greet());
    TRY(stub.detach());
    return end_gdb_server(monitor);
}

Result<std::string> run_or_stop(Conversation& monitor, bool run, bool dry_run,
                                const GdbSockets* gdb = nullptr) {
    const std::string_view wanted = run ? "resumed" : "paused";
    const std::string before = TRY(status_of(monitor));
    if (dry_run) return fmt::format("would be {}: it is {}", wanted, before);
    bool was_debugged = false;
    if (gdb != nullptr && TRY(seen_gdb_server(monitor)) == GdbServerSeen::ours) {
        TRY(replace_gdb_client(monitor, *gdb));
        was_debugged = true;
    }
    TRY(monitor.order(run ? "cont" : "stop", ""));
    const std::string after = TRY(status_of(monitor));
    const bool runs = after == "running";
    if (runs != run) {
        return fail(Code::unavailable,
                    fmt::format("it is {} after the order, and not {}", after, wanted));
    }
    if (was_debugged) return std::string("resumed, without the breakpoints of an exact trace");
    return before == after ? fmt::format("it was {} already", after) : std::string(wanted);
}

Result<std::string> set_links(Conversation& monitor, bool up, bool dry_run) {
    const auto cards = TRY(network_cards(monitor));
    if (cards.empty()) {
        return fail(Code::unavailable,
                    "it has no network card of QEMU's; a device that is passed through cannot be "
                    "cut from here");
    }
    const std::string_view word = up ? "connected" : "cut off";
    if (dry_run) return fmt::format("would be {}: {}", word, list_text(cards));
    for (const std::string& card : cards) {
        std::string arguments;
        json::Writer(&arguments).begin_object().member("name", card).member("up", up).end_object();
        TRY(monitor.order("set_link", arguments));
    }
    return fmt::format("{}: {}", word, list_text(cards));
}

Result<std::string> end_machine(Conversation& monitor, bool dry_run) {
    const std::string before = TRY(status_of(monitor));
    if (dry_run) return fmt::format("would be ended: it is {}", before);
    // Who ends may close the line before the answer is through.
    const auto ended = monitor.order("quit", "");
    if (!ended.has_value() && ended.error().code != Code::gone) return Unexpected(ended.error());
    return "ended";
}

struct QmpQuestion {
    std::string_view command;
    std::string_view arguments;
    Result<void> (*take)(const Value& answer, ManagerFacts& facts);
};

constexpr QmpQuestion kQuestions[] = {
    {"query-status", "", take_status},
    {"query-name", "", take_name},
    {"query-uuid", "", take_uuid},
    {"query-kvm", "", take_kvm},
    {"query-memory-size-summary", "", take_memory},
    {"query-memdev", "", take_backends},
    {"query-sev", "", take_sev},
    {"qom-get", R"({"path": "/machine", "property": "confidential-guest-support"})", take_guard},
    {"qom-get", R"({"path": "/machine", "property": "type"})", take_machine},
    {"qom-get", R"({"path": "/machine", "property": "memory-backend"})", take_ram_backend},
    {"qom-get", R"({"path": "/machine", "property": "max-ram-below-4g"})", take_low_limit},
    // Last: between what it tells and the look into memory lies as little as can be.
    {"human-monitor-command", R"({"command-line": "info registers -a"})", take_registers},
};
}  // namespace

// ---- the GDB server, for a while ---------------------------------------------------------------

Result<GdbSockets> GdbSockets::make() {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0) {
        return fail(os_error("making a pair of sockets for QEMU's GDB server"));
    }
    return GdbSockets{Fd(ends[0]), Fd(ends[1])};
}

struct GdbServer::State {
    explicit State(QmpPeer* peer) : monitor(peer) {}
    Conversation monitor;
};

GdbServer::GdbServer(QmpPeer* peer) : state_(std::make_unique<State>(peer)) {}
GdbServer::~GdbServer() = default;

Result<void> GdbServer::check() {
    Conversation& monitor = state_->monitor;
    TRY(monitor.greet());
    const std::string state = TRY(status_of(monitor));
    if (state != "running") {
        return fail(Code::unavailable, fmt::format("the VM does not run: it is {}", state));
    }
    switch (TRY(seen_gdb_server(monitor))) {
        case GdbServerSeen::anothers:
            return fail(Code::unavailable,
                        "the VM has a GDB server already (-gdb, -s, or gdbserver in its monitor), "
                        "and there can be one: end it there with 'gdbserver none'");
        case GdbServerSeen::ours:
            return fail(Code::unavailable,
                        "an earlier exact trace has left its GDB server behind: 'underseer act VM "
                        "resume' puts the VM right");
        case GdbServerSeen::none:
            break;
    }
    return {};
}

Result<void> GdbServer::start(int socket) {
    return start_gdb_server(state_->monitor, socket);
}

Result<void> GdbServer::end() {
    state_->monitor.begin_anew();
    return end_gdb_server(state_->monitor);
}

Result<std::string> GdbServer::vm_state() {
    state_->monitor.begin_anew();
    return status_of(state_->monitor);
}

Result<void> GdbServer::pass_over_events() {
    return state_->monitor.pass_over();
}

Result<Fd> connect_qmp(const QmpSocket& socket) {
    const auto context = fmt::format("the QMP socket {} of pid {}", socket.path, socket.pid);
    if (!socket.path.starts_with('/')) {
        return fail(Code::unsupported, context + ": not an absolute path");
    }
    const FileSystemUser as_vmm(socket.user, socket.group);
    open_how how{};
    how.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC;
    how.resolve = RESOLVE_NO_MAGICLINKS;
    const Fd found(
        static_cast<int>(::syscall(SYS_openat2, AT_FDCWD, socket.path.c_str(), &how, sizeof how)));
    if (!found) return fail(os_error("looking up " + context));
    struct stat status{};
    if (::fstat(found.get(), &status) != 0) return fail(os_error("examining " + context));
    if (!S_ISSOCK(status.st_mode)) return fail(Code::permission, context + ": it is no socket");
    if (status.st_uid != socket.user && status.st_uid != 0) {
        return fail(Code::permission, fmt::format("{}: it is user {}'s, and the VMM is user {}'s",
                                                  context, status.st_uid, socket.user));
    }
    Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd) return fail(os_error("making a socket"));
    // By the inode that was examined, whatever lies at the path by now.
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    fmt::format_to_n(address.sun_path, sizeof address.sun_path - 1, "/proc/self/fd/{}",
                     found.get());
    if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
        if (errno == EAGAIN) {
            return fail(Code::unavailable, context + ": it is busy with other clients");
        }
        return fail(os_error("connecting to " + context));
    }
    ucred peer{};
    socklen_t size = sizeof peer;
    if (::getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
        return fail(os_error("asking who listens on " + context));
    }
    if (peer.pid != socket.pid) {
        return fail(Code::permission,
                    fmt::format("{}: pid {} listens there, not the VMM", context, peer.pid));
    }
    return fd;
}

// ---- the socket -------------------------------------------------------------------------------

// QEMU greets whom it accepts; it does not accept a second client. A host that is busy may take
// its time for the answers: each costs it a turn of the main loop.
constexpr std::chrono::milliseconds kLongestUntilGreeted{1000};

Result<void> QmpPeer::write_with(std::string_view, int) {
    return fail(Code::unsupported, "this monitor takes no file descriptors");
}

QmpSocketPeer::QmpSocketPeer(int fd, std::chrono::milliseconds longest) : fd_(fd) {
    renew(longest);
    deadline_ = std::min(whole_, std::chrono::steady_clock::now() + kLongestUntilGreeted);
}

void QmpSocketPeer::renew(std::chrono::milliseconds longest) {
    deadline_ = whole_ = std::chrono::steady_clock::now() + longest;
}

Result<void> QmpSocketPeer::write(std::string_view text) {
    // A question has a hundred bytes; a socket whose buffer has no room for it is stuck.
    const ssize_t put = ::write(fd_, text.data(), text.size());
    if (put == static_cast<ssize_t>(text.size())) return {};
    if (put < 0 && errno != EAGAIN) return fail(os_error("asking the monitor"));
    return fail(Code::unavailable, "the monitor takes no questions");
}

Result<void> QmpSocketPeer::write_with(std::string_view text, int fd) {
    iovec piece{const_cast<char*>(text.data()), text.size()};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof fd)> rights{};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = rights.data();
    message.msg_controllen = rights.size();
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fd);
    std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
    const ssize_t put = ::sendmsg(fd_, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (put == static_cast<ssize_t>(text.size())) return {};
    if (put < 0 && errno != EAGAIN) return fail(os_error("giving the monitor a socket"));
    return fail(Code::unavailable, "the monitor takes no questions");
}

Result<std::size_t> QmpSocketPeer::read(MutableBytes into) {
    for (;;) {
        const ssize_t got = ::read(fd_, into.data(), into.size());
        if (got >= 0) {
            deadline_ = whole_;
            return static_cast<std::size_t>(got);
        }
        if (errno == ECONNRESET) return 0;
        if (errno != EAGAIN && errno != EINTR) return fail(os_error("reading the monitor"));
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
            deadline_ - std::chrono::steady_clock::now());
        pollfd readable{fd_, POLLIN, 0};
        const int ready =
            left.count() <= 0 ? 0 : ::poll(&readable, 1, static_cast<int>(left.count()));
        if (ready < 0 && errno != EINTR) return fail(os_error("waiting for the monitor"));
        if (ready == 0) {
            return fail(Code::unavailable,
                        "the monitor does not answer: it serves one client at a time, and "
                        "another may hold it");
        }
    }
}

// ---- the entrances ----------------------------------------------------------------------------

Result<ManagerFacts> ask_qmp(QmpPeer& peer) {
    Conversation monitor(&peer);
    ManagerFacts facts{.source = "QMP"};
    TRY(monitor.greet());
    for (const QmpQuestion& question : kQuestions) {
        const auto answer = TRY(monitor.ask(question.command, question.arguments));
        if (!answer) continue;
        TRY(question.take(*answer, facts).context(question.command));
    }
    return facts;
}

Result<ManagerFacts> ask_qmp(int fd, std::chrono::milliseconds longest) {
    QmpSocketPeer peer(fd, longest);
    return ask_qmp(peer);
}

Result<std::string> order_qmp(QmpPeer& peer, event::Action action, bool dry_run,
                              const GdbSockets* gdb) {
    Conversation monitor(&peer);
    TRY(monitor.greet());
    switch (action) {
        case event::Action::pause:
            return run_or_stop(monitor, /*run=*/false, dry_run);
        case event::Action::resume:
            return run_or_stop(monitor, /*run=*/true, dry_run, gdb);
        case event::Action::isolate:
            return set_links(monitor, /*up=*/false, dry_run);
        case event::Action::reconnect:
            return set_links(monitor, /*up=*/true, dry_run);
        case event::Action::kill:
            return end_machine(monitor, dry_run);
        case event::Action::capture:
        case event::Action::dump:
        case event::Action::run:
            break;
    }
    return fail(Code::invalid_argument, "there is no such action");
}

Result<std::string> order_qmp(int fd, event::Action action, bool dry_run,
                              std::chrono::milliseconds longest, const GdbSockets* gdb) {
    QmpSocketPeer peer(fd, longest);
    return order_qmp(peer, action, dry_run, gdb);
}

}  // namespace underseer::hypervisor
