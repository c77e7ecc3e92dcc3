// Text files whose last line signs the lines before it: `jq` reads them, and one key vouches for
// them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "crypto/signing.h"
#include "json/value.h"

namespace underseer::event_log {

// Lines of JSON, each with its '\n', and the line that signs them: {"key": .., "signature": ..}.
// `domain` keeps a signature over one kind of file from being one over another.
Result<std::string> sign_lines(std::string lines, std::string_view domain,
                               const crypto::SigningKey& key);

// The lines but for the last. Code::permission when `key` did not sign them: then nothing in them
// may be believed. Code::malformed when they are no JSON all the same.
Result<std::vector<json::Value>> signed_lines(std::string_view text, std::string_view domain,
                                              const crypto::PublicKey& key);

}  // namespace underseer::event_log
