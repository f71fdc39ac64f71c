//! `periscope trace`: links a program against the kernel that runs, brings it to the hypervisor, attaches it, and shows
//! what it puts out, beside any debugger.

mod door;
mod maps;
mod printer;
mod records;
mod summary;

use crate::link::{self, Kernel, KernelArgs, WishArgs};
use anyhow::{Context, Result};
use door::{Door, Stream};
use ebpf::linked::Linked;
use printer::{Format, Printer, Prints};
use records::{Records, Sources, TypeNames};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use summary::Summary;

/// How long to wait where nothing has come.
const PAUSE: Duration = Duration::from_millis(10);

/// Run a program at the hypervisor and show what it puts out, until Ctrl-C
///
/// Links it with the types of the kernel that runs in the VM, loads it, attaches each of its programs where its section
/// says, and shows every record and every line that it puts out. At the end it detaches and unloads it, whatever ends it.
/// GDB can be attached to the VM meanwhile.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The compiled object, or a linked program (.lp)
    #[arg(value_name = "PROGRAM")]
    program: PathBuf,
    /// The number of the VM
    #[arg(long, default_value_t = 1)]
    vm: u8,
    /// The hypervisor's endpoint for tools
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:1232")]
    tools: String,
    /// What the object is called at the hypervisor [default: the file's name]
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    kernel: KernelArgs,
    #[command(flatten)]
    wishes: WishArgs,
    /// What the records are that come through a map, a structure of the object's types (may be repeated)
    #[arg(long = "record", value_name = "MAP=TYPE")]
    records: Vec<String>,
    /// An object, or types in the BTF format, with more types for records: of a tool that is there without its sources
    #[arg(long, value_name = "FILE")]
    types: Option<PathBuf>,
    /// Show one JSON object a line
    #[arg(long)]
    json: bool,
    /// Show what the maps hold at the end
    #[arg(long = "maps")]
    shows_maps: bool,
    /// End after so many seconds
    #[arg(long, value_name = "SECONDS")]
    duration: Option<u64>,
}

/// A program ready to be loaded.
struct Prepared {
    name: String,
    linked: Linked,
    records: Records,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut door = Door::connect(&args.tools)?;
    let prepared = prepare(args, &mut door)?;
    let Prepared { name, .. } = &prepared;
    door.put(&format!("{name}.lp"), &prepared.linked.encode()?)?;
    // Open before anything can happen.
    let mut stream = door.open_stream("outputs")?;
    let stop = stop_on_signals()?;
    let attached = door.attach(name, args.vm)?;
    for one in &attached {
        eprintln!("{}", one.said);
    }
    let format = if args.json {
        Format::Json
    } else {
        Format::Text
    };
    let types = prepared.records.btf()?;
    let prints = Prints {
        object: name,
        attached: &attached,
        records: &prepared.records,
        types: &types,
        format,
    };
    let mut printer = Printer::new(prints, io::stdout().lock());
    let end = args.duration.map(Duration::from_secs);
    let end = end.and_then(|duration| Instant::now().checked_add(duration));
    let ended = show(&mut door, &mut stream, &mut printer, &|| {
        stop.load(Ordering::Relaxed) || end.is_some_and(|end| Instant::now() >= end)
    });
    // Whoever reads has seen enough: `periscope trace … | head`.
    let nobody_reads = matches!(&ended, Err(error) if is_broken_pipe(error));
    if !nobody_reads {
        ended?;
    }
    let mut summary = Summary::take(&mut door, &attached)?;
    door.detach(name)?;
    if !nobody_reads {
        // What was on its way.
        show_rest(&mut door, &mut stream, &mut printer)?;
        if args.shows_maps {
            maps::write(&mut door, name, &prepared.linked, format, printer.out())?;
        }
    }
    summary.add(printer.counts());
    door.unload(name)?;
    eprint!("{summary}");
    Ok(())
}

/// Reads the file and links it, where it is not linked yet.
fn prepare(args: &Args, door: &mut Door) -> Result<Prepared> {
    let path = &args.program;
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let names = TypeNames::parse(&args.records)?;
    let (linked, types, kernel) = if bytes.starts_with(b"\x7fELF") {
        let kernel = match args.kernel.read()? {
            Some(kernel) => kernel,
            None => kernel_of(door, args.vm)?,
        };
        let (linked, left_out) = link::link_bytes(path, &bytes, Some(&kernel), &args.wishes)?;
        for line in left_out {
            eprintln!("{line}");
        }
        (linked, link::types_of(&bytes)?, Some(kernel))
    } else {
        let linked = Linked::parse(&bytes).with_context(|| path.display().to_string())?;
        (linked, None, None)
    };
    let sources = Sources {
        named: args.types.as_deref().map(read_types).transpose()?,
        object: types,
        kernel: kernel.map(|kernel| kernel.btf),
    };
    let records = Records::new(&linked, sources, names)?;
    Ok(Prepared {
        name: args.name.clone().unwrap_or_else(|| linked.name.clone()),
        linked,
        records,
    })
}

/// The types in a file: an object's, or the file as it is.
fn read_types(path: &Path) -> Result<Vec<u8>> {
    let shown = path.display();
    let bytes = fs::read(path).with_context(|| format!("cannot read {shown}"))?;
    if !bytes.starts_with(b"\x7fELF") {
        return Ok(bytes);
    }
    let types = link::types_of(&bytes).with_context(|| shown.to_string())?;
    types.with_context(|| format!("{shown} has no types: compile it with -g"))
}

/// The types of the kernel that runs in a VM. It goes on running meanwhile.
fn kernel_of(door: &mut Door, vm: u8) -> Result<Kernel> {
    door.kernel(&format!("vm{vm}/")).with_context(|| {
        format!("vm{vm} does not tell the types of its kernel: give them with --btf or --kernel")
    })
}

/// A flag that Ctrl-C and SIGTERM set. Asked twice, the process ends at once; the hypervisor takes away what it left.
fn stop_on_signals() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })
    .context("cannot handle signals")?;
    Ok(stop)
}

/// Shows what comes until `is_over`.
fn show(
    door: &mut Door,
    stream: &mut Stream,
    printer: &mut Printer<'_, impl Write>,
    is_over: &dyn Fn() -> bool,
) -> Result<()> {
    while !is_over() {
        let bytes = door.read(stream)?;
        printer.take(&bytes)?;
        if bytes.is_empty() {
            printer.flush()?;
            thread::sleep(PAUSE);
        }
    }
    Ok(())
}

/// Shows what waits.
fn show_rest(
    door: &mut Door,
    stream: &mut Stream,
    printer: &mut Printer<'_, impl Write>,
) -> Result<()> {
    loop {
        let bytes = door.read(stream)?;
        if bytes.is_empty() {
            return printer.flush();
        }
        printer.take(&bytes)?;
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
