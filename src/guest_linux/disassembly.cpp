#include "guest_linux/disassembly.h"

#include <capstone/capstone.h>
#include <fmt/format.h>

#include "base/result.h"

namespace underseer::guest_linux {

struct Disassembler::Engine {
    csh handle{};
    cs_insn* instruction = nullptr;

    Engine() {
        CHECK(cs_open(CS_ARCH_X86, CS_MODE_64, &handle) == CS_ERR_OK);
        CHECK(cs_option(handle, CS_OPT_DETAIL, CS_OPT_ON) == CS_ERR_OK);
        instruction = cs_malloc(handle);
        CHECK(instruction != nullptr);
    }
    ~Engine() {
        cs_free(instruction, 1);
        cs_close(&handle);
    }
    Engine(const Engine&) = delete;
};

void Disassembler::warm_up() {
    const std::byte nop{0x90};
    Disassembler().decode({&nop, 1}, GuestVirt{0}, [](const Instruction&) { return true; });
}

Disassembler::Disassembler() : engine_(std::make_unique<Engine>()) {}
Disassembler::~Disassembler() = default;

std::size_t Disassembler::decode(Bytes code, GuestVirt at,
                                 const std::function<bool(const Instruction&)>& use) {
    const auto* next = reinterpret_cast<const std::uint8_t*>(code.data());
    std::size_t left = code.size();
    std::uint64_t address = at.value;
    cs_insn* decoded = engine_->instruction;
    while (left > 0 && cs_disasm_iter(engine_->handle, &next, &left, &address, decoded)) {
        Instruction one{.at = GuestVirt{decoded->address},
                        .size_bytes = decoded->size,
                        .mnemonic = decoded->mnemonic,
                        .operands = decoded->op_str};
        one.is_call = cs_insn_group(engine_->handle, decoded, CS_GRP_CALL);
        const cs_x86& x86 = decoded->detail->x86;
        if ((one.is_call || cs_insn_group(engine_->handle, decoded, CS_GRP_JUMP)) &&
            x86.op_count == 1 && x86.operands[0].type == X86_OP_IMM) {
            one.target = GuestVirt{static_cast<std::uint64_t>(x86.operands[0].imm)};
        }
        if (!use(one)) break;
    }
    return code.size() - left;
}

std::string Disassembler::text(Bytes code, GuestVirt at, std::size_t count) {
    std::string text;
    decode(code, at, [&](const Instruction& one) {
        if (count-- == 0) return false;
        if (!text.empty()) text += "; ";
        text += one.mnemonic;
        if (!one.operands.empty()) text += fmt::format(" {}", one.operands);
        return true;
    });
    return text.empty() ? "no instruction" : text;
}

}  // namespace underseer::guest_linux
