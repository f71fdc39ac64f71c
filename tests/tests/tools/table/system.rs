//! Tools that watch processes, memory, locks, and any function.

use crate::rows::{Counts, count, number, row};
use crate::tool::{Hits, Tool};

pub(crate) const TOOLS: &[Tool] = &[
    Tool {
        name: "capable",
        options: &["--map", "stackmap=1024"],
        probes: &[
            "p:cap cap_capable cap=cap",
            "r64:checked cap_capable ret=$retval:s32",
        ],
        prepare: "echo 'other:x:1:1::/:/bin/sh' > /etc/passwd",
        workload: "hostname guest; chroot / true; su other -c 'hostname evil' 2> /dev/null; \
                   mkdir /tmp/m; mount -t tmpfs none /tmp/m; umount /tmp/m; rmdir /tmp/m",
        ours: |output| {
            let layout = "u32 pid, u32 cap, u32 tgid, u32 uid, i32 audit, i32 insetid, i32 ret, \
                          char[16] task";
            output.rows("events", layout, "cap ret comm=task pid")
        },
        theirs: |shown| {
            let calls = shown.calls("cap", "checked");
            count(calls.iter().map(|call| row(call, "cap ret comm pid")))
        },
        compared: "capabilities, results, commands and processes: the guest's own probes, by its types",
        ..Tool::NONE
    },
    Tool {
        name: "oomkill",
        probes: &[
            "p:kill oom_kill_process tpid=oc->chosen->tgid pages=oc->totalpages tcomm=oc->chosen->comm:string",
        ],
        prepare: "mkdir -p /tmp/groups; mount -t cgroup2 none /tmp/groups; \
                  echo +memory > /tmp/groups/cgroup.subtree_control; mkdir /tmp/groups/small; \
                  echo 8M > /tmp/groups/small/memory.max",
        workload: "sh -c 'echo $$ > /tmp/groups/small/cgroup.procs; tail /dev/zero' > /dev/null 2>&1",
        facts: "grep '^oom_kill ' /proc/vmstat",
        ours: |output| {
            let layout = "u32 fpid, u32 tpid, u64 pages, char[16] fcomm, char[16] tcomm";
            let mut counts =
                output.rows("events", layout, "tpid tcomm pages pid=fpid comm=fcomm")?;
            let killed = counts.values().sum();
            counts.insert("killed".into(), killed);
            Ok(counts)
        },
        theirs: |shown| {
            let mut counts = shown.rows("kill", "tpid tcomm pages pid comm");
            let killed = shown.facts.trim().rsplit(' ').next();
            let killed = killed.and_then(|number| number.parse().ok());
            counts.insert("killed".into(), killed.unwrap_or_default());
            counts
        },
        known: &[("killed", 1)],
        compared: "who was killed, by whom, for how many pages: the guest's own probe, by its types; how many: \
                   `/proc/vmstat`",
        ..Tool::NONE
    },
    Tool {
        name: "funclatency",
        // Milliseconds.
        options: &["--set", "units=2"],
        attach: &[
            ("dummy_kprobe", "kprobe/hrtimer_nanosleep"),
            ("dummy_kretprobe", "kretprobe/hrtimer_nanosleep"),
        ],
        probes: &["p:sleep hrtimer_nanosleep", "r64:awake hrtimer_nanosleep"],
        workload: "for i in 1 2 3; do usleep 90000; sleep 0.35; done",
        ours: |output| {
            let variables = output.variables(".bss")?;
            let slots = (0..25).map(|slot| (slot_row(slot), number(&variables["hist"][slot])));
            Ok(slots.collect())
        },
        theirs: |shown| {
            let calls = shown.calls("sleep", "awake");
            let seconds = calls.iter().map(|call| {
                let [start, end] = ["time", "end"].map(|name| call[name].as_f64());
                end.zip(start).map_or(0.0, |(end, start)| end - start)
            });
            count(seconds.map(|seconds| {
                let slot = ((seconds * 1000.0) as u32).checked_ilog2();
                slot_row(slot.unwrap_or(0) as usize)
            }))
        },
        compared: "the histogram of how long `hrtimer_nanosleep` takes: the times of the guest's own probes",
        ..Tool::NONE
    },
    Tool {
        name: "klockstat",
        options: &[
            "--set",
            "targ_lock={uts_sem}",
            "--map",
            "stack_map=1024",
            "--map",
            "lockholder_map=1024",
            "--map",
            "stat_map=1024",
            "--map",
            "locks=1024",
        ],
        probes: &[
            "p:change __arm64_sys_sethostname",
            "p:read __arm64_sys_newuname",
        ],
        workload: "for i in 1 2 3 4 5; do hostname guest; uname -n > /dev/null; done",
        ours: |output| {
            let mut counts = Counts::new();
            for (_, stat) in output.entries("stat_map")? {
                for what in ["acq_count", "hld_count"] {
                    *counts.entry(what.into()).or_default() += number(&stat[what]);
                }
            }
            Ok(counts)
        },
        theirs: |shown| {
            let calls = ["change", "read"].map(|event| shown.of(event).count());
            let calls = calls.iter().sum::<usize>() as i64;
            ["acq_count", "hld_count"]
                .map(|what| (what.into(), calls))
                .into()
        },
        hits: Hits::Background,
        compared: "how often the lock of the host's name is taken and given back: the guest's own probes at the \
                   system calls that do it",
        ..Tool::NONE
    },
    Tool {
        name: "slabratetop",
        attach: &[("kmem_cache_alloc", "kprobe/kmem_cache_alloc_noprof")],
        workload: "for i in 1 2 3 4 5 6 7; do cat /dev/null; done",
        facts: "grep '^processes ' /proc/stat; cat /sys/kernel/slab/sighand_cache/slab_size",
        ours: |output| {
            let mut counts = Counts::new();
            for (_, slab) in output.entries("slab_entries")? {
                for what in ["count", "size"] {
                    let row = format!("{what} {}", row(&slab, "name"));
                    *counts.entry(row).or_default() += number(&slab[what]);
                }
            }
            Ok(counts)
        },
        theirs: |shown| {
            let mut numbers = shown
                .facts
                .split_whitespace()
                .filter_map(|word| word.parse().ok());
            let [processes, size] = [(); 2].map(|()| numbers.next().unwrap_or_default());
            let rows = [("count", processes), ("size", processes * size)];
            rows.map(|(what, number)| (format!("{what} name=sighand_cache"), number))
                .into()
        },
        about: &["name=sighand_cache"],
        hits: Hits::Background,
        compared: "allocations and bytes of a cache of which each new process takes one: `/proc/stat`, \
                   `/sys/kernel/slab`",
        ..Tool::NONE
    },
];

fn slot_row(slot: usize) -> String {
    format!("slot {slot}")
}
