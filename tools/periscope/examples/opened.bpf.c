// SPDX-License-Identifier: MIT OR Apache-2.0
// Who opens which file, as records, and how often each command does: `periscope trace opened.bpf.o`, with `--json` for
// tools and `--maps` for the counts at the end.
#include "periscope_bpf.h"

enum access {
	READ,
	WRITE,
	BOTH,
};

struct event {
	__u32 pid;
	enum access access;
	__u32 creates : 1;
	char comm[16];
	char path[64];
};

// A compiler leaves out types that only local variables have.
const struct event *unused __attribute__((unused));

struct command {
	char comm[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 256);
	__type(key, struct command);
	__type(value, __u64);
} commands SEC(".maps");

#define O_ACCMODE 3
#define O_CREAT 0100

SEC("ksyscall/openat")
int opened(struct pt_regs *ctx)
{
	struct command command;
	struct event *event;
	__u64 registers = PT_REGS_PARM1(ctx);
	__u64 path = 0, flags = 0, one = 1;
	__u64 *count;

	// The kernel's function for a system call has one argument: where the process' registers are.
	bpf_probe_read_kernel(&path, sizeof(path), (const void *)(registers + 8));
	bpf_probe_read_kernel(&flags, sizeof(flags), (const void *)(registers + 16));

	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (event) {
		__builtin_memset(event, 0, sizeof(*event));
		event->pid = bpf_get_current_pid_tgid() >> 32;
		event->access = flags & O_ACCMODE;
		event->creates = !!(flags & O_CREAT);
		bpf_get_current_comm(event->comm, sizeof(event->comm));
		bpf_probe_read_user_str(event->path, sizeof(event->path), (const void *)path);
		bpf_ringbuf_submit(event, 0);
	}

	bpf_get_current_comm(command.comm, sizeof(command.comm));
	count = bpf_map_lookup_elem(&commands, &command);
	if (count)
		*count += 1;
	else
		bpf_map_update_elem(&commands, &command, &one, BPF_ANY);
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
