//! The providers of push, one folder each.
//!
//! A provider turns a notification for one device into a request ([`Provider::prepare`], pure but for
//! the randomness it is given) and sends that ([`Provider::attempt`], once; retries, limits and
//! metrics are the dispatcher's). What an answer means is one pure function per provider, in its
//! `outcome.rs`.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use http::{HeaderMap, header::DATE};

use shared::{clock::Clock, random::Random};

use crate::{
    config::{OpaqueOptions, PayloadMode},
    notification::{Device, Notification},
    opaque::Identifiers,
    outcome::Outcome,
};

#[cfg(test)]
mod answers;
pub mod apns;
mod detail;
mod endpoint;
pub mod fcm;
mod payload;
mod renewal;
mod shortfall;
mod standing;
mod transport;
pub mod unified_push;
pub mod web_push;

pub use endpoint::OriginKey;
#[cfg(test)]
pub(crate) use payload::fixtures::any_value;
pub use shortfall::{Counters, Shortfalls};

/// What a payload depends on besides the notification: the app's options, time and randomness.
#[derive(Clone, Debug)]
pub struct AppContext {
    /// The app's mode.
    pub mode: PayloadMode,
    /// The app's `opaque:`.
    pub opaque: OpaqueOptions,
    /// The app's rotating identifiers; they outlive a reload.
    pub identifiers: Arc<Identifiers>,
    /// Where the time comes from.
    pub clock: Clock,
    /// Where randomness comes from.
    pub random: Random,
    /// Counts and explains what pushes lack.
    pub shortfalls: Arc<Shortfalls>,
}

/// When a credential expires, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// A certificate: somebody has to replace it by then.
    Certificate(i64),
    /// A token, which the gateway renews by itself.
    Token(i64),
}

/// One app's provider.
pub enum Provider {
    /// Apple Push Notification service
    Apns(apns::Apns),
    /// Firebase Cloud Messaging, HTTP v1
    Fcm(fcm::Fcm),
    /// Web Push (RFC 8030)
    WebPush(web_push::WebPush),
    /// UnifiedPush push servers
    UnifiedPush(unified_push::UnifiedPush),
}

/// A request made ready for one device; it can be sent again.
pub enum Push {
    /// for [`Provider::Apns`]
    Apns(apns::Push),
    /// for [`Provider::Fcm`]
    Fcm(fcm::Push),
    /// for [`Provider::WebPush`]
    WebPush(web_push::Push),
    /// for [`Provider::UnifiedPush`]
    UnifiedPush(unified_push::Push),
}

/// What one attempt gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// What it means.
    pub outcome: Outcome,
    /// The provider's HTTP status, when it answered.
    pub status: Option<u16>,
}

/// What a provider answered to a request that reaches no device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What the answer means for an app that has had pushes taken. Rejected or delivered: the provider took
    /// the credentials, and went on to the device that does not exist.
    pub outcome: Outcome,
    /// The time by the provider's clock (`Date`), when the answer has it.
    pub date: Option<SystemTime>,
}

impl Provider {
    /// Makes the request for one device.
    ///
    /// # Errors
    ///
    /// The outcome, when there is nothing to send: suppressed, rejected, or too large.
    pub fn prepare(
        &self,
        context: &AppContext,
        notification: &Notification,
        device: &Device,
    ) -> Result<Push, Outcome> {
        match self {
            Self::Apns(provider) => provider
                .prepare(context, notification, device)
                .map(Push::Apns),
            Self::Fcm(provider) => provider
                .prepare(context, notification, device)
                .map(Push::Fcm),
            Self::WebPush(provider) => provider
                .prepare(context, notification, device)
                .map(Push::WebPush),
            Self::UnifiedPush(provider) => provider
                .prepare(context, notification, device)
                .map(Push::UnifiedPush),
        }
    }

    /// Sends a request once and says what the answer means; ends by `deadline`.
    ///
    /// # Panics
    ///
    /// When `push` was prepared by a provider of another type.
    pub async fn attempt(&self, push: &Push, deadline: Instant) -> Attempt {
        match (self, push) {
            (Self::Apns(provider), Push::Apns(push)) => provider.attempt(push, deadline).await,
            (Self::Fcm(provider), Push::Fcm(push)) => provider.attempt(push, deadline).await,
            (Self::WebPush(provider), Push::WebPush(push)) => {
                provider.attempt(push, deadline).await
            }
            (Self::UnifiedPush(provider), Push::UnifiedPush(push)) => {
                provider.attempt(push, deadline).await
            }
            (Self::Apns(_) | Self::Fcm(_) | Self::WebPush(_) | Self::UnifiedPush(_), _) => {
                unreachable!("a push is sent by the provider that prepared it")
            }
        }
    }

    /// Shows the gateway's credentials to the provider once, with a push to a device that cannot exist; ends
    /// by `deadline`. None where there is nobody to ask: the push services of [`Provider::WebPush`] and
    /// [`Provider::UnifiedPush`] are the devices' choice.
    pub async fn probe(&self, deadline: Instant) -> Option<Probe> {
        match self {
            Self::Apns(provider) => Some(provider.probe(deadline).await),
            Self::Fcm(provider) => Some(provider.probe(deadline).await),
            Self::WebPush(_) | Self::UnifiedPush(_) => None,
        }
    }

    /// When what the gateway shows the provider expires.
    #[must_use]
    pub fn credentials_expire_at(&self) -> Option<Expiry> {
        match self {
            Self::Apns(provider) => provider.credentials_expire_at(),
            Self::Fcm(provider) => provider.credentials_expire_at().map(Expiry::Token),
            Self::WebPush(_) | Self::UnifiedPush(_) => None,
        }
    }
}

impl Probe {
    /// What an answer means, with the time that its headers give.
    fn answered(outcome: Outcome, headers: &HeaderMap) -> Self {
        let date = headers.get(DATE).and_then(|value| value.to_str().ok());
        Self {
            outcome,
            date: date.and_then(|text| httpdate::parse_http_date(text).ok()),
        }
    }

    /// There was no answer.
    fn unanswered(outcome: impl Into<Outcome>) -> Self {
        Self {
            outcome: outcome.into(),
            date: None,
        }
    }
}

impl Push {
    /// The push service that the push goes to, where the device chose it: failures of one origin say
    /// nothing of the others, so a circuit breaker for these providers is kept per origin. `None`: there
    /// is one for the whole app.
    #[must_use]
    pub const fn origin_key(&self) -> Option<&OriginKey> {
        match self {
            Self::Apns(_) | Self::Fcm(_) => None,
            Self::WebPush(push) => Some(push.origin_key()),
            Self::UnifiedPush(push) => Some(push.origin_key()),
        }
    }
}
