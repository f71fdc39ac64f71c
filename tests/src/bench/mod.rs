//! The baseline: what Periscope costs.
//!
//! Two machines measure the same things. One counts time by instructions (`-icount`): its times are instructions of the
//! emulated CPU, the same in every run but for the interrupts that fall into a batch. The other runs freely: its times
//! are nanoseconds of this very machine, worth something only as multiples of the trap floor that the same run measured.
//! A cost is always a difference: a batch of calls with the probe, less the median batch without.

mod beside;
mod client;
mod ebpf;
mod hits;
mod linux;
mod page;
mod sample;
mod symbols;
mod tiny;

pub use beside::Beside;
pub use ebpf::{MixCost, mixes};
pub use hits::condition_rates;
pub use page::{Page, Row, Unit};
pub use sample::Sample;
pub use tiny::{Instructions, instructions};

use anyhow::Result;

/// Measures all rows whose identifiers begin with one of `names`; with none, all. `say` is told what begins.
pub fn measure(names: &[String], say: &mut dyn FnMut(&str)) -> Result<Page> {
    let wanted = Wanted(names);
    let mut page = Page::default();
    tiny::measure(&wanted, &mut page, say)?;
    hits::measure(&wanted, &mut page, say)?;
    client::measure(&wanted, &mut page, say)?;
    ebpf::measure(&wanted, &mut page, say)?;
    linux::measure(&wanted, &mut page, say)?;
    symbols::measure(&wanted, &mut page, say)?;
    Ok(page)
}

/// Which rows to measure.
struct Wanted<'a>(&'a [String]);

impl Wanted<'_> {
    fn has(&self, id: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|name| id.starts_with(name.as_str()))
    }

    fn has_any<'i>(&self, mut ids: impl Iterator<Item = &'i str>) -> bool {
        ids.any(|id| self.has(id))
    }
}
