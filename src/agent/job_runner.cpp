#include "agent/job_runner.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "agent/introspection.h"

namespace underseer::agent {

namespace {

// The hello must come soon: the worker has nothing to do before it.
constexpr std::chrono::milliseconds kHelloDeadline{20'000};
// The largest honest answer (open files of 50,000 processes) stays far below.
constexpr std::uint64_t kMaxAnswerBytes = 1ull << 30;

// First number of a small file of procfs; 0 when it cannot be read.
std::uint64_t number_in(const std::string& path, unsigned word) {
    const auto text = read_file(path, 4096);
    if (!text.has_value()) return 0;
    const char* at = text->c_str();
    const char* end = at + text->size();
    for (; word > 0; --word) {
        at = std::find(at, end, ' ');
        if (at != end) ++at;
    }
    std::uint64_t number = 0;
    std::from_chars(at, end, number);
    return number;
}

}  // namespace

JobRunner::JobRunner(EventLoop* loop, Callbacks callbacks)
    : loop_(loop), callbacks_(std::move(callbacks)) {}

JobRunner::~JobRunner() {
    loop_->cancel(restart_);
    drop_worker();
}

void JobRunner::start() {
    restart_ = 0;
    auto started = callbacks_.start();
    if (!started.has_value()) return lose(std::move(started).error());
    worker_.emplace(std::move(*started));
    answers_ = 0;
    loop_->watch(worker_->channel.fd(), [this] { on_readable(); });
    deadline_ = loop_->after(kHelloDeadline, [this] {
        deadline_ = 0;
        lose({Code::unavailable, 0, "the worker did not close its jail in time"});
    });
}

bool JobRunner::submit(Job job) {
    if (!waiting_.push(std::move(job))) return false;
    if (idle()) next_job();
    return true;
}

std::chrono::nanoseconds JobRunner::cpu_time() const {
    if (!worker_) return earlier_cpu_;
    // /proc/PID/schedstat: time on the CPU in nanoseconds first (Documentation/scheduler/
    // sched-stats.rst). The worker has one thread.
    const auto now = number_in(fmt::format("/proc/{}/schedstat", worker_->child.pid()), 0);
    return earlier_cpu_ + std::chrono::nanoseconds(now);
}

std::uint64_t JobRunner::resident_bytes() const {
    if (!worker_) return 0;
    return number_in(fmt::format("/proc/{}/statm", worker_->child.pid()), 1) * kPageSize;
}

void JobRunner::on_readable() {
    const auto open = worker_->channel.fill();
    if (auto taken = take_frames(); !taken.has_value()) return lose(std::move(taken).error());
    if (!worker_) return;  // a job's handler gave this up
    if (!open.has_value()) return lose(open.error());
    if (*open) return;
    const auto ending = worker_->child.wait(std::chrono::seconds(1));
    lose({Code::unavailable, 0,
          fmt::format("the worker {}",
                      ending.has_value() ? ending->to_text() : ending.error().to_text())});
}

Result<void> JobRunner::take_frames() {
    while (worker_) {
        const auto frame = TRY(worker_->channel.next());
        if (!frame) return {};
        if (!ready_) {
            TRY(take_hello(*frame));
            continue;
        }
        if (!current_) return fail(Code::malformed, "the worker speaks without being asked");
        answer_bytes_ += frame->size();
        if (frame->empty() || answer_bytes_ > kMaxAnswerBytes) {
            return fail(Code::malformed, "the worker's answer is empty or has no end");
        }
        const bool last =
            static_cast<std::uint8_t>(frame->front()) == static_cast<std::uint8_t>(FrameKind::end);
        if (!last) {
            if (!current_->on_frame(*frame, false)) {
                return fail(Code::malformed, "the worker's answer cannot be read");
            }
            continue;
        }
        loop_->cancel(std::exchange(deadline_, 0));
        // Moved out first: its handler may submit the next one.
        const Job done = std::move(*std::exchange(current_, std::nullopt));
        if (!done.on_frame(*frame, true)) {
            return fail(Code::malformed, "the worker's answer cannot be read");
        }
        ++answers_;
        delay_ = kFirstDelay;
        if (idle()) next_job();
    }
    return {};
}

Result<void> JobRunner::take_hello(std::string_view frame) {
    const auto missing = TRY(event::decode<std::vector<std::string>>(as_bytes(frame)));
    loop_->cancel(std::exchange(deadline_, 0));
    ready_ = true;
    callbacks_.ready(missing);
    if (idle()) next_job();
    return {};
}

void JobRunner::next_job() {
    auto job = waiting_.pop();
    if (!job) return;
    current_ = std::move(*job);
    answer_bytes_ = 0;
    if (auto sent = worker_->channel.post(current_->question); !sent.has_value()) {
        // Not from inside the caller: it may be a handler of the worker that is to go.
        deadline_ = loop_->after(std::chrono::milliseconds(0), [this, error = sent.error()] {
            deadline_ = 0;
            lose(error);
        });
        return;
    }
    send_rest();
    deadline_ = loop_->after(current_->deadline, [this] {
        deadline_ = 0;
        lose({Code::unavailable, 0,
              fmt::format("the worker did not answer within {} s",
                          std::chrono::ceil<std::chrono::seconds>(current_->deadline).count())});
    });
}

// A long question does not fit into the socket at once.
void JobRunner::send_rest() {
    if (!worker_->channel.has_unsent()) return;
    loop_->watch_writable(worker_->channel.fd(), [this] {
        if (auto sent = worker_->channel.flush(); !sent.has_value()) return lose(sent.error());
        if (!worker_->channel.has_unsent()) loop_->unwatch_writable(worker_->channel.fd());
    });
}

void JobRunner::lose(Error why) {
    drop_worker();
    ++restarts_;
    const auto wait = delay_;
    delay_ = std::min(delay_ * 2, kLongestDelay);
    loop_->cancel(restart_);
    restart_ = loop_->after(wait, [this] { start(); });
    if (auto job = std::exchange(current_, std::nullopt)) job->on_failure(why);
    // What waits would only grow old.
    while (auto job = waiting_.pop()) job->on_failure(why);
    callbacks_.lost(why, wait);
}

void JobRunner::give_up(const Error& why) {
    loop_->cancel(std::exchange(restart_, 0));
    drop_worker();
    if (auto job = std::exchange(current_, std::nullopt)) job->on_failure(why);
    while (auto job = waiting_.pop()) job->on_failure(why);
}

void JobRunner::drop_worker() {
    loop_->cancel(std::exchange(deadline_, 0));
    ready_ = false;
    if (!worker_) return;
    earlier_cpu_ = cpu_time();
    loop_->unwatch(worker_->channel.fd());
    worker_.reset();
}

}  // namespace underseer::agent
