//! RFC 6062 §5.4: ConnectionBind.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use turn_relay_proto::{
    Effect, Time,
    address::{ConnectionId, Family, Transport},
    counters::Direction,
    quota::Way,
};

use super::{allocated, world};
use crate::support::{
    client::Client,
    stun::{CONNECTION_BIND, Draft, attribute},
    world::{World, policy, socket},
};

const PEER: &str = "198.51.100.1:40000";

/// A control connection and a connection of a peer that waits.
fn waiting(world: &mut World) -> (Client, SocketAddr, ConnectionId) {
    let (mut client, relayed) = allocated(world);
    client.permit(world, socket(PEER));
    let (connection, _) = world.peer_accepted(relayed, socket(PEER));
    (client, relayed, connection.unwrap())
}

/// Another connection of the same user.
fn data_connection(world: &mut World, of: &Client, transport: Transport) -> Client {
    Client::over(world, "", transport, Family::V4).with_username(&of.username)
}

fn bind(connection: ConnectionId) -> Draft {
    Draft::request(CONNECTION_BIND).connection_id(connection.0)
}

#[test]
fn a_waiting_connection_becomes_one_with_the_clients() {
    for transport in [Transport::Tcp, Transport::Tls] {
        let mut world = world();
        let (client, _, connection) = waiting(&mut world);
        let mut data = data_connection(&mut world, &client, transport);
        let (answer, outcome) = data.call_with_outcome(&mut world, bind(connection));
        answer.success();
        assert_eq!(outcome.joined, [(data.five_tuple, connection)]);
        let answered = outcome
            .effects
            .iter()
            .position(|effect| matches!(effect, Effect::SendToClient { .. }));
        let joined = outcome
            .effects
            .iter()
            .position(|effect| matches!(effect, Effect::JoinConnections { .. }));
        assert!(answered < joined, "the answer comes first");
        // it waits no longer
        let outcome = world.advance(Duration::from_secs(60));
        assert!(outcome.closed_connections.is_empty());
    }
}

#[test]
fn over_datagrams_it_gets_400() {
    let mut world = world();
    let (client, _, connection) = waiting(&mut world);
    for transport in [Transport::Udp, Transport::Dtls] {
        let mut data = data_connection(&mut world, &client, transport);
        let (answer, outcome) = data.call_with_outcome(&mut world, bind(connection));
        answer.error(400);
        assert!(outcome.joined.is_empty());
    }
}

#[test]
fn a_connection_id_that_is_missing_malformed_or_unknown_gets_400() {
    let mut world = world();
    let (client, _, connection) = waiting(&mut world);
    let mut data = data_connection(&mut world, &client, Transport::Tcp);
    for request in [
        Draft::request(CONNECTION_BIND),
        Draft::request(CONNECTION_BIND).with(attribute::CONNECTION_ID, &[]),
        Draft::request(CONNECTION_BIND).with(attribute::CONNECTION_ID, &[0; 3]),
        Draft::request(CONNECTION_BIND).with(attribute::CONNECTION_ID, &[0; 8]),
        Draft::request(CONNECTION_BIND).connection_id(!connection.0),
        Draft::request(CONNECTION_BIND).connection_id(0),
    ] {
        data.call(&mut world, request).error(400);
    }
    data.call(&mut world, bind(connection)).success();
}

#[test]
fn a_connection_is_bound_once() {
    let mut world = world();
    let (client, _, connection) = waiting(&mut world);
    let mut first = data_connection(&mut world, &client, Transport::Tcp);
    first.call(&mut world, bind(connection)).success();
    let mut second = data_connection(&mut world, &client, Transport::Tcp);
    let (answer, outcome) = second.call_with_outcome(&mut world, bind(connection));
    answer.error(400);
    assert!(outcome.joined.is_empty());
}

#[test]
fn another_user_does_not_get_the_connection() {
    let mut world = world();
    let (client, _, connection) = waiting(&mut world);
    let mut mallory = Client::over(&mut world, "mallory", Transport::Tcp, Family::V4);
    let (answer, outcome) = mallory.call_with_outcome(&mut world, bind(connection));
    assert!(matches!(answer.code(), Some(400 | 441)), "{answer:?}");
    assert!(outcome.joined.is_empty());
    let mut data = data_connection(&mut world, &client, Transport::Tcp);
    data.call(&mut world, bind(connection)).success();
}

#[test]
fn a_stranger_does_not_get_the_connection() {
    let mut world = world();
    let (_, _, connection) = waiting(&mut world);
    let stranger = Client::over(&mut world, "x", Transport::Tcp, Family::V4);
    let outcome = stranger.put(&mut world, &bind(connection).finish());
    assert_eq!(outcome.stun().code(), Some(401));
    assert!(outcome.joined.is_empty());
}

#[test]
fn a_control_connection_does_not_become_a_data_connection() {
    // §4.3: the client opens a new connection; its control connection carries requests for as long as the allocation lives
    let mut world = world();
    let (mut client, _, connection) = waiting(&mut world);
    let (answer, outcome) = client.call_with_outcome(&mut world, bind(connection));
    assert!(!answer.is_success(), "{answer:?}");
    assert!(outcome.joined.is_empty());
    client.refresh(&mut world, 600).success();
}

#[test]
fn the_end_of_the_allocation_closes_its_connections() {
    // CloseRelay says it to whoever does input and output; none of them is closed a second time after that
    let mut world = world();
    let (mut client, _, connection) = waiting(&mut world);
    let outcome = {
        let request = Draft::request(crate::support::stun::REFRESH).lifetime(0);
        client.call_with_outcome(&mut world, request).1
    };
    assert_eq!(outcome.closed.len(), 1);
    let mut data = data_connection(&mut world, &client, Transport::Tcp);
    data.call(&mut world, bind(connection)).error(400);
    let outcome = world.advance(Duration::from_secs(60));
    assert!(outcome.closed_connections.is_empty());
}

#[test]
fn a_reload_that_denies_the_peer_closes_its_connections_joined_or_not() {
    for joined in [false, true] {
        let mut world = world();
        let (client, _, connection) = waiting(&mut world);
        let mut data = data_connection(&mut world, &client, Transport::Tcp);
        if joined {
            data.call(&mut world, bind(connection)).success();
        }
        let same = world.reconfigure(|config| config.realm = "new.example.org".to_owned());
        assert!(same.closed_connections.is_empty(), "it is permitted still");
        let outcome = world.reconfigure(|config| {
            let mut policy = policy();
            policy.allow.clear();
            config.policy = Arc::new(policy);
        });
        assert_eq!(outcome.closed_connections, [connection]);
        let outcome = world.advance(Duration::from_secs(60));
        assert!(outcome.closed_connections.is_empty(), "once");
    }
}

#[test]
fn the_user_of_the_allocation_pays_for_the_bytes_of_its_connections() {
    let mut world = world();
    world.reconfigure(|config| config.quotas.bandwidth_per_user = Some(1_000_000));
    let (client, _, connection) = waiting(&mut world);
    let mut data = data_connection(&mut world, &client, Transport::Tcp);
    assert!(world.servers[0].payer(connection).is_none());
    data.call(&mut world, bind(connection)).success();
    let payer = world.servers[0].payer(connection).expect("it is joined");
    let carry = |world: &mut World, way, read| {
        let (server, now) = (&world.servers[0], world.now);
        let reserved = server.reserve(&payer, way, 65_536, now)?;
        server.carried(
            &payer,
            way,
            reserved,
            reserved.min(read),
            reserved.min(read),
        );
        Ok::<_, Time>(reserved.min(read))
    };
    for way in [Way::Up, Way::Down] {
        // what is not read is not paid for
        for _ in 0..1_000 {
            assert_eq!(carry(&mut world, way, 0), Ok(0));
        }
        let mut at_once = 0;
        let until = loop {
            match carry(&mut world, way, usize::MAX) {
                Ok(len) => at_once += len,
                Err(until) => break until,
            }
        };
        assert!((990_000..=1_000_000).contains(&at_once), "{at_once}");
        assert!(until > world.now.time, "later");
    }
    let mut all = 0;
    for _ in 0..1_000 {
        world.pass(Duration::from_millis(10));
        while let Ok(len) = carry(&mut world, Way::Up, usize::MAX) {
            all += len;
        }
    }
    assert!((9_900_000..=10_010_000).contains(&all), "{all}");
    let bytes = world.counters[0].bytes.get(Direction::ClientToPeer);
    assert!(bytes > 10_800_000, "{bytes}");
    // and packets have nothing left either
    let mut other = Client::new(&mut world, "").with_username(&client.username);
    other.allocate(&mut world);
    other.permit(&mut world, socket(PEER));
    other.send(&mut world, socket(PEER), &[0; 5_000]).silence();
}
