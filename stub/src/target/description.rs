//! The target description: `target.xml` (GDB manual, appendix G).

use super::arch::{RegisterId, RegisterSet};
use super::pointer_masks::{Half, PointerKind};
use alloc::string::String;
use core::fmt::{self, Write};
use gdbstub::target::TargetResult;
use gdbstub::target::ext::target_description_xml_override::TargetDescriptionXmlOverride;
#[cfg(test)]
use probes::regs::SysReg;

/// GDB insists on these two names and on the registers in them (GDB manual, G.5.1 "AArch64 Features").
const CORE: &str = "org.gnu.gdb.aarch64.core";
const FPU: &str = "org.gnu.gdb.aarch64.fpu";
/// Masks that take a pointer authentication code off a pointer (GDB manual, G.5.1.4). The name without `_v2` makes GDB 9
/// to 12 crash. GDB 13 knows no masks of the upper half; since 14 it unwinds kernels with these.
const POINTER_MASKS: &str = "org.gnu.gdb.aarch64.pauth_v2";
/// Ours: GDB shows its registers under `info registers system`.
const SYSTEM: &str = "org.periscope.aarch64.system";

const HEAD: &str = "<?xml version=\"1.0\"?>\n\
<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n\
<target version=\"1.0\">\n\
<architecture>aarch64</architecture>\n";

/// PSTATE as an SPSR has it (Arm ARM C5.2.19).
const CPSR_FLAGS: &str = "<flags id=\"cpsr_flags\" size=\"4\">\
<field name=\"SP\" start=\"0\" end=\"0\"/>\
<field name=\"EL\" start=\"2\" end=\"3\"/>\
<field name=\"nRW\" start=\"4\" end=\"4\"/>\
<field name=\"F\" start=\"6\" end=\"6\"/>\
<field name=\"I\" start=\"7\" end=\"7\"/>\
<field name=\"A\" start=\"8\" end=\"8\"/>\
<field name=\"D\" start=\"9\" end=\"9\"/>\
<field name=\"BTYPE\" start=\"10\" end=\"11\"/>\
<field name=\"SSBS\" start=\"12\" end=\"12\"/>\
<field name=\"IL\" start=\"20\" end=\"20\"/>\
<field name=\"SS\" start=\"21\" end=\"21\"/>\
<field name=\"PAN\" start=\"22\" end=\"22\"/>\
<field name=\"UAO\" start=\"23\" end=\"23\"/>\
<field name=\"DIT\" start=\"24\" end=\"24\"/>\
<field name=\"TCO\" start=\"25\" end=\"25\"/>\
<field name=\"V\" start=\"28\" end=\"28\"/>\
<field name=\"C\" start=\"29\" end=\"29\"/>\
<field name=\"Z\" start=\"30\" end=\"30\"/>\
<field name=\"N\" start=\"31\" end=\"31\"/>\
</flags>\n";

/// The views of a V register that GDB's own description has.
const VECTOR_TYPES: &str = "<vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/>\
<vector id=\"v2u\" type=\"uint64\" count=\"2\"/>\
<vector id=\"v2i\" type=\"int64\" count=\"2\"/>\
<vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/>\
<vector id=\"v4u\" type=\"uint32\" count=\"4\"/>\
<vector id=\"v4i\" type=\"int32\" count=\"4\"/>\
<vector id=\"v8u\" type=\"uint16\" count=\"8\"/>\
<vector id=\"v8i\" type=\"int16\" count=\"8\"/>\
<vector id=\"v16u\" type=\"uint8\" count=\"16\"/>\
<vector id=\"v16i\" type=\"int8\" count=\"16\"/>\
<vector id=\"v1u\" type=\"uint128\" count=\"1\"/>\
<vector id=\"v1i\" type=\"int128\" count=\"1\"/>\n\
<union id=\"vnd\"><field name=\"f\" type=\"v2d\"/><field name=\"u\" type=\"v2u\"/>\
<field name=\"s\" type=\"v2i\"/></union>\
<union id=\"vns\"><field name=\"f\" type=\"v4f\"/><field name=\"u\" type=\"v4u\"/>\
<field name=\"s\" type=\"v4i\"/></union>\
<union id=\"vnh\"><field name=\"u\" type=\"v8u\"/><field name=\"s\" type=\"v8i\"/></union>\
<union id=\"vnb\"><field name=\"u\" type=\"v16u\"/><field name=\"s\" type=\"v16i\"/></union>\
<union id=\"vnq\"><field name=\"u\" type=\"v1u\"/><field name=\"s\" type=\"v1i\"/></union>\n\
<union id=\"aarch64v\"><field name=\"d\" type=\"vnd\"/><field name=\"s\" type=\"vns\"/>\
<field name=\"h\" type=\"vnh\"/><field name=\"b\" type=\"vnb\"/><field name=\"q\" type=\"vnq\"/>\
</union>\n";

/// Writes the description of a set of registers.
pub(crate) fn target_xml(set: RegisterSet) -> String {
    let mut xml = String::new();
    // Writing to a string cannot fail.
    let _ = write_xml(&mut xml, set);
    xml
}

fn write_xml(xml: &mut String, set: RegisterSet) -> fmt::Result {
    xml.push_str(HEAD);
    let registers = set.registers().enumerate();
    for (number, register) in registers {
        match register {
            RegisterId::X(0) => write!(xml, "<feature name=\"{CORE}\">\n{CPSR_FLAGS}")?,
            RegisterId::V(0) => {
                write!(xml, "</feature>\n<feature name=\"{FPU}\">\n{VECTOR_TYPES}")?;
            }
            RegisterId::PointerMask(PointerKind::Data, Half::Low) => {
                write!(xml, "</feature>\n<feature name=\"{POINTER_MASKS}\">\n")?;
            }
            RegisterId::System(register) if register as usize == 0 => {
                write!(xml, "</feature>\n<feature name=\"{SYSTEM}\">\n")?;
            }
            _ => {}
        }
        write_register(xml, number, register)?;
    }
    xml.push_str("</feature>\n</target>\n");
    Ok(())
}

fn write_register(xml: &mut String, number: usize, register: RegisterId) -> fmt::Result {
    let bits = 8 * register.size();
    write!(xml, "<reg name=\"")?;
    match register {
        RegisterId::X(n) => write!(xml, "x{n}\" type=\"int\"")?,
        RegisterId::Sp => write!(xml, "sp\" type=\"data_ptr\"")?,
        RegisterId::Pc => write!(xml, "pc\" type=\"code_ptr\"")?,
        RegisterId::Cpsr => write!(xml, "cpsr\" type=\"cpsr_flags\"")?,
        RegisterId::V(n) => write!(xml, "v{n}\" type=\"aarch64v\"")?,
        RegisterId::Fpsr => write!(xml, "fpsr\" type=\"int\" group=\"float\"")?,
        RegisterId::Fpcr => write!(xml, "fpcr\" type=\"int\" group=\"float\"")?,
        RegisterId::PointerMask(kind, half) => {
            let kind = match kind {
                PointerKind::Data => 'd',
                PointerKind::Code => 'c',
            };
            let half = match half {
                Half::Low => "",
                Half::High => "_high",
            };
            write!(
                xml,
                "pauth_{kind}mask{half}\" type=\"uint64\" group=\"system\" save-restore=\"no\""
            )?;
        }
        // GDB must not save and restore these around the calls that it makes in a guest.
        RegisterId::System(register) => {
            let name = register.name();
            write!(
                xml,
                "{name}\" type=\"uint64\" group=\"system\" save-restore=\"no\""
            )?;
        }
    }
    writeln!(xml, " bitsize=\"{bits}\" regnum=\"{number}\"/>")
}

/// Copies the window `offset..offset + length` of `document` into `buffer` and says how many bytes that were.
pub(super) fn window(document: &[u8], offset: u64, length: usize, buffer: &mut [u8]) -> usize {
    let rest = usize::try_from(offset)
        .ok()
        .and_then(|offset| document.get(offset..));
    let rest = rest.unwrap_or_default();
    let count = rest.len().min(length).min(buffer.len());
    buffer[..count].copy_from_slice(&rest[..count]);
    count
}

impl TargetDescriptionXmlOverride for super::DebugTarget {
    fn target_description_xml(
        &self,
        _annex: &[u8],
        offset: u64,
        length: usize,
        buffer: &mut [u8],
    ) -> TargetResult<usize, Self> {
        Ok(window(self.description.as_bytes(), offset, length, buffer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_register_is_there_once_and_in_order() {
        let sets = [
            (RegisterSet::Guest, SysReg::GUEST),
            (RegisterSet::Hypervisor, SysReg::ALL),
        ];
        for (set, system) in sets {
            let xml = target_xml(set);
            let numbers = xml.split("regnum=\"").skip(1);
            let numbers =
                numbers.map(|rest| rest.split('"').next().unwrap().parse::<usize>().unwrap());
            assert!(numbers.eq(0..set.count()));
            for register in SysReg::ALL {
                let name = alloc::format!("\"{}\"", register.name());
                let expected = usize::from(system.contains(register));
                assert_eq!(xml.matches(&name).count(), expected, "{name}");
                assert_eq!(
                    set.contains(RegisterId::System(*register)),
                    system.contains(register)
                );
            }
        }
    }

    #[test]
    fn nothing_in_it_needs_an_escape_in_a_packet() {
        assert!(!target_xml(RegisterSet::Hypervisor).contains(['#', '$', '}', '*']));
    }

    #[test]
    fn windows_end_at_the_end() {
        let mut buffer = [0; 4];
        assert_eq!(window(b"abcdef", 4, 100, &mut buffer), 2);
        assert_eq!(&buffer[..2], b"ef");
        assert_eq!(window(b"abcdef", 6, 100, &mut buffer), 0);
        assert_eq!(window(b"abcdef", u64::MAX, 100, &mut buffer), 0);
        assert_eq!(window(b"abcdef", 0, 100, &mut buffer), 4);
    }
}
