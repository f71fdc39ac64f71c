//! The formatting of `trace_printk`, after the kernel's `bpf_bprintf_prepare`
//! (`kernel/trace/bpf_trace.c`, `kernel/bpf/helpers.c`) and `lib/vsprintf.c`. No allocation; the
//! output is cut at [`MAX_PRINT`] bytes.
//!
//! Conversions: `%d %i %u %x %X`, each with `l` or `ll`; `%c`; `%s`, `%pks`, `%pus` (strings in
//! guest or program memory); `%p`, `%px`, `%pK` (16 hexadecimal digits, never hashed: a debugger's
//! user wants the address); `%%`. Flags `# 0 + -`, space, and a width. Everything else, a precision
//! included, is an error, as in the kernel.

use super::MAX_PRINT;

/// Text of bounded length; what does not fit is dropped.
pub(crate) struct Line {
    bytes: [u8; MAX_PRINT],
    length: usize,
}

impl Line {
    pub(crate) const fn new() -> Self {
        Self {
            bytes: [0; MAX_PRINT],
            length: 0,
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
    }

    pub(super) fn push_all(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.push(byte));
    }

    fn repeat(&mut self, byte: u8, count: usize) {
        (0..count.min(MAX_PRINT)).for_each(|_| self.push(byte));
    }
}

/// Where the strings are that `%s` prints.
pub(crate) trait Strings {
    /// Copies the NUL-terminated string at `address`, at most as much as `target` holds, and
    /// returns its length. A string that cannot be read is empty.
    fn copy(&self, address: u64, target: &mut [u8]) -> usize;
}

/// The format or the number of arguments is not one that the kernel would take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BadFormat;

/// Appends `format` (without its NUL) to `line`, its conversions filled from `arguments`.
pub(crate) fn format(
    line: &mut Line,
    format: &[u8],
    arguments: &[u64],
    strings: &dyn Strings,
) -> Result<(), BadFormat> {
    let mut rest = format;
    let mut arguments = arguments.iter().copied();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let is_text = byte.is_ascii_graphic() || byte.is_ascii_whitespace() || byte == 0x0b;
        if !is_text {
            return Err(BadFormat);
        }
        if byte != b'%' {
            line.push(byte);
            continue;
        }
        if let Some(after) = rest.strip_prefix(b"%") {
            rest = after;
            line.push(b'%');
            continue;
        }
        let field = Field::parse(&mut rest, b"#0+- ");
        let conversion = Conversion::parse(&mut rest)?;
        let argument = arguments.next().ok_or(BadFormat)?;
        field.write(line, conversion, argument, strings);
    }
    Ok(())
}

/// Removes the first byte of `rest` if it is one of `set`, and returns it.
pub(super) fn take(rest: &mut &[u8], set: &[u8]) -> Option<u8> {
    let (&first, after) = rest.split_first()?;
    if !set.contains(&first) {
        return None;
    }
    *rest = after;
    Some(first)
}

/// How many bits of an argument count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Length {
    Char,
    Short,
    Int,
    Long,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Conversion {
    Signed(Length),
    Unsigned(Length),
    Octal(Length),
    Hex(Length, &'static [u8; 16]),
    Pointer,
    String,
    Character,
}

pub(super) const LOWER: &[u8; 16] = b"0123456789abcdef";
pub(super) const UPPER: &[u8; 16] = b"0123456789ABCDEF";

impl Conversion {
    fn parse(rest: &mut &[u8]) -> Result<Self, BadFormat> {
        let mut length = Length::Int;
        for _ in 0..2 {
            if take(rest, b"l").is_some() {
                length = Length::Long;
            }
        }
        let letters: &[u8] = if length == Length::Int {
            b"diuxXpsc"
        } else {
            b"diuxX"
        };
        match take(rest, letters).ok_or(BadFormat)? {
            b'd' | b'i' => Ok(Self::Signed(length)),
            b'u' => Ok(Self::Unsigned(length)),
            b'x' => Ok(Self::Hex(length, LOWER)),
            b'X' => Ok(Self::Hex(length, UPPER)),
            b's' => Ok(Self::String),
            b'c' => Ok(Self::Character),
            _ => Self::parse_pointer(rest),
        }
    }

    /// What follows `%p`.
    fn parse_pointer(rest: &mut &[u8]) -> Result<Self, BadFormat> {
        if take(rest, b"xK").is_some() {
            return Ok(Self::Pointer);
        }
        if let [b'k' | b'u', b's', after @ ..] = *rest {
            *rest = after;
            return Ok(Self::String);
        }
        // Letters select a rendering (symbols, IP addresses, ...) that there is none of here.
        match rest.first() {
            Some(letter) if letter.is_ascii_alphanumeric() => Err(BadFormat),
            _ => Ok(Self::Pointer),
        }
    }
}

/// Flags and width of a conversion.
#[derive(Clone, Copy, Default)]
pub(super) struct Field {
    width: usize,
    /// Digits of a number at least, bytes of a string at most. The kernel's formats have none.
    pub(super) precision: Option<usize>,
    pub(super) alternate: bool,
    zero: bool,
    left: bool,
    plus: bool,
    space: bool,
}

impl Field {
    pub(super) fn parse(rest: &mut &[u8], flags: &[u8]) -> Self {
        let mut field = Self::default();
        while let Some(flag) = take(rest, flags) {
            match flag {
                b'#' => field.alternate = true,
                b'0' => field.zero = true,
                b'+' => field.plus = true,
                b'-' => field.left = true,
                b' ' => field.space = true,
                _ => {}
            }
        }
        field.width = Self::parse_number(rest);
        field
    }

    /// A number, at most [`MAX_PRINT`]; 0 where there is none.
    pub(super) fn parse_number(rest: &mut &[u8]) -> usize {
        let mut number: usize = 0;
        while let Some(digit) = take(rest, b"0123456789") {
            let longer = number.saturating_mul(10);
            number = longer
                .saturating_add(usize::from(digit - b'0'))
                .min(MAX_PRINT);
        }
        number
    }

    fn write(self, line: &mut Line, conversion: Conversion, value: u64, strings: &dyn Strings) {
        if conversion == Conversion::String {
            let mut text = [0; MAX_PRINT];
            let length = strings.copy(value, &mut text);
            self.write_padded(line, &text[..length.min(MAX_PRINT)]);
        } else {
            self.write_value(line, conversion, value);
        }
    }

    /// Writes a value that is no string's address.
    pub(super) fn write_value(self, line: &mut Line, conversion: Conversion, value: u64) {
        match conversion {
            Conversion::Signed(length) => {
                let value = length.sign_extend(value);
                let sign: &[u8] = match (value < 0, self.plus, self.space) {
                    (true, ..) => b"-",
                    (false, true, _) => b"+",
                    (false, false, true) => b" ",
                    (false, false, false) => b"",
                };
                self.write_number(line, sign, value.unsigned_abs(), Base::decimal());
            }
            Conversion::Unsigned(length) => {
                self.write_number(line, b"", length.cut(value), Base::decimal());
            }
            Conversion::Octal(length) => {
                let prefix: &[u8] = if self.alternate { b"0" } else { b"" };
                let base = Base {
                    radix: 8,
                    digits: LOWER,
                };
                self.write_number(line, prefix, length.cut(value), base);
            }
            Conversion::Hex(length, digits) => {
                let prefix: &[u8] = match (self.alternate, digits == UPPER) {
                    (false, _) => b"",
                    (true, false) => b"0x",
                    (true, true) => b"0X",
                };
                self.write_number(line, prefix, length.cut(value), Base { radix: 16, digits });
            }
            Conversion::Pointer => {
                let field = Self {
                    width: self.width.max(16),
                    zero: true,
                    ..self
                };
                field.write_number(
                    line,
                    b"",
                    value,
                    Base {
                        radix: 16,
                        digits: LOWER,
                    },
                );
            }
            Conversion::String => {}
            Conversion::Character => self.write_padded(line, &[value as u8]),
        }
    }

    pub(super) fn write_padded(self, line: &mut Line, text: &[u8]) {
        let padding = self.width.saturating_sub(text.len());
        if !self.left {
            line.repeat(b' ', padding);
        }
        line.push_all(text);
        if self.left {
            line.repeat(b' ', padding);
        }
    }

    fn write_number(self, line: &mut Line, prefix: &[u8], value: u64, base: Base) {
        let mut buffer = [0; Base::MAX_DIGITS];
        let mut digits = base.render(value, &mut buffer);
        if value == 0 && self.precision == Some(0) {
            digits = b"";
        }
        // Zeros that belong to the number.
        let more = self.precision.unwrap_or(0).saturating_sub(digits.len());
        let length = prefix.len() + more + digits.len();
        let padding = self.width.saturating_sub(length);
        let zeros = self.zero && !self.left && self.precision.is_none();
        if !zeros && !self.left {
            line.repeat(b' ', padding);
        }
        line.push_all(prefix);
        if zeros {
            line.repeat(b'0', padding);
        }
        line.repeat(b'0', more);
        line.push_all(digits);
        if self.left {
            line.repeat(b' ', padding);
        }
    }
}

impl Length {
    fn cut(self, value: u64) -> u64 {
        match self {
            Self::Char => u64::from(value as u8),
            Self::Short => u64::from(value as u16),
            Self::Int => u64::from(value as u32),
            Self::Long => value,
        }
    }

    fn sign_extend(self, value: u64) -> i64 {
        match self {
            Self::Char => i64::from(value as i8),
            Self::Short => i64::from(value as i16),
            Self::Int => i64::from(value as i32),
            Self::Long => value as i64,
        }
    }
}

struct Base {
    radix: u64,
    digits: &'static [u8; 16],
}

impl Base {
    /// Of any value in base 8 or more.
    const MAX_DIGITS: usize = 22;

    const fn decimal() -> Self {
        Self {
            radix: 10,
            digits: LOWER,
        }
    }

    /// Writes digits into the end of `buffer`.
    fn render<'b>(&self, mut value: u64, buffer: &'b mut [u8; Self::MAX_DIGITS]) -> &'b [u8] {
        let mut start = buffer.len();
        loop {
            start -= 1;
            buffer[start] = self.digits[(value % self.radix) as usize];
            value /= self.radix;
            if value == 0 {
                return &buffer[start..];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::String;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    struct Fixed(&'static [u8]);

    impl Strings for Fixed {
        fn copy(&self, _address: u64, target: &mut [u8]) -> usize {
            let length = self.0.len().min(target.len());
            target[..length].copy_from_slice(&self.0[..length]);
            length
        }
    }

    fn print(text: &str, arguments: &[u64]) -> Result<String, BadFormat> {
        let mut line = Line::new();
        super::format(&mut line, text.as_bytes(), arguments, &Fixed(b"sh"))?;
        Ok(String::from_utf8_lossy(line.as_bytes()).into_owned())
    }

    #[test]
    fn conversions_are_those_of_the_kernel() {
        let minus_one = u64::MAX;
        let cases: &[(&str, &[u64], &str)] = &[
            ("hit", &[], "hit"),
            ("100%%", &[], "100%"),
            ("%d %i", &[minus_one, 7], "-1 7"),
            (
                "%u %lu",
                &[minus_one, minus_one],
                "4294967295 18446744073709551615",
            ),
            ("%ld %lld", &[1 << 63, 5], "-9223372036854775808 5"),
            (
                "%x %lx %llx %X",
                &[0x1_ffff_ffff, 0x1_ffff_ffff, 10, 10],
                "ffffffff 1ffffffff a A",
            ),
            (
                "%#x %#lx",
                &[0x10, 0xffff_8000_0000_0000],
                "0x10 0xffff800000000000",
            ),
            (
                "%08x|%8x|%-8x|%#06x",
                &[0xab, 0xab, 0xab, 0xab],
                "000000ab|      ab|ab      |0x00ab",
            ),
            (
                "%+d % d %05d %-5d|",
                &[1, 1, minus_one, minus_one],
                "+1  1 -0001 -1   |",
            ),
            ("%p %px", &[0xabc, 1], "0000000000000abc 0000000000000001"),
            ("%s|%4s|%-4s|%pks", &[1, 2, 3, 4], "sh|  sh|sh  |sh"),
            ("%c%c", &[b'o'.into(), b'k'.into()], "ok"),
        ];
        for (text, arguments, expected) in cases {
            assert_eq!(print(text, arguments).as_deref(), Ok(*expected), "{text}");
        }
    }

    #[test]
    fn what_the_kernel_refuses_is_refused() {
        for text in [
            "%", "%d", "%f", "%.3d", "%ls", "%pI4", "%pS", "%lc", "\u{7f}", "%hd", "é",
        ] {
            assert_eq!(print(text, &[]), Err(BadFormat), "{text:?}");
        }
        assert_eq!(print("%pS", &[1]), Err(BadFormat));
    }

    #[test]
    fn output_is_cut() {
        assert_eq!(
            print("%999999999999999999999d", &[1]).map(|text| text.len()),
            Ok(MAX_PRINT)
        );
        assert_eq!(
            print(&"x".repeat(2000), &[]).map(|text| text.len()),
            Ok(MAX_PRINT)
        );
    }

    proptest! {
        #[test]
        fn any_format_ends(text: Vec<u8>, arguments in prop::collection::vec(any::<u64>(), 0..4)) {
            let mut line = Line::new();
            let _ = super::format(&mut line, &text, &arguments, &Fixed(b"string"));
        }

        #[test]
        fn numbers_are_those_of_rust(value: u64) {
            let text = format!("{} {} {:x} {:#x}", value as i32, value as i64, value, value as u32);
            prop_assert_eq!(print("%d %lld %lx %#x", &[value; 4]), Ok(text));
        }
    }
}
