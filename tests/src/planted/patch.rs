//! A planted bug: a patch with a head that says what the mistake is and who is to find it.
//!
//! ```text
//! Mistake: One sentence.
//! Hunter: sim
//!
//! --- a/engine/src/...
//! ```

use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Who is to find a bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hunter {
    /// Whole sites in virtual time.
    Sim,
    /// The same with several nodes a site.
    Cluster,
    /// The same with devices that are told to go, scrubbed and shared out anew.
    Upkeep,
    /// The same with logs that have a home lease.
    Leases,
    /// The same with backups at stores that fail in every way.
    Backups,
    /// The same with chunks that are cut another way, and back again.
    Geometry,
    /// The same with peers that are away for longer than what they lack is kept.
    Seeding,
    /// The same with homes that move again and again.
    Sides,
    /// Random histories of a chunk store.
    Store,
    /// Random histories of a write-ahead log.
    Wal,
    /// Random histories of a group of several nodes.
    Group,
}

impl Hunter {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Sim,
        Self::Cluster,
        Self::Upkeep,
        Self::Leases,
        Self::Backups,
        Self::Geometry,
        Self::Seeding,
        Self::Sides,
        Self::Store,
        Self::Wal,
        Self::Group,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Sim => "sim",
            Self::Cluster => "cluster",
            Self::Upkeep => "upkeep",
            Self::Leases => "leases",
            Self::Backups => "backups",
            Self::Geometry => "geometry",
            Self::Seeding => "seeding",
            Self::Sides => "sides",
            Self::Store => "store",
            Self::Wal => "wal",
            Self::Group => "group",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hunter| hunter.name() == text)
    }

    /// The simulator's scenario, where it is the simulator.
    pub fn scenario(self) -> Option<&'static str> {
        match self {
            Self::Sim => Some("everything"),
            Self::Store | Self::Wal | Self::Group => None,
            _ => Some(self.name()),
        }
    }

    /// Seeds that show whether the hunter leaves a clean tree alone: some ten seconds' worth.
    pub fn clean_seeds(self) -> u64 {
        match self {
            Self::Store => 200,
            Self::Wal | Self::Group => 100,
            _ => 10,
        }
    }
}

impl Display for Hunter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A planted bug.
#[derive(Debug, Clone)]
pub struct Patch {
    /// Its file's name without the ending.
    pub name: String,
    /// What was done wrong, in a sentence.
    pub mistake: String,
    /// Who is to find it.
    pub hunter: Hunter,
    /// The patch.
    pub path: PathBuf,
    /// The files that it changes, from the top of the tree.
    pub files: Vec<PathBuf>,
    /// Lines that it takes away or adds.
    pub changed_lines: usize,
}

/// All patches of a tree, by name.
pub fn all(root: &Path) -> Result<Vec<Patch>, String> {
    let folder = root.join("tests/planted");
    let entries = std::fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "patch"));
    paths.sort();
    paths.iter().map(|path| Patch::read(path)).collect()
}

impl Patch {
    /// Reads a patch.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let bad = |what: &str| format!("{}: {what}", path.display());
        let of_head = |key: &str| {
            let head = text.lines().take_while(|line| !line.starts_with("--- "));
            head.filter_map(|line| line.strip_prefix(key)).map(str::trim).find(|value| !value.is_empty())
        };
        let hunter = of_head("Hunter:").and_then(Hunter::parse);
        let files = text.lines().filter_map(|line| line.strip_prefix("+++ b/")).map(PathBuf::from).collect();
        let body = text.lines().skip_while(|line| !line.starts_with("--- "));
        let is_change =
            |line: &&str| line.starts_with(['+', '-']) && !line.starts_with("+++ ") && !line.starts_with("--- ");
        Ok(Self {
            name: path.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
            mistake: of_head("Mistake:").ok_or_else(|| bad("no line `Mistake: ...` says what it is"))?.to_owned(),
            hunter: hunter.ok_or_else(|| bad("no line says `Hunter: sim`, `store` or `wal`"))?,
            changed_lines: body.filter(is_change).count(),
            path: path.to_owned(),
            files,
        })
    }

    /// Whether it still applies to a tree.
    pub fn check(&self, tree: &Path) -> Result<(), String> {
        self.run(tree, true)
    }

    /// Applies it to a tree.
    pub fn apply(&self, tree: &Path) -> Result<(), String> {
        self.run(tree, false)
    }

    fn run(&self, tree: &Path, only_check: bool) -> Result<(), String> {
        if self.files.is_empty() {
            return Err(format!("{} changes no file", self.path.display()));
        }
        let output = self.git(tree, only_check).or_else(|_| self.patch(tree, only_check));
        let output = output.map_err(|error| format!("neither git nor patch can be run: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        let reason = [output.stdout, output.stderr].concat();
        let reason = String::from_utf8_lossy(&reason).trim().replace('\n', "; ");
        Err(format!("{} no longer applies: write it anew for the code as it is ({reason})", self.name))
    }

    fn git(&self, tree: &Path, only_check: bool) -> std::io::Result<Output> {
        let mut command = Command::new("git");
        command.arg("apply").args(only_check.then_some("--check")).arg(&self.path).current_dir(tree);
        // Within another repository git would take the paths for that one's, and pass over them in silence.
        command.env("GIT_CEILING_DIRECTORIES", tree.parent().unwrap_or(tree)).output()
    }

    fn patch(&self, tree: &Path, only_check: bool) -> std::io::Result<Output> {
        let mut command = Command::new("patch");
        command.args(["-p1", "--batch", "--forward", "--fuzz=0"]).args(only_check.then_some("--dry-run"));
        command.arg("-i").arg(&self.path).current_dir(tree).output()
    }
}
