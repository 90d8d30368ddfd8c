//! The plaintext of a sealed notification (spec/opaque-push.md §5).
//!
//! It is padded to one of a few sizes, so that its length says next to nothing about what is in it.

use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::keys;
use crate::notification::{Notification, Priority};

/// What is encrypted for a device: JSON and how far it is padded.
#[derive(Clone, PartialEq, Eq)]
pub struct Plaintext {
    /// UTF-8 JSON, at most [`MAX_JSON`] bytes.
    pub json: Vec<u8>,
    /// The size of the whole record before encryption: JSON, delimiter and zeros; more than `json.len()`.
    pub padded_to: usize,
    /// What would not fit.
    pub left_out: Option<LeftOut>,
}

/// How much of a notification had to be left out of its plaintext. Closed set: it is a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LeftOut {
    /// `data`
    Data,
    /// `data` and `content`
    Content,
    /// All but IDs and counts.
    Event,
    /// IDs, too.
    Ids,
}

/// What a sealed notification is made from.
#[derive(Clone, Copy)]
pub struct Contents<'a> {
    /// The homeserver's notification.
    pub notification: &'a Notification,
    /// The device's `default_payload`, its keys included or not.
    pub default_payload: Option<&'a Map<String, Value>>,
    /// `opaque.sealed_content`: whether the event itself goes in, too.
    pub sealed_content: bool,
    /// The time: seconds since 1970.
    pub now: u64,
}

/// The most JSON that fits into one `aes128gcm` message of 4096 bytes: without the header (86), the
/// delimiter (1) and the authentication tag (16). RFC 8291 §4.
pub const MAX_JSON: usize = 3993;

/// The delimiter of a message's last record (RFC 8188 §2).
const DELIMITER: u8 = 2;

/// The sizes that a plaintext is padded to, delimiter included.
const SIZES: [usize; 3] = [512, 1024, 2048];

impl Plaintext {
    /// The plaintext of one notification.
    ///
    /// Past 2048 bytes it loses `data`; then `content`; then all else that `sealed_content` put in; last
    /// `room_id` and `event_id`, which only happens to IDs that no homeserver gives out.
    #[must_use]
    pub fn of(contents: Contents<'_>) -> Self {
        let mut members = Members::of(contents);
        let mut json = members.encode();
        let steps: [Step; 5] = [
            (LeftOut::Data, |members| members.data = None),
            (LeftOut::Content, |members| members.content = None),
            (LeftOut::Event, |members| {
                *members = Members {
                    kind: None,
                    sender: None,
                    sender_display_name: None,
                    room_name: None,
                    room_alias: None,
                    ..*members
                }
            }),
            (LeftOut::Ids, |members| members.room_id = None),
            (LeftOut::Ids, |members| members.event_id = None),
        ];
        let mut left_out = None;
        for (step, drop_next) in steps {
            if json.len() < SIZES[SIZES.len() - 1] {
                break;
            }
            drop_next(&mut members);
            json = members.encode();
            left_out = Some(step);
        }
        Self {
            left_out,
            ..Self::padded(json)
        }
    }

    /// The plaintext of mode `wake`, the same for every push.
    #[must_use]
    pub fn wake() -> Self {
        Self::padded(br#"{"v":1}"#.to_vec())
    }

    /// Pads to the next of the sizes; what is larger than all of them to the most that there is room for.
    #[must_use]
    pub fn padded(json: Vec<u8>) -> Self {
        let padded_to = SIZES
            .into_iter()
            .find(|size| json.len() < *size)
            .unwrap_or((MAX_JSON + 1).max(json.len() + 1));
        Self {
            json,
            padded_to,
            left_out: None,
        }
    }

    /// No padding, as Sygnal does.
    #[must_use]
    pub fn unpadded(json: Vec<u8>) -> Self {
        let padded_to = json.len() + 1;
        Self {
            json,
            padded_to,
            left_out: None,
        }
    }

    /// The record as it is encrypted: JSON, the delimiter 0x02 of RFC 8188 §2 and zeros up to `padded_to`.
    #[must_use]
    pub fn record(&self) -> Vec<u8> {
        let mut record = Vec::with_capacity(self.padded_to);
        record.extend_from_slice(&self.json);
        record.push(DELIMITER);
        record.resize(self.padded_to.max(record.len()), 0);
        record
    }
}

impl LeftOut {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Data, Self::Content, Self::Event, Self::Ids];

    /// The metric label and log value.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Content => "content",
            Self::Event => "event",
            Self::Ids => "ids",
        }
    }
}

impl fmt::Debug for Plaintext {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Plaintext([hidden])")
    }
}

/// What is left out next where all of it does not fit.
type Step = (LeftOut, fn(&mut Members<'_>));

/// The JSON object, in the order of its members.
#[derive(Clone, Copy, Serialize)]
struct Members<'a> {
    v: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unread: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    missed_calls: Option<i64>,
    prio: &'static str,
    ts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Data<'a>>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sender: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sender_display_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_alias: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a Map<String, Value>>,
}

/// A `default_payload` without the device's keys.
#[derive(Clone, Copy)]
struct Data<'a>(&'a Map<String, Value>);

impl<'a> Members<'a> {
    fn of(contents: Contents<'a>) -> Self {
        let notification = contents.notification;
        let text = |value: &'a Value| value.as_str().filter(|_| contents.sealed_content);
        Self {
            v: 1,
            event_id: notification.event_id(),
            room_id: notification.room_id(),
            unread: notification.unread,
            missed_calls: notification.missed_calls,
            prio: match notification.priority {
                Priority::High => "high",
                Priority::Low => "low",
            },
            ts: contents.now,
            data: contents
                .default_payload
                .map(Data)
                .filter(|data| data.members().next().is_some()),
            kind: text(&notification.kind),
            sender: text(&notification.sender),
            sender_display_name: text(&notification.sender_display_name),
            room_name: text(&notification.room_name),
            room_alias: text(&notification.room_alias),
            content: notification
                .content
                .as_object()
                .filter(|_| contents.sealed_content),
        }
    }

    fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("members have string keys")
    }
}

impl<'a> Data<'a> {
    fn members(self) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.0.iter().filter(|(name, _)| *name != keys::MEMBER)
    }
}

impl Serialize for Data<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.members())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn notification() -> Notification {
        Notification {
            event_id: "$event".into(),
            room_id: "!room".into(),
            kind: "m.room.message".into(),
            sender: "@sender".into(),
            sender_display_name: "Sender".into(),
            room_name: "Room".into(),
            room_alias: "#room".into(),
            content: json!({"body": "é"}),
            unread: Some(0),
            missed_calls: Some(1),
            ..Notification::default()
        }
    }

    fn plaintext(
        notification: &Notification,
        data: &Value,
        sealed_content: bool,
    ) -> (String, usize) {
        let plaintext = plaintext_of(notification, data, sealed_content);
        (
            String::from_utf8(plaintext.json).unwrap(),
            plaintext.padded_to,
        )
    }

    fn plaintext_of(notification: &Notification, data: &Value, sealed_content: bool) -> Plaintext {
        Plaintext::of(Contents {
            notification,
            default_payload: data.as_object(),
            sealed_content,
            now: 5,
        })
    }

    #[test]
    fn members_are_those_of_the_specification_in_its_order() {
        let data = json!({"nocturne": {"v": 1}, "cs": [1, 2]});
        let expected = r#"{"v":1,"event_id":"$event","room_id":"!room","unread":0,"missed_calls":1,"prio":"high","ts":5,"data":{"cs":[1,2]}}"#;
        assert_eq!(
            plaintext(&notification(), &data, false),
            (expected.to_owned(), 512)
        );
    }

    #[test]
    fn absent_values_are_left_out() {
        let empty = Notification {
            priority: Priority::Low,
            ..Notification::default()
        };
        for data in [json!(null), json!({}), json!({"nocturne": {}})] {
            assert_eq!(
                plaintext(&empty, &data, true).0,
                r#"{"v":1,"prio":"low","ts":5}"#
            );
        }
    }

    #[test]
    fn sealed_content_adds_the_event() {
        let expected = r##"{"v":1,"event_id":"$event","room_id":"!room","unread":0,"missed_calls":1,"prio":"high","ts":5,"type":"m.room.message","sender":"@sender","sender_display_name":"Sender","room_name":"Room","room_alias":"#room","content":{"body":"é"}}"##;
        assert_eq!(plaintext(&notification(), &Value::Null, true).0, expected);
    }

    #[test]
    fn padding_goes_up_in_steps() {
        for (length, padded_to) in [
            (0, 512),
            (511, 512),
            (512, 1024),
            (1023, 1024),
            (1024, 2048),
            (2047, 2048),
            (2048, 3994),
            (3993, 3994),
        ] {
            assert_eq!(Plaintext::padded(vec![b'x'; length]).padded_to, padded_to);
        }
    }

    #[test]
    fn a_record_is_json_delimiter_and_zeros() {
        let record = Plaintext::wake().record();
        assert_eq!(record.len(), 512);
        assert_eq!(record[..8], *b"{\"v\":1}\x02");
        assert!(record[8..].iter().all(|byte| *byte == 0));
        assert_eq!(Plaintext::unpadded(b"{}".to_vec()).record(), b"{}\x02");
    }

    #[test]
    fn past_the_largest_size_members_go_in_order() {
        let large = "x".repeat(1500);
        let data = json!({"large": large});
        let mut notification = notification();
        notification.content = json!({"body": large});
        let (json, padded_to) = plaintext(&notification, &data, false);
        assert!(json.contains("large") && padded_to == 2048);

        let (json, padded_to) = plaintext(&notification, &data, true);
        assert!(!json.contains("data") && json.contains("content") && padded_to == 2048);

        notification.room_name = large.clone().into();
        let (json, _) = plaintext(&notification, &data, true);
        assert!(!json.contains("content") && json.contains("room_name"));

        notification.sender = large.clone().into();
        let (json, padded_to) = plaintext(&notification, &data, true);
        assert!(!json.contains("sender") && !json.contains("type") && padded_to == 512);

        notification.room_id = large.clone().into();
        notification.event_id = large.into();
        let (json, _) = plaintext(&notification, &data, true);
        assert!(!json.contains("room_id") && json.contains("event_id"));
    }

    #[test]
    fn what_was_left_out_is_said_and_only_that() {
        let large = || Value::from("x".repeat(1500));
        let with_data = json!({"large": large()});
        let left_out = |notification: &Notification, data: &Value, sealed_content| {
            plaintext_of(notification, data, sealed_content).left_out
        };
        let mut notification = notification();
        assert_eq!(left_out(&notification, &with_data, true), None);
        let data = json!({"large": "x".repeat(2500)});
        assert_eq!(left_out(&notification, &data, false), Some(LeftOut::Data));

        notification.content = json!({"large": "x".repeat(2500)});
        // what was not to go in anyway, is not left out
        assert_eq!(left_out(&notification, &Value::Null, false), None);
        let content = Some(LeftOut::Content);
        assert_eq!(left_out(&notification, &Value::Null, true), content);
        assert_eq!(left_out(&notification, &with_data, true), content);

        notification.room_name = large();
        notification.sender = large();
        let event = Some(LeftOut::Event);
        assert_eq!(left_out(&notification, &with_data, true), event);
        notification.room_id = large();
        notification.event_id = large();
        let ids = Some(LeftOut::Ids);
        assert_eq!(left_out(&notification, &with_data, true), ids);
        assert_eq!(left_out(&notification, &Value::Null, false), ids);
    }
}
