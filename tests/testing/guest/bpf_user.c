// Uses BPF in each way that this kernel offers, or says what of it the kernel itself lists.
//   bpf_user attach   attaches programs that do nothing, says its pid, then of each
//                     "PROGRAM KIND TARGET", then "ready", and holds them for ever
//   bpf_user list     says what bpftool would: "program ID TYPE NAME MAP,..",
//                     "map ID TYPE NAME KEY VALUE ENTRIES", "link ID TYPE PROGRAM"
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/btf.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/perf_event.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define GROUP "/sys/fs/cgroup/bpf"
// Of kernels after these headers (include/uapi/linux/bpf.h).
#define PROG_TYPE_NETFILTER 32
#define ATTACH_NETFILTER 45
#define ATTACH_TCX_INGRESS 46

static void die(const char* what) {
    perror(what);
    exit(1);
}

static int bpf(int command, union bpf_attr* attributes) {
    return (int)syscall(SYS_bpf, command, attributes, sizeof *attributes);
}

static void tell(const char* program, const char* kind, const char* target) {
    printf("%s %s %s\n", program, kind, target);
}

// A program that does nothing but return; with a map, it has its address first.
static int load(const char* name, int type, int attach_type, int value, int map, int function) {
    struct bpf_insn code[4];
    int length = 0;
    memset(code, 0, sizeof code);
    if (map >= 0) {
        code[0].code = BPF_LD | BPF_DW | BPF_IMM;
        code[0].dst_reg = BPF_REG_1;
        code[0].src_reg = BPF_PSEUDO_MAP_FD;
        code[0].imm = map;
        length = 2;
    }
    code[length].code = BPF_ALU64 | BPF_MOV | BPF_K;
    code[length++].imm = value;
    code[length++].code = BPF_JMP | BPF_EXIT;
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.prog_type = (unsigned)type;
    attributes.expected_attach_type = (unsigned)attach_type;
    attributes.insns = (uintptr_t)code;
    attributes.insn_cnt = (unsigned)length;
    attributes.license = (uintptr_t) "GPL";
    attributes.attach_btf_id = (unsigned)function;
    strncpy(attributes.prog_name, name, sizeof attributes.prog_name - 1);
    return bpf(BPF_PROG_LOAD, &attributes);
}

static int make_map(const char* name, int type, int entries) {
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.map_type = (unsigned)type;
    attributes.key_size = 4;
    attributes.value_size = 16;
    attributes.max_entries = (unsigned)entries;
    strncpy(attributes.map_name, name, sizeof attributes.map_name - 1);
    const int map = bpf(BPF_MAP_CREATE, &attributes);
    if (map < 0) die(name);
    return map;
}

static int link_to(int program, int target, int attach_type) {
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.link_create.prog_fd = (unsigned)program;
    attributes.link_create.target_fd = (unsigned)target;
    attributes.link_create.attach_type = (unsigned)attach_type;
    if (attach_type == ATTACH_NETFILTER) {
        unsigned netfilter[4] = {2 /* NFPROTO_IPV4 */, 1 /* NF_INET_LOCAL_IN */, 7, 0};
        memcpy((char*)&attributes + 16, netfilter, sizeof netfilter);
    }
    return bpf(BPF_LINK_CREATE, &attributes);
}

static int attach(int program, int target, int attach_type) {
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.target_fd = (unsigned)target;
    attributes.attach_bpf_fd = (unsigned)program;
    attributes.attach_type = (unsigned)attach_type;
    return bpf(BPF_PROG_ATTACH, &attributes);
}

// Null for a function that the program was loaded for.
static int open_raw(int program, const char* tracepoint) {
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.raw_tracepoint.name = (uintptr_t)tracepoint;
    attributes.raw_tracepoint.prog_fd = (unsigned)program;
    return bpf(BPF_RAW_TRACEPOINT_OPEN, &attributes);
}

// The number of a function among the kernel's types (Documentation/bpf/btf.rst).
static int function_id(const char* name) {
    const int fd = open("/sys/kernel/btf/vmlinux", O_RDONLY | O_CLOEXEC);
    struct stat status;
    if (fd < 0 || fstat(fd, &status) != 0) return 0;
    char* all = malloc((size_t)status.st_size);
    for (off_t at = 0; at < status.st_size;) {
        const ssize_t got = read(fd, all + at, (size_t)(status.st_size - at));
        if (got <= 0) return 0;
        at += got;
    }
    close(fd);
    const struct btf_header* header = (void*)all;
    const char* names = all + header->hdr_len + header->str_off;
    const char* at = all + header->hdr_len + header->type_off;
    const char* end = at + header->type_len;
    int found = 0;
    for (int id = 1; at < end && !found; id++) {
        const struct btf_type* type = (void*)at;
        const unsigned count = BTF_INFO_VLEN(type->info);
        at += sizeof *type;
        switch (BTF_INFO_KIND(type->info)) {
            case BTF_KIND_FUNC:
                if (strcmp(names + type->name_off, name) == 0) found = id;
                break;
            case BTF_KIND_INT:
            case BTF_KIND_VAR:
            case 17:  // BTF_KIND_DECL_TAG
                at += 4;
                break;
            case BTF_KIND_ARRAY:
                at += sizeof(struct btf_array);
                break;
            case BTF_KIND_STRUCT:
            case BTF_KIND_UNION:
            case BTF_KIND_DATASEC:
            case 19:  // BTF_KIND_ENUM64
                at += 12 * count;
                break;
            case BTF_KIND_ENUM:
            case BTF_KIND_FUNC_PROTO:
                at += 8 * count;
                break;
        }
    }
    free(all);
    return found;
}

static int number_in(const char* path) {
    FILE* file = fopen(path, "r");
    int number = -1;
    if (file == NULL) return -1;
    if (fscanf(file, "%d", &number) != 1) number = -1;
    fclose(file);
    return number;
}

static int open_event(unsigned type, unsigned long config, const char* function) {
    struct perf_event_attr event = {.type = type, .size = sizeof event, .config = config};
    event.sample_period = 1u << 30;
    event.kprobe_func = (uintptr_t)function;
    return (int)syscall(SYS_perf_event_open, &event, -1, 0, -1, PERF_FLAG_FD_CLOEXEC);
}

// ---- rtnetlink: what is attached without a link ------------------------------------------------

struct request {
    struct nlmsghdr header;
    union {
        struct ifinfomsg interface;
        struct tcmsg traffic;
    };
    char room[512];
};

static struct rtattr* add(struct request* request, int type, const void* data, size_t size) {
    struct rtattr* attribute = (void*)((char*)request + NLMSG_ALIGN(request->header.nlmsg_len));
    attribute->rta_type = (unsigned short)type;
    attribute->rta_len = (unsigned short)RTA_LENGTH(size);
    if (size != 0) memcpy(RTA_DATA(attribute), data, size);
    request->header.nlmsg_len =
        NLMSG_ALIGN(request->header.nlmsg_len) + (unsigned)RTA_ALIGN(attribute->rta_len);
    return attribute;
}

static void close_nest(struct request* request, struct rtattr* nest) {
    nest->rta_len =
        (unsigned short)((char*)request + request->header.nlmsg_len - (char*)nest);
}

// 0, or the error that the kernel answers.
static int ask(struct request* request) {
    const int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    struct {
        struct nlmsghdr header;
        struct nlmsgerr error;
        char room[1024];
    } answer;
    request->header.nlmsg_flags |= NLM_F_REQUEST | NLM_F_ACK;
    if (fd < 0 || send(fd, request, request->header.nlmsg_len, 0) < 0) die("netlink");
    if (recv(fd, &answer, sizeof answer, 0) < 0) die("netlink");
    close(fd);
    return answer.header.nlmsg_type == NLMSG_ERROR ? answer.error.error : 0;
}

static int set_xdp(int interface, int program) {
    struct request request = {.header = {.nlmsg_len = NLMSG_LENGTH(sizeof request.interface),
                                         .nlmsg_type = RTM_SETLINK},
                              .interface = {.ifi_index = interface}};
    const unsigned flags = XDP_FLAGS_SKB_MODE;
    struct rtattr* nest = add(&request, IFLA_XDP | NLA_F_NESTED, NULL, 0);
    add(&request, IFLA_XDP_FD, &program, sizeof program);
    add(&request, IFLA_XDP_FLAGS, &flags, sizeof flags);
    close_nest(&request, nest);
    return ask(&request);
}

static int set_filter(int interface, int program) {
    struct request queue = {
        .header = {.nlmsg_len = NLMSG_LENGTH(sizeof queue.traffic),
                   .nlmsg_type = RTM_NEWQDISC,
                   .nlmsg_flags = NLM_F_CREATE},
        .traffic = {.tcm_ifindex = interface,
                    .tcm_handle = TC_H_MAKE(TC_H_CLSACT, 0),
                    .tcm_parent = TC_H_CLSACT}};
    add(&queue, TCA_KIND, "clsact", 7);
    const int error = ask(&queue);
    if (error != 0) return error;
    struct request filter = {
        .header = {.nlmsg_len = NLMSG_LENGTH(sizeof filter.traffic),
                   .nlmsg_type = RTM_NEWTFILTER,
                   .nlmsg_flags = NLM_F_CREATE},
        .traffic = {.tcm_ifindex = interface,
                    .tcm_parent = TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS),
                    .tcm_info = TC_H_MAKE(1 << 16, 0x0300 /* ETH_P_ALL */)}};
    const unsigned flags = TCA_BPF_FLAG_ACT_DIRECT;
    add(&filter, TCA_KIND, "bpf", 4);
    struct rtattr* nest = add(&filter, TCA_OPTIONS | NLA_F_NESTED, NULL, 0);
    add(&filter, TCA_BPF_FD, &program, sizeof program);
    add(&filter, TCA_BPF_NAME, "own", 4);
    add(&filter, TCA_BPF_FLAGS, &flags, sizeof flags);
    close_nest(&filter, nest);
    return ask(&filter);
}

// ---- what can be attached ----------------------------------------------------------------------

// A kernel that lacks something says so; then there is nothing to be seen of it.
static int lacks(const char* name, int result) {
    if (result >= 0) return 0;
    fprintf(stderr, "%s: %s\n", name, strerror(errno));
    return 1;
}

static void attach_to_functions(void) {
    static const struct {
        const char *name, *kind, *function, *told;
        int type, attach_type;
    } functions[] = {
        {"u_fentry", "fentry", "vfs_rmdir", "vfs_rmdir", BPF_PROG_TYPE_TRACING, BPF_TRACE_FENTRY},
        {"u_fexit", "fexit", "vfs_rmdir", "vfs_rmdir", BPF_PROG_TYPE_TRACING, BPF_TRACE_FEXIT},
        {"u_lsm", "lsm", "bpf_lsm_path_chroot", "path_chroot", BPF_PROG_TYPE_LSM, BPF_LSM_MAC},
    };
    for (unsigned i = 0; i < sizeof functions / sizeof *functions; i++) {
        const int program = load(functions[i].name, functions[i].type, functions[i].attach_type, 0,
                                 -1, function_id(functions[i].function));
        if (lacks(functions[i].name, program)) continue;
        if (lacks(functions[i].name, open_raw(program, NULL))) continue;
        tell(functions[i].name, functions[i].kind, functions[i].told);
    }
}

static void attach_to_events(void) {
    const int kprobe = number_in("/sys/bus/event_source/devices/kprobe/type");
    int event = open_event((unsigned)kprobe, 0, "vfs_mknod");
    int program = load("u_kprobe", BPF_PROG_TYPE_KPROBE, 0, 0, -1, 0);
    if (!lacks("kprobe", event)) {
        // By a link since 5.15.
        if (link_to(program, event, BPF_PERF_EVENT) < 0 &&
            ioctl(event, PERF_EVENT_IOC_SET_BPF, program) != 0) {
            die("kprobe");
        }
        tell("u_kprobe", "kprobe", "vfs_mknod");
    }
    const int id = number_in("/sys/kernel/debug/tracing/events/sched/sched_process_hang/id");
    const int other = number_in("/sys/kernel/debug/tracing/events/sched/sched_process_exit/id");
    event = open_event(PERF_TYPE_TRACEPOINT, (unsigned long)(id >= 0 ? id : other), NULL);
    program = load("u_tracepoint", BPF_PROG_TYPE_TRACEPOINT, 0, 1, -1, 0);
    if (!lacks("tracepoint", event)) {
        if (ioctl(event, PERF_EVENT_IOC_SET_BPF, program) != 0) die("tracepoint");
        tell("u_tracepoint", "tracepoint",
             id >= 0 ? "sched:sched_process_hang" : "sched:sched_process_exit");
    }
    event = open_event(PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CPU_CLOCK, NULL);
    program = load("u_perf", BPF_PROG_TYPE_PERF_EVENT, 0, 0, -1, 0);
    if (!lacks("perf event", event)) {
        if (ioctl(event, PERF_EVENT_IOC_SET_BPF, program) != 0) die("perf event");
        tell("u_perf", "perf_event", "software 0x0");
    }
}

static void attach_to_cgroup(void) {
    if (mkdir(GROUP, 0755) != 0 && errno != EEXIST) die(GROUP);
    const int group = open(GROUP, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int program = load("u_group", BPF_PROG_TYPE_CGROUP_SKB, BPF_CGROUP_INET_INGRESS, 1, -1, 0);
    if (attach(program, group, BPF_CGROUP_INET_INGRESS) != 0) die("cgroup");
    tell("u_group", "cgroup", "/bpf (inet_ingress)");
    program =
        load("u_group_link", BPF_PROG_TYPE_CGROUP_SOCK, BPF_CGROUP_INET_SOCK_CREATE, 1, -1, 0);
    if (link_to(program, group, BPF_CGROUP_INET_SOCK_CREATE) < 0) die("cgroup by link");
    tell("u_group_link", "cgroup", "/bpf (inet_sock_create)");
}

static void attach_to_network(void) {
    int program = load("u_xdp_link", BPF_PROG_TYPE_XDP, BPF_XDP, XDP_PASS, -1, 0);
    if (link_to(program, (int)if_nametoindex("lo"), BPF_XDP) < 0) die("xdp by link");
    tell("u_xdp_link", "xdp", "lo (generic)");

    const int dummy = (int)if_nametoindex("dummy7");
    program = load("u_xdp", BPF_PROG_TYPE_XDP, 0, XDP_PASS, -1, 0);
    if (dummy != 0 && set_xdp(dummy, program) == 0) tell("u_xdp", "xdp", "dummy7 (generic)");
    program = load("u_tc", BPF_PROG_TYPE_SCHED_CLS, 0, TC_ACT_OK, -1, 0);
    if (dummy != 0 && set_filter(dummy, program) == 0) tell("u_tc", "tc", "dummy7 (egress)");
    program = load("u_tcx", BPF_PROG_TYPE_SCHED_CLS, ATTACH_TCX_INGRESS, -1, -1, 0);
    if (!lacks("tcx", program) &&
        !lacks("tcx", link_to(program, (int)if_nametoindex("lo"), ATTACH_TCX_INGRESS))) {
        tell("u_tcx", "tcx", "lo (ingress)");
    }
    program = load("u_netfilter", PROG_TYPE_NETFILTER, ATTACH_NETFILTER, 1, -1, 0);
    char net[64] = "", target[128];
    if (readlink("/proc/self/ns/net", net, sizeof net - 1) < 0) die("/proc/self/ns/net");
    if (!lacks("netfilter", program) &&
        !lacks("netfilter", link_to(program, 0, ATTACH_NETFILTER))) {
        snprintf(target, sizeof target, "IPv4 input of %s", net);
        tell("u_netfilter", "netfilter", target);
    }
    const int space = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    program = load("u_lookup", BPF_PROG_TYPE_SK_LOOKUP, BPF_SK_LOOKUP, 1, -1, 0);
    if (link_to(program, space, BPF_SK_LOOKUP) < 0) die("sk_lookup");
    snprintf(target, sizeof target, "sk_lookup of %s", net);
    tell("u_lookup", "netns", target);
    program = load("u_dissector", BPF_PROG_TYPE_FLOW_DISSECTOR, 0, 129 /* go on */, -1, 0);
    if (!lacks("flow dissector", program) &&
        !lacks("flow dissector", attach(program, 0, BPF_FLOW_DISSECTOR))) {
        snprintf(target, sizeof target, "flow_dissector of %s", net);
        tell("u_dissector", "netns", target);
    }
}

static void attach_all(void) {
    const struct rlimit much = {RLIM_INFINITY, RLIM_INFINITY};
    setrlimit(RLIMIT_MEMLOCK, &much);
    printf("%d\n", getpid());
    const int hash = make_map("u_hash", BPF_MAP_TYPE_HASH, 64);
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.map_fd = (unsigned)make_map("u_array", BPF_MAP_TYPE_ARRAY, 8);
    if (bpf(BPF_MAP_FREEZE, &attributes) != 0) die("freeze");

    // It is called for every system call, and does nothing.
    const int program = load("u_raw", BPF_PROG_TYPE_RAW_TRACEPOINT, 0, 0, hash, 0);
    if (program < 0 || open_raw(program, "sys_enter") < 0) die("raw tracepoint");
    tell("u_raw", "raw_tracepoint", "sys_enter");
    const int iterator = load("u_iter", BPF_PROG_TYPE_TRACING, BPF_TRACE_ITER, 0, -1,
                              function_id("bpf_iter_task"));
    if (!lacks("iter", iterator) && !lacks("iter", link_to(iterator, 0, BPF_TRACE_ITER))) {
        tell("u_iter", "iter", "task");
    }
    attach_to_functions();
    attach_to_events();
    attach_to_cgroup();
    attach_to_network();
    printf("ready\n");
    fflush(stdout);
    for (;;) pause();
}

// ---- what the kernel lists ---------------------------------------------------------------------

static int next_id(int command, unsigned* id) {
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.start_id = *id;
    if (bpf(command, &attributes) != 0) return 0;
    *id = attributes.next_id;
    return 1;
}

static void info_of(int command, unsigned id, void* info, unsigned size) {
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.prog_id = id;
    const int fd = bpf(command, &attributes);
    if (fd < 0) die("an object by its id");
    memset(&attributes, 0, sizeof attributes);
    attributes.info.bpf_fd = (unsigned)fd;
    attributes.info.info_len = size;
    attributes.info.info = (uintptr_t)info;
    if (bpf(BPF_OBJ_GET_INFO_BY_FD, &attributes) != 0) die("what an object is");
    close(fd);
}

static void list(void) {
    for (unsigned id = 0; next_id(BPF_PROG_GET_NEXT_ID, &id);) {
        unsigned maps[16];
        struct bpf_prog_info info = {.nr_map_ids = 16, .map_ids = (uintptr_t)maps};
        info_of(BPF_PROG_GET_FD_BY_ID, id, &info, sizeof info);
        printf("program %u %u %s ", id, info.type, info.name[0] ? info.name : "-");
        for (unsigned i = 0; i < info.nr_map_ids; i++) printf("%u,", maps[i]);
        printf("\n");
    }
    for (unsigned id = 0; next_id(BPF_MAP_GET_NEXT_ID, &id);) {
        struct bpf_map_info info = {0};
        info_of(BPF_MAP_GET_FD_BY_ID, id, &info, sizeof info);
        printf("map %u %u %s %u %u %u\n", id, info.type, info.name[0] ? info.name : "-",
               info.key_size, info.value_size, info.max_entries);
    }
    for (unsigned id = 0; next_id(BPF_LINK_GET_NEXT_ID, &id);) {
        struct bpf_link_info info = {0};
        info_of(BPF_LINK_GET_FD_BY_ID, id, &info, sizeof info);
        printf("link %u %u %u\n", id, info.type, info.prog_id);
    }
}

int main(int argc, char** argv) {
    if (argc == 2 && strcmp(argv[1], "attach") == 0) attach_all();
    if (argc == 2 && strcmp(argv[1], "list") == 0) {
        list();
        return 0;
    }
    fprintf(stderr, "bpf_user: attach or list\n");
    return 2;
}
