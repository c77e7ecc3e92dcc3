#include "guest_linux/call_frame_info.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string>

#include "base/limits.h"

namespace underseer::guest_linux {

namespace {

std::int64_t as_signed(std::uint64_t value) {
    return static_cast<std::int64_t>(value);
}
std::uint64_t as_unsigned(std::int64_t value) {
    return static_cast<std::uint64_t>(value);
}

// DWARF 5, section 7.6. What is longer than 64 bits is no number of ours.
Result<std::uint64_t> read_leb128(ByteCursor& cursor, bool is_signed) {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        const auto byte = TRY(cursor.read<std::uint8_t>());
        value |= std::uint64_t{byte & 0x7fu} << shift;
        if ((byte & 0x80) != 0) continue;
        const unsigned bits = shift + 7;
        if (is_signed && (byte & 0x40) != 0 && bits < 64) value |= ~std::uint64_t{0} << bits;
        return value;
    }
    return fail(Code::malformed, "a number in unwind information has more than 64 bits");
}
Result<std::uint64_t> read_unsigned(ByteCursor& cursor) {
    return read_leb128(cursor, false);
}
Result<std::int64_t> read_signed(ByteCursor& cursor) {
    return as_signed(TRY(read_leb128(cursor, true)));
}
template <typename T>
Result<std::uint64_t> read_integer(ByteCursor& cursor) {
    return static_cast<std::uint64_t>(TRY(cursor.read<T>()));
}

// How pointers are written (DW_EH_PE_*, LSB Core 5.0, 10.5.1): the low half says as what, the other
// relative to what.
enum PointerEncoding : std::uint8_t {
    kAbsolute = 0x00,
    kUleb128 = 0x01,
    kUnsigned2 = 0x02,
    kUnsigned4 = 0x03,
    kUnsigned8 = 0x04,
    kSleb128 = 0x09,
    kSigned2 = 0x0a,
    kSigned4 = 0x0b,
    kSigned8 = 0x0c,
    kFormMask = 0x0f,
    kRelativeToItself = 0x10,
    kRelativeToTable = 0x30,
    kBaseMask = 0x70,
    kIndirect = 0x80,
    kOmitted = 0xff,
};

Result<std::uint64_t> read_encoded(ByteCursor& cursor, std::uint8_t form) {
    switch (form) {
        case kAbsolute:
        case kUnsigned8:
        case kSigned8:
            return cursor.read<std::uint64_t>();
        case kUleb128:
            return read_unsigned(cursor);
        case kUnsigned2:
            return read_integer<std::uint16_t>(cursor);
        case kUnsigned4:
            return read_integer<std::uint32_t>(cursor);
        case kSleb128:
            return read_leb128(cursor, true);
        case kSigned2:
            return read_integer<std::int16_t>(cursor);
        case kSigned4:
            return read_integer<std::int32_t>(cursor);
        default:
            return fail(Code::unsupported,
                        fmt::format("a pointer in unwind information has the form {:#x}", form));
    }
}

// `begin`: address of the cursor's first byte.
Result<std::uint64_t> read_code_pointer(ByteCursor& cursor, std::uint8_t encoding,
                                        std::uint64_t begin) {
    const std::uint64_t at = begin + cursor.position();
    const std::uint64_t value = TRY(read_encoded(cursor, encoding & kFormMask));
    if ((encoding & kIndirect) == 0) {
        if ((encoding & kBaseMask) == 0) return value;
        if ((encoding & kBaseMask) == kRelativeToItself) return at + value;
    }
    return fail(Code::unsupported,
                fmt::format("code in unwind information is told by the encoding {:#x}", encoding));
}

// A CIE or FDE: what follows its length.
struct CfiEntry {
    std::uint64_t at = 0;  // address of its length
    std::vector<std::byte> bytes;

    std::uint64_t begin() const { return at + sizeof(std::uint32_t); }
    std::uint64_t next() const { return begin() + bytes.size(); }
};

// Of no bytes: the last one of a section.
Result<CfiEntry> read_entry(const ReadImage& read, std::uint64_t at, std::uint64_t& budget_bytes) {
    std::uint32_t length = 0;
    TRY(read(at, std::as_writable_bytes(std::span(&length, 1))));
    if (length > limits::kMaxCfiEntryBytes) {
        return fail(Code::limit,
                    fmt::format("an entry of unwind information has {} bytes", length));
    }
    if (length > budget_bytes) {
        return fail(Code::limit, "there is more unwind information than is read at a time");
    }
    budget_bytes -= length;
    CfiEntry entry{.at = at, .bytes = std::vector<std::byte>(length)};
    TRY(read(entry.begin(), entry.bytes));
    return entry;
}

// What FDEs have in common.
struct CommonEntry {
    std::uint64_t code_step = 1;
    std::int64_t data_step = 1;
    std::uint8_t encoding = kAbsolute;  // of code pointers
    bool has_augmentation = false;      // FDEs have data of their own
    bool is_signal = false;
    std::vector<std::byte> program;
};

Result<CommonEntry> parse_common_entry(const CfiEntry& entry) {
    ByteCursor cursor(entry.bytes);
    if (TRY(cursor.read<std::uint32_t>()) != 0) {
        return fail(Code::malformed, "unwind information leads to what is no CIE");
    }
    const auto version = TRY(cursor.read<std::uint8_t>());
    if (version != 1 && version != 3) {
        return fail(Code::unsupported, fmt::format("unwind information of version {}", version));
    }
    const std::string augmentation(TRY(cursor.read_cstring()));
    CommonEntry common;
    common.code_step = TRY(read_unsigned(cursor));
    common.data_step = TRY(read_signed(cursor));
    const std::uint64_t return_register =
        version == 1 ? TRY(read_integer<std::uint8_t>(cursor)) : TRY(read_unsigned(cursor));
    if (return_register != kDwarfRip) {
        return fail(Code::unsupported,
                    fmt::format("register {} holds what a call returns to", return_register));
    }
    if (!augmentation.empty()) {
        if (augmentation[0] != 'z') {
            return fail(Code::unsupported, "unwind information of an old form");
        }
        common.has_augmentation = true;
        const std::uint64_t length = TRY(read_unsigned(cursor));
        if (length > cursor.remaining()) return fail(Code::malformed, "a CIE ends early");
        ByteCursor data(TRY(cursor.read_bytes(length)));
        for (const char letter : augmentation.substr(1)) {
            if (letter == 'R') {
                common.encoding = TRY(data.read<std::uint8_t>());
            } else if (letter == 'P') {
                const auto encoding = TRY(data.read<std::uint8_t>());
                (void)TRY(read_encoded(data, encoding & kFormMask));
            } else if (letter == 'L') {
                TRY(data.skip(1));
            } else if (letter == 'S') {
                common.is_signal = true;
            } else {
                return fail(Code::unsupported, "unwind information has parts that are not known");
            }
        }
    }
    const Bytes program = TRY(cursor.read_bytes(cursor.remaining()));
    common.program.assign(program.begin(), program.end());
    return common;
}

struct FunctionEntry {
    std::uint64_t begin = 0, end = 0;
    std::size_t program = 0;  // where in the entry
};

// The address of its CIE.
Result<std::uint64_t> common_entry_of(const CfiEntry& entry) {
    // The distance back from itself; 0 says that this is a CIE.
    const auto distance = load_le<std::uint32_t>(entry.bytes, 0).value_or(0);
    if (distance == 0) return fail(Code::malformed, "unwind information leads to what is no FDE");
    return entry.begin() - distance;
}

Result<FunctionEntry> parse_function_entry(const CfiEntry& entry, const CommonEntry& common) {
    FunctionEntry function;
    ByteCursor cursor(entry.bytes);
    TRY(cursor.skip(sizeof(std::uint32_t)));  // where its CIE is
    function.begin = TRY(read_code_pointer(cursor, common.encoding, entry.begin()));
    const std::uint64_t size = TRY(read_encoded(cursor, common.encoding & kFormMask));
    function.end = function.begin + size;
    if (function.end < function.begin) {
        return fail(Code::malformed, "a function in unwind information ends before it begins");
    }
    if (common.has_augmentation) {
        const std::uint64_t length = TRY(read_unsigned(cursor));
        if (length > cursor.remaining()) return fail(Code::malformed, "an FDE ends early");
        TRY(cursor.skip(length));
    }
    function.program = cursor.position();
    return function;
}

// Runs the code of a CIE and an FDE up to one place (DWARF 5, section 6.4.2).
class RowProgram {
  public:
    RowProgram(const CommonEntry& common, const FunctionEntry& function, std::uint64_t address)
        : common_(common), address_(address), at_(function.begin) {
        row_.begin = function.begin;
        row_.end = function.end;
        row_.is_signal = common.is_signal;
    }

    Result<UnwindRow> run(Bytes function_program) {
        TRY(run_part(common_.program));
        initial_ = row_.registers;
        TRY(run_part(function_program));
        return std::move(row_);
    }

  private:
    enum Operation : std::uint8_t {
        kAdvance = 0x40,  // these three hold their first operand in their low six bits
        kOffset = 0x80,
        kRestore = 0xc0,
        kNop = 0x00,
        kAdvance1 = 0x02,
        kAdvance2 = 0x03,
        kAdvance4 = 0x04,
        kOffsetExtended = 0x05,
        kRestoreExtended = 0x06,
        kUndefined = 0x07,
        kSameValue = 0x08,
        kRegister = 0x09,
        kRememberState = 0x0a,
        kRestoreState = 0x0b,
        kDefCfa = 0x0c,
        kDefCfaRegister = 0x0d,
        kDefCfaOffset = 0x0e,
        kDefCfaExpression = 0x0f,
        kExpression = 0x10,
        kOffsetExtendedSigned = 0x11,
        kDefCfaSigned = 0x12,
        kDefCfaOffsetSigned = 0x13,
        kValOffset = 0x14,
        kValOffsetSigned = 0x15,
        kValExpression = 0x16,
        kGnuArgsSize = 0x2e,
    };
    struct State {
        std::uint64_t cfa_register, cfa_offset;
        std::optional<std::size_t> cfa_expression;
        std::array<RegisterRule, kDwarfRegisters> registers;
    };

    Result<void> run_part(Bytes program) {
        ByteCursor cursor(program);
        while (!cursor.at_end() && at_ <= address_) {
            const auto byte = TRY(cursor.read<std::uint8_t>());
            const std::uint8_t low = byte & 0x3f;
            if ((byte & 0xc0) == kAdvance) {
                TRY(advance(low));
            } else if ((byte & 0xc0) == kOffset) {
                TRY(set(low, RegisterRule::Kind::at_offset, scaled(TRY(read_unsigned(cursor)))));
            } else if ((byte & 0xc0) == kRestore) {
                TRY(restore(low));
            } else {
                TRY(run_one(byte, cursor));
            }
        }
        return {};
    }

    Result<void> run_one(std::uint8_t operation, ByteCursor& cursor) {
        switch (operation) {
            case kNop:
                return {};
            case kGnuArgsSize:
                (void)TRY(read_unsigned(cursor));
                return {};
            case kAdvance1:
                return advance(TRY(read_integer<std::uint8_t>(cursor)));
            case kAdvance2:
                return advance(TRY(read_integer<std::uint16_t>(cursor)));
            case kAdvance4:
                return advance(TRY(read_integer<std::uint32_t>(cursor)));
            case kRememberState:
                if (states_.size() == limits::kMaxCfiStack) {
                    return fail(Code::limit, "unwind information remembers too many states");
                }
                states_.push_back(
                    {row_.cfa_register, row_.cfa_offset, row_.cfa_expression, row_.registers});
                return {};
            case kRestoreState:
                if (states_.empty()) {
                    return fail(Code::malformed, "unwind information restores no state");
                }
                row_.cfa_register = states_.back().cfa_register;
                row_.cfa_offset = states_.back().cfa_offset;
                row_.cfa_expression = states_.back().cfa_expression;
                row_.registers = states_.back().registers;
                states_.pop_back();
                return {};
            case kDefCfa:
            case kDefCfaSigned:
            case kDefCfaRegister:
            case kDefCfaOffset:
            case kDefCfaOffsetSigned:
            case kDefCfaExpression:
                return define_cfa(operation, cursor);
            default:
                return set_rule(operation, cursor);
        }
    }

    Result<void> define_cfa(std::uint8_t operation, ByteCursor& cursor) {
        if (operation == kDefCfaExpression) {
            row_.cfa_expression = static_cast<std::size_t>(TRY(add_expression(cursor)));
            return {};
        }
        const bool names_register =
            operation == kDefCfa || operation == kDefCfaSigned || operation == kDefCfaRegister;
        if (names_register) row_.cfa_register = TRY(read_unsigned(cursor));
        if (operation == kDefCfa || operation == kDefCfaOffset) {
            row_.cfa_offset = TRY(read_unsigned(cursor));
        } else if (operation == kDefCfaSigned || operation == kDefCfaOffsetSigned) {
            row_.cfa_offset = as_unsigned(scaled(TRY(read_leb128(cursor, true))));
        }
        row_.cfa_expression.reset();
        return {};
    }

    Result<void> set_rule(std::uint8_t operation, ByteCursor& cursor) {
        const std::uint64_t which = TRY(read_unsigned(cursor));
        switch (operation) {
            case kOffsetExtended:
                return set(which, RegisterRule::Kind::at_offset,
                           scaled(TRY(read_unsigned(cursor))));
            case kOffsetExtendedSigned:
                return set(which, RegisterRule::Kind::at_offset,
                           scaled(TRY(read_leb128(cursor, true))));
            case kValOffset:
                return set(which, RegisterRule::Kind::is_offset,
                           scaled(TRY(read_unsigned(cursor))));
            case kValOffsetSigned:
                return set(which, RegisterRule::Kind::is_offset,
                           scaled(TRY(read_leb128(cursor, true))));
            case kRestoreExtended:
                return restore(which);
            case kUndefined:
                return set(which, RegisterRule::Kind::undefined, 0);
            case kSameValue:
                return set(which, RegisterRule::Kind::same, 0);
            case kRegister:
                return set(which, RegisterRule::Kind::of_register,
                           as_signed(TRY(read_unsigned(cursor))));
            case kExpression:
                return set(which, RegisterRule::Kind::at_expression, TRY(add_expression(cursor)));
            case kValExpression:
                return set(which, RegisterRule::Kind::is_expression, TRY(add_expression(cursor)));
            default:
                return fail(Code::unsupported,
                            fmt::format("unwind information has the operation {:#x}", operation));
        }
    }

    Result<void> advance(std::uint64_t steps) {
        const std::uint64_t bytes = steps * common_.code_step;
        // The end of all addresses is behind every place.
        at_ = at_ + bytes < at_ ? ~std::uint64_t{0} : at_ + bytes;
        return {};
    }

    // Those of vectors and the like are nothing that a stack hangs on.
    Result<void> set(std::uint64_t which, RegisterRule::Kind kind, std::int64_t number) {
        if (which < kDwarfRegisters) row_.registers[which] = {kind, number};
        return {};
    }

    Result<void> restore(std::uint64_t which) {
        if (which < kDwarfRegisters) row_.registers[which] = initial_[which];
        return {};
    }

    std::int64_t scaled(std::uint64_t offset) const {
        return as_signed(offset * as_unsigned(common_.data_step));
    }

    Result<std::int64_t> add_expression(ByteCursor& cursor) {
        const std::uint64_t length = TRY(read_unsigned(cursor));
        if (length > limits::kMaxCfiExpressionBytes) {
            return fail(Code::limit,
                        fmt::format("an expression of unwind information has {} bytes", length));
        }
        const Bytes bytes = TRY(cursor.read_bytes(length));
        row_.expressions.emplace_back(bytes.begin(), bytes.end());
        return static_cast<std::int64_t>(row_.expressions.size() - 1);
    }

    const CommonEntry& common_;
    const std::uint64_t address_;
    std::uint64_t at_;
    UnwindRow row_;
    std::array<RegisterRule, kDwarfRegisters> initial_{};
    std::vector<State> states_;
};

// DWARF expressions (DWARF 5, section 2.5), as far as compilers and C libraries use them for
// stacks: without jumps, so that one ends with its bytes.
class CfiExpression {
  public:
    CfiExpression(const DwarfRegisters& registers, const ReadWord& word)
        : registers_(registers), word_(word) {}

    Result<std::uint64_t> evaluate(Bytes bytes, std::optional<std::uint64_t> first) {
        stack_.clear();
        if (first) stack_.push_back(*first);
        ByteCursor cursor(bytes);
        while (!cursor.at_end()) {
            const auto operation = TRY(cursor.read<std::uint8_t>());
            if (operation >= kBinaryBegin && operation <= kBinaryEnd &&
                operation != kPlusConstant) {
                const std::uint64_t right = TRY(pop()), left = TRY(pop());
                TRY(push(TRY(binary(operation, left, right))));
            } else {
                TRY(push(TRY(value_of(operation, cursor))));
            }
        }
        return pop();
    }

  private:
    enum Operation : std::uint8_t {
        kDereference = 0x06,
        kConst1u = 0x08,
        kConst1s = 0x09,
        kConst2u = 0x0a,
        kConst2s = 0x0b,
        kConst4u = 0x0c,
        kConst4s = 0x0d,
        kConst8u = 0x0e,
        kConst8s = 0x0f,
        kConstU = 0x10,
        kConstS = 0x11,
        kAnd = 0x1a,
        kMinus = 0x1c,
        kMultiply = 0x1e,
        kOr = 0x21,
        kPlus = 0x22,
        kPlusConstant = 0x23,
        kShiftLeft = 0x24,
        kShiftRight = 0x25,
        kXor = 0x27,
        kEqual = 0x29,
        kGreaterOrEqual = 0x2a,
        kGreater = 0x2b,
        kLessOrEqual = 0x2c,
        kLess = 0x2d,
        kNotEqual = 0x2e,
        kLiteral0 = 0x30,
        kLiteral31 = 0x4f,
        kRegister0 = 0x70,
        kRegister31 = 0x8f,
        kBinaryBegin = kAnd,
        kBinaryEnd = kNotEqual,
    };

    // What an operation pushes that takes one word of the stack, or none.
    Result<std::uint64_t> value_of(std::uint8_t operation, ByteCursor& cursor) {
        if (operation >= kLiteral0 && operation <= kLiteral31) {
            return std::uint64_t{operation} - kLiteral0;
        }
        if (operation >= kRegister0 && operation <= kRegister31) {
            const std::uint64_t offset = TRY(read_leb128(cursor, true));
            const unsigned which = operation - kRegister0;
            if (which >= kDwarfRegisters || !registers_[which]) return unknown(which);
            return *registers_[which] + offset;
        }
        switch (operation) {
            case kDereference: {
                const GuestVirt at{TRY(pop())};
                return word_(at);
            }
            case kConst1u:
                return read_integer<std::uint8_t>(cursor);
            case kConst1s:
                return read_integer<std::int8_t>(cursor);
            case kConst2u:
                return read_integer<std::uint16_t>(cursor);
            case kConst2s:
                return read_integer<std::int16_t>(cursor);
            case kConst4u:
                return read_integer<std::uint32_t>(cursor);
            case kConst4s:
                return read_integer<std::int32_t>(cursor);
            case kConst8u:
            case kConst8s:
                return cursor.read<std::uint64_t>();
            case kConstU:
                return read_unsigned(cursor);
            case kConstS:
                return read_leb128(cursor, true);
            case kPlusConstant: {
                const std::uint64_t value = TRY(pop());
                return value + TRY(read_unsigned(cursor));
            }
            default:
                return unsupported(operation);
        }
    }

    static Result<std::uint64_t> binary(std::uint8_t operation, std::uint64_t left,
                                        std::uint64_t right) {
        const std::int64_t signed_left = as_signed(left), signed_right = as_signed(right);
        switch (operation) {
            case kAnd:
                return left & right;
            case kMinus:
                return left - right;
            case kMultiply:
                return left * right;
            case kOr:
                return left | right;
            case kPlus:
                return left + right;
            case kShiftLeft:
                return right < 64 ? left << right : 0;
            case kShiftRight:
                return right < 64 ? left >> right : 0;
            case kXor:
                return left ^ right;
            case kEqual:
                return left == right ? 1 : 0;
            case kGreaterOrEqual:
                return signed_left >= signed_right ? 1 : 0;
            case kGreater:
                return signed_left > signed_right ? 1 : 0;
            case kLessOrEqual:
                return signed_left <= signed_right ? 1 : 0;
            case kLess:
                return signed_left < signed_right ? 1 : 0;
            case kNotEqual:
                return left != right ? 1 : 0;
            default:
                return unsupported(operation);
        }
    }

    Result<void> push(std::uint64_t value) {
        if (stack_.size() == limits::kMaxCfiStack) {
            return fail(Code::limit, "an expression of unwind information needs a larger stack");
        }
        stack_.push_back(value);
        return {};
    }
    Result<std::uint64_t> pop() {
        if (stack_.empty()) {
            return fail(Code::malformed, "an expression of unwind information has no value");
        }
        const std::uint64_t value = stack_.back();
        stack_.pop_back();
        return value;
    }

    static Unexpected unknown(unsigned which) {
        return fail(Code::unavailable,
                    fmt::format("register {} that the stack hangs on is not known", which));
    }
    static Unexpected unsupported(std::uint8_t operation) {
        return fail(
            Code::unsupported,
            fmt::format("an expression of unwind information has the operation {:#x}", operation));
    }

    const DwarfRegisters& registers_;
    const ReadWord& word_;
    std::vector<std::uint64_t> stack_;
};

// rbx, rbp, r12 to r15 are the caller's own (System V ABI for x86-64, 3.2.1): a function that says
// nothing of them has left them alone.
constexpr bool is_preserved(unsigned which) {
    return which == 3 || which == kDwarfRbp || (which >= 12 && which <= 15);
}

}  // namespace

// LSB Core 5.0, 10.6.2: version, three encodings, where .eh_frame is, how many, the table.
Result<CallFrameInfo> CallFrameInfo::with_table(const ReadImage& read, std::uint64_t header) {
    constexpr std::size_t kHeadBytes = 4, kLongestNumbers = 16;
    std::array<std::byte, kHeadBytes + kLongestNumbers> bytes{};
    TRY(read(header, bytes));
    ByteCursor cursor(bytes);
    const auto version = TRY(cursor.read<std::uint8_t>()),
               section = TRY(cursor.read<std::uint8_t>()), count = TRY(cursor.read<std::uint8_t>()),
               table = TRY(cursor.read<std::uint8_t>());
    constexpr std::uint8_t kOnlyTable = kRelativeToTable | kSigned4;
    if (version != 1 || section == kOmitted || count == kOmitted || table != kOnlyTable) {
        return fail(Code::unsupported, "there is no table to search unwind information by");
    }
    CallFrameInfo info;
    (void)TRY(read_encoded(cursor, section & kFormMask));
    info.count_ = TRY(read_encoded(cursor, count & kFormMask));
    info.base_ = header;
    info.table_ = header + cursor.position();
    if (info.count_ > ~std::uint32_t{0}) {
        return fail(Code::malformed, "the table of unwind information is too long");
    }
    return info;
}

Result<CallFrameInfo> CallFrameInfo::without_table(const ReadImage& read, std::uint64_t begin,
                                                   std::uint64_t size_bytes) {
    CallFrameInfo info;
    std::map<std::uint64_t, Result<CommonEntry>> common;
    std::uint64_t budget_bytes = 2 * size_bytes;  // a CIE is read twice
    for (std::uint64_t at = begin; at - begin < size_bytes;) {
        const auto entry = read_entry(read, at, budget_bytes);
        if (!entry.has_value()) {
            info.rest_unknown_ = entry.error();
            break;
        }
        at = entry->next();
        if (entry->bytes.empty()) continue;  // the last one of an object file
        const auto common_at = common_entry_of(*entry);
        if (!common_at.has_value()) continue;  // a CIE
        auto known = common.find(*common_at);
        if (known == common.end()) {
            auto parsed = [&]() -> Result<CommonEntry> {
                const CfiEntry its = TRY(read_entry(read, *common_at, budget_bytes));
                return parse_common_entry(its);
            }();
            known = common.emplace(*common_at, std::move(parsed)).first;
        }
        if (!known->second.has_value()) continue;
        const auto function = parse_function_entry(*entry, *known->second);
        if (!function.has_value() || function->begin == function->end) continue;
        info.functions_.push_back({function->begin, function->end, entry->at});
    }
    std::ranges::sort(info.functions_, {}, &Function::begin);
    return info;
}

// Address of the FDE that may be about it. In a table that somebody has changed the search ends
// somewhere, and the FDE says whether it is the one.
Result<std::uint64_t> CallFrameInfo::search(const ReadImage& read, std::uint64_t address) const {
    const auto nothing = [&] {
        return rest_unknown_ ? fail(*rest_unknown_)
                             : fail(Code::not_found, "there is no unwind information for it");
    };
    if (count_ == 0) {
        const auto after = std::ranges::upper_bound(functions_, address, {}, &Function::begin);
        if (after == functions_.begin() || address >= std::prev(after)->end) return nothing();
        return std::prev(after)->entry;
    }
    struct Row {
        std::int32_t begin, entry;
    };
    const auto row_at = [&](std::uint64_t index) -> Result<Row> {
        Row row{};
        TRY(read(table_ + index * sizeof row, std::as_writable_bytes(std::span(&row, 1))));
        return row;
    };
    const auto address_of = [&](std::int32_t offset) {
        return base_ + static_cast<std::uint64_t>(std::int64_t{offset});
    };
    std::uint64_t begin = 0, end = count_;
    while (begin < end) {
        const std::uint64_t middle = begin + (end - begin) / 2;
        if (address_of(TRY(row_at(middle)).begin) <= address) {
            begin = middle + 1;
        } else {
            end = middle;
        }
    }
    if (begin == 0) return nothing();
    return address_of(TRY(row_at(begin - 1)).entry);
}

Result<UnwindRow> CallFrameInfo::row_at(const ReadImage& read, std::uint64_t address,
                                        std::uint64_t& budget_bytes) const {
    const std::uint64_t at = TRY(search(read, address));
    const CfiEntry entry = TRY(read_entry(read, at, budget_bytes));
    const std::uint64_t common_at = TRY(common_entry_of(entry));
    const CfiEntry common_entry = TRY(read_entry(read, common_at, budget_bytes));
    const CommonEntry common = TRY(parse_common_entry(common_entry));
    const FunctionEntry function = TRY(parse_function_entry(entry, common));
    if (address < function.begin || address >= function.end) {
        return fail(Code::not_found, "there is no unwind information for it");
    }
    return RowProgram(common, function, address).run(Bytes(entry.bytes).subspan(function.program));
}

Result<DwarfRegisters> caller_of(const UnwindRow& row, const DwarfRegisters& registers,
                                 const ReadWord& word) {
    CfiExpression expression(registers, word);
    const auto evaluate = [&](std::size_t which, std::optional<std::uint64_t> first) {
        return expression.evaluate(row.expressions[which], first);
    };
    std::uint64_t cfa = 0;
    if (row.cfa_expression) {
        cfa = TRY(evaluate(*row.cfa_expression, std::nullopt));
    } else if (row.cfa_register < kDwarfRegisters && registers[row.cfa_register]) {
        cfa = *registers[row.cfa_register] + row.cfa_offset;
    } else {
        return fail(Code::unavailable, fmt::format("register {} that the stack hangs on is not "
                                                   "known",
                                                   row.cfa_register));
    }
    DwarfRegisters caller;
    for (unsigned which = 0; which < kDwarfRegisters; ++which) {
        const RegisterRule& rule = row.registers[which];
        const auto number = as_unsigned(rule.number);
        const auto value = [&]() -> Result<std::optional<std::uint64_t>> {
            switch (rule.kind) {
                case RegisterRule::Kind::unspecified:
                    if (which == kDwarfRsp) return cfa;
                    if (is_preserved(which)) return registers[which];
                    return std::nullopt;
                case RegisterRule::Kind::undefined:
                    return std::nullopt;
                case RegisterRule::Kind::same:
                    return registers[which];
                case RegisterRule::Kind::at_offset:
                    return TRY(word(GuestVirt{cfa + number}));
                case RegisterRule::Kind::is_offset:
                    return cfa + number;
                case RegisterRule::Kind::of_register:
                    if (number >= kDwarfRegisters) return std::nullopt;
                    return registers[number];
                case RegisterRule::Kind::at_expression:
                    return TRY(word(GuestVirt{TRY(evaluate(number, cfa))}));
                case RegisterRule::Kind::is_expression:
                    return TRY(evaluate(number, cfa));
            }
            return std::nullopt;
        }();
        // Others may be saved where nothing can be read, and nobody asks for them.
        if (!value.has_value() && which == kDwarfRip) return fail(value.error());
        if (value.has_value()) caller[which] = *value;
    }
    if (row.registers[kDwarfRip].kind == RegisterRule::Kind::unspecified) {
        return fail(Code::malformed, "unwind information does not say where the call returns to");
    }
    return caller;
}

}  // namespace underseer::guest_linux
