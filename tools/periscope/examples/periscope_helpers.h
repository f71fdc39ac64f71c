/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The helpers of Periscope that Linux does not have; made by `periscope header --helpers`. Types and SEC come
 * from vmlinux.h and <bpf/bpf_helpers.h>, or from periscope_bpf.h, which includes this.
 */
#ifndef PERISCOPE_HELPERS_H
#define PERISCOPE_HELPERS_H

/* Nanoseconds that the call took that returns, or what a tracepoint measures; 0 elsewhere. */
static __u64 (*const bpf_duration_ns)(void) = (void *)250;

/* The VM: 1, 2, …; 0 is the hypervisor itself. (once 100) */
static __u32 (*const bpf_get_vm_id)(void) = (void *)251;

/* The vCPU of that VM, from 0; of the hypervisor the CPU. (once 101) */
static __u32 (*const bpf_get_vcpu_id)(void) = (void *)252;

/* ESR_EL2 as the last exception of a vCPU on this CPU has left it; 0 where the program has no vCPU's memory. (once 102) */
static __u64 (*const bpf_get_exit_reason)(void) = (void *)253;

/* Writes the tracepoint's name, as vmm:page_fault: 0, or -EINVAL at no tracepoint. (once 10) */
static long (*const bpf_get_tracepoint_name)(char *buf, __u32 size) = (void *)254;

/* In a program that says this, the numbers 100, 101, 102, 10 mean these helpers too. */
#define PERISCOPE_SEED_HELPERS char periscope_seed_helpers SEC(".periscope_seed_helpers") = 1

#endif
