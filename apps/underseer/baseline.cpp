#include "baseline.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <iterator>

#include "agent/agent_client.h"
#include "agent/paths.h"
#include "base/counted.h"
#include "crypto/hash.h"
#include "output.h"
#include "output_file.h"

namespace underseer::cli {

namespace {

using agent::BaselineFacts;
using agent::ControlRequest;

struct Made {
    BaselineFacts facts;
    std::string bytes;
};

// In a jail: it is unpacked and parsed there. Several of a file that has several packages'.
Result<std::vector<Made>> make(const std::string& path) {
    auto maker = TRY(agent::Introspector::start(TRY(file_source(path, "a kernel or a package"))));
    auto answer = TRY(
        maker.ask<agent::BaselineMadePart>({.topic = agent::Topic::make_baseline}).context(path));
    std::vector<Made> all;
    for (agent::BaselineMadePart& part : answer.items) {
        if (all.empty() || all.back().facts.id() != part.facts.id()) {
            all.push_back({.facts = std::move(part.facts), .bytes = {}});
        }
        all.back().bytes += part.bytes;
    }
    if (all.empty()) return fail(Code::malformed, "the worker sent no baseline");
    for (Made& made : all) {
        made.facts.sha256 = crypto::to_hex(crypto::sha256(as_bytes(made.bytes)));
        made.facts.source = std::filesystem::path(path).filename().native();
        made.facts.made_ns = static_cast<std::uint64_t>(
            std::chrono::nanoseconds(std::chrono::system_clock::now().time_since_epoch()).count());
    }
    return all;
}

Result<agent::AgentClient> agent_of(const Options& options) {
    return agent::AgentClient::connect(options.run_dir / agent::kControlSocketName);
}

Result<void> give(const Made& made, const Options& options) {
    auto client = agent_of(options);
    if (!client.has_value() && client.error().code == Code::not_found) {
        return fail(Code::not_found, client.error().message +
                                         "; without one, write it into a file with --output, "
                                         "and give that to check --baseline");
    }
    if (!client.has_value()) return fail(client.error());
    for (std::size_t at = 0; at < made.bytes.size(); at += agent::kBaselinePartBytes) {
        TRY(client->ask<BaselineFacts>({.kind = ControlRequest::Kind::keep_baseline,
                                        .baseline = made.facts,
                                        .part = agent::part_of(made.bytes, at)}));
    }
    return {};
}

Result<void> write(const std::vector<Made>& all, Options options) {
    options.argument = options.output;
    TRY(check_output(options));
    auto file = TRY(PartialFile::create(options.output));
    for (const Made& made : all) {
        TRY(write_all(file.fd(), as_bytes(made.bytes)).context("writing " + options.output));
    }
    return file.keep_as(options.output, options.force);
}

std::string summary_of(const BaselineFacts& facts) {
    if (!facts.is_of_programs()) {
        return fmt::format("{} (build id {}): {} of code, {} at which the kernel alters itself",
                           printable(facts.release), printable(facts.build_id),
                           size_text(facts.text_bytes), counted(facts.places, "place"));
    }
    return fmt::format("{}: {} with {}{}", printable(facts.package),
                       counted(facts.programs, "program"), size_text(facts.text_bytes),
                       facts.left_out == 0
                           ? std::string()
                           : fmt::format(", and {} left out, which have no build id or are not "
                                         "understood",
                                         counted(facts.left_out, "file")));
}

Result<int> make_all(const Options& options) {
    if (options.argument.empty()) {
        return fail(Code::invalid_argument,
                    "baseline make needs FILE: a kernel (vmlinuz, vmlinux), a program, or the "
                    "package of one");
    }
    std::vector<Made> all;
    const auto read = [&](const std::string& path) -> Result<void> {
        std::vector<Made> made = TRY(make(path));
        std::ranges::move(made, std::back_inserter(all));
        return {};
    };
    TRY(read(options.argument));
    for (const std::string& path : options.arguments) TRY(read(path));
    const auto of_kernels =
        std::ranges::count_if(all, [](const Made& made) { return !made.facts.is_of_programs(); });
    if (!options.output.empty() && of_kernels > 0 && all.size() > 1) {
        return fail(Code::invalid_argument,
                    "a kernel's baseline is in a file of its own: make it by itself");
    }
    if (!options.output.empty()) TRY(write(all, options));
    std::vector<BaselineFact> facts;
    for (const Made& made : all) {
        if (options.output.empty()) TRY(give(made, options));
        facts.emplace_back(made.facts);
        if (options.json) continue;
        fmt::print("{}; {}\n", summary_of(made.facts),
                   options.output.empty() ? "kept by the agent"
                                          : "written to " + printable(options.output));
    }
    if (options.json) print_json(facts);
    return 0;
}

Result<int> list_all(const Options& options) {
    auto client = TRY(agent_of(options));
    const auto kept = TRY(client.ask<BaselineFacts>({.kind = ControlRequest::Kind::baselines}));
    const auto instances =
        TRY(client.ask<agent::InstanceStatus>({.kind = ControlRequest::Kind::instances}));
    std::vector<BaselineFact> all;
    for (const BaselineFacts& facts : kept.items) {
        BaselineFact fact(facts);
        for (const agent::InstanceStatus& status : instances.items) {
            // Programs are compared with all that is known of them.
            if (facts.is_of_programs() || status.baseline == facts.id())
                fact.used_by.push_back(status.instance.name);
        }
        all.push_back(std::move(fact));
    }
    if (options.json) {
        print_json(all);
        return 0;
    }
    Table table({{"KERNEL OR PACKAGE"},
                 {"ID"},
                 {"MADE (UTC)"},
                 {"OF"},
                 {"SIZE", Align::right},
                 {"USED BY"}});
    for (const BaselineFact& fact : all) {
        const bool of_programs = fact.kind == "programs";
        table.add({of_programs ? counted(fact.programs, "program") : fact.release, fact.id,
                   time_text(fact.made_ns),
                   fact.first_seen ? "first seen in " + fact.source : fact.source,
                   size_text(fact.bytes), fmt::format("{}", fmt::join(fact.used_by, ", "))});
    }
    print_table(table);
    if (table.empty()) {
        print(
            "No baseline is kept. One is made of a kernel's file, or of packages:\n"
            "  underseer baseline make /boot/vmlinuz-VERSION\n"
            "  underseer baseline make openssh-server_VERSION_amd64.deb ..\n");
    }
    return 0;
}

Result<int> remove_all(const Options& options) {
    if (options.argument.empty()) {
        return fail(Code::invalid_argument,
                    "baseline rm needs the ID of one (underseer baseline ls)");
    }
    auto client = TRY(agent_of(options));
    const auto remove = [&](const std::string& id) -> Result<void> {
        ControlRequest request{.kind = ControlRequest::Kind::drop_baseline};
        request.baseline.build_id = id;
        TRY(client.ask<BaselineFacts>(request));
        return {};
    };
    TRY(remove(options.argument));
    for (const std::string& id : options.arguments) TRY(remove(id));
    return 0;
}

// In parts; `topic` says what of a guest they are for.
Result<void> tell(Target& target, agent::Topic topic, const std::string& bytes) {
    for (std::size_t at = 0; at < bytes.size(); at += agent::kBaselinePartBytes) {
        agent::Question question{.topic = topic};
        question.baseline = agent::part_of(bytes, at);
        TRY(target.ask<event::CheckReport>(question));
    }
    return {};
}

}  // namespace

Result<int> baseline(const Options& options) {
    if (options.target == "make") return make_all(options);
    return options.target == "ls" ? list_all(options) : remove_all(options);
}

Result<void> use_baselines(Target& target, const Options& options) {
    std::string programs;
    for (const std::string& path : options.baselines) {
        if (target.is_agents()) {
            return fail(Code::unsupported,
                        fmt::format("{} is looked into by the agent, which keeps baselines itself "
                                    "(underseer baseline make {}); --direct looks without it",
                                    options.target, path));
        }
        const std::vector<Made> all = TRY(make(path));
        for (const Made& made : all) {
            if (made.facts.is_of_programs()) {
                programs += made.bytes;
            } else {
                TRY(tell(target, agent::Topic::baseline, made.bytes));
            }
        }
    }
    return tell(target, agent::Topic::programs, programs);
}

}  // namespace underseer::cli
