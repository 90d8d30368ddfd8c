//! CPU time for each relayed packet, at a rate that all can carry.

use anyhow::Result;

use super::Bench;
use crate::{
    report::{Aim, Row, Sample, Section},
    say,
    stage::Way,
    traffic::Offer,
};

/// Clients that send, or are sent to, at once.
const FLOWS: [usize; 3] = [1, 100, 1000];
/// Bytes of data: voice, and video.
const SIZES: [usize; 2] = [160, 1200];
/// Nocturne's CPU time for each packet, divided by coturn's.
const AIM_ONE_WAY: Aim = Aim::AtMost(0.80);
const AIM_BETWEEN_CLIENTS: Aim = Aim::AtMost(0.40);

pub(super) fn measure(bench: &Bench) -> Result<Section> {
    let plan = &bench.plan;
    let mut rows = Vec::new();
    for flows in FLOWS {
        let mut stages = bench.stages(&bench.with_floor(), flows)?;
        for way in Way::ALL {
            for size in SIZES {
                let name = format!("{}, {size} bytes, {flows} flows", way.name());
                say(&format!("CPU: {name}"));
                let aim = match way {
                    Way::ClientToPeer | Way::PeerToClient => AIM_ONE_WAY,
                    Way::ClientToClient => AIM_BETWEEN_CLIENTS,
                };
                let mut row = Row::new(name, "µs", 2).aim(aim);
                let offer = Offer {
                    size,
                    rate: plan.rate,
                    duration: plan.window,
                };
                for stage in &mut stages {
                    stage.bind()?;
                }
                bench.rounds(&mut stages, |stages, number, counts| {
                    let (delivered, used) = bench.deliver(stages, number, way, offer)?;
                    if let (true, Some(stage)) = (counts, stages.get(number)) {
                        let sample = Sample {
                            loss: delivered.loss(),
                            limited: delivered.behind,
                            ..used.sample(used.each(delivered.received))
                        };
                        row.add(stage.relay.what, sample);
                    }
                    Ok(())
                })?;
                rows.push(row);
            }
        }
    }
    Ok(Section {
        title: "CPU time for each relayed packet".to_owned(),
        notes: vec![format!(
            "ChannelData at the client's side, {:.0} packets a second in all at random intervals, counted where they arrive. \
             CPU time is that of all threads of the relay, user and kernel (`schedstat`); on loopback it includes the \
             kernel's delivery of what the relay sends, up to the receiver's queue.",
            plan.rate
        )],
        rows,
    })
}
