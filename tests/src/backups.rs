//! What tests of backups share: a site with objects that are known, shares of its key, restores, and the check that what came
//! back is what was put.

use crate::{Outcome, Site, command, free_port, outcome};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Objects as they should be, by name.
pub type Objects = BTreeMap<String, Vec<u8>>;

/// A directory in which all of a test happens.
pub struct World {
    root: tempfile::TempDir,
    /// The KMS of every tenant.
    pub kms: PathBuf,
    /// What commands that talk to a store need in their environment.
    pub environment: Vec<(String, String)>,
}

impl Default for World {
    fn default() -> Self {
        let root = tempfile::tempdir().expect("a directory");
        let kms = root.path().join("kms");
        Self { root, kms, environment: Vec::new() }
    }
}

impl World {
    /// Where everything is.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The same as text.
    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Runs a command that talks to a store.
    pub fn run(&self, arguments: &[impl AsRef<str>]) -> Outcome {
        let arguments: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
        outcome(command(&arguments).envs(self.environment.iter().cloned()))
    }

    /// The same at a site's node.
    pub fn at(&self, site: &Site, arguments: &[&str]) -> Outcome {
        let directory = site.directory.display().to_string();
        self.run(&[arguments, &["--dir", &directory]].concat())
    }

    /// Puts an object, and remembers it.
    pub fn put(&self, site: &Site, objects: &mut Objects, name: &str, contents: Vec<u8>) -> Value {
        let file = self.path("in");
        std::fs::write(&file, &contents).expect("written");
        let receipt = site.farside(&["put", "--json", "acme/data", name, &file.display().to_string()]).json();
        objects.insert(name.to_owned(), contents);
        receipt
    }

    /// Removes one.
    pub fn remove(&self, site: &Site, objects: &mut Objects, name: &str) -> Value {
        objects.remove(name);
        site.farside(&["rm", "--json", "acme/data", name]).json()
    }

    /// Tells a site's clients where the KMS is, and checks that every object is there with its contents, and no other.
    pub fn check(&self, site: &Site, objects: &Objects) {
        site.farside(&["tenant", "kms", "acme", &format!("file:{}", self.kms.display())]).ok();
        let listed = site.farside(&["ls", "--json", "acme/data"]).ok();
        let name = |line: &str| {
            let line: Value = serde_json::from_str(line).expect("JSON");
            line["name"].as_str().expect("a name").to_owned()
        };
        let listed: Vec<String> = listed.lines().map(name).collect();
        assert_eq!(listed, objects.keys().cloned().collect::<Vec<_>>());
        let out = self.path("out");
        for (name, contents) in objects {
            site.farside(&["get", "acme/data", name, "-o", &out.display().to_string()]).ok();
            assert!(std::fs::read(&out).expect("read") == *contents, "{name} differs");
        }
    }

    /// Shares of a site's system key: the paths of five files, any three of which bring it back.
    pub fn shares(&self, site: &Site) -> Vec<String> {
        let name = site.directory.file_name().expect("a name").to_string_lossy().into_owned();
        let out = self.text(&format!("shares-of-{name}"));
        site.farside(&["key", "export", "--shares", "5", "--threshold", "3", "-o", &out]).ok();
        (1..=5).map(|share| format!("{out}/share-{share}.txt")).collect()
    }

    /// The arguments of a restore into a new directory, and the site that it makes.
    pub fn restore(&self, target: &[&str], shares: &[String], name: &str, more: &[&str]) -> (Vec<String>, Site) {
        let (directory, port) = (self.path(name), free_port());
        let (listen, shares) = (format!("127.0.0.1:{port}"), shares.join(","));
        let path = directory.display().to_string();
        let fixed = ["restore", "--json", "--shares", &shares, "--dir", &path, "--listen", &listen, "--cores", "0"];
        let sized = ["--device-size", "256MiB"];
        let arguments = [&fixed[..], &sized[..], target, more].concat();
        (arguments.into_iter().map(str::to_owned).collect(), Site::at(directory, port))
    }

    /// Restores a site, and runs it.
    pub fn restored(&self, target: &[&str], shares: &[String], name: &str, more: &[&str]) -> (Value, Site) {
        let (arguments, mut site) = self.restore(target, shares, name, more);
        let told = self.run(&arguments).json();
        site.run();
        (told, site)
    }
}
