//! What a browser is sent, before encryption.

use std::fmt;

use serde_json::{Map, Value};

use crate::{
    notification::{Device, Notification},
    outcome::{Outcome, Rejected, Suppressed},
    provider::{
        AppContext,
        payload::{
            Form, collapse_tag, drop_members, encoded_size, is_low, is_truthy, sealed_notification,
        },
    },
    python_json::{self, character_ends, escaped_len},
    sealed::{
        keys,
        plaintext::{MAX_JSON, Plaintext},
    },
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

impl fmt::Debug for Payload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Payload([hidden])")
    }
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

/// `TTL` in modes `opaque` and `wake`: a day.
const OPAQUE_TTL: u32 = 86_400;

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
    let Some(data) = &device.data else {
        return Err(Outcome::Rejected(Rejected::InvalidData));
    };
    if notification.event_id().is_none() && is_true(data, "events_only") {
        return Err(Outcome::Suppressed(Suppressed::CountsOnly));
    }

    let is_low = is_low(context, notification);
    let opaque_urgency = if is_low { Urgency::Low } else { Urgency::High };
    let default_payload = device.default_payload().flatten();
    Ok(match Form::of(context, notification) {
        Form::Sygnal => Payload {
            plaintext: Plaintext::unpadded(sygnal_json(notification, default_payload)),
            ttl,
            urgency: if is_low {
                Urgency::Low
            } else {
                Urgency::Normal
            },
            // Sygnal's Topic is a hash of the room ID that a push service can guess, with padding that
            // RFC 8030 does not allow.
            topic: notification
                .room_id()
                .filter(|_| is_true(data, "only_last_per_room"))
                .map(|room_id| {
                    let pushkey = device.pushkey.expose();
                    context.identifiers.collapse_tag(pushkey, room_id)
                }),
        },
        Form::Test(notification) => Payload {
            plaintext: Plaintext::padded(sygnal_json(&notification, default_payload)),
            ttl: OPAQUE_TTL,
            urgency: opaque_urgency,
            topic: None,
        },
        Form::Opaque => Payload {
            plaintext: sealed_notification(context, notification, device),
            ttl: OPAQUE_TTL,
            urgency: opaque_urgency,
            topic: collapse_tag(context, notification, device),
        },
        Form::Wake => Payload {
            plaintext: Plaintext::wake(),
            ttl: OPAQUE_TTL,
            urgency: opaque_urgency,
            topic: None,
        },
    })
}

fn is_true(data: &Map<String, Value>, name: &str) -> bool {
    data.get(name) == Some(&Value::Bool(true))
}

/// Sygnal's payload, at most [`MAX_JSON`] bytes.
fn sygnal_json(
    notification: &Notification,
    default_payload: Option<&Map<String, Value>>,
) -> Vec<u8> {
    let mut payload = default_payload.cloned().unwrap_or_default();
    payload.shift_remove(keys::MEMBER);
    for (name, value) in [
        ("room_id", &notification.room_id),
        ("room_name", &notification.room_name),
        ("room_alias", &notification.room_alias),
        ("membership", &notification.membership),
        ("event_id", &notification.event_id),
        ("sender", &notification.sender),
        ("sender_display_name", &notification.sender_display_name),
        ("user_is_target", &notification.user_is_target),
        ("type", &notification.kind),
    ] {
        if is_truthy(value) {
            payload.insert(name.to_owned(), value.clone());
        }
    }
    for (name, count) in [
        ("unread", notification.unread),
        ("missed_calls", notification.missed_calls),
    ] {
        if let Some(count) = count {
            payload.insert(name.to_owned(), count.into());
        }
    }
    if let Some(content) = notification.content.as_object()
        && !content.is_empty()
    {
        payload.insert(CONTENT.to_owned(), Value::Object(sygnal_content(content)));
    }
    fit(payload)
}

const CONTENT: &str = "content";
const BODY: &str = "body";
const ELLIPSIS: char = '…';

fn sygnal_content(content: &Map<String, Value>) -> Map<String, Value> {
    content
        .iter()
        .filter(|(name, value)| match name.as_str() {
            "formatted_body" => false,
            "ciphertext" => value
                .as_str()
                .is_none_or(|text| text.chars().nth(2000).is_none()),
            _ => true,
        })
        .map(|(name, value)| {
            let value = match value.as_str() {
                Some(body) if name == BODY && body.chars().nth(1000).is_some() => {
                    let start: String = body.chars().take(999).collect();
                    format!("{start}{ELLIPSIS}").into()
                }
                Some(_) | None => value.clone(),
            };
            (name.clone(), value)
        })
        .collect()
}

/// Encodes the payload in at most [`MAX_JSON`] bytes; more than that a push service answers with 413, and
/// Sygnal drops the push.
///
/// What is too long as Sygnal writes it is written without escapes and spaces, which loses nothing. If
/// that is too long still, it loses members of `content` besides its text and type, the largest first;
/// then other members, the largest first, IDs and counts last; and then the end of `content.body`.
fn fit(mut payload: Map<String, Value>) -> Vec<u8> {
    let encoded = python_json::to_ascii(&payload);
    if encoded.len() <= MAX_JSON {
        return encoded;
    }
    let mut encoded = compact(&payload);
    if encoded.len() <= MAX_JSON {
        return encoded;
    }

    let excess = encoded.len() - MAX_JSON;
    if let Some(Value::Object(content)) = payload.get_mut(CONTENT) {
        let has_real_type = content
            .get("msgtype")
            .and_then(Value::as_str)
            .is_some_and(|kind| kind.len() <= 255);
        drop_members(content, excess, encoded_size, |name| match name {
            BODY => None,
            "msgtype" if has_real_type => None,
            _ => Some(0),
        });
    }
    encoded = compact(&payload);

    let room = MAX_JSON - ELLIPSIS.len_utf8();
    let body_len = body(&mut payload).map(|body| escaped_len(body));
    let rest = encoded.len() - body_len.unwrap_or(0);
    if rest > room {
        drop_members(&mut payload, rest - room, encoded_size, |name| match name {
            CONTENT if body_len.is_some() => None,
            "event_id" | "room_id" | "unread" | "missed_calls" => Some(1),
            _ => Some(0),
        });
        encoded = compact(&payload);
    }
    let excess = encoded.len().saturating_sub(MAX_JSON);
    if excess > 0
        && let Some(body) = body(&mut payload)
    {
        let room = escaped_len(body).saturating_sub(excess + ELLIPSIS.len_utf8());
        let end = character_ends(body)
            .scan(0, |taken, (end, length)| {
                *taken += length;
                (*taken <= room).then_some(end)
            })
            .last();
        body.truncate(end.unwrap_or(0));
        body.push(ELLIPSIS);
        encoded = compact(&payload);
    }
    encoded
}

fn body(payload: &mut Map<String, Value>) -> Option<&mut String> {
    match payload.get_mut(CONTENT)?.get_mut(BODY)? {
        Value::String(body) => Some(body),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            None
        }
    }
}

fn compact(payload: &Map<String, Value>) -> Vec<u8> {
    serde_json::to_vec(payload).expect("JSON values have string keys")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::{
        config::{Collapse, OpaqueOptions, PayloadMode},
        provider::payload::fixtures::{
            self, ALL_MODES, any_device, any_mode, any_notification, badge_only, context,
            context_with, device, dummy, dummy_with, event_id_only, push_test,
        },
    };

    fn sygnal(notification: &Notification, data: Value) -> Payload {
        build(
            900,
            &context(PayloadMode::Sygnal),
            notification,
            &device(data),
        )
        .unwrap()
    }

    fn json_of(payload: &Payload) -> &str {
        std::str::from_utf8(&payload.plaintext.json).unwrap()
    }

    fn value_of(payload: &Payload) -> Value {
        serde_json::from_slice(&payload.plaintext.json).unwrap()
    }

    #[test]
    fn a_full_notification_becomes_sygnals_bytes() {
        let members = json!({
            "room_name": "é", "user_is_target": false, "membership": "",
            "content": {"msgtype": "m.text", "body": "b", "formatted_body": "<b>", "other": 1.0}
        });
        let data = json!({"default_payload": {"a": {"b": null}, "nocturne": {"v": 1}}});
        let payload = sygnal(&dummy_with(&members), data);
        assert_eq!(
            json_of(&payload),
            r##"{"a": {"b": null}, "room_id": "!slw48wfj34rtnrf:example.com", "room_name": "\u00e9", "room_alias": "#exampleroom:matrix.org", "event_id": "$qTOWWTEL48yPm3uT-gdNhFcoHxfKbZuqRVnnWWSkGBs", "sender": "@exampleuser:matrix.org", "sender_display_name": "Major Tom", "type": "m.room.message", "unread": 2, "missed_calls": 1, "content": {"msgtype": "m.text", "body": "b", "other": 1.0}}"##
        );
        assert_eq!(
            payload.plaintext.padded_to,
            payload.plaintext.json.len() + 1
        );
        assert_eq!((payload.ttl, payload.urgency), (900, Urgency::Normal));
        assert_eq!(payload.topic, None);
    }

    #[test]
    fn counts_of_zero_are_sent_and_a_wrong_default_payload_is_ignored() {
        let read = fixtures::notification(&json!({"counts": {"unread": 0}}));
        let payload = sygnal(&read, json!({"default_payload": null}));
        assert_eq!(json_of(&payload), r#"{"unread": 0}"#);
    }

    #[test]
    fn long_texts_of_the_content_are_cut_as_in_sygnal() {
        let content = |body: usize, ciphertext: usize| {
            let content = json!({"body": "b".repeat(body), "ciphertext": "c".repeat(ciphertext)});
            value_of(&sygnal(
                &dummy_with(&json!({"content": content})),
                json!({}),
            ))["content"]
                .clone()
        };
        assert_eq!(
            content(1000, 2000),
            json!({"body": "b".repeat(1000), "ciphertext": "c".repeat(2000)})
        );
        assert_eq!(
            content(1001, 2001),
            json!({"body": format!("{}…", "b".repeat(999))})
        );
    }

    #[test]
    fn what_is_too_long_is_shortened_in_order() {
        let shortened = |body: &str, other: usize, default: usize| {
            let members =
                json!({"content": {"msgtype": "m.text", "body": body, "other": "o".repeat(other)}});
            let data = json!({"default_payload": {"d": "d".repeat(default), "cs": "x"}});
            let payload = sygnal(&dummy_with(&members), data);
            assert!(payload.plaintext.json.len() <= MAX_JSON);
            value_of(&payload)
        };
        let chinese = "字".repeat(1000);
        let all = shortened(&chinese, 3, 3);
        assert_eq!(
            (&all["content"]["body"], &all["content"]["other"]),
            (&json!(chinese), &json!("ooo"))
        );

        let without_other = shortened(&chinese, 1000, 3);
        assert_eq!(
            without_other["content"],
            json!({"msgtype": "m.text", "body": chinese})
        );
        assert_eq!(without_other["d"], "ddd");

        let without_default = shortened("short", 3, 5000);
        assert_eq!(without_default["d"], Value::Null);
        assert_eq!(without_default["cs"], "x");
        assert_eq!(without_default["content"]["body"], "short");

        let members = json!({"content": null});
        let data = json!({"default_payload": {"content": "d".repeat(5000)}});
        let payload = sygnal(&dummy_with(&members), data);
        assert_eq!(value_of(&payload)["content"], Value::Null);

        let cut = shortened(&"💥".repeat(1000), 3, 3);
        let body = cut["content"]["body"].as_str().unwrap();
        assert!(body.ends_with("💥…") && body.len() > 3000, "{}", body.len());
        assert_eq!(cut["content"]["msgtype"], "m.text");
    }

    #[test]
    fn what_just_fits_is_not_cut() {
        let body = |default: usize| {
            let members = json!({"content": {"body": "字".repeat(900)}});
            let data = json!({"default_payload": {"d": "d".repeat(default)}});
            let payload = sygnal(&dummy_with(&members), data);
            let body = value_of(&payload)["content"]["body"].clone();
            (payload.plaintext.json.len(), body == "字".repeat(900))
        };
        let (length, _) = body(0);
        assert_eq!(body(MAX_JSON - length), (MAX_JSON, true));
        let (cut_length, is_whole) = body(MAX_JSON - length + 1);
        assert!(!is_whole && cut_length > MAX_JSON - 6);
    }

    #[test]
    fn events_only_suppresses_counts_in_every_mode() {
        for mode in ALL_MODES {
            let outcome = |notification: &Notification, events_only: Value| {
                let device = device(json!({"events_only": events_only}));
                build(900, &context(mode), notification, &device).map(|_| ())
            };
            assert_eq!(
                outcome(&badge_only(), true.into()),
                Err(Outcome::Suppressed(Suppressed::CountsOnly))
            );
            assert_eq!(outcome(&badge_only(), "true".into()), Ok(()));
            assert_eq!(outcome(&event_id_only(), true.into()), Ok(()));
        }
    }

    #[test]
    fn a_device_without_data_is_rejected() {
        let outcome = build(
            900,
            &context(PayloadMode::Opaque),
            &dummy(),
            &device(Value::Null),
        );
        assert!(outcome.is_err_and(|outcome| outcome == Outcome::Rejected(Rejected::InvalidData)));
    }

    #[test]
    fn only_last_per_room_gives_a_keyed_topic() {
        let context = context(PayloadMode::Sygnal);
        let topic = |notification: &Notification, only: Value| {
            let device = device(json!({"only_last_per_room": only}));
            build(900, &context, notification, &device).unwrap().topic
        };
        let room_id = dummy().room_id().unwrap().to_owned();
        let tag = context.identifiers.collapse_tag("spqr", &room_id);
        assert_eq!(topic(&dummy(), true.into()), Some(tag));
        assert_eq!(topic(&dummy(), 1.into()), None);
        assert_eq!(topic(&badge_only(), true.into()), None);
    }

    #[test]
    fn opaque_is_the_padded_plaintext() {
        let data = json!({"default_payload": {"cs": 1}, "only_last_per_room": true});
        let payload = build(
            900,
            &context(PayloadMode::Opaque),
            &event_id_only(),
            &device(data),
        )
        .unwrap();
        assert_eq!(
            json_of(&payload),
            r#"{"v":1,"event_id":"$qTOWWTEL48yPm3uT-gdNhFcoHxfKbZuqRVnnWWSkGBs","room_id":"!slw48wfj34rtnrf:example.com","unread":2,"prio":"high","ts":1700000000,"data":{"cs":1}}"#
        );
        assert_eq!(payload.plaintext.padded_to, 512);
        assert_eq!((payload.ttl, payload.urgency), (86_400, Urgency::High));
        assert_eq!(payload.topic, None);
    }

    #[test]
    fn opaque_options_show() {
        let opaque = OpaqueOptions {
            collapse: Collapse::Room,
            low_priority: true,
            sealed_content: true,
            ..OpaqueOptions::default()
        };
        let context = context_with(PayloadMode::Opaque, opaque);
        let low = dummy_with(&json!({"prio": "low"}));
        let payload = build(900, &context, &low, &device(json!({}))).unwrap();
        assert_eq!(payload.urgency, Urgency::Low);
        assert!(json_of(&payload).contains("Major Tom"));
        assert_eq!(payload.topic.map(|topic| topic.len()), Some(22));
    }

    #[test]
    fn wake_is_the_same_for_every_push() {
        let low = dummy_with(&json!({"prio": "low"}));
        for notification in [dummy(), badge_only(), low] {
            let payload = build(
                900,
                &context(PayloadMode::Wake),
                &notification,
                &device(json!({})),
            )
            .unwrap();
            assert_eq!(json_of(&payload), r#"{"v":1}"#);
            assert_eq!(payload.plaintext.padded_to, 512);
            assert_eq!((payload.ttl, payload.urgency), (86_400, Urgency::High));
            assert_eq!(payload.topic, None);
        }
    }

    #[test]
    fn the_push_test_of_a_client_has_sygnals_form_in_every_mode() {
        for mode in ALL_MODES {
            let data = json!({"default_payload": {"cs": "x"}});
            let payload = build(900, &context(mode), &push_test(), &device(data)).unwrap();
            assert_eq!(
                json_of(&payload),
                r#"{"cs": "x", "room_id": "!room:domain", "event_id": "$THIS_IS_A_FAKE_EVENT_ID"}"#
            );
        }
    }

    proptest! {
        #[test]
        fn nothing_panics_and_everything_fits(
            mode in any_mode(),
            notification in any_notification(),
            device in any_device(),
            sealed_content: bool,
        ) {
            let opaque = OpaqueOptions { sealed_content, ..OpaqueOptions::default() };
            let context = context_with(mode, opaque);
            if let Ok(payload) = build(900, &context, &notification, &device) {
                let Plaintext {
                    json, padded_to, ..
                } = &payload.plaintext;
                prop_assert!(json.len() <= MAX_JSON);
                prop_assert!(serde_json::from_slice::<Value>(json).is_ok());
                prop_assert_eq!(payload.plaintext.record().len(), *padded_to);
                if mode == PayloadMode::Wake && !notification.is_test() {
                    prop_assert_eq!(json.as_slice(), br#"{"v":1}"#);
                }
                prop_assert!(mode == PayloadMode::Sygnal || [512, 1024, 2048, 3994].contains(padded_to));
            }
        }
    }
}
