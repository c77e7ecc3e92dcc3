#include "event/ocsf.h"

#include <gtest/gtest.h>

#include "json/value.h"

namespace underseer::event {
namespace {

const Source kSource{"edge-1", "0123456789abcdef"};
constexpr TimeNs kTime = 1'700'000'000'123'456'789;

Instance web() {
    return {.host = "edge-1",
            .kind = "vm",
            .id = "8f1c",
            .name = "web-7",
            .tenant = "acme",
            .app_instance_id = "app-42",
            .app_d_id = "appd-1"};
}

json::Value parsed(const std::string& line) {
    EXPECT_EQ(line.find('\n'), std::string::npos);
    return json::Value::parse(line).value();
}
std::string text(const json::Value& value, std::string_view key) {
    return value.at(key).value().as_string().value();
}
std::uint64_t number(const json::Value& value, std::string_view key) {
    return value.at(key).value().as_uint().value();
}

// What OCSF 1.9 requires of every event (events/base_event.json).
void expect_base(const json::Value& event, unsigned type, unsigned activity) {
    EXPECT_EQ(number(event, "class_uid"), type);
    EXPECT_EQ(number(event, "category_uid"), type / 1000);
    EXPECT_EQ(number(event, "activity_id"), activity);
    EXPECT_EQ(number(event, "type_uid"), type * 100 + activity);
    EXPECT_EQ(number(event, "time"), 1'700'000'000'123u);
    EXPECT_TRUE(event.find("severity_id").has_value());
    const auto metadata = event.at("metadata").value();
    EXPECT_EQ(text(metadata, "version"), "1.9.0");
    EXPECT_EQ(text(metadata.at("product").value(), "name"), "Underseer");
}

TEST(Ocsf, what_a_guest_does_has_the_class_of_its_kind) {
    Instance instance = web();
    instance.kernel = "6.1.0-50-cloud-amd64";
    instance.image = "/srv/web.qcow2";
    const Activity started{.kind = ActivityKind::process_start,
                           .pid = 412,
                           .parent_pid = 1,
                           .name = "curl",
                           .executable = "/usr/bin/curl",
                           .command_line = "curl http://x",
                           .user = "root",
                           .parent_executable = "/sbin/init"};
    const auto launch = parsed(activity_event(kSource, kTime, instance, started));
    expect_base(launch, 1007, 1);
    const auto process = launch.at("process").value();
    EXPECT_EQ(number(process, "pid"), 412u);
    EXPECT_EQ(text(process, "cmd_line"), "curl http://x");
    EXPECT_EQ(text(process.at("file").value(), "name"), "curl");
    EXPECT_EQ(number(process.at("parent_process").value(), "pid"), 1u);
    const auto device = launch.at("device").value();
    EXPECT_EQ(text(device.at("os").value(), "kernel_release"), instance.kernel);
    EXPECT_EQ(text(device.at("image").value(), "path"), instance.image);

    Activity connected = started;
    connected.kind = ActivityKind::connection;
    connected.protocol = "tcp";
    connected.local_address = "10.0.0.2";
    connected.local_port = 40000;
    connected.remote_address = "192.0.2.1";
    connected.remote_port = 443;
    const auto open = parsed(activity_event(kSource, kTime, instance, connected));
    expect_base(open, 4001, 1);
    EXPECT_EQ(number(open.at("dst_endpoint").value(), "port"), 443u);
    connected.is_incoming = true;
    const auto reached = parsed(activity_event(kSource, kTime, instance, connected));
    EXPECT_EQ(number(reached.at("src_endpoint").value(), "port"), 443u) << "who began it";

    const auto loaded = parsed(activity_event(
        kSource, kTime, instance, {.kind = ActivityKind::module_load, .module = "dummy"}));
    expect_base(loaded, 1002, 1);
    EXPECT_EQ(text(loaded.at("driver").value().at("file").value(), "name"), "dummy");
}

FindingChange hidden(Change change) {
    return {.change = change,
            .open = {.uid = "8f1c:hidden_process:96@1",
                     .instance_id = "8f1c",
                     .finding = {.rule = "hidden_process",
                                 .title = "Process hidden inside the guest",
                                 .severity = Severity::critical,
                                 .confidence = 95,
                                 .technique = "T1014",
                                 .subject_kind = "process",
                                 .subject = "evil\x1b[31m (pid 96)",
                                 .key = "96",
                                 .evidence = {{"task_struct", "pid 96", 0xffff888001234000,
                                               std::string("\x00\xff", 2)}},
                                 .advice = "Save its memory."},
                     .first_seen = kTime - 5'000'000'000,
                     .last_seen = kTime,
                     .count = 3},
            .reason = change == Change::closed ? "not there any more" : ""};
}

TEST(Ocsf, a_finding_has_its_life) {
    const auto opened =
        parsed(finding_event(kSource, kTime, web(), hidden(Change::opened), true, ""));
    expect_base(opened, 2004, 1);
    EXPECT_TRUE(opened.at("is_alert").value().as_bool().value());
    EXPECT_EQ(number(opened, "severity_id"), 5u);
    EXPECT_EQ(number(opened, "status_id"), 1u);
    EXPECT_EQ(number(opened, "count"), 3u);
    const auto info = opened.at("finding_info").value();
    EXPECT_EQ(text(info, "uid"), "8f1c:hidden_process:96@1");
    EXPECT_EQ(number(info, "first_seen_time"), 1'699'999'995'123u);
    const auto device = opened.at("device").value();
    EXPECT_EQ(number(device, "type_id"), 6u);
    EXPECT_EQ(text(device, "name"), "web-7");
    const auto resource = opened.at("resources").value().elements().value().front();
    EXPECT_EQ(text(resource, "uid"), "app-42");
    const auto evidence = opened.at("evidences").value().elements().value().front();
    EXPECT_EQ(text(evidence.at("data").value(), "bytes"), "00ff");
    EXPECT_EQ(text(opened.at("metadata").value(), "tenant_uid"), "acme");

    const auto closed =
        parsed(finding_event(kSource, kTime, web(), hidden(Change::closed), true, ""));
    expect_base(closed, 2004, 3);
    EXPECT_FALSE(closed.at("is_alert").value().as_bool().value());
    EXPECT_EQ(text(closed, "status"), "Resolved");
    EXPECT_EQ(text(closed, "status_detail"), "not there any more");
}

TEST(Ocsf, what_the_guest_wrote_cannot_steer_a_terminal) {
    const std::string line = finding_event(kSource, kTime, web(), hidden(Change::opened), true, "");
    EXPECT_EQ(line.find('\x1b'), std::string::npos);
    EXPECT_NE(line.find("\\u001b[31m"), std::string::npos);
}

TEST(Ocsf, a_suppressed_finding_says_by_whom) {
    const auto event =
        parsed(finding_event(kSource, kTime, web(), hidden(Change::opened), false, "a test"));
    EXPECT_EQ(number(event, "status_id"), 3u);
    EXPECT_EQ(text(event, "status_detail"), "a test");
    EXPECT_FALSE(event.at("is_alert").value().as_bool().value());
}

TEST(Ocsf, the_agent_says_what_it_runs) {
    const auto event = parsed(agent_event(kSource, kTime, AgentActivity::start, "agent started",
                                          {{"unclean_end", "true"}}, {{"/usr/sbin/u", "00aa"}}));
    expect_base(event, 6002, 3);
    EXPECT_EQ(text(event.at("app").value(), "name"), "underseerd");
    const auto more = event.at("unmapped").value();
    EXPECT_EQ(text(more, "unclean_end"), "true");
    EXPECT_EQ(text(more.at("programs").value().elements().value().front(), "sha256"), "00aa");
}

TEST(Ocsf, every_other_class_has_what_it_requires) {
    const auto instance = parsed(instance_event(kSource, kTime, web(), "appeared", {{"pid", "1"}}));
    expect_base(instance, 5001, 2);
    EXPECT_EQ(number(instance.at("device").value(), "type_id"), 6u);

    const auto scan =
        parsed(scan_event(kSource, kTime, web(), ScanActivity::error, "hidden_process", "gone",
                          {.gaps = {"tree: torn"}, .limits = {"argv: paged out"}}, {}));
    expect_base(scan, 6007, 6);
    EXPECT_EQ(number(scan.at("scan").value(), "type_id"), 2u);
    EXPECT_EQ(number(scan, "status_id"), 2u);
    EXPECT_EQ(scan.at("unmapped").value().at("gaps").value().elements().value().size(), 1u);
    EXPECT_EQ(scan.at("unmapped").value().at("limits").value().elements().value().size(), 1u);

    const auto access = parsed(
        access_event(kSource, kTime, {1000, 4711, "examiner"}, web(), "ps", true, "ps of web-7"));
    expect_base(access, 6003, 2);
    EXPECT_EQ(text(access.at("actor").value().at("user").value(), "uid"), "1000");
    EXPECT_EQ(text(access.at("api").value(), "operation"), "ps");
    EXPECT_EQ(text(access.at("src_endpoint").value(), "hostname"), "edge-1");

    const auto action = parsed(action_event(kSource, kTime, web(),
                                            {.action = Action::isolate,
                                             .done = true,
                                             .result = "cut off: net0",
                                             .because = "policy, because of hidden_process",
                                             .finding_uid = "u1"}));
    expect_base(action, 7001, 1);
    EXPECT_EQ(text(action, "status"), "Success");
    EXPECT_EQ(text(action, "message"), "isolate web-7: cut off: net0");
    EXPECT_EQ(text(action.at("unmapped").value(), "finding_uid"), "u1");
    const auto refused = parsed(action_event(
        kSource, kTime, web(),
        {.action = Action::kill, .result = "no socket", .asker = Asker{1000, 4711, "responder"}}));
    expect_base(refused, 7001, 2);
    EXPECT_EQ(text(refused, "status"), "Failure");
    EXPECT_EQ(text(refused.at("actor").value().at("user").value(), "uid"), "1000");

    const auto kept = parsed(action_event(kSource, kTime, web(),
                                          {.action = Action::capture,
                                           .done = true,
                                           .result = "3 files",
                                           .evidence = "/var/lib/underseer/evidence/x",
                                           .evidence_sha256 = "00ff"}));
    expect_base(kept, 7001, 99);
    EXPECT_EQ(text(kept, "activity_name"), "Keep Evidence");
    EXPECT_EQ(text(kept.at("unmapped").value(), "evidence_sha256"), "00ff");
    EXPECT_FALSE(action.at("unmapped").value().find("evidence"));

    const auto policy = parsed(policy_event(kSource, kTime, "policy loaded", {{"sha256", "00"}}));
    expect_base(policy, 5019, 1);
    EXPECT_EQ(text(policy.at("device").value(), "hostname"), "edge-1");
}

}  // namespace
}  // namespace underseer::event
