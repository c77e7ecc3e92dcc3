#include "event_log/signed_lines.h"

#include <fmt/format.h>

#include "json/writer.h"

namespace underseer::event_log {
namespace {

std::string in_domain(std::string_view domain, std::string_view lines) {
    std::string message(domain);
    message += '\0';
    return message.append(lines);
}

// Where the last line begins; 0 when there is none before it.
std::size_t last_line(std::string_view text) {
    if (!text.ends_with('\n') || text.size() < 2) return 0;
    const std::size_t before = text.rfind('\n', text.size() - 2);
    return before == text.npos ? 0 : before + 1;
}

Result<crypto::Signature> signature_in(std::string_view line) {
    const auto value = TRY(json::Value::parse(line));
    const std::string digits = TRY(TRY(value.at("signature")).as_string());
    crypto::Signature signature;
    TRY(crypto::parse_hex(digits, signature));
    return signature;
}

std::string signature_line(const crypto::PublicKey& key, const crypto::Signature& signature) {
    std::string line;
    json::Writer writer(&line);
    writer.begin_object().member("key", crypto::key_id(key));
    writer.member("signature", crypto::to_hex(signature)).end_object();
    return line + '\n';
}

}  // namespace

Result<std::string> sign_lines(std::string lines, std::string_view domain,
                               const crypto::SigningKey& key) {
    const std::string message = in_domain(domain, lines);
    const crypto::Signature signature = TRY(key.sign(as_bytes(message)));
    return lines + signature_line(key.public_key(), signature);
}

Result<std::vector<json::Value>> signed_lines(std::string_view text, std::string_view domain,
                                              const crypto::PublicKey& key) {
    const std::size_t end = last_line(text);
    const auto signature = signature_in(text.substr(end));
    const std::string message = in_domain(domain, text.substr(0, end));
    // That line is not signed itself: it has one form.
    if (!signature.has_value() || text.substr(end) != signature_line(key, *signature) ||
        !crypto::is_signed_by(key, as_bytes(message), *signature)) {
        return fail(Code::permission, "it is not signed by key " + crypto::key_id(key));
    }
    std::vector<json::Value> lines;
    for (std::size_t begin = 0; begin < end;) {
        const std::size_t next = text.find('\n', begin) + 1;
        lines.push_back(TRY(json::Value::parse(text.substr(begin, next - 1 - begin))));
        begin = next;
    }
    return lines;
}

}  // namespace underseer::event_log
