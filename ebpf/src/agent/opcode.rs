//! The bytecodes (GDB manual, F.2 "Bytecode Descriptions"). Operands follow their opcode, most significant byte first.

/// How many operand bytes there are behind an opcode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Operand {
    /// So many: one number.
    Bytes(u8),
    /// A byte, a length of two bytes, and so many bytes of text with its NUL.
    Text,
}

macro_rules! opcodes {
    ($($variant:ident = $code:literal $name:literal $operand:expr, $pops:literal => $pushes:literal;)*) => {
        /// A bytecode.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum Opcode {
            $(#[doc = concat!("`", $name, "`.")] $variant = $code,)*
        }

        impl Opcode {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The bytecode of that number.
            pub const fn from_byte(byte: u8) -> Option<Self> {
                match byte {
                    $($code => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// As the manual calls it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            pub(super) const fn operand(self) -> Operand {
                match self { $(Self::$variant => $operand),* }
            }

            /// How many values it takes from the stack and puts there. [`Opcode::Pick`] wants more, and [`Opcode::Printf`]
            /// takes more: their operand says how many.
            pub(super) const fn effect(self) -> (usize, usize) {
                match self { $(Self::$variant => ($pops, $pushes)),* }
            }
        }
    };
}

const NONE: Operand = Operand::Bytes(0);
const BYTE: Operand = Operand::Bytes(1);
const HALF: Operand = Operand::Bytes(2);

opcodes! {
    Float = 0x01 "float" NONE, 0 => 0;
    Add = 0x02 "add" NONE, 2 => 1;
    Sub = 0x03 "sub" NONE, 2 => 1;
    Mul = 0x04 "mul" NONE, 2 => 1;
    DivSigned = 0x05 "div_signed" NONE, 2 => 1;
    DivUnsigned = 0x06 "div_unsigned" NONE, 2 => 1;
    RemSigned = 0x07 "rem_signed" NONE, 2 => 1;
    RemUnsigned = 0x08 "rem_unsigned" NONE, 2 => 1;
    Lsh = 0x09 "lsh" NONE, 2 => 1;
    RshSigned = 0x0a "rsh_signed" NONE, 2 => 1;
    RshUnsigned = 0x0b "rsh_unsigned" NONE, 2 => 1;
    Trace = 0x0c "trace" NONE, 2 => 0;
    TraceQuick = 0x0d "trace_quick" BYTE, 1 => 1;
    LogNot = 0x0e "log_not" NONE, 1 => 1;
    BitAnd = 0x0f "bit_and" NONE, 2 => 1;
    BitOr = 0x10 "bit_or" NONE, 2 => 1;
    BitXor = 0x11 "bit_xor" NONE, 2 => 1;
    BitNot = 0x12 "bit_not" NONE, 1 => 1;
    Equal = 0x13 "equal" NONE, 2 => 1;
    LessSigned = 0x14 "less_signed" NONE, 2 => 1;
    LessUnsigned = 0x15 "less_unsigned" NONE, 2 => 1;
    Ext = 0x16 "ext" BYTE, 1 => 1;
    Ref8 = 0x17 "ref8" NONE, 1 => 1;
    Ref16 = 0x18 "ref16" NONE, 1 => 1;
    Ref32 = 0x19 "ref32" NONE, 1 => 1;
    Ref64 = 0x1a "ref64" NONE, 1 => 1;
    RefFloat = 0x1b "ref_float" NONE, 1 => 1;
    RefDouble = 0x1c "ref_double" NONE, 1 => 1;
    RefLongDouble = 0x1d "ref_long_double" NONE, 1 => 1;
    LToD = 0x1e "l_to_d" NONE, 1 => 1;
    DToL = 0x1f "d_to_l" NONE, 1 => 1;
    IfGoto = 0x20 "if_goto" HALF, 1 => 0;
    Goto = 0x21 "goto" HALF, 0 => 0;
    Const8 = 0x22 "const8" BYTE, 0 => 1;
    Const16 = 0x23 "const16" HALF, 0 => 1;
    Const32 = 0x24 "const32" Operand::Bytes(4), 0 => 1;
    Const64 = 0x25 "const64" Operand::Bytes(8), 0 => 1;
    Reg = 0x26 "reg" HALF, 0 => 1;
    End = 0x27 "end" NONE, 0 => 0;
    Dup = 0x28 "dup" NONE, 1 => 2;
    Pop = 0x29 "pop" NONE, 1 => 0;
    ZeroExt = 0x2a "zero_ext" BYTE, 1 => 1;
    Swap = 0x2b "swap" NONE, 2 => 2;
    Getv = 0x2c "getv" HALF, 0 => 1;
    Setv = 0x2d "setv" HALF, 1 => 1;
    // The manual has it leave the value on the stack. Neither what GDB writes nor gdbserver takes it so.
    Tracev = 0x2e "tracev" HALF, 0 => 0;
    Tracenz = 0x2f "tracenz" NONE, 2 => 0;
    Trace16 = 0x30 "trace16" HALF, 1 => 1;
    Pick = 0x32 "pick" BYTE, 0 => 1;
    Rot = 0x33 "rot" NONE, 3 => 3;
    Printf = 0x34 "printf" Operand::Text, 2 => 0;
}

impl Opcode {
    /// Whether it is one of those for floating-point numbers, which the manual has never described and GDB never
    /// writes.
    pub(super) const fn is_floating(self) -> bool {
        matches!(
            self,
            Self::Float
                | Self::RefFloat
                | Self::RefDouble
                | Self::RefLongDouble
                | Self::LToD
                | Self::DToL
        )
    }

    /// Whether it collects something into a trace frame.
    pub(super) const fn collects(self) -> bool {
        matches!(
            self,
            Self::Trace | Self::TraceQuick | Self::Trace16 | Self::Tracenz | Self::Tracev
        )
    }
}
