mod differential;
mod host;
mod messages;
mod reference;

use super::*;
use crate::object::RunError;
use crate::testing::context;
use host::{ExpressionHost, GUEST};

/// Registers as this server's clients count them, as far as tests want them.
pub(super) struct TestRegisters;

impl Registers for TestRegisters {
    fn register(&self, number: u16) -> Option<Register> {
        match number {
            0..=32 => Some(Register::Context {
                word: number as u8,
                bits: 64,
            }),
            33 => Some(Register::Context { word: 33, bits: 32 }),
            34 => Some(Register::Unavailable("v0".into())),
            68 => Some(Register::Machine(3)),
            _ => None,
        }
    }
}

/// One expression.
pub(super) fn expression(code: &[u8], purpose: Purpose) -> Expression<'_> {
    Expression { code, purpose }
}

/// Compiles expressions and runs them.
fn run(expressions: &[Expression<'_>], host: &ExpressionHost) -> Result<u64, RunError> {
    let compiled = compile("test", expressions, &TestRegisters).expect("they should compile");
    let object = compiled.load(1).expect("they should be verified");
    object.programs()[0].run(&context(), host)
}

fn condition(code: &[u8]) -> Result<u64, RunError> {
    let one = [expression(code, Purpose::Condition)];
    run(&one, &ExpressionHost::new())
}

/// `printf` with those values, as GDB writes it: the last value first, then where to print, then the function.
fn printf(format: &[u8], values: &[u64]) -> Vec<u8> {
    let mut code = Vec::new();
    for value in values.iter().rev().chain(&[0, 0]) {
        code.push(Opcode::Const64 as u8);
        code.extend(value.to_be_bytes());
    }
    code.extend([Opcode::Printf as u8, values.len() as u8]);
    code.extend((format.len() as u16 + 1).to_be_bytes());
    code.extend(format);
    code.extend([0, Opcode::End as u8]);
    code
}

#[test]
fn a_condition_is_true_or_false() {
    // x0 == 0x100, as GDB writes `$x0 == 0x100`.
    let code = |low| [0x26, 0, 0, 0x23, 1, low, 0x13, 0x27];
    assert_eq!(condition(&code(0)), Ok(1));
    assert_eq!(condition(&code(1)), Ok(0));
}

/// What a breakpoint costs that is not hit: a load, a comparison, and what is around them.
#[test]
fn a_short_condition_is_a_short_program() {
    let code = [0x26, 0, 0, 0x23, 1, 1, 0x13, 0x27];
    let one = [expression(&code, Purpose::Condition)];
    let compiled = compile("test", &one, &TestRegisters).unwrap();
    assert_eq!(compiled.linked().programs[0].insns.len(), 11);
}

#[test]
fn the_first_true_condition_decides() {
    let [truth, lie] = [[0x22, 7, 0x27], [0x22, 0, 0x27]];
    // Address 0 cannot be read.
    let bad = [0x22, 0, 0x17, 0x27];
    let all = |codes: &[&[u8]]| {
        let expressions: Vec<_> = codes
            .iter()
            .map(|code| expression(code, Purpose::Condition))
            .collect();
        run(&expressions, &ExpressionHost::new())
    };
    assert_eq!(all(&[&lie, &truth]), Ok(1));
    assert_eq!(all(&[&lie, &lie]), Ok(0));
    assert_eq!(all(&[&truth, &bad]), Ok(1));
    let error = all(&[&lie, &bad]).unwrap_err();
    assert_eq!(
        alloc::format!("{error}"),
        "ref8 at offset 2 of expression 2: cannot read 1 byte at 0x0"
    );
}

#[test]
fn commands_run_where_a_condition_is_true_and_go_on() {
    let host = ExpressionHost::new();
    let [truth, lie] = [[0x22, 1, 0x27], [0x22, 0, 0x27]];
    let [one, two] = [printf(b"one %d\\n", &[1]), printf(b"two", &[])];
    let commands = [
        expression(&one, Purpose::Command),
        expression(&two, Purpose::Command),
    ];
    let with = |condition| {
        let mut all = Vec::from(commands);
        all.push(expression(condition, Purpose::Condition));
        run(&all, &host)
    };
    assert_eq!(with(&lie), Ok(0));
    assert!(host.log().is_empty());
    assert_eq!(with(&truth), Ok(0));
    assert_eq!(run(&commands, &host), Ok(0));
    let lines = host.log();
    assert_eq!(
        lines,
        ["print one 1\n", "print two", "print one 1\n", "print two"]
    );
}

#[test]
fn texts_are_printed_as_in_c() {
    let host = ExpressionHost::new();
    let text = GUEST + 8;
    let minus = u64::MAX;
    let cases: &[(&[u8], &[u64], &str)] = &[
        (b"%d %i %u", &[minus, 7, minus], "-1 7 4294967295"),
        (
            b"%ld %lu %lld",
            &[minus, minus, 1 << 63],
            "-1 18446744073709551615 -9223372036854775808",
        ),
        (
            b"%zu %jd %hd %hhu",
            &[9, minus, 0x1_ffff, 0x1ff],
            "9 -1 -1 255",
        ),
        (
            b"%x %X %#x %#lx %#x",
            &[10, 10, 10, 1 << 40, 0],
            "a A 0xa 0x10000000000 0",
        ),
        (b"%o %#o %#o", &[8, 8, 0], "10 010 0"),
        (
            b"[%5d|%-5d|%05d|%+d|% d]",
            &[42, 42, 42, 42, 42],
            "[   42|42   |00042|+42| 42]",
        ),
        (
            b"[%.3d|%6.3d|%06.3d|%.0d|%'d]",
            &[7, 7, 7, 0, 1000],
            "[007|   007|   007||1000]",
        ),
        (b"%p %p [%6p]", &[0xabc, 0, 0], "0xabc (nil) [ (nil)]"),
        (b"%c%c", &[b'o'.into(), b'k'.into()], "ok"),
        (
            b"%s [%.2s] [%6s] [%-6s] %s",
            &[text, text, text, text, 0],
            "swapper [sw] [swapper] [swapper] (null)",
        ),
        (b"100%% \\t\\\"\\\\ \\a", &[], "100% \t\"\\ \u{7}"),
    ];
    for (format, values, expected) in cases {
        host.forget();
        let code = printf(format, values);
        assert_eq!(run(&[expression(&code, Purpose::Command)], &host), Ok(0));
        let expected = alloc::format!("print {expected}");
        assert_eq!(host.log(), [expected]);
    }
}

/// A loop, as the manual says that backward jumps make one: the sum of 1 to 10.
#[test]
fn jumps_lead_back() {
    let looped = [
        0x22, 10, // 0: count
        0x22, 0, // 2: sum
        0x32, 1, 0x02, // 4: pick 1, add: count sum
        0x2b, 0x22, 1, 0x03, 0x2b, // 7: swap, -1, swap
        0x32, 1, 0x20, 0, 4, // 12: pick 1, if_goto 4
        0x22, 55, 0x13, 0x27, // 17: sum == 55
    ];
    assert_eq!(condition(&looped), Ok(1));
}
