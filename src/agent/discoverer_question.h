// The one frame that a discoverer gets.
#pragma once

#include <cstdint>
#include <string>

#include "event/wire.h"

namespace underseer::agent {

struct DiscovererQuestion {
    enum class Kind : std::uint8_t { monitor, libvirt };
    friend constexpr Kind last_enumerator(Kind) { return Kind::libvirt; }

    Kind kind = Kind::monitor;
    std::string path;                   // of the monitor's socket; libvirt's URI
    std::uint32_t pid = 0;              // who must listen there
    std::uint32_t user = 0, group = 0;  // with whose rights the path is looked up

    static constexpr auto fields() {
        using event::Field;
        using Q = DiscovererQuestion;
        return std::tuple{Field{"kind", &Q::kind}, Field{"path", &Q::path}, Field{"pid", &Q::pid},
                          Field{"user", &Q::user}, Field{"group", &Q::group}};
    }
};

}  // namespace underseer::agent
