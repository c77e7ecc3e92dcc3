#include "guest_linux/bpf_links.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "guest_linux/hooks.h"

namespace underseer::guest_linux {

namespace {

constexpr std::size_t kToldFunctions = 4;  // of a link that is at many

// Each type of link is a struct of its own around struct bpf_link (Linux 5.8 to 7.2, where the BPF
// subsystem of each has its sources). One that this does not know is listed without a target.
class LinkReader {
  public:
    LinkReader(Kernel& kernel, BpfTargets& targets, GuestVirt link)
        : kernel_(kernel), targets_(targets), link_(link) {}

    Result<BpfLinkRecord> read() {
        const Field id = kernel_.field("bpf_link", "id"), type = kernel_.field("bpf_link", "type"),
                    program = kernel_.field("bpf_link", "prog");
        BpfLinkRecord record;
        record.link.address = link_.value;
        record.link.id = static_cast<std::uint32_t>(TRY(kernel_.read(link_, id)));
        record.link.type =
            bpf_word(kernel_, "bpf_link_type", "BPF_LINK_TYPE_", TRY(kernel_.read(link_, type)));
        program_ = record.program = TRY(kernel_.read_pointer(link_, program));
        BpfTarget target = TRY(target_of(record.link.type));
        record.link.kind = std::move(target.kind);
        record.link.target = std::move(target.text);
        record.at = target.at;
        return record;
    }

  private:
    Result<BpfTarget> target_of(const std::string& type) {
        if (type == "raw_tracepoint") return raw_tracepoint();
        if (type == "tracing") return tracing();
        if (type == "cgroup") return cgroup();
        if (type == "iter") return iterator();
        if (type == "netns") return net_namespace();
        if (type == "xdp") return xdp();
        if (type == "tcx") return device("tcx", "tcx_link");
        if (type == "netkit") return device("netkit", "netkit_link");
        if (type == "perf_event") return perf_event();
        if (type == "kprobe_multi") return functions();
        if (type == "uprobe_multi") return user_functions();
        if (type == "netfilter") return netfilter();
        if (type == "struct_ops") return map(type, "bpf_struct_ops_link");
        if (type == "sockmap") return map(type, "sockmap_link");
        return BpfTarget{.kind = type};
    }

    // Finds the struct that the link is a part of.
    Result<void> inside(std::string_view structure) {
        const Field part = kernel_.field(structure, {"link.link", "link"});
        TRY(kernel_.require({part}));
        outer_ = link_ - part.offset;
        return {};
    }
    Result<GuestVirt> member(std::string_view structure, std::string_view name) {
        TRY(inside(structure));
        return kernel_.read_pointer(outer_, kernel_.field(structure, name));
    }
    // How it is attached: in each type's own struct, in that of all since 6.18.
    Result<std::string> attach_type(std::string_view structure, std::string_view prefix) {
        Field type = kernel_.field("bpf_link", "attach_type");
        GuestVirt at = link_;
        if (!type.known()) {
            type = kernel_.field(structure, {"attach_type", "type", "location"});
            at = outer_;
        }
        return bpf_word(kernel_, "bpf_attach_type", prefix, TRY(kernel_.read(at, type)));
    }

    Result<BpfTarget> raw_tracepoint() {
        const Field point = kernel_.field("bpf_raw_event_map", "tp"),
                    name = kernel_.field("tracepoint", "name");
        const GuestVirt event = TRY(member("bpf_raw_tp_link", "btp"));
        const GuestVirt at = TRY(kernel_.read_pointer(event, point));
        std::string text = TRY(targets_.text(at, name));
        return BpfTarget{"raw_tracepoint", std::move(text), at};
    }

    // Of a function of the kernel, or of another BPF program.
    Result<BpfTarget> tracing() {
        const Field aux = kernel_.field("bpf_prog", "aux"),
                    name = kernel_.field("bpf_prog_aux", "name");
        BpfTarget target = TRY(targets_.function_of(program_));
        target.at = TRY(member("bpf_tracing_link", "trampoline"));
        const GuestVirt replaced = TRY(member("bpf_tracing_link", "tgt_prog"));
        if (replaced) {
            const GuestVirt its = TRY(kernel_.read_pointer(replaced, aux));
            const std::string program = TRY(kernel_.read_text(its, name));
            target.text = fmt::format("{} of program {}", target.text, program);
        }
        return target;
    }

    Result<BpfTarget> cgroup() {
        const GuestVirt group = TRY(member("bpf_cgroup_link", "cgroup"));
        if (!group) return BpfTarget{.kind = "cgroup"};
        const std::string path = TRY(targets_.cgroup(group));
        const std::string place = TRY(attach_type("bpf_cgroup_link", "BPF_CGROUP_"));
        return BpfTarget{"cgroup", fmt::format("{} ({})", path, place), group};
    }

    Result<BpfTarget> iterator() {
        const Field registered = kernel_.field("bpf_iter_target_info", "reg_info"),
                    name = kernel_.field("bpf_iter_reg", "target");
        const GuestVirt info = TRY(member("bpf_iter_link", "tinfo"));
        const GuestVirt registration = TRY(kernel_.read_pointer(info, registered));
        std::string text = TRY(targets_.text(registration, name));
        return BpfTarget{"iter", std::move(text), info};
    }

    Result<BpfTarget> net_namespace() {
        const GuestVirt net = TRY(member("bpf_netns_link", "net"));
        if (!net) return BpfTarget{.kind = "netns"};
        const std::string place = TRY(attach_type("bpf_netns_link", "BPF_"));
        const std::string name = TRY(targets_.net_namespace(net));
        return BpfTarget{"netns", fmt::format("{} of {}", place, name), net};
    }

    Result<BpfTarget> xdp() {
        const GuestVirt device = TRY(member("bpf_xdp_link", "dev"));
        if (!device) return BpfTarget{.kind = "xdp"};
        std::string name = TRY(targets_.interface(device));
        return BpfTarget{"xdp", std::move(name), device};
    }

    Result<BpfTarget> device(std::string_view kind, std::string_view structure) {
        const GuestVirt device = TRY(member(structure, "dev"));
        if (!device) return BpfTarget{.kind = std::string(kind)};
        std::string place = TRY(attach_type(structure, "BPF_"));
        place.erase(0, place.find('_') + 1);
        const std::string name = TRY(targets_.interface(device));
        return BpfTarget{std::string(kind), fmt::format("{} ({})", name, place), device};
    }

    Result<BpfTarget> perf_event() {
        const Field event = kernel_.field("file", "private_data");
        const GuestVirt file = TRY(member("bpf_perf_link", "perf_file"));
        return targets_.perf_event(TRY(kernel_.read_pointer(file, event)));
    }

    Result<BpfTarget> functions() {
        const GuestVirt addresses = TRY(member("bpf_kprobe_multi_link", "addrs"));
        const std::uint64_t count =
            TRY(kernel_.read(outer_, kernel_.field("bpf_kprobe_multi_link", "cnt")));
        std::vector<std::string> names;
        for (std::uint64_t i = 0; i < count && i < kToldFunctions; ++i) {
            const auto address = TRY(kernel_.memory().read<GuestVirt>(addresses + 8 * i));
            names.push_back(symbol_text(kernel_, address));
        }
        std::string text = fmt::format("{}", fmt::join(names, ", "));
        if (count > names.size()) text += fmt::format(" and {} more", count - names.size());
        return BpfTarget{"kprobe_multi", std::move(text), link_};
    }

    Result<BpfTarget> user_functions() {
        TRY(inside("bpf_uprobe_multi_link"));
        const Field path = kernel_.field("bpf_uprobe_multi_link", "path"),
                    count = kernel_.field("bpf_uprobe_multi_link", "cnt");
        TRY(kernel_.require({path}));
        const std::uint64_t many = TRY(kernel_.read(outer_, count));
        const std::string file = TRY(targets_.path(outer_ + path.offset));
        return BpfTarget{"uprobe_multi", fmt::format("{}, {} places", file, many), link_};
    }

    Result<BpfTarget> netfilter() {
        TRY(inside("bpf_nf_link"));
        const Field family = kernel_.field("bpf_nf_link", "hook_ops.pf"),
                    hook = kernel_.field("bpf_nf_link", "hook_ops.hooknum"),
                    net = kernel_.field("bpf_nf_link", "net");
        const GuestVirt owner = TRY(kernel_.read_pointer(outer_, net));
        if (!owner) return BpfTarget{.kind = "netfilter"};
        const std::uint64_t protocol = TRY(kernel_.read(outer_, family)),
                            place = TRY(kernel_.read(outer_, hook));
        const std::string name = TRY(targets_.net_namespace(owner));
        return BpfTarget{
            "netfilter",
            fmt::format("{} of {}", BpfTargets::netfilter_place(protocol, place), name), owner};
    }

    // Of struct_ops the link has been told by its map since 6.4; before it is not in the table.
    Result<BpfTarget> map(std::string kind, std::string_view structure) {
        if (kernel_.size_of(structure) == 0) return BpfTarget{.kind = std::move(kind)};
        const Field name = kernel_.field("bpf_map", "name");
        const GuestVirt map = TRY(member(structure, "map"));
        if (!map) return BpfTarget{.kind = std::move(kind)};
        const std::string called = TRY(kernel_.read_text(map, name));
        return BpfTarget{std::move(kind), fmt::format("map {}", called), map};
    }

    Kernel& kernel_;
    BpfTargets& targets_;
    GuestVirt link_, outer_, program_;
};

}  // namespace

Result<BpfLinkRecord> read_bpf_link(Kernel& kernel, BpfTargets& targets, GuestVirt link) {
    return LinkReader(kernel, targets, link).read();
}

}  // namespace underseer::guest_linux
