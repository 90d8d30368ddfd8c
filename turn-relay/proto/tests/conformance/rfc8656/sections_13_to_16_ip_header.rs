//! RFC 8656 §13 to §16: what of the IP header goes across.

use turn_relay_proto::address::{Family, Transport};

use crate::support::{
    client::Client,
    stun::{Draft, SEND, channel_data},
    world::{World, socket},
};

const PEERS: [&str; 2] = ["198.51.100.1:9", "[2001:db8:5::1]:9"];

/// A client over a family and transport, with channel 0x4000 bound to a peer, and where the peer reaches it.
fn bound(
    world: &mut World,
    transport: Transport,
    family: Family,
    peer: &str,
) -> (Client, std::net::SocketAddr) {
    let peer = socket(peer);
    let mut client = Client::over(world, "alice", transport, family);
    let request = Draft::allocate().family(Family::of(peer.ip()).number());
    let relayed = client.call(world, request).success().relayed()[0];
    client.permit(world, peer);
    (client, relayed)
}

/// DSCP and ECN together: Expedited Forwarding with ECT(0) and with CE, and others.
const TRAFFIC_CLASSES: [u8; 5] = [0, 0xBA, 0xBB, 0x01, 0xFF];

#[test]
fn udp_to_udp_copies_dscp_and_ecn() {
    // §14, preferred behavior
    for (family, peer) in [(Family::V4, PEERS[0]), (Family::V6, PEERS[1])] {
        let mut world = World::new();
        let (mut client, relayed) = bound(&mut world, Transport::Udp, family, peer);
        let peer = socket(peer);
        for channel in [false, true] {
            if channel {
                client.bind(&mut world, 0x4000, peer).success();
            }
            for class in TRAFFIC_CLASSES {
                let send = Draft::indication(SEND).peer(peer).data(b"data").finish();
                let message = if channel {
                    channel_data(0x4000, b"data")
                } else {
                    send
                };
                let outcome = world.client_says_marked(0, client.five_tuple, &message, class);
                assert_eq!(outcome.to_peer().traffic_class, class);
                let outcome = world.peer_says_marked(relayed, peer, b"data", class);
                assert_eq!(outcome.to_clients[0].traffic_class, class);
            }
        }
    }
}

#[test]
fn translation_copies_the_traffic_class_or_sets_the_default() {
    // §13.1 and §13.3: as RFC 7915 says, which is a copy by default, or 0, and nothing else
    for (family, peer) in [(Family::V4, PEERS[1]), (Family::V6, PEERS[0])] {
        let mut world = World::new();
        let (client, relayed) = bound(&mut world, Transport::Udp, family, peer);
        let peer = socket(peer);
        for class in TRAFFIC_CLASSES {
            let send = Draft::indication(SEND).peer(peer).data(b"data").finish();
            let outcome = world.client_says_marked(0, client.five_tuple, &send, class);
            assert!([0, class].contains(&outcome.to_peer().traffic_class));
            let outcome = world.peer_says_marked(relayed, peer, b"data", class);
            assert!([0, class].contains(&outcome.to_clients[0].traffic_class));
        }
    }
}

#[test]
fn tcp_to_udp_is_best_effort_and_not_ect() {
    // §15: ECN is Not-ECT in any case
    for transport in [Transport::Tcp, Transport::Tls] {
        let mut world = World::new();
        let (mut client, _) = bound(&mut world, transport, Family::V4, PEERS[0]);
        let outcome = client.send(&mut world, socket(PEERS[0]), b"data");
        assert_eq!(outcome.to_peer().traffic_class, 0);
        client.bind(&mut world, 0x4000, socket(PEERS[0])).success();
        let outcome = client.send_on(&mut world, 0x4000, b"data");
        assert_eq!(outcome.to_peer().traffic_class, 0);
    }
}

#[test]
fn udp_to_tcp_ignores_dscp_and_ecn() {
    // §16
    for transport in [Transport::Tcp, Transport::Tls] {
        let mut world = World::new();
        let (mut client, relayed) = bound(&mut world, transport, Family::V4, PEERS[0]);
        for class in TRAFFIC_CLASSES {
            let outcome = world.peer_says_marked(relayed, socket(PEERS[0]), b"data", class);
            assert_eq!(outcome.to_clients[0].traffic_class, 0);
        }
        client.bind(&mut world, 0x4000, socket(PEERS[0])).success();
        let outcome = world.peer_says_marked(relayed, socket(PEERS[0]), b"data", 0xFF);
        assert_eq!(outcome.to_clients[0].traffic_class, 0);
    }
}

#[test]
fn answers_are_best_effort() {
    let mut world = World::new();
    let client = Client::new(&mut world, "alice");
    let request = Draft::allocate().finish();
    let outcome = world.client_says_marked(0, client.five_tuple, &request, 0xB8);
    assert_eq!(outcome.to_clients[0].traffic_class, 0);
}

#[test]
fn ipv4_to_ipv4_sets_df_when_it_is_asked_for_and_not_otherwise() {
    // §14
    let mut world = World::new();
    let (mut client, _) = bound(&mut world, Transport::Udp, Family::V4, PEERS[0]);
    let peer = socket(PEERS[0]);
    let send = Draft::indication(SEND).peer(peer).data(b"data");
    let outcome = client.put(&mut world, &send.clone().dont_fragment().finish());
    assert!(outcome.to_peer().dont_fragment);
    let outcome = client.put(&mut world, &send.finish());
    assert!(!outcome.to_peer().dont_fragment);
    client.bind(&mut world, 0x4000, peer).success();
    let outcome = client.send_on(&mut world, 0x4000, b"data");
    assert!(!outcome.to_peer().dont_fragment);
}

#[test]
fn dont_fragment_is_ignored_between_datagrams_when_a_packet_is_translated() {
    // §13.1, §13.2, §13.3: the server MUST ignore it, from IPv6 to IPv6, too
    for (family, peer) in [
        (Family::V4, PEERS[1]),
        (Family::V6, PEERS[1]),
        (Family::V6, PEERS[0]),
    ] {
        let mut world = World::new();
        let (client, _) = bound(&mut world, Transport::Udp, family, peer);
        let send = Draft::indication(SEND).peer(socket(peer)).data(b"data");
        let outcome = client.put(&mut world, &send.dont_fragment().finish());
        assert!(!outcome.to_peer().dont_fragment, "{family:?} to {peer}");
    }
}

#[test]
fn dont_fragment_counts_from_streams_whatever_the_families() {
    // §13: ignoring it is not applicable for TCP-to-UDP relay; §15
    for transport in [Transport::Tcp, Transport::Tls] {
        for family in [Family::V4, Family::V6] {
            for peer in PEERS {
                let mut world = World::new();
                let (client, _) = bound(&mut world, transport, family, peer);
                let send = Draft::indication(SEND).peer(socket(peer)).data(b"data");
                let outcome = client.put(&mut world, &send.clone().dont_fragment().finish());
                assert!(outcome.to_peer().dont_fragment, "{family:?} to {peer}");
                let outcome = client.put(&mut world, &send.finish());
                assert!(!outcome.to_peer().dont_fragment);
            }
        }
    }
}

#[test]
fn dont_fragment_with_a_value_is_no_reason_to_fall_over() {
    // §18.9: it has no value
    let mut world = World::new();
    let (client, _) = bound(&mut world, Transport::Udp, Family::V4, PEERS[0]);
    let send = Draft::indication(SEND)
        .peer(socket(PEERS[0]))
        .data(b"data")
        .with(crate::support::stun::attribute::DONT_FRAGMENT, &[1, 2, 3]);
    let outcome = client.put(&mut world, &send.finish());
    assert!(outcome.to_peers.len() <= 1 && outcome.to_clients.is_empty());
}
