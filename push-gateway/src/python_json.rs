//! JSON as Python's `json.dumps` writes it.
//!
//! In mode `sygnal` the bodies are the same bytes as Sygnal's, and the limits are counted on those bytes.
//! That fixes the separators (`", "` and `": "`), which characters are escaped and how numbers look.

use std::io;

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// `json.dumps(value, ensure_ascii=False)`: UTF-8. What Apple is sent.
pub(crate) fn to_utf8(value: &impl Serialize) -> Vec<u8> {
    to_vec(value, Utf8)
}

/// `json.dumps(value)`: ASCII alone. What Google and browsers are sent.
pub(crate) fn to_ascii(value: &impl Serialize) -> Vec<u8> {
    to_vec(value, Ascii)
}

/// How many bytes [`to_utf8`] and `serde_json` take for this text, without the quotes.
pub(crate) fn escaped_len(text: &str) -> usize {
    text.chars().map(escaped_len_of).sum()
}

/// For each character: where it ends, and how many bytes it takes when escaped.
pub(crate) fn character_ends(text: &str) -> impl Iterator<Item = (usize, usize)> {
    text.char_indices()
        .map(|(start, character)| (start + character.len_utf8(), escaped_len_of(character)))
}

const fn escaped_len_of(character: char) -> usize {
    match character {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        '\0'..='\u{1f}' => 6,
        _ => character.len_utf8(),
    }
}

fn to_vec(value: &impl Serialize, formatter: impl Formatter) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(512);
    value
        .serialize(&mut Serializer::with_formatter(&mut bytes, formatter))
        .expect("JSON values have string keys and a vector takes all bytes");
    bytes
}

struct Utf8;

struct Ascii;

macro_rules! separators_and_numbers {
    () => {
        fn begin_array_value<W: ?Sized + io::Write>(
            &mut self,
            writer: &mut W,
            first: bool,
        ) -> io::Result<()> {
            separate(writer, first)
        }

        fn begin_object_key<W: ?Sized + io::Write>(
            &mut self,
            writer: &mut W,
            first: bool,
        ) -> io::Result<()> {
            separate(writer, first)
        }

        fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
            writer.write_all(b": ")
        }

        fn write_number_str<W: ?Sized + io::Write>(
            &mut self,
            writer: &mut W,
            number: &str,
        ) -> io::Result<()> {
            write_number(writer, number)
        }
    };
}

impl Formatter for Utf8 {
    separators_and_numbers!();
}

impl Formatter for Ascii {
    separators_and_numbers!();

    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(|character| !matches!(character, ' '..='~')) {
            let (plain, others) = rest.split_at(at);
            writer.write_all(plain.as_bytes())?;
            let mut characters = others.chars();
            if let Some(character) = characters.next() {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
            rest = characters.as_str();
        }
        writer.write_all(rest.as_bytes())
    }
}

fn separate<W: ?Sized + io::Write>(writer: &mut W, first: bool) -> io::Result<()> {
    if first {
        Ok(())
    } else {
        writer.write_all(b", ")
    }
}

/// Integers keep their digits, whatever their size; all else is a Python `float`.
///
/// A float that overflows keeps its text: Python's `Infinity` is not JSON, and no provider takes it.
fn write_number<W: ?Sized + io::Write>(writer: &mut W, number: &str) -> io::Result<()> {
    if !number.contains(['.', 'e', 'E']) {
        let text = if number == "-0" { "0" } else { number };
        return writer.write_all(text.as_bytes());
    }
    match number.parse::<f64>() {
        Ok(float) if float.is_finite() => write_float(writer, float),
        Ok(_) | Err(_) => writer.write_all(number.as_bytes()),
    }
}

/// Python's `repr`: the shortest digits that read back the same; an exponent from 1e16 and below 1e-4.
fn write_float<W: ?Sized + io::Write>(writer: &mut W, float: f64) -> io::Result<()> {
    let scientific = shortest(float);
    let Some((mantissa, exponent)) = scientific.split_once('e') else {
        return writer.write_all(scientific.as_bytes());
    };
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return write!(writer, "{mantissa}e{sign}{:02}", exponent.unsigned_abs());
    }

    let decimals = mantissa.split_once('.').map_or(0, |(_, after)| after.len());
    let decimals = i32::try_from(decimals).unwrap_or(i32::MAX) - exponent;
    let decimals = usize::try_from(decimals.max(1)).unwrap_or(1);
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let sign = if mantissa.starts_with('-') { "-" } else { "" };
    let padded = match usize::try_from(exponent) {
        Ok(exponent) => format!("{digits:0<width$}", width = exponent + 1 + decimals),
        Err(_) => format!("{digits:0>width$}", width = decimals + 1),
    };
    let (before, after) = padded.split_at(padded.len() - decimals);
    write!(writer, "{sign}{before}.{after}")
}

/// The shortest digits in scientific notation. Between two that are equally near Python takes the even
/// one, and Rust's `{:e}` the larger.
fn shortest(float: f64) -> String {
    let shortest = format!("{float:e}");
    let digits = shortest
        .bytes()
        .take_while(|byte| *byte != b'e')
        .filter(u8::is_ascii_digit)
        .count();
    let nearest = format!("{float:.*e}", digits.saturating_sub(1));
    if nearest.parse() == Ok(float) {
        nearest
    } else {
        shortest
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        process::{Command, Stdio},
    };

    use proptest::{prelude::*, strategy::ValueTree as _, test_runner::TestRunner};
    use serde_json::Value;

    use super::*;

    fn utf8(json: &str) -> String {
        String::from_utf8(to_utf8(&parse(json))).unwrap()
    }

    fn ascii(json: &str) -> String {
        String::from_utf8(to_ascii(&parse(json))).unwrap()
    }

    fn parse(json: &str) -> Value {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn separators_have_spaces() {
        assert_eq!(
            utf8(r#"{"a":[1,2,{}],"b":{"c":null,"d":true},"e":[]}"#),
            r#"{"a": [1, 2, {}], "b": {"c": null, "d": true}, "e": []}"#
        );
    }

    #[test]
    fn characters_are_escaped_as_python_does() {
        let json = r#""\u0000\u001f\b\f\n\r\t\"\\\/\u007f é 💥""#;
        assert_eq!(
            utf8(json),
            "\"\\u0000\\u001f\\b\\f\\n\\r\\t\\\"\\\\/\u{7f} é 💥\""
        );
        assert_eq!(
            ascii(json),
            r#""\u0000\u001f\b\f\n\r\t\"\\/\u007f \u00e9 \ud83d\udca5""#
        );
    }

    #[test]
    fn numbers_look_as_in_python() {
        for (json, expected) in [
            ("-0", "0"),
            (
                "123456789012345678901234567890",
                "123456789012345678901234567890",
            ),
            ("1.0", "1.0"),
            ("-0.0", "-0.0"),
            ("1e5", "100000.0"),
            ("1E16", "1e+16"),
            ("9999999999999998.0", "9999999999999998.0"),
            ("0.0001", "0.0001"),
            ("0.00001", "1e-05"),
            ("1.5e-7", "1.5e-07"),
            ("1e100", "1e+100"),
            ("0.10", "0.1"),
            ("12.5", "12.5"),
            ("100", "100"),
            ("-120.0", "-120.0"),
            ("0.00012", "0.00012"),
            ("-164078130932858.64", "-164078130932858.62"),
        ] {
            assert_eq!(utf8(json), expected, "{json}");
            assert_eq!(ascii(json), expected, "{json}");
        }
    }

    #[test]
    fn a_float_that_overflows_stays_json() {
        serde_json::from_str::<Value>(&utf8("1e999")).unwrap();
    }

    /// Any JSON text, with numbers and escapes in every spelling.
    fn json_text() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            any::<bool>().prop_map(|value| value.to_string()),
            any::<i64>().prop_map(|value| value.to_string()),
            "-?(0|[1-9][0-9]{0,40})",
            "-?(0|[1-9][0-9]{0,20})\\.[0-9]{1,20}",
            "-?[0-9](\\.[0-9]{1,17})?[eE][+-]?[0-9]{1,2}",
            any::<f64>()
                .prop_filter("JSON has no NaN", |value| value.is_finite())
                .prop_map(|value| format!("{value:e}")),
            any::<String>().prop_map(|text| Value::from(text).to_string()),
            proptest::collection::vec(0..0x80_u8, 0..20)
                .prop_map(|bytes| Value::from(String::from_utf8(bytes).unwrap()).to_string()),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6)
                    .prop_map(|values| format!("[{}]", values.join(","))),
                proptest::collection::vec((any::<String>(), inner), 0..6).prop_map(|members| {
                    let members: Vec<_> = members
                        .into_iter()
                        .map(|(key, value)| format!("{}:{value}", Value::from(key)))
                        .collect();
                    format!("{{{}}}", members.join(","))
                }),
            ]
        })
    }

    #[test]
    fn bytes_are_those_of_python() {
        const PROGRAM: &str = "import json, sys\n\
            for line in sys.stdin.buffer.read().split(b'\\n'):\n\
            \x20   value = json.loads(line)\n\
            \x20   sys.stdout.buffer.write(json.dumps(value, ensure_ascii=False).encode() + b'\\n')\n\
            \x20   sys.stdout.buffer.write(json.dumps(value).encode() + b'\\n')\n";

        let mut runner = TestRunner::default();
        let strategy = json_text();
        let texts: Vec<String> = (0..3000)
            .map(|_| strategy.new_tree(&mut runner).unwrap().current())
            .filter(|text| serde_json::from_str::<Value>(text).is_ok())
            .collect();

        let child = Command::new("python3")
            .args(["-c", PROGRAM])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(error) => {
                println!("skipped: python3 cannot be run ({error})");
                return;
            }
        };
        let mut input = child.stdin.take().unwrap();
        let joined = texts.join("\n");
        let writer = std::thread::spawn(move || input.write_all(joined.as_bytes()));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        assert!(output.status.success(), "python3 refused an input");

        let output = String::from_utf8(output.stdout).unwrap();
        let mut lines = output.split('\n');
        for text in &texts {
            assert_eq!(utf8(text), lines.next().unwrap(), "{text}");
            assert_eq!(ascii(text), lines.next().unwrap(), "{text}");
        }
        assert_eq!(lines.next(), Some(""));
    }

    proptest! {
        #[test]
        fn escaped_len_is_what_is_written(text: String) {
            prop_assert_eq!(escaped_len(&text) + 2, to_utf8(&text).len());
            prop_assert_eq!(escaped_len(&text) + 2, Value::from(text).to_string().len());
        }
    }
}
