//! Headless Chromium: two peer connections in one page, with relayed candidates alone.
//!
//! Browser and relay are in two network namespaces, since Chromium leaves loopback out. It checks the relay's
//! certificate for `turns:` as for any page, so the authority goes into the certificate database of a home of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::{
    network::Network,
    process::Process,
    relay::{Credential, Family, Place, Relay, Transport},
    requirements::program,
};

const ROUTES: [(Transport, Family); 6] = [
    (Transport::Udp, Family::IPv4),
    (Transport::Tcp, Family::IPv4),
    (Transport::Tls, Family::IPv4),
    (Transport::Udp, Family::IPv6),
    (Transport::Tcp, Family::IPv6),
    (Transport::Tls, Family::IPv6),
];

#[test]
fn data_and_video_go_through_over_udp_tcp_and_tls() {
    let Some(stage) = Stage::set() else { return };
    stage.trust_authority();
    let calls = stage.call(&ROUTES);
    assert_eq!(calls.len(), ROUTES.len());
    for ((transport, family), call) in ROUTES.iter().zip(&calls) {
        assert_eq!(call["error"], Value::Null, "{transport:?} {family:?}");
        assert_eq!(call["arrivedBytes"], 1_000_000, "{call:#}");
        assert_eq!(call["isSame"], true, "{call:#}");
        let frames = call["framesDecoded"].as_u64().unwrap_or_default();
        assert!(frames >= 30, "{call:#}");
        let pairs = call["pairs"].as_array().expect("both ends tell");
        assert_eq!(pairs.len(), 2);
        for pair in pairs {
            let local = json!({
                "candidateType": "relay",
                "protocol": "udp",
                "relayProtocol": relay_protocol(*transport),
                "url": stage.relay.uri(*transport, *family),
            });
            assert_eq!(pair["local"], local, "{call:#}");
            let remote = json!({"candidateType": "relay", "protocol": "udp"});
            assert_eq!(pair["remote"], remote, "{call:#}");
            assert_eq!(pair["state"], "succeeded", "{call:#}");
        }
    }
}

#[test]
fn a_relay_whose_authority_is_unknown_is_not_talked_to() {
    let Some(stage) = Stage::set() else { return };
    let calls = stage.call(&[(Transport::Tls, Family::IPv4)]);
    let error = calls[0]["error"].as_str().unwrap_or_default();
    // 701: the server could not be reached
    assert!(error.contains("701"), "{calls:#?}");
}

/// A network with a relay in it, and a browser that has not been started.
struct Stage {
    node: PathBuf,
    chromium: PathBuf,
    certutil: PathBuf,
    network: Network,
    relay: Relay,
}

impl Stage {
    fn set() -> Option<Self> {
        let node = program(&["node"], "nodejs")?;
        let chromium = program(
            &["chromium", "chromium-browser", "google-chrome"],
            "chromium",
        )?;
        let certutil = program(&["certutil"], "libnss3-tools")?;
        let network = Network::make()?;
        let relay = Relay::start(Place::Network(&network))?;
        fs::create_dir(relay.folder().join("home")).expect("the folder can be written to");
        Some(Self {
            node,
            chromium,
            certutil,
            network,
            relay,
        })
    }

    fn home(&self) -> PathBuf {
        self.relay.folder().join("home")
    }

    fn trust_authority(&self) {
        let database = self.home().join(".pki/nssdb");
        fs::create_dir_all(&database).expect("the folder can be written to");
        let database = format!("sql:{}", database.display());
        self.certutil(&["-N", "-d", &database, "--empty-password"]);
        let ca = self.relay.authority.ca.to_str().expect("the path is text");
        self.certutil(&["-A", "-d", &database, "-n", "tests", "-t", "C,,", "-i", ca]);
    }

    fn certutil(&self, arguments: &[&str]) {
        let mut command = Command::new(&self.certutil);
        command.args(arguments);
        let finished = Process::start("certutil", &mut command, self.relay.folder()).finish();
        assert!(finished.status.success(), "{}", finished.output);
    }

    /// Makes the calls one after the other, and gives what the browser says of each.
    fn call(&self, routes: &[(Transport, Family)]) -> Vec<Value> {
        let Credential { username, password } = Credential::fresh("alice");
        let calls: Vec<_> = routes
            .iter()
            .map(|(transport, family)| self.relay.uri(*transport, *family))
            .map(|uri| json!({"uri": uri, "username": username, "credential": password}))
            .collect();
        let wanted = json!({
            "chromium": self.chromium,
            "profile": self.home().join("profile"),
            "calls": calls,
        });
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/browser/calls.mjs");
        let mut command = self.network.at_client(&self.node);
        command
            .arg(script)
            .arg(wanted.to_string())
            .env("HOME", self.home());
        let finished = Process::start("calls", &mut command, self.relay.folder()).finish();
        assert!(finished.status.success(), "{}", finished.output);
        finished
            .output
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }
}

/// What the statistics call a way to the relay.
fn relay_protocol(transport: Transport) -> &'static str {
    match transport {
        Transport::Udp => "udp",
        Transport::Tcp => "tcp",
        Transport::Tls => "tls",
    }
}
