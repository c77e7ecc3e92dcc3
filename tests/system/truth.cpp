#include "truth.h"

#include <fmt/format.h>

#include <sstream>

namespace underseer::testing {

ByPid for_each_process(TestVm& vm, const std::string& command, bool threads) {
    // \2 begins a process, \3 ends its number: no byte of the kind is in what is read.
    const std::string pattern = threads ? "/proc/[0-9]*/task/[0-9]*" : "/proc/[0-9]*";
    const std::string output = vm.output_of(fmt::format(
        "for p in {}; do [ -d $p ] || continue; printf '\\002%s\\003' ${{p##*/}}; {}; done "
        "2>/dev/null | tr '\\000' '\\001'; true",
        pattern, command));
    ByPid result;
    std::size_t at = 0;
    while ((at = output.find('\2', at)) != std::string::npos) {
        const std::size_t middle = output.find('\3', at);
        const std::size_t end = output.find('\2', at + 1);
        if (middle == std::string::npos) break;
        const auto pid =
            static_cast<std::uint32_t>(std::stoul(output.substr(at + 1, middle - at - 1)));
        result[pid] = output.substr(middle + 1, end == std::string::npos ? end : end - middle - 1);
        at = middle;
    }
    return result;
}

std::vector<std::string> lines_of(const std::string& text) {
    std::vector<std::string> lines;
    std::istringstream stream(text);
    for (std::string line; std::getline(stream, line);) lines.push_back(line);
    return lines;
}

std::vector<std::string> words_of(const std::string& line) {
    std::vector<std::string> words;
    std::istringstream stream(line);
    for (std::string word; stream >> word;) words.push_back(word);
    return words;
}

}  // namespace underseer::testing
