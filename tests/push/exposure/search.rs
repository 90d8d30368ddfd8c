//! Finds secrets, and pieces of eight bytes of them, in what others get to see, in whatever form they
//! are there.

use std::collections::{HashMap, HashSet};

/// The shortest piece of a secret that is looked for.
pub(super) const FRAGMENT: usize = 8;
/// What is decoded may be encoded again: so many times.
const DEPTH: usize = 3;
/// Eight bytes in base64 and in hexadecimal digits.
const SHORTEST_BASE64: usize = 11;
const SHORTEST_HEX: usize = 2 * FRAGMENT;
/// And as a list of numbers.
const SHORTEST_LIST: usize = 2 * FRAGMENT - 1;

/// What must not be seen.
pub(super) struct Secrets {
    fragments: HashMap<u64, usize>,
    /// One bit for each value of a short hash: whether any fragment has it.
    filter: Vec<bool>,
    names: Vec<String>,
}

/// A place where something of a secret is.
#[derive(Debug)]
pub(super) struct Finding {
    /// Where.
    pub(super) place: String,
    /// Of what.
    pub(super) secret: String,
    /// What can be read there.
    pub(super) text: String,
    /// How many bytes in a row.
    pub(super) length: usize,
}

/// A search that looks at no word twice.
pub(super) struct Search<'a> {
    secrets: &'a Secrets,
    seen: HashSet<Vec<u8>>,
    pub(super) findings: Vec<Finding>,
}

impl Secrets {
    pub(super) fn new() -> Self {
        Self {
            fragments: HashMap::new(),
            filter: vec![false; 1 << 22],
            names: Vec::new(),
        }
    }

    /// Adds a secret of at least eight bytes.
    pub(super) fn add(&mut self, name: &str, secret: impl AsRef<[u8]>) {
        let secret = secret.as_ref();
        assert!(secret.len() >= FRAGMENT, "{name} can be no secret here");
        self.names
            .push(format!("{name} {}", String::from_utf8_lossy(secret)));
        for window in windows(secret) {
            self.filter[short(window)] = true;
            self.fragments.insert(window, self.names.len() - 1);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    pub(super) fn search(&self) -> Search<'_> {
        Search {
            secrets: self,
            seen: HashSet::new(),
            findings: Vec::new(),
        }
    }
}

fn windows(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.windows(FRAGMENT).map(|window| {
        window
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte))
    })
}

fn short(window: u64) -> usize {
    usize::try_from(window.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 42).unwrap()
}

impl Search<'_> {
    /// Looks through what is to be seen at one place.
    pub(super) fn read(&mut self, place: &str, bytes: &[u8]) {
        self.read_to(DEPTH, place, bytes);
    }

    fn read_to(&mut self, depth: usize, place: &str, bytes: &[u8]) {
        if bytes.len() < FRAGMENT || !self.seen.insert(bytes.to_vec()) {
            return;
        }
        self.scan(place, bytes);
        let Some(depth) = depth.checked_sub(1) else {
            return;
        };
        if bytes.contains(&b'\\') {
            self.read_to(depth, place, &unescaped(bytes));
        }
        if bytes.contains(&b'%') {
            self.read_to(depth, place, &percent_decoded(bytes));
        }
        for list in bytes.split(|byte| !byte.is_ascii_digit() && !b", ".contains(byte)) {
            if list.len() >= SHORTEST_LIST {
                self.read_to(depth, place, &numbers(list));
            }
        }
        for run in bytes.split(|byte| !byte.is_ascii_hexdigit()) {
            for offset in 0..2 {
                if run.len() >= offset + SHORTEST_HEX {
                    self.read_to(depth, place, &hex_decoded(&run[offset..]));
                }
            }
        }
        for word in bytes.split(|byte| sextet(*byte).is_none()) {
            // wherever in the word it begins, one of these is in step with it
            for offset in 0..4 {
                if word.len() >= offset + SHORTEST_BASE64 {
                    self.read_to(depth, place, &base64_decoded(&word[offset..]));
                }
            }
        }
    }

    fn scan(&mut self, place: &str, bytes: &[u8]) {
        let mut run: Option<(usize, usize, usize)> = None;
        for (at, window) in windows(bytes).enumerate() {
            let hit = self.secrets.filter[short(window)]
                .then(|| self.secrets.fragments.get(&window))
                .flatten();
            match (hit, &mut run) {
                (Some(_), Some((_, last, _))) => *last = at,
                (Some(secret), None) => run = Some((at, at, *secret)),
                (None, Some((first, last, secret))) => {
                    let found = (*first, *last, *secret);
                    run = None;
                    self.found(place, bytes, found);
                }
                (None, None) => {}
            }
        }
        if let Some(found) = run {
            self.found(place, bytes, found);
        }
    }

    fn found(&mut self, place: &str, bytes: &[u8], (first, last, secret): (usize, usize, usize)) {
        let text = &bytes[first..last + FRAGMENT];
        self.findings.push(Finding {
            place: place.to_owned(),
            secret: self.secrets.names[secret].clone(),
            text: String::from_utf8_lossy(text).into_owned(),
            length: text.len(),
        });
    }
}

/// Backslash escapes of JSON, and of Rust's `Debug`, as what they stand for.
fn unescaped(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(bytes.len());
    let mut units = Vec::new();
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        let Some((kind, tail)) = after.split_first().filter(|_| *first == b'\\') else {
            flush(&mut units, &mut plain);
            plain.push(*first);
            rest = after;
            continue;
        };
        let digits = tail.strip_prefix(b"{").unwrap_or(tail);
        let count = digits
            .iter()
            .take(if digits.len() == tail.len() { 4 } else { 6 })
            .take_while(|byte| byte.is_ascii_hexdigit())
            .count();
        let number = std::str::from_utf8(&digits[..count])
            .ok()
            .and_then(|digits| u32::from_str_radix(digits, 16).ok());
        if let (b'u', Some(number)) = (kind, number) {
            if let Ok(unit) = u16::try_from(number) {
                units.push(unit);
            } else {
                flush(&mut units, &mut plain);
                let character = char::from_u32(number).unwrap_or('?');
                plain.extend(character.encode_utf8(&mut [0; 4]).bytes());
            }
            let after = &digits[count..];
            rest = if digits.len() == tail.len() {
                after
            } else {
                after.strip_prefix(b"}").unwrap_or(after)
            };
            continue;
        }
        flush(&mut units, &mut plain);
        plain.push(match kind {
            b'n' => b'\n',
            b't' => b'\t',
            b'r' => b'\r',
            b'b' => 8,
            b'f' => 12,
            other => *other,
        });
        rest = tail;
    }
    flush(&mut units, &mut plain);
    plain
}

fn flush(units: &mut Vec<u16>, plain: &mut Vec<u8>) {
    plain.extend(String::from_utf16_lossy(units).bytes());
    units.clear();
}

fn percent_decoded(bytes: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        let digits = after
            .get(..2)
            .filter(|digits| *first == b'%' && digits.iter().all(u8::is_ascii_hexdigit));
        if let Some(digits) = digits {
            decoded.extend(hex_decoded(digits));
            rest = &after[2..];
        } else {
            decoded.push(*first);
            rest = after;
        }
    }
    decoded
}

fn hex_decoded(digits: &[u8]) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap();
    digits
        .chunks_exact(2)
        .map(|pair| u8::try_from(digit(pair[0]) * 16 + digit(pair[1])).unwrap())
        .collect()
}

/// The bytes of a list, as `Debug` writes them.
fn numbers(list: &[u8]) -> Vec<u8> {
    list.split(|byte| !byte.is_ascii_digit())
        .filter_map(|number| std::str::from_utf8(number).ok()?.parse().ok())
        .collect()
}

/// What a character of either base64 alphabet stands for.
fn sextet(byte: u8) -> Option<u32> {
    Some(u32::from(match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' | b'-' => 62,
        b'/' | b'_' => 63,
        _ => return None,
    }))
}

fn base64_decoded(word: &[u8]) -> Vec<u8> {
    word.chunks(4)
        .flat_map(|group| {
            let bits = group
                .iter()
                .filter_map(|byte| sextet(*byte))
                .fold(0, |bits, sextet| bits << 6 | sextet);
            let bytes = (bits << (6 * (4 - group.len()))).to_be_bytes();
            bytes.into_iter().skip(1).take(group.len() * 3 / 4)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use base64::{
        Engine as _,
        engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
    };
    use serde_json::json;

    use super::*;
    use crate::exposure::people::hex;

    const SECRET: &str = "jWqX\"mTz\u{e9}LkYhRv\u{1f9e6}PcBnD";

    fn found_in(text: &str) -> Vec<Finding> {
        let mut secrets = Secrets::new();
        secrets.add("another", "0123456789");
        secrets.add("secret", SECRET);
        let mut search = secrets.search();
        search.read("here", text.as_bytes());
        search.findings
    }

    #[test]
    fn a_secret_is_found_in_every_form() {
        let escaped = |text: &str| {
            let unit = |unit| format!("\\u{unit:04x}");
            text.encode_utf16().map(unit).collect::<String>()
        };
        let percent = SECRET
            .bytes()
            .flat_map(|byte| ["%".to_owned(), hex(&[byte])])
            .collect::<String>();
        let json = json!([{ "a": SECRET }]).to_string();
        for text in [
            SECRET.to_owned(),
            format!("before{SECRET}after"),
            json.clone(),
            json!(json).to_string(),
            escaped(SECRET),
            format!("{SECRET:?}"),
            format!("{:?}", format!("{SECRET:?}")),
            SECRET.escape_unicode().to_string(),
            percent,
            STANDARD.encode(SECRET),
            format!("/x/{}/y", URL_SAFE_NO_PAD.encode(SECRET)),
            STANDARD.encode(format!("1{SECRET}")),
            STANDARD.encode(format!("12{SECRET}")),
            format!("a{}", URL_SAFE_NO_PAD.encode(SECRET)),
            format!("ab{}", URL_SAFE_NO_PAD.encode(SECRET)),
            format!("abc{}", URL_SAFE_NO_PAD.encode(SECRET)),
            hex(SECRET.as_bytes()),
            hex(SECRET.as_bytes()).to_uppercase(),
            format!("x={}0", hex(SECRET.as_bytes())),
            format!("a{}", hex(SECRET.as_bytes())),
            format!("{:?}", SECRET.as_bytes()),
            json!({ "a": SECRET.as_bytes() }).to_string(),
            STANDARD.encode(hex(SECRET.as_bytes())),
            URL_SAFE_NO_PAD.encode(json!({ "b": STANDARD.encode(SECRET) }).to_string()),
        ] {
            let found = found_in(&text);
            assert!(
                found
                    .iter()
                    .any(|found| found.length + 4 >= SECRET.len()
                        && found.secret.starts_with("secret ")),
                "{text}: {found:#?}"
            );
        }
    }

    #[test]
    fn eight_bytes_of_a_secret_are_enough_and_seven_are_not() {
        for start in 0..SECRET.len() - FRAGMENT {
            let piece = &SECRET.as_bytes()[start..start + FRAGMENT];
            for text in [hex(piece), STANDARD.encode(piece)] {
                let found = found_in(&format!("a {text} b"));
                assert_eq!(found.len(), 1, "{start} {text}");
                assert_eq!(found[0].length, FRAGMENT);
                assert_eq!(found[0].text, String::from_utf8_lossy(piece));
            }
            let less = &piece[1..];
            let text = format!("{} {}", hex(less), STANDARD.encode(less));
            assert!(found_in(&text).is_empty(), "{start}");
        }
        let changed = SECRET.replace(['W', 'T', 'k', 'v', 'B'], "x");
        assert!(found_in(&changed).is_empty());
    }
}
