//! Tags `r` and `e` (spec/opaque-push.md §4): the device finds the room and the event in what it knows,
//! and to everyone else they are random.

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::opaque::Identifier;

/// The tag of a room: 22 characters.
#[must_use]
pub fn room(secret: &[u8; 32], n: Identifier, room_id: &str) -> String {
    tag(secret, b"nocturne room\0", n, room_id)
}

/// The tag of an event: 22 characters.
#[must_use]
pub fn event(secret: &[u8; 32], n: Identifier, event_id: &str) -> String {
    tag(secret, b"nocturne event\0", n, event_id)
}

fn tag(secret: &[u8; 32], label: &[u8], n: Identifier, id: &str) -> String {
    let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret));
    mac.update(label);
    mac.update(&n.0);
    mac.update(id.as_bytes());
    let tag = mac.sign();
    URL_SAFE_NO_PAD.encode(tag.as_ref().get(..16).unwrap_or_default())
}
