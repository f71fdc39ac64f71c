//! Where the endpoints of a machine listen, on 127.0.0.1.

use anyhow::{Context, Result, bail};
use std::fmt::Write;
use std::net::TcpListener;

/// The first port where nobody says otherwise.
pub const DEFAULT_BASE: u16 = 1230;
/// Distance of the port for the whole machine, below the base.
const MACHINE: u16 = 1;
/// Distance of the shell's port from the base.
const SHELL: u16 = 1;
/// Distance of the port for tools.
const TOOLS: u16 = 2;
/// Distance of the port of the emulator's own stub, where a test wants that.
const EMULATOR: u16 = 3;
/// Distance of `vm1`'s port.
const VM1: u16 = 4;
/// Distance of `vm1`'s console.
const CONSOLE1: u16 = 104;
/// No port of a machine is farther from the base.
const SPAN: u16 = 200;

/// The ports of one machine: with the default base 1230, the whole machine at 1229, `hyp` at 1230, the shell at 1231, the endpoint
/// for tools at 1232, `vm1` at 1234, its console at 1334, and so on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ports {
    base: u16,
}

impl Ports {
    /// Ports from `base` on.
    pub fn new(base: u16) -> Result<Self> {
        if base <= MACHINE || base.checked_add(SPAN).is_none() {
            bail!(
                "port base {base}: choose one from {} to {}",
                MACHINE + 1,
                u16::MAX - SPAN
            );
        }
        Ok(Self { base })
    }

    /// A base where nobody listens now on any port of a machine with `vms` guests.
    pub fn find_free(vms: usize) -> Result<Self> {
        // The kernel proposes a free port; its neighbours are tried.
        for _ in 0..64 {
            let proposed = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
            let Ok(ports) = Self::new(proposed) else {
                continue;
            };
            let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
            let channels = ports.channels(vms).into_iter().map(|(_, port)| port);
            if channels.chain([ports.emulator()]).all(is_free) {
                return Ok(ports);
            }
        }
        bail!("no free ports on 127.0.0.1")
    }

    /// The hypervisor's debug endpoint.
    pub fn hyp(self) -> u16 {
        self.base
    }

    /// The debug endpoint of the hypervisor and all VMs together.
    pub fn machine(self) -> u16 {
        self.base - MACHINE
    }

    /// The hypervisor's shell.
    pub fn shell(self) -> u16 {
        self.base + SHELL
    }

    /// The GDB stub of the emulator itself.
    pub fn emulator(self) -> u16 {
        self.base + EMULATOR
    }

    /// The endpoint for tools, beside debuggers.
    pub fn tools(self) -> u16 {
        self.base + TOOLS
    }

    /// The debug endpoint of a VM, from 1.
    pub fn vm(self, number: u16) -> u16 {
        self.base + VM1 - 1 + number
    }

    /// The console of a VM, from 1.
    pub fn console(self, number: u16) -> u16 {
        self.base + CONSOLE1 - 1 + number
    }

    /// Names and ports of all channels of a machine, in the order of their virtio-serial port numbers from 1.
    pub fn channels(self, vms: usize) -> Vec<(String, u16)> {
        let mut channels = vec![
            ("hyp".to_owned(), self.hyp()),
            ("shell".to_owned(), self.shell()),
            ("tools".to_owned(), self.tools()),
            ("machine".to_owned(), self.machine()),
        ];
        for number in (1..).take(vms) {
            channels.push((format!("vm{number}"), self.vm(number)));
            channels.push((format!("console{number}"), self.console(number)));
        }
        channels
    }

    /// All channels as `name=address`, VMs first.
    pub fn describe(self, vms: usize) -> Result<String> {
        let mut channels = self.channels(vms);
        channels.rotate_left(4);
        let mut text = String::new();
        for (name, port) in channels {
            write!(text, " {name}=127.0.0.1:{port}").context("formatting")?;
        }
        Ok(text.trim_start().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_ports() {
        let ports = Ports::new(DEFAULT_BASE).unwrap();
        let text = "vm1=127.0.0.1:1234 console1=127.0.0.1:1334 vm2=127.0.0.1:1235 console2=127.0.0.1:1335 \
                    hyp=127.0.0.1:1230 shell=127.0.0.1:1231 tools=127.0.0.1:1232 \
                    machine=127.0.0.1:1229";
        assert_eq!(ports.describe(2).unwrap(), text);
    }

    #[test]
    fn bases_that_cannot_be() {
        assert!(Ports::new(0).is_err());
        assert!(Ports::new(1).is_err());
        assert!(Ports::new(65500).is_err());
    }

    #[test]
    fn taken_ports_are_avoided() {
        let ports = Ports::find_free(2).unwrap();
        let listener = TcpListener::bind(("127.0.0.1", ports.vm(1)));
        assert!(listener.is_ok());
    }
}
