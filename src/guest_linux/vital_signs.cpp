#include "guest_linux/vital_signs.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "guest_linux/kernel.h"

namespace underseer::guest_linux {

namespace {

using guest_memory::GuestMemory;
using guest_memory::RamRegion;
using guest_memory::ReadOp;

constexpr unsigned kStepsPerRound = 3, kRounds = 12;
// Firmware and boot loaders work below 1 MiB; above, one page in so many is looked at.
constexpr std::uint64_t kLowMemoryBytes = 1u << 20, kSampledPages = 4096;

void mix(std::uint64_t& digest, Bytes bytes) {
    for (std::size_t at = 0; at + 8 <= bytes.size(); at += 8) {
        digest = (digest ^ load_le<std::uint64_t>(bytes, at).value_or(0)) * 0x100000001b3;
        digest ^= digest >> 29;
    }
}

std::uint64_t digest_of_page(GuestMemory& memory, GuestPhys page, std::uint64_t digest) {
    std::array<std::byte, kPageSize> bytes{};  // what cannot be read counts as zero
    ReadOp op{page, bytes};
    memory.read_many({&op, 1});
    mix(digest, bytes);
    return digest;
}

std::uint64_t digest_of_ram(GuestMemory& memory) {
    memory.new_epoch();
    const std::uint64_t stride =
        std::max<std::uint64_t>(memory.ram_bytes() / kSampledPages & ~(kPageSize - 1), kPageSize);
    std::uint64_t digest = 0;
    for (const RamRegion& region : memory.regions()) {
        for (GuestPhys page = region.begin; page < region.end();) {
            digest = digest_of_page(memory, page, digest);
            page = page + (page.value < kLowMemoryBytes ? kPageSize : stride);
        }
    }
    return digest;
}

// enum system_states (include/linux/kernel.h): what stands before SYSTEM_RUNNING is booting, what
// stands behind it, but for suspending, is going down.
Result<void> check_system_state(Kernel& kernel) {
    const auto at = kernel.symbol("system_state");
    const auto running = kernel.types().enumerator("SYSTEM_RUNNING");
    const auto suspended = kernel.types().enumerator("SYSTEM_SUSPEND");
    if (!at.has_value() || !running) return {};
    const std::int64_t state = TRY(kernel.memory().read<std::int32_t>(*at));
    if (state == *running || (suspended && state == *suspended)) return {};
    if (state < *running) return fail(Code::unavailable, "the guest is booting");
    return fail(Code::gone, "the guest is shutting down or restarting");
}

}  // namespace

Result<VitalSigns> read_vital_signs(Kernel& kernel) {
    kernel.new_epoch();
    const KernelImage& image = kernel.image();
    // Through the page tables, so that these are still in place as well.
    const auto banner = kernel.memory().read_cstring(image.banner_virt, image.banner.size());
    if (!banner.has_value() || *banner != image.banner) {
        return fail(Code::gone,
                    fmt::format("the kernel {} is not in RAM any more", image.release()));
    }
    TRY(check_system_state(kernel));
    VitalSigns signs{.root = image.space.root};
    if (const auto init = kernel.symbol("init_task"); init.has_value()) {
        signs.canary = kernel.read(*init, kernel.field("task_struct", "stack_canary")).value_or(0);
    }
    if (const auto jiffies = kernel.symbol("jiffies_64"); jiffies.has_value()) {
        signs.ticks = TRY(kernel.memory().read<std::uint64_t>(*jiffies));
    }
    signs.firmware = digest_of_page(kernel.physical(), GuestPhys{0}, 0);
    return signs;
}

Result<void> check_same_life(const VitalSigns& before, const VitalSigns& now) {
    if (before.root == now.root && before.canary == now.canary && before.ticks <= now.ticks) {
        return {};
    }
    return fail(Code::gone, "the guest has booted anew or was set back to a saved state");
}

Result<VitalSigns> prove_running(Kernel& kernel, const VitalSigns& since, Acquaintance kernel_is,
                                 const std::function<void()>& pause) {
    VitalSigns now = TRY(read_vital_signs(kernel));
    TRY(check_same_life(since, now));
    // A firmware that has worked since may have been followed by nothing yet: only ticks from here
    // on count then. (A CPU that is plugged in writes there too.)
    const bool reset = now.firmware != since.firmware;
    if (now.ticks != since.ticks && !reset) return now;
    const VitalSigns start = now;
    unsigned quiet_rounds = 0;
    for (unsigned round = 0; round < kRounds; ++round) {
        const std::uint64_t before = digest_of_ram(kernel.physical());
        for (unsigned step = 0; step < kStepsPerRound; ++step) {
            pause();
            now = TRY(read_vital_signs(kernel));
            TRY(check_same_life(start, now));
            if (now.ticks != start.ticks) return now;
        }
        const bool quiet = digest_of_ram(kernel.physical()) == before;
        quiet_rounds = quiet ? quiet_rounds + 1 : 0;
        now = TRY(read_vital_signs(kernel));
        TRY(check_same_life(start, now));
        if (now.ticks != start.ticks) return now;
        if (quiet_rounds >= static_cast<unsigned>(kernel_is) && !reset) return now;
    }
    return fail(Code::gone, fmt::format("the guest is booting: the clock of {} stands still while "
                                        "something else runs",
                                        kernel.image().release()));
}

}  // namespace underseer::guest_linux
