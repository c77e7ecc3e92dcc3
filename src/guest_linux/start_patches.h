// What a kernel has made of its code when it started, against what it may have made of it: at
// places that it has lists of it takes other instructions for some CPUs, calls paravirtual
// functions directly, and drops retpolines and return thunks where no CPU needs them.
//
// Versions do this differently, so that what stands there is judged by what it does: instructions
// are compared one by one, without those that do nothing, with the addresses that they lead to.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "guest_linux/built_kernel.h"
#include "guest_linux/disassembly.h"
#include "guest_linux/kernel.h"

namespace underseer::guest_linux {

class StartPatches {
  public:
    // What each number that only the start of a kernel has told is, by StartPatch::other.
    using Constants = std::map<std::uint32_t, std::uint64_t>;
    // As most of its places have it: one that was altered does not say what the others should be.
    static Constants constants_of(Kernel& kernel, const BuiltKernel& built, std::uint64_t slide);

    // The kernel runs `slide` bytes above where it was linked to. All must outlive this.
    StartPatches(Kernel& kernel, const BuiltKernel& built, std::uint64_t slide,
                 const Constants& constants);

    // How many bytes of the code from offset `i` on, where it is not as it was built, are what
    // such a place may hold; 0: none. `now` are bytes of the running code from offset `first` on.
    std::size_t explains(Bytes now, std::size_t first, std::size_t i);

  private:
    // One instruction, whose numbers are told apart.
    struct Step {
        std::string text;
        std::vector<std::uint64_t> numbers;
    };
    using Steps = std::vector<Step>;
    struct Piece {
        GuestVirt at;
        std::size_t size_bytes = 0;
        Steps steps;
    };

    Piece piece_of(Bytes code, GuestVirt at, std::uint64_t moved = 0);
    static std::size_t filling(Bytes code, std::size_t behind, std::uint64_t target);
    static Step step_of(const Instruction& one);
    bool is_return_thunk(GuestVirt address) const;
    static bool is_of_one_number(const Piece& piece);
    std::size_t is_entry(Bytes now, std::size_t first, std::size_t i);
    std::size_t is_counted(Bytes now, std::size_t first, std::size_t i);
    bool is_same(const Piece& running, const Piece& built) const;
    bool holds(const StartPatch& place, Bytes now);
    bool may_be_alternative(const StartPatch& place, const Piece& now);
    bool may_be_direct(const Piece& original, const Piece& now);
    bool may_be_thunkless(const Piece& original, const Piece& now);
    static bool may_be_return(Bytes now);
    static Bytes original(const BuiltKernel& built, const StartPatch& place);

    Kernel& kernel_;
    const BuiltKernel& built_;
    std::uint64_t slide_;
    std::optional<GuestVirt> fentry_;
    GuestVirt counter_at_;
    std::vector<std::byte> counter_;  // empty: calls are not counted
    Disassembler disassembler_;
    const Constants& constants_;
};

}  // namespace underseer::guest_linux
