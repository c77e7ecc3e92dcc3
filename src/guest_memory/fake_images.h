// Builders of image files, for tests and for the seeds of fuzz targets.
#pragma once

#include <cstdint>
#include <vector>

#include "base/bytes.h"
#include "base/os.h"

namespace underseer::guest_memory {

struct FakeRange {
    std::uint64_t begin = 0;
    std::vector<std::byte> bytes;
};
using FakeFile = std::vector<std::byte>;

FakeFile lime_image(const std::vector<FakeRange>& ranges);
FakeFile elf_core_image(const std::vector<FakeRange>& ranges);

// Raw memory from address 0; what no range covers is zeros.
FakeFile raw_image(const std::vector<FakeRange>& ranges);

// `plain_chunks`: also chunks that are stored as they are. As AVML does, 16 MiB of zeros are left
// out, and a longer range is written as several.
struct AvmlForm {
    bool plain_chunks = false;
    std::size_t chunk_bytes = 65536;
};
FakeFile avml_image(const std::vector<FakeRange>& ranges, const AvmlForm& form = {});

enum class KdumpCompression : std::uint8_t { none, zlib, lzo, snappy };
struct KdumpForm {
    KdumpCompression compression = KdumpCompression::zlib;
    bool flattened = false;
    std::uint32_t header_version = 6;
    std::uint64_t exclude_every = 0;  // every n-th page is known and not in the dump
};
// REQUIRES: ranges of whole pages, sorted.
FakeFile kdump_image(const std::vector<FakeRange>& ranges, const KdumpForm& form = {});
// The file as makedumpfile -F writes it to a pipe: in pieces, the header once more at the end.
FakeFile flattened(Bytes file);

// A plain LZO1X compressor that uses every instruction of the format, for tests only.
std::vector<std::byte> compress_lzo(Bytes plain);

// Bytes that look like memory: some zero pages, some repeated, some without pattern.
std::vector<std::byte> fake_memory_bytes(std::size_t size, unsigned seed);

// A file without a name that holds these bytes.
Fd fake_file(Bytes bytes);

}  // namespace underseer::guest_memory
