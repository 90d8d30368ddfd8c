//! Keys from environment variables.

use std::time::{Duration, SystemTime};

use shared::environment::Environment;

use super::{Fixture, LEAST, NOW};
use crate::config::{http_addresses, load, report};

fn environment(variables: &[(&str, &str)]) -> Environment {
    variables.iter().copied().collect()
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + NOW
}

#[test]
fn variables_count_instead_of_what_the_file_has() {
    let fixture = Fixture::new();
    let text = format!("{LEAST}quotas: {{allocations_total: 5, allocations_per_user: 2}}\n");
    let loaded = fixture.load_with(
        &text,
        &environment(&[
            ("NOCTURNE_TURN__REALM", "other.example.org"),
            ("NOCTURNE_TURN__QUOTAS__ALLOCATIONS_TOTAL", "7"),
            ("NOCTURNE_TURN__LISTEN__UDP", "127.0.0.1:3478"),
            ("NOCTURNE_TURN__LISTEN__TCP", "[]"),
            ("NOCTURNE_TURN__LISTEN__TLS", "[::1]:5349"),
            (
                "NOCTURNE_TURN__PEERS__DENY",
                "[203.0.113.0/24, 198.51.100.0/24]",
            ),
            ("NOCTURNE_TURN__RELAY__EXTERNAL", "{10.0.0.5: 203.0.113.7}"),
            ("NOCTURNE_TURN__LIFETIME", "{max: 30m}"),
            ("NOCTURNE_TURN__HTTP__LISTEN", ""),
            ("NOCTURNE_TURN_PORT", "udp://10.0.0.1:3478"),
        ]),
    );
    assert_eq!(loaded.errors, [""; 0]);
    let config = loaded.config.expect("no error");
    assert_eq!(config.realm, "other.example.org");
    assert_eq!(config.quotas.allocations_total, 7);
    assert_eq!(config.quotas.allocations_per_user, 2);
    assert_eq!(config.listen.udp, ["127.0.0.1:3478".parse().unwrap()]);
    assert_eq!(config.listen.tcp, []);
    assert_eq!(config.listen.tls, ["[::1]:5349".parse().unwrap()]);
    assert_eq!(config.peers.deny.len(), 2);
    assert_eq!(config.relay.external.len(), 1);
    assert_eq!(config.lifetime.max, Duration::from_mins(30));
    assert_eq!(config.http_listen, ["127.0.0.1:3480".parse().unwrap()]);
}

#[test]
fn problems_with_a_variable_name_the_variable() {
    let fixture = Fixture::new();
    let cases = [
        (
            "NOCTURNE_TURN__QUOTAS__ALLOCATIONS_TOTAL",
            "many",
            "quotas.allocations_total: found \"many\", expected a whole number",
        ),
        (
            "NOCTURNE_TURN__REALMS",
            "x",
            "realms: unknown key (did you mean `realm`?)",
        ),
        (
            "NOCTURNE_TURN__QUOTAS__ALLOCATIONS_TOTALS",
            "5",
            "quotas.allocations_totals: unknown key (did you mean `allocations_total`?)",
        ),
        (
            "NOCTURNE_TURN__LISTN__UDP",
            "x",
            "listn: unknown key (did you mean `listen`?)",
        ),
        (
            "NOCTURNE_TURN__PEERS__DENY",
            "[10.0.0.0/8, {]",
            "not valid YAML",
        ),
        (
            "NOCTURNE_TURN__REALM__NAME",
            "x",
            "`realm` has no keys below it",
        ),
        ("NOCTURNE_TURN__RELAY__", "x", "names no key"),
        (
            "NOCTURNE_TURN__RELAY__EXTERNAL__10_0_0_5",
            "203.0.113.7",
            "set NOCTURNE_TURN__RELAY__EXTERNAL to the whole of it",
        ),
        (
            "NOCTURNE_TURN__CREDENTIALS__API_KEYS_FILE",
            "/nonexistent/keys",
            "the file /nonexistent/keys cannot be read",
        ),
        (
            "NOCTURNE_TURN__SECRETS",
            "12345678901234567",
            "expected text (put it in quotes)",
        ),
    ];
    for (name, value, expected) in cases {
        let errors = fixture
            .load_with(LEAST, &environment(&[(name, value)]))
            .errors;
        let told = |error: &String| {
            error.starts_with(&format!("environment variable {name}: ")) && error.contains(expected)
        };
        assert!(errors.iter().any(told), "{name}: {errors:#?}");
    }
}

/// A secret that YAML would cut short or misread is taken as it stands.
#[test]
fn a_value_without_brackets_and_quotes_is_taken_as_it_stands() {
    let fixture = Fixture::new();
    let secret = "*correct horse: battery #staple";
    let loaded = fixture.load_with(LEAST, &environment(&[("NOCTURNE_TURN__SECRETS", secret)]));
    assert_eq!(loaded.errors, [""; 0]);
    let config = loaded.config.expect("no error");
    let secrets: Vec<_> = config.secrets.iter().map(|s| s.expose().as_str()).collect();
    assert_eq!(secrets, [secret]);
}

#[test]
fn a_variable_that_ends_in_file_has_its_value_read_from_there() {
    let fixture = Fixture::new();
    let keys = fixture.write("keys", "the first of the keys\nthe second of the keys\n");
    let homeserver = fixture.write("homeserver", "https://matrix.example.org\n");
    let secrets = fixture.write("secrets", "# newest first\na secret of the file\n");
    let path = |path: &std::path::Path| path.display().to_string();
    let variables = [
        ("NOCTURNE_TURN__CREDENTIALS__API_KEYS_FILE", path(&keys)),
        (
            "NOCTURNE_TURN__CREDENTIALS__HOMESERVER_FILE",
            path(&homeserver),
        ),
        ("NOCTURNE_TURN__SECRETS_FILE", path(&secrets)),
    ];
    let loaded = fixture.load_with(LEAST, &variables.clone().into_iter().collect());
    assert_eq!(loaded.errors, [""; 0]);
    let config = loaded.config.expect("no error");
    assert_eq!(
        config.credentials.api_keys[1].expose(),
        "the second of the keys"
    );
    let url = config.credentials.homeserver.expect("a URL");
    assert_eq!(url.as_str(), "https://matrix.example.org/");
    assert!(
        config
            .secrets
            .iter()
            .any(|s| s.expose() == "a secret of the file")
    );

    let both = variables.into_iter().chain([(
        "NOCTURNE_TURN__CREDENTIALS__API_KEYS",
        "the third of the keys".to_owned(),
    )]);
    let errors = fixture.load_with(LEAST, &both.collect()).errors;
    assert!(
        errors[0].contains("NOCTURNE_TURN__CREDENTIALS__API_KEYS is set as well"),
        "{errors:#?}"
    );
}

#[test]
fn with_variables_the_file_need_not_be_there() {
    let fixture = Fixture::new();
    let path = fixture.path().join("turn-relay.yaml");
    let variables = environment(&[
        ("NOCTURNE_TURN__REALM", "turn.example.org"),
        ("NOCTURNE_TURN__SECRETS", "kPlaXzQyVqFhMEUwbzcx"),
        ("NOCTURNE_TURN__LISTEN__TLS", "[]"),
        ("NOCTURNE_TURN__HTTP__LISTEN", "0.0.0.0:9"),
    ]);
    let loaded = load(&path, &variables, now());
    assert_eq!(loaded.errors, [""; 0]);
    let text = report::report(&path, &loaded).text;
    let line = "from the environment: NOCTURNE_TURN__HTTP__LISTEN, NOCTURNE_TURN__LISTEN__TLS, NOCTURNE_TURN__REALM, \
                NOCTURNE_TURN__SECRETS; there is no ";
    assert!(text.contains(line), "{text}");
    assert!(!text.contains("kPlaXzQy"), "{text}");
    assert_eq!(
        http_addresses(&path, &variables),
        Ok(vec!["0.0.0.0:9".parse().unwrap()])
    );

    let errors = load(&path, &Environment::default(), now()).errors;
    assert!(errors[0].contains("cannot be read"), "{errors:#?}");
}
