//! RFC 8656 §8.2: Refresh.

use std::time::Duration;

use turn_relay_proto::address::Transport;

use crate::support::{
    client::Client,
    stun::{Draft, REFRESH, attribute},
    world::{World, socket},
};

#[test]
fn a_refresh_sets_the_lifetime_as_an_allocate_does() {
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    for (requested, given) in [
        (1, 600),
        (600, 600),
        (601, 601),
        (3600, 3600),
        (u32::MAX, 3600),
    ] {
        let answer = client.refresh(&mut world, requested).success();
        assert_eq!(answer.lifetime(), given);
    }
    let answer = client.call(&mut world, Draft::request(REFRESH)).success();
    assert_eq!(answer.lifetime(), 600, "without LIFETIME it is the default");
}

#[test]
fn a_refresh_may_make_a_life_shorter() {
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice");
    client
        .call(&mut world, Draft::allocate().lifetime(3600))
        .success();
    client.refresh(&mut world, 600).success();
    world.advance(Duration::from_secs(600));
    assert_eq!(world.allocations(), 0);
}

#[test]
fn a_refreshed_allocation_lives_on_from_the_refresh() {
    let mut world = World::new();
    let (mut client, relayed) = Client::allocated(&mut world, "alice");
    for _ in 0..20 {
        world.advance(Duration::from_secs(599));
        assert_eq!(world.allocations(), 1);
        let answer = client.refresh(&mut world, 600);
        if answer.code() == Some(438) {
            client.remember(&answer);
            client.refresh(&mut world, 600).success();
        }
    }
    assert!(world.relay(relayed).is_some());
    world.advance(Duration::from_millis(599_999));
    assert_eq!(world.allocations(), 1);
    world.advance(Duration::from_millis(1));
    assert_eq!(world.allocations(), 0);
}

#[test]
fn data_do_not_refresh_an_allocation() {
    // §6: only Refresh does
    let mut world = World::new();
    let (mut client, relayed) = Client::allocated(&mut world, "alice");
    let peer = socket("198.51.100.1:9");
    for _ in 0..6 {
        client.permit(&mut world, peer);
        client.bind(&mut world, 0x4000, peer).success();
        assert!(client.reaches(&mut world, peer));
        assert!(client.hears(&mut world, relayed, peer).is_some());
        world.advance(Duration::from_secs(100));
    }
    assert_eq!(world.allocations(), 0);
}

#[test]
fn a_lifetime_of_zero_deletes_at_once() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let mut world = World::new();
        let (mut client, relayed) = Client::allocated_over(&mut world, "alice", transport);
        let peer = socket("198.51.100.1:9");
        client.permit(&mut world, peer);
        let request = Draft::request(REFRESH).lifetime(0);
        let (answer, outcome) = client.call_with_outcome(&mut world, request);
        assert_eq!(answer.success().lifetime(), 0);
        assert_eq!(outcome.closed.len(), 1);
        assert_eq!(outcome.closed[0].advertised, relayed);
        assert_eq!(world.allocations(), 0);
        client.send(&mut world, peer, b"late").nothing();
        client.refresh(&mut world, 600).error(437);
        // and the 5-tuple is free
        client.allocate(&mut world);
        assert!(
            !client.reaches(&mut world, peer),
            "permissions are new, too"
        );
    }
}

#[test]
fn a_requested_family_that_the_allocation_does_not_have_gets_443() {
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    for request in [
        Draft::request(REFRESH).family(2),
        Draft::request(REFRESH).family(2).lifetime(0),
    ] {
        client.call(&mut world, request).error(443);
    }
    assert_eq!(world.allocations(), 1);
    client
        .call(&mut world, Draft::request(REFRESH).family(1))
        .success();

    let mut client = Client::new(&mut world, "alice");
    client
        .call(&mut world, Draft::allocate().family(2))
        .success();
    client
        .call(&mut world, Draft::request(REFRESH).family(1))
        .error(443);
    client
        .call(&mut world, Draft::request(REFRESH).family(2))
        .success();
}

#[test]
fn one_family_of_a_dual_allocation_can_be_deleted_alone() {
    // §8.1: REQUESTED-ADDRESS-FAMILY says which relayed address a Refresh is about
    for (deleted, kept) in [(1_u8, 2_u8), (2, 1)] {
        let mut world = World::new();
        let (mut client, v4, v6) = Client::dual(&mut world, "alice");
        let peers = [socket("198.51.100.1:9"), socket("[2001:db8:5::1]:9")];
        client.create_permissions(&mut world, &peers).success();
        let request = Draft::request(REFRESH).family(deleted).lifetime(0);
        let (answer, outcome) = client.call_with_outcome(&mut world, request);
        assert_eq!(answer.success().lifetime(), 0);
        let gone = if deleted == 1 { v4 } else { v6 };
        assert_eq!(outcome.closed.len(), 1);
        assert_eq!(outcome.closed[0].advertised, gone);
        assert_eq!(world.allocations(), 1);
        assert!(!client.reaches(&mut world, peers[usize::from(deleted) - 1]));
        assert!(client.reaches(&mut world, peers[usize::from(kept) - 1]));
        // what is left is an allocation of one family
        client
            .call(&mut world, Draft::request(REFRESH).family(deleted))
            .error(443);
        client
            .call(&mut world, Draft::request(REFRESH).family(kept))
            .success();
        let denied = &peers[usize::from(deleted) - 1..usize::from(deleted)];
        client.create_permissions(&mut world, denied).error(443);
        client.refresh(&mut world, 0).success();
        assert_eq!(world.allocations(), 0);
        assert_eq!(world.open_sockets().count(), 0);
    }
}

#[test]
fn a_dual_allocation_is_refreshed_as_a_whole() {
    let mut world = World::new();
    let (mut client, ..) = Client::dual(&mut world, "alice");
    world.advance(Duration::from_secs(500));
    client.refresh(&mut world, 600).success();
    world.advance(Duration::from_secs(500));
    assert_eq!(world.open_sockets().count(), 2);
    client.refresh(&mut world, 0).success();
    assert_eq!(world.open_sockets().count(), 0);
}

#[test]
fn a_malformed_lifetime_does_not_delete() {
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    for value in [&[][..], &[0], &[0; 3], &[0; 5], &[0; 8]] {
        let request = Draft::request(REFRESH).with(attribute::LIFETIME, value);
        let (answer, outcome) = client.call_with_outcome(&mut world, request);
        assert!(outcome.closed.is_empty());
        if answer.code() != Some(400) {
            assert!(answer.success().lifetime() >= 600);
        }
    }
    assert_eq!(world.allocations(), 1);
}

#[test]
fn a_malformed_family_in_a_refresh_gets_an_error() {
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    for value in [
        &[][..],
        &[1],
        &[0, 0, 0, 0],
        &[3, 0, 0, 0],
        &[1, 0, 0, 0, 0],
    ] {
        let request = Draft::request(REFRESH)
            .with(attribute::REQUESTED_ADDRESS_FAMILY, value)
            .lifetime(0);
        let answer = client.call(&mut world, request);
        assert!(matches!(answer.code(), Some(400 | 440 | 443)), "{answer:?}");
    }
    assert_eq!(world.allocations(), 1);
}

#[test]
fn permissions_live_on_over_a_refresh_as_long_as_they_would() {
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    let peer = socket("198.51.100.1:9");
    client.permit(&mut world, peer);
    world.advance(Duration::from_secs(200));
    client.refresh(&mut world, 600).success();
    assert!(client.reaches(&mut world, peer));
    world.advance(Duration::from_secs(100));
    assert!(
        !client.reaches(&mut world, peer),
        "a Refresh is no CreatePermission"
    );
}

#[test]
fn each_relayed_address_of_a_dual_allocation_has_its_own_time() {
    // §6 and §8.1: a Refresh with a family is about the relayed address of that family alone
    for (refreshed, forgotten) in [(1, 2), (2, 1)] {
        let mut world = World::new();
        let (mut client, v4, v6) = Client::dual(&mut world, "alice");
        world.advance(Duration::from_secs(300));
        let request = Draft::request(REFRESH).family(refreshed).lifetime(600);
        client.call(&mut world, request).success();
        world.advance(Duration::from_secs(300));
        let (kept, gone) = if refreshed == 1 { (v4, v6) } else { (v6, v4) };
        assert!(world.relay(kept).is_some());
        assert!(world.relay(gone).is_none());
        let request = Draft::request(REFRESH).family(forgotten);
        client.call(&mut world, request).error(443);
        world.advance(Duration::from_secs(300));
        assert_eq!(world.allocations(), 0);
    }
}

#[test]
fn permissions_and_channels_of_the_other_family_stay_when_one_is_deleted() {
    // §8.1: it MUST NOT affect them
    let mut world = World::new();
    let (mut client, _, v6) = Client::dual(&mut world, "alice");
    let peers = [socket("198.51.100.1:9"), socket("[2001:db8:5::1]:9")];
    client.bind(&mut world, 0x4000, peers[0]).success();
    client.bind(&mut world, 0x4001, peers[1]).success();
    client
        .call(&mut world, Draft::request(REFRESH).family(1).lifetime(0))
        .success();
    client.send_on(&mut world, 0x4000, b"data").nothing();
    assert_eq!(
        client.send_on(&mut world, 0x4001, b"data").to_peer().from,
        v6
    );
    let outcome = world.peer_says(v6, peers[1], b"data");
    assert_eq!(outcome.channel_data().0, 0x4001);
}

#[test]
fn a_relayed_address_that_has_expired_is_not_brought_back() {
    // also if the server was not told of the time yet
    for family in [None, Some(2)] {
        let mut world = World::new();
        let (mut client, v4, v6) = Client::dual(&mut world, "alice");
        world.pass(Duration::from_secs(300));
        let request = Draft::request(REFRESH).family(1).lifetime(600);
        client.call(&mut world, request).success();
        world.pass(Duration::from_secs(300));
        let request = Draft::request(REFRESH).lifetime(600);
        match family {
            Some(family) => client.call(&mut world, request.family(family)).error(443),
            None => client.call(&mut world, request).success(),
        };
        world.tick();
        assert!(world.relay(v4).is_some());
        assert!(world.relay(v6).is_none());
    }
}
