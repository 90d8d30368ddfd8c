//! The highest rate at which next to nothing is lost.

use std::time::Duration;

use anyhow::Result;

use super::Bench;
use crate::{
    report::{LOSSY, Row, Sample, Section},
    say,
    stage::{Stage, Way},
    traffic::Offer,
};

const FLOWS: usize = 100;
const SIZES: [usize; 2] = [160, 1200];
/// Packets a second at which the search begins: everybody can carry that.
const SLOWEST: f64 = 20_000.0;
/// The search ends when it is as narrow as this.
const PRECISION: f64 = 1.03;
/// How often a rate is tried before it counts as too much.
const TRIES: usize = 2;
/// At each rate packets are sent for so long at the least.
const SHORTEST: Duration = Duration::from_millis(500);

pub(super) fn measure(bench: &Bench) -> Result<Section> {
    let mut stages = bench.stages(&bench.with_floor(), FLOWS)?;
    let mut rows = Vec::new();
    for way in Way::ALL {
        for size in SIZES {
            let name = format!("{}, {size} bytes, {FLOWS} flows", way.name());
            say(&format!("highest rate: {name}"));
            let mut fastest = Row::new(name.clone(), "packets/s", 0);
            let mut cpu = Row::new(format!("{name}: CPU time at that rate"), "µs", 2);
            bench.rounds(&mut stages, |stages, number, counts| {
                if let Some(stage) = stages.get_mut(number) {
                    stage.bind()?;
                }
                let [rate, each] = highest(bench, stages, number, way, size)?;
                if let (true, Some(stage)) = (counts, stages.get(number)) {
                    fastest.add(stage.relay.what, rate);
                    cpu.add(stage.relay.what, each);
                }
                Ok(())
            })?;
            rows.extend([fastest, cpu]);
        }
    }
    Ok(Section {
        title: "Highest rate with under 0.1 % loss".to_owned(),
        notes: vec![format!(
            "Found by doubling and halving, to {:.0} %, with {:?} at each rate, and a second try where packets were lost.",
            (PRECISION - 1.0) * 100.0,
            bench.plan.window.max(SHORTEST)
        )],
        rows,
    })
}

/// The highest rate, and the CPU time for a packet at that rate.
fn highest(
    bench: &Bench,
    stages: &mut [Stage],
    number: usize,
    way: Way,
    size: usize,
) -> Result<[Sample; 2]> {
    let [mut fastest, mut cpu] = [Sample::default(); 2];
    let mut search = Search::new();
    while let Some(rate) = search.next() {
        let offer = Offer {
            size,
            rate,
            duration: bench.plan.window.max(SHORTEST),
        };
        let mut verdict = Verdict::Lossy;
        for _ in 0..TRIES {
            let (delivered, used) = bench.deliver_once(stages, number, way, offer)?;
            let whole = delivered.loss() <= LOSSY;
            if whole && delivered.rate() > fastest.value {
                fastest = used.sample(delivered.rate());
                fastest.limited = delivered.behind;
                cpu = used.sample(used.each(delivered.received));
            }
            if delivered.behind {
                verdict = Verdict::Limit;
                break;
            }
            if whole {
                verdict = Verdict::Carried;
                break;
            }
        }
        search.note(rate, verdict);
    }
    Ok([fastest, cpu])
}

/// What came of one rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Carried,
    Lossy,
    /// The generator could not send as much.
    Limit,
}

/// Doubles until it is too much, then halves the interval.
struct Search {
    carried: f64,
    too_much: Option<f64>,
}

impl Search {
    const fn new() -> Self {
        Self {
            carried: SLOWEST / 2.0,
            too_much: None,
        }
    }

    /// The next rate to try; none when the interval is narrow, or even the slowest rate is too much.
    fn next(&self) -> Option<f64> {
        match self.too_much {
            None => Some(self.carried * 2.0),
            Some(too_much) if too_much / self.carried > PRECISION && too_much > SLOWEST => {
                Some((self.carried * too_much).sqrt())
            }
            Some(_) => None,
        }
    }

    fn note(&mut self, rate: f64, verdict: Verdict) {
        match verdict {
            Verdict::Carried => self.carried = rate,
            Verdict::Lossy | Verdict::Limit => self.too_much = Some(rate),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(limit: f64) -> (f64, usize) {
        let mut search = Search::new();
        let mut tries = 0;
        while let Some(rate) = search.next() {
            let verdict = if rate <= limit {
                Verdict::Carried
            } else {
                Verdict::Lossy
            };
            search.note(rate, verdict);
            tries += 1;
        }
        (search.carried, tries)
    }

    #[test]
    fn the_search_ends_within_its_precision_below_the_limit() {
        for limit in [20_000.0, 33_333.0, 150_000.0, 159_999.0, 1_000_000.0] {
            let (found, tries) = search(limit);
            assert!(
                found <= limit && found * PRECISION >= limit,
                "{limit}: {found}"
            );
            assert!(tries < 16, "{limit}: {tries}");
        }
    }

    #[test]
    fn a_relay_that_cannot_carry_the_slowest_rate_ends_the_search() {
        let (_, tries) = search(100.0);
        assert_eq!(tries, 1);
    }
}
