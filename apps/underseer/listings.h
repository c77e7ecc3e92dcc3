// The table of each kind of observation.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "event/finding.h"
#include "event/observation.h"
#include "table.h"

namespace underseer::cli {

Table table_of(const std::vector<event::Task>& tasks);
Table table_of(const std::vector<event::OpenFile>& files);
Table table_of(const std::vector<event::Vma>& areas);
Table table_of(const std::vector<event::Module>& modules);
Table table_of(const std::vector<event::Socket>& sockets);
Table table_of(const std::vector<event::BpfProgram>& programs);
Table table_of(const std::vector<event::BpfMap>& maps);
Table table_of(const std::vector<event::BpfLink>& links);
Table table_of(const std::vector<event::Mount>& mounts);
Table table_of(const std::vector<event::NetworkInterface>& interfaces);
Table table_of(const std::vector<event::KernelLogLine>& lines);

// What is mounted; where that is a part of it, as findmnt(8) writes it: "/dev/vda1[/var/lib/x]".
std::string source_of(const event::Mount& mount);

// What the hidden-process check says about the tasks of a listing.
struct HiddenTasks {
    std::map<std::uint64_t, std::string> missing_in;  // by the task's address: the views without it
    std::vector<std::string> unlisted;                // found, and not in the listing

    bool contains(const event::Task& task) const { return missing_in.contains(task.address); }
};
HiddenTasks hidden_among(const std::vector<event::Task>& tasks,
                         const std::vector<event::CheckReport>& reports);

// Processes as a tree of parents and children, the hidden ones marked. The mark stands where the
// guest cannot write one: right behind the pid.
std::string tree_of(const std::vector<event::Task>& tasks, const HiddenTasks& hidden);
std::string text_of(const event::SystemInfo& info);
// ", isolated (PTI)", or nothing where the page tables are not.
std::string isolation_of(const event::SystemInfo& info);
std::string text_of(const event::CheckReport& report);

}  // namespace underseer::cli
