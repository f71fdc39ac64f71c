//! Which types a debugger can take: their data comes from a guest, and a debugger that follows a type into itself dies.
//!
//! C has two rules that real types keep. A type that names none (a pointer, a qualifier, an array, a prototype) cannot
//! be made of itself, unless a structure is between. And no structure lies in itself. Both are checked by going down
//! from each type once; what breaks a rule, or is nested too deep, is no type here.

use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use ebpf::btf::{Btf, Kind, Type};

/// Types inside each other at most. Linux has 20.
const DEEPEST: u8 = 64;
/// Bytes that the widest numbers have.
const WIDEST: u32 = 16;

/// What is known of a type.
const UNKNOWN: u8 = 0;
const ENTERED: u8 = u8::MAX;
const BROKEN: u8 = u8::MAX - 1;

/// A rule: which types one leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rule {
    /// What types without a name are made of.
    MadeOf,
    /// What lies in them.
    Contains,
}

impl Rule {
    /// Calls `visit` for each type that `ty` leads to.
    fn each_from(self, ty: &Type<'_>, visit: &mut dyn FnMut(u32)) {
        match ty.kind {
            Kind::Struct | Kind::Union if self == Self::Contains => {
                ty.members().for_each(|member| visit(member.ty));
            }
            Kind::Array => ty
                .array()
                .into_iter()
                .for_each(|array| visit(array.element)),
            Kind::Ptr if self == Self::MadeOf => visit(ty.size_or_type),
            Kind::FuncProto if self == Self::MadeOf => {
                visit(ty.size_or_type);
                ty.parameters().for_each(|parameter| visit(parameter.ty));
            }
            kind if kind.is_alias() => visit(ty.size_or_type),
            _ => {}
        }
    }
}

/// Which types are sound, by their numbers.
pub(super) struct Sound(Vec<bool>);

impl Sound {
    /// Looks at all types.
    pub(super) fn of(btf: &Btf<'_>) -> Result<Self, TryReserveError> {
        let count = btf.count() as usize;
        let mut sound = Vec::new();
        sound.try_reserve_exact(count)?;
        sound.extend((0..btf.count()).map(|id| btf.ty(id).is_some_and(|ty| can_be(&ty))));
        for rule in [Rule::MadeOf, Rule::Contains] {
            for (sound, height) in sound.iter_mut().zip(heights(btf, rule)?) {
                *sound &= height <= DEEPEST;
            }
        }
        Ok(Self(sound))
    }

    /// Whether there is a type of that number that can be one.
    pub(super) fn has(&self, id: u32) -> bool {
        self.0.get(id as usize).copied().unwrap_or_default()
    }
}

/// Whether a record is that of a type, and of a size that its kind can have.
fn can_be(ty: &Type<'_>) -> bool {
    let is_number = ty.size_or_type.is_power_of_two() && ty.size_or_type <= WIDEST;
    match ty.kind {
        Kind::Int | Kind::Float | Kind::Enum | Kind::Enum64 => is_number,
        Kind::Void | Kind::Func | Kind::Var | Kind::DataSec | Kind::DeclTag => false,
        _ => true,
    }
}

/// How many types deep each type is by a rule; [`BROKEN`] where it has no end.
fn heights(btf: &Btf<'_>, rule: Rule) -> Result<Vec<u8>, TryReserveError> {
    /// Marks an entry of the list that is left, not entered. There are fewer types.
    const LEAVE: u32 = 1 << 31;
    let mut heights = Vec::new();
    heights.try_reserve_exact(btf.count() as usize)?;
    heights.resize(btf.count() as usize, UNKNOWN);
    let mut waiting: Vec<u32> = Vec::new();
    for root in 0..btf.count() {
        waiting.try_reserve(1)?;
        waiting.push(root);
        while let Some(next) = waiting.pop() {
            let id = next & !LEAVE;
            let Some(ty) = btf.ty(id) else {
                continue;
            };
            let known = heights[id as usize];
            heights[id as usize] = match known {
                UNKNOWN => {
                    // Itself, what its record lists, and one more type that it names.
                    waiting.try_reserve(2 + ty.len())?;
                    waiting.push(id | LEAVE);
                    rule.each_from(&ty, &mut |inner| {
                        if inner < btf.count() {
                            waiting.push(inner);
                        }
                    });
                    ENTERED
                }
                ENTERED if next == id => BROKEN,
                ENTERED => height(&heights, rule, &ty),
                _ => known,
            };
        }
    }
    Ok(heights)
}

/// The height of a type whose parts have theirs. What is broken is not part of what it would be in.
fn height(heights: &[u8], rule: Rule, ty: &Type<'_>) -> u8 {
    let mut height = 1;
    rule.each_from(ty, &mut |inner| {
        let inner = heights.get(inner as usize).copied().unwrap_or_default();
        if inner != BROKEN {
            height = height.max(inner.saturating_add(1));
        }
    });
    if height > DEEPEST { BROKEN } else { height }
}
