// The demo as a person sees it, to its end.
#include <gtest/gtest.h>

#include <algorithm>

#include "testing/test_agent.h"

namespace underseer::testing {
namespace {

TEST(Demo, shows_the_hidden_process_the_alert_and_the_intact_log) {
    if (std::ranges::count(TestVm::kernels_at_hand(), "6.1-cloud") == 0) {
        GTEST_SKIP() << "the kernel 6.1-cloud is not at hand; tools/guests/make.py makes it";
    }
    const RunResult shown = run_program({UNDERSEER_DEMO, program_path("underseer"), "--once"});
    EXPECT_EQ(shown.status, 0) << shown.output;
    const auto at = [&](const char* text) { return shown.output.find(text); };
    // In this order: gone from the guest's own list, an alert of the agent, on record.
    EXPECT_LT(at("(nothing)"), at("Detection Finding/Create")) << shown.output;
    EXPECT_LT(at("Detection Finding/Create"), at("missing in    task_list, pid_idr, css_set"))
        << shown.output;
    EXPECT_LT(at("missing in    task_list, pid_idr, css_set"), at("critical: intact"))
        << shown.output;
    EXPECT_LT(at("critical: intact"), at("Hidden inside, seen from below")) << shown.output;
    EXPECT_NE(at("Hidden inside, seen from below"), std::string::npos);
}

}  // namespace
}  // namespace underseer::testing
