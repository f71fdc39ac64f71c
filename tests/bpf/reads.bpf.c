// SPDX-License-Identifier: MIT OR Apache-2.0
// What vfs_read() is given, and what becomes of it, through its arguments: for tests/linux.rs.
#include "periscope_bpf.h"

struct super_block {
	unsigned long s_magic;
} __attribute__((preserve_access_index));

struct inode {
	unsigned long i_ino;
	struct super_block *i_sb;
} __attribute__((preserve_access_index));

struct file {
	struct inode *f_inode;
} __attribute__((preserve_access_index));

struct task_struct {
	int tgid;
} __attribute__((preserve_access_index));

// Of reads of so many bytes.
const volatile __u64 size;

// An address of the kernel's half where nothing is.
#define NOWHERE 0xffffdead00000000ULL

// In a variable that is kept on the stack, a context is what only the interpreter can follow.
#ifdef INTERPRETED
#define CONTEXT(ctx) ({ __u64 *volatile kept = ctx; kept; })
#else
#define CONTEXT(ctx) ctx
#endif

SEC("fentry/vfs_read")
int enter(__u64 *context)
{
	__u64 *ctx = CONTEXT(context);
	struct file *file = (void *)ctx[0];

	if (ctx[2] != size)
		return 0;
	bpf_printk("enters inode %lu magic %lx process %d cookie %lu vm %u exit %lx",
		   file->f_inode->i_ino, file->f_inode->i_sb->s_magic,
		   bpf_get_current_task_btf()->tgid, bpf_get_attach_cookie(context),
		   bpf_get_vm_id(), bpf_get_exit_reason() >> 26 & 0x3f);
	return 0;
}

SEC("fexit/vfs_read")
int leave(__u64 *context)
{
	__u64 *ctx = CONTEXT(context);
	struct file *file = (void *)ctx[0];
	struct inode *nowhere = (void *)(file->f_inode->i_ino + NOWHERE);
	__u64 result = 0;

	if (ctx[2] != size)
		return 0;
	bpf_get_func_ret(context, &result);
	bpf_printk("leaves inode %lu, %ld and %ld of %lu bytes, of %ld arguments, nowhere %lu %lu",
		   file->f_inode->i_ino, ctx[4], result, ctx[2], bpf_get_func_arg_cnt(context),
		   nowhere->i_ino, nowhere->i_sb->s_magic);
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
