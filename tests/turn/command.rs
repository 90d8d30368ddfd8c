//! `nocturne turn` and `nocturne check` with files that cannot be used, and with both services' files.

use std::{fs, path::Path, process::Stdio};

use crate::relay::{SECRET, nocturne, write_config, write_secret};

/// Whether it succeeded, standard output, standard error.
fn run(directory: &Path, arguments: &[&str]) -> (bool, String, String) {
    let output = nocturne(arguments)
        .current_dir(directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
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
    let directory = tempfile::tempdir().unwrap();
    let (succeeded, _, said) = run(directory.path(), &["turn"]);
    assert!(!succeeded);
    assert!(
        said.contains("turn-relay.yaml or /etc/nocturne/turn-relay.yaml"),
        "{said}"
    );
}

#[test]
fn all_problems_of_a_file_are_told_and_nothing_starts() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(
        directory.path().join("turn-relay.yaml"),
        "realm: r\nlisten: {tls: []}\npeers: {allow: 0.0.0.0/0}\nquotas: {x: 1}\n",
    )
    .unwrap();
    // found in the working directory
    let (succeeded, _, said) = run(directory.path(), &["turn"]);
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
fn an_address_that_is_in_use_is_named() {
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let directory = tempfile::tempdir().unwrap();
    write_secret(&directory.path().join("secrets"), SECRET);
    write_config(
        directory.path(),
        &format!("listen: {{udp: '{address}', tcp: [], tls: []}}\n"),
    );
    let (succeeded, _, said) = run(directory.path(), &["turn"]);
    assert!(!succeeded);
    assert!(said.contains(&address.to_string()), "{said}");
}

#[test]
fn check_reads_both_services_files() {
    let directory = tempfile::tempdir().unwrap();
    write_secret(&directory.path().join("secrets"), SECRET);
    write_config(directory.path(), "");
    let push = "apps: {a: {type: unifiedpush, payload: opaque}}\n";
    fs::write(directory.path().join("push-gateway.yaml"), push).unwrap();
    let folder = directory.path().to_str().unwrap();
    let (_, said, _) = run(directory.path(), &["check", "--config-dir", folder]);
    for line in [
        "push-gateway.yaml: 0 errors, 0 warnings",
        "turn-relay.yaml: 0 errors, 2 warnings",
        "realm \"turn.example.org\": UDP on 127.0.0.1:0; 1 secret",
        "clients will be told that they are at 127.0.0.1, ports 20000 to 29999 (from `relay.addresses`)",
    ] {
        assert!(said.contains(line), "{line} is not in:\n{said}");
    }

    // one bad file of several is enough; names do not matter
    fs::rename(
        directory.path().join("turn-relay.yaml"),
        directory.path().join("mine.yaml"),
    )
    .unwrap();
    fs::write(directory.path().join("bad.yaml"), "realm: r\nsecrets: []\n").unwrap();
    let (succeeded, said, _) = run(
        directory.path(),
        &["check", "mine.yaml", "bad.yaml", "push-gateway.yaml"],
    );
    assert!(!succeeded);
    assert!(said.contains("mine.yaml: 0 errors"), "{said}");
    assert!(
        said.contains("error: bad.yaml:2: secrets: found an empty list"),
        "{said}"
    );
    assert!(said.contains("push-gateway.yaml: 0 errors"), "{said}");

    let (succeeded, said, _) = run(directory.path(), &["check", "mine.yaml"]);
    assert!(succeeded, "{said}");

    let empty = tempfile::tempdir().unwrap();
    let folder = empty.path().to_str().unwrap();
    let (succeeded, _, said) = run(directory.path(), &["check", "--config-dir", folder]);
    assert!(!succeeded);
    assert!(
        said.contains("there is no push-gateway.yaml and no turn-relay.yaml"),
        "{said}"
    );
}
