//! A set-up that works.

use serde_json::{Value, json};
use stand_ins::Authority;

use crate::harness::{Installation, Report, SECRET, local, printed};

fn sound() -> Installation {
    let authority = Authority::new().unwrap();
    let identity = authority.server_identity(&[]).unwrap();
    Installation::new()
        .with_certificate(
            &identity.certificate_pem,
            &identity.key_pem,
            authority.pem(),
        )
        .with_push()
        .started()
}

fn assert_sound(report: &Report) {
    assert_eq!(report.code, 0, "{:#}", report.whole);
    assert_eq!(report.whole["sound"], true);
    for topic in ["configuration", "ports", "certificates", "turn"] {
        report.assert_good(topic);
    }
}

#[test]
fn all_is_good_and_a_packet_goes_through_over_each_uri_and_each_family() {
    let installation = sound();
    let report = installation.examine(&[]);
    assert_sound(&report);
    for scheme in ["turns:localhost", "turn:localhost"] {
        report.assert_says("turn", scheme, "good", "a packet goes through");
    }
    let ways = 3 * local().len();
    assert_eq!(report.about("turn", "localhost").len(), ways);
    assert_eq!(report.about("ports", "UDP ").len(), local().len());
    report.assert_says("ports", "HTTP", "good", "the relay is up and ready");
    report.assert_says("ports", "HTTP", "good", "the push gateway is up and ready");
    report.assert_says("ports", "from outside", "skipped", "firewall");
    // loopback is good for trying things out, and that is said
    report.assert_says(
        "dns",
        "localhost",
        "warning",
        "not reachable from the internet",
    );
    report.assert_says("dns", "relayed addresses", "warning", "127.0.0.1");
}

#[test]
fn nothing_is_left_behind_at_the_relay() {
    let installation = Installation::new();
    let uri = format!("turn:127.0.0.1:{}?transport=udp", installation.ports.udp);
    let installation = installation
        .with(&json!({"quotas": {"allocations_total": 2}, "credentials": {"uris": [uri]}}))
        .started();
    for _ in 0..3 {
        installation.examine(&[]).assert_good("turn");
    }
}

#[test]
fn json_has_the_same_members_in_every_finding() {
    let report = Installation::new().examine(&[]);
    let members =
        |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    assert_eq!(members(&report.whole), ["sound", "findings"]);
    assert!(report.findings.len() > 5);
    for finding in &report.findings {
        let expected = ["topic", "subject", "outcome", "what", "why", "remedy"];
        assert_eq!(members(finding), expected);
        let has = |key: &str| finding[key].as_str().is_some_and(|text| !text.is_empty());
        assert!(has("topic") && has("subject") && has("what"), "{finding:#}");
        let (why, remedy) = match finding["outcome"].as_str().unwrap() {
            "good" => (false, false),
            "skipped" => (false, true),
            "warning" | "failure" => (true, true),
            other => panic!("{other}"),
        };
        assert_eq!((has("why"), has("remedy")), (why, remedy), "{finding:#}");
    }
}

#[test]
fn people_get_a_line_for_what_is_good_and_three_for_what_is_not() {
    let installation = sound();
    let text = printed(&mut installation.doctor(&[]));
    let lines: Vec<_> = text.lines().collect();
    for heading in [
        "Configuration",
        "DNS",
        "Ports",
        "Certificates",
        "TURN",
        "LiveKit",
    ] {
        assert!(lines.contains(&heading), "{text}");
    }
    let warning = lines
        .iter()
        .position(|line| line.starts_with("  warning"))
        .unwrap();
    assert!(lines[warning + 1].contains("Why it matters: "), "{text}");
    assert!(lines[warning + 2].contains("What to do: "), "{text}");
    let good = lines
        .iter()
        .position(|line| line.contains("a packet goes through"));
    assert!(
        lines[good.unwrap()].starts_with("  good     turn"),
        "{text}"
    );
    assert!(lines.last().unwrap().contains("failures: 0"), "{text}");
    assert!(!text.contains(SECRET));
}

#[test]
fn without_any_configuration_it_says_where_it_looked() {
    let empty = tempfile::tempdir().unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_nocturne"))
        .args(["doctor", "--config-dir"])
        .arg(empty.path())
        .env_clear()
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("turn-relay.yaml"), "{said}");
}
