#include "detect/event_rules/events.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <charconv>

#include "base/limits.h"
#include "detect/process_report.h"

namespace underseer::detect::event_rules {

namespace {

using sigma::Field;
using sigma::Value;

Value image_of(const event::Task& task) {
    if (!task.exe.available()) return Value::unknown();
    // A kernel thread runs no program, nor does a process that has ended.
    if (task.exe.value().empty()) return {};
    return Value::of(std::string(without_deleted(task.exe.value())));
}

Value command_line_of(const event::Task& task) {
    if (task.kernel_thread) return {};
    if (!task.argv.available()) return Value::unknown();
    return Value::of(fmt::format("{}", fmt::join(task.argv.value(), " ")));
}

Value user_of(const event::Task& task) {
    if (!task.credentials.available()) return Value::unknown();
    const std::uint32_t user = task.credentials.value().euid;
    return Value::of(user == 0 ? "root" : std::to_string(user));
}

template <typename T>
Value text_of(const event::Observed<T>& observed) {
    if (!observed.available()) return Value::unknown();
    return Value::of(fmt::format("{}", observed.value()));
}

// A socket of both families has "::ffff:203.0.113.5" for 203.0.113.5 (RFC 4291, 2.5.5.2).
std::string plain_address(const std::string& address) {
    constexpr std::string_view kMapped = "::ffff:";
    const bool is_mapped = address.starts_with(kMapped) && address.find('.') != std::string::npos;
    return is_mapped ? address.substr(kMapped.size()) : address;
}

}  // namespace

sigma::Event process_event(const event::Task& process, const event::Task* parent) {
    sigma::Event event;
    event.category = sigma::Category::process_creation;
    event[Field::image] = image_of(process);
    event[Field::command_line] = command_line_of(process);
    event[Field::current_directory] = text_of(process.cwd);
    event[Field::process_id] = Value::of(std::to_string(process.pid));
    event[Field::parent_process_id] = text_of(process.ppid);
    event[Field::user] = user_of(process);
    event[Field::comm] = Value::of(process.comm);
    event[Field::container_id] = text_of(process.container_id);
    if (process.container_id.value_or("?").empty()) event[Field::container_id] = {};
    if (parent != nullptr) {
        event[Field::parent_image] = image_of(*parent);
        event[Field::parent_command_line] = command_line_of(*parent);
    } else if (process.ppid.value_or(1) != 0) {
        event[Field::parent_image] = event[Field::parent_command_line] = Value::unknown();
    }
    return event;
}

sigma::Event connection_event(sigma::Event holder, const event::Socket& socket,
                              std::optional<bool> initiated) {
    holder.category = sigma::Category::network_connection;
    holder[Field::protocol] = Value::of(socket.type);
    holder[Field::source_ip] = Value::of(plain_address(socket.local_address));
    holder[Field::source_port] = Value::of(std::to_string(socket.local_port));
    holder[Field::destination_ip] = Value::of(plain_address(socket.remote_address));
    holder[Field::destination_port] = Value::of(std::to_string(socket.remote_port));
    holder[Field::initiated] =
        initiated ? Value::of(*initiated ? "true" : "false") : Value::unknown();
    return holder;
}

sigma::Event module_event(const event::Module& module) {
    sigma::Event event;
    event.category = sigma::Category::driver_load;
    event[Field::image_loaded] = Value::of(module.name);
    event[Field::taints] = Value::of(module.taints);
    return event;
}

event::Activity activity_of(event::ActivityKind kind, const sigma::Event& event) {
    const auto text = [&](Field field) {
        return event[field].text.substr(0, limits::kMaxActivityTextBytes);
    };
    const auto number = [&](Field field) {
        std::uint32_t value = 0;
        const std::string& digits = event[field].text;
        std::from_chars(digits.data(), digits.data() + digits.size(), value);
        return value;
    };
    return {.kind = kind,
            .pid = number(Field::process_id),
            .parent_pid = number(Field::parent_process_id),
            .name = text(Field::comm),
            .executable = text(Field::image),
            .command_line = text(Field::command_line),
            .user = text(Field::user),
            .container_id = text(Field::container_id),
            .parent_executable = text(Field::parent_image),
            .parent_command_line = text(Field::parent_command_line),
            .protocol = text(Field::protocol),
            .local_address = text(Field::source_ip),
            .remote_address = text(Field::destination_ip),
            .local_port = number(Field::source_port),
            .remote_port = number(Field::destination_port),
            .is_incoming = event[Field::initiated].text == "false",
            .module = text(Field::image_loaded),
            .taints = text(Field::taints)};
}

bool is_connection(const event::Socket& socket) {
    const bool of_internet = socket.family == "inet" || socket.family == "inet6";
    const bool has_ports = socket.type == "tcp" || socket.type == "udp";
    return of_internet && has_ports && socket.remote_port != 0 && socket.state != "LISTEN";
}

}  // namespace underseer::detect::event_rules
