// Writes the seeds of the fuzz targets whose inputs can be built: seeds FOLDER (fuzz/corpus).
#include <fcntl.h>
#include <fmt/format.h>

#include <filesystem>

#include "agent/introspection.h"
#include "agent/status.h"
#include "guest_memory/fake_images.h"

namespace {
using namespace underseer;
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
    event::CheckReport report;
    report.outcome = event::Outcome::finding;
    report.findings.resize(1);
    report.findings[0].evidence.resize(2);
    put("report", report);
    put("end", agent::AnswerEnd{.unreadable = 3, .first_gap = "why"});
    put("question", agent::Question{.topic = agent::Topic::tasks, .one_pid = true, .pid = 7});
    put("part",
        agent::RamPart{
            .begin = 4096, .size_bytes = 3, .state = agent::RamState::bytes, .bytes = "abc"});
}
}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) return 2;
    folder = argv[1];
    images();
    answers();
}
