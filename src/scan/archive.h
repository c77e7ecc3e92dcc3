// What others have packed: archives of many files, and streams that are only compressed. libarchive
// looks at hostile bytes here: in a jail.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "base/bytes.h"

namespace underseer::scan {

// A stream that is compressed and nothing else: gzip, bzip2, xz, lzma, zstd, lz4 (the form that
// Linux kernels use included). What follows its end is left alone.
// Code::malformed when it is damaged, Code::limit when it holds more than `most_bytes`.
Result<std::string> uncompress(Bytes packed, std::size_t most_bytes);

// The regular files of an archive, in its order, whatever it is compressed with: ar (.deb), tar,
// cpio, rpm, zip. `wanted` is asked by name; `use` gets the content of those that it says yes to,
// and returns whether to go on. Other files are skipped, not unpacked into memory.
// Code::malformed when it is no archive or damaged, Code::limit when one that is wanted has more
// than `most_bytes`, or when there are more than limits::kMaxArchiveEntries.
Result<void> each_file(Bytes archive, std::size_t most_bytes,
                       const std::function<bool(std::string_view name)>& wanted,
                       const std::function<Result<bool>(std::string_view name, std::string)>& use);

}  // namespace underseer::scan
