//! Allocations a second, each from its first packet to its relayed address.

use anyhow::Result;

use super::{Bench, Contender};
use crate::{
    crowd::{Crowd, Origin},
    report::{Aim, Row, Section},
    say,
    stage::WINDOW,
    traffic::ratio,
};

/// Nocturne's rate divided by coturn's.
const AIM: Aim = Aim::AtLeast(2.0);

pub(super) fn measure(bench: &Bench) -> Result<Section> {
    let measured = bench.relays.measured();
    let relays = measured.iter().map(|what| bench.relays.start(*what));
    let mut relays = relays.collect::<Result<Vec<_>>>()?;
    let mut rate = Row::new("allocations", "a second", 0).aim(AIM);
    let mut cpu = Row::new("CPU time for each", "µs", 1);
    let count = bench.plan.allocations;
    let clock = &bench.relays.clock;
    let mut round = 0;
    say("allocations");
    bench.rounds(&mut relays, |relays, number, counts| {
        let ((took, mut crowd), used) = bench.watch_once(relays, number, |relay| {
            round += 1;
            // another socket: no client has been here before
            let credentials = |number| relay.credentials(&format!("{round}x{number}"));
            let mut crowd = Crowd::new(relay.address, Origin::NEAR, count, credentials, clock)?;
            let began = clock.now();
            crowd.allocate(WINDOW)?;
            let took = clock.now() - began;
            Ok((took, crowd))
        })?;
        crowd.release(WINDOW)?;
        if let (true, Some(relay)) = (counts, relays.get(number)) {
            let each_second = ratio(count as u64, 1) / took.as_secs_f64();
            let what = relay.relay().what;
            rate.add(what, used.sample(each_second));
            cpu.add(what, used.sample(used.each(count as u64)));
        }
        Ok(())
    })?;
    Ok(Section {
        title: "Allocations".to_owned(),
        notes: vec![format!(
            "{count} clients, {WINDOW} at once, each at an address that was not seen before, in a network of its own and with \
             a username of its own: Allocate, 401, Allocate with credentials, success. They are ended before the next round, \
             which does not count."
        )],
        rows: vec![rate, cpu],
    })
}
