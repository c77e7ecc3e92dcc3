// The page of a report, made from what was seen. No I/O.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "agent/answer.h"
#include "event/finding.h"
#include "event/observation.h"

namespace underseer::cli {

// The answer to one question, or why there is none.
template <typename T>
struct Seen {
    agent::Answer<T> answer;
    std::string unavailable;  // "" when there is an answer
};

struct ReportContent {
    std::string subject;                                     // the VM's name, the image's path
    std::vector<std::pair<std::string, std::string>> input;  // what was read: path, hash, ..
    std::string tool;                                        // "underseer 0.1.0"
    std::uint64_t begun_ns = 0, made_ns = 0;                 // since the epoch

    Seen<event::SystemInfo> system;
    Seen<event::CheckReport> checks;
    Seen<event::Task> tasks;
    Seen<event::Module> modules;
    Seen<event::Socket> sockets;
    Seen<event::Mount> mounts;
    Seen<event::NetworkInterface> interfaces;
    Seen<event::KernelLogLine> kernel_log;
};

// One self-contained document: no script, nothing loaded, and a policy in it that forbids both.
std::string report_page(const ReportContent& content);

// Text of the guest for a page: every character that is not seen or turns the direction around is
// made visible, then all that HTML could take for markup is escaped.
std::string html(std::string_view text);

}  // namespace underseer::cli
