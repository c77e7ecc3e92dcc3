#include "event/wire.h"

namespace underseer::event {

Result<void> Decoder::fill_special(std::string& text) {
    const auto size = TRY(cursor_.read<std::uint32_t>());
    text = as_text(TRY(cursor_.read_bytes(size)));
    return {};
}

}  // namespace underseer::event
