//! SIGHUP: what comes into force, what does not, and that no call notices.

use std::{fs, path::Path};

use shared::clock::Clock;
use stand_ins::{Authority, Identity};

use crate::relay::{Relay, SECRET, peer, write_secret};

const OTHER_SECRET: &str = "another secret of the tests";

#[test]
fn secrets_policy_and_quotas_change_and_allocations_stay() {
    let mut relay = Relay::start();
    let mut client = relay.client();
    let relayed = client.allocate().unwrap();
    let peer = peer();
    client.permit(peer.local_addr().unwrap()).unwrap();
    client.talk(&peer, relayed);

    // (127.0.0.1 is the relay's own address, at which there may be another client)
    let elsewhere = ([127, 0, 0, 2], 1).into();
    client.permit(elsewhere).unwrap();

    // a second secret before the first, and a smaller quota
    relay.set_secret(&format!("{OTHER_SECRET}\n{SECRET}\n"));
    relay.configure("quotas: {allocations_per_user: 1}\n");
    relay.reload();
    client.talk(&peer, relayed);
    client.refresh(600).unwrap();
    assert_eq!(relay.client_with(OTHER_SECRET).allocate(), Err(486));

    relay.configure("quotas: {allocations_per_user: 2}\n");
    relay.reload();
    relay.client_with(OTHER_SECRET).allocate().unwrap();

    // the first secret is gone, and so is what was allowed
    relay.set_secret(OTHER_SECRET);
    relay.configure("peers: {allow: []}\n");
    relay.reload();
    assert_eq!(relay.client().allocate(), Err(401));
    client.refresh(600).unwrap();
    let mut other = relay.client_with(OTHER_SECRET);
    other.allocate().unwrap();
    assert_eq!(other.permit(elsewhere), Err(403));
    assert_eq!(relay.metric("nocturne_turn_reloads_total"), 3);
    assert_eq!(relay.metric("nocturne_turn_failed_reloads_total"), 0);
}

#[test]
fn a_bad_file_is_refused_with_its_reasons_and_the_old_one_stays() {
    let mut relay = Relay::start();
    let mut client = relay.client();
    client.allocate().unwrap();
    relay.configure("quotas: {allocations_per_user: none}\nlifetme: {}\n");
    relay.reload();
    assert_eq!(relay.metric("nocturne_turn_failed_reloads_total"), 1);
    let file = relay.directory().join("turn-relay.yaml");
    for problem in [
        ":8: quotas.allocations_per_user: found \"none\"",
        ":9: lifetme: unknown key (did you mean `lifetime`?)",
    ] {
        assert!(
            relay.has_logged("ERROR", &format!("{}{problem}", file.display())),
            "{}",
            relay.log()
        );
    }
    assert!(relay.has_logged("ERROR", "the old one stays in force"));
    client.refresh(600).unwrap();
    relay.client().allocate().unwrap();

    relay.configure("");
    relay.reload();
    assert_eq!(relay.metric("nocturne_turn_reloads_total"), 1);
}

#[test]
fn what_takes_a_restart_is_named_as_often_as_it_differs() {
    let mut relay = Relay::start();
    let mut client = relay.client();
    client.allocate().unwrap();
    relay.configure(
        "realm: other.example.org
relay: {addresses: 127.0.0.2, ports: 30000-30010}
workers: 7
log: {format: json, level: info}
",
    );
    let named = "changed, and takes a restart to come into force: realm, relay.addresses, relay.ports, workers, \
                 log.level";
    for times in 1..=2 {
        relay.reload();
        assert_eq!(relay.metric("nocturne_turn_reloads_total"), times);
        assert_eq!(
            relay.log().matches(named).count() as u64,
            times,
            "{}",
            relay.log()
        );
    }
    // in the old realm, at the old address
    client.refresh(600).unwrap();
    let relayed = relay.client().allocate().unwrap();
    assert_eq!(relayed.ip().to_string(), "127.0.0.1");
    assert!((20_000..=29_999).contains(&relayed.port()), "{relayed}");
}

#[test]
fn unsafe_identifiers_are_warned_of_and_shown_in_the_metrics() {
    let mut relay = Relay::start();
    relay.configure("log: {format: json, level: trace, unsafe_identifiers: true}\n");
    relay.reload();
    assert_eq!(relay.metric("nocturne_turn_unsafe_identifiers"), 1);
    assert!(relay.has_logged("WARN", "log.unsafe_identifiers is on"));
    relay.configure("");
    relay.reload();
    assert_eq!(relay.metric("nocturne_turn_unsafe_identifiers"), 0);
}

const TLS: &str = "tls: {certificate: DIR/cert.pem, key: DIR/key.pem}\n";

#[test]
fn a_certificate_that_is_renewed_is_used_without_being_asked() {
    let authority = Authority::new().unwrap();
    let identity = || authority.server_identity(&["turn.example.org"]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    write_pair(directory.path(), &identity());
    let mut relay = Relay::start_in(directory, TLS, &[]);
    let in_a_month = Clock::system().unix_seconds() + 29 * 24 * 60 * 60;
    assert!(relay.metric("nocturne_turn_certificate_expiry") > in_a_month);
    let renewed = |relay: &Relay| relay.log().matches("there is another certificate").count();
    assert_eq!(renewed(&relay), 0);
    write_pair(relay.directory(), &identity());
    relay.wait_for("the files are looked at", |relay| renewed(relay) == 1);

    // a reload reads them, too, and finds what is in use already
    relay.reload();
    assert_eq!(relay.metric("nocturne_turn_reloads_total"), 1);
    assert_eq!(renewed(&relay), 1);

    // one that cannot be used keeps everything else from being reloaded
    write_secret(&relay.directory().join("key.pem"), "nothing");
    relay.reload();
    assert_eq!(relay.metric("nocturne_turn_failed_reloads_total"), 1);
    assert!(
        relay.has_logged("ERROR", "no private key can be read from it"),
        "{}",
        relay.log()
    );
}

#[test]
fn a_relay_without_tls_gets_it_by_a_restart_alone() {
    let mut relay = Relay::start();
    let authority = Authority::new().unwrap();
    let identity = authority.server_identity(&["turn.example.org"]).unwrap();
    write_pair(relay.directory(), &identity);
    relay.configure(TLS);
    relay.reload();
    assert!(
        relay.has_logged("WARN", "takes a restart to come into force: tls"),
        "{}",
        relay.log()
    );
    let (_, metrics) = relay.get("/metrics");
    assert!(!metrics.contains("nocturne_turn_certificate_expiry"));
}

/// As a renewal does it: new files in the place of the old ones.
fn write_pair(directory: &Path, identity: &Identity) {
    let pem = identity.pem();
    for name in ["cert.pem", "key.pem"] {
        let new = directory.join("new");
        write_secret(&new, &pem);
        fs::rename(new, directory.join(name)).unwrap();
    }
}
