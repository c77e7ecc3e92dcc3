#include "agent/memory_scan.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <functional>
#include <map>

#include "scan/scanner.h"

namespace underseer::agent {

namespace {

using guest_linux::Guest;
using guest_linux::PageRun;
using guest_linux::UserMemory;
using guest_memory::ReadOp;
using guest_memory::ReadStatus;
using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

// A question to a worker has 30 s: a step ends when this has passed, at the next process or file;
// what takes longer than a slice is judged in parts; and libyara is stopped in any case.
constexpr auto kStep = 1s;
constexpr auto kSlice = 4s;
constexpr auto kLongest = 20s;
constexpr std::uint64_t kBlockBytes = 16u << 20;
// Text and regular expressions of YARA match at most 8 and 4 KiB.
constexpr std::uint64_t kOverlapBytes = 64u << 10;
constexpr std::uint64_t kPagesAtOnce = 16u << 10;
constexpr std::uint64_t kReadBytes = 1u << 20;
constexpr std::size_t kPartBytes = 256u << 10;    // of matches in one answer, before the last
constexpr std::size_t kMaxKeptBytes = 64u << 20;  // of matches that wait for being told
constexpr std::size_t kOtherThreads = 8;          // tried where a process's first has ended
constexpr std::size_t kToldOfEach = 3;            // matches of one string in one region

// A stretch of memory or of a file: part of an area, or of the whole.
struct Stretch {
    std::uint64_t base = 0;
    GuestPhys phys;
    std::uint64_t size_bytes = 0;
    std::size_t area = 0;

    std::uint64_t end() const { return base + size_bytes; }
};

// What is to be scanned of one process or file, in ascending order. `more` appends what comes next,
// and says whether there was anything.
class Stretches {
  public:
    using More = std::function<bool(std::deque<Stretch>&)>;
    // More than `most_bytes` cannot be true; what is behind them is left out.
    Stretches(std::uint64_t most_bytes, More more) : left_(most_bytes), more_(std::move(more)) {}

    bool at_end() { return left_ == 0 || (waiting_.empty() && !refill()); }
    bool was_too_long() const { return left_ == 0; }

    // What hangs together, cut where it is longer than a block; what comes after a cut begins with
    // the end of what came before.
    std::vector<Stretch> next_block(std::uint64_t& new_bytes) {
        std::vector<Stretch> block = std::exchange(tail_, {});
        std::uint64_t size = 0;
        for (const Stretch& stretch : block) size += stretch.size_bytes;
        new_bytes = 0;
        while (size < kBlockBytes && !at_end()) {
            Stretch& first = waiting_.front();
            const bool hangs_on = block.empty() || (block.back().end() == first.base &&
                                                    block.back().area == first.area);
            if (!hangs_on) return block;
            Stretch taken = first;
            taken.size_bytes = std::min({first.size_bytes, kBlockBytes - size, left_});
            left_ -= taken.size_bytes;
            first.base += taken.size_bytes;
            first.phys = first.phys + taken.size_bytes;
            first.size_bytes -= taken.size_bytes;
            if (first.size_bytes == 0) waiting_.pop_front();
            size += taken.size_bytes;
            new_bytes += taken.size_bytes;
            block.push_back(taken);
        }
        if (!at_end() && block.back().end() == waiting_.front().base &&
            block.back().area == waiting_.front().area) {
            keep_tail(block);
        }
        return block;
    }

  private:
    bool refill() { return more_(waiting_); }
    void keep_tail(const std::vector<Stretch>& block) {
        std::uint64_t wanted = kOverlapBytes;
        for (std::size_t i = block.size(); i-- > 0 && wanted > 0;) {
            Stretch last = block[i];
            const std::uint64_t cut = last.size_bytes - std::min(last.size_bytes, wanted);
            last.base += cut;
            last.phys = last.phys + cut;
            last.size_bytes -= cut;
            wanted -= last.size_bytes;
            tail_.insert(tail_.begin(), last);
        }
    }

    std::uint64_t left_;
    More more_;
    std::deque<Stretch> waiting_;
    std::vector<Stretch> tail_;
};

// Blocks of it, until the time for one scan has passed.
class PagesContent final : public scan::Content {
  public:
    PagesContent(guest_memory::GuestMemory& memory, Stretches& stretches,
                 event::ScanCoverage& coverage)
        : memory_(memory), stretches_(stretches), coverage_(coverage) {}

    std::optional<scan::Block> block(std::size_t number) override {
        if (number >= blocks_.size() && !add_block()) return std::nullopt;
        return scan::Block{blocks_[number].base, blocks_[number].size_bytes};
    }

    Bytes read(std::size_t number) override {
        std::vector<std::byte>& bytes = number == 0 ? first_ : other_;
        bool& there = number == 0 ? first_there_ : other_there_;
        if (number != 0 && number != other_number_) there = false;
        if (!there) {
            bytes.resize(blocks_[number].size_bytes);
            load(blocks_[number], bytes);
            there = true;
            if (number != 0) other_number_ = number;
        }
        return bytes;
    }

  private:
    struct Planned {
        std::uint64_t base = 0, size_bytes = 0;
        std::vector<Stretch> stretches;
        bool counted = false;  // what of it could not be read
    };

    bool add_block() {
        if (closed_) return false;
        closed_ = (!blocks_.empty() && Clock::now() - begun_ > kSlice) || stretches_.at_end();
        if (closed_) return false;
        Planned planned;
        std::uint64_t new_bytes = 0;
        planned.stretches = stretches_.next_block(new_bytes);
        planned.base = planned.stretches.front().base;
        planned.size_bytes = planned.stretches.back().end() - planned.base;
        coverage_.bytes_scanned += new_bytes;
        blocks_.push_back(std::move(planned));
        return true;
    }

    void load(Planned& block, MutableBytes into) {
        const auto count = [&](std::uint64_t& pages) {
            if (!block.counted) ++pages;
        };
        for (const Stretch& stretch : block.stretches) {
            for (std::uint64_t at = 0; at < stretch.size_bytes;) {
                const std::uint64_t piece = std::min(kReadBytes, stretch.size_bytes - at);
                const MutableBytes part = into.subspan(stretch.base - block.base + at, piece);
                ReadOp op{stretch.phys + at, part};
                memory_.read_many({&op, 1});
                for (std::uint64_t page = 0; op.status != ReadStatus::ok && page < piece;
                     page += kPageSize) {
                    // Zeros where it cannot be read.
                    ReadOp one{stretch.phys + at + page,
                               part.subspan(page, std::min(kPageSize, piece - page))};
                    memory_.read_many({&one, 1});
                    if (one.status == ReadStatus::outside) count(coverage_.device_pages);
                    if (one.status == ReadStatus::hole || one.status == ReadStatus::failed) {
                        count(coverage_.unreadable_pages);
                    }
                }
                at += piece;
            }
        }
        block.counted = true;
    }

    guest_memory::GuestMemory& memory_;
    Stretches& stretches_;
    event::ScanCoverage& coverage_;
    const Clock::time_point begun_ = Clock::now();
    bool closed_ = false;
    std::vector<Planned> blocks_;
    std::vector<std::byte> first_, other_;
    bool first_there_ = false, other_there_ = false;
    std::size_t other_number_ = 0;
};

// What THOR and Loki call it.
std::string file_type(Bytes head) {
    const std::string_view text = as_text(head);
    if (text.starts_with("\x7f"
                         "ELF"))
        return "ELF";
    if (text.starts_with("MZ")) return "EXE";
    return "";
}

std::string hex_of(std::string_view bytes) {
    std::string text;
    for (const char byte : bytes) text += fmt::format("{:02x}", static_cast<std::uint8_t>(byte));
    return text;
}

std::string name_of(std::uint32_t pid, const std::string& comm) {
    return fmt::format("{} (pid {})", comm, pid);
}

bool is_clock_data(const event::Vma& vma) {
    return vma.path == "[vvar]" || vma.path == "[vvar_vclock]";  // the kernel's, for its vDSO
}

}  // namespace

class MemoryScan::Look {
  public:
    Look(const scan::Rules* rules, Guest& guest, std::optional<std::uint32_t> pid)
        : rules_(*rules) {
        const auto running =
            guest.tasks({.user_memory = false, .environment = false, .paths = false});
        if (running.unreadable != 0) add_gap("the list of processes: " + running.first_error);
        std::map<std::uint32_t, Process> processes;
        for (const event::Task& task : running.items) {
            if (task.kernel_thread || (pid && task.pid != *pid && task.tgid != *pid)) continue;
            Process& process = processes[task.tgid];
            const GuestVirt address{task.address};
            if (task.is_process()) {
                process.comm = task.comm;
                process.tasks.insert(process.tasks.begin(), address);
            } else if (process.tasks.size() <= kOtherThreads) {
                if (process.comm.empty()) process.comm = task.comm;
                process.tasks.push_back(address);
            }
        }
        for (auto& [number, process] : processes) {
            process.pid = number;
            processes_.push_back(std::move(process));
        }
    }

    bool empty() const { return processes_.empty(); }

    ScanPart go_on(Guest& guest) {
        const auto begun = Clock::now();
        while (!finished() && kept_bytes_ < kPartBytes && Clock::now() - begun < kStep) step(guest);
        ScanPart part{.coverage = coverage_, .processes = processes_.size()};
        for (std::size_t bytes = 0; !kept_.empty() && bytes < kPartBytes; kept_.pop_front()) {
            bytes += kept_.front().second;
            kept_bytes_ -= kept_.front().second;
            part.matches.push_back(std::move(kept_.front().first));
        }
        part.finished = finished() && kept_.empty();
        return part;
    }

  private:
    struct Process {
        std::uint32_t pid = 0;
        std::string comm;
        std::vector<GuestVirt> tasks;  // its first thread, then others
    };
    struct File {
        std::vector<scan::RuleMatch> matches;
    };
    // The process whose turn it is.
    struct Current {
        UserMemory::Process memory;
        std::string exe;
        std::vector<std::size_t> files;  // areas that name a file each that is not scanned yet
        std::unique_ptr<Stretches> stretches;  // of the file or the memory that has been begun
        std::size_t area = 0;                  // of own memory: where the next pages come from
        GuestVirt at;
    };

    bool finished() const { return next_ == processes_.size() && !current_; }

    void add_gap(std::string text) {
        ++coverage_.gap_count;
        if (coverage_.gaps.size() < limits::kMaxToldGaps) {
            coverage_.gaps.push_back(text.substr(0, limits::kMaxPathBytes));
        }
    }

    void step(Guest& guest) {
        if (!current_) return open(guest);
        const Process& process = processes_[next_];
        if (!current_->files.empty()) return scan_file(guest, process);
        scan_memory(guest, process);
    }

    void open(Guest& guest) {
        Process& process = processes_[next_];
        Error why;
        for (const GuestVirt task : process.tasks) {
            // A task_struct that is freed is soon another task's.
            const auto now = guest.task(task, {.user_memory = false, .environment = false});
            if (!now.has_value() || now->tgid != process.pid) continue;
            auto memory = guest.user_memory().process(task, process.pid);
            if (!memory.has_value()) {
                why = std::move(memory).error();
            } else if (*memory) {
                if (now->is_process()) process.comm = now->comm;
                current_.emplace(std::move(**memory), now->exe.value_or(""));
                return begin(process);
            }
        }
        if (why.message.empty()) {
            ++coverage_.ended;
        } else {
            add_gap(name_of(process.pid, process.comm) + ": " + why.to_text());
        }
        ++next_;
    }

    void begin(const Process& process) {
        const auto& areas = current_->memory.areas;
        if (areas.unreadable != 0) {
            add_gap(fmt::format("{}: {} of its mappings: {}", name_of(process.pid, process.comm),
                                areas.unreadable, areas.first_error));
        }
        for (std::size_t i = 0; i < areas.items.size(); ++i) {
            const GuestVirt file = areas.items[i].file;
            if (file && files_.try_emplace(file).second) current_->files.push_back(i);
        }
        std::ranges::reverse(current_->files);
    }

    // ---- a file, as the guest's page cache holds it

    void scan_file(Guest& guest, const Process& process) {
        const UserMemory::Area& area = current_->memory.areas.items[current_->files.back()];
        const std::string who = area.vma.path;
        if (!current_->stretches) {
            ++coverage_.files;
            auto pages = guest.user_memory().file_pages(area.file);
            if (!pages.has_value()) {
                add_gap(fmt::format("{}, which {} maps: {}", who,
                                    name_of(process.pid, process.comm), pages.error().to_text()));
                current_->files.pop_back();
                return;
            }
            coverage_.swapped_pages += pages->swapped;
            current_->stretches = std::make_unique<Stretches>(
                most_bytes(guest),
                [runs = std::move(pages->runs), given = false](auto& into) mutable {
                    if (std::exchange(given, true)) return false;
                    for (const auto& [index, phys, count] : runs) {
                        into.push_back({index * kPageSize, phys, count * kPageSize, 0});
                    }
                    return !into.empty();
                });
        }
        scan::Subject subject{.file_bytes = guest.user_memory().file_bytes(area.file).value_or(0),
                              .filepath = who};
        auto matches = scan_next(guest, std::move(subject), who);
        std::vector<scan::RuleMatch>& known = files_[area.file].matches;
        for (scan::RuleMatch& match : matches) {
            keep_few(match);
            if (file_matches_++ >= limits::kMaxMemoryMatches) return give_up_telling();
            known.push_back(std::move(match));
        }
        if (!current_->stretches) current_->files.pop_back();
    }

    // Of a file's matches those that are told, whoever maps which part of it.
    static void keep_few(scan::RuleMatch& match) {
        std::map<std::string, std::size_t> of_string;
        std::erase_if(match.strings, [&](const scan::StringMatch& string) {
            return ++of_string[string.identifier] > kToldOfEach;
        });
        if (match.strings.size() > limits::kMaxToldStrings) {
            match.strings.resize(limits::kMaxToldStrings);
        }
    }

    // ---- what a process has of its own

    void scan_memory(Guest& guest, const Process& process) {
        const std::string who = name_of(process.pid, process.comm);
        if (!current_->stretches) {
            current_->stretches = std::make_unique<Stretches>(
                most_bytes(guest),
                [this, &guest, who](auto& into) { return add_own_pages(guest, who, into); });
        }
        for (const scan::RuleMatch& match :
             scan_next(guest, {.file_bytes = {}, .filepath = current_->exe}, who)) {
            tell(process, match, GuestVirt{}, "");
        }
        if (current_->stretches) return;
        ++coverage_.processes;
        std::map<GuestVirt, std::string> mapped;
        for (const UserMemory::Area& area : current_->memory.areas.items) {
            if (area.file) mapped.try_emplace(area.file, area.vma.path);
        }
        for (const auto& [file, path] : mapped) {
            for (const scan::RuleMatch& match : files_[file].matches) {
                tell(process, match, file, path);
            }
        }
        current_.reset();
        ++next_;
    }

    bool add_own_pages(Guest& guest, const std::string& who, std::deque<Stretch>& into) {
        const auto& areas = current_->memory.areas.items;
        for (std::size_t& i = current_->area; i < areas.size();) {
            const UserMemory::Area& area = areas[i];
            GuestVirt& at = current_->at;
            at = std::max(at, GuestVirt{area.vma.begin});
            const bool done = at.value >= area.vma.end || is_clock_data(area.vma);
            auto pages = done ? guest_linux::PresentPages{.next = GuestVirt{area.vma.end}}
                              : guest.user_memory().own_pages(current_->memory.space, area, at,
                                                              kPagesAtOnce);
            if (!pages.has_value()) {
                add_gap(fmt::format("{}, {:#x} to {:#x}: {}", who, at.value, area.vma.end,
                                    pages.error().to_text()));
                pages = guest_linux::PresentPages{.next = GuestVirt{area.vma.end}};
            }
            if (pages->unreadable != 0) {
                add_gap(fmt::format("{}: {} page tables", who, pages->unreadable));
            }
            coverage_.swapped_pages += pages->swapped;
            for (const PageRun& run : pages->runs) {
                into.push_back({run.begin.value, run.phys, run.size_bytes, i});
            }
            at = pages->next;
            if (at.value >= area.vma.end) ++i, at = {};
            if (!into.empty()) return true;
        }
        return false;
    }

    // ---- both

    // Some pages may be mapped twice, the page of zeros very often.
    static std::uint64_t most_bytes(Guest& guest) {
        return 2 * guest.user_memory().physical().ram_bytes();
    }

    // Resets current_->stretches when nothing is left of it.
    std::vector<scan::RuleMatch> scan_next(Guest& guest, scan::Subject subject,
                                           const std::string& who) {
        PagesContent content(guest.user_memory().physical(), *current_->stretches, coverage_);
        std::vector<scan::RuleMatch> found;
        if (content.block(0)) {
            if (subject.file_bytes) subject.filetype = file_type(content.read(0));
            auto matches = scan::scan(rules_, content, subject, kLongest);
            if (matches.has_value()) {
                found = std::move(*matches);
            } else {
                add_gap(fmt::format("{}: {}", who, matches.error().to_text()));
            }
        }
        if (current_->stretches->at_end()) {
            if (current_->stretches->was_too_long()) {
                add_gap(who + ": has more pages than the machine; the rest is not looked at");
            }
            current_->stretches.reset();
        } else {
            add_gap(who +
                    ": is judged in parts, for it takes long: a rule whose strings lie in "
                    "different parts of it does not match");
        }
        return found;
    }

    // `file`: that the rule holds for; null: the process's own memory.
    void tell(const Process& process, const scan::RuleMatch& found, GuestVirt file,
              const std::string& path) {
        if (told_ >= limits::kMaxMemoryMatches || kept_bytes_ > kMaxKeptBytes) {
            return give_up_telling();
        }
        event::MemoryMatch match{.rule = found.rule,
                                 .rule_file = found.rule_file,
                                 .tags = found.tags,
                                 .pid = process.pid,
                                 .comm = process.comm,
                                 .file = path,
                                 .string_count = found.string_count};
        for (const auto& [key, value] : found.meta) match.meta.push_back({key, value});
        std::map<std::pair<std::size_t, std::string>, std::size_t> of_string;
        for (const scan::StringMatch& string : found.strings) {
            if (match.strings.size() >= limits::kMaxToldStrings) break;
            std::size_t area = 0;
            event::MatchedString one =
                file ? in_file(string, file, path, area) : in_memory(string, area);
            if (++of_string[{area, string.identifier}] > kToldOfEach) continue;
            one.region.pid = process.pid;
            match.strings.push_back(std::move(one));
        }
        ++told_;
        const std::size_t bytes = event::encode(match).size();
        kept_bytes_ += bytes;
        kept_.emplace_back(std::move(match), bytes);
    }

    static event::MatchedString matched(const scan::StringMatch& string) {
        return {.identifier = string.identifier,
                .size_bytes = string.size_bytes,
                .bytes = hex_of(string.excerpt)};
    }

    event::MatchedString in_memory(const scan::StringMatch& string, std::size_t& area) const {
        event::MatchedString one = matched(string);
        one.address = string.address;
        const auto& areas = current_->memory.areas.items;
        for (area = 0; area < areas.size(); ++area) {
            const event::Vma& vma = areas[area].vma;
            if (string.address < vma.begin || string.address >= vma.end) continue;
            one.region = vma;
            one.offset_bytes = string.address - vma.begin;
            break;
        }
        return one;
    }

    event::MatchedString in_file(const scan::StringMatch& string, GuestVirt file,
                                 const std::string& path, std::size_t& area) const {
        event::MatchedString one = matched(string);
        const auto& areas = current_->memory.areas.items;
        for (area = 0; area < areas.size(); ++area) {
            const event::Vma& vma = areas[area].vma;
            if (areas[area].file != file || string.address < vma.offset_bytes ||
                string.address - vma.offset_bytes >= vma.end - vma.begin) {
                continue;
            }
            one.region = vma;
            one.offset_bytes = string.address - vma.offset_bytes;
            one.address = vma.begin + one.offset_bytes;
            return one;
        }
        one.region.path = path;
        one.offset_bytes = string.address;
        return one;
    }

    void give_up_telling() {
        if (std::exchange(gave_up_telling_, true)) return;
        add_gap(
            fmt::format("more than {} matches: the rest is not told", limits::kMaxMemoryMatches));
    }

    const scan::Rules& rules_;
    std::vector<Process> processes_;
    std::size_t next_ = 0;
    std::optional<Current> current_;
    std::map<GuestVirt, File> files_;  // that were scanned or are being scanned
    event::ScanCoverage coverage_;
    std::deque<std::pair<event::MemoryMatch, std::size_t>> kept_;  // with its size on the wire
    std::size_t kept_bytes_ = 0, told_ = 0, file_matches_ = 0;
    bool gave_up_telling_ = false;
};

MemoryScan::MemoryScan() = default;
MemoryScan::~MemoryScan() = default;

Result<MemoryScan::Listing<CompiledRules>> MemoryScan::add_rules(
    const std::vector<RuleText>& parts) {
    for (const RuleText& part : parts) {
        rule_bytes_ += part.text.size() + part.file.size();
        if (rule_bytes_ > limits::kMaxRuleBytes || files_.size() > limits::kMaxRuleFiles) {
            files_.clear();
            return fail(Code::limit,
                        fmt::format("more than {} MiB of rules, or {} files",
                                    limits::kMaxRuleBytes >> 20, limits::kMaxRuleFiles));
        }
        if (!part.continues) {
            files_.push_back({part.file, part.text, part.only_included});
        } else if (!files_.empty() && files_.back().name == part.file) {
            files_.back().text += part.text;
        } else {
            return fail(Code::invalid_argument, "a part of a file of rules without its beginning");
        }
    }
    return Listing<CompiledRules>{};
}

Result<MemoryScan::Listing<CompiledRules>> MemoryScan::compile() {
    look_.reset();
    rules_.reset();
    rule_bytes_ = 0;
    const auto files = std::exchange(files_, {});
    std::vector<scan::RuleError> errors;
    auto rules = scan::Rules::compile(files, errors);
    CompiledRules result;
    for (scan::RuleError& error : errors) {
        result.errors.push_back({std::move(error.file), error.line, std::move(error.message)});
    }
    if (!rules.has_value() && errors.empty()) return fail(std::move(rules).error());
    if (rules.has_value()) {
        rules_.emplace(std::move(*rules));
        result.rules = rules_->count();
    }
    return Listing<CompiledRules>{{std::move(result)}, 0, {}};
}

Result<MemoryScan::Listing<ScanPart>> MemoryScan::begin(Guest& guest,
                                                        std::optional<std::uint32_t> pid) {
    if (!rules_) return fail(Code::invalid_argument, "there are no rules to scan by");
    look_ = std::make_unique<Look>(&*rules_, guest, pid);
    if (look_->empty()) {
        look_.reset();
        if (pid)
            return fail(Code::not_found, fmt::format("no process with memory of its own has "
                                                     "the pid {}",
                                                     *pid));
        return fail(Code::unavailable, "the guest's lists show no process");
    }
    return go_on(guest);
}

Result<MemoryScan::Listing<ScanPart>> MemoryScan::go_on(Guest& guest) {
    if (!look_) {
        return fail(Code::unavailable,
                    "no scan has been begun, or the guest has booted anew since");
    }
    return Listing<ScanPart>{{look_->go_on(guest)}, 0, {}};
}

void MemoryScan::leave_guest() {
    look_.reset();
}

}  // namespace underseer::agent
