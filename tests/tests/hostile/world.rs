//! Two tiny guests, and what must be true of them after anything.

use anyhow::{Context, Result, ensure};
use e2e::remote::Remote;
use e2e::tiny::{Subject, Tiny};
use e2e::{Console, MOMENT, Spec, TestMachine};
use std::thread;
use std::time::Duration;
use xtask::machine::Start;

/// The subject that the guests are made to call.
const SUBJECT: &str = "fn_stp";
/// How often.
const CALLS: u64 = 50;
/// How long a client waits for an answer before it tries again.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it waits before that: an answer to its first question may still be on the way.
const MOMENT_BETWEEN: Duration = Duration::from_millis(500);
/// What the shell says when it listens.
pub const PROMPT: &str = "periscope> ";
/// What EL2 says when it is not well (`hypervisor/src/panic.rs`).
const DISTRESS: [&str; 4] = [
    "hypervisor panic",
    "EL2 fault",
    "EL2 stack overflow",
    "released without a hold",
];

/// The machine of all cases.
pub struct World {
    pub machine: TestMachine,
    /// The subject that [`World::check`] calls.
    pub subject: Subject,
}

impl World {
    /// How many VMs there are.
    pub const VMS: u16 = 2;
    /// Memory of a guest that it does not use, in both its physical and its virtual addresses.
    pub const SCRATCH: u64 = 0x4200_0000;
    /// Where no guest has anything mapped.
    pub const NOWHERE: u64 = 0x7fff_0000_0000;

    pub fn boot() -> Result<Self> {
        let spec = Spec::hypervisor()
            .tiny_guest(2, Start::Immediately)
            .tiny_guest(1, Start::Immediately);
        let machine = TestMachine::start(spec)?;
        let mut subject = None;
        for vm in 1..=Self::VMS {
            let mut console = machine.console(usize::from(vm))?;
            let mut tiny = Tiny::new(&mut console);
            tiny.wait_ready()?;
            tiny.run("rx irq")?;
            subject = tiny
                .subjects()?
                .into_iter()
                .find(|subject| subject.name == SUBJECT);
        }
        Ok(Self {
            machine,
            subject: subject.with_context(|| format!("the guest has no {SUBJECT}"))?,
        })
    }

    /// The port of a VM's endpoint.
    pub fn port(&self, vm: u16) -> u16 {
        self.machine.ports().vm(vm)
    }

    /// A well-behaved client of `vm1`.
    pub fn attach(&self) -> Result<Remote> {
        Remote::attach(self.port(1))
    }

    /// A client that comes in the moment in which the one before goes can get that one's answer, or none
    /// (docs/protocol.md): it tries again, as its user would.
    pub fn attach_again(&self, vm: u16) -> Result<Remote> {
        again(|patience| Remote::attach_within(self.port(vm), patience))
    }

    /// The same at the hypervisor's shell.
    pub fn shell_again(&self) -> Result<Console> {
        again(|patience| self.shell_within(patience))
    }

    /// The hypervisor's shell, whose prompt comes within that time.
    pub fn shell_within(&self, patience: Duration) -> Result<Console> {
        let mut shell = Console::connect(self.machine.ports().shell())?;
        shell.expect(PROMPT, patience)?;
        Ok(shell)
    }

    /// Fails unless the next clients are served, no probe is left, the guests compute what they should, and EL2's log
    /// is free of distress.
    pub fn check(&self) -> Result<()> {
        for vm in 1..=Self::VMS {
            self.check_endpoint(vm)
                .with_context(|| format!("the next client of vm{vm}"))?;
        }
        for vm in 1..=Self::VMS {
            self.check_guest(vm)
                .with_context(|| format!("vm{vm} after it"))?;
        }
        let log = self.machine.log();
        for words in DISTRESS {
            ensure!(!log.contains(words), "EL2 is not well:\n{log}");
        }
        Ok(())
    }

    fn check_endpoint(&self, vm: u16) -> Result<()> {
        let mut client = self.attach_again(vm)?;
        let halted = client.ask("?")?;
        ensure!(halted.starts_with('T'), "`?` is answered with {halted}");
        let registers = client.ask("g")?;
        ensure!(registers.len() > 500, "registers: {registers}");
        let list = client.monitor("trace list")?;
        ensure!(list.lines().count() == 1, "this was left behind:\n{list}");
        let code = client.ask(format!("m{:x},4", self.subject.address))?;
        ensure!(code.len() == 8, "the code of {SUBJECT}: {code}");
        ensure!(client.ask("D")? == "OK", "detach");
        Ok(())
    }

    /// The guest computes what it should.
    pub fn check_guest(&self, vm: u16) -> Result<()> {
        let mut console = self.machine.console(usize::from(vm))?;
        let reply = Tiny::new(&mut console).run(&format!("call {SUBJECT} {CALLS}"))?;
        let (count, sum) = (self.subject.count(CALLS), self.subject.sum(CALLS));
        ensure!(
            reply.number("count")? == count && reply.number("sum")? == sum,
            "{}",
            reply.text
        );
        ensure!(reply.number("bad")? == 0, "{}", reply.text);
        Ok(())
    }
}

fn again<T>(connect: impl Fn(Duration) -> Result<T>) -> Result<T> {
    connect(PATIENCE).or_else(|error| {
        eprintln!("{error:#}; trying again");
        thread::sleep(MOMENT_BETWEEN);
        connect(MOMENT)
    })
}
