// The kernel's side of core.bpf.c: the same names, other layouts.
enum state { DEAD = 3, RUNNING = 7, SLEEPING = -2 };
enum wide { HUGE_ONE = 0x100000000ULL, SMALL_ONE = 1 };

struct inner {
	__u8 padding[12];
	__u32 number;
};

union either {
	__u32 word;
	__u8 bytes[4];
};

struct task {
	__u64 flags;
	union {
		struct {
			__u32 before;
			__u32 pid;
		};
		__u64 both;
	};
	char *name;
	__u64 grown;
	__s64 signed_grown;
	struct inner inners[5];
	__u32 low : 3;
	__u32 high : 13;
	__s32 signed_bits : 7;
	__u64 wide_bits : 40;
	enum state state;
	struct task *parent;
	__u16 rest[];
};

typedef struct task task_t;
typedef int (*callback_t)(struct task *task, int number);

union either either;
task_t *typedefed;
callback_t callback;
enum state state;
enum wide wide;
struct task *task;
struct inner inner;
