#include "guest_linux/gaps.h"

#include <fmt/format.h>

#include <algorithm>

namespace underseer::guest_linux {

namespace {

constexpr std::size_t kMaxGaps = 64;

}  // namespace

bool is_broken(const Error& why) {
    return why.code != Code::unavailable;
}

void Gaps::add(std::string_view what, const Error& why) {
    std::string text = fmt::format("{}: {}", what, why.to_text());
    if (is_broken(why) && broken.empty()) broken = text;
    if (texts.size() < kMaxGaps && std::ranges::find(texts, text) == texts.end()) {
        texts.push_back(std::move(text));
    }
}

}  // namespace underseer::guest_linux
