// Everything that `periscope link` takes, for its tests.
#include "periscope_bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u64);
	__type(value, __u64);
} calls SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} per_cpu SEC(".maps");

struct pair {
	__u32 low;
	__u32 high;
};

// Global data of every kind.
__u64 total;
__u64 start = 1000;
static __u32 hidden = 7;
const volatile __u32 factor = 3;
struct pair pairs[4] = { { 1, 2 }, { 3, 4 }, { 5, 6 }, { 7, 8 } };

// Two functions that are not inlined, one calling the other.
static __noinline __u64 scale(__u64 value)
{
	hidden++;
	return value * factor;
}

__noinline __u64 sum_of_pairs(__u32 count)
{
	__u64 sum = 0;

	for (__u32 i = 0; i < count && i < 4; i++)
		sum += scale(pairs[i].low + pairs[i].high);
	return sum;
}

static void count(__u64 key)
{
	__u64 one = 1, *value = bpf_map_lookup_elem(&calls, &key);

	if (value)
		__sync_fetch_and_add(value, 1);
	else
		bpf_map_update_elem(&calls, &key, &one, BPF_ANY);
}

SEC("kprobe/vfs_read")
int on_read(struct pt_regs *ctx)
{
	__u32 index = 1;
	__u64 *mine = bpf_map_lookup_elem(&per_cpu, &index);

	if (mine)
		*mine += 1;
	count(PT_REGS_PARM1(ctx));
	total += start + scale(PT_REGS_PARM2(ctx)) + sum_of_pairs(3);
	return hidden;
}

SEC("kretprobe/vfs_read")
int on_return(struct pt_regs *ctx)
{
	char name[8];
	long error = bpf_probe_read_kernel(name, sizeof(name), (void *)PT_REGS_RC(ctx));

	bpf_printk("%d '%s' on cpu %u", (int)error, name, bpf_get_smp_processor_id());
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
