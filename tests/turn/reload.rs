//! SIGHUP: what changes, what stays, and what is said about it.

use std::fs;

use serde_json::json;

use crate::{
    client::{Client, Credentials, Peer, Relayed, SECRET},
    relay::{Relay, Setup},
    time::{eventually, unix_seconds},
    wire,
};

const NEW: &str = "the secret that is to come next";

fn signed(relay: &Relay, secret: &str) -> Client {
    let credentials = Credentials::signed(secret, unix_seconds() + 3600, "alice");
    Client::with(wire::udp(relay.udp[0]), credentials)
}

/// That data goes both ways over channel 0x4000.
fn assert_relays(client: &mut Client, peer: &Peer) {
    client.send_on(0x4000, b"there");
    let (payload, relayed) = peer.receive();
    assert_eq!(payload, b"there");
    peer.send(relayed, b"and back");
    assert_eq!(client.relayed(), Relayed::On(0x4000, b"and back".to_vec()));
}

#[test]
fn a_new_secret_is_accepted_and_the_old_one_no_more() {
    let mut relay = Relay::start(&json!({}));
    let mut old = signed(&relay, SECRET);
    old.allocate();
    let peer = Peer::new();
    assert_eq!(old.bind(0x4000, peer.address()), None);
    assert_eq!(signed(&relay, NEW).refused_allocation(), 401);

    relay.reload(&json!({"secrets": [NEW, SECRET]}));
    signed(&relay, NEW).allocate();
    signed(&relay, SECRET).allocate();

    relay.reload(&json!({"secrets": [NEW]}));
    signed(&relay, NEW).allocate();
    assert_eq!(signed(&relay, SECRET).refused_allocation(), 401);
    // a call under way goes on
    assert_eq!(old.refresh(600), Ok(600));
    assert_eq!(old.permit([127, 0, 0, 5]), None);
    assert_relays(&mut old, &peer);
}

#[test]
fn an_allocation_goes_on_through_a_hundred_reloads() {
    let mut relay = Setup::new(&json!({})).with_tls(&[]).start();
    let kinds = [Relay::udp_client, Relay::tcp_client, Relay::tls_client];
    let mut clients: Vec<_> = kinds
        .iter()
        .cycle()
        .take(6)
        .map(|connect| {
            let mut client = connect(&relay);
            client.allocate();
            let peer = Peer::new();
            assert_eq!(client.bind(0x4000, peer.address()), None);
            (client, peer)
        })
        .collect();
    for round in 0..100 {
        relay.reload(&json!({
            "secrets": if round % 2 == 0 { [NEW, SECRET] } else { [SECRET, NEW] },
            "peers": {"deny": [format!("8.8.{round}.0/24")]},
            "quotas": {"allocations_per_user": 1 + round},
        }));
        for (client, peer) in &mut clients {
            assert_relays(client, peer);
        }
    }
    for (client, _) in &mut clients {
        assert_eq!(client.refresh(600), Ok(600));
    }
    assert_eq!(relay.metric("reloads_total", ""), 100);
    assert_eq!(relay.allocations(), 6);
}

/// As an impatient operator sends them, or two tools at once.
#[test]
fn a_storm_of_sighups_loses_no_packet() {
    let relay = Relay::start(&json!({}));
    let mut client = relay.udp_client();
    client.allocate();
    let peer = Peer::new();
    assert_eq!(client.bind(0x4000, peer.address()), None);
    for _ in 0..200 {
        relay.signal("HUP");
        assert_relays(&mut client, &peer);
    }
    assert!(eventually(|| relay.metric("reloads_total", "") > 0));
    assert_eq!(relay.metric("drops_total", ""), 0);
}

#[test]
fn packets_to_and_from_a_peer_stop_when_it_is_denied() {
    let mut relay = Relay::start(&json!({}));
    let mut client = relay.udp_client();
    let relayed = client.allocate();
    let peer = Peer::at([127, 0, 0, 2]);
    assert_eq!(client.bind(0x4000, peer.address()), None);
    assert_relays(&mut client, &peer);

    relay.reload(&json!({"peers": {"allow": ["127.0.0.1/32"], "deny": ["127.0.0.2/32"]}}));
    client.send_on(0x4000, b"channel");
    client.send_to(peer.address(), b"indication");
    relay.assert_dropped("policy", 2);
    peer.send(relayed, b"back");
    relay.assert_dropped("policy", 3);
    peer.assert_silence();
    client.assert_silence();
    assert_eq!(client.permit(peer.address().ip()), Some(403));
    assert_eq!(client.bind(0x4000, peer.address()), Some(403));

    relay.reload(&json!({"peers": {"allow": ["127.0.0.0/8"], "deny": null}}));
    assert_relays(&mut client, &peer);
}

#[test]
fn quotas_change_and_nobody_loses_what_is_there() {
    let mut relay = Relay::start(&json!({"quotas": {"allocations_per_user": 1}}));
    let alice = |relay: &Relay| signed(relay, SECRET);
    let mut first = alice(&relay);
    first.allocate();
    assert_eq!(alice(&relay).refused_allocation(), 486);
    relay.reload(&json!({"quotas": {"allocations_per_user": 3}}));
    let mut second = alice(&relay);
    second.allocate();
    let mut third = alice(&relay);
    third.allocate();
    relay.reload(&json!({"quotas": {"allocations_per_user": 1}}));
    for client in [&mut first, &mut second, &mut third] {
        assert_eq!(client.refresh(600), Ok(600));
    }
    assert_eq!(alice(&relay).refused_allocation(), 486);
    // lifetimes are of the next refresh
    relay.reload(&json!({"lifetime": {"default": "30s", "max": "40s"}}));
    assert_eq!(first.refresh(600), Ok(40));
}

#[test]
fn a_broken_file_is_refused_with_its_reason_and_the_old_state_stays() {
    let mut relay = Relay::start(&json!({"peers": {"allow": ["127.0.0.1/32"]}}));
    let mut client = relay.udp_client();
    client.allocate();
    let peer = Peer::new();
    assert_eq!(client.bind(0x4000, peer.address()), None);
    let refusals = |relay: &Relay| relay.metric("failed_reloads_total", "");
    for (number, (text, reason)) in [
        ("realm: [", "turn-relay.yaml"),
        ("", "realm"),
        ("realm: x\nsecrets: []\n", "empty list"),
        (
            "realm: x\nsecrets: [\"a secret that is long enough\"]\npeers: {allow: [\"0.0.0.0/0\"]}\n",
            "every address of IPv4 or of IPv6",
        ),
        (
            "realm: x\nsecrets: [\"a secret that is long enough\"]\npeers: {alow: []}\n",
            "alow: unknown key",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        relay.write_file(text);
        relay.signal("HUP");
        let expected = u64::try_from(number).unwrap() + 1;
        assert!(eventually(|| refusals(&relay) == expected), "{}", relay.log());
        relay.assert_says(reason);
        assert_relays(&mut client, &peer);
        relay.udp_client().allocate();
        assert_eq!(client.permit([127, 0, 0, 2]), Some(403));
    }
    fs::remove_file(relay.folder().join("turn-relay.yaml")).unwrap();
    relay.signal("HUP");
    assert!(eventually(|| refusals(&relay) == 6));
    assert_relays(&mut client, &peer);
    relay.assert_says("the old one stays in force");
    assert_eq!(relay.metric("reloads_total", ""), 0);
    // and a good one is taken again
    relay.reload(&json!({"peers": {"allow": ["127.0.0.0/8"]}}));
    assert_eq!(client.permit([127, 0, 0, 2]), None);
}

#[test]
fn keys_that_take_a_restart_are_named_and_stay_as_they_were() {
    let mut relay = Relay::start(&json!({}));
    let udp = relay.udp[0];
    relay.reload(&json!({
        "realm": "another.example.org",
        "listen": {"udp": ["127.0.0.2:0"]},
        "relay": {"ports": "40000-40010"},
        "http": {"listen": ["127.0.0.2:0"]},
        "workers": 1,
        "log": {"level": "debug"},
    }));
    relay.assert_says("takes a restart");
    let log = relay.log();
    let line = log.lines().find(|line| line.contains("takes a restart"));
    for key in [
        "realm",
        "listen.udp",
        "relay.ports",
        "http.listen",
        "workers",
        "log.level",
    ] {
        assert!(line.unwrap().contains(key), "{key}: {line:?}");
    }
    for key in ["listen.tcp", "relay.addresses", "secrets", "quotas"] {
        assert!(!line.unwrap().contains(key), "{key}: {line:?}");
    }
    assert_eq!(relay.udp[0], udp);
    let mut client = relay.udp_client();
    let relayed = client.allocate();
    assert!(relayed.port() >= 49152, "{relayed}");
    // as often as the file differs
    let named = |relay: &Relay| relay.log().matches("takes a restart").count();
    relay.reload(&json!({}));
    assert_eq!(named(&relay), 2);
    // nothing is said of keys that did not change
    relay.reload(&json!({"quotas": {"allocations_per_user": 5}, "realm": "turn.example.org"}));
    let log = relay.log();
    let last = log.lines().rfind(|line| line.contains("takes a restart"));
    assert!(!last.unwrap().contains("realm"), "{last:?}");
}

#[test]
fn secrets_in_a_file_are_read_again() {
    let setup = Setup::new(&json!({"secrets": null, "secrets_file": "secrets"}));
    let file = setup.folder().join("secrets");
    stand_ins::write_secret(&file, SECRET).unwrap();
    let mut relay = setup.start();
    assert_eq!(signed(&relay, NEW).refused_allocation(), 401);
    fs::write(relay.folder().join("secrets"), format!("{NEW}\n")).unwrap();
    relay.reload(&json!({}));
    signed(&relay, NEW).allocate();
    assert_eq!(signed(&relay, SECRET).refused_allocation(), 401);
}

#[test]
fn how_long_a_stop_may_take_can_be_changed() {
    let mut relay = Relay::start(&json!({"drain_timeout": "1h"}));
    relay.udp_client().allocate();
    relay.reload(&json!({"drain_timeout": "0s"}));
    relay.signal("TERM");
    assert!(relay.ended().success());
    assert!(relay.log().contains("is cut off"), "{}", relay.log());
}

#[test]
fn a_reload_takes_no_memory() {
    let mut relay = Relay::start(&json!({}));
    let mut reload = |count: u32| {
        for round in 0..count {
            relay.reload(&json!({"quotas": {"allocations_per_user": 1 + round}}));
        }
        relay.resident()
    };
    let before = reload(20);
    let after = reload(100);
    assert!(after < before + 512, "{before} KiB, then {after} KiB");
}
