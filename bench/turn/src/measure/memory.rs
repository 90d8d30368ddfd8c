//! Memory for each allocation.

use std::time::Duration;

use anyhow::Result;

use super::Bench;
use crate::{
    crowd::{Crowd, Origin},
    process::Memory,
    relay::What,
    report::{Aim, Row, Sample, Section},
    say,
    stage::WINDOW,
    traffic::ratio,
};

/// Allocations before the first look, so that what a relay sets up once is not counted.
const WARM_UP: usize = 100;
/// A relay may tidy up so long before it is looked at.
const PAUSE: Duration = Duration::from_secs(1);
const CHANNEL: u16 = 0x4000;
/// Nocturne's memory divided by coturn's.
const AIM: Aim = Aim::AtMost(0.10);

pub(super) fn measure(bench: &Bench) -> Result<Section> {
    let resident = |name: &str| Row::new(format!("{name}, resident"), "bytes", 0).aim(AIM);
    let proportional = |name: &str| Row::new(format!("{name}, proportional"), "bytes", 0);
    let names = ["allocation", "allocation with a permission and a channel"];
    let mut rows = names.map(|name| [resident(name), proportional(name)]);
    let mut whole = Row::new("whole process, no allocation, resident", "KiB", 0);
    for round in 0..bench.plan.rounds.min(3) {
        for what in bench.relays.measured() {
            say(&format!("memory: {}, round {}", what.name(), round + 1));
            let grown = grow(bench, what)?;
            for ([resident, proportional], memory) in rows.iter_mut().zip(grown.each) {
                let each = |bytes: u64| Sample {
                    value: ratio(bytes, bench.plan.allocations as u64),
                    ..Sample::default()
                };
                resident.add(what, each(memory.resident));
                proportional.add(what, each(memory.proportional));
            }
            let sample = Sample {
                value: ratio(grown.at_rest.resident, 1024),
                ..Sample::default()
            };
            whole.add(what, sample);
        }
    }
    let mut rows: Vec<_> = rows.into_iter().flatten().collect();
    rows.push(whole);
    Ok(Section {
        title: "Memory for each allocation".to_owned(),
        notes: vec![format!(
            "What a fresh process grows by over {} allocations, after {WARM_UP} that do not count, for each of them: resident \
             pages (RSS), and the same with shared ones in part (PSS). Memory of the process alone: what the kernel keeps for \
             a relayed port's socket is not in it, and the same for both.",
            bench.plan.allocations
        )],
        rows,
    })
}

/// How much memory came with the allocations, and how much with their channels besides.
struct Grown {
    at_rest: Memory,
    each: [Memory; 2],
}

fn grow(bench: &Bench, what: What) -> Result<Grown> {
    let relay = bench.relays.start(what)?;
    let crowd = |origin, size| {
        let credentials = |number| relay.credentials(&format!("memory{number}"));
        Crowd::new(
            relay.address,
            origin,
            size,
            credentials,
            &bench.relays.clock,
        )
    };
    let look = || {
        std::thread::sleep(PAUSE);
        relay.process.memory()
    };
    let at_rest = look()?;
    let mut first = crowd(Origin::FAR, WARM_UP)?;
    let mut others = crowd(Origin::NEAR, bench.plan.allocations)?;
    let peer = |number| std::net::SocketAddrV4::new(Origin::PEERS.address(number), 9);
    first.allocate(WINDOW)?;
    first.bind(WINDOW, CHANNEL, peer)?;
    let before = look()?;
    others.allocate(WINDOW)?;
    let allocated = look()?;
    others.bind(WINDOW, CHANNEL, peer)?;
    let bound = look()?;
    Ok(Grown {
        at_rest,
        each: [since(allocated, before), since(bound, before)],
    })
}

fn since(now: Memory, before: Memory) -> Memory {
    Memory {
        resident: now.resident.saturating_sub(before.resident),
        proportional: now.proportional.saturating_sub(before.proportional),
    }
}
