//! The IP header of relayed packets: DSCP, ECN, DF and TTL (RFC 8656 §13 to §16).

use std::net::{SocketAddr, UdpSocket};

use serde_json::json;
use socket2::SockRef;

use super::{
    addresses::relay_on,
    network::{Host, Network},
};
use crate::{
    client::{Client, REALM, SECRET, ipv6, ipv6_too, udp_transport},
    relay::Relay,
    wire::Wire,
};

/// Expedited forwarding (46), and ECN-capable (ECT(0)).
const MARKED: u8 = 46 << 2 | 2;
/// The other one: CS1 (8), and congestion experienced.
const OTHER: u8 = 8 << 2 | 3;

fn relay(home: &Host) -> Relay {
    relay_on(home, json!({"realm": REALM, "secrets": [SECRET]}))
}

/// Has the system mark what the socket sends.
fn mark(socket: &UdpSocket, class: u8) {
    let socket_ref = SockRef::from(socket);
    if socket.local_addr().unwrap().is_ipv4() {
        socket_ref.set_tos_v4(class.into()).unwrap();
    } else {
        socket_ref.set_tclass_v6(class.into()).unwrap();
    }
}

fn mark_client(client: &Client, class: u8) {
    let Wire::Udp(socket) = &client.wire else {
        panic!("a stream has no packets of its own");
    };
    mark(socket, class);
}

#[test]
fn dscp_and_ecn_are_copied_both_ways() {
    let Some(network) = Network::new() else {
        return;
    };
    let [home, at, elsewhere] = [1, 2, 3].map(|number| network.host(number));
    let _relay = relay(&home);
    let mut at_client = at.tap();
    let mut at_peer = elsewhere.tap();
    for (relay, peer, attributes) in [
        (
            SocketAddr::from((home.v4, 3478)),
            elsewhere.peer(),
            vec![udp_transport()],
        ),
        (
            (home.v6, 3478).into(),
            elsewhere.peer_v6(),
            vec![udp_transport(), ipv6()],
        ),
        // of one family to the other
        (
            (home.v6, 3478).into(),
            elsewhere.peer(),
            vec![udp_transport()],
        ),
    ] {
        let mut client = at.udp_client(relay);
        let relayed = client.allocate_with(&attributes);
        let here = client.wire.local_address();
        assert_eq!(client.bind(0x4000, peer.address()), None);
        for class in [MARKED, OTHER, 0] {
            mark_client(&client, class);
            let payload = [class, 1, 2, 3];
            client.send_on(0x4000, &payload);
            let packet = at_peer.find_datagram(peer.address(), &payload);
            assert_eq!(packet.traffic_class, class, "{packet:?}");
            let payload = [class, 4, 5, 6];
            client.send_to(peer.address(), &payload);
            let packet = at_peer.find_datagram(peer.address(), &payload);
            assert_eq!(packet.traffic_class, class, "{packet:?}");

            mark(&peer.0, class);
            let payload = [class, 7, 8, 9];
            peer.send(relayed, &payload);
            let mut message = vec![0x40, 0, 0, 4];
            message.extend(payload);
            let packet = at_client.find_datagram(here, &message);
            assert_eq!(packet.traffic_class, class, "{packet:?}");
        }
    }
}

/// Marks of one packet are not those of another that is sent along with it.
#[test]
fn each_packet_of_a_burst_has_its_own_mark() {
    let Some(network) = Network::new() else {
        return;
    };
    let [home, at, elsewhere] = [1, 2, 3].map(|number| network.host(number));
    let _relay = relay(&home);
    let mut client = at.udp_client((home.v4, 3478));
    client.allocate();
    let peer = elsewhere.peer();
    assert_eq!(client.bind(0x4000, peer.address()), None);
    let mut tap = elsewhere.tap();
    let class = |number: u8| [0, MARKED, OTHER][usize::from(number % 3)];
    for number in 0..60 {
        mark_client(&client, class(number));
        client.send_on(0x4000, &[number; 100]);
    }
    for number in 0..60 {
        let packet = tap.find_datagram(peer.address(), &[number; 100]);
        assert_eq!(packet.traffic_class, class(number), "{number}");
    }
}

#[test]
fn between_two_clients_marks_are_copied_too() {
    let Some(network) = Network::new() else {
        return;
    };
    let [home, at, elsewhere] = [1, 2, 3].map(|number| network.host(number));
    let _relay = relay(&home);
    let mut one = at.udp_client((home.v4, 3478));
    let mut other = elsewhere.udp_client((home.v4, 3478));
    let (at_one, at_other) = (one.allocate(), other.allocate());
    assert_eq!(one.bind(0x4000, at_other), None);
    assert_eq!(other.bind(0x4000, at_one), None);
    let mut tap = elsewhere.tap();
    for class in [MARKED, OTHER, 0] {
        mark_client(&one, class);
        one.send_on(0x4000, &[class, 9, 9, 9]);
        let message = [0x40, 0, 0, 4, class, 9, 9, 9];
        let packet = tap.find_datagram(other.wire.local_address(), &message);
        assert_eq!(packet.traffic_class, class, "{packet:?}");
    }
}

#[test]
fn relayed_packets_may_be_fragmented_unless_the_client_says_otherwise_and_live_as_long_as_new_ones()
{
    let Some(network) = Network::new() else {
        return;
    };
    let [home, at, elsewhere] = [1, 2, 3].map(|number| network.host(number));
    let _relay = relay(&home);
    let mut client = at.udp_client((home.v4, 3478));
    let relayed = client.allocate_with(&[udp_transport(), ipv6_too()]);
    let peer = elsewhere.peer();
    assert_eq!(client.bind(0x4000, peer.address()), None);
    let mut tap = elsewhere.tap();
    client.send_on(0x4000, b"channel");
    let packet = tap.find_datagram(peer.address(), b"channel");
    assert!(!packet.dont_fragment, "{packet:?}");
    assert_eq!(packet.from, relayed.ip());
    // one router on the way
    assert_eq!(packet.hops, 63);
    client.send_with(&[
        crate::client::peer(peer.address()),
        crate::client::dont_fragment(),
        crate::client::data(b"in one piece"),
    ]);
    let packet = tap.find_datagram(peer.address(), b"in one piece");
    assert!(packet.dont_fragment, "{packet:?}");
    client.send_to(peer.address(), b"as you like");
    let packet = tap.find_datagram(peer.address(), b"as you like");
    assert!(!packet.dont_fragment, "{packet:?}");
}

/// RFC 8656 §16: a stream's packets are not messages.
#[test]
fn what_comes_over_a_stream_is_not_marked() {
    let Some(network) = Network::new() else {
        return;
    };
    let [home, at, elsewhere] = [1, 2, 3].map(|number| network.host(number));
    let _relay = relay(&home);
    let mut client = at.tcp_client((home.v4, 3478));
    client.allocate();
    let Wire::Tcp(framed) = &client.wire else {
        unreachable!("it is a TCP client");
    };
    SockRef::from(&framed.stream)
        .set_tos_v4(MARKED.into())
        .unwrap();
    let peer = elsewhere.peer();
    assert_eq!(client.bind(0x4000, peer.address()), None);
    let mut tap = elsewhere.tap();
    client.send_on(0x4000, b"from a stream");
    let packet = tap.find_datagram(peer.address(), b"from a stream");
    assert_eq!(packet.traffic_class, 0, "{packet:?}");
}
