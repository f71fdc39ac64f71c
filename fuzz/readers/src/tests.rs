//! Random bytes, and those that a fuzzer once broke a reader with.

use proptest::prelude::*;
use std::path::Path;

type Check = fn(&[u8]);

const READERS: &[(&str, Check)] = &[
    ("btf", crate::btf::check),
    ("kallsyms", crate::kallsyms::check),
    ("kernel_file", crate::kernel_file::check),
    ("ksyms", crate::ksyms::check),
    ("linked", crate::linked::check),
    ("program", crate::program::check),
    ("session", crate::session::check),
    ("system_map", crate::system_map::check),
    ("translate", crate::translate::check),
    ("verify_run", crate::verify_run::check),
];

proptest! {
    #[test]
    fn random_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        for (_, check) in READERS {
            check(&bytes);
        }
    }
}

/// What real clients have said is survived, of course; these are where a fuzzer begins.
#[test]
fn recorded_sessions_are_survived() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../seeds/session");
    let files = std::fs::read_dir(seeds).expect("they are committed");
    for file in files {
        let path = file.expect("a directory's entry").path();
        println!("{}", path.display());
        crate::session::check(&std::fs::read(path).expect("a committed file"));
    }
}

#[test]
fn what_was_found_stays_mended() {
    let found = Path::new(env!("CARGO_MANIFEST_DIR")).join("../regressions");
    for (reader, check) in READERS {
        let Ok(files) = std::fs::read_dir(found.join(reader)) else {
            continue;
        };
        for file in files {
            let path = file.expect("a directory's entry").path();
            println!("{}", path.display());
            check(&std::fs::read(path).expect("a committed file"));
        }
    }
}
