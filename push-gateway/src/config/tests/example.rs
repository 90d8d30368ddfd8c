//! `config/push-gateway.yaml` shows every key with its default.

use std::{collections::BTreeSet, path::Path, time::SystemTime};

use shared::{environment::Environment, yaml::Diagnostics};

use super::{
    super::load::{config_of_text, finish},
    Fixture, NOW,
};

const EXAMPLE: &str = include_str!("../../../../config/push-gateway.yaml");

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
    EXAMPLE.lines().map(uncomment).collect()
}

#[test]
fn as_it_is_it_lacks_nothing_but_apps() {
    let loaded = Fixture::new().load(EXAMPLE);
    assert_eq!(loaded.warnings, Vec::<String>::new());
    assert_eq!(loaded.errors.len(), 1);
    assert!(loaded.errors[0].contains("the file is empty"), "{loaded:?}");
}

#[test]
fn with_every_key_set_it_is_what_the_code_has_as_defaults() {
    let fixture = Fixture::new();
    let local = |text: &str| text.replace("/etc/nocturne/", "DIR/");
    let shown = fixture.load(&local(&uncommented()));
    assert_eq!(shown.errors, Vec::<String>::new());
    assert_eq!(shown.warnings, Vec::<String>::new());
    let least = fixture.config(&local(
        "apps:
  im.example.ios: {type: apns, payload: opaque, keyfile: /etc/nocturne/apns.p8, key_id: ABCDEF1234,
    team_id: TEAM123456, topic: im.example.ios}
  im.example.android: {type: gcm, payload: opaque, api_version: v1, project_id: example-project,
    service_account_file: /etc/nocturne/service-account.json}
  im.example.web: {type: webpush, payload: opaque, vapid_private_key: /etc/nocturne/vapid.pem,
    vapid_contact_email: admin@example.org}
  im.example.unifiedpush: {type: unifiedpush, payload: opaque}
",
    ));
    let shown = shown.config.expect("no error");
    assert_eq!(format!("{shown:#?}"), format!("{least:#?}"));
    // What `Debug` hides.
    let (super::super::Provider::WebPush(shown), super::super::Provider::WebPush(least)) =
        (&shown.apps[2].provider, &least.apps[2].provider)
    else {
        panic!("{shown:?}");
    };
    assert_eq!(shown.vapid_subject, least.vapid_subject);
    assert_eq!(shown.allowed_endpoints, least.allowed_endpoints);
    assert_eq!(
        (shown.ttl, shown.max_connections),
        (least.ttl, least.max_connections)
    );
}

#[test]
fn it_shows_every_key_that_the_code_knows() {
    const FIRST: &str = "apps.\"im.example.ios\".";
    let fixture = Fixture::new();
    let diagnostics = Diagnostics::new("example");
    let folder = format!("{}/", fixture.path().display());
    let text = uncommented().replace("/etc/nocturne/", &folder);
    let config = config_of_text(
        &text,
        Path::new("example"),
        &Environment::default(),
        SystemTime::UNIX_EPOCH + NOW,
        &diagnostics,
    );
    let loaded = finish(config, &diagnostics);
    assert_eq!(loaded.errors, Vec::<String>::new());

    // The first app shows what is common to all; the others need not repeat it.
    let absent = diagnostics.absent_keys();
    let absent_in_first: BTreeSet<_> = absent
        .iter()
        .filter_map(|key| key.strip_prefix(FIRST))
        .collect();
    assert_eq!(absent_in_first, BTreeSet::new());
    let ios = text.find("im.example.ios:").expect("the first app");
    let android = text.find("im.example.android:").expect("the second app");
    for key in &absent {
        let last = key.rsplit('.').next().unwrap_or(key);
        let shown = key.starts_with("apps.") && text[ios..android].contains(&format!(" {last}:"));
        assert!(shown, "{key} is not in config/push-gateway.yaml");
    }
}

#[test]
fn each_app_can_be_uncommented_alone() {
    let fixture = Fixture::new();
    let text = uncommented();
    let (before, apps) = text.split_once("\napps:\n").expect("apps");
    let count = apps.matches("\n    type: ").count();
    assert_eq!(count, 4);
    let mut blocks: Vec<String> = Vec::new();
    for line in apps.lines() {
        if line.starts_with("  im.") {
            blocks.push(String::new());
        }
        if let Some(block) = blocks.last_mut() {
            block.push_str(line);
            block.push('\n');
        }
    }
    for block in blocks {
        let text = format!("{before}\napps:\n{block}").replace("/etc/nocturne/", "DIR/");
        assert_eq!(fixture.config(&text).apps.len(), 1);
    }
}
