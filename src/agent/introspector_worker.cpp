#include "agent/introspector_worker.h"

#include "agent/introspector.h"

#include <fmt/format.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <functional>

#include "detect/hidden_process/hidden_process.h"
#include "guest_linux/guest.h"
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
        }
    }

  private:
    // The guest is looked for at the first question and again whenever it was not found: a VM may
    // just be booting.
    Result<void> attach() {
        if (guest_) return {};
        Error first;
        for (const auto* layout : {&source_.layout, &source_.alternative}) {
            if (layout->empty() && !source_.image) continue;
            memory_ = TRY(open(*layout));
            cache_ = std::make_unique<CachedMemory>(memory_.get());
            auto guest = Guest::attach(cache_.get());
            if (guest.has_value()) {
                guest_ = std::move(*guest);
                return {};
            }
            if (first.message.empty()) first = std::move(guest).error();
            if (source_.image) break;
        }
        return fail(std::move(std::move(first).with_context(source_.name)));
    }

    Result<std::unique_ptr<GuestMemory>> open(const std::vector<guest_memory::RamSlice>& layout) {
        std::vector<int> fds;
        for (const Fd& fd : source_.fds) fds.push_back(fd.get());
        if (!source_.image) return guest_memory::open_live(std::move(fds), layout, source_.name);
        return guest_memory::open_image(fds.front(), source_.image_bytes, source_.name);
    }

    Result<void> answer(const Question& question) {
        auto attached = attach();
        if (!attached.has_value()) return send_failure(attached.error());
        guest_->new_epoch();
        const std::optional<std::uint32_t> pid =
            question.one_pid ? std::optional(question.pid) : std::nullopt;
        switch (question.topic) {
            case Topic::info:
                return send_items(Listing<event::SystemInfo>{{guest_->info()}, 0, {}});
            case Topic::tasks:
                return send_items(tasks(question));
            case Topic::open_files:
                return send_items(guest_->open_files(pid));
            case Topic::memory_maps:
                return send_items(guest_->memory_maps(pid));
            case Topic::modules:
                return send(guest_->modules());
            case Topic::sockets:
                return send(guest_->sockets());
            case Topic::mounts:
                return send(guest_->mounts());
            case Topic::interfaces:
                return send(guest_->interfaces());
            case Topic::kernel_log:
                return send(guest_->kernel_log());
            case Topic::hidden_processes:
                return send_items(Listing<event::CheckReport>{{hidden_processes()}, 0, {}});
        }
        return send_failure({Code::unsupported, 0, "an unknown question"});
    }

    Listing<event::Task> tasks(const Question& question) {
        auto listing = guest_->tasks({.environment = question.environment});
        std::erase_if(listing.items, [&](const event::Task& task) {
            if (question.one_pid && task.tgid != question.pid) return true;
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

    event::CheckReport hidden_processes() {
        detect::HiddenProcessCheck check;
        for (unsigned look = 0; look < detect::HiddenProcessCheck::kLooks; ++look) {
            if (look > 0) pause();
            check.look(*guest_);
            // Memory that does not change says the same at every look.
            if (!check.suspicious()) break;
        }
        return check.report(*guest_);
    }

    void pause() const {
        if (!cache_->live()) return;
        const timespec time{0, detect::HiddenProcessCheck::kPauseMs * 1'000'000};
        ::clock_nanosleep(CLOCK_MONOTONIC, 0, &time, nullptr);
    }

    template <typename T>
    Result<void> send(Result<Listing<T>> listing) {
        if (!listing.has_value()) return send_failure(listing.error());
        return send_items(std::move(*listing));
    }

    template <typename T>
    Result<void> send_items(const Listing<T>& listing) {
        event::Encoder frame;
        frame.put(FrameKind::items);
        for (const T& item : listing.items) {
            std::string bytes = event::encode(item);
            if (bytes.size() + 1 > limits::kMaxFrameBytes) continue;
            if (frame.bytes().size() + bytes.size() > kItemsFrameBytes) {
                TRY(channel_.send(frame.take()));
                frame = {};
                frame.put(FrameKind::items);
            }
            frame.put_raw(bytes);
        }
        TRY(channel_.send(frame.take()));
        return send_end({.unreadable = listing.unreadable, .first_gap = listing.first_error});
    }

    Result<void> send_failure(const Error& error) {
        return send_end({.failed = true,
                         .code = static_cast<std::uint8_t>(error.code),
                         .error = error.to_text()});
    }

    Result<void> send_end(const AnswerEnd& end) {
        event::Encoder frame;
        frame.put(FrameKind::end);
        frame.put(end);
        return channel_.send(frame.take());
    }

    jail::Channel channel_;
    GuestSource source_;
    std::unique_ptr<GuestMemory> memory_;
    std::unique_ptr<CachedMemory> cache_;
    std::unique_ptr<Guest> guest_;
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
    return source;
}

Result<void> serve(jail::Channel channel) {
    GuestSource source = TRY(receive_source(channel));
    std::vector<int> keep{STDERR_FILENO, channel.fd()};
    for (const Fd& fd : source.fds) keep.push_back(fd.get());
    const auto policy =
        jail::introspector_policy(channel.fd(), readable(source, kFirstMemoryFd), kMaxReadBytes);
    const auto missing =
        TRY(jail::close_jail(policy, {.max_memory_bytes = kMaxWorkerMemory}, keep));
    TRY(channel.send(event::encode(missing)));
    return Worker(std::move(channel), std::move(source)).serve();
}

}  // namespace

int run_introspector() {
    const auto served = serve(jail::Channel(Fd(jail::kFirstWorkerFd)));
    if (served.has_value()) return 0;
    const std::string text = fmt::format("underseer: introspector: {}\n", served.error().to_text());
    (void)!::write(STDERR_FILENO, text.data(), text.size());
    return 1;
}

}  // namespace underseer::agent
