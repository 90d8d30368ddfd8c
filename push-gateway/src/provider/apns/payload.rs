//! What Apple is sent.

use bytes::Bytes;

use crate::{
    config::{self, ApnsPushType},
    notification::{Device, Notification},
    outcome::Outcome,
    provider::AppContext,
};

/// What the payload depends on in an app's `type: apns`.
#[derive(Clone, Copy, Debug)]
pub(super) struct PayloadOptions {
    /// `push_type`
    pub(super) push_type: Option<ApnsPushType>,
    /// `send_badge_counts`
    pub(super) send_badge_counts: bool,
}

/// The body and the headers that depend on it.
#[derive(Clone, Debug)]
pub(super) struct Payload {
    /// JSON, at most 4096 bytes.
    pub(super) body: Bytes,
    /// `apns-priority`
    pub(super) priority: u8,
    /// `apns-push-type`; none: no header
    pub(super) push_type: Option<ApnsPushType>,
    /// `apns-expiration`, seconds since 1970; none: no header
    pub(super) expiration: Option<u64>,
    /// `apns-collapse-id`; none: no header
    pub(super) collapse_id: Option<String>,
    /// `apns-id`, a UUID; none: a new random one for each attempt
    pub(super) id: Option<String>,
}

impl From<&config::Apns> for PayloadOptions {
    fn from(config: &config::Apns) -> Self {
        Self {
            push_type: config.push_type,
            send_badge_counts: config.send_badge_counts,
        }
    }
}

/// Makes the payload for one device.
pub(super) fn build(
    options: PayloadOptions,
    context: &AppContext,
    notification: &Notification,
    device: &Device,
) -> Result<Payload, Outcome> {
    let _ = (options, context, notification, device);
    todo!("in work")
}
