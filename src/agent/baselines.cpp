#include "agent/baselines.h"

#include <fmt/format.h>

#include "agent/recorder.h"
#include "agent/service_manager.h"
#include "crypto/hash.h"

namespace underseer::agent {

namespace {

// Many are kept one after the other, and all go to each worker: not anew for each of them.
constexpr std::chrono::milliseconds kProgramsTogether{1000};

void say_unused(const std::string& why) {
    say(LogLevel::warning, "a baseline is not used: " + why);
}

}  // namespace

Baselines::Baselines(EventLoop* loop, const std::filesystem::path& state_dir,
                     const crypto::SigningKey* key, Callbacks callbacks)
    : loop_(loop), callbacks_(std::move(callbacks)), store_(state_dir, key) {
    for (const std::string& trouble : store_.troubles()) say_unused(trouble);
}

Result<void> Baselines::keep(BaselineFacts facts, const std::string& bytes) {
    const bool of_programs = facts.is_of_programs();
    TRY(store_.keep(std::move(facts), bytes));
    of_programs ? programs_changed() : callbacks_.kernels_changed(/*some_removed=*/false);
    return {};
}

Result<void> Baselines::drop(const std::string& id) {
    const BaselineFacts* facts = store_.find(id);
    const bool of_programs = facts != nullptr && facts->is_of_programs();
    TRY(store_.drop(id));
    of_programs ? programs_changed() : callbacks_.kernels_changed(/*some_removed=*/true);
    return {};
}

void Baselines::keep_seen(const event::Instance& instance, BaselineFacts facts,
                          const std::string& bytes) {
    // The first one stays: a guest that has been altered since must not take its place.
    if (store_.find(facts.id()) != nullptr) return;
    facts.seen_in = instance.id;
    facts.source = instance.name;
    facts.made_ns = Recorder::now_ns();
    facts.bytes = bytes.size();
    facts.sha256 = crypto::to_hex(crypto::sha256(as_bytes(bytes)));
    const std::string release = facts.release;
    const auto kept = store_.keep(std::move(facts), bytes, callbacks_.in_use);
    if (kept.has_value()) {
        callbacks_.kernels_changed(/*some_removed=*/false);
        say(LogLevel::info,
            fmt::format("{}: its kernel {} is what others of the same build are compared with",
                        instance.name, release));
    } else {
        say(LogLevel::warning,
            fmt::format("{}: its kernel {} is not kept to compare others with: {}", instance.name,
                        release, kept.error().to_text()));
    }
}

std::optional<BaselineFacts> Baselines::find_for(const std::string& build_id,
                                                 const std::string& variant) const {
    const BaselineFacts* facts = store_.find_for(build_id, variant);
    return facts == nullptr ? std::nullopt : std::optional(*facts);
}

std::shared_ptr<const KeptBaseline> Baselines::read(const BaselineFacts& facts) {
    if (auto lent = lent_[facts.sha256].lock(); lent && lent->facts == facts) return lent;
    std::erase_if(lent_, [](const auto& one) { return one.second.expired(); });
    auto bytes = store_.read(facts);
    if (!bytes.has_value()) {
        say_unused(bytes.error().to_text());
        return nullptr;
    }
    auto kept = std::make_shared<const KeptBaseline>(KeptBaseline{facts, std::move(*bytes)});
    lent_[facts.sha256] = kept;
    return kept;
}

void Baselines::programs_changed() {
    lent_programs_.reset();
    if (telling_programs_ != 0) return;
    telling_programs_ = loop_->after(kProgramsTogether, [this] {
        telling_programs_ = 0;
        callbacks_.programs_changed();
    });
}

std::shared_ptr<const std::string> Baselines::programs() {
    if (auto lent = lent_programs_.lock()) return lent;
    auto packed = std::make_shared<std::string>();
    // One that somebody has changed is not kept any more when it was read.
    for (const BaselineFacts& facts : all()) {
        if (!facts.is_of_programs()) continue;
        const auto bytes = store_.read(facts);
        if (bytes.has_value()) {
            *packed += *bytes;
        } else {
            say_unused(bytes.error().to_text());
        }
    }
    lent_programs_ = packed;
    return packed;
}

detect::Reference reference_of(const BaselineFacts& used) {
    if (!used.is_seen()) return {};
    return {used.id(), used.seen_in, used.source, used.made_ns};
}

}  // namespace underseer::agent
