// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
// A test fixture, made to be found: gives one process of the test guest what only code inside the
// kernel can give it, and takes it back. It does nothing until told to, by writing to its module
// parameter:
//     echo "init_cred PID"     > /sys/module/underseer_pose/parameters/command    init_cred itself
//     echo "share PID OTHER"   > ...    the credentials of another process
//     echo "uid PID"           > ...    uid 0, written over its own credentials
//     echo "kthread PID"       > ...    the flag of a kernel thread
//     echo "0"                 > ...    puts everything back
#include <linux/cred.h>
#include <linux/module.h>
#include <linux/pid.h>
#include <linux/sched.h>
#include <linux/sched/task.h>

static struct task_struct *posing;
static const struct cred *own_cred;
static kuid_t own_uid;
static bool flagged;

static struct task_struct *task_of(int number)
{
	struct pid *pid = find_get_pid(number);
	struct task_struct *task = get_pid_task(pid, PIDTYPE_PID);

	put_pid(pid);
	return task;
}

// The caller sees to it that the process sleeps and lives until it has its own again.
static void use_cred(const struct cred *cred)
{
	rcu_assign_pointer(posing->real_cred, cred);
	rcu_assign_pointer(posing->cred, cred);
}

static void set_uid(kuid_t uid)
{
	struct cred *cred = (struct cred *)posing->real_cred;

	cred->uid = cred->euid = cred->suid = cred->fsuid = uid;
}

static void put_back(void)
{
	if (!posing)
		return;
	if (own_cred)
		use_cred(own_cred);
	if (uid_valid(own_uid))
		set_uid(own_uid);
	if (flagged)
		posing->flags &= ~PF_KTHREAD;
	own_cred = NULL;
	own_uid = INVALID_UID;
	flagged = false;
	put_task_struct(posing);
	posing = NULL;
}

static int set_command(const char *text, const struct kernel_param *param)
{
	char what[16] = "";
	int number = 0, other = 0;

	put_back();
	if (sscanf(text, "%15s %d %d", what, &number, &other) < 2)
		return 0;
	posing = task_of(number);
	if (!posing)
		return -ESRCH;
	if (!strcmp(what, "init_cred")) {
		own_cred = posing->real_cred;
		use_cred(init_task.real_cred);
	} else if (!strcmp(what, "share")) {
		struct task_struct *owner = task_of(other);

		if (owner) {
			own_cred = posing->real_cred;
			use_cred(owner->real_cred);
			put_task_struct(owner);
		}
	} else if (!strcmp(what, "uid")) {
		own_uid = posing->real_cred->uid;
		set_uid(GLOBAL_ROOT_UID);
	} else if (!strcmp(what, "kthread")) {
		flagged = true;
		posing->flags |= PF_KTHREAD;
	}
	return 0;
}

static const struct kernel_param_ops command_ops = { .set = set_command };
module_param_cb(command, &command_ops, NULL, 0200);

static int __init start(void)
{
	own_uid = INVALID_UID;
	return 0;
}

static void __exit stop(void)
{
	put_back();
}

module_init(start);
module_exit(stop);
MODULE_LICENSE("Dual BSD/GPL");
MODULE_DESCRIPTION("Underseer test fixture: gives a process what is not its own so that it can be found");
