#include "agent/trace_supervisor.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

namespace underseer::agent {
namespace {

class Record : public testing::Test {
  protected:
    Record() {
        std::string form = (std::filesystem::temp_directory_path() / "traced_XXXXXX").string();
        CHECK(::mkdtemp(form.data()) != nullptr);
        state_ = form;
        vm_.pid = 17;
        vm_.start_ticks = 4711;
        vm_.name = "edge";
    }
    ~Record() override { std::filesystem::remove_all(state_); }

    std::filesystem::path state_;
    hypervisor::Vm vm_;
};

TEST_F(Record, is_owed_when_nobody_is_left_who_will_pay) {
    EXPECT_FALSE(TraceRecord::is_owed(state_, vm_));
    {
        const auto record = TraceRecord::make(state_, vm_);
        ASSERT_TRUE(record.has_value()) << record.error().to_text();
        EXPECT_FALSE(TraceRecord::is_owed(state_, vm_)) << "somebody holds it";
        // A second one would have breakpoints of its own.
        EXPECT_EQ(TraceRecord::make(state_, vm_).error().code, Code::unavailable);
        hypervisor::Vm other = vm_;
        ++other.start_ticks;
        EXPECT_TRUE(TraceRecord::make(state_, other).has_value());
    }
    EXPECT_TRUE(TraceRecord::is_owed(state_, vm_));
    TraceRecord::settle(state_, vm_);
    EXPECT_FALSE(TraceRecord::is_owed(state_, vm_));
}

TEST_F(Record, that_was_emptied_is_paid) {
    {
        const auto record = TraceRecord::make(state_, vm_);
        ASSERT_TRUE(record.has_value());
        ASSERT_EQ(::ftruncate(record->fd(), 0), 0);
    }
    EXPECT_FALSE(TraceRecord::is_owed(state_, vm_));
    // And may be owed again.
    {
        EXPECT_TRUE(TraceRecord::make(state_, vm_).has_value());
    }
    EXPECT_TRUE(TraceRecord::is_owed(state_, vm_));
}

TEST(ExactTrace, is_refused_for_vms_that_libvirt_manages_or_that_have_no_monitor) {
    hypervisor::Vm vm;
    vm.pid = 17;
    EXPECT_NE(why_no_exact_trace(vm).find("no QMP socket"), std::string::npos);
    vm.qmp_socket = "/run/qmp";
    vm.executable = "/usr/bin/qemu-system-x86_64";
    vm.managed_by = "by hand";
    vm.backing = hypervisor::RamBacking::shared_memfd;
    EXPECT_EQ(why_no_exact_trace(vm), "");
    vm.managed_by = "libvirt";
    EXPECT_NE(why_no_exact_trace(vm).find("taints the domain"), std::string::npos);
    EXPECT_EQ(TraceSupervisor::start(vm, "/nowhere").error().code, Code::unavailable);
}

}  // namespace
}  // namespace underseer::agent
