// What was seen, in the words of Sigma's taxonomy (docs/sigma.md).
#pragma once

#include <optional>

#include "event/finding.h"
#include "event/observation.h"
#include "sigma/match.h"

namespace underseer::detect::event_rules {

// `parent` is null where there is none that could be read; its ppid then says whether there is one.
sigma::Event process_event(const event::Task& process, const event::Task* parent);
// Of a process that holds the socket. `initiated`: nothing where it is not known who began it.
sigma::Event connection_event(sigma::Event holder, const event::Socket& socket,
                              std::optional<bool> initiated);
sigma::Event module_event(const event::Module& module);

// The same for those who log it. Texts are cut to limits::kMaxActivityTextBytes.
event::Activity activity_of(event::ActivityKind kind, const sigma::Event& event);

// One that leads to another machine or program by an address: it has both ends.
bool is_connection(const event::Socket& socket);

}  // namespace underseer::detect::event_rules
