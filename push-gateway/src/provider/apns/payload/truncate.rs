//! Makes a payload small enough for Apple, with Sygnal's result.
//!
//! Sygnal takes the longest of the texts that may be shortened (`aps.alert` when it is a string, else
//! `aps.alert.body` and the elements of `aps.alert.loc-args`), drops its last character and starts over
//! until the whole fits. Its time grows with the square of the excess. Here the result is computed
//! directly: see [`kept_lengths`].
//!
//! Where nothing is left to shorten Sygnal answers 500, and the homeserver tries again for a day what can
//! never fit. Here whole members go, in this order and the largest first: what `default_payload` put
//! beside `aps`; in `aps`, all but `alert` and `badge`; in `alert`, all but `loc-key`, `loc-args` and
//! `body`; then IDs longer than Matrix allows, and `aps` itself. The rest always fits in Apple's limit.

use serde_json::{Map, Value};

use crate::{
    provider::payload::drop_members,
    python_json::{self, character_ends, escaped_len},
};

/// `aps` and what the gateway itself puts beside it.
const OWN_MEMBERS: [&str; 5] = ["aps", "room_id", "event_id", "unread_count", "missed_calls"];

/// The longest ID that Matrix allows, in bytes.
const MAX_ID: usize = 255;

/// Encodes `payload` in at most `limit` bytes. `payload` is shortened as far as it has to be.
pub(super) fn encode(mut payload: Map<String, Value>, limit: usize) -> Vec<u8> {
    let mut encoded = python_json::to_utf8(&payload);
    while encoded.len() > limit {
        let texts = shortenable(&mut payload);
        let texts_len: usize = texts.iter().map(|text| escaped_len(text)).sum();
        let rest_len = encoded.len() - texts_len;
        if let Some(room) = limit.checked_sub(rest_len) {
            let kept = kept_lengths(&texts, room);
            for (text, length) in texts.into_iter().zip(kept) {
                text.truncate(length);
            }
        } else if !drop_something(&mut payload, rest_len - limit) {
            break;
        }
        encoded = python_json::to_utf8(&payload);
    }
    encoded
}

fn shortenable(payload: &mut Map<String, Value>) -> Vec<&mut String> {
    match payload.get_mut("aps").and_then(|aps| aps.get_mut("alert")) {
        Some(Value::String(alert)) => vec![alert],
        Some(Value::Object(alert)) => {
            let mut body = None;
            let mut arguments = None;
            for (name, value) in alert {
                match (name.as_str(), value) {
                    ("body", Value::String(text)) => body = Some(text),
                    ("loc-args", Value::Array(values)) => arguments = Some(values),
                    _ => {}
                }
            }
            let arguments = arguments.into_iter().flatten();
            body.into_iter()
                .chain(arguments.filter_map(|argument| match argument {
                    Value::String(text) => Some(text),
                    Value::Null
                    | Value::Bool(_)
                    | Value::Number(_)
                    | Value::Array(_)
                    | Value::Object(_) => None,
                }))
                .collect()
        }
        _ => Vec::new(),
    }
}

/// How many bytes of each text are kept so that together they take at most `room` bytes when escaped.
///
/// Always shortening the longest text means: before any text shorter than a level is touched, all longer
/// ones have come down to that level. So the result is the highest level at which all fit; and of the
/// texts that reach exactly one byte above it, the last ones, as the first of equals is shortened first.
/// How much all texts take at every level comes from one pass over their first `room` bytes.
fn kept_lengths(texts: &[&mut String], room: usize) -> Vec<usize> {
    let mut growth = vec![0; room + 1];
    for text in texts {
        for (end, length) in character_ends(text).take_while(|(end, _)| *end <= room) {
            growth[end] += length;
        }
    }
    let mut level = 0;
    let mut taken = 0;
    while let Some(more) = growth.get(level + 1) {
        if taken + more > room {
            break;
        }
        taken += more;
        level += 1;
    }

    let mut excess = growth
        .get(level + 1)
        .map_or(0, |more| (taken + more).saturating_sub(room));
    texts
        .iter()
        .map(|text| {
            let above = character_ends(text)
                .take_while(|(end, _)| *end <= level + 1)
                .last();
            match above {
                Some((end, length)) if end == level + 1 => {
                    if excess == 0 && level < room {
                        end
                    } else {
                        excess = excess.saturating_sub(length);
                        text.floor_char_boundary(level)
                    }
                }
                Some((end, _)) => end,
                None => 0,
            }
        })
        .collect()
}

/// Drops members worth `excess` bytes, or as many as may go at once; false when none is left to drop.
fn drop_something(payload: &mut Map<String, Value>, excess: usize) -> bool {
    let size = |name: &str, value: &Value| {
        let name = python_json::to_utf8(&name);
        name.len() + python_json::to_utf8(value).len() + ": , ".len()
    };
    let all_but =
        |kept: &'static [&'static str]| move |name: &str| (!kept.contains(&name)).then_some(0);
    if drop_members(payload, excess, size, all_but(&OWN_MEMBERS)) {
        return true;
    }
    if let Some(Value::Object(aps)) = payload.get_mut("aps") {
        if drop_members(aps, excess, size, all_but(&["alert", "badge"])) {
            return true;
        }
        if let Some(Value::Object(alert)) = aps.get_mut("alert")
            && drop_members(
                alert,
                excess,
                size,
                all_but(&["loc-key", "loc-args", "body"]),
            )
        {
            return true;
        }
    }
    let too_long = ["room_id", "event_id"].into_iter().find(|name| {
        let id = payload.get(*name).and_then(Value::as_str);
        id.is_some_and(|id| id.len() > MAX_ID)
    });
    too_long
        .into_iter()
        .chain(["aps", "room_id", "event_id"])
        .any(|name| payload.shift_remove(name).is_some())
}
