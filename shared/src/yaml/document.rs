//! From text to a tree of nodes.
//!
//! The tree is built from the parser's events with an explicit stack, so that neither deep nesting nor
//! aliases of aliases can use up the stack or the memory: both are bounded, and past the bound the file
//! is refused.

use std::collections::{BTreeMap, BTreeSet};

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::{Diagnostics, Scalar, Severity};

/// Characters of a file; more is surely not a configuration.
const LONGEST_TEXT: usize = 1 << 20;
/// Lists and mappings within each other, aliases included.
const DEEPEST: usize = 64;
/// Nodes that aliases may add to those that are written.
const MOST_ALIASED_NODES: usize = 10_000;

/// A value of the file and where it stands.
#[derive(Clone, Debug)]
pub struct Node {
    pub(super) line: usize,
    pub(super) content: Content,
    /// This node and all below it.
    count: usize,
    /// Lists and mappings on the longest way down from here, this one included.
    height: usize,
}

#[derive(Clone, Debug)]
pub(super) enum Content {
    Scalar { text: String, meaning: Scalar },
    List(Vec<Node>),
    Mapping(Mapping),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Mapping {
    pub(super) entries: Vec<Entry>,
    /// Keys that were given before, with the line of the earlier one.
    pub(super) repeated: Vec<(Key, usize)>,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: Key,
    pub(super) value: Node,
}

#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) text: String,
    pub(super) meaning: Scalar,
    pub(super) line: usize,
}

/// Reads a text that holds one document with a mapping at its top.
///
/// What keeps it from being read is reported to `diagnostics` as an error, with `None` as the result.
#[must_use]
pub fn parse(text: &str, diagnostics: &Diagnostics) -> Option<Node> {
    root(text, Blank::Refused, diagnostics)
}

/// What a text with nothing in it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blank {
    /// An error.
    Refused,
    /// A mapping without keys.
    Empty,
}

/// As [`parse`].
pub(super) fn root(text: &str, blank: Blank, diagnostics: &Diagnostics) -> Option<Node> {
    const NOTHING: &str = "the file is empty or has nothing but comments in it";
    let root = match Builder::new(text).and_then(Builder::build) {
        Ok(root) => root,
        Err(refusal) => {
            diagnostics.report(Severity::Error, refusal.line, "", refusal.text);
            return None;
        }
    };
    let found = match &root {
        None => NOTHING,
        Some(node) => match &node.content {
            Content::Mapping(_) => return root,
            Content::Scalar {
                meaning: Scalar::Null,
                ..
            } => NOTHING,
            Content::List(_) => "found a list at the top of the file",
            Content::Scalar { .. } => "found a single value instead of keys",
        },
    };
    let line = root.map_or(0, |node| node.line);
    if found == NOTHING && blank == Blank::Empty {
        let nothing = Content::Mapping(Mapping::default());
        return Some(Node::collection(line, nothing));
    }
    diagnostics.report(
        Severity::Error,
        line,
        "",
        format!("{found}, expected a mapping (lines of the form `key: value`)"),
    );
    None
}

/// Reads a text that is one value; all of it is on `line`.
pub(super) fn parse_value(text: &str, line: usize) -> Result<Node, String> {
    let node = Builder::new(text).and_then(Builder::build);
    let mut node = node
        .map_err(|refusal| refusal.text)?
        .ok_or_else(|| "found nothing, expected a value".to_owned())?;
    node.move_to(line);
    Ok(node)
}

/// Why a text cannot be read.
#[derive(Debug)]
struct Refusal {
    line: usize,
    text: String,
}

impl Refusal {
    fn new(line: usize, text: impl Into<String>) -> Self {
        Self {
            line,
            text: text.into(),
        }
    }
}

struct Builder<'a> {
    text: &'a str,
    open: Vec<Open>,
    finished_by_anchor: BTreeMap<usize, Node>,
    aliased_nodes: usize,
}

/// A list or mapping whose end has not come yet.
struct Open {
    line: usize,
    anchor: usize,
    collection: Collection,
}

enum Collection {
    List(Vec<Node>),
    Mapping {
        pairs: Vec<(Node, Node)>,
        key: Option<Node>,
    },
}

impl<'a> Builder<'a> {
    fn new(text: &'a str) -> Result<Self, Refusal> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if text.len() > LONGEST_TEXT {
            return Err(Refusal::new(
                0,
                format!(
                    "the file has {} bytes, expected at most {LONGEST_TEXT}",
                    text.len()
                ),
            ));
        }
        Ok(Self {
            text,
            open: Vec::new(),
            finished_by_anchor: BTreeMap::new(),
            aliased_nodes: 0,
        })
    }

    fn build(mut self) -> Result<Option<Node>, Refusal> {
        let mut parser = Parser::new_from_str(self.text);
        let mut root = None;
        while let Some(event) = parser.next_event() {
            let (event, span) = event.map_err(|error| self.syntax_error(&error))?;
            let line = span.start.line();
            let (node, anchor) = match event {
                Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {
                    continue;
                }
                Event::DocumentStart(_) => {
                    if root.is_some() {
                        return Err(Refusal::new(
                            line,
                            "a second document starts here, expected only one \
                             (remove `---` and what does not belong to this configuration)",
                        ));
                    }
                    continue;
                }
                Event::Alias(anchor) => (self.aliased(anchor, line)?, 0),
                Event::Scalar(text, style, anchor, tag) => {
                    let meaning = meaning(&text, style, tag.as_deref(), line)?;
                    (Node::scalar(line, text.into_owned(), meaning), anchor)
                }
                Event::SequenceStart(anchor, tag) => {
                    self.open(span, anchor, tag.as_deref(), Collection::List(Vec::new()))?;
                    continue;
                }
                Event::MappingStart(anchor, tag) => {
                    let collection = Collection::Mapping {
                        pairs: Vec::new(),
                        key: None,
                    };
                    self.open(span, anchor, tag.as_deref(), collection)?;
                    continue;
                }
                Event::SequenceEnd | Event::MappingEnd => {
                    let Some(open) = self.open.pop() else {
                        continue;
                    };
                    let anchor = open.anchor;
                    (open.close()?, anchor)
                }
            };
            if anchor > 0 {
                self.finished_by_anchor.insert(anchor, node.clone());
            }
            match self.open.last_mut() {
                Some(parent) => parent.collection.push(node),
                None => root = Some(node),
            }
        }
        Ok(root)
    }

    fn open(
        &mut self,
        span: Span,
        anchor: usize,
        tag: Option<&Tag>,
        collection: Collection,
    ) -> Result<(), Refusal> {
        let line = span.start.line();
        let own_tag = match collection {
            Collection::List(_) => "seq",
            Collection::Mapping { .. } => "map",
        };
        if let Some(tag) = tag
            && core_tag(tag) != Some(own_tag)
        {
            return Err(unsupported_tag(tag, line));
        }
        if self.open.len() >= DEEPEST {
            return Err(too_deep(line));
        }
        self.open.push(Open {
            line,
            anchor,
            collection,
        });
        Ok(())
    }

    fn aliased(&mut self, anchor: usize, line: usize) -> Result<Node, Refusal> {
        let Some(node) = self.finished_by_anchor.get(&anchor) else {
            return Err(Refusal::new(
                line,
                "this alias (`*name`) stands within what it repeats",
            ));
        };
        self.aliased_nodes += node.count;
        if self.aliased_nodes > MOST_ALIASED_NODES {
            return Err(Refusal::new(
                line,
                format!("aliases (`*name`) repeat more than {MOST_ALIASED_NODES} values"),
            ));
        }
        if self.open.len() + node.height > DEEPEST {
            return Err(too_deep(line));
        }
        Ok(node.clone())
    }

    /// The parser's own words, which say nothing of the file's content, and what commonly causes them.
    fn syntax_error(&self, error: &saphyr_parser::ScanError) -> Refusal {
        let (line, column) = (error.marker().line(), error.marker().col());
        let source = self.text.lines().nth(line.saturating_sub(1)).unwrap_or("");
        let indented_by_tab = source
            .chars()
            .take_while(|character| character.is_whitespace())
            .any(|character| character == '\t');
        let remedy = if indented_by_tab {
            " (the line is indented with a tab: use spaces)"
        } else if error.info().contains("indentation") {
            " (indent it further than the key that it belongs to)"
        } else if error.info().contains("unknown anchor") {
            " (an alias `*name` needs an anchor `&name` before it)"
        } else {
            " (text with any of `: # * & ! % @ [ ] { }` in it is best put in quotes)"
        };
        Refusal::new(
            line,
            format!(
                "not valid YAML at column {}: {}{remedy}",
                column + 1,
                error.info()
            ),
        )
    }
}

impl Collection {
    fn push(&mut self, node: Node) {
        match self {
            Self::List(items) => items.push(node),
            Self::Mapping { pairs, key } => match key.take() {
                Some(key) => pairs.push((key, node)),
                None => *key = Some(node),
            },
        }
    }
}

impl Open {
    fn close(self) -> Result<Node, Refusal> {
        let content = match self.collection {
            Collection::List(items) => Content::List(items),
            Collection::Mapping { pairs, .. } => Content::Mapping(Mapping::of_pairs(pairs)?),
        };
        Ok(Node::collection(self.line, content))
    }
}

impl Mapping {
    /// Resolves merge keys (`<<`) and repeated keys as `PyYAML` does: a key that is written wins over
    /// one that is merged in, and of a repeated key the last counts.
    fn of_pairs(pairs: Vec<(Node, Node)>) -> Result<Self, Refusal> {
        let mut merged = Vec::new();
        let mut written = Vec::new();
        for (key, value) in pairs {
            let line = key.line;
            let Content::Scalar { text, meaning } = key.content else {
                return Err(Refusal::new(
                    line,
                    "found a list or a mapping as a key, expected text \
                     (text that starts with `{` or `[` has to be put in quotes)",
                ));
            };
            if meaning == Scalar::Merge {
                // Of several merge keys the last counts first.
                let mut entries = entries_to_merge(value)?;
                entries.append(&mut merged);
                merged = entries;
                continue;
            }
            let key = Key {
                text,
                meaning,
                line,
            };
            written.push(Entry { key, value });
        }

        let mut mapping = Self {
            entries: Vec::with_capacity(written.len()),
            repeated: Vec::new(),
        };
        let mut position_by_key = BTreeMap::new();
        for entry in written {
            let position = *position_by_key
                .entry(entry.key.text.clone())
                .or_insert(mapping.entries.len());
            match mapping.entries.get_mut(position) {
                Some(earlier) => {
                    mapping.repeated.push((entry.key.clone(), earlier.key.line));
                    *earlier = entry;
                }
                None => mapping.entries.push(entry),
            }
        }
        let mut known: BTreeSet<String> = position_by_key.into_keys().collect();
        for entry in merged {
            if known.insert(entry.key.text.clone()) {
                mapping.entries.push(entry);
            }
        }
        Ok(mapping)
    }
}

impl Node {
    pub(super) fn scalar(line: usize, text: String, meaning: Scalar) -> Self {
        Self {
            line,
            content: Content::Scalar { text, meaning },
            count: 1,
            height: 0,
        }
    }

    pub(super) fn collection(line: usize, content: Content) -> Self {
        let (mut count, mut height) = (1, 0);
        let mut add = |child: &Self| {
            count += child.count;
            height = height.max(child.height);
        };
        match &content {
            Content::Scalar { .. } => {}
            Content::List(items) => items.iter().for_each(&mut add),
            Content::Mapping(mapping) => {
                for entry in &mapping.entries {
                    add(&entry.value);
                }
            }
        }
        Self {
            line,
            content,
            count,
            height: height + 1,
        }
    }

    /// Says of the value and of all in it that it is on `line`. The depth is bounded, as of any node.
    fn move_to(&mut self, line: usize) {
        self.line = line;
        match &mut self.content {
            Content::Scalar { .. } => {}
            Content::List(items) => items.iter_mut().for_each(|item| item.move_to(line)),
            Content::Mapping(mapping) => {
                for (key, earlier) in &mut mapping.repeated {
                    (key.line, *earlier) = (line, line);
                }
                for entry in &mut mapping.entries {
                    entry.key.line = line;
                    entry.value.move_to(line);
                }
            }
        }
    }

    /// The line of the file on which the value starts; behind an alias, that of what it repeats.
    #[must_use]
    pub fn line(&self) -> usize {
        self.line
    }
}

/// The entries of the value of a merge key, those that win first.
fn entries_to_merge(value: Node) -> Result<Vec<Entry>, Refusal> {
    let line = value.line;
    let mappings = match value.content {
        Content::List(items) => items,
        Content::Scalar { .. } | Content::Mapping(_) => vec![value],
    };
    let mut entries = Vec::new();
    for mapping in mappings {
        let Content::Mapping(mapping) = mapping.content else {
            return Err(Refusal::new(
                line,
                "`<<` merges a mapping or a list of mappings into this one, found something else",
            ));
        };
        entries.extend(mapping.entries);
    }
    Ok(entries)
}

fn meaning(
    text: &str,
    style: ScalarStyle,
    tag: Option<&Tag>,
    line: usize,
) -> Result<Scalar, Refusal> {
    let plain = Scalar::of_plain(text);
    let Some(tag) = tag else {
        return Ok(match style {
            ScalarStyle::Plain => plain,
            ScalarStyle::SingleQuoted
            | ScalarStyle::DoubleQuoted
            | ScalarStyle::Literal
            | ScalarStyle::Folded => Scalar::Text,
        });
    };
    if tag.handle.is_empty() && tag.suffix == "!" {
        return Ok(Scalar::Text);
    }
    match (core_tag(tag), plain) {
        (Some("str"), _) => Ok(Scalar::Text),
        (Some("null"), Scalar::Null)
        | (Some("bool"), Scalar::Boolean(_))
        | (Some("int"), Scalar::Integer(_))
        | (Some("float"), Scalar::Float(_))
        | (Some("timestamp"), Scalar::Timestamp) => Ok(plain),
        #[expect(clippy::cast_precision_loss, reason = "what `!!float` asks for")]
        (Some("float"), Scalar::Integer(Some(number))) => Ok(Scalar::Float(number as f64)),
        _ => Err(unsupported_tag(tag, line)),
    }
}

/// `seq` of `!!seq`.
fn core_tag(tag: &Tag) -> Option<&str> {
    tag.is_yaml_core_schema().then_some(tag.suffix.as_str())
}

fn unsupported_tag(tag: &Tag, line: usize) -> Refusal {
    let shown = if tag.is_yaml_core_schema() {
        format!("!!{}", tag.suffix)
    } else {
        format!("{}{}", tag.handle, tag.suffix)
    };
    Refusal::new(
        line,
        format!("the tag `{shown}` is not supported here or does not fit the value (remove it)"),
    )
}

fn too_deep(line: usize) -> Refusal {
    Refusal::new(
        line,
        format!("lists and mappings are more than {DEEPEST} levels deep"),
    )
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;

    /// The tree in one line: text in quotes, everything else by its meaning.
    fn show(node: &Node) -> String {
        match &node.content {
            Content::Scalar { text, meaning } => match meaning {
                Scalar::Text => format!("{text:?}"),
                Scalar::Null => "null".to_owned(),
                Scalar::Boolean(value) => value.to_string(),
                Scalar::Integer(value) => value.map_or("?".to_owned(), |value| value.to_string()),
                Scalar::Float(value) => format!("{value:?}"),
                Scalar::Timestamp => "date".to_owned(),
                Scalar::Merge => "<<".to_owned(),
            },
            Content::List(items) => {
                format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(" "))
            }
            Content::Mapping(mapping) => {
                let mut shown = String::from("{");
                for entry in &mapping.entries {
                    write!(shown, "{}: {} ", entry.key.text, show(&entry.value)).unwrap();
                }
                shown.trim_end().to_owned() + "}"
            }
        }
    }

    fn read(text: &str) -> Result<String, String> {
        let diagnostics = Diagnostics::new("f");
        parse(text, &diagnostics)
            .map(|node| show(&node))
            .ok_or_else(|| diagnostics.of(Severity::Error).join("\n"))
    }

    #[test]
    fn documents_mean_what_they_mean_to_pyyaml() {
        for (text, tree) in [
            ("a: 1\nb: [x, 'yes', yes]", r#"{a: 1 b: ["x" "yes" true]}"#),
            ("\u{feff}---\na: ~\n...\n", "{a: null}"),
            (
                "a: !!str 12\nb: !!int '12'\nc: ! 12",
                r#"{a: "12" b: 12 c: "12"}"#,
            ),
            (
                "a: &x {k: 1, l: 2}\nb: {<<: *x, l: 3}",
                "{a: {k: 1 l: 2} b: {l: 3 k: 1}}",
            ),
            (
                "a: &x {k: 1}\nb: &y {k: 2, m: 3}\nc: {<<: [*x, *y]}",
                "{a: {k: 1} b: {k: 2 m: 3} c: {k: 1 m: 3}}",
            ),
            ("a: {'<<': 1}", "{a: {<<: 1}}"),
            ("a: 1\na: 2", "{a: 2}"),
            ("a: |\n  1\n", r#"{a: "1\n"}"#),
            (
                "a: http://user:pass@host:80",
                r#"{a: "http://user:pass@host:80"}"#,
            ),
        ] {
            assert_eq!(read(text).as_deref(), Ok(tree), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_line() {
        for (text, problem) in [
            (
                "",
                "f: the file is empty or has nothing but comments in it, expected a mapping (lines of the form `key: value`)",
            ),
            ("# nothing\n", "f: the file is empty"),
            (
                "---\n",
                "the file is empty or has nothing but comments in it",
            ),
            ("- a\n", "f:1: found a list at the top of the file"),
            ("just text", "f:1: found a single value instead of keys"),
            ("a: 1\n---\nb: 2\n", "f:2: a second document starts here"),
            ("a:\n\tb: 1\n", "use spaces"),
            ("a: *x\n", "f:1: not valid YAML at column 4"),
            (
                "a: &x [*x]\n",
                "f:1: this alias (`*name`) stands within what it repeats",
            ),
            ("a: 1\nb: [1, 2\nc: 3\n", "f:3: not valid YAML"),
            ("a: 1\n  b: 2\n", "f:2: not valid YAML"),
            (
                "a: 1\nb: !!python/name:os.system x\n",
                "f:2: the tag `!!python/name:os.system`",
            ),
            (
                "a:\n  b: [\n    1\n]\n",
                "f:4: not valid YAML at column 1: invalid indentation (indent it",
            ),
            ("a: {<<: 1}\n", "f:1: `<<` merges a mapping"),
            ("? [1]\n: 2\n", "f:1: found a list or a mapping as a key"),
        ] {
            let found = read(text).expect_err(text);
            assert!(found.contains(problem), "{text:?} gave {found:?}");
        }
    }

    #[test]
    fn bombs_are_refused() {
        let mut aliases = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..50 {
            let alias = format!("*a{},", level - 1).repeat(10);
            writeln!(aliases, "a{level}: &a{level} [{alias}]").unwrap();
        }
        let mut deep_aliases = String::from("a0: &a0 [x]\n");
        for level in 1..500 {
            writeln!(deep_aliases, "a{level}: &a{level} [*a{}]", level - 1).unwrap();
        }
        for (bomb, problem) in [
            (aliases, "aliases (`*name`) repeat more than"),
            (deep_aliases, "levels deep"),
            ("- ".repeat(100_000), "levels deep"),
            ("[".repeat(100_000), ""),
            (format!("a: {}", "{a: ".repeat(100_000)), ""),
            ("? ".repeat(100_000), ""),
            (" ".repeat(LONGEST_TEXT + 1), "expected at most"),
        ] {
            let found = read(&bomb).expect_err("refused");
            assert!(found.contains(problem), "{found:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[-\\[\\]{}:,#&*!|>'\"%@`?<~ \\n\\tab01._=/\\\\]{0,80}") {
            let _ = read(&text);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&String::from_utf8_lossy(&bytes));
        }
    }
}
