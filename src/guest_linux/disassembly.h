// Machine code (x86-64) as instructions. Wraps Capstone.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/bytes.h"

namespace underseer::guest_linux {

struct Instruction {
    GuestVirt at;
    std::size_t size_bytes = 0;
    std::string_view mnemonic, operands;  // until the next one is decoded
    // Of a call or jump to a place that stands in it.
    std::optional<GuestVirt> target;
    bool is_call = false;
};

class Disassembler {
  public:
    // Capstone sorts a table at its first instruction, for which the C library asks the system how
    // much memory there is: to be called before a jail closes that forbids it.
    static void warm_up();

    Disassembler();
    ~Disassembler();
    Disassembler(const Disassembler&) = delete;

    // Decodes `code`, which runs at `at`, from its begin on; `use` returns false to stop. Returns
    // how many bytes were decoded: fewer than there are when something is no instruction.
    std::size_t decode(Bytes code, GuestVirt at,
                       const std::function<bool(const Instruction&)>& use);
    // "jmp 0xffffffffc0201000; nop": at most `count` of them.
    std::string text(Bytes code, GuestVirt at, std::size_t count);

  private:
    struct Engine;
    std::unique_ptr<Engine> engine_;
};

}  // namespace underseer::guest_linux
