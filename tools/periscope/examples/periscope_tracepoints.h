/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * What programs at the hypervisor's tracepoints get; made by `periscope header`. Types come
 * from vmlinux.h, <linux/types.h> or periscope_bpf.h, whichever is included before.
 */
#ifndef PERISCOPE_TRACEPOINTS_H
#define PERISCOPE_TRACEPOINTS_H

/* vmm:vmm_init: The hypervisor is up. */
struct vmm_vmm_init {
	__u64 cpus; /* Physical CPUs. */
	__u64 vms; /* VMs. */
	__u64 memory; /* RAM in bytes. */
};

/* vmm:config_load: The configuration of a VM has been read. */
struct vmm_config_load {
	__u64 vcpus; /* vCPUs. */
	__u64 memory; /* RAM in bytes. */
	__u64 halt; /* 1: held before its first instruction. */
};

/* vmm:image_load: A guest's image has been copied to its RAM. */
struct vmm_image_load {
	__u64 kernel; /* Guest-physical address of the kernel. */
	__u64 size; /* Size of the kernel in bytes. */
	__u64 ramdisk; /* Size of the initial RAM disk in bytes. */
	__u64 device_tree; /* Guest-physical address of the device tree. */
};

/* vmm:vm_create: A VM has been made. */
struct vmm_vm_create {
	__u64 vcpus; /* vCPUs. */
	__u64 memory; /* RAM in bytes. */
	__u64 address; /* Host-physical address of the RAM. */
};

enum vmm_vm_destroy_end {
	VMM_VM_DESTROY_END_POWER_OFF,
	VMM_VM_DESTROY_END_RESET,
};

/* vmm:vm_destroy: A life of a VM has ended: all its vCPUs are off. */
struct vmm_vm_destroy {
	__u64 end; /* What comes next. */
};

/* vmm:vcpu_run_enter: A vCPU enters its guest. The duration is the time at EL2 since the exit before. */
struct vmm_vcpu_run_enter {
	__u64 pc; /* Where. */
	__u64 pstate; /* PSTATE. */
};

enum vmm_vcpu_run_exit_vector {
	VMM_VCPU_RUN_EXIT_VECTOR_SYNC,
	VMM_VCPU_RUN_EXIT_VECTOR_IRQ,
	VMM_VCPU_RUN_EXIT_VECTOR_FIQ,
	VMM_VCPU_RUN_EXIT_VECTOR_SERROR,
};

/* vmm:vcpu_run_exit: A vCPU leaves its guest. The duration is the time in the guest since the entry before. */
struct vmm_vcpu_run_exit {
	__u64 vector; /* By which vector. */
	__u64 class; /* Exception class of a synchronous exception (Arm ARM D24.2.40, ESR_EL2.EC). */
	__u64 pc; /* Where. */
	__u64 syndrome; /* The whole syndrome, of a synchronous exception. */
};

/* vmm:hypercall: A guest has called the hypervisor by HVC or SMC. The duration is that of the call. */
struct vmm_hypercall {
	__u64 function; /* x0: the function. */
	__u64 x1; /* x1. */
	__u64 x2; /* x2. */
	__s64 result; /* What it returned in x0. */
};

/* vmm:external_interrupt: An interrupt of the machine has come to EL2. */
struct vmm_external_interrupt {
	__u64 intid; /* Its number at the GIC. */
};

/* vmm:irq_handle: An interrupt of the machine has been handled. The duration is that of the handling. */
struct vmm_irq_handle {
	__u64 intid; /* Its number at the GIC. */
};

/* vmm:irq_inject: A vCPU is given a virtual interrupt: a list register becomes pending. */
struct vmm_irq_inject {
	__u64 intid; /* Its number at the virtual GIC. */
	__u64 priority; /* Its priority; a lower number is more urgent. */
};

enum vmm_page_fault_access {
	VMM_PAGE_FAULT_ACCESS_FETCH,
	VMM_PAGE_FAULT_ACCESS_READ,
	VMM_PAGE_FAULT_ACCESS_WRITE,
	VMM_PAGE_FAULT_ACCESS_WALK,
};

enum vmm_page_fault_outcome {
	VMM_PAGE_FAULT_OUTCOME_RETRY,
	VMM_PAGE_FAULT_OUTCOME_PROBED,
	VMM_PAGE_FAULT_OUTCOME_DEVICE,
	VMM_PAGE_FAULT_OUTCOME_REFUSED,
};

/* vmm:page_fault: A guest has touched what stage 2 does not let it. The duration is that of the handling. */
struct vmm_page_fault {
	__u64 gva; /* Virtual address. */
	__u64 gpa; /* Guest-physical address. */
	__u64 access; /* What it wanted. */
	__u64 outcome; /* What became of it. */
};

enum vmm_memory_map_what {
	VMM_MEMORY_MAP_WHAT_RAM,
	VMM_MEMORY_MAP_WHAT_SHADOW,
};

/* vmm:memory_map: Stage 2 maps something. */
struct vmm_memory_map {
	__u64 gpa; /* Guest-physical address. */
	__u64 size; /* Size in bytes. */
	__u64 what; /* What. */
};

enum vmm_memory_unmap_what {
	VMM_MEMORY_UNMAP_WHAT_RAM,
	VMM_MEMORY_UNMAP_WHAT_SHADOW,
};

/* vmm:memory_unmap: Stage 2 maps something no longer. */
struct vmm_memory_unmap {
	__u64 gpa; /* Guest-physical address. */
	__u64 size; /* Size in bytes. */
	__u64 what; /* What. */
};

/* vmm:timer_tick: EL2's own timer has fired. */
struct vmm_timer_tick {
	__u64 late; /* How late, in nanoseconds. */
};

/* vmm:timer_event: A guest's virtual timer has fired. */
struct vmm_timer_event {
	__u64 deadline; /* What the guest has set it to, in ticks of its counter. */
	__u64 late; /* How late, in nanoseconds. */
};

/* shell:shell_init: Somebody has opened the shell. */
struct shell_shell_init {
};

/* shell:shell_command: The shell runs a command. The duration is that of the command. */
struct shell_shell_command {
	__u64 length; /* Length of the line in bytes. */
	char text[8]; /* Its first 8 bytes. */
	char text8[8]; /* The next 8. */
	char text16[8]; /* The next 8. */
};

/* psci:cpu_on: A guest switches a vCPU on. */
struct psci_cpu_on {
	__u64 target; /* Affinity of the vCPU. */
	__u64 entry; /* Where it begins. */
	__u64 context; /* Its x0. */
	__s64 result; /* What the call returned. */
};

/* psci:cpu_off: A vCPU switches itself off. */
struct psci_cpu_off {
};

/* psci:cpu_suspend: A vCPU waits for an interrupt. The duration is that of the wait. */
struct psci_cpu_suspend {
	__u64 state; /* The power state that it asks for. */
};

/* psci:affinity_info: A guest asks whether a vCPU is on. */
struct psci_affinity_info {
	__u64 target; /* Affinity of the vCPU. */
	__u64 level; /* Lowest affinity level. */
	__s64 result; /* What the call returned. */
};

/* psci:features: A guest asks what the firmware can do. */
struct psci_features {
	__u64 function; /* The function that it asks for. */
	__s64 result; /* What the call returned. */
};

/* psci:system_off: A guest switches itself off. */
struct psci_system_off {
};

/* psci:system_reset: A guest resets itself. */
struct psci_system_reset {
};

/* debug:session_open: A client has come to a VM's endpoint. */
struct debug_session_open {
};

/* debug:session_close: A client has gone. The VM goes on. */
struct debug_session_close {
};

enum debug_stop_reason {
	DEBUG_STOP_REASON_STEP,
	DEBUG_STOP_REASON_SITE,
	DEBUG_STOP_REASON_HW_BREAKPOINT,
	DEBUG_STOP_REASON_WATCHPOINT,
	DEBUG_STOP_REASON_REQUEST,
	DEBUG_STOP_REASON_RESET,
};

/* debug:stop: A VM has stopped for its client. */
struct debug_stop {
	__u64 reason; /* Why. */
	__u64 thread; /* Which thread, from 1. */
	__u64 probe; /* The probe that has stopped it; 0 for none. */
};

/* debug:resume: A client lets a VM go on. */
struct debug_resume {
};

#endif
