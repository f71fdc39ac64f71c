/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * What an eBPF program for Periscope needs: types, sections, maps, helpers, registers. Names are
 * libbpf's, so that programs compile with its headers as well. Compile with
 *
 *     clang -O2 -g -target bpf -c prog.bpf.c -o prog.bpf.o
 *
 * and link with `periscope link prog.bpf.o`.
 */
#ifndef PERISCOPE_BPF_H
#define PERISCOPE_BPF_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;

/* Programs are functions in a section such as "kprobe/vfs_read". They return 0 to let the guest go
 * on; what else means depends on how they are attached. */
#define SEC(name) __attribute__((section(name), used))
#define __noinline __attribute__((noinline))
#define __always_inline inline __attribute__((always_inline))

/* Maps are variables in the section ".maps":
 *
 *     struct {
 *             __uint(type, BPF_MAP_TYPE_HASH);
 *             __uint(max_entries, 1024);
 *             __type(key, __u64);
 *             __type(value, __u64);
 *     } counts SEC(".maps");
 */
#define __uint(name, value) int (*name)[value]
#define __type(name, type) typeof(type) *name
#define __array(name, type) typeof(type) *name[]

enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PROG_ARRAY = 3,
	BPF_MAP_TYPE_PERF_EVENT_ARRAY = 4,
	BPF_MAP_TYPE_PERCPU_HASH = 5,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_STACK_TRACE = 7,
	BPF_MAP_TYPE_CGROUP_ARRAY = 8,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_LRU_PERCPU_HASH = 10,
	BPF_MAP_TYPE_QUEUE = 22,
	BPF_MAP_TYPE_STACK = 23,
	BPF_MAP_TYPE_RINGBUF = 27,
};

enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
	BPF_EXIST = 2,
};

#define BPF_F_CURRENT_CPU 0xffffffffULL
#define BPF_F_SKIP_FIELD_MASK 0xffULL
#define BPF_F_USER_STACK (1ULL << 8)
#define BPF_F_FAST_STACK_CMP (1ULL << 9)
#define BPF_F_REUSE_STACKID (1ULL << 10)

/* What bpf_ringbuf_query() can be asked. */
enum {
	BPF_RB_AVAIL_DATA = 0,
	BPF_RB_RING_SIZE = 1,
	BPF_RB_CONS_POS = 2,
	BPF_RB_PROD_POS = 3,
};

/* Helpers. Guest memory is reached by bpf_probe_read_…(); through a pointer only where a program in fentry/FUNCTION or
 * fexit/FUNCTION has it from its arguments, or from bpf_get_current_task_btf(). What is said of the current task is the
 * guest's. */
struct task_struct;
static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value,
					 __u64 flags) = (void *)2;
static long (*const bpf_map_delete_elem)(void *map, const void *key) = (void *)3;
static long (*const bpf_probe_read)(void *dst, __u32 size, const void *guest_address) = (void *)4;
static __u64 (*const bpf_ktime_get_ns)(void) = (void *)5;
static long (*const bpf_trace_printk)(const char *fmt, __u32 fmt_size, ...) = (void *)6;
static __u32 (*const bpf_get_prandom_u32)(void) = (void *)7;
static __u32 (*const bpf_get_smp_processor_id)(void) = (void *)8;
static long (*const bpf_tail_call)(void *ctx, void *map, __u32 index) = (void *)12;
static __u64 (*const bpf_get_current_pid_tgid)(void) = (void *)14;
static __u64 (*const bpf_get_current_uid_gid)(void) = (void *)15;
static long (*const bpf_get_current_comm)(void *buf, __u32 size) = (void *)16;
static long (*const bpf_perf_event_output)(void *ctx, void *map, __u64 flags, void *data,
					   __u64 size) = (void *)25;
static long (*const bpf_get_stackid)(void *ctx, void *map, __u64 flags) = (void *)27;
static __u64 (*const bpf_get_current_task)(void) = (void *)35;
static long (*const bpf_current_task_under_cgroup)(void *map, __u32 index) = (void *)37;
static long (*const bpf_probe_read_str)(void *dst, __u32 size,
					const void *guest_address) = (void *)45;
static long (*const bpf_get_stack)(void *ctx, void *buf, __u32 size, __u64 flags) = (void *)67;
static __u64 (*const bpf_get_current_cgroup_id)(void) = (void *)80;
static long (*const bpf_map_push_elem)(void *map, const void *value, __u64 flags) = (void *)87;
static long (*const bpf_map_pop_elem)(void *map, void *value) = (void *)88;
static long (*const bpf_map_peek_elem)(void *map, void *value) = (void *)89;
static long (*const bpf_probe_read_user)(void *dst, __u32 size,
					 const void *guest_address) = (void *)112;
static long (*const bpf_probe_read_kernel)(void *dst, __u32 size,
					   const void *guest_address) = (void *)113;
static long (*const bpf_probe_read_user_str)(void *dst, __u32 size,
					     const void *guest_address) = (void *)114;
static long (*const bpf_probe_read_kernel_str)(void *dst, __u32 size,
					       const void *guest_address) = (void *)115;
static __u64 (*const bpf_ktime_get_boot_ns)(void) = (void *)125;
static long (*const bpf_ringbuf_output)(void *map, void *data, __u64 size,
					__u64 flags) = (void *)130;
static void *(*const bpf_ringbuf_reserve)(void *map, __u64 size, __u64 flags) = (void *)131;
static void (*const bpf_ringbuf_submit)(void *data, __u64 flags) = (void *)132;
static void (*const bpf_ringbuf_discard)(void *data, __u64 flags) = (void *)133;
static __u64 (*const bpf_ringbuf_query)(void *map, __u64 flags) = (void *)134;
static long (*const bpf_for_each_map_elem)(void *map, void *callback, void *context,
					   __u64 flags) = (void *)164;
static struct task_struct *(*const bpf_get_current_task_btf)(void) = (void *)158;
static long (*const bpf_snprintf)(char *str, __u32 str_size, const char *fmt, const __u64 *data,
				  __u32 data_size) = (void *)165;
static __u64 (*const bpf_get_func_ip)(void *ctx) = (void *)173;
static __u64 (*const bpf_get_attach_cookie)(void *ctx) = (void *)174;
static long (*const bpf_trace_vprintk)(const char *fmt, __u32 fmt_size, const void *data,
				       __u32 data_size) = (void *)177;
static long (*const bpf_loop)(__u32 times, void *callback, void *context,
			      __u64 flags) = (void *)181;
static int (*const bpf_strncmp)(const char *s1, __u32 s1_size, const char *s2) = (void *)182;
static long (*const bpf_get_func_arg)(void *ctx, __u32 n, __u64 *value) = (void *)183;
static long (*const bpf_get_func_ret)(void *ctx, __u64 *value) = (void *)184;
static long (*const bpf_get_func_arg_cnt)(void *ctx) = (void *)185;
static void *(*const bpf_map_lookup_percpu_elem)(void *map, const void *key,
						 __u32 cpu) = (void *)195;

/* Those that Linux does not have. */
#include "periscope_helpers.h"

/* bpf_printk("x0=%lx comm=%s", x0, address): up to 12 arguments, integers or pointers. %s takes a
 * guest address or one of the program's own. */
#define ___pbpf_count(...) ___pbpf_nth(_, ##__VA_ARGS__, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)
#define ___pbpf_nth(_0, _1, _2, _3, _4, _5, _6, _7, _8, _9, _10, _11, _12, n, ...) n
#define ___pbpf_cat_(a, b) a##b
#define ___pbpf_cat(a, b) ___pbpf_cat_(a, b)
#define ___pbpf_cast0()
#define ___pbpf_cast1(x) (__u64)(x)
#define ___pbpf_cast2(x, ...) (__u64)(x), ___pbpf_cast1(__VA_ARGS__)
#define ___pbpf_cast3(x, ...) (__u64)(x), ___pbpf_cast2(__VA_ARGS__)
#define ___pbpf_cast4(x, ...) (__u64)(x), ___pbpf_cast3(__VA_ARGS__)
#define ___pbpf_cast5(x, ...) (__u64)(x), ___pbpf_cast4(__VA_ARGS__)
#define ___pbpf_cast6(x, ...) (__u64)(x), ___pbpf_cast5(__VA_ARGS__)
#define ___pbpf_cast7(x, ...) (__u64)(x), ___pbpf_cast6(__VA_ARGS__)
#define ___pbpf_cast8(x, ...) (__u64)(x), ___pbpf_cast7(__VA_ARGS__)
#define ___pbpf_cast9(x, ...) (__u64)(x), ___pbpf_cast8(__VA_ARGS__)
#define ___pbpf_cast10(x, ...) (__u64)(x), ___pbpf_cast9(__VA_ARGS__)
#define ___pbpf_cast11(x, ...) (__u64)(x), ___pbpf_cast10(__VA_ARGS__)
#define ___pbpf_cast12(x, ...) (__u64)(x), ___pbpf_cast11(__VA_ARGS__)
#define bpf_printk(fmt, ...)                                                                       \
	({                                                                                         \
		static const char ___fmt[] = fmt;                                                  \
		__u64 ___args[] = { ___pbpf_cat(___pbpf_cast,                                      \
						___pbpf_count(__VA_ARGS__))(__VA_ARGS__) };        \
		bpf_trace_vprintk(___fmt, sizeof(___fmt), ___args, sizeof(___args));               \
	})

/* The context: the registers of the vCPU that trapped (arm64's struct user_pt_regs). Read-only. */
struct pt_regs {
	__u64 regs[31];
	__u64 sp;
	__u64 pc;
	__u64 pstate;
};

#define PT_REGS_PARM1(ctx) ((ctx)->regs[0])
#define PT_REGS_PARM2(ctx) ((ctx)->regs[1])
#define PT_REGS_PARM3(ctx) ((ctx)->regs[2])
#define PT_REGS_PARM4(ctx) ((ctx)->regs[3])
#define PT_REGS_PARM5(ctx) ((ctx)->regs[4])
#define PT_REGS_PARM6(ctx) ((ctx)->regs[5])
#define PT_REGS_PARM7(ctx) ((ctx)->regs[6])
#define PT_REGS_PARM8(ctx) ((ctx)->regs[7])
#define PT_REGS_RC(ctx) ((ctx)->regs[0])
#define PT_REGS_FP(ctx) ((ctx)->regs[29])
#define PT_REGS_RET(ctx) ((ctx)->regs[30])
#define PT_REGS_SP(ctx) ((ctx)->sp)
#define PT_REGS_IP(ctx) ((ctx)->pc)

#endif
