// The mapping file: which VM of this host belongs to whom, for VMs of which libvirt does not say so
// (docs/instances.md).
//
//     [[instance]]
//     name = "edge-demo"        # one of: uuid, libvirt (the domain's name), name
//     user = "edge"             # who runs the VMM; without it: root, or a domain of libvirt's
//     tenant = "acme"
//     app_instance_id = "8a7e5d3c-.."
//     app_d_id = "acme.cache-2.1"
//     labels = ["gpu", "pci"]
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace underseer::policy {

// What the file goes by.
struct VmTraits {
    std::string uuid;
    std::string name;
    std::string libvirt_name;  // "" unless libvirt itself says that the VM is its domain
    uid_t user = 0;            // whose process the VMM is
};

struct InstanceEntry {
    std::string uuid, libvirt, name;  // exactly one is not empty
    std::optional<uid_t> user;
    std::string tenant, app_instance_id, app_d_id;
    std::vector<std::string> labels;
    std::string place;  // "FILE:LINE"
};

class InstanceMap {
  public:
    // Code::malformed with "FILE:LINE:COLUMN: key: what is wrong".
    static Result<InstanceMap> parse(std::string_view toml, std::string path);
    // Code::permission when others than root (or the calling user) may write the file.
    static Result<InstanceMap> load(const std::string& path);

    // The entry for a VM; nothing when there is none. By UUID before libvirt's name before name.
    // Names and UUIDs are what any local user can give to a VM of their own, so an entry holds only
    // for the user that it expects.
    const InstanceEntry* find(const VmTraits& vm) const;
    // Why an entry that names this VM does not hold for it; "" when there is no such entry.
    std::string refused(const VmTraits& vm) const;

    std::size_t size() const { return entries_.size(); }

  private:
    template <typename Accept>
    const InstanceEntry* first(const VmTraits& vm, Accept accept) const;

    std::vector<InstanceEntry> entries_;
};

}  // namespace underseer::policy
