//! What must not be, collected while the world runs: a failed assertion inside a task would be swallowed.

use super::trace::Trace;
use std::cell::RefCell;
use std::rc::Rc;

/// Violations kept; one is enough to fail.
const MOST: usize = 16;

/// The violations of a run. Clones are the same list.
#[derive(Clone)]
pub struct Violations(Rc<RefCell<Vec<String>>>, Trace);

impl Violations {
    /// None yet.
    pub fn new(trace: Trace) -> Self {
        Self(Rc::default(), trace)
    }

    /// Adds one.
    pub fn add(&self, what: impl Into<String>) {
        let what = what.into();
        self.1.line(format!("VIOLATION: {what}"));
        let mut violations = self.0.borrow_mut();
        if violations.len() < MOST {
            violations.push(what);
        }
    }

    /// Adds one unless `holds`.
    pub fn check(&self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.add(what());
        }
    }

    /// All of them.
    pub fn all(&self) -> Vec<String> {
        self.0.borrow().clone()
    }
}
