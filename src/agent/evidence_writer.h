// Writes what is known of a guest, of one process and of one module into the files of an evidence
// bundle. The inside of a jail: it is given the files, and nobody else sees what is in them.
#pragma once

#include <optional>

#include "agent/evidence_form.h"
#include "base/os.h"
#include "guest_linux/guest.h"
#include "jail/channel.h"

namespace underseer::agent {

struct EvidenceOutput {
    OutputForm form;
    Fd file;  // empty, to be read and written
};

// What is looked at, beside the guest as a whole.
struct EvidenceSubject {
    std::optional<std::uint32_t> pid;
    bool environment = false;  // of processes, in `processes`
    EvidenceOrder order;
    jail::Channel* supervisor = nullptr;  // of process_calls
};

// Writes, hashes and syncs one of them. `guest` is null where no Linux is found, for the reason
// `why`: all but the machine's memory is unavailable then. `ram` is what the guest is read from,
// without a cache.
KeptFile write_evidence(guest_linux::Guest* guest, const Error& why, guest_memory::GuestMemory& ram,
                        const EvidenceOutput& output, const EvidenceSubject& subject);

}  // namespace underseer::agent
