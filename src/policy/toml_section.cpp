#include "policy/toml_section.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "base/limits.h"
#include "base/os.h"

namespace underseer::policy {

Result<std::string> read_owned_file(const std::string& path) {
    const Fd fd = TRY(open_file(path, O_RDONLY | O_NONBLOCK));
    struct stat status{};
    if (::fstat(fd.get(), &status) != 0) return fail(os_error("examining " + path));
    const bool own = status.st_uid == 0 || status.st_uid == ::geteuid();
    if (!S_ISREG(status.st_mode)) {
        return fail(Code::invalid_argument, path + " is no regular file");
    }
    if (!own || (status.st_mode & 022) != 0) {
        return fail(Code::permission,
                    fmt::format("{} can be written by others; make it root's and mode 0644 or "
                                "less (chown root {} && chmod 644 {})",
                                path, path, path));
    }
    std::string text(limits::kMaxPolicyBytes + 1, '\0');
    text.resize(TRY(read_at(fd.get(), std::as_writable_bytes(std::span(text)), 0)));
    if (text.size() > limits::kMaxPolicyBytes) {
        return fail(Code::limit,
                    fmt::format("{} is longer than {} bytes", path, limits::kMaxPolicyBytes));
    }
    return text;
}

Result<toml::table> parse_toml(std::string_view text, const std::string& path) {
    // toml++ 3.3 asserts on some of what is no UTF-8 instead of refusing it.
    if (const std::size_t valid = utf8_prefix_bytes(text); valid < text.size()) {
        const auto before = text.substr(0, valid);
        const std::size_t line_start = before.rfind('\n') + 1;  // 0 on the first line
        return fail(Code::malformed,
                    fmt::format("{}:{}:{}: no valid UTF-8 text", path,
                                std::ranges::count(before, '\n') + 1, valid - line_start + 1));
    }
    toml::parse_result parsed = toml::parse(text, path);
    if (parsed) return std::move(parsed).table();
    const auto& error = parsed.error();
    return fail(Code::malformed, fmt::format("{}:{}:{}: {}", path, error.source().begin.line,
                                             error.source().begin.column, error.description()));
}

Result<void> Section::take(std::string_view key,
                           const std::function<Result<void>(const toml::node&)>& use) {
    known_.emplace_back(key);
    const toml::node* node = table_ == nullptr ? nullptr : table_->get(key);
    if (node == nullptr) return {};
    auto used = use(*node);
    if (used.has_value()) return {};
    return fail(Code::malformed, at(node->source(), key) + used.error().message);
}

Result<void> Section::end() const {
    if (table_ == nullptr) return {};
    for (const auto& [key, node] : *table_) {
        if (std::ranges::find(known_, key.str()) != known_.end()) continue;
        std::string expected;
        for (const std::string& name : known_) {
            expected += (expected.empty() ? "" : ", ") + name;
        }
        return fail(Code::malformed, at(key.source(), key.str()) +
                                         fmt::format("there is no such key; {}",
                                                     expected.empty() ? "none is known here"
                                                                      : "known: " + expected));
    }
    return {};
}

std::string Section::at(const toml::source_region& where, std::string_view key) const {
    return fmt::format("{}:{}:{}: {}{}{}: ", file_, where.begin.line, where.begin.column, name_,
                       name_.empty() ? "" : ".", key);
}

Unexpected wants(std::string_view what) {
    return fail(Code::malformed, fmt::format("wants {}", what));
}

Result<std::string> text_of(const toml::node& node) {
    const auto text = node.value_exact<std::string>();
    if (!text) return wants("a text in quotes");
    return *text;
}

std::function<Result<void>(const toml::node&)> into_text(std::string* target) {
    return [=](const toml::node& node) -> Result<void> {
        *target = TRY(text_of(node));
        return {};
    };
}

}  // namespace underseer::policy
