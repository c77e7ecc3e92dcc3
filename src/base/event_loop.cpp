#include "base/event_loop.h"

#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>

namespace underseer {

Result<EventLoop> EventLoop::make() {
    Fd epoll(::epoll_create1(EPOLL_CLOEXEC));
    if (!epoll) return fail(os_error("making an event loop"));
    return EventLoop(std::move(epoll));
}

EventLoop::Watched EventLoop::watched(int fd) const {
    const auto known = watched_.find(fd);
    return known == watched_.end() ? Watched{} : known->second;
}

void EventLoop::change(int fd, Watched wanted) {
    const auto known = watched_.find(fd);
    epoll_event event{};
    event.data.fd = fd;
    if (wanted.readable) event.events |= EPOLLIN;
    if (wanted.writable) event.events |= EPOLLOUT;
    if (event.events == 0) {
        if (known != watched_.end()) ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
        watched_.erase(fd);
        return;
    }
    const int action = known == watched_.end() ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
    // Only a bad fd or exhausted kernel memory can fail here: our own bug, or no way on.
    CHECK(::epoll_ctl(epoll_.get(), action, fd, &event) == 0);
    watched_[fd] = std::move(wanted);
}

void EventLoop::watch(int fd, Handler ready) {
    Watched wanted = watched(fd);
    wanted.readable = std::make_shared<Handler>(std::move(ready));
    change(fd, std::move(wanted));
}

void EventLoop::watch_writable(int fd, Handler ready) {
    Watched wanted = watched(fd);
    wanted.writable = std::make_shared<Handler>(std::move(ready));
    change(fd, std::move(wanted));
}

void EventLoop::unwatch_writable(int fd) {
    Watched wanted = watched(fd);
    wanted.writable = nullptr;
    change(fd, std::move(wanted));
}

void EventLoop::unwatch(int fd) {
    change(fd, {});
}

Result<void> EventLoop::watch_signals(std::initializer_list<int> signals,
                                      std::function<void(int)> arrived) {
    CHECK(!signals_);
    sigset_t set;
    ::sigemptyset(&set);
    for (const int signal : signals) ::sigaddset(&set, signal);
    if (const int error = ::pthread_sigmask(SIG_BLOCK, &set, nullptr); error != 0) {
        return fail(os_error("blocking signals", error));
    }
    signals_ = Fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!signals_) return fail(os_error("receiving signals"));
    watch(signals_.get(), [fd = signals_.get(), arrived = std::move(arrived)] {
        signalfd_siginfo info{};
        while (::read(fd, &info, sizeof info) == sizeof info) {
            arrived(static_cast<int>(info.ssi_signo));
        }
    });
    return {};
}

EventLoop::Timer EventLoop::at(Instant when, Handler expired) {
    const Timer timer = next_timer_++;
    timers_.emplace(std::pair(when, timer), std::move(expired));
    due_.emplace(timer, when);
    return timer;
}

EventLoop::Timer EventLoop::after(std::chrono::milliseconds delay, Handler expired) {
    return at(std::chrono::steady_clock::now() + delay, std::move(expired));
}

void EventLoop::cancel(Timer timer) {
    const auto due = due_.find(timer);
    if (due == due_.end()) return;
    timers_.erase({due->second, timer});
    due_.erase(due);
}

// What is due now, and not what its handlers make due: they get their turn in the next round, so
// that a timer which sets itself again cannot shut out the file descriptors.
void EventLoop::expire() {
    const Instant now = std::chrono::steady_clock::now();
    std::vector<Timer> due;
    for (const auto& [key, handler] : timers_) {
        if (key.first > now) break;
        due.push_back(key.second);
    }
    for (const Timer timer : due) {
        const auto known = due_.find(timer);
        if (known == due_.end()) continue;  // cancelled by one that came before it
        const auto entry = timers_.find({known->second, timer});
        const Handler expired = std::move(entry->second);
        timers_.erase(entry);
        due_.erase(known);
        expired();
    }
}

int EventLoop::wait_ms(std::chrono::milliseconds longest) const {
    if (timers_.empty()) return static_cast<int>(longest.count());
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(
        timers_.begin()->first.first - std::chrono::steady_clock::now());
    return static_cast<int>(std::clamp(left, std::chrono::milliseconds(0), longest).count());
}

Result<void> EventLoop::run_once(std::chrono::milliseconds longest) {
    std::array<epoll_event, 64> events;
    const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()),
                                   wait_ms(longest));
    if (count < 0 && errno != EINTR) return fail(os_error("waiting for events"));
    for (int i = 0; i < count; ++i) {
        const epoll_event& event = events[static_cast<std::size_t>(i)];
        constexpr std::uint32_t kEnded = EPOLLHUP | EPOLLERR;
        // Looked up anew each time: an earlier handler may have ended this one. The shared_ptr
        // keeps a handler alive that unwatches itself.
        if (auto known = watched_.find(event.data.fd); known != watched_.end()) {
            const auto readable = known->second.readable;
            if (readable && (event.events & (EPOLLIN | kEnded)) != 0) (*readable)();
        }
        if (auto known = watched_.find(event.data.fd); known != watched_.end()) {
            const auto writable = known->second.writable;
            if (writable && (event.events & (EPOLLOUT | kEnded)) != 0) (*writable)();
        }
    }
    expire();
    return {};
}

Result<void> EventLoop::run() {
    stopped_ = false;
    while (!stopped_) TRY(run_once(std::chrono::hours(1)));
    return {};
}

}  // namespace underseer
