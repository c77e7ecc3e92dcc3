// Border: the guest's memory as a whole, with the kernel in it not found yet. The input changes the
// RAM of a genuine guest, before and while it is attached to. Must hold: finding the kernel, its
// page tables, symbols and types, the proof that it runs and the search of all RAM end.
#include "changed_guest.h"
#include "guest_linux/guest.h"

namespace {
using namespace underseer;

void look(GuestMemory& memory) {
    guest_memory::CachedMemory cache(&memory, 1024);
    auto attached = guest_linux::Guest::attach(&cache);
    if (!attached.has_value()) return;
    guest_linux::Guest& guest = **attached;
    const auto signs = guest_linux::read_vital_signs(guest.kernel());
    if (!signs.has_value()) return;
    (void)guest_linux::prove_running(guest.kernel(), *signs,
                                     guest_linux::Acquaintance::seen_running, [] {});
    const auto views = guest.task_views();
    const auto places = guest.find_task_places(views);
    (void)guest.ram_scan(places, views);
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static Genuine genuine([](ChangedMemory& memory) { look(memory); });
    change(genuine, data, size);
    look(*genuine.changed);
    return 0;
}
