#![no_std]
#![no_main]
//! The tiny guest: a bare-metal EL1 program that counts exactly, the test subject of the debugger.
//!
//! It runs the same bare (`qemu-system-aarch64 -machine virt,gic-version=3 -kernel tiny-guest.img`)
//! and as a guest of the hypervisor: what it replies bare is the ground truth for what it must
//! reply under probes.
//!
//! The image is flat with an arm64 Image header, linked at 0x4020_0000 (RAM base +
//! `text_offset`) and refuses to run anywhere else. It takes memory, CPUs, PL011 and GICv3 from
//! the device tree in x0 (QEMU `virt`'s addresses where that says nothing), uses PSCI over HVC, the
//! virtual timer's PPI 27 and the PL011's SPI (INTID 33). MMU and caches are on, see [`mmu`] for
//! the aliases. On a CPU with PAC, address key A signs with constant keys; on one with BTI,
//! `fn_bti` and `fn_paciasp` lie in a guarded page.
//!
//! # Protocol
//!
//! At boot it prints `tiny-guest: ready cpus=N`. Then every line in is a command, and the reply's
//! last line begins with `ok` or `err`. No echo, no prompt. Numbers are decimal or `0x`
//! hexadecimal. `[CPU]` is 0 where it is left out. An exception that nobody asked for prints
//! `EXC cpu=N vector=N el=1 esr=N elr=N far=N x30=N`; a BRK is then skipped, after any other the
//! CPU prints `EXC halted` and halts. A Rust panic prints `PANIC …`.
//!
//! # Commands
//!
//! * `version`: Replies `early` (calls of `early_entry`: 1), what the CPU has, an unmapped address,
//!   the high alias.
//! * `cpus`: Replies `cpus` online, `present` in the device tree.
//! * `list`: Replies a line per subject: `NAME k=K kind=KIND address=A`; `subjects`. The kinds are
//!   those of [`subjects::Kind`].
//! * `call NAME N [CPU [high]]`: Calls a subject with 1 to N. Replies `calls`, `count` (by the
//!   subject's counter), `sum`, `bad` (wrong results), `shared` (what the exclusive subjects
//!   added).
//! * `callboth NAME N [high]`: The same on CPUs 0 and 1 at once. Replies the same for both,
//!   `count0`, `count1`.
//! * `counts NAME`: Replies `count0`, `count1` since boot.
//! * `spin NAME [CPU]`: Calls a subject on CPU (1) with 1 to 16, over and over, until `stop`.
//!   Replies `cpu`.
//! * `stop`: Replies `calls`, `count`, `sum`, `bad` of the spin.
//! * `brk N [CPU]`: Executes N BRKs of its own. Replies `brks` that its handler returned from: N.
//! * `step N [CPU]`: Steps itself over N instructions of `step_loop`. Replies `steps`: N; `sum`:
//!   fold `s*31 + offset` of the offsets 4, 8, 0, 4, …; `adds`: N / 3 rounded up.
//! * `hwbp N [CPU]`: Calls `hwbp_target` N times with its own breakpoint on it. Replies `hits`,
//!   `steps` past them, `result`: all N.
//! * `watch N [w|r|rw [CPU]]`: N stores and N loads with its own watchpoint. Replies `hits`,
//!   `steps`: N (rw: 2N); `result`: N.
//! * `touch N [CPU]`: The same stores and loads of `watched_word` without a watchpoint of its own.
//!   Replies its `address`, `result`: N.
//! * `patch N [b|add|brk|bl [CPU]]`: Patches the first word of `fn_patch` and back N times on CPU
//!   0, and calls it on CPU after each change. CPU stays out of it meanwhile: QEMU 7.2 with a
//!   thread per CPU may go on executing what stood there before, on all CPUs, if one CPU translates
//!   a function while another patches it. Replies `patches`: 2N, `bad`: 0.
//! * `patch-now [b|add|brk|bl]`, `patch-undo`: Patches once. Replies `address`.
//! * `patch-call V [CPU]`: Calls `fn_patch`. Replies `result`: V + 1 with the original NOP, V with
//!   B, V + 0x11 with ADD, V + 0x21 with BRK (by its handler), V + 0x101 with BL.
//! * `checksum [low|high|writable]`: Hashes its text as data. Replies `length`, `fnv` (64-bit
//!   FNV-1a), the same through every alias.
//! * `read NAME [high]`: Replies the first four words of a subject.
//! * `ldxr N [both]`: Adds one by `fn_ldxr` N times (on both CPUs at once). Replies `added`: N
//!   (2N).
//! * `timer [start HZ|stop]`: Ticks on all CPUs. Replies `counter`, `frequency`, `ticks0`,
//!   `ticks1`.
//! * `sleep MS`: WFI until the virtual timer has fired. Replies `asked` and `passed` counter
//!   increments.
//! * `psci version|info CPU|on CPU|off CPU`: Replies `version`; `info` (AFFINITY_INFO); `cpus`
//!   online.
//! * `fault ADDR [r|w]`: Accesses a word. Replies `esr` and `far` of the abort, 0 without one.
//! * `regs [N [CPU]]`: Sets xI = byte I+1 eight times (I to 28), vI = byte 0x81+I sixteen times,
//!   then calls `fn_regs`. Replies `changed` registers after it, the `last` one (V from 32), its
//!   `value`.
//! * `stack [N [CPU]]`: `chain_a` calls `chain_b` calls `chain_c`, with frame records. Replies
//!   `result`: 0x122.
//! * `leave tree|relay|bolt N [CPU|both]`: Calls a function of [`leaving`]. Replies `result`: for
//!   `tree`, 2^(N+1) - 1 calls; for `relay`, N * (N + 3); for `bolt`, half of N returned. With `both`
//!   the sum of both CPUs.
//! * `mmuoff NAME N`: Calls a subject with MMU and data cache off. Replies as `call`.
//! * `measure WHAT BATCHES CALLS [CPU]`: Times BATCHES (at most 4096) times CALLS calls of a subject,
//!   or turns of a loop around an instruction: `nop`; under a hypervisor with `bench` on its command
//!   line also `floor`, `exit`, `views`, `points` (see [`measure`]). Replies counter increments, a number a
//!   batch; `batches`.
//! * `rx poll|irq`: Console input by polling (default), or by interrupt and WFI. Replies `ok`.
//! * `reset`, `off`: PSCI `SYSTEM_RESET`, `SYSTEM_OFF`. Replies only if that fails.
//!
//! The subjects and their formula are described in [`subjects`].

mod boot;
mod commands;
mod cpu;
mod debug;
mod gic;
mod leaving;
mod measure;
mod mmu;
mod platform;
mod psci;
mod routines;
mod smp;
mod subjects;
mod timer;
mod uart;
mod vectors;

use uart::println;

/// CPU 0, from `boot.rs`: MMU off, `device_tree` a physical address.
#[unsafe(no_mangle)]
extern "C" fn primary_main(device_tree: u64) -> ! {
    smp::set_this_cpu(0);
    let machine = platform::parse(device_tree);
    mmu::init(&machine);
    mmu::enable();
    platform::init(machine);
    uart::init();
    gic::init_distributor();
    start_cpu();
    gic::enable(uart::INTID);
    for index in 1..machine.cpus {
        if smp::power_on(index).is_err() {
            println!("tiny-guest: CPU {index} does not come up");
        }
    }
    println!("tiny-guest: ready cpus={}", smp::online_count());
    commands::serve()
}

/// Every other CPU, from `boot.rs`: MMU off.
#[unsafe(no_mangle)]
extern "C" fn secondary_main(index: u64) -> ! {
    mmu::enable();
    smp::set_this_cpu(index as usize);
    start_cpu();
    smp::serve()
}

/// What every CPU does once its MMU is on.
fn start_cpu() {
    cpu::enable_pauth();
    debug::init_cpu();
    if !gic::init_cpu() {
        println!("tiny-guest: CPU {} has no redistributor", smp::this_index());
    }
    gic::enable(gic::SGI_WORK);
    gic::enable(timer::INTID);
    cpu::unmask_all();
    smp::set_online();
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    uart::print_unlocked(format_args!("PANIC {info}\n"));
    cpu::halt()
}
