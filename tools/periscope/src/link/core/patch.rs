//! Writing an answer into an instruction: `bpf_core_patch_insn()`.

use super::value::{Answer, Resolution, Width};
use anyhow::{Context, Result, bail, ensure};
use ebpf::insn::{BAD_RELO, CALL, Insn, LD_IMM64, X, class, size};

/// What stands where the kernel has nothing.
const POISON: Insn = Insn {
    code: CALL,
    dst: 0,
    src: 0,
    off: 0,
    imm: BAD_RELO,
};

/// Writes an answer into instruction `at`.
pub(super) fn apply(insns: &mut [Insn], at: usize, resolution: &Resolution) -> Result<()> {
    let insns = insns.get_mut(at..).filter(|insns| !insns.is_empty());
    let insns = insns.context("there is no such instruction")?;
    let Resolution::Value(answer) = resolution else {
        return poison(insns);
    };
    match insns[0].class() {
        class::ALU | class::ALU64 => immediate(&mut insns[0], answer),
        class::LDX | class::ST | class::STX if answer.width == Width::Wrong => {
            check_old(insns[0].off.into(), answer)?;
            poison(insns)
        }
        class::LDX | class::ST | class::STX => access(&mut insns[0], answer),
        class::LD => wide(insns, answer),
        _ => bail!("the instruction is none that has something to fill in"),
    }
}

fn poison(insns: &mut [Insn]) -> Result<()> {
    let count = if insns[0].code == LD_IMM64 { 2 } else { 1 };
    let insns = insns.get_mut(..count);
    insns.context("the instruction is cut off")?.fill(POISON);
    Ok(())
}

/// The compiler has put in what its own types say, or it means something else.
fn check_old(found: i64, answer: &Answer) -> Result<()> {
    match answer.old {
        Some(old) if old != found as u64 => {
            bail!("the instruction has {found}, but the object's types say {old}")
        }
        _ => Ok(()),
    }
}

fn immediate(insn: &mut Insn, answer: &Answer) -> Result<()> {
    ensure!(insn.code & X == 0, "the instruction has no immediate");
    check_old(insn.imm.into(), answer)?;
    // Truncated to 32 bits, as libbpf does.
    insn.imm = answer.new as i32;
    Ok(())
}

fn access(insn: &mut Insn, answer: &Answer) -> Result<()> {
    check_old(insn.off.into(), answer)?;
    insn.off = i16::try_from(answer.new)
        .ok()
        .with_context(|| format!("an offset of {} is too large for a load", answer.new))?;
    let Width::Changed { old, new } = answer.width else {
        return Ok(());
    };
    let loaded = u32::from(insn.access_size());
    ensure!(
        loaded == old,
        "{loaded} bytes of a field of {old} are loaded"
    );
    let size = match new {
        8 => size::DW,
        4 => size::W,
        2 => size::H,
        1 => size::B,
        _ => bail!("a field of {new} bytes cannot be loaded"),
    };
    insn.code = insn.mode() | size | insn.class();
    Ok(())
}

fn wide(insns: &mut [Insn], answer: &Answer) -> Result<()> {
    let [low, high, ..] = insns else {
        bail!("the instruction is cut off");
    };
    let rest = Insn { imm: 0, ..*high };
    let is_number = low.code == LD_IMM64 && low.src == 0 && low.off == 0;
    let is_second = (rest.code, rest.dst, rest.src, rest.off) == (0, 0, 0, 0);
    ensure!(is_number && is_second, "the instruction loads no number");
    let found = u64::from(low.imm as u32) | u64::from(high.imm as u32) << 32;
    check_old(found as i64, answer)?;
    low.imm = answer.new as i32;
    high.imm = (answer.new >> 32) as i32;
    Ok(())
}
