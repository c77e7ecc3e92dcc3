#include "base/result.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace underseer {

std::string_view to_string(Code code) {
    switch (code) {
        case Code::malformed:
            return "malformed";
        case Code::not_found:
            return "not_found";
        case Code::unavailable:
            return "unavailable";
        case Code::limit:
            return "limit";
        case Code::os:
            return "os";
        case Code::permission:
            return "permission";
        case Code::unsupported:
            return "unsupported";
        case Code::ambiguous:
            return "ambiguous";
        case Code::invalid_argument:
            return "invalid_argument";
        case Code::gone:
            return "gone";
        case Code::not_linux:
            return "not_linux";
        case Code::unreadable:
            return "unreadable";
    }
    return "unknown";
}

Error&& Error::with_context(std::string_view what) && {
    message = std::string(what) + ": " + message;
    return std::move(*this);
}

std::string Error::to_text() const {
    if (os_errno == 0) return message;
    return message + ": " + std::strerror(os_errno);
}

Error os_error(std::string_view doing, int error_number) {
    const bool denied = error_number == EPERM || error_number == EACCES;
    const bool absent = error_number == ENOENT || error_number == ESRCH;
    const Code code = denied ? Code::permission : absent ? Code::not_found : Code::os;
    return Error{code, error_number, std::string(doing)};
}

Error os_error(std::string_view doing) {
    return os_error(doing, errno);
}

void check_failed(const char* condition, const char* file, int line) {
    std::fprintf(stderr, "underseer: internal error at %s:%d: CHECK(%s) failed\n", file, line,
                 condition);
    std::abort();
}

}  // namespace underseer
