// Bundles of evidence that the agent has kept.
#pragma once

#include <string>
#include <vector>

#include "event/fields.h"
#include "options.h"

namespace underseer::cli {

struct EvidenceFileFact {
    std::string name, kind;
    std::uint64_t bytes = 0;
    std::string sha256;
    std::string why_not;  // why there is no such file; "": there is
    std::vector<std::string> gaps;

    static constexpr auto fields() {
        using event::Field;
        using F = EvidenceFileFact;
        return std::tuple{Field{"name", &F::name},       Field{"kind", &F::kind},
                          Field{"bytes", &F::bytes},     Field{"sha256", &F::sha256},
                          Field{"why_not", &F::why_not}, Field{"gaps", &F::gaps}};
    }
};

// What `evidence --json` prints of each bundle.
struct BundleFact {
    std::string folder;
    std::string state;  // "signed", "intact", "tampered"
    std::uint64_t made = 0;
    std::string host, instance, instance_id, tenant, vm_state, action, because, finding_uid;
    std::uint64_t stored_bytes = 0;  // that it takes on the disk
    std::vector<EvidenceFileFact> files;
    std::vector<std::string> problems;

    static constexpr auto fields() {
        using event::Field;
        using B = BundleFact;
        return std::tuple{Field{"folder", &B::folder},
                          Field{"state", &B::state},
                          Field{"made", &B::made},
                          Field{"host", &B::host},
                          Field{"instance", &B::instance},
                          Field{"instance_id", &B::instance_id},
                          Field{"tenant", &B::tenant},
                          Field{"vm_state", &B::vm_state},
                          Field{"action", &B::action},
                          Field{"because", &B::because},
                          Field{"finding_uid", &B::finding_uid},
                          Field{"stored_bytes", &B::stored_bytes},
                          Field{"files", &B::files},
                          Field{"problems", &B::problems}};
    }
};

// evidence ls | verify
Result<int> evidence(const Options& options);

}  // namespace underseer::cli
