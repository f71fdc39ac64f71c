//! What programs at functions of the kernel are given that want their arguments (`fentry`, `fexit`): the
//! kernel's types say.
//!
//! Arguments are 64-bit values in the order of the registers x0 to x7 (AAPCS64 section 6.8.2), as Linux'
//! trampolines for arm64 hand them over; a structure of up to 16 bytes is one or two. What Linux refuses is
//! refused too (`btf_distill_func_proto` in `kernel/bpf/btf.c`).

use anyhow::{Context, Result, bail, ensure};
use ebpf::btf::{Btf, Kind, Type};
use ebpf::signature::{At, MAX_ARGUMENTS, Signature};

/// Bytes that a structure may have to be handed over in registers.
const MAX_STRUCTURE: u32 = 16;
/// Bytes of a register.
const REGISTER: u32 = 8;

/// When programs of a section run that are given arguments, and at which function. `None`: of other
/// sections.
pub(super) fn function(section: &str) -> Option<(At, &str)> {
    let (kind, function) = section.split_once('/').unwrap_or((section, ""));
    match kind {
        "fentry" | "fentry.s" => Some((At::Entry, function)),
        "fexit" | "fexit.s" => Some((At::Return, function)),
        _ => None,
    }
}

/// What a program in a section of this name is given, where that is a function's arguments.
pub(super) fn of_section(section: &str, kernel: Option<&Btf<'_>>) -> Result<Option<Signature>> {
    let Some((at, function)) = function(section) else {
        return Ok(None);
    };
    ensure!(
        !function.is_empty(),
        "its section {section} does not say which function: as {section}/vfs_read"
    );
    let kernel = kernel.with_context(|| {
        format!(
            "its section {section} needs the types of the guest's kernel: give its BTF with \
             --btf, its image with --kernel, or the debug endpoint of its VM with --target"
        )
    })?;
    let of_function = of_function(kernel, at, function);
    of_function
        .with_context(|| format!("section {section}"))
        .map(Some)
}

fn of_function(kernel: &Btf<'_>, at: At, name: &str) -> Result<Signature> {
    let mut types = kernel.types().map(|(_, ty)| ty);
    let is_it = |ty: &Type<'_>| ty.kind == Kind::Func && kernel.string(ty.name) == name.as_bytes();
    let function = types.find(is_it);
    let prototype = function.and_then(|function| kernel.ty(function.size_or_type));
    let Some(prototype) = prototype.filter(|ty| ty.kind == Kind::FuncProto) else {
        bail!(
            "the kernel's types have no function {name}: choose another one with --attach \
             PROGRAM=SECTION, or other programs with --program"
        );
    };
    let mut arguments = 0;
    let mut addresses = 0;
    for (number, parameter) in prototype.parameters().enumerate() {
        let value = Handed::over(kernel, parameter.ty);
        let value = value.with_context(|| format!("argument {number} of {name}"))?;
        if value.is_address && arguments < MAX_ARGUMENTS {
            addresses |= 1 << arguments;
        }
        arguments += value.registers as usize;
    }
    ensure!(
        arguments <= MAX_ARGUMENTS,
        "the arguments of {name} take {arguments} registers, and there are {MAX_ARGUMENTS}: the \
         others are on the stack, which these programs are not given"
    );
    let result = prototype.size_or_type;
    if result != 0 {
        let value =
            Handed::over(kernel, result).with_context(|| format!("the result of {name}"))?;
        let (_, ty) = kernel.resolve(result).context("an endless type")?;
        ensure!(
            !ty.kind.is_composite(),
            "the result of {name} is a structure"
        );
        if value.is_address && at == At::Return {
            addresses |= 1 << arguments;
        }
    }
    Signature::new(at, arguments, addresses).context("a function that there cannot be")
}

/// How a value is handed over.
struct Handed {
    registers: u32,
    /// Whether it points to a structure of the kernel's.
    is_address: bool,
}

impl Handed {
    fn over(kernel: &Btf<'_>, ty: u32) -> Result<Self> {
        ensure!(ty != 0, "there may be any number of arguments (...)");
        let (id, ty) = kernel.resolve(ty).context("an endless type")?;
        let registers = match ty.kind {
            Kind::Ptr => 1,
            Kind::Int | Kind::Enum | Kind::Enum64 | Kind::Struct | Kind::Union => {
                let size = kernel.size(id).context("a type without a size")?;
                let most = if ty.kind.is_composite() {
                    MAX_STRUCTURE
                } else {
                    REGISTER
                };
                ensure!(size <= most, "a value of {size} bytes");
                size.div_ceil(REGISTER)
            }
            kind => bail!("a value of kind {kind:?}"),
        };
        let pointee = (ty.kind == Kind::Ptr).then(|| kernel.resolve(ty.size_or_type));
        Ok(Self {
            registers,
            is_address: pointee
                .flatten()
                .is_some_and(|(_, pointee)| pointee.kind.is_composite()),
        })
    }
}
