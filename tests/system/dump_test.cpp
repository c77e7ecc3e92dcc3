// `underseer dump`: the program itself, on a guest and on images.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <filesystem>

#include "guest_memory/fake_images.h"
#include "guests.h"
#include "program.h"

namespace underseer::testing {
namespace {

namespace fs = std::filesystem;

std::string write_file(const std::string& path, Bytes bytes) {
    const Fd file = open_file(path, O_WRONLY | O_CREAT | O_TRUNC, 0644).value();
    CHECK(write_all(file.get(), bytes).has_value());
    return path;
}

TEST(Dump, of_a_guest_says_what_the_guest_says) {
    auto vm = TestVm::boot({.memory_mib = 256});
    if (!vm.has_value() && vm.error().code == Code::unavailable)
        GTEST_SKIP() << vm.error().to_text();
    ASSERT_TRUE(vm.has_value()) << vm.error().to_text();
    vm->pause();
    const Directory directory;
    const std::string core = directory / "guest.core";
    const Ran live = run(directory, "ps --json " + vm->name());
    ASSERT_EQ(live.status, 0) << live.err;
    const Ran dumped = run(directory, fmt::format("dump --json {} {}", vm->name(), core));
    ASSERT_EQ(dumped.status, 0) << dumped.err;
    const auto summary = json::Value::parse(dumped.out).value();
    EXPECT_EQ(summary.at("ram_bytes").value().as_uint().value(), 256u << 20);
    EXPECT_EQ(summary.at("failed_pages").value().as_uint().value(), 0u);
    struct stat status{};
    ASSERT_EQ(::stat(core.c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 07777, 0600u);
    EXPECT_LT(static_cast<std::uint64_t>(status.st_blocks) * 512, 250u << 20) << "zeros are holes";
    EXPECT_EQ(run(directory, "ps --json " + core).out, live.out);
    // And a dump of the dump is the same file again.
    const std::string again = directory / "again.core";
    ASSERT_EQ(run(directory, fmt::format("dump {} {}", core, again)).status, 0);
    EXPECT_EQ(std::system(fmt::format("cmp {} {}", core, again).c_str()), 0);
    EXPECT_EQ(directory.entries(), 2u) << "no partial file stays";
}

TEST(Dump, needs_no_linux_in_the_memory_and_no_rights) {
    const Directory directory;
    const auto bytes = guest_memory::fake_memory_bytes(3u << 20, 1);
    const std::string image =
        write_file(directory / "mem.avml", guest_memory::avml_image({{0, bytes}}));
    const std::string core = directory / "mem.core";
    const Ran ran = run(directory, fmt::format("dump {} {}", image, core));
    EXPECT_EQ(ran.status, 0) << ran.err;
    const auto text = read_file(core, 16u << 20).value();
    ASSERT_EQ(text.size(), 4096 + bytes.size());
    EXPECT_EQ(text.substr(4096), as_text(bytes));
}

TEST(Dump, replaces_nothing_unasked) {
    const Directory directory;
    const std::string image =
        write_file(directory / "mem.raw", guest_memory::fake_memory_bytes(1u << 20, 1));
    const std::string core = write_file(directory / "mem.core", as_bytes("precious"));
    const Ran refused = run(directory, fmt::format("dump {} {}", image, core));
    EXPECT_EQ(refused.status, 2);
    EXPECT_NE(refused.err.find("--force"), std::string::npos);
    EXPECT_EQ(read_file(core, 100).value(), "precious");
    EXPECT_EQ(run(directory, fmt::format("dump {} {} --force", image, core)).status, 0);
    EXPECT_EQ(fs::file_size(core), 4096u + (1u << 20));
    struct stat status{};
    ASSERT_EQ(::stat(core.c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 07777, 0600u);
    EXPECT_EQ(run(directory, fmt::format("dump {} /dev/null --force", image)).status, 2);
    EXPECT_TRUE(fs::is_character_file("/dev/null"));
    EXPECT_EQ(run(directory, fmt::format("dump {}", image)).status, 2);
}

TEST(Dump, pages_that_cannot_be_read_are_told) {
    const Directory directory;
    auto bytes = guest_memory::avml_image({{0, guest_memory::fake_memory_bytes(1u << 20, 1)}},
                                          {.plain_chunks = true});
    bytes[1000] ^= std::byte{1};
    const std::string image = write_file(directory / "mem.avml", bytes);
    const Ran ran = run(directory, fmt::format("dump {} {}", image, directory / "mem.core"));
    EXPECT_EQ(ran.status, 10);
    EXPECT_NE(ran.err.find("16 pages could not be read"), std::string::npos) << ran.err;
    EXPECT_NE(ran.err.find("checksum"), std::string::npos) << ran.err;
    // A file that ends too early leaves nothing behind.
    fs::remove(directory / "mem.core");
    fs::resize_file(image, bytes.size() / 2);
    EXPECT_EQ(run(directory, fmt::format("dump {} {}", image, directory / "mem.core")).status, 7);
    EXPECT_EQ(directory.entries(), 1u);
}

}  // namespace
}  // namespace underseer::testing
