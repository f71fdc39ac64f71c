//! `periscope symbols`: a symbol file for GDB from a kernel image, by the same code that finds the
//! symbols in a running guest.

mod elf;

use anyhow::{Context, Result, anyhow, ensure};
use flate2::read::GzDecoder;
use probes::kallsyms::{self, Placement, SymbolTable};
use probes::symbols::Symbols;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Largest image that is unpacked.
const MAX_IMAGE: u64 = 256 << 20;
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Write an ELF symbol file for GDB from a kernel image.
///
/// The kernel needs no debug information and no System.map: it carries its symbols (kallsyms). Load
/// the file with `file` or `symbol-file`, and at another address than the kernel was linked to with
/// `symbol-file FILE -o SLIDE`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// An arm64 kernel: a raw Image, the same gzip'd, or Debian's vmlinuz.
    #[arg(long, value_name = "IMAGE")]
    kernel: PathBuf,
    /// The file to write.
    #[arg(short, long, value_name = "FILE", default_value = "vmlinux.sym.elf")]
    output: PathBuf,
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
    let path = &args.kernel;
    let image = read_image(path).with_context(|| format!("cannot read {}", path.display()))?;
    let kernel = kallsyms::find(&image[..], Placement::File)
        .with_context(|| format!("no symbols in {}", path.display()))?;
    let symbols = place(kernel.symbols, args)?;
    let file = elf::write(&symbols)?;
    fs::write(&args.output, file)
        .with_context(|| format!("cannot write {}", args.output.display()))?;
    let start = image_start(&symbols)?;
    println!("{}", kernel.banner);
    println!(
        "{}: {} symbols, _text at {start:#x}",
        args.output.display(),
        symbols.count()
    );
    Ok(())
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
