#include "agent/evidence.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>

#include "agent/introspector.h"
#include "agent/paths.h"
#include "base/counted.h"
#include "event/json_form.h"
#include "event_log/signed_bundle.h"

namespace underseer::agent {

namespace {

using namespace std::chrono_literals;
using event_log::BundleFile;
using event_log::SignedBundle;

constexpr auto kLongest = 15min;        // a dump of many GiB to a slow disk
constexpr std::size_t kMaxWaiting = 8;  // of one instance
constexpr auto kBetweenLooks = 500ms;   // at supervisors of exact traces
constexpr std::uint64_t kMostStops = 1'000'000;
constexpr std::uint64_t kListBytes = 32u << 20;
// A bundle is not begun where there is less room than its lists may take; and the host's own file
// system is never filled.
constexpr std::uint64_t kLeastRoomBytes = 64u << 20, kKeptFreeBytes = 1u << 30;
constexpr std::size_t kMaxNameBytes = 64;
constexpr std::size_t kMaxStateBytes = 256;
constexpr std::string_view kFindingFile = "finding.json";

// What others may have written, as a part of a path: "web-1", "8f1c2d3e-..".
std::string as_name(std::string_view text) {
    std::string name;
    for (const char c : text.substr(0, kMaxNameBytes)) {
        const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                           (c >= '0' && c <= '9') || c == '-' || c == '_';
        name += plain ? c : '_';
    }
    return name.empty() ? "_" : name;
}

bool is_memory(EvidenceKind kind) {
    return kind == EvidenceKind::process_memory || kind == EvidenceKind::process_program ||
           kind == EvidenceKind::module_memory || kind == EvidenceKind::machine_memory;
}

std::string file_name(EvidenceKind kind, const EvidenceKeeper::Order& order) {
    const std::string process = fmt::format("process-{}", order.pid.value_or(0));
    switch (kind) {
        case EvidenceKind::process_memory:
            return process + ".core";
        case EvidenceKind::process_maps:
            return process + ".maps.json";
        case EvidenceKind::process_files:
            return process + ".files.json";
        case EvidenceKind::process_program:
            return process + ".exe";
        case EvidenceKind::process_calls:
            return process + ".calls.json";
        case EvidenceKind::process_trace:
            return process + ".trace.json";
        case EvidenceKind::module_memory:
            return fmt::format("module-{}.core", as_name(order.finding->finding.subject));
        case EvidenceKind::machine_memory:
            return "memory.core";
        default:
            return fmt::format("{}.json", to_string(kind));
    }
}

std::string mib(std::uint64_t bytes) {
    return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1u << 20));
}

std::uint64_t bytes_below(const std::filesystem::path& folder) {
    std::uint64_t bytes = 0;
    std::error_code error;
    for (auto entry = std::filesystem::recursive_directory_iterator(folder, error);
         !error && entry != std::filesystem::recursive_directory_iterator();
         entry.increment(error)) {
        struct stat status{};
        if (::lstat(entry->path().c_str(), &status) != 0) continue;
        bytes += static_cast<std::uint64_t>(status.st_blocks) * 512;
    }
    return bytes;
}

std::uint64_t length_of(const std::filesystem::path& path) {
    struct stat status{};
    return ::lstat(path.c_str(), &status) == 0 ? static_cast<std::uint64_t>(status.st_size) : 0;
}

std::uint64_t now_ns() {
    return static_cast<std::uint64_t>(
        std::chrono::nanoseconds(std::chrono::system_clock::now().time_since_epoch()).count());
}

// A folder of that instance that was not there before.
Result<std::filesystem::path> make_folder(const std::filesystem::path& instance,
                                          const std::string& about) {
    const auto now = std::chrono::system_clock::now();
    const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch());
    const auto path = instance / fmt::format("{:%Y%m%dT%H%M%S}.{:03}Z-{}",
                                             fmt::gmtime(std::chrono::system_clock::to_time_t(now)),
                                             ms.count() % 1000, about);
    if (::mkdir(path.c_str(), 0700) != 0) {
        return fail(os_error("making the directory " + path.native()));
    }
    return path;
}

}  // namespace

struct EvidenceKeeper::Collection {
    Order order;
    Done done;
    std::filesystem::path folder;  // of the bundle
    std::vector<OutputForm> outputs;
    std::vector<KeptFile> kept;
    std::unique_ptr<JobRunner> worker;
    std::string why_not_exact;
    EventLoop::Timer timer = 0;
};

EvidenceKeeper::EvidenceKeeper(EventLoop* loop, const policy::Policy* policy,
                               const crypto::SigningKey* key, std::filesystem::path state_dir)
    : loop_(loop),
      policy_(policy),
      key_(key),
      state_dir_(std::move(state_dir)),
      folder_(evidence_path(state_dir_)) {}

EvidenceKeeper::~EvidenceKeeper() {
    for (const auto& [instance, queue] : collections_) loop_->cancel(queue.front()->timer);
    loop_->cancel(supervised_timer_);
}

Result<EvidenceKeeper::Plan> EvidenceKeeper::make_plan(const Order& order) const {
    Plan plan{.folder = folder_ / as_name(order.instance.id), .outputs = {}};
    const std::uint64_t used = bytes_below(plan.folder), quota = policy_->evidence_keep_bytes;
    std::uint64_t room = quota - std::min(quota, used);
    if (room < kLeastRoomBytes) {
        return fail(
            Code::limit,
            fmt::format("its evidence takes {} of the {} that [evidence] keep_bytes allows: "
                        "move what is needed away from {}, and remove it there",
                        mib(used), mib(quota), plan.folder.native()));
    }
    struct statvfs disk{};
    std::filesystem::path there = folder_;
    while (::statvfs(there.c_str(), &disk) != 0) {
        if (errno != ENOENT || !there.has_relative_path()) {
            return fail(os_error("examining the file system of " + folder_.native()));
        }
        there = there.parent_path();
    }
    const std::uint64_t free_bytes = std::uint64_t{disk.f_bavail} * disk.f_frsize;
    room = std::min(room, free_bytes - std::min(free_bytes, kKeptFreeBytes));
    if (room < kLeastRoomBytes) {
        return fail(Code::limit,
                    fmt::format("{} are free where {} lies, and {} must stay so", mib(free_bytes),
                                folder_.native(), mib(kKeptFreeBytes)));
    }
    std::vector<EvidenceKind> kinds;
    if (order.action == event::Action::capture) {
        // What will not wait comes first.
        if (order.pid) {
            kinds = {EvidenceKind::process_memory, EvidenceKind::process_maps,
                     EvidenceKind::process_files, EvidenceKind::process_program};
            // What samples cannot see first; of a VM that stands still there is nothing more.
            if (policy_->evidence_trace && policy_->evidence_exact_stops > 0 &&
                order.vm.state != "paused") {
                kinds.push_back(EvidenceKind::process_calls);
            }
            if (policy_->evidence_trace) kinds.push_back(EvidenceKind::process_trace);
        }
        if (order.finding && order.finding->finding.subject_kind == "module") {
            kinds.push_back(EvidenceKind::module_memory);
        }
        kinds.insert(kinds.end(),
                     {EvidenceKind::processes, EvidenceKind::sockets, EvidenceKind::modules,
                      EvidenceKind::mounts, EvidenceKind::interfaces, EvidenceKind::kernel_log});
    } else {
        kinds.push_back(EvidenceKind::machine_memory);
    }
    kinds.push_back(EvidenceKind::system);
    const auto memories = static_cast<std::uint64_t>(std::ranges::count_if(kinds, is_memory));
    for (const EvidenceKind kind : kinds) {
        plan.outputs.push_back(
            {kind, is_memory(kind) ? std::max(room / memories, kListBytes) : kListBytes});
    }
    return plan;
}

Result<std::string> EvidenceKeeper::plan(const Order& order) const {
    const Plan plan = TRY(make_plan(order));
    return fmt::format("would be kept: {} below {}", counted(plan.outputs.size(), "file"),
                       plan.folder.native());
}

void EvidenceKeeper::keep(Order order, Done done) {
    const std::string instance = order.instance.id;
    auto& queue = collections_[instance];
    if (queue.size() >= kMaxWaiting) {
        loop_->after(0ms, [done = std::move(done), count = queue.size()] {
            done(fail(Code::limit, fmt::format("{} bundles of it are waited for", count)));
        });
        return;
    }
    queue.push_back(std::make_unique<Collection>());
    queue.back()->order = std::move(order);
    queue.back()->done = std::move(done);
    if (queue.size() > 1) return;
    queue.front()->timer = loop_->after(0ms, [this, instance] { begin(instance); });
}

void EvidenceKeeper::begin(const std::string& instance) {
    Collection& collection = *collections_.at(instance).front();
    collection.timer = 0;
    if (const auto started = start(collection); !started.has_value()) {
        return finish(instance, started.error());
    }
}

Result<void> EvidenceKeeper::start(Collection& collection) {
    const Order& order = collection.order;
    Plan plan = TRY(make_plan(order));
    TRY(make_directory(folder_, 0700));
    TRY(make_directory(plan.folder, 0700));
    collection.folder =
        TRY(make_folder(plan.folder, order.finding ? as_name(order.finding->finding.rule)
                                                   : std::string(event::to_string(order.action))));
    collection.outputs = std::move(plan.outputs);
    const std::string instance = order.instance.id;
    // Not from inside the worker's own handler.
    const auto end = [this, instance, &collection](Error why) {
        loop_->cancel(collection.timer);
        collection.timer = loop_->after(0ms, [this, instance, why = std::move(why)] {
            collections_.at(instance).front()->timer = 0;
            finish(instance, why);
        });
    };
    collection.worker = std::make_unique<JobRunner>(
        loop_,
        JobRunner::Callbacks{.start = [this, &collection] { return start_worker(collection); },
                             .ready = [](const auto&) {},
                             .lost = [end](const Error& why, auto) { end(why); }});
    collection.worker->start();
    Question question{.topic = Topic::evidence,
                      .one_pid = order.pid.has_value(),
                      .pid = order.pid.value_or(0),
                      .environment = !policy_->redact_environment};
    if (order.finding) question.evidence.module = order.finding->finding.subject;
    // Of a VM that stands still one sample is as good as many.
    const auto trace = order.vm.state == "paused" ? std::chrono::milliseconds(kMinTraceMs)
                                                  : policy_->evidence_trace.value_or(0ms);
    question.evidence.trace_ms = static_cast<std::uint32_t>(trace.count());
    question.evidence.why_not_exact = collection.why_not_exact;
    const bool taken =
        collection.worker->submit({.question = event::encode(question),
                                   .deadline = kLongest,
                                   .on_frame =
                                       [this, &collection, end](std::string_view frame, bool last) {
                                           if (!last) return take(collection, frame);
                                           event::Decoder decoder{as_bytes(frame.substr(1))};
                                           const auto ending = decoder.get<AnswerEnd>();
                                           if (!ending.has_value()) return false;
                                           end(ending->failed ? error_of(*ending) : Error{});
                                           return true;
                                       },
                                   .on_failure = [](const Error&) {}});  // lost has told it
    CHECK(taken);
    return {};
}

Result<StartedWorker> EvidenceKeeper::start_worker(Collection& collection) {
    GuestSource source = TRY(live_source(collection.order.vm));
    for (const OutputForm& form : collection.outputs) {
        const auto path = collection.folder / file_name(form.kind, collection.order);
        // Not a second time: a worker that was lost is not replaced.
        source.outputs.push_back(
            {form, TRY(open_file(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0600))});
    }
    const bool is_exact = std::ranges::any_of(collection.outputs, [](const OutputForm& form) {
        return form.kind == EvidenceKind::process_calls;
    });
    if (is_exact) {
        const hypervisor::Vm& vm = collection.order.vm;
        const auto stops = std::min<std::uint64_t>(policy_->evidence_exact_stops, kMostStops);
        auto supervisor = TraceSupervisor::begin(vm, state_dir_, static_cast<std::uint32_t>(stops));
        if (supervisor.has_value()) {
            source.supervisor = supervisor->take_line();
            supervised_.push_back({vm, std::move(*supervisor)});
            if (supervised_timer_ == 0) look_after_supervisors();
        } else {
            collection.why_not_exact = supervisor.error().to_text();
        }
    }
    return TRY(Introspector::begin(std::move(source), "introspector")).release();
}

void EvidenceKeeper::end_exact_trace(const hypervisor::Vm& vm) {
    for (Supervised& one : supervised_) {
        if (one.vm.pid == vm.pid && one.vm.start_ticks == vm.start_ticks) one.supervisor.end();
    }
}

void EvidenceKeeper::look_after_supervisors() {
    supervised_timer_ = 0;
    std::erase_if(supervised_, [&](Supervised& one) {
        const auto report = one.supervisor.poll();
        if (!report) return false;
        // What is owed is paid by who looks after all VMs (Responder).
        if (report->has_value() && (*report)->trouble.empty()) {
            TraceRecord::settle(state_dir_, one.vm);
        }
        return true;
    });
    if (supervised_.empty()) return;
    supervised_timer_ = loop_->after(kBetweenLooks, [this] { look_after_supervisors(); });
}

// TRUST: the worker reads what a guest has written. It tells of the files that it was given, in
// their order, and the files are as long as the file system says.
bool EvidenceKeeper::take(Collection& collection, std::string_view frame) {
    event::Decoder decoder{as_bytes(frame.substr(1))};
    auto file = decoder.get<KeptFile>();
    const std::size_t next = collection.kept.size();
    if (!file.has_value() || next >= collection.outputs.size() ||
        file->kind != collection.outputs[next].kind) {
        return false;
    }
    collection.kept.push_back(std::move(*file));
    return true;
}

void EvidenceKeeper::finish(const std::string& instance, const Error& why_not_all) {
    const std::string id = instance;  // that may belong to what ends here
    auto& queue = collections_.at(id);
    const std::unique_ptr<Collection> collection = std::move(queue.front());
    queue.pop_front();
    collection->worker.reset();
    if (queue.empty()) {
        collections_.erase(id);
    } else {
        queue.front()->timer = loop_->after(0ms, [this, id] { begin(id); });
    }
    collection->done(seal(*collection, why_not_all));
}

void EvidenceKeeper::state_changed(const std::string& instance, const std::string& state) {
    const auto found = collections_.find(instance);
    if (found == collections_.end()) return;
    for (std::size_t i = 0; i < found->second.size(); ++i) {
        std::string& told = found->second[i]->order.vm.state;
        // Those behind the first one have not begun.
        if (i > 0 || told.empty()) {
            told = state;
        } else if (!told.ends_with(state) && told.size() < kMaxStateBytes) {
            told += ", then " + state;
        }
    }
}

void EvidenceKeeper::stop(const Error& why) {
    for (const auto& [instance, queue] : std::exchange(collections_, {})) {
        Collection& being_made = *queue.front();
        loop_->cancel(being_made.timer);
        being_made.worker.reset();
        being_made.done(seal(being_made, why));
        for (std::size_t i = 1; i < queue.size(); ++i) queue[i]->done(fail(why));
    }
}

Result<EvidenceKeeper::Bundle> EvidenceKeeper::seal(Collection& collection,
                                                    const Error& why_not_all) {
    const Order& order = collection.order;
    if (collection.folder.empty()) return fail(why_not_all);
    SignedBundle bundle;
    bundle.made_ns = now_ns();
    bundle.about = {{"host", order.instance.host},
                    {"instance", order.instance.name},
                    {"instance_id", order.instance.id},
                    {"tenant", order.instance.tenant},
                    {"app_instance_id", order.instance.app_instance_id},
                    {"vm_state", order.vm.state},
                    {"action", std::string(event::to_string(order.action))},
                    {"because", order.because},
                    {"finding_uid", order.finding ? order.finding->uid : ""}};
    if (order.finding) {
        std::string text;
        json::Writer writer(&text, json::Style::pretty);
        event::JsonForm(&writer).put(*order.finding);
        text += '\n';
        const Fd fd = TRY(open_file(collection.folder / kFindingFile,
                                    O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600));
        TRY(write_all(fd.get(), as_bytes(text)));
        if (::fsync(fd.get()) != 0) return fail(os_error("syncing the finding"));
        bundle.files.push_back({.name = std::string(kFindingFile),
                                .kind = "finding",
                                .bytes = text.size(),
                                .sha256 = crypto::to_hex(crypto::sha256(as_bytes(text))),
                                .why_not = {},
                                .gaps = {}});
    }
    const std::string lost =
        why_not_all.message.empty() ? "the worker did not come to it" : why_not_all.to_text();
    std::uint64_t count = bundle.files.size(), missing = 0;
    for (std::size_t i = 0; i < collection.outputs.size(); ++i) {
        const EvidenceKind kind = collection.outputs[i].kind;
        KeptFile kept = i < collection.kept.size()
                            ? std::move(collection.kept[i])
                            : KeptFile{.kind = kind, .sha256 = {}, .why_not = lost, .gaps = {}};
        const std::string name = file_name(kind, order);
        if (kept.why_not.empty()) {
            ++count;
        } else {
            ++missing;
            std::error_code error;
            std::filesystem::remove(collection.folder / name, error);
        }
        bundle.files.push_back(
            {.name = name,
             .kind = std::string(to_string(kind)),
             .bytes = kept.why_not.empty() ? length_of(collection.folder / name) : 0,
             .sha256 = std::move(kept.sha256),
             .why_not = std::move(kept.why_not),
             .gaps = std::move(kept.gaps)});
    }
    Bundle result{.folder = collection.folder, .sha256 = {}, .text = {}};
    if (count == 0) {
        std::error_code error;
        std::filesystem::remove_all(collection.folder, error);
        return fail(Code::unavailable, bundle.files.front().why_not);
    }
    result.sha256 = TRY(bundle.store(collection.folder, *key_));
    result.text = fmt::format("{}{}, {}, in {}", counted(count, "file"),
                              missing == 0 ? "" : fmt::format(" ({} could not be had)", missing),
                              mib(bytes_below(collection.folder)), collection.folder.native());
    return result;
}

}  // namespace underseer::agent
