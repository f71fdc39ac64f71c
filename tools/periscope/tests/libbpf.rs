//! What `periscope link` makes of programs is what libbpf makes of them, to the byte.

mod common;

use common::libbpf::{self, Kernel};
use common::{argument, compile, compile_text, directory, periscope, section, succeed};
use ebpf::linked::Linked;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// Links all of an object's programs and compares those that libbpf accepts. Returns how many.
fn compare(object: &Path, kernel: &Kernel, options: &[&str]) -> usize {
    let theirs = libbpf::programs(object, kernel);
    let stem = object.file_stem().and_then(|stem| stem.to_str());
    let output = directory("libbpf").join(format!("{}.lp", stem.expect("it has a name")));
    let mut words = vec![
        "link",
        argument(object),
        "-o",
        argument(&output),
        "--no-verify",
    ];
    words.extend(options);
    let names: Vec<_> = theirs.iter().map(|program| program.name.clone()).collect();
    for name in &names {
        words.extend(["--program", name]);
    }
    // Some maps of these tools get their sizes when they start.
    loop {
        let said = periscope(&words);
        if said.status.success() {
            break;
        }
        let error = String::from_utf8_lossy(&said.stderr).into_owned();
        if let Some((_, wish)) = error.split_once(" as --map ") {
            words.extend(["--map", wish.trim().to_owned().leak()]);
        } else {
            // Functions that this kernel does not have: the oracle, too, takes another one for them.
            assert!(error.contains("types have no function"), "{error}");
            let is_named = |name: &&String| error.contains(&format!(": program {name}: "));
            let name = names.iter().find(is_named).expect("the error names it");
            words.extend(["--attach", format!("{name}=fentry/vfs_read").leak()]);
        }
    }
    let bytes = fs::read(output).expect("it was just written");
    let linked = Linked::parse(&bytes).expect("what was written should be readable");
    let accepted = theirs.iter().filter_map(|program| {
        let relocated = program.relocated.as_ref()?;
        relocated.assert_same(&linked, &program.name);
        Some(())
    });
    accepted.count()
}

/// A kernel that has the types of a C text.
fn kernel(text: &str, test: &str) -> Kernel {
    let object = compile_text(text, &format!("{test}-kernel"), &[]);
    let btf = directory(test).join("kernel.btf");
    fs::write(&btf, section(&object, ".BTF")).expect("the directory should be writable");
    Kernel {
        btf,
        version: "6.12.7-test".into(),
    }
}

/// Every kind of relocation, with fields that moved, grew, went and came.
#[test]
fn all_co_re_relocations_are_libbpfs() {
    let kernel = kernel(include_str!("bpf/core_kernel.c"), "core");
    for cpu in ["v1", "v3"] {
        let flag = format!("-mcpu={cpu}");
        let object = compile("tests/bpf/core.bpf.c", &format!("core-{cpu}"), &[&flag]);
        let options = ["--btf", argument(&kernel.btf)];
        assert_eq!(compare(&object, &kernel, &options), 7);
        // clang 14 knows no bpf_core_type_matches(): make some questions for existence into it.
        let matching = object.with_file_name("matching.bpf.o");
        fs::write(&matching, ask_for_matches(&object)).expect("the directory is writable");
        assert_eq!(compare(&matching, &kernel, &options), 7);
    }
}

/// An object whose CO-RE relocations of kind 8 (a type exists) are of kind 12 (it matches).
fn ask_for_matches(object: &Path) -> Vec<u8> {
    let mut bytes = fs::read(object).expect("the object was just compiled");
    let ext = section(object, ".BTF.ext");
    let at = bytes.windows(ext.len()).position(|window| window == ext);
    let at = at.expect("the section is in the object");
    let word = |at: usize| {
        let word = ext[at..].first_chunk().expect("the section is whole");
        u32::from_le_bytes(*word) as usize
    };
    let (start, length) = (word(4) + word(24), word(28));
    let mut changed = 0;
    let mut rest = start + 4;
    while rest < start + length {
        let count = word(rest + 4);
        for record in 0..count {
            let kind = rest + 8 + 16 * record + 12;
            if word(kind) == 8 {
                bytes[at + kind] = 12;
                changed += 1;
            }
        }
        rest += 8 + 16 * count;
    }
    assert!(changed > 0, "the source asks whether types exist");
    bytes
}

#[test]
fn maps_data_and_functions_are_libbpfs() {
    let kernel = kernel("int nothing;", "everything");
    for cpu in ["v1", "v3"] {
        let flag = format!("-mcpu={cpu}");
        let test = format!("everything-libbpf-{cpu}");
        let object = compile("tests/bpf/everything.bpf.c", &test, &[&flag]);
        assert_eq!(compare(&object, &kernel, &[]), 2);
    }
}

/// All programs of all tools of Debian's package, against the types of Debian's kernel.
#[test]
fn real_tools_are_libbpfs() {
    let tools = env::var_os("PERISCOPE_LIBBPF_TOOLS")
        .expect("PERISCOPE_LIBBPF_TOOLS names no directory: `cargo xtask test` sets it");
    let entries = fs::read_dir(&tools).expect("it should be a directory");
    let paths = entries.map(|entry| entry.expect("it should be readable").path());
    let is_object = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "o");
    let objects: Vec<_> = paths.filter(is_object).collect();
    assert!(objects.len() > 50, "only {} tools", objects.len());
    let kernels = ["PERISCOPE_KERNEL_IMAGE", "PERISCOPE_OLDSTABLE_IMAGE"].map(env::var_os);
    // The older kernel is `--full`'s.
    assert!(
        kernels[0].is_some(),
        "PERISCOPE_KERNEL_IMAGE names no kernel: `cargo xtask test` sets it"
    );
    for image in kernels.into_iter().flatten() {
        compare_tools(&objects, Path::new(&image));
    }
}

/// Compares the programs of all tools for a kernel.
fn compare_tools(objects: &[PathBuf], image: &Path) {
    let btf = directory("tools").join("kernel.btf");
    succeed(&["btf", argument(image), "-o", argument(&btf)]);
    let bytes = fs::read(image).expect("the image should be readable");
    let version = version(&bytes);
    let kernel = Kernel { btf, version };
    let compared = objects
        .iter()
        .map(|object| compare(object, &kernel, &["--kernel", argument(image)]));
    let compared: usize = compared.sum();
    println!("{}: {compared} programs are the same", image.display());
    assert!(compared > 300, "only {compared} programs");
}

/// The version in `Linux version RELEASE (…) #1 SMP Debian VERSION (…)`. Debian's release may lack the
/// patch level.
fn version(image: &[u8]) -> String {
    let start = b"Linux version ";
    let places = image.windows(start.len()).enumerate();
    let banners = places.filter(|(_, window)| window == start).map(|(at, _)| {
        let end = image[at..]
            .iter()
            .position(|&byte| byte == b'\n')
            .unwrap_or(0);
        String::from_utf8_lossy(&image[at + start.len()..at + end]).into_owned()
    });
    let mut versions = banners.filter_map(|banner| {
        let (_, version) = banner.split_once(" #1 SMP Debian ")?;
        version.split(' ').next().map(str::to_owned)
    });
    versions.next().expect("Debian's kernels have a banner")
}
