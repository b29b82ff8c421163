//! tests/PLANTED.md: a row for each planted bug.

use super::hunt::Hunt;
use super::patch::{Hunter, Patch};
use std::fmt::{self, Display};
use std::path::Path;

/// Letters of what was said that go into the page.
const SHOWN: usize = 110;
/// A word of so many hexadecimal digits is an id.
const ID_LETTERS: usize = 8;
/// Seeds within which a bug should be found.
const SOON: u64 = 1000;

const HEAD: &str = "\
# Planted bugs

Mistakes that somebody could make, each planted by a patch of tests/planted/ into a copy of the tree, and who found it after
how many seeds. The seed that found it is the number of seeds: they begin at 1. Seconds are those of the hunt alone, on two
threads for the simulator and one for the others; building is not counted. `sim` is the simulator (docs/simulator.md), `cluster`,
`upkeep`, `leases`, `backups` and `geometry` are scenarios of it, `store` is engine/tests/store_histories.rs, `wal` is raft/tests/wal_histories.rs,
`group` is raft/tests/group_histories.rs. Before anything was planted, none of them found anything.

This page is written by `cargo run --release -p farside-tests -- planted`.

";

/// What came of one bug.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The bug.
    pub name: String,
    mistake: String,
    hunter: String,
    /// What gave it away; empty: nothing did.
    what: String,
    seeds: String,
    seconds: String,
}

/// A sentence of a violation without what differs from seed to seed: numbers, ids, and values in braces.
fn in_general(what: &str) -> String {
    let what = what.split_once(" {").map_or(what, |(sentence, _)| sentence);
    let mut general = String::new();
    for part in what.split_inclusive(|letter: char| !letter.is_ascii_alphanumeric()) {
        let word = part.trim_end_matches(|letter: char| !letter.is_ascii_alphanumeric());
        let is_id = word.len() >= ID_LETTERS && word.chars().all(|letter| letter.is_ascii_hexdigit());
        let has_digit = word.contains(|letter: char| letter.is_ascii_digit());
        general += if is_id || has_digit { "N" } else { word };
        general += &part[word.len()..].replace('|', "/");
    }
    match general.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", general[..end].trim_end()),
        None => general,
    }
}

impl Row {
    /// The row of a bug that was hunted.
    pub fn new(patch: &Patch, hunt: &Hunt) -> Self {
        Self {
            name: patch.name.clone(),
            mistake: patch.mistake.clone(),
            hunter: patch.hunter.to_string(),
            what: hunt.found.as_ref().map_or_else(String::new, |found| in_general(&found.what)),
            seeds: hunt.found.as_ref().map_or(hunt.seeds, |found| found.seed).to_string(),
            seconds: format!("{:.0}", hunt.seconds),
        }
    }

    /// Whether anything gave the bug away.
    pub fn is_found(&self) -> bool {
        !self.what.is_empty()
    }

    fn is_soon(&self) -> bool {
        self.is_found() && self.seeds.parse::<u64>().is_ok_and(|seeds| seeds <= SOON)
    }

    fn parse(line: &str) -> Option<Self> {
        let cells: Vec<&str> = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
        let [name, mistake, hunter, what, seeds, seconds] = cells.try_into().ok()?;
        let what = if what == NOT_FOUND { "" } else { what };
        let what = in_general(what);
        let [name, mistake, hunter, seeds, seconds] = [name, mistake, hunter, seeds, seconds].map(str::to_owned);
        Some(Self { name, mistake, hunter, what, seeds, seconds })
    }
}

const NOT_FOUND: &str = "**not found**";

impl Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_found() {
            true => write!(f, "{}: found after {} seeds, {} s: {}", self.name, self.seeds, self.seconds, self.what),
            false => write!(f, "{}: NOT FOUND by {} seeds, {} s", self.name, self.seeds, self.seconds),
        }
    }
}

/// The rows of a page that was written before, of bugs that there still are.
pub fn rows(page: &Path, all: &[Patch]) -> Vec<Row> {
    // Where there is no page, nothing is known yet.
    let text = std::fs::read_to_string(page).unwrap_or_default();
    let rows = text.lines().filter_map(Row::parse);
    rows.filter(|row| all.iter().any(|patch| patch.name == row.name)).collect()
}

/// Whether a page can be written there, asked before hours are spent.
pub fn check_writable(page: &Path) -> Result<(), String> {
    let opened = std::fs::OpenOptions::new().append(true).create(true).open(page);
    opened.map(drop).map_err(|error| format!("{} can't be written: {error}", page.display()))
}

/// Writes the page.
pub fn write(page: &Path, rows: &mut [Row]) -> Result<(), String> {
    rows.sort_by(|one, other| one.name.cmp(&other.name));
    let (found, soon) = (rows.iter().filter(|row| row.is_found()).count(), rows.iter().filter(|row| row.is_soon()));
    let mut text = HEAD.to_owned();
    text += &format!("{found} of {} were found, {} within {SOON} seeds", rows.len(), soon.count());
    for hunter in Hunter::ALL {
        let mine = rows.iter().filter(|row| row.hunter == hunter.to_string()).count();
        text += &format!("{}{mine} by `{hunter}`", if hunter == Hunter::Sim { "; " } else { ", " });
    }
    text += ".\n\n| bug | mistake | hunter | what gave it away | seeds | seconds |\n|---|---|---|---|---|---|\n";
    for row in rows.iter() {
        let Row { name, mistake, hunter, what, seeds, seconds } = row;
        let what = if what.is_empty() { NOT_FOUND } else { what };
        text += &format!("| {name} | {mistake} | {hunter} | {what} | {seeds} | {seconds} |\n");
    }
    std::fs::write(page, text).map_err(|error| format!("{} can't be written: {error}", page.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_as_it_was_written() {
        let row = |name: &str, what: &str| Row {
            name: name.into(),
            mistake: "Something is forgotten.".into(),
            hunter: "sim".into(),
            what: what.into(),
            seeds: "12".into(),
            seconds: "3".into(),
        };
        let page = tempfile::NamedTempFile::new().expect("a file");
        let said = "log-0 | of 0ab1c2d3e4f5 went back from 12/3 to 7: Cursor { at: 7 }";
        let mut rows = [row("02-b", ""), row("01-a", &in_general(said))];
        write(page.path(), &mut rows).expect("written");
        let text = std::fs::read_to_string(page.path()).expect("read");
        assert!(
            text.contains(
                "1 of 2 were found, 1 within 1000 seeds; 2 by `sim`, 0 by `cluster`, 0 by `upkeep`, 0 by `leases`, 0 by `backups`, 0 by `geometry`"
            ),
            "{text}"
        );
        assert!(text.contains("log-N / of N went back from N/N to N: Cursor |"), "{text}");
        let back: Vec<Row> = text.lines().filter_map(Row::parse).filter(|row| row.hunter == "sim").collect();
        assert_eq!(back, rows);
    }
}
