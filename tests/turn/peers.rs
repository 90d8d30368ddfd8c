//! Whom clients may reach. With addresses of networks of their own: see `namespaces`.

use std::net::SocketAddr;

use serde_json::json;

use crate::{
    client::{Peer, Relayed},
    relay::Relay,
};

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn nothing_special_is_a_peer_unless_it_is_allowed() {
    let relay = Relay::start(&json!({"peers": {"allow": null}}));
    let mut client = relay.udp_client();
    client.allocate();
    let denied = [
        "0.0.0.0",
        "10.0.0.1",
        "100.64.0.1",
        "127.0.0.2",
        "127.255.255.254",
        "169.254.169.254",
        "172.16.0.1",
        "192.0.0.1",
        "192.0.2.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
    ];
    for ip in denied {
        let peer = address(&format!("{ip}:9"));
        assert_eq!(client.permit(peer.ip()), Some(403), "{ip}");
        assert_eq!(client.bind(0x4000, peer), Some(403), "{ip}");
        client.send_to(peer, b"knock");
    }
    let count = u64::try_from(denied.len()).unwrap();
    relay.assert_dropped("no_permission", count);
    assert_eq!(relay.metric("denials_total", "create_permission"), count);
    assert_eq!(relay.metric("denials_total", "channel_bind"), count);
    assert_eq!(relay.metric("packets_total", ""), 0);
    // what is public may be one
    assert_eq!(client.permit(address("8.8.8.8:9").ip()), None);
}

#[test]
fn one_denied_address_among_allowed_ones_denies_the_request() {
    let relay = Relay::start(&json!({"peers": {"allow": ["127.0.0.1/32"]}}));
    let mut client = relay.udp_client();
    client.allocate();
    let peers =
        ["8.8.8.8:1", "127.0.0.1:1", "10.0.0.1:1"].map(|text| crate::client::peer(address(text)));
    let code = client.ask(crate::client::CREATE_PERMISSION, &peers).code();
    assert_eq!(code, Some(403));
    // and gives none for the others
    let peer = Peer::new();
    client.send_to(peer.address(), b"too early");
    relay.assert_dropped("no_permission", 1);
}

#[test]
fn allow_wins_over_deny_and_denied_ports_over_both() {
    let service = Peer::at([127, 0, 0, 2]);
    let relay = Relay::start(&json!({"peers": {
        "allow": ["127.0.0.0/16"],
        "deny": ["127.0.0.0/24", "8.8.8.0/24"],
        "deny_ports": [service.address().port(), "1-1023"],
    }}));
    let mut client = relay.udp_client();
    let relayed = client.allocate();
    let peer = Peer::new();
    assert_eq!(client.permit(peer.address().ip()), None);
    client.send_to(peer.address(), b"hello");
    assert_eq!(peer.receive(), (b"hello".to_vec(), relayed));

    assert_eq!(client.permit(address("8.8.8.8:1").ip()), Some(403));
    assert_eq!(client.permit(address("127.1.0.1:1").ip()), Some(403));
    assert_eq!(client.permit(service.address().ip()), None);
    assert_eq!(client.bind(0x4000, service.address()), Some(403));
    assert_eq!(client.bind(0x4000, address("127.0.0.2:53")), Some(403));
    // a permission knows no port; the packet is looked at all the same
    client.send_to(service.address(), b"hello");
    relay.assert_dropped("policy", 1);
    service.assert_silence();
    // and the way back
    service.send(relayed, b"hello");
    relay.assert_dropped("policy", 2);
    client.assert_silence();
}

#[test]
fn a_peer_without_permission_is_not_heard() {
    let relay = Relay::start(&json!({}));
    let mut client = relay.udp_client();
    let relayed = client.allocate();
    let peer = Peer::at([127, 0, 0, 3]);
    peer.send(relayed, b"hello");
    relay.assert_dropped("no_permission", 1);
    assert_eq!(client.permit([127, 0, 0, 3]), None);
    peer.send(relayed, b"hello again");
    let expected = Relayed::From(peer.address(), b"hello again".to_vec());
    assert_eq!(client.relayed(), expected);
    // another host is another peer
    Peer::at([127, 0, 0, 4]).send(relayed, b"me, too");
    relay.assert_dropped("no_permission", 2);
}

/// The relay's own addresses: other clients of it, nothing else there.
#[test]
fn other_clients_are_peers_and_services_at_the_same_address_are_not() {
    let relay = Relay::start(&json!({"peers": {"allow": null}}));
    let (mut one, mut other) = (relay.udp_client(), relay.udp_client());
    let (at_one, at_other) = (one.allocate(), other.allocate());
    assert_eq!(one.bind(0x4000, at_other), None);
    assert_eq!(other.permit(at_one.ip()), None);
    one.send_on(0x4000, b"hello");
    let expected = Relayed::From(at_one, b"hello".to_vec());
    assert_eq!(other.relayed(), expected);
    other.send_to(at_one, b"hello yourself");
    assert_eq!(
        one.relayed(),
        Relayed::On(0x4000, b"hello yourself".to_vec())
    );

    let service = Peer::new();
    one.send_to(service.address(), b"knock");
    one.send_to(relay.udp[0], b"knock");
    one.send_to(relay.http, b"knock");
    relay.assert_dropped("no_such_relay", 3);
    service.assert_silence();
    // and who is there sends nothing to a client
    service.send(at_one, b"boo");
    assert!(
        crate::time::eventually(|| {
            relay.dropped("policy")
                + relay.dropped("no_such_relay")
                + relay.dropped("no_permission")
                == 4
        }),
        "{}",
        relay.metrics()
    );
    one.assert_silence();
    // another address of this host is not the relay's
    assert_eq!(one.permit([127, 0, 0, 2]), Some(403));
}

#[test]
fn both_clients_permissions_are_asked_between_two_clients() {
    let relay = Relay::start(&json!({}));
    let (mut one, mut other) = (relay.udp_client(), relay.udp_client());
    let (at_one, at_other) = (one.allocate(), other.allocate());
    assert_eq!(one.permit(at_other.ip()), None);
    one.send_to(at_other, b"nobody asked for this");
    relay.assert_dropped("no_permission", 1);
    assert_eq!(other.permit(at_one.ip()), None);
    one.send_to(at_other, b"now");
    assert_eq!(other.relayed().payload(), b"now");
}
