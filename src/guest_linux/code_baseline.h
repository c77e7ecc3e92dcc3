// The kernel's code as it was when it was first looked at, and what has changed in it since: its
// own, that of its modules, and what it gives to all processes (the vDSO).
//
// A kernel alters its own code while it runs, at places that it has lists of: jump labels, static
// calls, the calls that ftrace, kprobes and BPF put in. What stands there now must be what such a
// place can hold; everything else that has changed is told.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "guest_linux/code_comparison.h"
#include "guest_linux/code_map.h"
#include "guest_linux/page_store.h"

namespace underseer::guest_linux {

// A stretch of code that somebody else has kept, `before`, against what it is `now`. Both stand at
// `at` and are equally long.
CodeComparison compare_code(Kernel& kernel, const CodeMap& code, GuestVirt at, Bytes before,
                            Bytes now);

class PatchSites;

class CodeBaseline {
  public:
    // Against what the first call has seen of each, which itself finds nothing. A module that was
    // loaded anew is another one. `text`: the kernel's own code as it is now (hash_text()).
    Result<CodeComparison> compare(Kernel& kernel, const CodeMap& code, const PageHashes& text);

  private:
    // What is compared as a whole.
    struct Piece {
        GuestVirt begin;
        std::uint64_t size_bytes = 0;
        std::string name;  // "" of the kernel's own
        bool is_constant = false;
        bool is_given = false;  // to processes: a vDSO
        GuestVirt module;       // its struct module
        std::uint64_t life = 0;

        bool operator==(const Piece&) const = default;
        // The guest says where each begins: two may begin at one place, and are two all the same.
        auto key() const { return std::tuple(begin, name, is_constant); }
    };
    struct Stretch {
        GuestVirt begin, end;
    };
    struct Known {
        Piece piece;
        PageStore pages;
        // Of constants: what other pieces have of them. As it was when they were first known: a
        // piece that comes later, or says so, takes nothing from them.
        std::vector<Stretch> elsewhere;
    };
    std::vector<Piece> pieces(Kernel& kernel, const CodeMap& code, const PageHashes& text,
                              CodeComparison& result);
    static bool keep_page(Kernel& kernel, Known& known, std::size_t page);
    void compare_page(Kernel& kernel, const PatchSites& sites, Known& known, std::size_t page,
                      CodeComparison& result);
    static std::size_t compared_elsewhere(const Known& known, GuestVirt at);

    std::map<std::tuple<GuestVirt, std::string, bool>, Known> known_;  // by Piece::key()
    bool is_up_ = false;  // what is constant is so by now
};

}  // namespace underseer::guest_linux
