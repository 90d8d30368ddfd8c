//! Typed values out of nodes.

use std::{cell::RefCell, fmt::Display, ops::RangeInclusive, time::Duration};

use address_policy::parse_network;
use ipnet::IpNet;

use super::{
    Diagnostics, Node, Scalar, Severity,
    document::{Content, Entry, Key},
    unit::{parse_duration, parse_size, show_duration, show_size},
};

/// A value of the file: where it is, and what to call it.
///
/// The reading methods return `None` after having reported what is wrong.
#[derive(Clone, Debug)]
pub struct Value<'a> {
    node: &'a Node,
    /// Of the key, where there is one, else of the value.
    line: usize,
    path: String,
    hidden: Hidden,
    diagnostics: &'a Diagnostics,
}

/// Whether messages may show what was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hidden {
    No,
    Yes,
}

/// A mapping whose keys are known in advance.
///
/// It remembers which keys were asked for: [`Section::finish`] reports the others.
#[derive(Debug)]
pub struct Section<'a> {
    path: String,
    line: usize,
    entries: &'a [Entry],
    asked: RefCell<Vec<&'static str>>,
    diagnostics: &'a Diagnostics,
}

impl<'a> Value<'a> {
    /// The whole file.
    #[must_use]
    pub fn root(node: &'a Node, diagnostics: &'a Diagnostics) -> Self {
        Self {
            node,
            line: node.line,
            path: String::new(),
            hidden: Hidden::No,
            diagnostics,
        }
    }

    /// The same value, but what is in it is not shown in any message.
    #[must_use]
    pub fn hidden(mut self) -> Self {
        self.hidden = Hidden::Yes;
        self
    }

    /// Its key with the keys above it: `http.port`, `apps."im.example.*".type`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Where its key is, for a message: `on line 3`, or `in NAME` for a variable.
    #[must_use]
    pub fn place(&self) -> String {
        self.diagnostics.place(self.line)
    }

    /// Meaning and text of a scalar; none for a list or a mapping.
    #[must_use]
    pub fn meaning(&self) -> Option<(Scalar, &'a str)> {
        match &self.node.content {
            Content::Scalar { text, meaning } => Some((*meaning, text)),
            Content::List(_) | Content::Mapping(_) => None,
        }
    }

    /// Reports an error at this value.
    pub fn error(&self, text: impl Display) {
        self.diagnostics
            .report(Severity::Error, self.line, &self.path, text);
    }

    /// Reports a warning at this value.
    pub fn warning(&self, text: impl Display) {
        self.diagnostics
            .report(Severity::Warning, self.line, &self.path, text);
    }

    /// Reports at this value what stops a part of the whole.
    pub fn failing(&self, text: impl Display) {
        self.diagnostics
            .report(Severity::Failing, self.line, &self.path, text);
    }

    /// Reports that something else than `expected` was found.
    pub fn unexpected(&self, expected: impl Display) {
        self.error(format_args!("found {}, expected {expected}", self.found()));
    }

    /// What stands here, for a message.
    #[must_use]
    pub fn found(&self) -> String {
        let (text, meaning) = match &self.node.content {
            Content::List(_) => return "a list".to_owned(),
            Content::Mapping(_) => return "a mapping".to_owned(),
            Content::Scalar { text, meaning } => (text, meaning),
        };
        let kind = match meaning {
            Scalar::Null => return "nothing".to_owned(),
            Scalar::Boolean(_) => "the boolean",
            Scalar::Integer(_) | Scalar::Float(_) => "the number",
            Scalar::Timestamp => "the date",
            Scalar::Merge | Scalar::Text => "the text",
        };
        if self.hidden == Hidden::Yes {
            return kind.replacen("the", "a", 1);
        }
        let shown = shorten(text);
        match meaning {
            Scalar::Text => format!("{shown:?}"),
            Scalar::Null
            | Scalar::Boolean(_)
            | Scalar::Integer(_)
            | Scalar::Float(_)
            | Scalar::Timestamp
            | Scalar::Merge => format!("{kind} {shown}"),
        }
    }

    /// Text.
    #[must_use]
    pub fn text(&self) -> Option<&'a str> {
        match &self.node.content {
            Content::Scalar {
                text,
                meaning: Scalar::Text,
            } => Some(text),
            Content::Scalar { text, .. } if self.hidden == Hidden::No => {
                self.unexpected(format_args!(
                    "text (put it in quotes: \"{}\")",
                    shorten(text)
                ));
                None
            }
            Content::Scalar { .. } => {
                self.unexpected("text (put it in quotes)");
                None
            }
            Content::List(_) | Content::Mapping(_) => {
                self.unexpected("text");
                None
            }
        }
    }

    /// Text that is not empty.
    #[must_use]
    pub fn filled_text(&self) -> Option<&'a str> {
        let text = self.text()?;
        if text.trim().is_empty() {
            self.error("found empty text, expected something in it");
            return None;
        }
        Some(text)
    }

    /// `true` or `false`.
    #[must_use]
    pub fn boolean(&self) -> Option<bool> {
        match self.meaning() {
            Some((Scalar::Boolean(value), _)) => Some(value),
            Some((Scalar::Text, text)) if matches!(Scalar::of_plain(text), Scalar::Boolean(_)) => {
                self.unexpected("true or false (without quotes)");
                None
            }
            _ => {
                self.unexpected("true or false");
                None
            }
        }
    }

    /// A whole number within `range`.
    #[must_use]
    pub fn integer(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let expected = || {
            if *range.end() >= u64::from(u32::MAX) {
                format!("a whole number of at least {}", range.start())
            } else {
                format!("a whole number from {} to {}", range.start(), range.end())
            }
        };
        match self.meaning() {
            Some((Scalar::Integer(Some(number)), _)) => {
                let number = u64::try_from(number).ok().filter(|n| range.contains(n));
                if number.is_none() {
                    self.unexpected(expected());
                }
                number
            }
            Some((Scalar::Text, text)) if matches!(Scalar::of_plain(text), Scalar::Integer(_)) => {
                self.unexpected(format_args!("{} (without quotes)", expected()));
                None
            }
            _ => {
                self.unexpected(expected());
                None
            }
        }
    }

    /// As [`Value::integer`], for counts and limits of what is held in memory.
    #[must_use]
    pub fn count(&self, range: RangeInclusive<usize>) -> Option<usize> {
        let range = *range.start() as u64..=*range.end() as u64;
        self.integer(range)
            .and_then(|number| usize::try_from(number).ok())
    }

    /// A number of seconds, or text with a unit.
    #[must_use]
    pub fn duration(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        let duration = match self.meaning() {
            Some((Scalar::Integer(Some(seconds)), _)) => {
                u64::try_from(seconds).ok().map(Duration::from_secs)
            }
            Some((Scalar::Float(seconds), _)) => Duration::try_from_secs_f64(seconds).ok(),
            Some((Scalar::Text, text)) => parse_duration(text),
            _ => None,
        };
        let Some(duration) = duration else {
            self.unexpected(
                "a duration: a number of seconds, or a number with a unit (500ms, 90s, 10m, 12h, 1d)",
            );
            return None;
        };
        if !range.contains(&duration) {
            let (shortest, longest) = (*range.start(), *range.end());
            self.unexpected(format_args!(
                "a duration from {} to {}",
                show_duration(shortest),
                show_duration(longest)
            ));
            return None;
        }
        Some(duration)
    }

    /// A number of bytes, or text with a unit.
    #[must_use]
    pub fn size(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let size = match self.meaning() {
            Some((Scalar::Integer(Some(bytes)), _)) => u64::try_from(bytes).ok(),
            Some((Scalar::Text, text)) => parse_size(text),
            _ => None,
        };
        let Some(size) = size else {
            self.unexpected(
                "a size: a number of bytes, or a number with a unit (64kB, 512KiB, 1MiB)",
            );
            return None;
        };
        if !range.contains(&size) {
            self.unexpected(format_args!(
                "a size from {} to {}",
                show_size(*range.start()),
                show_size(*range.end())
            ));
            return None;
        }
        Some(size)
    }

    /// One of the given words.
    #[must_use]
    pub fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        let words: Vec<_> = choices
            .iter()
            .map(|(word, _)| if word.is_empty() { "\"\"" } else { *word })
            .collect();
        let expected = || match words.as_slice() {
            [word] => (*word).to_owned(),
            words => format!("one of {}", words.join(", ")),
        };
        // `off`, `no` and the like are words too where a list of words is expected.
        let Some((Scalar::Text | Scalar::Boolean(_), text)) = self.meaning() else {
            self.unexpected(expected());
            return None;
        };
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let suggestion = nearest(text, words.iter().copied())
            .map(|word| format!(" (did you mean `{word}`?)"))
            .unwrap_or_default();
        self.unexpected(format_args!("{}{suggestion}", expected()));
        None
    }

    /// An IP address or network.
    #[must_use]
    pub fn network(&self) -> Option<IpNet> {
        match parse_network(self.text()?.trim()) {
            Ok(network) => Some(network),
            Err(problem) => {
                self.error(problem);
                None
            }
        }
    }

    /// The members of a list.
    #[must_use]
    pub fn list(&self) -> Option<Vec<Self>> {
        let Content::List(items) = &self.node.content else {
            self.unexpected("a list (`[a, b]`, or lines that start with `- `)");
            return None;
        };
        Some(
            items
                .iter()
                .enumerate()
                .map(|(index, node)| Self {
                    node,
                    line: node.line,
                    path: format!("{}[{index}]", self.path),
                    ..self.clone()
                })
                .collect(),
        )
    }

    /// The members of a list, or one value alone.
    #[must_use]
    pub fn one_or_more(&self) -> Vec<Self> {
        match &self.node.content {
            Content::List(_) => self.list().unwrap_or_default(),
            Content::Scalar { .. } | Content::Mapping(_) => vec![self.clone()],
        }
    }

    /// Whether this is a list or a mapping with nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match &self.node.content {
            Content::Scalar { .. } => false,
            Content::List(items) => items.is_empty(),
            Content::Mapping(mapping) => mapping.entries.is_empty(),
        }
    }

    /// Whether this is a list.
    #[must_use]
    pub fn is_list(&self) -> bool {
        matches!(self.node.content, Content::List(_))
    }

    /// A mapping whose keys are known in advance. When something else is here, that is reported, and
    /// the section is empty.
    #[must_use]
    pub fn section(&self) -> Section<'a> {
        Section {
            path: self.path.clone(),
            line: self.line,
            entries: self.mapping_entries(),
            asked: RefCell::default(),
            diagnostics: self.diagnostics,
        }
    }

    /// A mapping whose keys are the user's own: key and value of each entry. When something else is
    /// here, that is reported, and there are no entries.
    #[must_use]
    pub fn entries(&self) -> Vec<(&'a str, Self)> {
        self.mapping_entries()
            .iter()
            .filter_map(|entry| {
                let value = Self {
                    hidden: self.hidden,
                    ..Self::of_entry(&self.path, entry, self.diagnostics)
                };
                if entry.key.meaning == Scalar::Text {
                    return Some((entry.key.text.as_str(), value));
                }
                value.error(format_args!(
                    "found a key that is not text, expected text (put it in quotes: \"{}\")",
                    shorten(&entry.key.text)
                ));
                None
            })
            .collect()
    }

    fn mapping_entries(&self) -> &'a [Entry] {
        match &self.node.content {
            Content::Mapping(mapping) => {
                for (Key { text, line, .. }, earlier) in &mapping.repeated {
                    self.diagnostics.report(
                        Severity::Warning,
                        *line,
                        &join(&self.path, text),
                        format_args!(
                            "is set again (first {}); this one counts",
                            self.diagnostics.place(*earlier)
                        ),
                    );
                }
                &mapping.entries
            }
            Content::Scalar {
                meaning: Scalar::Null,
                ..
            } => &[],
            Content::List(_) | Content::Scalar { .. } => {
                self.unexpected("a mapping (indented lines of the form `key: value`)");
                &[]
            }
        }
    }

    fn of_entry(parent: &str, entry: &'a Entry, diagnostics: &'a Diagnostics) -> Self {
        Self {
            node: &entry.value,
            line: entry.key.line,
            path: join(parent, &entry.key.text),
            hidden: Hidden::No,
            diagnostics,
        }
    }

    fn is_null(&self) -> bool {
        matches!(self.meaning(), Some((Scalar::Null, _)))
    }
}

impl<'a> Section<'a> {
    /// The value of `key`, if it is there and not null.
    #[must_use]
    pub fn get(&self, key: &'static str) -> Option<Value<'a>> {
        if !self.entries.iter().any(|entry| entry.key.text == key) {
            self.diagnostics.note_absent(join(&self.path, key));
        }
        self.ignored(key)
    }

    /// As [`Section::get`], for a key that is accepted but that no file needs to have.
    #[must_use]
    pub fn ignored(&self, key: &'static str) -> Option<Value<'a>> {
        self.asked.borrow_mut().push(key);
        let entry = self.entries.iter().find(|entry| entry.key.text == key)?;
        Some(Value::of_entry(&self.path, entry, self.diagnostics)).filter(|value| !value.is_null())
    }

    /// The value of `key`; reports when there is none, with `remedy` as what to do.
    #[must_use]
    pub fn required(&self, key: &'static str, remedy: impl Display) -> Option<Value<'a>> {
        let value = self.get(key);
        if value.is_none() {
            self.error(format_args!("`{key}` is missing ({remedy})"));
        }
        value
    }

    /// The section `key`; an empty one if it is not there.
    #[must_use]
    pub fn section(&self, key: &'static str) -> Self {
        match self.get(key) {
            Some(value) => value.section(),
            None => Self {
                path: join(&self.path, key),
                line: self.line,
                entries: &[],
                asked: RefCell::default(),
                diagnostics: self.diagnostics,
            },
        }
    }

    /// The networks that `key` lists, none without it. Whatever is no network is reported.
    #[must_use]
    pub fn networks(&self, key: &'static str) -> Vec<IpNet> {
        let items = self
            .get(key)
            .map_or_else(Vec::new, |list| list.one_or_more());
        items.iter().filter_map(Value::network).collect()
    }

    /// Whether `key` is there and not null.
    #[must_use]
    pub fn has(&self, key: &'static str) -> bool {
        self.get(key).is_some()
    }

    /// Reports an error at the section's key.
    pub fn error(&self, text: impl Display) {
        self.diagnostics
            .report(Severity::Error, self.line, &self.path, text);
    }

    /// Reports a warning at the section's key.
    pub fn warning(&self, text: impl Display) {
        self.diagnostics
            .report(Severity::Warning, self.line, &self.path, text);
    }

    /// The line of the section's key.
    #[must_use]
    pub fn line(&self) -> usize {
        self.line
    }

    /// The section's key with the keys above it.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Reports each key that was never asked for, with the nearest one that was. The value of such a
    /// key is not shown: it may be a secret under a misspelt name.
    pub fn finish(&self, severity: Severity) {
        let asked = self.asked.borrow();
        for entry in self.entries {
            let key = entry.key.text.as_str();
            if asked.contains(&key) {
                continue;
            }
            // A file may be one that another program reads, too; a variable is ours.
            let severity = if Diagnostics::is_variable(entry.key.line) {
                Severity::Error
            } else {
                severity
            };
            let consequence = match severity {
                Severity::Warning => "unknown key, ignored",
                Severity::Failing | Severity::Error => "unknown key",
            };
            let suggestion = nearest(key, asked.iter().copied())
                .map(|known| format!(" (did you mean `{known}`?)"))
                .unwrap_or_default();
            self.diagnostics.report(
                severity,
                entry.key.line,
                &join(&self.path, key),
                format_args!("{consequence}{suggestion}"),
            );
        }
    }
}

/// The candidate that `word` is most probably a misspelling of.
fn nearest<'c>(word: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    let folded = |text: &str| text.to_lowercase().replace('-', "_");
    let word = folded(word);
    candidates
        .map(|candidate| {
            let known = folded(candidate);
            let is_beginning = word.len() >= 3 && known.starts_with(&word);
            let closeness = strsim::normalized_damerau_levenshtein(&word, &known);
            (if is_beginning { 1.0 } else { closeness }, candidate)
        })
        .filter(|(closeness, _)| *closeness >= 0.6)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, candidate)| candidate)
}

/// `parent.key`, the key in quotes if it is not a plain word.
fn join(parent: &str, key: &str) -> String {
    let is_word = !key.is_empty()
        && key
            .chars()
            .all(|character| character.is_alphanumeric() || matches!(character, '_' | '-'));
    let key = if is_word {
        key.to_owned()
    } else {
        format!("{:?}", shorten(key))
    };
    if parent.is_empty() {
        key
    } else {
        format!("{parent}.{key}")
    }
}

/// Enough of a text to recognise it by.
fn shorten(text: &str) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::parse;

    /// What `read` makes of `value: TEXT`, and the problems it reported.
    fn read<T>(text: &str, read: impl FnOnce(Value<'_>) -> Option<T>) -> Result<T, String> {
        let diagnostics = Diagnostics::new("f");
        let source = format!("value: {text}\n");
        let root = parse(&source, &diagnostics).expect("valid YAML");
        let section = Value::root(&root, &diagnostics).section();
        let result = section.get("value").and_then(read);
        result.ok_or_else(|| diagnostics.of(Severity::Error).join("\n"))
    }

    #[test]
    fn values_of_the_right_type_are_read() {
        let day = Duration::ZERO..=Duration::from_hours(24);
        assert_eq!(
            read("abc", |v| v.text().map(str::to_owned)),
            Ok("abc".to_owned())
        );
        assert_eq!(
            read("'12'", |v| v.text().map(str::to_owned)),
            Ok("12".to_owned())
        );
        assert_eq!(read("on", |v| v.boolean()), Ok(true));
        assert_eq!(read("0x10", |v| v.integer(0..=99)), Ok(16));
        assert_eq!(
            read("90", |v| v.duration(day.clone())),
            Ok(Duration::from_secs(90))
        );
        assert_eq!(
            read("0.5", |v| v.duration(day.clone())),
            Ok(Duration::from_millis(500))
        );
        assert_eq!(
            read("12h", |v| v.duration(day)),
            Ok(Duration::from_hours(12))
        );
        assert_eq!(read("512KiB", |v| v.size(0..=1 << 30)), Ok(524_288));
        assert_eq!(read("b", |v| v.choice(&[("a", 1), ("b", 2)])), Ok(2));
        assert_eq!(read("a", |v| Some(v.one_or_more().len())), Ok(1));
        assert_eq!(read("[a, b]", |v| Some(v.one_or_more().len())), Ok(2));
    }

    #[test]
    fn values_of_the_wrong_type_are_told_what_was_found_and_expected() {
        let minute = Duration::from_secs(1)..=Duration::from_mins(1);
        for (found, problem) in [
            (
                read("12", |v| v.text().map(drop)),
                "f:1: value: found the number 12, expected text (put it in quotes: \"12\")",
            ),
            (
                read("12", |v| v.hidden().text().map(drop)),
                "f:1: value: found a number, expected text (put it in quotes)",
            ),
            (
                read("[a]", |v| v.text().map(drop)),
                "f:1: value: found a list, expected text",
            ),
            (
                read("'yes'", |v| v.boolean().map(drop)),
                "f:1: value: found \"yes\", expected true or false (without quotes)",
            ),
            (
                read("1", |v| v.boolean().map(drop)),
                "f:1: value: found the number 1, expected true or false",
            ),
            (
                read("'5000'", |v| v.integer(0..=65_535).map(drop)),
                "f:1: value: found \"5000\", expected a whole number from 0 to 65535 (without quotes)",
            ),
            (
                read("-1", |v| v.integer(1..=u64::MAX).map(drop)),
                "f:1: value: found the number -1, expected a whole number of at least 1",
            ),
            (
                read("1w", |v| v.duration(minute.clone()).map(drop)),
                "f:1: value: found \"1w\", expected a duration: a number of seconds, or a number \
                 with a unit (500ms, 90s, 10m, 12h, 1d)",
            ),
            (
                read("2h", |v| v.duration(minute).map(drop)),
                "f:1: value: found \"2h\", expected a duration from 1s to 1m",
            ),
            (
                read("1kB", |v| v.size(1024..=2048).map(drop)),
                "f:1: value: found \"1kB\", expected a size from 1KiB to 2KiB",
            ),
            (
                read("sandbx", |v| {
                    v.choice(&[("production", 1), ("sandbox", 2)]).map(drop)
                }),
                "f:1: value: found \"sandbx\", expected one of production, sandbox \
                 (did you mean `sandbox`?)",
            ),
        ] {
            assert_eq!(found, Err(problem.to_owned()));
        }
    }

    #[test]
    fn keys_that_nobody_asked_for_are_reported_without_their_values() {
        let diagnostics = Diagnostics::new("f");
        let source = "http:\n  prot: 1\n  something: secret\n  bind: x\nhttp2: x\n";
        let root = parse(source, &diagnostics).expect("valid YAML");
        let root = Value::root(&root, &diagnostics).section();
        let http = root.section("http");
        assert!(http.get("port").is_none() && !http.has("bind_addresses"));
        http.finish(Severity::Warning);
        root.finish(Severity::Error);
        assert_eq!(
            diagnostics.of(Severity::Warning),
            [
                "f:2: http.prot: unknown key, ignored (did you mean `port`?)",
                "f:3: http.something: unknown key, ignored",
                "f:4: http.bind: unknown key, ignored (did you mean `bind_addresses`?)",
            ]
        );
        assert_eq!(
            diagnostics.of(Severity::Error),
            ["f:5: http2: unknown key (did you mean `http`?)"]
        );
    }

    #[test]
    fn repeated_keys_and_keys_that_are_not_text_are_reported() {
        let diagnostics = Diagnostics::new("f");
        let source = "apps:\n  a.b: 1\n  12: 2\n  a.b: 3\n";
        let root = parse(source, &diagnostics).expect("valid YAML");
        let apps = Value::root(&root, &diagnostics).section().get("apps");
        let entries = apps.map(|apps| apps.entries()).unwrap_or_default();
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].1.integer(0..=9), Some(3));
        assert_eq!(
            diagnostics.of(Severity::Warning),
            ["f:4: apps.\"a.b\": is set again (first on line 2); this one counts"]
        );
        assert_eq!(
            diagnostics.of(Severity::Error),
            [
                "f:3: apps.12: found a key that is not text, expected text (put it in quotes: \"12\")"
            ]
        );
    }
}
