// Border: a monitor whose VMM an attacker has taken over. Must hold: asking ends, in the memory
// that limits.h grants, and what comes of it crosses to the agent and back unchanged.
#include "event/wire.h"
#include "hypervisor/qmp.h"
#include "peer_bytes.h"

namespace {
using namespace underseer;

class FuzzPeer final : public hypervisor::QmpPeer {
  public:
    explicit FuzzPeer(Bytes bytes) : bytes_{bytes} {}
    Result<void> write(std::string_view) override { return {}; }
    Result<std::size_t> read(MutableBytes into) override { return bytes_.read(into); }

  private:
    PeerBytes bytes_;
};
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    FuzzPeer peer(Bytes(reinterpret_cast<const std::byte*>(data), size));
    const auto facts = hypervisor::ask_qmp(peer);
    if (!facts.has_value()) return 0;
    const std::string bytes = event::encode(*facts);
    CHECK(event::encode(event::decode<hypervisor::ManagerFacts>(as_bytes(bytes)).value()) == bytes);
    return 0;
}
