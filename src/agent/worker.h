// Workers are this same program, started anew in a role: the first thing every main() does is to
// ask whether it is one.
#pragma once

#include <optional>

namespace underseer::agent {

// Runs the worker's role and returns its exit status; nothing when this is no worker.
std::optional<int> run_if_worker(int argc, char** argv);

}  // namespace underseer::agent
