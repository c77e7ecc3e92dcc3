// What the tests of this module share: seeded keys, a clock that stands still, a log in memory.
#pragma once

#include <random>

#include "event_log/fake_files.h"
#include "event_log/reader.h"
#include "event_log/verify.h"
#include "event_log/writer.h"

namespace underseer::event_log {

class SeededRandom final : public crypto::Random {
  public:
    explicit SeededRandom(std::uint64_t seed) : engine_(seed) {}
    Result<void> fill(MutableBytes into) override {
        for (std::byte& byte : into) byte = static_cast<std::byte>(engine_());
        return {};
    }

  private:
    std::mt19937_64 engine_;
};

class SetClock final : public Clock {
  public:
    std::chrono::system_clock::time_point wall() const override {
        return std::chrono::system_clock::time_point(std::chrono::seconds(1'800'000'000) + now);
    }
    std::chrono::steady_clock::time_point monotonic() const override {
        return std::chrono::steady_clock::time_point(now);
    }
    std::chrono::milliseconds now{0};
};

inline const std::filesystem::path kLog = "/log";

struct LogFixture {
    explicit LogFixture(std::uint64_t seed = 1)
        : random(seed), enrolment(crypto::SigningKey::generate(random).value()) {
        options.agent = "agent-" + std::to_string(seed);
        options.log = "critical";
        options.boot_id = "boot";
    }

    Result<Writer> open() {
        return Writer::open(kLog, options, &enrolment, {&clock, &files, &random});
    }
    VerifyReport verify(VerifyOptions with = {}) { return verify_of(files, with); }
    VerifyReport verify_of(FakeFiles& others, VerifyOptions with = {}) const {
        return event_log::verify(kLog, enrolment.public_key(), with, others);
    }
    static std::map<std::uint64_t, std::string> events(FakeFiles& of) {
        std::map<std::uint64_t, std::string> all;
        auto reader = Reader::open(kLog, 1, of);
        CHECK(reader.has_value());
        for (;;) {
            const auto event = reader->next();
            if (!event) continue;  // the reader goes on behind what it cannot read
            if (!*event) return all;
            all[(*event)->seq] = std::string((*event)->bytes);
        }
    }

    SeededRandom random;
    SetClock clock;
    FakeFiles files;
    WriterOptions options;
    crypto::SigningKey enrolment;
};

inline std::string some_event(std::uint64_t number) {
    return "{\"class_uid\":1007,\"n\":" + std::to_string(number) + "}";
}

}  // namespace underseer::event_log
