//! A folder that `init` wrote into.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

/// A homeserver that nobody asks.
pub(crate) const HOMESERVER: &str = "http://127.0.0.1:8008";

/// Everything that is written.
pub(crate) const FILES: [&str; 5] = [
    "SETUP.md",
    "nocturne.service",
    "push-gateway.yaml",
    "pushkeys.key",
    "turn-relay.yaml",
];

pub(crate) struct Folder {
    outer: TempDir,
}

/// How a run ended, and what it said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) succeeded: bool,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Folder {
    /// A place for a folder that is not there yet.
    pub(crate) fn none() -> Self {
        Self {
            outer: tempfile::tempdir().expect("there is room for temporary files"),
        }
    }

    /// A folder after the first run, for a relay on loopback.
    pub(crate) fn made() -> Self {
        let folder = Self::none();
        let said = folder.init(&[]);
        assert!(said.succeeded, "{said:?}");
        folder
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.outer.path().join("nocturne")
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.file(name), text).unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    pub(crate) fn append(&self, name: &str, text: &str) {
        self.write(name, &(self.read(name) + text));
    }

    /// Name, mode and content of all that is there.
    pub(crate) fn content(&self) -> BTreeMap<String, (u32, String)> {
        let files = fs::read_dir(self.path()).expect("it can be listed");
        files
            .map(|entry| {
                let name = entry
                    .expect("an entry")
                    .file_name()
                    .into_string()
                    .expect("UTF-8");
                let metadata = fs::symlink_metadata(self.file(&name)).expect("it is there");
                let text = self.read(&name);
                (name, (metadata.mode() & 0o7777, text))
            })
            .collect()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.content().into_keys().collect()
    }

    /// For example.org, on loopback, without a look at the network.
    pub(crate) fn init(&self, more: &[&str]) -> Said {
        let mut arguments = vec!["init", "--server-name", "example.org", "--offline"];
        if !more.contains(&"--public-address") {
            arguments.extend(["--public-address", "127.0.0.1"]);
        }
        if !more.contains(&"--homeserver") {
            arguments.extend(["--homeserver", HOMESERVER]);
        }
        arguments.extend(more);
        self.run(&arguments)
    }

    pub(crate) fn rotate(&self) -> Said {
        self.run(&["init", "--rotate"])
    }

    pub(crate) fn check(&self) -> Said {
        let output = nocturne()
            .args(["check", "--config-dir"])
            .arg(self.path())
            .output();
        Said::of(&output.expect("the program starts"))
    }

    /// With `--out` for this folder.
    pub(crate) fn run(&self, arguments: &[&str]) -> Said {
        let output = nocturne()
            .args(arguments)
            .arg("--out")
            .arg(self.path())
            .output();
        Said::of(&output.expect("the program starts"))
    }

    pub(crate) fn setup(&self) -> Setup {
        Setup(self.read("SETUP.md"))
    }

    /// Those of `secrets`, as they are written one a line.
    pub(crate) fn secrets(&self) -> Vec<String> {
        let text = self.read("turn-relay.yaml");
        let (_, list) = text
            .split_once("\nsecrets:\n")
            .expect("there is a list of secrets");
        let items = list.lines().map_while(|line| line.strip_prefix("  - \""));
        items
            .map(|item| item.trim_end_matches('"').to_owned())
            .collect()
    }
}

impl Said {
    pub(crate) fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            succeeded: output.status.success(),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }

    pub(crate) fn everything(&self) -> String {
        format!("{}{}", self.out, self.err)
    }
}

/// The text of a SETUP.md.
pub(crate) struct Setup(pub(crate) String);

impl Setup {
    /// The first block of a language below a heading.
    pub(crate) fn block(&self, heading: &str, language: &str) -> String {
        let blocks = self.blocks(heading, language);
        let first = blocks.into_iter().next();
        first.unwrap_or_else(|| panic!("no {language} below {heading:?} in:\n{}", self.0))
    }

    /// The blocks of a language below a heading and above the next.
    pub(crate) fn blocks(&self, heading: &str, language: &str) -> Vec<String> {
        let mut here = false;
        let mut blocks = Vec::new();
        let mut lines = self.0.lines();
        while let Some(line) = lines.next() {
            if let Some(found) = line.strip_prefix("```") {
                let block: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
                if here && found == language {
                    blocks.push(block.join("\n") + "\n");
                }
            } else if line.starts_with('#') {
                here = line.trim_start_matches('#').trim().starts_with(heading);
            }
        }
        blocks
    }

    /// All blocks of a language.
    pub(crate) fn all(&self, language: &str) -> Vec<String> {
        let parts = self.0.split("\n```").enumerate();
        // every second fence opens a block
        parts
            .filter(|(index, _)| index % 2 == 1)
            .filter_map(|(_, part)| part.split_once('\n'))
            .filter(|(found, _)| *found == language)
            .map(|(_, text)| text.to_owned() + "\n")
            .collect()
    }
}

/// The program, without anything of this process's environment.
pub(crate) fn nocturne() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nocturne"));
    command.env_clear().stdin(Stdio::null());
    command
}

/// YAML as the services' own reader has it.
pub(crate) fn yaml(text: &str) -> Value {
    let diagnostics = shared::yaml::Diagnostics::new("snippet");
    let root = shared::yaml::parse(text, &diagnostics).unwrap_or_else(|| {
        panic!(
            "{:?}:\n{text}",
            diagnostics.of(shared::yaml::Severity::Error)
        )
    });
    json(&shared::yaml::Value::root(&root, &diagnostics))
}

fn json(value: &shared::yaml::Value<'_>) -> Value {
    use shared::yaml::Scalar;

    match value.meaning() {
        Some((Scalar::Boolean(boolean), _)) => boolean.into(),
        Some((Scalar::Integer(Some(number)), _)) => {
            i64::try_from(number).expect("a small number").into()
        }
        Some((_, text)) => text.into(),
        None if value.found() == "a list" => value.one_or_more().iter().map(json).collect(),
        None => {
            let entries = value.entries().into_iter();
            entries
                .map(|(key, value)| (key.to_owned(), json(&value)))
                .collect()
        }
    }
}

/// The mode of a file or folder.
pub(crate) fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("it is there").mode() & 0o7777
}
