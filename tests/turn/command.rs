//! `nocturne turn` and `nocturne check` with files that cannot be used, and with both services' files.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::json;

use crate::client::{REALM, SECRET};

/// Whether it succeeded, standard output, standard error.
fn run(folder: &Path, arguments: &[&str]) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_nocturne"))
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .current_dir(folder)
        .output()
        .unwrap();
    (
        output.status.success(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn without_a_configuration_it_says_where_it_looked() {
    if Path::new("/etc/nocturne/turn-relay.yaml").exists() {
        println!("skipped: this machine has /etc/nocturne/turn-relay.yaml");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (succeeded, _, said) = run(folder.path(), &["turn"]);
    assert!(!succeeded);
    assert!(
        said.contains("turn-relay.yaml or /etc/nocturne/turn-relay.yaml"),
        "{said}"
    );
}

#[test]
fn all_problems_of_a_file_are_told_with_their_lines_and_nothing_starts() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("turn-relay.yaml"),
        "realm: r\nlisten: {tls: []}\npeers: {allow: 0.0.0.0/0}\nquotas: {x: 1}\n",
    )
    .unwrap();
    // found in the working directory
    let (succeeded, _, said) = run(folder.path(), &["turn"]);
    assert!(!succeeded);
    for problem in [
        "error: turn-relay.yaml:1: neither `secrets` nor `secrets_file` is there",
        "error: turn-relay.yaml:3: peers.allow: allows, taken together, every address of IPv4 or of IPv6",
        "error: turn-relay.yaml:4: quotas.x: unknown key",
        "nocturne: turn-relay.yaml cannot be used; problems: 3",
    ] {
        assert!(said.contains(problem), "{problem} is not in:\n{said}");
    }
}

#[test]
fn check_reads_both_services_files() {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({
        "realm": REALM,
        "secrets": [SECRET],
        "listen": {"udp": "127.0.0.1:0", "tcp": [], "tls": []},
        "relay": {"addresses": "127.0.0.1", "ports": "20000-29999"},
        "peers": {"allow": "127.0.0.0/8"},
    });
    let file = |name: &str| folder.path().join(name);
    fs::write(file("turn-relay.yaml"), config.to_string()).unwrap();
    let push = "apps: {a: {type: unifiedpush, payload: opaque}}\n";
    fs::write(file("push-gateway.yaml"), push).unwrap();
    let (_, said, _) = run(
        folder.path(),
        &["check", "--config-dir", folder.path().to_str().unwrap()],
    );
    for line in [
        "push-gateway.yaml: 0 errors, 0 warnings",
        "turn-relay.yaml: 0 errors, 2 warnings",
        "realm \"turn.example.org\": UDP on 127.0.0.1:0; 1 secret",
        "clients will be told that they are at 127.0.0.1, ports 20000 to 29999 (from `relay.addresses`)",
    ] {
        assert!(said.contains(line), "{line} is not in:\n{said}");
    }

    // one bad file of several is enough; names do not matter
    fs::rename(file("turn-relay.yaml"), file("mine.yaml")).unwrap();
    fs::write(file("bad.yaml"), "realm: r\nsecrets: []\n").unwrap();
    let (succeeded, said, _) = run(
        folder.path(),
        &["check", "mine.yaml", "bad.yaml", "push-gateway.yaml"],
    );
    assert!(!succeeded);
    assert!(said.contains("mine.yaml: 0 errors"), "{said}");
    assert!(
        said.contains("error: bad.yaml:2: secrets: found an empty list"),
        "{said}"
    );
    assert!(said.contains("push-gateway.yaml: 0 errors"), "{said}");

    let (succeeded, said, _) = run(folder.path(), &["check", "mine.yaml"]);
    assert!(succeeded, "{said}");

    let empty = tempfile::tempdir().unwrap();
    let (succeeded, _, said) = run(
        folder.path(),
        &["check", "--config-dir", empty.path().to_str().unwrap()],
    );
    assert!(!succeeded);
    assert!(
        said.contains("there is no push-gateway.yaml and no turn-relay.yaml"),
        "{said}"
    );
}
