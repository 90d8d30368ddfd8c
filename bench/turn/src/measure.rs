//! What the measurements have in common: rounds, in which the relays take turns, and what disturbs them.

mod allocations;
mod calibration;
mod cpu;
mod idle;
mod latency;
mod memory;
mod rate;
mod stream;

use std::{
    fs,
    net::SocketAddrV4,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::{
    crowd::Origin,
    process,
    relay::{Relay, Relays, What},
    report::{DISTURBED, Sample, Section},
    stage::{Stage, Way},
    traffic::{self, Delivered, Flow, Offer},
    wire::Wire,
};

/// How often a disturbed sample is taken.
const ATTEMPTS: usize = 3;

/// A measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Measurement {
    /// CPU time for each relayed packet
    Cpu,
    /// Highest rate with next to no loss
    Rate,
    /// Clients over TCP and TLS
    Stream,
    /// Allocations a second, and CPU time for each
    Allocations,
    /// Memory for each allocation
    Memory,
    /// Latency that a relay adds
    Latency,
    /// CPU time with allocations that do nothing
    Idle,
}

/// How thoroughly it is measured.
pub(crate) struct Plan {
    /// Rounds that count; one before them does not.
    pub(crate) rounds: usize,
    /// How long one sample takes.
    pub(crate) window: Duration,
    /// Packets a second where CPU time is measured.
    pub(crate) rate: f64,
    /// Allocations where they are counted.
    pub(crate) allocations: usize,
}

/// Everything that the measurements have in common.
pub(crate) struct Bench {
    pub(crate) relays: Relays,
    pub(crate) plan: Plan,
}

/// What was used while a sample was taken.
struct Used {
    /// By the relay that it is about.
    relay: Duration,
    /// How many cores others used.
    foreign: f64,
}

impl Measurement {
    pub(crate) const ALL: [Self; 7] = [
        Self::Cpu,
        Self::Rate,
        Self::Stream,
        Self::Allocations,
        Self::Memory,
        Self::Latency,
        Self::Idle,
    ];

    pub(crate) fn run(self, bench: &Bench) -> Result<Section> {
        match self {
            Self::Cpu => cpu::measure(bench),
            Self::Rate => rate::measure(bench),
            Self::Stream => stream::measure(bench),
            Self::Allocations => allocations::measure(bench),
            Self::Memory => memory::measure(bench),
            Self::Latency => latency::measure(bench),
            Self::Idle => idle::measure(bench),
        }
    }
}

impl Bench {
    /// What a reader of the figures has to know.
    pub(crate) fn describe(&self) -> Result<String> {
        let relays = &self.relays;
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let nocturne = relays
            .nocturne
            .as_ref()
            .map_or("not measured".to_owned(), |binary| version(binary));
        let [voice, video] = [160, 1200].map(|size| ceiling(size, relays));
        Ok(format!(
            "Linux {}; {}. coturn: {}, {}. nocturne: {nocturne}. {} rounds of {:?}. The load generator by itself sends and \
             receives {:.0} packets of 160 bytes a second, {:.0} of 1200.\n",
            kernel.trim(),
            relays.cores.describe(),
            version(&relays.coturn),
            relays.threads.describe(),
            self.plan.rounds,
            self.plan.window,
            voice?,
            video?,
        ))
    }

    /// The relays that are measured, and the floor.
    fn with_floor(&self) -> Vec<What> {
        let mut all = self.relays.measured();
        all.push(What::Floor);
        all
    }

    /// A stage for each.
    fn stages(&self, all: &[What], flows: usize) -> Result<Vec<Stage>> {
        all.iter()
            .map(|what| {
                Stage::set(&self.relays, *what, flows)
                    .with_context(|| format!("{flows} flows with {}", what.name()))
            })
            .collect()
    }

    /// All rounds: everybody takes turns, and the first round does not count.
    fn rounds<T: Contender>(
        &self,
        contenders: &mut [T],
        mut sample: impl FnMut(&mut [T], usize, bool) -> Result<()>,
    ) -> Result<()> {
        for round in 0..=self.plan.rounds {
            for number in 0..contenders.len() {
                let what = contenders
                    .get(number)
                    .map_or("", |each| each.relay().what.name());
                sample(contenders, number, round > 0).with_context(|| what.to_owned())?;
            }
        }
        Ok(())
    }

    /// Does something with the contender with this number, and says what was used meanwhile by its relay
    /// and by strangers.
    fn watch_once<T: Contender, R>(
        &self,
        contenders: &mut [T],
        number: usize,
        work: impl FnOnce(&mut T) -> Result<R>,
    ) -> Result<(R, Used)> {
        let before = self.usage(contenders, number);
        let contender = contenders.get_mut(number).context("a contender")?;
        let result = work(contender)?;
        let used = self.usage(contenders, number).since(&before);
        Ok((result, used))
    }

    /// The same, and what strangers disturb is done again, a few times; the least disturbed counts.
    fn watch<T: Contender, R>(
        &self,
        contenders: &mut [T],
        number: usize,
        mut work: impl FnMut(&mut T) -> Result<R>,
    ) -> Result<(R, Used)> {
        let mut best: Option<(R, Used)> = None;
        for _ in 0..ATTEMPTS {
            let (result, used) = self.watch_once(contenders, number, &mut work)?;
            let quiet = used.foreign <= DISTURBED;
            let least = best
                .as_ref()
                .is_none_or(|(_, least)| used.foreign < least.foreign);
            if least {
                best = Some((result, used));
            }
            if quiet {
                break;
            }
        }
        best.context("it was done at least once")
    }

    /// Sends packets one way across a stage; again, if strangers disturb it.
    fn deliver(
        &self,
        stages: &mut [Stage],
        number: usize,
        way: Way,
        offer: Offer,
    ) -> Result<(Delivered, Used)> {
        self.watch(stages, number, |stage| self.send(stage, way, offer))
    }

    /// Sends packets one way across a stage.
    fn deliver_once(
        &self,
        stages: &mut [Stage],
        number: usize,
        way: Way,
        offer: Offer,
    ) -> Result<(Delivered, Used)> {
        self.watch_once(stages, number, |stage| self.send(stage, way, offer))
    }

    fn send(&self, stage: &mut Stage, way: Way, offer: Offer) -> Result<Delivered> {
        let flows = stage.flows(way);
        traffic::run(stage.ends(way), &flows, offer, &self.relays.clock)
    }

    fn usage<T: Contender>(&self, contenders: &[T], number: usize) -> Usage {
        let cpu = |contender: &T| contender.relay().process.cpu();
        Usage {
            relay: contenders.get(number).map(cpu).unwrap_or_default(),
            ours: contenders.iter().map(cpu).sum::<Duration>() + process::own_cpu(),
            machine: process::machine_cpu(),
            time: self.relays.clock.now(),
        }
    }
}

/// Packets a second that the generator sends to itself.
fn ceiling(size: usize, relays: &Relays) -> Result<f64> {
    let (sender, mut receiver) = (Wire::open()?, Wire::open()?);
    let flow = Flow {
        from: Origin::NEAR.address(0),
        to: SocketAddrV4::new(Origin::PEERS.address(0), receiver.port()),
        sent_on: None,
        received_on: None,
    };
    let offer = Offer {
        size,
        rate: 10e6,
        duration: Duration::from_millis(500),
    };
    let delivered = traffic::run((&sender, &mut receiver), &[flow], offer, &relays.clock)?;
    Ok(delivered.rate())
}

/// What a binary says of its version: the last word of the first line.
fn version(binary: &Path) -> String {
    let output = Command::new(binary)
        .arg("--version")
        .stdin(Stdio::null())
        .output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let first = text.unwrap_or_default();
    let word = first
        .lines()
        .next()
        .and_then(|line| line.split(' ').next_back());
    word.unwrap_or("unknown").to_owned()
}

/// Something that has a relay.
trait Contender {
    fn relay(&self) -> &Relay;
}

impl Contender for Stage {
    fn relay(&self) -> &Relay {
        &self.relay
    }
}

impl Contender for Relay {
    fn relay(&self) -> &Relay {
        self
    }
}

/// CPU time by whose it is.
struct Usage {
    relay: Duration,
    ours: Duration,
    machine: Duration,
    time: Instant,
}

impl Usage {
    fn since(&self, before: &Self) -> Used {
        let machine = self.machine.saturating_sub(before.machine);
        let ours = self.ours.saturating_sub(before.ours);
        let time = self.time - before.time;
        Used {
            relay: self.relay.saturating_sub(before.relay),
            foreign: machine.saturating_sub(ours).as_secs_f64() / time.as_secs_f64().max(1e-9),
        }
    }
}

impl Used {
    const fn sample(&self, value: f64) -> Sample {
        Sample {
            value,
            foreign: self.foreign,
            loss: 0.0,
            limited: false,
        }
    }

    /// CPU time of the relay for each of so many, in microseconds.
    fn each(&self, count: u64) -> f64 {
        self.relay.as_secs_f64() * 1e6 / traffic::ratio(count.max(1), 1)
    }
}
