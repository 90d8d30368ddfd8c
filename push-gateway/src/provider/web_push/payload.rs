//! What a browser is sent, before encryption.

use serde_json::{Map, Value};

use crate::{
    notification::{Device, Notification},
    outcome::{Outcome, Rejected, Suppressed},
    provider::{
        AppContext,
        payload::{Form, collapse_tag, drop_members, encoded_size, is_low, is_truthy},
    },
    python_json::{self, character_ends, escaped_len},
    sealed::{
        keys,
        plaintext::{Contents, MAX_JSON, Plaintext},
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
            plaintext: Plaintext::of(Contents {
                notification,
                default_payload,
                sealed_content: context.opaque.sealed_content,
                now: context.clock.unix_seconds(),
            }),
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
/// that is too long still, it loses members of `content` besides `body`, the largest first; then other
/// members, the largest first, IDs and counts last; and then the end of `content.body`.
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
        drop_members(content, excess, encoded_size, |name| match name {
            BODY => None,
            "msgtype" => Some(1),
            _ => Some(0),
        });
    }
    if payload
        .get(CONTENT)
        .and_then(|content| content.get(BODY))
        .is_some_and(|body| !body.is_string())
    {
        payload.shift_remove(CONTENT);
    }
    encoded = compact(&payload);

    let room = MAX_JSON - ELLIPSIS.len_utf8();
    let rest = encoded.len() - body(&mut payload).map_or(0, |body| escaped_len(body));
    if rest > room {
        drop_members(&mut payload, rest - room, encoded_size, |name| match name {
            CONTENT => None,
            "event_id" | "room_id" | "unread" | "missed_calls" => Some(1),
            _ => Some(0),
        });
        encoded = compact(&payload);
    }
    if let Some(excess) = encoded.len().checked_sub(MAX_JSON)
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
