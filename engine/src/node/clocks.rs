//! Compares the node's clock with those of the site's other nodes. One that most of them disagree with leads nothing: it would put
//! wrong times on what is written, and close a time that is hours away, behind which nobody could write any more.
//!
//! Every few seconds is soon enough for a clock that runs wrong. One that jumps is noticed at once, by the monotonic clock beside
//! it, and trusted again only after the next comparison.

use super::limits::CLOCK_LOOK;
use super::routing;
use super::shard::Shard;
use crate::cluster::clocks::{Verdict, judge};
use farside_codec::ids::NodeId;
use farside_codec::limits::MAX_CLOCK_SKEW_MS;
use farside_codec::message::{Refusal, RefusalCode, Reply, Request};
use farside_io::disk::Disk;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

/// What a shard knows of clocks.
#[derive(Default)]
pub(crate) struct Clocks {
    /// When this node's clock was judged last, by the monotonic clock and by itself.
    judged: Cell<Option<(Duration, u64)>>,
    /// How far ahead of it the others' are, where it is wrong.
    behind_ms: Cell<Option<i64>>,
    /// Nodes whose clocks are wrong, as far as this one can tell.
    wrong: RefCell<BTreeSet<NodeId>>,
}

impl Clocks {
    /// Whether a node's clock is wrong.
    pub(super) fn is_wrong(&self, node: NodeId) -> bool {
        self.wrong.borrow().contains(&node)
    }
}

/// Compares for as long as the node runs.
pub(super) async fn keep_compared<D: Disk>(shard: Rc<Shard<D>>) {
    loop {
        if let Some((verdict, wrong)) = compare(&shard).await {
            if let Verdict::Wrong(ahead) = verdict {
                tracing::error!(seconds = ahead / 1000, "this node's clock is wrong: the others' are that far ahead");
            }
            for index in 0..shard.shards() {
                let wrong = wrong.clone();
                // A shard that has ended needs no clock.
                let _ = shard.on(index, move |there| async move { take(&there, verdict, wrong) }).await;
            }
        }
        tokio::time::sleep(shard.pace(CLOCK_LOOK)).await;
    }
}

fn take<D: Disk>(shard: &Rc<Shard<D>>, verdict: Verdict, wrong: BTreeSet<NodeId>) {
    let clock = shard.clock.clock();
    shard.clocks.judged.set(Some((clock.monotonic(), clock.wall_ms())));
    shard.clocks.behind_ms.set(match verdict {
        Verdict::Wrong(ahead) => Some(ahead),
        Verdict::Agrees | Verdict::Unsure => None,
    });
    if verdict == Verdict::Agrees {
        // It may have been ahead until a moment ago.
        shard.clock.come_back();
    }
    shard.clocks.wrong.replace(wrong);
}

/// What the others' clocks show of this one, and of one another; `None` where nobody says anything without whom nothing can be
/// written anyway.
async fn compare<D: Disk>(shard: &Rc<Shard<D>>) -> Option<(Verdict, BTreeSet<NodeId>)> {
    let others = shard.others();
    let clock = shard.clock.clock();
    let asked = others.iter().map(|other| async move {
        let asked = clock.monotonic();
        let Ok(Reply::WallClock(theirs)) = routing::ask_node(shard, other, 0, &Request::WallClock).await else {
            return None;
        };
        let took = clock.monotonic().saturating_sub(asked).as_millis() as u64;
        // Half of the way there and back is how old the answer is, give or take that much.
        let then = clock.wall_ms().saturating_sub(took / 2);
        (took < MAX_CLOCK_SKEW_MS / 4).then(|| (other.node, theirs as i64 - then as i64))
    });
    let said: Vec<(NodeId, i64)> = futures_util::future::join_all(asked).await.into_iter().flatten().collect();
    if said.is_empty() && others.len() > 1 {
        return None;
    }
    let ahead: Vec<i64> = said.iter().map(|(_, ahead)| *ahead).collect();
    let verdict = judge(1 + others.len(), &ahead, MAX_CLOCK_SKEW_MS);
    // Seen from one of them everybody else is, this node among them, where it stands to them.
    let is_wrong = |(at, own): (usize, i64)| {
        let rest =
            ahead.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, ahead)| ahead.saturating_sub(own));
        let seen: Vec<i64> = rest.chain([0i64.saturating_sub(own)]).collect();
        matches!(judge(1 + others.len(), &seen, MAX_CLOCK_SKEW_MS), Verdict::Wrong(_))
    };
    let wrong = said.iter().enumerate().filter(|(at, (_, own))| is_wrong((*at, *own)));
    Some((verdict, wrong.map(|(_, (node, _))| *node).collect()))
}

/// Why no time of this node may go into a log now, if that is so.
pub(super) fn objection<D: Disk>(shard: &Shard<D>) -> Option<Refusal> {
    if shard.is_alone() {
        // There is nobody to compare with, and peers refuse what is too far ahead of them.
        return None;
    }
    let later = |detail: String| Some(Refusal::retry(RefusalCode::Unavailable, 300, detail));
    let Some((at, showed)) = shard.clocks.judged.get() else {
        return later("the node has just started, and has not compared its clock with the others' yet".into());
    };
    if let Some(ahead) = shard.clocks.behind_ms.get() {
        return later(format!(
            "this node's clock is wrong by {} s: another one is to lead",
            ahead.unsigned_abs() / 1000
        ));
    }
    let clock = shard.clock.clock();
    let passed = clock.monotonic().saturating_sub(at).as_millis() as u64;
    match clock.wall_ms().abs_diff(showed.saturating_add(passed)) > MAX_CLOCK_SKEW_MS {
        true => later("this node's clock has jumped: it has to be compared with the others' first".into()),
        false => None,
    }
}

/// What status says of the clock.
pub(super) fn alert<D: Disk>(shard: &Shard<D>) -> Option<String> {
    let ahead = shard.clocks.behind_ms.get()?;
    let (seconds, where_it_is) = (ahead.unsigned_abs() / 1000, if ahead > 0 { "behind" } else { "ahead of" });
    Some(format!(
        "its clock is {seconds} s {where_it_is} those of the other nodes: it leads nothing until that is mended"
    ))
}
