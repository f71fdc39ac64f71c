//! Packages of Debian releases that the machine itself may not run: private state directories, the machine's own
//! mirror and proxy settings, and never a change to the machine's own package lists.

use crate::process;
use anyhow::{Context, Result, bail};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names a Debian mirror where the machine's own configuration has none.
const MIRROR_VARIABLE: &str = "PERISCOPE_DEBIAN_MIRROR";
/// Debian's own signing keys; the package `debian-archive-keyring` installs it.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Where apt keeps its sources.
const SOURCES_DIR: &str = "/etc/apt";

/// The addresses of Debian's two archives.
#[derive(Debug, PartialEq, Eq)]
struct Mirrors {
    main: String,
    security: Option<String>,
}

/// An apt of our own, for some suites and one architecture.
pub struct PrivateApt {
    root: PathBuf,
    options: Vec<String>,
}

impl PrivateApt {
    /// An apt in `root` that knows `suites` (such as `trixie` or `trixie-security`) for `architecture`. Its lists are
    /// empty until [`PrivateApt::update`].
    pub fn new(root: &Path, architecture: &str, suites: &[&str]) -> Result<Self> {
        if process::find_program("apt-get").is_none() {
            bail!("this machine has no apt-get, which downloads Debian's packages");
        }
        if !Path::new(KEYRING).is_file() {
            bail!("{KEYRING} is missing: install it with `apt-get install debian-archive-keyring`");
        }
        let mirrors = find_mirrors()?;
        for dir in ["lists/partial", "archives/partial", "downloads"] {
            fs::create_dir_all(root.join(dir))
                .with_context(|| format!("cannot create {}", root.join(dir).display()))?;
        }
        fs::write(root.join("sources.list"), source_lines(&mirrors, suites))?;
        fs::write(root.join("status"), "")?;
        let options = options(root, architecture);
        Ok(Self {
            root: root.to_owned(),
            options,
        })
    }

    /// Fetches the package lists.
    pub fn update(&self) -> Result<()> {
        let mut update = self.command("apt-get");
        for target in unneeded_targets()? {
            update.args([
                "-o",
                &format!("Acquire::IndexTargets::deb::{target}::DefaultEnabled=false"),
            ]);
        }
        // Without Error-Mode a mirror that cannot be reached is a warning and yesterday's lists.
        process::output(update.args(["-o", "APT::Update::Error-Mode=any", "--quiet", "update"]))?;
        Ok(())
    }

    /// The versions of a package, newest first; none where there is no such package.
    pub fn versions(&self, package: &str) -> Result<Vec<String>> {
        let madison = process::output(self.command("apt-cache").args(["madison", package]))?;
        Ok(madison
            .lines()
            .filter_map(|line| line.split('|').nth(1))
            .map(|version| version.trim().to_owned())
            .collect())
    }

    /// One field of the newest version of a package.
    pub fn field(&self, package: &str, field: &str) -> Result<String> {
        let mut show = self.command("apt-cache");
        let record = process::output(show.args(["show", "--no-all-versions", package]))?;
        record
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(": "))
            .map(str::to_owned)
            .with_context(|| format!("package {package} has no field {field}"))
    }

    /// Downloads a package, verified against Debian's keys, and returns the path of its `.deb`.
    pub fn download(&self, package: &str, version: &str) -> Result<PathBuf> {
        let dir = self.root.join("downloads");
        fs::remove_dir_all(&dir)?;
        fs::create_dir(&dir)?;
        let mut download = self.command("apt-get");
        download
            .current_dir(&dir)
            .args(["--quiet", "download", &format!("{package}={version}")]);
        process::output(&mut download)?;
        let entry = fs::read_dir(&dir)?
            .next()
            .context("apt-get download wrote no file")??;
        Ok(entry.path())
    }

    /// Downloads a package and everything that it depends on, verified, and returns the paths of the `.deb`s.
    pub fn download_with_dependencies(&self, package: &str) -> Result<Vec<PathBuf>> {
        let mut install = self.command("apt-get");
        install.args(["--quiet", "--yes", "--no-install-recommends"]);
        process::output(install.args(["--download-only", "install", package]))?;
        let archives = fs::read_dir(self.root.join("archives"))?;
        let paths = archives.map(|entry| Ok(entry?.path()));
        let paths: Vec<PathBuf> = paths.collect::<Result<_>>()?;
        let is_deb = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "deb");
        Ok(paths.into_iter().filter(is_deb).collect())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C");
        for option in &self.options {
            command.args(["-o", option]);
        }
        command
    }
}

/// Unpacks a `.deb` into a directory.
pub fn unpack(deb: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    process::output(Command::new("dpkg-deb").arg("-x").arg(deb).arg(to))?;
    Ok(())
}

fn options(root: &Path, architecture: &str) -> Vec<String> {
    let root = root.display();
    vec![
        format!("Dir::Etc::sourcelist={root}/sources.list"),
        "Dir::Etc::sourceparts=/dev/null".to_owned(),
        "Dir::Etc::preferencesparts=/dev/null".to_owned(),
        "Dir::Etc::preferences=/dev/null".to_owned(),
        format!("Dir::State={root}"),
        format!("Dir::State::lists={root}/lists"),
        format!("Dir::State::status={root}/status"),
        format!("Dir::Cache={root}"),
        format!("APT::Architecture={architecture}"),
        format!("APT::Architectures={architecture}"),
        // The directory is the user's, which root's helper user `_apt` may not be able to enter.
        "APT::Sandbox::User=root".to_owned(),
        "Acquire::Languages=none".to_owned(),
        "Acquire::PDiffs=false".to_owned(),
        "Acquire::Retries=2".to_owned(),
    ]
}

/// Index targets of the machine's apt that are not package lists (`DEP-11`, `Contents-deb`, …): long and not needed.
fn unneeded_targets() -> Result<Vec<String>> {
    let dump =
        process::output(Command::new("apt-config").args(["dump", "Acquire::IndexTargets::deb"]))?;
    let mut targets: Vec<String> = dump
        .lines()
        .filter_map(|line| line.strip_prefix("Acquire::IndexTargets::deb::"))
        .filter_map(|rest| rest.split([':', ' ']).next())
        .filter(|target| !target.is_empty() && *target != "Packages")
        .map(str::to_owned)
        .collect();
    targets.sort();
    targets.dedup();
    Ok(targets)
}

fn source_lines(mirrors: &Mirrors, suites: &[&str]) -> String {
    let mut lines = String::new();
    for suite in suites {
        let mirror = match &mirrors.security {
            Some(security) if suite.ends_with("-security") => security,
            None if suite.ends_with("-security") => continue,
            _ => &mirrors.main,
        };
        lines += &format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n");
    }
    lines
}

/// The mirrors that the user names, or else those of the machine's own sources.
fn find_mirrors() -> Result<Mirrors> {
    if let Ok(main) = env::var(MIRROR_VARIABLE) {
        return Ok(Mirrors {
            main,
            security: None,
        });
    }
    let mut texts = Vec::new();
    let mut paths = vec![Path::new(SOURCES_DIR).join("sources.list")];
    if let Ok(entries) = fs::read_dir(Path::new(SOURCES_DIR).join("sources.list.d")) {
        paths.extend(entries.flatten().map(|entry| entry.path()));
    }
    for path in paths {
        if let Ok(text) = fs::read_to_string(&path) {
            texts.push(text);
        }
    }
    let sources: Vec<Source> = texts.iter().flat_map(|text| parse_sources(text)).collect();
    debian_mirrors(&sources).with_context(|| {
        format!(
            "{SOURCES_DIR} names no Debian mirror (is this another distribution?): set {MIRROR_VARIABLE} to the URL \
             of one, such as the URI of the `bookworm main` line on a Debian machine"
        )
    })
}

/// One suite at one address.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    uri: String,
    suite: String,
}

/// Reads both formats of apt sources (`sources.list(5)`): one line each, and deb822 stanzas. Only `main`.
fn parse_sources(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    for stanza in text.split("\n\n") {
        sources.extend(parse_stanza(stanza));
        sources.extend(stanza.lines().filter_map(parse_line));
    }
    sources
}

fn parse_line(line: &str) -> Option<Source> {
    let mut rest = line.strip_prefix("deb ")?.trim_start();
    if rest.starts_with('[') {
        rest = rest.split_once(']')?.1;
    }
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    words.any(|component| component == "main").then(|| Source {
        uri: uri.to_owned(),
        suite: suite.to_owned(),
    })
}

fn parse_stanza(stanza: &str) -> Vec<Source> {
    let field = |name: &str| {
        let line = stanza
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default()
            .split_whitespace()
            .collect::<Vec<_>>()
    };
    let usable = field("Types").contains(&"deb")
        && field("Components").contains(&"main")
        && field("Enabled") != ["no"];
    let Some(uri) = field("URIs").first().copied().filter(|_| usable) else {
        return Vec::new();
    };
    let source = |suite: &&str| Source {
        uri: uri.to_owned(),
        suite: (*suite).to_owned(),
    };
    field("Suites").iter().map(source).collect()
}

/// A Debian mirror is what carries a Debian release by name.
fn debian_mirrors(sources: &[Source]) -> Option<Mirrors> {
    const RELEASES: [&str; 7] = [
        "bullseye", "bookworm", "trixie", "forky", "stable", "testing", "sid",
    ];
    let main = sources
        .iter()
        .find(|source| RELEASES.contains(&source.suite.as_str()))?;
    let security = sources.iter().find(|source| {
        source
            .suite
            .strip_suffix("-security")
            .is_some_and(|name| RELEASES.contains(&name))
    });
    Some(Mirrors {
        main: main.uri.clone(),
        security: security.map(|source| source.uri.clone()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_from_both_formats() {
        let deb822 = "Types: deb\n# a comment\nURIs: http://mirror.test/debian\nSuites: bookworm bookworm-updates\n\
                      Components: main\n\nTypes: deb\nURIs: http://mirror.test/security\nSuites: bookworm-security\n\
                      Components: main\n";
        let lines = "deb http://other.test/repo nodistro main\n\
                     deb [arch=amd64 signed-by=/k] http://mirror.test/debian bookworm main contrib\n\
                     # deb http://commented.test bookworm main\n\
                     deb http://mirror.test/security bookworm-security main\n";
        let expected = Mirrors {
            main: "http://mirror.test/debian".to_owned(),
            security: Some("http://mirror.test/security".to_owned()),
        };
        assert_eq!(
            debian_mirrors(&parse_sources(deb822)).as_ref(),
            Some(&expected)
        );
        assert_eq!(
            debian_mirrors(&parse_sources(lines)).as_ref(),
            Some(&expected)
        );
    }

    #[test]
    fn other_distributions_have_no_debian_mirror() {
        let ubuntu = "deb http://archive.test/ubuntu noble main universe\n";
        assert_eq!(debian_mirrors(&parse_sources(ubuntu)), None);
        let disabled =
            "Types: deb\nURIs: http://m.test\nSuites: sid\nComponents: main\nEnabled: no\n";
        assert_eq!(debian_mirrors(&parse_sources(disabled)), None);
    }

    #[test]
    fn security_suites_come_from_the_security_archive() {
        let mirrors = Mirrors {
            main: "M".into(),
            security: Some("S".into()),
        };
        let lines = source_lines(&mirrors, &["trixie", "trixie-security"]);
        assert!(
            lines.contains("] M trixie main\n") && lines.contains("] S trixie-security main\n")
        );
        let without = Mirrors {
            main: "M".into(),
            security: None,
        };
        assert!(!source_lines(&without, &["trixie-security"]).contains("security"));
    }
}
