// Writes the seeds of the fuzz targets whose inputs can be built: seeds FOLDER (fuzz/corpus).
#include <fcntl.h>
#include <fmt/format.h>

#include <filesystem>

#include "agent/introspection.h"
#include "agent/status.h"
#include "guest_linux/built_kernel.h"
#include "guest_linux/fake_elf.h"
#include "guest_linux/fake_guest.h"
#include "guest_linux/fake_vmlinux.h"
#include "guest_linux/program_set.h"
#include "guest_memory/fake_images.h"

namespace {
using namespace underseer;
using namespace underseer::guest_linux;
namespace fs = std::filesystem;

fs::path folder;

void seed(const std::string& target, const std::string& name, Bytes bytes) {
    fs::create_directories(folder / target);
    const Fd file = open_file(folder / target / name, O_WRONLY | O_CREAT | O_TRUNC, 0644).value();
    CHECK(write_all(file.get(), bytes).has_value());
}

void images() {
    const std::vector<guest_memory::FakeRange> ranges{
        {0x1000, guest_memory::fake_memory_bytes(0x3000, 1)},
        {0x100000, guest_memory::fake_memory_bytes(0x2000, 2)}};
    const std::string target = "image_fuzz";
    seed(target, "lime", guest_memory::lime_image(ranges));
    seed(target, "elf", guest_memory::elf_core_image(ranges));
    seed(target, "avml", guest_memory::avml_image(ranges));
    seed(target, "avml-plain", guest_memory::avml_image(ranges, {.plain_chunks = true}));
    using enum guest_memory::KdumpCompression;
    for (const auto& [name, kind] : {std::pair{"kdump-none", none},
                                     {"kdump-zlib", zlib},
                                     {"kdump-lzo", lzo},
                                     {"kdump-snappy", snappy}}) {
        seed(target, name, guest_memory::kdump_image(ranges, {.compression = kind}));
    }
    seed(target, "kdump-flattened", guest_memory::kdump_image(ranges, {.flattened = true}));
    seed(target, "kdump-old",
         guest_memory::kdump_image(ranges, {.header_version = 3, .exclude_every = 3}));
}

void answers() {
    const auto put = [](const char* name, const auto& value) {
        seed("answer_fuzz", name, as_bytes(event::encode(value)));
    };
    event::Task task;
    task.pid = task.tgid = 7;
    task.comm = "sshd";
    put("task", task);
    put("socket", event::Socket{});
    put("system", event::SystemInfo{});
    event::BpfProgram program{.id = 3, .type = "xdp", .name = "filter"};
    program.attachments = std::vector<event::BpfAttachment>(2);
    program.map_ids = std::vector{1u};
    put("bpf-program", program);
    put("bpf-map", event::BpfMap{.id = 1, .type = "hash", .program_ids = std::vector{3u}});
    put("bpf-link",
        event::BpfLink{.id = 2, .type = "xdp", .target = std::string("eth0 (generic)")});
    event::CheckReport report;
    report.outcome = event::Outcome::finding;
    report.findings.resize(1);
    report.findings[0].evidence.resize(2);
    put("report", report);
    put("end", agent::AnswerEnd{.unreadable = 3, .first_gap = "why"});
    put("question", agent::Question{.topic = agent::Topic::tasks, .one_pid = true, .pid = 7});
    agent::ScanPart scanned{.processes = 3, .finished = true};
    scanned.matches.resize(1);
    scanned.matches[0].strings.resize(2);
    put("scanned", scanned);
    agent::TracePart traced{.finished = true};
    traced.threads.resize(1);
    traced.threads[0].moments.resize(2);
    traced.threads[0].moments[1].stack.resize(2);
    traced.threads[0].moments[1].user_stack.resize(2);
    put("traced", traced);
    put("rules", agent::CompiledRules{.rules = 1, .errors = {{"a.yar", 3, "wrong"}}});
    put("part",
        agent::RamPart{
            .begin = 4096, .size_bytes = 3, .state = agent::RamState::bytes, .bytes = "abc"});
}
std::vector<std::byte> some_types() {
    FakeBtf btf;
    const std::uint32_t number = btf.add_int("int", 4), pointer = btf.add_pointer(number);
    const std::uint32_t inner = btf.add_struct("a", 8, {{"b", number, 0}, {"c", number, 32}});
    const std::uint32_t either = btf.add_struct("", 8, {{"x", number, 0}, {"y", pointer, 0}}, true);
    const std::uint32_t array = btf.add_array(btf.add_typedef("a_t", inner), 3);
    btf.add_struct("outer", 64, {{"a", inner, 64}, {"", either, 128}, {"list", array, 192}});
    btf.add_struct("flags", 4, {{"low", number, 0, 5}, {"high", number, 5, 3}});
    return btf.build();
}

std::vector<std::byte> some_symbols(KallsymsForm form) {
    std::vector<FakeSymbol> symbols;
    for (unsigned i = 0; i < 800; ++i) {
        symbols.push_back({"symbol_" + std::to_string(i), 't', 0xffffffff81000000 + 16 * i});
    }
    return build_kallsyms(symbols, form, GuestVirt{0xffffffff82000000}, 64);
}

// One change of guest_fuzz and attach_fuzz.
std::string change(std::uint32_t which, std::uint8_t how, std::uint16_t when, std::uint64_t what) {
    std::string bytes;
    const auto put = [&bytes](auto value) {
        bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
    };
    put(which);
    put(how);
    put(when);
    put(what);
    return bytes;
}

void guests() {
    std::string put, bits, pointers, racing;
    for (std::uint32_t i = 0; i < 12; ++i) {
        put += change(i * 0x4321, 0, 0, ~0ull << i * 5);
        bits += change(i * 0x1357, 1, 0, i * 7);
        pointers += change(i * 0x2468, 3, 0, i * 0x9753);
        racing += change(i * 0x1234, 0x82, static_cast<std::uint16_t>(i * 100), i * 8);
    }
    for (const char* target : {"guest_fuzz", "attach_fuzz"}) {
        seed(target, "unchanged", as_bytes(std::string("-")));
        seed(target, "put", as_bytes(put));
        seed(target, "bits", as_bytes(bits));
        seed(target, "pointers", as_bytes(pointers));
        seed(target, "racing", as_bytes(racing));
    }
}

// Tables of 64 entries and a stack: what they are to unwind_fuzz is in its own words.
std::string unwinding(std::uint16_t bits, std::uint16_t step) {
    std::string ips, entries, stack;
    const auto put = [](std::string& bytes, auto value) {
        bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
    };
    for (std::uint32_t i = 0; i < 64; ++i) {
        put(ips, 16 * i);
        put(entries, static_cast<std::uint16_t>(step * (1 + i % 3)));
        put(entries, static_cast<std::uint16_t>(-16));
        put(entries, bits);
    }
    for (std::uint64_t i = 0; i < 512; ++i) {
        put(stack, i % 5 == 0 ? 2048 + 8 * (i + 3) : 16 * (i % 100));
    }
    return ips + entries + stack;
}

void unwinders() {
    constexpr std::uint16_t kSp = 5, kBp = 4, kSavedBp = 1 << 4, kCall = 2 << 8,
                            kRegisters = 3 << 8;
    for (const auto& [name, bits, step] : {std::tuple{"calls", kSp | kSavedBp | kCall, 16},
                                           {"frames", kBp | kSavedBp | kCall, 16},
                                           {"registers", kSp | kSavedBp | kRegisters, 24},
                                           {"circle", kSp | kSavedBp | kCall, 0},
                                           {"odd", kSp | kSavedBp | kCall, 13}}) {
        seed("unwind_fuzz", name,
             as_bytes(
                 unwinding(static_cast<std::uint16_t>(bits), static_cast<std::uint16_t>(step))));
    }
}

// A program and a stack in which every word is a place of either: what they are to user_stack_fuzz.
std::string program(FakeElf elf, bool is_relocated) {
    std::string bytes(1, is_relocated ? '\1' : '\0');
    for (std::uint64_t i = 0; i < 512; ++i) {
        const std::uint64_t code = 0x401110 + 0x100 * (i % 3) + (is_relocated ? 0x7f0000000000 : 0);
        FakeCfi::put(bytes, i % 2 == 0 ? 0x7ffd0000 + 8 * (i + 4) : code);
    }
    return bytes + elf.build();
}

void programs() {
    FakeElf elf{.symbols = {{.name = "outer", .offset = 0x1000, .size_bytes = 0x80},
                            {.name = "inner", .offset = 0x1100, .size_bytes = 0x80},
                            {.name = "__inner", .offset = 0x1100, .size_bytes = 0x80},
                            {.name = "label", .offset = 0x1210, .size_bytes = 0}}};
    const std::string target = "user_stack_fuzz";
    seed(target, "static", as_bytes(program(elf, false)));
    elf.table = false;
    seed(target, "no-table", as_bytes(program(elf, false)));
    std::swap(elf.symbols, elf.dynamic_symbols);
    seed(target, "dynamic", as_bytes(program(elf, true)));
    elf.gnu_hash = false;
    elf.table = true;
    seed(target, "old-hash", as_bytes(program(elf, true)));
}

// A kernel's file with an entry of each list that is read of it.
void built_kernels() {
    constexpr std::uint64_t kText = 0xffffffff81000000, kLists = 0xffffffff82000000;
    const auto distance = [](std::uint64_t at, std::uint64_t to) {
        std::string bytes;
        FakeCfi::put(bytes, static_cast<std::int32_t>(to - at));
        return bytes;
    };
    std::string paravirt(16, '\x06');
    const std::uint64_t place = kText + 64;
    std::memcpy(paravirt.data(), &place, sizeof place);
    const std::string file = fake_vmlinux(
        {{".text", kText, std::string(256, '\x90')},
         {".rodata", kText + 0x1000, "Linux version 6.1.0-44-cloud-amd64 (someone)"},
         {".notes", kText + 0x2000, fake_notes('\xab')},
         {".altinstructions", kLists,
          distance(kLists, kText + 16) + distance(kLists + 4, kLists + 0x1000) + "\1\1\x07\x03"},
         {".altinstr_replacement", kLists + 0x1000, "\x0f\x01\xcb"},
         {".parainstructions", kLists + 0x2000, paravirt},
         {".retpoline_sites", kLists + 0x3000, distance(kLists + 0x3000, kText + 80)},
         {".return_sites", kLists + 0x4000, distance(kLists + 0x4000, kText + 96)},
         {".ibt_endbr_seal", kLists + 0x5000, distance(kLists + 0x5000, kText)},
         {"runtime_ptr_USER_PTR_MAX", kLists + 0x6000, distance(kLists + 0x6000, kText + 112)}});
    const std::string target = "built_kernel_fuzz";
    seed(target, "vmlinux", as_bytes(file));
    seed(target, "vmlinuz", as_bytes(fake_vmlinuz(file + "size")));
    const auto built = read_built_kernel(as_bytes(file)).value();
    CHECK(built.patches.size() == 6);
    seed(target, "baseline", as_bytes(pack(built)));
    FakeElf elf;
    elf.build_id = "\x12\x34\xab\xcd";
    const std::string program = elf.build();
    ProgramSet set{.package = "daemon_1_amd64",
                   .programs = {read_program(as_bytes(program)).value()}};
    set.programs.front().path = "/usr/sbin/daemon";
    seed(target, "program", as_bytes(program));
    seed(target, "programs", as_bytes(pack(set)));
}

void kernels() {
    seed("btf_fuzz", "types", some_types());
    for (const auto& [form, name] : {std::pair{KallsymsForm::v4_20, "v4_20"},
                                     {KallsymsForm::v6_2, "v6_2"},
                                     {KallsymsForm::v6_4, "v6_4"},
                                     {KallsymsForm::v6_15, "v6_15"},
                                     {KallsymsForm::v7_0, "v7_0"}}) {
        seed("kallsyms_fuzz", name, some_symbols(form));
    }
}
}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) return 2;
    folder = argv[1];
    images();
    answers();
    kernels();
    guests();
    unwinders();
    programs();
    built_kernels();
}
