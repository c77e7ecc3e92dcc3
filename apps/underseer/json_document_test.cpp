// docs/json.md against the types that JSON is made from: a key that is not described there, or is
// described as something else, fails.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <type_traits>

#include "agent/agent_client.h"
#include "base/os.h"
#include "baseline.h"
#include "event/finding.h"
#include "event/observation.h"
#include "event_rules.h"
#include "evidence.h"
#include "exact.h"
#include "explain.h"
#include "scan.h"
#include "trace.h"

namespace underseer::cli {
namespace {

using event::Observed;

template <typename T>
struct Form {
    static std::string text() {
        if constexpr (std::is_same_v<T, bool>) {
            return "true or false";
        } else if constexpr (std::is_enum_v<T>) {
            return "word";
        } else if constexpr (std::is_integral_v<T>) {
            return "number";
        } else if constexpr (event::Described<T>) {
            return "object";
        } else {
            static_assert(std::is_same_v<T, std::string>);
            return "text";
        }
    }
};
template <typename T>
struct Form<std::vector<T>> {
    static std::string text() { return "list of " + Form<T>::text() + "s"; }
};
template <typename T>
struct Form<Observed<T>> {
    static std::string text() { return Form<T>::text() + " or null"; }
};

// "| `pid` | number |": a row without its meaning.
template <typename T>
void rows_of(std::vector<std::string>& rows);
template <typename Owner, typename Member>
void add_row(const event::Field<Owner, Member>& field, std::vector<std::string>& rows) {
    rows.push_back(fmt::format("| `{}` | {} |", field.name, Form<Member>::text()));
}
template <typename Owner, typename T>
void add_row(const event::FlatField<Owner, Observed<T>>&, std::vector<std::string>& rows) {
    rows_of<T>(rows);
}
template <typename T>
void rows_of(std::vector<std::string>& rows) {
    event::for_each_field<T>([&](const auto& field) { add_row(field, rows); });
}

// The rows of the table under a heading, each cut before its meaning, which must be there.
std::vector<std::string> documented(const std::string& text, const std::string& heading) {
    std::vector<std::string> rows;
    const std::size_t begin = text.find("\n" + heading + "\n");
    EXPECT_NE(begin, std::string::npos) << "docs/json.md has no '" << heading << "'";
    if (begin == std::string::npos) return rows;
    const std::size_t end = text.find("\n#", begin + heading.size());
    for (std::size_t at = text.find("\n| `", begin); at < end; at = text.find("\n| `", at + 1)) {
        const std::string line = text.substr(at + 1, text.find('\n', at + 1) - at - 1);
        const std::size_t meaning = line.find("| ", line.find("| ", 2) + 2);
        EXPECT_GT(line.size(), meaning + 4) << line << ": no meaning";
        rows.push_back(line.substr(0, meaning + 1));
    }
    return rows;
}

template <typename T>
void expect_documented(const std::string& heading) {
    const std::string text = read_file(UNDERSEER_SOURCE_DIR "/docs/json.md", 1u << 20).value();
    std::vector<std::string> rows;
    rows_of<T>(rows);
    EXPECT_EQ(documented(text, heading), rows) << heading;
}

TEST(JsonDocument, describes_every_key_as_it_is) {
    expect_documented<event::Task>("## ps, tree");
    expect_documented<event::Namespaces>("### Namespaces");
    expect_documented<event::OpenFile>("## files");
    expect_documented<event::Vma>("## maps");
    expect_documented<event::Socket>("## sockets");
    expect_documented<event::Module>("## modules");
    expect_documented<event::BpfProgram>("## bpf");
    expect_documented<event::BpfAttachment>("### BPF attachment");
    expect_documented<event::BpfMap>("### BPF map");
    expect_documented<event::BpfLink>("### BPF link");
    expect_documented<event::Mount>("## mounts");
    expect_documented<event::NetworkInterface>("## interfaces");
    expect_documented<event::KernelLogLine>("## dmesg");
    expect_documented<event::SystemInfo>("## info");
    expect_documented<event::CheckReport>("## check");
    expect_documented<event::Finding>("### Finding");
    expect_documented<event::Evidence>("### Evidence");
    expect_documented<event::Coverage>("### Coverage");
    expect_documented<event::OpenFinding>("## findings");
    expect_documented<agent::ActionResult>("## act");
    expect_documented<BundleFact>("## evidence");
    expect_documented<RulesDocument>("## rules");
    expect_documented<RuleFact>("### Rule");
    expect_documented<sigma::Refusal>("### Refused rule");
    expect_documented<BaselineFact>("## baseline");
    expect_documented<EvidenceFileFact>("### Evidence file");
    expect_documented<agent::AgentStatus>("### Agent");
    expect_documented<agent::InstanceStatus>("### Instance status");
    expect_documented<agent::CheckStatus>("### Check status");
    expect_documented<agent::WatchTally>("### Watch");
    expect_documented<event::Instance>("### Instance");
    expect_documented<Explained>("## explain");
    expect_documented<ScanReport>("## scan");
    expect_documented<event::MemoryMatch>("### Memory match");
    expect_documented<event::MatchedString>("### Matched string");
    expect_documented<event::ScanCoverage>("### Scan coverage");
    expect_documented<agent::TraceReport>("## trace");
    expect_documented<agent::TraceSummary>("### Trace summary");
    expect_documented<agent::TraceThread>("### Traced thread");
    expect_documented<agent::TraceMoment>("### Traced moment");
    expect_documented<agent::TraceCall>("### Traced call");
    expect_documented<agent::TraceArgument>("### Traced argument");
    expect_documented<agent::TraceUserFrame>("### Traced program function");
    expect_documented<agent::TraceFrame>("### Traced function");
    expect_documented<agent::ExactReport>("## trace --exact");
    expect_documented<agent::ExactSummary>("### Exact trace summary");
    expect_documented<agent::ExactCall>("### Exact call");
    expect_documented<agent::ExactArgument>("### Exact argument");
}

}  // namespace
}  // namespace underseer::cli
