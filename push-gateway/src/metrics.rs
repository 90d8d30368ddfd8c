//! Prometheus metrics: Sygnal's names with Sygnal's labels, so that its dashboard keeps working, and
//! `nocturne_push_*` for what Sygnal does not count.
//!
//! Every label is a closed set or a key of the configuration, never anything a client sent.

use std::{fmt, sync::Arc, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::Registry,
};

use shared::{clock::Clock, process::ProcessMetrics};

use crate::{
    outcome::{Cause, Rejected, Suppressed},
    provider::{Counters, Expiry},
    sealed::{keys::Ignored, plaintext::LeftOut, pushkey::CannotOpen},
};

/// The buckets of Python's Prometheus client, in seconds.
const BUCKETS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// The name of an app's entry in the configuration.
type AppName = Arc<str>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByPushkin {
    pushkin: AppName,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByPushkinAndCode {
    pushkin: AppName,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByCode {
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByResource {
    resource: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByApp {
    app: AppName,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByAppAndReason {
    app: AppName,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    reason: &'static str,
}

/// All metrics of the gateway.
pub struct Metrics {
    registry: Registry,
    /// Requests whose body was valid so far that a notification was in it.
    pub notifications_received: Counter,
    /// Devices in them.
    pub devices_received: Counter,
    requests_in_flight: Gauge,
    status_codes: Family<ByCode, Counter>,
    notify_time: Family<ByCode, Histogram, fn() -> Histogram>,
    per_pushkin: Family<ByPushkin, Counter>,
    in_flight_limit_drops: Family<ByPushkin, Counter>,
    apns: ProviderMetrics,
    certificate_expiry: Family<ByPushkin, Gauge>,
    gcm: ProviderMetrics,
    webpush: ProviderMetrics,
    unified_push: ProviderMetrics,
    rejections: Family<ByAppAndReason, Counter>,
    refused_devices: Family<ByReason, Counter>,
    failures: Family<ByAppAndReason, Counter>,
    suppressed: Family<ByAppAndReason, Counter>,
    delivered: Family<ByApp, Counter>,
    retries: Family<ByApp, Counter>,
    breaker: Family<ByApp, Gauge>,
    provider_time: Family<ByApp, Histogram, fn() -> Histogram>,
    credential_expiry: Family<ByApp, Gauge>,
    /// Requests refused because their source sent too many.
    pub source_limited: Counter,
    /// Reloads that were carried out.
    pub reloads: Counter,
    /// Reloads that were refused because the new configuration is bad.
    pub failed_reloads: Counter,
    ignored_device_keys: Family<ByAppAndReason, Counter>,
    trimmed_notifications: Family<ByAppAndReason, Counter>,
    clock_set_back: Family<ByApp, Counter>,
    unopened_pushkeys: Family<ByReason, Counter>,
    /// 1 while `log.unsafe_identifiers` is on.
    pub unsafe_identifiers: Gauge,
}

/// The family of names that Sygnal has for one provider type.
#[derive(Clone)]
pub struct ProviderMetrics {
    /// From the beginning of a device's dispatch to its request.
    pub queue_time: Histogram,
    /// One request to the provider.
    pub request_time: Histogram,
    /// Dispatches that have not come to their request.
    pub pending: Gauge,
    /// Requests under way.
    pub active: Gauge,
    status_codes: Family<ByPushkinAndCode, Counter>,
}

/// One app's metrics, looked up once.
pub struct AppMetrics {
    name: AppName,
    /// Devices dispatched to this app.
    pub devices: Counter,
    /// Devices refused because `inflight_request_limit` was reached.
    pub in_flight_limit_drops: Counter,
    /// Pushes that the provider took.
    pub delivered: Counter,
    /// Attempts beyond the first.
    pub retries: Counter,
    /// One request to the provider.
    pub provider_time: Histogram,
    /// 0 closed, 1 half open, 2 open.
    pub breaker: Gauge,
    /// The metrics of the provider type.
    pub provider: ProviderMetrics,
    /// The status that nearly every answer has, and its counter.
    success: u16,
    accepted: Counter,
    rejections: Family<ByAppAndReason, Counter>,
    failures: Family<ByAppAndReason, Counter>,
    suppressed: Family<ByAppAndReason, Counter>,
}

/// Which of Sygnal's families of names an app counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `sygnal_apns_*`
    Apns,
    /// `sygnal_gcm_*`
    Gcm,
    /// `sygnal_webpush_*`
    WebPush,
    /// `nocturne_push_unifiedpush_*`: Sygnal has no such type
    UnifiedPush,
}

impl Metrics {
    /// Registers everything, all at zero.
    #[must_use]
    pub fn new(clock: &Clock) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessMetrics::new(clock)));
        let to = &mut registry;
        let requests = Family::<ByResource, Gauge>::default();
        let requests_in_flight = requests.get_or_create_owned(&ByResource {
            resource: "V1NotifyHandler",
        });
        to.register(
            "sygnal_requests_in_flight",
            "Requests being answered",
            requests,
        );
        let apns = ProviderMetrics::register(
            to,
            "sygnal_apns_request_time",
            Names {
                queue_time: None,
                pending: None,
                active: "sygnal_active_apns_requests",
                status_codes: "sygnal_apns_status_codes",
            },
        );
        let gcm = ProviderMetrics::register(
            to,
            "sygnal_gcm_request_time",
            Names {
                queue_time: Some("sygnal_gcm_queue_time"),
                pending: Some("sygnal_pending_gcm_requests"),
                active: "sygnal_active_gcm_requests",
                status_codes: "sygnal_gcm_status_codes",
            },
        );
        let webpush = ProviderMetrics::register(
            to,
            "sygnal_webpush_request_time",
            Names {
                queue_time: Some("sygnal_webpush_queue_time"),
                pending: Some("sygnal_pending_webpush_requests"),
                active: "sygnal_active_webpush_requests",
                status_codes: "nocturne_push_webpush_status_codes",
            },
        );
        let unified_push = ProviderMetrics::register(
            to,
            "nocturne_push_unifiedpush_request_time",
            Names {
                queue_time: None,
                pending: None,
                active: "nocturne_push_unifiedpush_active_requests",
                status_codes: "nocturne_push_unifiedpush_status_codes",
            },
        );
        to.register(
            "nocturne_push_build",
            "The version that runs",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        Self {
            notifications_received: register(
                to,
                "sygnal_notifications_received",
                "Notifications received",
            ),
            devices_received: register(
                to,
                "sygnal_notifications_devices_received",
                "Devices in notifications received",
            ),
            requests_in_flight,
            status_codes: register(
                to,
                "sygnal_pushgateway_status_codes",
                "Answers to homeservers by status",
            ),
            notify_time: register_times(
                to,
                "sygnal_notify_time",
                "Seconds until a homeserver was answered",
            ),
            per_pushkin: register(to, "sygnal_per_pushkin_type", "Devices dispatched by app"),
            in_flight_limit_drops: register(
                to,
                "sygnal_inflight_request_limit_drop",
                "Devices refused because inflight_request_limit was reached",
            ),
            apns,
            certificate_expiry: register(
                to,
                "sygnal_client_cert_expiry",
                "When the APNs client certificate expires, in seconds since 1970",
            ),
            gcm,
            webpush,
            unified_push,
            rejections: register(
                to,
                "nocturne_push_rejections",
                "Pushkeys rejected, by app and reason",
            ),
            refused_devices: register(
                to,
                "nocturne_push_unmatched_devices",
                "Devices whose app_id fits no app or several",
            ),
            failures: register(
                to,
                "nocturne_push_failures",
                "Pushes that did not get through, by app and cause",
            ),
            suppressed: register(
                to,
                "nocturne_push_suppressed",
                "Pushes not sent on purpose, by app and reason",
            ),
            delivered: register(
                to,
                "nocturne_push_delivered",
                "Pushes that the provider took, by app",
            ),
            retries: register(
                to,
                "nocturne_push_retries",
                "Attempts beyond the first, by app",
            ),
            breaker: register(
                to,
                "nocturne_push_breaker_state",
                "Circuit breaker: 0 closed, 1 half open, 2 open",
            ),
            provider_time: register_times(
                to,
                "nocturne_push_provider_seconds",
                "Seconds of one provider request, by app",
            ),
            credential_expiry: register(
                to,
                "nocturne_push_credentials_expiry",
                "When the certificate or token shown to the provider expires, in seconds since 1970",
            ),
            source_limited: register(
                to,
                "nocturne_push_source_limited",
                "Requests refused by limits.per_source_per_second",
            ),
            reloads: register(to, "nocturne_push_reloads", "Configurations loaded anew"),
            failed_reloads: register(
                to,
                "nocturne_push_failed_reloads",
                "Reloads refused: the old configuration stays",
            ),
            ignored_device_keys: register(
                to,
                "nocturne_push_ignored_device_keys",
                "Pushes sent without tags or blob because the device's keys cannot be used, by app and reason",
            ),
            trimmed_notifications: register(
                to,
                "nocturne_push_trimmed_notifications",
                "Notifications sealed without some of their members because they are too large, by app and what was left out",
            ),
            clock_set_back: register(
                to,
                "nocturne_push_clock_set_back",
                "Times that the clock went back into an earlier epoch of opaque.key_file, by app",
            ),
            unopened_pushkeys: register(
                to,
                "nocturne_push_unopened_pushkeys",
                "Sealed pushkeys that do not open, by reason",
            ),
            unsafe_identifiers: register(
                to,
                "nocturne_push_unsafe_identifiers",
                "1 while log.unsafe_identifiers is on",
            ),
            registry,
        }
    }

    /// One app's metrics, present from now on.
    #[must_use]
    pub fn app(&self, name: &str, kind: Kind) -> AppMetrics {
        let name: AppName = name.into();
        let by_app = ByApp {
            app: Arc::clone(&name),
        };
        let by_pushkin = ByPushkin {
            pushkin: Arc::clone(&name),
        };
        let provider = match kind {
            Kind::Apns => &self.apns,
            Kind::Gcm => &self.gcm,
            Kind::WebPush => &self.webpush,
            Kind::UnifiedPush => &self.unified_push,
        };
        let success = if kind == Kind::WebPush { 201 } else { 200 };
        AppMetrics {
            devices: self.per_pushkin.get_or_create_owned(&by_pushkin),
            in_flight_limit_drops: self.in_flight_limit_drops.get_or_create_owned(&by_pushkin),
            delivered: self.delivered.get_or_create_owned(&by_app),
            retries: self.retries.get_or_create_owned(&by_app),
            provider_time: self.provider_time.get_or_create_owned(&by_app),
            breaker: self.breaker.get_or_create_owned(&by_app),
            success,
            accepted: provider
                .status_codes
                .get_or_create_owned(&ByPushkinAndCode {
                    pushkin: Arc::clone(&name),
                    code: success,
                }),
            provider: provider.clone(),
            rejections: self.rejections.clone(),
            failures: self.failures.clone(),
            suppressed: self.suppressed.clone(),
            name,
        }
    }

    /// Sets when an app's credentials expire.
    pub fn set_credentials_expiry(&self, name: &str, expiry: Expiry) {
        let name: AppName = name.into();
        let (Expiry::Certificate(expires_at) | Expiry::Token(expires_at)) = expiry;
        if matches!(expiry, Expiry::Certificate(_)) {
            self.certificate_expiry
                .get_or_create(&ByPushkin {
                    pushkin: Arc::clone(&name),
                })
                .set(expires_at);
        }
        self.credential_expiry
            .get_or_create(&ByApp { app: name })
            .set(expires_at);
    }

    /// Counts a device whose `app_id` fits no app, or several.
    pub fn unmatched(&self, reason: Rejected) {
        self.refused_devices
            .get_or_create(&ByReason {
                reason: reason.label(),
            })
            .inc();
    }

    /// Counts a sealed pushkey that does not open.
    pub fn unopened(&self, reason: CannotOpen) {
        self.unopened_pushkeys
            .get_or_create(&ByReason {
                reason: reason.label(),
            })
            .inc();
    }

    /// One app's counts of what its pushes lack.
    #[must_use]
    pub fn shortfalls(&self, name: &str) -> Counters {
        let counter = |family: &Family<ByAppAndReason, Counter>, reason| {
            family.get_or_create_owned(&ByAppAndReason {
                app: name.into(),
                reason,
            })
        };
        let ignored = |reason: Ignored| counter(&self.ignored_device_keys, reason.label());
        Counters {
            unknown_version: ignored(Ignored::Version),
            malformed_keys: ignored(Ignored::NoObject),
            left_out: LeftOut::ALL
                .map(|left_out| counter(&self.trimmed_notifications, left_out.label())),
        }
    }

    /// How often the clock went back into an earlier epoch, for one app.
    #[must_use]
    pub fn clock_set_back(&self, name: &str) -> Counter {
        self.clock_set_back
            .get_or_create_owned(&ByApp { app: name.into() })
    }

    /// Counts a request as being answered, until the guard is dropped.
    #[must_use]
    pub fn request(&self) -> impl Drop + use<> {
        InFlight::new(&self.requests_in_flight)
    }

    /// Counts an answer to a homeserver.
    pub fn answered(&self, code: u16, took: Duration) {
        self.status_codes.get_or_create(&ByCode { code }).inc();
        self.notify_time
            .get_or_create(&ByCode { code })
            .observe(took.as_secs_f64());
    }

    /// All metrics in Prometheus' text format.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = text::encode(&mut text, &self.registry);
        text
    }
}

impl AppMetrics {
    /// Counts a provider's answer by its status.
    pub fn status(&self, code: u16) {
        if code == self.success {
            self.accepted.inc();
        } else {
            let labels = ByPushkinAndCode {
                pushkin: Arc::clone(&self.name),
                code,
            };
            self.provider.status_codes.get_or_create(&labels).inc();
        }
    }

    /// Counts a rejected pushkey.
    pub fn rejected(&self, reason: Rejected) {
        self.count(&self.rejections, reason.label());
    }

    /// Counts a push that did not get through.
    pub fn failed(&self, cause: Cause) {
        self.count(&self.failures, cause.label());
    }

    /// Counts a push that was not sent on purpose.
    pub fn suppressed(&self, reason: Suppressed) {
        self.count(&self.suppressed, reason.label());
    }

    fn count(&self, family: &Family<ByAppAndReason, Counter>, reason: &'static str) {
        family
            .get_or_create(&ByAppAndReason {
                app: Arc::clone(&self.name),
                reason,
            })
            .inc();
    }
}

/// Counts one up in a gauge until dropped.
pub struct InFlight(Gauge);

impl InFlight {
    /// Counts one up.
    #[must_use]
    pub fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The names that differ between the provider types.
#[derive(Clone, Copy)]
struct Names {
    queue_time: Option<&'static str>,
    pending: Option<&'static str>,
    active: &'static str,
    status_codes: &'static str,
}

impl ProviderMetrics {
    fn register(registry: &mut Registry, request_time: &'static str, names: Names) -> Self {
        let metrics = Self {
            queue_time: times(),
            request_time: times(),
            pending: Gauge::default(),
            active: Gauge::default(),
            status_codes: Family::default(),
        };
        registry.register(
            request_time,
            "Seconds of one provider request",
            metrics.request_time.clone(),
        );
        if let Some(name) = names.queue_time {
            registry.register(
                name,
                "Seconds until the provider was asked",
                metrics.queue_time.clone(),
            );
        }
        if let Some(name) = names.pending {
            registry.register(
                name,
                "Dispatches that wait for their request",
                metrics.pending.clone(),
            );
        }
        registry.register(
            names.active,
            "Provider requests under way",
            metrics.active.clone(),
        );
        registry.register(
            names.status_codes,
            "The provider's answers by status",
            metrics.status_codes.clone(),
        );
        metrics
    }
}

fn times() -> Histogram {
    Histogram::new(BUCKETS)
}

fn register<M>(registry: &mut Registry, name: &'static str, help: &'static str) -> M
where
    M: Clone + Default + prometheus_client::registry::Metric,
{
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

fn register_times<S>(
    registry: &mut Registry,
    name: &'static str,
    help: &'static str,
) -> Family<S, Histogram, fn() -> Histogram>
where
    S: Clone + std::hash::Hash + Eq + EncodeLabelSet + fmt::Debug + Send + Sync + 'static,
{
    let family = Family::new_with_constructor(times as fn() -> Histogram);
    registry.register(name, help, family.clone());
    family
}
