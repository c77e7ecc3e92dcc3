#include "event_log/verify.h"

#include <fmt/format.h>

#include "base/counted.h"
#include "event_log/walk.h"

namespace underseer::event_log {

std::string_view to_string(LogState state) {
    switch (state) {
        case LogState::intact:
            return "intact";
        case LogState::torn_tail:
            return "torn tail";
        case LogState::gap:
            return "gap";
        case LogState::cannot_verify:
            return "cannot verify";
        case LogState::tampered:
            return "TAMPERED";
    }
    return "unknown";
}

int VerifyReport::exit_code() const {
    switch (state) {
        case LogState::intact:
            return 0;
        case LogState::tampered:
            return 1;
        case LogState::torn_tail:
        case LogState::gap:
            return 2;
        case LogState::cannot_verify:
            return 3;
    }
    return 3;
}

std::string VerifyReport::to_text() const {
    std::string text = fmt::format("{}: {} in {}, {}, {}", to_string(state),
                                   counted(events, "event"), counted(batches, "batch", "batches"),
                                   counted(epochs, "epoch"), counted(segments, "segment"));
    if (last_seq != 0) text += fmt::format("; events {} to {}", first_seq, last_seq);
    text += '\n';
    if (first_bad) {
        text += fmt::format("first bad record: {}", first_bad->file);
        if (first_bad->line != 0) text += fmt::format(" line {}", first_bad->line);
        text += fmt::format(", byte {}, at event {}: {}\n", first_bad->offset, first_bad->seq,
                            first_bad->what);
    }
    for (const auto& [source, count] : dropped) {
        if (count > 0)
            text += fmt::format("dropped before they were logged: {} from {}\n", count, source);
    }
    for (const std::string& note : notes) text += "note: " + note + '\n';
    return text;
}

VerifyReport verify(const std::filesystem::path& directory, const crypto::PublicKey& enrolment,
                    const VerifyOptions& options, Files& files) {
    return walk_log(directory, enrolment, options, files, InUse::ask_the_lock).report;
}

namespace {

// A slot: epoch record, newline, head record, newline, then spaces up to a last newline.
std::optional<Head> parse_slot(std::string_view slot, const crypto::PublicKey& enrolment) {
    const std::size_t first_end = slot.find('\n');
    if (first_end == std::string_view::npos) return std::nullopt;
    const std::size_t second_end = slot.find('\n', first_end + 1);
    if (second_end == std::string_view::npos || slot.back() != '\n') return std::nullopt;
    const auto epoch = parse_chain_line(slot.substr(0, first_end));
    const auto line = parse_chain_line(slot.substr(first_end + 1, second_end - first_end - 1));
    if (!epoch || !line || !epoch->as_epoch() || !line->as_head()) return std::nullopt;
    const std::string_view padding = slot.substr(second_end + 1);
    if (padding.substr(0, padding.size() - 1).find_first_not_of(' ') != std::string_view::npos) {
        return std::nullopt;
    }
    if (epoch->as_epoch()->enrolment != enrolment || !epoch->is_signed_by(enrolment) ||
        !line->is_signed_by(epoch->as_epoch()->key) || epoch->epoch != line->epoch ||
        epoch->version != 1 || line->version != 1) {
        return std::nullopt;
    }
    Head head;
    head.state = Head::State::valid;
    head.line = *line->as_head();
    head.epoch = line->epoch;
    head.batch = line->batch;
    head.segment = line->segment;
    head.agent = line->agent;
    head.log = line->log;
    return head;
}

}  // namespace

Result<Head> read_head(Files& files, const std::filesystem::path& path,
                       const crypto::PublicKey& enrolment) {
    auto file = files.open(path, OpenMode::read);
    if (!file) {
        if (file.error().code == Code::not_found) return Head{};
        return fail(file.error());
    }
    std::string bytes(2 * kHeadSlotBytes + 1, '\0');
    const std::size_t got =
        TRY((*file)->read_at({reinterpret_cast<std::byte*>(bytes.data()), bytes.size()}, 0));
    Head newest;
    std::size_t damaged = got > 2 * kHeadSlotBytes ? 1 : 0;
    for (std::size_t begin = 0; begin < std::min(got, 2 * kHeadSlotBytes);
         begin += kHeadSlotBytes) {
        const std::size_t size = std::min(got - begin, kHeadSlotBytes);
        const auto head = size == kHeadSlotBytes
                              ? parse_slot(std::string_view(bytes).substr(begin, size), enrolment)
                              : std::nullopt;
        if (!head) {
            ++damaged;
        } else if (newest.state != Head::State::valid || head->epoch > newest.epoch ||
                   (head->epoch == newest.epoch &&
                    (head->batch > newest.batch || head->line.chain_end > newest.line.chain_end))) {
            newest = *head;
            newest.slot = static_cast<unsigned>(begin / kHeadSlotBytes);
        }
    }
    newest.one_slot_damaged = newest.state == Head::State::valid && damaged > 0;
    if (newest.state != Head::State::valid && got > 0) newest.state = Head::State::damaged;
    return newest;
}

}  // namespace underseer::event_log
