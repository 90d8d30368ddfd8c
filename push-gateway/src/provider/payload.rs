//! What the payloads of all providers have in common.

use std::cmp::Reverse;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::AppContext;
use crate::{
    config::{Collapse, PayloadMode},
    notification::{Device, Notification, Priority},
    opaque::Identifier,
    outcome::{Outcome, Rejected, Suppressed},
    sealed::{
        aes128gcm::{SealError, seal},
        keys::{self, DeviceKeys, Ignored},
        plaintext::{Contents, Plaintext},
        tags,
    },
};

/// The form that a notification takes for one device.
pub(super) enum Form {
    /// What Sygnal sends for it.
    Sygnal,
    /// A client's own push test in another mode: what Sygnal sends for it, with the constant headers of the mode.
    Test(Box<Notification>),
    /// Mode `opaque`.
    Opaque,
    /// Mode `wake`.
    Wake,
}

impl Form {
    pub(super) fn of(context: &AppContext, notification: &Notification) -> Self {
        match context.mode {
            PayloadMode::Sygnal => Self::Sygnal,
            PayloadMode::Opaque | PayloadMode::Wake if notification.is_test() => {
                Self::Test(Box::new(event_id_only(notification)))
            }
            PayloadMode::Opaque => Self::Opaque,
            PayloadMode::Wake => Self::Wake,
        }
    }
}

/// What a homeserver sends to a pusher with `format: event_id_only`.
fn event_id_only(notification: &Notification) -> Notification {
    Notification {
        event_id: notification.event_id.clone(),
        room_id: notification.room_id.clone(),
        priority: notification.priority,
        unread: notification.unread,
        missed_calls: notification.missed_calls,
        ..Notification::default()
    }
}

/// Whether the provider is told that this push may wait.
pub(super) fn is_low(context: &AppContext, notification: &Notification) -> bool {
    match notification.priority {
        Priority::High => false,
        Priority::Low => context.mode == PayloadMode::Sygnal || context.opaque.low_priority,
    }
}

/// Refuses a push without an event where a provider could not be told apart from one with.
///
/// # Errors
///
/// [`Suppressed::CountsOnly`]
pub(super) fn expect_event(notification: &Notification) -> Result<(), Outcome> {
    match notification.event_id() {
        Some(_) => Ok(()),
        None => Err(Outcome::Suppressed(Suppressed::CountsOnly)),
    }
}

/// `n` of this push.
pub(super) fn identifier(
    context: &AppContext,
    notification: &Notification,
    device: &Device,
) -> Identifier {
    match notification.event_id() {
        Some(event_id) => {
            context
                .identifiers
                .for_event(&device.app_id, device.pushkey.expose(), event_id)
        }
        None => context.identifiers.random(),
    }
}

/// What a push carries for a device that registered keys.
pub(super) enum ForDevice {
    /// It registered none, or none that can be used.
    Nothing,
    /// The tags `r` and `e`.
    Tags {
        /// None: the notification names no room.
        room: Option<String>,
        /// None: the notification is about no event.
        event: Option<String>,
    },
    /// The sealed blob `p`.
    Blob(String),
}

/// What this push carries for the device, in mode `opaque`. Keys that cannot be used are counted and
/// ignored: a push that says less is better than none.
pub(super) fn for_device(
    context: &AppContext,
    notification: &Notification,
    device: &Device,
    n: Identifier,
) -> ForDevice {
    match DeviceKeys::of_device(device) {
        Ok(None) => ForDevice::Nothing,
        Ok(Some(DeviceKeys::Tags(secret))) => ForDevice::Tags {
            room: notification
                .room_id()
                .map(|room_id| tags::room(secret.expose(), n, room_id)),
            event: notification
                .event_id()
                .map(|event_id| tags::event(secret.expose(), n, event_id)),
        },
        Ok(Some(DeviceKeys::Blob(keys))) => {
            let plaintext = sealed_notification(context, notification, device);
            match seal(&keys, &plaintext, &context.random) {
                Ok(message) => ForDevice::Blob(URL_SAFE_NO_PAD.encode(message)),
                // A plaintext made above always fits.
                Err(SealError::InvalidKey | SealError::TooLong | SealError::Internal) => {
                    context.shortfalls.ignored_keys(Ignored::OffCurve);
                    ForDevice::Nothing
                }
            }
        }
        Err(reason) => {
            context.shortfalls.ignored_keys(reason);
            ForDevice::Nothing
        }
    }
}

/// What a device with keys reads of this notification in mode `opaque`.
pub(super) fn sealed_notification(
    context: &AppContext,
    notification: &Notification,
    device: &Device,
) -> Plaintext {
    let plaintext = Plaintext::of(Contents {
        notification,
        default_payload: device.default_payload().flatten(),
        sealed_content: context.opaque.sealed_content,
        now: context.clock.unix_seconds(),
    });
    if let Some(left_out) = plaintext.left_out {
        context.shortfalls.left_out(left_out);
    }
    plaintext
}

/// What a push without an event carries, where the app's options ask for such pushes: a sealed blob, for
/// devices that can read one.
///
/// # Errors
///
/// [`Suppressed::CountsOnly`]
pub(super) fn badge_blob(
    context: &AppContext,
    notification: &Notification,
    device: &Device,
    n: Identifier,
) -> Result<String, Outcome> {
    if context.opaque.badge_pushes
        && let ForDevice::Blob(blob) = for_device(context, notification, device, n)
    {
        return Ok(blob);
    }
    Err(Outcome::Suppressed(Suppressed::CountsOnly))
}

/// The collapse tag of this push in mode `opaque`, when the app's options ask for one.
pub(super) fn collapse_tag(
    context: &AppContext,
    notification: &Notification,
    device: &Device,
) -> Option<String> {
    match context.opaque.collapse {
        Collapse::None => None,
        Collapse::Room => notification.room_id().map(|room_id| {
            context
                .identifiers
                .collapse_tag(device.pushkey.expose(), room_id)
        }),
    }
}

/// A copy of the device's `default_payload` (empty when it has none) without its keys, which are never
/// forwarded.
///
/// # Errors
///
/// Sygnal rejects a pushkey whose `default_payload` is not an object.
pub(super) fn default_payload(device: &Device) -> Result<Map<String, Value>, Outcome> {
    match device.default_payload() {
        None => Ok(Map::new()),
        Some(None) => Err(Outcome::Rejected(Rejected::InvalidData)),
        Some(Some(payload)) => {
            let mut payload = payload.clone();
            payload.shift_remove(keys::MEMBER);
            Ok(payload)
        }
    }
}

/// Drops members until `excess` bytes are saved: group by group as `group` numbers them, within a group the
/// largest first; those without a group stay. Says whether any was dropped.
///
/// `size` is what a member takes. An object that loses its last member may save a separator less.
pub(super) fn drop_members(
    members: &mut Map<String, Value>,
    excess: usize,
    size: impl Fn(&str, &Value) -> usize,
    group: impl Fn(&str) -> Option<u8>,
) -> bool {
    let mut order: Vec<_> = members
        .iter()
        .enumerate()
        .filter_map(|(index, (name, value))| {
            Some((group(name)?, Reverse(size(name, value)), index))
        })
        .collect();
    order.sort_unstable();

    let mut is_dropped = vec![false; members.len()];
    let mut saved = 0;
    for (_, Reverse(size), index) in &order {
        if saved >= excess {
            break;
        }
        saved += size;
        is_dropped[*index] = true;
    }
    let mut is_dropped = is_dropped.into_iter();
    members.retain(|_, _| !is_dropped.next().unwrap_or(false));
    saved > 0
}

/// What a member takes in compact JSON, its comma included.
pub(super) fn encoded_size(name: &str, value: &Value) -> usize {
    let name = Value::from(name).to_string();
    name.len() + ":,".len() + value.to_string().len()
}

/// Whether Python takes the value for true.
pub(super) fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(members) => !members.is_empty(),
    }
}

/// A string that is not empty.
pub(super) fn non_empty(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| !text.is_empty())
}

#[cfg(test)]
pub(super) mod fixtures;
