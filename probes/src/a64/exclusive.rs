//! Exclusive sequences: from a load-exclusive to its store-exclusive.
//!
//! An exception return clears the exclusive monitor (Arm ARM B2.17.1), so a guest that is stepped
//! or probed between the two never completes its store and loops for ever. Such a sequence
//! therefore runs as one step: freely, up to hardware breakpoints at every place where it can end.
//! GDB does the same (`aarch64_software_single_step`), but follows B.cond alone; Linux leaves its
//! compare-and-exchange loops by CBNZ, so all direct branches count here.

use super::{Class, INSTRUCTION_SIZE, branch_offset, classify};
use crate::addr::Gva;

/// How many instructions after a load-exclusive its store-exclusive is looked for; GDB's limit.
pub const SEQUENCE_LENGTH: usize = 16;

/// Most ends that a sequence may have: one after the store, and two ways out by branches.
pub const MAX_ENDS: usize = 3;

/// How many instructions before and behind an address load-exclusives are looked for that may lead to it. Compilers move
/// what is unlikely, a store-exclusive among it, hundreds of instructions away.
const NEIGHBOURHOOD: i64 = 1024;

/// The addresses where an exclusive sequence can end, none of them twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ends {
    addresses: [Gva; MAX_ENDS],
    count: usize,
}

impl Ends {
    const EMPTY: Self = Self {
        addresses: [Gva(0); MAX_ENDS],
        count: 0,
    };

    /// The addresses.
    pub fn as_slice(&self) -> &[Gva] {
        &self.addresses[..self.count]
    }

    /// Adds an address unless it is there; `None` where no room is left.
    fn add(&mut self, address: Gva) -> Option<()> {
        if self.as_slice().contains(&address) {
            return Some(());
        }
        *self.addresses.get_mut(self.count)? = address;
        self.count += 1;
        Some(())
    }
}

/// How to step the instruction at an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StepPlan {
    /// As one instruction, by hardware single-step.
    Single,
    /// Freely to hardware breakpoints at all of `ends`. An exception of the sequence itself leaves
    /// it to the guest's vector: the caller puts a bound on the run.
    Sequence {
        /// Where it can end.
        ends: Ends,
    },
}

/// How to step the instruction at `pc`. `fetch` reads the guest's own instruction, `None` where
/// nothing is mapped.
///
/// Direct branches are followed, because compilers put the store of a sequence anywhere. A
/// load-exclusive from which no store-exclusive can be reached within [`SEQUENCE_LENGTH`]
/// instructions, or from which control can go in more than [`MAX_ENDS`] ways, is stepped alone.
pub fn step_plan(pc: Gva, mut fetch: impl FnMut(Gva) -> Option<u32>) -> StepPlan {
    if fetch(pc).map(classify) != Some(Class::LoadExclusive) {
        return StepPlan::Single;
    }
    let mut paths = Paths::from(pc, &mut fetch);
    paths.find_stores();
    match paths.ends() {
        Some(ends) => StepPlan::Sequence { ends },
        None => StepPlan::Single,
    }
}

/// Most instructions of a sequence, on all its paths.
const MAX_NODES: usize = 48;

/// An instruction that may come after a load-exclusive.
#[derive(Clone, Copy, Debug)]
struct Node {
    address: Gva,
    /// How many instructions after the load.
    distance: usize,
    /// Where control goes next; a store-exclusive, and what leaves for good, have none.
    next: [Option<Gva>; 2],
    is_store: bool,
    /// Whether a store-exclusive can be reached from here.
    reaches_store: bool,
}

/// The instructions that may come after a load-exclusive, as far away as a store-exclusive may be.
struct Paths {
    load: Gva,
    nodes: [Node; MAX_NODES],
    count: usize,
}

impl Paths {
    /// Where control can go from `load`. Which of that leads to a store, [`Paths::find_stores`] says.
    fn from(load: Gva, fetch: &mut impl FnMut(Gva) -> Option<u32>) -> Self {
        let unused = Node {
            address: load,
            distance: 0,
            next: [None; 2],
            is_store: false,
            reaches_store: false,
        };
        let mut paths = Self {
            load,
            nodes: [unused; MAX_NODES],
            count: 0,
        };
        if let Some(behind) = load.checked_add(INSTRUCTION_SIZE) {
            paths.add(behind, 1);
        }
        let mut done = 0;
        while let Some(node) = paths.nodes[..paths.count].get(done).copied() {
            let (next, is_store) = successors(node.address, fetch);
            paths.nodes[done] = Node {
                next,
                is_store,
                ..node
            };
            for address in next.into_iter().flatten() {
                // Back at the load the sequence begins again.
                if address != load {
                    paths.add(address, node.distance + 1);
                }
            }
            done += 1;
        }
        paths
    }

    /// Adds an address that is not known yet and not too far away.
    fn add(&mut self, address: Gva, distance: usize) {
        let has_room = self.count < MAX_NODES && distance <= SEQUENCE_LENGTH;
        if has_room && self.node(address).is_none() {
            self.nodes[self.count].address = address;
            self.nodes[self.count].distance = distance;
            self.count += 1;
        }
    }

    fn node(&self, address: Gva) -> Option<&Node> {
        self.nodes[..self.count]
            .iter()
            .find(|node| node.address == address)
    }

    /// Goes back from the stores until nothing new reaches one.
    fn find_stores(&mut self) {
        for node in &mut self.nodes[..self.count] {
            node.reaches_store = node.is_store;
        }
        for _ in 0..self.count {
            let before = self.nodes;
            let reaches = |address: Gva| {
                let mut nodes = before[..self.count].iter();
                nodes.any(|node| node.address == address && node.reaches_store)
            };
            for node in &mut self.nodes[..self.count] {
                node.reaches_store |= node.next.into_iter().flatten().any(reaches);
            }
        }
    }

    /// Behind the store that control comes to from `address`, the nearest to the load if there are several.
    fn behind_store_after(&self, address: Gva) -> Option<Gva> {
        let node = self.node(address).filter(|node| node.reaches_store)?;
        let nodes = self.nodes[..self.count].iter();
        let stores = nodes.filter(|store| store.is_store && store.distance >= node.distance);
        let store = stores.min_by_key(|store| store.distance)?;
        store.address.checked_add(INSTRUCTION_SIZE)
    }

    /// The places where control leaves: behind the stores, and where a path begins that leads to
    /// none. `None` where there is no store, or too many places.
    fn ends(&self) -> Option<Ends> {
        let mut ends = Ends::EMPTY;
        let nodes = &self.nodes[..self.count];
        for store in nodes.iter().filter(|node| node.is_store) {
            ends.add(store.address.checked_add(INSTRUCTION_SIZE)?)?;
        }
        let first = nodes.first()?;
        if ends.count == 0 || !first.reaches_store {
            return None;
        }
        let inside = nodes.iter().filter(|node| node.reaches_store);
        for address in inside.flat_map(|node| node.next.into_iter().flatten()) {
            let goes_on = self.node(address).is_some_and(|node| node.reaches_store);
            if !goes_on && address != self.load {
                ends.add(address)?;
            }
        }
        Some(ends)
    }
}

/// Where control goes after the instruction at `address`, and whether that is a store-exclusive.
fn successors(
    address: Gva,
    fetch: &mut impl FnMut(Gva) -> Option<u32>,
) -> ([Option<Gva>; 2], bool) {
    let Some(instruction) = fetch(address) else {
        return ([None; 2], false);
    };
    match classify(instruction) {
        Class::StoreExclusive => return ([None; 2], true),
        // The reservation is dropped, or replaced by another.
        Class::ClearExclusive | Class::LoadExclusive => return ([None; 2], false),
        _ if leaves_for_unknown(instruction) => return ([None; 2], false),
        _ => {}
    }
    let behind = address.checked_add(INSTRUCTION_SIZE);
    let target = branch_offset(instruction).map(|bytes| Gva(address.0.wrapping_add_signed(bytes)));
    match classify(instruction) {
        Class::DirectBranch => ([target, None], false),
        _ => ([behind, target], false),
    }
}

/// The same where the vCPU has trapped at the instruction. If that is the store of a sequence, the trap has cleared the
/// monitor and the store fails: it runs together with the branch behind it, which leads back to the load, until that lets
/// pass.
pub fn step_plan_after_trap(pc: Gva, mut fetch: impl FnMut(Gva) -> Option<u32>) -> StepPlan {
    let instruction = |word: Option<u32>| word.map(classify);
    if instruction(fetch(pc)) != Some(Class::StoreExclusive) {
        return step_plan(pc, fetch);
    }
    let after = Gva(pc.0.wrapping_add(INSTRUCTION_SIZE));
    let retries = fetch(after).and_then(branch_offset).is_some();
    let end = if retries {
        Gva(after.0.wrapping_add(INSTRUCTION_SIZE))
    } else {
        after
    };
    let mut ends = Ends::EMPTY;
    match ends.add(end) {
        Some(()) => StepPlan::Sequence { ends },
        None => StepPlan::Single,
    }
}

/// Whether control can come to `address` from a load-exclusive and go on to its store-exclusive: a probe there would keep
/// the guest's loop from ever ending. Returns the address behind that store. The load itself is not inside: what stops
/// there steps the whole sequence.
pub fn exclusive_sequence_around(
    address: Gva,
    mut fetch: impl FnMut(Gva) -> Option<u32>,
) -> Option<Gva> {
    let near = (-NEIGHBOURHOOD..NEIGHBOURHOOD).filter_map(|index| {
        let bytes = index * INSTRUCTION_SIZE as i64;
        address.0.checked_add_signed(bytes).map(Gva)
    });
    for load in near {
        if fetch(load).map(classify) != Some(Class::LoadExclusive) {
            continue;
        }
        let mut paths = Paths::from(load, &mut fetch);
        if paths.node(address).is_none() {
            continue;
        }
        paths.find_stores();
        if let Some(behind) = paths.behind_store_after(address) {
            return Some(behind);
        }
    }
    None
}

/// Whether an instruction goes where the code alone does not tell: exception generation (Arm ARM
/// C4.1.66, `11010100…`) and branches by register (`1101011…`: BR, BLR, RET, ERET and their PAC
/// forms).
const fn leaves_for_unknown(instruction: u32) -> bool {
    matches!(instruction >> 24, 0xd4 | 0xd6 | 0xd7)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    const BASE: u64 = 0xffff_8000_8000_1000;
    const NOP: u32 = 0xd503_201f;
    const LDXR: u32 = 0x885f_7c20;
    const STXR: u32 = 0x8803_7c20;
    const RET: u32 = 0xd65f_03c0;

    fn at(index: u64) -> Gva {
        Gva(BASE + index * 4)
    }

    fn fetch(code: &[u32]) -> impl FnMut(Gva) -> Option<u32> {
        move |gva| {
            let index = gva.0.checked_sub(BASE)? / 4;
            code.get(usize::try_from(index).ok()?).copied()
        }
    }

    /// Ends as indices into the code; empty for a single step.
    fn plan(code: &[u32], index: u64) -> Vec<u64> {
        match step_plan(at(index), fetch(code)) {
            StepPlan::Single => Vec::new(),
            StepPlan::Sequence { ends } => ends
                .as_slice()
                .iter()
                .map(|end| end.0.wrapping_sub(BASE) / 4)
                .collect(),
        }
    }

    #[test]
    fn a_store_that_has_trapped_is_tried_again() {
        let plan = |index| step_plan_after_trap(at(index), fetch(&ATOMIC_ADD));
        let StepPlan::Sequence { ends } = plan(3) else {
            panic!("the store alone would fail for ever");
        };
        assert_eq!(ends.as_slice(), [at(5)]);
        assert_eq!(plan(1), step_plan(at(1), fetch(&ATOMIC_ADD)));
        assert_eq!(plan(2), StepPlan::Single);
    }

    /// The indices into the code that are inside of a sequence.
    fn inside(code: &[u32]) -> Vec<u64> {
        (0..code.len() as u64)
            .filter(|index| exclusive_sequence_around(at(*index), fetch(code)).is_some())
            .collect()
    }

    /// Linux' `arch_atomic_add`: prfm; ldxr; add; stxr; cbnz w3, -12.
    const ATOMIC_ADD: [u32; 6] = [0xf980_0031, LDXR, 0x0b02_0000, STXR, 0x35ff_ffa3, NOP];
    /// Linux' `cmpxchg`: ldxr; eor x4; cbnz x4, +16; stlxr w4; cbnz w4, -16.
    const CMPXCHG: [u32; 6] = [
        LDXR,
        0xca05_0004,
        0xb500_0084,
        0xc804_fc26,
        0x35ff_ff84,
        NOP,
    ];

    #[test]
    fn a_retry_loop_ends_after_its_store() {
        assert_eq!(plan(&ATOMIC_ADD, 1), [4]);
        for index in [0, 2, 3, 4, 5] {
            assert_eq!(plan(&ATOMIC_ADD, index), []);
        }
    }

    #[test]
    fn a_way_out_by_any_conditional_branch_is_an_end() {
        assert_eq!(plan(&CMPXCHG, 0), [4, 6]);
        // b.ne +12, tbnz w5 -16.
        assert_eq!(plan(&[LDXR, 0x5400_0061, STXR], 0), [3, 4]);
        assert_eq!(plan(&[NOP, NOP, NOP, LDXR, 0x371f_ff85, STXR], 3), [6, 0]);
        // Both.
        assert_eq!(plan(&[LDXR, 0x5400_00a1, 0x5400_0100, STXR], 0), [4, 6, 10]);
    }

    #[test]
    fn branches_inside_and_to_the_same_place_are_no_ends_of_their_own() {
        // b.eq +8 stays inside; b.eq +8 just before the store leads behind it.
        assert_eq!(plan(&[LDXR, 0x5400_0040, NOP, STXR], 0), [4]);
        assert_eq!(plan(&[LDXR, 0x5400_0040, STXR], 0), [3]);
    }

    #[test]
    fn an_unconditional_branch_out_is_an_end() {
        // ldxr; b.eq +12; clrex; b +16; stxr: the compare failed, so the reservation is dropped.
        let code = [LDXR, 0x5400_0060, 0xd503_3f5f, 0x1400_0004, STXR];
        assert_eq!(plan(&code, 0), [5, 2]);
        // ldxr; b.eq +12; nop; b +16; stxr.
        let code = [LDXR, 0x5400_0060, NOP, 0x1400_0004, STXR];
        assert_eq!(plan(&code, 0), [5, 2]);
    }

    #[test]
    fn a_store_may_be_anywhere() {
        // stxr; cbnz; nop; ldxr; nop; cbz x8, -20; b +40: rustc 1.95 makes such code of a lock.
        let code = [STXR, 0x3500_00a8, NOP, LDXR, NOP, 0xb4ff_ff68, 0x1400_000a];
        assert_eq!(plan(&code, 3), [1, 6]);
        // Behind an unconditional branch.
        assert_eq!(plan(&[LDXR, 0x1400_0002, RET, STXR], 0), [4]);
    }

    #[test]
    fn what_cannot_be_bounded_is_stepped_alone() {
        // No store at all (Linux' `__cmpwait`), ret before it, svc before it, too far away.
        assert_eq!(plan(&[LDXR, 0xca05_0004, 0xb500_0044, 0xd503_205f], 0), []);
        assert_eq!(plan(&[LDXR, RET, STXR], 0), []);
        assert_eq!(plan(&[LDXR, 0xd400_0001, STXR], 0), []);
        let mut far = [NOP; 18];
        far[0] = LDXR;
        far[17] = STXR;
        assert_eq!(plan(&far, 0), []);
        far[16] = STXR;
        assert_eq!(plan(&far, 0), [17]);
        // Four ends.
        let code = [LDXR, 0x5400_0100, 0x5400_0100, 0x5400_0100, STXR];
        assert_eq!(plan(&code, 0), []);
    }

    #[test]
    fn inside_is_after_the_load_up_to_the_store() {
        assert_eq!(inside(&ATOMIC_ADD), [2, 3]);
        assert_eq!(inside(&CMPXCHG), [1, 2, 3]);
        assert_eq!(inside(&[LDXR, RET, STXR]), []);
        let mut far = [NOP; 20];
        far[0] = LDXR;
        far[16] = STXR;
        assert_eq!(inside(&far), (1..=16).collect::<Vec<u64>>());
        // Too many ends to step it as one, and a probe inside still breaks it.
        let code = [LDXR, 0x5400_0100, 0x5400_0100, 0x5400_0100, STXR];
        assert_eq!(inside(&code), [1, 2, 3, 4]);
    }

    #[test]
    fn a_store_before_its_load_is_inside_too() {
        // rustc 1.95 of a lock: stxr; cbnz; nop; ldxr; nop; cbz x8, -20; b +40.
        let code = [STXR, 0x3500_00a8, NOP, LDXR, NOP, 0xb4ff_ff68, 0x1400_000a];
        assert_eq!(inside(&code), [0, 4, 5]);
        let behind = |index| exclusive_sequence_around(at(index), fetch(&code));
        assert_eq!([0, 4, 5].map(behind), [Some(at(1)); 3]);
        // The same with what is unlikely 79 instructions before the load: ldaxrb w8, [x24]; cbz w8, -316.
        let mut far = [NOP; 100];
        far[81] = 0x085f_ff08;
        far[82] = 0x34ff_f628;
        far[3] = 0x0808_7f01;
        assert_eq!(inside(&far), [3, 82]);
        // clang 14 of a compare-and-exchange, its other ways out before it: clrex; mov; cbnz +44; tbnz +44; mov; ldaxr;
        // cmp; b.ne -28; add; stlxr; cbnz -36; mov; cbz -40; ret.
        let code = [
            0xd503_3f5f,
            0x2a1f_03ea,
            0x3500_016a,
            0x3700_0169,
            0x2a09_03e0,
            0x885f_fd09,
            0x6b00_013f,
            0x54ff_ff21,
            0x1100_080a,
            0x880b_fd0a,
            0x35ff_feeb,
            0x5280_002a,
            0x34ff_feea,
            RET,
        ];
        assert_eq!(inside(&code), [6, 7, 8, 9]);
        // What comes between the two in memory, and is never executed between them.
        assert_eq!(inside(&[LDXR, 0x1400_0004, NOP, NOP, RET, STXR]), [1, 5]);
    }

    #[test]
    fn the_ends_of_the_address_space_do_not_matter() {
        let everywhere = |word| move |_: Gva| Some(word);
        for pc in [0, 4, u64::MAX - 3, u64::MAX] {
            assert_eq!(step_plan(Gva(pc), everywhere(LDXR)), StepPlan::Single);
            assert_eq!(exclusive_sequence_around(Gva(pc), everywhere(STXR)), None);
            assert_eq!(exclusive_sequence_around(Gva(pc), everywhere(LDXR)), None);
        }
    }

    proptest! {
        /// Walking the code at random from a load never leaves the sequence but through an end.
        #[test]
        fn every_way_out_is_an_end(
            words in prop::collection::vec(
                prop_oneof![
                    4 => Just(NOP),
                    2 => Just(STXR),
                    1 => Just(RET),
                    // b.eq, cbz, tbz, b within a few instructions.
                    1 => (-12i32..12).prop_map(|n| 0x5400_0000 | (n as u32 & 0x7_ffff) << 5),
                    1 => (-12i32..12).prop_map(|n| 0xb400_0001 | (n as u32 & 0x7_ffff) << 5),
                    1 => (-12i32..12).prop_map(|n| 0x3608_0001 | (n as u32 & 0x3fff) << 5),
                    1 => (-12i32..12).prop_map(|n| 0x1400_0000 | (n as u32 & 0x3ff_ffff)),
                ],
                40,
            ),
            choices in prop::collection::vec(any::<bool>(), 64),
        ) {
            let mut code = words;
            code[12] = LDXR;
            let StepPlan::Sequence { ends } = step_plan(at(12), fetch(&code)) else {
                return Ok(());
            };
            let mut stored = false;
            let mut pc = 12i64;
            for taken in choices {
                let word = code[pc as usize];
                prop_assert!(!stored, "the sequence goes on behind its store");
                prop_assert_ne!(word, RET);
                stored = word == STXR;
                let offset = branch_offset(word).map(|bytes| bytes / 4);
                let always = word >> 26 == 5;
                pc += match offset {
                    Some(offset) if taken || always => offset,
                    _ => 1,
                };
                let gva = Gva((BASE as i64 + pc * 4) as u64);
                if ends.as_slice().contains(&gva) {
                    break;
                }
            }
        }
    }
}
