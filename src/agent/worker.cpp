#include "agent/worker.h"

#include <fmt/format.h>
#include <unistd.h>

#include "agent/analyser.h"
#include "agent/introspector_worker.h"
#include "agent/managers.h"
#include "agent/trace_supervisor.h"
#include "jail/jail.h"

namespace underseer::agent {

namespace {

struct Role {
    std::string_view name;
    Result<void> (*run)(jail::Channel channel);
};
constexpr Role kRoles[] = {
    {"introspector", run_introspector},
    {"watcher", run_introspector},  // another one of the same guest, that is not kept waiting
    {"analyser", run_analyser},
    {"discoverer", run_discoverer},
    {"supervisor", run_supervisor}};

}  // namespace

std::optional<int> run_if_worker(int argc, char** argv) {
    const auto role = jail::worker_role(argc, argv);
    if (!role) return std::nullopt;
    for (const auto& [name, run] : kRoles) {
        if (*role != name) continue;
        const auto ended = run(jail::Channel(Fd(jail::kFirstWorkerFd)));
        if (!ended.has_value()) {
            const std::string text =
                fmt::format("underseer: {}: {}\n", name, ended.error().to_text());
            (void)!::write(STDERR_FILENO, text.data(), text.size());
        }
        // Not by way of exit(): a closed jail allows nothing of what runs there.
        ::_exit(ended.has_value() ? 0 : 1);
    }
    fmt::print(stderr, "underseer: there is no worker role '{}'\n", *role);
    return 2;
}

}  // namespace underseer::agent
