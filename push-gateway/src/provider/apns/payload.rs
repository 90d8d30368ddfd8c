//! What Apple is sent.

mod truncate;

use std::fmt;

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Number, Value};

use crate::{
    config::{self, ApnsPushType},
    notification::{Device, Notification},
    opaque::Identifier,
    outcome::{Outcome, Suppressed},
    provider::{
        AppContext,
        payload::{
            ForDevice, Form, badge_blob, collapse_tag, default_payload, expect_event, for_device,
            identifier, is_low, is_truthy, non_empty,
        },
    },
};

/// Bytes that Sygnal lets a body have. Apple allows 5120 for `voip`; Sygnal's limit holds there, too.
const LIMIT: usize = 4096;

/// `apns-priority`: at once.
const HIGH: u8 = 10;

/// `apns-priority`: when it suits the device's battery.
const LOW: u8 = 5;

/// What the payload depends on in an app's `type: apns`.
#[derive(Clone, Copy, Debug)]
pub(super) struct PayloadOptions {
    /// `push_type`
    pub(super) push_type: Option<ApnsPushType>,
    /// `send_badge_counts`
    pub(super) send_badge_counts: bool,
}

/// The body and the headers that depend on it.
#[derive(Clone)]
pub(super) struct Payload {
    /// JSON, at most 4096 bytes.
    pub(super) body: Bytes,
    /// `apns-priority`
    pub(super) priority: u8,
    /// `apns-push-type`; none: no header
    pub(super) push_type: Option<ApnsPushType>,
    /// `apns-expiration`, seconds since 1970; none: no header
    pub(super) expiration: Option<u64>,
    /// `apns-collapse-id`; none: no header
    pub(super) collapse_id: Option<String>,
    /// `apns-id`, a UUID; none: a new random one for each attempt
    pub(super) id: Option<String>,
}

impl From<&config::Apns> for PayloadOptions {
    fn from(config: &config::Apns) -> Self {
        Self {
            push_type: config.push_type,
            send_badge_counts: config.send_badge_counts,
        }
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Payload([hidden])")
    }
}

/// Makes the payload for one device.
///
/// In mode `sygnal` the body is Sygnal's, byte for byte, wherever Sygnal sends one. Where it answers 500
/// this sends what comes nearest: a member of the wrong type counts as absent, an `aps` or `aps.alert`
/// that is not an object is replaced, and what cannot be shortened enough is dropped (see [`truncate`]).
pub(super) fn build(
    options: PayloadOptions,
    context: &AppContext,
    notification: &Notification,
    device: &Device,
) -> Result<Payload, Outcome> {
    let priority = if is_low(context, notification) {
        LOW
    } else {
        HIGH
    };
    match Form::of(context, notification) {
        Form::Sygnal => Ok(Payload {
            body: sygnal_body(options, notification, device)?,
            // Apple refuses a background push with a high priority.
            priority: match options.push_type {
                Some(ApnsPushType::Background) => LOW,
                Some(
                    ApnsPushType::Alert
                    | ApnsPushType::Voip
                    | ApnsPushType::Complication
                    | ApnsPushType::FileProvider
                    | ApnsPushType::Mdm,
                )
                | None => priority,
            },
            push_type: options.push_type,
            expiration: None,
            collapse_id: None,
            id: None,
        }),
        Form::Test(notification) => Ok(Payload {
            body: sygnal_body(options, &notification, device)?,
            priority,
            push_type: Some(ApnsPushType::Alert),
            expiration: Some(expiration(context)),
            collapse_id: None,
            id: None,
        }),
        Form::Opaque if notification.event_id().is_none() => {
            let identifier = context.identifiers.random();
            let blob = badge_blob(context, notification, device, identifier)?;
            Ok(Payload {
                body: badge_body(identifier, &blob),
                // Apple refuses a background push with a high priority.
                priority: LOW,
                push_type: Some(ApnsPushType::Background),
                expiration: Some(expiration(context)),
                collapse_id: None,
                id: Some(identifier.to_uuid()),
            })
        }
        Form::Opaque => {
            let identifier = identifier(context, notification, device);
            let for_device = for_device(context, notification, device, identifier);
            Ok(Payload {
                body: opaque_body(context, Some((identifier, for_device))),
                priority,
                push_type: Some(ApnsPushType::Alert),
                expiration: Some(expiration(context)),
                collapse_id: collapse_tag(context, notification, device),
                id: Some(identifier.to_uuid()),
            })
        }
        Form::Wake => {
            expect_event(notification)?;
            Ok(Payload {
                body: opaque_body(context, None),
                priority,
                push_type: Some(ApnsPushType::Alert),
                expiration: Some(expiration(context)),
                collapse_id: Some("wake".to_owned()),
                id: Some(context.identifiers.random().to_uuid()),
            })
        }
    }
}

/// The members beside `aps`: `n`, and what is for a device with keys.
#[derive(Default, Serialize)]
struct Beside {
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p: Option<String>,
}

impl Beside {
    fn new(n: Identifier, for_device: ForDevice) -> Self {
        let only_n = Self {
            n: Some(n.to_base64url()),
            ..Self::default()
        };
        match for_device {
            ForDevice::Nothing => only_n,
            ForDevice::Tags { room, event } => Self {
                r: room,
                e: event,
                ..only_n
            },
            ForDevice::Blob(blob) => Self {
                p: Some(blob),
                ..only_n
            },
        }
    }
}

/// A silent push of a badge: `{"aps":{"content-available":1},"n":…,"p":…}`.
fn badge_body(n: Identifier, blob: &str) -> Bytes {
    let n = n.to_base64url();
    format!(r#"{{"aps":{{"content-available":1}},"n":"{n}","p":"{blob}"}}"#).into()
}

/// The body of modes `opaque` and `wake`: `{"aps":{"alert":{"loc-key":L},"mutable-content":1},"n":…}`.
fn opaque_body(context: &AppContext, for_device: Option<(Identifier, ForDevice)>) -> Bytes {
    #[derive(Serialize)]
    struct Body<'a> {
        aps: Aps<'a>,
        #[serde(flatten)]
        beside: Beside,
    }

    #[derive(Serialize)]
    #[serde(rename_all = "kebab-case")]
    struct Aps<'a> {
        alert: Alert<'a>,
        mutable_content: u8,
        #[serde(skip_serializing_if = "Option::is_none")]
        sound: Option<&'a str>,
    }

    #[derive(Serialize)]
    #[serde(rename_all = "kebab-case")]
    struct Alert<'a> {
        loc_key: &'a str,
    }

    let body = Body {
        aps: Aps {
            alert: Alert {
                loc_key: &context.opaque.alert_loc_key,
            },
            mutable_content: 1,
            sound: context.opaque.sound.as_deref(),
        },
        beside: for_device
            .map(|(n, for_device)| Beside::new(n, for_device))
            .unwrap_or_default(),
    };
    serde_json::to_vec(&body)
        .expect("strings and numbers are JSON")
        .into()
}

/// The next full hour and a day: it tells Apple nothing about the minute of the event.
fn expiration(context: &AppContext) -> u64 {
    const HOUR: u64 = 60 * 60;
    let next_hour = (context.clock.unix_seconds() / HOUR + 1) * HOUR;
    next_hour + 24 * HOUR
}

fn sygnal_body(
    options: PayloadOptions,
    notification: &Notification,
    device: &Device,
) -> Result<Bytes, Outcome> {
    let default_payload = default_payload(device)?;
    let payload = match (notification.event_id(), non_empty(&notification.kind)) {
        (Some(event_id), None) => {
            event_id_only_payload(options, notification, event_id, default_payload)
        }
        (_, kind) => full_payload(options, notification, kind, default_payload)
            .ok_or(Outcome::Suppressed(Suppressed::Empty))?,
    };
    Ok(truncate::encode(payload, LIMIT).into())
}

/// Sygnal's payload when there is an event but no type: `aps` is the client's own, from `default_payload`.
fn event_id_only_payload(
    options: PayloadOptions,
    notification: &Notification,
    event_id: &str,
    default_payload: Map<String, Value>,
) -> Map<String, Value> {
    let mut payload = default_payload;
    if let Some(room_id) = notification.room_id() {
        payload.insert("room_id".to_owned(), room_id.into());
    }
    payload.insert("event_id".to_owned(), event_id.into());
    if options.send_badge_counts {
        if let Some(unread) = notification.unread {
            payload.insert("unread_count".to_owned(), unread.into());
        }
        if let Some(missed_calls) = notification.missed_calls {
            payload.insert("missed_calls".to_owned(), missed_calls.into());
        }
    }
    payload
}

/// Sygnal's payload for all else; `None` when there is neither an alert nor a badge to send.
fn full_payload(
    options: PayloadOptions,
    notification: &Notification,
    kind: Option<&str>,
    default_payload: Map<String, Value>,
) -> Option<Map<String, Value>> {
    let alert = kind.and_then(|kind| alert(notification, kind));
    let badge = badge(options, notification);
    if alert.is_none() && badge.is_none() {
        return None;
    }

    let has_alert = alert.is_some();
    let mut payload = match kind {
        Some(_) => default_payload,
        None => Map::new(),
    };
    let aps = object_entry(&mut payload, "aps");
    if let Some((loc_key, loc_args)) = alert {
        let alert = object_entry(aps, "alert");
        alert.insert("loc-key".to_owned(), loc_key.into());
        // No text that is longer than the whole body keeps more than this; a longer copy is wasted time.
        let loc_args = loc_args.iter().map(|text| start_of(text, LIMIT)).collect();
        alert.insert("loc-args".to_owned(), loc_args);
    }
    if let Some(badge) = badge {
        aps.insert("badge".to_owned(), badge);
    }
    if has_alert {
        for (name, id) in [
            ("room_id", notification.room_id()),
            ("event_id", notification.event_id()),
        ] {
            if let Some(id) = id {
                payload.insert(name.to_owned(), id.into());
            }
        }
    }
    Some(payload)
}

/// The member as an object; what is not one is replaced.
fn object_entry<'a>(members: &'a mut Map<String, Value>, name: &str) -> &'a mut Map<String, Value> {
    let value = members.entry(name).or_insert(Value::Null);
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value
        .as_object_mut()
        .expect("what is not an object has just been replaced")
}

/// Sygnal's `loc-key` and `loc-args` by the event's type.
fn alert<'a>(notification: &'a Notification, kind: &str) -> Option<(&'static str, Vec<&'a str>)> {
    let sender = sender(notification);
    let room = non_empty(&notification.room_name)
        .or_else(|| non_empty(&notification.room_alias))
        .map(shorten_name);
    let alert = match kind {
        "m.room.message" | "m.room.encrypted" => message_alert(&notification.content, sender, room),
        "m.call.invite" => {
            let sdp = notification.content.pointer("/offer/sdp");
            let has_video = sdp
                .and_then(Value::as_str)
                .is_some_and(|sdp| sdp.contains("m=video"));
            if has_video {
                ("VIDEO_CALL_FROM_USER", vec![sender])
            } else {
                ("VOICE_CALL_FROM_USER", vec![sender])
            }
        }
        "m.room.member" => {
            let is_invite = is_truthy(&notification.user_is_target)
                && notification.membership.as_str() == Some("invite");
            match room {
                _ if !is_invite => return None,
                Some(room) => ("USER_INVITE_TO_NAMED_ROOM", vec![sender, room]),
                None => ("USER_INVITE_TO_CHAT", vec![sender]),
            }
        }
        _ => ("MSG_FROM_USER", vec![sender]),
    };
    Some(alert)
}

fn message_alert<'a>(
    content: &'a Value,
    sender: &'a str,
    room: Option<&'a str>,
) -> (&'static str, Vec<&'a str>) {
    enum Content<'a> {
        Image(&'a str),
        Text(&'a str),
        Action(&'a str),
        None,
    }

    let body = content.get("body").and_then(Value::as_str);
    let content = match (content.get("msgtype"), body) {
        (Some(kind), Some(body)) if kind == "m.image" => Content::Image(body),
        (Some(_), None | Some("")) | (None, _) => Content::None,
        (Some(kind), Some(body)) if kind == "m.emote" => Content::Action(body),
        (Some(_), Some(body)) => Content::Text(body),
    };
    match (room, content) {
        (Some(room), Content::Image(body)) => ("IMAGE_FROM_USER_IN_ROOM", vec![sender, body, room]),
        (Some(room), Content::Text(body)) => (
            "MSG_FROM_USER_IN_ROOM_WITH_CONTENT",
            vec![sender, room, body],
        ),
        (Some(room), Content::Action(body)) => {
            ("ACTION_FROM_USER_IN_ROOM", vec![room, sender, body])
        }
        (Some(room), Content::None) => ("MSG_FROM_USER_IN_ROOM", vec![sender, room]),
        (None, Content::Image(body)) => ("IMAGE_FROM_USER", vec![sender, body]),
        (None, Content::Text(body)) => ("MSG_FROM_USER_WITH_CONTENT", vec![sender, body]),
        (None, Content::Action(body)) => ("ACTION_FROM_USER", vec![sender, body]),
        (None, Content::None) => ("MSG_FROM_USER", vec![sender]),
    }
}

/// The display name unless it is absent, else the sender; a space when both are empty.
fn sender(notification: &Notification) -> &str {
    let name = notification.sender_display_name.as_str();
    let sender = notification.sender.as_str();
    if name.unwrap_or("").is_empty() && sender.unwrap_or("").is_empty() {
        return " ";
    }
    shorten_name(name.or(sender).unwrap_or(" "))
}

/// Sygnal's limit of names: 1024 characters.
fn shorten_name(name: &str) -> &str {
    match name.char_indices().nth(1024) {
        Some((end, _)) => &name[..end],
        None => name,
    }
}

fn start_of(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

fn badge(options: PayloadOptions, notification: &Notification) -> Option<Value> {
    let counts = [notification.unread, notification.missed_calls];
    if !options.send_badge_counts || counts == [None, None] {
        return None;
    }
    let sum: i128 = counts.into_iter().flatten().map(i128::from).sum();
    Number::from_i128(sum).map(Value::Number)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::{
        config::{Collapse, OpaqueOptions, PayloadMode},
        outcome::Rejected,
        provider::payload::fixtures::{
            self, ALL_MODES, any_device, any_mode, any_notification, any_text, badge_only, context,
            context_with, device, dummy, dummy_with, event_id_only, holds_secret, push_test,
        },
        python_json,
    };

    const PLAIN: PayloadOptions = PayloadOptions {
        push_type: None,
        send_badge_counts: true,
    };

    const WITHOUT_BADGES: PayloadOptions = PayloadOptions {
        push_type: None,
        send_badge_counts: false,
    };

    fn sygnal(notification: &Notification, data: Value) -> Result<String, Outcome> {
        sygnal_with(PLAIN, notification, data)
    }

    fn sygnal_with(
        options: PayloadOptions,
        notification: &Notification,
        data: Value,
    ) -> Result<String, Outcome> {
        let context = context(PayloadMode::Sygnal);
        let payload = build(options, &context, notification, &device(data))?;
        Ok(String::from_utf8(payload.body.to_vec()).unwrap())
    }

    fn default_aps() -> Value {
        json!({"default_payload": {"aps": {
            "mutable-content": 1,
            "alert": {"loc-key": "SINGLE_UNREAD", "loc-args": []}
        }}})
    }

    fn loc(members: &Value) -> Value {
        let body = sygnal(&dummy_with(members), Value::Null).unwrap();
        let body: Value = serde_json::from_str(&body).unwrap();
        body["aps"]["alert"].clone()
    }

    #[test]
    fn a_full_notification_becomes_sygnals_bytes() {
        assert_eq!(
            sygnal(&dummy(), json!({})).unwrap(),
            r#"{"aps": {"alert": {"loc-key": "MSG_FROM_USER_IN_ROOM_WITH_CONTENT", "loc-args": ["Major Tom", "Mission Control", "I'm floating in a most peculiar way."]}, "badge": 3}, "room_id": "!slw48wfj34rtnrf:example.com", "event_id": "$qTOWWTEL48yPm3uT-gdNhFcoHxfKbZuqRVnnWWSkGBs"}"#
        );
    }

    #[test]
    fn event_id_only_adds_to_the_default_payload() {
        assert_eq!(
            sygnal(&event_id_only(), default_aps()).unwrap(),
            r#"{"aps": {"mutable-content": 1, "alert": {"loc-key": "SINGLE_UNREAD", "loc-args": []}}, "room_id": "!slw48wfj34rtnrf:example.com", "event_id": "$qTOWWTEL48yPm3uT-gdNhFcoHxfKbZuqRVnnWWSkGBs", "unread_count": 2}"#
        );
    }

    #[test]
    fn badge_only_ignores_the_default_payload() {
        assert_eq!(
            sygnal(&badge_only(), default_aps()).unwrap(),
            r#"{"aps": {"badge": 2}}"#
        );
    }

    #[test]
    fn a_badge_of_zero_is_sent() {
        let read = fixtures::notification(&json!({"counts": {"unread": 0}}));
        assert_eq!(
            sygnal(&read, Value::Null).unwrap(),
            r#"{"aps": {"badge": 0}}"#
        );
    }

    #[test]
    fn a_full_notification_overrides_the_alert_of_the_default_payload() {
        assert_eq!(
            sygnal(&dummy(), default_aps()).unwrap(),
            r#"{"aps": {"mutable-content": 1, "alert": {"loc-key": "MSG_FROM_USER_IN_ROOM_WITH_CONTENT", "loc-args": ["Major Tom", "Mission Control", "I'm floating in a most peculiar way."]}, "badge": 3}, "room_id": "!slw48wfj34rtnrf:example.com", "event_id": "$qTOWWTEL48yPm3uT-gdNhFcoHxfKbZuqRVnnWWSkGBs"}"#
        );
    }

    #[test]
    fn a_default_payload_that_is_no_object_rejects_the_pushkey() {
        for notification in [dummy(), event_id_only(), badge_only()] {
            assert_eq!(
                sygnal(&notification, json!({"default_payload": null})),
                Err(Outcome::Rejected(Rejected::InvalidData))
            );
        }
    }

    #[test]
    fn without_badge_counts_there_is_no_badge_and_a_badge_only_push_is_not_sent() {
        let full = sygnal_with(WITHOUT_BADGES, &dummy(), Value::Null).unwrap();
        assert!(!full.contains("badge"));
        let event = sygnal_with(WITHOUT_BADGES, &event_id_only(), Value::Null).unwrap();
        assert!(!event.contains("unread_count"));
        assert_eq!(
            sygnal_with(WITHOUT_BADGES, &badge_only(), Value::Null),
            Err(Outcome::Suppressed(Suppressed::Empty))
        );
    }

    #[test]
    fn nothing_to_show_and_nothing_to_count_is_not_sent() {
        let joined =
            dummy_with(&json!({"type": "m.room.member", "membership": "join", "counts": {}}));
        assert_eq!(
            sygnal(&joined, default_aps()),
            Err(Outcome::Suppressed(Suppressed::Empty))
        );
    }

    #[test]
    fn the_alert_is_chosen_by_sygnals_table() {
        let no_room = json!({"room_name": null, "room_alias": null});
        let cases = [
            (
                json!({"content": {"msgtype": "m.image", "body": "i"}}),
                "IMAGE_FROM_USER_IN_ROOM",
                json!(["Major Tom", "i", "Mission Control"]),
                "IMAGE_FROM_USER",
                json!(["Major Tom", "i"]),
            ),
            (
                json!({"content": {"msgtype": "m.file", "body": "f"}}),
                "MSG_FROM_USER_IN_ROOM_WITH_CONTENT",
                json!(["Major Tom", "Mission Control", "f"]),
                "MSG_FROM_USER_WITH_CONTENT",
                json!(["Major Tom", "f"]),
            ),
            (
                json!({"content": {"msgtype": "m.emote", "body": "e"}}),
                "ACTION_FROM_USER_IN_ROOM",
                json!(["Mission Control", "Major Tom", "e"]),
                "ACTION_FROM_USER",
                json!(["Major Tom", "e"]),
            ),
            (
                json!({"type": "m.room.encrypted", "content": {"ciphertext": "c"}}),
                "MSG_FROM_USER_IN_ROOM",
                json!(["Major Tom", "Mission Control"]),
                "MSG_FROM_USER",
                json!(["Major Tom"]),
            ),
            (
                json!({"content": {"body": "no type"}}),
                "MSG_FROM_USER_IN_ROOM",
                json!(["Major Tom", "Mission Control"]),
                "MSG_FROM_USER",
                json!(["Major Tom"]),
            ),
            (
                json!({"type": "m.call.invite", "content": {"offer": {"sdp": "v=0 m=video 9"}}}),
                "VIDEO_CALL_FROM_USER",
                json!(["Major Tom"]),
                "VIDEO_CALL_FROM_USER",
                json!(["Major Tom"]),
            ),
            (
                json!({"type": "m.call.invite", "content": {"offer": 5}}),
                "VOICE_CALL_FROM_USER",
                json!(["Major Tom"]),
                "VOICE_CALL_FROM_USER",
                json!(["Major Tom"]),
            ),
            (
                json!({"type": "m.room.member", "user_is_target": true, "membership": "invite"}),
                "USER_INVITE_TO_NAMED_ROOM",
                json!(["Major Tom", "Mission Control"]),
                "USER_INVITE_TO_CHAT",
                json!(["Major Tom"]),
            ),
            (
                json!({"type": "org.example.any"}),
                "MSG_FROM_USER",
                json!(["Major Tom"]),
                "MSG_FROM_USER",
                json!(["Major Tom"]),
            ),
        ];
        for (mut members, key, args, key_without, args_without) in cases {
            assert_eq!(loc(&members), json!({"loc-key": key, "loc-args": args}));
            members
                .as_object_mut()
                .unwrap()
                .extend(no_room.as_object().unwrap().clone());
            assert_eq!(
                loc(&members),
                json!({"loc-key": key_without, "loc-args": args_without})
            );
        }
        for not_mine in [
            json!({"user_is_target": false}),
            json!({"membership": "leave"}),
        ] {
            let mut members =
                json!({"type": "m.room.member", "user_is_target": true, "membership": "invite"});
            members
                .as_object_mut()
                .unwrap()
                .extend(not_mine.as_object().unwrap().clone());
            assert_eq!(loc(&members), Value::Null);
        }
    }

    #[test]
    fn the_sender_is_named_as_in_sygnal() {
        let name = |members: Value| loc(&members)["loc-args"][0].clone();
        assert_eq!(
            name(json!({"sender_display_name": null})),
            "@exampleuser:matrix.org"
        );
        assert_eq!(name(json!({"sender_display_name": ""})), "");
        assert_eq!(name(json!({"sender_display_name": "", "sender": ""})), " ");
        assert_eq!(
            name(json!({"sender_display_name": null, "sender": null})),
            " "
        );
        assert_eq!(
            name(json!({"sender_display_name": "é".repeat(1030)})),
            "é".repeat(1024)
        );
        assert_eq!(
            loc(&json!({"room_name": null}))["loc-args"][1],
            "#exampleroom:matrix.org"
        );
    }

    #[test]
    fn what_sygnal_answers_500_for_is_sent() {
        for aps in [
            json!(5),
            json!(null),
            json!({"alert": "text"}),
            json!({"alert": [1]}),
        ] {
            let body = sygnal(&dummy(), json!({"default_payload": {"aps": aps}})).unwrap();
            assert!(
                body.contains("MSG_FROM_USER_IN_ROOM_WITH_CONTENT"),
                "{body}"
            );
        }
        let wrong = dummy_with(&json!({"sender_display_name": 5, "sender": [], "room_id": {}}));
        let body = sygnal(&wrong, Value::Null).unwrap();
        assert!(
            body.contains("[\" \", ") && !body.contains("room_id"),
            "{body}"
        );
    }

    #[test]
    fn priority_follows_prio_and_background_is_always_low() {
        let headers = |push_type, prio: &str| {
            let options = PayloadOptions {
                push_type,
                send_badge_counts: true,
            };
            let notification = dummy_with(&json!({"prio": prio}));
            let payload = build(
                options,
                &context(PayloadMode::Sygnal),
                &notification,
                &device(Value::Null),
            )
            .unwrap();
            assert_eq!(
                (payload.expiration, payload.collapse_id, payload.id),
                (None, None, None)
            );
            (payload.priority, payload.push_type)
        };
        assert_eq!(headers(None, "high"), (10, None));
        assert_eq!(headers(None, "low"), (5, None));
        let alert = Some(ApnsPushType::Alert);
        assert_eq!(headers(alert, "high"), (10, alert));
        let background = Some(ApnsPushType::Background);
        assert_eq!(headers(background, "high"), (5, background));
    }

    #[test]
    fn device_keys_are_not_forwarded() {
        let data = json!({"default_payload": {"nocturne": {"v": 1, "secret": "s"}, "a": 1}});
        assert!(!sygnal(&event_id_only(), data).unwrap().contains("nocturne"));
    }

    #[test]
    fn opaque_is_a_constant_alert_and_an_identifier() {
        let context = context(PayloadMode::Opaque);
        let payload = build(PLAIN, &context, &dummy(), &device(default_aps())).unwrap();
        let n = identifier(&context, &dummy(), &device(Value::Null));
        assert_eq!(
            payload.body,
            format!(
                r#"{{"aps":{{"alert":{{"loc-key":"Notification"}},"mutable-content":1}},"n":"{}"}}"#,
                n.to_base64url()
            )
        );
        assert_eq!(payload.id, Some(n.to_uuid()));
        assert_eq!(payload.priority, 10);
        assert_eq!(payload.push_type, Some(ApnsPushType::Alert));
        assert_eq!(payload.collapse_id, None);
        // 22:13:20, so 23:00 and a day
        assert_eq!(
            payload.expiration,
            Some(fixtures::NOW + 46 * 60 + 40 + 86_400)
        );
    }

    #[test]
    fn opaque_options_show() {
        let options = OpaqueOptions {
            alert_loc_key: "KEY".to_owned(),
            sound: Some("bell.caf".to_owned()),
            collapse: Collapse::Room,
            low_priority: true,
            ..OpaqueOptions::default()
        };
        let context = context_with(PayloadMode::Opaque, options);
        let low = dummy_with(&json!({"prio": "low"}));
        let payload = build(PLAIN, &context, &low, &device(Value::Null)).unwrap();
        assert!(payload.body.starts_with(
            br#"{"aps":{"alert":{"loc-key":"KEY"},"mutable-content":1,"sound":"bell.caf"},"n":""#
        ));
        assert_eq!(payload.priority, 5);
        let tag = context
            .identifiers
            .collapse_tag("spqr", low.room_id().unwrap());
        assert_eq!(payload.collapse_id, Some(tag));
    }

    #[test]
    fn wake_is_the_same_for_every_push() {
        let context = context(PayloadMode::Wake);
        let one = build(PLAIN, &context, &dummy(), &device(default_aps())).unwrap();
        context.clock.advance(Duration::from_mins(1));
        let other = build(PLAIN, &context, &event_id_only(), &device(Value::Null)).unwrap();
        assert_eq!(
            one.body,
            r#"{"aps":{"alert":{"loc-key":"Notification"},"mutable-content":1}}"#
        );
        assert_eq!(one.body, other.body);
        assert_eq!(one.collapse_id.as_deref(), Some("wake"));
        assert_eq!(
            (one.priority, one.expiration),
            (other.priority, other.expiration)
        );
        assert_ne!(one.id, other.id);
    }

    #[test]
    fn counts_alone_are_not_sent_in_opaque_and_wake() {
        for mode in [PayloadMode::Opaque, PayloadMode::Wake] {
            let outcome = build(PLAIN, &context(mode), &badge_only(), &device(Value::Null));
            assert_eq!(
                outcome.unwrap_err(),
                Outcome::Suppressed(Suppressed::CountsOnly)
            );
        }
    }

    #[test]
    fn the_push_test_of_a_client_has_sygnals_form_in_every_mode() {
        for mode in ALL_MODES {
            let payload =
                build(PLAIN, &context(mode), &push_test(), &device(default_aps())).unwrap();
            assert_eq!(
                payload.body,
                r#"{"aps": {"mutable-content": 1, "alert": {"loc-key": "SINGLE_UNREAD", "loc-args": []}}, "room_id": "!room:domain", "event_id": "$THIS_IS_A_FAKE_EVENT_ID"}"#
            );
            assert_eq!(payload.id, None);
        }
    }

    #[test]
    fn nothing_of_the_notification_is_in_opaque_and_wake() {
        for mode in [PayloadMode::Opaque, PayloadMode::Wake] {
            let device = device(fixtures::secret_data());
            let payload = build(
                PLAIN,
                &context(mode),
                &fixtures::secret_notification(),
                &device,
            )
            .unwrap();
            assert!(!holds_secret(&payload.body));
        }
    }

    /// Sygnal's algorithm as it is described: the longest text loses a character until all fits. `None`
    /// where Sygnal gives up.
    fn naive(mut payload: Value, limit: usize) -> Option<Vec<u8>> {
        loop {
            let encoded = python_json::to_utf8(&payload);
            if encoded.len() <= limit {
                return Some(encoded);
            }
            let mut texts = Vec::new();
            let alert = payload.get_mut("aps")?.get_mut("alert")?;
            if alert.is_string() {
                texts.push(alert);
            } else {
                let alert = alert.as_object_mut()?;
                let mut alert: Vec<_> = alert.iter_mut().collect();
                alert.sort_by_key(|(name, _)| name.as_str());
                for (name, value) in alert {
                    match name.as_str() {
                        "body" if value.is_string() => texts.push(value),
                        "loc-args" if value.is_array() => {
                            let arguments = value.as_array_mut()?.iter_mut();
                            texts.extend(arguments.filter(|argument| argument.is_string()));
                        }
                        _ => {}
                    }
                }
            }
            let mut longest: Option<&mut Value> = None;
            for text in texts {
                let length = |value: &Value| value.as_str().unwrap().len();
                if longest
                    .as_ref()
                    .is_none_or(|longest| length(text) > length(longest))
                {
                    longest = Some(text);
                }
            }
            let longest = longest?;
            let mut text = longest.as_str()?.to_owned();
            text.pop()?;
            *longest = text.into();
        }
    }

    fn truncated(aps: &Value, budget: usize) -> Value {
        let mut empty = aps.clone();
        let alert = &mut empty["alert"];
        if alert.is_string() {
            *alert = "".into();
        }
        if let Some(body) = alert.get_mut("body") {
            *body = "".into();
        }
        if let Some(Value::Array(arguments)) = alert.get_mut("loc-args") {
            arguments.fill("".into());
        }
        let overhead = python_json::to_utf8(&json!({"aps": empty})).len();
        let payload = json!({"aps": aps});
        let encoded = truncate::encode(payload.as_object().unwrap().clone(), overhead + budget);
        serde_json::from_slice::<Value>(&encoded).unwrap()["aps"]["alert"].clone()
    }

    #[test]
    fn texts_are_cut_as_in_sygnals_own_tests() {
        let ten = "0123456789";
        assert_eq!(truncated(&json!({"alert": ten}), 10), ten);
        assert_eq!(truncated(&json!({"alert": ten}), 5), "01234");
        assert_eq!(
            truncated(&json!({"alert": {"body": ten}}), 5),
            json!({"body": "01234"})
        );
        assert_eq!(
            truncated(&json!({"alert": {"loc-args": [ten]}}), 5),
            json!({"loc-args": ["01234"]})
        );
        assert_eq!(
            truncated(&json!({"alert": {"loc-args": [ten, "abcdefghij"]}}), 10),
            json!({"loc-args": ["01234", "abcde"]})
        );
        let mixed = format!("💥{}", ten.repeat(3));
        let kept: String = mixed.chars().take(17).collect();
        assert_eq!(truncated(&json!({"alert": mixed}), 20), kept);
        assert_eq!(
            truncated(&json!({"alert": "💥".repeat(30)}), 30),
            "💥".repeat(7)
        );
    }

    #[test]
    fn a_body_is_cut_to_the_limit() {
        let body = "é\"\u{1}💥x".repeat(60_000);
        let full = dummy_with(&json!({"content": {"msgtype": "m.text", "body": body}}));
        let encoded = sygnal(&full, Value::Null).unwrap();
        assert!(
            (LIMIT - 6..=LIMIT).contains(&encoded.len()),
            "{}",
            encoded.len()
        );
    }

    #[test]
    fn what_cannot_be_cut_is_dropped_and_the_alert_stays() {
        let large = json!({"default_payload": {
            "small": 1, "large": "x".repeat(5000), "aps": {"mutable-content": 1}
        }});
        let body = sygnal(&dummy(), large.clone()).unwrap();
        assert!(body.contains("small") && !body.contains("large"), "{body}");
        assert!(body.contains("I'm floating in a most peculiar way."));
        let body = sygnal(&event_id_only(), large).unwrap();
        assert!(
            body.contains("mutable-content") && body.contains("event_id"),
            "{body}"
        );

        let in_aps = json!({"default_payload": {"aps": {"large": "x".repeat(5000), "sound": "s"}}});
        let body = sygnal(&dummy(), in_aps).unwrap();
        assert!(body.contains("sound") && !body.contains("large"), "{body}");

        let ids = dummy_with(&json!({"room_id": "!".repeat(5000)}));
        let body = sygnal(&ids, Value::Null).unwrap();
        assert!(
            body.contains("MSG_FROM_USER") && body.contains("event_id"),
            "{body}"
        );
    }

    proptest! {
        #[test]
        fn nothing_panics_and_everything_fits(
            mode in any_mode(),
            notification in any_notification(),
            device in any_device(),
            send_badge_counts: bool,
        ) {
            let options = PayloadOptions { push_type: None, send_badge_counts };
            if let Ok(payload) = build(options, &context(mode), &notification, &device) {
                prop_assert!(payload.body.len() <= LIMIT);
                prop_assert!(serde_json::from_slice::<Value>(&payload.body).is_ok());
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
            let opaque = build(PLAIN, &opaque_context, &notification, &device).unwrap();
            let n = identifier(&opaque_context, &notification, &device);
            let expected = format!(
                r#"{{"aps":{{"alert":{{"loc-key":"Notification"}},"mutable-content":1}},"n":"{}"}}"#,
                n.to_base64url()
            );
            prop_assert_eq!(opaque.body, expected);
            prop_assert_eq!(opaque.id, Some(n.to_uuid()));
            prop_assert_eq!((opaque.priority, opaque.collapse_id), (10, None));

            let wake = build(PLAIN, &context(PayloadMode::Wake), &notification, &device).unwrap();
            prop_assert_eq!(
                wake.body,
                r#"{"aps":{"alert":{"loc-key":"Notification"},"mutable-content":1}}"#.to_owned()
            );
            prop_assert_eq!((wake.priority, wake.collapse_id), (10, Some("wake".to_owned())));
            prop_assert_eq!(wake.expiration, opaque.expiration);
        }

        #[test]
        fn truncation_equals_the_described_algorithm(
            loc_args in proptest::collection::vec("[a-z\"\n\u{1}é€💥]{0,120}", 0..4),
            body in proptest::option::of("[a-z\"\n\u{1}é€💥]{0,300}"),
            limit in 60..700_usize,
        ) {
            let mut alert = json!({"loc-key": "K", "loc-args": loc_args});
            if let Some(body) = body {
                alert["body"] = body.into();
            }
            let payload = json!({"aps": {"alert": alert, "badge": 3}, "room_id": "!r"});
            if let Some(expected) = naive(payload.clone(), limit) {
                let encoded = truncate::encode(payload.as_object().unwrap().clone(), limit);
                prop_assert_eq!(
                    String::from_utf8(encoded).unwrap(),
                    String::from_utf8(expected).unwrap()
                );
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn a_whole_notification_is_cut_as_described(
            body in any_text(), name in any_text(), room in any_text()
        ) {
            let members = json!({
                "sender_display_name": name, "room_name": room,
                "content": {"msgtype": "m.text", "body": body}
            });
            let notification = dummy_with(&members);
            let uncut = full_payload_uncut(&notification, &body);
            let built = sygnal(&notification, Value::Null).unwrap();
            prop_assert_eq!(built, String::from_utf8(naive(uncut, LIMIT).unwrap()).unwrap());
        }
    }

    fn full_payload_uncut(notification: &Notification, body: &str) -> Value {
        let mut payload =
            full_payload(PLAIN, notification, Some("m.room.message"), Map::new()).unwrap();
        let arguments = payload["aps"]["alert"]["loc-args"].as_array_mut().unwrap();
        if !body.is_empty() {
            *arguments.last_mut().unwrap() = body.into();
        }
        payload.into()
    }
}
