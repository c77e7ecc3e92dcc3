// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
// A test fixture, made to be found: takes itself out of the kernel's records of modules and comes
// back. It does nothing until told to, by writing to its module parameter:
//     echo 1 > /sys/module/underseer_unseen/parameters/command    out of the list (lsmod)
//     echo 2 > ...                                                and out of /sys/module's set
//     echo 3 > ...                                                and out of the list of warnings
//     echo 0 > ...                                                everything is as it was
#include <linux/kobject.h>
#include <linux/module.h>
#include <linux/rculist.h>

static int hidden;
static struct list_head *before_list, *before_entry, *before_bug;

static void come_back(void)
{
	struct kobject *object = &THIS_MODULE->mkobj.kobj;

	if (hidden >= 1)
		list_add_rcu(&THIS_MODULE->list, before_list);
	if (hidden >= 2) {
		spin_lock(&object->kset->list_lock);
		list_add(&object->entry, before_entry);
		spin_unlock(&object->kset->list_lock);
	}
#ifdef CONFIG_GENERIC_BUG
	if (hidden >= 3)
		list_add_rcu(&THIS_MODULE->bug_list, before_bug);
#endif
	hidden = 0;
}

static void hide(int level)
{
	struct kobject *object = &THIS_MODULE->mkobj.kobj;

	before_list = THIS_MODULE->list.prev;
	list_del_rcu(&THIS_MODULE->list);
	if (level >= 2) {
		spin_lock(&object->kset->list_lock);
		before_entry = object->entry.prev;
		list_del_init(&object->entry);
		spin_unlock(&object->kset->list_lock);
	}
#ifdef CONFIG_GENERIC_BUG
	if (level >= 3) {
		before_bug = THIS_MODULE->bug_list.prev;
		list_del_rcu(&THIS_MODULE->bug_list);
	}
#endif
	hidden = level;
}

static int set_command(const char *text, const struct kernel_param *param)
{
	int level = 0;

	if (kstrtoint(text, 10, &level))
		return -EINVAL;
	come_back();
	if (level > 0)
		hide(level);
	return 0;
}

static const struct kernel_param_ops command_ops = { .set = set_command };
module_param_cb(command, &command_ops, NULL, 0200);

static int __init start(void)
{
	return 0;
}

static void __exit stop(void)
{
	come_back();
}

module_init(start);
module_exit(stop);
MODULE_LICENSE("Dual BSD/GPL");
MODULE_DESCRIPTION("Underseer test fixture: takes itself out of the lists of modules so that it can be found");
