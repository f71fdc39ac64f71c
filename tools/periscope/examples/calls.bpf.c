// SPDX-License-Identifier: MIT OR Apache-2.0
// How often a function is called, by its first argument: `monitor map dump calls counts`.
#include "periscope_bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, __u64);
} counts SEC(".maps");

// Calls that found no room in the map.
__u64 dropped;

SEC("kprobe/vfs_read")
int calls(struct pt_regs *ctx)
{
	__u64 key = PT_REGS_PARM1(ctx);
	__u64 one = 1;
	__u64 *value = bpf_map_lookup_elem(&counts, &key);

	if (!value) {
		// Another CPU may have been faster: then its entry is there now.
		if (!bpf_map_update_elem(&counts, &key, &one, BPF_NOEXIST))
			return 0;
		value = bpf_map_lookup_elem(&counts, &key);
	}
	if (value)
		__sync_fetch_and_add(value, 1);
	else
		__sync_fetch_and_add(&dropped, 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
