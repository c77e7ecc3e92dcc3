// A kernel's file as its makers build it, section by section, and as it is packed for booting.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace underseer::guest_linux {

struct FakeSection {
    std::string name;
    std::uint64_t address = 0;
    std::string bytes;
};

// An ELF file of these.
std::string fake_vmlinux(const std::vector<FakeSection>& sections);
// The head of a file that boots on x86, and this as what is packed in it.
std::string fake_vmlinuz(std::string_view packed);
// The notes of a kernel with this build id, 20 bytes of one value.
std::string fake_notes(char build_id);

}  // namespace underseer::guest_linux
