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
// Those of the kernel's half of an address space: RAM mapped page by page has one for each 2 MiB of
// it, so this is 128 GiB of that, and a quarter of a GiB to read.
inline constexpr std::uint64_t kMaxPageTables = 64u << 10;
// Pages of files that processes have mapped to be executed, each process's counted: 32 GiB.
inline constexpr std::uint64_t kMaxCodePages = 1u << 23;
// And the page tables that are read to find them, each area's counted.
inline constexpr std::uint64_t kMaxCodePageTables = 1u << 22;
// Hooks of one kernel: a distribution's has some 2,000, most of them timers and tables' functions.
inline constexpr std::size_t kMaxHooks = 1u << 17;
// Functions that one hook of ftrace is at, and are told by name; bpftrace sets some thousand.
inline constexpr std::size_t kMaxHookedFunctions = 4096;
// A host with many containers and a tracing agent has some thousand BPF programs; so many of them,
// of maps, of links and of places where programs are attached. A program has at most a million
// instructions (BPF_COMPLEXITY_LIMIT_INSNS).
inline constexpr std::size_t kMaxBpfObjects = 1u << 17;
inline constexpr std::size_t kMaxBpfInstructions = 1u << 20;
inline constexpr std::size_t kMaxBpfInstructionsOfAll = 1u << 26;
// Places that lead out of the kernel; one is a finding, and a report tells a hundred.
inline constexpr std::size_t kMaxWaysOut = 1000;
// Chains of one table of sockets; the kernel's own bound is half a million (net/ipv4/tcp.c).
inline constexpr std::size_t kMaxSocketChains = 1u << 20;
// Sockets of all tables together, those counted that are in two.
inline constexpr std::size_t kMaxHashedSockets = 1u << 22;
// Bytes of code that look like such a place: each is decoded from its function's begin on.
inline constexpr std::size_t kMaxSuspectedWaysOut = 4096;
// Entries of /proc, those of all network namespaces included (some 250 each), and their depth.
inline constexpr std::size_t kMaxProcEntries = 1u << 17;
inline constexpr unsigned kMaxProcDepth = 16;
// One look at a guest, which is one answer: what no bound of a single list keeps short (a million
// descriptors in each of a million processes). `ps` makes some 250 reads of each process, so this
// is a quarter of a million processes; it takes some seconds, or a minute when every page is
// another.
inline constexpr std::uint64_t kMaxReadsOfLook = 64u << 20;
// Files and mappings in one answer: some 250 MB in a worker that has 1 GiB.
inline constexpr std::size_t kMaxListedItems = 1u << 20;
// Command lines and environments in one answer; ten thousand processes usually have 2 MB.
inline constexpr std::size_t kMaxTaskTextBytes = 64u << 20;
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
// VMCOREINFO_BYTES is a page (include/linux/vmcore_info.h).
inline constexpr std::size_t kMaxVmcoreInfoBytes = 4096;
// Pages that the image's data points to and that are looked at for it; distribution kernels have
// some hundreds.
inline constexpr std::size_t kMaxVmcoreInfoCandidates = 1u << 14;

// As an ISF a distribution kernel has some 20 MB; one with everything in it about 100.
inline constexpr std::size_t kMaxSymbolFileBytes = 256u << 20;

// ---- images of memory ------------------------------------------------------------------------
// A machine has some ten ranges of RAM; AVML makes one of every 16 MiB, so this is 1 TiB.
inline constexpr std::size_t kMaxImageRanges = 1u << 16;
// ELF notes of an image: QEMU writes some 900 bytes for each CPU.
inline constexpr std::size_t kMaxNoteBytes = 1u << 20;
// AVML's snappy chunks have 64 KiB each, so this is 512 GiB. The index takes 24 bytes a chunk.
inline constexpr std::size_t kMaxAvmlChunks = 8u << 20;
// QEMU writes pieces of 16 KiB, so this is 64 GiB of compressed pages. Sorting takes 80 bytes each.
inline constexpr std::size_t kMaxFlattenedPieces = 4u << 20;
// 2 TiB of guest; the bitmap of its pages takes 64 MiB.
inline constexpr std::uint64_t kMaxDumpPages = 1ull << 29;

// ---- processes of ours talking to each other -----------------------------------------------
// One frame between a worker and the agent; the biggest is a full process listing, sent in parts.
inline constexpr std::size_t kMaxFrameBytes = 1u << 20;
// A report is one frame, whatever a guest hides: the findings that it tells one by one, and how
// much of a command line each shows. Besides that and its exe path, a finding has less than 2 KiB.
inline constexpr std::size_t kMaxFindingsOfReport = 100;
inline constexpr std::size_t kMaxEvidenceTextBytes = 2048;
static_assert(kMaxFindingsOfReport * (kMaxPathBytes + kMaxEvidenceTextBytes + 2048) <
              kMaxFrameBytes);
// What happened in a guest and is to be logged: of one look, and of each text of it. The rest is
// counted.
inline constexpr std::size_t kMaxActivitiesOfReport = 200;
inline constexpr std::size_t kMaxActivityTextBytes = 512;
static_assert(kMaxActivitiesOfReport * (8 * kMaxActivityTextBytes + 512) < kMaxFrameBytes);
// Of a guest's memory that a policy wants watched in addition: one region, and all of one guest.
inline constexpr std::size_t kMaxMonitoredBytes = 64u << 10;
inline constexpr std::size_t kMaxMonitoredRegions = 64;

// ---- JSON that others write (QMP replies, container runtimes, log headers) -------------------
// The largest known reply, a QMP query-qmp-schema, has 0.3 MB.
inline constexpr std::size_t kMaxJsonBytes = 16u << 20;
inline constexpr std::size_t kMaxJsonDepth = 64;

// ---- what manages a VM (QMP, libvirt) --------------------------------------------------------
// The largest reply that is asked for, the registers of 1024 CPUs, has 2.6 MB. Events may come
// in between; a monitor that sends nothing else is given up.
inline constexpr std::size_t kMaxQmpLineBytes = 4u << 20;
inline constexpr std::size_t kMaxQmpBytes = 8u << 20;
inline constexpr std::size_t kMaxQmpEvents = 256;
inline constexpr std::size_t kMaxToldCpus = 1024;
// Of one VM; more are not believed.
inline constexpr std::size_t kMaxLabels = 64;
// -object and -numa together name fewer; QEMU itself takes at most 128 NUMA nodes (MAX_NODES).
inline constexpr std::size_t kMaxRamBackends = 1024;
inline constexpr std::size_t kMaxNetworkCards = 256;
// A domain's XML has some 10 KB; one with a hundred devices 100 KB. A host runs some hundred VMs.
inline constexpr std::size_t kMaxDomainXmlBytes = 4u << 20;
inline constexpr std::size_t kMaxDomains = 4096;
// A name, an id, a state: what is longer is cut where it comes in.
inline constexpr std::size_t kMaxManagerTextBytes = 1024;
// A packet of QEMU's GDB server: the registers of a CPU, in hexadecimal digits, have 1.2 KB. And
// what may come between two of them (acknowledgements).
inline constexpr std::size_t kMaxGdbPacketBytes = 16u << 10;
inline constexpr std::size_t kMaxGdbBytesBetween = 64;

// ---- event log -------------------------------------------------------------------------------
// A batch is signed as a whole and verified in memory: bounded in events and in bytes, newlines
// included. One event must fit into one batch.
inline constexpr std::size_t kMaxBatchEvents = 1024;
inline constexpr std::size_t kMaxBatchBytes = 1u << 20;
inline constexpr std::size_t kMaxEventBytes = kMaxBatchBytes - 1;
// Sources whose dropped events are counted by name; more are counted together. Together with the
// fixed fields they fit into one line of the chain.
inline constexpr std::size_t kMaxDropSources = 64;
inline constexpr std::size_t kMaxDropSourceBytes = 64;
inline constexpr std::size_t kMaxChainLineBytes = 32u << 10;
static_assert(kMaxDropSources * (6 * kMaxDropSourceBytes + 24) + 2048 < kMaxChainLineBytes,
              "escaping makes six characters of a byte, a count has at most 20 digits");

// ---- kernels as their makers have built them ------------------------------------------------
// A distribution's package has some 100 MB, its kernel unpacked 70; one with everything built in
// has 300.
inline constexpr std::size_t kMaxKernelPackageBytes = 512u << 20;
inline constexpr std::size_t kMaxKernelFileBytes = 384u << 20;
inline constexpr std::size_t kMaxKernelTextBytes = 128u << 20;
inline constexpr std::size_t kMaxBaselineBytes = 64u << 20;
// Places that it alters when it starts; a distribution's has some 90,000.
inline constexpr std::size_t kMaxStartPatches = 1u << 20;
// A package has some 5,000 files, most of them modules.
inline constexpr std::size_t kMaxArchiveEntries = 1u << 17;

// ---- programs as their packages have them ----------------------------------------------------
// Of all packages that are kept for one agent: a hash takes 16 bytes, so this is 4 GiB of programs.
// A whole server of Debian has some 100,000 pages: 2 MB.
inline constexpr std::size_t kMaxProgramSetBytes = 16u << 20;
inline constexpr std::size_t kMaxProgramSets = 4096;
// One package has at most some 2,000; a browser's largest library has 200 MB.
inline constexpr std::size_t kMaxProgramsOfSet = 16u << 10;
inline constexpr std::size_t kMaxPackageControlBytes = 1u << 20;
inline constexpr std::size_t kMaxProgramFileBytes = 384u << 20;
// Of one ELF file: those with its build id have 4; one that has more has no room for a program.
inline constexpr std::size_t kMaxElfNoteSegments = 16;
inline constexpr std::size_t kMaxElfNoteBytes = 4096;
// Files that a guest's processes execute, and their pages that are compared in one look: 4 GiB, in
// some seconds where all have to be hashed.
inline constexpr std::size_t kMaxExecutedFiles = 16u << 10;
inline constexpr std::uint64_t kMaxProgramPages = 1u << 20;

// ---- YARA rules, and what they are scanned over ------------------------------------------------
// signature-base, which many use whole, has 743 files with 8.5 MB.
inline constexpr std::size_t kMaxRuleFiles = 16u << 10;
inline constexpr std::size_t kMaxRuleBytes = 64u << 20;
inline constexpr std::size_t kMaxRuleErrors = 50;
// Of one rule in one process or file: string matches that are looked at, and those that are told.
inline constexpr std::size_t kMaxStringMatches = 10'000;
inline constexpr std::size_t kMaxToldStrings = 32;
inline constexpr std::size_t kMaxExcerptBytes = 64;
// A rule of signature-base has at most some 20 lines of meta.
inline constexpr std::size_t kMaxRuleMeta = 32;
inline constexpr std::size_t kMaxRuleTextBytes = 512;
inline constexpr std::size_t kMaxToldGaps = 32;
// Matches of all processes that one scan tells; a rule that matches everywhere is a wrong rule.
inline constexpr std::size_t kMaxMemoryMatches = 10'000;
// Runs of pages of one file in the page cache: 16 GiB, if no two lie beside each other.
inline constexpr std::size_t kMaxFileRuns = 1u << 22;

// ---- traces of a process -----------------------------------------------------------------------
// Threads of one process that are sampled; those of a browser or a database are some hundred.
inline constexpr std::size_t kMaxTracedThreads = 512;
// Different moments of one process that are told apart: thread, system call, arguments and stack.
inline constexpr std::size_t kMaxTracedMoments = 2048;
// And how long all of them may be when they are told; one usually has 1 to 2 KB.
inline constexpr std::size_t kMaxToldMomentBytes = 32u << 20;
// Functions in one call stack of the kernel; deep ones (a file system on a stack of devices) have
// some 60. Places found where no table leads from one to the next are guesses, and told with them.
inline constexpr std::size_t kMaxStackFrames = 128;
// THREAD_SIZE is 16 KiB, 32 with KASAN (arch/x86/include/asm/page_64_types.h).
inline constexpr std::size_t kMaxKernelStackBytes = 32u << 10;
// Unwind entries of a kernel or module; a distribution kernel has some 700,000.
inline constexpr std::size_t kMaxUnwindEntries = 8u << 20;
inline constexpr std::size_t kMaxSyscallArgNameBytes = 32;
// Functions in one call stack of a program; interpreters nest deeper, and then it ends there.
inline constexpr std::size_t kMaxUserStackFrames = 256;
// Pages of a program's stack that one walk copies: 1 MiB.
inline constexpr std::size_t kMaxUserStackPages = 256;
// One entry of .eh_frame: some hundred bytes, of the largest functions some ten thousand. And all
// that one walk reads of them.
inline constexpr std::size_t kMaxCfiEntryBytes = 64u << 10;
inline constexpr std::size_t kMaxCfiBytesOfWalk = 512u << 10;
// A DWARF expression of unwind information has some ten bytes, and needs a stack of three words.
inline constexpr std::size_t kMaxCfiExpressionBytes = 128;
inline constexpr std::size_t kMaxCfiStack = 16;
// An ELF file has some 10 program headers and 40 sections; one with a section for each function is
// no program yet.
inline constexpr std::size_t kMaxElfSegments = 128;
inline constexpr std::size_t kMaxElfSections = 4096;
inline constexpr std::size_t kMaxElfDynamicEntries = 1024;
// Programs and libraries that a traced process has code of; a browser maps some 200.
inline constexpr std::size_t kMaxTracedFiles = 512;
// Pages of all of them that are kept at a time: 32 MiB.
inline constexpr std::size_t kMaxTracedFilePages = 8u << 10;
// What is read of all of them from end to end, and kept as an index: symbols, and unwind
// information without a table to search it by. A large static program has 20 MB of both.
inline constexpr std::uint64_t kMaxTracedIndexBytes = 128u << 20;

// System calls that one exact trace tells; and what it tells of memory that one of them points to:
// a string, and the strings of an array.
inline constexpr std::size_t kMaxExactCalls = 100'000;
inline constexpr std::size_t kMaxExactStringBytes = 256;
inline constexpr std::size_t kMaxExactStrings = 16;
// Calls that are out at one time: one a thread.
inline constexpr std::size_t kMaxPendingCalls = 4096;

// ---- Sigma rules -------------------------------------------------------------------------------
// SigmaHQ's longest has some 30 KB, and all 3,500 of them 9 MB.
inline constexpr std::size_t kMaxSigmaFileBytes = 256u << 10;
inline constexpr std::size_t kMaxSigmaFiles = 8192;
inline constexpr std::size_t kMaxSigmaBytes = 32u << 20;
// YAML nests some 5 deep in a rule, and has some 500 values.
inline constexpr std::size_t kMaxSigmaDepth = 32;
inline constexpr std::size_t kMaxSigmaValues = 16u << 10;
// Of one rule; what is longer takes too long over each process.
inline constexpr std::size_t kMaxSigmaPatterns = 1024;
inline constexpr std::size_t kMaxSigmaPatternBytes = 4096;
inline constexpr std::size_t kMaxSigmaSelections = 256;
inline constexpr std::size_t kMaxSigmaSteps = 1024;
// Of all rules; each may take so much memory when it is used.
inline constexpr std::size_t kMaxSigmaRegexes = 512;
inline constexpr std::int64_t kMaxSigmaRegexBytes = 512u << 10;
// A text of a rule that is told: its title, its description.
inline constexpr std::size_t kMaxSigmaTextBytes = 1024;
// All rules as they are handed on.
inline constexpr std::size_t kMaxSigmaFormBytes = 32u << 20;
// Bytes of events times patterns that they are compared with, in one look: a tenth of a second,
// some seconds where all are regular expressions. What is left over is told, and has its turn in
// the next look.
inline constexpr std::uint64_t kMaxSigmaWorkOfLook = 2ull << 30;

// ---- policy ------------------------------------------------------------------------------------
// A policy with a thousand suppressions has 0.2 MB.
inline constexpr std::size_t kMaxPolicyBytes = 1u << 20;

// ---- manifest of installed programs ----------------------------------------------------------
// The largest program of ours has 20 MB with its debug information; a package has some 50 files.
inline constexpr std::uint64_t kMaxManifestFileBytes = 1u << 30;
inline constexpr std::size_t kMaxManifestFiles = 10'000;
inline constexpr std::size_t kMaxManifestBytes = 16u << 20;

}  // namespace underseer::limits
