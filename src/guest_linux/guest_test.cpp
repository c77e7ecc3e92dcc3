#include "guest_linux/guest.h"

#include <gtest/gtest.h>

#include "guest_linux/fake_guest.h"

namespace underseer::guest_linux {
namespace {

// Every process has one and the same table of descriptors, and that is long.
void share_table(FakeGuest& fake, const std::vector<GuestVirt>& tasks, std::uint32_t entries) {
    const GuestVirt file = fake.allocate(64), array = fake.allocate(8ull * entries, kPageSize),
                    table = fake.allocate(16), files = fake.allocate(8);
    for (std::uint32_t i = 0; i < entries; ++i) fake.write(array + 8ull * i, file.value);
    fake.write(table, entries);
    fake.write(table + 8, array.value);
    fake.write(files, table.value);
    for (const GuestVirt task : tasks) {
        fake.write(task + fake.offset("task_struct", "files"), files.value);
    }
}

TEST(Guest, a_look_ends_however_much_there_is_to_read) {
    FakeGuest fake({});
    fake.add_system();
    fake.finish();
    const auto guest = Guest::attach(&fake).value();
    const std::size_t all = guest->tasks().items.size();
    share_table(fake, guest->task_addresses(), 1u << 14);
    guest->new_epoch();
    guest->kernel().memory().allow(50'000);
    const std::uint64_t before = fake.reads();
    const auto listing = guest->open_files(std::nullopt).value();
    EXPECT_LT(fake.reads() - before, 60'000u);
    EXPECT_GT(listing.unreadable, 0u);
    // The next look is as long as any.
    guest->new_epoch();
    EXPECT_EQ(guest->tasks().items.size(), all);
    EXPECT_EQ(guest->tasks().unreadable, 0u);
}

}  // namespace
}  // namespace underseer::guest_linux
