//! Keys of a configuration from environment variables.
//!
//! `NOCTURNE_TURN__RELAY__PORTS` is `relay.ports`: after the prefix, the keys in capitals with `__` between
//! them. A variable counts instead of what the file has at that place. A problem with its value names the
//! variable where one of the file's names a line.

use std::{io::ErrorKind, path::Path};

use zeroize::Zeroizing;

use super::{
    Diagnostics, Node, Scalar, Severity,
    document::{Blank, Content, Entry, Key, Mapping, parse_value, root},
    file::{self, text_of},
};
use crate::{environment::Environment, files};

/// Which variables are one configuration's.
#[derive(Clone, Copy, Debug)]
pub struct Variables {
    /// What their names begin with.
    pub prefix: &'static str,
    /// Keys with the user's own words as keys below them, which no variable's name could hold: a variable has
    /// the whole of it, or nothing.
    pub whole: &'static [&'static str],
    /// Keys that end in `_file` in the configuration, too. For any other key, `…_FILE` is the file to read
    /// its value from.
    pub files: &'static [&'static str],
}

impl Variables {
    /// Names of those that are set.
    #[must_use]
    pub fn names<'e>(&self, environment: &'e Environment) -> Vec<&'e str> {
        environment
            .names()
            .filter(|name| name.starts_with(self.prefix))
            .filter(|name| environment.get(name).is_some())
            .collect()
    }

    /// Whether there are any.
    #[must_use]
    pub fn are_set(&self, environment: &Environment) -> bool {
        !self.names(environment).is_empty()
    }

    /// The configuration: the file at `path`, which need not be there if there are variables, and they.
    ///
    /// What keeps it from being read is reported as an error, with `None` as the result.
    #[must_use]
    pub fn read(
        &self,
        path: &Path,
        environment: &Environment,
        diagnostics: &Diagnostics,
    ) -> Option<Node> {
        let is_absent = self.are_set(environment)
            && files::facts(path).is_err_and(|error| error.kind() == ErrorKind::NotFound);
        let text = if is_absent {
            String::new()
        } else {
            file::read(path, diagnostics)?
        };
        self.parse(&text, environment, diagnostics)
    }

    /// As [`Variables::read`], for a text that is read already.
    #[must_use]
    pub fn parse(
        &self,
        text: &str,
        environment: &Environment,
        diagnostics: &Diagnostics,
    ) -> Option<Node> {
        let names = self.names(environment);
        let blank = if names.is_empty() {
            Blank::Refused
        } else {
            Blank::Empty
        };
        let mut root = root(text, blank, diagnostics)?;
        for name in names {
            let line = diagnostics.line_of_variable(name);
            if let Err(problem) = self.set(&mut root, name, line, environment) {
                diagnostics.report(Severity::Error, line, "", problem);
            }
        }
        Some(root)
    }

    /// A line for people: which variables there are, and whether that is all. None without any.
    #[must_use]
    pub fn note(&self, path: &Path, environment: &Environment) -> Option<String> {
        let names = self.names(environment);
        if names.is_empty() {
            return None;
        }
        let alone = match files::facts(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                format!("; there is no {}", path.display())
            }
            Ok(_) | Err(_) => String::new(),
        };
        Some(format!("from the environment: {}{alone}", names.join(", ")))
    }

    fn set(
        &self,
        root: &mut Node,
        name: &str,
        line: usize,
        environment: &Environment,
    ) -> Result<(), String> {
        let keys = name.strip_prefix(self.prefix).unwrap_or_default();
        let keys: Vec<_> = keys.split("__").map(str::to_ascii_lowercase).collect();
        if keys.iter().any(String::is_empty) {
            return Err(format!(
                "names no key (expected {} and the keys with `__` between them)",
                self.prefix
            ));
        }
        let path = keys.join(".");
        let below = |whole: &&&str| {
            let rest = path.strip_prefix(**whole);
            rest.is_some_and(|rest| rest.starts_with('.'))
        };
        if let Some(whole) = self.whole.iter().find(below) {
            return Err(format!(
                "no variable's name can hold the keys below `{whole}` (set {}{} to the whole of it, {{…: …}}, or \
                 write it into the file)",
                self.prefix,
                whole.to_ascii_uppercase().replace('.', "__")
            ));
        }
        let text = environment.get(name).unwrap_or_default();
        let Some((last, above)) = keys.split_last() else {
            return Ok(());
        };
        let from_file = last
            .strip_suffix("_file")
            .filter(|key| !key.is_empty() && !self.files.contains(&path.as_str()));
        let (key, value) = match from_file {
            None => (last.as_str(), value(text, line)?),
            Some(key) => {
                let plain = &name[..name.len() - "_FILE".len()];
                if environment.get(plain).is_some() {
                    return Err(format!("{plain} is set as well (remove one of them)"));
                }
                (key, value_of_file(Path::new(text), line)?)
            }
        };
        let mut node = root;
        for (depth, key) in above.iter().enumerate() {
            node = descend(node, key, line).ok_or_else(|| {
                format!(
                    "`{}` has no keys below it, as it is set (remove it, or set the whole of it)",
                    above[..depth].join(".")
                )
            })?;
        }
        let place = descend(node, key, line).ok_or_else(|| {
            format!(
                "`{}` has no keys below it, as it is set (remove it, or set the whole of it)",
                above.join(".")
            )
        })?;
        *place = value;
        // Problems with the value are told at its key.
        if let Content::Mapping(mapping) = &mut node.content
            && let Some(entry) = mapping.entries.iter_mut().find(|e| e.key.text == key)
        {
            entry.key.line = line;
        }
        Ok(())
    }
}

/// What is at `key` of a mapping; nothing at all counts as a mapping without keys, anything else has no keys.
fn descend<'n>(node: &'n mut Node, key: &str, line: usize) -> Option<&'n mut Node> {
    if matches!(
        node.content,
        Content::Scalar {
            meaning: Scalar::Null,
            ..
        }
    ) {
        node.content = Content::Mapping(Mapping::default());
    }
    let Content::Mapping(mapping) = &mut node.content else {
        return None;
    };
    let known = mapping.entries.iter().position(|e| e.key.text == key);
    let position = known.unwrap_or_else(|| {
        mapping.entries.push(Entry {
            key: Key {
                text: key.to_owned(),
                meaning: Scalar::Text,
                line,
            },
            value: Node::scalar(line, String::new(), Scalar::Null),
        });
        mapping.entries.len() - 1
    });
    mapping
        .entries
        .get_mut(position)
        .map(|entry| &mut entry.value)
}

/// What is in brackets or quotes is YAML. Anything else is one plain scalar as it stands, so that no `#`,
/// `: ` or `*` in a password needs a thought.
fn value(text: &str, line: usize) -> Result<Node, String> {
    let text = text.trim();
    let is_between = |(first, last): &(char, char)| {
        text.len() >= 2 && text.starts_with(*first) && text.ends_with(*last)
    };
    if [('[', ']'), ('{', '}'), ('"', '"'), ('\'', '\'')]
        .iter()
        .any(is_between)
    {
        return parse_value(text, line);
    }
    Ok(Node::scalar(line, text.to_owned(), Scalar::of_plain(text)))
}

/// The text of a file; of one with several lines, a list of them.
fn value_of_file(path: &Path, line: usize) -> Result<Node, String> {
    let shown = path.display();
    let content =
        files::read(path).map_err(|error| format!("the file {shown} cannot be read: {error}"))?;
    let text = text_of(content).map_err(|_| format!("the file {shown} is not text"))?;
    let text = Zeroizing::new(text);
    let scalar = |text: &str| Node::scalar(line, text.to_owned(), Scalar::Text);
    let lines: Vec<_> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    match lines.as_slice() {
        [] => Err(format!("the file {shown} is empty")),
        [one] => Ok(scalar(one)),
        lines => Ok(Node::collection(
            line,
            Content::List(lines.iter().map(|text| scalar(text)).collect()),
        )),
    }
}
