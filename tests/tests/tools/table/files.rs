//! Tools that watch files.

use crate::guest::Shown;
use crate::rows::{Counts, count, number, row};
use crate::tool::Tool;

/// What `vfsstat` counts, in the order of its counters, with its programs.
const VFS: [(&str, &str); 8] = [
    ("reads", "kprobe_vfs_read"),
    ("writes", "kprobe_vfs_write"),
    ("fsyncs", "kprobe_vfs_fsync"),
    ("opens", "kprobe_vfs_open"),
    ("creations", "kprobe_vfs_create"),
    ("unlinks", "kprobe_vfs_unlink"),
    ("mkdirs", "kprobe_vfs_mkdir"),
    ("rmdirs", "kprobe_vfs_rmdir"),
];

/// What `fsdist` and `fsslower` tell apart, in their order, with the programs of `fsdist`.
const OPERATIONS: [(&str, &str); 5] = [
    ("read", "file_read_exit"),
    ("write", "file_write_exit"),
    ("open", "file_open_exit"),
    ("fsync", "file_sync_exit"),
    ("getattr", "getattr_exit"),
];

/// A record of `fsslower`.
const SLOW: &str = "u64 delta_us, u64 end_ns, i64 offset, i64 size, u32 pid, u32 op, \
                    char[32] file, char[16] comm";

pub(crate) const TOOLS: &[Tool] = &[
    Tool {
        name: "filelife",
        probes: &["p:unlink vfs_unlink file=dentry->d_name.name:string"],
        workload: "cd /tmp; for i in 1 2 3; do echo $i > life$i; done; mv life2 lost; \
                   rm life1 lost; unlink life3; cd /",
        ours: |output| {
            let layout = "char[32] file, char[16] task, u64 delta_ns, u32 tgid, u64 dentry";
            output.rows("events", layout, "file comm=task pid=tgid")
        },
        theirs: |shown| shown.rows("unlink", "file comm pid"),
        compared: "names, commands and processes of removed files: the guest's own probe, by its types",
        ..Tool::NONE
    },
    Tool {
        name: "vfsstat",
        workload: "cd /tmp; mkdir dir1 dir2; dd if=/dev/zero of=dir1/f bs=4096 count=16 conv=fsync 2> /dev/null; \
                   dd if=dir1/f of=/dev/null bs=4096 2> /dev/null; mv dir1/f dir2; rm dir2/f; rmdir dir1 dir2; cd /",
        ours: |output| {
            let variables = output.variables(".bss")?;
            let counters = VFS.iter().enumerate();
            let counters = counters
                .map(|(index, (what, _))| ((*what).to_owned(), number(&variables["stats"][index])));
            Ok(counters.collect())
        },
        theirs: |shown| by_hits(shown, &VFS),
        known: &[("mkdirs", 2), ("rmdirs", 2), ("unlinks", 1)],
        compared: "all counters: how often the guest's own probes were hit",
        ..Tool::NONE
    },
    Tool {
        name: "fsdist",
        attach: &[
            ("file_read_entry", "kprobe/ext4_file_read_iter"),
            ("file_read_exit", "kretprobe/ext4_file_read_iter"),
            ("file_write_entry", "kprobe/ext4_file_write_iter"),
            ("file_write_exit", "kretprobe/ext4_file_write_iter"),
            ("file_open_entry", "kprobe/ext4_file_open"),
            ("file_open_exit", "kretprobe/ext4_file_open"),
            ("file_sync_entry", "kprobe/ext4_sync_file"),
            ("file_sync_exit", "kretprobe/ext4_sync_file"),
            ("getattr_entry", "kprobe/ext4_file_getattr"),
            ("getattr_exit", "kretprobe/ext4_file_getattr"),
        ],
        workload: "dd if=/dev/zero of=/mnt/dist bs=4096 count=16 conv=fsync 2> /dev/null; \
                   dd if=/mnt/dist of=/dev/null bs=4096 2> /dev/null; ls -l /mnt > /dev/null; rm /mnt/dist",
        ours: |output| {
            let variables = output.variables(".bss")?;
            let sums = OPERATIONS.iter().enumerate().map(|(index, (what, _))| {
                let slots = &variables["hists"][index]["slots"];
                let sum = (0..32).map(|slot| number(&slots[slot])).sum();
                ((*what).to_owned(), sum)
            });
            Ok(sums.collect())
        },
        theirs: |shown| by_hits(shown, &OPERATIONS),
        known: &[("write", 16), ("fsync", 1), ("open", 2)],
        compared: "calls in the histograms of reads, writes, openings, fsyncs and getattrs of ext4: how often the \
                   guest's own probes were hit",
        ..Tool::NONE
    },
    Tool {
        name: "fsslower",
        options: &["--set", "min_lat_ns=0"],
        attach: &[
            ("file_read_entry", "kprobe/ext4_file_read_iter"),
            ("file_read_exit", "kretprobe/ext4_file_read_iter"),
            ("file_write_entry", "kprobe/ext4_file_write_iter"),
            ("file_write_exit", "kretprobe/ext4_file_write_iter"),
            ("file_open_entry", "kprobe/ext4_file_open"),
            ("file_open_exit", "kretprobe/ext4_file_open"),
            ("file_sync_entry", "kprobe/ext4_sync_file"),
            ("file_sync_exit", "kretprobe/ext4_sync_file"),
        ],
        probes: &[
            "p:read ext4_file_read_iter file=iocb->ki_filp->f_path.dentry->d_name.name:string \
             offset=iocb->ki_pos:s64",
            "r64:read_end ext4_file_read_iter size=$retval:s64",
            "p:write ext4_file_write_iter file=iocb->ki_filp->f_path.dentry->d_name.name:string \
             offset=iocb->ki_pos:s64",
            "r64:write_end ext4_file_write_iter size=$retval:s64",
        ],
        workload: "dd if=/dev/zero of=/mnt/slow bs=3000 count=4 2> /dev/null; \
                   dd if=/mnt/slow of=/dev/null bs=5000 2> /dev/null; rm /mnt/slow",
        ours: |output| {
            let records = output.records("events", SLOW)?;
            let of = |(index, (what, _)): (usize, &(&str, &str))| {
                let records = records.iter().filter(move |record| record["op"] == index);
                let rows = records.map(|record| row(record, "file offset size comm pid"));
                let what = (*what).to_owned();
                rows.map(move |row| format!("{what} {row}"))
                    .collect::<Vec<_>>()
            };
            Ok(count(OPERATIONS[..2].iter().enumerate().flat_map(of)))
        },
        theirs: |shown| {
            let of = |what: &str| {
                let calls = shown.calls(what, &format!("{what}_end"));
                let rows = calls
                    .iter()
                    .map(|call| row(call, "file offset size comm pid"));
                rows.map(|row| format!("{what} {row}")).collect::<Vec<_>>()
            };
            count([of("read"), of("write")].concat())
        },
        compared: "files, places, sizes, commands and processes of reads and writes: the guest's own probes, by \
                   its types",
        ..Tool::NONE
    },
    Tool {
        name: "filetop",
        probes: &[
            "p:read vfs_read file=file->f_path.dentry->d_name.name:string bytes=count:u64",
            "p:write vfs_write file=file->f_path.dentry->d_name.name:string bytes=count:u64",
        ],
        workload: "cd /tmp; dd if=/dev/zero of=top1 bs=4096 count=16 2> /dev/null; \
                   dd if=top1 of=top2 bs=8192 2> /dev/null; rm top1 top2; cd /",
        ours: |output| {
            let mut counts = Counts::new();
            for (_, stat) in output.entries("entries")? {
                let whose = row(&stat, "file=filename comm pid");
                for what in ["reads", "read_bytes", "writes", "write_bytes"] {
                    *counts.entry(format!("{what} {whose}")).or_default() += number(&stat[what]);
                }
            }
            Ok(counts)
        },
        theirs: |shown| {
            let mut counts = Counts::new();
            for what in ["read", "write"] {
                for call in shown.of(what) {
                    let whose = row(call, "file comm pid");
                    *counts.entry(format!("{what}s {whose}")).or_default() += 1;
                    let bytes = number(&call["bytes"]);
                    *counts.entry(format!("{what}_bytes {whose}")).or_default() += bytes;
                }
            }
            counts
        },
        about: &["file=top"],
        compared: "reads, writes and bytes by file, command and process: the guest's own probes, by its types",
        ..Tool::NONE
    },
    Tool {
        name: "cachestat",
        attach: &[
            ("kprobe_add_to_page_cache_lru", "kprobe/filemap_add_folio"),
            ("kprobe_folio_account_dirtied", "kprobe/__folio_mark_dirty"),
        ],
        absent: &["kprobe_account_page_dirtied"],
        workload: "dd if=/dev/zero of=/mnt/cache bs=4096 count=16 2> /dev/null; \
                   sync; echo 3 > /proc/sys/vm/drop_caches; \
                   dd if=/mnt/cache of=/dev/null bs=4096 2> /dev/null; rm /mnt/cache",
        ours: |output| {
            let variables = output.variables(".bss")?;
            let of = |(what, _): &(&str, _)| ((*what).to_owned(), number(&variables[*what]));
            Ok(PAGES.iter().map(of).collect())
        },
        theirs: |shown| {
            let of = |signs: &[(&str, i64)]| {
                let hits = signs
                    .iter()
                    .map(|(program, sign)| sign * shown.hits(program));
                hits.sum()
            };
            PAGES
                .iter()
                .map(|(what, signs)| ((*what).to_owned(), of(signs)))
                .collect()
        },
        compared: "accesses, misses and dirty buffers: how often the guest's own probes were hit",
        ..Tool::NONE
    },
];

/// What `cachestat` counts, and which programs count it up or down.
const PAGES: [(&str, &[(&str, i64)]); 3] = [
    (
        "total",
        &[
            ("kprobe_mark_page_accessed", 1),
            ("kprobe_mark_buffer_dirty", -1),
        ],
    ),
    (
        "misses",
        &[
            ("kprobe_add_to_page_cache_lru", 1),
            ("kprobe_folio_account_dirtied", -1),
        ],
    ),
    ("mbd", &[("kprobe_mark_buffer_dirty", 1)]),
];

/// How often the guest's own probe at a program's place was hit, by what the program counts.
fn by_hits(shown: &Shown, programs: &[(&str, &str)]) -> Counts {
    let hits = programs
        .iter()
        .map(|(what, program)| ((*what).to_owned(), shown.hits(program)));
    hits.collect()
}
