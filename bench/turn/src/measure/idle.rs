//! CPU time while nothing is to be done.

use std::time::Duration;

use anyhow::Result;

use super::Bench;
use crate::{
    crowd::{Crowd, Origin},
    report::{Row, Section},
    say,
    stage::WINDOW,
};

/// A relay may tidy up so long before it is looked at.
const PAUSE: Duration = Duration::from_secs(2);
/// So many windows are one look.
const WINDOWS: u32 = 4;
const CHANNEL: u16 = 0x4000;

pub(super) fn measure(bench: &Bench) -> Result<Section> {
    let count = bench.plan.allocations;
    let mut relays = Vec::new();
    let mut crowds = Vec::new();
    for what in bench.relays.measured() {
        say(&format!("idle: {count} allocations with {}", what.name()));
        let relay = bench.relays.start(what)?;
        let credentials = |number| relay.credentials(&format!("idle{number}"));
        let clock = &bench.relays.clock;
        let mut crowd = Crowd::new(relay.address, Origin::NEAR, count, credentials, clock)?;
        crowd.allocate(WINDOW)?;
        crowd.bind(WINDOW, CHANNEL, |number| {
            std::net::SocketAddrV4::new(Origin::PEERS.address(number), 9)
        })?;
        relays.push(relay);
        crowds.push(crowd);
    }
    std::thread::sleep(PAUSE);
    let mut row = Row::new(format!("{count} allocations"), "ms a second", 3);
    let time = bench.plan.window * WINDOWS;
    bench.rounds(&mut relays, |relays, number, counts| {
        let ((), used) = bench.watch(relays, number, |_| {
            std::thread::sleep(time);
            Ok(())
        })?;
        if let (true, Some(relay)) = (counts, relays.get(number)) {
            let share = used.relay.as_secs_f64() / time.as_secs_f64();
            row.add(relay.what, used.sample(share * 1e3));
        }
        Ok(())
    })?;
    Ok(Section {
        title: "CPU time when idle".to_owned(),
        notes: vec![format!(
            "CPU time a second with {count} allocations, each with a permission and a channel, and no packet at all, over \
             {time:?}."
        )],
        rows: vec![row],
    })
}
