//! A change to a file that leaves everything else in it as it is, comments and spaces too.

use std::{fmt::Write as _, ops::Range};

use saphyr_parser::{Event, Parser, Span};

/// Why a list cannot be changed in place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CannotEdit {
    /// It is not YAML.
    #[error("it is not valid YAML")]
    Syntax,
    /// The top has no such key.
    #[error("it has no `{0}`")]
    Absent(String),
    /// There is something else than texts, or it is written in a way that is not changed here.
    #[error(
        "line {line}: `{key}` is no plain list of texts (an anchor, an alias, a tag, or something else)"
    )]
    Form {
        /// The key
        key: String,
        /// Where its value is
        line: usize,
    },
}

/// What an item is put before.
enum Place {
    /// A single value, which has to become a list.
    Alone(Range<usize>),
    /// The inside of `[…]`, right after the bracket.
    Bracket { at: usize, is_empty: bool },
    /// The `-` of the first item.
    Dash(usize),
}

/// Puts a text in front of the list that a key at the top has; one value alone is a list of one.
///
/// Every other byte of the file stays as it is.
///
/// # Errors
///
/// When the key has no list that is written out.
pub fn prepend(text: &str, key: &str, item: &str) -> Result<String, CannotEdit> {
    let body = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mark = text.len() - body.len();
    let place = find(body, key)?;
    let item = quoted(item);
    let (range, new) = match place {
        Place::Alone(range) => {
            let old = &body[range.clone()];
            // a plain text may have what ends an item of a list
            let is_quoted = old.starts_with(['"', '\'']);
            let old = if is_quoted {
                old.to_owned()
            } else {
                quoted(old)
            };
            (range, format!("[{item}, {old}]"))
        }
        Place::Bracket { at, is_empty } => {
            let separator = if is_empty { "" } else { ", " };
            (at..at, format!("{item}{separator}"))
        }
        Place::Dash(at) => {
            let start = body[..at].rfind('\n').map_or(0, |newline| newline + 1);
            let line_end = if body[..at].ends_with("\r\n") || body[..start].ends_with("\r\n") {
                "\r\n"
            } else {
                "\n"
            };
            let indentation = &body[start..at];
            (at..at, format!("- {item}{line_end}{indentation}"))
        }
    };
    let (start, end) = (mark + range.start, mark + range.end);
    Ok(format!("{}{new}{}", &text[..start], &text[end..]))
}

/// Where the list of a key at the top begins. Of a key that is there twice the last counts.
fn find(text: &str, key: &str) -> Result<Place, CannotEdit> {
    let positions = Positions::of(text);
    let form = |span: &Span| CannotEdit::Form {
        key: key.to_owned(),
        line: span.start.line(),
    };
    let mut depth = 0_usize;
    // at the top, whether a key comes next, and whether the last one is the one that is looked for
    let (mut is_key, mut is_wanted) = (true, false);
    // the list, as long as its end has not come
    let mut open = None;
    let mut found = None;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|_| CannotEdit::Syntax)?;
        let at = positions.byte(span.start.index());
        let is_value = depth == 1 && !is_key && is_wanted;
        let is_plain = |anchor: usize, has_tag: bool| anchor == 0 && !has_tag;
        match event {
            Event::Scalar(value, _, anchor, tag) => {
                if let Some(Place::Bracket { is_empty, .. }) = &mut open {
                    *is_empty = false;
                }
                if is_value {
                    let length = end_of_scalar(text.get(at..).unwrap_or_default(), &value)
                        .filter(|_| is_plain(anchor, tag.is_some()))
                        .ok_or_else(|| form(&span))?;
                    found = Some(Place::Alone(at..at + length));
                }
                if depth == 1 {
                    is_wanted = is_key && value == key;
                    is_key = !is_key;
                }
            }
            Event::SequenceStart(anchor, tag) if is_value => {
                if !is_plain(anchor, tag.is_some()) {
                    return Err(form(&span));
                }
                open = Some(if text.as_bytes().get(at) == Some(&b'[') {
                    Place::Bracket {
                        at: at + 1,
                        is_empty: true,
                    }
                } else {
                    // of a list that is not indented the parser tells the place behind the dash
                    Place::Dash(dash_of_line(text, at).ok_or_else(|| form(&span))?)
                });
                depth += 1;
            }
            Event::SequenceStart(..) | Event::MappingStart(..) | Event::Alias(_)
                if is_value || open.is_some() =>
            {
                return Err(form(&span));
            }
            Event::SequenceStart(..) | Event::MappingStart(..) => depth += 1,
            Event::SequenceEnd | Event::MappingEnd => {
                depth = depth.saturating_sub(1);
                if depth == 1 {
                    found = open.take().or(found);
                    is_key = !is_key;
                }
            }
            Event::Alias(_) => {
                if depth == 1 {
                    is_wanted = false;
                    is_key = !is_key;
                }
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => {}
        }
    }
    found.ok_or_else(|| CannotEdit::Absent(key.to_owned()))
}

/// The dash that the line begins with which has this place.
fn dash_of_line(text: &str, at: usize) -> Option<usize> {
    let start = text.get(..at)?.rfind('\n').map_or(0, |newline| newline + 1);
    let line = text.get(start..)?;
    let indentation = line.len() - line.trim_start_matches(' ').len();
    line.get(indentation..)?
        .starts_with('-')
        .then_some(start + indentation)
}

/// Where a value ends that is written on one line; the parser does not tell.
fn end_of_scalar(text: &str, value: &str) -> Option<usize> {
    let line = text.lines().next()?;
    match line.chars().next()? {
        '\'' => {
            let inner = value.replace('\'', "''");
            let end = inner.len() + 2;
            (line.get(..end)? == format!("'{inner}'")).then_some(end)
        }
        '"' => {
            let mut escaped = false;
            let closing = line.bytes().skip(1).position(|byte| {
                let is_end = byte == b'"' && !escaped;
                escaped = byte == b'\\' && !escaped;
                is_end
            })?;
            Some(closing + 2)
        }
        _ => (!value.is_empty() && line.starts_with(value)).then_some(value.len()),
    }
}

/// A text as YAML has it in quotation marks, which is as JSON has it.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            control if control.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(control));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

/// The parser counts characters, a text is cut by bytes.
struct Positions(Vec<usize>);

impl Positions {
    fn of(text: &str) -> Self {
        Self(
            text.char_indices()
                .map(|(byte, _)| byte)
                .chain([text.len()])
                .collect(),
        )
    }

    fn byte(&self, character: usize) -> usize {
        let last = self.0.last().copied().unwrap_or_default();
        self.0.get(character).copied().unwrap_or(last)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_item_comes_first_and_all_else_stays() {
        for (before, after) in [
            ("a: [\"x\", 'y']\n", "a: [\"new\", \"x\", 'y']\n"),
            ("a: [ x ] # why\nb: 1\n", "a: [\"new\",  x ] # why\nb: 1\n"),
            ("a: []\n", "a: [\"new\"]\n"),
            ("a: \"x\" # why\n", "a: [\"new\", \"x\"] # why\n"),
            ("a: 'it''s' # '\n", "a: [\"new\", 'it''s'] # '\n"),
            (
                "a: \"\\\"x\\\\\" # \"\n",
                "a: [\"new\", \"\\\"x\\\\\"] # \"\n",
            ),
            ("a: x, y\n", "a: [\"new\", \"x, y\"]\n"),
            ("a: x]\\ # c\n", "a: [\"new\", \"x]\\\\\"] # c\n"),
            (
                "a: # why\n  # first\n  - x # c\n\n  - y\nb: 1",
                "a: # why\n  # first\n  - \"new\"\n  - x # c\n\n  - y\nb: 1",
            ),
            ("a:\n- x\n", "a:\n- \"new\"\n- x\n"),
            (
                "a:\r\n  - x\r\nb: 1\r\n",
                "a:\r\n  - \"new\"\r\n  - x\r\nb: 1\r\n",
            ),
            (
                "a: [\n  # the first\n  x,\n  y\n]\n",
                "a: [\"new\", \n  # the first\n  x,\n  y\n]\n",
            ),
            (
                "# ä ö €\n\"a\": [x] # ü\n",
                "# ä ö €\n\"a\": [\"new\", x] # ü\n",
            ),
            ("\u{feff}a: x\n", "\u{feff}a: [\"new\", \"x\"]\n"),
            (
                "{b: {a: [z]}, a: [x]}\n",
                "{b: {a: [z]}, a: [\"new\", x]}\n",
            ),
            ("b: {a: [z]}\na: [x]\n", "b: {a: [z]}\na: [\"new\", x]\n"),
            (
                "b: [a, a]\n? a\n: [x]\n",
                "b: [a, a]\n? a\n: [\"new\", x]\n",
            ),
            ("a: [x]\na: [y]\n", "a: [x]\na: [\"new\", y]\n"),
        ] {
            assert_eq!(
                prepend(before, "a", "new").as_deref(),
                Ok(after),
                "{before:?}"
            );
        }
    }

    #[test]
    fn what_is_not_written_out_is_left_alone() {
        for (text, problem) in [
            ("b: 1\n", "it has no `a`"),
            ("b: {a: [x]}\n", "it has no `a`"),
            ("a: [\n", "it is not valid YAML"),
            ("b: &x [y]\na: *x\n", "line 2: `a` is no plain list"),
            ("a: &x [y]\n", "line 1: `a` is no plain list"),
            ("a: !!seq [y]\n", "line 1: `a` is no plain list"),
            ("a: !!str y\n", "line 1: `a` is no plain list"),
            ("a: {b: c}\n", "line 1: `a` is no plain list"),
            ("a: [{b: c}]\n", "line 1: `a` is no plain list"),
            ("a: [[x]]\n", "line 1: `a` is no plain list"),
            ("b: &x y\na: [*x]\n", "line 2: `a` is no plain list"),
            ("a: |\n  x\n", "line 2: `a` is no plain list"),
            ("a: x\n  y\n", "line 1: `a` is no plain list"),
            ("a: \"x\n  y\"\n", "line 1: `a` is no plain list"),
            ("a:\n", "line 1: `a` is no plain list"),
        ] {
            let found = prepend(text, "a", "new").expect_err(text).to_string();
            assert!(found.starts_with(problem), "{text:?} gave {found:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[-\\[\\]{}:,#&*!|>'\"%@`?<~ \\n\\ta€ä01._=/\\\\]{0,80}") {
            let _ = prepend(&text, "a", "new");
        }

        #[test]
        fn every_text_can_be_an_item(item in "[ -~€]{0,40}") {
            let edited = prepend("a: [x]\n", "a", &item).expect("a list");
            let mut scalars = Vec::new();
            for event in Parser::new_from_str(&edited) {
                if let (Event::Scalar(value, ..), _) = event.expect("valid YAML") {
                    scalars.push(value.into_owned());
                }
            }
            prop_assert_eq!(scalars, ["a".to_owned(), item, "x".to_owned()]);
        }
    }
}
