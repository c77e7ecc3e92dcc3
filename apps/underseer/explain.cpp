#include "explain.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

#include "detect/check.h"
#include "detect/decoy_kernel/decoy_kernel.h"
#include "detect/watches.h"
#include "event_rules.h"
#include "output.h"
#include "program/described.h"
#include "table.h"

namespace underseer::cli {

namespace {

std::vector<Explained> all_explained() {
    std::vector<Explained> all;
    const auto add = [&](std::string_view check) {
        for (const detect::Rule& rule : detect::rules_of(check)) {
            all.push_back({std::string(rule.id), std::string(check), std::string(rule.title),
                           rule.severity, rule.confidence, std::string(rule.technique),
                           std::string(rule.reads), std::string(rule.misses),
                           std::string(rule.benign), std::string(rule.advice)});
        }
    };
    add(detect::DecoyKernelCheck::kName);
    for (const std::string_view check : detect::check_names()) add(check);
    add(detect::MemoryWatch::kName);
    add(detect::HiddenRunnerWatch::kName);
    return all;
}

std::string text_of(const Explained& rule) {
    std::string out =
        fmt::format("{}: {}\n  check {}, {}, confidence {} %, ATT&CK {}\n", rule.rule, rule.title,
                    rule.check, to_string(rule.severity), rule.confidence, rule.technique);
    const std::array<std::pair<std::string_view, const std::string*>, 4> parts{
        {{"What it rests on", &rule.reads},
         {"What it misses", &rule.misses},
         {"What else looks like it", &rule.benign},
         {"What to do", &rule.advice}}};
    for (const auto& [title, text] : parts) {
        out += fmt::format("\n{}\n  {}", title, program::wrapped(*text, text_width(), 2, 2));
    }
    return out;
}

}  // namespace

Result<int> explain(const Options& options) {
    std::vector<Explained> rules = all_explained();
    if (options.target.empty() || options.target.starts_with(sigma::kRulePrefix)) {
        const auto loaded = rules_of_policy(options);
        if (!loaded.has_value() && !options.target.empty()) return fail(loaded.error());
        if (!loaded.has_value()) {
            fmt::print(stderr, "underseer: without Sigma rules: {}\n",
                       printable(loaded.error().to_text()));
        } else {
            for (const sigma::Rule& rule : loaded->rules) rules.push_back(explained(rule));
        }
    }
    if (!options.target.empty()) {
        std::erase_if(rules, [&](const Explained& one) { return one.rule != options.target; });
        if (rules.empty()) {
            return fail(Code::not_found, fmt::format("there is no rule '{}'; underseer explain "
                                                     "lists all",
                                                     options.target));
        }
        if (options.json) {
            print_json(rules.front());
        } else {
            print(text_of(rules.front()));
        }
        return 0;
    }
    if (options.json) {
        print_json(rules);
        return 0;
    }
    Table table({{"CHECK"}, {"RULE"}, {"SEVERITY"}, {"ATT&CK"}, {"WHAT IS FOUND"}});
    for (const Explained& one : rules) {
        table.add(
            {one.check, one.rule, std::string(to_string(one.severity)), one.technique, one.title});
    }
    print_table(table);
    return 0;
}

}  // namespace underseer::cli
