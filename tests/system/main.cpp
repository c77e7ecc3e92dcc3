// The tests start introspectors, which are this program in another role.
#include <gtest/gtest.h>

#include "agent/worker.h"

int main(int argc, char** argv) {
    if (const auto status = underseer::agent::run_if_worker(argc, argv)) return *status;
    ::testing::InitGoogleTest(&argc, argv);
    return RUN_ALL_TESTS();
}
