//! SIGTERM, and what systemd is told.

use std::{io::ErrorKind, os::unix::net::UnixDatagram, time::Duration};

use serde_json::{Value, json};

use crate::{
    client::{ALLOCATE, Peer, Relayed, udp_transport},
    relay::{Relay, Setup},
    time::{PATIENCE, eventually, now},
    wire::Received,
};

fn reasons(relay: &Relay) -> (u16, Value) {
    let (status, body) = relay.get("/ready");
    let body: Value = serde_json::from_str(&body).unwrap();
    (status, body["reasons"].clone())
}

#[test]
fn an_idle_relay_ends_at_once() {
    for signal in ["TERM", "INT"] {
        let mut relay = Relay::start(&json!({}));
        let client = relay.udp_client();
        relay.signal(signal);
        assert_eq!(relay.ended().code(), Some(0), "{}", relay.log());
        drop(client);
    }
}

#[test]
fn a_stopping_relay_makes_no_allocations_and_ends_with_the_last_one() {
    let mut relay = Relay::start(&json!({}));
    let (mut first, mut second) = (relay.udp_client(), relay.udp_client());
    first.allocate();
    second.allocate();
    let peer = Peer::new();
    assert_eq!(first.bind(0x4000, peer.address()), None);
    assert_eq!(reasons(&relay), (200, json!([])));

    relay.signal("TERM");
    assert!(eventually(|| reasons(&relay) == (503, json!(["stopping"]))));
    assert_eq!(relay.get("/health").0, 200);
    assert_eq!(relay.udp_client().refused_allocation(), 508);
    first.send_on(0x4000, b"there");
    let (payload, relayed) = peer.receive();
    assert_eq!(payload, b"there");
    peer.send(relayed, b"back");
    assert_eq!(first.relayed(), Relayed::On(0x4000, b"back".to_vec()));
    // a call that goes on does all that a call does
    assert_eq!(first.refresh(600), Ok(600));
    assert_eq!(first.permit([127, 0, 0, 9]), None);
    assert_eq!(first.ask(ALLOCATE, &[udp_transport()]).code(), Some(437));
    assert_eq!(first.refresh(0), Ok(0));
    assert_eq!(first.refused_allocation(), 508);
    assert_eq!(relay.has_ended(), None);
    assert_eq!(second.refresh(0), Ok(0));
    assert_eq!(relay.ended().code(), Some(0), "{}", relay.log());
    assert!(relay.log().contains("no allocation is left"));
}

#[test]
fn calls_over_streams_go_on_while_it_stops_and_idle_connections_hold_nothing_up() {
    let mut relay = Setup::new(&json!({})).with_tls(&[]).start();
    let mut clients = [relay.tcp_client(), relay.tls_client()];
    for client in &mut clients {
        client.allocate();
    }
    let idle = [relay.tcp_client(), relay.tls_client()];
    relay.signal("TERM");
    assert!(eventually(|| reasons(&relay).0 == 503));
    // whoever comes now is told so, over streams as well
    for mut late in [relay.tcp_client(), relay.tls_client()] {
        assert_eq!(late.refused_allocation(), 508);
    }
    for client in &mut clients {
        let peer = Peer::new();
        assert_eq!(client.bind(0x4000, peer.address()), None);
        client.send_on(0x4000, b"there");
        let (_, relayed) = peer.receive();
        peer.send(relayed, b"back");
        assert_eq!(client.relayed(), Relayed::On(0x4000, b"back".to_vec()));
        assert_eq!(relay.has_ended(), None);
        assert_eq!(client.refresh(0), Ok(0));
    }
    assert_eq!(relay.ended().code(), Some(0), "{}", relay.log());
    for mut client in idle {
        assert_eq!(client.wire.receive(PATIENCE), Received::Closed);
    }
}

#[test]
fn a_stopping_relay_ends_when_the_last_allocation_expires() {
    let mut relay = Relay::start(&json!({"lifetime": {"default": "2s", "max": "2s"}}));
    relay.udp_client().allocate();
    relay.signal("TERM");
    assert_eq!(relay.ended().code(), Some(0), "{}", relay.log());
    assert!(
        relay.log().contains("no allocation is left"),
        "{}",
        relay.log()
    );
}

#[test]
fn the_deadline_ends_what_goes_on() {
    let mut relay = Relay::start(&json!({"drain_timeout": "2s"}));
    relay.udp_client().allocate();
    let start = now();
    relay.signal("TERM");
    assert_eq!(relay.ended().code(), Some(0), "{}", relay.log());
    assert!(start.elapsed() >= Duration::from_millis(1900));
    assert!(relay.log().contains("is cut off"), "{}", relay.log());
}

#[test]
fn a_second_sigterm_ends_it_at_once() {
    let mut relay = Relay::start(&json!({"drain_timeout": "24h"}));
    relay.udp_client().allocate();
    relay.signal("TERM");
    assert!(eventually(|| reasons(&relay).0 == 503));
    assert_eq!(relay.has_ended(), None);
    relay.signal("TERM");
    assert_eq!(relay.ended().code(), Some(0), "{}", relay.log());
    assert!(relay.log().contains("a second signal"), "{}", relay.log());
}

/// Listeners and relayed ports are free for whoever comes next.
#[test]
fn the_next_relay_gets_the_ports() {
    let mut relay = Relay::start(&json!({}));
    relay.udp_client().allocate();
    relay.signal("TERM");
    relay.signal("TERM");
    relay.ended();
    std::net::UdpSocket::bind(relay.udp[0]).unwrap();
}

/// What a service of type `notify-reload` tells, and its watchdog.
#[test]
fn systemd_is_told_of_start_reload_and_stop() {
    let setup = Setup::new(&json!({}));
    let path = setup.folder().join("notify.socket");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let next = |wanted: &str| {
        let mut buffer = [0; 4096];
        loop {
            let len = match socket.recv(&mut buffer) {
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => panic!("before {wanted}: {error}"),
            };
            let message = String::from_utf8(buffer[..len].to_vec()).unwrap();
            if message.contains(wanted) {
                return message;
            }
            // the watchdog's may come at any time
            assert_eq!(message.trim(), "WATCHDOG=1", "before {wanted}");
        }
    };
    let mut relay = setup
        .with_environment("NOTIFY_SOCKET", path.to_str().unwrap())
        .with_environment("WATCHDOG_USEC", "200000")
        .start();
    next("READY=1");
    next("WATCHDOG=1");
    let mut client = relay.udp_client();
    client.allocate();
    relay.signal("HUP");
    assert!(next("RELOADING=1").contains("MONOTONIC_USEC="));
    next("READY=1");
    relay.signal("TERM");
    next("STOPPING=1");
    // a stop takes as long as the last call
    next("EXTEND_TIMEOUT_USEC=");
    assert_eq!(client.refresh(0), Ok(0));
    assert!(relay.ended().success());
}
