use super::*;
use crate::event::RING_RECORDS;
use crate::machine::GuestFault;
use crate::programs::{Owner, ProgramStore};
use crate::tests::reader;
use crate::tracepoint::FieldKind;
use alloc::vec;

/// CPU 1, and a clock that ticks at every look.
struct Ticking(core::sync::atomic::AtomicU64);

impl Ticking {
    fn new() -> Self {
        Self(core::sync::atomic::AtomicU64::new(0))
    }
}

impl Clock for Ticking {
    fn now_ns(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    fn cpu(&self) -> usize {
        1
    }

    fn synchronize(&self) {}
}

/// Defines the tracepoints of one test: they are static, and tests run side by side.
macro_rules! tracepoints_of_a_test {
    () => {
        crate::tracepoints! {
            /// A page
            /// fault.
            PageFault = "vmm:page_fault" {
                /// The address.
                address: FieldKind::Hex,
                /// What it wanted.
                access: FieldKind::Names(&["fetch", "read", "write"]),
            }
            /// A tick.
            Tick = "vmm:timer_tick" {}
            /// A command.
            Command = "shell:command" {
                /// Its text.
                text: FieldKind::Text,
            }
        }
    };
}

fn tracer(list: &'static [&'static Tracepoint]) -> Tracer {
    Tracer::new(2, &[list])
}

fn drained(tracer: &Tracer) -> Vec<(TraceEvent, Vec<u8>)> {
    let mut events = Vec::new();
    tracer
        .rings()
        .drain(&mut |event, text| events.push((*event, text.to_vec())));
    events
}

fn names(points: &[&'static Tracepoint]) -> Vec<String> {
    points.iter().map(ToString::to_string).collect()
}

#[test]
fn definitions_are_what_was_written() {
    tracepoints_of_a_test!();
    let point = PageFault::POINT;
    assert_eq!((point.group(), point.name()), ("vmm", "page_fault"));
    assert_eq!(point.summary(), "A page fault.");
    assert_eq!(point.fields()[1].name, "access");
    assert_eq!(point.fields()[1].summary.trim(), "What it wanted.");
    assert_eq!(ALL.len(), 3);
    assert!(Tick::POINT.fields().is_empty());
    let event = PageFault {
        address: 7,
        access: 2,
    };
    assert_eq!(event.words(), [7, 2, 0, 0]);
    assert_eq!(Tick {}.words(), [0; 4]);
    assert_eq!(size_of::<PageFault>(), 16);
    let _ = Command::default();
}

/// A program that prints the tracepoint's name, the VM and the vCPU.
fn place() -> Vec<u8> {
    use ebpf::asm::reg::{FP, R0, R1, R2, R3, R4, R5, R6};
    use ebpf::asm::{alu_imm, call, exit, map_value, mov, mov_imm};
    use ebpf::helper::Helper;
    const FORMAT: &[u8] = b"%s of vm%u, vcpu%u\0";
    let mut linked = ebpf::builtin::linked("ret").unwrap();
    linked.maps[0].value_size = FORMAT.len() as u32;
    linked.maps[0].initial = FORMAT.to_vec();
    let name = |register| {
        [
            mov(register, FP),
            alu_imm(ebpf::insn::alu::ADD, register, -24),
        ]
    };
    let mut insns = name(R1).to_vec();
    insns.extend([
        mov_imm(R2, 24),
        call(Helper::GetTracepointName),
        call(Helper::GetVmId),
    ]);
    insns.extend([
        mov(R6, R0),
        call(Helper::GetVcpuId),
        mov(R5, R0),
        mov(R4, R6),
    ]);
    insns.extend(name(R3));
    insns.extend(map_value(R1, 0, 0));
    let length = FORMAT.len() as i32;
    insns.extend([
        mov_imm(R2, length),
        call(Helper::TracePrintk),
        mov_imm(R0, 0),
        exit(),
    ]);
    linked.programs[0].insns = insns;
    linked.encode().unwrap()
}

#[test]
fn a_program_knows_the_tracepoint_and_whom_it_concerns() {
    tracepoints_of_a_test!();
    let tracer = tracer(ALL);
    let programs = ProgramStore::new(2).unwrap();
    programs.load("place", &place(), Owner(0)).unwrap();
    let place = programs.program("place").unwrap();
    tracer.enable(Tick::POINT, Some(place)).unwrap();
    let clock = Ticking::new();
    let origin = Origin {
        vcpu: VcpuId(3),
        ..Origin::vm(&clock, VmId(2))
    };
    tracer.fire(Tick {}, &origin);
    let events = drained(&tracer);
    assert_eq!(events[1].1, b"vmm:timer_tick of vm2, vcpu3");
}

#[test]
fn tracepoints_are_found_by_name_group_and_pattern() {
    tracepoints_of_a_test!();
    let tracer = tracer(ALL);
    let find = |name| tracer.find(name).map(|points| names(&points));
    let fault = vec!["vmm:page_fault".to_string()];
    assert_eq!(find("vmm:page_fault"), Ok(fault.clone()));
    assert_eq!(find("page_fault"), Ok(fault));
    for group in ["vmm", "vmm:*"] {
        assert_eq!(find(group).unwrap().len(), 2, "{group}");
    }
    assert_eq!(find("*").unwrap().len(), 3);
    let message = |name| find(name).unwrap_err().to_string();
    assert_eq!(
        message("vmm:page_falt"),
        "no tracepoint vmm:page_falt. Did you mean vmm:page_fault?"
    );
    assert_eq!(
        message("zzz:*"),
        "no tracepoint zzz:*. `trace tracepoints` shows them."
    );
    let numbers: Vec<_> = ALL.iter().map(|point| point.number()).collect();
    assert_eq!(numbers, [1, 2, 3]);
    assert_eq!(tracer.tracepoint(3).map(Tracepoint::name), Some("command"));
    assert!(tracer.tracepoint(0).is_none() && tracer.tracepoint(4).is_none());
}

#[test]
fn one_that_fires_writes_its_event_and_runs_its_program() {
    tracepoints_of_a_test!();
    let tracer = tracer(ALL);
    let programs = ProgramStore::new(2).unwrap();
    let clock = Ticking::new();
    let origin = Origin {
        vcpu: VcpuId(3),
        duration_ns: 9,
        ..Origin::vm(&clock, VmId(2))
    };
    let event = PageFault {
        address: 0x40,
        access: 1,
    };
    assert!(!tracer.is_tracing());
    let args = programs.program("args").unwrap();
    tracer.enable(PageFault::POINT, Some(args.clone())).unwrap();
    assert!(PageFault::POINT.is_on() && !Tick::POINT.is_on() && tracer.is_tracing());
    assert_eq!(PageFault::POINT.program().as_deref(), Some("args"));
    assert_eq!(
        tracer.users_of(args.object()),
        ["tracepoint vmm:page_fault"]
    );
    tracer.fire(event, &origin);
    let events = drained(&tracer);
    let hit = events[0].0;
    assert_eq!((hit.kind, hit.cpu, hit.id), (EventKind::Tracepoint, 1, 1));
    assert_eq!((hit.vm, hit.vcpu, hit.duration_ns), (VmId(2), VcpuId(3), 9));
    assert_eq!(hit.args, [0x40, 1, 0, 0]);
    assert_eq!(events[1].0, hit.says(EventKind::Print));
    assert_eq!(events[1].1, b"x0=0x40 x1=0x1 x2=0x0 x3=0x0");
    assert_eq!(PageFault::POINT.hits(), 1);

    tracer.disable(PageFault::POINT);
    assert_eq!(PageFault::POINT.program(), None);
    assert!(!tracer.is_tracing() && tracer.users_of(args.object()).is_empty());
}

/// Memory whose every access fires a tracepoint, as a badly placed one would.
struct Recursive<'a>(&'a Tracer, &'a Ticking, fn(&Tracer, &Origin<'_>));

impl LiveMemory for Recursive<'_> {
    fn read(&self, _: Gva, buffer: &mut [u8]) -> Result<(), GuestFault> {
        self.2(self.0, &Origin::hypervisor(self.1));
        buffer.fill(0);
        Ok(())
    }

    fn write(&self, address: Gva, _: &[u8]) -> Result<(), GuestFault> {
        Err(GuestFault { address })
    }

    fn task(&self) -> u64 {
        0
    }
}

#[test]
fn one_inside_anothers_program_is_missed() {
    tracepoints_of_a_test!();
    let tracer = tracer(ALL);
    let programs = ProgramStore::new(2).unwrap();
    programs.load("reader", &reader(), Owner(0)).unwrap();
    tracer
        .enable(PageFault::POINT, Some(programs.program("reader").unwrap()))
        .unwrap();
    tracer.enable(Tick::POINT, None).unwrap();
    let clock = Ticking::new();
    let memory = Recursive(&tracer, &clock, |tracer, origin| {
        tracer.fire(Tick {}, origin)
    });
    let origin = Origin {
        memory: Some(&memory),
        ..Origin::hypervisor(&clock)
    };
    tracer.fire(PageFault::default(), &origin);
    assert_eq!((Tick::POINT.hits(), Tick::POINT.missed()), (0, 1));
    assert_eq!((PageFault::POINT.hits(), PageFault::POINT.missed()), (1, 0));
    assert_eq!(drained(&tracer).len(), 1);
    tracer.fire(Tick {}, &origin);
    assert_eq!((Tick::POINT.hits(), Tick::POINT.missed()), (1, 1));
}

#[test]
fn one_inside_a_run_of_its_own_object_is_missed() {
    tracepoints_of_a_test!();
    let tracer = tracer(ALL);
    let programs = ProgramStore::new(2).unwrap();
    programs.load("reader", &reader(), Owner(0)).unwrap();
    let reader = programs.program("reader").unwrap();
    tracer
        .enable(PageFault::POINT, Some(reader.clone()))
        .unwrap();
    let clock = Ticking::new();
    let memory = Recursive(&tracer, &clock, |tracer, origin| {
        tracer.fire(PageFault::default(), origin)
    });
    // As a probe's program that reads memory.
    let event = TraceEvent {
        cpu: clock.cpu() as u8,
        ..TraceEvent::decode(&[0, 1, 0, 0, 0, 0, 0, 0]).unwrap()
    };
    let host = TraceHost {
        rings: tracer.rings(),
        point: Tick::POINT,
        event: &event,
        origin: &Origin {
            memory: Some(&memory),
            ..Origin::hypervisor(&clock)
        },
    };
    let context: Context = [0; size_of::<Context>() / 8];
    assert_eq!(reader.program().run(&context, &host), Ok(0));
    assert_eq!((PageFault::POINT.hits(), PageFault::POINT.missed()), (1, 1));
    let events = drained(&tracer);
    let kinds: Vec<_> = events.iter().map(|(event, _)| event.kind).collect();
    assert_eq!(kinds, [EventKind::Tracepoint], "and it is no error");
}

#[test]
fn a_program_that_is_made_for_something_else_is_refused() {
    tracepoints_of_a_test!();
    let tracer = tracer(ALL);
    let programs = ProgramStore::new(2).unwrap();
    let enable = |section: &str| {
        let mut linked = ebpf::builtin::linked("count").unwrap();
        linked.programs[0].section = section.to_string();
        programs
            .load("p", &linked.encode().unwrap(), Owner(0))
            .unwrap();
        let program = programs.program("p").unwrap();
        let result = tracer.enable(Tick::POINT, Some(program));
        tracer.disable(Tick::POINT);
        result.map_err(|refusal| refusal.to_string())
    };
    for section in ["", "tp", "tp/vmm/timer_tick", "tracepoint/vmm/timer_tick"] {
        assert_eq!(enable(section), Ok(()), "{section}");
    }
    assert_eq!(
        enable("tp/vmm/page_fault").unwrap_err(),
        "p is made for tp/vmm/page_fault, not for vmm:timer_tick: there it would read other fields."
    );
    assert!(enable("kprobe/vfs_read").is_err());
    assert!(!Tick::POINT.is_on());
}

#[test]
fn a_program_without_guest_gets_no_memory() {
    tracepoints_of_a_test!();
    let tracer = tracer(ALL);
    let clock = Ticking::new();
    let event = TraceEvent::decode(&[0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
    let origin = Origin::hypervisor(&clock);
    let host = TraceHost {
        rings: tracer.rings(),
        point: Tick::POINT,
        event: &event,
        origin: &origin,
    };
    assert_eq!(host.read_guest(0, &mut [0]), Err(ReadFault));
}

#[test]
fn what_the_ring_has_no_room_for_is_counted() {
    tracepoints_of_a_test!();
    let tracer = tracer(ALL);
    let clock = Ticking::new();
    tracer.enable(Tick::POINT, None).unwrap();
    for _ in 0..RING_RECORDS + 7 {
        tracer.fire(Tick {}, &Origin::hypervisor(&clock));
    }
    assert_eq!(tracer.rings().lost(1), 7);
    assert_eq!(Tick::POINT.hits(), RING_RECORDS as u64 + 7);
}
