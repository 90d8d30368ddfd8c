//! RFC 8656 §11.2 and §11.3: Send and Data indications.

use std::collections::HashSet;

use turn_relay_proto::{
    address::{Family, Transport},
    counters::{Direction, DropReason},
    effect::Purpose,
    packet::{HEADROOM, TAILROOM},
};

use crate::support::{
    client::Client,
    stun::{DATA_METHOD, Draft, MessageClass, SEND, attribute},
    world::{Rooms, World, socket},
};

const PEER: &str = "198.51.100.1:9";

/// A client with a permission for [`PEER`].
fn permitted(world: &mut World) -> (Client, std::net::SocketAddr) {
    let (mut client, relayed) = Client::allocated(world, "alice");
    client.permit(world, socket(PEER));
    (client, relayed)
}

#[test]
fn a_send_indication_becomes_a_datagram_from_the_relayed_address() {
    let mut world = World::new();
    let (client, relayed) = permitted(&mut world);
    let outcome = client.send(&mut world, socket(PEER), b"hello");
    let datagram = outcome.to_peer();
    assert_eq!(datagram.from, relayed);
    assert_eq!(datagram.peer, socket(PEER));
    assert_eq!(datagram.payload, b"hello");
    assert!(!datagram.dont_fragment);
    assert_eq!(outcome.effects.len(), 1);
}

#[test]
fn a_datagram_becomes_a_data_indication() {
    let mut world = World::new();
    let (client, relayed) = permitted(&mut world);
    let outcome = world.peer_says(relayed, socket(PEER), b"hello");
    let message = outcome.stun();
    assert_eq!(message.class, MessageClass::Indication);
    assert_eq!(message.method, DATA_METHOD);
    assert_eq!(message.peer(), socket(PEER));
    assert_eq!(message.data(), b"hello");
    assert_eq!(outcome.to_clients[0].client, client.five_tuple);
    assert_eq!(outcome.to_clients[0].purpose, Purpose::Relayed);
}

#[test]
fn data_indications_have_different_transaction_ids() {
    // §11.3 and RFC 8489 §6.1: drawn at random. At least they are not one and the same.
    let mut world = World::new();
    let (_, relayed) = permitted(&mut world);
    let first = world.peer_says(relayed, socket(PEER), b"1").stun().id;
    let second = world.peer_says(relayed, socket(PEER), b"2").stun().id;
    assert_ne!(first, second);
}

#[test]
fn every_length_is_relayed_as_it_is() {
    // so is every form of padding, both ways, with and without space for headers
    for rooms in [
        Rooms {
            head: HEADROOM,
            tail: TAILROOM,
        },
        Rooms { head: 0, tail: 0 },
        Rooms {
            head: HEADROOM,
            tail: 0,
        },
        Rooms {
            head: HEADROOM - 1,
            tail: TAILROOM,
        },
        Rooms {
            head: 200,
            tail: 200,
        },
    ] {
        for transport in [Transport::Udp, Transport::Tcp] {
            let mut world = World::new();
            let (mut client, relayed) = Client::allocated_over(&mut world, "alice", transport);
            client.permit(&mut world, socket(PEER));
            world.rooms = rooms;
            for len in (0..70).chain([159, 160, 1199, 1200, 1472, 9000, 65_000]) {
                let data: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
                let outcome = client.send(&mut world, socket(PEER), &data);
                assert_eq!(outcome.to_peer().payload, data);
                let outcome = world.peer_says(relayed, socket(PEER), &data);
                assert_eq!(outcome.stun().data(), data);
            }
        }
    }
}

#[test]
fn every_length_from_ipv6_peers_is_relayed_as_it_is() {
    let peer = socket("[2001:db8:5::1]:9");
    let mut world = World::new();
    let (mut client, _, relayed) = Client::dual(&mut world, "alice");
    client.permit(&mut world, peer);
    for len in (0..70).chain([1200, 65_000]) {
        let data = vec![7; len];
        let outcome = world.peer_says(relayed, peer, &data);
        assert_eq!(outcome.stun().data(), data);
        assert_eq!(outcome.stun().peer(), peer);
    }
}

#[test]
fn empty_data_are_sent_as_an_empty_datagram() {
    let mut world = World::new();
    let (client, relayed) = permitted(&mut world);
    let outcome = client.send(&mut world, socket(PEER), b"");
    assert_eq!(outcome.to_peer().payload, b"");
    let outcome = world.peer_says(relayed, socket(PEER), b"");
    assert_eq!(outcome.stun().data(), b"");
}

#[test]
fn a_send_indication_that_lacks_an_attribute_is_discarded() {
    let mut world = World::new();
    let (client, _) = permitted(&mut world);
    let peer = socket(PEER);
    for message in [
        Draft::indication(SEND),
        Draft::indication(SEND).peer(peer),
        Draft::indication(SEND).data(b"data"),
        Draft::indication(SEND)
            .data(b"data")
            .with(attribute::XOR_PEER_ADDRESS, &[]),
        Draft::indication(SEND)
            .data(b"data")
            .with(attribute::XOR_PEER_ADDRESS, &[0, 1, 0, 0]),
        Draft::indication(SEND)
            .data(b"data")
            .with(attribute::XOR_PEER_ADDRESS, &[0, 9, 0, 0, 0, 0, 0, 0]),
    ] {
        client.put(&mut world, &message.finish()).nothing();
    }
    assert_eq!(world.drops(DropReason::BadIndication), 6);
}

#[test]
fn the_attributes_of_a_send_indication_come_in_any_order() {
    let mut world = World::new();
    let (client, _) = permitted(&mut world);
    let message = Draft::indication(SEND)
        .data(b"data")
        .with(attribute::SOFTWARE, b"tests")
        .dont_fragment()
        .peer(socket(PEER))
        .fingerprint();
    let outcome = client.put(&mut world, &message.finish());
    assert_eq!(outcome.to_peer().payload, b"data");
    assert!(outcome.to_peer().dont_fragment);
}

#[test]
fn of_two_peers_and_two_data_the_first_count() {
    let mut world = World::new();
    let (client, _) = permitted(&mut world);
    let message = Draft::indication(SEND)
        .peer(socket(PEER))
        .peer(socket("10.0.0.1:9"))
        .data(b"first")
        .data(b"second");
    let outcome = client.put(&mut world, &message.finish());
    assert_eq!(outcome.to_peer().peer, socket(PEER));
    assert_eq!(outcome.to_peer().payload, b"first");
}

#[test]
fn a_send_indication_to_a_peer_of_another_family_is_discarded() {
    let mut world = World::new();
    let (client, _) = permitted(&mut world);
    client
        .send(&mut world, socket("[2001:db8:5::1]:9"), b"data")
        .nothing();
}

#[test]
fn a_send_indication_to_an_ipv4_mapped_address_is_one_to_the_ipv4_address() {
    let mut world = World::new();
    let (client, _) = permitted(&mut world);
    let outcome = client.send(&mut world, socket("[::ffff:198.51.100.1]:9"), b"data");
    assert_eq!(outcome.to_peer().peer, socket(PEER));
    client
        .send(&mut world, socket("[::ffff:198.51.100.2]:9"), b"data")
        .nothing();
}

#[test]
fn a_send_indication_to_port_0_is_discarded() {
    let mut world = World::new();
    let (client, _) = permitted(&mut world);
    client
        .send(&mut world, socket("198.51.100.1:0"), b"data")
        .nothing();
}

#[test]
fn a_send_indication_may_be_used_although_a_channel_is_bound() {
    // §11.1; in the other direction it is the channel that counts
    let mut world = World::new();
    let (mut client, relayed) = permitted(&mut world);
    client.bind(&mut world, 0x4000, socket(PEER)).success();
    let outcome = client.send(&mut world, socket(PEER), b"data");
    assert_eq!(outcome.to_peer().payload, b"data");
    let outcome = world.peer_says(relayed, socket(PEER), b"data");
    assert_eq!(outcome.channel_data(), (0x4000, &b"data"[..]));
}

#[test]
fn a_datagram_that_no_message_can_carry_is_dropped() {
    // 65,535 bytes and the attribute with the peer's address do not fit a STUN message
    let mut world = World::new();
    let (mut dual, _, relayed) = Client::dual(&mut world, "alice");
    let v6 = socket("[2001:db8:5::1]:9");
    dual.permit(&mut world, v6);
    let (mut client, over_v4) = Client::allocated(&mut world, "bob");
    client.permit(&mut world, socket(PEER));
    let outcome = world.peer_says(over_v4, socket(PEER), &vec![1; 65_535]);
    outcome.silence();
    assert_eq!(world.drops(DropReason::TooLong), 1);
    world.peer_says(relayed, v6, &vec![1; 65_535]).silence();
    assert_eq!(world.drops(DropReason::TooLong), 2);
}

#[test]
fn data_to_a_stream_client_are_messages_of_a_multiple_of_four() {
    for transport in [Transport::Tcp, Transport::Tls] {
        let mut world = World::new();
        let (mut client, relayed) = Client::allocated_over(&mut world, "alice", transport);
        client.permit(&mut world, socket(PEER));
        for len in 0..9 {
            let outcome = world.peer_says(relayed, socket(PEER), &vec![1; len]);
            assert_eq!(outcome.to_clients[0].len % 4, 0);
            assert_eq!(outcome.stun().data().len(), len);
        }
    }
}

#[test]
fn relayed_packets_and_bytes_are_counted_by_direction() {
    let mut world = World::new();
    let (client, relayed) = permitted(&mut world);
    for _ in 0..3 {
        client.send(&mut world, socket(PEER), b"12345");
    }
    world.peer_says(relayed, socket(PEER), b"1234567");
    let counters = &world.counters[0];
    assert_eq!(counters.packets.get(Direction::ClientToPeer), 3);
    assert_eq!(counters.bytes.get(Direction::ClientToPeer), 15);
    assert_eq!(counters.packets.get(Direction::PeerToClient), 1);
    assert_eq!(counters.bytes.get(Direction::PeerToClient), 7);
}

#[test]
fn a_client_over_ipv6_reaches_ipv4_peers_and_the_other_way_round() {
    let mut world = World::new();
    for (family, peer) in [
        (Family::V6, socket(PEER)),
        (Family::V4, socket("[2001:db8:5::1]:9")),
    ] {
        let mut client = Client::over(&mut world, "alice", Transport::Udp, family);
        let request = Draft::allocate().family(Family::of(peer.ip()).number());
        let relayed = client.call(&mut world, request).success().relayed()[0];
        client.permit(&mut world, peer);
        let outcome = client.send(&mut world, peer, b"out");
        assert_eq!(outcome.to_peer().from, relayed);
        let outcome = world.peer_says(relayed, peer, b"in");
        assert_eq!(outcome.stun().peer(), peer);
    }
}

#[test]
fn transaction_ids_do_not_tell_how_many_indications_others_get() {
    let mut world = World::new();
    let (mut client, relayed) = Client::allocated(&mut world, "alice");
    client.permit(&mut world, socket("198.51.100.1:9"));
    let mut ids = HashSet::new();
    for _ in 0..1000 {
        let outcome = world.peer_says(relayed, socket("198.51.100.1:9"), b"x");
        ids.insert(outcome.stun().id);
    }
    assert_eq!(ids.len(), 1000, "they are different");
    // counted up, wherever in the ID and in whatever byte order, many would be near each other
    let near = |ids: Vec<u128>| {
        let mut ids = ids;
        let unused = ids.iter().fold(0, |all, id| all | id).trailing_zeros();
        ids.sort_unstable();
        let pairs = ids.windows(2);
        pairs
            .filter(|pair| (pair[1] - pair[0]) >> unused < 1 << 16)
            .count()
    };
    assert_eq!(near(ids.iter().copied().collect()), 0);
    assert_eq!(near(ids.iter().map(|id| id.swap_bytes()).collect()), 0);
}
