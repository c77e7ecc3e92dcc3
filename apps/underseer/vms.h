// `underseer ls`: the VMs of this host, with what their managers and the mapping file say of them.
#pragma once

#include <vector>

#include "agent/managers.h"
#include "options.h"

namespace underseer::cli {

struct KnownVms {
    hypervisor::Host host;
    std::vector<agent::Trouble> troubles;
    policy::InstanceMap map;
    std::string map_trouble;  // why there is none; "" when there need not be one
};

// Looks at all of them and asks their managers.
Result<KnownVms> know_vms(const Options& options);

Result<int> ls(const Options& options);

}  // namespace underseer::cli
