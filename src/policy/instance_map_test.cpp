#include "policy/instance_map.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace underseer::policy {
namespace {

constexpr std::string_view kUuid = "6f1a2b3c-0000-4000-8000-000000000001";

std::string map_error_of(std::string_view toml) {
    const auto map = InstanceMap::parse(toml, "instances.toml");
    return map.has_value() ? "" : map.error().message;
}

constexpr std::string_view kFile = R"(
[[instance]]
uuid = "6F1A2B3C-0000-4000-8000-000000000001"
tenant = "by uuid"
app_instance_id = "app-1"
app_d_id = "cache-2.1"

[[instance]]
libvirt = "edge-1"
tenant = "by libvirt"

[[instance]]
name = "edge-1"
tenant = "by name"

[[instance]]
name = "edge-1"
user = "1234"
tenant = "of user 1234"
)";

TEST(InstanceMap, goes_by_uuid_then_libvirt_then_name) {
    const auto map = InstanceMap::parse(kFile, "instances.toml").value();
    EXPECT_EQ(map.size(), 4u);
    VmTraits vm{.uuid = std::string(kUuid), .name = "edge-1", .libvirt_name = "edge-1", .user = 0};
    ASSERT_NE(map.find(vm), nullptr);
    EXPECT_EQ(map.find(vm)->tenant, "by uuid");
    EXPECT_EQ(map.find(vm)->app_instance_id, "app-1");
    EXPECT_EQ(map.find(vm)->app_d_id, "cache-2.1");
    vm.uuid = "6f1a2b3c-0000-4000-8000-000000000002";
    EXPECT_EQ(map.find(vm)->tenant, "by libvirt");
    vm.libvirt_name.clear();
    EXPECT_EQ(map.find(vm)->tenant, "by name");
    vm.name.clear();
    EXPECT_EQ(map.find(vm), nullptr);
    EXPECT_EQ(map.refused(vm), "");
}

TEST(InstanceMap, a_local_user_gains_nothing_by_a_name_or_a_uuid) {
    const auto map = InstanceMap::parse(kFile, "instances.toml").value();
    VmTraits vm{.uuid = std::string(kUuid), .name = "", .libvirt_name = "", .user = 1000};
    EXPECT_EQ(map.find(vm), nullptr);
    EXPECT_NE(map.refused(vm).find("instances.toml:2 names it, but it runs as user 1000"),
              std::string::npos)
        << map.refused(vm);
    // What libvirt says is its domain is, whoever runs it.
    vm.libvirt_name = "other";
    ASSERT_NE(map.find(vm), nullptr);
    EXPECT_EQ(map.find(vm)->tenant, "by uuid");
    vm = {.uuid = "", .name = "edge-1", .libvirt_name = "", .user = 1234};
    EXPECT_EQ(map.find(vm)->tenant, "of user 1234");
}

TEST(InstanceMap, errors_name_file_line_and_key) {
    EXPECT_EQ(map_error_of("[[instance]]\nname = 7\ntenant = \"a\"\n"),
              "instances.toml:2:8: instance.name: wants a text in quotes");
    EXPECT_NE(map_error_of("[[instance]]\nnames = \"x\"\n")
                  .find("instances.toml:2:1: instance.names: there is no such key"),
              std::string::npos);
    EXPECT_NE(map_error_of("[[instance]]\ntenant = \"a\"\n").find("instance.uuid: is missing"),
              std::string::npos);
    EXPECT_NE(map_error_of("[[instance]]\nname = \"a\"\n").find("instance.tenant: is missing"),
              std::string::npos);
    EXPECT_NE(map_error_of("[[instance]]\nname = \"a\"\nlibvirt = \"a\"\ntenant = \"t\"\n")
                  .find("one of uuid, libvirt and name is enough"),
              std::string::npos);
    EXPECT_NE(map_error_of("[[instance]]\nuuid = \"6f1a\"\ntenant = \"t\"\n")
                  .find("instances.toml:2:8: instance.uuid: wants a UUID"),
              std::string::npos);
    EXPECT_NE(map_error_of("[[instance]]\nname = \"a\"\ntenant = \"t\"\nuser = \"no-such-user\"\n")
                  .find("instances.toml:4:8: instance.user: there is no user no-such-user"),
              std::string::npos);
    EXPECT_NE(map_error_of("[[instance]]\nname = \"a\"\ntenant = \"t\"\n"
                           "[[instance]]\nname = \"a\"\ntenant = \"u\"\n")
                  .find("instances.toml:4: instance: names the same VM as instances.toml:1"),
              std::string::npos);
    EXPECT_NE(map_error_of("instance = 1\n").find("wants [[instance]] sections"),
              std::string::npos);
    EXPECT_NE(map_error_of("[[instance]\n").find("instances.toml:1:"), std::string::npos);
    EXPECT_EQ(map_error_of(""), "");
}

TEST(InstanceMap, a_file_that_others_may_write_is_refused) {
    const std::string path = std::filesystem::temp_directory_path() / "underseer_instances.toml";
    std::ofstream(path) << kFile;
    ::chmod(path.c_str(), 0666);
    EXPECT_EQ(InstanceMap::load(path).error().code, Code::permission);
    ::chmod(path.c_str(), 0644);
    EXPECT_EQ(InstanceMap::load(path).value().size(), 4u);
    ::unlink(path.c_str());
}

}  // namespace
}  // namespace underseer::policy
