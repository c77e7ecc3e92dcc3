#include "guest_linux/dispatch.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "guest_linux/disassembly.h"
#include "guest_linux/hooks.h"
#include "guest_linux/patched_calls.h"
#include "guest_linux/syscall_names.h"
#include "guest_linux/watch_list.h"

namespace underseer::guest_linux {

namespace {

constexpr std::size_t kMaxCalls = 1024;
constexpr std::size_t kMaxCodeBytes = 256u << 10;
constexpr std::size_t kInterrupts = 256;
constexpr std::size_t kExceptions = 32;  // NUM_EXCEPTION_VECTORS
constexpr std::size_t kGateBytes = 16;   // struct gate_struct, arch/x86/include/asm/desc_defs.h
constexpr std::uint64_t kFirstX32 = 512;

// How the functions that answer system calls are called (arch/x86/include/asm/syscall_wrapper.h).
constexpr std::array<std::string_view, 7> kPrefixes{
    "__x64_sys_",  "__ia32_sys_", "__x64_compat_sys_", "__ia32_compat_sys_", "__x32_compat_sys_",
    "compat_sys_", "sys_"};

class SyscallInspector {
  public:
    explicit SyscallInspector(Kernel& kernel) : kernel_(kernel) {}

    DispatchReport inspect() {
        for (const std::string_view table :
             {"sys_call_table", "ia32_sys_call_table", "x32_sys_call_table"}) {
            part(table, [&] { return inspect_table(table); });
        }
        for (const std::string_view function : {"x64_sys_call", "x32_sys_call", "ia32_sys_call"}) {
            part(function, [&] { return inspect_switch(function); });
        }
        return std::move(report_);
    }

  private:
    template <typename Read>
    void part(std::string_view what, Read&& read) {
        if (!kernel_.symbol(what).has_value()) {
            // Every kernel has the first; the others come and go with versions and configurations.
            if (what == "sys_call_table") {
                report_.gaps.add(what, {Code::unavailable, 0, "there is none"});
            }
            return;
        }
        if (auto done = read(); !done.has_value()) {
            report_.gaps.add(what, done.error());
        }
    }

    Result<void> inspect_table(std::string_view name) {
        const GuestVirt table = TRY(kernel_.symbol(name));
        const auto behind = kernel_.symbols().after(table);
        if (!behind) return fail(Code::unavailable, "it has no end");
        std::vector<GuestVirt> entries(std::min<std::size_t>((*behind - table) / 8, kMaxCalls));
        TRY(kernel_.memory().read(table, std::as_writable_bytes(std::span(entries))));
        // Between a table and what comes next there may be some zeros.
        while (!entries.empty() && !entries.back()) entries.pop_back();
        for (std::size_t i = 0; i < entries.size(); ++i) {
            ++report_.gates;
            const std::string_view call = name == "ia32_sys_call_table" || i >= kFirstX32
                                              ? std::string_view()
                                              : syscall_entry(i);
            if (answers(entries[i], call)) continue;
            report_.misdirected.push_back(
                {call.empty() ? fmt::format("{}[{}]", name, i)
                              : fmt::format("{} ({}[{}])", syscall_name(i), name, i),
                 call.empty() ? "a system call's function" : fmt::format("__x64_sys_{}", call),
                 entries[i], table + 8 * i});
        }
        return {};
    }

    // Each direct jump or call must stay in the function, or go to a function that answers a system
    // call, or to a thunk through which the compiler returns.
    Result<void> inspect_switch(std::string_view name) {
        const GuestVirt begin = TRY(kernel_.symbol(name));
        const auto end = kernel_.symbols().after(begin);
        if (!end || *end - begin > kMaxCodeBytes) return fail(Code::unavailable, "it has no end");
        std::vector<std::byte> code(*end - begin);
        TRY(kernel_.memory().read(begin, code));
        // The first instruction, or the second behind an endbr64 or what that was overwritten with
        // (apply_seal_endbr(), arch/x86/kernel/alternative.c).
        const auto is_trace_site = [&](GuestVirt at) { return at == begin || at == begin + 4; };
        Disassembler disassembler;
        const std::size_t decoded = disassembler.decode(code, begin, [&](const Instruction& one) {
            if (!one.target || (*one.target >= begin && *one.target < *end)) return true;
            ++report_.gates;
            const bool is_traced =
                is_trace_site(one.at) && FtraceCalls::is_entry(kernel_, *one.target);
            if (!answers(*one.target, {}) && !is_thunk(*one.target) && !is_traced) {
                report_.misdirected.push_back({fmt::format("{}+{:#x}", name, one.at - begin),
                                               "a system call's function", *one.target, one.at,
                                               is_trace_site(one.at)});
            }
            return true;
        });
        if (decoded < code.size()) {
            return fail(Code::unavailable,
                        fmt::format("{:#x} of {:#x} bytes are instructions", decoded, code.size()));
        }
        return {};
    }

    // `call`: which; empty: any. What a kernel was built without is answered by sys_ni_syscall.
    bool answers(GuestVirt target, std::string_view call) const {
        bool found = false;
        for_each_name(target, [&](std::string_view name) {
            for (const std::string_view prefix : kPrefixes) {
                if (!name.starts_with(prefix)) continue;
                const std::string_view rest = name.substr(prefix.size());
                found |= call.empty() || rest == call || rest.starts_with("ni_");
            }
        });
        return found;
    }

    bool is_thunk(GuestVirt target) const {
        bool found = false;
        for_each_name(target, [&](std::string_view name) {
            found |= name.starts_with("__x86_") || name.starts_with("srso_") ||
                     name.starts_with("its_") || name.starts_with("retbleed_") ||
                     name.starts_with("entry_") || name == "__fentry__" ||
                     name.starts_with("__sanitizer_") || name.starts_with("call_depth_");
        });
        return found;
    }

    // Every name of exactly that address.
    template <typename Use>
    void for_each_name(GuestVirt address, Use&& use) const {
        const Symbols& symbols = kernel_.symbols();
        for (std::size_t i = symbols.index_of(address);
             i < symbols.size() && symbols.at(i).address == address; ++i) {
            use(symbols.at(i).name);
        }
    }

    Kernel& kernel_;
    DispatchReport report_;
};

Result<void> read_interrupts(Kernel& kernel, DispatchReport& report) {
    const GuestVirt table = TRY(kernel.symbol("idt_table"));
    GuestVirt begin = TRY(kernel.symbol("_text")), end = TRY(kernel.symbol("_etext"));
    // What comes from outside enters here.
    if (const auto entry = kernel.symbol("__entry_text_start"); entry.has_value()) begin = *entry;
    if (const auto entry = kernel.symbol("__entry_text_end"); entry.has_value()) end = *entry;
    const auto start_begin = kernel.symbol("_sinittext"), start_end = kernel.symbol("_einittext");
    std::array<std::uint64_t, kInterrupts * kGateBytes / 8> words;
    TRY(kernel.memory().read(table, std::as_writable_bytes(std::span(words))));
    for (std::size_t i = 0; i < kInterrupts; ++i) {
        const std::uint64_t low = words[2 * i], high = words[2 * i + 1];
        ++report.gates;
        if ((low >> 47 & 1) == 0) continue;  // not present
        const GuestVirt target = gate_target(low, high);
        if (target >= begin && target < end) continue;
        // Exceptions that this CPU does not have keep the gate of the kernel's start, whose code is
        // gone (idt_setup_early_handler(), arch/x86/kernel/idt.c).
        if (i < kExceptions && start_begin.has_value() && start_end.has_value() &&
            target >= *start_begin && target < *start_end) {
            continue;
        }
        report.misdirected.push_back({fmt::format("interrupt {:#x}", i), "the kernel's entry code",
                                      target, table + kGateBytes * i});
    }
    return {};
}

}  // namespace

DispatchReport inspect_syscalls(Kernel& kernel) {
    return SyscallInspector(kernel).inspect();
}

DispatchReport inspect_interrupts(Kernel& kernel) {
    DispatchReport report;
    if (auto read = read_interrupts(kernel, report); !read.has_value()) {
        report.gaps.add("idt_table", read.error());
    }
    return report;
}

}  // namespace underseer::guest_linux
