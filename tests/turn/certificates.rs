//! Certificates that are renewed while the relay runs.

use std::fs;

use rustls::pki_types::CertificateDer;
use serde_json::json;

use crate::{
    client::{Client, Peer, Relayed},
    relay::{CERTIFICATE, KEY, Relay, Setup},
    time::{eventually, unix_seconds},
    wire::{self, Wire},
};

/// The certificate that a new handshake gets.
fn certificate(relay: &Relay) -> CertificateDer<'static> {
    shown_to(&wire::tls(relay.tcp[0], &relay.tls_config(&[])))
}

fn shown_to(wire: &Wire) -> CertificateDer<'static> {
    let Wire::Tls(framed) = wire else {
        panic!("not a TLS connection");
    };
    framed.stream.conn.peer_certificates().unwrap()[0].clone()
}

fn relay() -> Relay {
    Setup::new(&json!({})).with_tls(&[]).start()
}

#[test]
fn new_handshakes_get_a_renewed_certificate_without_a_signal_and_old_connections_stay() {
    let relay = relay();
    let old = certificate(&relay);
    let mut client: Client = relay.tls_client();
    let relayed = client.allocate();
    let peer = Peer::new();
    assert_eq!(client.bind(0x4000, peer.address()), None);
    assert_eq!(certificate(&relay), old, "nothing changed");
    let in_eleven_months = unix_seconds() + 330 * 24 * 3600;
    assert!(relay.metric("certificate_expiry", "") > in_eleven_months);

    relay.renew_certificate(&[]);
    assert!(eventually(|| certificate(&relay) != old));
    relay.assert_says("there is another certificate");
    assert_eq!(shown_to(&client.wire), old);
    peer.send(relayed, b"still here");
    assert_eq!(
        client.relayed(),
        Relayed::On(0x4000, b"still here".to_vec())
    );
    assert_eq!(client.refresh(600), Ok(600));
    relay.tls_client().allocate();
}

#[test]
fn a_reload_takes_a_renewed_certificate_at_once() {
    let mut relay = relay();
    let old = certificate(&relay);
    relay.renew_certificate(&[]);
    relay.reload(&json!({}));
    assert_ne!(certificate(&relay), old);
}

/// As a renewal that is in the middle of it: the certificate is new, the key is not; or a file is half written.
#[test]
fn half_a_pair_keeps_the_old_one_and_the_other_half_ends_that() {
    let mut relay = relay();
    let old = certificate(&relay);
    let file = |name: &str| relay.folder().join(name);
    let (old_certificate, old_key) = (
        fs::read(file(CERTIFICATE)).unwrap(),
        fs::read(file(KEY)).unwrap(),
    );
    relay.renew_certificate(&[]);
    let (new_certificate, new_key) = (
        fs::read(file(CERTIFICATE)).unwrap(),
        fs::read(file(KEY)).unwrap(),
    );
    // what it was before the relay could look; the pair is mixed from now on
    fs::write(file(KEY), &old_key).unwrap();
    let complaint = "the old ones stay in use";
    relay.assert_says(complaint);
    let shown = certificate(&relay);
    for (certificate_part, key_part) in [
        (&new_certificate[..], &new_key[..new_key.len() / 2]),
        (&new_certificate[..100], &new_key[..]),
        (&[][..], &[][..]),
    ] {
        fs::write(file(CERTIFICATE), certificate_part).unwrap();
        fs::write(file(KEY), key_part).unwrap();
        let before = relay.metric("failed_reloads_total", "");
        relay.signal("HUP");
        assert!(eventually(
            || relay.metric("failed_reloads_total", "") > before
        ));
        assert_eq!(certificate(&relay), shown);
    }
    fs::remove_file(file(KEY)).unwrap();
    fs::write(file(CERTIFICATE), &new_certificate).unwrap();
    relay.signal("HUP");
    assert!(eventually(|| relay.metric("failed_reloads_total", "") == 4));
    assert_eq!(certificate(&relay), shown);

    // the pair is whole again, by itself and without a signal
    stand_ins::write_secret(&file(KEY), &String::from_utf8(new_key).unwrap()).unwrap();
    assert!(eventually(|| {
        let now = certificate(&relay);
        now != old || shown != old
    }));
    fs::write(file(CERTIFICATE), old_certificate).unwrap();
    fs::write(file(KEY), old_key).unwrap();
    assert!(eventually(|| certificate(&relay) == old));
    assert_eq!(relay.has_ended(), None);
}

#[test]
fn a_relay_without_tls_gets_it_by_a_restart_alone() {
    let mut relay = Relay::start(&json!({}));
    relay.renew_certificate(&[]);
    let tls = json!({"tls": {
        "certificate": relay.folder().join(CERTIFICATE),
        "key": relay.folder().join(KEY),
    }});
    relay.reload(&tls);
    relay.assert_says("takes a restart to come into force: tls");
    assert!(
        !relay
            .metrics()
            .contains("nocturne_turn_certificate_expiry ")
    );
}

#[test]
fn an_expired_certificate_stops_tls_for_clients_and_nothing_else() {
    let relay = Setup::new(&json!({}))
        .with_tls(&[])
        .with_expired_certificate()
        .start();
    relay.assert_says("EXPIRED");
    let (status, body) = relay.get("/ready");
    assert_eq!(status, 503);
    assert!(body.contains("the certificate has expired"), "{body}");
    assert!(relay.metric("certificate_expiry", "") < unix_seconds());
    relay.udp_client().allocate();
    // its renewal is found
    relay.renew_certificate(&[]);
    assert!(eventually(|| relay.get("/ready").0 == 200));
    relay.tls_client().allocate();
}
