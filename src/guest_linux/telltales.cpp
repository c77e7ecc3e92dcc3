#include "guest_linux/telltales.h"

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <utility>

#include "guest_linux/fingerprint.h"
#include "guest_linux/hook_collector.h"

namespace underseer::guest_linux {

namespace {

constexpr std::uint64_t kTelltaleBytes = 8, kTelltaleListBytes = 16;
constexpr std::uint64_t kTelltaleProbes = 64;   // KPROBE_TABLE_SIZE, include/linux/kprobes.h
constexpr std::uint64_t kTelltalePackets = 16;  // PTYPE_HASH_SIZE, include/linux/netdevice.h
constexpr std::uint64_t kMaxWordBytes = 2048;
// The watch waits for this: a guest's lists without end must not blind it. Honest kernels have some
// eighty links, and a guest with more processes is looked at by schedule.
constexpr std::size_t kMaxLinks = 256, kMaxRolled = 4096;
constexpr std::uint64_t kMaxRollBytes = 16u << 10;

}  // namespace

Telltales::Telltales(Kernel* kernel, guest_memory::GuestMemory* memory)
    : kernel_(kernel), live_(memory, kernel->image().space) {
    const auto of_task = [&](std::string_view member) {
        return kernel->field("task_struct", member);
    };
    f_ = {.tasks = of_task("tasks"),
          .pid = of_task("pid"),
          .mm = of_task("mm"),
          .real_cred = of_task("real_cred"),
          .cred = of_task("cred"),
          .ptrace = of_task("ptrace")};
    find_words();
    follow_chains();
    (void)call_the_roll();
}

void Telltales::watch(Sign sign, GuestVirt at, std::uint64_t size_bytes) {
    if (!at || size_bytes == 0) return;
    Word word{sign, at, static_cast<std::uint32_t>(std::min(size_bytes, kMaxWordBytes)), 0};
    if (const auto hash = hash_of(word); hash.has_value()) {
        word.kept = *hash;
        words_.push_back(word);
    }
}

// What a kernel does not have, nobody can use.
void Telltales::watch_symbol(Sign sign, std::string_view symbol, std::uint64_t size_bytes) {
    if (const auto at = kernel_->symbol(symbol); at.has_value()) watch(sign, *at, size_bytes);
}

void Telltales::watch_member(Sign sign, std::string_view symbol, std::string_view structure,
                             std::string_view member) {
    const auto at = kernel_->symbol(symbol);
    const Field field = kernel_->field(structure, member);
    if (at.has_value() && field.known()) watch(sign, *at + field.offset, field.size_bytes);
}

// Whoever comes may be anywhere in a chain, by its priority: each link of it is watched. Of a link
// that was watched before, what was there then still counts.
void Telltales::follow_chains() {
    live_.forget();
    std::vector<Word> links;
    if (!next_.known()) return;
    for (const NotifierChain& chain : notifier_chains()) {
        const auto head = kernel_->symbol(chain.symbol);
        const Field first = kernel_->field(chain.structure, "head");
        if (!head.has_value() || !first.known()) continue;
        GuestVirt at = *head + first.offset;
        while (links.size() < kMaxLinks) {
            const auto known = std::ranges::find(links_, at, &Word::at);
            Word link = known != links_.end() ? *known : Word{kSignOfHooks, at, kTelltaleBytes, 0};
            const auto block = live_.read<GuestVirt>(at);
            if (!block.has_value()) break;
            if (known == links_.end()) link.kept = hash_of(link).value_or(0);
            links.push_back(link);
            if (!*block) break;
            at = *block + next_.offset;
        }
    }
    links_ = std::move(links);
}

// What the kernel patches it writes through an address space of its own, and has that forgotten by
// the CPUs each time: __text_poke() in arch/x86/kernel/alternative.c, inc_mm_tlb_gen() in
// arch/x86/mm/tlb.c.
Result<void> Telltales::watch_patching() {
    const Field generation = kernel_->field("mm_struct", "context.tlb_gen");
    TRY(kernel_->require({generation}));
    const GuestVirt variable = TRY(kernel_->symbol({"poking_mm", "text_poke_mm"}));
    watch(kSignOfCode, TRY(live_.read<GuestVirt>(variable)) + generation.offset, kTelltaleBytes);
    return {};
}

void Telltales::find_words() {
    const auto part = [&](std::string_view what, Result<void> done) {
        if (!done.has_value()) gaps_.add(what, done.error());
    };
    watch_member(kSignOfTasks, "init_pid_ns", "pid_namespace", "idr.idr_next");
    watch_symbol(kSignOfModules, "modules", kTelltaleListBytes);
    part("code that is patched", watch_patching());
    watch_symbol(kSignOfCode, "ftrace_ops_list", kTelltaleBytes);
    watch_symbol(kSignOfCode, "kprobe_table", kTelltaleProbes * kTelltaleBytes);
    next_ = kernel_->field("notifier_block", "next");
    part("notifiers", kernel_->require({next_}));
    for (const std::string_view table : {"tty_ldiscs", "net_families"}) {
        const auto at = kernel_->symbol(table);
        if (!at.has_value()) continue;
        const auto behind = kernel_->symbols().after(*at);
        if (behind) watch(kSignOfHooks, *at, *behind - *at);
    }
    for (const std::string_view list : {"tty_drivers", "ptype_all"}) {
        watch_symbol(kSignOfHooks, list, kTelltaleListBytes);
    }
    // Others have that name too.
    for (const GuestVirt list : kernel_->symbols().addresses("formats")) {
        watch(kSignOfHooks, list, kTelltaleListBytes);
    }
    watch_symbol(kSignOfHooks, "ptype_base", kTelltalePackets * kTelltaleListBytes);
    watch_member(kSignOfHooks, "net_hotdata", "net_hotdata", "ptype_all");
    for (const std::string_view member : {"ptype_all", "ptype_specific", "nf.hooks_ipv4",
                                          "nf.hooks_ipv6", "nf.hooks_arp", "nf.hooks_bridge"}) {
        watch_member(kSignOfHooks, "init_net", "net", member);
    }
    for (const std::string_view table : {"prog_idr", "map_idr", "link_idr"}) {
        watch_symbol(kSignOfPrograms, table, kernel_->size_of("idr"));
    }
}

Result<std::uint64_t> Telltales::hash_of(const Word& word) {
    bytes_.resize((word.size_bytes + 7) / 8 * 8);
    std::ranges::fill(bytes_, std::byte{});
    TRY(live_.read(word.at, MutableBytes(bytes_).first(word.size_bytes)));
    Fingerprint print;
    for (std::size_t at = 0; at < bytes_.size(); at += 8) {
        print.add(load_le<std::uint64_t>(bytes_, at).value_or(0));
    }
    return print.value();
}

Signs Telltales::poll() {
    Signs moved = 0;
    for (std::vector<Word>* words : {&words_, &links_}) {
        for (Word& word : *words) {
            const auto hash = hash_of(word);
            if (!hash.has_value() || *hash == word.kept) continue;
            word.kept = *hash;
            moved |= word.sign;
        }
    }
    return moved;
}

Result<std::vector<std::uint64_t>> Telltales::roll() {
    TRY(kernel_->require({f_.tasks, f_.pid, f_.mm, f_.real_cred, f_.cred, f_.ptrace}));
    if (!init_task_) init_task_ = TRY(kernel_->symbol("init_task"));
    std::uint64_t begin = f_.tasks.offset, end = 0;
    for (const Field& field : {f_.tasks, f_.pid, f_.mm, f_.real_cred, f_.cred, f_.ptrace}) {
        begin = std::min<std::uint64_t>(begin, field.offset);
        end = std::max<std::uint64_t>(end, field.offset + field.size_bytes);
    }
    if (end - begin > kMaxRollBytes) return fail(Code::malformed, "a task_struct is too long");
    task_bytes_.resize(end - begin);
    const auto member = [&](const Field& field) {
        std::uint64_t value = 0;
        std::memcpy(&value, task_bytes_.data() + (field.offset - begin),
                    std::min<std::size_t>(field.size_bytes, 8));
        return value;
    };
    std::vector<std::uint64_t> all;
    GuestVirt task = init_task_;
    do {
        if (all.size() == kMaxRolled) return fail(Code::limit, "there are too many processes");
        TRY(live_.read(task + begin, task_bytes_));
        Fingerprint print;
        print.add(task.value);
        for (const Field& field : {f_.pid, f_.mm, f_.real_cred, f_.cred, f_.ptrace}) {
            print.add(member(field));
        }
        all.push_back(print.value());
        const GuestVirt next{member(f_.tasks)};
        task = GuestVirt{next.value - f_.tasks.offset};
    } while (task != init_task_);
    std::ranges::sort(all);
    return all;
}

// A list in motion that could not be followed to its end has moved.
Signs Telltales::call_the_roll() {
    auto now = roll();
    if (!now.has_value()) return std::exchange(roll_, {}).empty() ? 0 : kSignOfTasks | kSignOfEnds;
    Signs moved = 0;
    if (!std::ranges::includes(roll_, *now)) moved |= kSignOfTasks;
    if (!std::ranges::includes(*now, roll_)) moved |= kSignOfEnds;
    roll_ = std::move(*now);
    return moved;
}

}  // namespace underseer::guest_linux
