#include "sigma/yaml.h"

#include <fmt/format.h>
#include <yaml.h>

#include <algorithm>

#include "base/limits.h"

namespace underseer::sigma {

namespace {

class Reader {
  public:
    Reader(std::string_view text, std::uint32_t& line) : line_(line) {
        ready_ = yaml_parser_initialize(&parser_) == 1;
        if (!ready_) return;
        yaml_parser_set_input_string(&parser_, reinterpret_cast<const unsigned char*>(text.data()),
                                     text.size());
    }
    Reader(const Reader&) = delete;
    ~Reader() {
        if (ready_) yaml_parser_delete(&parser_);
    }

    Result<Node> read() {
        if (!ready_) return fail(Code::unavailable, "libyaml cannot be started");
        TRY(next());  // the stream begins
        TRY(next());
        if (event_.type() == YAML_STREAM_END_EVENT) return refuse("the file is empty");
        TRY(next());
        Node top = TRY(node(0));
        TRY(next());  // the document ends
        TRY(next());
        if (event_.type() != YAML_STREAM_END_EVENT) {
            return refuse(
                "a second document ('---') begins: one file is one rule; collections and "
                "correlations are not understood");
        }
        return top;
    }

  private:
    class Event {
      public:
        Event() = default;
        Event(const Event&) = delete;
        ~Event() { clear(); }
        void clear() {
            if (held_) yaml_event_delete(&raw_);
            held_ = false;
        }
        bool fill(yaml_parser_t& parser) {
            clear();
            held_ = yaml_parser_parse(&parser, &raw_) == 1;
            return held_;
        }
        yaml_event_type_t type() const { return raw_.type; }
        const yaml_event_t& raw() const { return raw_; }

      private:
        yaml_event_t raw_{};
        bool held_ = false;
    };

    Unexpected refuse(std::string what) {
        line_ = at();
        return fail(Code::malformed, std::move(what));
    }
    std::uint32_t at() const {
        return static_cast<std::uint32_t>(event_.raw().start_mark.line + 1);
    }

    Result<void> next() {
        if (event_.fill(parser_)) return {};
        line_ = static_cast<std::uint32_t>(
            std::max(parser_.problem_mark.line, parser_.context_mark.line) + 1);
        return fail(
            Code::malformed,
            fmt::format("it is no YAML: {}{}{}", parser_.context == nullptr ? "" : parser_.context,
                        parser_.context == nullptr ? "" : ", ",
                        parser_.problem == nullptr ? "unknown" : parser_.problem));
    }

    static std::string text_of(const yaml_char_t* text, std::size_t bytes) {
        return {reinterpret_cast<const char*>(text), bytes};
    }

    // The node that the present event begins.
    Result<Node> node(std::size_t depth) {
        if (depth > limits::kMaxSigmaDepth) return refuse("it nests deeper than any rule");
        if (++nodes_ > limits::kMaxSigmaValues) return refuse("it has more values than any rule");
        Node made{.line = at()};
        switch (event_.type()) {
            case YAML_ALIAS_EVENT:
                return refuse("an alias ('*name') stands here: write out what it stands for");
            case YAML_SCALAR_EVENT: {
                const auto& scalar = event_.raw().data.scalar;
                TRY(no_tricks(scalar.anchor, scalar.tag));
                made.text = text_of(scalar.value, scalar.length);
                made.plain = scalar.style == YAML_PLAIN_SCALAR_STYLE;
                return made;
            }
            case YAML_SEQUENCE_START_EVENT: {
                const auto& start = event_.raw().data.sequence_start;
                TRY(no_tricks(start.anchor, start.tag));
                made.kind = Node::Kind::list;
                for (;;) {
                    TRY(next());
                    if (event_.type() == YAML_SEQUENCE_END_EVENT) return made;
                    made.items.push_back(TRY(node(depth + 1)));
                }
            }
            case YAML_MAPPING_START_EVENT: {
                const auto& start = event_.raw().data.mapping_start;
                TRY(no_tricks(start.anchor, start.tag));
                made.kind = Node::Kind::map;
                for (;;) {
                    TRY(next());
                    if (event_.type() == YAML_MAPPING_END_EVENT) return made;
                    TRY(entry(made, depth));
                }
            }
            default:
                return refuse("a value is missing here");
        }
    }

    Result<void> entry(Node& map, std::size_t depth) {
        if (event_.type() != YAML_SCALAR_EVENT)
            return refuse("a key is a word, and no list or map");
        const auto& scalar = event_.raw().data.scalar;
        std::string key = text_of(scalar.value, scalar.length);
        const std::uint32_t key_line = at();
        if (std::ranges::find(map.keys, key) != map.keys.end()) {
            return refuse(fmt::format("the key '{}' is there a second time", key));
        }
        TRY(next());
        Node value = TRY(node(depth + 1));
        value.line = key_line;
        map.keys.push_back(std::move(key));
        map.items.push_back(std::move(value));
        return {};
    }

    Result<void> no_tricks(const yaml_char_t* anchor, const yaml_char_t* tag) {
        if (anchor != nullptr) return refuse("an anchor ('&name') stands here: rules need none");
        if (tag != nullptr) return refuse("a tag ('!name') stands here: rules need none");
        return {};
    }

    std::uint32_t& line_;
    yaml_parser_t parser_{};
    Event event_;
    bool ready_ = false;
    std::size_t nodes_ = 0;
};

}  // namespace

bool Node::is_null() const {
    return kind == Kind::scalar && plain && (text.empty() || text == "null" || text == "~");
}

const Node* Node::find(std::string_view key) const {
    const auto found = std::ranges::find(keys, key);
    return found == keys.end() ? nullptr : &items[static_cast<std::size_t>(found - keys.begin())];
}

Result<Node> parse_yaml(std::string_view text, std::uint32_t& line) {
    line = 0;
    if (text.size() > limits::kMaxSigmaFileBytes) {
        return fail(Code::limit, fmt::format("it has more than {} KiB: no rule is as long",
                                             limits::kMaxSigmaFileBytes >> 10));
    }
    return Reader(text, line).read();
}

}  // namespace underseer::sigma
