//! What Google is sent.

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::{
    config::{self, FcmTokenKind},
    notification::{Device, Notification},
    outcome::Outcome,
    provider::AppContext,
};

/// What the payload depends on in an app's `type: gcm`.
#[derive(Clone, Debug)]
pub(super) struct PayloadOptions {
    /// `fcm_options`: constant members of `message`
    pub(super) fcm_options: Map<String, Value>,
    /// `token_kind`
    pub(super) token_kind: FcmTokenKind,
    /// `send_badge_counts`
    pub(super) send_badge_counts: bool,
}

impl From<&config::Fcm> for PayloadOptions {
    fn from(config: &config::Fcm) -> Self {
        Self {
            fcm_options: config.fcm_options.clone(),
            token_kind: config.token_kind,
            send_badge_counts: config.send_badge_counts,
        }
    }
}

/// Makes the body of `messages:send` for one device: `{"message": …}` with the target in it.
pub(super) fn build(
    options: &PayloadOptions,
    context: &AppContext,
    notification: &Notification,
    device: &Device,
) -> Result<Bytes, Outcome> {
    let _ = (options, context, notification, device);
    todo!("in work")
}
