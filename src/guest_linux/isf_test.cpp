#include "guest_linux/isf.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "guest_linux/fake_guest.h"
#include "json/value.h"

namespace underseer::guest_linux {
namespace {

std::string isf_of_fake(FakeGuest::Options options = {},
                        const std::function<void(FakeGuest&)>& change = {}) {
    FakeGuest guest(options);
    guest.add_task(1, 1, "init", guest.init_task());
    guest.finish();
    if (change) change(guest);
    return isf_of(*Kernel::attach(&guest).value()).value();
}

// Walks an ISF by the rules of schema 6.2.0 and counts what it met.
class Checker {
  public:
    explicit Checker(const json::Value& isf) : isf_(isf) {}

    void check() {
        ASSERT_EQ(isf_.members().value().size(), 5u);
        EXPECT_EQ(text(isf_.at("metadata").value(), "format"), "6.2.0");
        for (const auto& [name, type] : members("base_types")) {
            for (const char* key : {"size", "signed", "kind", "endian"}) {
                EXPECT_TRUE(type.find(key).has_value()) << name << " " << key;
            }
        }
        for (const auto& [name, one] : members("enums")) {
            EXPECT_TRUE(has("base_types", text(one, "base"))) << name;
            const auto constants = one.at("constants").value().members().value();
            for (const auto& [constant, value] : constants) {
                EXPECT_TRUE(value.as_int().has_value()) << constant;
            }
        }
        for (const auto& [name, type] : members("user_types")) {
            const std::string kind = text(type, "kind");
            EXPECT_TRUE(kind == "struct" || kind == "union") << name;
            const auto fields = type.at("fields").value().members().value();
            for (const auto& [field, member] : fields) {
                EXPECT_TRUE(member.at("offset").value().as_uint().has_value()) << field;
                check_type(member.at("type").value(), 0);
            }
        }
        for (const auto& [name, symbol] : members("symbols")) {
            EXPECT_TRUE(symbol.at("address").value().as_uint().has_value()) << name;
            if (const auto type = symbol.find("type")) check_type(*type, 0);
        }
    }
    std::size_t references() const { return references_; }

  private:
    static std::string text(const json::Value& value, std::string_view key) {
        return value.at(key).value().as_string().value();
    }
    std::vector<std::pair<std::string, json::Value>> members(std::string_view part) const {
        return isf_.at(part).value().members().value();
    }
    bool has(std::string_view part, const std::string& name) const {
        return isf_.at(part).value().find(name).has_value();
    }
    void check_type(const json::Value& type, unsigned depth) {
        ASSERT_LT(depth, 32u);
        ++references_;
        const std::string kind = text(type, "kind");
        if (kind == "base") {
            EXPECT_TRUE(has("base_types", text(type, "name"))) << text(type, "name");
        } else if (kind == "struct" || kind == "union") {
            EXPECT_TRUE(has("user_types", text(type, "name"))) << text(type, "name");
        } else if (kind == "enum") {
            EXPECT_TRUE(has("enums", text(type, "name"))) << text(type, "name");
        } else if (kind == "pointer" || kind == "array") {
            if (kind == "array") {
                EXPECT_TRUE(type.at("count").value().as_uint().has_value());
            }
            check_type(type.at("subtype").value(), depth + 1);
        } else if (kind == "bitfield") {
            EXPECT_LE(type.at("bit_position").value().as_uint().value(), 63u);
            check_type(type.at("type").value(), depth + 1);
        } else {
            EXPECT_EQ(kind, "function");
        }
    }

    const json::Value& isf_;
    std::size_t references_ = 0;
};

TEST(Isf, keeps_the_rules_of_the_schema_and_every_reference_leads_somewhere) {
    const auto isf = json::Value::parse(isf_of_fake()).value();
    Checker checker(isf);
    checker.check();
    EXPECT_GT(checker.references(), 60u);
}

TEST(Isf, gives_offsets_symbols_and_the_banner_as_the_kernel_has_them) {
    FakeGuest guest({});
    guest.finish();
    const auto kernel = Kernel::attach(&guest).value();
    const auto isf = json::Value::parse(isf_of(*kernel).value()).value();
    const auto task = isf.at("user_types").value().at("task_struct").value();
    EXPECT_EQ(task.at("size").value().as_uint().value(), kernel->size_of("task_struct"));
    const auto fields = task.at("fields").value();
    for (const char* name : {"pid", "tasks", "comm", "signal", "start_boottime"}) {
        EXPECT_EQ(fields.at(name).value().at("offset").value().as_uint().value(),
                  kernel->field("task_struct", name).offset)
            << name;
    }
    // exit_state stands in an anonymous union, which readers look through.
    const auto inner = fields.at("unnamed_field_2").value();
    EXPECT_TRUE(inner.at("anonymous").value().as_bool().value());
    const auto symbols = isf.at("symbols").value();
    EXPECT_EQ(symbols.members().value().size(), kernel->symbols().size());
    const auto init_task = symbols.at("init_task").value();
    EXPECT_EQ(init_task.at("address").value().as_uint().value(),
              kernel->symbol("init_task").value().value - 0x1200000);
    EXPECT_EQ(init_task.at("type").value().at("name").value().as_string().value(), "task_struct");
    // "Linux version 6.4.0-fake (..)\n" and the NUL that ends it.
    const auto banner = symbols.at("linux_banner").value().at("constant_data").value();
    const std::string encoded = banner.as_string().value();
    EXPECT_EQ(encoded.size(), (FakeGuest::kBanner.size() + 1 + 2) / 3 * 4);
    EXPECT_TRUE(encoded.starts_with("TGludXggdmVyc2lvbiA2LjQuMC1mYWtl")) << encoded;
}

TEST(Isf, is_the_same_for_every_slide_of_a_kernel) {
    const std::string one = isf_of_fake({.slide = 0x1200000});
    EXPECT_EQ(one, isf_of_fake({.slide = 0x3400000}));
    EXPECT_EQ(one, isf_of_fake({.slide = 0}));
}

TEST(Isf, a_pointer_to_itself_ends) {
    const std::string text = isf_of_fake({}, [](FakeGuest& guest) {
        // Type 4 of the fake BTF is its only pointer, behind three integers of 16 bytes each.
        constexpr std::string_view kHeader("\x9f\xeb\x01\x00\x18", 5);
        const std::string_view ram(reinterpret_cast<const char*>(guest.host_phys(GuestPhys{0})),
                                   64u << 20);
        const std::size_t at = ram.find(kHeader);
        ASSERT_NE(at, std::string_view::npos);
        const std::uint32_t itself = 4;
        std::memcpy(guest.host_phys(GuestPhys{at + 24 + 3 * 16 + 8}), &itself, sizeof itself);
    });
    const auto isf = json::Value::parse(text).value();
    Checker(isf).check();
}

}  // namespace
}  // namespace underseer::guest_linux
