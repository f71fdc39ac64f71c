//! CO-RE: instructions that depend on the kernel's types, as libbpf fills them in
//! (`tools/lib/bpf/relo_core.c`, whose order of steps this follows: the results are the same).

mod compatible;
mod matching;
mod patch;
mod spec;
mod value;
mod work;

use super::ext::CoreRelocation;
use anyhow::{Context, Result, bail, ensure};
use ebpf::btf::{Btf, Kind};
use ebpf::insn::Insn;
use spec::Spec;
use std::collections::HashMap;
use value::Resolution;
use work::Work;

/// What a relocation asks: `enum bpf_core_relo_kind`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Question {
    FieldOffset,
    FieldSize,
    FieldExists,
    FieldSigned,
    FieldLeftShift,
    FieldRightShift,
    TypeIdLocal,
    TypeIdTarget,
    TypeExists,
    TypeSize,
    EnumeratorExists,
    EnumeratorValue,
    TypeMatches,
}

/// What a question is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Subject {
    Field,
    Type,
    Enumerator,
}

impl Question {
    fn of(number: u32) -> Result<Self> {
        Ok(match number {
            0 => Self::FieldOffset,
            1 => Self::FieldSize,
            2 => Self::FieldExists,
            3 => Self::FieldSigned,
            4 => Self::FieldLeftShift,
            5 => Self::FieldRightShift,
            6 => Self::TypeIdLocal,
            7 => Self::TypeIdTarget,
            8 => Self::TypeExists,
            9 => Self::TypeSize,
            10 => Self::EnumeratorExists,
            11 => Self::EnumeratorValue,
            12 => Self::TypeMatches,
            _ => bail!("there is no CO-RE relocation of kind {number}"),
        })
    }

    fn subject(self) -> Subject {
        match self {
            Self::FieldOffset
            | Self::FieldSize
            | Self::FieldExists
            | Self::FieldSigned
            | Self::FieldLeftShift
            | Self::FieldRightShift => Subject::Field,
            Self::EnumeratorExists | Self::EnumeratorValue => Subject::Enumerator,
            Self::TypeIdLocal
            | Self::TypeIdTarget
            | Self::TypeExists
            | Self::TypeSize
            | Self::TypeMatches => Subject::Type,
        }
    }
}

/// The linker's part that knows both the object's types and the kernel's.
pub(super) struct Relocator<'a> {
    local: &'a Btf<'a>,
    kernel: Kernel<'a>,
    /// The kernel's types that a type of the object can stand for. Those that have not fitted a
    /// relocation are no longer asked by the next ones: so does libbpf.
    candidates: HashMap<u32, Vec<u32>>,
    work: Work,
}

/// The kernel's types, and where those of each name are.
struct Kernel<'a> {
    btf: &'a Btf<'a>,
    by_name: HashMap<&'a [u8], Vec<u32>>,
}

impl<'a> Kernel<'a> {
    fn new(btf: &'a Btf<'a>, work: &Work) -> Result<Self> {
        let mut by_name = HashMap::<_, Vec<u32>>::new();
        for (id, ty) in btf.types() {
            let name = essential(work.name(btf, ty.name)?);
            if !name.is_empty() {
                by_name.entry(name).or_default().push(id);
            }
        }
        Ok(Self { btf, by_name })
    }

    /// The types of a name and kind, flavours aside.
    fn candidates(&self, name: &[u8], kind: Kind) -> Vec<u32> {
        let all = self.by_name.get(essential(name));
        let fits = |&id: &u32| {
            let candidate = self.btf.ty(id);
            candidate.is_some_and(|candidate| same_kind(candidate.kind, kind))
        };
        let all = all.into_iter().flatten().copied();
        all.filter(fits).collect()
    }
}

/// Kinds that may stand for each other: enumerations of any size do.
fn same_kind(left: Kind, right: Kind) -> bool {
    left == right || (left.is_enum() && right.is_enum())
}

/// A name without its flavour: `task_struct` of `task_struct___old`. The last `___` counts that has
/// other characters around it.
fn essential(name: &[u8]) -> &[u8] {
    let is_flavour = |bytes: &[u8]| bytes[0] != b'_' && &bytes[1..4] == b"___" && bytes[4] != b'_';
    match name.windows(5).rposition(is_flavour) {
        Some(at) => &name[..=at],
        None => name,
    }
}

impl<'a> Relocator<'a> {
    /// For an object's types and a kernel's.
    pub(super) fn new(local: &'a Btf<'a>, kernel: &'a Btf<'a>) -> Result<Self> {
        let work = Work::new();
        Ok(Self {
            local,
            kernel: Kernel::new(kernel, &work)?,
            candidates: HashMap::new(),
            work,
        })
    }

    /// Fills in one instruction of `insns`, or poisons it.
    pub(super) fn apply(
        &mut self,
        relocation: CoreRelocation,
        insns: &mut [Insn],
        at: usize,
    ) -> Result<()> {
        self.resolve(relocation)
            .and_then(|resolution| patch::apply(insns, at, &resolution))
            .with_context(|| {
                let access = self.local.string(relocation.access);
                let access = String::from_utf8_lossy(access);
                format!(
                    "instruction {}: CO-RE relocation {access} of {}",
                    relocation.insn,
                    self.describe(relocation.ty)
                )
            })
    }

    /// A type of the object in words.
    fn describe(&self, id: u32) -> String {
        let Some(ty) = self.local.ty(id) else {
            return format!("type {id}, which is not there");
        };
        let name = String::from_utf8_lossy(self.local.string(ty.name));
        match ty.kind {
            Kind::Struct => format!("struct {name}"),
            Kind::Union => format!("union {name}"),
            kind if kind.is_enum() => format!("enum {name}"),
            _ => name.into_owned(),
        }
    }

    fn resolve(&mut self, relocation: CoreRelocation) -> Result<Resolution> {
        let question = Question::of(relocation.kind)?;
        let ty = self.local.ty(relocation.ty);
        let ty = ty.context("the type is not in the object")?;
        let access = self.local.string(relocation.access);
        let spec = Spec::parse(self.local, question, relocation.ty, access, &self.work)?;
        if question == Question::TypeIdLocal {
            return Ok(Resolution::type_id(spec.root));
        }
        let name = self.work.name(self.local, ty.name)?;
        ensure!(!name.is_empty(), "the type has no name to find it by");
        let kernel = &self.kernel;
        let candidates = self.candidates.entry(relocation.ty);
        let candidates = candidates.or_insert_with(|| kernel.candidates(name, ty.kind));
        let mut found: Option<(Spec<'_>, Resolution)> = None;
        let mut fitting = Vec::new();
        for &candidate in candidates.iter() {
            let Some(target) = spec.find_in(kernel.btf, candidate)? else {
                continue;
            };
            let resolution = value::resolve(&spec, Some(&target))?;
            if let Some((first, decided)) = &found {
                ensure!(
                    target.bit_offset == first.bit_offset && resolution.agrees(decided),
                    "the kernel has several such types, which differ: name a member that only one \
                     of them has, or give the type a flavour"
                );
            } else {
                found = Some((target, resolution));
            }
            fitting.push(candidate);
        }
        match found {
            Some((_, resolution)) => {
                *candidates = fitting;
                Ok(resolution)
            }
            None => value::resolve(&spec, None),
        }
    }
}

#[cfg(test)]
mod tests;
