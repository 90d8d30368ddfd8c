//! Notifications for the tests of the payloads: those of Sygnal's own suite, and arbitrary ones.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use proptest::prelude::*;
use serde_json::{Value, json};
use shared::{clock::Clock, random::Random};

use crate::{
    config::{OpaqueOptions, PayloadMode},
    notification::{Device, Notification, Priority, Pushkey, TEST_EVENT_ID},
    opaque::Identifiers,
    provider::{AppContext, Counters, Shortfalls},
};

/// 2023-11-14 22:13:20 UTC
pub(in crate::provider) const NOW: u64 = 1_700_000_000;

pub(in crate::provider) const ALL_MODES: [PayloadMode; 3] =
    [PayloadMode::Sygnal, PayloadMode::Opaque, PayloadMode::Wake];

pub(in crate::provider) fn context(mode: PayloadMode) -> AppContext {
    context_with(mode, OpaqueOptions::default())
}

pub(in crate::provider) fn context_with(mode: PayloadMode, opaque: OpaqueOptions) -> AppContext {
    let clock = Clock::manual(UNIX_EPOCH + Duration::from_secs(NOW));
    let random = Random::seeded(1);
    AppContext {
        mode,
        identifiers: Arc::new(Identifiers::new(&opaque, clock.clone(), random.clone())),
        opaque,
        shortfalls: Arc::new(Shortfalls::new(
            "app".into(),
            Counters::default(),
            clock.clone(),
        )),
        clock,
        random,
    }
}

/// A notification with the members of the homeserver's JSON.
pub(in crate::provider) fn notification(json: &Value) -> Notification {
    let member = |name: &str| json.get(name).cloned().unwrap_or_default();
    let count = |name: &str| json.pointer(&format!("/counts/{name}"))?.as_i64();
    Notification {
        event_id: member("event_id"),
        room_id: member("room_id"),
        kind: member("type"),
        sender: member("sender"),
        sender_display_name: member("sender_display_name"),
        room_name: member("room_name"),
        room_alias: member("room_alias"),
        membership: member("membership"),
        user_is_target: member("user_is_target"),
        content: member("content"),
        priority: if member("prio") == "low" {
            Priority::Low
        } else {
            Priority::High
        },
        unread: count("unread"),
        missed_calls: count("missed_calls"),
    }
}

pub(in crate::provider) fn dummy_json() -> Value {
    json!({
        "event_id": "$qTOWWTEL48yPm3uT-gdNhFcoHxfKbZuqRVnnWWSkGBs",
        "type": "m.room.message",
        "sender": "@exampleuser:matrix.org",
        "sender_display_name": "Major Tom",
        "room_name": "Mission Control",
        "room_alias": "#exampleroom:matrix.org",
        "room_id": "!slw48wfj34rtnrf:example.com",
        "prio": "high",
        "content": {"msgtype": "m.text", "body": "I'm floating in a most peculiar way.", "other": 1},
        "counts": {"unread": 2, "missed_calls": 1}
    })
}

/// Sygnal's full notification with other members.
pub(in crate::provider) fn dummy_with(members: &Value) -> Notification {
    let mut json = dummy_json();
    for (name, value) in members.as_object().unwrap() {
        json[name] = value.clone();
    }
    notification(&json)
}

pub(in crate::provider) fn dummy() -> Notification {
    notification(&dummy_json())
}

pub(in crate::provider) fn event_id_only() -> Notification {
    notification(&json!({
        "room_id": "!slw48wfj34rtnrf:example.com",
        "event_id": "$qTOWWTEL48yPm3uT-gdNhFcoHxfKbZuqRVnnWWSkGBs",
        "counts": {"unread": 2}
    }))
}

pub(in crate::provider) fn badge_only() -> Notification {
    notification(&json!({"id": "", "type": null, "sender": "", "counts": {"unread": 2}}))
}

/// A client's own push test, as clients send it to the gateway.
pub(in crate::provider) fn push_test() -> Notification {
    notification(&json!({"event_id": TEST_EVENT_ID, "room_id": "!room:domain"}))
}

/// A device with the pushkey `spqr` and this `data` (null: none).
pub(in crate::provider) fn device(data: Value) -> Device {
    let data = match data {
        Value::Object(data) => Some(data),
        Value::Null => None,
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            panic!("data is an object")
        }
    };
    Device {
        app_id: "com.example.app".to_owned(),
        pushkey: Pushkey::new("spqr"),
        pushkey_ts: None,
        data,
    }
}

pub(in crate::provider) fn any_mode() -> impl Strategy<Value = PayloadMode> {
    proptest::sample::select(&ALL_MODES[..])
}

pub(crate) fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any_text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::vec((any_key(), inner), 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Texts of all lengths, with characters of all widths.
pub(in crate::provider) fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => any::<String>(),
        1 => "[a-z\"\\\\\n\u{1}é€💥]{0,40}",
        1 => ("[a-z\"\n\u{1}é€💥]{1,7}", 1..1500_usize).prop_map(|(text, count)| text.repeat(count)),
    ]
}

/// Member names, often ones that mean something.
fn any_key() -> impl Strategy<Value = String> {
    const KNOWN: [&str; 25] = [
        "content",
        "aps",
        "alert",
        "badge",
        "body",
        "loc-key",
        "loc-args",
        "title",
        "msgtype",
        "offer",
        "sdp",
        "ciphertext",
        "formatted_body",
        "room_id",
        "event_id",
        "unread",
        "from",
        "nocturne",
        "v",
        "p256dh",
        "auth",
        "data",
        "default_payload",
        "events_only",
        "only_last_per_room",
    ];
    prop_oneof![
        3 => proptest::sample::select(&KNOWN[..]).prop_map(str::to_owned),
        1 => any_text(),
    ]
}

/// Notifications of any JSON, with the types that matter drawn often.
pub(in crate::provider) fn any_notification() -> impl Strategy<Value = Notification> {
    let text_or_any = || {
        prop_oneof![
            3 => any_text().prop_map(Value::from),
            1 => Just(Value::Null),
            1 => any_value(),
        ]
    };
    let kind = prop_oneof![
        3 => proptest::sample::select(
            &["m.room.message", "m.room.encrypted", "m.call.invite", "m.room.member"][..]
        )
        .prop_map(Value::from),
        1 => Just(Value::Null),
        1 => any_value(),
    ];
    let event_id = prop_oneof![
        4 => text_or_any(),
        1 => Just(Value::from(TEST_EVENT_ID)),
    ];
    let content = prop_oneof![
        2 => any_value(),
        2 => (any_text(), any_text())
            .prop_map(|(kind, body)| json!({"msgtype": kind, "body": body})),
        1 => any_text().prop_map(|body| json!({"msgtype": "m.emote", "body": body})),
        1 => any_text().prop_map(|body| json!({"msgtype": "m.image", "body": body})),
    ];
    let names = (text_or_any(), text_or_any(), text_or_any(), text_or_any());
    (
        (event_id, text_or_any(), kind, content),
        names,
        (text_or_any(), any_value(), any::<bool>()),
        any::<(Option<i64>, Option<i64>)>(),
    )
        .prop_map(
            |(
                (event_id, room_id, kind, content),
                (sender, sender_display_name, room_name, room_alias),
                (membership, user_is_target, is_low),
                (unread, missed_calls),
            )| Notification {
                event_id,
                room_id,
                kind,
                sender,
                sender_display_name,
                room_name,
                room_alias,
                membership,
                user_is_target,
                content,
                priority: if is_low {
                    Priority::Low
                } else {
                    Priority::High
                },
                unread,
                missed_calls,
            },
        )
}

/// Devices with any `data`, `default_payload` drawn often.
pub(in crate::provider) fn any_device() -> impl Strategy<Value = Device> {
    let data = prop_oneof![
        1 => Just(Value::Null),
        1 => any_value().prop_filter("data is an object", Value::is_object),
        2 => any_value().prop_map(|value| json!({"default_payload": value})),
        2 => any_value().prop_map(|value| json!({"default_payload": {"aps": value}})),
        1 => any_value().prop_map(|value| json!({"default_payload": {"aps": {"alert": value}}})),
    ];
    data.prop_map(device)
}

/// A whole notification whose every identifying member is a text that nothing else contains.
pub(in crate::provider) fn secret_notification() -> Notification {
    notification(&json!({
        "event_id": "$SECRET-event",
        "type": "m.SECRET-type",
        "sender": "@SECRET-sender:example.org",
        "sender_display_name": "SECRET-name",
        "room_name": "SECRET-room",
        "room_alias": "#SECRET-alias",
        "room_id": "!SECRET-room-id",
        "membership": "SECRET-membership",
        "user_is_target": true,
        "prio": "low",
        "content": {"msgtype": "SECRET-msgtype", "body": "SECRET-body", "SECRET-key": "x"},
        "counts": {"unread": 987_654_321, "missed_calls": 987_654_321}
    }))
}

/// Data of a device whose every member is such a text.
pub(in crate::provider) fn secret_data() -> Value {
    json!({
        "default_payload": {"SECRET-default": "SECRET-value", "aps": {"SECRET": 1}},
        "nocturne": {"SECRET": 1}
    })
}

/// Whether something of [`secret_notification`] or [`secret_data`] is in `bytes`.
pub(in crate::provider) fn holds_secret(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    ["SECRET", "987654321"]
        .into_iter()
        .any(|secret| text.contains(secret))
}
