// Border: frames from a worker that an attacker has taken over, or from whoever opens the control
// socket. Must hold: decoding ends, no
// allocation is larger than the frame allows, and what is accepted encodes to the same bytes.
#include "agent/analyser.h"
#include "agent/exact_form.h"
#include "agent/introspection.h"
#include "agent/status.h"

namespace {
template <typename T>
void round_trip(underseer::Bytes bytes) {
    const auto value = underseer::event::decode<T>(bytes);
    if (value.has_value()) CHECK(underseer::event::encode(*value) == underseer::as_text(bytes));
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace underseer;
    const Bytes bytes(reinterpret_cast<const std::byte*>(data), size);
    round_trip<event::Task>(bytes);
    round_trip<event::Socket>(bytes);
    round_trip<event::SystemInfo>(bytes);
    round_trip<event::BpfProgram>(bytes);
    round_trip<event::BpfMap>(bytes);
    round_trip<event::BpfLink>(bytes);
    round_trip<event::CheckReport>(bytes);
    round_trip<agent::AnswerEnd>(bytes);
    round_trip<agent::Question>(bytes);
    round_trip<agent::RamPart>(bytes);
    round_trip<agent::CompiledRules>(bytes);
    round_trip<agent::ScanPart>(bytes);
    round_trip<agent::TracePart>(bytes);
    round_trip<agent::ExactPart>(bytes);
    round_trip<agent::BreakpointOrder>(bytes);
    round_trip<agent::BreakpointEvent>(bytes);
    round_trip<agent::SupervisorReport>(bytes);
    round_trip<agent::WatchTally>(bytes);
    round_trip<agent::IntrospectorStart>(bytes);
    round_trip<agent::ControlRequest>(bytes);
    round_trip<agent::AnalyserInput>(bytes);
    round_trip<agent::AnalyserVerdict>(bytes);
    round_trip<event::FindingChange>(bytes);
    return 0;
}
