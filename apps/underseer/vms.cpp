#include "vms.h"

#include <fmt/format.h>
#include <unistd.h>

#include "listings.h"
#include "output.h"
#include "target.h"

namespace underseer::cli {

namespace {

using hypervisor::Vm;

void print_json(const KnownVms& known) {
    std::string text;
    json::Writer writer(&text, json::Style::pretty);
    writer.begin_array();
    for (const Vm& vm : known.host.vms) {
        const hypervisor::Identity identity = agent::identity_of(known.map, vm);
        writer.begin_object()
            .member("name", vm.name)
            .member("uuid", vm.uuid)
            .member("pid", vm.pid)
            .member("state", vm.state)
            .member("tenant", identity.tenant)
            .member("app_instance_id", identity.app_instance_id)
            .member("app_d_id", identity.app_d_id);
        writer.key("labels").begin_array();
        for (const std::string& label : identity.labels) writer.value(label);
        writer.end_array()
            .member("image", vm.image)
            .member("memory_bytes", vm.memory_bytes)
            .member("machine", vm.machine)
            .member("accelerator", vm.accelerator)
            .member("ram", to_string(vm.backing))
            .member("managed_by", vm.managed_by)
            .member("libvirt_name", vm.libvirt_name)
            .member("user", vm.user)
            .member("executable", vm.executable)
            .member("not_introspectable", vm.not_introspectable);
        writer.key("notes").begin_array();
        for (const std::string& note : vm.notes) writer.value(note);
        writer.end_array().end_object();
    }
    writer.end_array();
    fmt::print("{}\n", text);
}

std::string kernel_of(const Vm& vm, const Options& options) {
    if (!vm.not_introspectable.empty()) return "not introspectable: " + vm.not_introspectable;
    Options one = options;
    one.target = std::to_string(vm.pid);
    auto target = Target::open(one);
    if (!target.has_value()) return "not introspectable: " + target.error().to_text();
    const auto answer =
        target->ask<event::SystemInfo>(agent::Question{.topic = agent::Topic::info});
    if (!answer.has_value()) return "not introspectable: " + answer.error().to_text();
    return answer->items.empty() ? "?" : answer->items.front().kernel_release;
}

std::string or_dash(const std::string& text) {
    return text.empty() ? "-" : text;
}

// What is no line of the table: for the person, not for the pipe.
void print_notes(const KnownVms& known) {
    const auto note = [](const std::string& text) {
        fmt::print(stderr, "note: {}\n", printable(text));
    };
    for (const Vm& vm : known.host.vms) {
        for (const std::string& text : vm.notes) note(vm.label() + ": " + text);
    }
    for (const agent::Trouble& trouble : known.troubles) {
        note(trouble.pid < 0 ? trouble.why.to_text()
                             : fmt::format("pid {}: its monitor is not asked: {}", trouble.pid,
                                           trouble.why.to_text()));
    }
    if (!known.map_trouble.empty()) note(known.map_trouble);
    for (const hypervisor::Impostor& impostor : known.host.impostors) {
        fmt::print(stderr, "not believed: pid {}: {}\n", impostor.pid, printable(impostor.why));
    }
}

}  // namespace

Result<KnownVms> know_vms(const Options& options) {
    KnownVms known{.host = TRY(hypervisor::discover())};
    known.troubles = agent::ask_managers(known.host.vms);
    auto map = policy::InstanceMap::load(options.instances);
    if (map.has_value()) {
        known.map = std::move(*map);
    } else if (map.error().code != Code::not_found) {
        known.map_trouble = map.error().to_text();
    }
    for (Vm& vm : known.host.vms) {
        const std::string refused = known.map.refused(agent::traits_of(vm));
        if (!refused.empty()) vm.notes.push_back(refused);
    }
    return known;
}

Result<int> ls(const Options& options) {
    const KnownVms known = TRY(know_vms(options));
    if (options.json) {
        print_json(known);
        return 0;
    }
    Table table({{"NAME"},
                 {"PID", Align::right},
                 {"STATE"},
                 {"TENANT"},
                 {"APP INSTANCE"},
                 {"APPD"},
                 {"MEMORY", Align::right},
                 {"MACHINE"},
                 {"ACCEL"},
                 {"RAM"},
                 {"MANAGED"},
                 {"KERNEL"}});
    for (const Vm& vm : known.host.vms) {
        const hypervisor::Identity identity = agent::identity_of(known.map, vm);
        table.add({vm.label(), std::to_string(vm.pid), vm.state.empty() ? "unknown" : vm.state,
                   or_dash(identity.tenant), or_dash(identity.app_instance_id),
                   or_dash(identity.app_d_id), fmt::format("{} MiB", vm.memory_bytes >> 20),
                   vm.machine, vm.accelerator, std::string(to_string(vm.backing)), vm.managed_by,
                   kernel_of(vm, options)});
    }
    print_table(table);
    if (table.empty()) {
        fmt::print(stderr, "{}\n",
                   ::geteuid() == 0 ? "No VM runs on this host."
                                    : "No VM runs on this host that you may see: run it as root "
                                      "(sudo) for those of other users.");
    }
    print_notes(known);
    return 0;
}

}  // namespace underseer::cli
