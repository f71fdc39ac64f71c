// SPDX-License-Identifier: MIT OR Apache-2.0
// Reads of the guest by size, large and small ones by programs of their own, which can be exchanged while they run:
// `monitor trace attach stages`, `monitor map dump stages sizes`, `monitor map update stages stages 1 small`.
#include "periscope_bpf.h"

#define SLOTS 32

int small(struct pt_regs *ctx);
int large(struct pt_regs *ctx);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 2);
	__array(values, int(void *));
} stages SEC(".maps") = { .values = { [0] = (void *)&small, [1] = (void *)&large } };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SLOTS);
	__type(key, __u32);
	__type(value, __u64);
} sizes SEC(".maps");

/* Reads that no stage took, small ones, and how many the sizes have been at the last large one. */
__u64 missed;
__u64 few;
__u64 total;

struct search {
	__u64 left;
	__u32 slot;
};

static long halve(__u32 round, void *data)
{
	struct search *search = data;

	if (search->left <= 1)
		return 1;
	search->left >>= 1;
	search->slot = round + 1;
	return 0;
}

static long add(void *map, __u32 *slot, __u64 *count, void *sum)
{
	*(__u64 *)sum += *count;
	return 0;
}

SEC("kprobe/vfs_read")
int reads(struct pt_regs *ctx)
{
	bpf_tail_call(ctx, &stages, PT_REGS_PARM3(ctx) >= 512);
	__sync_fetch_and_add(&missed, 1);
	return 0;
}

/* No place: the map of stages leads here. */
SEC("kprobe")
int small(struct pt_regs *ctx)
{
	__sync_fetch_and_add(&few, 1);
	return 0;
}

SEC("kprobe")
int large(struct pt_regs *ctx)
{
	struct search search = { .left = PT_REGS_PARM3(ctx) };
	__u64 sum = 0;
	__u64 *count;

	bpf_loop(SLOTS, halve, &search, 0);
	count = bpf_map_lookup_elem(&sizes, &search.slot);
	if (!count)
		return 0;
	__sync_fetch_and_add(count, 1);
	bpf_for_each_map_elem(&sizes, add, &sum, 0);
	total = sum;
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
