// Border: the structures of a guest's kernel. A worker has attached to a genuine guest; then the
// input changes its RAM, before and while it is looked at. Must hold: every listing and every check
// end, whatever page tables and structures say.
#include "changed_guest.h"
#include "detect/check.h"
#include "guest_linux/guest.h"

namespace {
using namespace underseer;

// As a trace of a process samples each of its threads.
void trace(guest_linux::Guest& guest) {
    guest_memory::GuestMemory* memory = &guest.kernel().physical();
    auto sampler = guest.task_sampler(memory);
    if (!sampler.has_value()) return;
    guest_linux::UserPrograms programs = guest.user_programs(memory);
    for (const GuestVirt task : guest.task_addresses()) {
        const auto moment = (*sampler)->sample(task);
        if (!moment.has_value()) continue;
        for (const auto& frame : moment->stack.frames) {
            (void)(*sampler)->tables().place_of(frame.code);
        }
        if (!moment->user) continue;
        auto process = guest.user_memory().process(task, moment->tgid);
        if (!process.has_value()) continue;
        programs.look_at(std::move(*process));
        const auto stack = programs.stack_of(*moment->user);
        CHECK(stack.frames.size() <= limits::kMaxUserStackFrames);
        for (const auto& frame : stack.frames) (void)programs.place_of(frame);
    }
}

void look(guest_linux::Guest& guest) {
    guest.new_epoch();
    (void)guest.info();
    (void)guest.tasks({.environment = true});
    (void)guest.open_files(std::nullopt);
    (void)guest.memory_maps(std::nullopt);
    (void)guest.modules();
    (void)guest.sockets();
    (void)guest.mounts();
    (void)guest.bpf_programs();
    (void)guest.interfaces();
    (void)guest.kernel_log();
    trace(guest);
    (void)detect::run(detect::make_checks({}), guest, [](auto) {});
}

struct Attached {
    explicit Attached(GuestMemory& memory)
        : cache(&memory), guest(guest_linux::Guest::attach(&cache).value()) {}

    guest_memory::CachedMemory cache;
    std::unique_ptr<guest_linux::Guest> guest;
};
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static std::unique_ptr<Attached> attached;
    static Genuine genuine([](ChangedMemory& memory) {
        attached = std::make_unique<Attached>(memory);
        memory.pages_read->clear();  // of attaching
        look(*attached->guest);
    });
    change(genuine, data, size);
    look(*attached->guest);
    return 0;
}
