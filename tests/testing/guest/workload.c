// What a test guest runs: a process of every kind that a listing must get right. Each stays for ever.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/ethtool.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static void rest(void) {
    for (;;) pause();
}

static void* thread_body(void* name) {
    prctl(PR_SET_NAME, name);
    rest();
    return NULL;
}

static void threads(void) {
    static char names[5][16];
    for (int i = 0; i < 5; ++i) {
        pthread_t thread;
        snprintf(names[i], sizeof names[i], "worker-%d", i);
        pthread_create(&thread, NULL, thread_body, names[i]);
    }
    rest();
}

static void sockets(void) {
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(4444)};
    v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    bind(listener, (struct sockaddr*)&v4, sizeof v4);
    listen(listener, 5);
    int client = socket(AF_INET, SOCK_STREAM, 0);
    connect(client, (struct sockaddr*)&v4, sizeof v4);
    accept(listener, NULL, NULL);
    int half = socket(AF_INET, SOCK_STREAM, 0);
    connect(half, (struct sockaddr*)&v4, sizeof v4);
    accept(listener, NULL, NULL);
    shutdown(half, SHUT_WR);  // FIN_WAIT2, and CLOSE_WAIT at the other end
    struct sockaddr_in6 mapped = {.sin6_family = AF_INET6, .sin6_port = htons(4444)};
    inet_pton(AF_INET6, "::ffff:127.0.0.1", &mapped.sin6_addr);
    connect(socket(AF_INET6, SOCK_STREAM, 0), (struct sockaddr*)&mapped, sizeof mapped);
    accept(listener, NULL, NULL);
    connect(socket(AF_INET, SOCK_STREAM, 0), (struct sockaddr*)&v4, sizeof v4);  // never accepted
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(6666), .sin6_addr = in6addr_loopback};
    int six = socket(AF_INET6, SOCK_STREAM, 0);
    bind(six, (struct sockaddr*)&v6, sizeof v6);
    listen(six, 5);
    connect(socket(AF_INET6, SOCK_STREAM, 0), (struct sockaddr*)&v6, sizeof v6);
    accept(six, NULL, NULL);
    bind(socket(AF_INET6, SOCK_DGRAM, 0), (struct sockaddr*)&v6, sizeof v6);
    socket(AF_INET6, SOCK_RAW, 200);
    v4.sin_port = htons(5555);
    bind(socket(AF_INET, SOCK_DGRAM, 0), (struct sockaddr*)&v4, sizeof v4);
    connect(socket(AF_INET, SOCK_DGRAM, 0), (struct sockaddr*)&v4, sizeof v4);
    socket(AF_INET, SOCK_RAW, 255);
    socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ARP));
    struct sockaddr_ll link = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
    link.sll_ifindex = (int)if_nametoindex("lo");
    bind(socket(AF_PACKET, SOCK_DGRAM, 0), (struct sockaddr*)&link, sizeof link);
    struct sockaddr_nl route = {.nl_family = AF_NETLINK, .nl_pid = 4711};
    bind(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE), (struct sockaddr*)&route, sizeof route);
    struct sockaddr_un path = {.sun_family = AF_UNIX, .sun_path = "/tmp/workload.sock"};
    int named = socket(AF_UNIX, SOCK_STREAM, 0);
    bind(named, (struct sockaddr*)&path, sizeof path);
    listen(named, 5);
    struct sockaddr_un abstract = {.sun_family = AF_UNIX, .sun_path = "\0workload"};
    bind(socket(AF_UNIX, SOCK_DGRAM, 0), (struct sockaddr*)&abstract, sizeof(sa_family_t) + 9);
    int pair[2];
    socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair);
    if (fork() == 0) {  // a second owner of all of them, and a user of its own
        setresuid(1234, 1234, 1234);
        v4.sin_port = htons(5556);
        bind(socket(AF_INET, SOCK_DGRAM, 0), (struct sockaddr*)&v4, sizeof v4);
    }
    rest();
}

static void files(void) {
    int deleted = open("/mnt/data/deleted-file", O_CREAT | O_RDWR | O_APPEND, 0600);
    write(deleted, "hello", 5);
    unlink("/mnt/data/deleted-file");
    mkdir("/mnt/data/a directory", 0755);
    open("/mnt/data/a directory/plain", O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
    chdir("/mnt/data/a directory");
    int pipes[2];
    pipe(pipes);
    eventfd(0, 0);
    epoll_create1(0);
    memfd_create("secret", 0);
    open("/proc/self/ns/net", O_RDONLY);
    sigset_t none;
    sigemptyset(&none);
    signalfd(-1, &none, 0);
    timerfd_create(CLOCK_MONOTONIC, 0);
    inotify_init1(0);
    syscall(SYS_pidfd_open, getpid(), 0);
    mkfifo("/mnt/data/fifo", 0620);
    open("/mnt/data/fifo", O_RDWR | O_NONBLOCK);
    open("/mnt/data", O_PATH);
    dup2(0, 200);
    mmap(NULL, 8 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    mmap(NULL, 4096, PROT_READ, MAP_SHARED, open("/bin/busybox", O_RDONLY), 0);
    mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    mmap(NULL, 2 << 20, PROT_READ, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE, -1, 0);
    shmat(shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600), NULL, 0);
    void* named = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, named, 4096, "a name");
    named = mmap(NULL, 4096, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, named, 4096, "a shared name");
    rest();
}

// Every set of capabilities is another one.
static void drop(void) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct caps[2] = {{1 << 10, 1 << 10 | 1 << 12 | 1 << 13, 1 << 12 | 1 << 14}, {0, 0, 0}};
    prctl(PR_CAPBSET_DROP, 5);
    prctl(PR_SET_KEEPCAPS, 1);
    setresgid(100, 101, 102);
    setresuid(1000, 1001, 1002);
    syscall(SYS_capset, &header, caps);
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 12, 0, 0);
    rest();
}

// ---- a process in every state that lasts

static void zombie(void) {
    if (fork() == 0) _exit(7);
    rest();
}

static void stopped(void) {
    raise(SIGSTOP);
    rest();
}

static void traced(void) {
    if (fork() == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGTRAP);
    }
    rest();
}

// Uninterruptible until the child ends, which it does not.
static void waiting(void) {
    if (vfork() == 0) rest();
    rest();
}

static void rooted(void) {
    mkdir("/mnt/data/jail", 0755);
    chroot("/mnt/data/jail");
    chdir("/");
    rest();
}

// A title written over the arguments and on into the environment, as nginx and sshd do.
static char** own_arguments;
static void write_title(void) {
    static const char kTitle[] = "workload: a title that is longer than the arguments were";
    char* end = own_arguments[0];
    for (char** word = own_arguments; *word; ++word) end = *word + strlen(*word) + 1;
    for (char** word = environ; *word == end; ++word) end = *word + strlen(*word) + 1;
    memset(own_arguments[0], 0, (size_t)(end - own_arguments[0]));
    strcpy(own_arguments[0], kTitle);
    rest();
}
static void titled(void) {
    char* arguments[] = {"workload", "write_title", NULL};
    char* environment[] = {"PADDING=0123456789012345678901234567890123456789", "LAST=0123456789", NULL};
    execve("/proc/self/exe", arguments, environment);
}

static void copy_self(int to) {
    char buffer[65536];
    int self = open("/proc/self/exe", O_RDONLY);
    for (ssize_t got; (got = read(self, buffer, sizeof buffer)) > 0;) write(to, buffer, (size_t)got);
    close(self);
}

static void deleted_exe(void) {
    const char* path = "/mnt/data/../../tmp/short-lived";
    int copy = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0755);
    copy_self(copy);
    close(copy);
    if (fork() == 0) {
        execl(path, "short-lived", "sleeper", NULL);
        _exit(1);
    }
    sleep(1);
    unlink(path);
    rest();
}

static void memfd_exe(void) {
    int memory = memfd_create("payload", 0);
    copy_self(memory);
    char* arguments[] = {"[kworker/0:1]", "sleeper", NULL};
    char* environment[] = {"LD_PRELOAD=/tmp/evil.so", "EMPTY=", NULL};
    fexecve(memory, arguments, environment);
    _exit(1);
}

static int nested(void* level) {
    if ((long)level == 0) threads();
    static char stack[4][65536];
    long next = (long)level - 1;
    clone(nested, stack[next] + sizeof stack[0], CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | SIGCHLD, (void*)next);
    rest();
    return 0;
}

static int own_world(void* unused) {
    (void)unused;
    mkdir("/mnt/inner", 0755);
    mount("tmpfs", "/mnt/inner", "tmpfs", MS_NOSUID | MS_NODEV, "");
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(7777)};
    bind(socket(AF_INET, SOCK_DGRAM, 0), (struct sockaddr*)&any, sizeof any);
    rest();
    return 0;
}

static void container(void) {
    static char stack[65536];
    clone(own_world, stack + sizeof stack, CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC | SIGCHLD, NULL);
    rest();
}

// Namespaces that containers are made with less often.
static void apart(void) {
    unshare(CLONE_NEWCGROUP);
    unshare(CLONE_NEWTIME);
    unshare(CLONE_NEWUSER);
    fork();  // only children enter the time namespace
    rest();
}

static void odd_name(void) {
    prctl(PR_SET_NAME, "\x1b[31mred\xff\n");
    rest();
}

static void long_arguments(void) {
    char* arguments[202] = {"workload", "sleeper"};
    for (int i = 2; i < 201; ++i) arguments[i] = i % 3 ? "an-argument-of-some-length" : "";
    execv("/proc/self/exe", arguments);
}

static void churn(void) {
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
        if (fork() == 0) _exit(0);
    }
}

static void* short_body(void* unused) { return unused; }

static void thread_churn(void) {
    for (;;) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, short_body, NULL) == 0) pthread_join(thread, NULL);
    }
}

// ---- mix: everything that makes the views of the tasks differ for a moment

static void leave(void) { _exit(0); }

static void mix_exec(void) {
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
        if (fork() == 0) {
            execl("/proc/self/exe", "workload", "leave", NULL);
            _exit(1);
        }
        usleep(2000);
    }
}

// A thread that executes takes over the process: its pid moves to another task.
static void* exec_body(void* unused) {
    execl("/proc/self/exe", "workload", "leave", NULL);
    return unused;
}
static void mix_thread_exec(void) {
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
        if (fork() == 0) {
            pthread_t thread;
            for (int i = 0; i < 3; ++i) pthread_create(&thread, NULL, thread_body, "bystander");
            pthread_create(&thread, NULL, exec_body, NULL);
            rest();
        }
        usleep(5000);
    }
}

// Zombies that stay a while, and orphans that init takes over.
static void mix_zombies(void) {
    for (;;) {
        for (int i = 0; i < 10; ++i) {
            if (fork() == 0) {
                if (i % 2 && fork() == 0) usleep(300000);
                _exit(0);
            }
        }
        usleep(700000);
        while (waitpid(-1, NULL, WNOHANG) > 0) {}
    }
}

static void join_cgroup(const char* directory) {
    char path[128];
    snprintf(path, sizeof path, "%s/cgroup.procs", directory);
    int procs = open(path, O_WRONLY);
    write(procs, "0", 1);
    close(procs);
}
static void mix_cgroups(void) {
    char own[64];
    snprintf(own, sizeof own, "/sys/fs/cgroup/mix-%d", getpid());
    for (;;) {
        mkdir(own, 0755);
        join_cgroup(own);
        if (fork() == 0) {
            usleep(1000);
            _exit(0);
        }
        join_cgroup("/sys/fs/cgroup");
        wait(NULL);
        rmdir(own);
    }
}

static int short_world(void* unused) {
    (void)unused;
    if (fork() == 0) usleep(20000);
    return 0;
}
static void mix_worlds(void) {
    static char stack[65536];
    for (;;) {
        clone(short_world, stack + sizeof stack, CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWUTS | SIGCHLD, NULL);
        wait(NULL);
        usleep(5000);
    }
}

static void mix_sessions(void) {
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
        if (fork() == 0) {
            setsid();
            if (fork() == 0) {
                setpgid(0, 0);
                sched_yield();
            }
            _exit(0);
        }
        usleep(1000);
    }
}

static void mix_files(void) {
    char path[64], bytes[4096] = "";
    for (unsigned i = 0;; ++i) {
        snprintf(path, sizeof path, "/mnt/data/mix-%d-%u", getpid(), i % 50);
        int file = open(path, O_CREAT | O_WRONLY, 0600);
        for (int k = 0; k < 8; ++k) write(file, bytes, sizeof bytes);
        close(file);
        if (i % 3) unlink(path);
        usleep(500);
    }
}

static void mix_priorities(void) {
    for (;;) {
        struct sched_param high = {.sched_priority = 5}, none = {0};
        sched_setscheduler(0, SCHED_RR, &high);
        usleep(1000);
        sched_setscheduler(0, SCHED_BATCH, &none);
        for (volatile int i = 0; i < 100000; ++i) {}
    }
}

static void mix(void) {
    static void (*const parts[])(void) = {churn,      thread_churn, mix_exec,     mix_thread_exec, mix_zombies,
                                          mix_cgroups, mix_worlds,   mix_sessions, mix_files,       mix_priorities};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; ++i) {
        if (fork() == 0) {
            parts[i]();
            _exit(0);
        }
    }
    rest();
}

// ---- a process of each scheduling class that wants the CPU: of two such, one waits

static void busy_fair(void) {
    for (;;) {}
}

// Every one begins at a full tenth of a second, and leaves some of it to the rest.
static void busy_rt(void) {
    struct sched_param high = {.sched_priority = 5};
    sched_setscheduler(0, SCHED_RR, &high);
    for (;;) {
        struct timespec time, begin;
        clock_gettime(CLOCK_MONOTONIC, &time);
        time.tv_nsec = (time.tv_nsec / 100000000 + 1) * 100000000;
        if (time.tv_nsec == 1000000000) time.tv_sec += 1, time.tv_nsec = 0;
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL);
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &begin);
        do {
            clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
        } while ((time.tv_sec - begin.tv_sec) * 1000 + (time.tv_nsec - begin.tv_nsec) / 1000000 < 30);
    }
}

// Wants the CPU for ever under SCHED_DEADLINE, from the beginning of a second: is given `runtime_ms` of
// every period, and stands still until the next when it has used that up.
static void spin_under_deadline(unsigned runtime_ms, unsigned period_ms) {
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } share = {.size = sizeof share, .policy = 6 /* SCHED_DEADLINE */, .runtime = runtime_ms * 1000000ull,
               .deadline = period_ms * 1000000ull, .period = period_ms * 1000000ull};
    struct timespec second;
    clock_gettime(CLOCK_MONOTONIC, &second);
    second.tv_sec += 1, second.tv_nsec = 0;
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &second, NULL);
    if (syscall(SYS_sched_setattr, 0, &share, 0) != 0) perror("sched_setattr"), _exit(1);
    busy_fair();
}

static void busy_deadline(void) { spin_under_deadline(300, 1000); }
// Nearly always has the earlier deadline: the other waits for it.
static void urgent_deadline(void) { spin_under_deadline(6, 20); }

static void put(const char* path, const char* text) {
    int file = open(path, O_WRONLY);
    if (write(file, text, strlen(text)) < 0) perror(path), _exit(1);
    close(file);
}

// In a control group of 2 ms in every half second.
static void busy_throttled(void) {
    put("/sys/fs/cgroup/cgroup.subtree_control", "+cpu");
    mkdir("/sys/fs/cgroup/tight", 0755);
    put("/sys/fs/cgroup/tight/cpu.max", "2000 500000");
    put("/sys/fs/cgroup/tight/cgroup.procs", "0");
    busy_fair();
}

// Starts the kernel in /kexec with this kernel's command line, without a reset.
static void kexec(void) {
    char line[4096] = "";
    int file = open("/proc/cmdline", O_RDONLY);
    ssize_t length = read(file, line, sizeof line - 1);
    if (length > 0) line[length - 1] = 0;  // the newline
    int kernel = open("/kexec/vmlinuz", O_RDONLY), initrd = open("/kexec/initrd.gz", O_RDONLY);
    if (syscall(SYS_kexec_file_load, kernel, initrd, strlen(line) + 1, line, 0UL) != 0) {
        perror("kexec_file_load");
        _exit(1);
    }
    reboot(RB_KEXEC);
    perror("reboot");
    _exit(1);
}

// "name address" of every interface here, the address as its card has it burnt in. Then ends.
static void permanent_macs(void) {
    int any = socket(AF_INET, SOCK_DGRAM, 0);
    struct if_nameindex* all = if_nameindex();
    for (struct if_nameindex* one = all; one && one->if_index != 0; ++one) {
        struct {
            struct ethtool_perm_addr head;
            unsigned char bytes[32];
        } address = {.head = {.cmd = ETHTOOL_GPERMADDR, .size = sizeof address.bytes}};
        struct ifreq request = {.ifr_data = (char*)&address};
        strcpy(request.ifr_name, one->if_name);
        if (ioctl(any, SIOCETHTOOL, &request) != 0) perror(one->if_name), _exit(1);
        printf("%s", one->if_name);
        for (unsigned i = 0; i < address.head.size; ++i) printf("%c%02x", i == 0 ? ' ' : ':', address.bytes[i]);
        printf("\n");
    }
    exit(0);
}

// ---- measured work: prints one line and ends. The seconds are the second argument. ----

static double seconds_to_run = 5;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

// What a guest notices of being stopped: the longest time between two looks at the clock.
static void measure_gap(void) {
    double begin = now(), last = begin, longest = 0;
    unsigned long looks = 0, over_1ms = 0;
    while (last - begin < seconds_to_run) {
        double next = now();
        if (next - last > longest) longest = next - last;
        if (next - last > 0.001) ++over_1ms;
        last = next;
        ++looks;
    }
    printf("%.1f %lu %lu\n", longest * 1e6, over_1ms, looks);
    exit(0);
}

static void measure_spin(void) {
    double begin = now();
    volatile unsigned long sum = 1;
    unsigned long rounds = 0;
    while (now() - begin < seconds_to_run) {
        for (int i = 0; i < 100000; ++i) sum = sum * 6364136223846793005ul + 1442695040888963407ul;
        ++rounds;
    }
    printf("%.2f\n", (double)rounds / (now() - begin));
    exit(0);
}

static void measure_forks(void) {
    double begin = now();
    unsigned long forks = 0;
    while (now() - begin < seconds_to_run) {
        pid_t child = fork();
        if (child == 0) _exit(0);
        waitpid(child, NULL, 0);
        ++forks;
    }
    printf("%.2f\n", (double)forks / (now() - begin));
    exit(0);
}

// As measure_forks(), and each runs a program.
static void measure_starts(void) {
    double begin = now();
    unsigned long starts = 0;
    while (now() - begin < seconds_to_run) {
        pid_t child = vfork();
        if (child == 0) execl("/bin/workload", "workload", "nothing", NULL), _exit(1);
        waitpid(child, NULL, 0);
        ++starts;
    }
    printf("%.2f\n", (double)starts / (now() - begin));
    exit(0);
}

static void do_nothing(void) {
    _exit(0);
}

static int compare_times(const void* a, const void* b) {
    double one = *(const double*)a, other = *(const double*)b;
    return (one > other) - (one < other);
}

// A client of a server that answers 64 bytes over TCP by as many.
static int connect_to_server(pid_t* server) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    bind(listener, (struct sockaddr*)&address, sizeof address);
    listen(listener, 1);
    getsockname(listener, (struct sockaddr*)&address, &length);
    char message[64];
    *server = fork();
    if (*server == 0) {
        int peer = accept(listener, NULL, NULL);
        while (recv(peer, message, sizeof message, MSG_WAITALL) == sizeof message) send(peer, message, sizeof message, 0);
        _exit(0);
    }
    int client = socket(AF_INET, SOCK_STREAM, 0);
    connect(client, (struct sockaddr*)&address, sizeof address);
    return client;
}

// One request after the other: how many a second.
static void measure_requests(void) {
    pid_t server;
    int client = connect_to_server(&server);
    char message[64] = "request";
    double begin = now();
    size_t count = 0;
    while (now() - begin < seconds_to_run) {
        send(client, message, sizeof message, 0);
        recv(client, message, sizeof message, MSG_WAITALL);
        ++count;
    }
    printf("%.2f\n", (double)count / (now() - begin));
    close(client);
    waitpid(server, NULL, 0);
    exit(0);
}

// A request each millisecond, whatever became of those before. From when each was due until it was
// answered: median, p99 and p99.9 in us.
static void measure_paced(void) {
    enum { kMost = 1 << 20 };
    const double each = 0.001;
    double* times = malloc(kMost * sizeof *times);
    pid_t server;
    int client = connect_to_server(&server);
    char message[64] = "request";
    size_t count = 0, wanted = (size_t)(seconds_to_run / each);
    prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
    for (double due = now() + each; count < wanted && count < kMost; due += each) {
        const struct timespec until = {(time_t)due, (long)((due - (double)(time_t)due) * 1e9)};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
        send(client, message, sizeof message, 0);
        recv(client, message, sizeof message, MSG_WAITALL);
        times[count++] = now() - due;
    }
    close(client);
    waitpid(server, NULL, 0);
    qsort(times, count, sizeof *times, compare_times);
    printf("%.2f %.2f %.2f\n", times[count / 2] * 1e6, times[count - 1 - count / 100] * 1e6, times[count - 1 - count / 1000] * 1e6);
    exit(0);
}

// As many descriptors as a process may have, and then it forks: twice that.
static void hoard_files(void) {
    const struct rlimit most = {1 << 20, 1 << 20};  // fs.nr_open
    if (setrlimit(RLIMIT_NOFILE, &most) != 0) perror("workload: setrlimit");
    int kept = open("/etc/hostname", O_RDONLY | O_CREAT, 0600);
    while (dup(kept) >= 0) {}
    if (fork() != 0) mkdir("/tmp/hoarded", 0700);
    rest();
}

// Processes whose command lines are as long as one argument may be (MAX_ARG_STRLEN).
static void hoard_words(void) {
    if (own_arguments[2] != NULL) rest();
    static char word[128 << 10];
    memset(word, 'w', sizeof word - 1);
    for (int i = 0; i < 560; ++i) {
        if (fork() == 0) execl("/bin/workload", "hoarder", "hoard_words", word, NULL);
    }
    mkdir("/tmp/hoarded", 0700);
    rest();
}

// ---- calls that a trace must name. Not static, so that a dynamic program names them too.

static int chain_ends[2];

__attribute__((noinline)) int chain_inner(void) {
    char byte = 0;
    return read(chain_ends[0], &byte, 1) < 0 ? -1 : byte;
}

// Its frame is as long as it is told: it needs a frame pointer.
__attribute__((noinline)) int chain_outer(int bytes) {
    char* room = __builtin_alloca((size_t)bytes);
    memset(room, 1, (size_t)bytes);
    return chain_inner() + room[bytes / 2];
}

__attribute__((noinline)) void chain_handler(int unused) {
    (void)unused;
    if (chain_outer(200) == 0) _exit(1);
}

static void chain(void) {
    pipe(chain_ends);
    if (chain_outer(100) == 0) _exit(1);
}

// Without unwind information: nothing but rbp leads from it to its caller.
void chain_without_cfi(void);
__asm__(".type chain_without_cfi, @function\n"
        "chain_without_cfi:\n"
        "    push %rbp\n"
        "    mov %rsp, %rbp\n"
        "    call chain_inner\n"
        "    pop %rbp\n"
        "    ret\n"
        ".size chain_without_cfi, . - chain_without_cfi\n");

static void chain_by_rbp(void) {
    pipe(chain_ends);
    chain_without_cfi();
}

// The same within a signal's handler, on a stack of its own.
static void chain_in_signal(void) {
    static char stack[65536];
    const stack_t other = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction action = {.sa_handler = chain_handler, .sa_flags = SA_ONSTACK};
    sigaltstack(&other, NULL);
    sigaction(SIGUSR1, &action, NULL);
    pipe(chain_ends);
    raise(SIGUSR1);
}

// A known series of system calls: as many rounds as the second argument says, once /tmp/series-go
// is there. Each round has the same thirteen, with other names and numbers.
static void series(void) {
    const int rounds = own_arguments[2] ? atoi(own_arguments[2]) : 1;
    while (access("/tmp/series-go", F_OK) != 0) usleep(50 * 1000);
    for (int i = 0; i < rounds; ++i) {
        char path[64], text[64];
        snprintf(path, sizeof path, "/tmp/series-%d", i);
        const int length = snprintf(text, sizeof text, "round %d\n", i);
        const int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
        write(file, text, (size_t)length);
        lseek(file, 0, SEEK_SET);
        read(file, text, sizeof text);
        void* pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        mprotect(pages, 4096, PROT_READ);
        munmap(pages, 8192);
        const int udp = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        struct sockaddr_in peer = {.sin_family = AF_INET, .sin_port = htons((uint16_t)(4000 + i))};
        inet_pton(AF_INET, "127.0.0.1", &peer.sin_addr);
        connect(udp, (struct sockaddr*)&peer, sizeof peer);
        close(udp);
        close(file);
        unlink(path);
        snprintf(path, sizeof path, "/nowhere/series-%d", i);
        open(path, O_RDONLY);
    }
    close(open("/tmp/series-done", O_WRONLY | O_CREAT, 0600));
}

struct mode {
    const char* name;
    void (*run)(void);
    int in_all;
};
static void nested_pids(void) { nested((void*)3); }
static const struct mode kModes[] = {
    {"sleeper", rest, 1},           {"threads", threads, 1},        {"sockets", sockets, 1},
    {"files", files, 1},            {"drop", drop, 1},              {"deleted_exe", deleted_exe, 1},
    {"memfd_exe", memfd_exe, 1},    {"nested", nested_pids, 1},     {"container", container, 0},
    {"odd_name", odd_name, 1},      {"long", long_arguments, 1},    {"zombie", zombie, 1},
    {"stopped", stopped, 1},        {"traced", traced, 1},          {"waiting", waiting, 1},
    {"rooted", rooted, 1},          {"apart", apart, 1},            {"titled", titled, 1},
    {"write_title", write_title, 0}, {"churn", churn, 0},
    {"thread_churn", thread_churn, 0}, {"kexec", kexec, 0},
    {"leave", leave, 0},            {"mix", mix, 0},
    {"busy_fair", busy_fair, 0},    {"busy_rt", busy_rt, 0},        {"busy_deadline", busy_deadline, 0},
    {"urgent_deadline", urgent_deadline, 0},
    {"busy_throttled", busy_throttled, 0},
    {"permanent_macs", permanent_macs, 0},
    {"chain", chain, 0},            {"chain_in_signal", chain_in_signal, 0},
    {"chain_by_rbp", chain_by_rbp, 0}, {"series", series, 0},
    {"hoard_files", hoard_files, 0}, {"hoard_words", hoard_words, 0},
    {"measure_gap", measure_gap, 0}, {"measure_spin", measure_spin, 0},
    {"measure_forks", measure_forks, 0}, {"measure_requests", measure_requests, 0},
    {"measure_starts", measure_starts, 0}, {"measure_paced", measure_paced, 0}, {"nothing", do_nothing, 0},
};

int main(int argc, char** argv) {
    own_arguments = argv;
    const char* wanted = argc > 1 ? argv[1] : "";
    if (argc > 2) seconds_to_run = atof(argv[2]);
    for (size_t i = 0; i < sizeof kModes / sizeof kModes[0]; ++i) {
        const struct mode* mode = &kModes[i];
        if (strcmp(wanted, "all") == 0 && mode->in_all) {
            if (fork() == 0) {
                mode->run();
                _exit(0);
            }
        } else if (strcmp(wanted, mode->name) == 0) {
            mode->run();
        }
    }
    rest();
}
