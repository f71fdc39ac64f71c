//! The helpers that Linux does not have and programs in C can call: numbers from 250 on. Linux gives out no more numbers; its last is 211
//! (`include/uapi/linux/bpf.h`).

use super::Helper;

/// How programs in C name a private helper, and what it says.
#[derive(Clone, Copy, Debug)]
pub struct Private {
    /// The helper. In C its name begins with `bpf_`.
    pub helper: Helper,
    /// The type of what it returns.
    pub result: &'static str,
    /// Its parameters.
    pub parameters: &'static str,
    /// What it returns, in one sentence.
    pub summary: &'static str,
    /// The number that it had in the project that Periscope grew out of.
    pub seed: Option<i32>,
}

/// All of them, by number.
pub const PRIVATE: &[Private] = &[
    Private {
        helper: Helper::DurationNs,
        result: "__u64",
        parameters: "void",
        summary: "Nanoseconds that the call took that returns, or what a tracepoint measures; 0 elsewhere.",
        seed: None,
    },
    Private {
        helper: Helper::GetVmId,
        result: "__u32",
        parameters: "void",
        summary: "The VM: 1, 2, …; 0 is the hypervisor itself.",
        seed: Some(100),
    },
    Private {
        helper: Helper::GetVcpuId,
        result: "__u32",
        parameters: "void",
        summary: "The vCPU of that VM, from 0; of the hypervisor the CPU.",
        seed: Some(101),
    },
    Private {
        helper: Helper::GetExitReason,
        result: "__u64",
        parameters: "void",
        summary: "ESR_EL2 as the last exception of a vCPU on this CPU has left it; 0 where the program has no vCPU's memory.",
        seed: Some(102),
    },
    Private {
        helper: Helper::GetTracepointName,
        result: "long",
        parameters: "char *buf, __u32 size",
        summary: "Writes the tracepoint's name, as vmm:page_fault: 0, or -EINVAL at no tracepoint.",
        seed: Some(10),
    },
];

impl Helper {
    /// The helper of that number in the project that Periscope grew out of, where Linux means another one by
    /// it.
    pub fn from_seed_number(number: i32) -> Option<Self> {
        let mut private = PRIVATE.iter();
        let named = private.find(|private| private.seed == Some(number));
        named.map(|private| private.helper)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_numbers_are_not_linux() {
        const LINUX: u8 = 211;
        let ours = Helper::ALL.iter().filter(|helper| **helper as u8 > LINUX);
        let ours = ours.filter(|helper| !helper.is_of_expressions());
        let declared = PRIVATE.iter().map(|private| &private.helper);
        assert!(ours.eq(declared));
        for private in PRIVATE {
            // Where Linux has a helper of that number, programs get ours only if they say so.
            assert!(
                private
                    .seed
                    .is_none_or(|seed| Helper::from_number(seed).is_none())
            );
        }
        assert_eq!(
            Helper::from_seed_number(10),
            Some(Helper::GetTracepointName)
        );
        assert_eq!(Helper::from_seed_number(11), None);
    }
}
