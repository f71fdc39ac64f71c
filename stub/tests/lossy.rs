//! A channel that loses bytes and delivers some twice, both ways, under the rules of acknowledgement (GDB manual, E.11
//! "Packet Acknowledgment"): each side sends again what did not arrive whole.

mod support;

use stub::Endpoint;
use support::{Bench, DATA, ENTRY, Wire, all_of, frame, le};

/// Of so many pieces, a byte of one is lost and a byte of another comes twice.
const RATE: u32 = 5;
/// How often a client sends a packet before it gives up.
const TRIES: usize = 50;

/// Numbers that look random and are the same every time (xorshift, Marsaglia 2003).
struct Random(u32);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }

    /// What arrives of these bytes. One of them at most is lost or comes twice: a sum of bytes does not tell where in a
    /// packet they stood, so it does not see that a digit was lost in one place and came twice in another.
    fn damage(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut arrived = bytes.to_vec();
        let at = self.next() as usize % bytes.len().max(1);
        match self.next() % RATE {
            0 if !bytes.is_empty() => drop(arrived.remove(at)),
            1 if !bytes.is_empty() => arrived.insert(at, bytes[at]),
            _ => {}
        }
        arrived
    }
}

/// A client that asks one thing at a time.
struct Client {
    bench: Bench,
    random: Random,
    /// How many packets were sent, in all tries.
    sent: usize,
    /// How many replies were asked for again.
    refused: usize,
}

impl Client {
    fn new(seed: u32) -> Self {
        let mut bench = Bench::new(1);
        bench.session.opened();
        Self {
            bench,
            random: Random(seed),
            sent: 0,
            refused: 0,
        }
    }

    /// Sends through the channel and returns what comes back through it.
    fn exchange(&mut self, bytes: &[u8]) -> Vec<u8> {
        let arrived = self.random.damage(bytes);
        self.bench.session.receive(&arrived);
        let mut wire = Wire::default();
        self.bench.session.flush(&mut wire);
        self.random.damage(&wire.0)
    }

    /// Asks until there is a whole answer. What comes late of an earlier answer is read before.
    fn ask(&mut self, body: &str) -> String {
        for _ in 0..TRIES {
            self.exchange(b"+");
            self.sent += 1;
            let mut received = self.exchange(&frame(body));
            // A reply that is damaged is asked for again, as long as the server has it.
            for _ in 0..TRIES {
                if let Some(body) = whole(&received) {
                    return body;
                }
                if !received.contains(&b'$') {
                    break;
                }
                self.refused += 1;
                received = self.exchange(b"-");
            }
        }
        panic!("{body} gets no answer");
    }
}

/// The body of the packet in these bytes, if it is whole.
fn whole(bytes: &[u8]) -> Option<String> {
    let start = bytes.iter().rposition(|byte| *byte == b'$')?;
    let text = String::from_utf8(bytes[start + 1..].to_vec()).ok()?;
    let (body, sum) = text.split_once('#')?;
    let expected = body.bytes().fold(0u8, |sum, byte| sum.wrapping_add(byte));
    (sum.get(..2)? == format!("{expected:02x}")).then(|| body.to_string())
}

#[test]
fn everything_arrives_in_the_end() {
    let (mut sent, mut refused) = (0, 0);
    for seed in 1..=20 {
        let mut client = Client::new(seed);
        assert!(client.ask("qSupported:swbreak+").starts_with("PacketSize="));
        for round in 0..50_u64 {
            let value = round.wrapping_mul(0x0123_4567_89ab_cdef);
            assert_eq!(client.ask(&format!("M{DATA:x},8:{}", le(value))), "OK");
            assert_eq!(client.ask(&format!("m{DATA:x},8")), le(value));
            assert_eq!(client.ask(&format!("P0={}", le(value))), "OK");
            assert_eq!(client.ask("p0"), le(value));
            let breakpoint = ENTRY + 4 * (round % 8);
            assert_eq!(client.ask(&format!("Z0,{breakpoint:x},4")), "OK");
            assert_eq!(client.ask(&format!("z0,{breakpoint:x},4")), "OK");
        }
        assert_eq!(client.ask("D"), "OK");
        sent += client.sent;
        refused += client.refused;
    }
    // The channel was as bad as it was meant to be.
    assert!(sent > 20 * 301 + 500, "{sent} packets were sent");
    assert!(refused > 500, "{refused} replies were damaged");
}

#[test]
fn a_reply_is_sent_again_as_often_as_it_is_asked_for() {
    let mut bench = Bench::new(1);
    bench.session.opened();
    let reply = bench.raw(&frame("?"));
    let body = all_of(&reply);
    for _ in 0..100 {
        assert_eq!(all_of(&bench.raw(b"-")), body);
    }
    assert_eq!(bench.raw(b"++--"), "", "what has arrived is forgotten");
}
