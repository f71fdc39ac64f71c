//! What a Debian guest says of itself: its own kprobes' counts, a hash of its kernel's text, its log.

use anyhow::{Context, Result, ensure};
use e2e::{LONG, Linux};
use std::collections::BTreeMap;

/// Where the guest's tracing is.
pub const TRACING: &str = "/sys/kernel/tracing";
const PAGE: u64 = 4096;
/// Names of functions in one line for the guest's shell.
const AT_ONCE: usize = 12;
/// Complaints of a kernel.
const COMPLAINTS: &str = "WARNING|BUG|Call trace|Oops|rcu.*(stall|detected)|soft lockup|hung task|Unexpected|[Bb]ad mode";

/// Has the guest count calls of these functions by its own kprobes.
pub fn count(linux: &mut Linux<'_>, functions: &[&str]) -> Result<()> {
    let counted = count_possible(linux, functions)?;
    for function in functions {
        ensure!(counted.contains_key(*function), "no kprobe on {function}");
    }
    Ok(())
}

/// The same with those of the functions that take a kprobe. Returns what each of them has counted by now.
pub fn count_possible(linux: &mut Linux<'_>, functions: &[&str]) -> Result<BTreeMap<String, u64>> {
    for some in functions.chunks(AT_ONCE) {
        linux.run(&format!(
            "for f in {}; do echo p:$f $f >> {TRACING}/kprobe_events; done",
            some.join(" ")
        ))?;
    }
    let enable = format!("echo 1 > {TRACING}/events/kprobes/enable");
    let said = linux.run_within(&enable, LONG)?;
    ensure!(
        said.is_empty(),
        "the guest's kprobes cannot be enabled: {said}"
    );
    counts(linux)
}

/// Takes the guest's kprobes on these functions away.
pub fn stop_counting_some(linux: &mut Linux<'_>, functions: &[&str]) -> Result<()> {
    for some in functions.chunks(AT_ONCE) {
        let said = linux.run(&format!(
            "for f in {}; do echo 0 > {TRACING}/events/kprobes/$f/enable; \
             echo -:$f >> {TRACING}/kprobe_events; done",
            some.join(" ")
        ))?;
        ensure!(said.is_empty(), "some of the guest's kprobes stay: {said}");
    }
    Ok(())
}

/// Takes all of the guest's kprobes away.
pub fn stop_counting(linux: &mut Linux<'_>) -> Result<()> {
    // For each of them the guest waits until no CPU can be in it.
    let disable = format!("echo 0 > {TRACING}/events/kprobes/enable");
    linux.run_within(&disable, LONG)?;
    let said = linux.run_within(&format!("echo > {TRACING}/kprobe_events"), LONG)?;
    ensure!(said.is_empty(), "the guest's kprobes stay: {said}");
    Ok(())
}

/// The calls that the guest has counted, by function. Reading them starts no process and changes no file.
pub fn counts(linux: &mut Linux<'_>) -> Result<BTreeMap<String, u64>> {
    let read = format!("while read line; do echo $line; done < {TRACING}/kprobe_profile");
    let said = linux.run(&read)?;
    said.lines()
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            // A hit that came while another was handled counts as a miss of the guest's.
            let [name, hits, missed] = words[..] else {
                anyhow::bail!("a line of kprobe_profile: `{line}`");
            };
            let hits: u64 = hits.parse().with_context(|| line.to_owned())?;
            let missed: u64 = missed.parse().with_context(|| line.to_owned())?;
            Ok((name.to_owned(), hits + missed))
        })
        .collect()
}

/// Where the guest can read its kernel's text as data.
pub struct Text {
    /// First page in `/proc/kcore`.
    first: u64,
    pages: u64,
}

impl Text {
    /// Finds the text in `/proc/kcore`, an ELF core file of all memory.
    pub fn find(linux: &mut Linux<'_>) -> Result<Self> {
        let said = linux.run("grep 'Kernel code' /proc/iomem")?;
        let range = said.trim().split(' ').next().unwrap_or_default();
        let (start, last) = range
            .split_once('-')
            .with_context(|| format!("no kernel code in {said}"))?;
        let start = u64::from_str_radix(start, 16)?;
        let last = u64::from_str_radix(last, 16)?;
        let words = words(linux)?;
        let word = |index: u64| words.get(index as usize).copied().unwrap_or_default();
        // Elf64_Ehdr: e_phoff at 32, e_phnum at 56; Elf64_Phdr has 56 bytes: p_type and p_flags, p_offset, p_vaddr,
        // p_paddr, p_filesz.
        let (headers, count) = (word(4) / 8, word(7) & 0xffff);
        let file_offset = (0..count)
            .map(|index| headers + 7 * index)
            .find_map(|at| {
                const LOAD: u64 = 1;
                let (offset, physical, size) = (word(at + 1), word(at + 3), word(at + 4));
                let within = start.checked_sub(physical)?;
                let is_it = word(at) & 0xffff_ffff == LOAD && within < size;
                is_it.then_some(offset + within)
            })
            .with_context(|| format!("/proc/kcore has no memory at {start:#x}"))?;
        Ok(Self {
            first: file_offset / PAGE,
            pages: (last - start) / PAGE,
        })
    }

    /// A hash of it, as the guest reads it.
    pub fn hash(&self, linux: &mut Linux<'_>) -> Result<String> {
        let Self { first, pages } = self;
        let command =
            format!("dd if=/proc/kcore bs={PAGE} skip={first} count={pages} 2>&1 | sha256sum");
        let said = linux.run_within(&command, LONG)?;
        let hash = said.split(' ').next().unwrap_or_default();
        ensure!(hash.len() == 64, "no hash: {said}");
        Ok(hash.to_owned())
    }
}

/// The first page of `/proc/kcore`.
fn words(linux: &mut Linux<'_>) -> Result<Vec<u64>> {
    let said = linux.run(&format!("od -v -A n -t x8 -N {PAGE} /proc/kcore"))?;
    said.split_whitespace()
        .map(|word| u64::from_str_radix(word, 16).with_context(|| format!("`{word}` in {said}")))
        .collect()
}

/// Fails where the guest's kernel has complained.
pub fn expect_clean_log(linux: &mut Linux<'_>) -> Result<()> {
    let said = linux.run(&format!("dmesg | grep -E '{COMPLAINTS}'; echo end"))?;
    ensure!(said == "end\n", "the guest's kernel complains:\n{said}");
    // Levels 0 to 3: emergency, alert, critical, error.
    let errors = linux.run("dmesg -r | grep -E '^<[0-3]>'; echo end")?;
    ensure!(errors == "end\n", "errors of the guest's kernel:\n{errors}");
    Ok(())
}
