// Border: JSON that others write. Must hold: parsing ends within its depth and size, and what is
// accepted can be asked.
#include "json/value.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace underseer;
    const auto value = json::Value::parse({reinterpret_cast<const char*>(data), size});
    if (!value.has_value()) return 0;
    (void)value->find("a");
    (void)value->as_string();
    (void)value->as_uint();
    return 0;
}
