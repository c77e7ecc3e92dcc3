#include "sigma/rule.h"

#include <algorithm>
#include <array>

namespace underseer::sigma {

namespace {

constexpr std::array<std::string_view, 3> kCategories{"process_creation", "network_connection",
                                                      "driver_load"};

// In the order of Field. A connection has the fields of the process that holds it, too.
constexpr std::array<FieldInfo, kFieldCount> kFields{{
    {Field::image, "Image", true, true, false},
    {Field::command_line, "CommandLine", true, true, false},
    {Field::current_directory, "CurrentDirectory", true, true, false},
    {Field::parent_image, "ParentImage", true, true, false},
    {Field::parent_command_line, "ParentCommandLine", true, true, false},
    {Field::process_id, "ProcessId", true, true, false},
    {Field::parent_process_id, "ParentProcessId", true, true, false},
    {Field::user, "User", true, true, false},
    {Field::comm, "Comm", true, true, false},
    {Field::container_id, "ContainerId", true, true, false},
    {Field::protocol, "Protocol", false, true, false},
    {Field::source_ip, "SourceIp", false, true, false},
    {Field::source_port, "SourcePort", false, true, false},
    {Field::destination_ip, "DestinationIp", false, true, false},
    {Field::destination_port, "DestinationPort", false, true, false},
    {Field::initiated, "Initiated", false, true, false},
    {Field::image_loaded, "ImageLoaded", false, false, true},
    {Field::taints, "Taints", false, false, true},
}};

}  // namespace

std::string_view to_string(Category category) {
    return kCategories[static_cast<std::size_t>(category)];
}

std::optional<Category> category_of(std::string_view name) {
    const auto found = std::ranges::find(kCategories, name);
    if (found == kCategories.end()) return std::nullopt;
    return static_cast<Category>(found - kCategories.begin());
}

bool FieldInfo::is_of(Category category) const {
    switch (category) {
        case Category::process_creation:
            return of_processes;
        case Category::network_connection:
            return of_connections;
        case Category::driver_load:
            return of_drivers;
    }
    return false;
}

std::span<const FieldInfo> all_fields() {
    return kFields;
}

std::string_view name_of(Field field) {
    return kFields[static_cast<std::size_t>(field)].name;
}

}  // namespace underseer::sigma
