//! What a UnifiedPush push server is sent: encrypted for a device with keys, else in clear.

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    notification::{Device, Notification, Priority},
    outcome::{Outcome, Suppressed},
    provider::{
        AppContext,
        payload::{Form, drop_members, encoded_size},
        web_push,
    },
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
    /// For a device without: Sygnal's request body without `devices`, or without anything where the device
    /// asked for encryption with keys that cannot be used. No header depends on it.
    Clear(Bytes),
}

/// `TTL` of encrypted messages: a day. UnifiedPush apps have no `ttl` of their own.
const TTL: u32 = 86_400;

/// The most that a UnifiedPush push server has to take, in bytes.
const LIMIT: usize = 4096;

/// Makes the payload for one device. The endpoint (the pushkey) is the caller's to check.
pub(super) fn build(
    context: &AppContext,
    notification: &Notification,
    device: &Device,
) -> Result<Payload, Outcome> {
    let keys = ReceiverKeys::of_device(device);
    if let Ok(Some(keys)) = keys {
        let payload = web_push::payload::build(TTL, context, notification, device)?;
        return Ok(Payload::Sealed { keys, payload });
    }
    if notification.event_id().is_none() && is_events_only(device) {
        return Err(Outcome::Suppressed(Suppressed::CountsOnly));
    }
    let members = match Form::of(context, notification) {
        Form::Test(notification) => clear_members(&notification),
        Form::Wake => Map::new(),
        Form::Sygnal | Form::Opaque => match keys {
            Ok(_) => clear_members(notification),
            Err(reason) => {
                context.shortfalls.ignored_keys(reason);
                Map::new()
            }
        },
    };
    Ok(Payload::Clear(fit(members)))
}

/// What a device gets whose keys turn out to be of no use.
pub(super) fn without_contents() -> Bytes {
    encode(&Map::new())
}

/// As for Web Push.
fn is_events_only(device: &Device) -> bool {
    let data = device.data.as_ref();
    data.and_then(|data| data.get("events_only")) == Some(&Value::Bool(true))
}

/// The homeserver's notification without `devices`, and with `prio` in any case.
fn clear_members(notification: &Notification) -> Map<String, Value> {
    let prio = match notification.priority {
        Priority::High => "high",
        Priority::Low => "low",
    };
    let counts: Map<_, _> = [
        ("unread", notification.unread),
        ("missed_calls", notification.missed_calls),
    ]
    .into_iter()
    .filter_map(|(name, count)| Some((name.to_owned(), count?.into())))
    .collect();
    let counts = if counts.is_empty() {
        Value::Null
    } else {
        Value::Object(counts)
    };
    [
        ("event_id", &notification.event_id),
        ("room_id", &notification.room_id),
        ("type", &notification.kind),
        ("sender", &notification.sender),
        ("sender_display_name", &notification.sender_display_name),
        ("room_name", &notification.room_name),
        ("room_alias", &notification.room_alias),
        ("membership", &notification.membership),
        ("user_is_target", &notification.user_is_target),
        ("prio", &prio.into()),
        ("counts", &counts),
        ("content", &notification.content),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_null())
    .map(|(name, value)| (name.to_owned(), value.clone()))
    .collect()
}

/// Encodes the body in at most 4096 bytes. Too large a one loses `content` first, then other members, the
/// largest first, IDs last.
fn fit(mut members: Map<String, Value>) -> Bytes {
    let mut encoded = encode(&members);
    if let Some(excess) = encoded
        .len()
        .checked_sub(LIMIT)
        .filter(|excess| *excess > 0)
    {
        drop_members(&mut members, excess, encoded_size, |name| match name {
            "content" => Some(0),
            "prio" | "counts" => None,
            "event_id" | "room_id" => Some(2),
            _ => Some(1),
        });
        encoded = encode(&members);
    }
    encoded
}

fn encode(members: &Map<String, Value>) -> Bytes {
    #[derive(Serialize)]
    struct Body<'a> {
        notification: &'a Map<String, Value>,
    }

    serde_json::to_vec(&Body {
        notification: members,
    })
    .expect("JSON values have string keys")
    .into()
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::{
        config::PayloadMode,
        provider::payload::fixtures::{
            ALL_MODES, any_device, any_mode, any_notification, badge_only, context, device, dummy,
            dummy_with, event_id_only, push_test,
        },
    };

    fn clear(mode: PayloadMode, notification: &Notification, data: Value) -> String {
        match build(&context(mode), notification, &device(data)).unwrap() {
            Payload::Clear(body) => String::from_utf8(body.to_vec()).unwrap(),
            Payload::Sealed { .. } => panic!("the device has no keys"),
        }
    }

    #[test]
    fn without_keys_it_is_the_homeservers_notification_without_devices() {
        for mode in [PayloadMode::Opaque, PayloadMode::Sygnal] {
            assert_eq!(
                clear(mode, &event_id_only(), json!({"default_payload": {"a": 1}})),
                r#"{"notification":{"event_id":"$qTOWWTEL48yPm3uT-gdNhFcoHxfKbZuqRVnnWWSkGBs","room_id":"!slw48wfj34rtnrf:example.com","prio":"high","counts":{"unread":2}}}"#
            );
            assert_eq!(
                clear(mode, &dummy_with(&json!({"prio": "low"})), Value::Null),
                r##"{"notification":{"event_id":"$qTOWWTEL48yPm3uT-gdNhFcoHxfKbZuqRVnnWWSkGBs","room_id":"!slw48wfj34rtnrf:example.com","type":"m.room.message","sender":"@exampleuser:matrix.org","sender_display_name":"Major Tom","room_name":"Mission Control","room_alias":"#exampleroom:matrix.org","prio":"low","counts":{"unread":2,"missed_calls":1},"content":{"msgtype":"m.text","body":"I'm floating in a most peculiar way.","other":1}}}"##
            );
        }
    }

    #[test]
    fn wake_without_keys_is_empty() {
        let wake = clear(PayloadMode::Wake, &dummy(), Value::Null);
        assert_eq!(wake, r#"{"notification":{}}"#);
    }

    #[test]
    fn the_push_test_of_a_client_is_sent_in_every_mode() {
        for mode in ALL_MODES {
            assert_eq!(
                clear(mode, &push_test(), Value::Null),
                r#"{"notification":{"event_id":"$THIS_IS_A_FAKE_EVENT_ID","room_id":"!room:domain","prio":"high"}}"#
            );
        }
    }

    #[test]
    fn with_keys_it_is_web_push() {
        let mut point = [1; 65];
        point[0] = 4;
        let data = json!({
            "p256dh": URL_SAFE_NO_PAD.encode(point), "auth": URL_SAFE_NO_PAD.encode([2; 16])
        });
        for mode in ALL_MODES {
            let context = context(mode);
            let device = device(data.clone());
            let Ok(Payload::Sealed { keys, payload }) = build(&context, &dummy(), &device) else {
                panic!("the device has keys");
            };
            assert_eq!(keys.p256dh, point);
            let expected = web_push::payload::build(TTL, &context, &dummy(), &device).unwrap();
            assert!(payload.plaintext == expected.plaintext);
            assert_eq!(payload.ttl, TTL);
        }
    }

    #[test]
    fn keys_that_cannot_be_used_are_no_reason_to_send_in_clear() {
        for data in [
            json!({"p256dh": "AAAA", "auth": "AAAA"}),
            json!({"auth": "AAAA"}),
            json!({"nocturne": {"v": 1, "p256dh": "AAAA", "auth": "AAAA"}}),
            json!({"default_payload": {"nocturne": {"v": 2}}}),
        ] {
            for mode in ALL_MODES {
                let sent = clear(mode, &dummy(), data.clone());
                assert_eq!(sent, r#"{"notification":{}}"#, "{data}");
            }
            assert!(clear(PayloadMode::Opaque, &push_test(), data).contains("FAKE_EVENT_ID"));
        }
    }

    #[test]
    fn events_only_suppresses_counts() {
        let device = device(json!({"events_only": true}));
        for mode in ALL_MODES {
            let outcome = build(&context(mode), &badge_only(), &device).map(|_| ());
            assert_eq!(outcome, Err(Outcome::Suppressed(Suppressed::CountsOnly)));
        }
    }

    #[test]
    fn what_is_too_large_loses_content_first_and_ids_last() {
        let large = "x".repeat(5000);
        let members = json!({"content": {"body": large}});
        let body = clear(PayloadMode::Sygnal, &dummy_with(&members), Value::Null);
        assert!(!body.contains("content") && body.contains("Major Tom"));
        let members = json!({"sender_display_name": large, "content": {"body": "b"}});
        let body = clear(PayloadMode::Sygnal, &dummy_with(&members), Value::Null);
        assert!(!body.contains("sender_display_name") && body.contains("event_id"));
    }

    proptest! {
        #[test]
        fn nothing_panics_and_everything_fits(
            mode in any_mode(), notification in any_notification(), device in any_device()
        ) {
            if let Ok(Payload::Clear(body)) = build(&context(mode), &notification, &device) {
                prop_assert!(body.len() <= LIMIT);
                prop_assert!(serde_json::from_slice::<Value>(&body).is_ok());
                let is_empty = body == r#"{"notification":{}}"#;
                let may_speak = mode != PayloadMode::Wake || notification.is_test();
                prop_assert!(is_empty || may_speak);
            }
        }
    }
}
