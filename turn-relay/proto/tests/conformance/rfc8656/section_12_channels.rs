//! RFC 8656 §12: channels.

use std::{net::SocketAddr, time::Duration};

use turn_relay_proto::{
    address::Transport,
    counters::{Denial, DropReason, QuotaHit},
    effect::Purpose,
    packet::{HEADROOM, TAILROOM},
};

use crate::support::{
    client::Client,
    stun::{CHANNEL_BIND, Draft, attribute, channel_data},
    world::{FromServer, Rooms, World, socket},
};

const PEER: &str = "198.51.100.1:9";

/// A client with channel 0x4000 bound to [`PEER`].
fn bound(world: &mut World) -> (Client, SocketAddr) {
    let (mut client, relayed) = Client::allocated(world, "alice");
    client.bind(world, 0x4000, socket(PEER)).success();
    (client, relayed)
}

#[test]
fn a_bound_channel_relays_both_ways() {
    let mut world = World::new();
    let (client, relayed) = bound(&mut world);
    let outcome = client.send_on(&mut world, 0x4000, b"out");
    let datagram = outcome.to_peer();
    assert_eq!((datagram.from, datagram.peer), (relayed, socket(PEER)));
    assert_eq!(datagram.payload, b"out");
    assert!(!datagram.dont_fragment);
    let outcome = world.peer_says(relayed, socket(PEER), b"in");
    assert_eq!(outcome.channel_data(), (0x4000, &b"in"[..]));
    assert_eq!(outcome.to_clients[0].purpose, Purpose::Relayed);
}

#[test]
fn a_channel_bind_installs_a_permission() {
    let mut world = World::new();
    let (client, relayed) = bound(&mut world);
    let mut other_port = socket(PEER);
    other_port.set_port(10);
    assert!(client.reaches(&mut world, other_port));
    let heard = client.hears(&mut world, relayed, other_port);
    let Some(FromServer::Stun(message)) = heard else {
        panic!("a Data indication wanted, for the channel is of another port: {heard:?}")
    };
    assert_eq!(message.peer(), other_port);
}

#[test]
fn a_success_has_no_attributes_but_its_integrity() {
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    let answer = client.bind(&mut world, 0x4000, socket(PEER)).success();
    assert_eq!(answer.attributes.len(), 1, "{answer:?}");
}

#[test]
fn a_request_that_lacks_an_attribute_gets_400() {
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    let request = Draft::request(CHANNEL_BIND);
    for request in [
        request.clone(),
        request.clone().channel(0x4000),
        request.clone().peer(socket(PEER)),
        request
            .clone()
            .peer(socket(PEER))
            .with(attribute::CHANNEL_NUMBER, &[]),
        request
            .clone()
            .peer(socket(PEER))
            .with(attribute::CHANNEL_NUMBER, &[0x40, 0]),
        request
            .clone()
            .peer(socket(PEER))
            .with(attribute::CHANNEL_NUMBER, &[0x40, 0, 0]),
        request
            .clone()
            .peer(socket(PEER))
            .with(attribute::CHANNEL_NUMBER, &[0x40, 0, 0, 0, 0]),
        request
            .clone()
            .channel(0x4000)
            .with(attribute::XOR_PEER_ADDRESS, &[]),
        request
            .clone()
            .channel(0x4000)
            .with(attribute::XOR_PEER_ADDRESS, &[0, 1, 0, 0]),
        request
            .channel(0x4000)
            .with(attribute::XOR_PEER_ADDRESS, &[0, 7, 0, 0, 0, 0, 0, 0]),
    ] {
        client.call(&mut world, request).error(400);
    }
    assert!(!client.reaches(&mut world, socket(PEER)));
}

#[test]
fn the_reserved_bytes_of_a_channel_number_are_ignored() {
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    let request = Draft::request(CHANNEL_BIND)
        .with(attribute::CHANNEL_NUMBER, &[0x40, 1, 0xFF, 0xFF])
        .peer(socket(PEER));
    client.call(&mut world, request).success();
}

#[test]
fn a_number_outside_of_0x4000_to_0x4fff_gets_400() {
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    for number in [0, 1, 0x3FFF, 0x5000, 0x7FFE, 0x7FFF, 0x8000, 0xFFFF] {
        client.bind(&mut world, number, socket(PEER)).error(400);
    }
    client
        .bind(&mut world, 0x4000, socket("198.51.100.1:1"))
        .success();
    client
        .bind(&mut world, 0x4FFF, socket("198.51.100.1:2"))
        .success();
}

#[test]
fn a_number_that_is_bound_to_another_address_gets_400() {
    let mut world = World::new();
    let (mut client, relayed) = bound(&mut world);
    for other in ["198.51.100.1:10", "198.51.100.2:9"] {
        client.bind(&mut world, 0x4000, socket(other)).error(400);
    }
    let outcome = world.peer_says(relayed, socket(PEER), b"in");
    assert_eq!(outcome.channel_data().0, 0x4000, "the binding is as it was");
    assert!(!client.reaches(&mut world, socket("198.51.100.2:9")));
}

#[test]
fn an_address_that_is_bound_to_another_number_gets_400() {
    let mut world = World::new();
    let (mut client, relayed) = bound(&mut world);
    client.bind(&mut world, 0x4001, socket(PEER)).error(400);
    let outcome = world.peer_says(relayed, socket(PEER), b"in");
    assert_eq!(outcome.channel_data().0, 0x4000);
    client.send_on(&mut world, 0x4001, b"data").nothing();
}

#[test]
fn channels_of_two_allocations_have_nothing_to_do_with_each_other() {
    let mut world = World::new();
    let (alice, at_alice) = bound(&mut world);
    let (mut bob, at_bob) = Client::allocated(&mut world, "bob");
    bob.bind(&mut world, 0x4000, socket("198.51.100.2:9"))
        .success();
    bob.bind(&mut world, 0x4001, socket(PEER)).success();
    let outcome = alice.send_on(&mut world, 0x4000, b"data");
    assert_eq!(
        (outcome.to_peer().from, outcome.to_peer().peer),
        (at_alice, socket(PEER))
    );
    let outcome = bob.send_on(&mut world, 0x4000, b"data");
    assert_eq!(outcome.to_peer().peer, socket("198.51.100.2:9"));
    let outcome = world.peer_says(at_bob, socket(PEER), b"data");
    assert_eq!(outcome.channel_data().0, 0x4001);
    let outcome = world.peer_says(at_alice, socket(PEER), b"data");
    assert_eq!(outcome.channel_data().0, 0x4000);
}

#[test]
fn a_peer_of_another_family_gets_443() {
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    client
        .bind(&mut world, 0x4000, socket("[2001:db8:5::1]:9"))
        .error(443);
    client.bind(&mut world, 0x4000, socket(PEER)).success();
}

#[test]
fn a_denied_peer_gets_403() {
    let mut world = World::with(|config| {
        let mut policy = crate::support::world::policy();
        policy.deny_ports = vec![53];
        config.policy = std::sync::Arc::new(policy);
    });
    let (mut client, _) = Client::allocated(&mut world, "alice");
    for denied in ["127.0.0.1:9", "[::ffff:127.0.0.1]:9", "198.51.100.1:53"] {
        client.bind(&mut world, 0x4000, socket(denied)).error(403);
    }
    assert!(
        !client.reaches(&mut world, socket(PEER)),
        "no permission of it, either"
    );
    assert_eq!(world.counters[0].denials.get(Denial::ChannelBind), 3);
}

#[test]
fn port_0_is_no_peer() {
    let mut world = World::new();
    let (mut client, relayed) = Client::allocated(&mut world, "alice");
    for ip in [[198, 51, 100, 1].into(), relayed.ip()] {
        let answer = client.bind(&mut world, 0x4000, SocketAddr::new(ip, 0));
        assert!(matches!(answer.code(), Some(400 | 403)), "{answer:?}");
    }
}

#[test]
fn more_channels_than_the_quota_get_508() {
    let mut world = World::with(|config| config.quotas.channels_per_allocation = 2);
    let (mut client, _) = Client::allocated(&mut world, "alice");
    let peer = |port| SocketAddr::new([198, 51, 100, 1].into(), port);
    client.bind(&mut world, 0x4000, peer(1)).success();
    client.bind(&mut world, 0x4001, peer(2)).success();
    client.bind(&mut world, 0x4002, peer(3)).error(508);
    assert_eq!(world.counters[0].quota_hits.get(QuotaHit::Channels), 1);
    // those that there are can be refreshed all the same
    client.bind(&mut world, 0x4001, peer(2)).success();
    // and what has expired takes no place
    client.refresh(&mut world, 3600).success();
    world.pass(Duration::from_secs(600));
    client.bind(&mut world, 0x4002, peer(3)).success();
}

#[test]
fn a_channel_bind_beyond_the_quota_of_permissions_gets_508() {
    let mut world = World::with(|config| config.quotas.permissions_per_allocation = 1);
    let (mut client, _) = Client::allocated(&mut world, "alice");
    client.permit(&mut world, socket("198.51.100.2:9"));
    client.bind(&mut world, 0x4000, socket(PEER)).error(508);
    client.send_on(&mut world, 0x4000, b"data").nothing();
    client
        .bind(&mut world, 0x4000, socket("198.51.100.2:9"))
        .success();
}

#[test]
fn a_channel_lasts_600_seconds_to_the_nanosecond() {
    let mut world = World::new();
    let (mut client, relayed) = bound(&mut world);
    client.refresh(&mut world, 3600).success();
    world.pass(Duration::from_secs(600).saturating_sub(Duration::from_nanos(1)));
    client.permit(&mut world, socket(PEER));
    let outcome = client.send_on(&mut world, 0x4000, b"data");
    assert_eq!(outcome.to_peer().payload, b"data");
    let outcome = world.peer_says(relayed, socket(PEER), b"data");
    assert_eq!(outcome.channel_data().0, 0x4000);
    world.pass(Duration::from_nanos(1));
    client.send_on(&mut world, 0x4000, b"data").nothing();
    let outcome = world.peer_says(relayed, socket(PEER), b"data");
    assert_eq!(
        outcome.stun().peer(),
        socket(PEER),
        "a Data indication from now on"
    );
}

#[test]
fn rebinding_refreshes_a_channel_and_its_permission() {
    let mut world = World::new();
    let (mut client, relayed) = bound(&mut world);
    client.refresh(&mut world, 3600).success();
    world.advance(Duration::from_secs(500));
    client.bind(&mut world, 0x4000, socket(PEER)).success();
    world.advance(Duration::from_secs(299));
    let outcome = world.peer_says(relayed, socket(PEER), b"data");
    assert_eq!(outcome.channel_data().0, 0x4000);
    world.advance(Duration::from_secs(1));
    world.peer_says(relayed, socket(PEER), b"data").silence();
    world.advance(Duration::from_secs(299));
    client.permit(&mut world, socket(PEER));
    let outcome = world.peer_says(relayed, socket(PEER), b"data");
    assert_eq!(outcome.channel_data().0, 0x4000);
    world.advance(Duration::from_secs(1));
    let outcome = world.peer_says(relayed, socket(PEER), b"data");
    assert_eq!(outcome.stun().peer(), socket(PEER));
}

#[test]
fn a_channel_relays_nothing_while_its_permission_has_expired() {
    // §9: the permission of a channel lasts 300 seconds as any does
    let mut world = World::new();
    let (mut client, relayed) = bound(&mut world);
    world.pass(Duration::from_secs(300));
    client.send_on(&mut world, 0x4000, b"data").nothing();
    world.peer_says(relayed, socket(PEER), b"data").silence();
    client.permit(&mut world, socket(PEER));
    let outcome = client.send_on(&mut world, 0x4000, b"data");
    assert_eq!(outcome.to_peer().payload, b"data");
    let outcome = world.peer_says(relayed, socket(PEER), b"data");
    assert_eq!(outcome.channel_data().0, 0x4000);
}

#[test]
fn channel_data_refresh_neither_the_channel_nor_the_permission() {
    let mut world = World::new();
    let (mut client, relayed) = bound(&mut world);
    client.refresh(&mut world, 3600).success();
    for second in 0..600 {
        if second == 299 {
            client.permit(&mut world, socket(PEER));
        }
        let outcome = client.send_on(&mut world, 0x4000, b"data");
        assert_eq!(
            outcome.to_peers.len(),
            usize::from(second < 599),
            "{second}"
        );
        world.peer_says(relayed, socket(PEER), b"data");
        world.pass(Duration::from_secs(1));
    }
}

#[test]
fn an_expired_channel_can_be_bound_anew() {
    let mut world = World::new();
    let (mut client, relayed) = bound(&mut world);
    client.refresh(&mut world, 3600).success();
    world.pass(Duration::from_secs(600));
    client
        .bind(&mut world, 0x4000, socket("198.51.100.2:9"))
        .success();
    client.bind(&mut world, 0x4001, socket(PEER)).success();
    let outcome = client.send_on(&mut world, 0x4000, b"data");
    assert_eq!(outcome.to_peer().peer, socket("198.51.100.2:9"));
    let outcome = world.peer_says(relayed, socket(PEER), b"data");
    assert_eq!(outcome.channel_data().0, 0x4001);
}

#[test]
fn channels_end_with_their_allocation() {
    let mut world = World::new();
    let (mut client, _) = bound(&mut world);
    client.refresh(&mut world, 0).success();
    client.send_on(&mut world, 0x4000, b"data").nothing();
    client.allocate(&mut world);
    client.send_on(&mut world, 0x4000, b"data").nothing();
    client
        .bind(&mut world, 0x4000, socket("198.51.100.2:9"))
        .success();
}

#[test]
fn channel_data_on_a_channel_that_is_not_bound_are_discarded() {
    let mut world = World::new();
    let (client, _) = bound(&mut world);
    for number in [0x4001, 0x4100, 0x4FFF] {
        client.send_on(&mut world, number, b"data").nothing();
    }
    assert_eq!(world.drops(DropReason::NoChannel), 3);
}

#[test]
fn a_datagram_that_is_shorter_than_it_claims_is_discarded() {
    let mut world = World::new();
    let (client, _) = bound(&mut world);
    let whole = channel_data(0x4000, b"12345678");
    for len in 0..whole.len() {
        client.put(&mut world, &whole[..len]).nothing();
    }
    let mut claims_most = whole;
    claims_most[2..4].copy_from_slice(&[0xFF, 0xFF]);
    client.put(&mut world, &claims_most).nothing();
}

#[test]
fn padding_of_a_datagram_is_not_relayed() {
    // §12.5: not required over UDP, but allowed
    let mut world = World::new();
    let (client, _) = bound(&mut world);
    for padding in 0..4 {
        let mut message = channel_data(0x4000, b"12345");
        message.resize(message.len() + padding, 0xEE);
        let outcome = client.put(&mut world, &message);
        assert_eq!(outcome.to_peer().payload, b"12345");
    }
}

#[test]
fn a_length_of_zero_is_an_empty_datagram() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let mut world = World::new();
        let (mut client, relayed) = Client::allocated_over(&mut world, "alice", transport);
        client.bind(&mut world, 0x4000, socket(PEER)).success();
        let outcome = client.send_on(&mut world, 0x4000, b"");
        assert_eq!(outcome.to_peer().payload, b"");
        let outcome = world.peer_says(relayed, socket(PEER), b"");
        assert_eq!(outcome.channel_data(), (0x4000, &b""[..]));
        assert_eq!(outcome.to_clients[0].len, 4);
    }
}

#[test]
fn every_length_is_relayed_as_it_is_and_padded_on_streams() {
    for rooms in [
        Rooms {
            head: HEADROOM,
            tail: TAILROOM,
        },
        Rooms { head: 0, tail: 0 },
        Rooms { head: 3, tail: 3 },
        Rooms { head: 4, tail: 0 },
    ] {
        for transport in [
            Transport::Udp,
            Transport::Tcp,
            Transport::Tls,
            Transport::Dtls,
        ] {
            let mut world = World::new();
            let (mut client, relayed) = Client::allocated_over(&mut world, "alice", transport);
            client.bind(&mut world, 0x4000, socket(PEER)).success();
            world.rooms = rooms;
            for len in (0..20).chain([160, 1199, 1200, 65_000]) {
                let data: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
                let outcome = client.send_on(&mut world, 0x4000, &data);
                assert_eq!(outcome.to_peer().payload, data);
                // that the message is padded on streams, with zeros, and not elsewhere, is asserted for every one
                let outcome = world.peer_says(relayed, socket(PEER), &data);
                assert_eq!(outcome.channel_data(), (0x4000, data.as_slice()));
            }
        }
    }
}

#[test]
fn the_longest_datagram_is_relayed_in_a_channel_and_a_longer_one_is_dropped() {
    // a datagram carries 65,507 bytes over IPv4, header of the channel included; a stream carries what the length can say
    let mut world = World::new();
    let (_, relayed) = bound(&mut world);
    let outcome = world.peer_says(relayed, socket(PEER), &vec![1; 65_503]);
    assert_eq!(outcome.channel_data().1.len(), 65_503);
    let outcome = world.peer_says(relayed, socket(PEER), &vec![1; 65_504]);
    outcome.silence();
    assert_eq!(world.drops(DropReason::TooLong), 1);
    let (mut client, relayed) = Client::allocated_over(&mut world, "alice", Transport::Tcp);
    client.bind(&mut world, 0x4000, socket(PEER)).success();
    let outcome = world.peer_says(relayed, socket(PEER), &vec![1; 65_507]);
    assert_eq!(outcome.channel_data().1.len(), 65_507);
}

#[test]
fn a_packet_that_stands_between_others_touches_none_of_them() {
    // a batch of datagrams may share one buffer: that nothing outside of a packet's rooms is written is asserted of every
    // packet of every test; here there is no room at all
    let mut world = World::new();
    let (client, relayed) = bound(&mut world);
    world.rooms = Rooms { head: 0, tail: 0 };
    let outcome = client.send_on(&mut world, 0x4000, b"out");
    assert_eq!(outcome.to_peer().payload, b"out");
    let outcome = world.peer_says(relayed, socket(PEER), b"in");
    assert_eq!(outcome.channel_data().1, b"in");
}
