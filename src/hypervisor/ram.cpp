#include "hypervisor/ram.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <optional>

#include "hypervisor/discover.h"

namespace underseer::hypervisor {

namespace {

using guest_memory::RamSlice;

constexpr std::uint64_t kFourGiB = 1ull << 32;
constexpr std::uint64_t kRamAlignment = 2u << 20, kMostMergedBytes = 64u << 20;

struct Mapping {
    std::uint64_t begin = 0, end = 0, offset = 0, inode = 0;
    bool writable = false, shared = false;
    std::string device;  // "major:minor" in hexadecimal
    std::string path;
    std::uint64_t size() const { return end - begin; }
};

std::uint64_t take_number(std::string_view& text, int base) {
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
    if (!text.empty()) text.remove_prefix(1);
    return value;
}

// "begin-end perms offset dev:inode inode path" (Documentation/filesystems/proc.rst)
Mapping parse_mapping(std::string_view line) {
    Mapping mapping;
    mapping.begin = take_number(line, 16);
    mapping.end = take_number(line, 16);
    const std::string_view permissions = line.substr(0, std::min<std::size_t>(4, line.size()));
    mapping.writable = permissions.find('w') != std::string_view::npos;
    mapping.shared = permissions.find('s') != std::string_view::npos;
    line.remove_prefix(std::min<std::size_t>(5, line.size()));
    mapping.offset = take_number(line, 16);
    mapping.device = line.substr(0, std::min(line.find(' '), line.size()));
    line.remove_prefix(std::min(line.find(' ') + 1, line.size()));
    mapping.inode = take_number(line, 10);
    const std::size_t path = line.find_first_not_of(' ');
    if (path != std::string_view::npos) mapping.path = line.substr(path);
    return mapping;
}

// Writable mappings as they are, and each run of neighbours that continue each other as one more:
// madvise splits a block, and the kernel merges it with what happens to lie beside it.
std::vector<Mapping> parse_maps(std::string_view maps) {
    std::vector<Mapping> single, merged;
    while (!maps.empty()) {
        const std::size_t end = std::min(maps.find('\n'), maps.size());
        Mapping next = parse_mapping(maps.substr(0, end));
        maps.remove_prefix(std::min(end + 1, maps.size()));
        if (!next.writable) continue;
        const bool continues =
            !merged.empty() && merged.back().end == next.begin && merged.back().path == next.path &&
            merged.back().shared == next.shared && merged.back().inode == next.inode &&
            merged.back().device == next.device &&
            (next.inode == 0 || merged.back().offset + merged.back().size() == next.offset);
        if (continues) {
            merged.back().end = next.end;
        } else {
            merged.push_back(next);
        }
        single.push_back(std::move(next));
    }
    std::erase_if(merged, [&](const Mapping& run) {
        return std::ranges::any_of(single, [&](const Mapping& one) {
            return one.begin == run.begin && one.end == run.end;
        });
    });
    single.insert(single.end(), merged.begin(), merged.end());
    return single;
}

RamBacking kind_of(const Mapping& mapping) {
    if (mapping.inode == 0 || !mapping.shared) return RamBacking::anonymous;
    if (mapping.path.starts_with("/memfd:")) return RamBacking::shared_memfd;
    return RamBacking::shared_file;
}

// Whether a device of /proc/PID/maps is a hugetlbfs by /proc/PID/mountinfo, whose lines are "id
// parent major:minor root .. - type source options" (Documentation/filesystems/proc.rst, 3.5) with
// decimal numbers.
bool is_hugetlbfs(std::string_view mountinfo, std::string_view device) {
    const std::uint64_t major = take_number(device, 16), minor = take_number(device, 16);
    const std::string wanted = fmt::format(" {}:{} ", major, minor);
    while (!mountinfo.empty()) {
        const std::size_t end = std::min(mountinfo.find('\n'), mountinfo.size());
        const std::string_view line = mountinfo.substr(0, end);
        mountinfo.remove_prefix(std::min(end + 1, mountinfo.size()));
        const std::size_t type = line.find(" - hugetlbfs ");
        if (type != std::string_view::npos && line.substr(0, type).find(wanted) < 20) return true;
    }
    return false;
}

// A mapping for every RAM block, in block order; nothing when one is missing. Blocks of one size
// are told apart by the order in which QEMU made them: files by inode, anonymous memory downwards
// from the top of the address space. `reversed` is the second guess: tmpfs gives each CPU inode
// numbers of its own (mm/shmem.c, SHMEM_INO_BATCH), and addresses may be filled from below.
std::optional<std::vector<Mapping>> match_blocks(std::vector<Mapping> mappings, const Vm& vm,
                                                 bool reversed) {
    std::ranges::stable_sort(mappings, [&](const Mapping& a, const Mapping& b) {
        if (a.inode != b.inode && a.inode != 0 && b.inode != 0) {
            return reversed ? a.inode > b.inode : a.inode < b.inode;
        }
        return reversed ? a.begin < b.begin : a.begin > b.begin;
    });
    std::vector<Mapping> chosen;
    for (const RamBlock& block : vm.ram_blocks) {
        const std::uint64_t wanted = block.size_bytes != 0 ? block.size_bytes : vm.memory_bytes;
        const auto fits = [&](const Mapping& m) {
            const bool right_file = block.path.empty() || m.inode != 0;
            return right_file && m.shared == block.shared && m.size() == wanted;
        };
        auto found = std::ranges::find_if(mappings, fits);
        if (found == mappings.end()) {
            // Merged with its neighbours. QEMU aligns RAM to 2 MiB (QEMU_VMALLOC_ALIGN).
            found = std::ranges::find_if(mappings, [&](const Mapping& m) {
                const std::uint64_t begin = (m.begin + kRamAlignment - 1) & ~(kRamAlignment - 1);
                return m.inode == 0 && !block.shared && m.size() < wanted + kMostMergedBytes &&
                       begin < m.end && m.end - begin >= wanted;
            });
            if (found != mappings.end()) {
                found->begin = (found->begin + kRamAlignment - 1) & ~(kRamAlignment - 1);
            }
        }
        if (found == mappings.end()) return std::nullopt;
        chosen.push_back(*found);
        mappings.erase(found);
    }
    return chosen;
}

// Cuts the RAM, one block after the other, at the PCI hole.
std::vector<RamSlice> lay_out(const Vm& vm, const std::vector<Mapping>& blocks, bool by_address) {
    std::uint64_t total = 0;
    for (std::size_t i = 0; i < blocks.size(); ++i) {
        total += vm.ram_blocks[i].size_bytes != 0 ? vm.ram_blocks[i].size_bytes : vm.memory_bytes;
    }
    const std::uint64_t below = ram_below_4g(vm, total);
    std::vector<RamSlice> slices;
    std::uint64_t ram_offset = 0;
    for (std::size_t i = 0; i < blocks.size(); ++i) {
        std::uint64_t size =
            vm.ram_blocks[i].size_bytes != 0 ? vm.ram_blocks[i].size_bytes : vm.memory_bytes;
        std::uint64_t at = by_address ? blocks[i].begin : blocks[i].offset;
        const std::uint32_t source = by_address ? 0 : static_cast<std::uint32_t>(i);
        if (ram_offset < below && ram_offset + size > below) {
            const std::uint64_t part = below - ram_offset;
            slices.push_back({GuestPhys{ram_offset}, part, source, at});
            ram_offset += part;
            at += part;
            size -= part;
        }
        const std::uint64_t begin =
            ram_offset < below ? ram_offset : kFourGiB + (ram_offset - below);
        slices.push_back({GuestPhys{begin}, size, source, at});
        ram_offset += size;
    }
    return slices;
}

// The fd of the VMM's for a regular file with that inode; "" when it has none. `device`: "" for
// any: another file system may have a file of the same number.
std::string find_fd(pid_t pid, const Mapping& mapping, const std::string& device) {
    namespace fs = std::filesystem;
    std::error_code error;
    for (fs::directory_iterator entry(fmt::format("/proc/{}/fd", pid), error), end;
         !error && entry != end; entry.increment(error)) {
        struct stat status{};
        if (::stat(entry->path().c_str(), &status) != 0) continue;
        if (status.st_ino != mapping.inode || !S_ISREG(status.st_mode)) continue;
        // As show_vma_header_prefix() writes it (fs/proc/task_mmu.c).
        const auto its = fmt::format("{:02x}:{:02x}", major(status.st_dev), minor(status.st_dev));
        if (device.empty() || its == device) return entry->path();
    }
    return "";
}

// A file behind a mapping, by one of the VMM's own fds for it: no path is followed.
Result<Fd> open_mapped_file(pid_t pid, const Mapping& mapping) {
    if (const auto fd = find_fd(pid, mapping, mapping.device); !fd.empty()) {
        return open_file(fd, O_RDONLY);
    }
    // QEMU closes a file backend's fd in some versions; the mapping itself is a way to it.
    auto file = open_file(
        fmt::format("/proc/{}/map_files/{:x}-{:x}", pid, mapping.begin, mapping.end), O_RDONLY);
    if (file.has_value()) return file;
    // Some file systems (btrfs, overlayfs) tell stat(2) another device than the mappings.
    const auto fd = find_fd(pid, mapping, "");
    return fd.empty() ? std::move(file) : open_file(fd, O_RDONLY);
}

}  // namespace

std::string_view to_string(RamBacking backing) {
    switch (backing) {
        case RamBacking::unknown:
            return "unknown";
        case RamBacking::shared_memfd:
            return "shared memfd";
        case RamBacking::shared_file:
            return "shared file";
        case RamBacking::hugetlbfs:
            return "hugetlbfs";
        case RamBacking::anonymous:
            return "private";
    }
    return "unknown";
}

std::uint64_t ram_below_4g(const Vm& vm, std::uint64_t total) {
    std::uint64_t low = 0;
    if (vm.machine == "q35") {
        low = total >= 0xb0000000 ? 0x80000000 : 0xb0000000;
    } else if (vm.machine == "microvm") {
        low = 0xc0000000;
    } else {
        low = total >= 0xe0000000 ? 0xc0000000 : 0xe0000000;
    }
    if (vm.max_ram_below_4g && *vm.max_ram_below_4g != 0) low = std::min(low, *vm.max_ram_below_4g);
    return std::min(low, total);
}

RamBacking backing_of(std::string_view maps, const Vm& vm, std::string_view mountinfo) {
    const auto blocks = match_blocks(parse_maps(maps), vm, /*reversed=*/false);
    if (!blocks) return RamBacking::unknown;
    const RamBacking kind = kind_of(blocks->front());
    const bool huge =
        kind == RamBacking::shared_file && is_hugetlbfs(mountinfo, blocks->front().device);
    return huge ? RamBacking::hugetlbfs : kind;
}

Result<std::vector<RamSlice>> private_layout(std::string_view maps, const Vm& vm) {
    const auto blocks = match_blocks(parse_maps(maps), vm, /*reversed=*/false);
    if (!blocks) return fail(Code::unavailable, "no mapping is as large as the RAM");
    return lay_out(vm, *blocks, /*by_address=*/true);
}

Result<OpenRam> open_ram(const Vm& vm) {
    const std::string proc = fmt::format("/proc/{}", vm.pid);
    const auto gone = [&] {
        return fail(Code::gone, fmt::format("the VM {} has ended", vm.label()));
    };
    // Opened first: as long as it has not ended, everything under its pid is its own.
    Fd vmm(static_cast<int>(::syscall(SYS_pidfd_open, vm.pid, 0)));
    if (!vmm) {
        if (errno == ESRCH) return gone();
        return fail(os_error(fmt::format("watching the VM {}", vm.label())));
    }
    const auto maps = read_file(proc + "/maps", 64u << 20);
    const auto now = discover();
    const bool same = now.has_value() && std::ranges::any_of(now->vms, [&](const Vm& other) {
                          return other.pid == vm.pid && other.start_ticks == vm.start_ticks;
                      });
    if (!same) return gone();
    if (!maps.has_value()) {
        return fail(Code::permission,
                    fmt::format("the VM {}: {}", vm.label(),
                                explain_denial(maps.error().os_errno, access_to(vm.user))));
    }
    const auto mappings = parse_maps(*maps);
    OpenRam ram;
    ram.vmm = std::move(vmm);
    std::vector<std::uint64_t> opened;  // where the files of ram.fds are mapped
    for (const bool reversed : {false, true}) {
        const auto blocks = match_blocks(mappings, vm, reversed);
        if (!blocks) {
            return fail(Code::unavailable,
                        fmt::format("no mapping of the VM {} is as large as its RAM; if it has "
                                    "just been started, try again",
                                    vm.label()));
        }
        const bool by_address = kind_of(blocks->front()) == RamBacking::anonymous;
        if (ram.fds.empty() && by_address) {
            auto memory = open_file(proc + "/mem", O_RDONLY);
            if (!memory.has_value()) {
                if (memory.error().code == Code::not_found) return gone();
                return fail(Code::permission, fmt::format("the VM {}: {}", vm.label(),
                                                          explain_denial(memory.error().os_errno,
                                                                         access_to(vm.user))));
            }
            ram.fds.push_back(std::move(*memory));
        }
        if (ram.fds.empty()) {
            for (const Mapping& block : *blocks) {
                ram.fds.push_back(TRY(open_mapped_file(vm.pid, block)));
                opened.push_back(block.begin);
            }
        }
        auto layout = lay_out(vm, *blocks, by_address);
        // Block by block in the first guess; the same files in another order in the second.
        for (RamSlice& slice : layout) {
            if (by_address) break;
            const auto place = std::ranges::find(opened, (*blocks)[slice.source].begin);
            if (place == opened.end()) return gone();  // they were looked for in the same list
            slice.source = static_cast<std::uint32_t>(place - opened.begin());
        }
        if (ram.layouts.empty() || layout != ram.layouts.front()) {
            ram.layouts.push_back(std::move(layout));
        }
    }
    pollfd ended{ram.vmm.get(), POLLIN, 0};
    if (::poll(&ended, 1, 0) != 0) return gone();
    return ram;
}

}  // namespace underseer::hypervisor
