//! What GDB's `printf` and `dprintf` print (GDB manual, 23.4 "Commands for Controlled Output"): the formats of C, without `*`,
//! `%n`, and the conversions of floating-point numbers and wide characters. No allocation; the output is cut at
//! [`MAX_PRINT`] bytes.

use super::MAX_PRINT;
use super::call::read;
use super::expression::evaluation;
use super::format::{Conversion, Field, LOWER, Length, Line, UPPER, take};
use super::print::{COST, Format};
use super::read::Reachable;
use crate::object::{EvaluationError, RunFault};
use crate::run::Run;
use core::fmt;

/// Why nothing can be printed by a format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadFormat {
    /// It does not end with its only NUL.
    NoEnd,
    /// It has [`MAX_PRINT`] bytes or more.
    TooLong,
    /// A backslash before this.
    Escape(u8),
    /// It ends in the middle of a conversion.
    CutOff,
    /// A conversion of a floating-point number.
    FloatingPoint(u8),
    /// A conversion of wide characters.
    Wide(u8),
    /// No conversion, or one that does not go with the length before it.
    Conversion(u8),
    /// It prints another number of values than there are.
    Values {
        /// How many it prints.
        wanted: usize,
        /// How many there are.
        values: usize,
    },
}

impl fmt::Display for BadFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |byte: &u8| core::ascii::escape_default(*byte);
        match self {
            Self::NoEnd => f.write_str("its text does not end with its only NUL"),
            Self::TooLong => write!(f, "its text has {MAX_PRINT} bytes or more"),
            Self::Escape(byte) => write!(f, "\\{} is no escape", shown(byte)),
            Self::CutOff => f.write_str("its text ends in the middle of a conversion"),
            Self::FloatingPoint(letter) => write!(
                f,
                "%{} is for floating-point numbers, which cannot be computed with at EL2",
                shown(letter)
            ),
            Self::Wide(letter) => write!(
                f,
                "%l{} is for wide characters, which a kernel has none of",
                shown(letter)
            ),
            Self::Conversion(letter) => write!(f, "{} is no conversion here", shown(letter)),
            Self::Values { wanted, values } => {
                write!(f, "its text prints {wanted} values and it has {values}")
            }
        }
    }
}

impl core::error::Error for BadFormat {}

/// How one value is shown.
#[derive(Clone, Copy)]
enum Shape {
    Number(Conversion),
    Pointer,
    String,
}

/// A part of a format.
enum Piece<'a> {
    Text(&'a [u8]),
    Value(Field, Shape),
}

/// The parts of a format without its NUL.
struct Pieces<'a>(&'a [u8]);

impl<'a> Iterator for Pieces<'a> {
    type Item = Result<Piece<'a>, BadFormat>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.0;
        let (&first, after) = rest.split_first()?;
        if first != b'%' {
            let end = rest.iter().position(|byte| *byte == b'%');
            let (text, after) = rest.split_at(end.unwrap_or(rest.len()));
            self.0 = after;
            return Some(Ok(Piece::Text(text)));
        }
        if let Some((b'%', behind)) = after.split_first() {
            self.0 = behind;
            return Some(Ok(Piece::Text(&rest[..1])));
        }
        self.0 = after;
        Some(conversion(&mut self.0).map(|(field, shape)| Piece::Value(field, shape)))
    }
}

/// What follows a `%`.
fn conversion(rest: &mut &[u8]) -> Result<(Field, Shape), BadFormat> {
    // A grouping of digits is the locale's, and C's has none.
    let mut field = Field::parse(rest, b"#0+- '");
    if take(rest, b".").is_some() {
        field.precision = Some(Field::parse_number(rest));
    }
    let mut length = Length::Int;
    if take(rest, b"h").is_some() {
        let shorter = take(rest, b"h").is_some();
        length = if shorter { Length::Char } else { Length::Short };
    } else if take(rest, b"lzjt").is_some() {
        take(rest, b"l");
        length = Length::Long;
    }
    let (&letter, after) = rest.split_first().ok_or(BadFormat::CutOff)?;
    *rest = after;
    let shape = match letter {
        b'd' | b'i' => Shape::Number(Conversion::Signed(length)),
        b'u' => Shape::Number(Conversion::Unsigned(length)),
        b'o' => Shape::Number(Conversion::Octal(length)),
        b'x' => Shape::Number(Conversion::Hex(length, LOWER)),
        b'X' => Shape::Number(Conversion::Hex(length, UPPER)),
        b'c' | b's' if length == Length::Long => return Err(BadFormat::Wide(letter)),
        b'c' | b's' | b'p' if length != Length::Int => return Err(BadFormat::Conversion(letter)),
        b'c' => Shape::Number(Conversion::Character),
        b's' => Shape::String,
        b'p' => Shape::Pointer,
        b'a' | b'e' | b'f' | b'g' | b'A' | b'E' | b'F' | b'G' => {
            return Err(BadFormat::FloatingPoint(letter));
        }
        _ => return Err(BadFormat::Conversion(letter)),
    };
    Ok((field, shape))
}

/// How many values the format, without its NUL, prints.
pub(crate) fn check_printf(text: &[u8]) -> Result<usize, BadFormat> {
    Pieces(text).try_fold(0, |count, piece| {
        Ok(count + usize::from(matches!(piece?, Piece::Value(..))))
    })
}

/// `agent_printf(format, size, array, bytes, place)`: 0. A string that cannot be read ends the run.
pub(super) fn agent_printf(run: &mut Run<'_>, args: [u64; 5]) -> Result<u64, RunFault> {
    let [text, size, array, _, place] = args;
    run.charge(COST)?;
    let Some(format) = Format::read(run, text, size)? else {
        return Err(RunFault::Corrupt);
    };
    let mut line = Line::new();
    let mut next = array;
    for piece in Pieces(format.as_bytes()) {
        match piece.map_err(|_| RunFault::Corrupt)? {
            Piece::Text(text) => line.push_all(text),
            Piece::Value(field, shape) => {
                let mut word = [0; 8];
                read(run, next, &mut word)?;
                next = next.wrapping_add(8);
                let value = u64::from_le_bytes(word);
                let written = write(run, &mut line, (field, shape), value);
                written.map_err(|error| evaluation(place, error))?;
            }
        }
    }
    run.host.printf(line.as_bytes());
    Ok(0)
}

fn write(
    run: &Run<'_>,
    line: &mut Line,
    (mut field, shape): (Field, Shape),
    value: u64,
) -> Result<(), EvaluationError> {
    match shape {
        Shape::Number(conversion) => {
            // In C, `#` does nothing for the hexadecimal number 0.
            field.alternate &= value != 0;
            field.write_value(line, conversion, value);
        }
        Shape::Pointer if value == 0 => field.write_padded(line, b"(nil)"),
        Shape::Pointer => {
            field.alternate = true;
            field.write_value(line, Conversion::Hex(Length::Long, LOWER), value);
        }
        Shape::String => {
            let mut text = [0; MAX_PRINT];
            let longest = field.precision.unwrap_or(MAX_PRINT).min(MAX_PRINT);
            let shown = if value == 0 {
                &b"(null)"[..longest.min(6)]
            } else {
                let target = &mut text[..longest];
                let copied = Reachable::of(run).copy_string(value, target);
                let length = copied.map_err(|_| EvaluationError::String { address: value })?;
                &text[..length]
            };
            field.write_padded(line, shown);
        }
    }
    Ok(())
}
