use super::*;

const GIVEN: Arguments = [1, 2, 3, 4, 5, 6, 7, 8];
const FRAME: Frame = Frame {
    task: 7,
    sp: 0x8000,
};
/// Where the call of the tests returns to.
const BEHIND: u64 = 0xffff_8000_8001_0004;
/// In the function itself.
const INSIDE: u64 = 0xffff_8000_8002_0010;

fn pairing(has_tail_calls: bool) -> Pairing {
    let pairing = Pairing::new(4, Keep::Arguments);
    pairing.reset(Function {
        extent: 0xffff_8000_8002_0000..0xffff_8000_8002_0100,
        has_tail_calls,
        // 48-bit addresses in both halves.
        signature: Signature::from_tcr(16 | 16 << 16),
    });
    pairing
}

/// What leaving gives: with the time of a call come its arguments.
fn left(since_ns: Option<u64>, missed: u64) -> Left {
    Left {
        since_ns,
        arguments: since_ns.map(|_| GIVEN),
        missed,
    }
}

#[test]
fn signatures_are_stripped() {
    let signature = Signature::from_tcr(16 | 16 << 16);
    for (address, stripped) in [
        (0xffff_8000_8001_0004, 0xffff_8000_8001_0004),
        (0x12b7_8000_8001_0004, 0xffff_8000_8001_0004),
        (0x0000_0000_4020_0000, 0x0000_0000_4020_0000),
        (0x5a47_0000_4020_0000, 0x0000_0000_4020_0000),
    ] {
        assert_eq!(signature.strip(address), stripped, "{address:#x}");
    }
    // 52-bit addresses: what a signature leaves alone is longer.
    let large = Signature::from_tcr(12 << 16);
    assert_eq!(large.strip(0xabff_8000_8001_0004), 0xffff_8000_8001_0004);
    // The MMU has never been on.
    assert_eq!(Signature::from_tcr(0).strip(u64::MAX >> 1), u64::MAX >> 1);
}

#[test]
fn a_call_returns_once() {
    let pairing = pairing(false);
    // x30 is signed already where the site is behind a PACIASP.
    let entered = pairing.enter(FRAME, 0x12b7_8000_8001_0004, &GIVEN, 100);
    assert_eq!(entered, Entered::default());
    assert_eq!(pairing.leave(FRAME, BEHIND), left(Some(100), 0));
    assert_eq!(pairing.leave(FRAME, BEHIND), left(None, 0));
}

#[test]
fn a_subroutine_within_the_function_is_no_return() {
    let pairing = pairing(false);
    pairing.enter(FRAME, BEHIND, &GIVEN, 100);
    assert_eq!(pairing.leave(FRAME, INSIDE), left(None, 0));
    // The guest's own return probe has replaced the address.
    assert_eq!(
        pairing.leave(FRAME, 0xffff_8000_8100_0000),
        left(Some(100), 0)
    );
    // Recursion returns into the function too.
    pairing.enter(FRAME, INSIDE, &GIVEN, 200);
    assert_eq!(pairing.leave(FRAME, INSIDE), left(Some(200), 0));
}

#[test]
fn behind_a_call_only_what_is_watched_returns() {
    let pairing = pairing(true);
    let first = Entered {
        missed: 0,
        wants_site: true,
    };
    assert_eq!(pairing.enter(FRAME, BEHIND, &GIVEN, 100), first);
    assert_eq!(pairing.wanted(), [Gva(BEHIND)]);
    pairing.armed(Gva(BEHIND));
    assert!(!pairing.wants_sites());
    // The first call began before anybody watched there.
    assert_eq!(pairing.arrive(FRAME, Gva(BEHIND)), left(None, 1));
    assert_eq!(
        pairing.enter(FRAME, BEHIND, &GIVEN, 200),
        Entered::default()
    );
    assert_eq!(pairing.arrive(FRAME, Gva(BEHIND)), left(Some(200), 0));
    assert_eq!(pairing.arrive(FRAME, Gva(BEHIND)), left(None, 0));
    // A call that has returned by a return instruction does not return again.
    pairing.enter(FRAME, BEHIND, &GIVEN, 300);
    assert_eq!(pairing.leave(FRAME, BEHIND), left(Some(300), 0));
    assert_eq!(pairing.arrive(FRAME, Gva(BEHIND)), left(None, 0));
}

#[test]
fn a_place_that_cannot_be_armed_is_wanted_once() {
    let pairing = pairing(true);
    assert!(pairing.enter(FRAME, BEHIND, &GIVEN, 100).wants_site);
    pairing.refused(Gva(BEHIND));
    assert!(!pairing.wants_sites());
    let again = Entered {
        missed: 1,
        wants_site: false,
    };
    assert_eq!(pairing.enter(FRAME, BEHIND, &GIVEN, 200), again);
}

#[test]
fn so_many_places_and_no_more() {
    let pairing = pairing(true);
    let capacity = pairing.0.lock().sites.capacity();
    for caller in 0..2 * MAX_RETURN_SITES as u64 {
        let wants = pairing
            .enter(FRAME, 0x1000 + 4 * caller, &GIVEN, 0)
            .wants_site;
        assert_eq!(wants, caller < MAX_RETURN_SITES as u64);
    }
    assert_eq!(pairing.wanted().len(), MAX_RETURN_SITES);
    assert_eq!(pairing.0.lock().sites.capacity(), capacity);
}
