//! `periscope symbols`: a file with symbols and types for debuggers, from a kernel image by the code that makes it of a
//! running guest, or from a running guest.

use crate::link::Kernel;
use crate::remote::Remote;
use anyhow::{Context, Result, anyhow, bail, ensure};
use flate2::read::GzDecoder;
use object::{Object, ObjectSymbol};
use probes::build_id;
use probes::kallsyms::{self, ImageReader, Placement, SymbolTable};
use probes::kernel_file::{Contents, KernelFile};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// From `_text` to `_stext`.
const BEFORE_TEXT: u64 = 64 << 10;
/// Largest image that is unpacked.
const MAX_IMAGE: u64 = 256 << 20;
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Write an ELF file for debuggers: a kernel's symbols and types
///
/// The kernel needs no debug information and no System.map: it carries its symbols (kallsyms) and its types (BTF). Load the file
/// with `file` or `symbol-file` into GDB, with `target create` into LLDB. What comes from a running guest is where the guest
/// runs; what comes from an image is where the kernel was linked to, unless moved.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// An arm64 kernel: a raw Image, the same gzip'd, or Debian's vmlinuz.
    #[arg(
        long,
        value_name = "IMAGE",
        required_unless_present = "target",
        conflicts_with = "target"
    )]
    kernel: Option<PathBuf>,
    /// An endpoint of the hypervisor, where a kernel runs: a VM's, or with --vm that of tools
    #[arg(long, value_name = "HOST:PORT", conflicts_with_all = ["slide", "text_base", "symbols_only"])]
    target: Option<String>,
    /// The VM, where the endpoint is that of tools.
    #[arg(long, value_name = "NAME", requires = "target")]
    vm: Option<String>,
    /// The file to write.
    #[arg(short, long, value_name = "FILE", default_value = "vmlinux.sym.elf")]
    output: PathBuf,
    /// Leave the types out: what `trace loadsyms` needs.
    #[arg(long)]
    symbols_only: bool,
    /// Move all symbols up by so many bytes: the KASLR offset, which the kernel prints when it
    /// panics.
    #[arg(long, value_name = "HEX", value_parser = parse_hex, conflicts_with = "text_base")]
    slide: Option<u64>,
    /// Move all symbols so that the image begins (_text) at this address.
    #[arg(long, value_name = "HEX", value_parser = parse_hex)]
    text_base: Option<u64>,
}

/// Writes the file.
pub(crate) fn run(args: &Args) -> Result<()> {
    let (banner, file) = match (&args.kernel, &args.target) {
        (_, Some(address)) => of_guest(address, args.vm.as_deref())?,
        (Some(path), None) => of_image(path, args)?,
        (None, None) => bail!("give an image, or an endpoint with --target"),
    };
    let summary = summary(&file)?;
    let shown = args.output.display();
    fs::write(&args.output, file).with_context(|| format!("cannot write {shown}"))?;
    println!("{banner}\n{shown}: {summary}");
    Ok(())
}

/// What the hypervisor has made of a running kernel, and its banner.
fn of_guest(address: &str, vm: Option<&str>) -> Result<(String, Vec<u8>)> {
    let directory = vm.map(|name| format!("{name}/")).unwrap_or_default();
    let mut remote = Remote::connect(address)?;
    let mut get = |name: &str| remote.file(&format!("{directory}{name}"));
    let file = get("vmlinux").with_context(|| format!("no Linux is up at {address}"));
    let banner = file.and_then(|file| Ok((get("linux_banner")?, file)));
    remote.detach()?;
    let (banner, file) = banner?;
    Ok((String::from_utf8_lossy(&banner).trim_end().into(), file))
}

fn of_image(path: &Path, args: &Args) -> Result<(String, Vec<u8>)> {
    let shown = path.display();
    let image = read_image(path).with_context(|| format!("cannot read {shown}"))?;
    let kernel = kallsyms::find(&image[..], Placement::File)
        .with_context(|| format!("no symbols in {shown}"))?;
    // A kernel need not have types.
    let symbols = place(kernel.symbols, args)?;
    let start = image_start(&symbols)?;
    let types = (!args.symbols_only).then(|| Kernel::from_image(&image).ok());
    let file = KernelFile::open(Contents {
        symbols: &symbols,
        types: types.flatten().map(|kernel| kernel.btf),
        build_id: build_id::find(&image).map(Vec::from),
        code: Some(Box::new(move |address, buffer| {
            let at = address.checked_sub(start)?;
            image[..].read(at, buffer).ok()
        })),
    })?;
    Ok((kernel.banner, file.read(0, usize::MAX, <[u8]>::to_vec)?))
}

/// What a user can check of a file.
fn summary(file: &[u8]) -> Result<String> {
    let elf = object::File::parse(file).context("this is no ELF file")?;
    let symbols = elf.symbols().count();
    let address = |name: &str| {
        let mut symbols = elf.symbols();
        let symbol = symbols.find(|symbol| symbol.name() == Ok(name));
        symbol.map(|symbol| symbol.address())
    };
    // Without CONFIG_KALLSYMS_ALL, what comes before `_stext` has no name.
    let start = address("_text").or_else(|| address("_stext")?.checked_sub(BEFORE_TEXT));
    let start = start.context("it has neither _text nor _stext")?;
    Ok(format!("{symbols} symbols, _text at {start:#x}"))
}

fn read_image(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(path)?;
    if !bytes.starts_with(&GZIP) {
        return Ok(bytes);
    }
    let mut image = Vec::new();
    GzDecoder::new(&bytes[..])
        .take(MAX_IMAGE + 1)
        .read_to_end(&mut image)?;
    ensure!(
        image.len() as u64 <= MAX_IMAGE,
        "it unpacks to more than {} MiB",
        MAX_IMAGE >> 20
    );
    Ok(image)
}

/// The symbols where the user wants them.
fn place(symbols: SymbolTable, args: &Args) -> Result<SymbolTable> {
    let slide = match (args.slide, args.text_base) {
        (Some(slide), _) => slide,
        (None, Some(base)) => base.wrapping_sub(image_start(&symbols)?),
        (None, None) => 0,
    };
    Ok(symbols.slid(slide))
}

fn image_start(symbols: &SymbolTable) -> Result<u64> {
    Ok(symbols
        .image_start()
        .ok_or_else(|| anyhow!("kallsyms has neither _text nor _stext"))?
        .0)
}

fn parse_hex(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u64::from_str_radix(digits, 16).map_err(|_| "expected a hexadecimal number".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_with_and_without_prefix() {
        assert_eq!(parse_hex("0xffff800080000000"), Ok(0xffff_8000_8000_0000));
        assert_eq!(parse_hex("4194cb400000"), Ok(0x4194_cb40_0000));
        assert!(parse_hex("").is_err());
        assert!(parse_hex("twelve").is_err());
        assert!(parse_hex("10000000000000000").is_err());
    }
}
