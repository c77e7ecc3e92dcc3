#include "policy/policy.h"

#include <fmt/format.h>
#include <grp.h>
#include <pwd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <functional>

#include "base/limits.h"
#include "policy/toml_section.h"

namespace underseer::policy {

namespace {

using std::chrono::milliseconds;
using std::chrono::system_clock;

constexpr std::uint64_t kMaxRegionOffset = 64u << 20;

constexpr std::array<std::pair<std::string_view, InstancePattern::Property>, 7> kProperties{{
    {"name", InstancePattern::Property::name},
    {"uuid", InstancePattern::Property::id},
    {"tenant", InstancePattern::Property::tenant},
    {"app", InstancePattern::Property::app_instance},
    {"label", InstancePattern::Property::label},
    {"image", InstancePattern::Property::image},
    {"kernel", InstancePattern::Property::kernel},
}};

auto into_duration(milliseconds* target, milliseconds least) {
    return [=](const toml::node& node) -> Result<void> {
        const milliseconds duration = TRY(parse_duration(TRY(text_of(node))));
        if (duration < least) return wants(fmt::format("at least {} ms", least.count()));
        *target = duration;
        return {};
    };
}

auto into_period(Period* target, milliseconds least = milliseconds(1000)) {
    return [=](const toml::node& node) -> Result<void> {
        if (TRY(text_of(node)) == "off") {
            target->reset();
            return {};
        }
        milliseconds period{};
        TRY(into_duration(&period, least)(node));
        *target = period;
        return {};
    };
}

auto into_percent(double* target, double most) {
    return [=](const toml::node& node) -> Result<void> {
        const auto share = node.value<double>();
        if (!share || !(*share > 0) || *share > most) {
            return wants(fmt::format("a number from above 0 to {}", most));
        }
        *target = *share;
        return {};
    };
}

auto into_number(std::uint64_t* target, std::uint64_t least) {
    return [=](const toml::node& node) -> Result<void> {
        const auto number = node.value_exact<std::int64_t>();
        if (!number || *number < 0 || static_cast<std::uint64_t>(*number) < least) {
            return wants(fmt::format("a whole number of at least {}", least));
        }
        *target = static_cast<std::uint64_t>(*number);
        return {};
    };
}

Result<Principal> parse_principal(std::string_view text) {
    Principal principal;
    principal.name = text;
    const bool user = text.starts_with("user:");
    principal.group = text.starts_with("group:");
    if (!user && !principal.group) return wants("\"user:NAME\" or \"group:NAME\"");
    const std::string name(text.substr(text.find(':') + 1));
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), principal.id);
    if (error == std::errc{} && end == name.data() + name.size()) return principal;
    if (user) {
        const passwd* entry = ::getpwnam(name.c_str());
        if (entry == nullptr) return fail(Code::malformed, "there is no user " + name);
        principal.id = entry->pw_uid;
    } else {
        const group* entry = ::getgrnam(name.c_str());
        if (entry == nullptr) return fail(Code::malformed, "there is no group " + name);
        principal.id = entry->gr_gid;
    }
    return principal;
}

Result<void> into_until(const toml::node& node, system_clock::time_point* until) {
    const auto* date = node.as_date();
    if (date == nullptr) return wants("a date, without quotes: until = 2027-01-31");
    const std::chrono::year_month_day day{std::chrono::year(date->get().year),
                                          std::chrono::month(date->get().month),
                                          std::chrono::day(date->get().day)};
    if (!day.ok()) return wants("a date that exists");
    // The day itself still counts.
    *until = std::chrono::sys_days(day) + std::chrono::days(1);
    return {};
}

auto into_instance(std::optional<InstancePattern>* target) {
    return [=](const toml::node& node) -> Result<void> {
        *target = TRY(InstancePattern::parse(TRY(text_of(node))));
        return {};
    };
}

// Of those that decide whether an instance is looked into at all.
Result<InstancePattern> parse_outside_pattern(std::string_view text) {
    auto pattern = TRY(InstancePattern::parse(text));
    if (pattern.is_of_guest()) {
        return fail(Code::malformed,
                    "a guest's kernel is known only once the guest is looked into");
    }
    return pattern;
}

Result<Suppression> read_suppression(const toml::table& table, std::string_view file) {
    Suppression suppression;
    bool has_until = false;
    Section section(&table, "suppress", file);
    TRY(section.take("rule", into_text(&suppression.rule)));
    TRY(section.take("subject", into_text(&suppression.subject)));
    TRY(section.take("reason", into_text(&suppression.reason)));
    TRY(section.take("instance", into_instance(&suppression.instance)));
    TRY(section.take("until", [&](const toml::node& node) {
        has_until = true;
        return into_until(node, &suppression.until);
    }));
    TRY(section.end());
    const auto missing = [&](std::string_view key) {
        return fail(Code::malformed, section.at(table.source(), key) +
                                         "is missing; a suppression says which rule, why and "
                                         "until when");
    };
    if (suppression.rule.empty()) return missing("rule");
    if (suppression.reason.empty()) return missing("reason");
    if (!has_until) return missing("until");
    return suppression;
}

Result<std::string> parse_path(std::string_view text) {
    if (!text.starts_with('/')) return wants("paths of files or folders, from / on");
    return std::string(text);
}

Result<event::Action> parse_action(std::string_view text) {
    const auto action = event::action_of(text);
    if (!action) {
        return fail(Code::malformed,
                    fmt::format("there is no action '{}'; wants \"capture\", \"dump\", \"pause\", "
                                "\"isolate\", \"kill\", \"resume\" or \"reconnect\"",
                                text));
    }
    return *action;
}

Result<Response> read_response(const toml::table& table, std::string_view file) {
    Response response;
    Section section(&table, "act", file);
    TRY(section.take("rule", into_text(&response.rule)));
    TRY(section.take("subject", into_text(&response.subject)));
    TRY(section.take("instance", into_instance(&response.instance)));
    TRY(section.take("do", into_list(&response.actions, parse_action)));
    TRY(section.take("run", [&](const toml::node& node) -> Result<void> {
        response.program = TRY(text_of(node));
        if (!response.program.starts_with('/')) return wants("the path of a program, from / on");
        return {};
    }));
    TRY(section.end());
    const auto missing = [&](std::string_view key) {
        return fail(Code::malformed, section.at(table.source(), key) +
                                         "is missing; an [[act]] says about which rule what is "
                                         "to be done");
    };
    if (response.rule.empty()) return missing("rule");
    if (response.actions.empty() && response.program.empty()) return missing("do");
    return response;
}

Result<Section> section_of(Section& root, const toml::table& file, std::string_view name,
                           std::string_view path) {
    TRY(root.take(name, [](const toml::node& node) -> Result<void> {
        if (!node.is_table()) return wants("a section");
        return {};
    }));
    const toml::node* node = file.get(name);
    return Section(node == nullptr ? nullptr : node->as_table(), std::string(name), path);
}

Result<InspectionChange> read_inspection(Section& section,
                                         std::span<const std::string_view> checks) {
    InspectionChange change;
    for (const std::string_view check : checks) {
        TRY(section.take(check, [&](const toml::node& node) {
            return into_period(&change.check_every[std::string(check)])(node);
        }));
    }
    TRY(section.take("watch", [&](const toml::node& node) {
        return into_period(&change.watch_every.emplace(), milliseconds(1))(node);
    }));
    TRY(section.take("deep_search", [&](const toml::node& node) {
        return into_period(&change.deep_search_every.emplace())(node);
    }));
    TRY(section.take("cpu_percent", [&](const toml::node& node) {
        return into_percent(&change.cpu_percent.emplace(), 100)(node);
    }));
    return change;
}

void apply(const InspectionChange& change, Inspection& inspection) {
    for (const auto& [check, period] : change.check_every) {
        inspection.check_every[check] = period;
    }
    if (change.watch_every) inspection.watch_every = *change.watch_every;
    if (change.deep_search_every) inspection.deep_search_every = *change.deep_search_every;
    if (change.cpu_percent) inspection.cpu_percent = *change.cpu_percent;
}

Result<void> read_schedule(Section section, std::span<const std::string_view> checks,
                           Policy& policy) {
    TRY(section.take("discover_every", into_duration(&policy.discover_every, milliseconds(100))));
    TRY(section.take("host_cpu_percent", into_percent(&policy.host_cpu_percent, 100'000)));
    const InspectionChange said = TRY(read_inspection(section, checks));
    apply(said, policy.inspection);
    return section.end();
}

Result<InspectionChange> read_inspection_change(const toml::table& table, std::string_view file,
                                                std::span<const std::string_view> checks) {
    std::optional<InstancePattern> instance;
    Section section(&table, "inspect", file);
    TRY(section.take("instance", into_instance(&instance)));
    auto change = TRY(read_inspection(section, checks));
    change.instance = std::move(instance);
    TRY(section.end());
    return change;
}

// "SYMBOL", "SYMBOL:BYTES", "SYMBOL+OFFSET:BYTES"; numbers as C has them.
Result<event::MemoryRegion> parse_region(std::string_view text) {
    const auto number = [](std::string_view digits) -> std::optional<std::uint64_t> {
        const int base = digits.starts_with("0x") ? 16 : 10;
        if (base == 16) digits.remove_prefix(2);
        std::uint64_t value = 0;
        const auto [end, error] =
            std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
        if (error != std::errc{} || end != digits.data() + digits.size()) return std::nullopt;
        return value;
    };
    event::MemoryRegion region;
    const std::size_t colon = text.find(':'), plus = text.substr(0, colon).find('+');
    region.symbol = text.substr(0, std::min(colon, plus));
    bool is_well = !region.symbol.empty() && region.symbol.size() <= limits::kMaxSymbolNameBytes;
    if (plus != std::string_view::npos) {
        const auto offset = number(text.substr(0, colon).substr(plus + 1));
        is_well &=
            offset.has_value() && *offset <= kMaxRegionOffset && colon != std::string_view::npos;
        region.offset = offset.value_or(0);
    }
    if (colon != std::string_view::npos) {
        const auto size = number(text.substr(colon + 1));
        is_well &= size.has_value() && *size > 0 && *size <= limits::kMaxMonitoredBytes;
        region.size_bytes = size.value_or(0);
    }
    if (is_well) return region;
    return wants(
        fmt::format("symbols of the guest's kernel: \"SYMBOL\", \"SYMBOL:BYTES\" or "
                    "\"SYMBOL+OFFSET:BYTES\", of at most {} bytes",
                    limits::kMaxMonitoredBytes));
}

Result<event::ActivityKind> parse_activity(std::string_view text) {
    const auto kind = event::activity_kind_of(text);
    if (!kind) return wants("\"process_start\", \"connection\" or \"module_load\"");
    return *kind;
}

Result<Monitor> read_monitor(const toml::table& table, std::string_view file) {
    Monitor monitor;
    Section section(&table, "monitor", file);
    TRY(section.take("instance", into_instance(&monitor.instance)));
    TRY(section.take("memory", into_list(&monitor.memory, parse_region)));
    TRY(section.take("events", into_list(&monitor.events, parse_activity)));
    TRY(section.end());
    if (monitor.memory.empty() && monitor.events.empty()) {
        return fail(Code::malformed, section.at(table.source(), "memory") +
                                         "is missing; a [[monitor]] says which memory, or which "
                                         "events");
    }
    return monitor;
}

Result<void> read_access(Section section, Policy& policy) {
    TRY(section.take("viewers", into_list(&policy.viewers, parse_principal)));
    TRY(section.take("examiners", into_list(&policy.examiners, parse_principal)));
    TRY(section.take("responders", into_list(&policy.responders, parse_principal)));
    TRY(section.take("redact_environment", [&](const toml::node& node) -> Result<void> {
        const auto flag = node.value_exact<bool>();
        if (!flag) return wants("true or false");
        policy.redact_environment = *flag;
        return {};
    }));
    return section.end();
}

Result<void> read_integrity(Section section, Policy& policy) {
    TRY(section.take("on_mismatch", [&](const toml::node& node) -> Result<void> {
        const std::string word = TRY(text_of(node));
        if (word != "report" && word != "refuse") return wants("\"report\" or \"refuse\"");
        policy.on_mismatch = word == "refuse" ? OnMismatch::refuse : OnMismatch::report;
        return {};
    }));
    return section.end();
}

// Sections of one name, as many as there are: each is read into a T.
template <typename T, typename Read>
Result<void> read_sections(Section& root, std::string_view name, std::string_view path, Read read,
                           std::vector<T>& into) {
    return root.take(name, [&](const toml::node& node) -> Result<void> {
        const auto wanted = fmt::format("[[{}]] sections", name);
        const toml::array* list = node.as_array();
        if (list == nullptr) return wants(wanted);
        for (const toml::node& item : *list) {
            const toml::table* table = item.as_table();
            if (table == nullptr) return wants(wanted);
            auto one = read(*table, path);
            if (!one.has_value()) return Unexpected(one.error());
            into.push_back(std::move(*one));
        }
        return {};
    });
}

}  // namespace

Result<InstancePattern> InstancePattern::parse(std::string_view text) {
    InstancePattern pattern;
    const std::size_t colon = text.find(':');
    for (const auto& [word, property] : kProperties) {
        if (colon == std::string_view::npos || text.substr(0, colon) != word) continue;
        pattern.property_ = property;
        pattern.glob_ = text.substr(colon + 1);
        if (!pattern.glob_.empty()) return pattern;
    }
    return fail(Code::malformed,
                fmt::format("'{}' names no instances; wants \"name:PATTERN\", \"uuid:..\", "
                            "\"tenant:..\", \"app:..\", \"label:..\", \"image:..\" or "
                            "\"kernel:..\"",
                            text));
}

bool InstancePattern::matches(const event::Instance& instance) const {
    switch (property_) {
        case Property::name:
            return glob_matches(glob_, instance.name);
        case Property::id:
            return glob_matches(glob_, instance.id);
        case Property::tenant:
            return glob_matches(glob_, instance.tenant);
        case Property::app_instance:
            return glob_matches(glob_, instance.app_instance_id);
        case Property::label:
            return std::ranges::any_of(instance.labels, [this](const std::string& label) {
                return glob_matches(glob_, label);
            });
        case Property::image:
            return glob_matches(glob_, instance.image);
        case Property::kernel:
            return glob_matches(glob_, instance.kernel);
    }
    return false;
}

std::string InstancePattern::to_text() const {
    for (const auto& [word, property] : kProperties) {
        if (property == property_) return fmt::format("{}:{}", word, glob_);
    }
    return glob_;
}

std::string_view to_string(Role role) {
    switch (role) {
        case Role::none:
            return "none";
        case Role::viewer:
            return "viewer";
        case Role::examiner:
            return "examiner";
        case Role::responder:
            return "responder";
    }
    return "none";
}

Result<Policy> parse(std::string_view text, std::string path,
                     std::span<const std::string_view> checks) {
    const toml::table file = TRY(parse_toml(text, path));
    Policy policy;
    policy.path = path;
    Section root(&file, "", policy.path);
    TRY(read_schedule(TRY(section_of(root, file, "schedule", policy.path)), checks, policy));
    TRY(read_access(TRY(section_of(root, file, "access", policy.path)), policy));
    TRY(read_integrity(TRY(section_of(root, file, "integrity", policy.path)), policy));
    Section instances = TRY(section_of(root, file, "instances", policy.path));
    TRY(instances.take("only", into_list(&policy.only, parse_outside_pattern)));
    TRY(instances.take("exclude", into_list(&policy.exclude, parse_outside_pattern)));
    TRY(instances.end());
    Section log = TRY(section_of(root, file, "log", policy.path));
    TRY(log.take("segment_bytes", into_number(&policy.log_segment_bytes, 64u << 10)));
    TRY(log.take("keep_bytes", into_number(&policy.log_keep_bytes, 1u << 20)));
    TRY(log.end());
    Section evidence = TRY(section_of(root, file, "evidence", policy.path));
    TRY(evidence.take("keep_bytes", into_number(&policy.evidence_keep_bytes, 64u << 20)));
    TRY(evidence.take("trace", into_period(&policy.evidence_trace, milliseconds(10))));
    TRY(evidence.take("exact_stops", into_number(&policy.evidence_exact_stops, 0)));
    TRY(evidence.end());
    Section rules = TRY(section_of(root, file, "rules", policy.path));
    TRY(rules.take("sigma", [&](const toml::node& node) {
        return into_list(&policy.sigma_rules.emplace(), parse_path)(node);
    }));
    TRY(rules.end());
    TRY(read_sections(
        root, "inspect", policy.path,
        [&](const toml::table& table, std::string_view at) {
            return read_inspection_change(table, at, checks);
        },
        policy.inspection_changes));
    TRY(read_sections(root, "monitor", policy.path, read_monitor, policy.monitors));
    std::size_t regions = 0;
    for (const Monitor& monitor : policy.monitors) regions += monitor.memory.size();
    if (regions > limits::kMaxMonitoredRegions) {
        return fail(Code::malformed,
                    fmt::format("{}: monitor.memory: names {} regions of memory; at most {} are "
                                "watched",
                                policy.path, regions, limits::kMaxMonitoredRegions));
    }
    TRY(read_sections(root, "suppress", policy.path, read_suppression, policy.suppressions));
    TRY(read_sections(root, "act", policy.path, read_response, policy.responses));
    TRY(root.end());
    return policy;
}

Result<Policy> load(const std::string& path, std::span<const std::string_view> checks) {
    const std::string text = TRY(read_owned_file(path));
    return parse(text, path, checks);
}

Period Inspection::period_of(std::string_view check, milliseconds standard) const {
    const auto found = check_every.find(check);
    return found == check_every.end() ? standard : found->second;
}

std::string excluded(const Policy& policy, const event::Instance& instance) {
    const auto matches = [&](const InstancePattern& pattern) { return pattern.matches(instance); };
    const auto found = std::ranges::find_if(policy.exclude, matches);
    if (found != policy.exclude.end()) {
        return fmt::format("excluded by policy ({})", found->to_text());
    }
    if (policy.only.empty() || std::ranges::any_of(policy.only, matches)) return "";
    return "not among those that the policy's 'only' names";
}

Inspection inspection_of(const Policy& policy, const event::Instance& instance) {
    Inspection inspection = policy.inspection;
    for (const InspectionChange& change : policy.inspection_changes) {
        if (!change.instance || change.instance->matches(instance)) apply(change, inspection);
    }
    return inspection;
}

Monitor monitor_of(const Policy& policy, const event::Instance& instance) {
    Monitor all;
    const auto add = [](const auto& from, auto& to) {
        for (const auto& one : from) {
            if (std::ranges::find(to, one) == to.end()) to.push_back(one);
        }
    };
    for (const Monitor& monitor : policy.monitors) {
        if (monitor.instance && !monitor.instance->matches(instance)) continue;
        add(monitor.memory, all.memory);
        add(monitor.events, all.events);
    }
    return all;
}

Decision decide(const Policy& policy, const event::Instance& instance,
                const event::Finding& finding, system_clock::time_point now) {
    for (const Suppression& suppression : policy.suppressions) {
        if (now >= suppression.until || !glob_matches(suppression.rule, finding.rule) ||
            !glob_matches(suppression.subject, finding.subject) ||
            (suppression.instance && !suppression.instance->matches(instance))) {
            continue;
        }
        return {.alert = false, .suppressed = suppression.reason, .actions = {}};
    }
    Decision decision{.alert = finding.severity >= event::Severity::medium};
    for (const Response& response : policy.responses) {
        if (!glob_matches(response.rule, finding.rule) ||
            !glob_matches(response.subject, finding.subject) ||
            (response.instance && !response.instance->matches(instance))) {
            continue;
        }
        for (const event::Action action : response.actions) {
            if (std::ranges::find(decision.actions, action) == decision.actions.end()) {
                decision.actions.push_back(action);
            }
        }
        if (!response.program.empty() &&
            std::ranges::find(decision.programs, response.program) == decision.programs.end()) {
            decision.programs.push_back(response.program);
        }
    }
    return decision;
}

Role role_of(const Policy& policy, std::uint32_t user, const std::vector<std::uint32_t>& groups) {
    if (user == 0) return Role::responder;
    const auto named = [&](const Principal& principal) {
        return principal.group ? std::ranges::find(groups, principal.id) != groups.end()
                               : principal.id == user;
    };
    if (std::ranges::any_of(policy.responders, named)) return Role::responder;
    if (std::ranges::any_of(policy.examiners, named)) return Role::examiner;
    if (std::ranges::any_of(policy.viewers, named)) return Role::viewer;
    return Role::none;
}

// The classic two-pointer match: on a mismatch the last `*` takes one character more.
bool glob_matches(std::string_view glob, std::string_view text) {
    std::size_t g = 0, t = 0, star = std::string_view::npos, resume = 0;
    while (t < text.size()) {
        if (g < glob.size() && (glob[g] == '?' || glob[g] == text[t]) && glob[g] != '*') {
            ++g;
            ++t;
        } else if (g < glob.size() && glob[g] == '*') {
            star = g++;
            resume = t;
        } else if (star != std::string_view::npos) {
            g = star + 1;
            t = ++resume;
        } else {
            return false;
        }
    }
    while (g < glob.size() && glob[g] == '*') ++g;
    return g == glob.size();
}

Result<milliseconds> parse_duration(std::string_view text) {
    constexpr std::array<std::pair<std::string_view, std::int64_t>, 5> kUnits{
        {{"ms", 1}, {"s", 1000}, {"m", 60'000}, {"h", 3'600'000}, {"d", 86'400'000}}};
    std::int64_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    const std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
    for (const auto& [word, factor] : kUnits) {
        if (error == std::errc{} && unit == word && number >= 0 && number < 1'000'000'000) {
            return milliseconds(number * factor);
        }
    }
    return fail(Code::malformed,
                fmt::format("'{}' is no duration; wants \"500ms\", \"10s\", \"5m\", \"1h\" or "
                            "\"1d\"",
                            text));
}

}  // namespace underseer::policy
