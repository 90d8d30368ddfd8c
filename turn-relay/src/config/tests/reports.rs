//! What `check` prints.

use std::{net::IpAddr, path::Path};

use turn_relay_proto::config::RelayAddress;

use super::{
    super::report::{Report, report_with},
    Fixture, LEAST,
};
use crate::addresses::NoAddress;

fn reported(text: &str, address: Option<&str>) -> Report {
    let loaded = Fixture::new().load(text);
    report_with(Path::new("f.yaml"), &loaded, |_| {
        let address: IpAddr = address
            .ok_or(NoAddress::NotFound)?
            .parse()
            .expect("an address");
        Ok(vec![RelayAddress {
            bind: address,
            advertised: address,
        }])
    })
}

#[test]
fn a_good_file_says_what_the_relay_will_do() {
    let report = reported(LEAST, Some("8.8.8.8"));
    assert_eq!(
        report.text,
        "realm \"turn.example.org\": UDP on 0.0.0.0:3478, [::]:3478; TCP on 0.0.0.0:3478, [::]:3478; TLS on \
         0.0.0.0:5349, [::]:5349; 1 secret
certificate for turn.example.org, until Apr  1 00:00:00 2026 +00:00
clients reach public addresses and other clients of this relay
clients will be told that they are at 8.8.8.8, ports 49152 to 65535 (found from the routing table)
f.yaml: 0 errors, 0 warnings
"
    );
    assert!(report.sound);
}

#[test]
fn what_is_opened_and_closed_to_peers_is_said() {
    let text = format!(
        "{LEAST}peers: {{allow: 10.0.0.0/8, deny: [8.8.8.0/24, 8.8.4.0/24], deny_ports: [25, 1-3]}}\nrelay: {{tcp: \
         true}}\n"
    );
    let report = reported(&text, Some("8.8.8.8"));
    let line = "clients reach public addresses and other clients of this relay, and 10.0.0.0/8, but not \
                8.8.8.0/24, 8.8.4.0/24 and 4 ports; over UDP, and over TCP (`relay.tcp`)";
    assert!(
        report.text.lines().any(|found| found == line),
        "{}",
        report.text
    );
}

#[test]
fn a_machine_without_an_address_is_an_error_and_a_private_one_a_warning() {
    let without = reported(LEAST, None);
    assert!(!without.sound);
    assert!(
        without
            .text
            .starts_with("error: f.yaml: this host has no default route"),
        "{}",
        without.text
    );
    assert!(without.text.ends_with("f.yaml: 1 error, 0 warnings\n"));
    let private = reported(LEAST, Some("10.0.0.5"));
    assert!(private.sound);
    assert!(
        private
            .text
            .starts_with("warning: f.yaml: 10.0.0.5 cannot be reached from the internet"),
        "{}",
        private.text
    );
}

#[test]
fn an_expired_certificate_is_an_error() {
    let report = reported(&LEAST.replace("fullchain", "expired"), Some("8.8.8.8"));
    assert!(!report.sound);
    assert!(report.text.contains("EXPIRED"), "{}", report.text);
}

#[test]
fn no_secret_is_printed() {
    let report = reported(LEAST, Some("8.8.8.8"));
    assert!(!report.text.contains("kPlaXzQyVqFhMEUwbzcx"));
}
