//! Debug adapters: what editors speak to.

use crate::{COMMAND, CONDITION, FUNCTION, PROBED, World};
use anyhow::{Context, Result, ensure};
use e2e::{Dap, Gdb, MOMENT};
use serde_json::{Value, json};
use std::process::Command;
use xtask::report::Report;
use xtask::setup::{lldb, npm};

/// What differs between adapters.
struct Adapter {
    /// The arguments of the editor's `attach`.
    attach: Value,
    /// What a line for `monitor` is typed as in the debug console.
    monitor: fn(&str) -> String,
    lines: Lines,
}

/// How the lines of probes come to the debug console.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lines {
    /// While the target runs, as its output.
    Live,
    /// When asked for: the adapter does not pass output of the target on.
    Asked,
}

/// LLVM's `lldb-dap`.
pub fn lldb_dap(world: &World) -> Result<()> {
    let program = lldb::newest_installed().context("there is no lldb: `cargo xtask setup`")?;
    let program = program.replacen("lldb", "lldb-dap", 1);
    let file = world.symbols.path().display();
    let slide = world
        .symbols
        .slide(&world.machine.shell()?.run("vm info vm1")?)?;
    let attach = json!({
        "attachCommands": [
            format!("target create {file}"),
            format!("gdb-remote 127.0.0.1:{}", world.port()),
            format!("target modules load --file {file} --slide {slide:#x}"),
        ],
        "stopOnEntry": true,
    });
    let adapter = Adapter {
        attach,
        monitor: |line| format!("`process plugin packet monitor {line}"),
        lines: Lines::Live,
    };
    walk(world, &mut Command::new(program), &adapter)
}

/// An editor's session from its beginning to its end.
fn walk(world: &World, command: &mut Command, adapter: &Adapter) -> Result<()> {
    let mut linux = world.linux()?;
    let mut dap = Dap::start(command)?;
    let attach = dap.send("attach", adapter.attach.clone())?;
    dap.event("initialized")?;
    let breakpoint = json!({"name": FUNCTION, "condition": CONDITION});
    let set = dap.request(
        "setFunctionBreakpoints",
        json!({"breakpoints": [breakpoint]}),
    )?;
    ensure!(set["breakpoints"][0]["verified"] == true, "{set}");
    dap.request("configurationDone", json!({}))?;
    dap.response(attach)?;

    linux.begin(COMMAND)?;
    let thread = stop_at_the_breakpoint(&mut dap)?;
    let frames = dap.request("stackTrace", json!({"threadId": thread}))?;
    let innermost = &frames["stackFrames"][0];
    let name = innermost["name"].as_str().unwrap_or_default();
    ensure!(name.contains(FUNCTION), "{frames}");
    let scopes = dap.request("scopes", json!({"frameId": innermost["id"]}))?;
    ensure!(
        scopes["scopes"]
            .as_array()
            .is_some_and(|all| !all.is_empty()),
        "{scopes}"
    );
    let value = dap.request(
        "evaluate",
        json!({"expression": "$x0", "frameId": innermost["id"], "context": "watch"}),
    )?;
    let value = value["result"].as_str().unwrap_or_default().to_owned();
    let spellings = ["-100", "4294967196", "0xffffffffffffff9c"];
    ensure!(
        spellings.iter().any(|spelling| value.contains(spelling)),
        "x0 is {value}"
    );

    dap.request("setFunctionBreakpoints", json!({"breakpoints": []}))?;
    let probe = format!("trace kprobe vm1:{PROBED} args");
    dap.type_in(&(adapter.monitor)(&probe))?;
    dap.request("continue", json!({"threadId": thread}))?;
    linux.finish()?;
    linux.begin(COMMAND)?;
    linux.finish()?;
    // What the probe says at a hit.
    match adapter.lines {
        Lines::Live => dap
            .wait_console(&format!("{PROBED} x0="), MOMENT)
            .map(drop)?,
        Lines::Asked => {
            dap.request("pause", json!({"threadId": thread}))?;
            dap.event("stopped")?;
            let kept = dap.type_in(&(adapter.monitor)("trace dump"))?;
            ensure!(kept.contains(&format!("vm1:{PROBED}")), "{kept}");
        }
    }
    drop(linux);
    dap.request("disconnect", json!({"terminateDebuggee": false}))?;
    drop(dap);
    world.is_as_before()
}

/// Lets the target go on from whatever it stands at until the breakpoint stops it. Returns the thread.
fn stop_at_the_breakpoint(dap: &mut Dap) -> Result<Value> {
    loop {
        let stopped = dap.event("stopped")?;
        let thread = stopped["threadId"].clone();
        let reason = stopped["reason"].as_str().unwrap_or_default();
        if reason.contains("breakpoint") {
            return Ok(thread);
        }
        dap.request("continue", json!({"threadId": thread}))?;
    }
}

/// Eclipse's adapter, which VS Code's "CDT GDB Debug Adapter Extension" brings.
pub fn cdt_gdb_adapter(world: &World) -> Result<()> {
    let program = npm::cdt_gdb_adapter(&Report::new())?;
    let attach = json!({
        "gdb": "gdb-multiarch",
        "target": {"type": "remote", "host": "127.0.0.1", "port": world.port().to_string()},
        "preRunCommands": [symbol_file(world)?],
    });
    let adapter = Adapter {
        attach,
        monitor: |line| format!(">monitor {line}"),
        lines: Lines::Live,
    };
    walk(world, Command::new("node").arg(program), &adapter)
}

/// GDB's own adapter (GDB manual 28, "Debugger Adapter Protocol"), which it has from version 14 on. That of 16.3 does not
/// pass the target's output on.
pub fn gdbs_own_adapter(world: &World) -> Result<()> {
    let mut command = Gdb::newer()?;
    command.args(["-nx", "-q", "--interpreter=dap"]);
    command.args(["-ex", "set remotetimeout 20", "-ex", &symbol_file(world)?]);
    let adapter = Adapter {
        attach: json!({"target": format!("127.0.0.1:{}", world.port())}),
        monitor: |line| format!("monitor {line}"),
        lines: Lines::Asked,
    };
    walk(world, &mut command, &adapter)
}

/// The command of GDB's that loads the kernel's symbols where it runs.
fn symbol_file(world: &World) -> Result<String> {
    let slide = world
        .symbols
        .slide(&world.machine.shell()?.run("vm info vm1")?)?;
    let file = world.symbols.path().display();
    Ok(format!("symbol-file {file} -o {slide:#x}"))
}
