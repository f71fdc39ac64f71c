//! Why a breakpoint or a probe was refused, in words for the user.

use crate::a64::Unmovable;
use crate::addr::{Gpa, Gva};
use crate::kernel::NoKernel;
use crate::kernel_types::NoTypes;
use crate::machine::{HwError, VmId};
use crate::symbols::Named;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use ebpf::signature::At;

/// Why a site, a probe or a hardware point was refused. `Display` says what is wrong and what to
/// do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Instructions are at multiples of 4.
    Unaligned(Gva),
    /// The address belongs to a device or to no memory of the VM.
    NotRam {
        /// The space.
        vm: VmId,
        /// The address.
        address: Gva,
        /// Where stage 1 leads.
        gpa: Gpa,
    },
    /// The address can be executed at EL0, where `HVC` is undefined.
    UserCode(Gva),
    /// The guest's kernel does not execute the page: it is data.
    NotExecutable(Gva),
    /// No instruction of the architecture looks like this: it is data between code.
    NotAnInstruction {
        /// The address.
        address: Gva,
        /// What is there.
        word: u32,
    },
    /// A mode that the hypervisor's own code does not have.
    ModeOfVms,
    /// A hardware breakpoint for a function's returns.
    ModeOfReturns,
    /// The page, which is to be made not executable, begins inside an exclusive sequence: a trap
    /// there would clear the monitor, and the guest would retry for ever.
    PageInSequence {
        /// The page.
        page: Gva,
    },
    /// Between a load-exclusive and its store-exclusive: a trap there would clear the monitor, and
    /// the guest would retry for ever.
    ExclusiveSequence {
        /// The address.
        address: Gva,
        /// The first address after the sequence.
        after: Gva,
    },
    /// A return probe is asked for in the middle of a function.
    NoEntry {
        /// The address.
        address: Gva,
        /// The function.
        name: String,
        /// Bytes from the function's entry.
        offset: u64,
    },
    /// A return probe is asked for on a function that has no way out.
    NeverReturns(Gva),
    /// No symbol has that name.
    NoSymbol {
        /// The space.
        vm: VmId,
        /// The name.
        name: String,
        /// Names that the user may have meant.
        similar: Vec<String>,
    },
    /// The function has no code of its own.
    Inlined {
        /// The space.
        vm: VmId,
        /// Its name.
        name: String,
        /// In how many places its callers hold a copy.
        places: u32,
    },
    /// Several symbols have that name.
    Ambiguous {
        /// The space.
        vm: VmId,
        /// The name.
        name: String,
        /// Where they are; not more than a user wants to read.
        places: Vec<Named>,
    },
    /// Code of the hypervisor that serves probes.
    ServesProbes {
        /// The space.
        vm: VmId,
        /// The function, or the address where no symbol says what is there.
        place: String,
    },
    /// An instruction of the hypervisor's that a probe cannot take the place of.
    Unmovable {
        /// The space.
        vm: VmId,
        /// The address.
        address: Gva,
        /// What is against it.
        reason: Unmovable,
    },
    /// The hypervisor's image carries no symbols.
    NoOwnSymbols,
    /// The program asks for the guest's current task, of which nothing is known.
    NoTasks {
        /// The VM.
        vm: VmId,
        /// Why.
        reason: NoTypes,
    },
    /// The program wants a function's arguments at its entry, or at its return, and is attached elsewhere.
    WrongMoment {
        /// The program.
        program: String,
        /// Where it wants them.
        wanted: At,
    },
    /// All sites of the VM are taken.
    TooManySites(usize),
    /// No memory is left for another page with probes.
    OutOfMemory(VmId),
    /// No probe has that number.
    NoSuchProbe {
        /// The space.
        vm: VmId,
        /// The number.
        id: u32,
    },
    /// The hardware cannot.
    Hardware(HwError),
    /// The vCPU is off, or there is none of that number.
    NoVcpu {
        /// The space.
        vm: VmId,
        /// The vCPU.
        vcpu: u8,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unaligned(address) => {
                write!(
                    f,
                    "{address} is not the address of an instruction: it is no multiple of 4"
                )
            }
            Self::NotRam { vm, address, gpa } => {
                write!(
                    f,
                    "{vm}: {address} is not RAM (guest-physical {gpa}): no breakpoint can be there"
                )
            }
            Self::UserCode(address) => write!(
                f,
                "{address} is user code, which cannot carry a probe: use a \
                 hardware breakpoint (hbreak, --mode hw)"
            ),
            Self::NotExecutable(address) => write!(
                f,
                "{address} is data: the guest's kernel does not execute that page"
            ),
            Self::NotAnInstruction { address, word } => {
                write!(f, "{address} is data: no instruction is {word:#010x}")
            }
            Self::ModeOfVms => f.write_str(
                "the hypervisor's own code has no execute view and no hardware breakpoints: leave \
                 --mode out",
            ),
            Self::ModeOfReturns => f.write_str(
                "a function can have more returns than there are hardware breakpoints: use --mode \
                 hvc or xn",
            ),
            Self::PageInSequence { page } => write!(
                f,
                "the page at {page} begins between a load-exclusive and its store-exclusive, which \
                 --mode xn would make fail for ever: use --mode hvc or hw"
            ),
            Self::ExclusiveSequence { address, after } => write!(
                f,
                "{address} is between a load-exclusive and its store-exclusive, which a stop would \
                 make fail for ever: use {after}"
            ),
            Self::NoEntry {
                address,
                name,
                offset,
            } => write!(
                f,
                "{address} is {name}+{offset:#x}, in the middle of a function: put the return \
                 probe on {name}"
            ),
            Self::NeverReturns(address) => write!(
                f,
                "the function at {address} has neither a return instruction nor a jump to another \
                 function: it never returns"
            ),
            Self::NoSymbol { vm, name, similar } if similar.is_empty() => {
                write!(f, "no symbol {name} in {vm}.")
            }
            Self::NoSymbol { vm, name, similar } => {
                write!(
                    f,
                    "no symbol {name} in {vm}. Did you mean {}?",
                    similar.join(", ")
                )
            }
            Self::Inlined { vm, name, places } => {
                let plural = if *places == 1 { "" } else { "s" };
                write!(
                    f,
                    "{vm}:{name} is inlined in {places} place{plural} and has no code of its own to \
                     probe: probe a caller"
                )
            }
            Self::Ambiguous { vm, name, places } => {
                write!(f, "{name} can be several symbols of {vm}: ")?;
                for (index, named) in places.iter().enumerate() {
                    let separator = if index == 0 { "" } else { ", " };
                    write!(f, "{separator}{}", named.address)?;
                    if named.name != *name {
                        write!(f, " ({})", named.name)?;
                    }
                }
                f.write_str(". Say which by its address.")
            }
            Self::ServesProbes { vm, place } => {
                write!(f, "{vm}:{place} serves probes itself and cannot be probed.")
            }
            Self::Unmovable {
                vm,
                address,
                reason,
            } => {
                write!(
                    f,
                    "{vm}: the instruction at {address} cannot carry a probe: {reason}"
                )
            }
            Self::NoOwnSymbols => NoKernel::Hypervisor.fmt(f),
            Self::NoTasks { vm, reason } => write!(
                f,
                "the program asks for the current task, and {vm} does not tell where its fields are: \
                 {reason}"
            ),
            Self::WrongMoment {
                program,
                wanted: At::Entry,
            } => write!(
                f,
                "{program} wants a function's arguments as it begins (fentry): attach it without --ret"
            ),
            Self::WrongMoment {
                program,
                wanted: At::Return,
            } => write!(
                f,
                "{program} wants a function's arguments and its result as it returns (fexit): attach \
                 it with --ret"
            ),
            Self::TooManySites(limit) => {
                write!(
                    f,
                    "all {limit} sites of this VM are taken: detach a probe first"
                )
            }
            Self::OutOfMemory(vm) => {
                write!(
                    f,
                    "{vm}: no memory is left for another page with probes: detach one first"
                )
            }
            Self::NoSuchProbe { vm, id } => {
                write!(f, "{vm} has no probe {id}: `monitor trace list` shows them")
            }
            Self::Hardware(HwError::TooMany { available }) => write!(
                f,
                "all {available} hardware registers of that kind are taken: delete a hardware \
                 breakpoint or watchpoint first"
            ),
            Self::Hardware(HwError::Guests) => f.write_str(
                "the debug registers are the guests': break (not hbreak) sets breakpoints in the \
                 hypervisor's code, and there are no watchpoints on its data",
            ),
            Self::Hardware(HwError::BadRange) => f.write_str(
                "no watchpoint register can cover that range: watch 1 to 8 bytes, or an aligned \
                 power of two",
            ),
            Self::NoVcpu { vm, vcpu } => write!(f, "{vm}/vcpu{vcpu} is off or does not exist"),
        }
    }
}

impl core::error::Error for Refusal {}
