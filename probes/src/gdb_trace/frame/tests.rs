use super::*;
use crate::fixed::try_words;
use crate::machine::GuestFault;
use alloc::boxed::Box;
use alloc::vec;
use proptest::prelude::*;

/// Memory of pages of which some are there; each byte is the low byte of its address.
struct Pages(u64);

impl Pages {
    fn has(&self, gva: u64) -> bool {
        self.0 >> (gva / PAGE_SIZE % 64) & 1 != 0
    }
}

fn byte_at(gva: u64) -> u8 {
    (gva ^ gva >> 8) as u8
}

impl LiveMemory for Pages {
    fn task(&self) -> u64 {
        0
    }

    fn store_fp(&self, place: &[AtomicU64; FpRegs::WORDS]) {
        for (number, word) in (1000..).zip(place) {
            word.store(number, Ordering::Relaxed);
        }
    }

    fn store_sys(&self, _: &CoreRegs, place: &[AtomicU64]) {
        for (number, word) in (2000..).zip(place) {
            word.store(number, Ordering::Relaxed);
        }
    }

    fn read(&self, gva: Gva, buffer: &mut [u8]) -> Result<(), GuestFault> {
        for (byte, at) in buffer.iter_mut().zip(gva.0..) {
            if !self.has(at) {
                return Err(GuestFault { address: Gva(at) });
            }
            *byte = byte_at(at);
        }
        Ok(())
    }

    fn write(&self, gva: Gva, _: &[u8]) -> Result<(), GuestFault> {
        Err(GuestFault { address: gva })
    }
}

const HEAD: Head = Head {
    number: 0xfedc_ba98,
    vcpu: VcpuId(3),
    pc: Gva(0x1234),
    time_ns: 99,
};

/// The frame that `write` makes in so many words that an earlier one has left.
fn frame(words: usize, write: impl FnOnce(&Writer<'_>)) -> Frame {
    let place = words_of(words);
    let writer = Writer::new(&place);
    write(&writer);
    writer.finish(&HEAD);
    let words: Vec<u64> = place
        .iter()
        .map(|word| word.load(Ordering::Relaxed))
        .collect();
    Frame::decode(&words).expect("what was written can be read")
}

fn words_of(count: usize) -> Box<[AtomicU64]> {
    let words = try_words(count).expect("there should be memory");
    for word in &words {
        word.store(u64::MAX, Ordering::Relaxed);
    }
    words
}

#[test]
fn a_frame_has_what_was_collected() {
    let core = CoreRegs {
        x: core::array::from_fn(|n| n as u64),
        sp: 31,
        pc: 32,
        pstate: 33,
    };
    let pages = Pages(u64::MAX);
    let frame = frame(300, |writer| {
        writer.registers(&core, Gva(0x40), &pages, 30).unwrap();
        writer.memory(&pages, Gva(0x1001), 11).unwrap();
        writer.variable(7, -2).unwrap();
        writer.static_data(b"a=1 b=2 c=3").unwrap();
    });
    assert_eq!(frame.head, HEAD);
    let registers = frame.registers().unwrap();
    assert_eq!(registers.core, CoreRegs { pc: 0x40, ..core });
    assert_eq!(registers.fp.v[1], 1002 | 1003 << 64);
    assert_eq!((registers.fp.fpsr, registers.fp.fpcr), (1064, 0));
    assert_eq!(registers.sys.get(crate::regs::SysReg::SpEl1), 2001);
    assert_eq!(registers.sys.get(crate::regs::SysReg::EsrEl2), 0);
    let memory: Vec<u8> = (0x1001..0x100c).map(byte_at).collect();
    assert_eq!(frame.memory(Gva(0x1001)), Some(&memory[..]));
    assert_eq!(frame.memory(Gva(0x100b)), Some(&memory[10..]));
    assert_eq!(
        (frame.memory(Gva(0x100c)), frame.memory(Gva(0x1000))),
        (None, None)
    );
    assert_eq!((frame.variable(7), frame.variable(8)), (Some(-2), None));
    assert_eq!(frame.static_data(), Some(&b"a=1 b=2 c=3"[..]));
}

#[test]
fn what_has_no_room_is_refused() {
    let place = words_of(8);
    let writer = Writer::new(&place);
    let pages = Pages(u64::MAX);
    assert_eq!(writer.memory(&pages, Gva(0), 17), Err(TooLong));
    assert_eq!(
        writer.registers(&CoreRegs::default(), Gva(0), &pages, 30),
        Err(TooLong)
    );
    assert_eq!(writer.memory(&pages, Gva(0), 16), Ok(()));
    assert_eq!(writer.variable(1, 1), Err(TooLong));
}

proptest! {
    /// Every byte that can be read is there, no other is, and all fits where the length says.
    #[test]
    fn memory_is_collected_as_far_as_it_is_there(
        pages: u64,
        address in 0..40 * PAGE_SIZE,
        length in 1..20_000_usize,
    ) {
        let pages = Pages(pages);
        let frame = frame(HEAD_WORDS + memory_words(length), |writer| {
            writer.memory(&pages, Gva(address), length).unwrap();
        });
        for at in address..address + length as u64 {
            let expected = pages.has(at).then(|| byte_at(at));
            let found = frame.memory(Gva(at)).map(|bytes| bytes[0]);
            prop_assert_eq!(found, expected, "{:#x}", at);
        }
    }

    /// Any words are a frame or are none.
    #[test]
    fn any_words_decode_or_do_not(mut words in prop::collection::vec(any::<u64>(), 0..64), used in 0..70_u64) {
        if let Some(word) = words.get_mut(1) {
            *word = *word & 0xff_ffff_ffff | used << 40;
        }
        for word in words.iter_mut().skip(4).step_by(3) {
            *word &= 0x1f07;
        }
        let _ = Frame::decode(&words);
        let _ = Frame::decode(&vec![words.len() as u64; words.len()]);
    }
}
