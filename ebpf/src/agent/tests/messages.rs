//! What users are told of expressions that are refused, and of those that cannot be evaluated.

use super::{TestRegisters, condition, expression, printf};
use crate::agent::{MAX_LENGTH, Purpose, compile};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;

fn refusal(code: &[u8], purpose: Purpose) -> String {
    let one = [expression(code, purpose)];
    let loaded = compile("test", &one, &TestRegisters).and_then(|compiled| compiled.load(1));
    loaded.expect_err("it should be refused").to_string()
}

#[test]
fn refusals_name_the_bytecode_and_where_it_is() {
    let cases: &[(&[u8], &str)] = &[
        (&[], "it is empty"),
        (&[0x31, 0x27], "no bytecode is 0x31"),
        (&[0x22, 1, 0x31], "at offset 2: no bytecode is 0x31"),
        (
            &[0x01, 0x27],
            "float at offset 0: floating-point numbers cannot be computed with at EL2",
        ),
        (
            &[0x22, 0, 0x1c, 0x27],
            "ref_double at offset 2: floating-point numbers cannot be computed with at EL2",
        ),
        (
            &[0x22, 0, 0x22, 8, 0x0c, 0x27],
            "trace at offset 4: it collects into a trace frame, which a condition has none of",
        ),
        (
            &[0x24, 1, 2, 3],
            "const32 at offset 0: the expression is cut off behind it",
        ),
        (
            &[0x22, 1],
            "const8 at offset 0: the expression is cut off behind it",
        ),
        (
            &[0x22, 1, 0x02, 0x27],
            "add at offset 2: it wants 2 values and there are 1",
        ),
        (
            &[0x22, 1, 0x32, 1, 0x27],
            "pick at offset 2: it wants 2 values and there are 1",
        ),
        (
            &[0x27],
            "end at offset 0: it wants 1 values and there are 0",
        ),
        (
            &[0x22, 1, 0x20, 0, 9, 0x27],
            "if_goto at offset 2: it jumps to offset 9, where no bytecode begins",
        ),
        (
            &[0x22, 0x27, 0x22, 1, 0x20, 0, 1, 0x27],
            "if_goto at offset 4: it jumps to offset 1, where no bytecode begins",
        ),
        (
            &[0x22, 1, 0x21, 0, 0],
            "const8 at offset 0: one way there leaves 0 values and another one 1",
        ),
        (
            &[0x26, 1, 0, 0x27],
            "reg at offset 0: there is no register 256",
        ),
        (
            &[0x26, 0, 34, 0x27],
            "reg at offset 0: v0 cannot be read where expressions run: x0 to x30, sp, pc, cpsr and \
             the system registers of EL1 can",
        ),
    ];
    for (code, expected) in cases {
        let expected = format!("the condition cannot be compiled: {expected}");
        assert_eq!(refusal(code, Purpose::Condition), expected, "{code:x?}");
    }
}

#[test]
fn a_jump_that_never_ends_is_refused() {
    let text = refusal(&[0x21, 0, 0], Purpose::Command);
    assert!(
        text.starts_with("the command cannot be compiled: goto at offset 0: "),
        "{text}"
    );
}

#[test]
fn there_are_limits() {
    let long = vec![0x27; MAX_LENGTH + 1];
    assert!(refusal(&long, Purpose::Command).ends_with("it is longer than 4096 bytes"));
    let mut deep = [0x22, 1].repeat(57);
    deep.push(0x27);
    assert_eq!(
        refusal(&deep, Purpose::Condition),
        "the condition cannot be compiled: const8 at offset 112: there would be more than 56 values"
    );
    deep.drain(..2);
    assert_eq!(condition(&deep), Ok(1));
    let many = vec![expression(&[0x22, 0, 0x27], Purpose::Condition); 65];
    let refused = compile("test", &many, &TestRegisters).unwrap_err();
    assert!(refused.to_string().contains("more than 64 expressions"));
}

#[test]
fn formats_that_cannot_be_printed_are_refused() {
    let cases: &[(&[u8], &[u64], &str)] = &[
        (
            b"%f",
            &[1],
            "%f is for floating-point numbers, which cannot be computed with at EL2",
        ),
        (
            b"%ls",
            &[1],
            "%ls is for wide characters, which a kernel has none of",
        ),
        (b"%n", &[1], "n is no conversion here"),
        (b"%hs", &[1], "s is no conversion here"),
        (b"%*d", &[1, 1], "* is no conversion here"),
        (b"%5", &[1], "its text ends in the middle of a conversion"),
        (b"%d %d", &[1], "its text prints 2 values and it has 1"),
        (b"\\q", &[], "\\q is no escape"),
        (b"a\0b", &[], "its text does not end with its only NUL"),
        (&[b'x'; 512], &[], "its text has 512 bytes or more"),
    ];
    for (format, values, expected) in cases {
        let code = printf(format, values);
        let offset = 9 * (values.len() + 2);
        let expected =
            format!("the command cannot be compiled: printf at offset {offset}: {expected}");
        assert_eq!(refusal(&code, Purpose::Command), expected);
    }
    let many = printf(&b"%d".repeat(33), &[0; 33]);
    assert!(refusal(&many, Purpose::Command).ends_with("at most 32 are possible"));
}

#[test]
fn evaluation_errors_say_which_and_where() {
    let cases: &[(&[u8], &str)] = &[
        (
            &[0x22, 16, 0x1a, 0x27],
            "ref64 at offset 2: cannot read 8 bytes at 0x10",
        ),
        (
            &[0x22, 1, 0x22, 0, 0x05, 0x27],
            "div_signed at offset 4: the divisor is 0",
        ),
        (
            &[0x22, 1, 0x26, 0, 0, 0x28, 0x03, 0x08, 0x27],
            "rem_unsigned at offset 7: the divisor is 0",
        ),
        (
            &[0x2c, 0, 9, 0x27],
            "getv at offset 0: there is no trace state variable 9",
        ),
    ];
    for (code, expected) in cases {
        assert_eq!(condition(code).unwrap_err().to_string(), *expected);
    }
}
