//! What documents quote stands somewhere: keys in the examples of configurations, options in the programs that
//! are replaced, lines of the log in the code.

use std::{collections::BTreeSet, fs, path::Path};

use crate::{DOCUMENTS, read, root};

/// What Sygnal has and this gateway takes notice of.
const OF_SYGNAL: [&str; 4] = [
    "log.setup",
    "log.access",
    "metrics.opentracing",
    "metrics.sentry",
];

#[test]
fn every_key_that_a_document_names_is_in_an_example() {
    let mut keys = keys("config/turn-relay.yaml");
    let of_push = self::keys("config/push-gateway.yaml");
    // an app's keys are named without it
    let of_apps: Vec<_> = of_push
        .iter()
        .filter_map(|key| key.strip_prefix("apps.im.example."))
        .filter_map(|key| key.split_once('.'))
        .map(|(_, key)| key.to_owned())
        .collect();
    keys.extend(of_apps);
    keys.extend(of_push);
    let sections: BTreeSet<_> = keys
        .iter()
        .filter_map(|key| key.split_once('.'))
        .map(|(section, _)| section.to_owned())
        .collect();
    assert!(sections.contains("relay") && sections.contains("opaque"));
    let mut seen = 0;
    for document in DOCUMENTS
        .iter()
        .filter(|document| document.starts_with("docs/") || **document == "README.md")
    {
        for quoted in quotations(&read(document)) {
            let key: String = quoted
                .chars()
                .take_while(|character| character.is_ascii_lowercase() || "._".contains(*character))
                .collect();
            let follows = quoted.get(key.len()..).unwrap_or_default();
            let is_key = (follows.is_empty() || follows.starts_with(": "))
                && key
                    .split_once('.')
                    .is_some_and(|(section, rest)| sections.contains(section) && !rest.is_empty());
            let is_sygnals = OF_SYGNAL.iter().any(|other| key.starts_with(other));
            if !is_key || is_sygnals || is_file(&key) {
                continue;
            }
            assert!(keys.contains(&key), "{document}: there is no key {key}");
            seen += 1;
        }
    }
    assert!(seen > 50, "{seen}");
}

#[test]
fn every_option_of_debians_turnserver_conf_has_its_row() {
    let path = Path::new("/etc/turnserver.conf");
    let Ok(text) = fs::read_to_string(path) else {
        println!("skipped: {} is not there (Debian: coturn)", path.display());
        return;
    };
    let options: BTreeSet<_> = text
        .lines()
        .map(|line| {
            let line = line.strip_prefix('#').unwrap_or(line);
            let is_indented = |line: &&str| line.contains('=') && !line.starts_with(' ');
            line.strip_prefix(' ').filter(is_indented).unwrap_or(line)
        })
        .map(|line| {
            let is_part =
                |character: char| character.is_ascii_alphanumeric() || "-_".contains(character);
            line.split_at(
                line.find(|character| !is_part(character))
                    .unwrap_or(line.len()),
            )
        })
        // all else is a sentence
        .filter(|(word, rest)| {
            !word.is_empty()
                && (rest.is_empty() || rest.starts_with('=') || rest.starts_with(" \""))
        })
        .map(|(word, _)| word.to_owned())
        .collect();
    assert!(options.len() > 80, "{options:?}");
    let document = read("docs/from-coturn.md");
    let explained: BTreeSet<_> = first_cells(&document).collect();
    let missing: Vec<_> = options.difference(&explained).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_key_of_sygnal_has_its_row() {
    let document = read("docs/from-sygnal.md");
    let explained: BTreeSet<_> = first_cells(&document).collect();
    for key in [
        "http.port",
        "http.bind_addresses",
        "log.setup",
        "log.access.x_forwarded_for",
        "log.access.file",
        "log.access.enabled",
        "metrics.prometheus.enabled",
        "metrics.prometheus.address",
        "metrics.prometheus.port",
        "metrics.opentracing.enabled",
        "metrics.opentracing.implementation",
        "metrics.opentracing.jaeger",
        "metrics.opentracing.service_name",
        "metrics.sentry.enabled",
        "metrics.sentry.dsn",
        "proxy",
        "db",
        "database",
        "inflight_request_limit",
        "certfile",
        "keyfile",
        "key_id",
        "team_id",
        "topic",
        "platform",
        "push_type",
        "convert_device_token_to_hex",
        "send_badge_counts",
        "api_version",
        "api_key",
        "project_id",
        "service_account_file",
        "fcm_options",
        "max_connections",
        "vapid_private_key",
        "vapid_contact_email",
        "allowed_endpoints",
        "ttl",
    ] {
        assert!(explained.contains(key), "{key}");
    }
}

/// Whoever searches for a line of the log finds it.
#[test]
fn what_the_log_is_said_to_have_stands_in_the_code() {
    /// Other programs'.
    const OTHERS: [&str; 2] = ["DNS lookup failed", "Blocked "];
    let mut code = String::new();
    for folder in [
        "src",
        "push-gateway/src",
        "shared/src",
        "turn-relay/src",
        "turn-relay/proto/src",
    ] {
        sources(&root().join(folder), &mut code);
    }
    let code = joined(&code);
    let mut seen = 0;
    for document in [
        "docs/behind-nat.md",
        "docs/troubleshooting.md",
        "docs/upgrade-and-backup.md",
    ] {
        for quoted in quotations(&read(document)) {
            let is_sentence = quoted.split(' ').count() >= 4
                && !quoted.contains(['{', '=', '$', '<', '[', '/'])
                && !["sudo ", "nocturne ", "journalctl "]
                    .iter()
                    .any(|command| quoted.starts_with(command))
                && !OTHERS.iter().any(|other| quoted.starts_with(other));
            if !is_sentence {
                continue;
            }
            for part in quoted
                .split('…')
                .map(str::trim)
                .filter(|part| part.len() > 3)
            {
                assert!(code.contains(part), "{document}: nothing says {part:?}");
            }
            seen += 1;
        }
    }
    assert!(seen > 12, "{seen}");
}

/// The keys of an example, with those above them, where all but comments is commented out.
fn keys(path: &str) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    let mut above: Vec<String> = Vec::new();
    for line in read(path).lines() {
        let trimmed = line.trim_start();
        let depth = (line.len() - trimmed.len()) / 2;
        let Some((key, _)) = trimmed
            .strip_prefix('#')
            .and_then(|line| line.split_once(':'))
        else {
            continue;
        };
        let is_key = !key.is_empty()
            && key
                .chars()
                .all(|character| character.is_ascii_lowercase() || "._".contains(character));
        if is_key {
            above.truncate(depth);
            above.push(key.to_owned());
            keys.insert(above.join("."));
        }
    }
    keys
}

/// What stands in backticks outside of fenced blocks.
fn quotations(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut is_fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_fenced = !is_fenced;
            continue;
        }
        let mut rest = if is_fenced { "" } else { line };
        while let Some(start) = rest.find('`') {
            let inside = &rest[start..];
            let ticks = inside.len() - inside.trim_start_matches('`').len();
            let inside = &inside[ticks..];
            let Some(end) = inside.find(&"`".repeat(ticks)) else {
                break;
            };
            found.push(inside[..end].trim().to_owned());
            rest = &inside[end + ticks..];
        }
    }
    found
}

/// What is quoted in the first cells of a document's tables.
fn first_cells(text: &str) -> impl Iterator<Item = String> {
    text.lines()
        .filter_map(|line| line.strip_prefix("| "))
        .filter_map(|line| line.split(" | ").next())
        .flat_map(quotations)
}

fn is_file(name: &str) -> bool {
    [".yaml", ".yml", ".md", ".key", ".conf"]
        .iter()
        .any(|end| name.ends_with(end))
}

fn sources(folder: &Path, to: &mut String) {
    for entry in fs::read_dir(folder).expect("a folder of the repository") {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            sources(&path, to);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            to.push_str(&read(&path));
        }
    }
}

/// The same with strings that go over several lines in one.
fn joined(code: &str) -> String {
    let mut lines = code.split("\\\n");
    let first = lines.next().unwrap_or_default().to_owned();
    lines.fold(first, |joined, line| joined + line.trim_start())
}
