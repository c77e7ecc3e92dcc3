#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/limits.h"
#include "base/os.h"
#include "event/wire.h"
#include "sigma/compile.h"
#include "sigma/match.h"

namespace underseer::sigma {

namespace {

std::string rule_with(std::string_view detection, std::string_view category = "process_creation") {
    return fmt::format(
        "title: A test\nlogsource:\n  product: linux\n  category: {}\ndetection:\n{}level: high\n",
        category, detection);
}

// A selection of its own.
std::string rule_of(std::string_view item) {
    return rule_with(fmt::format("  selection:\n    {}\n  condition: selection\n", item));
}

// Why it is refused, with its line; "" when it is not.
std::string refusal_of(const std::string& text) {
    std::uint32_t line = 0;
    const auto rule = compile("rules/a.yml", text, line);
    return rule.has_value() ? "" : fmt::format("{}: {}", line, rule.error().message);
}

Event process(std::string image, std::string command_line) {
    Event event;
    event[Field::image] = Value::of(std::move(image));
    event[Field::command_line] = Value::of(std::move(command_line));
    event[Field::process_id] = Value::of("77");
    event[Field::user] = Value::of("root");
    return event;
}

Matcher matcher_of(const std::string& text) {
    std::uint32_t line = 0;
    auto rule = compile("a.yml", text, line);
    EXPECT_TRUE(rule.has_value()) << line << ": " << (rule.has_value() ? "" : rule.error().message);
    if (!rule.has_value()) return {};
    // As it comes from the jail.
    auto handed_on = event::decode<Rule>(as_bytes(event::encode(*rule)));
    EXPECT_TRUE(handed_on.has_value());
    std::vector<Rule> rules;
    rules.push_back(std::move(*handed_on));
    auto matcher = Matcher::of(std::move(rules));
    EXPECT_TRUE(matcher.has_value());
    return matcher.has_value() ? std::move(*matcher) : Matcher();
}

bool holds(const std::string& rule, const Event& event) {
    return !matcher_of(rule).judge(event).rules.empty();
}
bool holds_for_line(std::string_view item, std::string command_line) {
    return holds(rule_of(item), process("/usr/bin/x", std::move(command_line)));
}

TEST(SigmaRule, IsWhatItsFileSays) {
    std::uint32_t line = 0;
    const auto rule = compile("/etc/rules/reverse_shell.yml",
                              "title: Reverse shell\nid: 1-2\ndescription: |\n  Some text.\n"
                              "status: test\ntags:\n  - attack.execution\n  - attack.t1059.004\n"
                              "logsource: {product: linux, category: process_creation}\n"
                              "detection:\n  selection:\n    Image|endswith: /bash\n"
                              "  condition: selection\nfalsepositives: [Administrators]\n"
                              "level: critical\n",
                              line);
    ASSERT_TRUE(rule.has_value()) << rule.error().message;
    EXPECT_EQ(rule->name, "sigma:reverse_shell");
    EXPECT_EQ(rule->title, "Reverse shell");
    EXPECT_EQ(rule->technique, "T1059.004");
    EXPECT_EQ(rule->severity, event::Severity::critical);
    EXPECT_EQ(rule->false_positives, std::vector<std::string>{"Administrators"});
}

TEST(SigmaValue, IsComparedWithoutCaseAndByWildcards) {
    EXPECT_TRUE(holds_for_line("CommandLine: 'Nmap -sS'", "nmap -ss"));
    EXPECT_FALSE(holds_for_line("CommandLine: nmap", "nmap -sS"));
    EXPECT_TRUE(holds_for_line("CommandLine: 'nc*-e */bash'", "nc -l -e /bin/bash"));
    EXPECT_FALSE(holds_for_line("CommandLine: 'nc*-e */bash'", "nc -l -e /bin/bash -x"));
    EXPECT_TRUE(holds_for_line("CommandLine: 'a?c'", "aBc"));
    EXPECT_FALSE(holds_for_line("CommandLine: 'a?c'", "ac"));
    EXPECT_TRUE(holds_for_line("CommandLine: 'a\\*c'", "a*c"));
    EXPECT_FALSE(holds_for_line("CommandLine: 'a\\*c'", "abc"));
    EXPECT_TRUE(holds_for_line("CommandLine: 'a\\b'", "a\\b"));
    EXPECT_TRUE(holds_for_line("CommandLine: 'aba*aba'", "abaaba"));
    EXPECT_FALSE(holds_for_line("CommandLine: 'aba*aba'", "ababa"));  // they may not overlap
}

TEST(SigmaValue, HasModifiers) {
    EXPECT_TRUE(holds_for_line("CommandLine|contains: 'ETC/shadow'", "cat /etc/shadow"));
    EXPECT_TRUE(holds_for_line("CommandLine|startswith: 'cat '", "cat /etc/shadow"));
    EXPECT_FALSE(holds_for_line("CommandLine|startswith: 'at '", "cat /etc/shadow"));
    EXPECT_TRUE(holds_for_line("CommandLine|endswith: shadow", "cat /etc/shadow"));
    EXPECT_FALSE(holds_for_line("CommandLine|contains|cased: SHADOW", "cat /etc/shadow"));
    EXPECT_TRUE(holds_for_line("CommandLine|contains|all: [cat, shadow]", "cat /etc/shadow"));
    EXPECT_FALSE(holds_for_line("CommandLine|contains|all: [dog, shadow]", "cat /etc/shadow"));
    EXPECT_TRUE(holds_for_line("CommandLine|contains: [dog, shadow]", "cat /etc/shadow"));
    EXPECT_FALSE(holds_for_line("CommandLine|neq: id", "id"));
    EXPECT_TRUE(holds_for_line("CommandLine|neq: id", "ls"));
    EXPECT_TRUE(holds_for_line("CommandLine|re: 'c.t\\s+/etc'", "cat  /etc/shadow"));
    EXPECT_FALSE(holds_for_line("CommandLine|re: 'C.T'", "cat /etc/shadow"));
    EXPECT_TRUE(holds_for_line("CommandLine|re|i: 'C.T'", "cat /etc/shadow"));
    EXPECT_TRUE(holds_for_line("CommandLine|re|s: 'a.b'", "a\nb"));
    EXPECT_TRUE(holds_for_line("CommandLine|re|m: '^b$'", "a\nb\nc"));
    EXPECT_TRUE(holds_for_line("CommandLine|windash|contains: ' -exec '", "find / /exec id"));
    EXPECT_TRUE(holds_for_line("CommandLine|base64: 'foobar'", "Zm9vYmFy"));
    EXPECT_FALSE(holds_for_line("CommandLine|base64: 'foobar'", "zm9vYmFy"));
    EXPECT_TRUE(holds_for_line("ProcessId|gte: 77", "x"));
    EXPECT_FALSE(holds_for_line("ProcessId|gt: 77", "x"));
    EXPECT_TRUE(holds_for_line("ProcessId|lt: 100", "x"));
    EXPECT_TRUE(holds_for_line("ProcessId: 77", "x"));
    EXPECT_TRUE(holds_for_line("CommandLine|fieldref: Image", "/usr/bin/x"));
    EXPECT_FALSE(holds_for_line("CommandLine|fieldref: Image", "/usr/bin/y"));
    EXPECT_TRUE(holds_for_line("ParentImage: null", "x"));
    EXPECT_FALSE(holds_for_line("Image: null", "x"));
    EXPECT_TRUE(holds_for_line("Image|exists: true", "x"));
    EXPECT_TRUE(holds_for_line("ParentImage|exists: false", "x"));
}

// RFC 4648: where a text begins in a group of three decides how it looks.
TEST(SigmaValue, IsFoundWhereverItStandsInBase64) {
    for (const char* around : {"L2Jpbi9iYXNoIC1p",             // "/bin/bash -i"
                               "eC9iaW4vYmFzaCAtaQ==",         // "x/bin/bash -i"
                               "eHgvYmluL2Jhc2ggLWkgPiY="}) {  // "xx/bin/bash -i >&"
        EXPECT_TRUE(holds_for_line("CommandLine|base64offset|contains: '/bin/bash -i'",
                                   fmt::format("echo {} | base64 -d", around)))
            << around;
    }
    EXPECT_FALSE(holds_for_line("CommandLine|base64offset|contains: '/bin/bash -i'",
                                "echo L2Jpbi9kYXNoIC1p"));
}

TEST(SigmaValue, IsANetwork) {
    const auto in = [](const char* network, const char* address) {
        Event event;
        event.category = Category::network_connection;
        event[Field::destination_ip] = Value::of(address);
        return holds(rule_with(fmt::format("  selection:\n    DestinationIp|cidr: '{}'\n"
                                           "  condition: selection\n",
                                           network),
                               "network_connection"),
                     event);
    };
    EXPECT_TRUE(in("10.0.0.0/8", "10.200.1.1"));
    EXPECT_FALSE(in("10.0.0.0/8", "11.0.0.1"));
    EXPECT_TRUE(in("10.1.2.3", "10.1.2.3"));
    EXPECT_TRUE(in("10.0.0.0/8", "::ffff:10.0.0.1"));
    EXPECT_TRUE(in("fe80::/10", "fe80::1"));
    EXPECT_FALSE(in("::/0", "10.0.0.1"));
    EXPECT_TRUE(in("0.0.0.0/0", "10.0.0.1"));
    EXPECT_FALSE(in("10.0.0.0/8", "/run/socket"));
}

TEST(SigmaSelection, IsOneOfItsMaps) {
    const std::string text = rule_with(
        "  selection:\n    - Image: /bin/a\n      CommandLine: x\n    - Image: /bin/b\n"
        "  condition: selection\n");
    EXPECT_TRUE(holds(text, process("/bin/a", "x")));
    EXPECT_FALSE(holds(text, process("/bin/a", "y")));
    EXPECT_TRUE(holds(text, process("/bin/b", "y")));
}

TEST(SigmaCondition, IsUnderstood) {
    const auto with = [](std::string_view condition) {
        // a and b hold, c and _d do not.
        return holds(rule_with(fmt::format("  sel_a:\n    Image: /a\n  sel_b:\n    CommandLine: b\n"
                                           "  c:\n    Image: /c\n  _d:\n    Image: /d\n"
                                           "  condition: {}\n",
                                           condition)),
                     process("/a", "b"));
    };
    EXPECT_TRUE(with("sel_a and sel_b"));
    EXPECT_TRUE(with("sel_a AND NOT c"));
    EXPECT_FALSE(with("sel_a and not sel_b"));
    EXPECT_TRUE(with("sel_a or c and c"));
    EXPECT_FALSE(with("(sel_a or c) and c"));
    EXPECT_TRUE(with("not not sel_a"));
    EXPECT_TRUE(with("all of sel_*"));
    EXPECT_TRUE(with("1 of *"));
    EXPECT_FALSE(with("all of them"));
    EXPECT_TRUE(with("any of them"));
    EXPECT_TRUE(with("not 1 of _*"));
    EXPECT_TRUE(with("\n    - c\n    - sel_a"));
    EXPECT_FALSE(with("\n    - c\n    - _d"));
}

// What is not known makes no rule hold, neither one that asks for it nor one that asks for its
// contrary.
TEST(SigmaMatch, SaysNothingByWhatIsUnknown) {
    Event event = process("/usr/bin/curl", "");
    event[Field::command_line] = Value::unknown();
    const auto judged = [&](std::string_view condition) {
        const Matcher matcher = matcher_of(
            rule_with(fmt::format("  curl:\n    Image|endswith: /curl\n  other:\n    Image: /x\n"
                                  "  ours:\n    CommandLine|contains: mirror\n  condition: {}\n",
                                  condition)));
        const auto verdict = matcher.judge(event);
        return fmt::format("{} {}", verdict.rules.size(), verdict.undecided);
    };
    EXPECT_EQ(judged("curl and not ours"), "0 1");
    EXPECT_EQ(judged("curl and ours"), "0 1");
    EXPECT_EQ(judged("curl or ours"), "1 0");
    EXPECT_EQ(judged("other and not ours"), "0 0");
}

TEST(SigmaRule, IsRefusedByNameAndLine) {
    const auto refused = [](std::string_view item) { return refusal_of(rule_of(item)); };
    EXPECT_EQ(refused("Hashes: x").substr(0, 51),
              "7: the field 'Hashes' is not known of a process_cre");
    EXPECT_EQ(refused("CommandLine|expand: '%admins%'"),
              "7: the modifier 'expand' is not understood: write the values where the placeholder "
              "stands");
    EXPECT_TRUE(
        refused("CommandLine|startwith: x").starts_with("7: there is no modifier 'startwith'"));
    EXPECT_TRUE(refused("CommandLine|re: '(?=x)'").starts_with("7: the regular expression cannot"));
    EXPECT_TRUE(refused("CommandLine|re|contains: x").starts_with("7: these modifiers say"));
    EXPECT_TRUE(refused("CommandLine|cidr: 10.0.0.0/33").starts_with("7: '10.0.0.0/33' is no net"));
    EXPECT_TRUE(refused("ProcessId|gt: many").starts_with("7: 'many' is no whole number"));
    EXPECT_TRUE(refused("User: www-data").starts_with("7: the user 'www-data' is not known"));
    EXPECT_TRUE(refused("User|startswith: www").starts_with("7: the user 'www' is not known"));
    EXPECT_TRUE(refused("User: 'www-*'").starts_with("7: the user 'www-*' is not known"));
    EXPECT_TRUE(refused("User|base64: www").starts_with("7: the user 'www' is not known"));
    EXPECT_EQ(refused("User|gte: 1000"), "");
    EXPECT_EQ(refused("User: null"), "");
    EXPECT_TRUE(refused("CommandLine|contains:").starts_with("7: a value is missing"));
    EXPECT_TRUE(refused("CommandLine|contains: [a, null]").starts_with("7: a value is missing"));
    EXPECT_TRUE(refused("CommandLine|base64offset:").starts_with("7: a value is missing"));
    EXPECT_TRUE(refused("CommandLine|re:").starts_with("7: a value is missing"));
    EXPECT_TRUE(refused("CommandLine|windash|base64: x").starts_with("7: these modifiers say"));
    EXPECT_TRUE(refused("CommandLine: []").starts_with("7: 'CommandLine' has an empty list"));
    EXPECT_TRUE(refused("CommandLine: {a: b}").starts_with("7: 'CommandLine' has a map"));
    EXPECT_TRUE(refused("CommandLine: &x a").starts_with("7: an anchor"));
    EXPECT_TRUE(refused("CommandLine: [a, b").starts_with("8: it is no YAML"));
    const auto with = [](std::string_view condition) {
        return refusal_of(
            rule_with(fmt::format("  selection:\n    Image: x\n  condition: {}\n", condition)));
    };
    EXPECT_TRUE(with("selection | count() > 5").starts_with("8: aggregations"));
    EXPECT_TRUE(with("selection and filter").starts_with("8: the condition names 'filter'"));
    EXPECT_TRUE(with("2 of them").starts_with("8: '2 of'"));
    EXPECT_TRUE(with("1 of x*").starts_with("8: '1 of x*': no selection"));
    EXPECT_TRUE(with("(selection").starts_with("8: a ')' is missing"));
    EXPECT_TRUE(with("selection and").starts_with("8: the condition ends"));
    EXPECT_TRUE(with("selection selection").starts_with("8: 'selection' is out of place"));
    EXPECT_TRUE(with("selection\n  timeframe: 5m").starts_with("9: 'timeframe'"));
    EXPECT_TRUE(refusal_of(rule_with("  k: [a, b]\n  condition: k\n"))
                    .starts_with("6: 'k' is a list of keywords"));
    EXPECT_TRUE(refusal_of(rule_with("  s:\n    Image: x\n  condition: s\n", "file_event"))
                    .starts_with("4: logsource category 'file_event' is not observed"));
    EXPECT_TRUE(refusal_of("title: x\ncorrelation:\n  type: event_count\n")
                    .starts_with("2: 'correlation'"));
    EXPECT_TRUE(refusal_of("title: x\ntitle: y\n").starts_with("2: the key 'title'"));
    EXPECT_TRUE(refusal_of("title: x\n---\ntitle: y\n").starts_with("2: a second document"));
    EXPECT_EQ(refusal_of("").substr(0, 20), "1: the file is empty");
    EXPECT_TRUE(refusal_of("- a\n").starts_with("1: a rule is a map"));
    EXPECT_TRUE(
        refusal_of(rule_of("Image: x") + "status: deprecated\n").starts_with("10: its author"));
    EXPECT_TRUE(refusal_of("title: x\nlogsource: {product: windows, category: process_creation}\n")
                    .starts_with("2: logsource product 'windows'"));
    EXPECT_TRUE(refusal_of("title: x\nlogsource:\n  product: linux\n  service: auditd\n")
                    .starts_with("4: logsource service 'auditd'"));
}

TEST(SigmaRule, IsBounded) {
    EXPECT_NE(refusal_of(std::string(limits::kMaxSigmaFileBytes + 1, ' ')), "");
    std::string deep = "title: ";
    for (std::size_t i = 0; i < limits::kMaxSigmaDepth + 2; ++i) deep += '[';
    EXPECT_TRUE(refusal_of(deep).starts_with("1: it nests deeper"));
    std::string many = "CommandLine: [a";
    for (std::size_t i = 0; i < limits::kMaxSigmaPatterns; ++i) many += ", a";
    EXPECT_TRUE(refusal_of(rule_of(many + "]")).starts_with("7: it has more than 1024 values"));
    std::string nested;
    for (std::size_t i = 0; i < limits::kMaxSigmaDepth + 2; ++i) nested += "not ";
    EXPECT_TRUE(refusal_of(rule_with("  s:\n    Image: x\n  condition: " + nested + "s\n"))
                    .starts_with("8: the condition nests"));
}

TEST(SigmaRules, OfOneNameTheLaterOneHolds) {
    RuleSet set;
    set.add("shipped/a.yml", rule_of("Image: x"));
    set.add("shipped/b.yml", rule_of("Image: y"));
    set.add("own/a.yml", rule_of("Image: z"));
    set.add("own/c.yml", "title: x\n");
    ASSERT_EQ(set.rules.size(), 2u);
    EXPECT_EQ(set.rules[0].file, "own/a.yml");
    ASSERT_EQ(set.refused.size(), 1u);
    EXPECT_EQ(set.refused[0].file, "own/c.yml");
    EXPECT_EQ(set.refused[0].message, "'logsource' is missing");
}

TEST(SigmaRules, OfOneNameAreCountedOnce) {
    std::string many = "CommandLine|re: [a";
    for (std::size_t i = 1; i < limits::kMaxSigmaRegexes; ++i) many += ", a";
    RuleSet set;
    set.add("shipped/a.yml", rule_of(many + "]"));
    set.add("own/a.yml", rule_of(many + "]"));
    EXPECT_TRUE(set.refused.empty());
    ASSERT_EQ(set.rules.size(), 1u);
    EXPECT_EQ(set.rules[0].file, "own/a.yml");
    set.add("own/b.yml", rule_of("CommandLine|re: a"));
    EXPECT_EQ(set.refused.size(), 1u);
}

TEST(SigmaRules, AreRefusedInFewWordsThatATerminalMaySee) {
    RuleSet set;
    set.add("a.yml", rule_with("  s:\n    Image: x\n  condition: \"\\e[31m" +
                               std::string(5000, 'x') + "\"\n"));
    ASSERT_EQ(set.refused.size(), 1u);
    EXPECT_EQ(set.refused[0].message.size(), limits::kMaxSigmaTextBytes);
    EXPECT_EQ(set.refused[0].message.substr(0, 29), "the condition names '?[31mxxx");
}

// A worker that somebody has taken over may send anything.
TEST(SigmaMatch, TakesNoRulesThatNobodyCompiled) {
    std::uint32_t line = 0;
    const Rule good = compile("a.yml", rule_of("Image: x"), line).value();
    EXPECT_TRUE(Matcher::of({good}).has_value());
    const auto refuses = [&](auto&& change) {
        Rule rule = good;
        change(rule);
        return !Matcher::of({rule}).has_value();
    };
    EXPECT_TRUE(refuses([](Rule& rule) { rule.condition.clear(); }));
    EXPECT_TRUE(refuses([](Rule& rule) { rule.condition[0].number = 1; }));
    EXPECT_TRUE(refuses([](Rule& rule) { rule.condition.push_back({Step::Kind::all, 2}); }));
    EXPECT_TRUE(refuses([](Rule& rule) { rule.condition.push_back({Step::Kind::any, 0}); }));
    EXPECT_TRUE(refuses([](Rule& rule) { rule.condition.push_back(rule.condition[0]); }));
    EXPECT_TRUE(refuses(
        [](Rule& rule) { rule.selections[0].groups[0].items[0].values[0].any[0].parts.clear(); }));
    EXPECT_TRUE(refuses([](Rule& rule) {
        rule.selections[0].groups[0].items[0].values[0].any[0].kind = Pattern::Kind::cidr;
    }));
}

}  // namespace

}  // namespace underseer::sigma
