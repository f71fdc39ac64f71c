//! The static events of the hypervisor: a package of its own, so that host tools know them too. What the debug server
//! itself has is in `stub::tracepoints`.
#![no_std]
#![forbid(unsafe_code)]

use probes::tracepoint::FieldKind::{Hex, Names, Signed, Text, Unsigned};

/// Which vector brought a vCPU to EL2.
pub const VECTORS: &[&str] = &["sync", "irq", "fiq", "serror"];
/// What a guest wanted at an address.
pub const ACCESSES: &[&str] = &["fetch", "read", "write", "walk"];
/// What became of a page fault.
pub const OUTCOMES: &[&str] = &["retry", "probed", "device", "refused"];
/// What stage 2 maps.
pub const MAPPINGS: &[&str] = &["ram", "shadow"];
/// What happens when a guest has gone.
pub const ENDS: &[&str] = &["power_off", "reset"];

probes::tracepoints! {
    /// The hypervisor is up.
    VmmInit = "vmm:vmm_init" {
        /// Physical CPUs.
        cpus: Unsigned,
        /// VMs.
        vms: Unsigned,
        /// RAM in bytes.
        memory: Unsigned,
    }
    /// The configuration of a VM has been read.
    ConfigLoad = "vmm:config_load" {
        /// vCPUs.
        vcpus: Unsigned,
        /// RAM in bytes.
        memory: Unsigned,
        /// 1: held before its first instruction.
        halt: Unsigned,
    }
    /// A guest's image has been copied to its RAM.
    ImageLoad = "vmm:image_load" {
        /// Guest-physical address of the kernel.
        kernel: Hex,
        /// Size of the kernel in bytes.
        size: Unsigned,
        /// Size of the initial RAM disk in bytes.
        ramdisk: Unsigned,
        /// Guest-physical address of the device tree.
        device_tree: Hex,
    }
    /// A VM has been made.
    VmCreate = "vmm:vm_create" {
        /// vCPUs.
        vcpus: Unsigned,
        /// RAM in bytes.
        memory: Unsigned,
        /// Host-physical address of the RAM.
        address: Hex,
    }
    /// A life of a VM has ended: all its vCPUs are off.
    VmDestroy = "vmm:vm_destroy" {
        /// What comes next.
        end: Names(ENDS),
    }
    /// A vCPU enters its guest. The duration is the time at EL2 since the exit before.
    VcpuRunEnter = "vmm:vcpu_run_enter" {
        /// Where.
        pc: Hex,
        /// PSTATE.
        pstate: Hex,
    }
    /// A vCPU leaves its guest. The duration is the time in the guest since the entry before.
    VcpuRunExit = "vmm:vcpu_run_exit" {
        /// By which vector.
        vector: Names(VECTORS),
        /// Exception class of a synchronous exception (Arm ARM D24.2.40, ESR_EL2.EC).
        class: Hex,
        /// Where.
        pc: Hex,
        /// The whole syndrome, of a synchronous exception.
        syndrome: Hex,
    }
    /// A guest has called the hypervisor by HVC or SMC. The duration is that of the call.
    Hypercall = "vmm:hypercall" {
        /// x0: the function.
        function: Hex,
        /// x1.
        x1: Hex,
        /// x2.
        x2: Hex,
        /// What it returned in x0.
        result: Signed,
    }
    /// An interrupt of the machine has come to EL2.
    ExternalInterrupt = "vmm:external_interrupt" {
        /// Its number at the GIC.
        intid: Unsigned,
    }
    /// An interrupt of the machine has been handled. The duration is that of the handling.
    IrqHandle = "vmm:irq_handle" {
        /// Its number at the GIC.
        intid: Unsigned,
    }
    /// A vCPU is given a virtual interrupt: a list register becomes pending.
    IrqInject = "vmm:irq_inject" {
        /// Its number at the virtual GIC.
        intid: Unsigned,
        /// Its priority; a lower number is more urgent.
        priority: Unsigned,
    }
    /// A guest has touched what stage 2 does not let it. The duration is that of the handling.
    PageFault = "vmm:page_fault" {
        /// Virtual address.
        gva: Hex,
        /// Guest-physical address.
        gpa: Hex,
        /// What it wanted.
        access: Names(ACCESSES),
        /// What became of it.
        outcome: Names(OUTCOMES),
    }
    /// Stage 2 maps something.
    MemoryMap = "vmm:memory_map" {
        /// Guest-physical address.
        gpa: Hex,
        /// Size in bytes.
        size: Unsigned,
        /// What.
        what: Names(MAPPINGS),
    }
    /// Stage 2 maps something no longer.
    MemoryUnmap = "vmm:memory_unmap" {
        /// Guest-physical address.
        gpa: Hex,
        /// Size in bytes.
        size: Unsigned,
        /// What.
        what: Names(MAPPINGS),
    }
    /// EL2's own timer has fired.
    TimerTick = "vmm:timer_tick" {
        /// How late, in nanoseconds.
        late: Unsigned,
    }
    /// A guest's virtual timer has fired.
    TimerEvent = "vmm:timer_event" {
        /// What the guest has set it to, in ticks of its counter.
        deadline: Unsigned,
        /// How late, in nanoseconds.
        late: Unsigned,
    }
    /// Somebody has opened the shell.
    ShellInit = "shell:shell_init" {}
    /// The shell runs a command. The duration is that of the command.
    ShellCommand = "shell:shell_command" {
        /// Length of the line in bytes.
        length: Unsigned,
        /// Its first 8 bytes.
        text: Text,
        /// The next 8.
        text8: Text,
        /// The next 8.
        text16: Text,
    }
    /// A guest switches a vCPU on.
    PsciCpuOn = "psci:cpu_on" {
        /// Affinity of the vCPU.
        target: Hex,
        /// Where it begins.
        entry: Hex,
        /// Its x0.
        context: Hex,
        /// What the call returned.
        result: Signed,
    }
    /// A vCPU switches itself off.
    PsciCpuOff = "psci:cpu_off" {}
    /// A vCPU waits for an interrupt. The duration is that of the wait.
    PsciCpuSuspend = "psci:cpu_suspend" {
        /// The power state that it asks for.
        state: Hex,
    }
    /// A guest asks whether a vCPU is on.
    PsciAffinityInfo = "psci:affinity_info" {
        /// Affinity of the vCPU.
        target: Hex,
        /// Lowest affinity level.
        level: Unsigned,
        /// What the call returned.
        result: Signed,
    }
    /// A guest asks what the firmware can do.
    PsciFeatures = "psci:features" {
        /// The function that it asks for.
        function: Hex,
        /// What the call returned.
        result: Signed,
    }
    /// A guest switches itself off.
    PsciSystemOff = "psci:system_off" {}
    /// A guest resets itself.
    PsciSystemReset = "psci:system_reset" {}
}
