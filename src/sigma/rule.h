// Sigma rules as they are matched: what is left of a rule's YAML when it is compiled. Made in a
// jail, kept and handed on in wire form.
//
// docs/sigma.md says which part of the Sigma specification (version 2.1) is understood.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "event/finding.h"

namespace re2 {
class RE2;
}

namespace underseer::sigma {

// What a rule is about: the category of its `logsource`.
enum class Category : std::uint8_t { process_creation, network_connection, driver_load };
constexpr Category last_enumerator(Category) {
    return Category::driver_load;
}
std::string_view to_string(Category category);
std::optional<Category> category_of(std::string_view name);

// What is known of an event.
enum class Field : std::uint8_t {
    image,
    command_line,
    current_directory,
    parent_image,
    parent_command_line,
    process_id,
    parent_process_id,
    user,
    comm,
    container_id,
    protocol,
    source_ip,
    source_port,
    destination_ip,
    destination_port,
    initiated,
    image_loaded,
    taints,
};
constexpr Field last_enumerator(Field) {
    return Field::taints;
}
inline constexpr std::size_t kFieldCount = static_cast<std::size_t>(Field::taints) + 1;

struct FieldInfo {
    Field field{};
    std::string_view name;  // as rules call it
    bool of_processes = false, of_connections = false, of_drivers = false;

    bool is_of(Category category) const;
};
std::span<const FieldInfo> all_fields();
std::string_view name_of(Field field);

// What one value of a rule is compared by.
struct Pattern {
    enum class Kind : std::uint8_t {
        text,    // `parts` in their order, with anything between two; one part: exactly that
        regex,   // parts[0], as RE2 has them, anywhere in the value
        cidr,    // parts[0]: an address in text, parts[1]: the length of the prefix
        number,  // parts[0] is what the field is compared with, parts[1] how: "<", "<=", ">", ">="
        field,   // the same as that field
        absent,  // there is no such thing
        present  // there is
    };
    friend constexpr Kind last_enumerator(Kind) { return Kind::present; }

    Kind kind = Kind::text;
    bool cased = false;  // of text and field; otherwise `parts` are in lower case
    std::vector<std::string> parts;
    Field other{};                            // of kind field
    std::shared_ptr<const re2::RE2> program;  // of kind regex, made by Matcher

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"kind", &Pattern::kind}, Field{"cased", &Pattern::cased},
                          Field{"parts", &Pattern::parts}, Field{"other", &Pattern::other}};
    }
};

// One value of a list: holds when one of these does (some modifiers make several of one).
struct Choice {
    std::vector<Pattern> any;

    static constexpr auto fields() { return std::tuple{event::Field{"any", &Choice::any}}; }
};

// `Field|modifier: values`
struct Item {
    Field field{};
    bool all = false;      // every value must hold, not one of them
    bool negated = false;  // neq
    std::vector<Choice> values;

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"field", &Item::field}, Field{"all", &Item::all},
                          Field{"negated", &Item::negated}, Field{"values", &Item::values}};
    }
};

// A map of a selection: all of it must hold.
struct Group {
    std::vector<Item> items;

    static constexpr auto fields() { return std::tuple{event::Field{"items", &Group::items}}; }
};

// What a condition calls by name: one of its maps must hold.
struct Selection {
    std::string name;
    std::vector<Group> groups;

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"name", &Selection::name}, Field{"groups", &Selection::groups}};
    }
};

// The condition, as steps over a stack of truths.
struct Step {
    enum class Kind : std::uint8_t {
        selection,  // puts that of selection `number` there
        any,        // takes `number` of them away, and puts there whether one holds
        all,        // whether all do
        negation
    };
    friend constexpr Kind last_enumerator(Kind) { return Kind::negation; }

    Kind kind = Kind::selection;
    std::uint32_t number = 0;

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"kind", &Step::kind}, Field{"number", &Step::number}};
    }
};

struct Rule {
    std::string
        name;  // "sigma:" and the file's name without .yml: findings and policies call it so
    std::string file;
    std::string title, id, description, author;
    Category category{};
    event::Severity severity{};  // its `level`
    std::string technique;       // ATT&CK, of its tags: "T1059.004"; "" when they name none
    std::vector<std::string> false_positives;
    std::vector<Selection> selections;
    std::vector<Step> condition;

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"name", &Rule::name},
                          Field{"file", &Rule::file},
                          Field{"title", &Rule::title},
                          Field{"id", &Rule::id},
                          Field{"description", &Rule::description},
                          Field{"author", &Rule::author},
                          Field{"category", &Rule::category},
                          Field{"severity", &Rule::severity},
                          Field{"technique", &Rule::technique},
                          Field{"false_positives", &Rule::false_positives},
                          Field{"selections", &Rule::selections},
                          Field{"condition", &Rule::condition}};
    }
};
inline constexpr std::string_view kRulePrefix = "sigma:";

}  // namespace underseer::sigma
