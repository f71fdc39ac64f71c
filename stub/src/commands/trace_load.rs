//! `trace load`.

use super::{Command, Invocation, Problem};
use alloc::format;
use probes::attach_point::AttachPoint;

pub(super) const COMMAND: Command = Command {
    path: &["trace", "load"],
    arguments: "NAME",
    summary: "show an uploaded object's programs and where they belong, or why it was refused",
    run,
};

fn run(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let [file] = invocation.exactly()?;
    let name = object_name(file);
    let refused = invocation.server.refused_uploads();
    if let Some(upload) = refused.into_iter().find(|upload| upload.name == name) {
        return Err(Problem::Refused(format!("{name}: {}", upload.reason)));
    }
    let Ok(object) = invocation.periscope().programs().object(name) else {
        return Err(Problem::Refused(format!(
            "no object {name} has been uploaded: GDB's `remote put {name}.lp {name}.lp` does that (`periscope link \
             {name}.bpf.o` makes one)."
        )));
    };
    for program in object.programs() {
        let (own, section) = (program.name(), program.section());
        match AttachPoint::of_section(section) {
            Ok(_) => writeln!(invocation.out, "{name}:{own}: {section}")?,
            Err(error) => writeln!(invocation.out, "{name}:{own}: {error}")?,
        }
    }
    let maps = object.maps();
    if !maps.is_empty() {
        write!(invocation.out, "maps:")?;
        for map in maps {
            write!(invocation.out, " {}", map.name())?;
        }
        writeln!(invocation.out)?;
    }
    Ok(())
}

/// The name that an uploaded file's object has.
fn object_name(file: &str) -> &str {
    file.strip_suffix(".lp").unwrap_or(file)
}
