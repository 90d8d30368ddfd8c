//! Clients over DTLS, of a `nocturne` that was built with the feature `dtls`: OpenSSL's and coturn's.

use std::{
    fs,
    net::SocketAddr,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};
use shared::environment::Environment;

use crate::{
    client::Credentials,
    relay::{Relay, Setup},
    time::eventually,
};

fn relay() -> Relay {
    setup().start()
}

fn setup() -> Setup {
    Setup::new(&json!({"listen": {"dtls": ["127.0.0.1:0"]}})).with_tls(&[])
}

/// It comes last.
fn address(relay: &Relay) -> SocketAddr {
    *relay.tcp.last().unwrap()
}

/// Whether a program is there. In CI it has to be.
fn has(program: &str, package: &str) -> bool {
    let found = Command::new(program)
        .arg("-h")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok();
    if !found {
        let in_ci = Environment::of_process().get("CI").is_some();
        assert!(!in_ci, "{package} is not installed");
        eprintln!("skipped: {package} is not installed");
    }
    found
}

/// Allocations of coturn's client, which send each other messages over the relay.
fn uclient(relay: &Relay, flags: &str) -> Output {
    let credentials = Credentials::of("alice");
    let authority = relay.folder().join("authority.pem");
    fs::write(&authority, relay.authority()).unwrap();
    let mut command = Command::new("turnutils_uclient");
    command
        .args(["-S", "-y", "-c", "-n", "10", "-E"])
        .arg(authority)
        .args(["-u", &credentials.username, "-w", &credentials.password])
        .args(["-p", &address(relay).port().to_string()]);
    command
        .args(flags.split_whitespace())
        .arg("127.0.0.1")
        .output()
        .unwrap()
}

#[test]
fn coturns_client_loses_nothing() {
    if !has("turnutils_uclient", "coturn") {
        return;
    }
    let relay = relay();
    for flags in ["-s", "-s -l 1200", "-s -g", "-s -m 3"] {
        let output = uclient(&relay, flags);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{flags}: {text}");
        // start_mclient: tot_send_msgs=20, tot_recv_msgs=20
        let count = |name: &str| -> u64 {
            let (_, rest) = text.rsplit_once(&format!("{name}=")).unwrap();
            let digits = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap();
            digits.parse().unwrap()
        };
        assert!(count("tot_send_msgs") > 0, "{flags}: {text}");
        assert_eq!(
            count("tot_send_msgs"),
            count("tot_recv_msgs"),
            "{flags}: {text}"
        );
    }
    assert!(relay.metric("dtls_handshakes_total", "completed") >= 10);
    assert!(relay.metric("allocations_made_total", "transport=\"dtls\"") >= 10);
    assert!(eventually(|| relay.allocations() == 0));
    assert!(eventually(|| relay
        .metric("connections", "transport=\"dtls\"")
        == 0));
}

/// The certificate that a new session gets, as PEM.
fn certificate(relay: &Relay) -> String {
    let output = Command::new("openssl")
        .args(["s_client", "-dtls1_2", "-connect"])
        .arg(address(relay).to_string())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (_, rest) = text
        .split_once("-----BEGIN CERTIFICATE-----")
        .unwrap_or_else(|| panic!("{text}"));
    rest.split_once("-----END CERTIFICATE-----")
        .unwrap()
        .0
        .to_owned()
}

#[test]
fn a_renewed_certificate_is_taken_without_a_signal_and_by_a_reload() {
    if !has("openssl", "openssl") {
        return;
    }
    let mut relay = relay();
    let first = certificate(&relay);
    relay.renew_certificate(&[]);
    assert!(eventually(|| certificate(&relay) != first));
    let second = certificate(&relay);
    relay.renew_certificate(&[]);
    relay.reload(&json!({}));
    assert_ne!(certificate(&relay), second);
}

#[test]
fn sessions_end_in_peace_with_the_relay() {
    if !has("openssl", "openssl") {
        return;
    }
    let relay = relay();
    certificate(&relay);
    assert!(eventually(|| relay
        .metric("connections", "transport=\"dtls\"")
        == 0));
    assert_eq!(relay.metric("dtls_handshakes_total", "completed"), 1);
    assert_eq!(relay.metric("handshakes_total", "completed"), 0);
}

#[test]
fn without_a_certificate_there_is_no_dtls() {
    let no_tls: Value = json!({"listen": {"dtls": ["127.0.0.1:0"]}});
    let refusal = Setup::new(&no_tls).refusal();
    assert!(refusal.contains("DTLS takes a certificate"), "{refusal}");
}
