//! `--set`: what global variables hold when the program is loaded.
//!
//! Tools have their options in such variables (`const volatile pid_t target_pid`), and their user
//! space sets them before it loads the programs. Values are written as the variables' types have
//! them; one that the type cannot hold is an error.

use super::elf::Elf;
use super::maps::{Maps, data_section, text};
use anyhow::{Context, Result, anyhow, bail, ensure};
use ebpf::btf::{Btf, Int, Kind, Type};

/// Values by the names of their variables.
#[derive(Clone, Debug, Default)]
pub(crate) struct Values(Vec<(String, String)>);

impl Values {
    /// Of words like `target_pid=17`.
    pub(super) fn parse(words: &[String]) -> Result<Self> {
        let values = words.iter().map(|word| {
            let (name, value) = word.split_once('=').with_context(|| {
                format!("--set {word}: give a variable and a value, target_pid=17")
            })?;
            Ok((name.to_owned(), value.to_owned()))
        });
        Ok(Self(values.collect::<Result<_>>()?))
    }

    /// Puts them into the maps that hold the object's variables.
    pub(super) fn put(&self, elf: &Elf<'_>, btf: Option<&Btf<'_>>, maps: &mut Maps) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let btf = btf.context("--set needs the types of the variables: compile with -g")?;
        let variables = variables(elf, btf, maps);
        for (name, value) in &self.0 {
            let variable = find(&variables, name)?;
            let bytes = encode(btf, variable.ty, value)
                .with_context(|| format!("--set {name}={value}: {name} is {}", variable.shown))?;
            maps.write(variable.map, variable.offset, &bytes)
                .with_context(|| format!("variable {name}"))?;
        }
        Ok(())
    }
}

/// A variable of a section of global data.
struct Variable {
    name: String,
    /// The number of its type.
    ty: u32,
    /// The type as C has it, for messages.
    shown: String,
    /// The map that holds its section, and the place in there.
    map: usize,
    offset: usize,
}

fn variables(elf: &Elf<'_>, btf: &Btf<'_>, maps: &Maps) -> Vec<Variable> {
    let mut found = Vec::new();
    for (index, section) in elf.sections.iter().enumerate() {
        let Some(map) = maps.of_section(index) else {
            continue;
        };
        let section = data_section(btf, section.name);
        for variable in section.into_iter().flat_map(|(_, ty)| ty.variables()) {
            let Some(var) = btf.ty(variable.ty).filter(|ty| ty.kind == Kind::Var) else {
                continue;
            };
            let name = text(btf, var.name);
            // The compiler leaves the variable's place to the symbol.
            let symbol = elf
                .symbols
                .iter()
                .find(|symbol| symbol.section == Some(index) && symbol.name == name);
            if let Some(symbol) = symbol {
                found.push(Variable {
                    ty: var.size_or_type,
                    shown: shown(btf, var.size_or_type),
                    map,
                    // Symbols lie inside their sections.
                    offset: symbol.value as usize,
                    name,
                });
            }
        }
    }
    found
}

fn find<'v>(variables: &'v [Variable], name: &str) -> Result<&'v Variable> {
    let mut named = variables.iter().filter(|variable| variable.name == name);
    match (named.next(), named.next()) {
        (Some(variable), None) => Ok(variable),
        (Some(_), Some(_)) => bail!("--set {name}: there are several variables of that name"),
        (None, _) if variables.is_empty() => bail!("--set {name}: there are no variables in it"),
        (None, _) => {
            let mut known: Vec<_> = variables
                .iter()
                .map(|Variable { name, shown, .. }| format!("{name} ({shown})"))
                .collect();
            known.sort();
            bail!(
                "--set {name}: there is no such variable in it, but {}",
                known.join(", ")
            )
        }
    }
}

/// A type as C has it.
fn shown(btf: &Btf<'_>, ty: u32) -> String {
    let Some((_, resolved)) = btf.resolve(ty) else {
        return "of an endless type".into();
    };
    if let Some(array) = resolved.array() {
        return format!("{}[{}]", shown(btf, array.element), array.count);
    }
    let keyword = match resolved.kind {
        Kind::Ptr => return "a pointer".into(),
        Kind::Struct => "struct ",
        Kind::Union => "union ",
        Kind::Enum | Kind::Enum64 => "enum ",
        _ => "",
    };
    let name = text(btf, resolved.name);
    format!("{keyword}{name}").trim_end().into()
}

/// The bytes of a value of type `ty`.
fn encode(btf: &Btf<'_>, ty: u32, value: &str) -> Result<Vec<u8>> {
    let (_, resolved) = btf.resolve(ty).context("of an endless type")?;
    let Some(array) = resolved.array() else {
        return scalar(btf, &resolved, value);
    };
    let (_, element) = btf.resolve(array.element).context("of an endless type")?;
    let count = array.count as usize;
    if btf.string(element.name) == b"char" {
        ensure!(
            value.len() < count,
            "a text there has {} bytes at most",
            count.saturating_sub(1)
        );
        let mut bytes = value.as_bytes().to_vec();
        bytes.resize(count, 0);
        return Ok(bytes);
    }
    let values: Vec<_> = value.split(',').collect();
    ensure!(
        values.len() <= count,
        "there are {} values, and room for {count}",
        values.len()
    );
    let values = values.into_iter().map(|value| scalar(btf, &element, value));
    Ok(values.collect::<Result<Vec<_>>>()?.concat())
}

fn scalar(btf: &Btf<'_>, ty: &Type<'_>, value: &str) -> Result<Vec<u8>> {
    match ty.kind {
        Kind::Int => {
            let encoding = ty.int().map_or(0, |int| int.encoding);
            if encoding & Int::BOOL != 0 {
                return boolean(value);
            }
            integer(
                value,
                ty.size_or_type,
                Sign::of(encoding & Int::SIGNED != 0),
            )
        }
        Kind::Ptr => integer(value, 8, Sign::Unsigned),
        Kind::Enum | Kind::Enum64 => {
            let mut enumerators = ty.enumerators();
            let named = enumerators.find(|named| btf.string(named.name) == value.as_bytes());
            let size = ty.size_or_type as usize;
            match named {
                Some(named) => Ok(named.value.to_le_bytes()[..size.min(8)].to_vec()),
                None => integer(value, ty.size_or_type, Sign::of(ty.flag)),
            }
        }
        _ => bail!("what can be set are numbers, texts, and arrays of numbers"),
    }
}

#[derive(Clone, Copy)]
enum Sign {
    Signed,
    Unsigned,
}

impl Sign {
    fn of(is_signed: bool) -> Self {
        if is_signed {
            Self::Signed
        } else {
            Self::Unsigned
        }
    }
}

fn boolean(value: &str) -> Result<Vec<u8>> {
    match value {
        "true" | "1" => Ok(vec![1]),
        "false" | "0" => Ok(vec![0]),
        _ => bail!("give true or false"),
    }
}

/// A number of `size` bytes.
fn integer(value: &str, size: u32, sign: Sign) -> Result<Vec<u8>> {
    ensure!(matches!(size, 1 | 2 | 4 | 8), "numbers have 1 to 8 bytes");
    let (is_negative, digits) = match value.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, value),
    };
    let (radix, digits) = match digits.strip_prefix("0x") {
        Some(digits) => (16, digits),
        None => (10, digits),
    };
    let magnitude = u64::from_str_radix(digits, radix)
        .map_err(|error| anyhow!("{value:?} is no number that fits ({error})"))?;
    let number = if is_negative {
        -i128::from(magnitude)
    } else {
        i128::from(magnitude)
    };
    let bits = 8 * size;
    let range = match sign {
        Sign::Signed => -(1_i128 << (bits - 1))..1 << (bits - 1),
        Sign::Unsigned => 0..1 << bits,
    };
    ensure!(
        range.contains(&number),
        "from {} to {} fit",
        range.start,
        range.end - 1
    );
    Ok(number.to_le_bytes()[..size as usize].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_fit_their_types() {
        use Sign::{Signed, Unsigned};
        for (value, size, sign, expected) in [
            ("255", 1, Unsigned, Some(vec![255])),
            ("256", 1, Unsigned, None),
            ("-1", 1, Unsigned, None),
            ("127", 1, Signed, Some(vec![127])),
            ("128", 1, Signed, None),
            ("-128", 1, Signed, Some(vec![0x80])),
            ("-129", 1, Signed, None),
            ("0x1234", 2, Unsigned, Some(vec![0x34, 0x12])),
            ("18446744073709551615", 8, Unsigned, Some(vec![255; 8])),
            ("18446744073709551616", 8, Unsigned, None),
            (
                "-0x8000000000000000",
                8,
                Signed,
                Some([vec![0; 7], vec![0x80]].concat()),
            ),
            ("9223372036854775808", 8, Signed, None),
            ("", 4, Signed, None),
            ("--1", 4, Signed, None),
            ("+1", 4, Signed, Some(vec![1, 0, 0, 0])),
            ("1", 3, Signed, None),
        ] {
            assert_eq!(integer(value, size, sign).ok(), expected, "{value}");
        }
    }
}
