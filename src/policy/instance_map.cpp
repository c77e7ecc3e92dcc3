#include "policy/instance_map.h"

#include <fmt/format.h>
#include <pwd.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "policy/toml_section.h"

namespace underseer::policy {

namespace {

Result<uid_t> parse_user(const std::string& name) {
    uid_t user = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), user);
    if (error == std::errc{} && end == name.data() + name.size()) return user;
    const passwd* entry = ::getpwnam(name.c_str());
    if (entry == nullptr) return fail(Code::malformed, "there is no user " + name);
    return entry->pw_uid;
}

// As QEMU and libvirt print it: 8-4-4-4-12 lower-case hexadecimal digits.
Result<void> into_uuid(const toml::node& node, std::string* target) {
    std::string text = TRY(text_of(node));
    for (char& c : text) {
        if (c >= 'A' && c <= 'F') c = static_cast<char>(c - 'A' + 'a');
    }
    bool well = text.size() == 36;
    for (std::size_t i = 0; well && i < text.size(); ++i) {
        const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
        const bool digit = (text[i] >= '0' && text[i] <= '9') || (text[i] >= 'a' && text[i] <= 'f');
        well = dash ? text[i] == '-' : digit;
    }
    if (!well) return wants("a UUID: \"6f1a2b3c-0000-4000-8000-000000000001\"");
    *target = std::move(text);
    return {};
}

Result<std::string> label_of(std::string_view text) {
    if (text.empty()) return wants("labels that are not empty");
    return std::string(text);
}

Result<InstanceEntry> read_entry(const toml::table& table, std::string_view file) {
    InstanceEntry entry;
    entry.place = fmt::format("{}:{}", file, table.source().begin.line);
    Section section(&table, "instance", file);
    TRY(section.take("uuid", [&](const toml::node& node) { return into_uuid(node, &entry.uuid); }));
    TRY(section.take("libvirt", into_text(&entry.libvirt)));
    TRY(section.take("name", into_text(&entry.name)));
    TRY(section.take("user", [&](const toml::node& node) -> Result<void> {
        entry.user = TRY(parse_user(TRY(text_of(node))));
        return {};
    }));
    TRY(section.take("tenant", into_text(&entry.tenant)));
    TRY(section.take("app_instance_id", into_text(&entry.app_instance_id)));
    TRY(section.take("app_d_id", into_text(&entry.app_d_id)));
    TRY(section.take("labels", into_list(&entry.labels, label_of)));
    TRY(section.end());
    const int named = !entry.uuid.empty() + !entry.libvirt.empty() + !entry.name.empty();
    if (named != 1) {
        return fail(Code::malformed,
                    section.at(table.source(), "uuid") +
                        (named == 0 ? "is missing; an instance is named by one of uuid, libvirt "
                                      "and name"
                                    : "one of uuid, libvirt and name is enough; more could "
                                      "contradict each other"));
    }
    if (entry.tenant.empty() && entry.app_instance_id.empty() && entry.app_d_id.empty() &&
        entry.labels.empty()) {
        return fail(Code::malformed, section.at(table.source(), "tenant") +
                                         "is missing; an instance has at least one of tenant, "
                                         "app_instance_id, app_d_id and labels");
    }
    return entry;
}

bool same_key(const InstanceEntry& a, const InstanceEntry& b) {
    return a.uuid == b.uuid && a.libvirt == b.libvirt && a.name == b.name && a.user == b.user;
}

bool accepts(const InstanceEntry& entry, const VmTraits& vm) {
    if (entry.user) return *entry.user == vm.user;
    return vm.user == 0 || !vm.libvirt_name.empty();
}

}  // namespace

Result<InstanceMap> InstanceMap::parse(std::string_view text, std::string path) {
    const toml::table file = TRY(parse_toml(text, path));
    InstanceMap map;
    Section root(&file, "", path);
    // Errors of an entry have their place already; take() would put this one before it.
    Result<void> read;
    TRY(root.take("instance", [&](const toml::node& node) -> Result<void> {
        const toml::array* list = node.as_array();
        if (list == nullptr) return wants("[[instance]] sections");
        for (const toml::node& item : *list) {
            const toml::table* table = item.as_table();
            if (table == nullptr) return wants("[[instance]] sections");
            auto entry = read_entry(*table, path);
            if (!entry.has_value()) {
                read = fail(std::move(entry).error());
                return {};
            }
            const auto twin = std::ranges::find_if(
                map.entries_, [&](const InstanceEntry& other) { return same_key(*entry, other); });
            if (twin != map.entries_.end()) {
                read = fail(Code::malformed, fmt::format("{}: instance: names the same VM as {}",
                                                         entry->place, twin->place));
                return {};
            }
            map.entries_.push_back(std::move(*entry));
        }
        return {};
    }));
    TRY(std::move(read));
    TRY(root.end());
    return map;
}

Result<InstanceMap> InstanceMap::load(const std::string& path) {
    return parse(TRY(read_owned_file(path)), path);
}

template <typename Accept>
const InstanceEntry* InstanceMap::first(const VmTraits& vm, Accept accept) const {
    const std::array keys{std::pair(&InstanceEntry::uuid, &vm.uuid),
                          std::pair(&InstanceEntry::libvirt, &vm.libvirt_name),
                          std::pair(&InstanceEntry::name, &vm.name)};
    for (const auto& [key, value] : keys) {
        if (value->empty()) continue;
        const auto found = std::ranges::find_if(entries_, [&](const InstanceEntry& entry) {
            return entry.*key == *value && accept(entry);
        });
        if (found != entries_.end()) return &*found;
    }
    return nullptr;
}

const InstanceEntry* InstanceMap::find(const VmTraits& vm) const {
    return first(vm, [&](const InstanceEntry& entry) { return accepts(entry, vm); });
}

std::string InstanceMap::refused(const VmTraits& vm) const {
    if (find(vm) != nullptr) return "";
    const InstanceEntry* entry = first(vm, [](const InstanceEntry&) { return true; });
    if (entry == nullptr) return "";
    return fmt::format("{} names it, but it runs as user {}{}", entry->place, vm.user,
                       entry->user ? fmt::format(", not {}", *entry->user)
                                   : "; if that is right, add user to the entry");
}

}  // namespace underseer::policy
