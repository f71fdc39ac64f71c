//! Tools that watch disks.

use crate::guest::Shown;
use crate::rows::{Counts, count, number, row, text};
use crate::tool::Tool;
use serde_json::Value;
use std::collections::BTreeMap;

/// The device number of `/dev/loop1`.
const DISK: u32 = 7 << 20 | 1;
/// Makes a disk.
const PREPARE: &str = "[ -e /tmp/disk1 ] || { dd if=/dev/zero of=/tmp/disk1 bs=1M count=4 2> /dev/null; \
                       losetup /dev/loop1 /tmp/disk1; }";
/// Writes go out a page at a time, and next to each other.
const WRITES: &str = "dd if=/dev/zero of=/dev/loop1 bs=4096 count=64 2> /dev/null; sync; \
                      echo 3 > /proc/sys/vm/drop_caches; \
                      dd if=/dev/loop1 of=/dev/null bs=4096 count=64 2> /dev/null";
/// The compiler has split the function, and what is left of it has the same argument.
const MERGE: &str = "kprobe/blk_account_io_merge_bio.part.0";

pub(crate) const TOOLS: &[Tool] = &[
    Tool {
        name: "biotop",
        absent: &["__blk_account_io_start", "__blk_account_io_done"],
        tracepoints: &["block/block_io_start", "block/block_rq_issue"],
        prepare: PREPARE,
        workload: WRITES,
        ours: |output| {
            let mut counts = Counts::new();
            for (key, value) in output.entries("counts")? {
                let io = row(&key, "major minor comm=name pid");
                *counts.entry(io).or_default() += number(&value["io"]);
                let bytes = format!("bytes {}", row(&key, "major minor"));
                *counts.entry(bytes).or_default() += number(&value["bytes"]);
            }
            Ok(counts)
        },
        theirs: |shown| {
            let mut counts = Counts::new();
            for start in shown.of("block_io_start") {
                if let Some((disk, _)) = request(&start["text"]) {
                    let io = format!("{disk} {}", row(start, "comm pid"));
                    *counts.entry(io).or_default() += 1;
                }
            }
            // Others may be added to a request until it is issued, and somebody else may do that.
            for issue in shown.of("block_rq_issue") {
                if let Some((disk, bytes)) = request(&issue["text"]) {
                    *counts.entry(format!("bytes {disk}")).or_default() += bytes;
                }
            }
            counts
        },
        about: &["minor=1"],
        compared: "requests by disk, command and process: the guest's tracepoint `block:block_io_start`; bytes by \
                   disk: `block:block_rq_issue`",
        ..Tool::NONE
    },
    Tool {
        name: "biosnoop",
        attach: &[("blk_account_io_merge_bio", MERGE)],
        probes: &["p:merge blk_account_io_merge_bio.part.0 request=%x0:x64"],
        prepare: PREPARE,
        workload: WRITES,
        ours: |output| {
            let merged = output.entries("infobyreq")?.into_iter();
            Ok(count(merged.map(|(request, task)| {
                format!("request={} {}", text(&request), row(&task, "comm pid"))
            })))
        },
        theirs: |shown| count(merged(shown).map(|merge| row(merge, "request comm pid"))),
        compared: "which process added to which request: the guest's own probe",
        ..Tool::NONE
    },
    Tool {
        name: "biostacks",
        attach: &[("blk_account_io_merge_bio", MERGE)],
        probes: &["p:merge blk_account_io_merge_bio.part.0 request=%x0:x64"],
        prepare: PREPARE,
        workload: WRITES,
        ours: |output| {
            let merged = output.entries("rqinfos")?.into_iter();
            Ok(count(merged.map(|(request, info)| {
                format!(
                    "request={} {}",
                    text(&request),
                    row(&info["rqinfo"], "comm pid dev")
                )
            })))
        },
        theirs: |shown| {
            let rows = merged(shown).map(|merge| row(merge, "request comm pid"));
            count(rows.map(|row| format!("{row} dev={DISK}")))
        },
        compared: "which process added to which request of which disk: the guest's own probe, the workload",
        ..Tool::NONE
    },
];

/// Disk and bytes in `MAJOR,MINOR FLAGS BYTES (…) …`.
fn request(text: &Value) -> Option<(String, i64)> {
    let mut words = text.as_str()?.split(' ');
    let (major, minor) = words.next()?.split_once(',')?;
    let bytes = words.nth(1)?.parse().ok()?;
    Some((format!("major={major} minor={minor}"), bytes))
}

/// The last that was added to each request: tools forget the others.
fn merged(shown: &Shown) -> impl Iterator<Item = &Value> {
    let merges = shown
        .of("merge")
        .map(|merge| (text(&merge["request"]), merge));
    merges.collect::<BTreeMap<_, _>>().into_values()
}
