// SPDX-License-Identifier: MIT OR Apache-2.0
// How often guests leave for the hypervisor, by exception class, and which of their accesses are refused:
//   monitor trace enable vmm:vcpu_run_exit --prog exits:count_exit
//   monitor trace enable vmm:page_fault --prog exits:tell_refused
//   monitor map dump exits classes
#include "periscope_bpf.h"
#include "periscope_tracepoints.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u64);
} classes SEC(".maps");

SEC("tp/vmm/vcpu_run_exit")
int count_exit(struct vmm_vcpu_run_exit *exit)
{
	__u32 class = exit->class;
	__u64 *count;

	if (exit->vector != VMM_VCPU_RUN_EXIT_VECTOR_SYNC)
		return 0;
	count = bpf_map_lookup_elem(&classes, &class);
	if (count)
		__sync_fetch_and_add(count, 1);
	return 0;
}

SEC("tp/vmm/page_fault")
int tell_refused(struct vmm_page_fault *fault)
{
	if (fault->outcome == VMM_PAGE_FAULT_OUTCOME_REFUSED)
		bpf_printk("refused: %lx, guest-physical %lx", fault->gva, fault->gpa);
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
