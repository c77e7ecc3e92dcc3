// JobRunner: one jailed worker kept alive for an event loop. Questions wait in line, each has its
// answer or the reason why there is none; a worker that ends, hangs or sends nonsense is replaced,
// later and later if it keeps failing.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/event_loop.h"
#include "jail/channel.h"
#include "jail/jail.h"

namespace underseer::agent {

struct StartedWorker {
    jail::Child child;
    jail::Channel channel;
};

class JobRunner {
  public:
    // One frame of an answer as the worker sent it, undecoded. `last` is its end frame. Returns
    // false when the frame is nonsense: the worker is then replaced.
    using OnFrame = std::function<bool(std::string_view frame, bool last)>;
    // The worker ended, hung, or could not be started: the answer will not come.
    using OnFailure = std::function<void(const Error& error)>;
    struct Job {
        std::string question;
        std::chrono::milliseconds deadline{30'000};
        OnFrame on_frame;
        OnFailure on_failure;
    };
    struct Callbacks {
        std::function<Result<StartedWorker>()> start;
        // The jail is closed; `missing_layers` are those that this host did not allow.
        std::function<void(const std::vector<std::string>& missing_layers)> ready;
        std::function<void(const Error& why, std::chrono::milliseconds until_restart)> lost;
    };

    static constexpr std::size_t kMaxWaitingJobs = 256;
    static constexpr std::chrono::milliseconds kFirstDelay{500}, kLongestDelay{60'000};

    // `loop` must outlive this.
    JobRunner(EventLoop* loop, Callbacks callbacks);
    JobRunner(const JobRunner&) = delete;
    ~JobRunner();

    void start();
    // False, and on_failure is not called, when too many wait.
    bool submit(Job job);

    // Ends the worker for good and fails all that was asked of it. Without this, jobs are dropped
    // with the runner and nobody is told.
    void give_up(const Error& why);

    bool ready() const { return ready_; }
    bool idle() const { return ready_ && !current_; }
    unsigned restarts() const { return restarts_; }
    pid_t pid() const { return worker_ ? worker_->child.pid() : -1; }
    // CPU time of this and all earlier workers.
    std::chrono::nanoseconds cpu_time() const;
    std::uint64_t resident_bytes() const;

  private:
    void on_readable();
    Result<void> take_frames();
    Result<void> take_hello(std::string_view frame);
    void next_job();
    void send_rest();
    // Ends the worker, fails what it was doing, and plans the next one.
    void lose(Error why);
    void drop_worker();

    EventLoop* loop_;
    Callbacks callbacks_;
    std::optional<StartedWorker> worker_;
    bool ready_ = false;
    std::optional<Job> current_;
    std::uint64_t answer_bytes_ = 0;
    BoundedQueue<Job> waiting_{kMaxWaitingJobs};
    EventLoop::Timer deadline_ = 0, restart_ = 0;
    std::chrono::milliseconds delay_{kFirstDelay};
    std::chrono::nanoseconds earlier_cpu_{0};
    unsigned restarts_ = 0;
    unsigned answers_ = 0;  // of this worker: one that answers is sound, and its delay starts over
};

}  // namespace underseer::agent
