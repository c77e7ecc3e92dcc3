// Sigma rules on their way from files to the workers that match by them. Their text is compiled in
// a jail; what comes of it is handed to each introspector in parts.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "agent/introspection.h"
#include "policy/policy.h"
#include "sigma/compile.h"

namespace underseer::agent {

// Where rules are, unless the policy says so: those that come with the package, and the operator's
// own, of which one takes the place of a shipped one of its name.
std::vector<std::string> default_rule_paths();

// Compiles what comes in parts. The inside of the jail.
class RuleCompiler {
  public:
    Result<void> add(const std::vector<RuleText>& parts);
    // All that has come, with why of what is not understood.
    Result<std::string> compile();

  private:
    std::vector<std::pair<std::string, std::string>> files_;  // name, text
    std::size_t bytes_ = 0;
};

struct LoadedRules {
    std::vector<sigma::Rule> rules;
    std::vector<sigma::Refusal> refused;
    std::string form;  // of the rules, for introspectors
};

// Who may have written a file of rules: whoever did decides what is told.
enum class RuleOwner : std::uint8_t { anybody, operator_only };

// Reads files and folders (their *.yml and *.yaml), has them compiled in a jail, and waits for
// that. What cannot be read is refused as what is not understood is; an error when no worker could
// do it. Unless they must be there, paths that are not are left out.
Result<LoadedRules> load_event_rules(std::span<const std::string> paths, RuleOwner owner,
                                     bool must_be_there);

// Those of a policy, and the files that they are in.
Result<LoadedRules> load_event_rules(const policy::Policy& policy);
std::vector<std::filesystem::path> rule_files(const policy::Policy& policy);

// "FILE:LINE: why"
std::string to_text(const sigma::Refusal& refusal);

// For an introspector: the rules in `form`, of which one part has come after the other.
Result<std::vector<sigma::Rule>> rules_of_form(std::string_view form);

}  // namespace underseer::agent
