//! Whether what concurrent clients saw of a log could have happened one operation after the other, each at some moment between
//! its question and its answer (linearizability, Herlihy and Wing 1990).
//!
//! In general that is hard to decide (Gibbons and Korach 1997). Here every write has a place: the log says in which order the
//! writes were. With the order of writes known it is enough to look at pairs: put each read behind the write that it saw, and nothing that
//! stands behind may have ended before something began that stands before it. Whoever got no answer may have done what it asked at any
//! time after, or never.

use std::collections::{BTreeMap, BTreeSet};

/// What was asked, and what was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Did {
    /// Wrote this number; where it was told that it stands, if it was told.
    Wrote {
        /// The number: no two writes have the same.
        number: u64,
        /// Its sequence.
        at: Option<u64>,
    },
    /// Read the write with this sequence; 0: there was nothing.
    Read(u64),
    /// Was not to write unless the newest was this one, and was told that it was not.
    Unmet(u64),
    /// Read the numbers of everything that was written.
    ReadAll(BTreeSet<u64>),
}

/// An operation of a client. Times are of one clock.
#[derive(Debug, Clone)]
pub struct Step {
    /// Of what: a register, or a list of appended numbers.
    pub object: u64,
    /// When it was asked.
    pub begun: u64,
    /// When it was answered; `None`: it never was.
    pub ended: Option<u64>,
    /// What.
    pub did: Did,
}

/// The writes of one object, as they stand in the log: sequence and number, in order.
pub type Written = Vec<(u64, u64)>;

/// Checks everything that was done to some objects. Answers the first thing that can't have been.
pub fn check(steps: &[Step], written: &BTreeMap<u64, Written>) -> Result<(), String> {
    let mut places: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for (object, writes) in written {
        for (sequence, number) in writes {
            if let Some((_, before)) = places.insert(*number, (*object, *sequence)) {
                return Err(format!("{number} stands at {before} and at {sequence}: it was written twice"));
            }
        }
    }
    for step in steps {
        let Did::Wrote { number, at } = &step.did else { continue };
        match (places.get(number), at) {
            (None, Some(at)) => return Err(format!("{number} was acknowledged at {at}, and is not there")),
            (Some((_, place)), Some(at)) if place != at => {
                return Err(format!("{number} was acknowledged at {at}, and stands at {place}"));
            }
            (Some((object, place)), _) if *object != step.object => {
                return Err(format!("{number} was written to {}, and stands at {place} in {object}", step.object));
            }
            _ => {}
        }
    }
    let asked: BTreeSet<(u64, u64)> =
        steps.iter().filter_map(|step| Some((wrote_number(step)?, step.object))).collect();
    for (number, (object, place)) in &places {
        if !asked.contains(&(*number, *object)) {
            return Err(format!("{number} stands at {place} in {object}, and nobody was told that it might"));
        }
    }
    // The log as a whole is one order of writes.
    let of_log: Vec<Placed> = steps.iter().filter_map(|step| placed_write(step, &places)).collect();
    in_order(of_log)?;
    let none = Written::new();
    let objects: BTreeSet<u64> = steps.iter().map(|step| step.object).collect();
    for object in objects {
        let of_object: Vec<&Step> = steps.iter().filter(|step| step.object == object).collect();
        check_object(&of_object, written.get(&object).unwrap_or(&none), &places)
            .map_err(|what| format!("object {object}: {what}"))?;
    }
    Ok(())
}

/// A step at its place: writes at twice their rank, what saw them right behind.
struct Placed {
    place: u64,
    begun: u64,
    ended: Option<u64>,
    what: String,
}

fn wrote_number(step: &Step) -> Option<u64> {
    match step.did {
        Did::Wrote { number, .. } => Some(number),
        _ => None,
    }
}

fn placed_write(step: &Step, places: &BTreeMap<u64, (u64, u64)>) -> Option<Placed> {
    let number = wrote_number(step)?;
    let place = 2 * places.get(&number)?.1;
    Some(Placed { place, begun: step.begun, ended: step.ended, what: format!("the write of {number}") })
}

/// Nothing that stands behind has ended before something began that stands before it.
fn in_order(mut steps: Vec<Placed>) -> Result<(), String> {
    steps.sort_by_key(|step| step.place);
    // From the last to the first: the earliest end of all that stand behind.
    let mut earliest: Option<(u64, String)> = None;
    let mut same: Vec<Placed> = Vec::new();
    while let Some(step) = steps.pop() {
        if same.first().is_some_and(|one| one.place != step.place) {
            for one in same.drain(..) {
                if let Some(ended) = one.ended.filter(|ended| earliest.as_ref().is_none_or(|(least, _)| ended < least))
                {
                    earliest = Some((ended, one.what));
                }
            }
        }
        if let Some((ended, what)) = earliest.as_ref().filter(|(ended, _)| *ended < step.begun) {
            return Err(format!(
                "{what} stands behind {}, and had ended at {ended} before that began at {}",
                step.what, step.begun
            ));
        }
        same.push(step);
    }
    Ok(())
}

fn check_object(steps: &[&Step], writes: &Written, places: &BTreeMap<u64, (u64, u64)>) -> Result<(), String> {
    let mut placed = Vec::new();
    for step in steps {
        let (begun, ended) = (step.begun, step.ended);
        match &step.did {
            Did::Wrote { .. } => placed.extend(placed_write(step, places)),
            Did::Read(sequence) => {
                if *sequence > 0 && !writes.iter().any(|(at, _)| at == sequence) {
                    return Err(format!("a read saw {sequence}, where nothing was written"));
                }
                placed.push(Placed { place: 2 * sequence + 1, begun, ended, what: format!("a read of {sequence}") });
            }
            Did::ReadAll(seen) => {
                let last =
                    seen.iter().map(|number| places.get(number).map(|(_, at)| *at)).collect::<Option<Vec<u64>>>();
                let Some(last) = last.map(|all| all.into_iter().max().unwrap_or(0)) else {
                    return Err("a list holds what was never written".into());
                };
                let before: BTreeSet<u64> =
                    writes.iter().filter(|(at, _)| *at <= last).map(|(_, number)| *number).collect();
                if before != *seen {
                    let lacks: Vec<&u64> = before.symmetric_difference(seen).collect();
                    return Err(format!("a list up to {last} differs from what was written by {lacks:?}"));
                }
                placed.push(Placed { place: 2 * last + 1, begun, ended, what: format!("a list up to {last}") });
            }
            Did::Unmet(_) => {}
        }
    }
    steps.iter().try_for_each(|step| unmet(step, writes, &placed))?;
    in_order(placed)
}

/// It was not the newest at some moment in between: so it was not the newest all the time.
fn unmet(step: &Step, writes: &Written, placed: &[Placed]) -> Result<(), String> {
    let (Did::Unmet(expected), Some(ended)) = (&step.did, step.ended) else { return Ok(()) };
    // It was there once somebody had written it, or seen it or what stands behind it.
    let seen = |one: &&Placed| one.place >= 2 * expected && one.ended.is_some_and(|at| at < step.begun);
    let was_there = *expected == 0 || placed.iter().any(|one| seen(&one));
    // What replaced it came after all that stands before that.
    let next = writes.iter().map(|(at, _)| 2 * at).filter(|place| *place > 2 * expected).min();
    let earliest = |next: u64| placed.iter().filter(|one| one.place <= next).map(|one| one.begun).max().unwrap_or(0);
    let was_replaced = next.is_some_and(|next| earliest(next) <= ended);
    match was_there && !was_replaced {
        true => Err(format!("a condition on {expected} failed, and that was the newest all the time")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(object: u64, begun: u64, ended: u64, did: Did) -> Step {
        Step { object, begun, ended: Some(ended), did }
    }

    fn wrote(begun: u64, ended: u64, number: u64, at: u64) -> Step {
        step(0, begun, ended, Did::Wrote { number, at: Some(at) })
    }

    fn register(writes: &[(u64, u64)]) -> BTreeMap<u64, Written> {
        BTreeMap::from([(0, writes.to_vec())])
    }

    fn wrong(steps: &[Step], writes: &[(u64, u64)], what: &str) {
        let found = check(steps, &register(writes)).expect_err("it can't have been");
        assert!(found.contains(what), "{found}");
    }

    #[test]
    fn what_overlaps_may_be_either_way() {
        let writes = [(1, 10), (2, 20)];
        let one = [wrote(0, 9, 10, 1), wrote(5, 12, 20, 2)];
        for read in [step(0, 6, 8, Did::Read(0)), step(0, 6, 8, Did::Read(2)), step(0, 10, 11, Did::Read(1))] {
            check(&[&one[..], &[read]].concat(), &register(&writes)).expect("it can have been");
        }
        // Who got no answer may have done it much later.
        let late =
            [Step { ended: None, ..wrote(0, 0, 10, 1) }, step(0, 50, 60, Did::Read(0)), step(0, 70, 80, Did::Read(1))];
        let late = late.map(|mut step| {
            if let Did::Wrote { at, .. } = &mut step.did {
                *at = None;
            }
            step
        });
        check(&late, &register(&[(1, 10)])).expect("it can have been");
        check(&late[..2], &register(&[])).expect("it was never done");
    }

    #[test]
    fn what_can_not_have_been_is_found() {
        let writes = [(1, 10), (2, 20)];
        let one = [wrote(0, 9, 10, 1), wrote(15, 20, 20, 2)];
        let with = |step: Step| [&one[..], &[step]].concat();
        wrong(&with(step(0, 21, 22, Did::Read(1))), &writes, "the write of 20 stands");
        wrong(&with(step(0, 10, 11, Did::Read(0))), &writes, "the write of 10 stands behind a read of 0");
        wrong(&with(step(0, 10, 14, Did::Read(2))), &writes, "a read of 2 stands behind the write of 20");
        wrong(&with(step(0, 10, 14, Did::Read(3))), &writes, "where nothing was written");
        wrong(&with(step(0, 10, 14, Did::Unmet(1))), &writes, "the newest all the time");
        wrong(&[wrote(0, 1, 10, 2), wrote(5, 6, 20, 1)], &[(1, 20), (2, 10)], "the write of 10 stands behind");
        wrong(&one, &[(1, 10)], "is not there");
        wrong(&one, &[(1, 10), (3, 20)], "stands at 3");
        wrong(&one, &[(1, 10), (2, 20), (3, 10)], "written twice");
        // Two reads, one after the other, that see the writes the other way round.
        let open = [Step { ended: None, ..wrote(0, 0, 10, 1) }, Step { ended: None, ..wrote(0, 0, 20, 2) }];
        let reads = [step(0, 5, 6, Did::Read(2)), step(0, 7, 8, Did::Read(1))];
        let open = open.map(|step| Step {
            did: match step.did {
                Did::Wrote { number, .. } => Did::Wrote { number, at: None },
                did => did,
            },
            ..step
        });
        wrong(&[&open[..], &reads].concat(), &writes, "a read of 2 stands behind a read of 1");
        check(&with(step(0, 14, 16, Did::Unmet(1))), &register(&writes)).expect("it was replaced meanwhile");
        // What was told no and done all the same.
        let done = [(1, 10), (2, 20), (3, 30)];
        wrong(&with(step(0, 21, 25, Did::Unmet(1))), &done, "nobody was told that it might");
        // A write without an answer that somebody has seen was there.
        let open = |number| Step { did: Did::Wrote { number, at: None }, ended: None, ..wrote(0, 0, number, 0) };
        let saw = [open(10), step(0, 1, 2, Did::Read(1)), step(0, 3, 4, Did::Unmet(1))];
        wrong(&saw, &writes[..1], "the newest all the time");
        // One that somebody still saw later was not replaced yet.
        let still = [wrote(0, 9, 10, 1), open(20), step(0, 10, 14, Did::Unmet(1)), step(0, 20, 22, Did::Read(1))];
        wrong(&still, &writes, "the newest all the time");
        check(&still[..3], &register(&writes)).expect("it may have been replaced by then");
    }

    #[test]
    fn lists_are_whole_up_to_a_point() {
        let writes = [(1, 10), (2, 20), (4, 30)];
        let one = [wrote(0, 9, 10, 1), wrote(0, 12, 20, 2), wrote(0, 12, 30, 4)];
        let all = |numbers: &[u64]| step(0, 10, 11, Did::ReadAll(numbers.iter().copied().collect()));
        for list in [all(&[10]), all(&[10, 20]), all(&[10, 20, 30])] {
            check(&[&one[..], &[list]].concat(), &register(&writes)).expect("it can have been");
        }
        wrong(&[&one[..], &[all(&[10, 30])]].concat(), &writes, "differs");
        wrong(&[&one[..], &[all(&[])]].concat(), &writes, "stands behind a list up to 0");
        wrong(&[&one[..], &[all(&[10, 77])]].concat(), &writes, "never written");
    }
}
