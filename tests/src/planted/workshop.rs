//! Where bugs are planted: a copy of the tree, and what is built from it.
//!
//! The copy and its builds outlive a run, so that only what a patch touches is compiled anew. A file is written only
//! where it differs, because its time of change is what cargo goes by.

use super::patch::{Hunter, Patch};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The profile of Cargo.toml that hunters are built with.
const PROFILE: &str = "hunt";

/// Named in every build, so that each finds the dependencies with the features that the others built them with.
const PACKAGES: [&str; 6] = ["-p", "farside-tests", "-p", "farside", "-p", "farside-raft"];

/// A copy of the tree.
pub struct Workshop {
    source: PathBuf,
    tree: PathBuf,
    build: PathBuf,
    /// Held as long as the copy is in use.
    _lock: File,
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> String {
    let path = path.to_owned();
    move |error| format!("{}: {error}", path.display())
}

impl Workshop {
    /// Brings the copy of `source` below `work` up to date.
    pub fn open(source: &Path, work: &Path) -> Result<Self, String> {
        let (tree, build) = (work.join("tree"), work.join("build"));
        fs::create_dir_all(&tree).map_err(failed(&tree))?;
        let lock = work.join("lock");
        let lock = File::create(&lock).map_err(failed(&lock))?;
        if lock.try_lock().is_err() {
            return Err(format!(
                "another run plants bugs below {}: wait for it, or name another --work",
                work.display()
            ));
        }
        let workshop = Self { source: source.to_owned(), tree, build, _lock: lock };
        let files = tracked(source)?;
        for gone in walk(&workshop.tree)?.iter().filter(|file| !files.contains(file)) {
            let gone = workshop.tree.join(gone);
            fs::remove_file(&gone).map_err(failed(&gone))?;
        }
        files.iter().try_for_each(|file| workshop.restore(file))?;
        Ok(workshop)
    }

    /// Makes a file of the copy what it is in the source.
    fn restore(&self, file: &Path) -> Result<(), String> {
        let (from, to) = (self.source.join(file), self.tree.join(file));
        let contents = fs::read(&from).map_err(failed(&from))?;
        if fs::read(&to).is_ok_and(|held| held == contents) {
            return Ok(());
        }
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).map_err(failed(folder))?;
        }
        fs::write(&to, contents).map_err(failed(&to))
    }

    /// Does `work` while a bug is planted.
    pub fn with<T>(&self, patch: &Patch, work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
        patch.apply(&self.tree)?;
        let done = work().map_err(|error| format!("{}: {error}", patch.name));
        patch.files.iter().try_for_each(|file| self.restore(file))?;
        done
    }

    /// Builds a hunter. Answers its program.
    pub fn build(&self, hunter: Hunter) -> Result<PathBuf, String> {
        match hunter {
            Hunter::Store => self.build_test("store_histories"),
            Hunter::Wal => self.build_test("wal_histories"),
            Hunter::Group => self.build_test("group_histories"),
            _ => {
                self.cargo(&["build", "--bin", "farside-tests"])?;
                Ok(self.build.join(PROFILE).join("farside-tests"))
            }
        }
    }

    fn build_test(&self, test: &str) -> Result<PathBuf, String> {
        let built = self.cargo(&["test", "--test", test, "--no-run", "--message-format=json"])?;
        let artifacts = built.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let mine = |artifact: serde_json::Value| {
            let is_test = artifact["target"]["name"] == test;
            artifact["executable"].as_str().filter(|_| is_test).map(PathBuf::from)
        };
        artifacts.rev().find_map(mine).ok_or_else(|| format!("cargo built no program of the test {test}"))
    }

    /// Runs cargo in the copy. Answers what it printed.
    fn cargo(&self, arguments: &[&str]) -> Result<String, String> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(arguments).args(PACKAGES).args(["--profile", PROFILE, "--quiet"]).current_dir(&self.tree);
        command.env("CARGO_TARGET_DIR", &self.build).stdin(Stdio::null());
        let output = command.output().map_err(|error| format!("cargo can't be run: {error}"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(format!("it does not build:\n{}", text(&output.stderr).trim_end())),
        }
    }
}

/// Files of a tree that belong to it, from its top: those that git knows or would take in, or all where there is no git.
fn tracked(root: &Path) -> Result<Vec<PathBuf>, String> {
    let mut command = Command::new("git");
    command.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(root);
    let listed = command.env("GIT_CEILING_DIRECTORIES", root.parent().unwrap_or(root)).output();
    let Some(listed) = listed.ok().filter(|listed| listed.status.success()) else { return walk(root) };
    let names = listed.stdout.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let files = names.map(|name| PathBuf::from(String::from_utf8_lossy(name).into_owned()));
    // A file that was removed and not yet committed as such is listed all the same.
    Ok(files.filter(|file| root.join(file).is_file()).collect())
}

/// Every file below a folder, from its top, but for builds and what git keeps.
fn walk(root: &Path) -> Result<Vec<PathBuf>, String> {
    let (mut files, mut folders) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(folder) = folders.pop() {
        let here = root.join(&folder);
        for entry in fs::read_dir(&here).map_err(failed(&here))? {
            let entry = entry.map_err(failed(&here))?;
            let path = folder.join(entry.file_name());
            match entry.file_type().map_err(failed(&here))?.is_dir() {
                true if entry.file_name() == "target" || entry.file_name() == ".git" => {}
                true => folders.push(path),
                false => files.push(path),
            }
        }
    }
    Ok(files)
}
