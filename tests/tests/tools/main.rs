//! Tools of the wild: the kprobe programs of Debian's `libbpf-tools`, as they are in the package, linked against a
//! stock
//! kernel, verified, attached, and putting out what the guest shows by its own means.

mod bench;
mod guest;
mod layout;
mod output;
mod page;
mod rows;
mod table;
mod tool;

use anyhow::Result;
use bench::Bench;
use e2e::suite_of;
use std::process::ExitCode;

type Case = Box<dyn FnOnce(&Bench) -> Result<()> + Send>;

fn main() -> ExitCode {
    let cases = table::all().map(|tool| {
        let name = format!("tools_of_the_wild_{}", tool.name);
        let case: Case = Box::new(|bench| bench.compare(tool));
        (name, case)
    });
    let page: Case = Box::new(|bench| page::check(&bench.objects));
    let cases = cases.chain([("tools_of_the_wild_page".into(), page)]);
    suite_of(Bench::boot, cases.collect())
}
