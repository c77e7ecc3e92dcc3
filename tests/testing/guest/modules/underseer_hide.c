// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
// A test fixture, made to be found: hides one process of the test guest and shows it again. It does
// nothing until told to, by writing to its module parameter:
//     echo "1 PID" > /sys/module/underseer_hide/parameters/command    task list only
//     echo "2 PID" > ...                                              and the pid IDR
//     echo "3 PID" > ...                                              and its css_set
//     echo "0"     > ...                                              puts everything back
#include <linux/cgroup.h>
#include <linux/idr.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/pid_namespace.h>
#include <linux/rculist.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>

static struct task_struct *hidden;
static struct pid *hidden_pid;
static int hidden_level;
static rwlock_t *tasklist;
static spinlock_t *css_set_lock_ptr;
static struct list_head *css_list;

// Locks are not exported; kprobes know where everything is.
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

static void hide(struct task_struct *task, int level)
{
	hidden_level = level;
	write_lock_irq(tasklist);
	list_del_rcu(&task->tasks);
	if (level >= 2) {
		struct upid *upid = &hidden_pid->numbers[0];

		idr_replace(&upid->ns->idr, NULL, upid->nr);
	}
	write_unlock_irq(tasklist);
	if (level >= 3) {
		spin_lock_irq(css_set_lock_ptr);
		css_list = task->cg_list.prev;
		list_del_init(&task->cg_list);
		spin_unlock_irq(css_set_lock_ptr);
	}
}

static void show(void)
{
	if (!hidden)
		return;
	write_lock_irq(tasklist);
	list_add_tail_rcu(&hidden->tasks, &init_task.tasks);
	if (hidden_level >= 2) {
		struct upid *upid = &hidden_pid->numbers[0];

		idr_replace(&upid->ns->idr, hidden_pid, upid->nr);
	}
	write_unlock_irq(tasklist);
	if (hidden_level >= 3) {
		spin_lock_irq(css_set_lock_ptr);
		list_add(&hidden->cg_list, css_list);
		spin_unlock_irq(css_set_lock_ptr);
	}
	put_pid(hidden_pid);
	put_task_struct(hidden);
	hidden = NULL;
}

static int set_command(const char *text, const struct kernel_param *param)
{
	int level = 0, number = 0;

	if (sscanf(text, "%d %d", &level, &number) < 1)
		return -EINVAL;
	show();
	if (level == 0)
		return 0;
	hidden_pid = find_get_pid(number);
	hidden = get_pid_task(hidden_pid, PIDTYPE_PID);
	if (!hidden) {
		put_pid(hidden_pid);
		return -ESRCH;
	}
	hide(hidden, level);
	return 0;
}

static const struct kernel_param_ops command_ops = { .set = set_command };
module_param_cb(command, &command_ops, NULL, 0200);

static int __init start(void)
{
	int error = find_lookup();

	if (error)
		return error;
	tasklist = (rwlock_t *)lookup("tasklist_lock");
	css_set_lock_ptr = (spinlock_t *)lookup("css_set_lock");
	return tasklist && css_set_lock_ptr ? 0 : -ENOENT;
}

static void __exit stop(void)
{
	show();
}

module_init(start);
module_exit(stop);
MODULE_LICENSE("Dual BSD/GPL");
MODULE_DESCRIPTION("Underseer test fixture: hides a process so that it can be found");
