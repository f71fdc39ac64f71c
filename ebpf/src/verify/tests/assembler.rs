//! Programs as text, in the syntax of [`crate::insn::Text`] (`llvm-objdump`'s), with labels.
//!
//! One instruction a line; `#` begins a comment. `name:` on a line of its own is a label, which
//! jumps and calls may name instead of a distance: `if r1 == 0 goto out`, `call function`.

use crate::helper::Helper;
use crate::insn::{
    CALL, EXIT, Insn, LD_IMM64, PSEUDO_CALL, PSEUDO_FUNCTION, PSEUDO_MAP, PSEUDO_MAP_VALUE, X, alu,
    atomic, class, jmp, mode, size,
};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

/// Assembles a program; an error names the line.
pub(crate) fn assemble(text: &str) -> Result<Vec<Insn>, String> {
    let mut insns = Vec::new();
    let mut labels = BTreeMap::new();
    let mut jumps = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or("").trim();
        if line.is_empty() {
            continue;
        }
        if let Some(label) = line.strip_suffix(':') {
            labels.insert(label.to_string(), insns.len());
            continue;
        }
        let tokens: Vec<&str> = line.split_whitespace().collect();
        let parsed = parse(&tokens).ok_or_else(|| format!("what is {line:?}?"))?;
        if let Some(label) = parsed.label {
            jumps.push((insns.len(), label));
        }
        insns.extend(parsed.insns);
    }
    for (index, label) in jumps {
        let target = *labels
            .get(&label)
            .ok_or_else(|| format!("no label {label:?}"))?;
        let distance = target as i32 - index as i32 - 1;
        let insn: &mut Insn = &mut insns[index];
        if insn.code == CALL || insn.code == class::JMP32 || insn.is_wide() {
            insn.imm = distance;
        } else {
            insn.off = i16::try_from(distance).map_err(|_| format!("{label:?} is too far"))?;
        }
    }
    Ok(insns)
}

struct Parsed {
    insns: Vec<Insn>,
    label: Option<String>,
}

impl From<Insn> for Parsed {
    fn from(insn: Insn) -> Self {
        Self {
            insns: vec![insn],
            label: None,
        }
    }
}

const NONE: Insn = Insn {
    code: 0,
    dst: 0,
    src: 0,
    off: 0,
    imm: 0,
};

fn parse(tokens: &[&str]) -> Option<Parsed> {
    match tokens {
        ["exit"] => Some(Insn { code: EXIT, ..NONE }.into()),
        ["goto", target] => jump(class::JMP, NONE, target),
        ["gotol", target] => jump(class::JMP32, NONE, target),
        ["call", name] => call(name),
        ["if", left, operator, right, "goto", target] => condition(left, operator, right, target),
        ["lock", place @ .., operator, source] => locked(place, operator, source),
        [_, "=", first, rest @ ..] if first.contains('(') && !first.starts_with(['*', '(']) => {
            let all: Vec<&str> = core::iter::once(first).chain(rest).copied().collect();
            fetching(&all)
        }
        [left, "=", place @ ..] if place.first()?.starts_with('*') => load(left, place),
        [place @ .., "=", value] if place.first()?.starts_with('*') => store(place, value),
        [left, "=", value, "ll"] => wide(left, value, 0),
        [left, "=", map, "+", offset, "ll"] => wide(left, map, number(offset)?),
        [left, "=", operation, right]
            if ["be", "le", "bswap"]
                .iter()
                .any(|s| operation.starts_with(s)) =>
        {
            swap(left, operation, right)
        }
        [left, operator, right] => arithmetic(left, operator, right),
        _ => None,
    }
}

/// A decimal or hexadecimal number, as `i32` bits.
fn number(text: &str) -> Option<i32> {
    let wide = number64(text)? as i64;
    i32::try_from(wide)
        .ok()
        .or_else(|| u32::try_from(wide).ok().map(|value| value as i32))
}

fn number64(text: &str) -> Option<u64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let value = match digits.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok()?,
        None => digits.parse().ok()?,
    };
    Some(if negative {
        value.wrapping_neg()
    } else {
        value
    })
}

/// `r1` or `w1`: the register's number, and the letter.
fn register(text: &str) -> Option<(u8, char)> {
    let letter = text
        .chars()
        .next()
        .filter(|letter| "rw".contains(*letter))?;
    let number = text[1..].parse().ok().filter(|&number| number <= 15)?;
    Some((number, letter))
}

fn with_operand(insn: Insn, text: &str) -> Option<Insn> {
    match register(text) {
        Some((src, _)) => Some(Insn {
            code: insn.code | X,
            src,
            ..insn
        }),
        None => Some(Insn {
            imm: number(text)?,
            ..insn
        }),
    }
}

fn jump(class: u8, insn: Insn, target: &str) -> Option<Parsed> {
    let insn = Insn {
        code: insn.code | class,
        ..insn
    };
    let Some(distance) = number(target) else {
        return Some(Parsed {
            insns: vec![insn],
            label: Some(target.to_string()),
        });
    };
    let is_long = insn.code == class::JMP32;
    Some(Parsed::from(Insn {
        off: if is_long { 0 } else { distance as i16 },
        imm: if is_long { distance } else { insn.imm },
        ..insn
    }))
}

fn call(name: &str) -> Option<Parsed> {
    let insn = Insn { code: CALL, ..NONE };
    if let Some(helper) = Helper::ALL.iter().find(|helper| helper.name() == name) {
        return Some(
            Insn {
                imm: *helper as i32,
                ..insn
            }
            .into(),
        );
    }
    let insn = Insn {
        src: PSEUDO_CALL,
        ..insn
    };
    match number(name) {
        Some(imm) => Some(Insn { imm, ..insn }.into()),
        None => Some(Parsed {
            insns: vec![insn],
            label: Some(name.to_string()),
        }),
    }
}

fn condition(left: &str, operator: &str, right: &str, target: &str) -> Option<Parsed> {
    let operation = match operator {
        "==" => jmp::JEQ,
        ">" => jmp::JGT,
        ">=" => jmp::JGE,
        "&" => jmp::JSET,
        "!=" => jmp::JNE,
        "s>" => jmp::JSGT,
        "s>=" => jmp::JSGE,
        "<" => jmp::JLT,
        "<=" => jmp::JLE,
        "s<" => jmp::JSLT,
        "s<=" => jmp::JSLE,
        _ => return None,
    };
    let (dst, letter) = register(left)?;
    let class = if letter == 'r' {
        class::JMP
    } else {
        class::JMP32
    };
    let insn = Insn {
        code: operation,
        dst,
        ..NONE
    };
    jump(class, with_operand(insn, right)?, target)
}

/// `*(u64 *)(r1 + 8)`, whatever the spaces: size bits, whether signed, base, offset.
fn place(tokens: &[&str]) -> Option<(u8, bool, u8, i16)> {
    let text = tokens.concat();
    let inner = text.strip_prefix("*(")?.strip_suffix(')')?;
    let (kind, address) = inner.split_once("*)(")?;
    let size = match &kind[1..] {
        "8" => size::B,
        "16" => size::H,
        "32" => size::W,
        "64" => size::DW,
        _ => return None,
    };
    let split = address.find(['+', '-']).unwrap_or(address.len());
    let (base, offset) = address.split_at(split);
    let offset = if offset.is_empty() {
        0
    } else {
        number(offset)?
    };
    Some((
        size,
        kind.starts_with('s'),
        register(base)?.0,
        i16::try_from(offset).ok()?,
    ))
}

fn load(left: &str, tokens: &[&str]) -> Option<Parsed> {
    let (size, is_signed, src, off) = place(tokens)?;
    let mode = if is_signed { mode::MEMSX } else { mode::MEM };
    Some(
        Insn {
            code: class::LDX | mode | size,
            dst: register(left)?.0,
            src,
            off,
            imm: 0,
        }
        .into(),
    )
}

fn store(tokens: &[&str], value: &str) -> Option<Parsed> {
    let (size, _, dst, off) = place(tokens)?;
    let insn = match register(value) {
        Some((src, _)) => Insn {
            code: class::STX | mode::MEM | size,
            src,
            ..NONE
        },
        None => Insn {
            code: class::ST | mode::MEM | size,
            imm: number(value)?,
            ..NONE
        },
    };
    Some(Insn { dst, off, ..insn }.into())
}

fn atomic_operation(name: &str) -> Option<i32> {
    Some(match name {
        "+=" | "add" => atomic::ADD,
        "|=" | "or" => atomic::OR,
        "&=" | "and" => atomic::AND,
        "^=" | "xor" => atomic::XOR,
        _ => return None,
    })
}

fn atomic_insn(tokens: &[&str], source: &str, imm: i32) -> Option<Parsed> {
    let (size, _, dst, off) = place(tokens)?;
    Some(
        Insn {
            code: class::STX | mode::ATOMIC | size,
            dst,
            src: register(source)?.0,
            off,
            imm,
        }
        .into(),
    )
}

/// `lock *(u64 *)(r1 + 0) += r2`; [`crate::insn::Text`] writes `add=`.
fn locked(tokens: &[&str], operator: &str, source: &str) -> Option<Parsed> {
    let name = operator.strip_suffix('=').filter(|name| name.len() > 1);
    atomic_insn(tokens, source, atomic_operation(name.unwrap_or(operator))?)
}

/// `r2 = atomic_fetch_add(*(u64 *)(r1 + 0), r2)`, `xchg(…)`, `cmpxchg(…, r0, r2)`.
fn fetching(tokens: &[&str]) -> Option<Parsed> {
    let text = tokens.concat();
    let (name, arguments) = text.strip_suffix(')')?.split_once('(')?;
    let mut arguments = arguments.split(',');
    let place = arguments.next()?;
    let source = arguments.next_back()?;
    let imm = match name {
        "xchg" => atomic::XCHG,
        "cmpxchg" => atomic::CMPXCHG,
        _ => atomic_operation(name.strip_prefix("atomic_fetch_")?)? | atomic::FETCH,
    };
    atomic_insn(&[place], source, imm)
}

fn wide(left: &str, value: &str, offset: i32) -> Option<Parsed> {
    let (dst, _) = register(left)?;
    let function = value.strip_prefix("subprog[");
    if let Some(target) = function.and_then(|rest| rest.strip_suffix(']')) {
        let distance = number(target);
        let first = Insn {
            code: LD_IMM64,
            dst,
            src: PSEUDO_FUNCTION,
            off: 0,
            imm: distance.unwrap_or(0),
        };
        return Some(Parsed {
            insns: vec![first, NONE],
            label: distance.is_none().then(|| target.to_string()),
        });
    }
    let index = value
        .strip_prefix("map[")
        .and_then(|rest| rest.split_once(']'));
    let (src, low, high) = match index {
        Some((index, "")) => (PSEUDO_MAP, number(index)?, 0),
        Some((index, "[0]")) => (PSEUDO_MAP_VALUE, number(index)?, offset),
        Some(_) => return None,
        None => {
            let value = number64(value)?;
            (0, value as i32, (value >> 32) as i32)
        }
    };
    let first = Insn {
        code: LD_IMM64,
        dst,
        src,
        off: 0,
        imm: low,
    };
    Some(Parsed {
        insns: vec![first, Insn { imm: high, ..NONE }],
        label: None,
    })
}

fn swap(left: &str, operation: &str, right: &str) -> Option<Parsed> {
    let bits = operation.trim_start_matches(|c: char| c.is_ascii_alphabetic());
    let code = match operation.strip_suffix(bits)? {
        "be" => class::ALU | alu::END | X,
        "le" => class::ALU | alu::END,
        "bswap" => class::ALU64 | alu::END,
        _ => return None,
    };
    let (dst, _) = register(left)?;
    let same = register(right)?.0 == dst;
    same.then_some(
        Insn {
            code,
            dst,
            imm: number(bits)?,
            ..NONE
        }
        .into(),
    )
}

fn arithmetic(left: &str, operator: &str, right: &str) -> Option<Parsed> {
    let (dst, letter) = register(left)?;
    let class = if letter == 'r' {
        class::ALU64
    } else {
        class::ALU
    };
    let (operation, off) = match operator {
        "+=" => (alu::ADD, 0),
        "-=" => (alu::SUB, 0),
        "*=" => (alu::MUL, 0),
        "/=" => (alu::DIV, 0),
        "s/=" => (alu::DIV, 1),
        "|=" => (alu::OR, 0),
        "&=" => (alu::AND, 0),
        "<<=" => (alu::LSH, 0),
        ">>=" => (alu::RSH, 0),
        "%=" => (alu::MOD, 0),
        "s%=" => (alu::MOD, 1),
        "^=" => (alu::XOR, 0),
        "s>>=" => (alu::ARSH, 0),
        "=" => (alu::MOV, 0),
        _ => return None,
    };
    let insn = Insn {
        code: class | operation,
        dst,
        off,
        ..NONE
    };
    let negated = right.strip_prefix('-').and_then(register);
    if operator == "=" && negated.is_some() {
        let is_same = negated?.0 == dst;
        return is_same.then_some(
            Insn {
                code: class | alu::NEG,
                ..insn
            }
            .into(),
        );
    }
    if let Some((bits, source)) = right
        .strip_prefix("(s")
        .and_then(|rest| rest.split_once(')'))
    {
        let insn = Insn {
            off: bits.parse().ok()?,
            ..insn
        };
        return Some(with_operand(insn, source)?.into());
    }
    Some(with_operand(insn, right)?.into())
}

#[test]
fn what_is_written_is_read() {
    use crate::insn::Text;
    let text = "r1 = 5\nw2 = w3\nr1 s/= r2\nr4 = (s8)r5\nw1 = -w1\nr1 = be16 r1\nr1 = 0xdeadbeef00000001 ll
        r1 = map[2] ll\nr2 = subprog[+6] ll\nr1 = map[1][0] + 8 ll\nr0 = *(s32 *)(r1 - 4)\n*(u8 *)(r10 - 1) = 7
        *(u64 *)(r10 - 8) = r1\nlock *(u32 *)(r1 + 0) xor= r2\nr2 = atomic_fetch_add(*(u64 *)(r1 + 0), r2)
        r3 = xchg(*(u64 *)(r1 + 0), r3)\nr0 = cmpxchg(*(u32 *)(r1 + 4), r0, r2)\nif w1 s<= -3 goto +0
        if r1 & r2 goto +2\ngoto +1\ngotol -1\ncall map_lookup_elem\ncall +2\nexit";
    let insns = assemble(text).expect("it is well-formed");
    let mut index = 0;
    for line in text.lines() {
        assert_eq!(Text::new(&insns, index).to_string(), line.trim());
        index += if insns[index].is_wide() { 2 } else { 1 };
    }
    assert_eq!(index, insns.len());
}
