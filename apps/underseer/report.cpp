#include "report.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>

#include "base/counted.h"
#include "checks.h"
#include "crypto/hash.h"
#include "hypervisor/discover.h"
#include "json/writer.h"
#include "output.h"
#include "output_file.h"
#include "report_page.h"
#include "target.h"

namespace underseer::cli {

namespace {

using agent::Topic;
using Facts = std::vector<std::pair<std::string, std::string>>;

std::uint64_t now_ns() {
    return static_cast<std::uint64_t>(
        std::chrono::nanoseconds(Clock::system().wall().time_since_epoch()).count());
}

// An image, and proof of which it was. It is open while the report is made: a file that is changed
// or exchanged meanwhile is no longer the one that was hashed.
class HashedImage {
  public:
    static Result<HashedImage> open(const std::string& path) {
        HashedImage image;
        image.path_ = path;
        image.fd_ = TRY(open_file(path, O_RDONLY | O_NONBLOCK));
        image.before_ = TRY(image.examine());
        if (!S_ISREG(image.before_.st_mode)) return image;  // what reads it says so better
        const auto size = static_cast<std::uint64_t>(image.before_.st_size);
        image.sha256_ = crypto::to_hex(TRY(
            crypto::sha256_of_fd(image.fd_.get(), size).context(fmt::format("hashing {}", path))));
        return image;
    }

    Result<Facts> facts() const {
        struct stat now{};
        const bool same = ::stat(path_.c_str(), &now) == 0 && now.st_dev == before_.st_dev &&
                          now.st_ino == before_.st_ino && now.st_size == before_.st_size &&
                          now.st_mtim.tv_sec == before_.st_mtim.tv_sec &&
                          now.st_mtim.tv_nsec == before_.st_mtim.tv_nsec;
        if (!same) {
            return fail(Code::unavailable,
                        fmt::format("{} was changed while the report was made; copy it, then "
                                    "report on the copy",
                                    path_));
        }
        const std::uint64_t modified =
            static_cast<std::uint64_t>(before_.st_mtim.tv_sec) * 1'000'000'000;
        return Facts{{"Kind", "memory image"},
                     {"File", path_},
                     {"Size", fmt::format("{} bytes", before_.st_size)},
                     {"SHA-256", sha256_},
                     {"Last changed", time_text(modified) + " UTC"}};
    }

  private:
    Result<struct stat> examine() const {
        struct stat status{};
        if (::fstat(fd_.get(), &status) != 0) {
            return fail(os_error(fmt::format("examining {}", path_)));
        }
        return status;
    }

    std::string path_, sha256_;
    Fd fd_;
    struct stat before_{};
};

// A running VM has no hash: who it was and when it was read takes its place.
Result<Facts> vm_facts(const std::string& wanted) {
    const hypervisor::Vm vm = TRY(hypervisor::select(TRY(hypervisor::discover()), wanted));
    return Facts{{"Kind", "running VM, read while it ran; its memory has no hash"},
                 {"Name", vm.label()},
                 {"UUID", vm.uuid.empty() ? "none" : vm.uuid},
                 {"VMM", fmt::format("{} (pid {})", vm.executable, vm.pid)},
                 {"Machine",
                  fmt::format("{}, {}, {} MiB", vm.machine, vm.accelerator, vm.memory_bytes >> 20)},
                 {"Its RAM", std::string(to_string(vm.backing))}};
}

// Without a guest there is no report; a topic that cannot be had is told in it.
Result<void> keep_or_fail(Error error, std::string& unavailable) {
    if (error.code != Code::unavailable && error.code != Code::unreadable &&
        error.code != Code::unsupported && error.code != Code::limit) {
        return fail(std::move(error));
    }
    unavailable = error.to_text();
    return {};
}

template <typename T>
Result<void> look(Target& target, Topic topic, Seen<T>& seen) {
    auto answer = target.ask<T>({.topic = topic});
    if (answer.has_value()) {
        seen.answer = std::move(*answer);
        return {};
    }
    return keep_or_fail(std::move(answer).error(), seen.unavailable);
}

std::string default_output(const std::string& target) {
    std::string name = target.substr(target.rfind('/') + 1);
    for (char& c : name) {
        if (std::isalnum(static_cast<unsigned char>(c)) == 0 && c != '.' && c != '_') c = '-';
    }
    if (name.empty() || name[0] == '.') name = "guest" + name;
    return "underseer-" + name + ".html";
}

Result<void> run_all_checks(Target& target, const Options& options,
                            Seen<event::CheckReport>& seen) {
    auto checked = run_checks(target, options);
    if (checked.has_value()) {
        seen.answer = std::move(*checked);
        return {};
    }
    return keep_or_fail(std::move(checked).error(), seen.unavailable);
}

}  // namespace

Result<int> report(const Options& options) {
    Options to = options;
    if (to.argument.empty()) to.argument = default_output(options.target);
    const std::string& output = to.argument;
    TRY(check_output(to));
    ReportContent content;
    content.subject = options.target;
    content.tool = fmt::format("underseer {}", UNDERSEER_VERSION);
    content.begun_ns = now_ns();
    std::optional<HashedImage> image;
    if (names_an_image(options.target)) image = TRY(HashedImage::open(options.target));
    Target target = TRY(Target::open(options));
    auto system = TRY(target.ask<event::SystemInfo>({.topic = Topic::info}));
    if (system.items.size() != 1) return fail(Code::malformed, "the introspector sent no system");
    content.system.answer = std::move(system);
    TRY(look(target, Topic::tasks, content.tasks));
    TRY(look(target, Topic::modules, content.modules));
    TRY(look(target, Topic::sockets, content.sockets));
    TRY(look(target, Topic::mounts, content.mounts));
    TRY(look(target, Topic::interfaces, content.interfaces));
    TRY(look(target, Topic::kernel_log, content.kernel_log));
    TRY(run_all_checks(target, options, content.checks));
    content.input = image ? TRY(image->facts()) : TRY(vm_facts(options.target));
    content.made_ns = now_ns();

    const std::string page = report_page(content);
    PartialFile file = TRY(PartialFile::create(output));
    TRY(write_all(file.fd(), as_bytes(page)).context(fmt::format("writing {}", output)));
    TRY(file.keep_as(output, options.force));
    const FindingCounts findings = count_findings(content.checks.answer.items);
    if (options.json) {
        std::string text;
        json::Writer writer(&text, json::Style::pretty);
        writer.begin_object()
            .member("output", output)
            .member("bytes", page.size())
            .member("sha256", crypto::to_hex(crypto::sha256(as_bytes(page))))
            .member("findings", findings.alarming)
            .member("informational", findings.informational)
            .end_object();
        fmt::print("{}\n", text);
    } else {
        fmt::print("{}: {}, {}\n", printable(output), text_of(findings),
                   counted(content.tasks.answer.items.size(), "process", "processes"));
    }
    return content.checks.unavailable.empty() ? outcome_of(content.checks.answer.items) : 10;
}

}  // namespace underseer::cli
