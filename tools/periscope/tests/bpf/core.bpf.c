// Every kind of CO-RE relocation; core_kernel.c has the kernel's types.
#include "periscope_bpf.h"

#define CORE __attribute__((preserve_access_index))
#define FIELD(field, question) __builtin_preserve_field_info(field, question)
#define TYPE(type, question) __builtin_preserve_type_info(*(type *)0, question)
#define TYPE_ID(type, whose) __builtin_btf_type_id(*(type *)0, whose)
#define VALUE(type, value, question) __builtin_preserve_enum_value(*(type *)value, question)

enum { OFFSET, SIZE, EXISTS, SIGNED, LEFT_SHIFT, RIGHT_SHIFT };
enum { TYPE_EXISTS, TYPE_SIZE };
enum { LOCAL, TARGET };
enum { VALUE_EXISTS, VALUE_OF };

enum state___flavour { DEAD___flavour, RUNNING___flavour, SLEEPING___flavour, GONE___flavour };
enum wide { HUGE_ONE, SMALL_ONE };

struct inner {
	__u32 number;
} CORE;

union either {
	__u32 word;
} CORE;

struct task {
	__u32 pid;
	char *name;
	__u32 grown;
	__s32 signed_grown;
	struct inner inners[3];
	__u32 low : 3;
	__u32 high : 13;
	__s32 signed_bits : 7;
	__u64 wide_bits : 40;
	enum state___flavour state;
	struct task *parent;
	__u64 gone;
	__u16 rest[];
} CORE;

struct task___old {
	__u64 flags;
	__u64 both;
} CORE;

struct nowhere {
	int field;
} CORE;

typedef struct task task_t;
typedef int (*callback_t)(struct task *task, int number);
typedef void (*other_t)(struct task *task);

volatile __u64 sink[32];

#define ARGUMENT(type) ((type *)PT_REGS_PARM1(ctx))

SEC("kprobe/f")
int offsets(struct pt_regs *ctx)
{
	struct task *task = ARGUMENT(struct task);
	struct task___old *old = ARGUMENT(struct task___old);

	sink[0] = FIELD(task->pid, OFFSET);
	sink[1] = FIELD(task->inners[2].number, OFFSET);
	sink[2] = FIELD(task->rest[4], OFFSET);
	sink[3] = FIELD(task[2].name, OFFSET);
	sink[4] = FIELD(old->both, OFFSET);
	sink[5] = (__u64)&task->parent->inners[1].number;
	return 0;
}

SEC("kprobe/f")
int accesses(struct pt_regs *ctx)
{
	struct task *task = ARGUMENT(struct task);

	sink[0] = task->pid;
	sink[1] = (__u64)task->name;
	sink[2] = task->grown;
	sink[3] = task->signed_grown;
	sink[4] = task->parent->inners[1].number;
	sink[5] = task->rest[7];
	sink[6] = task->state;
	task->pid = 9;
	return 0;
}

SEC("kprobe/f")
int existence(struct pt_regs *ctx)
{
	struct task *task = ARGUMENT(struct task);

	sink[0] = FIELD(task->pid, EXISTS);
	sink[1] = FIELD(task->gone, EXISTS);
	sink[2] = FIELD(ARGUMENT(struct nowhere)->field, EXISTS);
	sink[3] = FIELD(task->inners, SIZE);
	sink[4] = FIELD(task->inners[0], SIZE);
	return 0;
}

SEC("kprobe/f")
int bit_fields(struct pt_regs *ctx)
{
	struct task *task = ARGUMENT(struct task);

#define ASK(at, field)                              \
	sink[at] = FIELD(field, OFFSET);            \
	sink[at + 1] = FIELD(field, SIZE);          \
	sink[at + 2] = FIELD(field, SIGNED);        \
	sink[at + 3] = FIELD(field, LEFT_SHIFT);    \
	sink[at + 4] = FIELD(field, RIGHT_SHIFT)
	ASK(0, task->low);
	ASK(5, task->high);
	ASK(10, task->signed_bits);
	ASK(15, task->wide_bits);
	ASK(20, task->state);
	ASK(25, task->signed_grown);
	return 0;
}

SEC("kprobe/f")
int types(struct pt_regs *ctx)
{
	sink[0] = TYPE(struct task, TYPE_EXISTS);
	sink[1] = TYPE(struct nowhere, TYPE_EXISTS);
	sink[2] = TYPE(task_t, TYPE_EXISTS);
	sink[3] = TYPE(callback_t, TYPE_EXISTS);
	sink[4] = TYPE(other_t, TYPE_EXISTS);
	sink[5] = TYPE(union either, TYPE_EXISTS);
	sink[6] = TYPE(enum state___flavour, TYPE_EXISTS);
	sink[7] = TYPE(struct inner, TYPE_EXISTS);
	sink[8] = TYPE(struct task, TYPE_SIZE);
	sink[9] = TYPE(struct nowhere, TYPE_SIZE);
	sink[10] = TYPE_ID(struct task, LOCAL);
	sink[11] = TYPE_ID(struct inner, TARGET);
	sink[12] = TYPE_ID(struct nowhere, TARGET);
	return 0;
}

SEC("kprobe/f")
int enumerators(struct pt_regs *ctx)
{
	sink[0] = VALUE(enum state___flavour, RUNNING___flavour, VALUE_EXISTS);
	sink[1] = VALUE(enum state___flavour, GONE___flavour, VALUE_EXISTS);
	sink[2] = VALUE(enum state___flavour, RUNNING___flavour, VALUE_OF);
	sink[3] = VALUE(enum state___flavour, SLEEPING___flavour, VALUE_OF);
	sink[4] = VALUE(enum wide, SMALL_ONE, VALUE_OF);
	return 0;
}

// What the kernel does not have is poisoned.
SEC("kprobe/f")
int poisoned(struct pt_regs *ctx)
{
	struct task *task = ARGUMENT(struct task);

	sink[0] = task->gone;
	sink[1] = FIELD(task->gone, OFFSET);
	sink[2] = ARGUMENT(struct nowhere)->field;
	sink[3] = VALUE(enum state___flavour, GONE___flavour, VALUE_OF);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
