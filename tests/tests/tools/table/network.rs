//! Tools that watch connections.

use crate::guest::Shown;
use crate::output::Output;
use crate::rows::{Counts, count, number, row};
use crate::tool::Tool;
use anyhow::Result;
use serde_json::Value;
use std::net::{Ipv4Addr, Ipv6Addr};

/// A page from a server at an IPv4 address, and a text to one at an IPv6 address.
const CONNECTIONS: &str = "cd /tmp; dd if=/dev/zero of=page bs=1000 count=50 2> /dev/null; \
                           (httpd -f -p 127.0.0.1:5001 -h /tmp &); (nc -l -p 5002 > text &); \
                           until [ $(netstat -ltn | grep -c 500) = 2 ]; do usleep 100000; done; \
                           wget -q -O - http://127.0.0.1:5001/page > /dev/null; \
                           echo hello | nc ::1 5002; usleep 200000; killall httpd; cd /; rm /tmp/page /tmp/text";

/// The guest's own probes of connections that are asked for.
const CONNECTS: [&str; 2] = [
    "p:connect tcp_v4_connect port=+2(%x1):u16",
    "p:connect6 tcp_v6_connect port=+2(%x1):u16",
];

pub(crate) const TOOLS: &[Tool] = &[
    Tool {
        name: "bindsnoop",
        probes: &[
            "p:bind inet_bind port=+2(%x1):u16",
            "r64:bound inet_bind ret=$retval:s32",
            "p:bind6 inet6_bind port=+2(%x1):u16",
            "r64:bound6 inet6_bind ret=$retval:s32",
        ],
        workload: CONNECTIONS,
        ours: |output| {
            let layout = "u64 low, u64 high, u64 ts_us, u32 pid, u32 device, i32 ret, u16 port, \
                          u16 proto, u8 opts, u8 ver, char[16] task";
            output.rows("events", layout, "ver port ret comm=task pid")
        },
        theirs: |shown| {
            let of = |version: i64, entry: &str, end: &str| {
                let calls = shown.calls(entry, end).into_iter();
                let rows = calls.map(|mut call| {
                    call["ver"] = version.into();
                    call["port"] = swapped(&call["port"]);
                    row(&call, "ver port ret comm pid")
                });
                rows.collect::<Vec<_>>()
            };
            count([of(4, "bind", "bound"), of(6, "bind6", "bound6")].concat())
        },
        compared: "versions, ports, results, commands and processes: the guest's own probes",
        ..Tool::NONE
    },
    Tool {
        name: "solisten",
        probes: &[
            "p:listen inet_listen backlog=backlog protocol=sock->sk->sk_protocol port=sock->sk->__sk_common.skc_num",
            "r64:listening inet_listen ret=$retval:s32",
        ],
        workload: CONNECTIONS,
        ours: |output| {
            let layout =
                "u32[4] addr, u32 pid, u32 proto, i32 backlog, i32 ret, u16 port, char[16] task";
            output.rows("events", layout, "port backlog ret comm=task pid")
        },
        theirs: |shown| {
            let calls = shown.calls("listen", "listening");
            count(
                calls
                    .iter()
                    .map(|call| row(call, "port backlog ret comm pid")),
            )
        },
        compared: "ports, backlogs, results, commands and processes: the guest's own probes, by its types",
        ..Tool::NONE
    },
    Tool {
        name: "tcpconnect",
        probes: &CONNECTS,
        workload: CONNECTIONS,
        ours: |output| {
            let layout = "u8[16] saddr, u8[16] daddr, char[16] task, u64 ts_us, u32 af, u32 pid, \
                          u32 uid, u16 sport, u16 dport";
            connections(output, layout, "port=dport comm=task pid")
        },
        theirs: connects,
        compared: "addresses, ports, commands and processes: the workload, the guest's own probes",
        ..Tool::NONE
    },
    Tool {
        name: "tcpconnlat",
        probes: &CONNECTS,
        workload: CONNECTIONS,
        ours: |output| {
            let layout = "u8[16] saddr, u8[16] daddr, char[16] comm, u64 delta_us, u64 ts_us, \
                          u32 tgid, u32 af, u16 lport, u16 dport";
            connections(output, layout, "port=dport comm pid=tgid")
        },
        theirs: connects,
        compared: "addresses, ports, commands and processes of connections that came about: the workload, the \
                   guest's own probes",
        ..Tool::NONE
    },
    Tool {
        name: "tcprtt",
        options: &["--set", "targ_show_ext=true"],
        tracepoints: &["tcp/tcp_probe"],
        workload: CONNECTIONS,
        ours: |output| {
            let mut counts = Counts::new();
            for (_, hist) in output.entries("hists")? {
                counts.insert("segments".into(), number(&hist["cnt"]));
                counts.insert("microseconds".into(), number(&hist["latency"]));
                for slot in 0..27 {
                    counts.insert(format!("slot {slot}"), number(&hist["slots"][slot]));
                }
            }
            Ok(counts)
        },
        theirs: |shown| {
            let mut counts = Counts::new();
            for probe in shown.of("tcp_probe") {
                let srtt = number(&probe["srtt"]);
                *counts.entry("segments".into()).or_default() += 1;
                *counts.entry("microseconds".into()).or_default() += srtt;
                let slot = srtt.checked_ilog2().unwrap_or(0);
                *counts.entry(format!("slot {slot}")).or_default() += 1;
            }
            counts
        },
        compared: "segments, their sum and their histogram of round-trip times: the guest's tracepoint `tcp:tcp_probe`",
        ..Tool::NONE
    },
    Tool {
        name: "tcpsynbl",
        probes: &["p:listen inet_listen backlog=backlog port=sock->sk->__sk_common.skc_num"],
        workload: CONNECTIONS,
        ours: |output| {
            let mut counts = Counts::new();
            for (backlog, hist) in output.entries("hists")? {
                for slot in 0..32 {
                    let row = format!("backlog={backlog} slot {slot}");
                    counts.insert(row, number(&hist["slots"][slot]));
                }
            }
            Ok(counts)
        },
        // Each server gets one connection, and nobody waits.
        theirs: |shown| {
            count(
                shown
                    .of("listen")
                    .map(|call| format!("{} slot 0", row(call, "backlog"))),
            )
        },
        compared: "histograms by backlog: the guest's own probe, the workload's connections",
        ..Tool::NONE
    },
    Tool {
        name: "tcptop",
        probes: &[
            "p:sent tcp_sendmsg bytes=size port=sk->__sk_common.skc_num:u16",
            "p:received tcp_cleanup_rbuf bytes=copied port=sk->__sk_common.skc_num:u16",
        ],
        workload: CONNECTIONS,
        ours: |output| {
            let mut counts = Counts::new();
            for (key, traffic) in output.entries("ip_map")? {
                let whose = row(&key, "port=lport comm=name pid");
                for what in ["sent", "received"] {
                    *counts.entry(format!("{what} {whose}")).or_default() += number(&traffic[what]);
                }
            }
            Ok(counts)
        },
        theirs: |shown| {
            let mut counts = Counts::new();
            for what in ["sent", "received"] {
                for call in shown.of(what) {
                    let whose = row(call, "port comm pid");
                    // Linux calls this for what it gives back too.
                    let bytes = number(&call["bytes"]).max(0);
                    *counts.entry(format!("{what} {whose}")).or_default() += bytes;
                }
            }
            counts
        },
        compared: "bytes by port, command and process: the guest's own probes, by its types",
        ..Tool::NONE
    },
    Tool {
        name: "tcptracer",
        probes: &[
            "p:connect tcp_v4_connect port=+2(%x1):u16",
            "p:connect6 tcp_v6_connect port=+2(%x1):u16",
            "r64:accept inet_csk_accept sk=$retval:s64 port=+14($retval):u16",
            "p:close tcp_close peer=sk->__sk_common.skc_dport:u16",
        ],
        workload: CONNECTIONS,
        ours: |output| {
            let layout = "u8[16] saddr, u8[16] daddr, char[16] task, u64 ts_us, u32 af, u32 pid, \
                          u32 uid, u32 netns, u16 dport, u16 sport, u8 type";
            let records = output.records("events", layout)?;
            let rows = records.into_iter().map(|mut record| {
                for port in ["dport", "sport"] {
                    record[port] = swapped(&record[port]);
                }
                match number(&record["type"]) {
                    0 => row(&record, "connect=dport comm=task pid"),
                    1 => row(&record, "accept=sport comm=task pid"),
                    _ => row(&record, "closed_to=dport comm=task pid"),
                }
            });
            Ok(count(rows))
        },
        theirs: |shown| {
            let connections = ["connect", "connect6"]
                .into_iter()
                .flat_map(|event| shown.of(event));
            let connections = connections.map(|call| {
                let mut call = call.clone();
                call["port"] = swapped(&call["port"]);
                row(&call, "connect=port comm pid")
            });
            // What is no address is an error.
            let accepted = shown
                .of("accept")
                .filter(|call| number(&call["sk"]) < -4096);
            let accepted = accepted.map(|call| row(call, "accept=port comm pid"));
            // Servers have no peer.
            let closed = shown.of("close").filter(|call| number(&call["peer"]) != 0);
            let closed = closed.map(|call| {
                let mut call = call.clone();
                call["peer"] = swapped(&call["peer"]);
                row(&call, "closed_to=peer comm pid")
            });
            count(connections.chain(accepted).chain(closed))
        },
        compared: "connections that were opened, accepted and closed, with ports, commands and processes: the \
                   guest's own probes",
        ..Tool::NONE
    },
];

/// Connections in records of that layout, with the fields that `spec` names beside the address.
fn connections(output: &mut Output<'_>, layout: &str, spec: &str) -> Result<Counts> {
    let records = output.records("events", layout)?;
    let rows = records.into_iter().map(|mut record| {
        record["dport"] = swapped(&record["dport"]);
        let to = address(&record["af"], &record["daddr"]);
        format!("to={to} {}", row(&record, spec))
    });
    Ok(count(rows))
}

/// What [`CONNECTS`] have seen of the workload's.
fn connects(shown: &Shown) -> Counts {
    let of = |event: &str, to: &str| {
        let calls = shown.of(event).map(|call| {
            let mut call = call.clone();
            call["port"] = swapped(&call["port"]);
            format!("to={to} {}", row(&call, "port comm pid"))
        });
        calls.collect::<Vec<_>>()
    };
    count([of("connect", "127.0.0.1"), of("connect6", "::1")].concat())
}

/// A number in the order of bytes that networks use.
fn swapped(port: &Value) -> Value {
    // Ports have 16 bits.
    (number(port) as u16).swap_bytes().into()
}

/// An address, of 4 bytes for `AF_INET` (2), of 16 for `AF_INET6`.
fn address(family: &Value, bytes: &Value) -> String {
    let byte = |at: usize| number(&bytes[at]) as u8;
    match number(family) {
        2 => Ipv4Addr::from(std::array::from_fn(byte)).to_string(),
        _ => Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(byte)).to_string(),
    }
}
