#include "manual_text.h"

#include "policy/keys.h"

namespace underseer::cli {

std::vector<program::Section> manual_sections() {
    return {
        {"AGENT",
         "Where an agent (underseerd) runs, it is asked about VMs; it answers users that its "
         "policy names, and logs every question. Without one, or with --direct, underseer looks "
         "itself, which needs root. Images need no rights but those to read the file."},
        {"JSON",
         "The keys that --json prints are stable and described in docs/json.md. A value that could "
         "not be had is null, and the member \"unavailable\" of its object says why. Whatever the "
         "guest wrote is valid UTF-8 without control characters."},
        {"ENVIRONMENT", "", {{"NO_COLOR", "When it is set to anything, no colours are used."}}},
        {"FILES",
         "",
         {{"/run/underseer/control.sock", "the agent's control socket"},
          {"/var/lib/underseer", "the agent's state: keys, logs, evidence"}}},
        {"EXAMPLES",
         "",
         {{"underseer ls", "what runs here"},
          {"underseer ps web-1", "its processes, as its kernel sees them"},
          {"underseer check web-1 && echo clean", "hidden processes are exit status 1"},
          {"underseer ps --json memory.lime | jq -r '.[].exe'", "programs of an image"}}}};
}

program::Program policy_manual() {
    program::Program manual{
        .name = "underseer-policy",
        .section = 5,
        .what = "policy of the Underseer agent",
        .more =
            "The policy says what the agent looks at, how often, who may ask it, and what is "
            "expected. It is a TOML file, /etc/underseer/policy.toml where nothing else is "
            "named, owned by root and writable by nobody else. Every key may be left out.\n\n"
            "underseerd --check-policy FILE says whether a file is valid; an error names file, "
            "line, column and key. A running agent takes a changed policy on SIGHUP, and keeps "
            "the old one when the new one is wrong. Durations are \"500ms\", \"10s\", "
            "\"5m\", \"1h\" or \"1d\".",
        .groups = {},
        .commands = {},
        .options = {},
        .exits = {},
        .sections = {},
        .see_also = {"underseer(1)", "underseerd(8)"}};
    for (const policy::Key& key : policy::keys()) {
        if (manual.sections.empty() || manual.sections.back().title != key.section) {
            manual.sections.push_back({.title = key.section, .text = ""});
        }
        manual.sections.back().entries.push_back({key.name, key.meaning, key.standard});
    }
    return manual;
}

}  // namespace underseer::cli
