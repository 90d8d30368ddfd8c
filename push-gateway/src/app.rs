//! The apps of a configuration, made ready to be dispatched to.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rustls::RootCertStore;
use shared::{
    clock::Clock,
    http_client::{ClientConfig, HttpClient, Versions},
    log_gate::LogGate,
    random::Random,
};
use tokio::sync::Semaphore;

use crate::{
    breaker::{Breaker, BreakerState},
    config::{self, ApnsAuth, Config, Glob},
    metrics::{AppMetrics, Kind, Metrics},
    notification::Pushkey,
    opaque::Identifiers,
    outcome::Rejected,
    provider::{
        AppContext, OriginKey, Provider, Push, Shortfalls, apns::Apns, fcm::Fcm,
        unified_push::UnifiedPush, web_push::WebPush,
    },
};

/// Connections to Apple, at the most, as in Sygnal; each carries what Apple's stream limit lets it.
const APNS_CONNECTIONS: usize = 10;
/// Longest answer that is read of a configured provider.
const PROVIDER_ANSWER: usize = 16 * 1024;
/// Longest answer that is read of an endpoint that a stranger chose: only its status counts.
const ENDPOINT_ANSWER: usize = 2 * 1024;
/// TCP, proxy and TLS handshake together take no longer than this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);
/// Origins of an app whose breakers are kept.
const ORIGINS: usize = 1024;
/// Which part of its full share an origin has until it has taken a push.
const STRANGERS_SHARE: usize = 8;
/// Pushkeys of an app whose late rejection is waiting to be reported.
const LATE_REJECTIONS: usize = 65_536;

/// One app of the configuration.
pub struct App {
    /// Its key in the configuration.
    pub name: Arc<str>,
    /// Its provider.
    pub provider: Provider,
    /// What its payloads depend on.
    pub context: AppContext,
    /// One permit for each push that may be under way.
    pub in_flight: Semaphore,
    /// How long one provider request may take.
    pub request_timeout: Duration,
    /// Its metrics.
    pub metrics: AppMetrics,
    /// Rejections that came after the homeserver had been answered.
    pub late_rejections: Arc<LateRejections>,
    /// Keeps an outage from filling the log.
    pub failure_log: LogGate,
    /// Keeps a stranger with many bad pushkeys from filling it.
    pub rejection_log: LogGate,
    /// Keeps pushkeys sealed to a key that was retired from filling the log.
    pub unopened_log: LogGate,
    destinations: Destinations,
    http: HttpClient,
    start: Instant,
    /// [`UNTRIED`], [`ACCEPTED`], or when they were refused.
    credentials: AtomicU64,
}

/// The apps by app ID.
pub struct Apps {
    by_id: HashMap<String, Arc<App>>,
    globs: Vec<(Glob, Arc<App>)>,
    all: Vec<Arc<App>>,
}

/// What the provider was last seen to think of the app's credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// Nothing was sent yet.
    Untried,
    /// It accepted them.
    Accepted,
    /// It refused them.
    Refused,
}

/// What the apps are made from besides the configuration.
pub struct Parts<'a> {
    /// Where the time comes from.
    pub clock: &'a Clock,
    /// Where randomness comes from.
    pub random: &'a Random,
    /// Whom providers must have their certificates from.
    pub roots: Arc<RootCertStore>,
    /// Where the apps count.
    pub metrics: &'a Metrics,
}

impl Apps {
    /// Makes all apps ready. What must outlive a reload is taken from the apps `before`.
    ///
    /// # Errors
    ///
    /// A text that names the app and what cannot work.
    pub fn new(config: &Config, parts: &Parts<'_>, before: Option<&Self>) -> Result<Self, String> {
        let mut apps = Self {
            by_id: HashMap::new(),
            globs: Vec::new(),
            all: Vec::new(),
        };
        let older = before;
        for app in &config.apps {
            let before = older.and_then(|apps| apps.by_id.get(&app.id));
            let mut ready = App::new(app, config, parts, before.map(Arc::as_ref))
                .map_err(|problem| format!("apps.{}: {problem}", app.id))?;
            if let Provider::Apns(apns) = &mut ready.provider {
                let others = apps
                    .all
                    .iter()
                    .chain(older.iter().flat_map(|older| older.iter()));
                for other in others {
                    if let Provider::Apns(other) = &other.provider
                        && apns.share_token_of(other)
                    {
                        break;
                    }
                }
            }
            let ready = Arc::new(ready);
            apps.by_id.insert(app.id.clone(), Arc::clone(&ready));
            apps.globs.push((Glob::new(&app.id), Arc::clone(&ready)));
            apps.all.push(ready);
        }
        Ok(apps)
    }

    /// The app for an app ID: the entry of that very name, else the only glob that matches.
    ///
    /// # Errors
    ///
    /// When there is none, or more than one glob.
    pub fn find(&self, app_id: &str) -> Result<&Arc<App>, Rejected> {
        if let Some(app) = self.by_id.get(app_id) {
            return Ok(app);
        }
        let mut matching = self.globs.iter().filter(|(glob, _)| glob.matches(app_id));
        match (matching.next(), matching.next()) {
            (Some((_, app)), None) => Ok(app),
            (None, _) => Err(Rejected::UnknownApp),
            (Some(_), Some(_)) => Err(Rejected::AmbiguousApp),
        }
    }

    /// All apps, in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<App>> {
        self.all.iter()
    }
}

impl App {
    fn new(
        app: &config::App,
        config: &Config,
        parts: &Parts<'_>,
        before: Option<&Self>,
    ) -> Result<Self, String> {
        let client = |versions, identity, policy, max_connections, max_response_body| {
            HttpClient::new(ClientConfig {
                roots: Arc::clone(&parts.roots),
                identity,
                proxy: config.proxy.clone(),
                no_proxy: config.no_proxy.clone(),
                versions,
                policy,
                connect_timeout: CONNECT_TIMEOUT.min(app.request_timeout),
                max_connections,
                max_response_body,
            })
            .map_err(|error| error.to_string())
        };
        let endpoints = || Some(Arc::new(config.outbound.clone()));
        let (clock, random) = (parts.clock.clone(), parts.random.clone());
        let timeout = app.request_timeout;
        let (kind, kept, provider) = match &app.provider {
            config::Provider::Apns(apns) => {
                let identity = match &apns.auth {
                    ApnsAuth::Certificate { identity, .. } => Some(Arc::clone(identity)),
                    ApnsAuth::Token { .. } => None,
                };
                let http = client(
                    Versions::Http2,
                    identity,
                    None,
                    APNS_CONNECTIONS,
                    PROVIDER_ANSWER,
                )?;
                (
                    Kind::Apns,
                    http.clone(),
                    Provider::Apns(Apns::new(apns, timeout, http, clock, random)?),
                )
            }
            config::Provider::Fcm(fcm) => {
                let http = client(
                    Versions::Http2Or1,
                    None,
                    None,
                    fcm.max_connections,
                    PROVIDER_ANSWER,
                )?;
                (
                    Kind::Gcm,
                    http.clone(),
                    Provider::Fcm(Fcm::new(fcm, timeout, http, clock, random)?),
                )
            }
            config::Provider::WebPush(web_push) => {
                let http = client(
                    Versions::Http2Or1,
                    None,
                    endpoints(),
                    web_push.max_connections,
                    ENDPOINT_ANSWER,
                )?;
                (
                    Kind::WebPush,
                    http.clone(),
                    Provider::WebPush(WebPush::new(web_push, timeout, http, clock, random)?),
                )
            }
            config::Provider::UnifiedPush(unified_push) => {
                let http = client(
                    Versions::Http2Or1,
                    None,
                    endpoints(),
                    unified_push.max_connections,
                    ENDPOINT_ANSWER,
                )?;
                (
                    Kind::UnifiedPush,
                    http.clone(),
                    Provider::UnifiedPush(UnifiedPush::new(
                        unified_push,
                        timeout,
                        http,
                        clock,
                        random,
                    )?),
                )
            }
        };
        let identifiers = before
            .filter(|before| before.context.opaque.epoch == app.opaque.epoch)
            .filter(|before| {
                same_key(
                    before.context.opaque.key_file.as_deref(),
                    app.opaque.key_file.as_deref(),
                )
            })
            .map_or_else(
                || {
                    let identifiers =
                        Identifiers::new(&app.opaque, parts.clock.clone(), parts.random.clone());
                    let set_back = parts.metrics.clock_set_back(&app.id);
                    Arc::new(identifiers.counting(app.id.as_str().into(), set_back))
                },
                |before| Arc::clone(&before.context.identifiers),
            );
        let now = parts.clock.now();
        let limit = app.inflight_request_limit;
        let destinations = match kind {
            Kind::Apns | Kind::Gcm => {
                Destinations::Provider(Arc::new(Destination::new(limit, now)))
            }
            Kind::WebPush | Kind::UnifiedPush => Destinations::Origins {
                by_key: Mutex::default(),
                in_flight: limit.div_ceil(2),
            },
        };
        let metrics = parts.metrics.app(&app.id, kind);
        metrics.breaker.set(0);
        Ok(Self {
            name: app.id.as_str().into(),
            provider,
            context: AppContext {
                mode: app.payload,
                opaque: app.opaque.clone(),
                identifiers,
                clock: parts.clock.clone(),
                random: parts.random.clone(),
                shortfalls: Arc::new(Shortfalls::new(
                    app.id.as_str().into(),
                    parts.metrics.shortfalls(&app.id),
                    parts.clock.clone(),
                )),
            },
            in_flight: Semaphore::new(app.inflight_request_limit.min(Semaphore::MAX_PERMITS)),
            request_timeout: app.request_timeout,
            metrics,
            late_rejections: before
                .map_or_else(Arc::default, |before| Arc::clone(&before.late_rejections)),
            http: kept,
            failure_log: LogGate::new(now),
            rejection_log: LogGate::new(now),
            unopened_log: LogGate::new(now),
            destinations,
            start: now,
            credentials: AtomicU64::new(UNTRIED),
        })
    }

    /// Where this push goes: the provider, or the endpoint's origin, each with a breaker of its own, so
    /// that nobody can stop an app's pushes with dead or slow endpoints of their own.
    #[must_use]
    pub fn destination(&self, push: &Push, now: Instant) -> Arc<Destination> {
        match (&self.destinations, push.origin_key()) {
            (Destinations::Provider(provider), _) => Arc::clone(provider),
            (Destinations::Origins { .. }, None) => Arc::new(Destination::new(1, now)),
            (Destinations::Origins { by_key, in_flight }, Some(origin)) => {
                let mut by_key = by_key.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(destination) = by_key.get(origin) {
                    return Arc::clone(destination);
                }
                if by_key.len() >= ORIGINS {
                    by_key.retain(|_, destination| destination.is_remarkable(now));
                    let one = by_key
                        .keys()
                        .next()
                        .filter(|_| by_key.len() >= ORIGINS)
                        .cloned();
                    if let Some(one) = one {
                        by_key.remove(&one);
                    }
                }
                let destination = Arc::new(Destination::of_stranger(*in_flight, now));
                by_key.insert(origin.clone(), Arc::clone(&destination));
                destination
            }
        }
    }

    /// The state of the provider's breaker; for apps whose endpoints are strangers' choices, closed.
    #[must_use]
    pub fn breaker_state(&self, now: Instant) -> BreakerState {
        match &self.destinations {
            Destinations::Provider(provider) => provider.breaker.state(now),
            Destinations::Origins { .. } => BreakerState::Closed,
        }
    }

    /// Closes connections that nobody used of late.
    pub fn close_idle(&self) {
        self.http.close_idle();
    }

    /// Which family of metrics the app counts in.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self.provider {
            Provider::Apns(_) => Kind::Apns,
            Provider::Fcm(_) => Kind::Gcm,
            Provider::WebPush(_) => Kind::WebPush,
            Provider::UnifiedPush(_) => Kind::UnifiedPush,
        }
    }

    /// What the provider was last seen to think of the app's credentials. A refusal is forgotten after a
    /// minute without another, since only a push can show that it was mended.
    #[must_use]
    pub fn credentials(&self, now: Instant) -> Credentials {
        match self.credentials.load(Ordering::Relaxed) {
            UNTRIED => Credentials::Untried,
            ACCEPTED => Credentials::Accepted,
            refused_at if self.since_start(now) < refused_at.saturating_add(REFUSAL_MEMORY) => {
                Credentials::Refused
            }
            _ => Credentials::Untried,
        }
    }

    /// Records what the provider thinks of them.
    pub fn set_credentials(&self, accepted: bool, now: Instant) {
        let value = if accepted {
            ACCEPTED
        } else {
            self.since_start(now)
        };
        if self.credentials.load(Ordering::Relaxed) != value {
            self.credentials.store(value, Ordering::Relaxed);
        }
    }

    /// Seconds since the app was made ready, and two: the values below have meanings of their own.
    fn since_start(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_secs() + 2
    }
}

/// Values of [`App::credentials`] that are no time.
const UNTRIED: u64 = 0;
const ACCEPTED: u64 = 1;
/// Seconds.
const REFUSAL_MEMORY: u64 = 60;

type SharedKey = shared::secret::Secret<[u8; 32]>;

fn same_key(one: Option<&SharedKey>, other: Option<&SharedKey>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => one.expose() == other.expose(),
        (None, Some(_)) | (Some(_), None) => false,
    }
}

/// Where pushes go: a provider, or one origin among the endpoints that devices chose.
#[derive(Debug)]
pub struct Destination {
    /// Fails fast while the destination is down.
    pub breaker: Breaker,
    /// One permit for each push that may be under way to it.
    pub in_flight: Semaphore,
    /// How many permits there are when none is taken.
    permits: AtomicUsize,
    /// How many there are once it has taken a push.
    full: usize,
}

enum Destinations {
    Provider(Arc<Destination>),
    Origins {
        by_key: Mutex<HashMap<OriginKey, Arc<Destination>>>,
        /// For each origin: half of the app's limit, so that a slow push service leaves the other half.
        in_flight: usize,
    },
}

impl Destination {
    fn new(permits: usize, now: Instant) -> Self {
        let permits = permits.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            breaker: Breaker::new(now),
            in_flight: Semaphore::new(permits),
            permits: AtomicUsize::new(permits),
            full: permits,
        }
    }

    /// A share of `full` until it has taken a push: a stranger can name any number of hosts that hang.
    fn of_stranger(full: usize, now: Instant) -> Self {
        Self {
            full: full.clamp(1, Semaphore::MAX_PERMITS),
            ..Self::new(full / STRANGERS_SHARE, now)
        }
    }

    /// It has taken a push.
    pub fn delivered(&self) {
        let permits = self.permits.load(Ordering::Relaxed);
        if permits < self.full
            && self
                .permits
                .compare_exchange(permits, self.full, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            self.in_flight.add_permits(self.full - permits);
        }
    }

    /// Whether there is anything about it that must not be forgotten.
    fn is_remarkable(&self, now: Instant) -> bool {
        self.breaker.state(now) != BreakerState::Closed
            || self.in_flight.available_permits() < self.permits.load(Ordering::Relaxed)
    }
}

/// Pushkeys that were rejected after their homeserver had been answered (`opaque.jitter`), as keyed
/// hashes: reported with their next notification.
#[derive(Debug, Default)]
pub struct LateRejections {
    hasher: RandomState,
    reasons: Mutex<HashMap<u64, Rejected>>,
}

impl LateRejections {
    /// Remembers a rejection; forgets all when there are too many, since the provider will say it again.
    pub fn insert(&self, pushkey: &Pushkey, reason: Rejected) {
        let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        if reasons.len() >= LATE_REJECTIONS {
            reasons.clear();
        }
        reasons.insert(self.hasher.hash_one(pushkey.expose()), reason);
    }

    /// Takes a pushkey's rejection out.
    pub fn take(&self, pushkey: &Pushkey) -> Option<Rejected> {
        self.reasons
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.hasher.hash_one(pushkey.expose()))
    }
}
