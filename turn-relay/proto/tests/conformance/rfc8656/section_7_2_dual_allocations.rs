//! RFC 8656 §7.2, check 9: ADDITIONAL-ADDRESS-FAMILY and ADDRESS-ERROR-CODE.

use std::{collections::HashSet, time::Duration};

use turn_relay_proto::RelayFailure;

use crate::support::{
    client::Client,
    stun::{Draft, attribute},
    world::{RELAY_V4, RELAY_V6, World, config, socket},
};

/// ADDRESS-ERROR-CODE's family and code.
fn address_error(answer: &crate::support::stun::Decoded) -> (u8, u16) {
    let value = answer.value(attribute::ADDRESS_ERROR_CODE).unwrap();
    let code = u16::from(value[2] & 7) * 100 + u16::from(value[3]);
    (value[0], code)
}

#[test]
fn a_dual_allocation_has_two_relayed_addresses() {
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice");
    client.challenge(&mut world);
    let request = Draft::allocate().additional_family(2);
    let (answer, outcome) = client.call_with_outcome(&mut world, request);
    let answer = answer.success();
    let relayed: HashSet<_> = answer.relayed().into_iter().collect();
    assert_eq!(relayed.len(), 2);
    let opened: HashSet<_> = outcome
        .opened
        .iter()
        .map(|socket| socket.advertised)
        .collect();
    assert_eq!(relayed, opened);
    let addresses: HashSet<_> = relayed
        .iter()
        .map(|address| address.ip().to_string())
        .collect();
    assert_eq!(addresses, [RELAY_V4.to_owned(), RELAY_V6.to_owned()].into());
    assert!(!answer.has(attribute::ADDRESS_ERROR_CODE));
    assert_eq!(world.allocations(), 1, "it is one allocation");
}

#[test]
fn check_9_an_additional_family_of_ipv4_gets_400() {
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice");
    client
        .call(&mut world, Draft::allocate().additional_family(1))
        .error(400);
}

#[test]
fn check_9_an_additional_family_that_does_not_exist_is_refused() {
    let mut world = World::new();
    for family in [0, 3, 255] {
        let mut client = Client::new(&mut world, "alice");
        let answer = client.call(&mut world, Draft::allocate().additional_family(family));
        assert!(matches!(answer.code(), Some(400 | 440)), "{answer:?}");
    }
}

#[test]
fn a_family_without_a_relay_address_is_named_with_440_in_a_success() {
    let mut world = World::with(|config| config.relay_addresses.truncate(1));
    let mut client = Client::new(&mut world, "alice");
    let answer = client
        .call(&mut world, Draft::allocate().additional_family(2))
        .success();
    assert_eq!(answer.relayed().len(), 1);
    assert!(answer.relayed()[0].is_ipv4());
    assert_eq!(address_error(&answer), (2, 440));

    let mut world = World::with(|config| {
        config.relay_addresses.remove(0);
    });
    let mut client = Client::new(&mut world, "alice");
    let answer = client
        .call(&mut world, Draft::allocate().additional_family(2))
        .success();
    assert_eq!(answer.relayed().len(), 1);
    assert!(answer.relayed()[0].is_ipv6());
    assert_eq!(address_error(&answer), (1, 440));
}

#[test]
fn a_family_without_free_ports_is_named_with_508_in_a_success() {
    for (used_up, left, number) in [(1, 2, 1), (2, 1, 2)] {
        let mut world = World::of(1, config(), 50_000..=50_000, 1);
        let mut first = Client::new(&mut world, "alice");
        first
            .call(&mut world, Draft::allocate().family(used_up))
            .success();
        let mut client = Client::new(&mut world, "bob");
        let request = Draft::allocate().additional_family(2);
        let answer = client.call(&mut world, request).success();
        assert_eq!(answer.relayed().len(), 1);
        assert_eq!(answer.relayed()[0].is_ipv6(), left == 2);
        assert_eq!(address_error(&answer), (number, 508));
    }
}

#[test]
fn a_family_whose_socket_cannot_be_opened_is_named_with_508_in_a_success() {
    for failures in [
        [Some(RelayFailure::Other), None],
        [None, Some(RelayFailure::Other)],
    ] {
        let mut world = World::new();
        world.failures = failures.into();
        let mut client = Client::new(&mut world, "alice");
        let request = Draft::allocate().additional_family(2);
        let answer = client.call(&mut world, request).success();
        assert_eq!(answer.relayed().len(), 1);
        let (family, code) = address_error(&answer);
        assert_eq!(code, 508);
        assert_eq!(family == 2, answer.relayed()[0].is_ipv4());
        assert_eq!(world.open_sockets().count(), 1);
        client.refresh(&mut world, 0).success();
        assert_eq!(world.open_sockets().count(), 0);
    }
}

#[test]
fn without_any_family_there_is_508() {
    let mut world = World::new();
    world.failures = [Some(RelayFailure::Other), Some(RelayFailure::Other)].into();
    let mut client = Client::new(&mut world, "alice");
    let request = Draft::allocate().additional_family(2);
    client.call(&mut world, request).error(508);
    assert_eq!(world.allocations(), 0);
    assert_eq!(world.open_sockets().count(), 0);

    let mut world = World::of(1, config(), 50_000..=50_000, 1);
    Client::dual(&mut world, "alice");
    let mut client = Client::new(&mut world, "alice");
    let request = Draft::allocate().additional_family(2);
    client.call(&mut world, request).error(508);
    assert_eq!(world.allocations(), 1);
}

#[test]
fn a_family_without_free_ports_and_one_without_a_relay_address_are_a_lack_of_capacity() {
    for left in [0, 1] {
        let mut config = config();
        config.relay_addresses.remove(1 - left);
        let mut world = World::of(1, config, 50_000..=50_000, 1);
        let mut first = Client::new(&mut world, "alice");
        let family = if left == 0 { 1 } else { 2 };
        first
            .call(&mut world, Draft::allocate().family(family))
            .success();
        let mut client = Client::new(&mut world, "alice");
        let request = Draft::allocate().additional_family(2);
        client.call(&mut world, request).error(508);
    }
}

#[test]
fn each_family_of_a_dual_allocation_relays() {
    let mut world = World::new();
    let (mut client, v4, v6) = Client::dual(&mut world, "alice");
    let peers = [socket("198.51.100.1:9"), socket("[2001:db8:5::1]:9")];
    client.create_permissions(&mut world, &peers).success();
    for (relayed, peer) in [v4, v6].into_iter().zip(peers) {
        let outcome = client.send(&mut world, peer, b"out");
        assert_eq!(outcome.to_peer().from, relayed);
        let outcome = world.peer_says(relayed, peer, b"in");
        assert_eq!(outcome.stun().peer(), peer);
        assert_eq!(outcome.stun().data(), b"in");
    }
    client.bind(&mut world, 0x4000, peers[0]).success();
    client.bind(&mut world, 0x4001, peers[1]).success();
    for (channel, relayed, peer) in [(0x4000, v4, peers[0]), (0x4001, v6, peers[1])] {
        let outcome = client.send_on(&mut world, channel, b"out");
        assert_eq!(
            (outcome.to_peer().from, outcome.to_peer().peer),
            (relayed, peer)
        );
        let outcome = world.peer_says(relayed, peer, b"in");
        assert_eq!(outcome.channel_data(), (channel, &b"in"[..]));
    }
}

#[test]
fn a_packet_to_one_family_from_a_peer_of_the_other_is_not_relayed() {
    // nothing of the kind comes from a network; were it to, no permission fits it
    let mut world = World::new();
    let (mut client, v4, v6) = Client::dual(&mut world, "alice");
    let peers = [socket("198.51.100.1:9"), socket("[2001:db8:5::1]:9")];
    client.permit(&mut world, peers[0]);
    world.peer_says(v4, peers[1], b"in").silence();
    world.peer_says(v6, peers[1], b"in").silence();
}

#[test]
fn both_relayed_addresses_end_together() {
    let mut world = World::new();
    let (mut client, ..) = Client::dual(&mut world, "alice");
    let (answer, outcome) = client.call_with_outcome(
        &mut world,
        Draft::request(crate::support::stun::REFRESH).lifetime(0),
    );
    answer.success();
    assert_eq!(outcome.closed.len(), 2);
    Client::dual(&mut world, "alice");
    let outcome = world.advance(Duration::from_secs(600));
    assert_eq!(outcome.closed.len(), 2);
    assert_eq!(world.allocations(), 0);
}
