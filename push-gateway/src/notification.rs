//! A notification as it came from the homeserver, after validation.

use std::fmt;

use serde_json::{Map, Value};
use shared::secret::Secret;

/// One `notification` of `POST /_matrix/push/v1/notify`.
///
/// The fields that Sygnal does not validate keep whatever JSON the homeserver sent; an absent one
/// is [`Value::Null`].
#[derive(Clone, Default)]
pub struct Notification {
    /// `event_id`
    pub event_id: Value,
    /// `room_id`
    pub room_id: Value,
    /// `type`
    pub kind: Value,
    /// `sender`
    pub sender: Value,
    /// `sender_display_name`
    pub sender_display_name: Value,
    /// `room_name`
    pub room_name: Value,
    /// `room_alias`
    pub room_alias: Value,
    /// `membership`
    pub membership: Value,
    /// `user_is_target`
    pub user_is_target: Value,
    /// `content`
    pub content: Value,
    /// `prio`
    pub priority: Priority,
    /// `counts.unread`; integers only, of any size that fits
    pub unread: Option<i64>,
    /// `counts.missed_calls`
    pub missed_calls: Option<i64>,
}

/// The homeserver's `prio`: everything but the string `low` means high.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Priority {
    /// The user should see this at once.
    #[default]
    High,
    /// May wait for the device to wake up by itself.
    Low,
}

/// One entry of `devices`.
#[derive(Clone)]
pub struct Device {
    /// `app_id`, as the homeserver sent it.
    pub app_id: String,
    /// `pushkey`, as the homeserver sent it; `rejected` echoes exactly this.
    pub pushkey: Pushkey,
    /// `pushkey_ts`: when the pushkey was last registered, in seconds since 1970.
    pub pushkey_ts: Option<i64>,
    /// `data`; `None` when absent or null.
    pub data: Option<Map<String, Value>>,
}

/// What addresses a device at its provider: an APNs or FCM token, or a Web Push key or endpoint.
#[derive(Clone, Debug)]
pub struct Pushkey(Secret<String>);

/// The event ID that clients send in their own push test; it names no event.
///
/// See spec/opaque-push.md §6.
pub const TEST_EVENT_ID: &str = "$THIS_IS_A_FAKE_EVENT_ID";

impl Notification {
    /// The event ID, when there is one: a non-empty string.
    #[must_use]
    pub fn event_id(&self) -> Option<&str> {
        non_empty(&self.event_id)
    }

    /// The room ID, when there is one: a non-empty string.
    #[must_use]
    pub fn room_id(&self) -> Option<&str> {
        non_empty(&self.room_id)
    }

    /// Whether this is the push test of a client.
    #[must_use]
    pub fn is_test(&self) -> bool {
        self.event_id() == Some(TEST_EVENT_ID)
    }
}

fn non_empty(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| !text.is_empty())
}

impl Device {
    /// `data.default_payload`: the outer `None` when absent (or `data` is), the inner when it is not an object.
    #[must_use]
    pub fn default_payload(&self) -> Option<Option<&Map<String, Value>>> {
        Some(self.data.as_ref()?.get("default_payload")?.as_object())
    }
}

impl Pushkey {
    /// Takes the homeserver's string in.
    #[must_use]
    pub fn new(pushkey: impl Into<String>) -> Self {
        Self(Secret::new(pushkey.into()))
    }

    /// The string, for the provider request, a keyed hash or the `rejected` list. Never for a log.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose()
    }
}

impl fmt::Debug for Notification {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Notification([hidden])")
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Device([hidden])")
    }
}
