#include "hypervisor/libvirt.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

#include <cstdlib>

#include "base/limits.h"

namespace underseer::hypervisor {

namespace {

// virDomainState (libvirt 9.0: include/libvirt/libvirt-domain.h), in QEMU's words.
std::string_view state_text(int state) {
    switch (state) {
        case VIR_DOMAIN_RUNNING:
        case VIR_DOMAIN_BLOCKED:
            return "running";
        case VIR_DOMAIN_PAUSED:
            return "paused";
        case VIR_DOMAIN_SHUTDOWN:
            return "shutdown";
        case VIR_DOMAIN_CRASHED:
            return "guest-panicked";
        case VIR_DOMAIN_PMSUSPENDED:
            return "suspended";
        default:
            return "";
    }
}

void say_nothing(void*, virErrorPtr) {}

}  // namespace

struct Libvirt::Library {
    void* handle = nullptr;
    virConnectPtr connection = nullptr;
    decltype(&::virConnectOpenReadOnly) open = nullptr;
    decltype(&::virConnectClose) close = nullptr;
    decltype(&::virConnectListAllDomains) list = nullptr;
    decltype(&::virDomainGetXMLDesc) xml = nullptr;
    decltype(&::virDomainGetState) state = nullptr;
    decltype(&::virDomainFree) free_domain = nullptr;
    decltype(&::virDomainLookupByUUIDString) look_up = nullptr;
    decltype(&::virDomainSuspend) suspend = nullptr;
    decltype(&::virDomainResume) resume = nullptr;
    decltype(&::virDomainDestroy) destroy = nullptr;
    decltype(&::virGetLastErrorMessage) error = nullptr;
    decltype(&::virSetErrorFunc) set_error_function = nullptr;

    ~Library() {
        if (connection != nullptr) close(connection);
        // The library stays loaded: it leaves thread-local data behind.
    }

    template <typename Function>
    bool load(Function& function, const char* name) {
        function = reinterpret_cast<Function>(::dlsym(handle, name));
        return function != nullptr;
    }
};

Libvirt::Libvirt(std::unique_ptr<Library> library) : library_(std::move(library)) {}
Libvirt::Libvirt(Libvirt&&) noexcept = default;
Libvirt::~Libvirt() = default;

void Libvirt::abandon() {
    library_->connection = nullptr;
}

Result<Libvirt> Libvirt::connect(const std::string& uri, Access access) {
    auto library = std::make_unique<Library>();
    library->handle = ::dlopen("libvirt.so.0", RTLD_NOW | RTLD_LOCAL);
    if (library->handle == nullptr) {
        return fail(Code::not_found,
                    "libvirt's client library is not installed (the package libvirt0)");
    }
    const char* open = access == Access::control ? "virConnectOpen" : "virConnectOpenReadOnly";
    const bool complete = library->load(library->open, open) &&
                          library->load(library->look_up, "virDomainLookupByUUIDString") &&
                          library->load(library->suspend, "virDomainSuspend") &&
                          library->load(library->resume, "virDomainResume") &&
                          library->load(library->destroy, "virDomainDestroy") &&
                          library->load(library->close, "virConnectClose") &&
                          library->load(library->list, "virConnectListAllDomains") &&
                          library->load(library->xml, "virDomainGetXMLDesc") &&
                          library->load(library->state, "virDomainGetState") &&
                          library->load(library->free_domain, "virDomainFree") &&
                          library->load(library->error, "virGetLastErrorMessage") &&
                          library->load(library->set_error_function, "virSetErrorFunc");
    if (!complete) return fail(Code::unsupported, "libvirt.so.0 lacks functions of libvirt 1.0");
    library->set_error_function(nullptr, say_nothing);  // it would print to standard error
    library->connection = library->open(uri.c_str());
    if (library->connection == nullptr) {
        return fail(Code::not_found,
                    fmt::format("libvirt at {} cannot be reached: {}", uri, library->error()));
    }
    return Libvirt(std::move(library));
}

Result<std::vector<ManagerFacts>> Libvirt::domains() {
    virDomainPtr* found = nullptr;
    const int count = library_->list(library_->connection, &found, VIR_CONNECT_LIST_DOMAINS_ACTIVE);
    if (count < 0) {
        return fail(Code::unavailable,
                    fmt::format("libvirt does not list its domains: {}", library_->error()));
    }
    std::vector<ManagerFacts> all;
    Result<void> done;
    for (int i = 0; i < count; ++i) {
        if (done.has_value() && all.size() >= limits::kMaxDomains) {
            done = fail(Code::limit, fmt::format("libvirt runs {} domains; at most {} are taken",
                                                 count, limits::kMaxDomains));
        }
        char* xml = done.has_value() ? library_->xml(found[i], 0) : nullptr;
        if (xml != nullptr) {  // else it has just ended
            auto facts = parse_domain_xml(xml);
            int state = 0, reason = 0;
            if (facts.has_value()) {
                if (library_->state(found[i], &state, &reason, 0) == 0) {
                    facts->state = state_text(state);
                }
                all.push_back(std::move(*facts));
            }
        }
        std::free(xml);
        library_->free_domain(found[i]);
    }
    std::free(found);
    TRY(std::move(done));
    return all;
}

Result<std::string> Libvirt::act(const std::string& uuid, event::Action action, bool dry_run) {
    const std::unique_ptr<virDomain, decltype(&::virDomainFree)> domain(
        library_->look_up(library_->connection, uuid.c_str()), library_->free_domain);
    if (domain == nullptr) {
        return fail(Code::not_found,
                    fmt::format("libvirt knows no domain {}: {}", uuid, library_->error()));
    }
    const auto state = [&] {
        int now = 0, reason = 0;
        return library_->state(domain.get(), &now, &reason, 0) == 0 ? state_text(now) : "";
    };
    const std::string before(state());
    const auto tell = [&](std::string_view done, int (*order)(virDomainPtr),
                          std::string_view after) -> Result<std::string> {
        if (dry_run) return fmt::format("would be {}: it is {}", done, before);
        if (before == after) return fmt::format("it was {} already", after);
        if (order(domain.get()) != 0) {
            return fail(Code::unavailable, fmt::format("libvirt refuses: {}", library_->error()));
        }
        return std::string(done);
    };
    switch (action) {
        case event::Action::pause:
            return tell("paused", library_->suspend, "paused");
        case event::Action::resume:
            return tell("resumed", library_->resume, "running");
        case event::Action::kill:
            return tell("ended", library_->destroy, "shutdown");
        case event::Action::isolate:
        case event::Action::reconnect:
            break;
        case event::Action::capture:
        case event::Action::dump:
        case event::Action::run:
            return fail(Code::invalid_argument, "there is no such action");
    }
    return fail(Code::unsupported,
                fmt::format("libvirt keeps the links of its domains: virsh domif-setlink {} "
                            "INTERFACE {} (virsh domiflist {} lists them)",
                            uuid, action == event::Action::isolate ? "down" : "up", uuid));
}

}  // namespace underseer::hypervisor
