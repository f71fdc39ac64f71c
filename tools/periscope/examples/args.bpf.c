// SPDX-License-Identifier: MIT OR Apache-2.0
// Prints the first four arguments of a function.
#include "periscope_bpf.h"

SEC("kprobe/do_sys_openat2")
int args(struct pt_regs *ctx)
{
	bpf_printk("x0=%#lx x1=%#lx x2=%#lx x3=%#lx", PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx),
		   PT_REGS_PARM3(ctx), PT_REGS_PARM4(ctx));
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
