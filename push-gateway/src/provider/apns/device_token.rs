//! From a pushkey to the device token in Apple's `:path`.

/// The longest device token in hex. Apple: "APNs device tokens are of variable length. Do not hard-code
/// their size." Today's have 64 characters; those of Live Activities about 160.
const LONGEST: usize = 512;

/// How a pushkey stands for a device token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The token's bytes in base64 (`convert_device_token_to_hex: true`).
    Base64,
    /// The token as Apple wants it (`convert_device_token_to_hex: false`).
    Verbatim,
}

/// Appends the device token to `path`; `None` if the pushkey cannot be one, with `path` then unspecified.
///
/// Base64 is read as Python's `b64decode` reads it, since that is what Sygnal gives Apple: characters
/// outside the standard alphabet are skipped. Where Sygnal fails (bad padding), the URL-safe alphabet
/// is tried if it occurs. Verbatim tokens are letters and digits, so nothing can leave the path segment.
pub(super) fn append(path: &mut String, pushkey: &str, form: Form) -> Option<()> {
    let start = path.len();
    match form {
        // longer ones cannot give a token short enough, unless they are mostly skipped characters
        Form::Base64 if pushkey.len() > 2 * LONGEST => return None,
        Form::Base64 => {
            if append_python(path, pushkey).is_none() {
                path.truncate(start);
                append_url_safe(path, pushkey)?;
            }
        }
        Form::Verbatim if !pushkey.bytes().all(|byte| byte.is_ascii_alphanumeric()) => return None,
        Form::Verbatim => path.push_str(pushkey),
    }
    (1..=LONGEST).contains(&(path.len() - start)).then_some(())
}

/// `base64.b64decode(pushkey).hex()` of Python.
fn append_python(path: &mut String, pushkey: &str) -> Option<()> {
    if !pushkey.is_ascii() {
        return None;
    }
    let mut quad = Quad::default();
    let mut padding = 0;
    for byte in pushkey.bytes() {
        let value = match byte {
            b'=' => {
                if quad.filled >= 2 {
                    padding += 1;
                    if quad.filled + padding >= 4 {
                        // what follows whole padding is not read
                        return Some(());
                    }
                }
                continue;
            }
            b'+' => 62,
            b'/' => 63,
            _ => match alphanumeric(byte) {
                Some(value) => value,
                None => continue,
            },
        };
        padding = 0;
        quad.push(path, value);
    }
    (quad.filled == 0).then_some(())
}

/// Base64url, with padding or without, if the pushkey has a character that only that alphabet has.
fn append_url_safe(path: &mut String, pushkey: &str) -> Option<()> {
    if !pushkey.contains(['-', '_']) {
        return None;
    }
    let mut quad = Quad::default();
    for byte in pushkey.trim_end_matches('=').bytes() {
        let value = match byte {
            b'-' => 62,
            b'_' => 63,
            _ => alphanumeric(byte)?,
        };
        quad.push(path, value);
    }
    (quad.filled != 1).then_some(())
}

fn alphanumeric(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        _ => None,
    }
}

/// Four base64 characters on their way to three bytes.
#[derive(Default)]
struct Quad {
    filled: u8,
    rest: u8,
}

impl Quad {
    /// Takes six bits and appends the byte that they complete, if they do, in hex.
    fn push(&mut self, path: &mut String, value: u8) {
        let byte = match self.filled {
            0 => None,
            1 => Some(self.rest << 2 | value >> 4),
            2 => Some(self.rest << 4 | value >> 2),
            _ => Some(self.rest << 6 | value),
        };
        if let Some(byte) = byte {
            path.push(hex_digit(byte >> 4));
            path.push(hex_digit(byte & 0xf));
        }
        self.rest = value;
        self.filled = (self.filled + 1) % 4;
    }
}

fn hex_digit(nibble: u8) -> char {
    char::from(match nibble {
        0..=9 => b'0' + nibble,
        _ => b'a' + nibble - 10,
    })
}

#[cfg(test)]
mod tests {
    use base64::{
        Engine as _,
        engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD},
    };
    use proptest::prelude::*;

    use super::*;

    fn token(pushkey: &str, form: Form) -> Option<String> {
        let mut path = "/3/device/".to_owned();
        append(&mut path, pushkey, form)?;
        Some(
            path.strip_prefix("/3/device/")
                .expect("the start")
                .to_owned(),
        )
    }

    fn base64(pushkey: &str) -> Option<String> {
        token(pushkey, Form::Base64)
    }

    fn hex(bytes: &[u8]) -> String {
        use std::fmt::Write as _;
        bytes.iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").expect("a string takes all");
            text
        })
    }

    /// Each checked against Python 3: `base64.b64decode(pushkey).hex()`.
    #[test]
    fn base64_is_read_as_python_reads_it() {
        for (pushkey, expected) in [
            ("spqr", "b29aab"),
            ("a:bcd", "69b71d"),
            ("YQ==", "61"),
            ("YWI=", "6162"),
            ("YQ==YQ==", "61"),
            ("=YQ==", "61"),
            ("Y=Q==", "61"),
            ("YQ=\n=", "61"),
            ("YQ=Q=", "6104"),
            ("ab\ncd\r\n", "69b71d"),
            ("+/+/", "fbffbf"),
            ("ab-_cd", "69b71d"),
        ] {
            assert_eq!(base64(pushkey).as_deref(), Some(expected), "{pushkey}");
        }
    }

    #[test]
    fn what_python_cannot_read_is_no_token() {
        for pushkey in [
            "", "=", "====", "a", "ab", "abc", "ab=", "abcde", "ab!!", "::::", "é", "abcé",
        ] {
            assert_eq!(base64(pushkey), None, "{pushkey}");
        }
    }

    #[test]
    fn url_safe_base64_is_read_where_python_fails() {
        assert_eq!(base64("-_8=").as_deref(), Some("fbff"));
        assert_eq!(base64("-_8").as_deref(), Some("fbff"));
        assert_eq!(base64("-"), None);
        assert_eq!(base64("-_+a"), None);
        assert_eq!(base64("-_=a"), None);
    }

    #[test]
    fn verbatim_tokens_cannot_leave_their_path_segment() {
        let verbatim = |pushkey: &str| token(pushkey, Form::Verbatim);
        assert_eq!(verbatim("00fcABz9").as_deref(), Some("00fcABz9"));
        for pushkey in [
            "", "a/b", "..", "a?b", "a#b", "a%2fb", "a b", "a\r\nb", "é", "a:b", "a==",
        ] {
            assert_eq!(verbatim(pushkey), None, "{pushkey}");
        }
    }

    #[test]
    fn the_length_is_bounded() {
        assert!(token(&"a".repeat(512), Form::Verbatim).is_some());
        assert!(token(&"a".repeat(513), Form::Verbatim).is_none());
        assert!(base64(&"a".repeat(340)).is_some());
        assert!(base64(&"a".repeat(344)).is_none());
        assert!(base64(&"a".repeat(100_000)).is_none());
        assert!(base64(&":".repeat(100_000)).is_none());
    }

    proptest! {
        #[test]
        fn every_token_in_base64_comes_out_in_hex(bytes in prop::collection::vec(any::<u8>(), 1..=256)) {
            prop_assert_eq!(base64(&STANDARD.encode(&bytes)), Some(hex(&bytes)));
        }

        /// Real tokens: 32 bytes. One or two `-` or `_` in 44 characters never look whole to Python.
        #[test]
        fn a_url_safe_token_comes_out_too(mut bytes in any::<[u8; 32]>()) {
            bytes[0] = 0xfb;
            let text = URL_SAFE_NO_PAD.encode(bytes);
            prop_assume!(text.matches(['-', '_']).count() < 3);
            prop_assert_eq!(base64(&text), Some(hex(&bytes)));
            prop_assert_eq!(base64(&URL_SAFE.encode(bytes)), Some(hex(&bytes)));
        }

        #[test]
        fn whatever_the_pushkey_the_token_is_hex(pushkey in any::<String>()) {
            if let Some(token) = base64(&pushkey) {
                prop_assert!(!token.is_empty() && token.bytes().all(|byte| byte.is_ascii_hexdigit()));
            }
        }
    }
}
