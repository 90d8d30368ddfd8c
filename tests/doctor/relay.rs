//! What can be wrong with a relay.

use std::net::UdpSocket;

use serde_json::json;

use crate::harness::Installation;

/// A relay whose clients are told of `uris` alone, in which {udp} and {tcp} stand for its ports.
fn told_of(uris: &[&str]) -> Installation {
    let installation = Installation::new();
    let ports = installation.ports;
    let uris: Vec<_> = uris
        .iter()
        .map(|uri| {
            uri.replace("{udp}", &ports.udp.to_string())
                .replace("{tcp}", &ports.tcp.to_string())
        })
        .collect();
    installation.with(&json!({"credentials": {"uris": uris}}))
}

const UDP: &str = "turn:127.0.0.1:{udp}?transport=udp";
const TCP: &str = "turn:127.0.0.1:{tcp}?transport=tcp";

#[test]
fn nothing_listens() {
    let report = told_of(&[UDP, TCP]).examine(&[]);
    for (topic, subject) in [
        ("ports", "UDP 127.0.0.1"),
        ("ports", "TCP 127.0.0.1"),
        ("turn", "transport=udp"),
        ("turn", "transport=tcp"),
    ] {
        report.assert_fails(topic, subject, "nothing listens", "systemctl");
    }
    report.assert_fails(
        "ports",
        "HTTP",
        "does not answer",
        "systemctl start nocturne",
    );
}

#[test]
fn nothing_comes_back() {
    let silent = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    let port = silent.local_addr().unwrap().port();
    let installation = told_of(&[&format!("turn:127.0.0.1:{port}?transport=udp")]);
    let report = installation.examine(&["--timeout", "1"]);
    report.assert_fails("turn", "transport=udp", "no answer", "firewall");
}

#[test]
fn a_dead_uri_does_not_hide_a_live_one() {
    let closed = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let dead = format!("turn:127.0.0.1:{port}?transport=udp");
    let report = told_of(&[UDP, &dead, TCP, "turn:nothing.invalid"])
        .started()
        .examine(&["--timeout", "5"]);
    report.assert_fails("turn", &dead, "", "listen");
    report.assert_fails("turn", "nothing.invalid", "cannot be resolved", "DNS");
    report.assert_fails("dns", "nothing.invalid", "cannot be resolved", "A record");
    report.assert_says("turn", "transport=tcp", "good", "a packet goes through");
    let live = report.about("turn", "transport=udp");
    assert_eq!(live.len(), 2);
    assert!(live.iter().any(|finding| finding["outcome"] == "good"));
}

#[test]
fn the_relay_has_another_secret() {
    let mut installation = told_of(&[UDP]).started();
    installation.change(&json!({"secrets": ["another secret than the relay was started with"]}));
    let report = installation.examine(&[]);
    report.assert_fails("turn", "transport=udp", "401", "systemctl reload nocturne");
    // who answers needs no secret
    report.assert_says("ports", "UDP 127.0.0.1", "good", "the relay answers");
}

#[test]
fn another_server_answers() {
    let mut installation = told_of(&[UDP]).started();
    installation.change(&json!({"realm": "another"}));
    let report = installation.examine(&[]);
    report.assert_fails(
        "ports",
        "UDP 127.0.0.1",
        "whose realm is \"localhost\"",
        "ss -lnup",
    );
}

#[test]
fn the_relay_is_full() {
    let installation = told_of(&[UDP]).with(&json!({"quotas": {"allocations_total": 1}}));
    let report = installation.started().examine(&[]);
    report.assert_fails(
        "turn",
        "transport=udp",
        "the first allocation works; for a second one the relay has no room left (508)",
        "quotas.allocations_total",
    );
}

#[test]
fn clients_are_told_a_private_address() {
    let relay =
        json!({"relay": {"addresses": ["127.0.0.1"], "external": {"127.0.0.1": "10.1.2.3"}}});
    let report = told_of(&[UDP]).with(&relay).examine(&[]);
    report.assert_fails("dns", "relayed addresses", "10.1.2.3", "relay.external");
}

#[test]
fn a_configuration_that_cannot_be_used_is_a_failure_and_what_needs_it_is_skipped() {
    let installation = Installation::new().with(&json!({"relam": "localhost"}));
    let report = installation.examine(&[]);
    report.assert_fails(
        "configuration",
        "turn-relay.yaml",
        "relam",
        "nocturne check",
    );
    for topic in ["dns", "ports", "certificates", "turn"] {
        let of_the_relay = report.about(topic, "turn-relay.yaml");
        assert_eq!(of_the_relay.len(), 1, "{:#}", report.whole);
        assert_eq!(of_the_relay[0]["outcome"], "skipped");
    }
}

#[test]
fn a_push_gateway_that_does_not_run_is_a_failure() {
    let report = Installation::new().with_push().examine(&[]);
    report.assert_fails(
        "ports",
        "HTTP",
        "the push gateway does not answer",
        "systemctl start nocturne",
    );
}
