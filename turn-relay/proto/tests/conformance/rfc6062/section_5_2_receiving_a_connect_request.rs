//! RFC 6062 §5.2: Connect.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use turn_relay_proto::{
    ConnectFailure, RelayId,
    address::{ConnectionId, Family, Transport},
    counters::Denial,
    policy::PeerPolicy,
};

use super::{allocated, world};
use crate::support::{
    client::Client,
    stun::{CONNECT, Decoded, Draft, attribute},
    world::{FromServer, Outcome, World, relay_address, socket},
};

const PEER: &str = "198.51.100.1:80";

/// Sends a Connect request that is begun, and gives back how.
fn connect(
    world: &mut World,
    client: &Client,
    peer: SocketAddr,
) -> (Vec<u8>, RelayId, ConnectionId) {
    let bytes = client.sign(Draft::request(CONNECT).peer(peer));
    let outcome = client.put(world, &bytes);
    let [(relay, to, connection)] = outcome.connects[..] else {
        panic!("{outcome:?}")
    };
    assert_eq!(to, peer);
    assert!(
        outcome.to_clients.is_empty(),
        "the answer comes when it is connected"
    );
    (bytes, relay, connection)
}

/// The answer in an outcome, which is one to `request`.
#[track_caller]
fn answer_to(client: &Client, request: &[u8], outcome: &Outcome) -> Decoded {
    let answer = outcome.stun().clone();
    assert_eq!(outcome.to_clients[0].client, client.five_tuple);
    client.check_answer(request, &answer);
    answer
}

fn id_of(answer: &Decoded) -> ConnectionId {
    let value = answer.value(attribute::CONNECTION_ID).unwrap();
    ConnectionId(u32::from_be_bytes(value.try_into().unwrap()))
}

#[test]
fn a_connection_that_is_made_is_named() {
    for protection in crate::support::client::Protection::ALL {
        let mut world = world();
        let (client, _) = allocated(&mut world);
        let client = client.protected_by(protection);
        let (request, relay, connection) = connect(&mut world, &client, socket(PEER));
        let outcome = world.peer_connected(0, relay, connection);
        let answer = answer_to(&client, &request, &outcome).success();
        assert_eq!(id_of(&answer), connection);
    }
}

#[test]
fn no_permission_is_needed_to_connect() {
    // §5.2 asks for none; the policy is asked
    let mut world = world();
    let (client, _) = allocated(&mut world);
    connect(&mut world, &client, socket(PEER));
}

#[test]
fn a_connection_that_cannot_be_made_gets_447() {
    let mut world = world();
    let (client, _) = allocated(&mut world);
    let (request, relay, connection) = connect(&mut world, &client, socket(PEER));
    let outcome = world.peer_connect_failed(0, relay, connection, ConnectFailure::Unreachable);
    answer_to(&client, &request, &outcome).error(447);
    // and may be tried again
    let (request, relay, connection) = connect(&mut world, &client, socket(PEER));
    let outcome = world.peer_connected(0, relay, connection);
    answer_to(&client, &request, &outcome).success();
}

#[test]
fn a_connection_that_the_system_has_already_gets_446() {
    let mut world = world();
    let (client, _) = allocated(&mut world);
    let (request, relay, connection) = connect(&mut world, &client, socket(PEER));
    let outcome = world.peer_connect_failed(0, relay, connection, ConnectFailure::Exists);
    answer_to(&client, &request, &outcome).error(446);
}

#[test]
fn without_an_allocation_it_gets_437() {
    let mut world = world();
    let mut client = Client::over(&mut world, "alice", Transport::Tcp, Family::V4);
    let request = Draft::request(CONNECT).peer(socket(PEER));
    client.call(&mut world, request).error(437);
    client.call(&mut world, Draft::request(CONNECT)).error(437);
}

#[test]
fn with_another_username_it_gets_441() {
    let mut world = world();
    let (client, _) = allocated(&mut world);
    let username = format!("{}:mallory", world.now.unix_seconds + 1000);
    let mut mallory = client.with_username(&username);
    let request = Draft::request(CONNECT).peer(socket(PEER));
    mallory.call(&mut world, request).error(441);
}

#[test]
fn from_a_udp_allocation_nothing_is_connected() {
    let mut world = world();
    let (mut client, _) = Client::allocated_over(&mut world, "alice", Transport::Tcp);
    let request = Draft::request(CONNECT).peer(socket(PEER));
    let (answer, outcome) = client.call_with_outcome(&mut world, request);
    assert!(!answer.is_success());
    assert!(outcome.connects.is_empty());
}

#[test]
fn a_second_request_for_the_same_peer_gets_446_while_the_first_is_under_way() {
    let mut world = world();
    let (mut client, _) = allocated(&mut world);
    connect(&mut world, &client, socket(PEER));
    let request = Draft::request(CONNECT).peer(socket(PEER));
    client.call(&mut world, request).error(446);
    // another port is another peer
    connect(&mut world, &client, socket("198.51.100.1:81"));
}

#[test]
fn a_second_request_for_the_same_peer_gets_446_while_the_connection_waits_and_while_it_is_used() {
    let mut world = world();
    let (mut client, _) = allocated(&mut world);
    let (request, relay, connection) = connect(&mut world, &client, socket(PEER));
    let outcome = world.peer_connected(0, relay, connection);
    answer_to(&client, &request, &outcome).success();
    let again = || Draft::request(CONNECT).peer(socket(PEER));
    client.call(&mut world, again()).error(446);
    let mut data = Client::over(&mut world, "alice", Transport::Tcp, Family::V4);
    data = data.with_username(&client.username);
    let bind = Draft::request(crate::support::stun::CONNECTION_BIND).connection_id(connection.0);
    data.call(&mut world, bind).success();
    client.call(&mut world, again()).error(446);
    // once it is closed it may be made again
    world.peer_connection_closed(0, connection);
    connect(&mut world, &client, socket(PEER));
}

#[test]
fn without_a_valid_peer_address_it_gets_400() {
    let mut world = world();
    let (mut client, _) = allocated(&mut world);
    for request in [
        Draft::request(CONNECT),
        Draft::request(CONNECT).with(attribute::XOR_PEER_ADDRESS, &[]),
        Draft::request(CONNECT).with(attribute::XOR_PEER_ADDRESS, &[0, 5, 0, 0, 0, 0, 0, 0]),
    ] {
        client.call(&mut world, request).error(400);
    }
}

#[test]
fn a_peer_of_another_family_is_refused() {
    let mut world = world();
    let (mut client, _) = allocated(&mut world);
    let request = Draft::request(CONNECT).peer(socket("[2001:db8:5::1]:80"));
    let answer = client.call(&mut world, request);
    assert!(matches!(answer.code(), Some(400 | 443)), "{answer:?}");
}

#[test]
fn a_denied_peer_gets_403() {
    let mut world = World::with(|config| {
        config.tcp_relay = true;
        let mut policy = crate::support::world::policy();
        policy.deny_ports = vec![25];
        config.policy = Arc::new(policy);
    });
    let (mut client, _) = allocated(&mut world);
    let denied = [
        "127.0.0.1:80",
        "10.0.0.1:80",
        "169.254.169.254:80",
        "[::ffff:127.0.0.1]:80",
        "198.51.100.1:25",
    ];
    for peer in denied {
        let request = Draft::request(CONNECT).peer(socket(peer));
        let (answer, outcome) = client.call_with_outcome(&mut world, request);
        answer.error(403);
        assert!(outcome.connects.is_empty());
    }
    assert_eq!(world.counters[0].denials.get(Denial::Connect), 5);
}

#[test]
fn the_host_of_the_relay_is_not_connected_to() {
    // its relayed addresses are, for datagrams; a listener on one of its ports is nobody's peer unless it is a relayed address itself
    let mut world = world();
    let (client, relayed) = allocated(&mut world);
    for port in [22, 80, 3478, 5349] {
        let peer = SocketAddr::new(relayed.ip(), port);
        let bytes = client.sign(Draft::request(CONNECT).peer(peer));
        let outcome = client.put(&mut world, &bytes);
        assert!(outcome.connects.is_empty(), "{outcome:?}");
        assert!(!outcome.stun().is_success());
    }
}

/// A world whose relayed addresses are public, as they are where it counts, with the built-in policy.
fn public_world(change: impl FnOnce(&mut PeerPolicy)) -> World {
    World::with(|config| {
        let mut policy = PeerPolicy::default();
        change(&mut policy);
        config.tcp_relay = true;
        config.relay_addresses = vec![relay_address("9.9.9.7")];
        config.policy = Arc::new(policy);
    })
}

#[test]
fn nothing_of_a_host_with_a_public_address_is_connected_to_but_relayed_addresses_for_tcp() {
    let mut world = public_world(|_| ());
    let (mut client, relayed) = allocated(&mut world);
    let (_, for_datagrams) = Client::allocated(&mut world, "bob");
    for port in [
        22,
        80,
        3478,
        3480,
        for_datagrams.port(),
        relayed.port() ^ 512,
    ] {
        let peer = SocketAddr::new(relayed.ip(), port);
        let request = Draft::request(CONNECT).peer(peer);
        let (answer, outcome) = client.call_with_outcome(&mut world, request);
        answer.error(403);
        assert!(outcome.connects.is_empty());
        // and nobody there connects
        client.permit(&mut world, peer);
        assert!(world.peer_accepted(relayed, peer).0.is_none());
    }
    // while it lasts, another client's address for TCP is a peer
    let (mut other, others) = allocated(&mut world);
    let (_, _, connection) = connect(&mut world, &client, others);
    other.permit(&mut world, relayed);
    assert!(world.peer_accepted(others, relayed).0.is_some());
    other.refresh(&mut world, 0).success();
    world.peer_connection_closed(0, connection);
    let request = Draft::request(CONNECT).peer(others);
    client.call(&mut world, request).error(403);
}

#[test]
fn a_service_of_the_host_is_connected_to_if_it_is_allowed_by_name() {
    let mut world = public_world(|policy| policy.allow = vec!["9.9.9.7/32".parse().unwrap()]);
    let (client, relayed) = allocated(&mut world);
    let (_, relay, connection) = connect(&mut world, &client, SocketAddr::new(relayed.ip(), 443));
    world.peer_connected(0, relay, connection);
}

#[test]
fn a_connection_that_nobody_binds_within_30_seconds_is_closed() {
    let mut world = world();
    let (client, _) = allocated(&mut world);
    let (request, relay, connection) = connect(&mut world, &client, socket(PEER));
    world.advance(Duration::from_secs(20));
    let outcome = world.peer_connected(0, relay, connection);
    answer_to(&client, &request, &outcome).success();
    let outcome = world.advance(Duration::from_millis(29_999));
    assert!(outcome.closed_connections.is_empty());
    let outcome = world.advance(Duration::from_secs(2));
    assert_eq!(outcome.closed_connections, [connection]);
    // the name is good for nothing now
    let mut data = Client::over(&mut world, "alice", Transport::Tcp, Family::V4);
    data = data.with_username(&client.username);
    let bind = Draft::request(crate::support::stun::CONNECTION_BIND).connection_id(connection.0);
    data.call(&mut world, bind).error(400);
}

#[test]
fn a_retransmission_of_a_request_that_is_under_way_makes_no_second_connection() {
    // over a stream nothing is retransmitted; a client that repeats itself is answered with 446 or not at all
    let mut world = world();
    let (client, _) = allocated(&mut world);
    let (request, ..) = connect(&mut world, &client, socket(PEER));
    let outcome = client.put(&mut world, &request);
    assert!(outcome.connects.is_empty());
    for message in &outcome.to_clients {
        let FromServer::Stun(answer) = &message.message else {
            panic!("{outcome:?}");
        };
        assert_eq!(answer.code(), Some(446));
    }
}

#[test]
fn connections_of_one_allocation_are_bounded() {
    let mut world = world();
    let (mut client, _) = allocated(&mut world);
    let mut made = 0;
    let refused = (1..=10_000).find_map(|port| {
        let peer = SocketAddr::new([198, 51, 100, 1].into(), port);
        let bytes = client.sign(Draft::request(CONNECT).peer(peer));
        let outcome = client.put(&mut world, &bytes);
        made += outcome.connects.len();
        outcome.to_clients.first().map(|_| outcome.stun().code())
    });
    let code = refused.expect("there is a bound").expect("an error");
    assert!(matches!(code, 486 | 508), "{code}");
    assert!((1..=1000).contains(&made), "{made}");
    client.refresh(&mut world, 600).success();
}

#[test]
fn a_connection_that_is_made_after_its_allocation_ended_is_closed() {
    let mut world = world();
    let (mut client, _) = allocated(&mut world);
    let (_, relay, connection) = connect(&mut world, &client, socket(PEER));
    client.refresh(&mut world, 0).success();
    let outcome = world.peer_connected(0, relay, connection);
    outcome.silence();
    assert_eq!(outcome.closed_connections, [connection]);
    let (mut client, _) = allocated(&mut world);
    let (_, relay, connection) = connect(&mut world, &client, socket(PEER));
    client.refresh(&mut world, 0).success();
    world
        .peer_connect_failed(0, relay, connection, ConnectFailure::Unreachable)
        .silence();
}

#[test]
fn a_peer_that_a_reload_denies_meanwhile_gets_403_and_no_connection() {
    let mut world = world();
    let (client, _) = allocated(&mut world);
    let (request, _, connection) = connect(&mut world, &client, socket(PEER));
    let outcome = world.reconfigure(|config| config.policy = Arc::new(PeerPolicy::default()));
    assert_eq!(outcome.closed_connections, [connection]);
    answer_to(&client, &request, &outcome).error(403);
}
