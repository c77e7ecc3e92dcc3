// The table of each kind of observation.
#pragma once

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
Table table_of(const std::vector<event::Mount>& mounts);
Table table_of(const std::vector<event::NetworkInterface>& interfaces);
Table table_of(const std::vector<event::KernelLogLine>& lines);

// Processes as a tree of parents and children.
std::string tree_of(const std::vector<event::Task>& tasks);
std::string text_of(const event::SystemInfo& info);
std::string text_of(const event::CheckReport& report);

}  // namespace underseer::cli
