#include "agent/worker.h"

#include <fmt/format.h>
#include <unistd.h>

#include "agent/analyser.h"
#include "agent/introspector_worker.h"
#include "agent/managers.h"
#include "jail/jail.h"

namespace underseer::agent {

std::optional<int> run_if_worker(int argc, char** argv) {
    const auto role = jail::worker_role(argc, argv);
    if (!role) return std::nullopt;
    // Not by way of exit(): a closed jail allows nothing of what runs there.
    if (*role == "introspector") ::_exit(run_introspector());
    if (*role == "analyser") ::_exit(run_analyser());
    if (*role == "discoverer") ::_exit(run_discoverer());
    fmt::print(stderr, "underseer: there is no worker role '{}'\n", *role);
    return 2;
}

}  // namespace underseer::agent
