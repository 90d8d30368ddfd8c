//! What a browser is sent, before encryption.

use crate::{
    notification::{Device, Notification},
    outcome::Outcome,
    provider::AppContext,
    sealed::plaintext::Plaintext,
};

/// The plaintext and the headers that depend on it.
#[derive(Clone)]
pub(in crate::provider) struct Payload {
    /// What is encrypted.
    pub(in crate::provider) plaintext: Plaintext,
    /// `TTL`, seconds
    pub(in crate::provider) ttl: u32,
    /// `Urgency`
    pub(in crate::provider) urgency: Urgency,
    /// `Topic`, 22 characters of base64url; none: no header
    pub(in crate::provider) topic: Option<String>,
}

/// `Urgency` (RFC 8030 §5.3), as far as it is used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::provider) enum Urgency {
    /// `low`
    Low,
    /// `normal`
    Normal,
    /// `high`
    High,
}

impl Urgency {
    /// The header's value.
    pub(in crate::provider) const fn label(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }
}

/// Makes the payload for one device. `ttl` is the app's, in seconds, and counts in mode `sygnal`.
///
/// Checks of the subscription (`endpoint`, keys) are the caller's; as in Sygnal they come after this, so
/// that a device with `events_only` is not rejected for a push that it does not get anyway.
pub(in crate::provider) fn build(
    ttl: u32,
    context: &AppContext,
    notification: &Notification,
    device: &Device,
) -> Result<Payload, Outcome> {
    let _ = (ttl, context, notification, device);
    todo!("in work")
}
