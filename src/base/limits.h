// Every bound on foreign data in one place. Each says why it has its value; whoever hits one
// reports it (Code::limit, or a coverage gap), never ends silently.
#pragma once

#include <cstddef>
#include <cstdint>

namespace underseer::limits {

// ---- guest kernels -------------------------------------------------------------------------
// PID_MAX_LIMIT is 4 Mi on 64-bit Linux (include/linux/threads.h); a list that is longer is a lie.
inline constexpr std::size_t kMaxTasks = 4u << 20;
// A kernel list with no bound of its own (modules, mounts, sockets, ..).
inline constexpr std::size_t kMaxListSteps = 1u << 20;
// fs.nr_open's default is 1 Mi (include/linux/fs.h, sysctl_nr_open).
inline constexpr std::size_t kMaxFdsPerProcess = 1u << 20;
// vm.max_map_count is 65,530 by default and 1 Mi on desktops that raise it.
inline constexpr std::size_t kMaxVmasPerProcess = 1u << 20;
// PATH_MAX, and the most directory levels that it can hold.
inline constexpr std::size_t kMaxPathBytes = 4096;
inline constexpr std::size_t kMaxPathDepth = 2048;
// The kernel caps one process's argv + environ at 6 MiB (fs/exec.c); people read far less.
inline constexpr std::size_t kMaxArgvBytes = 128u << 10;
// Depth of an xarray/radix tree: 64-bit index, 6 bits a level, plus slack for a maple tree.
inline constexpr std::size_t kMaxTreeDepth = 12;
// pid namespaces nest 32 deep (include/linux/pid_namespace.h, MAX_PID_NS_LEVEL).
inline constexpr std::size_t kMaxPidNamespaceLevel = 32;

// ---- finding the kernel --------------------------------------------------------------------
// KERNEL_IMAGE_SIZE is 1 GiB with KASLR (arch/x86/include/asm/page_64_types.h).
inline constexpr std::size_t kMaxKernelImageBytes = 1u << 30;
// The largest vmlinux BTF seen is 7 MB; a distribution debug kernel stays below 16.
inline constexpr std::size_t kMaxBtfBytes = 64u << 20;
inline constexpr std::size_t kMaxBtfTypes = 1u << 20;
// A distribution kernel has 100k to 250k symbols; allyesconfig about 1.2 M.
inline constexpr std::size_t kMaxKernelSymbols = 4u << 20;
// KSYM_NAME_LEN is 512 since 6.1 (include/linux/kallsyms.h).
inline constexpr std::size_t kMaxSymbolNameBytes = 1024;

// ---- processes of ours talking to each other -----------------------------------------------
// One frame between a worker and the agent; the biggest is a full process listing, sent in parts.
inline constexpr std::size_t kMaxFrameBytes = 1u << 20;

}  // namespace underseer::limits
