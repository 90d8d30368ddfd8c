//! What became of one device's push: the vocabulary that providers answer in.

use std::time::Duration;

/// What became of one attempt to push to one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The provider took the push.
    Delivered,
    /// There was nothing to send, by the rules of the payload mode; the homeserver is told that all is well.
    Suppressed(Suppressed),
    /// The pushkey is dead or can never work: the homeserver is told to remove its pusher.
    Rejected(Rejected),
    /// The push did not get through; the homeserver is told to try again.
    Failed(Failure),
}

/// Why nothing was sent. Closed set: it is a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Suppressed {
    /// The notification has no event and this app or device wants none without.
    CountsOnly,
    /// The notification carries nothing that this provider's payload has a place for.
    Empty,
    /// This device got this event within the last minutes (the homeserver tried again).
    Duplicate,
    /// The push waits out its `opaque.jitter`; what becomes of it is counted then.
    Delayed,
    /// `allowed_endpoints` does not name the endpoint's host (Sygnal drops these silently, too).
    EndpointNotAllowed,
}

/// Why a pushkey is rejected. Closed set: it is a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rejected {
    /// No app of the configuration matches the device's `app_id`.
    UnknownApp,
    /// Two or more globs of the configuration match the device's `app_id`.
    AmbiguousApp,
    /// The provider says that the token is not, or no longer, registered.
    Unregistered,
    /// The provider says that the token is malformed, or it cannot be one.
    InvalidToken,
    /// The provider says that the token belongs to another app or topic.
    WrongTopic,
    /// The device's `data` lacks a member that the provider type needs, or has it malformed.
    InvalidData,
    /// The pushkey is sealed and opens with none of the gateway's keys.
    Sealed,
}

/// A push that did not get through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What failed. Closed set: it is a metric label.
    pub cause: Cause,
    /// What the provider calls it: a status and a reason from the provider's documented vocabulary,
    /// or `other`. Never text that could name a user: it is logged.
    pub detail: String,
    /// Whether the gateway may try again by itself within the request's budget.
    pub retry: Retry,
}

/// What failed. Closed set: it is a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// No connection: DNS, TCP, TLS or the proxy. Counts as an outage.
    Connect,
    /// No answer in time. Counts as an outage.
    Timeout,
    /// The provider answered 5xx. Counts as an outage.
    ProviderError,
    /// The provider asks for fewer requests (429, `QUOTA_EXCEEDED`).
    Throttled,
    /// The provider does not accept the gateway's own credentials.
    Credentials,
    /// The provider refuses this request for another reason.
    Refused,
    /// The payload cannot be made small enough for the provider.
    TooLarge,
    /// The app already has `inflight_request_limit` pushes under way.
    InFlightLimit,
    /// This pushkey had more than `limits.per_pushkey_per_minute` pushes.
    RateLimited,
    /// The app's circuit breaker is open: its provider has been failing.
    BreakerOpen,
    /// The request's time was used up.
    Budget,
    /// A fault of the gateway itself; other devices are not affected.
    Internal,
}

/// Whether and when the same push may be tried again by the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Not by the gateway: it would get the same answer.
    Never,
    /// At once: the request was not processed (a connection went away, a token was renewed).
    Now,
    /// After the gateway's own back-off.
    Backoff,
    /// Not before this long (the provider's `Retry-After`).
    After(Duration),
}

impl Failure {
    /// A failure with its cause, the provider's word for it and what may be done.
    pub fn new(cause: Cause, detail: impl Into<String>, retry: Retry) -> Self {
        Self {
            cause,
            detail: detail.into(),
            retry,
        }
    }
}

impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Cause {
    /// Whether this is a sign that the provider as a whole is down: what opens the breaker.
    #[must_use]
    pub const fn is_outage(self) -> bool {
        match self {
            Self::Connect | Self::Timeout | Self::ProviderError => true,
            Self::Throttled
            | Self::Credentials
            | Self::Refused
            | Self::TooLarge
            | Self::InFlightLimit
            | Self::RateLimited
            | Self::BreakerOpen
            | Self::Budget
            | Self::Internal => false,
        }
    }

    /// Whether the same push may get through later.
    #[must_use]
    pub const fn may_pass(self) -> bool {
        match self {
            Self::Connect
            | Self::Timeout
            | Self::ProviderError
            | Self::Throttled
            | Self::Credentials
            | Self::InFlightLimit
            | Self::RateLimited
            | Self::BreakerOpen
            | Self::Budget => true,
            Self::Refused | Self::TooLarge | Self::Internal => false,
        }
    }

    /// The metric label and log value.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::ProviderError => "provider_error",
            Self::Throttled => "throttled",
            Self::Credentials => "credentials",
            Self::Refused => "refused",
            Self::TooLarge => "too_large",
            Self::InFlightLimit => "in_flight_limit",
            Self::RateLimited => "rate_limited",
            Self::BreakerOpen => "breaker_open",
            Self::Budget => "budget",
            Self::Internal => "internal",
        }
    }
}

impl Rejected {
    /// The metric label and log value.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::UnknownApp => "unknown_app",
            Self::AmbiguousApp => "ambiguous_app",
            Self::Unregistered => "unregistered",
            Self::InvalidToken => "invalid_token",
            Self::WrongTopic => "wrong_topic",
            Self::InvalidData => "invalid_data",
            Self::Sealed => "sealed",
        }
    }
}

impl Suppressed {
    /// The metric label and log value.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::CountsOnly => "counts_only",
            Self::Empty => "empty",
            Self::Duplicate => "duplicate",
            Self::Delayed => "delayed",
            Self::EndpointNotAllowed => "endpoint_not_allowed",
        }
    }
}
