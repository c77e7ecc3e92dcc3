#include "guest_memory/elf_writer.h"

#include <elf.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>

namespace underseer::guest_memory {

namespace {

constexpr std::size_t kPiecePages = 256;

std::uint64_t round_up(std::uint64_t value) {
    return (value + kPageSize - 1) & kPageMask;
}

Result<void> write_at(int fd, Bytes bytes, std::uint64_t offset) {
    while (!bytes.empty()) {
        const ssize_t written =
            ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) return fail(os_error(fmt::format("writing at offset {:#x}", offset)));
        bytes = bytes.subspan(static_cast<std::size_t>(written));
        offset += static_cast<std::uint64_t>(written);
    }
    return {};
}

bool all_zero(Bytes bytes) {
    return bytes.empty() || (bytes[0] == std::byte{0} &&
                             std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

// Runs that become one PT_LOAD.
struct Segment {
    std::size_t first_run = 0, runs = 0;
    std::uint64_t size_bytes = 0;
};

std::vector<Segment> segments_of(std::span<const CoreRun> runs) {
    std::vector<Segment> segments;
    for (std::size_t i = 0; i < runs.size(); ++i) {
        if (i == 0 || !runs[i].follows(runs[i - 1])) segments.push_back({.first_run = i});
        ++segments.back().runs;
        segments.back().size_bytes += runs[i].size_bytes;
    }
    return segments;
}

// The headers and the notes, up to where the first segment begins.
std::vector<std::byte> head_of(std::span<const CoreRun> runs, std::span<const Segment> segments,
                               Bytes notes) {
    Elf64_Ehdr header{};
    std::ranges::copy(std::string_view(ELFMAG), header.e_ident);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_ident[EI_VERSION] = EV_CURRENT;
    header.e_type = ET_CORE;
    header.e_machine = EM_X86_64;
    header.e_version = EV_CURRENT;
    header.e_phoff = header.e_ehsize = sizeof header;
    header.e_phentsize = sizeof(Elf64_Phdr);
    const std::size_t count = segments.size() + (notes.empty() ? 0 : 1);
    header.e_phnum = static_cast<Elf64_Half>(count);
    const std::size_t notes_at = sizeof header + count * sizeof(Elf64_Phdr);
    std::vector<std::byte> bytes(round_up(notes_at + notes.size()));
    std::memcpy(bytes.data(), &header, sizeof header);
    std::size_t at = sizeof header;
    const auto add = [&](const Elf64_Phdr& program) {
        std::memcpy(bytes.data() + at, &program, sizeof program);
        at += sizeof program;
    };
    if (!notes.empty()) {
        std::ranges::copy(notes, bytes.begin() + static_cast<std::ptrdiff_t>(notes_at));
        add({.p_type = PT_NOTE,
             .p_flags = PF_R,
             .p_offset = notes_at,
             .p_filesz = notes.size(),
             .p_align = 4});
    }
    std::uint64_t offset = bytes.size();
    for (const Segment& segment : segments) {
        const CoreRun& first = runs[segment.first_run];
        add({.p_type = PT_LOAD,
             .p_flags = first.rights,
             .p_offset = offset,
             .p_vaddr = first.address,
             .p_paddr = first.phys.value == first.address ? first.address : 0,
             .p_filesz = segment.size_bytes,
             .p_memsz = segment.size_bytes});
        offset += round_up(segment.size_bytes);
    }
    return bytes;
}

class Writer {
  public:
    Writer(GuestMemory& memory, int fd)
        : memory_(memory), fd_(fd), buffer_(kPiecePages * kPageSize) {}

    // Copies from `at` on to `offset`, up to a piece and not beyond `end`. Returns how much.
    Result<std::uint64_t> copy(GuestPhys at, GuestPhys end, std::uint64_t offset) {
        std::size_t count = 0, size = 0;
        for (GuestPhys next = at; count < kPiecePages && next < end; ++count) {
            const std::uint64_t page_end = (next.value & kPageMask) + kPageSize;
            const std::uint64_t part = std::min(page_end, end.value) - next.value;
            ops_[count] = {next, std::span(buffer_).subspan(size, part)};
            size += part;
            next = next + part;
        }
        const auto ops = std::span(ops_).first(count);
        memory_.read_many(ops);
        // Pages that follow one another and have something in them are written together.
        std::size_t begin = 0, stored = 0;
        for (const ReadOp& op : ops) {
            note(op);
            if (op.status == ReadStatus::ok && !all_zero(op.into)) {
                stored += op.into.size();
                continue;
            }
            TRY(store(begin, stored, offset));
            begin += stored + op.into.size();
            stored = 0;
        }
        TRY(store(begin, stored, offset));
        return size;
    }

    ElfDump dump;

  private:
    Result<void> store(std::size_t begin, std::size_t size, std::uint64_t offset) {
        dump.stored_bytes += size;
        return write_at(fd_, Bytes(buffer_).subspan(begin, size), offset + begin);
    }

    void note(const ReadOp& op) {
        if (op.status == ReadStatus::ok) return;
        if (op.status != ReadStatus::failed) {
            ++dump.absent_pages;
            return;
        }
        if (dump.failed_pages++ != 0) return;
        dump.first_failed = op.from;
        dump.why = memory_.failure();
    }

    GuestMemory& memory_;
    int fd_;
    std::vector<std::byte> buffer_;
    std::array<ReadOp, kPiecePages> ops_;
};

}  // namespace

Result<ElfDump> write_elf_core(GuestMemory& memory, int fd, const Progress& progress) {
    std::vector<CoreRun> runs;
    for (const RamRegion& region : memory.regions()) {
        runs.push_back({region.begin.value, region.begin, region.size_bytes, PF_R | PF_W | PF_X});
    }
    return write_elf_core(memory, runs, {}, fd, progress);
}

Result<ElfDump> write_elf_core(GuestMemory& memory, std::span<const CoreRun> runs, Bytes notes,
                               int fd, const Progress& progress) {
    const auto segments = segments_of(runs);
    if (segments.size() + 1 >= PN_XNUM) {
        return fail(Code::limit, fmt::format("{} stretches of memory do not fit into an ELF core",
                                             segments.size()));
    }
    const auto head = head_of(runs, segments, notes);
    TRY(write_at(fd, head, 0));
    Writer writer(memory, fd);
    ElfDump& dump = writer.dump;
    dump.file_bytes = head.size();
    for (const CoreRun& run : runs) dump.ram_bytes += run.size_bytes;
    std::uint64_t done = 0;
    for (const Segment& segment : segments) {
        std::uint64_t offset = dump.file_bytes;
        for (const CoreRun& run : runs.subspan(segment.first_run, segment.runs)) {
            for (std::uint64_t at = 0; at < run.size_bytes;) {
                const std::uint64_t copied =
                    TRY(writer.copy(run.phys + at, run.phys + run.size_bytes, offset + at));
                at += copied;
                done += copied;
                if (!progress(done, dump.ram_bytes)) return fail(Code::gone, "the dump was ended");
            }
            offset += run.size_bytes;
        }
        dump.file_bytes += round_up(segment.size_bytes);
    }
    // What was left out at the end is a hole as well.
    if (::ftruncate(fd, static_cast<off_t>(dump.file_bytes)) != 0) {
        return fail(os_error(fmt::format("giving the dump its {} bytes", dump.file_bytes)));
    }
    return dump;
}

}  // namespace underseer::guest_memory
