//! What Google is sent.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::{
    config::{self, FcmTokenKind},
    notification::{Device, Notification},
    opaque::Identifier,
    outcome::{Outcome, Suppressed},
    provider::{
        AppContext,
        payload::{
            ForDevice, Form, badge_blob, collapse_tag, default_payload, drop_members, expect_event,
            for_device, identifier, is_low,
        },
    },
    python_json,
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
///
/// In mode `sygnal` the body is Sygnal's, byte for byte, wherever Google takes that. Google answers 400 to
/// a `data` that is not a map of strings, that has a reserved name or that is too large, and Sygnal has the
/// homeserver try that again for a day. Here what `default_payload` holds besides strings becomes JSON
/// text (null: left out), reserved names are left out, and see [`fit`] for the size.
pub(super) fn build(
    options: &PayloadOptions,
    context: &AppContext,
    notification: &Notification,
    device: &Device,
) -> Result<Bytes, Outcome> {
    let mut android = Android {
        priority: if is_low(context, notification) {
            "normal"
        } else {
            "high"
        },
        ttl: Some("86400s"),
        collapse_key: None,
    };
    match Form::of(context, notification) {
        Form::Sygnal => {
            android.ttl = None;
            let data = sygnal_data(options, context, notification, device)?;
            let message = message(options, &android, data, device);
            Ok(python_json::to_ascii(&message).into())
        }
        Form::Test(notification) => {
            let data = sygnal_data(options, context, &notification, device)?;
            let message = message(options, &android, data, device);
            Ok(python_json::to_ascii(&message).into())
        }
        Form::Opaque if notification.event_id().is_none() => {
            let n = context.identifiers.random();
            let blob = badge_blob(context, notification, device, n)?;
            android.priority = "normal";
            let data = opaque_data(n, ForDevice::Blob(blob));
            Ok(compact(&message(options, &android, data, device)))
        }
        Form::Opaque => {
            let n = identifier(context, notification, device);
            let data = opaque_data(n, for_device(context, notification, device, n));
            android.collapse_key = collapse_tag(context, notification, device);
            Ok(compact(&message(options, &android, data, device)))
        }
        Form::Wake => {
            expect_event(notification)?;
            android.collapse_key = Some("wake".to_owned());
            Ok(compact(&message(options, &android, Map::new(), device)))
        }
    }
}

/// `n`, and what is for a device with keys.
fn opaque_data(n: Identifier, for_device: ForDevice) -> Map<String, Value> {
    let members = match for_device {
        ForDevice::Nothing => [None, None],
        ForDevice::Tags { room, event } => {
            [room.map(|tag| ("r", tag)), event.map(|tag| ("e", tag))]
        }
        ForDevice::Blob(blob) => [Some(("p", blob)), None],
    };
    std::iter::once(("n", n.to_base64url()))
        .chain(members.into_iter().flatten())
        .map(|(name, text)| (name.to_owned(), Value::String(text)))
        .collect()
}

/// What the gateway puts into `message.android`.
struct Android {
    priority: &'static str,
    /// Gives way to the operator's own in `fcm_options`.
    ttl: Option<&'static str>,
    collapse_key: Option<String>,
}

/// `fcm_options` as the base, and over it what the gateway says.
fn message(
    options: &PayloadOptions,
    ours: &Android,
    data: Map<String, Value>,
    device: &Device,
) -> Value {
    let pushkey = device.pushkey.expose();
    let target = match options.token_kind {
        FcmTokenKind::Auto if is_installation_id(pushkey) => "fid",
        FcmTokenKind::Auto | FcmTokenKind::Token => "token",
        FcmTokenKind::Fid => "fid",
    };

    let mut message = options.fcm_options.clone();
    message.insert("data".to_owned(), Value::Object(data));
    let android = message.entry("android").or_insert(Value::Null);
    let mut members = match android.take() {
        Value::Object(members) => members,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Map::new()
        }
    };
    members.insert("priority".to_owned(), ours.priority.into());
    if let Some(ttl) = ours.ttl {
        members.entry("ttl").or_insert_with(|| ttl.into());
    }
    if let Some(collapse_key) = &ours.collapse_key {
        members.insert("collapse_key".to_owned(), collapse_key.as_str().into());
    }
    *android = Value::Object(members);
    message.insert(target.to_owned(), pushkey.into());
    Value::Object(Map::from_iter([("message".to_owned(), message.into())]))
}

/// The form of a Firebase installation ID: 22 characters of URL-safe base64. A registration token is longer.
fn is_installation_id(pushkey: &str) -> bool {
    pushkey.len() == 22
        && pushkey
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

fn compact(message: &Value) -> Bytes {
    message.to_string().into()
}

fn sygnal_data(
    options: &PayloadOptions,
    context: &AppContext,
    notification: &Notification,
    device: &Device,
) -> Result<Map<String, Value>, Outcome> {
    let default_payload = default_payload(device)?;
    let counts = [
        ("unread", notification.unread),
        ("missed_calls", notification.missed_calls),
    ]
    .map(|(name, count)| {
        let count = count.filter(|count| options.send_badge_counts && *count != 0);
        (name, count)
    });
    let has_counts = counts.iter().any(|(_, count)| count.is_some());
    if notification.room_id().is_none() && notification.event_id().is_none() && !has_counts {
        return Err(Outcome::Suppressed(Suppressed::Empty));
    }

    let mut data: Map<String, Value> = default_payload
        .into_iter()
        .filter(|(name, _)| !is_reserved(name))
        .filter_map(|(name, value)| Some((name, stringify(value)?)))
        .collect();
    for (name, value) in [
        ("event_id", &notification.event_id),
        ("type", &notification.kind),
        ("sender", &notification.sender),
        ("room_name", &notification.room_name),
        ("room_alias", &notification.room_alias),
        ("membership", &notification.membership),
        ("sender_display_name", &notification.sender_display_name),
        ("content", &notification.content),
        ("room_id", &notification.room_id),
    ] {
        if let Some(text) = value.as_str() {
            data.insert(name.to_owned(), shorten(text).into());
        }
    }
    if let Some(content) = notification.content.as_object() {
        data.shift_remove("content");
        for (name, value) in content.iter().take(MOST_MEMBERS) {
            if let Some(text) = value.as_str() {
                data.insert(format!("{CONTENT}{name}"), shorten(text).into());
            }
        }
    }
    let prio = if is_low(context, notification) {
        "normal"
    } else {
        "high"
    };
    data.insert("prio".to_owned(), prio.into());
    for (name, count) in counts {
        if let Some(count) = count {
            data.insert(name.to_owned(), count.to_string().into());
        }
    }
    fit(&mut data);
    Ok(data)
}

/// The prefix of what was in `content`.
const CONTENT: &str = "content_";

/// As many members of `content` do not fit into [`LIMIT`] with their prefixes alone, so what comes after
/// them is not looked at: there may be tens of thousands, for each of thousands of devices.
const MOST_MEMBERS: usize = LIMIT / CONTENT.len();

/// Google's limit of `data`, names and values together.
const LIMIT: usize = 4096;

/// Names that Google does not allow in `data`.
fn is_reserved(name: &str) -> bool {
    matches!(name, "from" | "message_type")
        || name.starts_with("google.")
        || name.starts_with("gcm.")
}

/// A string as it is, null as nothing, all else as JSON text.
fn stringify(value: Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::String(_) => Some(value),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            Some(value.to_string().into())
        }
    }
}

/// Sygnal's limit of one text: 1024 bytes, the last character of a longer one being an ellipsis.
fn shorten(text: &str) -> Cow<'_, str> {
    const LIMIT: usize = 1024;
    const ELLIPSIS: char = '…';

    if text.len() <= LIMIT {
        return text.into();
    }
    let end = text.floor_char_boundary(LIMIT - ELLIPSIS.len_utf8());
    format!("{}{ELLIPSIS}", &text[..end]).into()
}

/// Drops members until names and values together have at most [`LIMIT`] bytes.
///
/// The least missed go first: `content_formatted_body`; then all else of `content` but its text and type;
/// then the rest, whatever is largest. `event_id`, `room_id`, `type`, `prio` and the counts stay: they
/// always fit.
fn fit(data: &mut Map<String, Value>) {
    let size = |name: &str, value: &Value| name.len() + value.as_str().map_or(0, str::len);
    let total: usize = data.iter().map(|(name, value)| size(name, value)).sum();
    let excess = total.saturating_sub(LIMIT);
    if excess > 0 {
        drop_members(data, excess, size, |name| match name {
            "event_id" | "room_id" | "type" | "prio" | "unread" | "missed_calls" => None,
            "content_formatted_body" => Some(0),
            "content_body" | "content_msgtype" => Some(2),
            name if name.starts_with(CONTENT) => Some(1),
            _ => Some(2),
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::{
        config::{Collapse, OpaqueOptions, PayloadMode},
        notification::Pushkey,
        outcome::Rejected,
        provider::payload::fixtures::{
            self, ALL_MODES, any_device, any_mode, any_notification, badge_only, context,
            context_with, device, dummy, dummy_json, dummy_with, event_id_only, holds_secret,
            push_test,
        },
    };

    fn plain() -> PayloadOptions {
        PayloadOptions {
            fcm_options: Map::new(),
            token_kind: FcmTokenKind::Auto,
            send_badge_counts: true,
        }
    }

    fn without_badges() -> PayloadOptions {
        PayloadOptions {
            send_badge_counts: false,
            ..plain()
        }
    }

    fn with_options(fcm_options: &Value) -> PayloadOptions {
        PayloadOptions {
            fcm_options: fcm_options.as_object().unwrap().clone(),
            ..plain()
        }
    }

    fn sygnal_with(
        options: &PayloadOptions,
        notification: &Notification,
        data: Value,
    ) -> Result<String, Outcome> {
        let context = context(PayloadMode::Sygnal);
        let body = build(options, &context, notification, &device(data))?;
        Ok(String::from_utf8(body.to_vec()).unwrap())
    }

    fn data_of(body: &[u8]) -> Value {
        serde_json::from_slice::<Value>(body).unwrap()["message"]["data"].clone()
    }

    /// `message.data` in mode `sygnal`.
    fn data(notification: &Notification, device_data: Value) -> Value {
        data_of(
            sygnal_with(&plain(), notification, device_data)
                .unwrap()
                .as_bytes(),
        )
    }

    #[test]
    fn of_a_content_that_can_never_fit_only_the_beginning_is_looked_at() {
        for (count, is_sent) in [(100, true), (20_000, false)] {
            let members: Map<_, _> = (1000..1000 + count)
                .map(|number| (number.to_string(), "".into()))
                .chain([("z".to_owned(), "".into())])
                .collect();
            let data = data(&dummy_with(&json!({"content": members})), json!({}));
            assert_eq!(data["content_z"].is_string(), is_sent, "{count}");
        }
    }

    #[test]
    fn a_full_notification_becomes_sygnals_bytes() {
        let options = with_options(&json!({
            "android": {"notification": {"body": {"test body": ""}}},
            "apns": {"payload": {"aps": {"content-available": 1}}}
        }));
        assert_eq!(
            sygnal_with(&options, &dummy(), Value::Null).unwrap(),
            r##"{"message": {"android": {"notification": {"body": {"test body": ""}}, "priority": "high"}, "apns": {"payload": {"aps": {"content-available": 1}}}, "data": {"event_id": "$qTOWWTEL48yPm3uT-gdNhFcoHxfKbZuqRVnnWWSkGBs", "type": "m.room.message", "sender": "@exampleuser:matrix.org", "room_name": "Mission Control", "room_alias": "#exampleroom:matrix.org", "sender_display_name": "Major Tom", "room_id": "!slw48wfj34rtnrf:example.com", "content_msgtype": "m.text", "content_body": "I'm floating in a most peculiar way.", "prio": "high", "unread": "2", "missed_calls": "1"}, "token": "spqr"}}"##
        );
    }

    #[test]
    fn non_ascii_is_escaped_as_in_python() {
        let body = sygnal_with(
            &plain(),
            &dummy_with(&json!({"room_name": "é💥"})),
            Value::Null,
        );
        assert!(
            body.unwrap()
                .contains(r#""room_name": "\u00e9\ud83d\udca5""#)
        );
    }

    #[test]
    fn without_badge_counts_event_id_only_is_this_alone() {
        assert_eq!(
            sygnal_with(&without_badges(), &event_id_only(), Value::Null).unwrap(),
            r#"{"message": {"data": {"event_id": "$qTOWWTEL48yPm3uT-gdNhFcoHxfKbZuqRVnnWWSkGBs", "room_id": "!slw48wfj34rtnrf:example.com", "prio": "high"}, "android": {"priority": "high"}, "token": "spqr"}}"#
        );
        let full = sygnal_with(&without_badges(), &dummy(), Value::Null).unwrap();
        assert!(!full.contains("unread") && !full.contains("missed_calls"));
    }

    #[test]
    fn a_push_of_counts_alone_is_sent_when_there_are_some() {
        assert_eq!(
            data(&badge_only(), Value::Null),
            json!({"sender": "", "prio": "high", "unread": "2"})
        );
        let empty = Err(Outcome::Suppressed(Suppressed::Empty));
        assert_eq!(
            sygnal_with(&without_badges(), &badge_only(), Value::Null),
            empty
        );
        let zero = fixtures::notification(&json!({"counts": {"unread": 0}}));
        assert_eq!(sygnal_with(&plain(), &zero, Value::Null), empty);
    }

    #[test]
    fn a_default_payload_becomes_strings() {
        let default = json!({"default_payload": {
            "aps": {"mutable-content": 1, "alert": {"loc-args": []}},
            "text": "t", "number": 1.50, "flag": true, "none": null,
            "from": "x", "message_type": "x", "google.x": "x", "gcm.x": "x", "nocturne": {"v": 1}
        }});
        let mut expected = json!({
            "aps": r#"{"mutable-content":1,"alert":{"loc-args":[]}}"#,
            "text": "t", "number": "1.5", "flag": "true"
        });
        for (name, value) in data(&event_id_only(), Value::Null).as_object().unwrap() {
            expected[name] = value.clone();
        }
        assert_eq!(data(&event_id_only(), default), expected);
    }

    #[test]
    fn a_default_payload_that_is_no_object_rejects_the_pushkey() {
        assert_eq!(
            sygnal_with(&plain(), &dummy(), json!({"default_payload": null})),
            Err(Outcome::Rejected(Rejected::InvalidData))
        );
    }

    #[test]
    fn large_fields_are_cut_as_in_sygnals_own_test() {
        let room = "x".repeat(2050);
        let other = format!("{}ß💥{}", "y".repeat(1018), "z".repeat(400));
        let large = dummy_with(&json!({
            "room_name": room,
            "content": {"msgtype": "m.text", "body": "short", "other": other}
        }));
        let data = data(&large, Value::Null);
        assert_eq!(data["room_name"], format!("{}…", "x".repeat(1021)));
        assert_eq!(data["content_other"], format!("{}ß…", "y".repeat(1018)));
        assert_eq!(data["content_body"], "short");
        assert_eq!(shorten(&"x".repeat(1024)), "x".repeat(1024));
    }

    #[test]
    fn members_of_wrong_types_are_left_out() {
        let wrong = dummy_with(&json!({
            "room_name": 5, "sender": null, "content": ["x"], "room_alias": {"a": 1}
        }));
        let sent = data(&wrong, Value::Null);
        for name in ["room_name", "sender", "content", "room_alias"] {
            assert_eq!(sent[name], Value::Null, "{name}");
        }
        let text = data(&dummy_with(&json!({"content": "text"})), Value::Null);
        assert_eq!(text["content"], "text");
    }

    #[test]
    fn low_priority_is_called_normal() {
        let low = sygnal_with(&plain(), &dummy_with(&json!({"prio": "low"})), Value::Null).unwrap();
        assert!(low.contains(r#""prio": "normal""#));
        assert!(low.contains(r#""android": {"priority": "normal"}"#));
    }

    #[test]
    fn too_much_data_loses_the_least_missed_first() {
        let long = "x".repeat(1024);
        let content = json!({
            "msgtype": "m.text", "body": long, "formatted_body": long, "a": long, "b": "short"
        });
        let notification = dummy_with(&json!({"content": content, "room_name": long}));
        let one_too_many = data(&notification, Value::Null);
        let names: Vec<_> = one_too_many.as_object().unwrap().keys().collect();
        assert!(!names.contains(&&"content_formatted_body".to_owned()));
        assert!(names.contains(&&"content_a".to_owned()));

        let device_data = json!({"default_payload": {"d": "x".repeat(1000)}});
        let two_too_many = data(&notification, device_data);
        assert_eq!(two_too_many["content_a"], Value::Null);
        assert_eq!(two_too_many["content_body"], long);

        let device_data = json!({"default_payload": {"d": "x".repeat(5000), "cs": "secret"}});
        let hopeless = data(&dummy(), device_data);
        assert_eq!(hopeless["d"], Value::Null);
        assert_eq!(hopeless["cs"], "secret");
        assert!(hopeless["content_body"].is_string());
        assert_eq!(hopeless["event_id"], dummy_json()["event_id"]);
    }

    #[test]
    fn the_target_is_told_by_the_form_of_the_pushkey() {
        let target = |token_kind, pushkey: &str| {
            let options = PayloadOptions {
                token_kind,
                ..plain()
            };
            let mut device = device(Value::Null);
            device.pushkey = Pushkey::new(pushkey);
            let body = build(&options, &context(PayloadMode::Opaque), &dummy(), &device).unwrap();
            let body: Value = serde_json::from_slice(&body).unwrap();
            let names: Vec<_> = ["token", "fid"]
                .into_iter()
                .filter(|name| body["message"][name] == pushkey)
                .collect();
            names.join(",")
        };
        let fid = "cAbCdEfGhIjKlMnOpQ-_12";
        assert_eq!(target(FcmTokenKind::Auto, fid), "fid");
        assert_eq!(
            target(FcmTokenKind::Auto, "cAbCdEfGhIjKlMnOpQ:_12"),
            "token"
        );
        assert_eq!(target(FcmTokenKind::Auto, "short"), "token");
        assert_eq!(target(FcmTokenKind::Token, fid), "token");
        assert_eq!(target(FcmTokenKind::Fid, "short"), "fid");
    }

    #[test]
    fn opaque_is_an_identifier() {
        let context = context(PayloadMode::Opaque);
        let device = device(Value::Null);
        let n = identifier(&context, &dummy(), &device).to_base64url();
        assert_eq!(
            build(&plain(), &context, &dummy(), &device).unwrap(),
            format!(
                r#"{{"message":{{"data":{{"n":"{n}"}},"android":{{"priority":"high","ttl":"86400s"}},"token":"spqr"}}}}"#
            )
        );
    }

    #[test]
    fn opaque_options_show() {
        let opaque = OpaqueOptions {
            collapse: Collapse::Room,
            low_priority: true,
            ..OpaqueOptions::default()
        };
        let context = context_with(PayloadMode::Opaque, opaque);
        let options = with_options(&json!({"android": {"ttl": "60s", "x": 1}, "data": {"y": 1}}));
        let low = dummy_with(&json!({"prio": "low"}));
        let body = build(&options, &context, &low, &device(Value::Null)).unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        let tag = context
            .identifiers
            .collapse_tag("spqr", low.room_id().unwrap());
        assert_eq!(
            body["message"]["android"],
            json!({"ttl": "60s", "x": 1, "priority": "normal", "collapse_key": tag})
        );
        assert_eq!(body["message"]["data"].as_object().unwrap().len(), 1);
    }

    #[test]
    fn wake_is_the_same_for_every_push() {
        let context = context(PayloadMode::Wake);
        for notification in [
            dummy(),
            event_id_only(),
            dummy_with(&json!({"prio": "low"})),
        ] {
            assert_eq!(
                build(&plain(), &context, &notification, &device(Value::Null)).unwrap(),
                r#"{"message":{"data":{},"android":{"priority":"high","ttl":"86400s","collapse_key":"wake"},"token":"spqr"}}"#
            );
        }
    }

    #[test]
    fn counts_alone_are_not_sent_in_opaque_and_wake() {
        for mode in [PayloadMode::Opaque, PayloadMode::Wake] {
            assert_eq!(
                build(
                    &plain(),
                    &context(mode),
                    &badge_only(),
                    &device(Value::Null)
                ),
                Err(Outcome::Suppressed(Suppressed::CountsOnly))
            );
        }
    }

    #[test]
    fn the_push_test_of_a_client_has_sygnals_form_in_every_mode() {
        for mode in ALL_MODES {
            let data = json!({"default_payload": {"cs": "secret"}});
            let body = build(&plain(), &context(mode), &push_test(), &device(data)).unwrap();
            assert_eq!(
                data_of(&body),
                json!({
                    "cs": "secret", "event_id": "$THIS_IS_A_FAKE_EVENT_ID",
                    "room_id": "!room:domain", "prio": "high"
                })
            );
        }
    }

    #[test]
    fn nothing_of_the_notification_is_in_opaque_and_wake() {
        for mode in [PayloadMode::Opaque, PayloadMode::Wake] {
            let device = device(fixtures::secret_data());
            let notification = fixtures::secret_notification();
            let body = build(&plain(), &context(mode), &notification, &device).unwrap();
            assert!(!holds_secret(&body));
        }
    }

    proptest! {
        #[test]
        fn nothing_panics_and_data_is_a_small_map_of_strings(
            mode in any_mode(),
            notification in any_notification(),
            device in any_device(),
            send_badge_counts: bool,
        ) {
            let options = PayloadOptions { send_badge_counts, ..plain() };
            if let Ok(body) = build(&options, &context(mode), &notification, &device) {
                let data = data_of(&body);
                let sizes = data.as_object().unwrap().iter().map(|(name, value)| {
                    name.len() + value.as_str().expect("all values are strings").len()
                });
                prop_assert!(sizes.sum::<usize>() <= 4096);
            }
        }

        #[test]
        fn whatever_the_homeserver_sends_opaque_and_wake_are_constant_but_for_n(
            mut notification in any_notification(),
            event_id in "\\$.{0,40}",
            device in any_device(),
        ) {
            notification.event_id = event_id.into();
            let opaque_context = context(PayloadMode::Opaque);
            let opaque = build(&plain(), &opaque_context, &notification, &device).unwrap();
            let n = identifier(&opaque_context, &notification, &device).to_base64url();
            let expected = format!(
                r#"{{"message":{{"data":{{"n":"{n}"}},"android":{{"priority":"high","ttl":"86400s"}},"token":"spqr"}}}}"#
            );
            prop_assert_eq!(opaque, expected);

            let wake = build(&plain(), &context(PayloadMode::Wake), &notification, &device).unwrap();
            prop_assert_eq!(
                wake,
                r#"{"message":{"data":{},"android":{"priority":"high","ttl":"86400s","collapse_key":"wake"},"token":"spqr"}}"#.to_owned()
            );
        }
    }
}
