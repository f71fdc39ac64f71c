//! VS Code's C/C++ extension. Its engine (MIEngine) cannot run without the editor, so GDB gets the commands that it sends, in
//! its order, with `.vscode/launch.json` of this project.

use crate::{COMMAND, CONDITION, FUNCTION, PROBED, World};
use anyhow::{Result, ensure};
use e2e::{Gdb, LONG, MOMENT};

/// Attach, a breakpoint with a condition, what the side bar shows at its stop, the debug console, and leaving.
pub fn vscode_cppdbg(world: &World) -> Result<()> {
    let slide = world
        .symbols
        .slide(&world.machine.shell()?.run("vm info vm1")?)?;
    let mut linux = world.linux()?;
    let mut gdb = Gdb::start()?;
    for command in ["-gdb-set mi-async on", "-enable-pretty-printing"] {
        gdb.mi(command)?;
    }
    // `setupCommands` of launch.json.
    gdb.mi("-interpreter-exec console \"set remotetimeout 20\"")?;
    let file = world.symbols.path().display();
    let load = format!("-interpreter-exec console \"symbol-file {file} -o {slide:#x}\"");
    gdb.mi_within(&load, LONG)?;
    gdb.mi("-environment-cd .")?;
    gdb.mi("-gdb-set auto-solib-add on")?;
    gdb.mi("-gdb-set solib-search-path .")?;
    gdb.connect(world.port())?;

    let set = gdb.mi(&format!("-break-insert -f -c \"{CONDITION}\" {FUNCTION}"))?;
    ensure!(set.contains(&format!("at=\"<{FUNCTION}")), "{set}");
    gdb.mi("-exec-continue")?;
    linux.begin(COMMAND)?;
    let stop = gdb.wait_stop(MOMENT)?;
    ensure!(stop.reason() == "breakpoint-hit", "{stop:?}");
    let threads = gdb.mi("-thread-info")?;
    ensure!(threads.contains("name=\"vm1/vcpu1\""), "{threads}");
    let frames = gdb.mi("-stack-list-frames 0 1000")?;
    ensure!(frames.contains(&format!("func=\"{FUNCTION}\"")), "{frames}");
    gdb.mi("-stack-list-arguments 2 0 1000")?;
    gdb.mi("-stack-list-variables 0")?;
    let names = gdb.mi("-data-list-register-names")?;
    ensure!(
        names.contains("\"x0\"") && names.contains("\"vbar_el1\""),
        "{names}"
    );
    let values = gdb.mi("-data-list-register-values N 0")?;
    ensure!(values.contains("value=\"-100\""), "{values}");
    let variable = gdb.mi("-var-create - * \"(int)$x0\"")?;
    ensure!(variable.contains("value=\"-100\""), "{variable}");
    let path = gdb.mi("-data-evaluate-expression \"(char *)$x1\"")?;
    ensure!(path.contains("/"), "{path}");

    gdb.mi("-break-delete")?;
    gdb.mi(&format!(
        "-interpreter-exec console \"monitor trace kprobe vm1:{PROBED} args\""
    ))?;
    gdb.mi("-exec-continue")?;
    linux.finish()?;
    linux.begin(COMMAND)?;
    gdb.wait_target_output(&format!("{PROBED} x0="), MOMENT)?;
    linux.finish()?;
    gdb.mi("-exec-interrupt")?;
    gdb.wait_stop(MOMENT)?;
    gdb.mi("-target-detach")?;
    gdb.mi("-gdb-exit")?;
    drop(linux);
    world.is_as_before()
}
