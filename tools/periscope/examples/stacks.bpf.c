// SPDX-License-Identifier: MIT OR Apache-2.0
// How a function is reached, and how often: `monitor map dump stacks counts`, `monitor map dump stacks traces`.
#include "periscope_bpf.h"

struct path {
	__s64 kernel;
	__s64 user;
};

struct {
	__uint(type, BPF_MAP_TYPE_STACK_TRACE);
	__uint(max_entries, 1024);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, 32 * sizeof(__u64));
} traces SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct path);
	__type(value, __u64);
} counts SEC(".maps");

SEC("kprobe/vfs_read")
int stacks(struct pt_regs *ctx)
{
	struct path path = {
		.kernel = bpf_get_stackid(ctx, &traces, 0),
		.user = bpf_get_stackid(ctx, &traces, BPF_F_USER_STACK),
	};
	__u64 one = 1;
	__u64 *count = bpf_map_lookup_elem(&counts, &path);

	if (count)
		__sync_fetch_and_add(count, 1);
	else
		bpf_map_update_elem(&counts, &path, &one, BPF_NOEXIST);
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
