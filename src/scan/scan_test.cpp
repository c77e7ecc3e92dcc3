#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "base/limits.h"
#include "scan/scanner.h"

// libyara leaks a little of what it has parsed when rules turn out to be wrong.
extern "C" const char* __lsan_default_suppressions() {
    return "leak:libyara.so";
}

namespace underseer::scan {
namespace {

using namespace std::chrono_literals;

// Blocks that a test writes down; one without text cannot be read.
class FakeContent final : public Content {
  public:
    struct Piece {
        std::uint64_t base = 0;
        std::string text;
        std::uint64_t unreadable_bytes = 0;
    };
    explicit FakeContent(std::vector<Piece> pieces) : pieces_(std::move(pieces)) {}

    std::optional<Block> block(std::size_t number) override {
        if (number >= pieces_.size()) return std::nullopt;
        const Piece& piece = pieces_[number];
        return Block{piece.base, piece.text.size() + piece.unreadable_bytes};
    }
    Bytes read(std::size_t number) override { return as_bytes(pieces_[number].text); }

  private:
    std::vector<Piece> pieces_;
};

// Has no end.
class EndlessContent final : public Content {
  public:
    std::optional<Block> block(std::size_t number) override {
        return Block{number * text_.size(), text_.size()};
    }
    Bytes read(std::size_t) override { return as_bytes(text_); }

  private:
    std::string text_ = std::string(1u << 20, 'x');
};

Rules compiled(const std::vector<RuleFile>& files) {
    std::vector<RuleError> errors;
    auto rules = Rules::compile(files, errors);
    for (const RuleError& error : errors) {
        ADD_FAILURE() << error.file << ':' << error.line << ": " << error.message;
    }
    return std::move(rules.value());
}
Rules compiled(const std::string& text) {
    return compiled(std::vector<RuleFile>{{"test.yar", text}});
}

// "FILE:LINE" of each, or of all of them "FILE:LINE message" as `messages`.
std::vector<std::string> errors_of(const std::vector<RuleFile>& files,
                                   std::string* messages = nullptr) {
    std::vector<RuleError> errors;
    const auto rules = Rules::compile(files, errors);
    EXPECT_FALSE(rules.has_value());
    EXPECT_EQ(rules.has_value() ? Code{} : rules.error().code, Code::malformed);
    std::vector<std::string> places;
    for (const RuleError& error : errors) {
        places.push_back(fmt::format("{}:{}", error.file, error.line));
        if (messages != nullptr) *messages += places.back() + " " + error.message + "\n";
    }
    return places;
}

std::vector<RuleMatch> scanned(const Rules& rules, std::vector<FakeContent::Piece> pieces,
                               const Subject& subject = {}) {
    FakeContent content(std::move(pieces));
    auto matches = scan(rules, content, subject, 30s);
    EXPECT_TRUE(matches.has_value()) << matches.error().to_text();
    return std::move(matches.value());
}

std::vector<std::string> names_of(const std::vector<RuleMatch>& matches) {
    std::vector<std::string> names;
    for (const RuleMatch& match : matches) names.push_back(match.rule);
    return names;
}
using Names = std::vector<std::string>;

constexpr const char* kMarker = "rule marker { strings: $m = \"MARKER\" condition: $m }";

// ---- rules

TEST(Rules, errors_name_the_file_and_the_line_of_every_wrong_file) {
    std::string said;
    const auto places =
        errors_of({{"good.yar", kMarker},
                   {"one.yar", "rule one {\n  condition:\n    $missing or false\n}\n"},
                   {"two.yar", "\nrule two { condition: unknown }\n"}},
                  &said);
    EXPECT_EQ(places, (Names{"one.yar:3", "two.yar:2"}));
    EXPECT_NE(said.find("$missing"), std::string::npos) << said;
    EXPECT_NE(said.find("unknown"), std::string::npos) << said;
}

TEST(Rules, what_is_missing_at_the_end_is_said_of_the_last_line) {
    EXPECT_EQ(errors_of({{"cut.yar", "\nrule cut {"}}), Names{"cut.yar:2"});
    EXPECT_EQ(errors_of({{"cut.yar", "\nrule cut {\n"}}), Names{"cut.yar:2"});
}

TEST(Rules, a_file_that_is_no_text_is_refused) {
    EXPECT_EQ(errors_of({{"zero.yar", std::string(kMarker) + std::string(1, '\0')}}),
              Names{"zero.yar:0"});
}

TEST(Rules, errors_without_end_are_cut) {
    std::vector<RuleFile> files;
    for (int i = 0; i < 200; ++i) files.push_back({fmt::format("{}.yar", i), "rule"});
    EXPECT_LE(errors_of(files).size(), limits::kMaxRuleErrors);
}

TEST(Rules, no_rules_are_an_error) {
    std::vector<RuleError> errors;
    EXPECT_FALSE(Rules::compile({}, errors).has_value());
}

TEST(Rules, files_that_know_nothing_of_each_other_may_use_one_name) {
    const Rules rules = compiled(std::vector<RuleFile>{{"a.yar", kMarker}, {"b.yar", kMarker}});
    EXPECT_EQ(rules.count(), 2u);
    const auto matches = scanned(rules, {{0, "a MARKER"}});
    ASSERT_EQ(matches.size(), 2u);
    EXPECT_EQ(matches[0].rule_file, "a.yar");
    EXPECT_EQ(matches[1].rule_file, "b.yar");
}

TEST(Rules, what_community_files_refer_to_is_there) {
    const Rules rules = compiled(R"(
rule by_name { condition: filename == "sshd" and filepath == "/usr/sbin/sshd.d/sshd" }
rule by_type { condition: filetype == "ELF" and extension == "" and owner == "" }
rule other { condition: extension == ".so" })");
    Subject subject{.filepath = "/usr/sbin/sshd.d/sshd", .filetype = "ELF"};
    EXPECT_EQ(names_of(scanned(rules, {{0, "x"}}, subject)), (Names{"by_name", "by_type"}));
    subject = {.filepath = "/lib/x.so"};
    EXPECT_EQ(names_of(scanned(rules, {{0, "x"}}, subject)), Names{"other"});
}

TEST(Rules, include_directives_find_only_what_was_given) {
    const std::vector<RuleFile> files{
        {"rules/index.yar", "include \"./sub/one.yar\"\n"},
        {"rules/sub/one.yar", "include \"deeper/two.yar\"\n", true},
        {"rules/sub/deeper/two.yar", "include \"../three.yar\"\n", true},
        {"rules/sub/three.yar", kMarker, true}};
    const Rules rules = compiled(files);
    EXPECT_EQ(rules.count(), 1u);
    EXPECT_EQ(scanned(rules, {{0, "MARKER"}}).at(0).rule_file, "rules/index.yar");
    // What is wrong in an included file is said of that one.
    auto wrong = files;
    wrong[3].text = "\n\nrule wrong { condition: $a }";
    EXPECT_EQ(errors_of(wrong), Names{"rules/sub/three.yar:3"});
    for (const char* path : {"/etc/hostname", "../../../../etc/hostname", "nowhere.yar"}) {
        EXPECT_EQ(errors_of({{"rules/index.yar", fmt::format("\ninclude \"{}\"", path)}}),
                  Names{"rules/index.yar:2"})
            << path;
    }
}

TEST(Rules, includes_that_go_in_circles_end) {
    EXPECT_FALSE(
        errors_of({{"a.yar", "include \"b.yar\""}, {"b.yar", "include \"a.yar\""}}).empty());
}

TEST(Rules, names_of_included_files) {
    EXPECT_EQ(included_name("a/b.yar", "./c.yar"), "a/c.yar");
    EXPECT_EQ(included_name("/a/b.yar", "d/../c.yar"), "/a/c.yar");
    EXPECT_EQ(included_name("b.yar", "c.yar"), "c.yar");
    EXPECT_EQ(included_name("../b.yar", "c.yar"), "../c.yar");
    EXPECT_EQ(included_name("b.yar", "../c.yar"), "");
    EXPECT_EQ(included_name("../b.yar", "../c.yar"), "");
    EXPECT_EQ(included_name("b.yar", "/c.yar"), "");
    EXPECT_EQ(find_includes("include \"a\"\n  include\t\"b/c\" // include \"d\"\ninclude x \"e\""),
              (Names{"a", "b/c", "d"}));
    EXPECT_TRUE(find_includes("include \"never ends\n\"").empty());
}

// ---- scanning

TEST(Scan, a_match_says_what_where_and_a_little_of_it) {
    const Rules rules = compiled(R"(
rule key : first second {
    meta:
        author = "us"
        score = 75
        sure = true
    strings:
        $a = /KEY=[0-9a-f]+/
        $hidden = "KEY" private
    condition:
        all of them
})");
    const std::string key = "KEY=" + std::string(300, 'f');
    const auto matches = scanned(rules, {{0x1000, "...."}, {0x5000, "12345678" + key + "!"}});
    ASSERT_EQ(matches.size(), 1u);
    const RuleMatch& match = matches[0];
    EXPECT_EQ(match.rule, "key");
    EXPECT_EQ(match.rule_file, "test.yar");
    EXPECT_EQ(match.tags, (Names{"first", "second"}));
    using Meta = std::vector<std::pair<std::string, std::string>>;
    EXPECT_EQ(match.meta, (Meta{{"author", "us"}, {"score", "75"}, {"sure", "true"}}));
    ASSERT_EQ(match.strings.size(), 1u);
    EXPECT_EQ(match.string_count, 1u);
    EXPECT_EQ(match.strings[0].identifier, "$a");
    EXPECT_EQ(match.strings[0].address, 0x5008u);
    EXPECT_EQ(match.strings[0].size_bytes, key.size());
    EXPECT_EQ(match.strings[0].excerpt, key.substr(0, limits::kMaxExcerptBytes));
}

TEST(Scan, blocks_that_overlap_cut_nothing_and_tell_nothing_twice) {
    const Rules rules = compiled(kMarker);
    const std::string text = std::string(90, '.') + "MARKER" + std::string(4, '.');
    // Whole in both; across the end of the first; across a gap.
    auto matches = scanned(rules, {{0, text}, {80, text.substr(80) + "...."}});
    ASSERT_EQ(matches.size(), 1u);
    EXPECT_EQ(matches[0].string_count, 1u);
    matches = scanned(rules, {{0, text.substr(0, 93)}, {80, text.substr(80)}});
    ASSERT_EQ(matches.size(), 1u);
    EXPECT_EQ(matches[0].strings.at(0).address, 90u);
    EXPECT_TRUE(scanned(rules, {{0, text.substr(0, 93)}, {4096, text.substr(93)}}).empty());
}

TEST(Scan, a_process_is_no_file) {
    const Rules rules = compiled(R"(
import "elf"
rule small { condition: filesize < 100 }
rule magic { condition: uint32be(0) == 0x7f454c46 }
rule at_its_place { condition: uint32be(0x5000) == 0x7f454c46 }
rule program { condition: elf.type == elf.ET_DYN })");
    std::string elf =
        "\x7f"
        "ELF\x02\x01\x01" +
        std::string(57, '\0');
    elf[16] = 3, elf[18] = 62, elf += std::string(32, '\0');
    const Subject file{.file_bytes = elf.size()};
    EXPECT_EQ(names_of(scanned(rules, {{0, elf}}, file)), (Names{"small", "magic", "program"}));
    EXPECT_EQ(names_of(scanned(rules, {{0x5000, elf}})), Names{"at_its_place"});
}

TEST(Scan, hashes_work_over_blocks_that_follow_each_other) {
    const Rules rules = compiled(R"(
import "hash" import "math"
rule one { condition: hash.md5(0, filesize) == "900150983cd24fb0d6963f7d28e17f72" }
rule two { condition: math.entropy(0, filesize) > 1.5 })");
    EXPECT_EQ(names_of(scanned(rules, {{0, "ab"}, {2, "c"}}, {.file_bytes = 3})),
              (Names{"one", "two"}));
}

TEST(Scan, what_cannot_be_read_hides_nothing_behind_it) {
    const Rules rules = compiled(kMarker);
    const auto matches = scanned(rules, {{0, "", 4096}, {4096, "MARKER"}});
    ASSERT_EQ(matches.size(), 1u);
    EXPECT_EQ(matches[0].strings.at(0).address, 4096u);
}

TEST(Scan, the_end_of_the_time_is_said_and_is_not_clean) {
    const Rules rules = compiled(kMarker);
    EndlessContent content;
    const auto begun = std::chrono::steady_clock::now();
    const auto matches = scan(rules, content, {}, 1s);
    ASSERT_FALSE(matches.has_value());
    EXPECT_EQ(matches.error().code, Code::limit);
    EXPECT_NE(matches.error().message.find("out of time"), std::string::npos);
    EXPECT_LT(std::chrono::steady_clock::now() - begun, 20s);
}

TEST(Scan, content_full_of_one_string_hides_no_other) {
    const Rules rules =
        compiled(std::string(kMarker) + " rule many { strings: $a = \"aaaa\" condition: $a }");
    const std::string text = std::string(2u << 20, 'a') + "MARKER";
    const auto matches = scanned(rules, {{0, text}});
    EXPECT_EQ(names_of(matches), (Names{"marker", "many"}));
    for (const RuleMatch& match : matches) {
        EXPECT_LE(match.strings.size(), limits::kMaxStringMatches);
        EXPECT_GE(match.strings.size(), 1u);
    }
}

TEST(Scan, is_ready_before_a_jail_closes) {
    EXPECT_TRUE(warm_up());
    EXPECT_EQ(names_of(scanned(compiled(kMarker), {{0, "MARKER"}})), Names{"marker"});
}

}  // namespace
}  // namespace underseer::scan
