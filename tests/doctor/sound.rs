//! A set-up that works.

use std::process::Command;

use serde_json::{Value, json};
use stand_ins::{Authority, Identity};

use crate::harness::{Installation, Report, SECRET, local, printed, write};

fn sound() -> Installation {
    let (authority, identity) = certificate(&[]);
    with_certificate(&authority, &identity)
        .with_push()
        .started()
}

fn certificate(names: &[&str]) -> (Authority, Identity) {
    let authority = Authority::new().unwrap();
    let identity = authority.server_identity(names).unwrap();
    (authority, identity)
}

fn with_certificate(authority: &Authority, identity: &Identity) -> Installation {
    Installation::new().with_certificate(
        &identity.certificate_pem,
        &identity.key_pem,
        authority.pem(),
    )
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
    let output = Command::new(env!("CARGO_BIN_EXE_nocturne"))
        .args(["doctor", "--config-dir"])
        .arg(empty.path())
        .env_clear()
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("turn-relay.yaml"), "{said}");
}

/// What a machine with public addresses and a name does: the relay, and doctor beside it.
#[cfg(target_os = "linux")]
const MACHINE: &str = r#"
set -e
ip link set lo up
ip address add 5.0.1.2/32 dev lo
ip address add 2a00:5:1::2/128 dev lo nodad
mount --bind hosts /etc/hosts
"$NOCTURNE" turn --config turn-relay.yaml 2> turn.log &
relay=$!
tries=0
until grep -q "serving health" turn.log || [ $tries = 600 ]; do tries=$((tries + 1)); sleep 0.05; done
code=0
"$NOCTURNE" doctor --config-dir . --json $ARGUMENTS || code=$?
kill $relay
exit $code
"#;

#[cfg(target_os = "linux")]
const NAME: &str = "turn.example.org";

/// What doctor says on a machine with `5.0.1.2` and `2a00:5:1::2`, to which a name leads; none where there are no
/// namespaces.
#[cfg(target_os = "linux")]
fn on_a_machine(relay: &Value, arguments: &str) -> Option<Report> {
    let namespaces = ["unshare", "--net", "--mount", "--"];
    let may = Command::new(namespaces[0])
        .args(&namespaces[1..])
        .args(["ip", "address"])
        .output();
    if !may.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: network namespaces need root, unshare and ip");
        return None;
    }
    let (authority, identity) = certificate(&[NAME]);
    let installation = with_certificate(&authority, &identity).with_whole(&json!({
        "realm": NAME,
        "secrets": [SECRET],
        "relay": relay,
    }));
    let hosts = format!("5.0.1.2 {NAME}\n2a00:5:1::2 {NAME}\n");
    write(&installation.path("hosts"), &hosts);
    let output = Command::new(namespaces[0])
        .args(&namespaces[1..])
        .args(["sh", "-c", MACHINE])
        .current_dir(installation.path(""))
        .env("NOCTURNE", env!("CARGO_BIN_EXE_nocturne"))
        .env("ARGUMENTS", arguments)
        .env("SSL_CERT_FILE", installation.roots())
        .output()
        .unwrap();
    Some(Report::of(&output))
}

#[cfg(target_os = "linux")]
fn assert_all_good(report: &Report) {
    for finding in &report.findings {
        let outcome = finding["outcome"].as_str().unwrap();
        assert!(["good", "skipped"].contains(&outcome), "{finding:#}");
    }
    assert_eq!(report.code, 0);
    // TLS, UDP and TCP, over both families, relayed at an address of the same family
    assert_eq!(report.about("turn", NAME).len(), 6, "{:#}", report.whole);
}

#[cfg(target_os = "linux")]
#[test]
fn on_a_machine_with_public_addresses_nothing_is_even_warned_of() {
    let relay = json!({"addresses": ["5.0.1.2", "2a00:5:1::2"]});
    let Some(report) = on_a_machine(&relay, "") else {
        return;
    };
    assert_all_good(&report);
    report.assert_good("ports");
    for address in ["5.0.1.2", "2a00:5:1::2"] {
        report.assert_says("dns", NAME, "good", address);
        report.assert_says("dns", "relayed addresses", "good", address);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn from_elsewhere_only_what_clients_see_is_looked_at() {
    let relay = json!({"addresses": ["5.0.1.2", "2a00:5:1::2"]});
    let Some(report) = on_a_machine(&relay, "--elsewhere") else {
        return;
    };
    assert_all_good(&report);
    for topic in ["ports", "certificates"] {
        let good = report.about(topic, "").into_iter();
        assert_eq!(
            good.filter(|finding| finding["outcome"] == "good").count(),
            0
        );
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_private_relayed_address_behind_a_public_name_is_seen_by_whoever_allocates() {
    let relay = json!({"addresses": ["5.0.1.2"], "external": {"5.0.1.2": "10.1.2.3"}});
    let Some(report) = on_a_machine(&relay, "--elsewhere") else {
        return;
    };
    report.assert_fails(
        "turn",
        NAME,
        "10.1.2.3, a private address",
        "relay.external",
    );
    report.assert_fails("dns", "relayed addresses", "10.1.2.3", "relay.external");
}
