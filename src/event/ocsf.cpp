#include "event/ocsf.h"

#include <fmt/format.h>

#include "base/result.h"
#include "json/writer.h"

namespace underseer::event {

namespace {

constexpr std::string_view kSchemaVersion = "1.9.0";
constexpr std::size_t kMaxEvidenceBytesLogged = 512;

struct Class {
    unsigned uid;
    std::string_view name, category;
};
constexpr Class kKernelExtension{1002, "Kernel Extension Activity", "System Activity"};
constexpr Class kProcess{1007, "Process Activity", "System Activity"};
constexpr Class kNetwork{4001, "Network Activity", "Network Activity"};
constexpr Class kDetectionFinding{2004, "Detection Finding", "Findings"};
constexpr Class kInventory{5001, "Device Inventory Info", "Discovery"};
constexpr Class kConfigChange{5019, "Device Config State Change", "Discovery"};
constexpr Class kLifecycle{6002, "Application Lifecycle", "Application Activity"};
constexpr Class kApi{6003, "API Activity", "Application Activity"};
constexpr Class kScan{6007, "Scan Activity", "Application Activity"};
constexpr Class kRemediation{7001, "Remediation Activity", "Remediation"};

// OCSF severity_id: 1 Informational to 5 Critical.
unsigned severity_id(Severity severity) {
    return static_cast<unsigned>(severity) + 1;
}
std::string_view severity_caption(Severity severity) {
    switch (severity) {
        case Severity::informational:
            return "Informational";
        case Severity::low:
            return "Low";
        case Severity::medium:
            return "Medium";
        case Severity::high:
            return "High";
        case Severity::critical:
            return "Critical";
    }
    return "Unknown";
}

std::uint64_t milliseconds(TimeNs time) {
    return time / 1'000'000;
}

std::string hex(std::string_view bytes) {
    std::string text;
    for (const char byte : bytes.substr(0, kMaxEvidenceBytesLogged)) {
        text += fmt::format("{:02x}", static_cast<unsigned char>(byte));
    }
    return text;
}

// One event: opened with what every class has, closed by take().
class Event {
  public:
    Event(const Source& source, TimeNs time, const Class& type, unsigned activity,
          std::string_view activity_name, Severity severity, std::string_view message,
          std::string_view tenant = {})
        : writer_(&text_) {
        writer_.begin_object()
            .member("time", milliseconds(time))
            .member("class_uid", type.uid)
            .member("class_name", type.name)
            .member("category_uid", type.uid / 1000)
            .member("category_name", type.category)
            .member("activity_id", activity)
            .member("activity_name", activity_name)
            .member("type_uid", type.uid * 100 + activity)
            .member("severity_id", severity_id(severity))
            .member("severity", severity_caption(severity))
            .member("message", message);
        writer_.key("metadata").begin_object().member("version", kSchemaVersion);
        writer_.key("product")
            .begin_object()
            .member("name", "Underseer")
            .member("vendor_name", "Underseer")
            .member("version", UNDERSEER_VERSION)
            .end_object();
        writer_.key("profiles").begin_array().value("host").end_array();
        writer_.key("reporter")
            .begin_object()
            .member("name", "underseerd")
            .member("hostname", source.host)
            .member("uid", source.agent)
            .end_object();
        if (!tenant.empty()) writer_.member("tenant_uid", tenant);
        writer_.end_object();
    }

    json::Writer* operator->() { return &writer_; }
    json::Writer& writer() { return writer_; }

    // The host itself, as the device concerned.
    void host_device(const Source& source) {
        writer_.key("device")
            .begin_object()
            .member("type_id", 1)
            .member("type", "Server")
            .member("hostname", source.host)
            .end_object();
    }
    void instance_device(const Instance& instance) {
        writer_.key("device")
            .begin_object()
            .member("type_id", 6)
            .member("type", "Virtual")
            .member("uid", instance.id)
            .member("name", instance.name);
        if (!instance.image.empty()) {
            writer_.key("image").begin_object().member("path", instance.image).end_object();
        }
        if (!instance.kernel.empty()) {
            writer_.key("os")
                .begin_object()
                .member("name", "Linux")
                .member("type", "Linux")
                .member("type_id", 200)
                .member("kernel_release", instance.kernel)
                .end_object();
        }
        writer_.end_object();
    }
    void instance_resource(const Instance& instance) {
        writer_.key("resources").begin_array().begin_object();
        const bool mec = !instance.app_instance_id.empty();
        writer_.member("uid", mec ? instance.app_instance_id : instance.id)
            .member("name", instance.name)
            .member("type", mec ? "MEC application instance" : instance.kind)
            .member("role_id", 3)
            .member("role", "Affected");
        if (!instance.tenant.empty()) {
            writer_.key("owner").begin_object().member("name", instance.tenant).end_object();
        }
        writer_.key("data")
            .begin_object()
            .member("kind", instance.kind)
            .member("host", instance.host)
            .member("app_instance_id", instance.app_instance_id)
            .member("app_d_id", instance.app_d_id)
            .end_object();
        if (!instance.labels.empty()) {
            writer_.key("tags").begin_array();
            for (const std::string& label : instance.labels) {
                writer_.begin_object().member("name", label).end_object();
            }
            writer_.end_array();
        }
        writer_.end_object().end_array();
    }
    void file(std::string_view path) {
        writer_.key("file")
            .begin_object()
            .member("name", path.substr(path.rfind('/') + 1))
            .member("path", path)
            .member("type_id", 1)
            .member("type", "Regular File")
            .end_object();
    }
    // TRUST: a guest's words.
    void process(std::string_view key, const Activity& activity) {
        writer_.key(key)
            .begin_object()
            .member("pid", activity.pid)
            .member("name", activity.name)
            .member("cmd_line", activity.command_line);
        if (!activity.executable.empty()) file(activity.executable);
        if (!activity.user.empty()) {
            writer_.key("user").begin_object().member("name", activity.user).end_object();
        }
        if (!activity.container_id.empty()) {
            writer_.key("container")
                .begin_object()
                .member("uid", activity.container_id)
                .end_object();
        }
        writer_.key("parent_process").begin_object().member("pid", activity.parent_pid);
        if (!activity.parent_executable.empty()) {
            writer_.member("cmd_line", activity.parent_command_line);
            file(activity.parent_executable);
        }
        writer_.end_object().end_object();
    }
    void endpoint(std::string_view key, std::string_view address, std::uint32_t port) {
        writer_.key(key).begin_object().member("ip", address).member("port", port).end_object();
    }
    void status(unsigned id, std::string_view caption, std::string_view detail = {}) {
        writer_.member("status_id", id).member("status", caption);
        if (!detail.empty()) writer_.member("status_detail", detail);
    }
    void details(const Details& details) {
        for (const auto& [name, value] : details) writer_.member(name, std::string_view(value));
    }
    std::string take() {
        writer_.end_object();
        CHECK(writer_.complete());
        return std::move(text_);
    }

  private:
    std::string text_;
    json::Writer writer_;
};

void write_evidence(json::Writer& writer, const Evidence& item) {
    writer.begin_object().member("name", item.name).key("data").begin_object();
    writer.member("text", item.text);
    if (item.address != 0) writer.member("address", fmt::format("0x{:x}", item.address));
    if (!item.bytes.empty()) writer.member("bytes", hex(item.bytes));
    writer.end_object().end_object();
}

void write_finding_info(json::Writer& writer, const OpenFinding& open) {
    const Finding& finding = open.finding;
    writer.key("finding_info")
        .begin_object()
        .member("uid", open.uid)
        .member("title", finding.title)
        .member("desc", fmt::format("{}: {}", finding.subject_kind, finding.subject));
    writer.key("types").begin_array().value(finding.rule).end_array();
    writer.key("analytic")
        .begin_object()
        .member("type_id", 1)
        .member("type", "Rule")
        .member("uid", finding.rule)
        .member("name", finding.rule)
        .end_object();
    if (!finding.technique.empty()) {
        writer.key("attacks").begin_array().begin_object();
        writer.key("technique").begin_object().member("uid", finding.technique).end_object();
        writer.end_object().end_array();
    }
    writer.member("first_seen_time", milliseconds(open.first_seen))
        .member("last_seen_time", milliseconds(open.last_seen))
        .member("created_time", milliseconds(open.first_seen))
        .member("related_events_count", open.count)
        .end_object();
}

}  // namespace

std::string finding_event(const Source& source, TimeNs time, const Instance& instance,
                          const FindingChange& change, bool alert, std::string_view suppressed) {
    const Finding& finding = change.open.finding;
    const auto activity = static_cast<unsigned>(change.change) + 1;
    constexpr std::string_view kNames[] = {"Create", "Update", "Close"};
    Event event(source, time, kDetectionFinding, activity, kNames[activity - 1], finding.severity,
                fmt::format("{} in {}: {}", finding.title, instance.name, finding.subject),
                instance.tenant);
    if (change.change == Change::closed) {
        event.status(4, "Resolved", change.reason);
    } else if (!suppressed.empty()) {
        event.status(3, "Suppressed", suppressed);
    } else {
        event.status(change.change == Change::opened ? 1 : 2,
                     change.change == Change::opened ? "New" : "In Progress");
    }
    event->member("is_alert", alert && change.change == Change::opened)
        .member("confidence_score", finding.confidence)
        .member("start_time", milliseconds(change.open.first_seen))
        .member("end_time", milliseconds(change.open.last_seen))
        .member("count", change.open.count);
    event.instance_device(instance);
    event.instance_resource(instance);
    write_finding_info(event.writer(), change.open);
    event->key("evidences").begin_array();
    for (const Evidence& item : finding.evidence) write_evidence(event.writer(), item);
    event->end_array();
    event->key("remediation").begin_object().member("desc", finding.advice).end_object();
    return event.take();
}

std::string agent_event(const Source& source, TimeNs time, AgentActivity activity,
                        std::string_view message, const Details& details,
                        const std::vector<ProgramHash>& programs) {
    const std::string_view name = activity == AgentActivity::start  ? "Start"
                                  : activity == AgentActivity::stop ? "Stop"
                                                                    : "Restart";
    Event event(source, time, kLifecycle, static_cast<unsigned>(activity), name,
                Severity::informational, message);
    event->key("app")
        .begin_object()
        .member("name", "underseerd")
        .member("vendor_name", "Underseer")
        .member("version", UNDERSEER_VERSION)
        .end_object();
    event.host_device(source);
    event->key("unmapped").begin_object();
    event.details(details);
    if (!programs.empty()) {
        event->key("programs").begin_array();
        for (const ProgramHash& program : programs) {
            event->begin_object()
                .member("path", program.path)
                .member("sha256", program.sha256)
                .end_object();
        }
        event->end_array();
    }
    event->end_object();
    return event.take();
}

std::string instance_event(const Source& source, TimeNs time, const Instance& instance,
                           std::string_view message, const Details& details) {
    Event event(source, time, kInventory, 2, "Collect", Severity::informational, message,
                instance.tenant);
    event.instance_device(instance);
    event->key("unmapped").begin_object();
    event->member("app_instance_id", instance.app_instance_id)
        .member("app_d_id", instance.app_d_id)
        .member("host", instance.host);
    event.details(details);
    event->end_object();
    return event.take();
}

std::string scan_event(const Source& source, TimeNs time, const Instance& instance,
                       ScanActivity activity, std::string_view check, std::string_view message,
                       const Coverage& coverage, const Details& details) {
    const std::string_view name = activity == ScanActivity::started     ? "Started"
                                  : activity == ScanActivity::completed ? "Completed"
                                  : activity == ScanActivity::error     ? "Error"
                                                                        : "Resumed";
    const bool failed = activity == ScanActivity::error;
    Event event(source, time, kScan, static_cast<unsigned>(activity), name,
                failed ? Severity::medium : Severity::informational, message, instance.tenant);
    event.status(failed ? 2 : 1, failed ? "Failure" : "Success", message);
    event.instance_device(instance);
    event->key("scan")
        .begin_object()
        .member("type_id", 2)
        .member("type", "Scheduled")
        .member("uid", check)
        .member("name", check)
        .end_object();
    event->member("num_processes", coverage.looked_at)
        .member("num_skipped_items", coverage.unreadable);
    event->key("unmapped").begin_object();
    event->key("gaps").begin_array();
    for (const std::string& gap : coverage.gaps) event->value(gap);
    event->end_array();
    event->key("limits").begin_array();
    for (const std::string& limit : coverage.limits) event->value(limit);
    event->end_array();
    event.details(details);
    event->end_object();
    return event.take();
}

std::string activity_event(const Source& source, TimeNs time, const Instance& instance,
                           const Activity& activity) {
    const auto begun = [&](const Class& type, unsigned id, std::string_view name,
                           std::string message) {
        return Event(source, time, type, id, name, Severity::informational,
                     fmt::format("{}: {}", instance.name, message), instance.tenant);
    };
    const std::string who = fmt::format("{} (pid {})", activity.name, activity.pid);
    switch (activity.kind) {
        case ActivityKind::process_start: {
            Event event =
                begun(kProcess, 1, "Launch", fmt::format("{} runs {}", who, activity.executable));
            event.process("process", activity);
            event.instance_device(instance);
            return event.take();
        }
        case ActivityKind::connection: {
            Event event = begun(
                kNetwork, 1, "Open",
                fmt::format("{} {} {}:{}", who, activity.is_incoming ? "is reached from" : "to",
                            activity.remote_address, activity.remote_port));
            event->key("actor").begin_object();
            event.process("process", activity);
            event->end_object();
            const bool in = activity.is_incoming;
            event.endpoint(in ? "dst_endpoint" : "src_endpoint", activity.local_address,
                           activity.local_port);
            event.endpoint(in ? "src_endpoint" : "dst_endpoint", activity.remote_address,
                           activity.remote_port);
            event->key("connection_info")
                .begin_object()
                .member("protocol_name", activity.protocol)
                .member("direction_id", in ? 1 : 2)
                .member("direction", in ? "Inbound" : "Outbound")
                .end_object();
            event.instance_device(instance);
            return event.take();
        }
        case ActivityKind::module_load: {
            Event event = begun(kKernelExtension, 1, "Load",
                                fmt::format("module {} is loaded", activity.module));
            event->key("driver").begin_object();
            event->key("file")
                .begin_object()
                .member("name", activity.module)
                .member("type_id", 1)
                .member("type", "Regular File")
                .end_object()
                .end_object();
            event.instance_device(instance);
            event->key("unmapped").begin_object().member("taints", activity.taints).end_object();
            return event.take();
        }
    }
    return {};
}

std::string access_event(const Source& source, TimeNs time, const Asker& asker,
                         const Instance& instance, std::string_view operation, bool granted,
                         std::string_view message) {
    Event event(source, time, kApi, 2, "Read", granted ? Severity::informational : Severity::medium,
                message, instance.tenant);
    event.status(granted ? 1 : 2, granted ? "Success" : "Failure");
    event->key("actor").begin_object();
    event->key("user").begin_object().member("uid", std::to_string(asker.user)).end_object();
    event->key("process").begin_object().member("pid", asker.process).end_object();
    event->end_object();
    event->key("api")
        .begin_object()
        .member("operation", operation)
        .key("service")
        .begin_object()
        .member("name", "control socket")
        .end_object()
        .end_object();
    event->key("src_endpoint").begin_object().member("hostname", source.host).end_object();
    if (!instance.id.empty()) event.instance_device(instance);
    event->key("unmapped").begin_object().member("role", asker.role).end_object();
    return event.take();
}

// activity_id of Remediation Activity: 1 Isolate, 2 Evict, 3 Restore, 99 anything else.
std::string action_event(const Source& source, TimeNs time, const Instance& instance,
                         const ActionTaken& taken) {
    struct Kind {
        unsigned id;
        std::string_view name;
    };
    const Kind activity = taken.action == Action::isolate     ? Kind{1, "Isolate"}
                          : taken.action == Action::kill      ? Kind{2, "Evict"}
                          : taken.action == Action::resume    ? Kind{3, "Restore"}
                          : taken.action == Action::reconnect ? Kind{3, "Restore"}
                          : taken.action == Action::pause     ? Kind{99, "Pause"}
                          : taken.action == Action::run       ? Kind{99, "Run Program"}
                                                              : Kind{99, "Keep Evidence"};
    Event event(source, time, kRemediation, activity.id, activity.name,
                taken.done ? Severity::high : Severity::critical,
                fmt::format("{} {}: {}{}", to_string(taken.action), instance.name,
                            taken.done ? "" : "not done: ", taken.result),
                instance.tenant);
    event.status(taken.done ? 1 : 2, taken.done ? "Success" : "Failure");
    event->member("command_uid", to_string(taken.action));
    if (taken.asker) {
        event->key("actor").begin_object();
        event->key("user")
            .begin_object()
            .member("uid", std::to_string(taken.asker->user))
            .end_object();
        event->key("process").begin_object().member("pid", taken.asker->process).end_object();
        event->end_object();
    }
    event.instance_device(instance);
    event->key("unmapped")
        .begin_object()
        .member("because", taken.because)
        .member("finding_uid", taken.finding_uid);
    if (!taken.evidence.empty()) {
        event->member("evidence", taken.evidence).member("evidence_sha256", taken.evidence_sha256);
    }
    event->end_object();
    return event.take();
}

std::string policy_event(const Source& source, TimeNs time, std::string_view message,
                         const Details& details) {
    Event event(source, time, kConfigChange, 1, "Log", Severity::informational, message);
    event.host_device(source);
    event->key("unmapped").begin_object();
    event.details(details);
    event->end_object();
    return event.take();
}

}  // namespace underseer::event
