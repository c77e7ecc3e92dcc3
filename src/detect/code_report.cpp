#include "detect/code_report.h"

#include <fmt/format.h>

namespace underseer::detect {

namespace {

constexpr std::size_t kEvidenceBytes = 32;
constexpr std::size_t kInstructions = 4;

}  // namespace

std::string owner_text(GuestVirt address, Snapshot& snapshot) {
    const auto& code = snapshot.code();
    const auto owner = code.has_value() ? code->owner_of(address) : std::nullopt;
    const std::string where = guest_linux::symbol_text(snapshot.kernel(), address);
    return owner ? fmt::format("{} ({})", owner->to_text(), where)
                 : fmt::format("nobody ({})", where);
}

event::Evidence code_evidence(std::string name, GuestVirt address, Snapshot& snapshot) {
    event::Evidence evidence{std::move(name), owner_text(address, snapshot), address.value,
                             std::string(kEvidenceBytes, '\0')};
    const auto bytes = std::as_writable_bytes(std::span(evidence.bytes));
    if (snapshot.kernel().memory().read(address, bytes).has_value()) {
        guest_linux::Disassembler disassembler;
        evidence.text += ": " + disassembler.text(bytes, address, kInstructions);
    } else {
        evidence.bytes.clear();
        evidence.text += ", which cannot be read";
    }
    return evidence;
}

void add_gaps(event::CheckReport& report, const guest_linux::Gaps& gaps) {
    for (const std::string& gap : gaps.texts) add_gap(report, gap);
}

event::CheckReport code_unknown(const Error& why) {
    event::CheckReport report{};
    report.outcome = event::Outcome::unavailable;
    report.reason = why.to_text();
    return report;
}

}  // namespace underseer::detect
