#include "demo.h"

#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>

#include "base/os.h"

namespace underseer::cli {

Result<int> demo(const Options& options) {
    std::error_code error;
    const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
    if (error) return fail(os_error("finding this program", error.value()));
    // bin/underseer and share/underseer/demo.py have one prefix, wherever that is.
    const auto script = self.parent_path().parent_path() / "share/underseer/demo.py";
    if (::access(script.c_str(), F_OK) != 0) {
        return fail(Code::not_found,
                    fmt::format("the demo is not installed ({} is not there); in a source tree: "
                                "./dev run --demo",
                                script.native()));
    }
    std::string path = script, program = self, once = "--once";
    char* words[] = {path.data(), program.data(), options.once ? once.data() : nullptr, nullptr};
    ::execv(path.c_str(), words);
    return fail(os_error("starting " + path + " (apt install python3)"));
}

}  // namespace underseer::cli
