//! What an operator sees: health, metrics, logs.

use serde_json::{Value, json};

use crate::{
    client::{BINDING, Client, Credentials, Peer},
    relay::Relay,
    time::eventually,
    wire,
};

#[test]
fn health_and_readiness_are_told() {
    let relay = Relay::start(&json!({}));
    assert_eq!(relay.get("/health"), (200, "{}".to_owned()));
    let (status, body) = relay.get("/ready");
    assert_eq!(status, 200);
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body, json!({"ready": true, "reasons": []}));
    assert_eq!(relay.get("/").0, 404);
    assert_eq!(relay.get("/metrics/").0, 404);
}

/// By the names that dashboards have.
#[test]
fn metrics_have_their_names_from_the_start() {
    let relay = Relay::start(&json!({}));
    let text = relay.metrics();
    for line in [
        "nocturne_turn_build_info{version=",
        "nocturne_turn_reloads_total 0",
        "nocturne_turn_failed_reloads_total 0",
        "nocturne_turn_allocations{transport=\"udp\",family=\"ipv4\"} 0",
        "nocturne_turn_allocations{transport=\"tls\",family=\"dual\"} 0",
        "nocturne_turn_allocations_made_total{transport=\"tcp\",family=\"ipv6\"} 0",
        "nocturne_turn_packets_total{direction=\"client_to_peer\"} 0",
        "nocturne_turn_packets_total{direction=\"peer_to_client\"} 0",
        "nocturne_turn_packets_total{direction=\"client_to_client\"} 0",
        "nocturne_turn_bytes_total{direction=\"client_to_peer\"} 0",
        "nocturne_turn_drops_total{reason=\"malformed\"} 0",
        "nocturne_turn_drops_total{reason=\"queue_full\"} 0",
        "nocturne_turn_auth_failures_total{reason=\"bad_password\"} 0",
        "nocturne_turn_denials_total{operation=\"connect\"} 0",
        "nocturne_turn_quota_hits_total{quota=\"user_allocations\"} 0",
        "nocturne_turn_handshakes_total{result=\"completed\"} 0",
        "nocturne_turn_bindings_total 0",
        "nocturne_turn_connections{transport=\"tcp\"} 0",
        "nocturne_turn_connections{transport=\"tls\"} 0",
        "nocturne_turn_unsafe_identifiers 0",
        "process_resident_memory_bytes ",
        "# EOF",
    ] {
        assert!(
            text.lines().any(|found| found.starts_with(line)),
            "{line}:\n{text}"
        );
    }
    // there is no certificate
    assert!(!text.contains("certificate_expiry "), "{text}");
}

#[test]
fn metrics_move_with_what_happens() {
    let relay = Relay::start(&json!({"peers": {"allow": ["127.0.0.1/32"]}}));
    let mut one = relay.udp_client();
    one.ask(BINDING, &[]);
    assert_eq!(relay.metric("bindings_total", ""), 1);
    assert_eq!(relay.metric("auth_failures_total", ""), 0);

    let at_one = one.allocate();
    assert_eq!(relay.metric("auth_failures_total", "challenged"), 1);
    let udp = "{transport=\"udp\",family=\"ipv4\"}";
    assert_eq!(relay.metric("allocations", udp), 1);
    assert_eq!(relay.metric("allocations_made_total", udp), 1);

    let peer = Peer::new();
    assert_eq!(one.bind(0x4000, peer.address()), None);
    one.send_on(0x4000, &[1; 100]);
    one.send_to(peer.address(), &[1; 11]);
    peer.receive();
    peer.receive();
    peer.send(at_one, &[2; 7]);
    one.relayed();
    let count =
        |what: &str, direction: &str| relay.metric(what, &format!("direction=\"{direction}\""));
    assert_eq!(count("packets_total", "client_to_peer"), 2);
    assert_eq!(count("bytes_total", "client_to_peer"), 111);
    assert_eq!(count("packets_total", "peer_to_client"), 1);
    assert_eq!(count("bytes_total", "peer_to_client"), 7);

    let mut other = relay.udp_client();
    let at_other = other.allocate();
    assert_eq!(one.permit(at_other.ip()), None);
    assert_eq!(other.permit(at_one.ip()), None);
    one.send_to(at_other, &[3; 5]);
    other.relayed();
    assert_eq!(count("packets_total", "client_to_client"), 1);
    assert_eq!(count("bytes_total", "client_to_client"), 5);
    assert_eq!(count("packets_total", "client_to_peer"), 2);

    assert_eq!(one.permit([127, 0, 0, 2]), Some(403));
    assert_eq!(relay.metric("denials_total", "create_permission"), 1);
    let mut mallory = Client::with(
        wire::udp(relay.udp[0]),
        Credentials {
            password: "guessed".to_owned(),
            ..Credentials::of("alice")
        },
    );
    assert_eq!(mallory.refused_allocation(), 401);
    assert_eq!(relay.metric("auth_failures_total", "bad_password"), 1);

    one.wire.send(&[0xFF; 30]).unwrap();
    relay.assert_dropped("malformed", 1);
    assert_eq!(one.refresh(0), Ok(0));
    assert!(eventually(|| relay.metric("allocations", udp) == 1));
    assert_eq!(relay.metric("allocations_made_total", udp), 2);
}
