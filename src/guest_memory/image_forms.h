// The forms of image that are more than slices of a file. TRUST: all of them read hostile bytes.
#pragma once

#include <memory>
#include <string>

#include "guest_memory/guest_memory.h"
#include "guest_memory/image_file.h"

namespace underseer::guest_memory {

// AVML's compressed form (header version 2).
Result<std::unique_ptr<GuestMemory>> open_avml(ImageFile file, const std::string& name);

// The kdump-compressed form (makedumpfile, QEMU), not flattened or from open_flattened.
Result<std::unique_ptr<GuestMemory>> open_kdump(ImageFile file, const std::string& name);

}  // namespace underseer::guest_memory
