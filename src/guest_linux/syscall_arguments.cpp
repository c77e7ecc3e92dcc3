#include "guest_linux/syscall_arguments.h"

#include <fmt/format.h>

#include "guest_linux/syscall_names.h"

namespace underseer::guest_linux {

namespace {
constexpr std::uint64_t kMostArguments = 6;
}  // namespace

bool SyscallArgument::is_file_descriptor() const {
    if (type.find('*') != std::string::npos) return false;
    return name == "fildes" || name.ends_with("fd") || (name.starts_with("fd") && name != "fds");
}

Result<std::vector<SyscallArgument>> syscall_arguments(Kernel& kernel, std::uint64_t number) {
    const GuestVirt meta =
        TRY(kernel.symbol(fmt::format("__syscall_meta__{}", syscall_entry(number))));
    const std::uint64_t count = TRY(kernel.read(meta, kernel.field("syscall_metadata", "nb_args")));
    if (count > kMostArguments) {
        return fail(Code::malformed, fmt::format("a system call with {} arguments", count));
    }
    std::vector<SyscallArgument> arguments(count);
    if (count == 0) return arguments;
    const GuestVirt types =
                        TRY(kernel.read_pointer(meta, kernel.field("syscall_metadata", "types"))),
                    names =
                        TRY(kernel.read_pointer(meta, kernel.field("syscall_metadata", "args")));
    const auto text = [&](GuestVirt list, std::uint64_t index) -> Result<std::string> {
        const auto at = TRY(kernel.memory().read<GuestVirt>(list + index * 8));
        return kernel.memory().read_cstring(at, limits::kMaxSyscallArgNameBytes);
    };
    for (std::uint64_t i = 0; i < count; ++i) {
        std::string type = TRY(text(types, i));
        arguments[i] = {std::move(type), TRY(text(names, i))};
    }
    return arguments;
}

}  // namespace underseer::guest_linux
