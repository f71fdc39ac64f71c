// SPDX-License-Identifier: MIT OR Apache-2.0
// Who opens which file: `monitor trace kprobe vm1:do_sys_openat2 opens`.
#include "periscope_bpf.h"

SEC("kprobe/do_sys_openat2")
int opens(struct pt_regs *ctx)
{
	__u64 process = bpf_get_current_pid_tgid() >> 32;
	__u64 user = bpf_get_current_uid_gid();
	char comm[16];
	char path[64];

	bpf_get_current_comm(comm, sizeof(comm));
	if (bpf_probe_read_user_str(path, sizeof(path), (const void *)PT_REGS_PARM2(ctx)) < 0)
		return 0;
	bpf_printk("%s (process %d, user %d, group %d) opens %s", comm, process, (__u32)user,
		   user >> 32, path);
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
