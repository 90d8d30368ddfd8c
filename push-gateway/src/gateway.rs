//! The running gateway: what requests share, and how a new configuration takes its place.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use rustls::RootCertStore;
use shared::{
    clock::Clock, environment::Environment, lifecycle::Shutdown, log_gate::LogGate,
    pseudonym::Pseudonyms, random::Random, rate_limit::RateLimit, tls,
};
use tokio::sync::{Semaphore, mpsc};
use tracing::{error, info, warn};

use crate::{
    app::{Apps, Parts},
    config::{self, Config, Limits},
    dedupe::Deliveries,
    dispatch,
    metrics::Metrics,
    sealed::pushkey::PushkeyKeys,
};

/// Requests with a large body that are read and answered at once. Half a megabyte of JSON takes up to fifty
/// times as much when it is parsed.
const LARGE_BODIES: usize = 8;

/// How much longer than one request's budget a stop may take.
const DRAIN_MARGIN: Duration = Duration::from_secs(2);

/// The running gateway.
pub struct Gateway {
    /// What the configuration decides; replaced as a whole.
    state: ArcSwap<State>,
    /// All metrics.
    pub metrics: Metrics,
    /// Which devices got which event.
    pub deliveries: Deliveries,
    /// Names for devices in logs.
    pub pseudonyms: Pseudonyms,
    /// Where the time comes from.
    pub clock: Clock,
    /// Where randomness comes from.
    pub random: Random,
    /// Whether the gateway is stopping.
    pub shutdown: Shutdown,
    /// Room for pushes that wait out their jitter.
    pub delayed: Arc<Semaphore>,
    /// Keeps a stranger with many unknown app IDs from filling the log.
    pub unmatched_log: LogGate,
    /// Room for requests with a large body.
    pub large_bodies: Arc<Semaphore>,
    environment: Environment,
    path: PathBuf,
    alive: mpsc::Sender<()>,
}

/// What one configuration gives.
pub struct State {
    /// The apps.
    pub apps: Apps,
    /// `limits:`
    pub limits: Limits,
    /// `limits.per_pushkey_per_minute`
    pub pushkey_limit: Option<RateLimit>,
    /// `limits.per_source_per_second`
    pub source_limit: Option<RateLimit>,
    /// `pushkey_keys`
    pub pushkey_keys: Arc<PushkeyKeys>,
    /// `log.unsafe_identifiers`
    pub unsafe_identifiers: bool,
    config: Config,
}

/// What a gateway is made from besides its configuration.
#[derive(Clone, Debug)]
pub struct World {
    /// The process environment.
    pub environment: Environment,
    /// Where the time comes from.
    pub clock: Clock,
    /// Where randomness comes from.
    pub random: Random,
    /// Whether the gateway is stopping.
    pub shutdown: Shutdown,
}

/// Tells when everything that must be finished before the process ends is finished.
#[derive(Debug)]
pub struct Unfinished(mpsc::Receiver<()>);

impl Gateway {
    /// Makes a gateway ready; connects to nothing yet.
    ///
    /// # Errors
    ///
    /// A text that names what cannot work.
    pub fn new(config: Config, world: World) -> Result<(Arc<Self>, Unfinished), String> {
        let World {
            environment,
            clock,
            random,
            shutdown,
        } = world;
        let metrics = Metrics::new(&clock);
        let roots = Arc::new(tls::roots(&environment)?);
        let path = config.path.clone();
        let state = State::new(
            config,
            &Parts {
                clock: &clock,
                random: &random,
                roots,
                metrics: &metrics,
            },
            None,
        )?;
        metrics
            .unsafe_identifiers
            .set(i64::from(state.unsafe_identifiers));
        let (alive, finished) = mpsc::channel(1);
        let now = clock.now();
        let gateway = Self {
            state: ArcSwap::from_pointee(state),
            metrics,
            deliveries: Deliveries::new(now),
            pseudonyms: Pseudonyms::new(&random),
            clock,
            random,
            shutdown,
            delayed: Arc::new(Semaphore::new(dispatch::delayed_pushes())),
            unmatched_log: LogGate::new(now),
            large_bodies: Arc::new(Semaphore::new(LARGE_BODIES)),
            environment,
            path,
            alive,
        };
        Ok((Arc::new(gateway), Unfinished(finished)))
    }

    /// How long what is under way may take when the gateway stops.
    #[must_use]
    pub fn drain(&self) -> Duration {
        self.state().limits.request_budget + DRAIN_MARGIN
    }

    /// The state now in force. A request keeps the one it began with.
    #[must_use]
    pub fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// A token that keeps the process from ending before what holds it is done.
    #[must_use]
    pub fn alive(&self) -> impl Send + 'static + use<> {
        self.alive.clone()
    }

    /// Reads the configuration, keys and certificates anew. What is under way goes on with the old
    /// ones; when the new ones are bad, everything does, and the problems are logged.
    pub async fn reload(&self) {
        let (path, environment, now) = (
            self.path.clone(),
            self.environment.clone(),
            self.clock.wall(),
        );
        let read = tokio::task::spawn_blocking(move || {
            let loaded = config::load(&path, &environment, now);
            let roots = tls::roots(&environment);
            (loaded, roots)
        });
        let refused = match read.await {
            Err(_) => vec!["a fault in the gateway while reading the configuration".to_owned()],
            Ok((loaded, roots)) => {
                for warning in loaded.failing.iter().chain(&loaded.warnings) {
                    warn!("{warning}");
                }
                match (loaded.config, roots) {
                    (Some(config), Ok(roots)) if loaded.errors.is_empty() => {
                        match self.replace(config, roots) {
                            Ok(()) => Vec::new(),
                            Err(problem) => vec![problem],
                        }
                    }
                    (_, Err(problem)) if loaded.errors.is_empty() => vec![problem],
                    (_, _) => loaded.errors,
                }
            }
        };
        if refused.is_empty() {
            self.metrics.reloads.inc();
            info!(
                apps = self.state().apps.iter().count(),
                "the configuration is reloaded"
            );
        } else {
            self.metrics.failed_reloads.inc();
            for problem in &refused {
                error!("{problem}");
            }
            error!(
                problems = refused.len(),
                "the new configuration is refused, the old one stays in force"
            );
        }
    }

    fn replace(&self, config: Config, roots: RootCertStore) -> Result<(), String> {
        let before = self.state();
        let old = &before.config;
        for (changed, key) in [
            (old.listen != config.listen, "http"),
            (
                old.metrics_listen != config.metrics_listen,
                "metrics.prometheus",
            ),
            (
                old.log.level != config.log.level || old.log.format != config.log.format,
                "log",
            ),
        ] {
            if changed {
                warn!("`{key}` changed: that takes a restart to come into force");
            }
        }
        let parts = Parts {
            clock: &self.clock,
            random: &self.random,
            roots: Arc::new(roots),
            metrics: &self.metrics,
        };
        let state = State::new(config, &parts, Some(&before))?;
        self.metrics
            .unsafe_identifiers
            .set(i64::from(state.unsafe_identifiers));
        if state.unsafe_identifiers && !before.unsafe_identifiers {
            warn_of_unsafe_identifiers();
        }
        self.state.store(Arc::new(state));
        Ok(())
    }

    /// What is done without being asked, for as long as the gateway runs: identifier keys whose epoch
    /// is over are erased within a minute, and while identifiers are written to the log, that is said
    /// there at once and every hour.
    pub async fn keep_house(&self) {
        let mut minutes = tokio::time::interval(Duration::from_mins(1));
        for minute in 0_u64.. {
            minutes.tick().await;
            let state = self.state();
            for app in state.apps.iter() {
                app.context.identifiers.expire();
                app.close_idle();
            }
            if state.unsafe_identifiers && minute % 60 == 0 {
                warn_of_unsafe_identifiers();
            }
        }
    }

    /// Brings the metrics up to date that are read rather than counted.
    pub fn update_gauges(&self) {
        let now = self.clock.now();
        for app in self.state().apps.iter() {
            app.metrics.breaker.set(match app.breaker_state(now) {
                crate::breaker::BreakerState::Closed => 0,
                crate::breaker::BreakerState::HalfOpen => 1,
                crate::breaker::BreakerState::Open => 2,
            });
            if let Some(expiry) = app.provider.credentials_expire_at() {
                self.metrics.set_credentials_expiry(&app.name, expiry);
            }
        }
    }
}

impl State {
    fn new(config: Config, parts: &Parts<'_>, before: Option<&Self>) -> Result<Self, String> {
        let apps = Apps::new(&config, parts, before.map(|before| &before.apps))?;
        let now = parts.clock.now();
        let limit =
            |quota: Option<u32>, period| quota.map(|quota| RateLimit::new(quota, period, now));
        Ok(Self {
            apps,
            limits: config.limits.clone(),
            pushkey_limit: limit(config.limits.per_pushkey_per_minute, Duration::from_mins(1)),
            source_limit: limit(config.limits.per_source_per_second, Duration::from_secs(1)),
            pushkey_keys: Arc::clone(&config.pushkey_keys),
            unsafe_identifiers: config.log.unsafe_identifiers,
            config,
        })
    }

    /// When a request that began at `began` must be answered.
    #[must_use]
    pub fn deadline(&self, began: Instant) -> Instant {
        began + self.limits.request_budget
    }
}

impl Unfinished {
    /// Waits until nothing is unfinished any more. The gateway itself must have been dropped.
    pub async fn finished(mut self) {
        while self.0.recv().await.is_some() {}
    }
}

fn warn_of_unsafe_identifiers() {
    warn!(
        "log.unsafe_identifiers is on: pushkeys, event IDs and room IDs are written to the log at level \
                     debug; switch it off when you are done"
    );
}
