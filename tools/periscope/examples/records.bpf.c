// SPDX-License-Identifier: MIT OR Apache-2.0
// Every call of a function as a record, and what is counted of them: `monitor trace stream --filter calls`, `monitor map list
// records`, `monitor map dump records arguments`, `monitor map dump records sizes --hist`.
#include "periscope_bpf.h"

struct call {
	__u64 argument;
	__u32 cpu;
	char tag[4];
};

// Each call as a record, by way of a ring buffer; and the same by way of the CPU's own buffer.
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024);
} calls SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} events SEC(".maps");

// How often each argument came on each CPU.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, __u64);
} arguments SEC(".maps");

// Those of late, and on which CPU.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8);
	__type(key, __u64);
	__type(value, __u32);
} late SEC(".maps");

// The last four arguments, in their order.
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 4);
	__type(value, __u64);
} last SEC(".maps");

// How many arguments are from 2^n to 2^(n+1) - 1.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u64);
} sizes SEC(".maps");

static __always_inline __u32 log2(__u64 value)
{
	__u32 slot = 0;

	for (__u32 step = 32; step; step >>= 1) {
		if (value >> step) {
			value >>= step;
			slot += step;
		}
	}
	return slot;
}

SEC("kprobe/vfs_read")
int records(struct pt_regs *ctx)
{
	__u64 argument = PT_REGS_PARM1(ctx);
	__u32 cpu = bpf_get_smp_processor_id();
	struct call copy = { .argument = argument, .cpu = cpu, .tag = "perf" };
	struct call *call = bpf_ringbuf_reserve(&calls, sizeof(*call), 0);
	__u32 slot = log2(argument);
	__u64 one = 1;
	__u64 *count;

	if (call) {
		*call = copy;
		__builtin_memcpy(call->tag, "ring", 4);
		bpf_ringbuf_submit(call, 0);
	}
	bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, &copy, sizeof(copy));

	count = bpf_map_lookup_elem(&arguments, &argument);
	if (count)
		*count += 1;
	else
		bpf_map_update_elem(&arguments, &argument, &one, BPF_ANY);
	bpf_map_update_elem(&late, &argument, &cpu, BPF_ANY);
	bpf_map_push_elem(&last, &argument, BPF_EXIST);
	count = bpf_map_lookup_elem(&sizes, &slot);
	if (count)
		__sync_fetch_and_add(count, 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
