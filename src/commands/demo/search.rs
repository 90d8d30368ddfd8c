//! Whether something can be read in what a provider received, in whatever form it is there.

use std::collections::BTreeSet;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use serde_json::Value;

/// What gives something away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trace {
    /// This text, anywhere, in upper or lower case.
    Text(String),
    /// This number as a value of its own.
    Number(u64),
}

/// All that a provider received with one push.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// The path that was posted to.
    pub(super) path: String,
    /// The headers, names in lower case.
    pub(super) headers: Vec<(String, String)>,
    /// The body.
    pub(super) body: Bytes,
    readings: BTreeSet<Vec<u8>>,
}

/// How far something got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Exposure {
    /// It did not get through.
    Stopped,
    /// The device can read it, the provider cannot.
    Sealed,
    /// The provider can read it.
    Readable,
}

/// What is decoded may be encoded again: so many times.
const DEPTH: usize = 3;
/// Shorter words are not looked at as if they were encoded.
const SHORTEST_ENCODED: usize = 8;
/// Takes the URL-safe alphabet after translation, with padding or without, and ends that do not fit.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

impl Request {
    /// A request, read in every way.
    pub(super) fn new(path: String, headers: Vec<(String, String)>, body: Bytes) -> Self {
        let mut readings = BTreeSet::new();
        read(path.as_bytes(), DEPTH, &mut readings);
        for (name, value) in &headers {
            read(name.as_bytes(), 0, &mut readings);
            read(value.as_bytes(), DEPTH, &mut readings);
        }
        read(&body, DEPTH, &mut readings);
        Self {
            path,
            headers,
            body,
            readings,
        }
    }

    /// Whether the provider can read any of these.
    pub(super) fn shows(&self, traces: &[Trace]) -> bool {
        any_in(traces, &self.readings)
    }

    /// A header's value.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let (_, value) = headers.find(|(candidate, _)| candidate == name)?;
        Some(value)
    }

    /// The body, if it is JSON.
    pub(super) fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }

    /// Every value of the request with the place where it is.
    pub(super) fn values(&self) -> BTreeSet<(String, String)> {
        let mut values: BTreeSet<_> = self.headers.iter().cloned().collect();
        values.insert(("path".to_owned(), self.path.clone()));
        values.insert(("size of the body".to_owned(), self.body.len().to_string()));
        if let Some(json) = self.json() {
            leaves(&json, "body", &mut |place, leaf| {
                values.insert((place.to_owned(), leaf));
            });
        } else {
            let body = String::from_utf8_lossy(&self.body).into_owned();
            values.insert(("body".to_owned(), body));
        }
        values
    }
}

/// Whether any of these can be read in a text, such as what a device decrypted.
pub(super) fn readable_in(traces: &[Trace], text: &[u8]) -> bool {
    let mut readings = BTreeSet::new();
    read(text, DEPTH, &mut readings);
    any_in(traces, &readings)
}

fn any_in(traces: &[Trace], readings: &BTreeSet<Vec<u8>>) -> bool {
    traces.iter().any(|trace| match trace {
        Trace::Text(text) => readings
            .iter()
            .any(|reading| contains(reading, text.as_bytes())),
        Trace::Number(number) => readings.contains(number.to_string().as_bytes()),
    })
}

fn contains(reading: &[u8], text: &[u8]) -> bool {
    reading
        .windows(text.len().max(1))
        .any(|window| window.eq_ignore_ascii_case(text))
}

/// Collects these bytes and everything that they turn into when they are decoded: JSON escapes, percent
/// escapes, base64, hexadecimal digits.
fn read(bytes: &[u8], depth: usize, readings: &mut BTreeSet<Vec<u8>>) {
    if !readings.insert(bytes.to_vec()) || depth == 0 {
        return;
    }
    let depth = depth - 1;
    if let Ok(json @ (Value::Object(_) | Value::Array(_) | Value::String(_))) =
        serde_json::from_slice(bytes)
    {
        leaves(&json, "", &mut |_, leaf| {
            read(leaf.as_bytes(), depth, readings);
        });
    }
    if bytes.contains(&b'%') {
        read(&percent_decoded(bytes), depth, readings);
    }
    let of_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/-_".contains(byte);
    for word in bytes.split(|byte| !of_base64(byte)) {
        if word.len() < SHORTEST_ENCODED {
            continue;
        }
        if let Some(decoded) = hex_decoded(word) {
            read(&decoded, depth, readings);
        }
        // a path separator may stand before an encoded word: that one is decoded without it, too
        for word in [word].into_iter().chain(word.split(|byte| *byte == b'/')) {
            if word.len() >= SHORTEST_ENCODED
                && let Some(decoded) = base64_decoded(word)
            {
                read(&decoded, depth, readings);
            }
        }
    }
}

/// Calls `with` for the name of every member and every value that is not an object or a list.
fn leaves(value: &Value, place: &str, with: &mut impl FnMut(&str, String)) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let place = format!("{place}.{name}");
                with(&place, name.clone());
                leaves(member, &place, with);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                leaves(item, &format!("{place}[{index}]"), with);
            }
        }
        Value::String(text) => with(place, text.clone()),
        Value::Null | Value::Bool(_) | Value::Number(_) => with(place, value.to_string()),
    }
}

fn percent_decoded(bytes: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        let escaped = after
            .get(..2)
            .filter(|_| *first == b'%')
            .and_then(hex_decoded);
        if let Some(byte) = escaped {
            decoded.extend(byte);
            rest = &after[2..];
        } else {
            decoded.push(*first);
            rest = after;
        }
    }
    decoded
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    let digits = |byte: &u8| [byte >> 4, byte & 15].map(|half| char::from_digit(half.into(), 16));
    bytes.iter().flat_map(digits).flatten().collect()
}

fn hex_decoded(digits: &[u8]) -> Option<Vec<u8>> {
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    digits
        .chunks_exact(2)
        .map(|pair| u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok())
        .collect()
}

fn base64_decoded(word: &[u8]) -> Option<Vec<u8>> {
    let standard: Vec<_> = word
        .iter()
        .map(|byte| match byte {
            b'-' => b'+',
            b'_' => b'/',
            other => *other,
        })
        .collect();
    BASE64.decode(standard).ok()
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

    use super::*;

    const SECRET: &str = "jWqXmTzLkYhRvPcBnD:clinic.example";

    fn request(path: &str, header: &str, body: &str) -> Request {
        let headers = vec![("x".to_owned(), header.to_owned())];
        Request::new(path.to_owned(), headers, Bytes::from(body.to_owned()))
    }

    #[test]
    fn a_text_is_found_in_every_part_and_in_every_form() {
        let traces = [Trace::Text(SECRET.to_owned())];
        let json = |text: &str| serde_json::json!({"a": [{"b": text}]}).to_string();
        let hex = hex(SECRET.as_bytes()).to_uppercase();
        let escaped = |text: &str| text.replace('j', "\\u006a").replace('e', "\\u0065");
        let in_json_in_base64 = json(&URL_SAFE_NO_PAD.encode(json(SECRET)));
        for found in [
            request(&format!("/3/device/{SECRET}"), "", ""),
            request(&format!("/x/{}", STANDARD.encode(SECRET)), "", ""),
            request("/x?room=jWqXmTzLkYhRvPcBnD%3Aclinic.example", "", ""),
            request("/", SECRET, ""),
            request("/", &format!("vapid t=a.{}", STANDARD.encode(SECRET)), ""),
            request("/", "", SECRET),
            request("/", "", &SECRET.to_uppercase()),
            request("/", "", &json(SECRET)),
            request("/", "", &json(&hex)),
            request("/", "", &escaped(&json(SECRET))),
            request("/", "", &in_json_in_base64),
            request("/", "", &serde_json::json!({SECRET: 1}).to_string()),
        ] {
            assert!(found.shows(&traces), "{found:?}");
        }
        let without = json(&SECRET.replace("jW", "Wj"));
        assert!(!request("/", "", &without).shows(&traces));
    }

    #[test]
    fn a_number_is_found_as_a_value_and_not_inside_others() {
        let traces = [Trace::Number(38)];
        for body in [r#"{"aps":{"badge":38}}"#, r#"{"unread":"38"}"#] {
            assert!(request("/", "", body).shows(&traces), "{body}");
        }
        assert!(request("/", "38", "").shows(&traces));
        assert!(!request("/38", "138", r#"{"n":"a38","t":380}"#).shows(&traces));
    }
}
