//! How much later packets arrive for having gone through a relay.

use std::time::Duration;

use anyhow::Result;

use super::Bench;
use crate::{
    report::{Aim, Row, Sample, Section},
    say,
    stage::Way,
    traffic::Offer,
};

const SIZE: usize = 160;
/// One call that is alone, and one hundred flows at once: flows, and packets a second in all.
const LOADS: [(usize, f64); 2] = [(1, 1_000.0), (100, 30_000.0)];
/// Enough packets for a 99th percentile take so many windows.
const WINDOWS: u32 = 3;
/// Nocturne's p99 divided by coturn's.
const AIM: Aim = Aim::AtMost(1.0);

pub(super) fn measure(bench: &Bench) -> Result<Section> {
    let mut rows = Vec::new();
    for (flows, rate) in LOADS {
        let mut stages = bench.stages(&bench.with_floor(), flows)?;
        for way in Way::ALL {
            let name = format!("{}, {flows} flows, {rate:.0} packets/s", way.name());
            say(&format!("latency: {name}"));
            let mut p50 = Row::new(format!("{name}: p50"), "µs", 1).over_floor();
            let mut p99 = Row::new(format!("{name}: p99"), "µs", 1)
                .over_floor()
                .aim(AIM);
            let offer = Offer {
                size: SIZE,
                rate,
                duration: bench.plan.window * WINDOWS,
            };
            bench.rounds(&mut stages, |stages, number, counts| {
                if let Some(stage) = stages.get_mut(number) {
                    stage.bind()?;
                }
                let (delivered, used) = bench.deliver(stages, number, way, offer)?;
                if let (true, Some(stage)) = (counts, stages.get(number)) {
                    for (row, quantile) in [(&mut p50, 0.5), (&mut p99, 0.99)] {
                        let nanoseconds = delivered.latency.value_at_quantile(quantile);
                        let sample = Sample {
                            loss: delivered.loss(),
                            ..used.sample(Duration::from_nanos(nanoseconds).as_secs_f64() * 1e6)
                        };
                        row.add(stage.relay.what, sample);
                    }
                }
                Ok(())
            })?;
            rows.extend([p50, p99]);
        }
    }
    Ok(Section {
        title: "Latency".to_owned(),
        notes: vec![format!(
            "From before a packet of {SIZE} bytes is sent until it was read, by one clock, at random intervals; the \
             generator does not sleep. Beside the bare loop's: what the relays add to it."
        )],
        rows,
    })
}
