#include "baseline.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>

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

// In a jail: it is unpacked and parsed there.
Result<Made> make(const std::string& path) {
    auto maker = TRY(agent::Introspector::start(TRY(file_source(path, "a kernel or a package"))));
    auto answer = TRY(
        maker.ask<agent::BaselineMadePart>({.topic = agent::Topic::make_baseline}).context(path));
    if (answer.items.empty()) return fail(Code::malformed, "the worker sent no baseline");
    Made made{.facts = std::move(answer.items.front().facts), .bytes = {}};
    for (const agent::BaselineMadePart& part : answer.items) made.bytes += part.bytes;
    made.facts.sha256 = crypto::to_hex(crypto::sha256(as_bytes(made.bytes)));
    made.facts.source = std::filesystem::path(path).filename().native();
    made.facts.made_ns = static_cast<std::uint64_t>(
        std::chrono::nanoseconds(std::chrono::system_clock::now().time_since_epoch()).count());
    return made;
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

Result<void> write(const Made& made, Options options) {
    options.argument = options.output;
    TRY(check_output(options));
    auto file = TRY(PartialFile::create(options.output));
    TRY(write_all(file.fd(), as_bytes(made.bytes)).context("writing " + options.output));
    return file.keep_as(options.output, options.force);
}

Result<int> make_one(const Options& options) {
    if (options.argument.empty()) {
        return fail(Code::invalid_argument,
                    "baseline make needs FILE: a kernel (vmlinuz, vmlinux), or the package of one");
    }
    const Made made = TRY(make(options.argument));
    TRY(options.output.empty() ? give(made, options) : write(made, options));
    if (options.json) {
        print_json(std::vector{BaselineFact(made.facts)});
        return 0;
    }
    fmt::print(
        "{} (build id {}): {} of code, {} at which the kernel alters itself; {}\n",
        printable(made.facts.release), printable(made.facts.build_id),
        size_text(made.facts.text_bytes), counted(made.facts.places, "place"),
        options.output.empty() ? "kept by the agent" : "written to " + printable(options.output));
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
            if (status.baseline == facts.id()) fact.used_by.push_back(status.instance.name);
        }
        all.push_back(std::move(fact));
    }
    if (options.json) {
        print_json(all);
        return 0;
    }
    Table table({{"KERNEL"}, {"ID"}, {"MADE (UTC)"}, {"OF"}, {"SIZE", Align::right}, {"USED BY"}});
    for (const BaselineFact& fact : all) {
        table.add({fact.release, fact.id, time_text(fact.made_ns),
                   fact.first_seen ? "first seen in " + fact.source : fact.source,
                   size_text(fact.bytes), fmt::format("{}", fmt::join(fact.used_by, ", "))});
    }
    print_table(table);
    if (table.empty()) {
        print(
            "No baseline is kept. One is made of a kernel's file or package:\n"
            "  underseer baseline make /boot/vmlinuz-VERSION\n");
    }
    return 0;
}

Result<int> remove_one(const Options& options) {
    if (options.argument.empty()) {
        return fail(Code::invalid_argument,
                    "baseline rm needs the ID of one (underseer baseline ls)");
    }
    auto client = TRY(agent_of(options));
    ControlRequest request{.kind = ControlRequest::Kind::drop_baseline};
    request.baseline.build_id = options.argument;
    TRY(client.ask<BaselineFacts>(request));
    return 0;
}

}  // namespace

Result<int> baseline(const Options& options) {
    if (options.target == "make") return make_one(options);
    return options.target == "ls" ? list_all(options) : remove_one(options);
}

Result<void> use_baseline(Target& target, const Options& options) {
    if (options.baseline.empty()) return {};
    if (target.is_agents()) {
        return fail(Code::unsupported,
                    fmt::format("{} is looked into by the agent, which keeps baselines itself "
                                "(underseer baseline make {}); --direct looks without it",
                                options.target, options.baseline));
    }
    const Made made = TRY(make(options.baseline));
    for (std::size_t at = 0; at < made.bytes.size(); at += agent::kBaselinePartBytes) {
        agent::Question question{.topic = agent::Topic::baseline};
        question.baseline = agent::part_of(made.bytes, at);
        TRY(target.ask<event::CheckReport>(question));
    }
    return {};
}

}  // namespace underseer::cli
