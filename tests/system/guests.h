// What every system test starts with: the kernels, and Underseer attached to a guest.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "agent/introspector.h"
#include "testing/test_vm.h"

namespace underseer::testing {

// Those that tools/guests/make.py knows, at hand or not.
std::vector<std::string> all_kernels();
std::string test_name(const ::testing::TestParamInfo<std::string>& kernel);

// The long run: UNDERSEER_NIGHTLY=1 (./dev test --nightly). More kernels, more time.
bool nightly();

// The source of a VM as the agent would open it: found by name, RAM opened read-only.
agent::GuestSource source_of(const TestVm& vm);
agent::GuestSource image_source(const std::string& path);
agent::Introspector attach(const TestVm& vm);
// How that kernel was built, of the file that its guests boot; made once for a kernel.
const std::string& baseline_of(const std::string& kernel);
// What `introspector` looks into is compared with it from now on.
Result<void> use_baseline(agent::Introspector& introspector, const std::string& baseline);
// It matches by the Sigma rules that come with the package.
Result<void> use_shipped_rules(agent::Introspector& introspector);
agent::Question ask_for_hidden(bool deep = false);
// Starts a process in the guest, and returns its pid when it has its 201 arguments.
std::string start_long_arguments(TestVm& vm);

}  // namespace underseer::testing
