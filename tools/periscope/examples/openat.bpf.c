// SPDX-License-Identifier: MIT OR Apache-2.0
// How openat(2) is called and how it ends. Its programs say where they belong:
//
//	periscope link openat.bpf.o --kernel IMAGE
//	monitor trace attach openat vm1
//	monitor map dump openat counts
#include "periscope_bpf.h"

#define O_CREAT 0100

enum count { CALLS, CREATING, RETURNS, FAILURES, COUNTS };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, COUNTS);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

// What the kernel calls the registers that a system call came with; where they lie there it says itself.
struct pt_regs___caller {
	__u64 regs[31];
} __attribute__((preserve_access_index));

static __always_inline void add(enum count which)
{
	__u32 key = which;
	__u64 *value = bpf_map_lookup_elem(&counts, &key);

	if (value)
		__sync_fetch_and_add(value, 1);
}

SEC("ksyscall/openat")
int called(struct pt_regs *ctx)
{
	// A system call's function gets the caller's registers, not its arguments.
	struct pt_regs___caller *caller = (void *)PT_REGS_PARM1(ctx);
	__u64 flags = 0;

	bpf_probe_read_kernel(&flags, sizeof(flags), &caller->regs[2]);
	add(CALLS);
	if (flags & O_CREAT)
		add(CREATING);
	return 0;
}

SEC("kretsyscall/openat")
int returned(struct pt_regs *ctx)
{
	add(RETURNS);
	if ((__s64)PT_REGS_RC(ctx) < 0)
		add(FAILURES);
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
