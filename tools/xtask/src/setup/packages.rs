//! Programs that come from the distribution: QEMU, debuggers, clang.

use super::lldb;
use crate::process;
use crate::report::Report;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;

/// A program and the package that brings it.
struct Tool {
    /// Names of the program, best first.
    programs: &'static [&'static str],
    /// Debian's and Ubuntu's package.
    package: &'static str,
}

/// What building, running and testing needs.
const TOOLS: [Tool; 4] = [
    Tool {
        programs: &["qemu-system-aarch64"],
        package: "qemu-system-arm",
    },
    Tool {
        programs: &["qemu-aarch64"],
        package: "qemu-user",
    },
    Tool {
        programs: &["gdb-multiarch"],
        package: "gdb-multiarch",
    },
    Tool {
        programs: &["clang"],
        package: "clang",
    },
];

/// A library's header and the package that brings both: the tests of `periscope link` ask libbpf.
const LIBBPF: (&str, &str) = ("/usr/include/bpf/libbpf.h", "libbpf-dev");

/// Finds the tools or installs their packages, and says which versions there are.
pub fn find_or_install(report: &Report) -> Result<()> {
    let mut missing: Vec<&str> = TOOLS
        .iter()
        .filter(|tool| !tool.is_there())
        .map(|tool| tool.package)
        .collect();
    let (header, package) = LIBBPF;
    if !Path::new(header).is_file() {
        missing.push(package);
    }
    if !missing.is_empty() || lldb::newest_installed().is_none() {
        install(report, &missing)?;
    }
    let mut versions: Vec<String> = TOOLS.iter().map(Tool::describe).collect();
    versions.extend(lldb::newest_installed().map(|lldb| describe(&lldb)));
    report.done("tools", &versions.join(", "));
    Ok(())
}

/// Finds programs, given with their packages, that only some commands need, or installs them.
pub(super) fn require(report: &Report, programs: &[(&str, &str)]) -> Result<()> {
    let missing = programs
        .iter()
        .filter(|(program, _)| process::find_program(program).is_none());
    let missing: Vec<&str> = missing.map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    install(report, &missing)
}

impl Tool {
    fn is_there(&self) -> bool {
        self.find().is_some()
    }

    fn find(&self) -> Option<&'static str> {
        self.programs
            .iter()
            .copied()
            .find(|program| process::find_program(program).is_some())
    }

    /// Name and version in words.
    fn describe(&self) -> String {
        match self.find() {
            Some(program) => describe(program),
            None => format!("no {}", self.programs[0]),
        }
    }
}

/// Name and version of a program that is there.
fn describe(program: &str) -> String {
    let text = process::output(Command::new(program).arg("--version")).unwrap_or_default();
    match version_number(&text) {
        Some(version) => format!("{program} {version}"),
        None => program.to_owned(),
    }
}

/// The first word of the first line that looks like a version: `7.2.22` in `QEMU emulator version 7.2.22 (Debian …)`.
fn version_number(text: &str) -> Option<&str> {
    let words = text.lines().next()?.split_whitespace();
    let numbers = words.filter(|word| word.starts_with(|first: char| first.is_ascii_digit()));
    numbers
        .map(|word| word.split(['-', ')']).next().unwrap_or(word))
        .find(|word| word.contains('.'))
}

/// Installs `packages`, and the newest LLDB if there is none.
fn install(report: &Report, packages: &[&str]) -> Result<()> {
    let mut packages: Vec<String> = packages.iter().map(|&name| name.to_owned()).collect();
    if lldb::newest_installed().is_none() {
        packages.push(lldb::newest_offered());
    }
    let list = packages.join(" ");
    if process::find_program("apt-get").is_none() {
        bail!("missing: {list} (Debian's names). Install your distribution's packages of these");
    }
    let step = report.step("tools", &format!("apt-get install {list}"));
    apt_get_install(packages).with_context(|| {
        format!("cannot install {list}: run `apt-get update && apt-get install {list}` as root")
    })?;
    drop(step);
    Ok(())
}

fn apt_get_install(mut packages: Vec<String>) -> Result<()> {
    process::output(&mut apt_get(&["update"])?)?;
    // On a fresh machine apt knows no package before this update.
    for package in packages.iter_mut().filter(|name| name.starts_with("lldb")) {
        *package = lldb::newest_offered();
    }
    let words = ["install", "-y", "--no-install-recommends"];
    process::output(apt_get(&words)?.args(packages)).map(drop)
}

/// apt-get as root, without questions.
fn apt_get(words: &[&str]) -> Result<Command> {
    let mut command = if is_root()? {
        Command::new("env")
    } else if process::find_program("sudo").is_some() {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "env"]);
        sudo
    } else {
        bail!("this needs root, and there is no sudo");
    };
    command
        .args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet"])
        .args(words);
    Ok(command)
}

fn is_root() -> Result<bool> {
    Ok(process::output(Command::new("id").arg("-u"))?.trim() == "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_in_what_programs_print() {
        let qemu = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright";
        assert_eq!(version_number(qemu), Some("7.2.22"));
        assert_eq!(
            version_number("GNU gdb (Debian 13.1-3) 13.1\n"),
            Some("13.1")
        );
        assert_eq!(
            version_number("Debian clang version 14.0.6\n"),
            Some("14.0.6")
        );
        assert_eq!(version_number(""), None);
    }
}
