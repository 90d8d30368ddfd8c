//! What the credential service counts. No label is anything that a client sent.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};

/// Seconds; a homeserver on the same machine takes a millisecond or two.
const BUCKETS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

/// The metrics of the credential service; clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: Family<Labels, Counter>,
    whoami: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    route: &'static str,
    result: &'static str,
}

/// Where it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Rest,
    Matrix,
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// There were credentials.
    Issued,
    /// No API key or access token, or one that is not good.
    Unauthorized,
    /// A guest, and guests may not.
    Guest,
    /// A request that means nothing.
    BadRequest,
    /// Too many of one source, or for the homeserver.
    Limited,
    /// There is no homeserver to ask.
    NotConfigured,
    /// The homeserver cannot be reached.
    HomeserverUnreachable,
    /// It did not answer in time.
    HomeserverSlow,
    /// Its answer is none to this question.
    HomeserverNonsense,
}

impl Metrics {
    /// Registers everything.
    #[must_use]
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            whoami: Histogram::new(BUCKETS),
        };
        registry.register(
            "nocturne_turn_credentials",
            "Requests for credentials, by route and what came of them",
            metrics.requests.clone(),
        );
        registry.register(
            "nocturne_turn_whoami_seconds",
            "Until the homeserver said whose an access token is, or did not",
            metrics.whoami.clone(),
        );
        metrics
    }

    pub(super) fn count(&self, route: Route, outcome: Outcome) {
        let labels = Labels {
            route: route.label(),
            result: outcome.label(),
        };
        self.requests.get_or_create(&labels).inc();
    }

    pub(super) fn asked_homeserver(&self, took: Duration) {
        self.whoami.observe(took.as_secs_f64());
    }
}

impl Route {
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Rest => "rest",
            Self::Matrix => "matrix",
        }
    }
}

impl Outcome {
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::Unauthorized => "unauthorized",
            Self::Guest => "guest",
            Self::BadRequest => "bad_request",
            Self::Limited => "limited",
            Self::NotConfigured => "not_configured",
            Self::HomeserverUnreachable => "homeserver_unreachable",
            Self::HomeserverSlow => "homeserver_slow",
            Self::HomeserverNonsense => "homeserver_nonsense",
        }
    }
}
