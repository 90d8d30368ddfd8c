//! aioice, the ICE agent of aiortc: two of them, with relayed candidates alone.
//!
//! `NOCTURNE_AIOICE_PYTHON` names the Python of a virtual environment with `aioice` in it.

use std::{path::Path, process::Command};

use serde_json::json;

use crate::{
    process::Process,
    relay::{Credential, Family, Place, Relay, Transport},
    requirements::named_by,
};

#[test]
fn two_agents_talk_over_udp() {
    talk(Transport::Udp);
}

#[test]
fn two_agents_talk_over_tcp() {
    talk(Transport::Tcp);
}

#[test]
fn two_agents_talk_over_tls() {
    talk(Transport::Tls);
}

fn talk(transport: Transport) {
    let Some(python) = named_by("NOCTURNE_AIOICE_PYTHON", "a Python with aioice") else {
        return;
    };
    let Some(relay) = Relay::start(Place::Loopback) else {
        return;
    };
    for family in [Family::IPv4, Family::IPv6] {
        let server = relay.address(transport, family);
        let credentials = ["alice", "bob"].map(|user| {
            let Credential { username, password } = Credential::fresh(user);
            [username, password]
        });
        let wanted = json!({
            "server": [server.ip(), server.port()],
            "transport": if transport == Transport::Udp { "udp" } else { "tcp" },
            "tls": transport == Transport::Tls,
            "credentials": credentials,
        });
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/aioice/two_agents.py");
        let mut command = Command::new(&python);
        command
            .arg(script)
            .arg(wanted.to_string())
            .env("SSL_CERT_FILE", &relay.authority.ca);
        let finished = Process::start("aioice", &mut command, relay.folder()).finish();
        assert!(
            finished.status.success() && finished.output.ends_with("all came back\n"),
            "{transport:?}, {family:?}: {}",
            finished.output
        );
    }
}
