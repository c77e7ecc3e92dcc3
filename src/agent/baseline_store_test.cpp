#include "agent/baseline_store.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <fstream>

#include "base/limits.h"
#include "crypto/hash.h"
#include "event_log/signed_bundle.h"

namespace underseer::agent {
namespace {

class KeptBaselines : public testing::Test {
  protected:
    KeptBaselines() : key_(crypto::SigningKey::generate().value()) {
        char path[] = "/tmp/underseer-baselines-XXXXXX";
        folder_ = ::mkdtemp(path);
    }
    ~KeptBaselines() override { std::filesystem::remove_all(folder_); }

    BaselineStore open() {
        BaselineStore store(folder_, &key_);
        EXPECT_TRUE(store.troubles().empty()) << store.troubles()[0];
        return store;
    }
    static BaselineFacts facts(const std::string& build_id, const std::string& bytes) {
        return {.build_id = build_id,
                .release = "6.1." + build_id,
                .source = "vmlinuz",
                .made_ns = 1'700'000'000'123'456'789,
                .text_bytes = 14u << 20,
                .places = 61'545,
                .bytes = bytes.size(),
                .sha256 = crypto::to_hex(crypto::sha256(as_bytes(bytes)))};
    }
    static BaselineFacts seen(const std::string& build_id, const std::string& variant,
                              const std::string& guest, std::uint64_t when) {
        BaselineFacts one = facts(build_id, variant);
        one.variant = variant;
        one.seen_in = guest;
        one.made_ns = when;
        return one;
    }
    std::filesystem::path file(const std::string& name) const {
        return folder_ / "baselines" / name;
    }
    static void overwrite(const std::filesystem::path& path, const std::string& bytes) {
        std::ofstream(path, std::ios::binary) << bytes;
    }

    crypto::SigningKey key_;
    std::filesystem::path folder_;
};

TEST_F(KeptBaselines, are_there_after_a_restart_as_they_were) {
    auto store = open();
    ASSERT_TRUE(store.keep(facts("b2", "second"), "second").has_value());
    ASSERT_TRUE(store.keep(facts("a1", "first"), "first").has_value());
    auto again = open();
    ASSERT_EQ(again.all().size(), 2u);
    EXPECT_EQ(again.all()[0], facts("a1", "first")) << "by release";
    EXPECT_EQ(again.read(*again.find("b2")).value(), "second");
    EXPECT_EQ(again.find("c3"), nullptr);
}

TEST_F(KeptBaselines, are_one_for_each_build) {
    auto store = open();
    ASSERT_TRUE(store.keep(facts("a1", "old"), "old").has_value());
    ASSERT_TRUE(store.keep(facts("a1", "new"), "new").has_value());
    ASSERT_EQ(store.all().size(), 1u);
    EXPECT_EQ(store.read(store.all()[0]).value(), "new");
}

TEST_F(KeptBaselines, that_are_dropped_are_gone) {
    auto store = open();
    ASSERT_TRUE(store.keep(facts("a1", "one"), "one").has_value());
    ASSERT_TRUE(store.drop("a1").has_value());
    EXPECT_FALSE(std::filesystem::exists(file("a1")));
    EXPECT_TRUE(open().all().empty());
    EXPECT_EQ(store.drop("a1").error().code, Code::not_found);
}

TEST_F(KeptBaselines, that_somebody_has_changed_are_not_used) {
    auto store = open();
    ASSERT_TRUE(store.keep(facts("a1", "one"), "one").has_value());
    overwrite(file("a1/kernel.baseline"), "two");
    EXPECT_EQ(store.read(store.all()[0]).error().code, Code::permission);
}

TEST_F(KeptBaselines, that_another_key_has_signed_are_not_used) {
    auto store = open();
    ASSERT_TRUE(store.keep(facts("a1", "one"), "one").has_value());
    const auto other = crypto::SigningKey::generate().value();
    const BaselineStore refused(folder_, &other);
    EXPECT_TRUE(refused.all().empty());
    ASSERT_EQ(refused.troubles().size(), 1u);
    EXPECT_NE(refused.troubles()[0].find("a1"), std::string::npos) << refused.troubles()[0];
}

TEST_F(KeptBaselines, are_each_for_the_kernel_that_they_are_of) {
    auto store = open();
    ASSERT_TRUE(store.keep(facts("a1", "one"), "one").has_value());
    std::filesystem::rename(file("a1"), file("b2"));
    const BaselineStore refused(folder_, &key_);
    EXPECT_TRUE(refused.all().empty());
    EXPECT_EQ(refused.troubles().size(), 1u);
}

// How the kernel was built says more than what some guest was seen to run.
TEST_F(KeptBaselines, that_were_first_seen_are_second_choice) {
    auto store = open();
    ASSERT_TRUE(store.keep(seen("a1", "01", "vm", 1), "01").has_value());
    ASSERT_TRUE(store.keep(seen("a1", "02", "vm", 2), "02").has_value());
    EXPECT_EQ(open().find_for("a1", "02")->id(), "a1-02");
    EXPECT_EQ(store.find_for("a1", "03"), nullptr) << "made to run in another way";
    EXPECT_EQ(store.find_for("a1", ""), nullptr) << "nobody knows in which way";
    ASSERT_TRUE(store.keep(facts("a1", "built"), "built").has_value());
    EXPECT_EQ(store.find_for("a1", "02")->id(), "a1");
    EXPECT_EQ(store.find_for("a1", "03")->id(), "a1");
    ASSERT_TRUE(store.drop("a1").has_value());
    EXPECT_EQ(open().find_for("a1", "01")->id(), "a1-01");
}

// A guest may say that it is another kernel as often as it likes.
TEST_F(KeptBaselines, that_were_first_seen_are_the_latest_of_each_guest) {
    auto store = open();
    ASSERT_TRUE(store.keep(seen("b0", "01", "quiet", 1), "01").has_value());
    for (std::uint64_t i = 10; i < 30; ++i) {
        ASSERT_TRUE(store.keep(seen(fmt::format("{:x}", i), "01", "loud", i), "01").has_value());
    }
    EXPECT_EQ(store.all().size(), 5u);
    EXPECT_NE(store.find("b0-01"), nullptr);
    EXPECT_NE(store.find("1d-01"), nullptr);
    EXPECT_EQ(store.find("19-01"), nullptr);
    EXPECT_EQ(open().all().size(), 5u);
}

// Else a host with more kernels than are kept would look at one after the other for ever.
TEST_F(KeptBaselines, that_are_in_use_make_no_room) {
    auto store = open();
    const auto in_use = [](const BaselineFacts& one) { return one.build_id != "11"; };
    for (std::uint64_t i = 0x10; i < 0x10 + 64; ++i) {
        ASSERT_TRUE(store.keep(seen(fmt::format("{:x}", i), "01", fmt::format("vm{}", i), i), "01")
                        .has_value());
    }
    ASSERT_TRUE(store.keep(seen("aa", "01", "new", 99), "01", in_use).has_value());
    EXPECT_EQ(store.find("11-01"), nullptr);
    EXPECT_NE(store.find("10-01"), nullptr) << "it is older, and in use";
    EXPECT_EQ(store.keep(seen("ab", "01", "newer", 100), "01", in_use).error().code, Code::limit);
    EXPECT_EQ(store.find("ab-01"), nullptr);
    EXPECT_EQ(open().all().size(), 64u);
}

TEST_F(KeptBaselines, of_another_form_are_told_and_not_used) {
    auto store = open();
    ASSERT_TRUE(store.keep(facts("a1", "one"), "one").has_value());
    auto bundle = event_log::SignedBundle::load(file("a1"), key_.public_key()).value();
    for (auto& [name, value] : bundle.about) {
        if (name == "form") value = "of before";
    }
    for (const auto& entry : std::filesystem::directory_iterator(file("a1"))) {
        if (entry.path().filename() != "kernel.baseline") std::filesystem::remove(entry.path());
    }
    ASSERT_TRUE(bundle.store(file("a1"), key_).has_value());
    const BaselineStore again(folder_, &key_);
    EXPECT_TRUE(again.all().empty());
    ASSERT_EQ(again.troubles().size(), 1u);
    EXPECT_NE(again.troubles()[0].find("another version"), std::string::npos);
}

TEST_F(KeptBaselines, that_cannot_be_read_make_room_for_the_second_choice) {
    auto store = open();
    ASSERT_TRUE(store.keep(seen("a1", "01", "vm", 1), "01").has_value());
    ASSERT_TRUE(store.keep(facts("a1", "built"), "built").has_value());
    overwrite(file("a1/kernel.baseline"), "other");
    EXPECT_EQ(store.read(*store.find_for("a1", "01")).error().code, Code::permission);
    EXPECT_EQ(store.find_for("a1", "01")->id(), "a1-01");
}

TEST_F(KeptBaselines, that_were_cut_off_while_they_were_written_are_not_there) {
    auto store = open();
    ASSERT_TRUE(store.keep(facts("a1", "one"), "one").has_value());
    std::filesystem::rename(file("a1"), file("a1.new"));
    EXPECT_TRUE(open().all().empty());
    auto again = open();
    ASSERT_TRUE(again.keep(facts("a1", "two"), "two").has_value());
    EXPECT_EQ(again.read(again.all()[0]).value(), "two");
}

TEST_F(KeptBaselines, are_what_they_are_said_to_be) {
    auto store = open();
    const auto refused = [&](BaselineFacts wrong) {
        const auto kept = store.keep(std::move(wrong), "one");
        return !kept.has_value() && kept.error().code == Code::invalid_argument;
    };
    BaselineFacts wrong = facts("a1", "one");
    wrong.bytes = 4;
    EXPECT_TRUE(refused(wrong));
    wrong = facts("a1", "two");
    EXPECT_TRUE(refused(wrong)) << "another hash";
    for (const std::string name : {"", "../../etc/passwd", "a1/b2", "A1"}) {
        EXPECT_TRUE(refused(facts(name, "one"))) << name;
    }
    EXPECT_TRUE(store.all().empty());
}

BaselineFacts of_package(const std::string& package, const std::string& bytes) {
    return {.source = "daemon.deb",
            .made_ns = 1'700'000'000'123'456'789,
            .text_bytes = 3u << 20,
            .bytes = bytes.size(),
            .sha256 = crypto::to_hex(crypto::sha256(as_bytes(bytes))),
            .package = package,
            .programs = 7,
            .left_out = 2};
}

TEST_F(KeptBaselines, of_packages_are_there_after_a_restart_beside_those_of_kernels) {
    {
        auto store = open();
        EXPECT_FALSE(store.has_programs());
        ASSERT_TRUE(store.keep(facts("a1", "first"), "first").has_value());
        EXPECT_FALSE(store.has_programs());
        ASSERT_TRUE(
            store.keep(of_package("daemon_1:2.3-4~b+c_amd64", "hashes"), "hashes").has_value());
    }
    auto store = open();
    EXPECT_TRUE(store.has_programs());
    const BaselineFacts* kept = store.find("daemon_1:2.3-4~b+c_amd64");
    ASSERT_NE(kept, nullptr);
    EXPECT_EQ(*kept, of_package("daemon_1:2.3-4~b+c_amd64", "hashes"));
    EXPECT_EQ(store.read(*kept).value(), "hashes");
    ASSERT_TRUE(store.drop("daemon_1:2.3-4~b+c_amd64").has_value());
    EXPECT_FALSE(store.has_programs());
    EXPECT_NE(store.find("a1"), nullptr);
}

TEST_F(KeptBaselines, of_packages_have_names_that_lead_nowhere_else) {
    auto store = open();
    for (const char* name : {"../x_1", ".x_1", "x/y_1", "abcd", "x_1.new", "x_ 1", ""}) {
        EXPECT_FALSE(store.keep(of_package(name, "hashes"), "hashes").has_value()) << name;
    }
    BaselineFacts both = of_package("daemon_1_amd64", "hashes");
    both.build_id = "a1";
    EXPECT_FALSE(store.keep(both, "hashes").has_value());
    EXPECT_TRUE(store.all().empty());
}

TEST_F(KeptBaselines, of_packages_fit_into_what_a_worker_takes) {
    auto store = open();
    const std::string half(limits::kMaxProgramSetBytes / 2, 'x');
    ASSERT_TRUE(store.keep(of_package("a_1", half), half).has_value());
    ASSERT_TRUE(store.keep(of_package("b_1", half), half).has_value());
    EXPECT_EQ(store.keep(of_package("c_1", "x"), "x").error().code, Code::limit);
    EXPECT_TRUE(store.keep(of_package("b_1", "x"), "x").has_value()) << "in its place";
    EXPECT_TRUE(store.keep(of_package("c_1", "x"), "x").has_value());
}

}  // namespace
}  // namespace underseer::agent
