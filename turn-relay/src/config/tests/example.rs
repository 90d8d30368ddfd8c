//! `config/turn-relay.yaml` shows every key with its default.

use std::{path::Path, time::SystemTime};

use shared::{environment::Environment, yaml::Diagnostics};

use super::{
    super::load::{config_of_text, finish},
    Fixture, NOW,
};

const EXAMPLE: &str = include_str!("../../../../config/turn-relay.yaml");

/// What stands in the place of a secret.
const PLACEHOLDER: &str = "\"…\"";

/// Takes the `#` away from every line that has one directly before a key.
fn uncommented() -> String {
    let uncomment = |line: &str| {
        let indent = line.len() - line.trim_start().len();
        match line.trim_start().strip_prefix('#') {
            Some(rest) if rest.starts_with(|first: char| first.is_ascii_lowercase()) => {
                format!("{}{rest}\n", &line[..indent])
            }
            _ => format!("{line}\n"),
        }
    };
    assert!(EXAMPLE.contains(PLACEHOLDER));
    EXAMPLE
        .lines()
        .map(uncomment)
        .collect::<String>()
        .replace(PLACEHOLDER, "kPlaXzQyVqFhMEUwbzcx")
        .replace("/etc/nocturne/", "DIR/")
}

#[test]
fn as_it_is_it_says_nothing() {
    let loaded = Fixture::new().load(EXAMPLE);
    assert_eq!(loaded.warnings, Vec::<String>::new());
    assert_eq!(loaded.errors.len(), 1);
    assert!(loaded.errors[0].contains("the file is empty"), "{loaded:?}");
}

#[test]
fn with_every_key_set_it_is_what_the_code_has_as_defaults() {
    let fixture = Fixture::new();
    let shown = fixture.load(&uncommented());
    assert_eq!(shown.errors, Vec::<String>::new());
    assert_eq!(shown.warnings, Vec::<String>::new());
    assert_eq!(shown.failing, Vec::<String>::new());
    let shown = shown.config.expect("no error");
    let least = fixture.config(super::LEAST);
    assert_eq!(format!("{shown:#?}"), format!("{least:#?}"));
    assert_eq!(shown.secrets.len(), 1, "the file of `secrets_file` is null");
}

#[test]
fn it_shows_every_key_that_the_code_knows() {
    let fixture = Fixture::new();
    let diagnostics = Diagnostics::new("example");
    let folder = format!("{}/", fixture.path().display());
    let config = config_of_text(
        &uncommented().replace("DIR/", &folder),
        Path::new("example"),
        &Environment::default(),
        SystemTime::UNIX_EPOCH + NOW,
        &diagnostics,
    );
    assert_eq!(finish(config, &diagnostics).errors, Vec::<String>::new());
    assert_eq!(diagnostics.absent_keys(), Vec::<String>::new());
}
