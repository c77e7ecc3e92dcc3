// Call frame information: what .eh_frame says of a program's stack. For each place in the code it
// tells where the caller's registers are (DWARF 5, section 6.4). How it is encoded, and the table
// to search it by: Linux Standard Base Core 5.0, chapter 10.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "base/bytes.h"

namespace underseer::guest_linux {

// By their DWARF numbers (System V ABI for x86-64, figure 3.36). One whose value is not known has
// none: a call may have changed it.
inline constexpr unsigned kDwarfRsp = 7, kDwarfRbp = 6, kDwarfRip = 16, kDwarfRegisters = 17;
using DwarfRegisters = std::array<std::optional<std::uint64_t>, kDwarfRegisters>;

// Where the caller's register is.
struct RegisterRule {
    enum class Kind : std::uint8_t {
        unspecified,    // as the ABI has it
        undefined,      // nowhere
        same,           // still in the register
        at_offset,      // in memory, from the CFA
        is_offset,      // it is that address itself
        of_register,    // in another one
        at_expression,  // in memory, at a computed address
        is_expression   // computed
    };
    Kind kind{};
    std::int64_t number = 0;  // an offset, a register, or which of UnwindRow::expressions
};

// What holds at one place in the code.
struct UnwindRow {
    std::uint64_t begin = 0, end = 0;  // of the function, or of a part of it
    // The frame of a signal: what it returns to was interrupted there, and has called nobody.
    bool is_signal = false;
    // The CFA, where the caller's stack begins: a register and an offset, or an expression.
    std::uint64_t cfa_register = 0;
    std::uint64_t cfa_offset = 0;
    std::optional<std::size_t> cfa_expression;
    std::array<RegisterRule, kDwarfRegisters> registers;
    std::vector<std::vector<std::byte>> expressions;
};

// Fills `into` from an address of the image.
using ReadImage = std::function<Result<void>(std::uint64_t address, MutableBytes into)>;

// TRUST: whoever wrote the program wrote these bytes. Each entry is copied, then parsed; the code
// in it has no jumps, so that it ends with its bytes.
class CallFrameInfo {
  public:
    // By its .eh_frame_hdr. Code::unsupported where that has no table to search by.
    static Result<CallFrameInfo> with_table(const ReadImage& read, std::uint64_t header);
    // Without: all of .eh_frame is read once, as far as it can be.
    static Result<CallFrameInfo> without_table(const ReadImage& read, std::uint64_t begin,
                                               std::uint64_t size_bytes);

    // Code::not_found where nothing is said of the code at `address`. What is read counts against
    // `budget_bytes`; Code::limit when that is used up.
    Result<UnwindRow> row_at(const ReadImage& read, std::uint64_t address,
                             std::uint64_t& budget_bytes) const;

  private:
    struct Function {
        std::uint64_t begin = 0, end = 0;
        std::uint64_t entry = 0;  // address of its FDE
    };
    Result<std::uint64_t> search(const ReadImage& read, std::uint64_t address) const;

    std::uint64_t table_ = 0, base_ = 0, count_ = 0;  // of .eh_frame_hdr
    // Without one: functions by their begin, and why there may be more of them.
    std::vector<Function> functions_;
    std::optional<Error> rest_unknown_;
};

// A word of the process's memory.
using ReadWord = std::function<Result<std::uint64_t>(GuestVirt)>;

// The registers that the caller had, and goes on with; rip has no value where there is no caller.
// Code::unsupported where an expression does what no compiler makes of it.
Result<DwarfRegisters> caller_of(const UnwindRow& row, const DwarfRegisters& registers,
                                 const ReadWord& word);

}  // namespace underseer::guest_linux
