//! Every order of four steps that could make two homes of one: the way is cut, it heals, either site takes over by force, either
//! one dies and comes back. A seed's number says which order, chance how much time is between the steps.

use super::faults::{Fault, Place, Planned, State, below};
use super::node::End;
use farside_io::entropy::SeededEntropy;
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Cut,
    Heal,
    Promote(usize),
    Restart(usize),
}

const STEPS: [Step; 6] =
    [Step::Cut, Step::Heal, Step::Promote(0), Step::Promote(1), Step::Restart(0), Step::Restart(1)];
/// Steps of one order.
const TAKEN: u32 = 4;
/// So many orders there are.
pub const ORDERS: u64 = (STEPS.len() as u64).pow(TAKEN);

/// The order of a seed: the first one has the first, and behind the last one it begins again.
fn order(seed: u64) -> Vec<Step> {
    let number = seed.wrapping_sub(1) % ORDERS;
    let digit = |place: u32| number / (STEPS.len() as u64).pow(place) % STEPS.len() as u64;
    (0..TAKEN).map(|place| STEPS[digit(place) as usize]).collect()
}

/// What is done in a seed's world, and when.
pub fn plan(seed: u64, random: &SeededEntropy, span: Duration) -> Vec<Planned> {
    let mut at = Duration::from_secs(2);
    let steps = order(seed).into_iter().map(|step| {
        let begins = at;
        // Often in the midst of what the step before set off.
        at += Duration::from_millis(below(random, 1 << (5 + below(random, 9))));
        (begins, step)
    });
    let steps: Vec<(Duration, Step)> = steps.collect();
    let heals = |after: Duration| {
        let heal = steps.iter().find(|(at, step)| *step == Step::Heal && *at > after);
        heal.map_or(span, |(at, _)| *at).saturating_sub(after)
    };
    let [near, far] = [0, 1].map(|site| Place { site, node: 0 });
    let planned = steps.iter().filter_map(|(at, step)| {
        let (lasts, fault) = match step {
            Step::Cut => (heals(*at), Fault::Cut { from: near, to: far, both: true }),
            Step::Heal => return None,
            Step::Promote(site) => {
                let fault =
                    Fault::Failover { site: *site, after_death: false, force: true, cut: below(random, 4) == 0 };
                (Duration::ZERO, fault)
            }
            Step::Restart(site) => {
                let how = if below(random, 2) == 0 { End::Kill } else { End::PowerCut };
                let place = Place { site: *site, node: 0 };
                let lasts = Duration::from_millis(below(random, 4000));
                (lasts, Fault::Restart { place, how, state: State::Kept })
            }
        };
        Some(Planned { at: *at, lasts, fault })
    });
    planned.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn seeds_go_through_all_orders() {
        let all: BTreeSet<String> = (1..=ORDERS).map(|seed| format!("{:?}", order(seed))).collect();
        assert_eq!(all.len() as u64, ORDERS);
        assert_eq!(order(ORDERS + 1), order(1));
    }
}
