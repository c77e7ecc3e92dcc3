// libvirt, where it manages VMs: asked read-only about all of them, and told what an operator, or
// policy, wants done to one. It owns their QMP sockets; a question sent through it to a monitor
// (virsh qemu-monitor-command) would mark the domain as tainted for good, so none is.
//
// TRUST: libvirtd is the host's; the names and the metadata in what it says were written by whoever
// defined the domains.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "event/finding.h"
#include "hypervisor/vm.h"

namespace underseer::hypervisor {

// The element of a domain's metadata that names its owner (docs/instances.md).
inline constexpr std::string_view kMetadataNamespace = "https://underseer.example/ns/instance/1";
inline constexpr const char* kDefaultLibvirt = "qemu:///system";

class Libvirt {
  public:
    // Loads the client library, which is no part of this program: a host without it has no VMs of
    // libvirt's. Code::not_found when the library or the daemon is not there. May wait for as long
    // as the daemon likes: call it in a process that can be killed.
    enum class Access : std::uint8_t { read, control };
    static Result<Libvirt> connect(const std::string& uri, Access access = Access::read);
    Libvirt(Libvirt&&) noexcept;
    ~Libvirt();

    // Every domain that runs.
    Result<std::vector<ManagerFacts>> domains();

    // Does it to the domain of that UUID, and says what is so now, as order_qmp() does. Wants
    // Access::control. Code::unsupported for the network: libvirt keeps the link's state in the
    // domain's description, which is its owner's.
    Result<std::string> act(const std::string& uuid, event::Action action, bool dry_run);

    // Leaves the connection to the end of the process.
    void abandon();

  private:
    struct Library;
    explicit Libvirt(std::unique_ptr<Library> library);
    std::unique_ptr<Library> library_;
};

// What a domain's XML (https://libvirt.org/formatdomain.html) says.
Result<ManagerFacts> parse_domain_xml(std::string_view xml);

}  // namespace underseer::hypervisor
