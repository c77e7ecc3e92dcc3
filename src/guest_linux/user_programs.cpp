#include "guest_linux/user_programs.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/limits.h"

namespace underseer::guest_linux {

namespace {

constexpr std::string_view kVdsoPath = "[vdso]";
constexpr std::size_t kMaxRows = 1u << 14;  // kept of all programs
// Areas of one file: a linker maps each in some five.
constexpr std::size_t kMaxPieces = 16;

}  // namespace

// A stack is copied page by page as it is needed, each page once.
class UserPrograms::StackPages {
  public:
    StackPages(guest_memory::GuestMemory* memory, AddressSpace space)
        : memory_(memory), space_(space) {}

    Result<std::uint64_t> word(GuestVirt at) {
        std::uint64_t value = 0;
        const std::uint64_t in_page = at.value % kPageSize;
        if (in_page > kPageSize - sizeof value) {
            return fail(Code::malformed, fmt::format("{:#x} is no place of a stack", at.value));
        }
        const Page* page = TRY(page_at(at - in_page));
        std::memcpy(&value, page->data() + in_page, sizeof value);
        return value;
    }

  private:
    Result<const Page*> page_at(GuestVirt at) {
        const auto known = pages_.find(at.value);
        if (known != pages_.end()) return known->second.get();
        if (pages_.size() == limits::kMaxUserStackPages) {
            return fail(Code::limit,
                        fmt::format("the stack has more than {} pages", pages_.size()));
        }
        const auto found = guest_linux::translate(*memory_, space_, at);
        if (!found.has_value()) {
            return fail(Code::unavailable,
                        fmt::format("the stack at {:#x} is not in memory", at.value));
        }
        auto page = std::make_unique<Page>();
        TRY(memory_->read(found->phys, *page));
        return pages_.emplace(at.value, std::move(page)).first->second.get();
    }

    guest_memory::GuestMemory* memory_;
    AddressSpace space_;
    std::unordered_map<std::uint64_t, std::unique_ptr<Page>> pages_;
};

UserPrograms::UserPrograms(Kernel* kernel, guest_memory::GuestMemory* live)
    : kernel_(kernel),
      live_(live),
      cache_(kernel),
      index_bytes_left_(limits::kMaxTracedIndexBytes) {}

void UserPrograms::look_at(std::optional<UserMemory::Process> process) {
    process_ = std::move(process);
    pieces_.clear();
    if (!process_) return;
    std::ranges::sort(process_->areas.items, {},
                      [](const UserMemory::Area& area) { return area.vma.begin; });
    for (const UserMemory::Area& area : process_->areas.items) {
        if (!area.file && area.vma.path != kVdsoPath) continue;
        auto& pieces = pieces_[key_of(area)];
        if (pieces.size() < kMaxPieces) pieces.push_back(&area);
    }
    // Of what was read and is something else nothing more can become known.
    const auto may_change = [](const auto& result) {
        if (result.has_value()) return false;
        const Code code = result.error().code;
        return code != Code::not_found && code != Code::malformed && code != Code::unsupported;
    };
    for (auto& [key, program] : programs_) {
        if (program->image && may_change(*program->image)) program->image.reset();
        if (program->frames && may_change(*program->frames)) program->frames.reset();
        rows_ -=
            std::erase_if(program->rows, [&](const auto& row) { return may_change(row.second); });
    }
}

const UserMemory::Area* UserPrograms::area_at(GuestVirt at) const {
    if (!process_) return nullptr;
    const auto& areas = process_->areas.items;
    const auto after = std::ranges::upper_bound(
        areas, at.value, {}, [](const UserMemory::Area& area) { return area.vma.begin; });
    if (after == areas.begin() || at.value >= std::prev(after)->vma.end) return nullptr;
    return &*std::prev(after);
}

UserStack UserPrograms::stack_of(const UserRegisters& registers) {
    if (!process_) return {.frames = {{registers.code}}, .ended = "its memory is not known"};
    StackPages stack(live_, process_->space);
    walk_bytes_left_ = limits::kMaxCfiBytesOfWalk;
    is_fresh_ = false;
    const UnwindUserBy by{.is_code =
                              [&](GuestVirt at) {
                                  const UserMemory::Area* area = area_at(at);
                                  return area != nullptr &&
                                         area->vma.permissions.find('x') != std::string::npos;
                              },
                          .find = [&](GuestVirt at) { return row_at(at); },
                          .word = [&](GuestVirt at) { return stack.word(at); }};
    UserStack walked = walk_user_stack(registers, by);
    if (!walked.ended.empty() && process_->areas.unreadable != 0) {
        walked.ended += "; not all that the process has mapped is known";
    }
    return walked;
}

UserPrograms::Place UserPrograms::place_of(const UserFrame& frame) {
    const UserMemory::Area* area = area_at(frame.executed());
    if (area == nullptr) return {};
    Place place{.file = area->vma.path,
                .offset_bytes = frame.code.value - area->vma.begin + area->vma.offset_bytes};
    is_fresh_ = false;
    walk_bytes_left_ = limits::kMaxCfiBytesOfWalk;
    const auto code = code_at(frame.executed());
    if (!code.has_value()) return place;
    const ElfSymbols& symbols = symbols_of(*code);
    std::optional<ElfSymbols::Bounds> bounds;
    bool is_signal = false;
    if (const auto row = row_at(frame.executed()); row.has_value()) {
        bounds = {(*row)->begin, (*row)->end};
        is_signal = (*row)->is_signal;
    }
    // What a signal's handler returns to begins there, and has called nobody.
    const bool is_at_begin = is_signal && frame.is_caller;
    const std::uint64_t address = is_at_begin ? code->address + 1 : code->address;
    const auto found = symbols.find(file_of(*code->program), address, bounds);
    if (found.has_value()) {
        const std::uint64_t offset =
            found->offset_bytes + (frame.is_caller && !is_at_begin ? 1 : 0);
        place.symbol = fmt::format("{}+{:#x}", found->name, offset);
    }
    return place;
}

std::vector<UserPrograms::Function> UserPrograms::functions(
    const std::function<bool(std::string_view)>& is_file_wanted,
    const std::function<bool(std::string_view)>& is_wanted, Gaps& gaps) {
    std::vector<Function> found;
    for (const auto& [key, pieces] : pieces_) {
        const auto executable = std::ranges::find_if(pieces, [](const UserMemory::Area* area) {
            return area->vma.permissions.find('x') != std::string::npos;
        });
        if (executable == pieces.end() || !is_file_wanted((*executable)->vma.path)) continue;
        const std::string& path = (*executable)->vma.path;
        is_fresh_ = false;
        const auto code = code_at(GuestVirt{(*executable)->vma.begin});
        if (!code.has_value()) {
            gaps.add(path, code.error());
            continue;
        }
        std::uint64_t unread = 0;
        const auto named = symbols_of(*code).functions(file_of(*code->program), is_wanted, unread);
        for (const ElfSymbols::Function& one : named) {
            found.push_back({path, one.name, GuestVirt{code->bias + one.address}});
        }
        if (unread > 0) {
            gaps.add(path, {Code::unavailable, 0,
                            fmt::format("the names of {} symbols are not in memory", unread)});
        }
    }
    return found;
}

UserPrograms::FileKey UserPrograms::key_of(const UserMemory::Area& area) {
    return {area.file.value, area.vma.inode, area.vma.device_major, area.vma.device_minor};
}

Result<UserPrograms::Program*> UserPrograms::program_of(const UserMemory::Area& area) {
    if (!area.file && area.vma.path != kVdsoPath) {
        return fail(Code::not_found, "there is no file behind it");
    }
    auto known = programs_.find(key_of(area));
    if (known == programs_.end()) {
        if (programs_.size() == limits::kMaxTracedFiles) {
            return fail(Code::limit, fmt::format("more than {} programs and libraries",
                                                 limits::kMaxTracedFiles));
        }
        known = programs_.emplace(key_of(area), std::make_unique<Program>()).first;
    }
    Program& program = *known->second;
    program.area = area;
    if (!program.image) program.image = ElfImage::of(file_of(program));
    return &program;
}

Result<UserPrograms::CodePlace> UserPrograms::code_at(GuestVirt at) {
    const UserMemory::Area* area = area_at(at);
    if (area == nullptr) return fail(Code::not_found, "nothing is mapped there");
    Program* program = TRY(program_of(*area));
    if (!program->image->has_value()) {
        const Error& error = program->image->error();
        // What is no ELF file has no unwind information; of one that cannot be read that is not
        // known.
        const bool is_other = error.code == Code::malformed || error.code == Code::unsupported;
        return fail(is_other ? Code::not_found : error.code,
                    fmt::format("{}: {}", area->vma.path, error.message));
    }
    const auto address =
        (*program->image)->code_at(area->vma.offset_bytes + (at.value - area->vma.begin));
    if (!address) {
        return fail(Code::not_found, fmt::format("{} has no code there", area->vma.path));
    }
    return CodePlace{program, *address, at.value - *address};
}

const ElfSymbols& UserPrograms::symbols_of(const CodePlace& code) {
    Program& program = *code.program;
    if (!program.symbols) {
        program.symbols =
            ElfSymbols::of(**program.image, file_of(program), code.bias, index_bytes_left_);
        is_cut_ |= program.symbols->is_cut();
    }
    return *program.symbols;
}

Result<const UnwindRow*> UserPrograms::row_at(GuestVirt at) {
    const CodePlace code = TRY(code_at(at));
    Program& program = *code.program;
    if (const auto known = program.rows.find(code.address); known != program.rows.end()) {
        if (!known->second.has_value()) return fail(known->second.error());
        return &*known->second;
    }
    if (rows_ == kMaxRows) {
        for (auto& [key, one] : programs_) one->rows.clear();
        rows_ = 0;
    }
    const ElfImage& image = **program.image;
    const ReadFile read = file_of(program);
    if (!program.frames) program.frames = image.call_frame_info(read, index_bytes_left_);
    if (!program.frames->has_value()) return fail(program.frames->error());
    const ReadImage read_image = [&](std::uint64_t address, MutableBytes into) {
        return image.read(read, address, into);
    };
    auto row = (*program.frames)->row_at(read_image, code.address, walk_bytes_left_);
    ++rows_;
    const auto& kept = program.rows.emplace(code.address, std::move(row)).first->second;
    if (!kept.has_value()) return fail(kept.error());
    return &*kept;
}

ReadFile UserPrograms::file_of(Program& program) {
    return [this, &program](std::uint64_t offset, MutableBytes into) -> Result<void> {
        while (!into.empty()) {
            const std::uint64_t in_page = offset % kPageSize;
            const Page* page = TRY(page_of(program, offset / kPageSize));
            const std::size_t bytes = std::min<std::size_t>(into.size(), kPageSize - in_page);
            std::memcpy(into.data(), page->data() + in_page, bytes);
            into = into.subspan(bytes);
            offset += bytes;
        }
        return {};
    };
}

Result<const UserPrograms::Page*> UserPrograms::page_of(Program& program, std::uint64_t index) {
    const auto known = program.pages.find(index);
    if (known != program.pages.end()) return known->second.get();
    auto page = std::make_unique<Page>();
    TRY(copy_page(program, index, *page));
    if (pages_ == limits::kMaxTracedFilePages) {
        for (auto& [key, one] : programs_) one->pages.clear();
        pages_ = 0;
    }
    ++pages_;
    return program.pages.emplace(index, std::move(page)).first->second.get();
}

Result<void> UserPrograms::copy_page(const Program& program, std::uint64_t index, Page& page) {
    // A page of the cache that is given to another file meanwhile must not be taken for this one's:
    // where it is is not older than this call.
    if (!is_fresh_) kernel_->new_epoch();
    is_fresh_ = true;
    const auto cached = page_of_file(program, index);
    if (cached.has_value() && *cached) return live_->read(**cached, page);
    // The process has it still as a copy of its own.
    const auto pieces = pieces_.find(key_of(program.area));
    if (pieces != pieces_.end()) {
        for (const UserMemory::Area* area : pieces->second) {
            const std::uint64_t first = area->vma.offset_bytes / kPageSize;
            const std::uint64_t pages = (area->vma.end - area->vma.begin) / kPageSize;
            if (index < first || index - first >= pages) continue;
            const auto own = guest_linux::translate(
                *live_, process_->space, GuestVirt{area->vma.begin} + (index - first) * kPageSize);
            if (own.has_value()) return live_->read(own->phys, page);
        }
    }
    return fail(Code::unavailable, fmt::format("{} is not in memory from {:#x} on",
                                               program.area.vma.path, index * kPageSize));
}

Result<std::optional<GuestPhys>> UserPrograms::page_of_file(const Program& program,
                                                            std::uint64_t index) {
    if (program.area.file) return cache_.page_of(program.area.file, index);
    auto vdso = TRY(ProcessVdso::read(*kernel_, process_->mm));
    return vdso.page_at(GuestVirt{program.area.vma.begin} + index * kPageSize);
}

}  // namespace underseer::guest_linux
