// The one frame that a discoverer gets.
#pragma once

#include <cstdint>
#include <string>

#include "event/finding.h"
#include "event/wire.h"

namespace underseer::agent {

struct DiscovererQuestion {
    enum class Kind : std::uint8_t { monitor, libvirt };
    friend constexpr Kind last_enumerator(Kind) { return Kind::libvirt; }
    struct Order {
        event::Action action{};
        bool dry_run = false;
        std::string uuid;  // of libvirt's domain

        static constexpr auto fields() {
            using event::Field;
            return std::tuple{Field{"action", &Order::action}, Field{"dry_run", &Order::dry_run},
                              Field{"uuid", &Order::uuid}};
        }
    };

    Kind kind = Kind::monitor;
    std::string path;                   // of the monitor's socket; libvirt's URI
    std::uint32_t pid = 0;              // who must listen there
    std::uint32_t user = 0, group = 0;  // with whose rights the path is looked up
    bool ordered = false;               // else it is asked
    Order order;

    static constexpr auto fields() {
        using event::Field;
        using Q = DiscovererQuestion;
        return std::tuple{Field{"kind", &Q::kind},   Field{"path", &Q::path},
                          Field{"pid", &Q::pid},     Field{"user", &Q::user},
                          Field{"group", &Q::group}, Field{"ordered", &Q::ordered},
                          Field{"order", &Q::order}};
    }
};

}  // namespace underseer::agent
