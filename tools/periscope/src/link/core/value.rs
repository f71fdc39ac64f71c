//! What a relocation's answer is: `bpf_core_calc_relo()`.

use super::spec::Spec;
use super::{Question, Subject};
use anyhow::{Context, Result, bail, ensure};
use ebpf::btf::{Btf, Int, Kind};

/// What to do with an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Resolution {
    /// The kernel has nothing to fill in. If the program gets there it is wrong.
    Poison,
    /// A value.
    Value(Answer),
}

/// The value for an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Answer {
    /// What the compiler has put there, if that is certain.
    pub(super) old: Option<u64>,
    /// What belongs there.
    pub(super) new: u64,
    /// How loads and stores change.
    pub(super) width: Width,
}

/// How many bytes a load or store accesses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Width {
    /// As many as the compiler has said.
    Same,
    /// The field has another size in the kernel, and reads the same with it.
    Changed {
        /// In the object's types.
        old: u32,
        /// In the kernel's.
        new: u32,
    },
    /// The field has another size in the kernel, and what a load would find is something else.
    Wrong,
}

impl Resolution {
    /// The number of a type of the object's own.
    pub(super) fn type_id(id: u32) -> Self {
        Self::Value(Answer {
            old: None,
            new: id.into(),
            width: Width::Same,
        })
    }

    /// Whether two types of the kernel give the same answer.
    pub(super) fn agrees(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Poison, Self::Poison) => true,
            (Self::Value(left), Self::Value(right)) => left.new == right.new,
            _ => false,
        }
    }
}

/// What a path says of the types that it is in.
struct Finding {
    value: u64,
    /// Whether compilers of every kind agree on the value.
    is_certain: bool,
    /// Size and type of the field, where its offset is asked for.
    field: Option<(u32, u32)>,
}

impl Finding {
    fn certain(value: u64) -> Self {
        Self {
            value,
            is_certain: true,
            field: None,
        }
    }
}

/// The answer for an object's path and what it is in the kernel.
pub(super) fn resolve(local: &Spec<'_>, target: Option<&Spec<'_>>) -> Result<Resolution> {
    let question = local.question;
    let old = find(local, question)?;
    let new = match (target, question) {
        (Some(target), _) => find(target, question)?,
        (None, Question::FieldExists | Question::EnumeratorExists) => Finding::certain(0),
        (None, _) if question.subject() == Subject::Type => Finding::certain(0),
        (None, _) => return Ok(Resolution::Poison),
    };
    let width = match (target, old.field, new.field) {
        (Some(target), Some(old), Some(new)) => width(local.btf, old, target.btf, new),
        _ => Width::Same,
    };
    Ok(Resolution::Value(Answer {
        old: old.is_certain.then_some(old.value),
        new: new.value,
        width,
    }))
}

/// Pointers and unsigned integers read the same with another size.
fn width(local: &Btf<'_>, old: (u32, u32), kernel: &Btf<'_>, new: (u32, u32)) -> Width {
    let (old_size, new_size) = (old.0, new.0);
    if old_size == new_size {
        return Width::Same;
    }
    let kind = |btf: &Btf<'_>, id| {
        let ty = btf.ty(id)?;
        let signed = ty.int().map(|int| int.encoding & Int::SIGNED != 0);
        Some((ty.kind, signed.unwrap_or(false)))
    };
    match (kind(local, old.1), kind(kernel, new.1)) {
        (Some((Kind::Ptr, _)), Some((Kind::Ptr, _)))
        | (Some((Kind::Int, false)), Some((Kind::Int, false))) => Width::Changed {
            old: old_size,
            new: new_size,
        },
        _ => Width::Wrong,
    }
}

fn find(spec: &Spec<'_>, question: Question) -> Result<Finding> {
    match question {
        Question::FieldExists | Question::EnumeratorExists => Ok(Finding::certain(1)),
        Question::TypeExists | Question::TypeMatches => Ok(Finding::certain(1)),
        Question::TypeSize => {
            let size = spec.btf.size(spec.root).context("a type without a size")?;
            Ok(Finding::certain(size.into()))
        }
        Question::TypeIdLocal | Question::TypeIdTarget => Ok(Finding {
            is_certain: false,
            ..Finding::certain(spec.root.into())
        }),
        Question::EnumeratorValue => {
            let accessor = spec.accessors[0];
            let enumeration = spec.btf.ty(accessor.ty);
            let mut all = enumeration.into_iter().flat_map(|ty| ty.enumerators());
            let enumerator = all.nth(accessor.index as usize);
            let enumerator = enumerator.context("there is no such enumerator")?;
            Ok(Finding::certain(enumerator.value))
        }
        Question::FieldOffset
        | Question::FieldSize
        | Question::FieldSigned
        | Question::FieldLeftShift
        | Question::FieldRightShift => find_field(spec, question),
    }
}

/// The last step of a path to a field.
fn find_field(spec: &Spec<'_>, question: Question) -> Result<Finding> {
    let last = spec.accessors.last().context("an empty path")?;
    if last.name.is_none() {
        let size = spec.btf.size(last.ty).context("a type without a size")?;
        return match question {
            Question::FieldOffset => Ok(Finding {
                field: Some((size, last.ty)),
                ..Finding::certain((spec.bit_offset / 8).into())
            }),
            Question::FieldSize => Ok(Finding::certain(size.into())),
            _ => bail!("this cannot be asked of an element of an array"),
        };
    }
    let outer = spec.btf.ty(last.ty);
    let member = outer.and_then(|ty| ty.members().nth(last.index as usize));
    let member = member.context("a member that is not there")?;
    let (ty, field) = spec.btf.resolve(member.ty).context("an endless type")?;
    let place = Place::of(spec, member.bit_size, ty, field.size_or_type)?;
    let is_signed = match field.kind {
        kind if kind.is_enum() => field.flag,
        _ => field
            .int()
            .is_some_and(|int| int.encoding & Int::SIGNED != 0),
    };
    let is_certain = member.bit_size == 0;
    let value = match question {
        Question::FieldOffset => place.byte,
        Question::FieldSize => place.size,
        Question::FieldSigned => u32::from(is_signed),
        // Little-endian: the field's bits above its place are shifted out.
        Question::FieldLeftShift => {
            let above = spec.bit_offset - 8 * place.byte + place.bits;
            64_u32.checked_sub(above).context("a field of many bits")?
        }
        _ => 64_u32
            .checked_sub(place.bits)
            .context("a field of many bits")?,
    };
    let always = matches!(question, Question::FieldSigned | Question::FieldRightShift);
    Ok(Finding {
        value: value.into(),
        is_certain: is_certain || always,
        field: (question == Question::FieldOffset && is_certain).then_some((place.size, ty)),
    })
}

/// Where a field is.
struct Place {
    byte: u32,
    /// Bytes to load for it.
    size: u32,
    bits: u32,
}

impl Place {
    fn of(spec: &Spec<'_>, bit_size: u32, ty: u32, declared: u32) -> Result<Self> {
        if bit_size == 0 {
            let size = spec.btf.size(ty).context("a type without a size")?;
            return Ok(Self {
                byte: spec.bit_offset / 8,
                size,
                bits: size.checked_mul(8).context("a field of many bits")?,
            });
        }
        // The smallest aligned load that has all bits of a bit field.
        let mut size = declared;
        ensure!(
            size.is_power_of_two() && size <= 8,
            "a bit field of {size} bytes"
        );
        loop {
            let byte = spec.bit_offset / 8 / size * size;
            if spec.bit_offset - byte * 8 + bit_size <= size * 8 {
                return Ok(Self {
                    byte,
                    size,
                    bits: bit_size,
                });
            }
            ensure!(size < 8, "a bit field that no load of 8 bytes reads");
            size *= 2;
        }
    }
}
