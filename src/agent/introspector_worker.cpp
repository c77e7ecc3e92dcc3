#include "agent/introspector_worker.h"

#include "agent/baseline_maker.h"
#include "agent/event_rules.h"
#include "agent/exact_trace.h"
#include "agent/guest_watcher.h"
#include "agent/introspector.h"
#include "agent/memory_scan.h"
#include "agent/process_trace.h"

#include <fmt/format.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <functional>

#include "crypto/hash.h"
#include "detect/decoy_kernel/decoy_kernel.h"
#include "detect/hidden_process/hidden_process.h"
#include "detect/watches.h"
#include "guest_linux/guest.h"
#include "guest_linux/isf.h"
#include "guest_memory/cached_memory.h"
#include "guest_memory/sources.h"

namespace underseer::agent {

namespace {

using guest_linux::Guest;
using guest_linux::Listing;
using guest_memory::CachedMemory;
using guest_memory::GuestMemory;

constexpr std::uint64_t kMaxWorkerMemory = 1ull << 30;
constexpr int kFirstMemoryFd = jail::kFirstWorkerFd + 1;
constexpr std::uint64_t kMaxReadBytes = 16u << 20;
// Kernels that have ended and may still lie in RAM: each reboot leaves one at most.
constexpr std::size_t kMaxRemains = 8;
// A kernel that turns out not to run is left for another one this often within one question.
constexpr unsigned kAttempts = 3;
constexpr std::size_t kOneItemAFrame = 0;
constexpr std::size_t kTextPartBytes = kItemsFrameBytes - 64;  // one fills a frame
constexpr std::uint64_t kRamPieceBytes = 64u << 10;  // of a dump: a frame holds a few of them

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;
constexpr nanoseconds kProofStep{1'000'000};

class Worker {
  public:
    Worker(jail::Channel channel, GuestSource source)
        : channel_(std::move(channel)), source_(std::move(source)) {}

    Result<void> serve() {
        for (;;) {
            auto frame = channel_.receive();
            if (!frame.has_value() && frame.error().code == Code::not_found) return {};
            if (!frame.has_value()) return fail(std::move(frame).error());
            const Question question = TRY(event::decode<Question>(as_bytes(*frame)));
            TRY(answer(question));
            if (question.topic == Topic::baseline && question.baseline.is_last) {
                std::string().swap(baseline_);
            }
        }
    }

  private:
    using Frames = std::vector<std::string>;
    static constexpr unsigned kStepMs = guest_linux::kWatchStepMs;

    // The guest is looked for at the first question and again whenever it was not found, its kernel
    // has ended (a VM may just be booting), or its CPUs (empty: not told) turn out to run another.
    Result<void> attach(std::span<const event::CpuRegisters> cpus = {}) {
        if (guest_ && cache_->live()) {
            const auto now = guest_linux::read_vital_signs(guest_->kernel());
            if (!now.has_value() || !guest_linux::check_same_life(signs_, *now).has_value()) {
                leave_kernel();
            } else {
                signs_.ticks = now->ticks;
            }
        }
        if (!source_.image && !guest_linux::may_run_linux(cpus)) {
            if (guest_) leave_kernel();
            return fail(
                Code::unavailable,
                source_.name + ": the guest is booting: none of its CPUs is in 64-bit mode");
        }
        if (guest_ && !cpus.empty()) leave_decoy(cpus);
        if (guest_) return {};
        Error why;
        for (const auto* layout : {&source_.layout, &source_.alternative}) {
            if (layout->empty() && !source_.image) continue;
            memory_ = TRY(open(*layout));
            cache_ = std::make_unique<CachedMemory>(memory_.get());
            if (source_.image) {
                image_cpus_ = guest_linux::registers_in_notes(memory_->notes());
                cpus = image_cpus_;
            }
            auto guest = Guest::attach(cache_.get(), {.remains = remains_, .cpus = cpus});
            if (guest.has_value()) {
                guest_ = std::move(*guest);
                guest_->use(&known_programs_);
                if (!cache_->live()) return {};
                auto signs = guest_linux::read_vital_signs(guest_->kernel());
                if (signs.has_value()) {
                    signs_ = *signs;
                    return {};
                }
                guest = fail(std::move(signs).error());
                guest_.reset();
            }
            // Of two layouts one is wrong, and no kernel is in it: the other's trouble is the
            // trouble.
            if (why.message.empty() || why.code == Code::not_linux) why = std::move(guest).error();
            if (source_.image) break;
        }
        return fail(std::move(std::move(why).with_context(source_.name)));
    }

    void leave_decoy(std::span<const event::CpuRegisters> cpus) {
        using guest_linux::Testimony;
        guest_->new_epoch();
        const auto hearing = guest_linux::hear_cpus(*cache_, guest_->kernel().image(), cpus);
        if (hearing.count(Testimony::runs_another) == 0) return;
        auto left = guest_->kernel().as_unrun();
        if (left.has_value()) decoys_.suspect(std::move(*left));
        leave_guest();
    }

    void leave_guest() {
        watcher_.reset();  // it holds on to the guest
        guest_.reset();
        build_id_.clear(), variant_.clear();
        seen_running_ = false;
        suspect_ = false;
        event_rules_.forget_guest();
        scan_.leave_guest();
        trace_.leave_guest();
    }

    void leave_kernel() {
        leave_guest();
        if (remains_.size() == kMaxRemains) remains_.erase(remains_.begin());
        remains_.push_back(signs_);
    }

    // That what was read since attach() is the truth about a kernel that runs (or is paused), and
    // not what one that has ended left behind.
    Result<void> confirm(const std::function<void()>& pause = [] { sleep_ms(kStepMs); }) {
        if (!cache_->live()) return {};
        using guest_linux::Acquaintance;
        auto proof = guest_linux::prove_running(
            guest_->kernel(), signs_,
            seen_running_ ? Acquaintance::seen_running : Acquaintance::new_here, pause);
        if (!proof.has_value()) {
            leave_kernel();
            return fail(std::move(std::move(proof).error().with_context(source_.name)));
        }
        seen_running_ |= proof->ticks != signs_.ticks;
        signs_ = *proof;
        return {};
    }

    Result<std::unique_ptr<GuestMemory>> open(const std::vector<guest_memory::RamSlice>& layout) {
        std::vector<int> fds;
        for (const Fd& fd : source_.fds) fds.push_back(fd.get());
        if (!source_.image) return guest_memory::open_live(std::move(fds), layout, source_.name);
        return guest_memory::open_image(fds.front(), source_.image_bytes, source_.name);
    }

    // The machine's RAM, whether there is a Linux in it or not. Where its layout is a guess, the
    // one in which a kernel was found is right.
    Result<GuestMemory*> ram() {
        if (!guest_ && !source_.alternative.empty()) (void)attach();
        if (guest_) return memory_.get();
        if (!ram_) ram_ = TRY(open(source_.layout));
        return ram_.get();
    }

    Result<Listing<RamExtent>> ram_regions() {
        Listing<RamExtent> listing;
        for (const guest_memory::RamRegion& region : TRY(ram())->regions()) {
            listing.items.push_back({region.begin.value, region.size_bytes});
        }
        return listing;
    }

    // A piece that cannot be read whole is read page by page.
    Result<Listing<RamPart>> ram_bytes(const Question& question) {
        if (question.size_bytes > kMaxRamQuestion || question.address > ~0ull - kMaxRamQuestion) {
            return fail(Code::invalid_argument, "too much memory asked for at once");
        }
        GuestMemory& memory = *TRY(ram());
        Listing<RamPart> listing;
        const std::uint64_t end = question.address + question.size_bytes;
        const auto add = [&](std::uint64_t at, std::uint64_t size, bool whole) {
            RamPart part{.begin = at, .size_bytes = size, .bytes = std::string(size, '\0')};
            guest_memory::ReadOp op{
                GuestPhys{at},
                {reinterpret_cast<std::byte*>(part.bytes.data()), part.bytes.size()}};
            memory.read_many({&op, 1});
            using guest_memory::ReadStatus;
            if (op.status != ReadStatus::ok && whole) return false;
            part.state = op.status == ReadStatus::failed ? RamState::failed
                         : op.status != ReadStatus::ok   ? RamState::absent
                         : part.bytes.find_first_not_of('\0') == std::string::npos
                             ? RamState::zeros
                             : RamState::bytes;
            if (part.state == RamState::failed) part.why = memory.failure();
            if (part.state != RamState::bytes) part.bytes.clear();
            listing.items.push_back(std::move(part));
            return true;
        };
        for (std::uint64_t at = question.address; at < end;) {
            const std::uint64_t piece = std::min(end - at, kRamPieceBytes);
            if (!add(at, piece, /*whole=*/true)) {
                for (std::uint64_t page = at; page < at + piece;) {
                    const std::uint64_t next = std::min((page & kPageMask) + kPageSize, at + piece);
                    add(page, next - page, /*whole=*/false);
                    page = next;
                }
            }
            at += piece;
        }
        return listing;
    }

    Result<void> answer(const Question& question) {
        // A dump needs no kernel.
        if (question.topic == Topic::ram_regions) return send_all(frames_of(ram_regions()));
        if (question.topic == Topic::ram_bytes) return send_all(frames_of(ram_bytes(question)));
        if (question.topic == Topic::scan) {
            if (!source_.scans) {
                return send_failure({Code::unsupported, 0, "this worker makes no scans"});
            }
            // Nor do rules.
            if (question.scan.step == ScanStep::rules) {
                return send_all(frames_of(scan_.add_rules(question.scan.rules)));
            }
            if (question.scan.step == ScanStep::compile) {
                return send_all(frames_of(scan_.compile()));
            }
        }
        if (question.topic == Topic::make_baseline) {
            return send_all(frames_of(made_baseline(), kOneItemAFrame));
        }
        if (question.topic == Topic::compile_rules) {
            return send_all(frames_of(compile_rules(question.scan.rules), kOneItemAFrame));
        }
        if (question.topic == Topic::event_rules) {
            return send_all(frames_of(take_event_rules(question)));
        }
        if (question.topic == Topic::programs) {
            return send_all(frames_of(take_programs(question.baseline)));
        }
        if (question.topic == Topic::baseline) {
            if (auto taken = collect_baseline(question.baseline); !taken.has_value()) {
                return send_failure(taken.error());
            }
        }
        if (question.topic == Topic::evidence) return evidence(question);
        if (question.topic == Topic::watch) return watch(question);
        if (question.topic == Topic::exact_trace) return trace_exactly(question);
        Error last;
        for (unsigned i = 0; i < kAttempts; ++i) {
            auto attached = attach(question.cpus);
            if (!attached.has_value()) return send_failure(attached.error());
            guest_->new_epoch();
            Frames frames = frames_for(question);
            auto confirmed = confirm();
            if (confirmed.has_value()) return send_all(frames);
            last = std::move(confirmed).error();
        }
        return send_failure(last);
    }

    Result<void> same_life() {
        if (!guest_ || !cache_->live()) return {};
        return guest_linux::check_same_life(signs_,
                                            TRY(guest_linux::read_vital_signs(guest_->kernel())));
    }

    // A frame for each file, as soon as it is written: who ends this worker then takes back
    // nothing.
    Result<void> evidence(const Question& question) {
        jail::Channel supervisor(std::move(source_.supervisor));
        const EvidenceSubject subject{
            .pid = question.one_pid ? std::optional(question.pid) : std::nullopt,
            .environment = question.environment,
            .order = question.evidence,
            .supervisor = supervisor.fd() >= 0 ? &supervisor : nullptr};
        // Proved once, which takes its time where the guest is paused; that it is still the same
        // life is seen each time.
        for (unsigned i = 0; i < kAttempts && attach().has_value(); ++i) {
            if (confirm().has_value()) break;
        }
        for (const EvidenceOutput& output : source_.outputs) {
            const auto attached = attach();
            const Error why = attached.has_value() ? Error{} : attached.error();
            auto ram = this->ram();
            if (!ram.has_value()) return send_failure(ram.error());
            KeptFile kept = write_evidence(guest_.get(), why, **ram, output, subject);
            if (const auto same = same_life(); !same.has_value()) {
                kept.gaps.push_back(same.error().to_text());
            }
            TRY(channel_.send(items_frame(event::encode(kept))));
        }
        return channel_.send(end({}));
    }

    // Told as it comes. While it lasts the worker answers nothing else: the guest may wait for it.
    Result<void> trace_exactly(const Question& question) {
        const std::uint32_t for_ms = question.trace.for_ms;
        if (!source_.supervisor || !question.one_pid || for_ms < kMinTraceMs ||
            for_ms > kMaxTraceMs) {
            return send_failure({Code::invalid_argument, 0, "this is no way to trace"});
        }
        jail::Channel supervisor(std::move(source_.supervisor));
        Result<void> traced = attach(question.cpus);
        if (traced.has_value()) traced = confirm();
        if (traced.has_value()) {
            traced =
                agent::trace_exactly(*guest_, memory_.get(), supervisor, question.pid,
                                     question.trace, [&](const ExactPart& part) {
                                         return channel_.post(items_frame(event::encode(part)));
                                     });
            TRY(channel_.finish());
        }
        // That the guest's time goes on, and it is the same guest.
        if (traced.has_value()) traced = confirm();
        return traced.has_value() ? channel_.send(end({})) : send_failure(traced.error());
    }

    // What is watched is looked at until there is news, or the time is over; what the watches know
    // is kept for the next question.
    Result<void> watch(const Question& question) {
        if (auto possible = GuestWatcher::check(question.watch); !possible.has_value()) {
            return send_failure(possible.error());
        }
        if (source_.image) {
            return send_failure({Code::unsupported, 0, "an image does not change"});
        }
        if (auto attached = attach(question.cpus); !attached.has_value()) {
            return send_failure(attached.error());
        }
        if (!watcher_) {
            watcher_ = std::make_unique<GuestWatcher>(
                guest_.get(), memory_.get(),
                [this](auto signs) { return channel_.send(signs_frame(signs)); });
        }
        if (TRY(watcher_->watch(question.watch))) {
            // Memory changes as well when the guest is reset: that it has run since is what counts.
            const auto signs = guest_linux::read_vital_signs(guest_->kernel());
            if (!signs.has_value() || !guest_linux::check_same_life(signs_, *signs).has_value()) {
                leave_kernel();
                return send_failure({Code::gone, 0, "the guest has booted anew, or is about to"});
            }
            signs_ = *signs;
        }
        Listing<event::CheckReport> listing{watcher_->reports(), 0, {}};
        if (auto confirmed = confirm_watching(); !confirmed.has_value()) {
            return send_failure(confirmed.error());
        }
        TRY(channel_.send(items_frame(event::encode(watcher_->tally()))));
        return send_all(frames_of<event::CheckReport>(std::move(listing), kOneItemAFrame));
    }

    // As confirm(), but sooner where the guest's clock ticks, and without looking away.
    Result<void> confirm_watching() {
        for (unsigned i = 0; i < kStepMs; ++i) {
            const auto now = guest_linux::read_vital_signs(guest_->kernel());
            if (now.has_value() && now->ticks != signs_.ticks) break;
            Pace::sleep(kProofStep);
            TRY(watcher_->look());
        }
        return confirm([&] {
            const auto begin = Clock::now();
            while (Clock::now() - begin < milliseconds(kStepMs)) {
                watcher_->wait();
                (void)watcher_->look();  // who cannot be told will not get the answer either
            }
        });
    }

    Result<void> send_all(const Frames& frames) {
        for (const std::string& frame : frames) TRY(channel_.send(frame));
        return {};
    }

    Frames frames_for(const Question& question) {
        const std::optional<std::uint32_t> pid =
            question.one_pid ? std::optional(question.pid) : std::nullopt;
        switch (question.topic) {
            case Topic::info:
                return frames_of<event::SystemInfo>(
                    Listing<event::SystemInfo>{{guest_->info()}, 0, {}});
            case Topic::tasks:
                return frames_of(tasks(question, pid));
            case Topic::open_files:
                return frames_of(guest_->open_files(pid));
            case Topic::memory_maps:
                return frames_of(guest_->memory_maps(pid));
            case Topic::modules:
                return frames_of(guest_->modules());
            case Topic::sockets:
                return frames_of(sockets(pid));
            case Topic::mounts:
                return frames_of(guest_->mounts());
            case Topic::interfaces:
                return frames_of(guest_->interfaces());
            case Topic::kernel_log:
                return frames_of(guest_->kernel_log());
            case Topic::bpf_programs:
                return frames_of(guest_->bpf_programs());
            case Topic::bpf_maps:
                return frames_of(guest_->bpf_maps());
            case Topic::bpf_links:
                return frames_of(guest_->bpf_links());
            case Topic::checks: {
                Frames frames = frames_of(checks(question), kOneItemAFrame);
                if (question.takes_activities && frames.size() > 1) {
                    frames.insert(frames.end() - 1,
                                  items_frame(event::encode(event_rules_.take_activities())));
                }
                return frames;
            }
            case Topic::decoy_kernel:
                return frames_of<event::CheckReport>(Listing<event::CheckReport>{
                    {decoys_.hear(*guest_, source_.image ? image_cpus_ : question.cpus)}, 0, {}});
            case Topic::symbol_file:
                return frames_of(symbol_file());
            case Topic::scan:
                return frames_of(question.scan.step == ScanStep::begin ? scan_.begin(*guest_, pid)
                                                                       : scan_.go_on(*guest_));
            case Topic::trace:
                return frames_of(question.trace.begin
                                     ? trace_.begin(*guest_, memory_.get(), question.trace, pid)
                                     : trace_.go_on(*guest_),
                                 kOneItemAFrame);
            case Topic::baseline:
                return frames_of(take_baseline(question.baseline));
            case Topic::see_code:
                return frames_of(seen_code(), kOneItemAFrame);
            case Topic::ram_regions:
            case Topic::ram_bytes:
            case Topic::watch:
            case Topic::evidence:
            case Topic::make_baseline:
            case Topic::exact_trace:
            case Topic::compile_rules:
            case Topic::event_rules:
            case Topic::programs:
                break;
        }
        return {failure({Code::unsupported, 0, "an unknown question"})};
    }

    Result<Listing<TextPart>> symbol_file() {
        const std::string text = TRY(guest_linux::isf_of(guest_->kernel()));
        Listing<TextPart> listing;
        for (std::size_t at = 0; at < text.size(); at += kTextPartBytes) {
            listing.items.push_back({text.substr(at, kTextPartBytes)});
        }
        return listing;
    }

    Result<Listing<event::Task>> tasks(const Question& question, std::optional<std::uint32_t> pid) {
        auto listing = guest_->tasks({.environment = question.environment}, pid);
        // A kernel that is up has dozens, and a list that cannot be read is not an empty one.
        if (listing.items.empty() && guest_->task_addresses().empty()) {
            return fail(Code::unavailable, "no view of the guest's kernel shows a single task");
        }
        std::erase_if(listing.items, [&](const event::Task& task) {
            return !question.threads && !task.is_process();
        });
        return listing;
    }

    Result<Listing<event::Socket>> sockets(std::optional<std::uint32_t> pid) {
        auto listing = guest_->sockets();
        if (listing.has_value() && pid) {
            std::erase_if(listing->items, [&](const event::Socket& socket) {
                return std::ranges::find(socket.owner_pids, *pid) == socket.owner_pids.end();
            });
        }
        return listing;
    }

    // What only a search of RAM shows must not seem to be gone because nobody asked for one: it is
    // searched for as long as that finds something.
    Result<Listing<event::CheckReport>> checks(const Question& question) {
        for (const std::string& name : question.checks) {
            if (detect::find_check(name) != nullptr) continue;
            return fail(Code::invalid_argument, "there is no check " + name);
        }
        const auto checks = detect::make_checks(
            question.checks, {.search_ram = question.deep || (suspect_ && !question.out_of_turn),
                              .event_rules = &event_rules_,
                              .knows_programs = !known_programs_.empty()});
        Listing<event::CheckReport> listing;
        const auto pass = [&](std::chrono::milliseconds pause) {
            if (cache_->live()) sleep_ms(static_cast<unsigned>(pause.count()));
        };
        listing.items = detect::run(checks, *guest_, pass,
                                    question.out_of_turn ? detect::Turn::out_of : detect::Turn::in);
        for (const event::CheckReport& report : listing.items) {
            if (report.check != detect::HiddenProcessCheck::kName || report.partial) continue;
            suspect_ = report.outcome == event::Outcome::finding;
        }
        return listing;
    }

    // Parts of it may come to a worker that has found no guest yet, or leaves one: with the last
    // one it must be whole. Each is taken once, however often its question is tried.
    Result<void> collect_baseline(const BaselinePart& part) {
        if (part.is_first) baseline_.clear();
        if (baseline_.size() + part.bytes.size() > limits::kMaxBaselineBytes) {
            baseline_.clear();
            return fail(Code::limit, "the baseline is longer than any kernel's");
        }
        baseline_ += part.bytes;
        return {};
    }

    Result<Listing<event::CheckReport>> take_baseline(const BaselinePart& part) {
        if (!part.is_last) return Listing<event::CheckReport>{};
        if (baseline_.empty()) {
            guest_->forget_built();
            return Listing<event::CheckReport>{};
        }
        auto built = TRY(guest_linux::unpack_built_kernel(as_bytes(baseline_)));
        built.is_seen |= part.is_seen;
        TRY(guest_->know_built(std::move(built)));
        return Listing<event::CheckReport>{};
    }

    Result<Listing<BaselineMadePart>> made_baseline() {
        if (!source_.image) return fail(Code::unsupported, "a baseline is made of a file");
        const auto made =
            TRY(make_baselines(source_.fds.front().get(), source_.image_bytes, source_.name));
        Listing<BaselineMadePart> listing;
        for (const Baseline& baseline : made) add_parts(baseline, listing);
        return listing;
    }

    Result<Listing<BaselineMadePart>> seen_code() {
        std::string variant = TRY(guest_->code_variant());
        Baseline baseline = describe(TRY(guest_->see_code()));
        baseline.facts.variant = std::move(variant);
        Listing<BaselineMadePart> listing;
        add_parts(baseline, listing);
        return listing;
    }

    static void add_parts(const Baseline& baseline, Listing<BaselineMadePart>& listing) {
        for (std::size_t at = 0; at < baseline.bytes.size(); at += kBaselinePartBytes) {
            listing.items.push_back(
                {baseline.facts, baseline.bytes.substr(at, kBaselinePartBytes)});
        }
    }

    Result<Listing<TextPart>> compile_rules(const std::vector<RuleText>& texts) {
        if (!source_.scans) return fail(Code::unsupported, "this worker compiles no rules");
        Listing<TextPart> listing;
        if (!texts.empty()) {
            TRY(rule_compiler_.add(texts));
            return listing;
        }
        const std::string form = TRY(rule_compiler_.compile());
        for (std::size_t at = 0; at < form.size(); at += kTextPartBytes) {
            listing.items.push_back({form.substr(at, kTextPartBytes)});
        }
        return listing;
    }

    // They hold for whatever guest there is, and need none; here and below.
    Result<Listing<TextPart>> take_programs(const BaselinePart& part) {
        if (part.is_first) program_sets_.clear();
        if (program_sets_.size() + part.bytes.size() > limits::kMaxProgramSetBytes) {
            std::string().swap(program_sets_);
            return fail(Code::limit, "the baselines of programs are longer than they may be");
        }
        program_sets_ += part.bytes;
        if (!part.is_last) return Listing<TextPart>{};
        const std::string sets = std::exchange(program_sets_, {});
        known_programs_.know(TRY(guest_linux::unpack_programs(as_bytes(sets))));
        return Listing<TextPart>{};
    }

    Result<Listing<TextPart>> take_event_rules(const Question& question) {
        const BaselinePart& part = question.event_rules;
        if (part.is_first) rule_form_.clear();
        if (rule_form_.size() + part.bytes.size() > limits::kMaxSigmaFormBytes) {
            rule_form_.clear();
            return fail(Code::limit, "the rules are longer than rules may be");
        }
        rule_form_ += part.bytes;
        if (!part.is_last) return Listing<TextPart>{};
        std::string form = std::exchange(rule_form_, {});
        event_rules_.log(question.activities);
        // What the same rules have judged stays judged, and what happened meanwhile is new.
        if (form == known_rule_form_) return Listing<TextPart>{};
        std::vector<sigma::Rule> rules;
        if (!form.empty()) rules = TRY(rules_of_form(form));
        event_rules_.know(TRY(sigma::Matcher::of(std::move(rules))));
        known_rule_form_ = std::move(form);
        return Listing<TextPart>{};
    }

    void tell_lacking(AnswerEnd& end) {
        if (!guest_ || guest_->knows_built()) return;
        if (build_id_.empty()) build_id_ = guest_->info().build_id.value_or("");
        end.lacks_baseline = build_id_;
        if (variant_.empty()) variant_ = guest_->code_variant().value_or("");
        end.code_variant = variant_;
    }

    static void sleep_ms(unsigned ms) { Pace::sleep(milliseconds(ms)); }

    template <typename T>
    Frames frames_of(Result<Listing<T>> listing, std::size_t frame_bytes = kItemsFrameBytes) {
        if (!listing.has_value()) return {failure(listing.error())};
        Frames frames;
        event::Encoder frame;
        frame.put(FrameKind::items);
        for (const T& item : listing->items) {
            const std::string bytes = event::encode(item);
            if (bytes.size() + 1 > limits::kMaxFrameBytes) {
                listing->note(
                    {Code::limit, 0,
                     fmt::format("{} bytes are more than one answer may have", bytes.size())});
                continue;
            }
            const bool holds_some = frame.bytes().size() > 1;
            if (holds_some && frame.bytes().size() + bytes.size() > frame_bytes) {
                frames.push_back(frame.take());
                frame = {};
                frame.put(FrameKind::items);
            }
            frame.put_raw(bytes);
        }
        frames.push_back(frame.take());
        AnswerEnd last{.unreadable = listing->unreadable, .first_gap = listing->first_error};
        tell_lacking(last);
        frames.push_back(end(last));
        return frames;
    }

    static std::string items_frame(std::string_view bytes) {
        event::Encoder frame;
        frame.put(FrameKind::items);
        frame.put_raw(bytes);
        return frame.take();
    }

    static std::string end(const AnswerEnd& end) {
        event::Encoder frame;
        frame.put(FrameKind::end);
        frame.put(end);
        return frame.take();
    }

    static std::string signs_frame(guest_linux::Signs signs) {
        event::Encoder frame;
        frame.put(FrameKind::signs);
        frame.put(signs);
        return frame.take();
    }

    static std::string failure(const Error& error) {
        return end({.failed = true,
                    .code = static_cast<std::uint8_t>(error.code),
                    .error = error.to_text()});
    }

    Result<void> send_failure(const Error& error) { return channel_.send(failure(error)); }

    jail::Channel channel_;
    GuestSource source_;
    std::unique_ptr<GuestMemory> memory_;
    std::unique_ptr<GuestMemory> ram_;  // for a dump of what holds no Linux
    std::unique_ptr<CachedMemory> cache_;
    std::unique_ptr<Guest> guest_;
    std::unique_ptr<GuestWatcher> watcher_;
    detect::DecoyKernelCheck decoys_;
    MemoryScan scan_;
    ProcessTrace trace_;
    std::vector<event::CpuRegisters> image_cpus_;  // that its writer told
    std::string baseline_;                         // parts that have come
    std::string build_id_, variant_;               // of guest_, once they were asked for
    detect::EventRules event_rules_;
    guest_linux::KnownPrograms known_programs_;
    std::string program_sets_;  // parts that have come
    std::string rule_form_;     // parts that have come
    std::string known_rule_form_;
    RuleCompiler rule_compiler_;
    bool suspect_ = false;           // the last check for hidden processes has found one
    guest_linux::VitalSigns signs_;  // of guest_, when they were last seen
    bool seen_running_ = false;      // its clock has moved under our eyes
    std::vector<guest_linux::VitalSigns> remains_;  // of kernels that have ended
};

// What the filter lets the worker read: an image whole, a live guest within its RAM.
std::vector<jail::ReadableRange> readable(const GuestSource& source, int first_fd) {
    std::vector<jail::ReadableRange> ranges;
    if (source.image) return {{first_fd, 0, source.image_bytes}};
    for (const auto* layout : {&source.layout, &source.alternative}) {
        for (const guest_memory::RamSlice& slice : *layout) {
            ranges.push_back({first_fd + static_cast<int>(slice.source), slice.offset,
                              slice.offset + slice.size_bytes});
        }
    }
    return ranges;
}

Result<GuestSource> receive_source(jail::Channel& channel) {
    const std::string frame = TRY(channel.receive());
    auto start = TRY(event::decode<IntrospectorStart>(as_bytes(frame)));
    GuestSource source;
    source.name = std::move(start.name);
    source.image = start.image;
    source.image_bytes = start.image_bytes;
    source.scans = start.scans;
    const auto copy = [](const std::vector<SliceForm>& from) {
        std::vector<guest_memory::RamSlice> to;
        for (const SliceForm& slice : from) {
            to.push_back({GuestPhys{slice.begin}, slice.size_bytes, slice.source, slice.offset});
        }
        return to;
    };
    source.layout = copy(start.layout);
    source.alternative = copy(start.alternative);
    for (std::uint32_t i = 0; i < start.fd_count; ++i) {
        source.fds.emplace_back(kFirstMemoryFd + static_cast<int>(i));
    }
    for (const OutputForm& form : start.outputs) {
        const auto before = static_cast<int>(source.fds.size() + source.outputs.size());
        source.outputs.push_back({form, Fd(kFirstMemoryFd + before)});
    }
    if (start.is_supervised) {
        source.supervisor =
            Fd(kFirstMemoryFd + static_cast<int>(source.fds.size() + source.outputs.size()));
    }
    return source;
}

}  // namespace

Result<void> run_introspector(jail::Channel channel) {
    GuestSource source = TRY(receive_source(channel));
    std::vector<int> keep{STDERR_FILENO, channel.fd()};
    for (const Fd& fd : source.fds) keep.push_back(fd.get());
    std::vector<jail::OutputFile> outputs;
    std::uint64_t largest = 0;
    for (const EvidenceOutput& output : source.outputs) {
        keep.push_back(output.file.get());
        outputs.push_back({output.file.get(), output.form.most_bytes});
        largest = std::max(largest, output.form.most_bytes);
    }
    if (source.supervisor) {
        keep.push_back(source.supervisor.get());
        ::signal(SIGPIPE, SIG_IGN);  // it may end before the tracer has answered
    }
    const auto policy = jail::introspector_policy(
        channel.fd(), readable(source, kFirstMemoryFd), kMaxReadBytes,
        source.scans ? jail::IntrospectorDuty::scans : jail::IntrospectorDuty::looks, outputs,
        source.supervisor.get());
    guest_linux::Disassembler::warm_up();
    if (source.scans && !scan::warm_up()) {
        return fail(Code::unavailable, "libyara is not whole: one of its modules does not work");
    }
    (void)crypto::sha256({});  // what it loads, it loads before
    const auto missing = TRY(jail::close_jail(
        policy, {.max_memory_bytes = kMaxWorkerMemory, .max_file_bytes = largest}, keep));
    TRY(channel.send(event::encode(missing)));
    return Worker(std::move(channel), std::move(source)).serve();
}

}  // namespace underseer::agent
