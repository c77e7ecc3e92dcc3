// What a test guest does not run until a test asks for it: one process for each technique that
// Underseer must notice. Each only poses; none harms or hides anything. `intruder TECHNIQUE [WORD]`
// says its pid on the first line, and stays for ever.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/if_ether.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define ORDINARY_USER 1000

static void die(const char* what) {
    perror(what);
    exit(1);
}

static void rest(void) {
    printf("%d\n", getpid());
    fflush(stdout);
    for (;;) pause();
}

// The program itself, written to `fd`.
static void copy_to(int fd) {
    int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    struct stat status;
    if (self < 0 || fstat(self, &status) != 0) die("/proc/self/exe");
    if (sendfile(fd, self, NULL, status.st_size) != status.st_size) die("sendfile");
    close(self);
}

static void copy_as(const char* path) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);
    if (fd < 0) die(path);
    copy_to(fd);
    close(fd);
}

static void run_file(const char* path, const char* name) {
    char* const words[] = {(char*)name, (char*)"rest", NULL};
    execv(path, words);
    die(path);
}

// A program that is named as a kernel thread is.
static void call_itself(const char* as) {
    prctl(PR_SET_NAME, as);
    rest();
}

static void memfd(const char* as) {
    int fd = (int)syscall(SYS_memfd_create, as, MFD_CLOEXEC);
    if (fd < 0) die("memfd_create");
    copy_to(fd);
    char* const words[] = {(char*)"/usr/sbin/cron", (char*)"rest", NULL};
    char* const none[] = {NULL};
    syscall(SYS_execveat, fd, "", words, none, AT_EMPTY_PATH);
    die("execveat");
}

static void set_capabilities(unsigned long long effective) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    if (syscall(SYS_capget, &header, data) != 0) die("capget");
    for (int i = 0; i < 2; ++i)
        data[i].effective = data[i].permitted & (unsigned)(effective >> 32 * i);
    if (syscall(SYS_capset, &header, data) != 0) die("capset");
}

static void become_ordinary(void) {
    gid_t groups[] = {ORDINARY_USER, ORDINARY_USER + 1};
    if (setgroups(2, groups) != 0 || setresgid(ORDINARY_USER, ORDINARY_USER, ORDINARY_USER) != 0 ||
        setresuid(ORDINARY_USER, ORDINARY_USER, ORDINARY_USER) != 0) {
        die("setresuid");
    }
}

static void capable(void) {
    prctl(PR_SET_KEEPCAPS, 1);
    become_ordinary();
    set_capabilities(~0ull);
    rest();
}

// As after prepare_kernel_cred(): root, with the groups of the kernel's start, under a parent that
// is neither.
static void orphan_root(void) {
    int ready[2];
    if (pipe(ready) != 0) die("pipe");
    const pid_t child = fork();
    if (child == 0) {
        char byte;
        if (read(ready[0], &byte, 1) != 1) die("read");
        copy_as("/tmp/session");
        run_file("/tmp/session", "/tmp/session");
    }
    become_ordinary();
    if (write(ready[1], "", 1) != 1) die("write");
    for (;;) pause();
}

static void trace(pid_t pid) {
    if (ptrace(PTRACE_SEIZE, pid, NULL, NULL) != 0) die("ptrace");
    rest();
}

static void listen_to_packets(void) {
    if (socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL)) < 0) die("socket");
    rest();
}

static void set_up_a_ring(void) {
    struct io_uring_params parameters;
    memset(&parameters, 0, sizeof parameters);
    if (syscall(SYS_io_uring_setup, 4, &parameters) < 0) die("io_uring_setup");
    rest();
}

// Never called: what is written over it changes nothing.
__attribute__((noinline, aligned(64))) static void never_called(void) {
    __asm__ volatile(".fill 64, 1, 0x90");
}

// Its own code, altered in memory and not in the file.
static void alter_code(unsigned char with) {
    const unsigned long page = (unsigned long)never_called & ~4095UL;
    if (mprotect((void*)page, 8192, PROT_READ | PROT_WRITE | PROT_EXEC) != 0) die("mprotect");
    memset((unsigned char*)never_called + 16, with, 4);
    if (mprotect((void*)page, 8192, PROT_READ | PROT_EXEC) != 0) die("mprotect");
    if (getpid() == 0) never_called();
    rest();
}

// The code that the kernel gives it to read the clock, in its own copy. What is altered stands in
// the header, and nobody reads it.
static void alter_vdso(void) {
    unsigned char* const begin = (unsigned char*)getauxval(AT_SYSINFO_EHDR);
    // It can be changed as a whole only, and does not say how long it is.
    size_t size = 4096;
    while (size < 16 * 4096 && mprotect(begin, size, PROT_READ | PROT_WRITE | PROT_EXEC) != 0) {
        size += 4096;
    }
    if (size == 16 * 4096) die("vDSO");
    begin[9] ^= 1;  // padding of e_ident
    if (mprotect(begin, size, PROT_READ | PROT_EXEC) != 0) die("mprotect");
    rest();
}

// The program itself, in memory that no file is behind; or memory that waits for code.
static void map_code(int elf) {
    unsigned char* memory =
        mmap(NULL, 8192, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) die("mmap");
    memset(memory, 0xc3, 8192);
    if (elf) memcpy(memory, "\177ELF\2\1\1", 7);
    if (elf && mprotect(memory, 8192, PROT_READ | PROT_EXEC) != 0) die("mprotect");
    rest();
}

// Loads a BPF program that is attached to nothing, and never runs: one that asks who runs it, or
// one that would write eight zeros to nowhere.
static void load_bpf(int writes) {
    const struct bpf_insn asking[] = {
        {.code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_get_current_pid_tgid},
        {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0},
        {.code = BPF_JMP | BPF_EXIT},
    };
    const struct bpf_insn writing[] = {
        {.code = BPF_ST | BPF_MEM | BPF_DW, .dst_reg = BPF_REG_10, .off = -8},
        {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_1},
        {.code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = BPF_REG_2, .src_reg = BPF_REG_10},
        {.code = BPF_ALU64 | BPF_ADD | BPF_K, .dst_reg = BPF_REG_2, .imm = -8},
        {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_3, .imm = 8},
        {.code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_probe_write_user},
        {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0},
        {.code = BPF_JMP | BPF_EXIT},
    };
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.prog_type = BPF_PROG_TYPE_KPROBE;
    attributes.insns = (unsigned long)(writes ? writing : asking);
    attributes.insn_cnt = (writes ? sizeof writing : sizeof asking) / sizeof(struct bpf_insn);
    attributes.license = (unsigned long)"GPL";
    strcpy(attributes.prog_name, "underseer");
    if (syscall(SYS_bpf, BPF_PROG_LOAD, &attributes, sizeof attributes) < 0) die("bpf");
    rest();
}

// Waits for connections, at a file number that nothing else has.
static void wait_for_connections(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(31337)};
    int socket_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (socket_fd < 0 || bind(socket_fd, (struct sockaddr*)&address, sizeof address) != 0 ||
        listen(socket_fd, 1) != 0 || dup2(socket_fd, 9) != 9) {
        die("listen");
    }
    close(socket_fd);
    rest();
}

static void enter_cgroup(const char* path) {
    int fd = open(path, O_WRONLY);
    if (fd < 0 || write(fd, "0", 1) != 1) die(path);
    close(fd);
    rest();
}

static void run_with_library(const char* library) {
    setenv("LD_PRELOAD", library, 1);
    run_file("/proc/self/exe", "intruder");
}

// A text that is nowhere in the program itself: only there where it is put together, and harmless.
static void put_marker(volatile char* at) {
    static volatile unsigned char key = 1;  // volatile: not put together by the compiler
    // "UNDERSEER-STANDARD" and so on, each character's lowest bit turned.
    static const unsigned char kMixed[] = {84, 79, 69, 68, 83, 82, 68, 68, 83, 44, 82, 85,
                                           64, 79, 69, 64, 83, 69, 44, 82, 66, 64, 79, 44,
                                           85, 68, 82, 85, 44, 71, 72, 77, 68, 32};
    for (unsigned i = 0; i < sizeof kMixed; ++i) at[i] = (char)(kMixed[i] ^ key);
}

// In memory of its own, in a file that is nowhere but in memory, or in one of a file system that it
// has mapped.
static void mark(const char* where, const char* path) {
    if (strcmp(where, "heap") == 0) put_marker((char*)malloc(8192) + 100);
    if (strcmp(where, "border") == 0) {
        char* memory =
            mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) die("mmap");
        put_marker(memory + 8192 - 10);
    }
    if (strcmp(where, "memfd") == 0 || strcmp(where, "file") == 0) {
        int fd = strcmp(where, "memfd") == 0 ? (int)syscall(SYS_memfd_create, path, MFD_CLOEXEC)
                                             : open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
        if (fd < 0 || ftruncate(fd, 8192) != 0) die(path);
        char* memory = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (memory == MAP_FAILED) die("mmap");
        put_marker(memory + 4096 + 16);
        close(fd);
    }
    rest();
}

static int intrude(int argc, char** argv);
static char** words_of_thread;

static void* thread_body(void* unused) {
    (void)unused;
    if (unshare(CLONE_FILES) != 0) die("unshare");
    int count = 0;
    while (words_of_thread[count]) ++count;
    exit(intrude(count, words_of_thread));
}

// The same by a thread whose files are its own, while the first one has ended.
static void leave_to_a_thread(char** words) {
    pthread_t thread;
    words_of_thread = words;
    if (pthread_create(&thread, NULL, thread_body, NULL) != 0) die("pthread_create");
    pthread_exit(NULL);
}

// ---- what threads do that a trace looks at: each waits in another system call

static int pipe_ends[2];
static pthread_mutex_t held = PTHREAD_MUTEX_INITIALIZER;

static void* sleeper(void* unused) {
    prctl(PR_SET_NAME, "sleeper");
    const struct timespec time = {100000, 0};
    nanosleep(&time, NULL);
    return unused;
}

static void* poller(void* unused) {
    prctl(PR_SET_NAME, "poller");
    struct pollfd one = {.fd = pipe_ends[0], .events = POLLIN};
    poll(&one, 1, -1);
    return unused;
}

static void* locker(void* unused) {
    prctl(PR_SET_NAME, "locker");
    pthread_mutex_lock(&held);
    return unused;
}

static void wait_in_calls(void) {
    pthread_t thread;
    char byte;
    if (pipe(pipe_ends) != 0) die("pipe");
    pthread_mutex_lock(&held);
    printf("%d\n", getpid());
    fflush(stdout);
    if (pthread_create(&thread, NULL, sleeper, NULL) != 0) die("pthread_create");
    if (pthread_create(&thread, NULL, poller, NULL) != 0) die("pthread_create");
    if (pthread_create(&thread, NULL, locker, NULL) != 0) die("pthread_create");
    if (read(pipe_ends[0], &byte, 1) < 0) die("read");
    rest();
}

// In user space all the time.
static void spin(void) {
    printf("%d\n", getpid());
    fflush(stdout);
    for (volatile unsigned long turns = 0;; ++turns) {
    }
}

static int intrude(int argc, char** argv) {
    const char* technique = argc > 1 ? argv[1] : "";
    const char* word = argc > 2 ? argv[2] : "";
    if (strcmp(technique, "rest") == 0) rest();
    if (strcmp(technique, "ordinary") == 0) {
        become_ordinary();
        rest();
    }
    if (strcmp(technique, "name") == 0) call_itself(word);
    if (strcmp(technique, "argv") == 0) run_file("/proc/self/exe", word);
    if (strcmp(technique, "false-name") == 0) {
        copy_as("/tmp/dropped");
        run_file("/tmp/dropped", "/usr/sbin/sshd");
    }
    if (strcmp(technique, "memfd") == 0) memfd(word);
    if (strcmp(technique, "deleted") == 0) {
        copy_as(word);
        char* const words[] = {(char*)word, (char*)"remove", (char*)word, NULL};
        execv(word, words);
        die(word);
    }
    if (strcmp(technique, "remove") == 0) {
        unlink(word);
        rest();
    }
    if (strcmp(technique, "capable") == 0) capable();
    if (strcmp(technique, "orphan-root") == 0) orphan_root();
    if (strcmp(technique, "trace") == 0) trace(atoi(word));
    if (strcmp(technique, "packets") == 0) listen_to_packets();
    if (strcmp(technique, "ring") == 0) set_up_a_ring();
    if (strcmp(technique, "listen") == 0) wait_for_connections();
    if (strcmp(technique, "alter") == 0) alter_code(0x91);
    if (strcmp(technique, "breakpoints") == 0) alter_code(0xcc);
    if (strcmp(technique, "vdso") == 0) alter_vdso();
    if (strcmp(technique, "elf") == 0) map_code(1);
    if (strcmp(technique, "jit") == 0) map_code(0);
    if (strcmp(technique, "bpf") == 0) load_bpf(0);
    if (strcmp(technique, "bpf-write") == 0) load_bpf(1);
    if (strcmp(technique, "mark") == 0) mark(word, argc > 3 ? argv[3] : "");
    if (strcmp(technique, "calls") == 0) wait_in_calls();
    if (strcmp(technique, "spin") == 0) spin();
    if (strcmp(technique, "cgroup") == 0) enter_cgroup(word);
    if (strcmp(technique, "preload") == 0) run_with_library(word);
    if (strcmp(technique, "thread") == 0) leave_to_a_thread(argv + 1);  // "thread listen"
    // The same by a program that was dropped: "dropped packets".
    if (strcmp(technique, "dropped") == 0) {
        copy_as("/tmp/dropped");
        execv("/tmp/dropped", argv + 1);
        die("/tmp/dropped");
    }
    fprintf(stderr, "intruder: no such technique: %s\n", technique);
    return 2;
}

int main(int argc, char** argv) {
    return intrude(argc, argv);
}
