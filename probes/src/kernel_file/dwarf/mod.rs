//! DWARF of a kernel's BTF: its types, the prototypes of its functions with where their arguments are, and the variables
//! that BTF knows.
//!
//! All of it is one unit of DWARF 5 (sections 3.1.1, 7.5). Its size is known before it is written: what writes an entry also
//! counts it ([`Sink`]), and all references have the same length. Names are not copied: `.debug_str` is the strings of the
//! BTF as they are.
//!
//! # Arguments
//!
//! An argument is where the calling convention puts it when a function is entered; nothing here knows where it is
//! later. So its location holds for the first instruction of the function and no other, and a debugger says that it is
//! optimized out where that is all one can say.
//!
//! Then a breakpoint on a function must be at its first instruction. GDB puts it there, and looks for no end of a
//! prologue, where the unit has location lists and a GCC later than 4.4 says that it made them (`locations_valid` of its
//! symbol tables); it knows such by the unit's producer. LLDB does wherever there is no table of lines.

mod arguments;
mod shape;
mod sound;
mod types;

use super::sink::{Length, Sink};
use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use arguments::Allocation;
use core::ops::Range;
use ebpf::btf::{Btf, Kind};
use shape::Shape;
use types::{Layout, Reference, Types};

/// What the unit says that made it.
const PRODUCER: &str = "GNU C11 5.1.0, that is: Periscope, from BTF";
/// `DW_LANG_C11`.
const C11: u8 = 0x1d;
/// `DW_UT_compile`.
const COMPILE: u8 = 1;
const VERSION: u16 = 5;
const ADDRESS_SIZE: u8 = 8;
/// Bytes of an instruction.
const INSTRUCTION: u64 = 4;
/// Bytes of the header of `.debug_loclists` and `.debug_rnglists`: length, version, sizes, how many offsets.
const LIST_HEADER: usize = 12;
/// `DW_OP_addr`.
const ADDRESS: u8 = 0x03;

/// Entries of a list of locations (`DW_LLE_…`, DWARF 5, 7.7.3).
mod location {
    pub(super) const END: u8 = 0;
    pub(super) const OFFSET_PAIR: u8 = 4;
}

/// Entries of a list of ranges (`DW_RLE_…`, DWARF 5, 7.25).
mod range {
    pub(super) const END: u8 = 0;
    pub(super) const START_LENGTH: u8 = 7;
}

/// Who can name a symbol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Scope {
    /// Its file.
    Local,
    /// Everybody.
    Global,
}

/// A symbol that BTF describes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Named {
    /// The number of its record, of kind [`Kind::Func`] or [`Kind::Var`].
    pub(super) ty: u32,
    pub(super) address: u64,
    pub(super) size: u64,
    pub(super) scope: Scope,
}

/// How a unit is laid out.
pub(super) struct Plan {
    layout: Layout,
    functions: Vec<Named>,
    variables: Vec<Named>,
    code: Vec<Range<u64>>,
    /// Bytes of `.debug_info`.
    pub(super) info: usize,
    /// Bytes of `.debug_loclists`.
    pub(super) locations: usize,
}

impl Plan {
    /// Lays out a unit. `code` is where the functions are.
    pub(super) fn of(
        btf: &Btf<'_>,
        functions: Vec<Named>,
        variables: Vec<Named>,
        code: Vec<Range<u64>>,
    ) -> Result<Self, TryReserveError> {
        let mut head = Length::default();
        write_head(&mut head, 0, 0);
        let layout = Layout::of(btf, head.length())?;
        let (mut info, mut locations) = (Length(layout.end), Length(LIST_HEADER));
        let mut plan = Self {
            layout,
            functions,
            variables,
            code,
            info: 0,
            locations: 0,
        };
        let unit = Unit::of(btf, &plan);
        unit.write_functions(&mut info, &mut locations);
        unit.write_variables(&mut info);
        shape::end_children(&mut info);
        plan.info = info.length();
        plan.locations = locations.length();
        Ok(plan)
    }

    /// What is in `.debug_rnglists`: the code.
    pub(super) fn ranges(&self) -> Vec<u8> {
        let mut list = Vec::new();
        for range in &self.code {
            list.byte(range::START_LENGTH);
            list.u64(range.start);
            list.unsigned(range.end - range.start);
        }
        list.byte(range::END);
        let mut out = Vec::new();
        write_list_head(&mut out, LIST_HEADER + list.len());
        out.put(&list);
        out
    }

    /// What locations are relative to.
    fn base(&self) -> u64 {
        // They are in order.
        let first = self.functions.first();
        first.map_or(0, |function| function.address)
    }
}

/// What is in `.debug_abbrev`.
pub(super) fn shapes() -> Vec<u8> {
    shape::table()
}

/// A unit that is laid out.
pub(super) struct Unit<'a> {
    types: Types<'a>,
    plan: &'a Plan,
}

impl<'a> Unit<'a> {
    pub(super) fn of(btf: &'a Btf<'a>, plan: &'a Plan) -> Self {
        let layout = &plan.layout;
        Self {
            types: Types { btf, layout },
            plan,
        }
    }

    /// Writes `.debug_info`.
    pub(super) fn write_info(&self, out: &mut impl Sink) {
        write_head(out, self.plan.info, self.plan.base());
        self.types.write(out);
        self.write_functions(out, &mut Length(LIST_HEADER));
        self.write_variables(out);
        shape::end_children(out);
    }

    /// Writes `.debug_loclists`.
    pub(super) fn write_locations(&self, out: &mut impl Sink) {
        write_list_head(out, self.plan.locations);
        self.write_functions(&mut Length::default(), out);
    }

    /// Writes entries of functions to `info`, and the locations of their arguments to `lists`, which has got its header.
    fn write_functions(&self, info: &mut impl Sink, lists: &mut impl Sink) {
        let base = self.plan.base();
        // A list's offset counts from the beginning of its section.
        let before = lists.length() - LIST_HEADER;
        for function in &self.plan.functions {
            self.write_function(info, lists, function, base, before);
        }
    }

    fn write_function(
        &self,
        info: &mut impl Sink,
        lists: &mut impl Sink,
        function: &Named,
        base: u64,
        before: usize,
    ) {
        let btf = self.types.btf;
        let Some(ty) = btf.ty(function.ty).filter(|ty| ty.kind == Kind::Func) else {
            return;
        };
        let prototype = btf.ty(ty.size_or_type);
        let Some(prototype) = prototype.filter(|ty| ty.kind == Kind::FuncProto) else {
            return;
        };
        let result = self.types.reference(prototype.size_or_type);
        let shape = match (function.scope, result) {
            (Scope::Local, Reference::Void) => Shape::FunctionOfVoid,
            (Scope::Local, Reference::To(_)) => Shape::Function,
            (Scope::Global, Reference::Void) => Shape::GlobalFunctionOfVoid,
            (Scope::Global, Reference::To(_)) => Shape::GlobalFunction,
        };
        shape.begin(info);
        info.u32(self.types.name(ty.name));
        info.u64(function.address);
        info.unsigned(function.size);
        if let Reference::To(offset) = result {
            info.u32(offset);
        }
        let entry = function.address - base;
        let mut allocation = Allocation::default();
        for parameter in prototype.parameters() {
            let Reference::To(ty) = self.types.reference(parameter.ty) else {
                Shape::MoreParameters.begin(info);
                continue;
            };
            let place = allocation.place(btf, parameter.ty);
            let shape = place.map_or(Shape::ParameterNowhere, |_| Shape::Parameter);
            shape.begin(info);
            info.u32(self.types.name(parameter.name));
            info.u32(ty);
            if let Some(place) = place {
                info.u32((lists.length() - before) as u32);
                lists.byte(location::OFFSET_PAIR);
                lists.unsigned(entry);
                lists.unsigned(entry + INSTRUCTION);
                place.write(lists);
                lists.byte(location::END);
            }
        }
        shape::end_children(info);
    }

    fn write_variables(&self, out: &mut impl Sink) {
        for variable in &self.plan.variables {
            let Some(ty) = self.types.btf.ty(variable.ty) else {
                continue;
            };
            let shape = match variable.scope {
                Scope::Local => Shape::Variable,
                Scope::Global => Shape::GlobalVariable,
            };
            shape.begin(out);
            out.u32(self.types.name(ty.name));
            out.u32(self.types.offset(ty.size_or_type));
            out.unsigned(1 + u64::from(ADDRESS_SIZE));
            out.byte(ADDRESS);
            out.u64(variable.address);
        }
    }
}

/// The header of the unit, and what its first entry has (DWARF 5, 7.5.1.1).
fn write_head(out: &mut impl Sink, info: usize, base: u64) {
    // The length does not count itself.
    out.u32(info.saturating_sub(4) as u32);
    out.u16(VERSION);
    out.byte(COMPILE);
    out.byte(ADDRESS_SIZE);
    // The offset of the abbreviations.
    out.u32(0);
    Shape::Unit.begin(out);
    out.text(PRODUCER);
    out.byte(C11);
    out.text("vmlinux");
    out.u64(base);
    out.u32(LIST_HEADER as u32);
}

/// The header of a section of lists (DWARF 5, 7.28, 7.29).
fn write_list_head(out: &mut impl Sink, length: usize) {
    out.u32(length.saturating_sub(4) as u32);
    out.u16(VERSION);
    out.byte(ADDRESS_SIZE);
    // Of segment selectors, and how many offsets follow.
    out.byte(0);
    out.u32(0);
}
