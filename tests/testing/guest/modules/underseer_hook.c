// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
// A test fixture, made to be found: hooks the kernel in one way at a time. Every hook passes on to what
// was there and changes nothing that anybody sees. It does nothing until told to, by writing to its
// module parameter, and says "Operation not supported" where this kernel has no such thing:
//     echo syscall    > /sys/module/underseer_hook/parameters/command    sys_call_table: getdents64
//     echo switch     > ...    the jump to kill in x64_sys_call
//     echo idt        > ...    the gate of interrupt 0x81, which nothing raises
//     echo seq        > ...    tcp4_seq_ops.show
//     echo proc       > ...    proc_root_operations.iterate_shared
//     echo procops    > ...    proc_root's pointer to proc_root_operations: to a copy
//     echo ftrace     > ...    an ftrace function on getdents64 that may change the instruction pointer
//     echo kprobe     > ...    a kprobe on kill
//     echo kretprobe  > ...    a kretprobe on kill
//     echo tracepoint > ...    a probe of the tracepoint sys_enter
//     echo netfilter  > ...    IPv4 packets to this machine
//     echo packet     > ...    packets of all protocols
//     echo keyboard   > ...    a notifier of keys
//     echo reboot     > ...    a notifier of reboots
//     echo ldisc      > ...    n_tty_ops.receive_buf2
//     echo lsm        > ...    the security hook file_open
//     echo timer      > ...    a timer that starts itself again
//     echo work       > ...    delayed work that queues itself again
//     echo text       > ...    a call in place of the nop that getcpu starts with
//     echo code       > ...    an executable page that belongs to nothing
//     echo flip       > ...    a bit of what fills the space between two functions
//     echo bpf        > ...    a BPF program named underseer out of the table of programs
//     echo bpf-twice  > ...    the program u_fentry of bpf_user out of it and out of the symbols
//     echo bpf-map    > ...    its map u_hash out of the table of maps
//     echo bpf-raw    > ...    the link of its program u_raw out of the table of links
//     echo bpf-fentry > ...    that of u_fentry
//     echo bpf-group  > ...    that of u_group_link
//     echo 0          > ...    puts everything back
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/ftrace.h>
#include <linux/idr.h>
#include <linux/if_ether.h>
#include <linux/kprobes.h>
#include <linux/lsm_hooks.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/netfilter_ipv4.h>
#include <linux/rcupdate.h>
#include <linux/reboot.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/static_call.h>
#include <linux/timer.h>
#include <linux/tracepoint.h>
#include <linux/tty.h>
#include <linux/tty_ldisc.h>
#include <linux/version.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>
#include <asm/desc_defs.h>
#include <asm/unistd.h>
#include <net/net_namespace.h>
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 10, 0)
#include <linux/execmem.h>
#endif

#define CALL_SIZE 5
#define UNUSED_VECTOR 0x81
#define STATIC_LSM_CALLS (LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0))

// Little of this is exported; kprobes know where everything is.
static unsigned long (*lookup)(const char *name);

static int find_lookup(void)
{
	struct kprobe probe = { .symbol_name = "kallsyms_lookup_name" };
	int error = register_kprobe(&probe);

	if (error)
		return error;
	lookup = (void *)probe.addr;
	unregister_kprobe(&probe);
	return 0;
}

static void *find(const char *name)
{
	return (void *)lookup(name);
}

// Writes to the kernel's image, most of which is read-only, through another mapping of its page.
static int write_image(void *to, const void *from, int words)
{
	struct page *page = pfn_to_page(__pa_symbol(to) >> PAGE_SHIFT);
	void *alias = vmap(&page, 1, VM_MAP, PAGE_KERNEL);
	u64 *target = alias + offset_in_page(to);
	const u64 *source = from;
	int i;

	if (!alias)
		return -ENOMEM;
	for (i = 0; i < words; i++)
		WRITE_ONCE(target[i], source[i]);
	vunmap(alias);
	return 0;
}

// Pointers: one is ours at a time.
static void *place;
static void *before;

// Serves for every function that is hooked: up to four arguments, whatever they are, are passed on in
// whole registers, and so is the result. It ends in a jump, so that nothing sleeps in it.
static unsigned long pass_on(unsigned long a, unsigned long b, unsigned long c, unsigned long d)
{
	unsigned long (*original)(unsigned long, unsigned long, unsigned long, unsigned long) = before;

	return original(a, b, c, d);
}

static int set_pointer(void *where, void *value)
{
	place = where;
	before = *(void **)where;
	return write_image(where, &value, 1);
}

static void restore_pointer(void)
{
	write_image(place, &before, 1);
}

static int start_syscall(void)
{
	void **table = find("sys_call_table");

	return table ? set_pointer(&table[__NR_getdents64], pass_on) : -EOPNOTSUPP;
}

// What fills the space before a function is never run.
static int start_flip(void)
{
	static const char *const functions[] = {
		"__x64_sys_getcpu", "__x64_sys_sysinfo", "__x64_sys_getrusage", "__x64_sys_times", "__x64_sys_umask",
		"__x64_sys_getpriority", "__x64_sys_setns", "__x64_sys_acct", "__x64_sys_sync", "__x64_sys_syncfs",
		"__x64_sys_chroot", "__x64_sys_vhangup", "__x64_sys_ustat", "__x64_sys_personality",
	};
	static const u64 fillings[] = { 0x9090909090909090, 0xcccccccccccccccc, 0x0000000000841f0f };
	int i, kind;

	for (i = 0; i < ARRAY_SIZE(functions); i++) {
		u64 *at = find(functions[i]);

		for (kind = 0; at && kind < ARRAY_SIZE(fillings); kind++)
			if (at[-1] == fillings[kind] && offset_in_page(at))
				return set_pointer(&at[-1], (void *)(fillings[kind] ^ 1ULL << 56));
	}
	return -EOPNOTSUPP;
}

static int start_seq(void)
{
	struct seq_operations *operations = find("tcp4_seq_ops");

	return operations ? set_pointer(&operations->show, pass_on) : -EOPNOTSUPP;
}

static int start_proc(void)
{
	struct file_operations *operations = find("proc_root_operations");

	return operations ? set_pointer(&operations->iterate_shared, pass_on) : -EOPNOTSUPP;
}

static int start_procops(void)
{
	// Never freed: a proc that was mounted meanwhile keeps it.
	static struct file_operations *copy;
	const struct file_operations *operations = find("proc_root_operations");
	void **root = find("proc_root");
	int i;

	if (!operations || !root)
		return -EOPNOTSUPP;
	for (i = 0; i < 256 / sizeof(*root) && root[i] != operations; i++)
		;
	if (i == 256 / sizeof(*root))
		return -EOPNOTSUPP;
	if (!copy)
		copy = kmemdup(operations, sizeof(*operations), GFP_KERNEL);
	return copy ? set_pointer(&root[i], copy) : -ENOMEM;
}

static int start_ldisc(void)
{
	struct tty_ldisc_ops *operations = find("n_tty_ops");

	return operations ? set_pointer(&operations->receive_buf2, pass_on) : -EOPNOTSUPP;
}

#if STATIC_LSM_CALLS
static struct lsm_static_call *lsm_call;

static int update_lsm_call(void *function)
{
	void (*update)(struct static_call_key *, void *, void *) = find("__static_call_update");

	if (!update)
		return -EOPNOTSUPP;
	update(lsm_call->key, lsm_call->trampoline, function);
	return 0;
}

static int start_lsm(void)
{
	struct lsm_static_calls_table *table = find("static_calls_table");
	int i;

	for (i = 0; table && i < ARRAY_SIZE(table->file_open); i++) {
		lsm_call = &table->file_open[i];
		if (lsm_call->hl && lsm_call->key->func) {
			before = lsm_call->key->func;
			return update_lsm_call(pass_on);
		}
	}
	return -EOPNOTSUPP;
}

static void stop_lsm(void)
{
	update_lsm_call(before);
}
#else
static int allow_file_open(struct file *file)
{
	return 0;
}

static struct security_hook_list lsm_hook = { .hook.file_open = allow_file_open, .lsm = "underseer" };

static int start_lsm(void)
{
	struct security_hook_heads *heads = find("security_hook_heads");
	struct hlist_node **last;

	if (!heads)
		return -EOPNOTSUPP;
	for (last = &heads->file_open.first; *last; last = &(*last)->next)
		;
	lsm_hook.head = &heads->file_open;
	lsm_hook.list.next = NULL;
	lsm_hook.list.pprev = last;
	return set_pointer(last, &lsm_hook.list);
}

static void stop_lsm(void)
{
	restore_pointer();
}
#endif

static gate_desc gate_before;

static void never_raised(void)
{
}

static int start_idt(void)
{
	gate_desc *table = find("idt_table");
	unsigned long handler = (unsigned long)never_raised;
	gate_desc gate;

	if (!table || !table[UNUSED_VECTOR].bits.p)
		return -EOPNOTSUPP;
	gate = gate_before = table[UNUSED_VECTOR];
	gate.offset_low = (u16)handler;
	gate.offset_middle = (u16)(handler >> 16);
	gate.offset_high = (u32)(handler >> 32);
	return write_image(&table[UNUSED_VECTOR], &gate, sizeof(gate) / sizeof(u64));
}

static void stop_idt(void)
{
	gate_desc *table = find("idt_table");

	write_image(&table[UNUSED_VECTOR], &gate_before, sizeof(gate_before) / sizeof(u64));
}

// Instructions: one of five bytes is ours at a time. No CPU runs half of one.
static u8 *patched;
static u8 code_before[CALL_SIZE];

static int write_instruction(const u8 *code)
{
	void (*poke)(void *, const void *, size_t, const void *) = find("text_poke_bp");
	struct mutex *lock = find("text_mutex");

	if (!poke)
		poke = find("smp_text_poke_single");
	if (!poke || !lock)
		return -EOPNOTSUPP;
	mutex_lock(lock);
	poke(patched, code, CALL_SIZE, NULL);
	mutex_unlock(lock);
	return 0;
}

static int patch(u8 *at, u8 operation, void *target)
{
	s32 distance = (u8 *)target - (at + CALL_SIZE);
	u8 code[CALL_SIZE] = { operation };

	memcpy(code + 1, &distance, sizeof(distance));
	memcpy(code_before, at, CALL_SIZE);
	patched = at;
	return write_instruction(code);
}

static void unpatch(void)
{
	write_instruction(code_before);
}

static int start_switch(void)
{
	int (*size_of)(unsigned long, unsigned long *, unsigned long *) = find("kallsyms_lookup_size_offset");
	u8 *at = find("x64_sys_call");
	unsigned long size, offset;
	s32 distance;

	before = find("__x64_sys_kill");
	if (!at || !before || !size_of || !size_of((unsigned long)at, &size, &offset))
		return -EOPNOTSUPP;
	for (; size >= CALL_SIZE; at++, size--) {
		memcpy(&distance, at + 1, sizeof(distance));
		if ((*at == 0xe8 || *at == 0xe9) && at + CALL_SIZE + distance == (u8 *)before)
			return patch(at, *at, pass_on);
	}
	return -EOPNOTSUPP;
}

// Uses no register: it is called before the arguments of a function are used.
static noinline notrace void return_at_once(void)
{
	asm volatile("");
}

static bool is_nop(const u8 *at)
{
	static const u8 p6[CALL_SIZE] = { 0x0f, 0x1f, 0x44, 0x00, 0x00 };
	static const u8 k8[CALL_SIZE] = { 0x66, 0x66, 0x66, 0x66, 0x90 }; // of AMD's CPUs until 5.12

	return !memcmp(at, p6, CALL_SIZE) || !memcmp(at, k8, CALL_SIZE);
}

static int start_text(void)
{
	u8 *at = find("__x64_sys_getcpu");

	if (at && !is_nop(at))
		at += 4; // endbr64, or what became of it
	if (!at || !is_nop(at))
		return -EOPNOTSUPP;
	return patch(at, 0xe8, return_at_once);
}

#if LINUX_VERSION_CODE >= KERNEL_VERSION(5, 11, 0)
static void see_call(unsigned long ip, unsigned long parent, struct ftrace_ops *ops, struct ftrace_regs *regs)
#else
static void see_call(unsigned long ip, unsigned long parent, struct ftrace_ops *ops, struct pt_regs *regs)
#endif
{
}

static struct ftrace_ops trace = {
	.func = see_call,
	.flags = FTRACE_OPS_FL_SAVE_REGS | FTRACE_OPS_FL_IPMODIFY,
};

static int start_ftrace(void)
{
	unsigned long (*location)(unsigned long) = find("ftrace_location");
	unsigned long at = lookup("__x64_sys_getdents64");
	int error;

	if (at && location && location(at))
		at = location(at);
	if (!at)
		return -EOPNOTSUPP;
	error = ftrace_set_filter_ip(&trace, at, 0, 1);
	return error ? error : register_ftrace_function(&trace);
}

static void stop_ftrace(void)
{
	unregister_ftrace_function(&trace);
}

static int see_probe(struct kprobe *probe, struct pt_regs *regs)
{
	return 0;
}

static struct kprobe kprobe;

static int start_kprobe(void)
{
	kprobe = (struct kprobe){ .symbol_name = "__x64_sys_kill", .pre_handler = see_probe };
	return register_kprobe(&kprobe);
}

static void stop_kprobe(void)
{
	unregister_kprobe(&kprobe);
}

static int see_return(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	return 0;
}

static struct kretprobe kretprobe;

static int start_kretprobe(void)
{
	kretprobe = (struct kretprobe){ .kp.symbol_name = "__x64_sys_kill", .handler = see_return };
	return register_kretprobe(&kretprobe);
}

static void stop_kretprobe(void)
{
	unregister_kretprobe(&kretprobe);
}

static struct tracepoint *sys_enter;

static void see_system_call(void *data, struct pt_regs *regs, long number)
{
}

static void keep_sys_enter(struct tracepoint *tracepoint, void *data)
{
	if (!strcmp(tracepoint->name, "sys_enter"))
		sys_enter = tracepoint;
}

static int start_tracepoint(void)
{
	for_each_kernel_tracepoint(keep_sys_enter, NULL);
	return sys_enter ? tracepoint_probe_register(sys_enter, see_system_call, NULL) : -EOPNOTSUPP;
}

static void stop_tracepoint(void)
{
	tracepoint_probe_unregister(sys_enter, see_system_call, NULL);
	tracepoint_synchronize_unregister();
}

static unsigned int accept(void *data, struct sk_buff *buffer, const struct nf_hook_state *state)
{
	return NF_ACCEPT;
}

static const struct nf_hook_ops packet_filter = {
	.hook = accept,
	.pf = NFPROTO_IPV4,
	.hooknum = NF_INET_LOCAL_IN,
	.priority = NF_IP_PRI_LAST,
};

static int start_netfilter(void)
{
	return nf_register_net_hook(&init_net, &packet_filter);
}

static void stop_netfilter(void)
{
	nf_unregister_net_hook(&init_net, &packet_filter);
}

static int see_packet(struct sk_buff *buffer, struct net_device *device, struct packet_type *type,
		      struct net_device *original)
{
	consume_skb(buffer);
	return 0;
}

static struct packet_type packets = {
	.type = cpu_to_be16(ETH_P_ALL),
	.func = see_packet,
	.af_packet_net = &init_net, // newer kernels keep a list per namespace only
};

static int start_packet(void)
{
	dev_add_pack(&packets);
	return 0;
}

static void stop_packet(void)
{
	dev_remove_pack(&packets);
}

static int see_event(struct notifier_block *block, unsigned long event, void *data)
{
	return NOTIFY_DONE;
}

static struct notifier_block notifier = { .notifier_call = see_event };

static int notify_of_keys(const char *how)
{
	int (*change)(struct notifier_block *) = find(how);

	return change ? change(&notifier) : -EOPNOTSUPP;
}

static int start_keyboard(void)
{
	return notify_of_keys("register_keyboard_notifier");
}

static void stop_keyboard(void)
{
	notify_of_keys("unregister_keyboard_notifier");
}

static int start_reboot(void)
{
	return register_reboot_notifier(&notifier);
}

static void stop_reboot(void)
{
	unregister_reboot_notifier(&notifier);
}

static void timer_again(struct timer_list *timer)
{
	mod_timer(timer, jiffies + HZ);
}

static DEFINE_TIMER(every_second, timer_again);

static int start_timer(void)
{
	mod_timer(&every_second, jiffies + HZ);
	return 0;
}

static void stop_timer(void)
{
	timer_delete_sync(&every_second);
}

static void work_again(struct work_struct *work)
{
	schedule_delayed_work(to_delayed_work(work), HZ);
}

static DECLARE_DELAYED_WORK(work_every_second, work_again);

static int start_work(void)
{
	schedule_delayed_work(&work_every_second, HZ);
	return 0;
}

static void stop_work(void)
{
	cancel_delayed_work_sync(&work_every_second);
}

// Lets the kernel write to what is read-only, and forgets to take it back.
static void set_write_protection(void *on)
{
	unsigned long value = read_cr0();

	value = on ? value | X86_CR0_WP : value & ~X86_CR0_WP;
	asm volatile("mov %0, %%cr0" : : "r"(value) : "memory");
}

static int start_writing(void)
{
	on_each_cpu(set_write_protection, NULL, 1);
	return 0;
}

static void stop_writing(void)
{
	on_each_cpu(set_write_protection, (void *)1, 1);
}

// What is out of a table of BPF's, and where.
static struct {
	struct idr *table;
	spinlock_t *lock;
	void *object;
	int id;
} hidden;

static void set_hidden(void *object)
{
	unsigned long flags;

	spin_lock_irqsave(hidden.lock, flags);
	idr_replace(hidden.table, object, hidden.id);
	spin_unlock_irqrestore(hidden.lock, flags);
}

// Takes out the first object that has the name.
static int hide_object(const char *table, const char *lock, bool (*has_name)(void *, const char *),
		       const char *name)
{
	hidden.table = find(table);
	hidden.lock = find(lock);
	if (!hidden.table || !hidden.lock)
		return -EOPNOTSUPP;
	idr_for_each_entry(hidden.table, hidden.object, hidden.id)
		if (has_name(hidden.object, name)) {
			set_hidden(NULL);
			return 0;
		}
	return -ENOENT;
}

static bool program_is(void *program, const char *name)
{
	return !strcmp(((struct bpf_prog *)program)->aux->name, name);
}

static bool map_is(void *map, const char *name)
{
	return !strcmp(((struct bpf_map *)map)->name, name);
}

static bool link_is_of(void *link, const char *name)
{
	return ((struct bpf_link *)link)->prog && program_is(((struct bpf_link *)link)->prog, name);
}

static int start_bpf(void)
{
	return hide_object("prog_idr", "prog_idr_lock", program_is, "underseer");
}

static int start_bpf_map(void)
{
	return hide_object("map_idr", "map_idr_lock", map_is, "u_hash");
}

static int start_bpf_raw(void)
{
	return hide_object("link_idr", "link_idr_lock", link_is_of, "u_raw");
}

static int start_bpf_fentry(void)
{
	return hide_object("link_idr", "link_idr_lock", link_is_of, "u_fentry");
}

static int start_bpf_group(void)
{
	return hide_object("link_idr", "link_idr_lock", link_is_of, "u_group_link");
}

static void stop_bpf(void)
{
	set_hidden(hidden.object);
}

// Only what reads the list of symbols misses it: the tree that finds them by address is left.
static int start_bpf_twice(void)
{
	int error = hide_object("prog_idr", "prog_idr_lock", program_is, "u_fentry");

	if (!error && !find("bpf_kallsyms")) {
		stop_bpf();
		error = -EOPNOTSUPP;
	}
	if (!error)
		list_del_rcu(&((struct bpf_prog *)hidden.object)->aux->ksym.lnode);
	return error;
}

static void stop_bpf_twice(void)
{
	struct bpf_prog *program = hidden.object;

	list_add_tail_rcu(&program->aux->ksym.lnode, (struct list_head *)find("bpf_kallsyms"));
	stop_bpf();
}

// The page is full of returns.
static void *own_page;

static int protect(const char *how)
{
	int (*change)(unsigned long, int) = find(how);

	return change ? change((unsigned long)own_page, 1) : -EOPNOTSUPP;
}

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 10, 0)
static int fill_own_page(void)
{
	void *(*allocate)(enum execmem_type, size_t) = find("execmem_alloc");
	void *(*set)(void *, int, size_t) = find("text_poke_set"); // it may be read-only already

	if (!allocate || !set || !find("execmem_free"))
		return -EOPNOTSUPP;
	own_page = allocate(EXECMEM_MODULE_TEXT, PAGE_SIZE);
	if (!own_page)
		return -ENOMEM;
	set(own_page, 0xc3, PAGE_SIZE);
	return 0;
}

// Freeing resets what the page may be used for.
static void stop_code(void)
{
	void (*release)(void *) = find("execmem_free");

	release(own_page);
}
#else
static int fill_own_page(void)
{
	void *(*allocate)(unsigned long) = find("module_alloc");

	if (!allocate || !find("module_memfree"))
		return -EOPNOTSUPP;
	own_page = allocate(PAGE_SIZE);
	if (!own_page)
		return -ENOMEM;
	memset(own_page, 0xc3, PAGE_SIZE);
	return 0;
}

static void stop_code(void)
{
	void (*release)(void *) = find("module_memfree");

	protect("set_memory_nx");
	protect("set_memory_rw");
	release(own_page);
}
#endif

static int start_code(void)
{
	int error = fill_own_page();

	if (error)
		return error;
	error = protect("set_memory_ro");
	if (!error)
		error = protect("set_memory_x");
	if (error)
		stop_code();
	return error;
}

static const struct hook {
	const char *name;
	int (*start)(void);
	void (*stop)(void);
} hooks[] = {
	{ "syscall", start_syscall, restore_pointer },
	{ "switch", start_switch, unpatch },
	{ "idt", start_idt, stop_idt },
	{ "seq", start_seq, restore_pointer },
	{ "proc", start_proc, restore_pointer },
	{ "procops", start_procops, restore_pointer },
	{ "ftrace", start_ftrace, stop_ftrace },
	{ "kprobe", start_kprobe, stop_kprobe },
	{ "kretprobe", start_kretprobe, stop_kretprobe },
	{ "tracepoint", start_tracepoint, stop_tracepoint },
	{ "netfilter", start_netfilter, stop_netfilter },
	{ "packet", start_packet, stop_packet },
	{ "keyboard", start_keyboard, stop_keyboard },
	{ "reboot", start_reboot, stop_reboot },
	{ "ldisc", start_ldisc, restore_pointer },
	{ "lsm", start_lsm, stop_lsm },
	{ "timer", start_timer, stop_timer },
	{ "work", start_work, stop_work },
	{ "text", start_text, unpatch },
	{ "code", start_code, stop_code },
	{ "flip", start_flip, restore_pointer },
	{ "bpf", start_bpf, stop_bpf },
	{ "bpf-twice", start_bpf_twice, stop_bpf_twice },
	{ "bpf-map", start_bpf_map, stop_bpf },
	{ "bpf-raw", start_bpf_raw, stop_bpf },
	{ "bpf-fentry", start_bpf_fentry, stop_bpf },
	{ "bpf-group", start_bpf_group, stop_bpf },
	{ "wp", start_writing, stop_writing },
};

static const struct hook *active;

static void put_back(void)
{
	if (!active)
		return;
	active->stop();
	active = NULL;
	synchronize_rcu_tasks(); // nothing runs in our functions any more
}

static int set_command(const char *text, const struct kernel_param *param)
{
	int i, error;

	put_back();
	if (sysfs_streq(text, "0"))
		return 0;
	for (i = 0; i < ARRAY_SIZE(hooks); i++) {
		if (!sysfs_streq(text, hooks[i].name))
			continue;
		error = hooks[i].start();
		if (!error)
			active = &hooks[i];
		return error;
	}
	return -EINVAL;
}

static const struct kernel_param_ops command_ops = { .set = set_command };
module_param_cb(command, &command_ops, NULL, 0200);

static int __init start(void)
{
	return find_lookup();
}

static void __exit stop(void)
{
	put_back();
}

module_init(start);
module_exit(stop);
MODULE_LICENSE("Dual BSD/GPL");
MODULE_DESCRIPTION("Underseer test fixture: hooks the kernel in each way there is so that it can be found");
