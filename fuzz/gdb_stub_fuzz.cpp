// Border: the GDB server of a VMM that an attacker has taken over. Must hold: whatever is asked
// ends, in the memory that limits.h grants, and only packets of a few kinds are sent.
#include "base/limits.h"
#include "hypervisor/gdb_stub.h"
#include "peer_bytes.h"

namespace {
using namespace underseer;

class FuzzServer final : public hypervisor::GdbPeer {
  public:
    explicit FuzzServer(Bytes bytes) : bytes_{bytes} {}
    Result<void> write(std::string_view bytes) override {
        CHECK(bytes == "\x03" || (bytes.starts_with('$') && bytes.size() < 100));
        return {};
    }
    Result<std::size_t> read(MutableBytes into) override { return bytes_.read(into); }

  private:
    PeerBytes bytes_;
};
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    FuzzServer server(Bytes(reinterpret_cast<const std::byte*>(data), size));
    hypervisor::GdbStub stub(&server);
    (void)stub.greet();
    (void)stub.insert(0x1000);
    (void)stub.go_on();
    for (int i = 0; i < 8; ++i) {
        const auto stop = stub.next_stop();
        if (!stop.has_value()) break;
        const auto cpu = stub.registers(stop->cpu);
        if (!cpu.has_value() || !stub.step_from(stop->cpu, cpu->rip).has_value()) break;
        CHECK(!stub.is_running());
        (void)stub.insert_and_go_on(cpu->rip);
    }
    (void)stub.stop_if_any();
    (void)stub.interrupt();
    (void)stub.detach();
    return 0;
}
