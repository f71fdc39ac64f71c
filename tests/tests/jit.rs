//! Compiled programs against interpreted ones: on an emulated CPU without a machine, and at EL2.

use anyhow::{Context, Result, ensure};
use e2e::tiny::{Tiny, World, truth};
use e2e::{Scope, Shell, Spec, cases, link_example, named, scope};
use ebpf::asm::reg::{R0, R1, R2};
use ebpf::asm::{atomic_add, exit, map_value, mov_imm};
use ebpf::linked::Linked;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;
use xtask::build::Program;
use xtask::process;

/// How long the programs of one test may take, on a machine that has much else to do.
const BOUND: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    cases(vec![
        named("random_programs_agree", random_programs_agree),
        named("programs_agree_at_el2", programs_agree_at_el2),
        named("code_is_read_only", code_is_read_only),
        named("code_memory_comes_back", code_memory_comes_back),
    ])
}

/// How many programs are made and run.
fn programs() -> u64 {
    match scope() {
        Scope::Quick => 4_000,
        Scope::Full => 400_000,
    }
}

fn random_programs_agree() -> Result<()> {
    let count = programs();
    let mut check = Command::new("qemu-aarch64");
    // Some programs are compiled to the atomic instructions of FEAT_LSE.
    check.args(["-cpu", "max"]).arg(Program::JitCheck.image());
    check.args(["1", &count.to_string()]);
    let said = process::output_bounded(&mut check, BOUND)?;
    let words = said.strip_prefix("jit-check: ");
    let agreed = words.and_then(|words| words.split(' ').next()?.parse::<u64>().ok());
    // A few are too complex to be verified.
    let enough = agreed.is_some_and(|agreed| agreed >= count - count / 100);
    ensure!(enough && said.contains("programs agree"), "it said: {said}");
    Ok(())
}

/// What runs of the same programs leave, compiled in both ways and interpreted.
fn programs_agree_at_el2() -> Result<()> {
    let interpreted = run_at_el2("jit=off", |said| {
        said.contains("calls is interpreted: nothing is compiled here")
    })?;
    ensure!(interpreted[0].lines().count() > 40, "{interpreted:?}");
    for words in ["", "jit=blind"] {
        // The end of every compiled program.
        let compiled = run_at_el2(words, |said| said.contains("  ret\n"))?;
        ensure!(
            compiled == interpreted,
            "`{words}`: {compiled:#?}\n`jit=off`: {interpreted:#?}"
        );
    }
    Ok(())
}

/// Counts calls by a program in C, which looks up and updates, and keeps arguments by one that also prints. Returns what
/// their maps hold and what is printed.
fn run_at_el2(words: &str, is_right: impl FnOnce(&str) -> bool) -> Result<[String; 3]> {
    let linked = link_example("calls", Path::new(env!("CARGO_TARGET_TMPDIR")))?;
    let world = World::boot_on(Spec::hypervisor().append(words))?;
    upload(&world, &linked, "calls")?;
    let mut left = Default::default();
    world.with(|tiny, shell| {
        let listing = shell.run("ebpf dump calls --jit")?;
        ensure!(is_right(&listing), "`{words}`: {listing}");
        let address = world.subject("fn_cbz")?.address;
        let calls = shell.kprobe(address, "calls")?;
        let args = shell.kprobe(address, "args")?;
        tiny.run("callboth fn_cbz 40")?;
        tiny.run("call fn_cbz 3 1")?;
        let list = shell.run("trace list")?;
        ensure!(!list.contains("(interpreted)"), "{list}");
        let prints = shell.run("trace stream -n 3 --filter print")?;
        let texts = prints.lines().filter_map(|line| line.split_once("x0="));
        left = [
            sorted(&shell.run("map dump calls counts")?),
            shell.run("map dump args args")?,
            texts.map(|(_, text)| text).collect::<Vec<_>>().join("\n"),
        ];
        ensure!(shell.detach(calls)? == 83, "calls");
        ensure!(shell.detach(args)? == 83, "calls");
        Ok(())
    })?;
    Ok(left)
}

/// The rows of a table in an order that does not depend on which CPU came first.
fn sorted(table: &str) -> String {
    let mut rows: Vec<&str> = table.lines().collect();
    rows.sort_unstable();
    rows.join("\n")
}

/// As a user does it.
fn upload(world: &World, linked: &Path, name: &str) -> Result<()> {
    let mut gdb = world.machine().gdb(1)?;
    gdb.console(&format!("remote put {} {name}.lp", linked.display()))?;
    gdb.detach()
}

/// Code lies where the debugger of the hypervisor may read and nobody may write.
fn code_is_read_only() -> Result<()> {
    let world = World::boot()?;
    let mut gdb = world.machine().gdb_of_hypervisor()?;
    let code = gdb.console("x/2i &__native_start")?;
    // Built-in programs are the first.
    ensure!(code.contains("stp\tx29, x30, [sp, #-"), "{code}");
    let refused = gdb.console("set {int}&__native_start = 0");
    ensure!(refused.is_err(), "the debugger has written to code");
    ensure!(
        gdb.console("x/2i &__native_start")? == code,
        "code has changed"
    );
    gdb.detach()?;
    world.with(|tiny, _| truth::expect(tiny, "call fn_nop 3", &[("count", 3), ("bad", 0)]))
}

/// There is room for so many programs, what comes then is interpreted, and room is again where programs have gone.
fn code_memory_comes_back() -> Result<()> {
    let world = World::boot()?;
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("large.lp");
    fs::write(&path, large()?.encode()?)?;
    let is_declined = |shell: &mut Shell, name: &str| -> Result<bool> {
        let said = shell.run(&format!("ebpf dump {name} --jit"))?;
        Ok(said.contains("there is no room for more compiled programs"))
    };
    let unload = |shell: &mut Shell, count: usize| -> Result<()> {
        for number in 0..=count {
            let said = shell.run(&format!("trace unload large{number}"))?;
            ensure!(!said.contains("in use"), "{said}");
        }
        Ok(())
    };
    let mut fits = Vec::new();
    for _ in 0..2 {
        let mut count = 0;
        loop {
            let name = format!("large{count}");
            upload(&world, &path, &name)?;
            let mut declined = false;
            world.with(|tiny, shell| {
                declined = is_declined(shell, &name)?;
                if declined {
                    runs_interpreted(&world, &name, tiny, shell)?;
                }
                Ok(())
            })?;
            if declined {
                break;
            }
            count += 1;
            ensure!(count < 64, "{count} programs have room for their code");
        }
        world.with(|_, shell| unload(shell, count))?;
        fits.push(count);
    }
    ensure!(
        fits[0] > 1 && fits[0] == fits[1],
        "room for {fits:?} programs"
    );
    Ok(())
}

/// A probe whose program is not compiled shows it, and its program runs.
fn runs_interpreted(
    world: &World,
    name: &str,
    tiny: &mut Tiny<'_>,
    shell: &mut Shell,
) -> Result<()> {
    let probe = shell.kprobe(world.subject("fn_nop")?.address, name)?;
    tiny.run("call fn_nop 3")?;
    let list = shell.run("trace list")?;
    ensure!(list.contains(&format!("{name} (interpreted)")), "{list}");
    ensure!(shell.hits_and_misses(probe)? == (3, 0), "{list}");
    let programs = shell.run("trace progs")?;
    ensure!(
        programs.contains("large (interpreted: there is no room"),
        "{programs}"
    );
    ensure!(shell.detach(probe)? == 3, "hits");
    Ok(())
}

/// A program of which few fit: an atomic operation becomes many instructions.
fn large() -> Result<Linked> {
    const ADDITIONS: usize = 3000;
    let mut linked = ebpf::builtin::linked("count").context("there is no built-in `count`")?;
    let mut insns = map_value(R1, 0, 0).to_vec();
    insns.push(mov_imm(R2, 1));
    insns.extend([atomic_add(R1, 0, R2); ADDITIONS]);
    insns.extend([mov_imm(R0, 0), exit()]);
    linked.name = "large".into();
    linked.programs[0].name = "large".into();
    linked.programs[0].insns = insns;
    Ok(linked)
}
