//! The keys that a client puts into its pusher's `data` (spec/opaque-push.md §2).

use shared::secret::Secret;

use crate::notification::Device;

/// A Web Push receiver's keys (RFC 8291 §3.1): what a message to it is encrypted with.
#[derive(Clone)]
pub struct ReceiverKeys {
    /// `p256dh`: an uncompressed P-256 point. Its form is checked, not that it lies on the curve.
    pub p256dh: [u8; 65],
    /// `auth`
    pub auth: Secret<[u8; 16]>,
}

impl ReceiverKeys {
    /// Reads both keys from base64url, with or without padding; `None` when either is malformed.
    #[must_use]
    pub fn parse(p256dh: &str, auth: &str) -> Option<Self> {
        let _ = (p256dh, auth);
        todo!("in work")
    }

    /// The receiver keys of a device: those of its `nocturne` object, else plain `data.p256dh` and `data.auth`.
    #[must_use]
    pub fn of_device(device: &Device) -> Option<Self> {
        let _ = device;
        todo!("in work")
    }
}
