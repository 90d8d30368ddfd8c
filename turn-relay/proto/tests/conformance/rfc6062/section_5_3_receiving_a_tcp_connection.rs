//! RFC 6062 §5.3: a peer connects to a relayed transport address.

use std::{collections::HashSet, net::SocketAddr, time::Duration};

use turn_relay_proto::address::{ConnectionId, Family, Transport};

use super::{allocated, world};
use crate::support::{
    client::Client,
    stun::{CONNECTION_ATTEMPT, CONNECTION_BIND, Draft, MessageClass, attribute},
    world::socket,
};

const PEER: &str = "198.51.100.1:40000";

#[test]
fn with_a_permission_the_client_is_told() {
    let mut world = world();
    let (mut client, relayed) = allocated(&mut world);
    client.permit(&mut world, socket(PEER));
    let (connection, outcome) = world.peer_accepted(relayed, socket(PEER));
    let ConnectionId(id) = connection.expect("it is named");
    let message = outcome.stun();
    assert_eq!(message.class, MessageClass::Indication);
    assert_eq!(message.method, CONNECTION_ATTEMPT);
    assert_eq!(message.peer(), socket(PEER));
    assert_eq!(
        message.value(attribute::CONNECTION_ID),
        Some(&id.to_be_bytes()[..])
    );
    assert_eq!(outcome.to_clients[0].client, client.five_tuple);
}

#[test]
fn without_a_permission_the_connection_is_closed_and_nobody_told() {
    let mut world = world();
    let (mut client, relayed) = allocated(&mut world);
    let (connection, outcome) = world.peer_accepted(relayed, socket(PEER));
    assert_eq!(connection, None);
    outcome.silence();
    client.permit(&mut world, socket(PEER));
    world.pass(Duration::from_secs(300));
    let (connection, outcome) = world.peer_accepted(relayed, socket(PEER));
    assert_eq!(connection, None, "the permission has expired");
    outcome.silence();
}

#[test]
fn a_peer_that_is_denied_by_now_is_closed() {
    let mut world = world();
    let (mut client, relayed) = allocated(&mut world);
    client.permit(&mut world, socket(PEER));
    world.reconfigure(|config| {
        let mut policy = crate::support::world::policy();
        policy.allow.clear();
        config.policy = std::sync::Arc::new(policy);
    });
    let (connection, outcome) = world.peer_accepted(relayed, socket(PEER));
    assert_eq!(connection, None);
    outcome.silence();
}

#[test]
fn connection_ids_cannot_be_guessed() {
    let mut world = world();
    let (mut client, relayed) = allocated(&mut world);
    client.permit(&mut world, socket(PEER));
    let ids: Vec<u32> = (0..8)
        .map(|port| {
            let mut peer = socket(PEER);
            peer.set_port(40_000 + port);
            let (connection, _) = world.peer_accepted(relayed, peer);
            connection.unwrap().0
        })
        .collect();
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
    let near = ids
        .windows(2)
        .filter(|pair| pair[0].abs_diff(pair[1]) < 0x10000)
        .count();
    assert!(near <= 1, "{ids:x?}");
}

#[test]
fn a_connection_that_nobody_binds_within_30_seconds_is_closed() {
    let mut world = world();
    let (mut client, relayed) = allocated(&mut world);
    client.permit(&mut world, socket(PEER));
    let (connection, _) = world.peer_accepted(relayed, socket(PEER));
    let outcome = world.advance(Duration::from_millis(29_999));
    assert!(outcome.closed_connections.is_empty());
    let outcome = world.advance(Duration::from_secs(2));
    assert_eq!(outcome.closed_connections, [connection.unwrap()]);
}

#[test]
fn connections_that_wait_are_bounded() {
    let mut world = world();
    let (mut client, relayed) = allocated(&mut world);
    client.permit(&mut world, socket(PEER));
    let named = (1..=10_000_u16)
        .filter(|port| {
            let peer = SocketAddr::new(socket(PEER).ip(), *port);
            world.peer_accepted(relayed, peer).0.is_some()
        })
        .count();
    assert!((1..=1000).contains(&named), "{named}");
}

#[test]
fn a_connection_that_the_peer_closed_is_not_there_to_be_bound() {
    let mut world = world();
    let (mut client, relayed) = allocated(&mut world);
    client.permit(&mut world, socket(PEER));
    let (connection, _) = world.peer_accepted(relayed, socket(PEER));
    let connection = connection.unwrap();
    world.peer_connection_closed(0, connection);
    let mut data = Client::over(&mut world, "", Transport::Tcp, Family::V4);
    data = data.with_username(&client.username);
    data.call(
        &mut world,
        Draft::request(CONNECTION_BIND).connection_id(connection.0),
    )
    .error(400);
    let outcome = world.advance(Duration::from_secs(60));
    assert!(
        outcome.closed_connections.is_empty(),
        "nothing is closed twice"
    );
}

#[test]
fn after_the_allocation_ended_nobody_connects() {
    let mut world = world();
    let (mut client, relayed) = allocated(&mut world);
    client.permit(&mut world, socket(PEER));
    client.refresh(&mut world, 3600).success();
    world.pass(Duration::from_secs(3500));
    let answer = client.refresh(&mut world, 600);
    if answer.code() == Some(438) {
        client.remember(&answer);
    }
    client.permit(&mut world, socket(PEER));
    world.pass(Duration::from_secs(600));
    let (connection, outcome) = world.peer_accepted(relayed, socket(PEER));
    assert_eq!(connection, None);
    outcome.silence();
}
