// The program itself, run as a person runs it.
#pragma once

#include <fmt/format.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "base/os.h"
#include "base/result.h"

namespace underseer::testing {

// A directory of our own, gone at the end.
class Directory {
  public:
    Directory() : path_(std::filesystem::temp_directory_path() / "underseer-test-XXXXXX") {
        std::string name = path_;
        CHECK(::mkdtemp(name.data()) != nullptr);
        path_ = name;
    }
    ~Directory() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    std::string operator/(const std::string& name) const { return path_ / name; }
    std::size_t entries() const {
        return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(path_),
                                                      std::filesystem::directory_iterator()));
    }

  private:
    std::filesystem::path path_;
};

struct Ran {
    int status = 0;
    std::string out, err;
};
inline Ran run(const Directory& directory, const std::string& words) {
    const std::string out = directory / "out", err = directory / "err";
    const int status =
        std::system(fmt::format("'{}' {} > {} 2> {}", UNDERSEER_PROGRAM, words, out, err).c_str());
    Ran ran{WEXITSTATUS(status), read_file(out, 64u << 20).value(),
            read_file(err, 1u << 20).value()};
    std::filesystem::remove(out);
    std::filesystem::remove(err);
    return ran;
}

}  // namespace underseer::testing
