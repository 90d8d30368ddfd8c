//! The evening.

use serde_json::Value;
use stand_ins::Authority;

use crate::{
    before::{self, WELL_KNOWN},
    dns::Zone,
    folder::Setup,
    machine::Machine,
    network::Network,
    programs::{program, synapse_python},
    report::Report,
};

#[test]
fn from_an_empty_folder_to_a_doctor_who_finds_nothing() {
    let (Some(network), Some(synapse)) = (Network::new(), synapse_python()) else {
        return;
    };
    let authority = Authority::new().unwrap();
    let zone = Zone::serve(&network);
    let server = Machine::start(network.host(1), &authority);
    let caller = Machine::start(network.host(2), &authority);
    before::set_up(&server, &zone, &authority, &synapse);
    server.issue(&authority, "turn.example.org", &["turn.example.org"]);

    server.does(&format!(
        "sudo install -m 755 {} /usr/local/bin/nocturne",
        env!("CARGO_BIN_EXE_nocturne")
    ));
    server.does("sudo nocturne init --server-name example.org");
    let setup = Setup(server.does("cat /etc/nocturne/SETUP.md"));
    zone.paste(&setup.block("1. DNS", "zone"));
    before::paste_into_firewall(&server, &setup.block("With nftables", "nft"));
    server.does(&setup.block("3. Start the services", "sh"));
    server.hears("READY=1");
    server.does(&setup.block("With certbot", "sh"));
    server.does(&setup.block("Then switch TLS on", "sh"));
    server.hears("READY=1");
    before::paste_into_nginx(&server, &setup.block("With nginx", "nginx"));
    server.writes(WELL_KNOWN, &setup.block("7. Well-known", "json"));
    let registered = caller.does("curl -s https://matrix.example.org/_matrix/client/v3/register -d '{\"username\":\"alice\",\"password\":\"x\",\"auth\":{\"type\":\"m.login.dummy\"}}'");
    let registered: Value = serde_json::from_str(&registered).unwrap();
    let token = registered["access_token"].as_str().unwrap();
    server.tries(
        &setup.block("8. Try it", "sh"),
        &[("NOCTURNE_ACCESS_TOKEN", token)],
    );
    for b in setup.blocks("8. Try it", "sh") {
        caller.tries(&b, &[("NOCTURNE_ACCESS_TOKEN", token)]);
    }
    server.tries(
        "sudo nocturne init --rotate; ls -la /etc/nocturne; systemctl reload nocturne",
        &[],
    );
    server.hears("READY=1");
    server.does("cat /etc/nocturne/turn-relay.yaml");
    let text = server.does("cat /etc/nocturne/turn-relay.yaml");
    caller.does("mkdir /etc/nocturne");
    caller.writes("/etc/nocturne/turn-relay.yaml", &text);
    caller.tries(
        &format!(
            "{} doctor --server-name example.org",
            env!("CARGO_BIN_EXE_nocturne")
        ),
        &[("NOCTURNE_ACCESS_TOKEN", token)],
    );
    let _ = (program("x", "y"), Report::of);
    panic!();
}
