//! RFC 8656 §9: permissions.

use std::time::Duration;

use turn_relay_proto::counters::DropReason;

use crate::support::{
    client::Client,
    world::{World, socket},
};

#[test]
fn without_a_permission_nothing_is_relayed_either_way() {
    let mut world = World::new();
    let (client, relayed) = Client::allocated(&mut world, "alice");
    let peer = socket("198.51.100.1:9");
    client.send(&mut world, peer, b"data").nothing();
    world.peer_says(relayed, peer, b"data").nothing();
    assert_eq!(world.drops(DropReason::NoPermission), 2);
}

#[test]
fn a_permission_is_for_an_address_whatever_the_port() {
    let mut world = World::new();
    let (mut client, relayed) = Client::allocated(&mut world, "alice");
    client.permit(&mut world, socket("198.51.100.1:9"));
    for port in [1, 9, 10, 80, 443, 65_535] {
        let mut peer = socket("198.51.100.1:9");
        peer.set_port(port);
        assert!(client.reaches(&mut world, peer));
        assert!(client.hears(&mut world, relayed, peer).is_some());
    }
    for other in ["198.51.100.0:9", "198.51.100.2:9", "198.51.100.129:9"] {
        assert!(!client.reaches(&mut world, socket(other)));
        assert!(client.hears(&mut world, relayed, socket(other)).is_none());
    }
}

#[test]
fn a_permission_of_ipv6_is_for_one_address() {
    let mut world = World::new();
    let (mut client, _, relayed) = Client::dual(&mut world, "alice");
    client.permit(&mut world, socket("[2001:db8:5::1]:9"));
    assert!(
        client
            .hears(&mut world, relayed, socket("[2001:db8:5::1]:99"))
            .is_some()
    );
    assert!(
        client
            .hears(&mut world, relayed, socket("[2001:db8:5::2]:9"))
            .is_none()
    );
    assert!(!client.reaches(&mut world, socket("[2001:db8:5:1::1]:9")));
}

#[test]
fn a_permission_lasts_300_seconds_to_the_nanosecond() {
    let mut world = World::new();
    let (mut client, relayed) = Client::allocated(&mut world, "alice");
    let peer = socket("198.51.100.1:9");
    client.permit(&mut world, peer);
    world.pass(Duration::from_secs(300).saturating_sub(Duration::from_nanos(1)));
    assert!(client.reaches(&mut world, peer));
    assert!(client.hears(&mut world, relayed, peer).is_some());
    world.pass(Duration::from_nanos(1));
    assert!(!client.reaches(&mut world, peer));
    assert!(client.hears(&mut world, relayed, peer).is_none());
}

#[test]
fn a_permission_ends_at_the_same_time_if_the_server_is_told_of_time() {
    let mut world = World::new();
    let (mut client, relayed) = Client::allocated(&mut world, "alice");
    let peer = socket("198.51.100.1:9");
    client.permit(&mut world, peer);
    for _ in 0..299 {
        world.advance(Duration::from_secs(1));
        assert!(client.hears(&mut world, relayed, peer).is_some());
    }
    world.advance(Duration::from_secs(1));
    assert!(client.hears(&mut world, relayed, peer).is_none());
}

#[test]
fn data_do_not_refresh_a_permission() {
    let mut world = World::new();
    let (mut client, relayed) = Client::allocated(&mut world, "alice");
    let peer = socket("198.51.100.1:9");
    client.permit(&mut world, peer);
    for _ in 0..30 {
        assert!(client.reaches(&mut world, peer));
        assert!(client.hears(&mut world, relayed, peer).is_some());
        world.pass(Duration::from_secs(10));
    }
    assert!(!client.reaches(&mut world, peer));
    assert!(client.hears(&mut world, relayed, peer).is_none());
}

#[test]
fn create_permission_refreshes_a_permission() {
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    let peer = socket("198.51.100.1:9");
    client.permit(&mut world, peer);
    world.advance(Duration::from_secs(200));
    client.permit(&mut world, socket("198.51.100.1:4711"));
    world.advance(Duration::from_secs(299));
    assert!(client.reaches(&mut world, peer));
    world.advance(Duration::from_secs(1));
    assert!(!client.reaches(&mut world, peer));
}

#[test]
fn channel_bind_refreshes_a_permission() {
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    let peer = socket("198.51.100.1:9");
    client.permit(&mut world, peer);
    world.advance(Duration::from_secs(200));
    client.bind(&mut world, 0x4000, peer).success();
    world.advance(Duration::from_secs(299));
    assert!(client.reaches(&mut world, peer));
    world.advance(Duration::from_secs(1));
    assert!(!client.reaches(&mut world, peer));
}

#[test]
fn permissions_of_one_allocation_are_none_of_another() {
    let mut world = World::new();
    let (mut alice, at_alice) = Client::allocated(&mut world, "alice");
    let (bob, at_bob) = Client::allocated(&mut world, "alice");
    let peer = socket("198.51.100.1:9");
    alice.permit(&mut world, peer);
    assert!(alice.hears(&mut world, at_alice, peer).is_some());
    assert!(bob.hears(&mut world, at_bob, peer).is_none());
    assert!(!bob.reaches(&mut world, peer));
}

#[test]
fn permissions_end_with_their_allocation() {
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    let peer = socket("198.51.100.1:9");
    world.advance(Duration::from_secs(590));
    client.permit(&mut world, peer);
    world.advance(Duration::from_secs(10));
    let relayed = client.allocate(&mut world);
    assert!(!client.reaches(&mut world, peer));
    assert!(client.hears(&mut world, relayed, peer).is_none());
}

#[test]
fn a_permission_may_be_given_again_after_it_ended() {
    let mut world = World::new();
    let (mut client, relayed) = Client::allocated(&mut world, "alice");
    let peer = socket("198.51.100.1:9");
    for _ in 0..4 {
        client.permit(&mut world, peer);
        assert!(client.hears(&mut world, relayed, peer).is_some());
        client.refresh(&mut world, 3600).success();
        world.advance(Duration::from_secs(301));
        assert!(client.hears(&mut world, relayed, peer).is_none());
    }
}
