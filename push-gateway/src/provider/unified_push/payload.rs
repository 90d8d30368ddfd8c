//! What a UnifiedPush push server is sent: encrypted for a device with keys, else in clear.

use bytes::Bytes;

use crate::{
    notification::{Device, Notification},
    outcome::Outcome,
    provider::{AppContext, web_push},
    sealed::keys::ReceiverKeys,
};

/// The request's body, before encryption, and what headers depend on it.
pub(super) enum Payload {
    /// For a device with keys: as Web Push.
    Sealed {
        /// What to encrypt to.
        keys: ReceiverKeys,
        /// What to encrypt, and the headers.
        payload: web_push::payload::Payload,
    },
    /// For a device without: Sygnal's request body without `devices`. No header depends on it.
    Clear(Bytes),
}

/// Makes the payload for one device. The endpoint (the pushkey) is the caller's to check.
pub(super) fn build(
    context: &AppContext,
    notification: &Notification,
    device: &Device,
) -> Result<Payload, Outcome> {
    let _ = (context, notification, device);
    todo!("in work")
}
