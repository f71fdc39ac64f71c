//! Paths to fields: `0:2:1` is element 0 of what the pointer points to, member 2, member 1.

use super::work::Work;
use super::{Question, Subject, compatible, matching};
use anyhow::{Context, Result, bail, ensure};
use ebpf::btf::{Array, Btf, Member};

/// Steps of a path at most (libbpf's `BPF_CORE_SPEC_MAX_LEN`).
const MAX_STEPS: usize = 64;

/// A step of a path that has a name, or leads into an array. Anonymous structures are passed
/// through.
#[derive(Clone, Copy, Debug)]
pub(super) struct Accessor<'a> {
    /// The structure, union or enumeration that is entered; of an array the elements' type.
    pub(super) ty: u32,
    /// Which member or element.
    pub(super) index: u32,
    /// The member's name, if it is a member.
    pub(super) name: Option<&'a [u8]>,
}

/// A path through some types, and where it leads.
pub(super) struct Spec<'a> {
    pub(super) btf: &'a Btf<'a>,
    pub(super) question: Question,
    /// The type that it starts from.
    pub(super) root: u32,
    pub(super) accessors: Vec<Accessor<'a>>,
    pub(super) bit_offset: u32,
    /// Steps so far, anonymous ones included.
    steps: usize,
    work: &'a Work,
}

impl<'a> Spec<'a> {
    fn new(btf: &'a Btf<'a>, question: Question, root: u32, work: &'a Work) -> Self {
        Self {
            btf,
            question,
            root,
            accessors: Vec::new(),
            bit_offset: 0,
            steps: 0,
            work,
        }
    }

    /// The path that an object's relocation names.
    pub(super) fn parse(
        btf: &'a Btf<'a>,
        question: Question,
        root: u32,
        access: &[u8],
        work: &'a Work,
    ) -> Result<Self> {
        let mut spec = Self::new(btf, question, root, work);
        let steps = parse_steps(access).context("the path is malformed")?;
        match question.subject() {
            Subject::Type => ensure!(steps == [0], "the path leads into a type as a whole"),
            Subject::Enumerator => spec.enter_enumeration(&steps)?,
            Subject::Field => spec.walk(&steps)?,
        }
        Ok(spec)
    }

    fn enter_enumeration(&mut self, steps: &[u32]) -> Result<()> {
        let (ty, enumeration) = self.btf.resolve(self.root).context("an endless type")?;
        let enumerator = match steps {
            [step] => enumeration.enumerators().nth(*step as usize),
            _ => None,
        };
        let enumerator = enumerator.context("there is no such enumerator")?;
        self.accessors.push(Accessor {
            ty,
            index: steps[0],
            name: Some(self.btf.string(enumerator.name)),
        });
        Ok(())
    }

    fn walk(&mut self, steps: &[u32]) -> Result<()> {
        let (mut ty, _) = self.btf.resolve(self.root).context("an endless type")?;
        self.enter_element(ty, steps[0])?;
        for &step in &steps[1..] {
            let (id, outer) = self.btf.resolve(ty).context("an endless type")?;
            if outer.kind.is_composite() {
                self.work.spend(step as usize)?;
                let member = outer.members().nth(step as usize);
                let member = member.context("there is no such member")?;
                self.advance(member.bit_offset)?;
                if member.name != 0 {
                    self.accessors.push(Accessor {
                        ty: id,
                        index: step,
                        name: Some(self.btf.string(member.name)),
                    });
                }
                ty = member.ty;
            } else if let Some(array) = outer.array() {
                let (element, _) = self.btf.resolve(array.element).context("an endless type")?;
                let is_inside = step < array.count || self.is_flexible(array);
                ensure!(is_inside, "element {step} of an array of {}", array.count);
                self.enter_element(element, step)?;
                ty = element;
            } else {
                bail!("the path leads into a type that has no members");
            }
        }
        Ok(())
    }

    /// Whether an array is the last member of the structure that was entered last, and has no
    /// length: as many elements as there is memory.
    fn is_flexible(&self, array: Array) -> bool {
        let Some(outer) = self.accessors.last().filter(|_| array.count == 0) else {
            return false;
        };
        let members = self.btf.ty(outer.ty).map_or(0, |ty| ty.len());
        outer.name.is_some() && outer.index as usize + 1 == members
    }

    fn enter_element(&mut self, ty: u32, index: u32) -> Result<()> {
        let size = self.btf.size(ty).context("a type without a size")?;
        let bits = size.checked_mul(8).and_then(|bits| bits.checked_mul(index));
        self.advance(bits.context("an offset that is too large")?)?;
        self.accessors.push(Accessor {
            ty,
            index,
            name: None,
        });
        Ok(())
    }

    fn advance(&mut self, bits: u32) -> Result<()> {
        ensure!(self.steps < MAX_STEPS, "the path is too long");
        self.steps += 1;
        let offset = self.bit_offset.checked_add(bits);
        self.bit_offset = offset.context("an offset that is too large")?;
        Ok(())
    }

    /// The same path from a type of the kernel, if there is one: `bpf_core_spec_match()`.
    pub(super) fn find_in(&self, btf: &'a Btf<'a>, root: u32) -> Result<Option<Self>> {
        let mut target = Self::new(btf, self.question, root, self.work);
        self.work.spend(1)?;
        let is_there = match self.question.subject() {
            Subject::Type if self.question == Question::TypeMatches => {
                matching::types(self.btf, self.root, btf, root, self.work)?
            }
            Subject::Type => compatible::types(self.btf, self.root, btf, root, self.work)?,
            Subject::Enumerator => target.find_enumerator(self)?,
            Subject::Field => target.follow(self)?,
        };
        Ok(is_there.then_some(target))
    }

    fn find_enumerator(&mut self, local: &Self) -> Result<bool> {
        let (ty, enumeration) = self.btf.resolve(self.root).context("an endless type")?;
        let wanted = local.accessors[0].name.map(super::essential);
        for (index, enumerator) in (0..).zip(enumeration.enumerators()) {
            let name = self.work.name(self.btf, enumerator.name)?;
            if Some(super::essential(name)) == wanted {
                self.accessors.push(Accessor {
                    ty,
                    index,
                    name: Some(name),
                });
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn follow(&mut self, local: &Self) -> Result<bool> {
        let mut ty = self.root;
        for (at, step) in local.accessors.iter().enumerate() {
            let (id, outer) = self.btf.resolve(ty).context("an endless type")?;
            if let Some(name) = step.name {
                self.work.spend(step.index as usize)?;
                let field = local.btf.ty(step.ty);
                let field = field.and_then(|ty| ty.members().nth(step.index as usize));
                let field = field.context("a member that is not there")?;
                let Some(next) = self.find_member(id, local.btf, name, field)? else {
                    return Ok(false);
                };
                ty = next;
                continue;
            }
            ty = id;
            if at > 0 {
                let Some(array) = outer.array() else {
                    return Ok(false);
                };
                if step.index >= array.count && !self.is_flexible(array) {
                    return Ok(false);
                }
                (ty, _) = self.btf.resolve(array.element).context("an endless type")?;
            }
            self.enter_element(ty, step.index)?;
        }
        Ok(true)
    }

    /// Enters the member of that name, in anonymous structures and unions too, if its type may stand
    /// for `field`'s. Returns its type: `bpf_core_match_member()`.
    fn find_member(
        &mut self,
        ty: u32,
        local: &Btf<'_>,
        name: &[u8],
        field: Member,
    ) -> Result<Option<u32>> {
        let (id, outer) = self.btf.resolve(ty).context("an endless type")?;
        for (index, member) in (0..).zip(outer.members()) {
            self.work.spend(1)?;
            let (offset, steps) = (self.bit_offset, self.steps);
            self.advance(member.bit_offset)?;
            if member.name == 0 {
                let found = self.find_member(member.ty, local, name, field)?;
                if found.is_some() {
                    return Ok(found);
                }
            } else if self.work.name(self.btf, member.name)? == name {
                let fits = compatible::fields(local, field.ty, self.btf, member.ty, self.work)?;
                self.accessors.push(Accessor {
                    ty: id,
                    index,
                    name: Some(self.btf.string(member.name)),
                });
                return Ok(fits.then_some(member.ty));
            }
            (self.bit_offset, self.steps) = (offset, steps);
        }
        Ok(None)
    }
}

fn parse_steps(access: &[u8]) -> Option<Vec<u32>> {
    let text = str::from_utf8(access).ok()?;
    let steps = text.split(':').map(|step| step.parse().ok());
    steps.collect::<Option<Vec<u32>>>()
}
