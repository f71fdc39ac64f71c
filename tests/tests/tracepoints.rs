//! The hypervisor's tracepoints under the tiny guest, whose calls, ticks and lives can be counted exactly.

use anyhow::{Context, Result, ensure};
use e2e::tiny::{Tiny, World};
use e2e::{Case, Gdb, MOMENT, Shell, Spec, link_example, suite};
use object::{Object, ObjectSection, ObjectSymbol};
use std::path::Path;
use std::process::ExitCode;
use xtask::build::Program;

/// On from the start: what happens while the machine boots cannot be seen otherwise.
const BOOT_EVENTS: &str =
    "trace=vmm:vmm_init,vmm:config_load,vmm:image_load,vmm:vm_create,vmm:memory_map,psci:cpu_on";

/// All that the hypervisor must have.
const TRACEPOINTS: &str = "\
    vmm:vmm_init vmm:config_load vmm:image_load vmm:vm_create vmm:vm_destroy vmm:vcpu_run_enter vmm:vcpu_run_exit \
    vmm:hypercall vmm:external_interrupt vmm:irq_inject vmm:irq_handle vmm:page_fault vmm:memory_map vmm:memory_unmap \
    vmm:timer_tick vmm:timer_event shell:shell_init shell:shell_command psci:cpu_on psci:cpu_off psci:cpu_suspend \
    psci:affinity_info psci:features psci:system_off psci:system_reset debug:session_open debug:session_close \
    debug:stop debug:resume";

fn main() -> ExitCode {
    suite(
        boot,
        &[
            Case {
                name: "tracepoints_tell_of_the_boot",
                run: the_boot,
            },
            Case {
                name: "tracepoints_have_fields",
                run: the_list,
            },
            Case {
                name: "tracepoints_count_hypercalls_exactly",
                run: hypercalls,
            },
            Case {
                name: "tracepoints_count_exits_by_a_program_in_c",
                run: exits,
            },
            Case {
                name: "programs_put_records_out_and_keep_maps",
                run: records_and_maps,
            },
            Case {
                name: "tracepoints_of_interrupts_and_timers",
                run: interrupts,
            },
            Case {
                name: "tracepoints_of_page_faults",
                run: page_faults,
            },
            Case {
                name: "tracepoints_of_sessions_and_the_shell",
                run: sessions,
            },
            Case {
                name: "tracepoints_from_gdb_print_live",
                run: from_gdb,
            },
            Case {
                name: "tracepoints_are_followed_in_the_shell",
                run: followed,
            },
            Case {
                name: "tracepoints_lose_nothing_in_silence",
                run: losses,
            },
            Case {
                name: "tracepoints_tell_of_a_new_life",
                run: a_new_life,
            },
            Case {
                name: "tracepoints_that_are_off_cost_three_instructions",
                run: off_costs,
            },
        ],
    )
}

fn boot() -> Result<World> {
    World::boot_on(Spec::hypervisor().append(BOOT_EVENTS))
}

/// Runs a case with all tracepoints off and nothing counted.
fn observe(
    world: &World,
    case: impl FnOnce(&mut Tiny<'_>, &mut Shell) -> Result<()>,
) -> Result<()> {
    world.with(|tiny, shell| {
        shell.run("trace disable *")?;
        shell.run("trace reset")?;
        case(tiny, shell)?;
        shell.run("trace disable *").map(drop)
    })
}

/// How often an event has been counted, for all VMs together.
fn count(shell: &mut Shell, event: &str) -> Result<u64> {
    let table = shell.run("trace stat")?;
    let rows = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let counts = rows
        .filter(|row| row.first() == Some(&event))
        .map(|row| number(row.get(3).copied().unwrap_or_default()));
    counts.sum()
}

fn number(text: &str) -> Result<u64> {
    let digits = text.replace(',', "");
    digits.parse().with_context(|| format!("number `{text}`"))
}

/// The events of a name, oldest first, without time and CPU.
fn events(shell: &mut Shell, name: &str) -> Result<Vec<String>> {
    let text = shell.run(&format!("trace stream -n 1000 --filter {name}"))?;
    let lines = text.lines().filter(|line| line.contains(name));
    Ok(lines
        .map(|line| {
            line.split_whitespace()
                .skip(2)
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect())
}

fn the_boot(world: &World) -> Result<()> {
    world.with(|_, shell| tells_of_the_boot(shell))
}

fn tells_of_the_boot(shell: &mut Shell) -> Result<()> {
    let text = shell.run("trace stream -n 1000 --filter tracepoint")?;
    let mut rest = text.as_str();
    for wanted in [
        "vm1/vcpu0 tracepoint vmm:config_load vcpus=2 memory=67108864 halt=0",
        "vm1/vcpu0 tracepoint vmm:memory_map gpa=0x40000000 size=67108864 what=ram",
        "vm1/vcpu0 tracepoint vmm:vm_create vcpus=2 memory=67108864 address=0x",
        "vm1/vcpu0 tracepoint vmm:image_load kernel=0x40200000 size=",
        "hyp/cpu0  tracepoint vmm:vmm_init cpus=3 vms=1 memory=",
    ] {
        let at = rest.find(wanted);
        let at = at.with_context(|| format!("no `{wanted}` in its place in\n{text}"))?;
        rest = &rest[at..];
    }
    let on = events(shell, "psci:cpu_on")?;
    ensure!(
        matches!(&on[..], [one] if one.contains("target=0x1 ") && one.ends_with(" result=0")),
        "{on:?}"
    );
    Ok(())
}

fn the_list(world: &World) -> Result<()> {
    observe(world, |_, shell| {
        let table = shell.run("trace tracepoints")?;
        for name in TRACEPOINTS.split_whitespace() {
            let row = table
                .lines()
                .find(|line| line.split(' ').next() == Some(name));
            let row = row.with_context(|| format!("no {name} in\n{table}"))?;
            let state = row.split_whitespace().nth(1);
            ensure!(state == Some("off"), "{row}");
        }
        let one = shell.run("trace tracepoints vmm:page_fault")?;
        for wanted in [
            "gva ",
            "hex ",
            "fetch|read|write|walk",
            "retry|probed|device|refused",
        ] {
            ensure!(one.contains(wanted), "no {wanted} in\n{one}");
        }
        Ok(())
    })
}

fn hypercalls(world: &World) -> Result<()> {
    const CALLS: u64 = 20;
    observe(world, |tiny, shell| {
        shell.run("trace enable vmm:hypercall psci:affinity_info")?;
        for _ in 0..CALLS {
            tiny.run("psci info 1")?;
        }
        tiny.run("psci version")?;
        ensure!(
            count(shell, "psci:affinity_info")? == CALLS,
            "calls of AFFINITY_INFO"
        );
        ensure!(count(shell, "vmm:hypercall")? == CALLS + 1, "hypercalls");
        let calls = events(shell, "vmm:hypercall")?;
        let info =
            "vm1/vcpu0 tracepoint vmm:hypercall function=0xc4000004 x1=0x1 x2=0x0 result=0 after ";
        let version = "vm1/vcpu0 tracepoint vmm:hypercall function=0x84000000 x1=0x0 x2=0x0 result=65537 after ";
        ensure!(calls[0].starts_with(info), "{calls:?}");
        ensure!(
            calls.last().is_some_and(|last| last.starts_with(version)),
            "{calls:?}"
        );
        let stat = shell.run("trace stat --hist vmm:hypercall")?;
        ensure!(stat.contains("n=21  p50 ") && stat.contains("% "), "{stat}");

        shell.run("trace enable vmm:hypercall --prog ret")?;
        tiny.run("psci info 1")?;
        let said = shell.run("trace stream -n 1 --filter print")?;
        let duration = said.trim_end().split_once("x0=0xc4000004 after ");
        let duration = duration.and_then(|(_, rest)| rest.strip_suffix(" ns"));
        let duration: u64 = duration.with_context(|| said.clone())?.parse()?;
        ensure!(
            duration > 0,
            "the program does not know how long the call took"
        );

        shell.run("trace disable vmm:hypercall")?;
        tiny.run("psci info 1")?;
        ensure!(
            count(shell, "vmm:hypercall")? == CALLS + 2,
            "one more though it is off"
        );
        ensure!(
            count(shell, "psci:affinity_info")? == CALLS + 2,
            "the other is still on"
        );
        Ok(())
    })
}

/// The hits of a probe are exits by HVC, and nothing else is.
fn exits(world: &World) -> Result<()> {
    const CALLS: u64 = 1000;
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let linked = link_example("exits", directory)?;
    observe(world, |tiny, shell| {
        let mut gdb = world.machine().gdb(1)?;
        gdb.console(&format!("remote put {} exits.lp", linked.display()))?;
        gdb.detach()?;
        let address = world.subject("fn_nop")?.address;
        let probe = shell.kprobe(address, "count")?;
        // Without looking at its UART all the time.
        tiny.run("rx irq")?;
        let refused = shell.run("trace enable vmm:vcpu_run_enter --prog exits:count_exit")?;
        ensure!(
            refused.contains("is made for tp/vmm/vcpu_run_exit"),
            "{refused}"
        );
        let said = shell.run("trace enable vmm:vcpu_run_exit --prog exits:count_exit")?;
        ensure!(said.contains("is on, runs exits:count_exit"), "{said}");
        shell.run("trace enable vmm:vcpu_run_enter")?;
        tiny.run(&format!("call fn_nop {CALLS}"))?;
        shell.run("trace disable vmm:vcpu_run_exit vmm:vcpu_run_enter")?;
        tiny.run("rx poll")?;
        let classes = shell.run("map dump exits classes")?;
        let hvc = classes
            .lines()
            .find_map(|row| row.trim().strip_prefix("22 "));
        let hvc = number(hvc.context("no class 0x16")?.trim())?;
        ensure!(
            hvc == CALLS,
            "{hvc} exits by HVC for {CALLS} hits:\n{classes}"
        );
        ensure!(shell.detach(probe)? == CALLS, "hits");
        let in_use = shell.run("trace unload exits")?;
        ensure!(!in_use.contains("in use"), "{in_use}");

        let (left, lost) = (count(shell, "vmm:vcpu_run_exit")?, lost(shell)?);
        ensure!(left + lost >= CALLS, "{left} exits, {lost} lost");
        alternate(&shell.run("trace stream -n 200 --filter vmm")?)?;
        let stat = shell.run("trace stat --hist vmm:vcpu_run_exit")?;
        ensure!(stat.contains(" p50 "), "times in the guest:\n{stat}");
        Ok(())
    })
}

/// What the example `records` puts out and counts of the calls of a function, on two vCPUs at once.
fn records_and_maps(world: &World) -> Result<()> {
    const CALLS: u64 = 40;
    let linked = link_example("records", Path::new(env!("CARGO_TARGET_TMPDIR")))?;
    observe(world, |tiny, shell| {
        let mut gdb = world.machine().gdb(1)?;
        gdb.console(&format!("remote put {} records.lp", linked.display()))?;
        gdb.detach()?;
        let probe = shell.kprobe(world.subject("fn_cbz")?.address, "records")?;
        tiny.run(&format!("callboth fn_cbz {CALLS}"))?;
        ensure!(shell.hits(probe)? == 2 * CALLS, "hits");

        for (map, tag) in [("calls", "ring|"), ("events", "perf|")] {
            let stream = shell.run(&format!("trace stream -n 1000 --filter {map}"))?;
            for vcpu in ["vm1/vcpu0", "vm1/vcpu1"] {
                let is_record = |line: &&str| line.contains(vcpu) && line.contains(" record ");
                let of_vcpu = stream.lines().filter(is_record);
                let arguments: Result<Vec<u64>> = of_vcpu.map(first_word_of_record).collect();
                let mut arguments = arguments?;
                // In the order of the calls, whichever that is.
                let in_order = arguments.is_sorted() || arguments.is_sorted_by(|a, b| a >= b);
                ensure!(in_order, "{map}: {arguments:?}");
                arguments.sort_unstable();
                ensure!(arguments.iter().copied().eq(1..=CALLS), "{map}: {stream}");
            }
            let tagged = stream.lines().filter(|line| line.ends_with(tag)).count();
            ensure!(tagged as u64 == 2 * CALLS, "{stream}");
        }

        let list = shell.run("map list records --json")?;
        for (map, entries) in [
            ("calls", 80),
            ("events", 80),
            ("arguments", 40),
            ("late", 8),
            ("last", 4),
        ] {
            let row = list
                .lines()
                .find(|row| row.contains(&format!("\"map\":\"{map}\"")));
            let row = row.with_context(|| format!("no {map} in {list}"))?;
            ensure!(row.contains(&format!("\"entries\":{entries},")), "{row}");
            let lost = row.contains("\"lost\":0") || row.contains("\"lost\":\"-\"");
            ensure!(lost, "{row}");
        }
        let arguments = shell.run("map dump records arguments")?;
        let sums: Vec<&str> = arguments
            .lines()
            .filter(|row| row.contains(" sum "))
            .collect();
        ensure!(sums.len() as u64 == CALLS, "{arguments}");
        ensure!(
            sums.iter().all(|row| row.trim_end().ends_with(" 2")),
            "{arguments}"
        );
        // 32 to 40, twice.
        let sizes = shell.run("map dump records sizes --hist")?;
        let last = sizes.trim_end().lines().last().unwrap_or_default();
        ensure!(
            last.contains(" 32 … 63 ") && last.ends_with(" 18"),
            "{sizes}"
        );

        // The debugger writes what the program reads, and reads what it writes.
        shell.run("map update records arguments 1 100 --cpu 0")?;
        shell.run("map update records arguments 2 0")?;
        tiny.run(&format!("callboth fn_cbz {CALLS}"))?;
        let two = shell.run("map lookup records arguments 2")?;
        ensure!(
            two.lines()
                .any(|row| row.contains(" sum ") && row.trim_end().ends_with(" 2")),
            "{two}"
        );
        let one = shell.run("map lookup records arguments 1 --json")?;
        let first = one.lines().next().unwrap_or_default();
        ensure!(
            number(
                first
                    .rsplit(':')
                    .next()
                    .unwrap_or_default()
                    .trim_end_matches('}')
            )? >= 100,
            "{one}"
        );
        shell.run("map delete records arguments 2")?;
        let gone = shell.run("map lookup records arguments 2")?;
        ensure!(gone.contains("no such entry"), "{gone}");
        shell.detach(probe)?;
        shell.run("trace unload records").map(drop)
    })
}

/// The first eight bytes of a record that `trace stream` shows, as a number.
fn first_word_of_record(line: &str) -> Result<u64> {
    let (_, bytes) = line
        .split_once(" bytes ")
        .with_context(|| format!("no record: {line}"))?;
    let bytes = bytes.split_whitespace().take(8);
    let bytes: Result<Vec<u8>, _> = bytes.map(|byte| u8::from_str_radix(byte, 16)).collect();
    let bytes = bytes?
        .try_into()
        .ok()
        .with_context(|| format!("a short record: {line}"))?;
    Ok(u64::from_le_bytes(bytes))
}

/// A vCPU leaves and enters by turns; one turn may miss its partner, where one of the two was switched before the other.
fn alternate(stream: &str) -> Result<()> {
    let turns = |vcpu: &str| -> Vec<bool> {
        let own = stream.lines().filter(|line| line.contains(vcpu));
        own.map(|line| line.contains("vmm:vcpu_run_exit")).collect()
    };
    let all = [turns(" vm1/vcpu0 "), turns(" vm1/vcpu1 ")];
    for turns in &all {
        let twice = turns.windows(2).filter(|pair| pair[0] == pair[1]).count();
        ensure!(twice <= 1, "not by turns:\n{stream}");
    }
    ensure!(all[0].len() + all[1].len() > 10, "few turns:\n{stream}");
    Ok(())
}

fn interrupts(world: &World) -> Result<()> {
    observe(world, |tiny, shell| {
        shell.run("trace enable vmm:timer_event vmm:external_interrupt vmm:irq_handle vmm:irq_inject vmm:timer_tick")?;
        let before = tiny.run("timer")?.number("ticks0")?;
        tiny.run("timer start 100")?;
        tiny.run("sleep 300")?;
        tiny.run("timer stop")?;
        let after = tiny.run("timer")?.number("ticks0")?;
        ensure!(after > before, "the guest's timer ticks");
        let timer = events(shell, "vmm:timer_event")?;
        let own = timer
            .iter()
            .filter(|event| event.starts_with("vm1/vcpu0 "))
            .count() as u64;
        ensure!(
            own >= after - before,
            "{own} events for {} ticks of vcpu0",
            after - before
        );
        for (event, wanted) in [
            ("vmm:external_interrupt", "intid=27"),
            ("vmm:irq_handle", "intid=27 after "),
            ("vmm:irq_inject", "intid=27 priority="),
        ] {
            let seen = events(shell, event)?;
            ensure!(
                seen.iter().any(|line| line.contains(wanted)),
                "{event}: {seen:?}"
            );
        }
        // The service looks for events every few milliseconds, by EL2's timer.
        ensure!(count(shell, "vmm:timer_tick")? > 0, "ticks of EL2");
        Ok(())
    })
}

fn page_faults(world: &World) -> Result<()> {
    observe(world, |tiny, shell| {
        shell.run("trace enable vmm:page_fault vmm:memory_map vmm:memory_unmap")?;
        let address = world.subject("fn_nop")?.address;
        let page = address & !0xfff;
        let probe = shell.kprobe(address, "count")?;
        let map = events(shell, "vmm:memory_map");
        // Without looking at its UART all the time.
        tiny.run("rx irq")?;
        shell.run("trace reset")?;
        tiny.run("read fn_nop")?;
        let faults = events(shell, "vmm:page_fault")?;
        tiny.run("rx poll")?;
        shell.detach(probe)?;
        let map = map?;
        ensure!(
            matches!(&map[..], [one] if one.contains(&format!("gpa={page:#x} size=4096 what=shadow"))),
            "{map:?}"
        );
        let unmapped = count(shell, "vmm:memory_unmap")?;
        ensure!(unmapped == 1, "{unmapped} pages are unmapped");
        let of_page = format!("gpa={:#x}", page >> 12);
        let probed = |fault: &&String| {
            fault.contains(&of_page) && fault.contains("access=read outcome=probed")
        };
        ensure!(
            faults.iter().any(|fault| probed(&fault)),
            "no read of the probed page in {} faults: {:?}",
            faults.len(),
            faults.iter().take(5).collect::<Vec<_>>()
        );
        let uart = faults
            .iter()
            .filter(|fault| fault.contains("gpa=0x9000000 access=write outcome=device"));
        ensure!(
            uart.count() >= "ok\n".len(),
            "what the guest writes to its UART: {faults:?}"
        );
        Ok(())
    })
}

fn sessions(world: &World) -> Result<()> {
    observe(world, |_, shell| {
        shell.run("trace enable debug shell")?;
        let mut gdb = world.machine().gdb(1)?;
        gdb.resume()?;
        gdb.interrupt()?;
        gdb.detach()?;
        for event in [
            "debug:session_open",
            "debug:session_close",
            "debug:resume",
            "debug:stop",
        ] {
            let count = count(shell, event)?;
            ensure!(count == 1, "{count} of {event}");
        }
        let stop = events(shell, "debug:stop")?;
        ensure!(stop[0].contains("reason=request"), "{stop:?}");
        let commands = events(shell, "shell:shell_command")?;
        let first = "hyp/cpu0 tracepoint shell:shell_command length=10 text=\"trace st\" text8=\"at\" text16=\"\" after ";
        ensure!(
            commands.iter().any(|command| command.starts_with(first)),
            "{commands:?}"
        );
        Ok(())
    })
}

fn from_gdb(world: &World) -> Result<()> {
    observe(world, |tiny, shell| {
        let mut gdb = world.machine().gdb(1)?;
        let said = gdb.console("monitor trace enable psci:affinity_info --prog args")?;
        ensure!(
            said.contains("psci:affinity_info is on, runs args"),
            "{said}"
        );
        gdb.resume()?;
        tiny.run("psci info 1")?;
        let wanted = "[vm1/vcpu0] psci:affinity_info x0=0x1 x1=0x0 x2=0x0 x3=0x0";
        gdb.wait_target_output(wanted, MOMENT)?;
        gdb.interrupt()?;
        gdb.console("monitor trace verbose on")?;
        gdb.resume()?;
        tiny.run("psci info 1")?;
        gdb.wait_target_output(
            "[vm1/vcpu0] tracepoint psci:affinity_info target=0x1 level=0 result=0",
            MOMENT,
        )?;
        gdb.interrupt()?;
        gdb.console("monitor trace verbose off")?;
        let table = gdb.console("monitor trace tracepoints psci:affinity_info")?;
        ensure!(
            table.contains("on, runs args, ") && table.contains(" 0 missed"),
            "{table}"
        );
        let raw = raw_events(&mut gdb)?;
        gdb.detach()?;
        // Kind 1, VM 1: the two hits, and what is printed about them (kind 16).
        let of_kind = |kind| raw.chunks(64).filter(|record| record[8] == kind).count();
        ensure!((of_kind(1), of_kind(16)) == (2, 2), "{raw:?}");
        ensure!(
            count(shell, "psci:affinity_info")? == 2,
            "the shell sees the same"
        );
        Ok(())
    })
}

/// Events come as they happen, until a line ends; then the shell is at its prompt, once.
fn followed(world: &World) -> Result<()> {
    const EVENT: &str = "vm1/vcpu0 tracepoint psci:affinity_info target=0x1 ";
    observe(world, |tiny, shell| {
        shell.run("trace enable psci:affinity_info")?;
        let command = "trace stream --follow --filter psci:affinity_info";
        shell.follow(command, |shown| {
            for _ in 0..3 {
                tiny.run("psci info 1")?;
                shown.expect(EVENT, MOMENT)?;
            }
            Ok(())
        })?;
        // The answer to this command, not a second one to the line before.
        let said = shell.run("trace disable psci:affinity_info")?;
        ensure!(said.contains("psci:affinity_info is off"), "{said}");
        tiny.run("psci info 1")?;
        let said = shell.run("help trace verbose")?;
        ensure!(!said.contains(EVENT), "still followed: {said}");
        Ok(())
    })
}

/// The file `events`.
fn raw_events(gdb: &mut Gdb) -> Result<Vec<u8>> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("events");
    gdb.console(&format!("remote get events {}", path.display()))?;
    Ok(std::fs::read(path)?)
}

/// What all CPUs have lost, as `trace stat` says.
fn lost(shell: &mut Shell) -> Result<u64> {
    let text = shell.run("trace stat")?;
    let words = text
        .lines()
        .filter_map(|line| line.split_once(" has lost "));
    let counts = words.filter_map(|(_, rest)| rest.split_once(" events"));
    counts.map(|(count, _)| number(count)).sum()
}

/// A guest that leaves ten thousands of times as fast as it can: what is counted and what is lost is all there was.
fn losses(world: &World) -> Result<()> {
    const CALLS: u64 = 20_000;
    observe(world, |tiny, shell| {
        let probe = shell.kprobe(world.subject("fn_nop")?.address, "count")?;
        let fired = |shell: &mut Shell| -> Result<u64> {
            let text = shell.run("trace tracepoints vmm:vcpu_run_exit")?;
            let hits = text
                .lines()
                .nth(1)
                .and_then(|line| line.split(' ').rev().nth(3));
            number(hits.with_context(|| format!("no hits in {text}"))?)
        };
        let before = fired(shell)?;
        shell.run("trace enable vmm:vcpu_run_exit")?;
        tiny.run(&format!("callboth fn_nop {CALLS}"))?;
        shell.run("trace disable vmm:vcpu_run_exit")?;
        let fired = fired(shell)? - before;
        ensure!(shell.detach(probe)? == 2 * CALLS, "hits of the probe");
        ensure!(fired >= 2 * CALLS, "{fired} exits");
        let stat = shell.run("trace stat")?;
        let rows = stat
            .lines()
            .filter(|line| line.contains(" kprobe ") || line.contains("vcpu_run_exit"));
        let counted: Result<Vec<u64>> = rows
            .map(|row| number(row.split_whitespace().nth(3).unwrap_or_default()))
            .collect();
        let counted: u64 = counted?.iter().sum();
        let lost = lost(shell)?;
        ensure!(
            counted + lost == fired + 2 * CALLS,
            "{counted} counted and {lost} lost of {fired} exits and {} hits:\n{stat}",
            2 * CALLS
        );
        Ok(())
    })
}

fn a_new_life(world: &World) -> Result<()> {
    observe(world, |tiny, shell| {
        shell.run("trace enable vmm:vm_destroy vmm:image_load psci:cpu_on")?;
        shell.run("vm reset vm1")?;
        ensure!(tiny.wait_ready()? == 2, "vCPUs of the tiny guest");
        for event in ["vmm:vm_destroy", "vmm:image_load", "psci:cpu_on"] {
            let count = count(shell, event)?;
            ensure!(count == 1, "{count} of {event}");
        }
        let end = events(shell, "vmm:vm_destroy")?;
        ensure!(end[0].ends_with("end=reset"), "{end:?}");
        Ok(())
    })
}

/// Every look at whether a tracepoint is on is an address, a load and a branch on what was loaded.
fn off_costs(_: &World) -> Result<()> {
    let elf = std::fs::read(Program::Hypervisor.elf())?;
    let file = object::File::parse(&*elf)?;
    let points: Vec<_> = file
        .symbols()
        .filter(|symbol| {
            symbol
                .name()
                .is_ok_and(|name| name.ends_with("5POINT5POINT"))
        })
        .map(|symbol| symbol.address()..symbol.address() + symbol.size())
        .collect();
    let wanted = TRACEPOINTS.split_whitespace().count();
    ensure!(
        points.len() == wanted,
        "{} tracepoints of {wanted} in the image",
        points.len()
    );
    let text = file.section_by_name(".text").context("no .text")?;
    let words: Vec<u32> = text
        .data()?
        .chunks_exact(4)
        .map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        .collect();
    let mut seen = 0;
    for (index, word) in words.iter().enumerate() {
        let Some((register, address)) = byte_load(&words, index, text.address()) else {
            continue;
        };
        if !points.iter().any(|point| point.contains(&address)) {
            continue;
        }
        seen += 1;
        let used = words[index + 1..]
            .iter()
            .take(16)
            .find(|next| reads(**next, register));
        let used = used.with_context(|| format!("{word:#x}: nobody looks at {address:#x}"))?;
        ensure!(
            is_branch_on(*used, register),
            "{used:#010x} at a tracepoint of {address:#x}, not CBZ, CBNZ, TBZ or TBNZ"
        );
    }
    // Tracepoints of generic or cold code have a look of their own; none has more than a few.
    ensure!(seen >= wanted, "{seen} looks at {wanted} tracepoints");
    Ok(())
}

/// `LDRB Wt, [Xn, #imm]` with Xn from an ADRP shortly before: t, and where it loads from.
fn byte_load(words: &[u32], index: usize, base: u64) -> Option<(u32, u64)> {
    let word = words[index];
    if word & 0xffc0_0000 != 0x3940_0000 {
        return None;
    }
    let (offset, pointer) = (u64::from(word >> 10 & 0xfff), word >> 5 & 31);
    let before = words[..index].iter().enumerate().rev().take(16);
    let (at, adrp) = before
        .map(|(at, word)| (at, *word))
        .find(|(_, word)| word & 0x9f00_001f == 0x9000_0000 | pointer)?;
    let pages = i64::from((adrp >> 5 & 0x7_ffff) << 2 | adrp >> 29 & 3);
    // 21 bits, signed.
    let pages = (pages << 43) >> 43;
    let page = (base + 4 * at as u64) & !0xfff;
    Some((word & 31, page.wrapping_add_signed(pages << 12) + offset))
}

/// Whether an instruction may read a register: any of its register fields, but not the target alone.
fn reads(word: u32, register: u32) -> bool {
    let branch_on = is_branch_on(word, register);
    let as_source = (word >> 5 & 31) == register || (word >> 16 & 31) == register;
    let is_plain_branch = word & 0x7c00_0000 == 0x1400_0000 || word & 0xff00_0010 == 0x5400_0000;
    let is_adrp = word & 0x1f00_0000 == 0x1000_0000;
    branch_on || as_source && !is_plain_branch && !is_adrp
}

/// `CBZ`, `CBNZ`, `TBZ`, `TBNZ` (Arm ARM C4.1.86).
fn is_branch_on(word: u32, register: u32) -> bool {
    let compares = word & 0x7e00_0000 == 0x3400_0000;
    let tests = word & 0x7e00_0000 == 0x3600_0000;
    (compares || tests) && word & 31 == register
}
