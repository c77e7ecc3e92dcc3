#include "hypervisor/command_line.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include "json/value.h"

namespace underseer::hypervisor {

namespace {

constexpr std::uint64_t kMiB = 1u << 20;
constexpr std::size_t kMaxOptions = 4096;  // a long libvirt command line has some hundred

// "a,b=1,c=x,,y": QEMU's key=value list; a doubled comma is a comma. The first item without '='
// has the key "".
std::map<std::string, std::string> parse_list(std::string_view text) {
    std::map<std::string, std::string> items;
    std::string item;
    const auto finish = [&] {
        const std::size_t equals = item.find('=');
        if (equals == std::string::npos) {
            items.emplace(items.empty() ? "" : item, items.empty() ? item : "on");
        } else {
            items.emplace(item.substr(0, equals), item.substr(equals + 1));
        }
        item.clear();
    };
    for (std::size_t i = 0; i < text.size() && items.size() < kMaxOptions; ++i) {
        if (text[i] != ',') {
            item += text[i];
        } else if (i + 1 < text.size() && text[i + 1] == ',') {
            item += ',';
            ++i;
        } else {
            finish();
        }
    }
    finish();
    return items;
}

// The same of what is given as JSON, which libvirt does for -object since QEMU 6.0: an object of
// texts, numbers and truth values. Nothing when it is no JSON.
std::optional<std::map<std::string, std::string>> parse_json_object(std::string_view text) {
    if (!text.starts_with('{')) return std::nullopt;
    const auto object = json::Value::parse(text);
    if (!object.has_value()) return std::nullopt;
    std::map<std::string, std::string> items;
    const auto members = object->members();
    if (!members.has_value()) return std::nullopt;
    for (const auto& [key, value] : *members) {
        if (const auto word = value.as_string(); word.has_value()) {
            items[key] = *word;
        } else if (const auto flag = value.as_bool(); flag.has_value()) {
            items[key] = *flag ? "on" : "off";
        } else if (const auto number = value.as_uint(); number.has_value()) {
            items[key] = std::to_string(*number);
        }
    }
    return items;
}

std::string value_of(const std::map<std::string, std::string>& items, std::string_view key) {
    const auto found = items.find(std::string(key));
    return found == items.end() ? std::string() : found->second;
}

bool is_on(std::string_view value) {
    return value == "on" || value == "yes" || value == "true";
}

class CommandLine {
  public:
    CommandLine(const std::vector<std::string>& arguments, Vm& vm) : vm_(vm) {
        vm_.machine = "pc";  // QEMU's default on x86
        vm_.accelerator = "tcg";
        vm_.memory_bytes = 128 * kMiB;
        for (std::size_t i = 1; i < arguments.size(); ++i) {
            std::string_view option = arguments[i];
            if (option.size() < 2 || option[0] != '-') continue;
            option.remove_prefix(option.starts_with("--") ? 2 : 1);
            const bool has_value = i + 1 < arguments.size();
            if (apply_flag(option)) continue;
            if (has_value && apply_value(option, arguments[i + 1])) ++i;
        }
        finish();
    }

  private:
    bool apply_flag(std::string_view option) {
        if (option == "enable-kvm") {
            vm_.accelerator = "kvm";
            return true;
        }
        return option == "S" || option == "nographic" || option == "daemonize";
    }

    bool apply_value(std::string_view option, const std::string& value) {
        const auto object = parse_json_object(value);
        const auto items = object ? *object : parse_list(value);
        if (option == "name") {
            const std::string guest = value_of(items, "guest");
            vm_.name = guest.empty() ? value_of(items, "") : guest;
        } else if (option == "uuid") {
            vm_.uuid = value;
        } else if (option == "machine" || option == "M") {
            apply_machine(items);
        } else if (option == "accel") {
            vm_.accelerator = value_of(items, "");
        } else if (option == "m") {
            const std::string size = value_of(items, "size");
            set_memory(size.empty() ? value_of(items, "") : size);
        } else if (option == "object") {
            apply_object(items);
        } else if (option == "numa") {
            const std::string backend = value_of(items, "memdev");
            if (!backend.empty()) node_backends_.push_back(backend);
        } else if (option == "qmp") {
            if (value.starts_with("unix:")) vm_.qmp_socket = value_of(items, "").substr(5);
        } else if (option == "chardev") {
            if (value_of(items, "") == "socket")
                sockets_[value_of(items, "id")] = value_of(items, "path");
        } else if (option == "mon") {
            if (value_of(items, "mode") != "control") return true;
            monitor_ = value_of(items, "chardev");
            // The name that libvirt gives to its own (src/qemu/qemu_command.c).
            if (monitor_ == "charmonitor") vm_.managed_by = "libvirt";
        } else if (option == "drive" || option == "blockdev") {
            apply_disk(items);
        } else if (option == "hda") {
            if (vm_.image.empty()) vm_.image = value;
        } else if (option == "mem-path") {
            mem_path_ = value;
        } else {
            return false;
        }
        return true;
    }

    void apply_machine(const std::map<std::string, std::string>& items) {
        const std::string type = value_of(items, "type");
        vm_.machine = chipset(type.empty() ? value_of(items, "") : type);
        if (const std::string accel = value_of(items, "accel"); !accel.empty()) {
            vm_.accelerator = accel;
        }
        memory_backend_ = value_of(items, "memory-backend");
        if (!value_of(items, "confidential-guest-support").empty() ||
            !value_of(items, "memory-encryption").empty()) {
            vm_.not_introspectable = "a confidential VM: its memory is encrypted";
        }
        if (const auto limit = parse_memory_size(value_of(items, "max-ram-below-4g"), 1);
            limit.has_value()) {
            vm_.max_ram_below_4g = *limit;
        }
    }

    // The first that is no firmware and no CD. A format on top of a file names only the file's
    // node.
    void apply_disk(const std::map<std::string, std::string>& items) {
        std::string path;
        for (const char* key : {"filename", "file.filename", "file"}) {
            if (path.empty()) path = value_of(items, key);
        }
        const bool is_path = path.find('/') != std::string::npos;
        const bool is_other = value_of(items, "if") == "pflash" ||
                              value_of(items, "media") == "cdrom" || path.ends_with(".iso") ||
                              value_of(items, "node-name").find("pflash") != std::string::npos;
        if (vm_.image.empty() && is_path && !is_other) vm_.image = path;
    }

    void apply_object(const std::map<std::string, std::string>& items) {
        const std::string type = value_of(items, "");
        const std::string qom = value_of(items, "qom-type");
        const std::string& kind = qom.empty() ? type : qom;
        if (!kind.starts_with("memory-backend-") || backends_.size() > 1024) return;
        RamBlock block;
        block.id = value_of(items, "id");
        const auto size = parse_memory_size(value_of(items, "size"), 1);
        block.size_bytes = size.has_value() ? *size : 0;
        // A memfd is shared unless told otherwise (backends/hostmem-memfd.c); the others are not.
        const std::string share = value_of(items, "share");
        block.shared = share.empty() ? kind == "memory-backend-memfd" : is_on(share);
        block.path = value_of(items, "mem-path");
        backends_.push_back(std::move(block));
    }

    void set_memory(std::string_view text) {
        const auto size = parse_memory_size(text, kMiB);
        if (size.has_value()) vm_.memory_bytes = *size;
    }

    void finish() {
        const auto take = [&](const std::string& id) {
            const auto found = std::ranges::find(backends_, id, &RamBlock::id);
            if (found != backends_.end()) vm_.ram_blocks.push_back(*found);
        };
        if (!node_backends_.empty()) {
            for (const std::string& id : node_backends_) take(id);
        } else if (!memory_backend_.empty()) {
            take(memory_backend_);
        }
        if (vm_.ram_blocks.empty()) {
            vm_.ram_blocks.push_back({"ram", vm_.memory_bytes, false, mem_path_});
        }
        if (vm_.qmp_socket.empty() && !monitor_.empty()) vm_.qmp_socket = sockets_[monitor_];
    }

    Vm& vm_;
    std::vector<RamBlock> backends_;
    std::vector<std::string> node_backends_;
    std::string memory_backend_, mem_path_, monitor_;
    std::map<std::string, std::string> sockets_;
};

}  // namespace

std::string chipset(std::string_view type) {
    if (type.find("q35") != std::string_view::npos) return "q35";
    if (type.starts_with("microvm")) return "microvm";
    if (type == "pc" || type.starts_with("pc-i440fx") || type == "ubuntu") return "pc";
    return std::string(type);
}

Result<std::uint64_t> parse_memory_size(std::string_view text, std::uint64_t default_unit) {
    std::uint64_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc{}) {
        return fail(Code::malformed, fmt::format("'{}' is no memory size", text));
    }
    std::uint64_t unit = default_unit;
    if (end != text.data() + text.size()) {
        switch (*end | 0x20) {
            case 'b':
                unit = 1;
                break;
            case 'k':
                unit = 1u << 10;
                break;
            case 'm':
                unit = kMiB;
                break;
            case 'g':
                unit = 1u << 30;
                break;
            case 't':
                unit = 1ull << 40;
                break;
            default:
                return fail(Code::malformed, fmt::format("'{}' is no memory size", text));
        }
    }
    std::uint64_t bytes = 0;
    if (__builtin_mul_overflow(number, unit, &bytes)) {
        return fail(Code::malformed, fmt::format("'{}' is more memory than there can be", text));
    }
    return bytes;
}

void apply_command_line(const std::vector<std::string>& arguments, Vm& vm) {
    CommandLine(arguments, vm);
}

}  // namespace underseer::hypervisor
