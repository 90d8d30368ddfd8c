//! RFC 8656 §10.2: CreatePermission.

use std::net::SocketAddr;

use turn_relay_proto::counters::{Denial, QuotaHit};

use crate::support::{
    client::Client,
    stun::{CREATE_PERMISSION, Draft, attribute},
    world::{World, socket},
};

#[test]
fn a_request_without_a_peer_address_gets_400() {
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    client.create_permissions(&mut world, &[]).error(400);
}

#[test]
fn a_request_with_a_malformed_peer_address_gets_400_and_permits_nothing() {
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    let peer = socket("198.51.100.1:9");
    for value in [
        &[][..],
        &[0, 1, 0, 0],
        &[0, 1, 0x21, 0x12, 1, 2, 3],
        &[0, 1, 0x21, 0x12, 1, 2, 3, 4, 5],
        &[0, 2, 0x21, 0x12, 1, 2, 3, 4],
        &[0, 3, 0x21, 0x12, 1, 2, 3, 4],
        &[0, 0, 0x21, 0x12, 1, 2, 3, 4],
    ] {
        let only = Draft::request(CREATE_PERMISSION).with(attribute::XOR_PEER_ADDRESS, value);
        client.call(&mut world, only.clone()).error(400);
        client.call(&mut world, only.peer(peer)).error(400);
        let last = Draft::request(CREATE_PERMISSION).peer(peer);
        let last = last.with(attribute::XOR_PEER_ADDRESS, value);
        client.call(&mut world, last).error(400);
        assert!(!client.reaches(&mut world, peer));
    }
}

#[test]
fn one_request_may_name_several_peers() {
    let mut world = World::new();
    let (mut client, relayed) = Client::allocated(&mut world, "alice");
    let peers: Vec<SocketAddr> = (1..=20)
        .map(|host| socket(&format!("198.51.100.{host}:9")))
        .collect();
    client.create_permissions(&mut world, &peers).success();
    for peer in peers {
        assert!(client.reaches(&mut world, peer));
        assert!(client.hears(&mut world, relayed, peer).is_some());
    }
}

#[test]
fn the_port_does_not_matter() {
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    client.permit(&mut world, socket("198.51.100.1:0"));
    assert!(client.reaches(&mut world, socket("198.51.100.1:9")));
}

#[test]
fn one_address_twice_is_one_permission() {
    let mut world = World::with(|config| config.quotas.permissions_per_allocation = 2);
    let (mut client, _) = Client::allocated(&mut world, "alice");
    let peers = ["198.51.100.1:1", "198.51.100.1:2", "198.51.100.1:3"].map(socket);
    client.create_permissions(&mut world, &peers).success();
    client.permit(&mut world, socket("198.51.100.2:1"));
}

#[test]
fn a_success_has_no_attributes_but_its_integrity() {
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    let answer = client.create_permissions(&mut world, &[socket("198.51.100.1:9")]);
    let answer = answer.success();
    assert_eq!(answer.attributes.len(), 1, "{answer:?}");
}

#[test]
fn a_peer_of_another_family_gets_443_and_nobody_a_permission() {
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    let (v4, v6) = (socket("198.51.100.1:9"), socket("[2001:db8:5::1]:9"));
    client.create_permissions(&mut world, &[v6]).error(443);
    client.create_permissions(&mut world, &[v4, v6]).error(443);
    assert!(!client.reaches(&mut world, v4));

    let mut client = Client::new(&mut world, "alice");
    client
        .call(&mut world, Draft::allocate().family(2))
        .success();
    client.create_permissions(&mut world, &[v4]).error(443);
    client.permit(&mut world, v6);
}

#[test]
fn a_denied_peer_gets_403_and_nobody_a_permission() {
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    let (allowed, denied) = (socket("198.51.100.1:9"), socket("10.0.0.1:9"));
    for peers in [&[denied][..], &[denied, allowed], &[allowed, denied]] {
        client.create_permissions(&mut world, peers).error(403);
        assert!(!client.reaches(&mut world, allowed));
        assert!(!client.reaches(&mut world, denied));
    }
    assert_eq!(world.counters[0].denials.get(Denial::CreatePermission), 3);
}

#[test]
fn a_refused_request_takes_no_time_from_permissions_that_there_are() {
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    let (allowed, denied) = (socket("198.51.100.1:9"), socket("10.0.0.1:9"));
    client.permit(&mut world, allowed);
    world.advance(std::time::Duration::from_secs(100));
    client
        .create_permissions(&mut world, &[allowed, denied])
        .error(403);
    world.advance(std::time::Duration::from_secs(199));
    assert!(client.reaches(&mut world, allowed));
    world.advance(std::time::Duration::from_secs(1));
    assert!(!client.reaches(&mut world, allowed), "and gives them none");
}

#[test]
fn more_permissions_than_the_quota_get_508() {
    let mut world = World::with(|config| config.quotas.permissions_per_allocation = 3);
    let (mut client, _) = Client::allocated(&mut world, "alice");
    let peer = |host: u8| SocketAddr::new([198, 51, 100, host].into(), 9);
    let four = [1, 2, 3, 4].map(peer);
    client.create_permissions(&mut world, &four).error(508);
    for peer in four {
        assert!(!client.reaches(&mut world, peer), "all or nothing");
    }
    client.create_permissions(&mut world, &four[..3]).success();
    client.create_permissions(&mut world, &four[3..]).error(508);
    // those that there are can be refreshed all the same
    client.create_permissions(&mut world, &four[..3]).success();
    assert_eq!(world.counters[0].quota_hits.get(QuotaHit::Permissions), 2);
    // and what has expired takes no place
    client.refresh(&mut world, 3600).success();
    world.pass(std::time::Duration::from_secs(300));
    client.create_permissions(&mut world, &four[1..]).success();
}

#[test]
fn an_ipv4_mapped_address_is_the_ipv4_address() {
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    client
        .create_permissions(&mut world, &[socket("[::ffff:10.0.0.1]:9")])
        .error(403);
    client.permit(&mut world, socket("[::ffff:198.51.100.1]:9"));
    assert!(client.reaches(&mut world, socket("198.51.100.1:9")));
}
