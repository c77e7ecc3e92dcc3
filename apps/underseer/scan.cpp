#include "scan.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>

#include "base/counted.h"
#include "output.h"
#include "progress.h"
#include "rule_files.h"
#include "target.h"

namespace underseer::cli {

namespace {

using agent::CompiledRules;
using agent::Question;
using agent::RuleText;
using agent::ScanPart;
using agent::ScanStep;
using agent::Topic;

constexpr int kWrongRules = 13;

Question step(ScanStep which) {
    return {.topic = Topic::scan, .scan = {.step = which}};
}

Result<void> send_rules(Target& target, const std::vector<scan::RuleFile>& files) {
    Question question = step(ScanStep::rules);
    std::size_t bytes = 0;
    const auto flush = [&]() -> Result<void> {
        TRY(target.ask<CompiledRules>(question));
        question.scan.rules.clear();
        bytes = 0;
        return {};
    };
    for (const scan::RuleFile& file : files) {
        std::size_t at = 0;
        do {
            RuleText part{.file = file.name,
                          .text = file.text.substr(at, agent::kMaxRuleTextInQuestion),
                          .continues = at > 0,
                          .only_included = file.only_included};
            at += part.text.size();
            bytes += part.text.size() + part.file.size();
            question.scan.rules.push_back(std::move(part));
            if (bytes >= agent::kMaxRuleTextInQuestion) TRY(flush());
        } while (at < file.text.size());
    }
    return flush();
}

Result<CompiledRules> compile(Target& target) {
    const auto answer = TRY(target.ask<CompiledRules>(step(ScanStep::compile)));
    if (answer.items.size() != 1) return fail(Code::malformed, "the introspector compiled nothing");
    return answer.items.front();
}

// As compilers say it, so that editors find the place.
void print_errors(const std::vector<agent::RuleProblem>& errors) {
    for (const agent::RuleProblem& error : errors) {
        const std::string line = error.line == 0 ? "" : fmt::format("{}:", error.line);
        fmt::print(stderr, "{}:{} {}\n", printable(error.file), line, printable(error.message));
    }
}

class Progress {
  public:
    void show(const ScanPart& part) {
        constexpr double kMebibyte = 1u << 20;
        const event::ScanCoverage& so_far = part.coverage;
        const double mib = static_cast<double>(so_far.bytes_scanned) / kMebibyte;
        const std::uint64_t done = so_far.processes + so_far.ended;
        bar_.show(done, part.processes,
                  fmt::format("{} of {} processes, {:.0f} MiB, {:.0f} MiB/s", done, part.processes,
                              mib, mib / bar_.seconds()));
    }

  private:
    ProgressBar bar_;
};

Result<void> look(Target& target, const Options& options, ScanReport& report) {
    const auto begun = std::chrono::steady_clock::now();
    Progress progress;
    Question question = step(ScanStep::begin);
    question.one_pid = options.pid.has_value();
    question.pid = options.pid.value_or(0);
    for (;;) {
        auto answer = TRY(target.ask<ScanPart>(question));
        if (answer.items.size() != 1) {
            return fail(Code::malformed, "the introspector sent no part of a scan");
        }
        ScanPart& part = answer.items.front();
        std::ranges::move(part.matches, std::back_inserter(report.matches));
        if (report.matches.size() > limits::kMaxMemoryMatches) {
            return fail(Code::malformed, "the introspector sends matches without end");
        }
        report.coverage = std::move(part.coverage);
        if (part.finished) {
            judge(report, /*timeout=*/false);
            return {};
        }
        progress.show(part);
        if (options.timeout && std::chrono::steady_clock::now() - begun > *options.timeout) {
            const std::uint64_t left =
                part.processes -
                std::min(part.processes, report.coverage.processes + report.coverage.ended);
            ++report.coverage.gap_count;
            report.coverage.gaps.push_back(
                fmt::format("the time was up: {} not looked at to the end",
                            counted(left, "process", "processes")));
            judge(report, /*timeout=*/true);
            return {};
        }
        question = step(ScanStep::go_on);
    }
}

std::string region_of(const event::Vma& region) {
    const std::string path = region.path.empty() ? "anonymous" : region.path;
    if (region.end == 0) return fmt::format("{} (not mapped there)", path);
    return fmt::format("{:x}-{:x} {} {}", region.begin, region.end, region.permissions, path);
}

// What a person reads of bytes that are given in hexadecimal.
std::string text_of_hex(const std::string& hex) {
    const auto digit = [](char c) {
        return static_cast<unsigned>(c <= '9' ? c - '0' : c - 'a' + 10) & 0xf;
    };
    std::string bytes;
    for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
        bytes += static_cast<char>(digit(hex[i]) << 4 | digit(hex[i + 1]));
    }
    return bytes;
}

}  // namespace

void judge(ScanReport& report, bool timeout) {
    const event::ScanCoverage& coverage = report.coverage;
    if (!report.matches.empty()) {
        report.outcome = event::Outcome::finding;
    } else if (timeout) {
        report.reason = "the time was up";
    } else if (coverage.gap_count != 0) {
        report.reason = coverage.gaps.empty() ? "not all could be looked at" : coverage.gaps[0];
    } else if (coverage.swapped_pages + coverage.unreadable_pages != 0) {
        report.reason = counted(coverage.swapped_pages + coverage.unreadable_pages, "page") +
                        " not in memory, or not readable";
    } else if (coverage.processes == 0) {
        report.reason = "no process was there long enough to be looked at";
    } else {
        report.outcome = event::Outcome::clean;
    }
}

Table table_of(const std::vector<event::MemoryMatch>& matches) {
    Table table({{"RULE"},
                 {"PID", Align::right},
                 {"PROCESS"},
                 {"STRING"},
                 {"REGION"},
                 {"OFFSET", Align::right},
                 {"FOUND"}});
    for (const event::MemoryMatch& match : matches) {
        const std::string pid = std::to_string(match.pid);
        if (match.strings.empty()) {
            table.add({match.rule, pid, match.comm, "-", match.file, "", ""});
        }
        for (const event::MatchedString& string : match.strings) {
            table.add({match.rule, pid, match.comm, string.identifier, region_of(string.region),
                       fmt::format("{:#x}", string.offset_bytes), text_of_hex(string.bytes)});
        }
        if (match.string_count > match.strings.size() && !match.strings.empty()) {
            table.add({match.rule, pid, match.comm, "..",
                       fmt::format("and {} more", match.string_count - match.strings.size()), "",
                       ""});
        }
    }
    return table;
}

std::string text_of(const event::ScanCoverage& coverage, std::uint64_t rules) {
    std::string text = fmt::format("Looked at {} and {} that they map, {}, by {}.\n",
                                   counted(coverage.processes, "process", "processes"),
                                   counted(coverage.files, "file"),
                                   size_text(coverage.bytes_scanned), counted(rules, "rule"));
    const auto line = [&](std::uint64_t count, std::string_view what) {
        if (count != 0) text += fmt::format("  not covered: {} {}\n", counted(count, "page"), what);
    };
    line(coverage.swapped_pages, "swapped out");
    line(coverage.device_pages, "of devices");
    line(coverage.unreadable_pages, "that could not be read");
    if (coverage.ended != 0) {
        text += fmt::format("  {} ended before their turn\n",
                            counted(coverage.ended, "process", "processes"));
    }
    for (const std::string& gap : coverage.gaps) {
        text += fmt::format("  not covered: {}\n", printable(gap));
    }
    if (coverage.gap_count > coverage.gaps.size()) {
        text +=
            fmt::format("  not covered: and {} more\n", coverage.gap_count - coverage.gaps.size());
    }
    return text;
}

Result<int> scan(const Options& options) {
    if (options.rules.empty()) {
        return fail(Code::invalid_argument,
                    "'scan' needs --rules FILE, a file of YARA rules or a folder of them");
    }
    const auto files = TRY(load_rule_files(options.rules));
    Target target = TRY(Target::open(options));
    // Whether there is a guest to scan, before anything is sent.
    TRY(target.ask<event::SystemInfo>({.topic = Topic::info}));
    TRY(send_rules(target, files));
    const CompiledRules compiled = TRY(compile(target));
    if (!compiled.errors.empty()) {
        print_errors(compiled.errors);
        return kWrongRules;
    }
    ScanReport report{.rules = compiled.rules};
    TRY(look(target, options, report));
    if (options.json) {
        print_json(report);
    } else {
        if (!report.matches.empty()) print_table(table_of(report.matches));
        print(text_of(report.coverage, report.rules));
        print(fmt::format("scan: {}{}\n", to_string(report.outcome),
                          report.reason.empty() ? "" : " (" + printable(report.reason) + ")"));
    }
    return report.outcome == event::Outcome::finding ? 1
           : report.outcome == event::Outcome::clean ? 0
                                                     : 10;
}

}  // namespace underseer::cli
