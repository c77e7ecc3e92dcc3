#include "policy/policy.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <sstream>

namespace underseer::policy {
namespace {

using namespace std::chrono_literals;

// Those that there are: agent/check_schedule_test.cpp sees to it that the installed file has all.
constexpr std::string_view kChecks[] = {
    "hidden_process", "process_names",     "program_files",  "credentials",     "tracing",
    "preload",        "packet_sockets",    "network",        "io_uring",        "container_escape",
    "process_code",   "program_integrity", "kernel_modules", "kernel_code",     "system_calls",
    "kernel_tables",  "kernel_hooks",      "bpf_programs",   "helper_programs", "guest_view",
    "event_rules"};

std::string error_of(std::string_view toml) {
    const auto policy = parse(toml, "policy.toml", kChecks);
    return policy.has_value() ? "" : policy.error().message;
}

event::Instance web_server() {
    return {.host = "edge-1",
            .kind = "vm",
            .id = "8f1c0000-0000-0000-0000-000000000001",
            .name = "web-7",
            .tenant = "acme"};
}

TEST(Policy, an_empty_file_is_the_built_in_policy) {
    const auto policy = parse("", "policy.toml", kChecks).value();
    EXPECT_EQ(policy.inspection.period_of("hidden_process", 10s), 10s);
    EXPECT_EQ(policy.inspection.watch_every, 8ms);
    EXPECT_EQ(policy.on_mismatch, OnMismatch::report);
    EXPECT_TRUE(policy.redact_environment);
    EXPECT_EQ(policy.sigma_rules, std::nullopt);
}

TEST(Policy, every_key_is_read) {
    const auto policy = parse(R"(
[schedule]
discover_every = "500ms"
hidden_process = "off"
credentials = "30s"
watch = "1ms"
deep_search = "6h"
cpu_percent = 2.5
host_cpu_percent = 250
[instances]
exclude = ["name:lawful-*", "tenant:police"]
[access]
viewers = ["group:0", "user:1000"]
examiners = ["user:1001"]
responders = ["user:1003"]
redact_environment = false
[integrity]
on_mismatch = "refuse"
[log]
segment_bytes = 1048576
keep_bytes = 10485760
[evidence]
keep_bytes = 104857600
trace = "off"
exact_stops = 300
[rules]
sigma = ["/etc/rules", "/srv/one.yml"]
[[suppress]]
rule = "hidden_process"
instance = "name:web-*"
subject = "sleep *"
reason = "the fixture of the demo"
until = 2027-01-31
)",
                              "policy.toml", kChecks)
                            .value();
    EXPECT_EQ(policy.discover_every, 500ms);
    EXPECT_EQ(policy.inspection.period_of("hidden_process", 10s), std::nullopt);
    EXPECT_EQ(policy.inspection.period_of("credentials", 10s), 30s);
    EXPECT_EQ(policy.inspection.period_of("another", 10s), 10s);
    EXPECT_EQ(policy.inspection.watch_every, 1ms);
    EXPECT_EQ(policy.inspection.deep_search_every, 6h);
    EXPECT_EQ(policy.inspection.cpu_percent, 2.5);
    EXPECT_EQ(policy.host_cpu_percent, 250);
    ASSERT_EQ(policy.exclude.size(), 2u);
    EXPECT_EQ(policy.exclude[0].to_text(), "name:lawful-*");
    EXPECT_EQ(role_of(policy, 1000, {}), Role::viewer);
    EXPECT_EQ(role_of(policy, 1001, {}), Role::examiner);
    EXPECT_EQ(role_of(policy, 1002, {0}), Role::viewer);
    EXPECT_EQ(role_of(policy, 1002, {5}), Role::none);
    EXPECT_EQ(role_of(policy, 1003, {}), Role::responder);
    EXPECT_EQ(role_of(policy, 0, {}), Role::responder);
    EXPECT_FALSE(policy.redact_environment);
    EXPECT_EQ(policy.on_mismatch, OnMismatch::refuse);
    EXPECT_EQ(policy.log_segment_bytes, 1048576u);
    EXPECT_EQ(policy.log_keep_bytes, 10485760u);
    EXPECT_EQ(policy.evidence_keep_bytes, 104857600u);
    EXPECT_EQ(policy.evidence_trace, std::nullopt);
    EXPECT_EQ(policy.evidence_exact_stops, 300u);
    EXPECT_EQ(policy.sigma_rules, (std::vector<std::string>{"/etc/rules", "/srv/one.yml"}));
    ASSERT_EQ(policy.suppressions.size(), 1u);
}

TEST(Policy, errors_name_file_line_and_key) {
    EXPECT_EQ(error_of("[schedule]\nhidden_process = \"soon\"\n").substr(0, 60),
              "policy.toml:2:18: schedule.hidden_process: 'soon' is no dura");
    EXPECT_EQ(
        error_of("[schedule]\n\nhidden_proces = \"10s\"\n"),
        "policy.toml:3:1: schedule.hidden_proces: there is no such key; known: "
        "discover_every, host_cpu_percent, hidden_process, process_names, program_files, "
        "credentials, tracing, "
        "preload, packet_sockets, network, io_uring, container_escape, process_code, "
        "program_integrity, "
        "kernel_modules, "
        "kernel_code, system_calls, kernel_tables, kernel_hooks, bpf_programs, helper_programs, "
        "guest_view, event_rules, "
        "watch, deep_search, cpu_percent");
    EXPECT_NE(error_of("[shedule]\n").find("policy.toml:1:"), std::string::npos);
    EXPECT_NE(error_of("schedule = 3\n").find("wants a section"), std::string::npos);
    EXPECT_NE(error_of("[rules]\nsigma = [\"rules\"]\n").find("from / on"), std::string::npos);
    EXPECT_NE(error_of("[schedule\n").find("policy.toml:1:"), std::string::npos);
    EXPECT_NE(error_of("[schedule]\nhidden_process = 10\n").find("text in quotes"),
              std::string::npos);
    EXPECT_NE(error_of("[schedule]\nhidden_process = \"1ms\"\n").find("at least 1000 ms"),
              std::string::npos);
    EXPECT_NE(error_of("[schedule]\nhost_cpu_percent = 0\n").find("from above 0 to 100000"),
              std::string::npos);
    EXPECT_NE(error_of("[access]\nviewers = [\"root\"]\n").find("user:NAME"), std::string::npos);
    EXPECT_NE(error_of("[access]\nviewers = [\"user:nobody-has-this\"]\n").find("no user"),
              std::string::npos);
    EXPECT_NE(error_of("[instances]\nexclude = [\"web\"]\n").find("name:PATTERN"),
              std::string::npos);
}

// The keys of a section, which an error about a key that does not exist names. "": the sections.
std::vector<std::string> keys_of(const std::string& section) {
    const bool list =
        section == "suppress" || section == "act" || section == "inspect" || section == "monitor";
    const std::string heading = section.empty() ? ""
                                : list          ? "[[" + section + "]]"
                                                : "[" + section + "]";
    const std::string error = error_of(heading + "\nno_such_key = 1\n");
    const std::size_t at = error.find("known: ");
    std::vector<std::string> keys;
    if (at == std::string::npos) return keys;
    std::istringstream words(error.substr(at + 7));
    for (std::string key; words >> key;) {
        std::erase(key, ',');
        keys.push_back(key);
    }
    return keys;
}

std::string text_of_file(const std::string& path) {
    std::ifstream file(std::string(UNDERSEER_SOURCE_DIR) + "/" + path);
    return {std::istreambuf_iterator<char>(file), {}};
}

TEST(Policy, text_that_is_no_utf8_is_refused_with_its_place) {
    const auto policy = parse("# a\n# b\xb5\n", "policy.toml", kChecks);
    ASSERT_FALSE(policy.has_value());
    EXPECT_EQ(policy.error().message, "policy.toml:2:4: no valid UTF-8 text");
}

TEST(Policy, a_table_whose_name_is_none_is_refused_with_its_place) {
    for (const char* text : {"[@x]\n", "[[@x]]\n", "[a.@]\n", "a = {@ = 1}\n", "@ = 1\n"}) {
        const auto policy = parse(text, "policy.toml", kChecks);
        ASSERT_FALSE(policy.has_value()) << text;
        EXPECT_TRUE(policy.error().message.starts_with("policy.toml:1:")) << policy.error().message;
    }
}

TEST(Policy, characters_that_are_not_ascii_stand_in_texts_and_comments_only) {
    for (const char* text :
         {"\u032a", "\u00e9 = 1\n", "a\u00a0= 1\n", "[\ufef7]\n", "a = \"x\" \u00e9\n",
          "a = \"\"\"x\"\"\"\"\"\u00e9\n", "a = 'x\\'\u00e9\n", "y= 2'\u032a"}) {
        const auto policy = parse(text, "policy.toml", kChecks);
        ASSERT_FALSE(policy.has_value()) << text;
        EXPECT_TRUE(policy.error().message.starts_with("policy.toml:1:")) << policy.error().message;
    }
    const std::string suppress = "[[suppress]]\nrule = \"x\"\nuntil = 2027-01-31\nreason = ";
    for (const char* reason :
         {"\"\u00e9 \\\" \u00e9\" # \u00e9\n", "'\u00e9 \\' # \u00e9\n",
          "\"\"\"\n\u00e9 \"\" \u00e9\"\"\"\"\"\n", "'''\n\u00e9 '' \u00e9'''\n"}) {
        for (const char* mark : {"", "\ufeff"}) {
            const auto policy = parse(mark + suppress + reason, "policy.toml", kChecks);
            EXPECT_TRUE(policy.has_value()) << policy.error().message;
        }
    }
}

TEST(Policy, every_key_stands_in_the_documentation_and_in_the_installed_file) {
    const std::string manual = text_of_file("docs/policy.md");
    const std::string installed = text_of_file("packaging/policy.toml");
    const auto sections = keys_of("");
    ASSERT_GE(sections.size(), 6u);
    for (const std::string& section : sections) {
        const std::size_t chapter = manual.find("\n## `[" + section + "]`");
        const std::size_t many = manual.find("\n## `[[" + section + "]]`");
        const std::size_t from = std::min(chapter, many);
        EXPECT_NE(from, std::string::npos) << "docs/policy.md has no chapter on " << section;
        if (from == std::string::npos) continue;
        const std::string text = manual.substr(from, manual.find("\n## ", from + 1) - from);
        const auto keys = keys_of(section);
        EXPECT_FALSE(keys.empty()) << section;
        for (const std::string& key : keys) {
            // Those of checks are described in [schedule].
            const bool is_check = std::ranges::find(kChecks, key) != std::end(kChecks);
            if (section == "inspect" && is_check) continue;
            EXPECT_NE(text.find("| `" + key + "` |"), std::string::npos)
                << "docs/policy.md says nothing of " << section << "." << key;
            EXPECT_NE(installed.find("#" + key + " = "), std::string::npos)
                << "packaging/policy.toml lacks " << section << "." << key;
        }
    }
}

TEST(Policy, the_installed_file_says_what_holds_without_it) {
    const std::string installed = text_of_file("packaging/policy.toml");
    ASSERT_TRUE(parse(installed, "policy.toml", kChecks).has_value()) << error_of(installed);
    // With every `#key = value` of its sections set, nothing changes.
    std::string set;
    std::istringstream lines(installed);
    for (std::string line; std::getline(lines, line) && !line.starts_with("#[[suppress]]");) {
        set += (line.starts_with("#") && !line.starts_with("# ") ? line.substr(1) : line) + "\n";
    }
    const auto policy = parse(set, "policy.toml", kChecks);
    ASSERT_TRUE(policy.has_value()) << error_of(set);
    const Policy standard;
    EXPECT_EQ(policy->discover_every, standard.discover_every);
    EXPECT_EQ(policy->inspection.period_of("hidden_process", 7s), 10s);
    EXPECT_EQ(policy->inspection.cpu_percent, standard.inspection.cpu_percent);
    EXPECT_TRUE(policy->only.empty() && policy->exclude.empty());
    EXPECT_TRUE(policy->viewers.empty() && policy->examiners.empty() &&
                policy->responders.empty() && policy->responses.empty());
    EXPECT_EQ(policy->redact_environment, standard.redact_environment);
    EXPECT_EQ(policy->on_mismatch, standard.on_mismatch);
    EXPECT_EQ(policy->log_segment_bytes, standard.log_segment_bytes);
    EXPECT_EQ(policy->log_keep_bytes, standard.log_keep_bytes);
    // As agent::default_rule_paths() has them.
    EXPECT_EQ(policy->sigma_rules,
              (std::vector<std::string>{"/usr/share/underseer/rules", "/etc/underseer/rules"}));
    // The examples of a suppression and of an action are such.
    std::string examples = "[[suppress]]\n";
    for (std::string line; std::getline(lines, line);) {
        if (line.starts_with("#") && !line.starts_with("# ")) examples += line.substr(1) + "\n";
    }
    EXPECT_EQ(error_of(examples), "");
    EXPECT_NE(examples.find("[[act]]"), std::string::npos);
}

TEST(Policy, only_and_exclude_choose_what_is_watched) {
    const auto watched = [](std::string_view toml) {
        return excluded(parse(toml, "policy.toml", kChecks).value(), web_server()).empty();
    };
    EXPECT_TRUE(watched(""));
    EXPECT_TRUE(watched("[instances]\nonly = [\"name:web-*\"]\n"));
    EXPECT_FALSE(watched("[instances]\nonly = [\"name:db-*\"]\n"));
    EXPECT_FALSE(watched("[instances]\nexclude = [\"tenant:acme\"]\n"));
    EXPECT_FALSE(watched("[instances]\nonly = [\"name:web-*\"]\nexclude = [\"name:web-7\"]\n"));
}

TEST(Policy, some_instances_are_inspected_otherwise) {
    const auto policy = parse(R"(
[schedule]
hidden_process = "20s"
watch = "4ms"
[[inspect]]
instance = "label:payment"
hidden_process = "5s"
credentials = "off"
watch = "off"
cpu_percent = 4.0
[[inspect]]
instance = "kernel:6.1.*"
hidden_process = "1m"
deep_search = "1h"
)",
                              "policy.toml", kChecks);
    ASSERT_TRUE(policy.has_value()) << policy.error().to_text();
    event::Instance instance = web_server();
    EXPECT_EQ(inspection_of(*policy, instance), policy->inspection);
    instance.labels = {"edge", "payment"};
    Inspection inspection = inspection_of(*policy, instance);
    EXPECT_EQ(inspection.period_of("hidden_process", 10s), 5s);
    EXPECT_EQ(inspection.period_of("credentials", 10s), std::nullopt);
    EXPECT_EQ(inspection.watch_every, std::nullopt);
    EXPECT_EQ(inspection.cpu_percent, 4.0);
    EXPECT_EQ(inspection.deep_search_every, std::nullopt);
    instance.kernel = "6.1.0-50-cloud-amd64";
    inspection = inspection_of(*policy, instance);
    EXPECT_EQ(inspection.period_of("hidden_process", 10s), 1min) << "the later section";
    EXPECT_EQ(inspection.period_of("credentials", 10s), std::nullopt);
    EXPECT_EQ(inspection.deep_search_every, 1h);
    EXPECT_NE(error_of("[[inspect]]\ndiscover_every = \"1s\"\n").find("no such key"),
              std::string::npos);
    EXPECT_NE(error_of("[instances]\nexclude = [\"kernel:5.*\"]\n").find("only once"),
              std::string::npos)
        << "a guest must not be able to say that it is not looked into";
}

TEST(Policy, what_is_monitored_comes_from_every_section_that_holds) {
    const auto policy = parse(R"(
[[monitor]]
memory = ["tcp_prot", "init_net+0x10:64"]
[[monitor]]
instance = "image:/srv/*.qcow2"
memory = ["tcp_prot", "saved_command_line:8"]
events = ["process_start", "module_load"]
)",
                              "policy.toml", kChecks);
    ASSERT_TRUE(policy.has_value()) << policy.error().to_text();
    event::Instance instance = web_server();
    using Regions = std::vector<event::MemoryRegion>;
    EXPECT_EQ(monitor_of(*policy, instance).memory,
              (Regions{{"tcp_prot", 0, 0}, {"init_net", 16, 64}}));
    EXPECT_TRUE(monitor_of(*policy, instance).events.empty());
    instance.image = "/srv/web.qcow2";
    EXPECT_EQ(monitor_of(*policy, instance).memory,
              (Regions{{"tcp_prot", 0, 0}, {"init_net", 16, 64}, {"saved_command_line", 0, 8}}));
    EXPECT_EQ(monitor_of(*policy, instance).events.size(), 2u);
    for (const char* wrong : {"x:0", "x:65537", "x+4", "x+y:4", "x:4k", ":4", "x+99999999999:4"}) {
        EXPECT_NE(error_of("[[monitor]]\nmemory = [\"" + std::string(wrong) + "\"]\n")
                      .find("SYMBOL+OFFSET:BYTES"),
                  std::string::npos)
            << wrong;
    }
    EXPECT_NE(error_of("[[monitor]]\nevents = [\"file_open\"]\n").find("process_start"),
              std::string::npos);
    EXPECT_NE(error_of("[[monitor]]\n").find("memory: is missing"), std::string::npos);
    std::string many = "[[monitor]]\nmemory = [";
    for (int i = 0; i < 65; ++i) many += "\"symbol_" + std::to_string(i) + "\", ";
    EXPECT_NE(error_of(many + "]\n").find("at most 64"), std::string::npos);
}

TEST(Policy, actions_answer_findings_that_are_not_suppressed) {
    const auto policy = parse(
        "[[act]]\nrule = \"watched_*\"\ninstance = \"name:web-*\"\ndo = [\"isolate\", "
        "\"pause\"]\n"
        "[[act]]\nrule = \"*\"\nsubject = \"sh *\"\ndo = [\"pause\", \"kill\"]\n"
        "[[act]]\nrule = \"hidden_*\"\nrun = \"/usr/bin/tell\"\n"
        "[[suppress]]\nrule = \"watched_*\"\nsubject = \"known\"\nreason = \"r\"\n"
        "until = 2099-01-01\n",
        "policy.toml", kChecks);
    ASSERT_TRUE(policy.has_value()) << policy.error().to_text();
    using enum event::Action;
    const auto actions = [&](std::string rule, std::string subject) {
        event::Finding finding;
        finding.rule = std::move(rule);
        finding.subject = std::move(subject);
        return decide(*policy, web_server(), finding, std::chrono::system_clock::now()).actions;
    };
    EXPECT_EQ(actions("watched_memory_changed", "x"), (std::vector{isolate, pause}));
    EXPECT_EQ(actions("watched_memory_changed", "sh (pid 3)"), (std::vector{isolate, pause, kill}));
    EXPECT_EQ(actions("hidden_process", "sh (pid 3)"), (std::vector{pause, kill}));
    EXPECT_TRUE(actions("hidden_process", "x").empty());
    event::Finding hidden;
    hidden.rule = "hidden_process";
    EXPECT_EQ(decide(*policy, web_server(), hidden, std::chrono::system_clock::now()).programs,
              std::vector<std::string>{"/usr/bin/tell"});
    EXPECT_NE(error_of("[[act]]\nrule = \"x\"\nrun = \"tell\"\n").find("from / on"),
              std::string::npos);
    EXPECT_TRUE(actions("watched_memory_changed", "known").empty());
    EXPECT_NE(error_of("[evidence]\nkeep_bytes = 1000\n").find("at least 67108864"),
              std::string::npos);
    EXPECT_NE(error_of("[[act]]\nrule = \"x\"\ndo = [\"explode\"]\n").find("no action 'explode'"),
              std::string::npos);
    EXPECT_NE(error_of("[[act]]\nrule = \"x\"\n").find("act.do: is missing"), std::string::npos);
    EXPECT_NE(error_of("[[act]]\ndo = [\"pause\"]\n").find("act.rule: is missing"),
              std::string::npos);
}

TEST(Policy, a_suppression_says_why_and_until_when) {
    const std::string rule = "[[suppress]]\nrule = \"hidden_process\"\n";
    EXPECT_NE(error_of(rule).find("suppress.reason: is missing"), std::string::npos);
    EXPECT_NE(error_of(rule + "reason = \"test\"\n").find("suppress.until: is missing"),
              std::string::npos);
    EXPECT_NE(error_of(rule + "reason = \"t\"\nuntil = \"2027-01-01\"\n").find("without quotes"),
              std::string::npos);
}

TEST(Policy, decides_by_severity_and_suppression_and_time) {
    const auto policy = parse(
                            "[[suppress]]\nrule = \"hidden_*\"\ninstance = \"name:web-?\"\n"
                            "reason = \"test\"\nuntil = 2027-01-31\n",
                            "policy.toml", kChecks)
                            .value();
    const event::Finding finding{.rule = "hidden_process", .severity = event::Severity::critical};
    const auto day = [](int year, unsigned month, unsigned of_month) {
        return std::chrono::sys_days(std::chrono::year(year) / std::chrono::month(month) /
                                     std::chrono::day(of_month));
    };
    EXPECT_EQ(decide(policy, web_server(), finding, day(2027, 1, 31) + 23h).suppressed, "test");
    EXPECT_FALSE(decide(policy, web_server(), finding, day(2027, 1, 31)).alert);
    EXPECT_TRUE(decide(policy, web_server(), finding, day(2027, 2, 1)).alert);
    event::Instance other = web_server();
    other.name = "web-77";
    EXPECT_TRUE(decide(policy, other, finding, day(2026, 1, 1)).alert);
    const event::Finding small{.rule = "x", .severity = event::Severity::low};
    EXPECT_FALSE(decide(policy, other, small, day(2026, 1, 1)).alert);
}

TEST(Policy, a_file_that_others_may_write_is_refused) {
    const std::string path = testing::TempDir() + "policy_perm.toml";
    std::ofstream(path) << "[schedule]\n";
    ::chmod(path.c_str(), 0666);
    EXPECT_EQ(load(path, kChecks).error().code, Code::permission);
    ::chmod(path.c_str(), 0644);
    EXPECT_TRUE(load(path, kChecks).has_value());
    ::unlink(path.c_str());
    EXPECT_EQ(load(path, kChecks).error().code, Code::not_found);
}

TEST(Glob, stars_and_question_marks) {
    EXPECT_TRUE(glob_matches("*", ""));
    EXPECT_TRUE(glob_matches("a*c", "abbbc"));
    EXPECT_TRUE(glob_matches("a*b*c", "a-b-b-c"));
    EXPECT_FALSE(glob_matches("a*c", "abbbd"));
    EXPECT_TRUE(glob_matches("web-?", "web-7"));
    EXPECT_FALSE(glob_matches("web-?", "web-"));
    EXPECT_TRUE(glob_matches("**", "x"));
    // A pattern of stars takes no exponential time.
    EXPECT_FALSE(glob_matches("*a*a*a*a*a*a*a*a*a*b", std::string(2000, 'a')));
}

TEST(Duration, units_and_nonsense) {
    EXPECT_EQ(parse_duration("500ms").value(), 500ms);
    EXPECT_EQ(parse_duration("10s").value(), 10s);
    EXPECT_EQ(parse_duration("5m").value(), 5min);
    EXPECT_EQ(parse_duration("1d").value(), 24h);
    for (const char* wrong : {"", "10", "s", "-1s", "1.5s", "10 s", "99999999999s"}) {
        EXPECT_FALSE(parse_duration(wrong).has_value()) << wrong;
    }
}

}  // namespace
}  // namespace underseer::policy
