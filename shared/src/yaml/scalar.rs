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
        // `0_` is nothing, in base 8.
        return in_radix(&format!("0{octal}"), 8).filter(|_| !octal.is_empty());
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
    let first = parts.next()?;
    if !first.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    let first = first.replace('_', "");
    if !first.bytes().all(|byte| byte.is_ascii_digit()) {
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
    if let Some((whole, last)) = whole.rsplit_once(':')
        && exponent.is_none()
    {
        return sexagesimal_float(whole, last, fraction, sign);
    }
    let mantissa_is_valid = digits_only(whole)
        && digits_only(fraction)
        && if whole.is_empty() {
            digits.len() == text.len() && fraction.starts_with(|first: char| first.is_ascii_digit())
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

/// `1:30.5`
fn sexagesimal_float(whole: &str, last: &str, fraction: &str, sign: i128) -> Option<Scalar> {
    let is_valid = fraction
        .bytes()
        .all(|byte| byte == b'_' || byte.is_ascii_digit());
    let Scalar::Integer(number) = sexagesimal(&format!("{whole}:{last}"), sign)? else {
        return None;
    };
    let fraction: f64 = format!("0.{}", fraction.replace('_', "")).parse().ok()?;
    #[expect(clippy::cast_precision_loss, reason = "a float is what is written")]
    let number = number.map_or(f64::INFINITY, |number| number as f64);
    let fraction = if sign < 0 { -fraction } else { fraction };
    is_valid.then_some(Scalar::Float(number + fraction))
}

/// `2001-12-14`, or with one digit for month and day too when a time follows.
fn is_timestamp(text: &str) -> bool {
    let date = || {
        let (year, rest) = digits(text);
        let (month, rest) = digits(rest.strip_prefix('-')?);
        let (day, rest) = digits(rest.strip_prefix('-')?);
        (year == 4 && (1..=2).contains(&month) && (1..=2).contains(&day))
            .then_some((month + day == 4, rest))
    };
    date().is_some_and(|(in_full, rest)| {
        (in_full && rest.is_empty()) || is_time(rest).unwrap_or(false)
    })
}

/// `T21:59:43.10-05:00` and ` 21:59:43Z`.
fn is_time(text: &str) -> Option<bool> {
    let text = match text.strip_prefix(['T', 't']) {
        Some(rest) => rest,
        None => text
            .strip_prefix([' ', '\t'])?
            .trim_start_matches([' ', '\t']),
    };
    let (hour, rest) = digits(text);
    let (minute, rest) = digits(rest.strip_prefix(':')?);
    let (second, rest) = digits(rest.strip_prefix(':')?);
    let rest = rest
        .strip_prefix('.')
        .map_or(rest, |fraction| digits(fraction).1);
    let is_valid = (1..=2).contains(&hour) && minute == 2 && second == 2;
    let zone = rest.trim_start_matches([' ', '\t']);
    if !is_valid || rest.is_empty() || zone == "Z" {
        return Some(is_valid);
    }
    let (hour, rest) = digits(zone.strip_prefix(['+', '-'])?);
    let minute_is_valid = rest.is_empty()
        || rest
            .strip_prefix(':')
            .is_some_and(|text| digits(text) == (2, ""));
    Some((1..=2).contains(&hour) && minute_is_valid)
}

/// How many digits a text starts with, and what follows them.
fn digits(text: &str) -> (usize, &str) {
    let rest = text.trim_start_matches(|first: char| first.is_ascii_digit());
    (text.len() - rest.len(), rest)
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
            ("2001-12-14 21:59:43 -051", Text),
            ("-.5", Text),
            ("_1:30.5", Text),
            ("1:30.5", Float(90.5)),
            ("-1:30.5", Float(-90.5)),
            ("0_", Integer(Some(0))),
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
