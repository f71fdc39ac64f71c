//! The programs that a user can attach, by name.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use ebpf::agent::{self, Expression, Refused, Registers};
use ebpf::jit::Compiler;
use ebpf::linked::{Linked, ParseError};
use ebpf::map::{Map, MapId};
use ebpf::{LoadError, Object, Program};
use spin::RwLock;

/// One program of a loaded object.
#[derive(Clone, Debug)]
pub struct ProgramRef {
    object: Arc<Object>,
    program: Arc<Program>,
    name: Arc<str>,
}

impl ProgramRef {
    /// The program.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The object that it belongs to.
    pub fn object(&self) -> &Arc<Object> {
        &self.object
    }

    /// Whether both are the same program of the same object, by whatever name.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.program, &other.program)
    }

    /// As a user names it: `count`, or `object:program` where the object has several.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// As a user reads it: its name, and that it is interpreted where others are compiled.
impl fmt::Display for ProgramRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match self.program().declined() {
            Some(_) => f.write_str(" (interpreted)"),
            None => Ok(()),
        }
    }
}

/// The session that has loaded an object: a quota of map memory is its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner(pub u32);

/// Why the store refuses. `Display` tells the user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoreError {
    /// The bytes are no linked program.
    Parse(ParseError),
    /// The program was refused.
    Load(LoadError),
    /// No object has that name.
    NoSuchObject {
        /// The name that was asked for.
        name: String,
        /// The names that there are.
        known: Vec<String>,
    },
    /// The object has no such program.
    NoSuchProgram {
        /// The object.
        object: String,
        /// The program that was asked for; empty where none was named and there are several.
        program: String,
        /// The programs that there are.
        known: Vec<String>,
    },
    /// The name belongs to a built-in program.
    Builtin(String),
    /// The name is empty, too long, or holds a character that commands use.
    BadName(String),
    /// The store is full.
    Full,
    /// Another session has loaded an object of that name.
    NotYours(String),
    /// The maps of all objects of the session would take more than [`MapMemory::session`].
    SessionQuota {
        /// Bytes that the object's maps would take.
        needed: u64,
        /// Bytes that the maps of the session's other objects take.
        used: u64,
        /// Bytes that those of a session may take.
        quota: u64,
    },
    /// The maps of all objects would take more than [`MapMemory::all`].
    NoMapMemory {
        /// Bytes that the object's maps would take.
        needed: u64,
        /// Bytes that the maps of the others leave.
        left: u64,
    },
    /// The bytes that the object was loaded from are not kept.
    NotKept(String),
    /// Probes use the object.
    InUse {
        /// The object.
        name: String,
        /// Who uses it, such as `vm1 probe 3`.
        users: Vec<String>,
    },
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parse(error) => error.fmt(f),
            Self::Load(error) => write!(f, "refused: {error}"),
            Self::NoSuchObject { name, known } => {
                write!(f, "no program {name}. There are {}.", known.join(", "))
            }
            Self::NoSuchProgram {
                object,
                program,
                known,
            } if program.is_empty() => {
                write!(
                    f,
                    "{object} has several programs: say {object}:PROGRAM, of {}.",
                    known.join(", ")
                )
            }
            Self::NoSuchProgram {
                object,
                program,
                known,
            } => {
                write!(
                    f,
                    "{object} has no program {program}. It has {}.",
                    known.join(", ")
                )
            }
            Self::Builtin(name) => write!(f, "{name} is built in: choose another name"),
            Self::BadName(name) => {
                write!(
                    f,
                    "{name:?} is no program name: use 1 to {MAX_NAME} letters, \
                     digits, `_`, `-`, `.`"
                )
            }
            Self::Full => write!(
                f,
                "there are {MAX_OBJECTS} programs already: unload one first"
            ),
            Self::NotYours(name) => write!(
                f,
                "another session has loaded {name}: choose another name, or unload that one first"
            ),
            Self::SessionQuota {
                needed,
                used,
                quota,
            } => write!(
                f,
                "the maps take {needed} bytes, and of the {quota} that a session may \
                 have, {used} are used: give them fewer entries, or unload another program first"
            ),
            Self::NoMapMemory { needed, left } => write!(
                f,
                "the maps take {needed} bytes and {left} are left: give them fewer entries, or \
                 unload another program first"
            ),
            Self::NotKept(name) => write!(
                f,
                "{name} was loaded when {} MiB of programs were kept already: it cannot be read back",
                KEPT_BYTES >> 20
            ),
            Self::InUse { name, users } => {
                write!(f, "{name} is in use by {}: detach first", users.join(", "))
            }
        }
    }
}

impl core::error::Error for StoreError {}

/// How many objects can be loaded besides the built-in ones.
pub const MAX_OBJECTS: usize = 64;

/// Bytes of uploaded objects that are kept for who wants to read them back. What comes when there are as many is not.
const KEPT_BYTES: usize = 4 << 20;

/// How many bytes maps may take. The rest of the hypervisor's heap is for what must not fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapMemory {
    /// Those of one object.
    pub object: u64,
    /// Those of the objects of one session, so that no session takes all there is.
    pub session: u64,
    /// Those of all uploaded objects.
    pub all: u64,
}

impl MapMemory {
    /// What there is where nobody says otherwise.
    pub const DEFAULT: Self = Self::of(32 << 20);

    /// `all` bytes: five eighths for a session, half for an object.
    pub const fn of(all: u64) -> Self {
        Self {
            object: all / 2,
            session: all / 8 * 5,
            all,
        }
    }
}

/// Bytes of an object's name at most.
pub const MAX_NAME: usize = 64;

/// Compiles the programs of an object. One that cannot be compiled is interpreted.
fn compile(object: &mut Object, compiler: Option<&dyn Compiler>) {
    if let Some(compiler) = compiler {
        object.compile(compiler);
    }
}

/// An object of the store.
struct Stored {
    object: Arc<Object>,
    /// `None` for a built-in one.
    owner: Option<Owner>,
    /// What it was loaded from: a linked program.
    bytes: Option<Arc<[u8]>>,
}

/// Loaded objects by name: the built-in ones, and those that a user uploaded.
pub struct ProgramStore {
    cpus: usize,
    compiler: Option<&'static dyn Compiler>,
    map_memory: MapMemory,
    objects: RwLock<BTreeMap<String, Stored>>,
}

impl ProgramStore {
    /// A store with the built-in programs, for a machine with `cpus` physical CPUs. All programs are
    /// interpreted.
    pub fn new(cpus: usize) -> Result<Self, LoadError> {
        Self::with(cpus, None, MapMemory::DEFAULT)
    }

    /// A store with the built-in programs, whose programs run compiled as far as `compiler` can.
    pub fn with(
        cpus: usize,
        compiler: Option<&'static dyn Compiler>,
        map_memory: MapMemory,
    ) -> Result<Self, LoadError> {
        let mut objects = BTreeMap::new();
        for name in ebpf::builtin::NAMES {
            let mut object = ebpf::builtin::load(name, cpus)?;
            compile(&mut object, compiler);
            let stored = Stored {
                object: Arc::new(object),
                owner: None,
                bytes: bytes_of_builtin(name),
            };
            objects.insert(name.to_string(), stored);
        }
        Ok(Self {
            cpus,
            compiler,
            map_memory,
            objects: RwLock::new(objects),
        })
    }

    /// The object of that name.
    pub fn object(&self, name: &str) -> Result<Arc<Object>, StoreError> {
        let objects = self.objects.read();
        objects
            .get(name)
            .map(|stored| stored.object.clone())
            .ok_or_else(|| no_such_object(&objects, name))
    }

    /// The linked program that the object of that name was loaded from.
    pub fn bytes(&self, name: &str) -> Result<Arc<[u8]>, StoreError> {
        let objects = self.objects.read();
        let stored = objects
            .get(name)
            .ok_or_else(|| no_such_object(&objects, name))?;
        let kept = stored.bytes.clone();
        kept.ok_or_else(|| StoreError::NotKept(name.to_string()))
    }

    /// The program that a user names as `object`, where it has one program, or `object:program`.
    pub fn program(&self, name: &str) -> Result<ProgramRef, StoreError> {
        let (object_name, wanted) = match name.split_once(':') {
            Some((object, program)) => (object, Some(program)),
            None => (name, None),
        };
        // What the project that Periscope grew out of called two of the built-in programs.
        let object_name = match object_name {
            "hprobe_entry" => "args",
            "hprobe_exit" => "ret",
            name => name,
        };
        let object = self.object(object_name)?;
        let programs = object.programs();
        let found = match wanted {
            Some(wanted) => object.program(wanted),
            None if programs.len() == 1 => programs.first(),
            None => None,
        };
        let Some(program) = found else {
            return Err(StoreError::NoSuchProgram {
                object: object_name.to_string(),
                program: wanted.unwrap_or_default().to_string(),
                known: programs
                    .iter()
                    .map(|program| program.name().to_string())
                    .collect(),
            });
        };
        Ok(ProgramRef {
            program: Arc::clone(program),
            name: Arc::from(name),
            object,
        })
    }

    /// Makes one program of a client's expressions ([`ebpf::agent`]), which the store does not keep.
    pub fn compile_expressions(
        &self,
        name: &str,
        expressions: &[Expression<'_>],
        registers: &dyn Registers,
    ) -> Result<ProgramRef, Refused> {
        let compiled = agent::compile(name, expressions, registers)?;
        let mut object = compiled.load(self.cpus)?;
        compile(&mut object, self.compiler);
        let object = Arc::new(object);
        // An object has at least one program, and this one no other.
        let program = Arc::clone(&object.programs()[0]);
        Ok(ProgramRef {
            object,
            program,
            name: Arc::from(name),
        })
    }

    /// The program of a built-in object.
    pub(crate) fn builtin(&self, name: &str) -> Result<ProgramRef, LoadError> {
        self.program(name).map_err(|_| LoadError::NoSuchBuiltin)
    }

    /// Looks at the map of that number; `None` where its object has gone.
    pub fn with_map<R>(&self, id: MapId, look: impl FnOnce(&Map) -> R) -> Option<R> {
        let objects = self.objects.read();
        let mut maps = objects.values().flat_map(|stored| stored.object.maps());
        maps.find(|map| map.id() == id).map(look)
    }

    /// What a user calls the map of that number: `opens:events`; `None` where its object has gone.
    pub fn map_path(&self, id: MapId) -> Option<String> {
        let objects = self.objects.read();
        objects.iter().find_map(|(name, stored)| {
            let map = stored.object.maps().iter().find(|map| map.id() == id)?;
            Some(alloc::format!("{name}:{}", map.name()))
        })
    }

    /// The maps that records pass through, and how many each has lost.
    pub fn lost_records(&self) -> Vec<(MapId, u64)> {
        let objects = self.objects.read();
        let maps = objects.values().flat_map(|stored| stored.object.maps());
        maps.filter_map(|map| Some((map.id(), map.output()?.lost)))
            .collect()
    }

    /// Names of all objects, in order.
    pub fn names(&self) -> Vec<String> {
        self.objects.read().keys().cloned().collect()
    }

    /// Names of the objects that a session has loaded.
    pub fn owned_by(&self, owner: Owner) -> Vec<String> {
        let objects = self.objects.read();
        let owned = objects
            .iter()
            .filter(|(_, stored)| stored.owner == Some(owner));
        owned.map(|(name, _)| name.clone()).collect()
    }

    /// Verifies the linked program `bytes` and keeps it as `name`, in place of an earlier object of
    /// that name and owner. [`crate::periscope::Periscope::load_program`] checks first that no probe uses
    /// that.
    pub(crate) fn load(&self, name: &str, bytes: &[u8], owner: Owner) -> Result<(), StoreError> {
        self.changeable(name)?;
        self.check_owner(name, owner)?;
        let linked = Linked::parse(bytes).map_err(StoreError::Parse)?;
        self.check_map_memory(name, &linked, owner)?;
        let object = Object::load_within(&linked, self.cpus, self.map_memory.object);
        let mut object = object.map_err(StoreError::Load)?;
        compile(&mut object, self.compiler);
        let mut objects = self.objects.write();
        let uploaded = objects.len().saturating_sub(ebpf::builtin::NAMES.len());
        if uploaded >= MAX_OBJECTS && !objects.contains_key(name) {
            return Err(StoreError::Full);
        }
        let kept = bytes.len() <= KEPT_BYTES.saturating_sub(kept_beside(&objects, name));
        let stored = Stored {
            object: Arc::new(object),
            owner: Some(owner),
            bytes: kept.then(|| Arc::from(bytes)),
        };
        objects.insert(name.to_string(), stored);
        Ok(())
    }

    /// Whether `owner` may replace what is called `name`.
    fn check_owner(&self, name: &str, owner: Owner) -> Result<(), StoreError> {
        match self.objects.read().get(name) {
            Some(stored) if stored.owner != Some(owner) => {
                Err(StoreError::NotYours(name.to_string()))
            }
            _ => Ok(()),
        }
    }

    /// Whether there is memory for the maps of `linked` beside those of all objects but `name`,
    /// which it would replace: in the store, and in what its owner may have.
    fn check_map_memory(
        &self,
        name: &str,
        linked: &Linked,
        owner: Owner,
    ) -> Result<(), StoreError> {
        let needed = linked.maps.iter().map(|map| map.memory(self.cpus)).sum();
        let used = self.memory_of(|other, stored| other != name && stored.owner == Some(owner));
        let quota = self.map_memory.session;
        if needed > quota.saturating_sub(used) {
            return Err(StoreError::SessionQuota {
                needed,
                used,
                quota,
            });
        }
        let taken = self.memory_of(|other, _| other != name);
        let left = self.map_memory.all.saturating_sub(taken);
        if needed > left {
            return Err(StoreError::NoMapMemory { needed, left });
        }
        Ok(())
    }

    /// Bytes that the maps of such objects take.
    fn memory_of(&self, is_wanted: impl Fn(&str, &Stored) -> bool) -> u64 {
        let objects = self.objects.read();
        let wanted = objects
            .iter()
            .filter(|(name, stored)| is_wanted(name, stored));
        let maps = wanted.flat_map(|(_, stored)| stored.object.maps());
        maps.map(|map| map.definition().memory(self.cpus)).sum()
    }

    /// How many bytes maps may take.
    pub fn map_limits(&self) -> MapMemory {
        self.map_memory
    }

    /// Bytes that the maps of all objects take.
    pub fn map_memory(&self) -> u64 {
        self.memory_of(|_, _| true)
    }

    /// Bytes that the maps of a session's objects take.
    pub fn map_memory_of(&self, owner: Owner) -> u64 {
        self.memory_of(|_, stored| stored.owner == Some(owner))
    }

    /// For how many CPUs objects are loaded.
    pub fn cpus(&self) -> usize {
        self.cpus
    }

    /// Forgets the object `name`.
    pub(crate) fn unload(&self, name: &str) -> Result<(), StoreError> {
        self.changeable(name)?;
        self.object(name)?;
        self.objects.write().remove(name);
        Ok(())
    }

    fn changeable(&self, name: &str) -> Result<(), StoreError> {
        if ebpf::builtin::NAMES.contains(&name) {
            return Err(StoreError::Builtin(name.to_string()));
        }
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(valid) {
            return Err(StoreError::BadName(name.chars().take(MAX_NAME).collect()));
        }
        Ok(())
    }
}

/// A built-in object as a linked program.
fn bytes_of_builtin(name: &str) -> Option<Arc<[u8]>> {
    let encoded = ebpf::builtin::linked(name)?.encode().ok()?;
    Some(Arc::from(encoded))
}

fn no_such_object(objects: &BTreeMap<String, Stored>, name: &str) -> StoreError {
    StoreError::NoSuchObject {
        name: name.to_string(),
        known: objects.keys().cloned().collect(),
    }
}

/// Bytes that are kept of uploaded objects, without that of `name`.
fn kept_beside(objects: &BTreeMap<String, Stored>, name: &str) -> usize {
    let others = objects
        .iter()
        .filter(|(other, stored)| *other != name && stored.owner.is_some());
    let kept = others.filter_map(|(_, stored)| stored.bytes.as_ref());
    kept.map(|bytes| bytes.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    const ME: Owner = Owner(1);
    const YOU: Owner = Owner(2);

    /// A linked object with the programs `names`, each of which is `count`.
    fn object(names: &[&str]) -> Vec<u8> {
        let mut linked = ebpf::builtin::linked("count").unwrap();
        let count = linked.programs[0].clone();
        let named = |name: &&str| {
            let mut program = count.clone();
            program.name = name.to_string();
            program
        };
        linked.programs = names.iter().map(named).collect();
        linked.encode().unwrap()
    }

    #[test]
    fn an_object_of_several_programs_wants_to_hear_which() {
        let store = ProgramStore::new(2).unwrap();
        store
            .load("pair", &object(&["enter", "leave"]), ME)
            .unwrap();
        let program = store.program("pair:leave").unwrap();
        assert_eq!(
            (program.name(), program.program().name()),
            ("pair:leave", "leave")
        );
        let ambiguous = store.program("pair").unwrap_err();
        assert_eq!(
            ambiguous.to_string(),
            "pair has several programs: say pair:PROGRAM, of enter, leave."
        );
        let missing = store.program("pair:other").unwrap_err();
        assert_eq!(
            missing.to_string(),
            "pair has no program other. It has enter, leave."
        );
    }

    #[test]
    fn two_programs_have_an_old_name_too() {
        let store = ProgramStore::new(1).unwrap();
        for (old, name) in [("hprobe_entry", "args"), ("hprobe_exit", "ret")] {
            let program = store.program(old).unwrap();
            assert!(Arc::ptr_eq(program.object(), &store.object(name).unwrap()));
        }
    }

    #[test]
    fn what_is_no_program_is_refused() {
        let store = ProgramStore::new(2).unwrap();
        assert!(matches!(
            store.load("junk", b"\x7fELF", ME),
            Err(StoreError::Parse(_))
        ));
        assert!(matches!(
            store.load("junk", b"", ME),
            Err(StoreError::Parse(_))
        ));
        let good = object(&["one"]);
        for name in ["", "a b", "a:b", "vm1/x", &"x".repeat(MAX_NAME + 1)] {
            assert!(
                matches!(store.load(name, &good, ME), Err(StoreError::BadName(_))),
                "{name}"
            );
        }
        let builtin = store.load("stop", &good, ME);
        assert_eq!(builtin, Err(StoreError::Builtin("stop".to_string())));
        let names = vec!["args", "count", "printk", "ret", "stop"];
        assert_eq!(store.names(), names);
    }

    #[test]
    fn the_store_has_a_limit() {
        let store = ProgramStore::new(1).unwrap();
        let good = object(&["one"]);
        for index in 0..MAX_OBJECTS {
            store.load(&alloc::format!("p{index}"), &good, ME).unwrap();
        }
        assert_eq!(store.load("more", &good, ME), Err(StoreError::Full));
        assert_eq!(store.load("p0", &good, ME), Ok(()));
        store.unload("p1").unwrap();
        assert_eq!(store.load("more", &good, ME), Ok(()));
    }

    #[test]
    fn maps_of_a_session_and_of_all_have_limits() {
        let store = ProgramStore::new(1).unwrap();
        let mut linked = ebpf::builtin::linked("count").unwrap();
        linked.maps[0].max_entries = 1 << 20;
        let large = linked.encode().unwrap();
        for (name, owner) in [("a", ME), ("b", ME), ("c", YOU)] {
            store.load(name, &large, owner).unwrap();
        }
        let of_me = store.map_memory_of(ME);
        assert_eq!(of_me, 2 * store.map_memory_of(YOU));
        let refused = store.load("d", &large, ME).unwrap_err();
        let said = refused.to_string();
        assert!(
            said.contains(&of_me.to_string())
                && said.contains(&MapMemory::DEFAULT.session.to_string()),
            "{said}"
        );
        assert!(matches!(
            store.load("d", &large, YOU),
            Err(StoreError::NoMapMemory { left, .. }) if left < 8 << 20
        ));
        assert_eq!(store.load("a", &large, ME), Ok(()), "in place of itself");
        store.unload("b").unwrap();
        assert_eq!(store.load("d", &large, ME), Ok(()));
    }

    #[test]
    fn maps_may_take_what_the_hypervisor_gives_them() {
        let mut linked = ebpf::builtin::linked("count").unwrap();
        let map = &mut linked.maps[0];
        (map.max_entries, map.value_size) = (1 << 20, 32);
        let large = linked.encode().unwrap();
        let refused = ProgramStore::new(1).unwrap().load("a", &large, ME);
        assert!(matches!(refused, Err(StoreError::SessionQuota { .. })));
        let store = ProgramStore::with(1, None, MapMemory::of(128 << 20)).unwrap();
        assert_eq!(store.load("a", &large, ME), Ok(()));
    }

    #[test]
    fn what_was_loaded_can_be_read_back() {
        let store = ProgramStore::new(1).unwrap();
        let good = object(&["one"]);
        store.load("mine", &good, ME).unwrap();
        assert_eq!(*store.bytes("mine").unwrap(), *good);
        for builtin in ebpf::builtin::NAMES {
            let read = store.bytes(builtin).unwrap();
            store
                .load(&alloc::format!("my-{builtin}"), &read, ME)
                .unwrap();
        }
        assert!(matches!(
            store.bytes("none"),
            Err(StoreError::NoSuchObject { known, .. }) if known.contains(&"mine".to_string())
        ));
    }

    #[test]
    fn so_much_is_kept_and_no_more() {
        let store = ProgramStore::new(1).unwrap();
        let mut linked = ebpf::builtin::linked("count").unwrap();
        // A text that nobody reads makes it long.
        let mut text = linked.maps[0].clone();
        (text.name, text.kind) = ("text".into(), ebpf::map::MapKind::Array);
        (text.max_entries, text.value_size) = (1, 900 << 10);
        text.initial = vec![b'a'; 900 << 10];
        linked.maps.push(text);
        let long = linked.encode().unwrap();
        assert!(long.len() < KEPT_BYTES / 4 && long.len() > KEPT_BYTES / 5);
        for name in ["a", "b", "c", "d", "e"] {
            store.load(name, &long, ME).unwrap();
        }
        assert!(store.bytes("d").is_ok());
        assert_eq!(
            store.bytes("e"),
            Err(StoreError::NotKept("e".to_string())),
            "but it runs"
        );
        assert!(store.program("e").is_ok());
        store.load("d", &long, ME).unwrap();
        assert!(store.bytes("d").is_ok(), "in its own place");
        store.unload("a").unwrap();
        store.load("e", &long, ME).unwrap();
        assert!(store.bytes("e").is_ok());
    }

    #[test]
    fn an_object_is_its_owners() {
        let store = ProgramStore::new(1).unwrap();
        let good = object(&["one"]);
        store.load("mine", &good, ME).unwrap();
        assert_eq!(
            store.load("mine", &good, YOU),
            Err(StoreError::NotYours("mine".to_string()))
        );
        store.load("yours", &good, YOU).unwrap();
        assert_eq!(
            (store.owned_by(ME), store.owned_by(YOU)),
            (vec!["mine".to_string()], vec!["yours".to_string()])
        );
        store.unload("mine").unwrap();
        assert_eq!(store.load("mine", &good, YOU), Ok(()));
    }
}
