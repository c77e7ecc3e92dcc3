#include "scan/archive.h"

#include <archive.h>
#include <archive_entry.h>
#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "base/limits.h"

namespace underseer::scan {

namespace {

constexpr std::size_t kStepBytes = 64u << 10;

struct CloseArchive {
    void operator()(archive* reader) const { archive_read_free(reader); }
};
using Reader = std::unique_ptr<archive, CloseArchive>;

Error archive_error(archive* reader, std::string_view what) {
    const char* why = archive_error_string(reader);
    return {Code::malformed, 0, fmt::format("{}: {}", what, why != nullptr ? why : "unknown")};
}

Result<Reader> open_archive(Bytes packed, bool is_stream) {
    Reader reader(archive_read_new());
    if (reader == nullptr) return fail(Code::limit, "no memory to unpack an archive");
    archive_read_support_filter_all(reader.get());
    if (is_stream) {
        archive_read_support_format_raw(reader.get());
    } else {
        archive_read_support_format_all(reader.get());
    }
    if (archive_read_open_memory(reader.get(), packed.data(), packed.size()) != ARCHIVE_OK) {
        return std::unexpected(archive_error(reader.get(), "opening an archive"));
    }
    return reader;
}

// What is left of the entry that the reader is at.
Result<std::string> content_of(archive* reader, std::size_t most_bytes) {
    std::string content;
    for (;;) {
        const std::size_t before = content.size();
        content.resize(before + kStepBytes);
        const la_ssize_t got = archive_read_data(reader, content.data() + before, kStepBytes);
        content.resize(before + static_cast<std::size_t>(std::max<la_ssize_t>(got, 0)));
        if (got < 0) return std::unexpected(archive_error(reader, "unpacking"));
        if (got == 0) return content;
        if (content.size() > most_bytes) {
            return fail(Code::limit, fmt::format("more than {} bytes are packed", most_bytes));
        }
    }
}

}  // namespace

Result<std::string> uncompress(Bytes packed, std::size_t most_bytes) {
    const Reader reader = TRY(open_archive(packed, /*is_stream=*/true));
    archive_entry* entry = nullptr;
    if (archive_read_next_header(reader.get(), &entry) != ARCHIVE_OK) {
        return std::unexpected(archive_error(reader.get(), "reading a compressed stream"));
    }
    if (archive_filter_code(reader.get(), 0) == ARCHIVE_FILTER_NONE) {
        return fail(Code::malformed, "it is compressed in no known way");
    }
    return content_of(reader.get(), most_bytes);
}

Result<void> each_file(Bytes archive_bytes, std::size_t most_bytes,
                       const std::function<bool(std::string_view)>& wanted,
                       const std::function<Result<bool>(std::string_view, std::string)>& use) {
    const Reader reader = TRY(open_archive(archive_bytes, /*is_stream=*/false));
    for (std::size_t entries = 0;; ++entries) {
        archive_entry* entry = nullptr;
        const int outcome = archive_read_next_header(reader.get(), &entry);
        if (outcome == ARCHIVE_EOF) return {};
        if (outcome < ARCHIVE_WARN) {
            return std::unexpected(archive_error(reader.get(), "reading an archive"));
        }
        if (entries >= limits::kMaxArchiveEntries) {
            return fail(Code::limit, "an archive has too many entries");
        }
        const char* name = archive_entry_pathname(entry);
        if (name == nullptr || archive_entry_filetype(entry) != AE_IFREG || !wanted(name)) continue;
        const std::string path = name;
        std::string content =
            TRY(content_of(reader.get(), most_bytes).context("unpacking " + path));
        if (!TRY(use(path, std::move(content)))) return {};
    }
}

}  // namespace underseer::scan
