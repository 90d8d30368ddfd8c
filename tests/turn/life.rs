//! Health, metrics, logs, and how the relay stops.

use std::os::unix::net::UnixDatagram;

use crate::{
    client::USER,
    relay::{PATIENCE, Relay, peer},
};

#[test]
fn health_readiness_and_metrics_are_served() {
    let relay = Relay::start();
    assert_eq!(relay.get("/health"), (200, "{}".to_owned()));
    assert_eq!(
        relay.get("/ready"),
        (200, "{\"ready\":true,\"reasons\":[]}".to_owned())
    );
    assert_eq!(relay.get("/nothing").0, 404);
    assert_eq!(relay.request("POST", "/metrics").0, 405);
    assert_eq!(relay.metric("nocturne_turn_unsafe_identifiers"), 0);

    let mut client = relay.client();
    let relayed = client.allocate().unwrap();
    let peer = peer();
    client.permit(peer.local_addr().unwrap()).unwrap();
    client.talk(&peer, relayed);
    for (line, value) in [
        (
            "nocturne_turn_allocations{transport=\"udp\",family=\"ipv4\"}",
            1,
        ),
        (
            "nocturne_turn_allocations{transport=\"tls\",family=\"dual\"}",
            0,
        ),
        (
            "nocturne_turn_packets_total{direction=\"client_to_peer\"}",
            1,
        ),
        (
            "nocturne_turn_bytes_total{direction=\"client_to_peer\"}",
            11,
        ),
        (
            "nocturne_turn_bytes_total{direction=\"peer_to_client\"}",
            13,
        ),
        (
            "nocturne_turn_auth_failures_total{reason=\"challenged\"}",
            1,
        ),
        ("nocturne_turn_connections{transport=\"tcp\"}", 0),
    ] {
        assert_eq!(relay.metric(line), value, "{line}");
    }
}

#[test]
fn no_name_and_no_address_of_a_client_or_peer_is_logged_at_any_level() {
    let relay = Relay::start_with("", &[("RUST_LOG", "trace")]);
    let mut client = relay.client();
    let relayed = client.allocate().unwrap();
    let peer = peer();
    client.permit(peer.local_addr().unwrap()).unwrap();
    client.talk(&peer, relayed);
    assert_eq!(client.permit(([10, 0, 0, 1], 1).into()), Err(403));
    assert_eq!(
        relay.client_with("another secret altogether").allocate(),
        Err(401)
    );
    client.refresh(0).unwrap();
    let log = relay.log();
    assert!(!log.is_empty());
    for (what, secret) in [
        ("user", USER.to_owned()),
        ("user", "alice".to_owned()),
        ("client", client.local_address().to_string()),
        ("peer", peer.local_addr().unwrap().to_string()),
        ("relayed", relayed.to_string()),
        ("denied peer", "10.0.0.1".to_owned()),
    ] {
        assert!(!log.contains(&secret), "{what}: {secret} is in:\n{log}");
    }
}

#[test]
fn a_stop_waits_for_the_last_allocation_and_makes_no_new_one() {
    let mut relay = Relay::start();
    let mut client = relay.client();
    let relayed = client.allocate().unwrap();
    let peer = peer();
    client.permit(peer.local_addr().unwrap()).unwrap();

    relay.signal("TERM");
    relay.wait_for("it says that it stops", |relay| {
        relay.get("/ready").0 == 503
    });
    assert!(relay.get("/ready").1.contains("stopping"));
    assert_eq!(relay.get("/health").0, 200, "it works as long as it has to");
    let refused = relay.client().allocate();
    assert!(matches!(refused, Err(300 | 508)), "{refused:?}");
    client.talk(&peer, relayed);
    client.refresh(600).unwrap();
    assert!(relay.is_running());

    client.refresh(0).unwrap();
    assert!(relay.ended().success());
    assert!(relay.has_logged("INFO", "no allocation is left"));
}

#[test]
fn a_stop_without_allocations_is_at_once() {
    let mut relay = Relay::start();
    relay.signal("INT");
    assert!(relay.ended().success());
}

#[test]
fn a_second_signal_ends_the_waiting() {
    let mut relay = Relay::start();
    let mut client = relay.client();
    client.allocate().unwrap();
    relay.signal("TERM");
    relay.wait_for("it says that it stops", |relay| {
        relay.get("/ready").0 == 503
    });
    relay.signal("TERM");
    assert!(relay.ended().success());
    assert!(relay.has_logged("WARN", "a second signal"));
}

#[test]
fn the_waiting_ends_after_the_drain_timeout() {
    let mut relay = Relay::start_with("drain_timeout: 1h\n", &[]);
    relay.client().allocate().unwrap();
    // a reload changes how long, too
    relay.configure("drain_timeout: 100ms\n");
    relay.reload();
    relay.signal("TERM");
    assert!(relay.ended().success());
    assert!(relay.has_logged("WARN", "the time to finish is over"));
}

#[test]
fn systemd_is_told_of_start_reload_and_stop() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify.socket");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let next = |wanted: &str| {
        let mut buffer = [0; 4096];
        loop {
            let length = socket.recv(&mut buffer).expect(wanted);
            let message = String::from_utf8(buffer[..length].to_vec()).unwrap();
            if message.contains(wanted) {
                return;
            }
            // the watchdog's may come at any time
            assert_eq!(message.trim(), "WATCHDOG=1", "before {wanted}");
        }
    };
    let environment = [
        ("NOTIFY_SOCKET", path.to_str().unwrap()),
        ("WATCHDOG_USEC", "200000"),
    ];
    let mut relay = Relay::start_with("", &environment);
    let mut client = relay.client();
    client.allocate().unwrap();
    next("READY=1");
    next("WATCHDOG=1");
    relay.signal("HUP");
    next("RELOADING=1");
    next("READY=1");
    relay.signal("TERM");
    next("STOPPING=1");
    next("EXTEND_TIMEOUT_USEC=");
    client.refresh(0).unwrap();
    assert!(relay.ended().success());
}
