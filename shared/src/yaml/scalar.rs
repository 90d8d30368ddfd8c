//! What a plain scalar means: the implicit types of YAML 1.1 as `PyYAML` resolves them.

/// A scalar's meaning. The text itself stays with the node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    /// `~`, `null` or nothing
    Null,
    /// `true`, `yes`, `on` and their opposites
    Boolean(bool),
    /// Decimal, `0x`, `0b`, octal with a leading `0`, base 60 with `:`; none if it is past 128 bits
    Integer(Option<i128>),
    /// A number with a point
    Float(f64),
    /// A date or a time, which Python reads as such and not as text
    Timestamp,
    /// `<<`, which as a key merges other mappings in
    Merge,
    /// Everything else, and everything in quotes
    Text,
}

impl Scalar {
    /// The meaning of a scalar without quotes.
    #[must_use]
    pub fn of_plain(text: &str) -> Self {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => Self::Null,
            "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
                Self::Boolean(true)
            }
            "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
                Self::Boolean(false)
            }
            "<<" => Self::Merge,
            _ => integer(text)
                .or_else(|| float(text))
                .or_else(|| is_timestamp(text).then_some(Self::Timestamp))
                .unwrap_or(Self::Text),
        }
    }
}

/// Splits off `+` or `-`.
fn signed(text: &str) -> (i128, &str) {
    match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    }
}

fn integer(text: &str) -> Option<Scalar> {
    let (sign, digits) = signed(text);
    let in_radix = |digits: &str, radix: u32| {
        let plain = digits.replace('_', "");
        let valid = digits
            .chars()
            .all(|character| character == '_' || character.is_digit(radix));
        (valid && !digits.is_empty()).then(|| {
            // Only underscores: Python cannot read it either, which shows as a number out of range.
            let value = i128::from_str_radix(&plain, radix).ok();
            Scalar::Integer(value.and_then(|value| value.checked_mul(sign)))
        })
    };
    if digits == "0" {
        return Some(Scalar::Integer(Some(0)));
    }
    if let Some(hexadecimal) = digits.strip_prefix("0x") {
        return in_radix(hexadecimal, 16);
    }
    if let Some(binary) = digits.strip_prefix("0b") {
        return in_radix(binary, 2);
    }
    if let Some(octal) = digits.strip_prefix('0') {
        return in_radix(octal, 8);
    }
    if !digits.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    if digits.contains(':') {
        return sexagesimal(digits, sign);
    }
    in_radix(digits, 10)
}

/// `1:30` is ninety, a gift of YAML 1.1.
fn sexagesimal(text: &str, sign: i128) -> Option<Scalar> {
    let mut parts = text.split(':');
    let first = parts.next()?.replace('_', "");
    if first.is_empty() || !first.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let mut value = first.parse::<i128>().ok();
    for part in parts {
        let digits = (1..=2).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        let part: i128 = digits.then(|| part.parse().ok())??;
        if part > 59 {
            return None;
        }
        value = value.and_then(|value| value.checked_mul(60)?.checked_add(part));
    }
    Some(Scalar::Integer(
        value.and_then(|value| value.checked_mul(sign)),
    ))
}

fn float(text: &str) -> Option<Scalar> {
    let (sign, digits) = signed(text);
    match digits {
        ".inf" | ".Inf" | ".INF" => {
            return Some(Scalar::Float(if sign < 0 {
                f64::NEG_INFINITY
            } else {
                f64::INFINITY
            }));
        }
        ".nan" | ".NaN" | ".NAN" if digits.len() == text.len() => {
            return Some(Scalar::Float(f64::NAN));
        }
        _ => {}
    }
    // A point is required, and a sign in the exponent: to PyYAML `1e3` is text.
    let (mantissa, exponent) = match digits.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (digits, None),
    };
    let (whole, fraction) = mantissa.split_once('.')?;
    let digits_only = |part: &str| {
        part.bytes()
            .all(|byte| byte == b'_' || byte.is_ascii_digit())
    };
    let mantissa_is_valid = digits_only(whole)
        && digits_only(fraction)
        && if whole.is_empty() {
            fraction.starts_with(|first: char| first.is_ascii_digit())
        } else {
            whole.starts_with(|first: char| first.is_ascii_digit())
        };
    let exponent_is_valid = exponent.is_none_or(|exponent| {
        exponent.strip_prefix(['+', '-']).is_some_and(|digits| {
            !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
        })
    });
    if !mantissa_is_valid || !exponent_is_valid {
        return None;
    }
    text.replace('_', "").parse().ok().map(Scalar::Float)
}

/// `2001-12-14`, and that followed by a time. What follows is not checked: Python refuses it then.
fn is_timestamp(text: &str) -> bool {
    let bytes = text.as_bytes();
    let shape = |pattern: &[u8]| {
        bytes.len() >= pattern.len()
            && pattern.iter().zip(bytes).all(|(expected, byte)| {
                if *expected == b'0' {
                    byte.is_ascii_digit()
                } else {
                    byte == expected
                }
            })
    };
    if shape(b"0000-00-00") && bytes.len() == 10 {
        return true;
    }
    let date_length = [&b"0000-00-00"[..], b"0000-0-00", b"0000-00-0", b"0000-0-0"]
        .into_iter()
        .find(|pattern| shape(pattern))
        .map(<[u8]>::len);
    let Some(time) = date_length.and_then(|length| text.get(length..)) else {
        return false;
    };
    let time = match time.as_bytes().first() {
        Some(b'T' | b't') => &time[1..],
        Some(b' ' | b'\t') => time.trim_start_matches([' ', '\t']),
        _ => return false,
    };
    let mut parts = time.split(':');
    let short_number =
        |part: &str| matches!(part.len(), 1 | 2) && part.bytes().all(|b| b.is_ascii_digit());
    parts.next().is_some_and(short_number)
        && parts
            .next()
            .is_some_and(|part| part.len() == 2 && short_number(part))
        && parts
            .next()
            .is_some_and(|part| part.bytes().take(2).filter(u8::is_ascii_digit).count() == 2)
}

#[cfg(test)]
mod tests {
    use super::Scalar::{self, Boolean, Float, Integer, Null, Text, Timestamp};

    #[test]
    fn plain_scalars_mean_what_they_mean_to_pyyaml() {
        for (text, meaning) in [
            ("", Null),
            ("~", Null),
            ("NULL", Null),
            ("nULL", Text),
            ("yes", Boolean(true)),
            ("On", Boolean(true)),
            ("OFF", Boolean(false)),
            ("No", Boolean(false)),
            ("y", Text),
            ("oN", Text),
            ("0", Integer(Some(0))),
            ("-0", Integer(Some(0))),
            ("5000", Integer(Some(5000))),
            ("+12", Integer(Some(12))),
            ("-12", Integer(Some(-12))),
            ("1_000", Integer(Some(1000))),
            ("0644", Integer(Some(0o644))),
            ("0o644", Text),
            ("089", Text),
            ("0x1F", Integer(Some(31))),
            ("0xZZ", Text),
            ("0b101", Integer(Some(5))),
            ("1:30", Integer(Some(90))),
            ("1:60", Text),
            ("12h", Text),
            ("1.5", Float(1.5)),
            ("1.", Float(1.0)),
            (".5", Float(0.5)),
            ("1.5e+3", Float(1500.0)),
            ("1.5e3", Text),
            ("1e3", Text),
            (".", Text),
            ("-.inf", Float(f64::NEG_INFINITY)),
            ("1.2.3.4", Text),
            ("127.0.0.1", Text),
            ("::1", Text),
            ("2001-12-14", Timestamp),
            ("2001-12-14 21:59:43.10 -5", Timestamp),
            ("2001-1-1T1:00:00Z", Timestamp),
            ("2001-1-1", Text),
            ("2001-12-14x", Text),
            (
                "99999999999999999999999999999999999999999999",
                Integer(None),
            ),
            ("im.example.ios", Text),
        ] {
            assert_eq!(Scalar::of_plain(text), meaning, "{text:?}");
        }
    }
}
