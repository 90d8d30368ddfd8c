//! The documentation, held against the code: what it shows is what happens, and what it lists is all.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use turn_relay_proto::counters::{
    AuthFailure, BindFailure, Denial, Direction, DropReason, Handover, Handshake, Label, QuotaHit,
};

mod dependencies;
mod examples;
mod monitoring;
mod opaque_push;
mod snippets;
mod words;

/// The documents that users read.
const DOCUMENTS: [&str; 22] = [
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "clients/typescript/README.md",
    "docs/behind-nat.md",
    "docs/dependencies.md",
    "docs/doctor.md",
    "docs/from-coturn.md",
    "docs/from-sygnal.md",
    "docs/install.md",
    "docs/monitoring.md",
    "docs/one-port.md",
    "docs/opaque-push.md",
    "docs/providers.md",
    "docs/run.md",
    "docs/troubleshooting.md",
    "docs/turn-credentials.md",
    "docs/upgrade-and-backup.md",
    "spec/opaque-push.md",
    "tests/interop/README.md",
];

#[test]
fn every_relative_link_leads_to_a_file_and_a_heading() {
    for document in DOCUMENTS {
        let text = read(document);
        let folder = Path::new(document).parent().expect("a file has a folder");
        for link in text.split("](").skip(1) {
            let link = link.split(')').next().expect("split gives one part");
            if link.contains("://") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() {
                PathBuf::from(document)
            } else {
                folder.join(path)
            };
            assert!(root().join(&target).exists(), "{document}: {link}");
            if !anchor.is_empty() {
                let headings = headings(&read(target));
                assert!(
                    headings.contains(anchor),
                    "{document}: {link}: {headings:?}"
                );
            }
        }
    }
}

#[test]
fn the_outcome_tables_are_those_of_the_code() {
    let document = read("docs/providers.md");
    for (source, name) in [
        ("push-gateway/src/provider/apns/outcome.rs", "APNs"),
        ("push-gateway/src/provider/fcm/outcome.rs", "FCM"),
        ("push-gateway/src/provider/web_push/outcome.rs", "Web Push"),
        (
            "push-gateway/src/provider/unified_push/outcome.rs",
            "UnifiedPush",
        ),
        ("push-gateway/src/provider/transport.rs", "no answer"),
    ] {
        let source = read(source);
        let table: Vec<_> = source
            .lines()
            .filter_map(|line| line.strip_prefix("/// "))
            .filter(|line| line.starts_with('|'))
            .collect();
        assert!(table.len() > 3, "{name}: {table:?}");
        let table = table.join("\n");
        assert!(
            document.contains(&table),
            "docs/providers.md has another table for {name} than the code:\n{table}"
        );
    }
}

#[test]
fn every_metric_is_described_and_no_other() {
    const PREFIXES: [&str; 3] = ["sygnal_", "nocturne_push_", "nocturne_turn_"];
    let is_name = |word: &&str| {
        let prefixed = PREFIXES.iter().any(|prefix| word.starts_with(prefix));
        prefixed
            && word
                .bytes()
                .all(|byte| byte == b'_' || byte.is_ascii_lowercase())
    };
    let sources = [
        "push-gateway/src/metrics.rs",
        "turn-relay/src/metrics.rs",
        "turn-relay/src/credentials/metrics.rs",
    ]
    .map(read);
    let registered: BTreeSet<_> = sources
        .iter()
        .flat_map(|source| source.split('"').filter(is_name))
        .collect();
    let document = read("docs/monitoring.md");
    let described: BTreeSet<_> = document
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|line| line.split('`').next())
        .filter(is_name)
        .collect();
    assert_eq!(described, registered);
}

#[test]
fn every_label_of_the_relay_is_described_and_no_other() {
    fn labels<L: Label>() -> BTreeSet<String> {
        L::ALL
            .iter()
            .map(|label| label.label().to_owned())
            .collect()
    }

    let document = read("docs/monitoring.md");
    let described = |metrics: &str| -> BTreeSet<String> {
        let row = document
            .lines()
            .find(|line| line.starts_with(&format!("| {metrics} | `")))
            .unwrap_or_else(|| panic!("no row for {metrics}"));
        // after the label's name
        row.split('`')
            .skip(3)
            .step_by(2)
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(described("packets, bytes"), labels::<Direction>());
    assert_eq!(described("drops"), labels::<DropReason>());
    assert_eq!(described("auth_failures"), labels::<AuthFailure>());
    assert_eq!(described("denials"), labels::<Denial>());
    assert_eq!(described("quota_hits"), labels::<QuotaHit>());
    assert_eq!(described("bind_failures"), labels::<BindFailure>());
    assert_eq!(described("handshakes"), labels::<Handshake>());
    assert_eq!(described("handovers"), labels::<Handover>());
}

#[test]
fn every_command_of_the_documents_exists() {
    /// What the word is a user's or a group's name after.
    const NAMES_A_USER: [&str; 3] = ["-u", "-g", "-o"];
    let mut seen = BTreeSet::new();
    for document in DOCUMENTS {
        for line in code_blocks(&read(document), "sh")
            .iter()
            .flat_map(|block| block.lines())
        {
            let words: Vec<_> = std::iter::once("").chain(line.split_whitespace()).collect();
            let commands = words.windows(3).filter_map(|words| match words {
                [before, "nocturne", command] if !NAMES_A_USER.contains(before) => Some(*command),
                _ => None,
            });
            let is_option = |word: &&str| word.starts_with('-');
            seen.extend(commands.filter(|word| !is_option(word)).map(str::to_owned));
        }
    }
    for command in ["push", "turn", "check", "notify", "init", "credentials"] {
        assert!(
            seen.contains(command),
            "no document has `nocturne {command}`"
        );
    }
    for command in &seen {
        let output = Command::new(env!("CARGO_BIN_EXE_nocturne"))
            .args([command, "--help"])
            .output()
            .expect("the command can be started");
        assert!(output.status.success(), "nocturne {command}");
    }
}

#[test]
fn what_each_client_shows_is_said_for_every_mode() {
    let readme = read("README.md");
    let header = "| client | `opaque` | `wake` | `sygnal` |";
    let (_, table) = readme.split_once(header).expect("the table of modes");
    let rows: Vec<_> = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .collect();
    for client in [
        "Element X iOS",
        "Element X Android",
        "Element Classic Android",
        "FluffyChat",
    ] {
        assert!(rows.iter().any(|row| row.contains(client)), "{client}");
    }
    for row in rows {
        assert_eq!(row.matches('|').count(), 5, "{row}");
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(root().join(path))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The fenced blocks of one language, as far to the left as their fences.
fn code_blocks(text: &str, language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(found) = line.trim_start().strip_prefix("```") else {
            continue;
        };
        let indentation = line.len() - line.trim_start().len();
        let block: Vec<_> = lines
            .by_ref()
            .take_while(|line| !line.trim_start().starts_with("```"))
            .map(|line| line.get(indentation..).unwrap_or_default())
            .collect();
        if found == language {
            blocks.push(block.join("\n"));
        }
    }
    blocks
}

/// The anchors of a document's headings, as GitHub makes them.
fn headings(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            line.trim_start_matches('#')
                .trim()
                .to_lowercase()
                .chars()
                .filter(|character| {
                    character.is_alphanumeric() || matches!(character, ' ' | '-' | '_')
                })
                .map(|character| if character == ' ' { '-' } else { character })
                .collect()
        })
        .collect()
}
