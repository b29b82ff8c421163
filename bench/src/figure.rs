//! Figures: rounds taken in turn, medians, and how they are printed.

use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Rounds of each figure, taken in turn with those of its limit, because a shared machine drifts.
const ROUNDS: usize = 7;
/// Least time of a round.
const ROUND: Duration = Duration::from_millis(40);

/// Bytes a second, round by round.
pub(crate) struct Rates(Vec<f64>);

impl Rates {
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }
    fn least(&self) -> f64 {
        self.0.iter().copied().fold(f64::MAX, f64::min)
    }
    fn most(&self) -> f64 {
        self.0.iter().copied().fold(0.0, f64::max)
    }
}

fn rate(bytes: usize, work: &mut dyn FnMut()) -> f64 {
    let begun = Instant::now();
    let mut times = 0;
    while begun.elapsed() < ROUND {
        work();
        times += 1;
    }
    (bytes * times) as f64 / begun.elapsed().as_secs_f64()
}

/// Runs several pieces of work on so many bytes in turn, so that they share whatever the machine does meanwhile.
pub(crate) fn in_turn(bytes: usize, works: &mut [&mut dyn FnMut()]) -> Vec<Rates> {
    let mut rates: Vec<Rates> = works.iter().map(|_| Rates(Vec::with_capacity(ROUNDS))).collect();
    // Caches, tables and clocks warm up once.
    works.iter_mut().for_each(|work| work());
    for _ in 0..ROUNDS {
        for (work, rates) in works.iter_mut().zip(&mut rates) {
            rates.0.push(rate(bytes, work));
        }
    }
    rates
}

/// Prints one figure beside its limit.
pub(crate) fn tell(name: &str, parameters: Value, ours: &Rates, limit: (&str, &Rates), as_json: bool) {
    let ratio = ours.median() / limit.1.median();
    if as_json {
        println!(
            "{}",
            json!({
                "name": name,
                "parameters": parameters,
                "throughput_bytes_per_second": ours.median(),
                "limit_name": limit.0,
                "limit": limit.1.median(),
                "ratio_to_limit": ratio,
                "rounds": ROUNDS,
                "min": ours.least(),
                "max": ours.most(),
            })
        );
        return;
    }
    let giga = |rate: f64| rate / 1e9;
    let (median, other) = (giga(ours.median()), giga(limit.1.median()));
    println!("{name:<34} {median:>7.2} GB/s   {:<22} {other:>7.2} GB/s   ratio {ratio:.2}", limit.0);
}
