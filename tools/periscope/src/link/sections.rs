//! What the sections of programs mean.

use super::signature;
use anyhow::{Context, Result, bail};
use probes::tracepoint::Tracepoint;
use std::collections::HashMap;

/// Where a program can be attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// At functions of a guest or of the hypervisor, or at a tracepoint of the hypervisor.
    Here,
    /// At functions of a guest, of which it wants the arguments.
    Arguments,
    /// Only inside a kernel: libbpf knows the section.
    Elsewhere,
    /// Nowhere, unless somebody asks for it: the section's name begins with `?`.
    OnRequest,
}

/// Programs that get the registers at a function.
const PROBES: &[&str] = &[
    "kprobe",
    "kretprobe",
    "ksyscall",
    "kretsyscall",
    "hprobe",
    "hretprobe",
];

/// Of these, those at functions of a guest.
const KPROBES: &[&str] = &["kprobe", "kretprobe", "ksyscall", "kretsyscall"];

/// What else libbpf knows (`section_defs` in `tools/lib/bpf/libbpf.c`).
const ELSEWHERE: &[&str] = &[
    "action",
    "cgroup",
    "cgroup_skb",
    "classifier",
    "flow_dissector",
    "fmod_ret",
    "fmod_ret.s",
    "freplace",
    "iter",
    "iter.s",
    "kprobe.multi",
    "kprobe.session",
    "kretprobe.multi",
    "lirc_mode2",
    "lsm",
    "lsm.s",
    "lsm_cgroup",
    "lwt_in",
    "lwt_out",
    "lwt_seg6local",
    "lwt_xmit",
    "netfilter",
    "perf_event",
    "raw_tp",
    "raw_tp.w",
    "raw_tracepoint",
    "raw_tracepoint.w",
    "sk_lookup",
    "sk_msg",
    "sk_reuseport",
    "sk_skb",
    "socket",
    "sockops",
    "struct_ops",
    "struct_ops.s",
    "syscall",
    "tc",
    "tcx",
    "tp_btf",
    "uprobe",
    "uprobe.multi",
    "uprobe.multi.s",
    "uprobe.s",
    "uretprobe",
    "uretprobe.multi",
    "uretprobe.multi.s",
    "uretprobe.s",
    "usdt",
    "usdt.s",
    "xdp",
    "xdp.frags",
    "xdp_cpumap",
    "xdp_devmap",
];

/// Sections by programs, of words like `on_read=kprobe/vfs_read`.
pub(super) fn parse(words: &[String]) -> Result<HashMap<String, String>> {
    let parse = |word: &String| {
        let (program, section) = word.split_once('=').with_context(|| {
            format!("--attach {word}: give a program and a section, on_read=kprobe/vfs_read")
        })?;
        Ok((program.to_owned(), section.to_owned()))
    };
    words.iter().map(parse).collect()
}

/// What a section's name says of its programs. An error where it says nothing at all.
pub(super) fn place(section: &str) -> Result<Place> {
    if let Some(rest) = section.strip_prefix('?') {
        place(rest)?;
        return Ok(Place::OnRequest);
    }
    let mut parts = section.split('/');
    let kind = parts.next().unwrap_or_default();
    if PROBES.contains(&kind) {
        return Ok(Place::Here);
    }
    if signature::function(section).is_some() {
        return Ok(Place::Arguments);
    }
    if matches!(kind, "tp" | "tracepoint") {
        let group = parts.next().unwrap_or_default();
        let is_ours = all().any(|point| point.group() == group);
        return Ok(if is_ours {
            Place::Here
        } else {
            Place::Elsewhere
        });
    }
    if ELSEWHERE.contains(&kind) {
        return Ok(Place::Elsewhere);
    }
    bail!(
        "what its section {section} means is not known: there are {}",
        known()
    )
}

/// Whether programs of a section get the registers at functions of a guest.
pub(super) fn is_kprobe(section: &str) -> bool {
    KPROBES.contains(&section.split('/').next().unwrap_or_default())
}

/// The sections that mean something here.
pub(super) fn known() -> String {
    let mut text = String::new();
    for kind in PROBES.iter().chain(&["fentry", "fexit"]) {
        text += kind;
        text += "/FUNCTION, ";
    }
    text + "tp/GROUP/NAME of the hypervisor's tracepoints"
}

/// The tracepoints of the hypervisor.
fn all() -> impl Iterator<Item = &'static Tracepoint> {
    let lists = [tracepoints::ALL, stub::tracepoints::ALL];
    lists.into_iter().flatten().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_have_places() {
        for (section, expected) in [
            ("kprobe/vfs_read", Place::Here),
            ("kretprobe", Place::Here),
            ("hprobe/handle_exit", Place::Here),
            ("tp/vmm/page_fault", Place::Here),
            ("tp/sched/sched_switch", Place::Elsewhere),
            ("fentry/vfs_read", Place::Arguments),
            ("fexit.s/vfs_read", Place::Arguments),
            ("fmod_ret/vfs_read", Place::Elsewhere),
            ("?kprobe/vfs_read", Place::OnRequest),
        ] {
            assert_eq!(place(section).ok(), Some(expected), "{section}");
        }
        assert!(place("kprobes/vfs_read").is_err());
        assert!(place("?what").is_err());
    }
}
