//! The dashboard, the alert rules and docs/monitoring.md speak of metrics that there are, and of nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Command, Stdio},
};

use push_gateway::{
    metrics::{Kind, Metrics},
    outcome::{Cause, Rejected, Suppressed},
    provider::Expiry,
    sealed::pushkey::CannotOpen,
};
use serde_json::{Value as Json, json};
use shared::{
    clock::Clock,
    environment::Environment,
    lifecycle,
    random::Random,
    yaml::{self, Diagnostics, Value},
};
use stand_ins::{Authority, write_secret};

use crate::{read, root};

const DASHBOARD: &str = "config/grafana/nocturne.json";
const ALERTS: &str = "config/prometheus/alerts.yaml";
const DOCUMENT: &str = "docs/monitoring.md";
/// Every Prometheus client's own, and Prometheus' own.
const OTHERS: [&str; 6] = [
    "process_start_time_seconds",
    "process_resident_memory_bytes",
    "process_open_fds",
    "process_max_fds",
    "process_cpu_seconds_total",
    "up",
];
/// What Prometheus adds to every sample, and histograms to their buckets.
const ADDED_LABELS: [&str; 3] = ["job", "instance", "le"];

#[tokio::test]
async fn the_types_in_the_document_are_those_that_the_services_export() {
    let text = of_the_gateway() + &of_the_relay().await;
    let exported: BTreeMap<_, _> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|line| line.split_once(' '))
        .filter(|(name, _)| !name.starts_with("process_"))
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect();
    // what takes a cargo feature may be there or not
    let described: BTreeMap<_, _> = described()
        .into_iter()
        .filter(|(name, row)| {
            !row.what.contains("with the feature `") || exported.contains_key(name)
        })
        .map(|(name, row)| (name, row.kind))
        .collect();
    assert_eq!(described, exported);
}

#[test]
fn dashboard_and_alerts_name_metrics_and_labels_that_there_are() {
    let described = described();
    let mut samples: BTreeMap<String, &Row> = BTreeMap::new();
    for (name, row) in &described {
        let suffixes: &[&str] = match row.kind.as_str() {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            "info" => &["_info"],
            "gauge" => &[""],
            other => panic!("{name} is a {other}"),
        };
        samples.extend(
            suffixes
                .iter()
                .map(|suffix| (format!("{name}{suffix}"), row)),
        );
    }
    let mut used = BTreeSet::new();
    for (place, expression) in expressions() {
        let names = selectors(&expression);
        assert!(!names.is_empty(), "{place}: {expression}");
        for (name, matchers) in names {
            if OTHERS.contains(&name.as_str()) {
                continue;
            }
            let row = samples
                .get(&name)
                .unwrap_or_else(|| panic!("{place}: nothing exports {name}"));
            for (label, value) in matchers {
                if ADDED_LABELS.contains(&label.as_str()) {
                    continue;
                }
                assert!(
                    row.labels.contains(&label),
                    "{place}: {name} has no label {label}"
                );
                for word in value.split('|') {
                    let known = match word.strip_suffix(".*") {
                        Some(start) => row.values.iter().any(|value| value.starts_with(start)),
                        None => row.values.contains(word),
                    };
                    assert!(known, "{place}: {name} has no {label} {word:?}");
                }
            }
            for label in grouped_by(&expression) {
                let anywhere = described.values().any(|row| row.labels.contains(&label));
                assert!(
                    anywhere || ADDED_LABELS.contains(&label.as_str()),
                    "{place}: nothing has the label {label}"
                );
            }
            used.insert(name);
        }
    }
    // the two services' heartbeats, so that this has looked at something
    for name in [
        "nocturne_push_delivered_total",
        "nocturne_turn_allocations",
        "sygnal_notify_time_bucket",
    ] {
        assert!(used.contains(name), "{used:?}");
    }
}

#[test]
fn every_alert_is_explained_and_says_what_to_do() {
    let text = read(ALERTS);
    let diagnostics = Diagnostics::new(ALERTS);
    let node = yaml::parse(&text, &diagnostics).expect("YAML");
    let mut names = BTreeSet::new();
    for rule in rules(&Value::root(&node, &diagnostics)) {
        let name = text_at(&rule, &["alert"]).expect("a name");
        for annotation in ["summary", "description"] {
            assert!(
                text_at(&rule, &["annotations", annotation]).is_some(),
                "{name} has no {annotation}"
            );
        }
        let severity = text_at(&rule, &["labels", "severity"]).unwrap_or_default();
        assert!(
            ["critical", "warning", "info"].contains(&severity.as_str()),
            "{name}: {severity}"
        );
        assert!(names.insert(name.clone()), "two alerts are called {name}");
    }
    let document = read(DOCUMENT);
    let explained: BTreeSet<_> = document
        .lines()
        .filter_map(|line| line.strip_prefix("| `Nocturne"))
        .filter_map(|line| line.split('`').next())
        .map(|rest| format!("Nocturne{rest}"))
        .collect();
    assert_eq!(explained, names);
}

#[test]
fn the_dashboard_has_no_two_panels_in_one_place() {
    let dashboard: Json = serde_json::from_str(&read(DASHBOARD)).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().expect("a title");
        assert!(ids.insert(panel["id"].as_u64()), "{title}: its id is taken");
        let place = |key: &str| panel["gridPos"][key].as_u64().expect("a number");
        assert!(place("x") + place("w") <= 24, "{title} is too wide");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(taken.insert((x, y)), "{title} covers another panel");
            }
        }
        let explains = panel["description"].as_str().is_some();
        assert!(explains || panel["type"] == "row", "{title}");
    }
}

/// `promtool`, of Debian's package `prometheus`, or where `NOCTURNE_PROMTOOL` says: it knows the language.
#[test]
fn prometheus_takes_every_expression_and_the_alerts_go_off_when_they_should() {
    let program = Environment::of_process()
        .get("NOCTURNE_PROMTOOL")
        .unwrap_or("promtool")
        .to_owned();
    let can_be_started = Command::new(&program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok();
    if !can_be_started {
        println!("skipped: {program} is not there (Debian: prometheus)");
        return;
    }
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    let rules: Vec<_> = expressions()
        .into_iter()
        .filter(|(place, _)| place.starts_with(DASHBOARD))
        .enumerate()
        .map(|(index, (_, expression))| {
            let expression = expression
                .replace("$__rate_interval", "5m")
                .replace("$job", "nocturne.*");
            json!({"record": format!("panel_{index}"), "expr": expression})
        })
        .collect();
    let of_panels = folder.path().join("dashboard.yaml");
    let groups = json!({"groups": [{"name": "dashboard", "rules": rules}]});
    fs::write(&of_panels, groups.to_string()).expect("the folder can be written to");
    let promtool = |words: [&str; 2], file: &Path| {
        let output = Command::new(&program)
            .args(words)
            .arg(file)
            .output()
            .expect("it could be started before");
        assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    };
    promtool(["check", "rules"], &of_panels);
    promtool(["check", "rules"], &root().join(ALERTS));
    promtool(["test", "rules"], &root().join("tests/docs/alerts.yaml"));
}

/// A row of the tables in docs/monitoring.md.
struct Row {
    kind: String,
    what: String,
    labels: BTreeSet<String>,
    /// Everything that any label can be, and more: the words of the tables that begin with the metric's short name.
    values: BTreeSet<String>,
}

fn described() -> BTreeMap<String, Row> {
    let document = read(DOCUMENT);
    let words = |text: &str| -> BTreeSet<String> {
        text.split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect()
    };
    let cells = |line: &str| -> Vec<String> {
        let cells = line.trim_matches('|').split('|');
        cells.map(|cell| cell.trim().to_owned()).collect()
    };
    let lines: Vec<Vec<String>> = document
        .lines()
        .filter(|line| line.starts_with("| "))
        .map(cells)
        .collect();
    let mut described = BTreeMap::new();
    for row in &lines {
        let [name, kind, labels, what] = row.as_slice() else {
            continue;
        };
        let Some(name) = name
            .strip_prefix('`')
            .and_then(|name| name.strip_suffix('`'))
        else {
            continue;
        };
        let mut values = words(what);
        for other in &lines {
            let is_meant = other
                .first()
                .is_some_and(|first| first.split(", ").any(|part| name.ends_with(part)));
            if is_meant && other.len() < 4 {
                values.extend(other.iter().flat_map(|cell| words(cell)));
            }
        }
        let row = Row {
            kind: kind.clone(),
            what: what.clone(),
            labels: words(labels),
            values,
        };
        described.insert(name.to_owned(), row);
    }
    described
}

/// All of them, with where they stand.
fn expressions() -> Vec<(String, String)> {
    let dashboard: Json = serde_json::from_str(&read(DASHBOARD)).expect("JSON");
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let place = format!("{DASHBOARD}: {}", panel["title"]);
            found.push((
                place,
                target["expr"].as_str().expect("an expression").to_owned(),
            ));
        }
    }
    assert!(found.len() > 20, "{}", found.len());
    let text = read(ALERTS);
    let diagnostics = Diagnostics::new(ALERTS);
    let node = yaml::parse(&text, &diagnostics).expect("YAML");
    for rule in rules(&Value::root(&node, &diagnostics)) {
        let name = text_at(&rule, &["alert"]).expect("a name");
        let expression = text_at(&rule, &["expr"]).expect("an expression");
        found.push((format!("{ALERTS}: {name}"), expression));
    }
    found
}

fn rules<'a>(file: &Value<'a>) -> Vec<Value<'a>> {
    let groups = file.section().get("groups").expect("groups").one_or_more();
    let rules: Vec<_> = groups
        .iter()
        .filter_map(|group| group.section().get("rules"))
        .flat_map(|rules| rules.one_or_more())
        .collect();
    assert!(rules.len() > 10, "{}", rules.len());
    rules
}

fn text_at(value: &Value<'_>, keys: &[&'static str]) -> Option<String> {
    let (last, above) = keys.split_last()?;
    let section = above
        .iter()
        .fold(value.section(), |section, key| section.section(key));
    section.get(last)?.text().map(str::to_owned)
}

/// The metrics that an expression names, each with what is asked of its labels.
fn selectors(expression: &str) -> Vec<(String, Vec<(String, String)>)> {
    let is_word = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(start) = rest.find(is_word) {
        rest = &rest[start..];
        let end = rest.find(|character| !is_word(character));
        let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
        rest = after;
        let is_metric = word == "up"
            || ["nocturne_", "sygnal_", "process_"]
                .iter()
                .any(|prefix| word.starts_with(prefix));
        if !is_metric {
            continue;
        }
        let mut matchers = Vec::new();
        if let Some((inside, after)) = rest
            .strip_prefix('{')
            .and_then(|inside| inside.split_once('}'))
        {
            rest = after;
            for matcher in inside.split("\",") {
                let (label, value) = matcher.split_once('=').expect("a matcher");
                let label = label.trim().trim_end_matches('!');
                let value = value.trim_start_matches('~').trim_matches('"');
                matchers.push((label.to_owned(), value.to_owned()));
            }
        }
        found.push((word.to_owned(), matchers));
    }
    found
}

/// The labels of `by (…)`.
fn grouped_by(expression: &str) -> Vec<String> {
    expression
        .split("by (")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .flat_map(|labels| labels.split(','))
        .map(|label| label.trim().to_owned())
        .collect()
}

/// What a gateway exports to which everything has happened once.
fn of_the_gateway() -> String {
    let metrics = Metrics::new(&Clock::system());
    for kind in [Kind::Apns, Kind::Gcm, Kind::WebPush, Kind::UnifiedPush] {
        let app = metrics.app("app", kind);
        app.rejected(Rejected::Unregistered);
        app.failed(Cause::Connect);
        app.suppressed(Suppressed::Duplicate);
    }
    drop(metrics.shortfalls("app"));
    drop(metrics.clock_set_back("app"));
    metrics.unmatched(Rejected::UnknownApp);
    metrics.unopened(CannotOpen::NoKeys);
    metrics.set_credentials_expiry("app", Expiry::Certificate(0));
    metrics.answered(200, std::time::Duration::ZERO);
    metrics.encode()
}

/// What a relay with a certificate exports that was asked for credentials once.
async fn of_the_relay() -> String {
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    let authority = Authority::new().expect("a key");
    let identity = authority
        .server_identity(&["turn.example.org"])
        .expect("a certificate");
    let pem = folder.path().join("turn.pem");
    write_secret(&pem, &identity.pem()).expect("the folder can be written to");
    let file = folder.path().join("turn-relay.yaml");
    let configuration = json!({
        "realm": "turn.example.org",
        "secrets": ["a secret that is long enough"],
        "listen": {"udp": "127.0.0.1:0", "tcp": "127.0.0.1:0", "tls": "127.0.0.1:0"},
        "tls": {"certificate": pem, "key": pem},
        "relay": {"addresses": ["127.0.0.1"]},
        "http": {"listen": "127.0.0.1:0"},
        "workers": 1,
    });
    fs::write(&file, configuration.to_string()).expect("the folder can be written to");
    let clock = Clock::system();
    let loaded = turn_relay::config::load(&file, &Environment::default(), clock.wall());
    assert_eq!(loaded.errors, [""; 0]);
    let world = turn_relay::relay::World {
        clock,
        random: Random::system(),
        environment: Environment::default(),
    };
    let bound = turn_relay::bind(loaded.config.expect("no error"), world)
        .await
        .expect("free ports");
    let address = bound.http_addresses().next().expect("one address");
    let (trigger, shutdown) = lifecycle::shutdown();
    let serving = tokio::spawn(bound.serve(shutdown));
    let asked = tokio::task::spawn_blocking(move || {
        get(address, "/turn/credentials");
        get(address, "/metrics")
    });
    let text = asked.await.expect("no panic");
    trigger.begin();
    serving.await.expect("no panic");
    text
}

fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}
