//! What a program's section says of where it runs, as libbpf reads it (`section_defs` in `tools/lib/bpf/libbpf.c`), and
//! the sections of our own.

use crate::options::Moment;
use crate::target::Target;
use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;

/// What the kernel calls the function of a system call: the prefix of `__arm64_sys_openat`
/// (`arch/arm64/include/asm/syscall_wrapper.h`).
const SYSCALL_PREFIX: &str = "__arm64_sys_";

/// The place that a section names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AttachPoint {
    /// Code of a guest: `kprobe/`, `kretprobe/`, `ksyscall/`, `kretsyscall/`, `fentry/`, `fexit/` (and
    /// `fentry.s/`, `fexit.s/`, whose programs Linux lets sleep: here there is nothing to wait for).
    Guest(Target, Moment),
    /// The hypervisor's own code: `hprobe/`, `hretprobe/`.
    Hypervisor(Target, Moment),
    /// A tracepoint of the hypervisor, such as `vmm:page_fault`: `tp/vmm/page_fault`.
    Tracepoint(String),
}

/// Why a section names no place. `Display` tells the user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NoAttachPoint {
    section: String,
    reason: Reason,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reason {
    Kind,
    Nothing,
    Place,
}

impl fmt::Display for NoAttachPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let section = &self.section;
        match self.reason {
            Reason::Kind if section.is_empty() => f.write_str("it has no section that says where"),
            Reason::Kind => write!(
                f,
                "nothing is attached by a section {section}, but by kprobe/FUNCTION, kretprobe/FUNCTION, ksyscall/NAME, \
                 kretsyscall/NAME, fentry/FUNCTION, fexit/FUNCTION, hprobe/FUNCTION, hretprobe/FUNCTION, tp/GROUP/NAME"
            ),
            Reason::Nothing => write!(f, "its section {section} does not say where"),
            Reason::Place => write!(f, "its section {section} names no place"),
        }
    }
}

impl core::error::Error for NoAttachPoint {}

impl AttachPoint {
    /// Reads a section's name. `kprobe/vfs_read+0x10` is a place in the function.
    pub fn of_section(section: &str) -> Result<Self, NoAttachPoint> {
        let refuse = |reason| NoAttachPoint {
            section: section.to_string(),
            reason,
        };
        let (kind, place) = section.split_once('/').unwrap_or((section, ""));
        let place = place.trim_matches('/');
        let target = |name: &str| Target::parse(name).map_err(|_| refuse(Reason::Place));
        let is_known = matches!(
            kind,
            "kprobe" | "kretprobe" | "ksyscall" | "kretsyscall" | "hprobe" | "hretprobe"
        ) || matches!(
            kind,
            "fentry" | "fentry.s" | "fexit" | "fexit.s" | "tp" | "tracepoint"
        );
        if is_known && place.is_empty() {
            return Err(refuse(Reason::Nothing));
        }
        let syscall = || target(&format!("{SYSCALL_PREFIX}{place}"));
        Ok(match kind {
            "kprobe" | "fentry" | "fentry.s" => Self::Guest(target(place)?, Moment::Before),
            "kretprobe" | "fexit" | "fexit.s" => Self::Guest(target(place)?, Moment::RETURN),
            "ksyscall" => Self::Guest(syscall()?, Moment::Before),
            "kretsyscall" => Self::Guest(syscall()?, Moment::RETURN),
            "hprobe" => Self::Hypervisor(target(place)?, Moment::Before),
            "hretprobe" => Self::Hypervisor(target(place)?, Moment::RETURN),
            "tp" | "tracepoint" => match place.split_once('/') {
                Some((group, name)) => Self::Tracepoint(format!("{group}:{name}")),
                None => return Err(refuse(Reason::Place)),
            },
            _ => return Err(refuse(Reason::Kind)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_name_places() {
        let symbol = |name: &str, offset| Target::Symbol {
            name: name.to_string(),
            offset,
        };
        let [before, after] = [Moment::Before, Moment::RETURN];
        let openat = "__arm64_sys_openat";
        for (section, expected) in [
            ("kprobe/f", AttachPoint::Guest(symbol("f", 0), before)),
            ("kprobe/f+0x8", AttachPoint::Guest(symbol("f", 8), before)),
            ("kretprobe/f", AttachPoint::Guest(symbol("f", 0), after)),
            ("fentry/f", AttachPoint::Guest(symbol("f", 0), before)),
            ("fexit.s/f", AttachPoint::Guest(symbol("f", 0), after)),
            (
                "ksyscall/openat",
                AttachPoint::Guest(symbol(openat, 0), before),
            ),
            (
                "kretsyscall/openat",
                AttachPoint::Guest(symbol(openat, 0), after),
            ),
            ("hprobe/f", AttachPoint::Hypervisor(symbol("f", 0), before)),
            (
                "hretprobe/f",
                AttachPoint::Hypervisor(symbol("f", 0), after),
            ),
            ("tp/vmm/exit", AttachPoint::Tracepoint("vmm:exit".into())),
        ] {
            assert_eq!(AttachPoint::of_section(section), Ok(expected), "{section}");
        }
    }

    #[test]
    fn what_names_no_place_says_so() {
        for (section, expected) in [
            ("", "it has no section that says where"),
            ("kprobe", "its section kprobe does not say where"),
            ("kprobe/", "its section kprobe/ does not say where"),
            ("kprobe/a b", "its section kprobe/a b names no place"),
            ("tp/vmm", "its section tp/vmm names no place"),
        ] {
            let error = AttachPoint::of_section(section).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
        let error = AttachPoint::of_section("lsm/f").unwrap_err();
        let error = error.to_string();
        assert!(error.starts_with("nothing is attached by a section lsm/f, but by"));
    }
}
