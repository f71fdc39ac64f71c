//! What a user says of a probe: its place, its program, its options.

use super::{Invocation, Problem, number, refused};
use alloc::format;
use alloc::string::String;
use core::num::NonZeroU64;
use probes::machine::VcpuId;
use probes::options::{AfterRun, MAX_CALLS, Moment, ProbeMode, ProbeOptions};
use probes::programs::ProgramRef;

/// The options, as help shows them.
pub(super) const ARGUMENTS: &str = "[VM:]PLACE [PROGRAM] [--mode hvc|xn|hw] [--vcpu N] [--stop] [--once|--count N] [--ret [--maxactive N]] [--cookie N]";

/// The words after `trace kprobe`.
pub(super) struct ProbeWords<'a> {
    pub(super) place: &'a str,
    pub(super) program: Option<ProgramRef>,
    pub(super) options: ProbeOptions,
}

impl<'a> ProbeWords<'a> {
    pub(super) fn read(invocation: &Invocation<'a>) -> Result<Self, Problem> {
        let mut options = ProbeOptions::default();
        let mut plain: [Option<&'a str>; 2] = [None; 2];
        let mut words = invocation.arguments.iter().copied();
        while let Some(word) = words.next() {
            if word.starts_with("--") {
                read_option(&mut options, word, &mut words)?;
                continue;
            }
            let free = plain.iter_mut().find(|place| place.is_none());
            *free.ok_or_else(|| {
                Problem::Usage(format!(
                    "{word} is one word too many: a place, a program, and options."
                ))
            })? = Some(word);
        }
        let [Some(place), program] = plain else {
            return Err(Problem::Usage("this needs a place.".into()));
        };
        let programs = invocation.periscope().programs();
        let program = program.map(|name| programs.program(name)).transpose();
        Ok(Self {
            place,
            program: program.map_err(refused)?,
            options,
        })
    }

    /// What differs from a probe that goes on and never ends, as a user reads it.
    pub(super) fn describe(&self) -> String {
        let mut text = match self.options.mode {
            ProbeMode::Hvc => String::new(),
            mode => format!(", mode {}", mode_name(mode)),
        };
        text += &match &self.program {
            Some(program) => format!(", program {}", program.name()),
            None => String::from(", no program"),
        };
        if let Some(vcpu) = self.options.vcpu {
            text += &format!(", vcpu{} only", vcpu.0);
        }
        if self.options.after == AfterRun::Stop {
            text += ", stops";
        }
        match self.options.limit.map(NonZeroU64::get) {
            None => {}
            Some(1) => text += ", once",
            Some(count) => text += &format!(", {count} times"),
        }
        text
    }
}

fn read_option<'a>(
    options: &mut ProbeOptions,
    option: &str,
    words: &mut impl Iterator<Item = &'a str>,
) -> Result<(), Problem> {
    match option {
        "--stop" => options.after = AfterRun::Stop,
        "--ret" => options.moment = Moment::RETURN,
        "--maxactive" => match &mut options.moment {
            Moment::Return { max_active } => *max_active = calls(value(option, words)?)?,
            Moment::Before => {
                return Err(Problem::Usage("--maxactive comes after --ret.".into()));
            }
        },
        "--inject" => options.mode = ProbeMode::Hvc,
        "--once" => options.limit = Some(NonZeroU64::MIN),
        "--mode" => options.mode = mode(value(option, words)?)?,
        "--vcpu" => options.vcpu = Some(vcpu(value(option, words)?)?),
        "--cookie" => options.cookie = cookie(words)?,
        "--count" => options.limit = Some(count(value(option, words)?)?),
        _ => return Err(Problem::Usage(format!("there is no {option} here."))),
    }
    Ok(())
}

fn value<'a>(option: &str, words: &mut impl Iterator<Item = &'a str>) -> Result<&'a str, Problem> {
    let value = words.next();
    value.ok_or_else(|| Problem::Usage(format!("{option} needs a value.")))
}

/// What a program is to get from `bpf_get_attach_cookie()`.
pub(super) fn cookie<'a>(words: &mut impl Iterator<Item = &'a str>) -> Result<u64, Problem> {
    let word = value("--cookie", words)?;
    number::parse(word).ok_or_else(|| Problem::Usage(format!("{word:?} is no number.")))
}

fn mode(word: &str) -> Result<ProbeMode, Problem> {
    match word {
        "hvc" => Ok(ProbeMode::Hvc),
        "xn" => Ok(ProbeMode::Xn),
        "hw" => Ok(ProbeMode::Hw),
        _ => Err(Problem::Usage(format!(
            "there is no mode {word}. There are hvc, xn, hw."
        ))),
    }
}

fn vcpu(word: &str) -> Result<VcpuId, Problem> {
    let number = number::parse(word).and_then(|number| u8::try_from(number).ok());
    let number = number.ok_or_else(|| Problem::Usage(format!("{word:?} is no vCPU number.")))?;
    Ok(VcpuId(number))
}

fn count(word: &str) -> Result<NonZeroU64, Problem> {
    let number = number::parse(word).and_then(NonZeroU64::new);
    number.ok_or_else(|| Problem::Usage(format!("{word:?} is no number of hits: 1 or more.")))
}

fn calls(word: &str) -> Result<u16, Problem> {
    let number = number::parse(word).and_then(|number| u16::try_from(number).ok());
    let number = number.filter(|number| (1..=MAX_CALLS).contains(number));
    number.ok_or_else(|| {
        Problem::Usage(format!(
            "{word:?} is no number of calls that can be under way: 1 to {MAX_CALLS}."
        ))
    })
}

/// What users call a mode.
pub(super) const fn mode_name(mode: ProbeMode) -> &'static str {
    match mode {
        ProbeMode::Hvc => "hvc",
        ProbeMode::Xn => "xn",
        ProbeMode::Hw => "hw",
    }
}
