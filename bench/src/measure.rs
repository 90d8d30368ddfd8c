//! The course of a measurement, and what it gives.
//!
//! For each provider and latency: the gateway in both modes and the floor, each in a fresh process.
//! First a closed loop (capacity), then an open one at half of what the gateway managed in the mode
//! `opaque` (latency), the same rate for all three.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use shared::{clock::Clock, random::Random};
use tempfile::TempDir;

use crate::{
    Kind,
    device::{Device, What},
    load::{Load, Served},
    notifications::{DEVICES, Notifications},
    process::{self, Cores},
    providers::{Captured, Providers, Subscription},
    say,
};

/// Connections of the homeserver's that keep a provider without latency busy.
const CONNECTIONS: usize = 64;
/// Connections for a provider with latency: one for each push that is to be under way.
const CONNECTIONS_WITH_LATENCY: usize = 1024;

/// More of a core than this used by processes that have nothing to do with it disturbs a measurement.
pub(crate) const DISTURBED: f64 = 0.1;
/// How often a disturbed measurement is made.
const ATTEMPTS: usize = 3;

/// What is to be measured, and for how long.
pub(crate) struct Plan {
    /// The gateway's binary.
    pub(crate) gateway: PathBuf,
    /// Which providers.
    pub(crate) kinds: Vec<Kind>,
    /// How long the providers take to answer.
    pub(crate) latencies: Vec<Duration>,
    /// Before each measurement.
    pub(crate) warm_up: Duration,
    /// At full load.
    pub(crate) closed: Duration,
    /// At half load.
    pub(crate) open: Duration,
    /// The time.
    pub(crate) clock: Clock,
}

/// What one device did with one provider.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) kind: Kind,
    /// How long the provider takes to answer.
    pub(crate) latency: Duration,
    pub(crate) what: What,
    pub(crate) connections: usize,
    /// Notifications a second at full load.
    pub(crate) rate: f64,
    /// CPU time of the device for one notification at full load.
    pub(crate) cpu: Duration,
    /// How much of its core the device used at full load; 1 is all of it.
    pub(crate) busy: f64,
    /// How much of their cores load and stand-ins used meanwhile.
    pub(crate) others_busy: f64,
    /// How many cores were used by processes that have nothing to do with the measurement, at full load.
    pub(crate) foreign: f64,
    /// The same in the open loop.
    pub(crate) foreign_at_half: f64,
    /// The rate of the open loop.
    pub(crate) half_rate: f64,
    /// Latency in the open loop: half of the notifications were answered within …
    pub(crate) p50: Duration,
    /// … and 99 of 100 within this.
    pub(crate) p99: Duration,
    /// Bytes.
    pub(crate) peak_memory: u64,
}

/// Everything that the measurements have in common.
struct Bench<'a> {
    plan: &'a Plan,
    cores: Cores,
    providers: Providers,
    subscriptions: Vec<Subscription>,
    directory: TempDir,
    runtime: tokio::runtime::Runtime,
}

/// Runs the whole plan.
pub(crate) fn run(plan: &Plan) -> Result<Vec<Row>> {
    process::raise_file_limit();
    let cores = Cores::divide();
    say(&cores.describe());
    let directory = tempfile::tempdir().context("make a temporary folder")?;
    let providers = Providers::start(directory.path(), DEVICES)?;
    let mut bench = Bench {
        plan,
        cores,
        subscriptions: providers.subscriptions()?,
        providers,
        directory,
        runtime: tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?,
    };
    let mut rows = Vec::new();
    for kind in &plan.kinds {
        let request = bench.capture(*kind)?;
        for latency in &plan.latencies {
            bench.providers.prepare(*kind, *latency)?;
            let mut half_rate = None;
            for what in What::all(*kind) {
                // sealing takes so much longer that half of what is done without is too much
                let half_rate_of_opaque = half_rate.filter(|_| *what != What::Sealed);
                let row = bench
                    .measure(*kind, *latency, *what, &request, half_rate_of_opaque)
                    .with_context(|| format!("{}, {}, {latency:?}", kind.name(), what.name()))?;
                half_rate.get_or_insert(row.half_rate);
                rows.push(row);
            }
        }
    }
    Ok(rows)
}

impl Bench<'_> {
    /// What the gateway sends a provider for one notification; the stand-in checks it as the provider would.
    fn capture(&mut self, kind: Kind) -> Result<Captured> {
        self.providers.set_quiet(false)?;
        self.providers.prepare(kind, Duration::ZERO)?;
        let device = self.start(kind, What::Opaque, None)?;
        let notifications = self.notifications(kind, What::Opaque, &device);
        let clock = self.plan.clock.clone();
        let sent = self.runtime.block_on(async {
            let mut load = Load::open(device.address, 1, notifications, clock).await?;
            load.once().await
        });
        sent.with_context(|| format!("the gateway's log: {}", device.log()))?;
        let request = self.providers.last(kind)?;
        self.providers.set_quiet(true)?;
        Ok(request)
    }

    fn start(&self, kind: Kind, what: What, request: Option<&Captured>) -> Result<Device> {
        let (access, directory) = (&self.providers.access, self.directory.path());
        let gateway = |mode| {
            Device::gateway(
                &self.plan.gateway,
                mode,
                kind,
                access,
                directory,
                &self.cores,
            )
        };
        match what {
            What::Opaque | What::Sealed => gateway("opaque"),
            What::Sygnal => gateway("sygnal"),
            What::Floor => {
                let request = request.context("the floor needs a request")?;
                Device::floor(kind, request, access, directory, &self.cores)
            }
        }
    }

    fn notifications(&self, kind: Kind, what: What, device: &Device) -> Arc<Notifications> {
        let random = Random::seeded(1);
        Arc::new(Notifications::new(
            kind,
            what,
            device.address,
            &self.subscriptions,
            &random,
        ))
    }

    fn measure(
        &self,
        kind: Kind,
        latency: Duration,
        what: What,
        request: &Captured,
        half_rate: Option<f64>,
    ) -> Result<Row> {
        let device = self.start(kind, what, Some(request))?;
        self.measure_device(&device, kind, latency, what, half_rate)
            .map_err(|error| anyhow!("{error:#}\nthe device's log:\n{}", device.log()))
    }

    fn measure_device(
        &self,
        device: &Device,
        kind: Kind,
        latency: Duration,
        what: What,
        half_rate: Option<f64>,
    ) -> Result<Row> {
        let plan = self.plan;
        let connections = if latency.is_zero() {
            CONNECTIONS
        } else {
            CONNECTIONS_WITH_LATENCY
        };
        let load = Load::open(
            device.address,
            connections,
            self.notifications(kind, what, device),
            plan.clock.clone(),
        );
        let mut load = self.runtime.block_on(load)?;
        self.runtime.block_on(load.closed_loop(plan.warm_up))?;
        let (full, used) = self.undisturbed(device, || {
            self.runtime.block_on(load.closed_loop(plan.closed))
        })?;
        let seconds = full.took.as_secs_f64();
        let rate = full.rate()?;
        let half_rate = half_rate.unwrap_or(rate / 2.0);
        self.runtime
            .block_on(load.open_loop(half_rate, plan.warm_up))?;
        let (half, used_at_half) = self.undisturbed(device, || {
            self.runtime.block_on(load.open_loop(half_rate, plan.open))
        })?;
        let row = Row {
            kind,
            latency,
            what,
            connections,
            rate,
            cpu: used.device.div_f64((rate * seconds).max(1.0)),
            busy: used.device.as_secs_f64() / seconds,
            others_busy: used.others.as_secs_f64()
                / seconds
                / f64::from(u32::try_from(self.cores.others())?),
            foreign: used.foreign(full.took),
            foreign_at_half: used_at_half.foreign(half.took),
            half_rate,
            p50: Duration::from_micros(half.latency.value_at_quantile(0.5)),
            p99: Duration::from_micros(half.latency.value_at_quantile(0.99)),
            peak_memory: device.usage().peak_memory,
        };
        say(&format!(
            "{}, provider takes {latency:?}, {}: {:.0}/s, {:.1} µs of CPU each, core {:.0} % busy, the others {:.0} %; at \
             {:.0}/s p50 {:?}, p99 {:?}",
            kind.name(),
            what.name(),
            row.rate,
            row.cpu.as_secs_f64() * 1e6,
            row.busy * 100.0,
            row.others_busy * 100.0,
            half.rate()?,
            row.p50,
            row.p99,
        ));
        Ok(row)
    }

    /// Measures again while other processes disturb it, a few times, and keeps the least disturbed.
    fn undisturbed(
        &self,
        device: &Device,
        mut load: impl FnMut() -> Result<Served>,
    ) -> Result<(Served, Used)> {
        let mut best: Option<(Served, Used)> = None;
        for _ in 0..ATTEMPTS {
            let before = self.used(device);
            let served = load()?;
            let used = self.used(device).since(&before);
            let foreign = used.foreign(served.took);
            if best
                .as_ref()
                .is_none_or(|(served, used)| foreign < used.foreign(served.took))
            {
                best = Some((served, used));
            }
            if foreign <= DISTURBED {
                break;
            }
        }
        best.context("nothing was measured")
    }

    fn used(&self, device: &Device) -> Used {
        Used {
            device: device.usage().cpu,
            others: self.providers.usage().cpu + process::own_usage().cpu,
            machine: process::machine_cpu(),
        }
    }
}

/// CPU time by whose it is.
struct Used {
    device: Duration,
    others: Duration,
    machine: Option<Duration>,
}

impl Used {
    fn since(&self, before: &Self) -> Self {
        Self {
            device: self.device.saturating_sub(before.device),
            others: self.others.saturating_sub(before.others),
            machine: self
                .machine
                .zip(before.machine)
                .map(|(now, then)| now.saturating_sub(then)),
        }
    }

    /// How many cores none of our processes used, but somebody did.
    fn foreign(&self, time: Duration) -> f64 {
        let ours = self.device + self.others;
        let foreign = self.machine.unwrap_or_default().saturating_sub(ours);
        foreign.as_secs_f64() / time.as_secs_f64()
    }
}
