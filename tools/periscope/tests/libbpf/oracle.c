// SPDX-License-Identifier: MIT OR Apache-2.0
// What libbpf makes of an object before it asks the kernel to load it:
//
//	oracle OBJECT BTF RELEASE
//
// Every program is relocated by itself against the kernel's types in BTF. No kernel is asked: `syscall` of this file
// stands where libbpf expects bpf(2) and says yes to everything. Output, a program after the other:
//
//	program NAME, then a line `value FD` with what each map of global data begins with, `map FD NAME` for each map,
//	and `insns` with the instructions, all in hexadecimal; or `refused` where libbpf refuses the program.
#define _GNU_SOURCE
#include <bpf/libbpf.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

static const char *types, *release;

/// Where libbpf looks for the types of the functions that fentry programs are for, even where it was given others.
static const char RUNNING_KERNEL[] = "/sys/kernel/btf/vmlinux";

static const char ANY_FUNCTION[] = "vfs_read";

static int any_descriptor(void)
{
	return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

/// Bytes of a value, by the map's descriptor.
static unsigned int value_sizes[1024];

static void print_bytes(const unsigned char *bytes, size_t size)
{
	for (size_t at = 0; at < size; at++)
		printf("%02x", bytes[at]);
	printf("\n");
}

static int create_map(const union bpf_attr *attributes)
{
	int fd = any_descriptor();

	if (fd >= 0 && fd < 1024)
		value_sizes[fd] = attributes->value_size;
	return fd;
}

static int update_map(const union bpf_attr *attributes)
{
	unsigned int fd = attributes->map_fd;

	printf("value %u ", fd);
	print_bytes((const void *)(uintptr_t)attributes->value, fd < 1024 ? value_sizes[fd] : 0);
	return 0;
}

/// libbpf has no other way to the kernel. Commands that create something get a descriptor, all others succeed, and
/// nothing that it looks for in the kernel is there.
long syscall(long number, ...)
{
	const union bpf_attr *attributes;
	va_list arguments;
	int command;

	va_start(arguments, number);
	command = va_arg(arguments, int);
	attributes = va_arg(arguments, const union bpf_attr *);
	va_end(arguments);
	if (number != SYS_bpf) {
		errno = ENOSYS;
		return -1;
	}
	switch (command) {
	case BPF_MAP_CREATE:
		return create_map(attributes);
	case BPF_PROG_LOAD:
	case BPF_BTF_LOAD:
		return any_descriptor();
	case BPF_MAP_UPDATE_ELEM:
		return update_map(attributes);
	case BPF_MAP_FREEZE:
	case BPF_PROG_BIND_MAP:
		return 0;
	default:
		errno = ENOENT;
		return -1;
	}
}

/// LINUX_KERNEL_VERSION is that of the kernel whose types are given.
int uname(struct utsname *name)
{
	memset(name, 0, sizeof(*name));
	strcpy(name->sysname, "Linux");
	snprintf(name->release, sizeof(name->release), "%s", release);
	return 0;
}

int faccessat(int directory, const char *path, int mode, int flags)
{
	static int (*next)(int, const char *, int, int);

	if (!next)
		next = dlsym(RTLD_NEXT, "faccessat");
	return next(directory, strcmp(path, RUNNING_KERNEL) ? path : types, mode, flags);
}

FILE *fopen64(const char *path, const char *mode)
{
	static FILE *(*next)(const char *, const char *);

	if (!next)
		next = dlsym(RTLD_NEXT, "fopen64");
	return next(strcmp(path, RUNNING_KERNEL) ? path : types, mode);
}

static int keep_quiet(enum libbpf_print_level level, const char *format, va_list arguments)
{
	return level == LIBBPF_WARN ? vfprintf(stderr, format, arguments) : 0;
}

static void print_program(struct bpf_object *object, struct bpf_program *program)
{
	const unsigned char *bytes = (const void *)bpf_program__insns(program);
	size_t size = bpf_program__insn_cnt(program) * sizeof(struct bpf_insn);
	struct bpf_map *map;

	bpf_object__for_each_map(map, object)
		printf("map %d %s\n", bpf_map__fd(map), bpf_map__name(map));
	printf("insns ");
	print_bytes(bytes, size);
}

/// Loads the program of that index alone. Returns whether there is one.
static int relocate(const char *path, const struct bpf_object_open_opts *options, int index)
{
	struct bpf_object *object = bpf_object__open_file(path, options);
	struct bpf_program *program, *chosen = NULL;
	int at = 0;

	if (!object) {
		printf("object refused\n");
		return 0;
	}
	bpf_object__for_each_program(program, object) {
		if (at == index)
			chosen = program;
		bpf_program__set_autoload(program, at++ == index);
	}
	if (chosen) {
		printf("program %s\n", bpf_program__name(chosen));
		// The function need not be in this kernel. That is no matter of relocation: any other will do.
		if (bpf_program__type(chosen) == BPF_PROG_TYPE_TRACING)
			bpf_program__set_attach_target(chosen, 0, ANY_FUNCTION);
		if (bpf_object__load(object))
			printf("refused\n");
		else
			print_program(object, chosen);
	}
	bpf_object__close(object);
	return chosen != NULL;
}

int main(int count, char **arguments)
{
	LIBBPF_OPTS(bpf_object_open_opts, options);

	if (count != 4) {
		fprintf(stderr, "usage: oracle OBJECT BTF RELEASE\n");
		return 2;
	}
	types = options.btf_custom_path = arguments[2];
	// Without any configuration libbpf reads that of the machine it runs on.
	options.kconfig = "CONFIG_PERISCOPE=y\n";
	release = arguments[3];
	libbpf_set_print(keep_quiet);
	for (int index = 0; relocate(arguments[1], &options, index); index++)
		;
	return 0;
}
