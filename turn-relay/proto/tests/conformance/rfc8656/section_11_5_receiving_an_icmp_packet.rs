//! RFC 8656 §11.5 and §18.13: ICMP errors about datagrams that went to peers.

use std::time::Duration;

use turn_relay_proto::IcmpError;

use crate::support::{
    client::Client,
    stun::{DATA_METHOD, MessageClass, attribute},
    world::{World, policy, socket},
};

const PEER: &str = "198.51.100.1:9";

fn error(peer: &str, kind: u8, code: u8, data: u32) -> IcmpError {
    IcmpError {
        peer: socket(peer),
        kind,
        code,
        data,
    }
}

#[test]
fn an_icmp_error_becomes_a_data_indication_with_an_icmp_attribute() {
    let mut world = World::new();
    let (mut client, relayed) = Client::allocated(&mut world, "alice");
    client.permit(&mut world, socket(PEER));
    let outcome = world.icmp(relayed, error(PEER, 3, 3, 0));
    let message = outcome.stun();
    assert_eq!(message.class, MessageClass::Indication);
    assert_eq!(message.method, DATA_METHOD);
    assert_eq!(message.peer(), socket(PEER));
    assert!(!message.has(attribute::DATA));
    // two reserved bytes, type, code, and four bytes of data
    assert_eq!(
        message.value(attribute::ICMP),
        Some(&[0, 0, 3, 3, 0, 0, 0, 0][..])
    );
    assert_eq!(outcome.to_clients[0].client, client.five_tuple);
}

#[test]
fn types_of_the_right_family_alone_are_passed_on() {
    let mut world = World::new();
    let (mut client, v4, v6) = Client::dual(&mut world, "alice");
    let peers = [PEER, "[2001:db8:5::1]:9"];
    client
        .create_permissions(&mut world, &peers.map(socket))
        .success();
    for kind in 0..=u8::MAX {
        let outcome = world.icmp(v4, error(peers[0], kind, 1, 0));
        assert_eq!(
            !outcome.to_clients.is_empty(),
            [3, 11].contains(&kind),
            "type {kind}"
        );
        let outcome = world.icmp(v6, error(peers[1], kind, 0, 0));
        assert_eq!(
            !outcome.to_clients.is_empty(),
            [1, 2, 3].contains(&kind),
            "type {kind}"
        );
    }
}

#[test]
fn the_mtu_is_passed_on_and_other_data_are_not() {
    let mut world = World::new();
    let (mut client, v4, v6) = Client::dual(&mut world, "alice");
    let peers = [PEER, "[2001:db8:5::1]:9"];
    client
        .create_permissions(&mut world, &peers.map(socket))
        .success();
    let mtu = 1280_u32.to_be_bytes();
    for (relayed, peer, kind, code, data) in [
        (v4, peers[0], 3, 4, mtu),
        (v6, peers[1], 2, 0, mtu),
        (v4, peers[0], 3, 3, [0; 4]),
        (v4, peers[0], 11, 0, [0; 4]),
        (v6, peers[1], 1, 4, [0; 4]),
        (v6, peers[1], 3, 0, [0; 4]),
    ] {
        let outcome = world.icmp(relayed, error(peer, kind, code, 1280));
        let expected = [&[0, 0, kind, code][..], &data].concat();
        assert_eq!(
            outcome.stun().value(attribute::ICMP),
            Some(expected.as_slice())
        );
    }
}

#[test]
fn an_error_about_a_peer_without_permission_is_dropped() {
    let mut world = World::new();
    let (mut client, relayed) = Client::allocated(&mut world, "alice");
    client.permit(&mut world, socket(PEER));
    world
        .icmp(relayed, error("198.51.100.2:9", 3, 3, 0))
        .silence();
    world.pass(Duration::from_secs(300));
    world.icmp(relayed, error(PEER, 3, 3, 0)).silence();
}

#[test]
fn the_port_does_not_matter_for_the_permission_and_is_passed_on() {
    let mut world = World::new();
    let (mut client, relayed) = Client::allocated(&mut world, "alice");
    client.permit(&mut world, socket(PEER));
    for port in [1, 9, 65_535] {
        let mut peer = socket(PEER);
        peer.set_port(port);
        let outcome = world.icmp(relayed, error(&peer.to_string(), 3, 3, 0));
        assert_eq!(outcome.stun().peer(), peer);
    }
}

#[test]
fn a_channel_makes_no_difference() {
    // ChannelData has no place for it, §12.7
    let mut world = World::new();
    let (mut client, relayed) = Client::allocated(&mut world, "alice");
    client.bind(&mut world, 0x4000, socket(PEER)).success();
    let outcome = world.icmp(relayed, error(PEER, 3, 3, 0));
    assert_eq!(outcome.stun().peer(), socket(PEER));
}

#[test]
fn an_error_about_a_denied_peer_is_dropped() {
    let mut world = World::new();
    let (mut client, relayed) = Client::allocated(&mut world, "alice");
    client.permit(&mut world, socket(PEER));
    world.reconfigure(|config| {
        let mut policy = policy();
        policy.allow.clear();
        config.policy = std::sync::Arc::new(policy);
    });
    world.icmp(relayed, error(PEER, 3, 3, 0)).silence();
}

#[test]
fn an_error_after_the_allocation_ended_is_dropped() {
    let mut world = World::new();
    let (mut client, relayed) = Client::allocated(&mut world, "alice");
    world.advance(Duration::from_secs(500));
    client.permit(&mut world, socket(PEER));
    world.pass(Duration::from_secs(100));
    world.icmp(relayed, error(PEER, 3, 3, 0)).silence();
}

#[test]
fn an_error_about_an_address_of_the_other_family_is_dropped() {
    let mut world = World::new();
    let (mut client, v4, v6) = Client::dual(&mut world, "alice");
    let peers = [PEER, "[2001:db8:5::1]:9"];
    client.permit(&mut world, socket(peers[0]));
    world.icmp(v6, error(peers[1], 1, 0, 0)).silence();
    world.icmp(v4, error(peers[1], 1, 0, 0)).silence();
}
