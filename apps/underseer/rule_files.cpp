#include "rule_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "base/limits.h"
#include "base/os.h"

namespace underseer::cli {

namespace {

namespace fs = std::filesystem;

class Loader {
  public:
    Result<void> take(const fs::path& path) {
        std::error_code error;
        if (fs::is_directory(path, error)) return take_folder(path);
        if (fs::exists(path, error) && !fs::is_regular_file(path, error)) {
            return fail(Code::unsupported,
                        fmt::format("{} is neither a file of rules nor a folder", path.native()));
        }
        return take_file(path);
    }

    std::vector<scan::RuleFile> files;

  private:
    Result<void> take_folder(const fs::path& folder) {
        std::vector<fs::path> found;
        std::error_code error;
        for (fs::recursive_directory_iterator entry(folder, error), end; !error && entry != end;
             entry.increment(error)) {
            const fs::path extension = entry->path().extension();
            if (extension != ".yar" && extension != ".yara") continue;
            if (entry->is_regular_file(error)) found.push_back(entry->path());
        }
        if (error) {
            return fail(
                {Code::os, error.value(),
                 fmt::format("reading the folder {}: {}", folder.native(), error.message())});
        }
        if (found.empty()) {
            return fail(Code::not_found,
                        fmt::format("there is no *.yar or *.yara in {}", folder.native()));
        }
        std::ranges::sort(found);
        for (const fs::path& file : found) TRY(take_file(file));
        return {};
    }

    Result<void> take_file(const fs::path& path) {
        const std::string name = path.lexically_normal().native();
        if (const auto known = std::ranges::find(files, name, &scan::RuleFile::name);
            known != files.end()) {
            known->only_included = false;
            return {};
        }
        add(name, TRY(read(path)), /*only_included=*/false);
        return take_includes(path.lexically_normal());
    }

    Result<std::string> read(const fs::path& path) {
        auto text = TRY(read_file(path, limits::kMaxRuleBytes));
        bytes_ += text.size();
        if (bytes_ > limits::kMaxRuleBytes || files.size() >= limits::kMaxRuleFiles) {
            return fail(Code::limit,
                        fmt::format("the rules have more than {} MiB, or {} files",
                                    limits::kMaxRuleBytes >> 20, limits::kMaxRuleFiles));
        }
        return text;
    }

    void add(const std::string& name, std::string text, bool only_included) {
        names_.insert(name);
        files.push_back({name, std::move(text), only_included});
    }

    Result<void> take_includes(const fs::path& top) {
        std::error_code error;
        const fs::path folder =
            fs::canonical(top.has_parent_path() ? top.parent_path() : fs::path("."), error);
        if (error) return {};
        for (std::size_t i = files.size() - 1; i < files.size(); ++i) {
            for (const std::string& wanted : scan::find_includes(files[i].text)) {
                const std::string name = scan::included_name(files[i].name, wanted);
                if (name.empty() || names_.contains(name)) continue;
                const fs::path real = fs::canonical(name, error);
                if (error || !fs::is_regular_file(real, error)) continue;
                const auto [end, inside] = std::ranges::mismatch(folder, real);
                if (end != folder.end()) continue;
                add(name, TRY(read(real)), /*only_included=*/true);
            }
        }
        return {};
    }

    std::set<std::string> names_;
    std::size_t bytes_ = 0;
};

}  // namespace

Result<std::vector<scan::RuleFile>> load_rule_files(const std::vector<std::string>& paths) {
    Loader loader;
    for (const std::string& path : paths) TRY(loader.take(path));
    return std::move(loader.files);
}

}  // namespace underseer::cli
