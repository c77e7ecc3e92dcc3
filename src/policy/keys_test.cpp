#include "policy/keys.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <set>

#include "policy/policy.h"

namespace underseer::policy {
namespace {

constexpr std::string_view kOneCheck[] = {"hidden_process"};

// What the parser says it knows of a section, from its refusal of a key that nobody has.
std::set<std::string> known_to_the_parser(std::string_view section) {
    const auto refused =
        parse(fmt::format("{}\nno_such_key = 1\n", section), "test.toml", kOneCheck);
    EXPECT_FALSE(refused.has_value());
    const std::string& text = refused.error().message;
    const std::size_t at = text.find("known: ");
    EXPECT_NE(at, std::string::npos) << text;
    std::set<std::string> names;
    for (std::size_t begin = at + 7; begin < text.size();) {
        const std::size_t end = std::min(text.find(", ", begin), text.size());
        names.insert(text.substr(begin, end - begin));
        begin = end + 2;
    }
    return names;
}

TEST(Keys, are_exactly_those_that_the_parser_takes) {
    std::set<std::string> sections;
    for (const Key& key : keys()) sections.insert(std::string(key.section));
    std::set<std::string> roots;
    for (const std::string& section : sections) {
        std::set<std::string> described;
        for (const Key& key : keys()) {
            if (key.section == section) described.insert(std::string(key.name));
        }
        EXPECT_EQ(described, known_to_the_parser(section)) << section;
        const std::size_t begin = section.find_first_not_of('[');
        roots.insert(section.substr(begin, section.find(']') - begin));
    }
    EXPECT_EQ(roots, known_to_the_parser(""));
}

TEST(Keys, have_valid_examples_and_true_defaults) {
    std::string all, defaults, section;
    for (const Key& key : keys()) {
        const std::string line = fmt::format("{} = {}\n", key.name, key.example);
        const bool is_default = key.standard == key.example;
        if (section != key.section) {
            section = key.section;
            all += section + "\n";
            if (!section.starts_with("[[")) defaults += section + "\n";
        }
        all += line;
        if (is_default && !section.starts_with("[[")) defaults += line;
    }
    const auto parsed = parse(all, "test.toml", kOneCheck);
    ASSERT_TRUE(parsed.has_value()) << parsed.error().message;
    EXPECT_EQ(parsed->suppressions.size(), 1u);
    const auto plain = parse(defaults, "test.toml", kOneCheck);
    ASSERT_TRUE(plain.has_value()) << plain.error().message;
    const Policy standard;
    EXPECT_EQ(plain->discover_every, standard.discover_every);
    EXPECT_EQ(plain->inspection.period_of("hidden_process", std::chrono::seconds(7)),
              std::chrono::seconds(10));
    EXPECT_EQ(plain->inspection.deep_search_every, standard.inspection.deep_search_every);
    EXPECT_EQ(plain->inspection.cpu_percent, standard.inspection.cpu_percent);
    EXPECT_EQ(plain->redact_environment, standard.redact_environment);
    EXPECT_EQ(plain->on_mismatch, standard.on_mismatch);
    EXPECT_EQ(plain->log_segment_bytes, standard.log_segment_bytes);
    EXPECT_EQ(plain->log_keep_bytes, standard.log_keep_bytes);
    EXPECT_EQ(plain->evidence_keep_bytes, standard.evidence_keep_bytes);
    EXPECT_EQ(plain->evidence_trace, standard.evidence_trace);
    EXPECT_EQ(plain->evidence_exact_stops, standard.evidence_exact_stops);
}

}  // namespace
}  // namespace underseer::policy
