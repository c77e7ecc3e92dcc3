#include "guest_linux/cpu_witness.h"

#include <gtest/gtest.h>

#include <array>

#include "guest_linux/fake_guest.h"
#include "guest_linux/kernel.h"

namespace underseer::guest_linux {
namespace {

class CpuWitness : public ::testing::TestWithParam<unsigned> {
  protected:
    CpuWitness() : fake_({.levels = GetParam()}) {
        fake_.finish();
        idt_ = fake_.allocate(kPageSize, kPageSize);
        kernel_ = Kernel::attach(&fake_).value();
        own_ = {.cpu = 3,
                .cr0 = 0x80050033,
                .cr3 = fake_.root().value | 0x6,  // with a process-context identifier
                .cr4 = GetParam() == 5 ? 0x10f0u : 0xf0u,
                .efer = 0xd01,
                .idt_base = idt_.value,
                .idt_limit = 0xfff};
        // RAM that no structure of the guest lies in.
        spare_ = GuestPhys{8u << 20};
    }
    CpuStatement hear(const event::CpuRegisters& registers) {
        return hear_cpu(fake_, kernel_->image(), registers);
    }
    Testimony says(const event::CpuRegisters& registers) { return hear(registers).says; }
    void copy_page(GuestPhys from, GuestPhys to) {
        std::memcpy(fake_.host_phys(to), fake_.host_phys(from), kPageSize);
    }
    void set_entry(GuestPhys table, unsigned index, std::uint64_t entry) {
        std::memcpy(fake_.host_phys(table + 8 * index), &entry, sizeof entry);
    }

    FakeGuest fake_;
    GuestVirt idt_;
    std::unique_ptr<Kernel> kernel_;
    event::CpuRegisters own_;
    GuestPhys spare_;
};
INSTANTIATE_TEST_SUITE_P(Levels, CpuWitness, ::testing::Values(4u, 5u));

TEST_P(CpuWitness, on_the_kernels_tables_or_a_process_copy_of_them_says_that_it_runs_it) {
    EXPECT_EQ(says(own_), Testimony::runs_it);
    copy_page(fake_.root(), spare_);
    auto process = own_;
    process.cr3 = spare_.value;
    EXPECT_EQ(says(process), Testimony::runs_it);
}

TEST_P(CpuWitness, whose_page_table_has_been_used_for_something_else_says_nothing) {
    auto gone = own_;
    gone.cr3 = spare_.value;
    EXPECT_EQ(says(gone), Testimony::none);
    gone.cr3 = 0x000ffffffffff000;  // outside of RAM
    EXPECT_EQ(says(gone), Testimony::none);
    EXPECT_NE(hear(gone).why.find("CPU 3"), std::string::npos);
}

TEST_P(CpuWitness, that_was_never_started_or_runs_with_other_levels_says_nothing) {
    auto other = own_;
    other.cr0 = 0x60000010;
    EXPECT_EQ(says(other), Testimony::none);
    other = own_;
    other.efer = 0;
    EXPECT_EQ(says(other), Testimony::none);
    other = own_;
    other.cr4 ^= 0x1000;
    EXPECT_NE(says(other), Testimony::runs_it);
}

TEST_P(CpuWitness, one_in_64_bit_mode_is_enough_for_a_kernel_to_run) {
    auto off = own_;
    off.cr0 = 0x60000010;
    EXPECT_TRUE(may_run_linux({}));
    EXPECT_FALSE(may_run_linux(std::span(&off, 1)));
    EXPECT_TRUE(may_run_linux(std::array{off, own_}));
}

TEST_P(CpuWitness, with_an_interrupt_table_elsewhere_says_so) {
    // In the direct map, outside of the image.
    auto hooked = own_;
    hooked.idt_base = fake_.direct(idt_).value;
    EXPECT_EQ(says(hooked), Testimony::runs_it) << "the same memory by another address";
    hooked.idt_base = hooked.idt_base - fake_.phys(idt_).value + spare_.value;
    EXPECT_EQ(says(hooked), Testimony::other_gate);
    hooked.idt_base = 0x1000;  // not mapped
    EXPECT_EQ(says(hooked), Testimony::none);
    hooked.idt_limit = 0;
    EXPECT_EQ(says(hooked), Testimony::none);
}

TEST_P(CpuWitness, in_user_mode_is_believed_by_both_halves_only) {
    // The half for user mode, behind the kernel's, maps the interrupt table and not the kernel.
    const GuestPhys kernel_half = spare_, user_half = spare_ + kPageSize;
    copy_page(fake_.root(), kernel_half);
    copy_page(fake_.root(), user_half);
    set_entry(user_half, 511, 0);
    auto user = own_;
    user.cr3 = user_half.value;
    user.idt_base = fake_.direct(idt_).value;
    EXPECT_EQ(says(user), Testimony::runs_it);
    // The page before a foreign table may be anybody's.
    user.idt_base = user.idt_base - fake_.phys(idt_).value + spare_.value;
    EXPECT_EQ(says(user), Testimony::none);
}

TEST_P(CpuWitness, that_may_be_in_a_nested_vm_says_nothing) {
    auto nested = own_;
    nested.cr3 = spare_.value;
    nested.cr4 |= 0x2000;
    EXPECT_NE(hear(nested).why.find("VM inside"), std::string::npos);
    nested = own_;
    nested.efer |= 0x1000;
    EXPECT_EQ(says(nested), Testimony::runs_it) << "KVM is loaded, and the CPU is outside of it";
}

TEST_P(CpuWitness, leads_to_the_kernel_without_any_other_trace) {
    const auto tables = top_tables_of(std::span(&own_, 1));
    ASSERT_FALSE(tables.empty());
    EXPECT_EQ(tables.front(), fake_.root());
    const auto image = kernel_image_under(fake_, tables.front());
    ASSERT_TRUE(image.has_value());
    EXPECT_EQ(image->space, kernel_->image().space);
    EXPECT_FALSE(kernel_image_under(fake_, spare_).has_value());
    EXPECT_FALSE(kernel_image_under(fake_, GuestPhys{~0ull << 12}).has_value());
}

// ---- notes ------------------------------------------------------------------------------------

template <typename T>
void put(std::string& out, T value) {
    out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

std::string note(std::string_view name, std::string_view value) {
    std::string out;
    put(out, static_cast<std::uint32_t>(name.size() + 1));
    put(out, static_cast<std::uint32_t>(value.size()));
    put(out, std::uint32_t{0});
    for (const std::string_view text : {name, value}) {
        out += text;
        if (text == name) out += '\0';
        out.resize((out.size() + 3) / 4 * 4);
    }
    return out;
}

std::string cpu_state(std::uint64_t cr3) {
    std::string out;
    put(out, std::uint32_t{1});
    put(out, std::uint32_t{440});
    for (unsigned i = 0; i < 18; ++i) put(out, std::uint64_t{0x1111});
    for (unsigned segment = 0; segment < 10; ++segment) {
        put(out, std::uint32_t{0x10});
        put(out, std::uint32_t{0xff0 + segment});
        put(out, std::uint64_t{0});
        put(out, std::uint64_t{0x2000 + segment});
    }
    for (const std::uint64_t cr : {std::uint64_t{0x80050033}, std::uint64_t{0}, std::uint64_t{7},
                                   cr3, std::uint64_t{0xf0}}) {
        put(out, cr);
    }
    put(out, std::uint64_t{0x3333});
    return out;
}

TEST(RegistersInNotes, are_those_of_qemus_notes) {
    const std::string notes = note("CORE", std::string(336, 'x')) +
                              note("QEMU", cpu_state(0x1000)) + note("CORE", "odd") +
                              note("QEMU", cpu_state(0x2000));
    const auto cpus = registers_in_notes(as_bytes(notes));
    ASSERT_EQ(cpus.size(), 2u);
    EXPECT_EQ(cpus[0], (event::CpuRegisters{.cpu = 0,
                                            .cr0 = 0x80050033,
                                            .cr3 = 0x1000,
                                            .cr4 = 0xf0,
                                            .efer = 0x400,
                                            .idt_base = 0x2009,
                                            .idt_limit = 0xff9}));
    EXPECT_EQ(cpus[1].cr3, 0x2000u);
    // Cut anywhere, those that are whole are left.
    for (std::size_t size = 0; size < notes.size(); ++size) {
        EXPECT_LE(registers_in_notes(as_bytes(notes).first(size)).size(), 1u);
    }
    EXPECT_TRUE(registers_in_notes(as_bytes(note("QEMU", "too short"))).empty());
    EXPECT_TRUE(registers_in_notes(as_bytes(std::string(64, '\xff'))).empty());
}

}  // namespace
}  // namespace underseer::guest_linux
