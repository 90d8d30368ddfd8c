//! From the first allocation to the end of the process: draining, closing, new settings, streams that go away.

use std::{sync::Arc, time::Duration};

use turn_relay_proto::{
    address::Transport,
    counters::{AllocationKind, Counters, Label as _},
};

use crate::support::{
    client::Client,
    stun::{Draft, REFRESH},
    world::{World, config, socket},
};

#[test]
fn a_draining_server_makes_no_allocation_and_keeps_those_that_there_are() {
    let mut world = World::new();
    let (mut client, relayed) = Client::allocated(&mut world, "alice");
    let peer = socket("198.51.100.1:9");
    for server in &mut world.servers {
        server.drain();
    }
    let mut late = Client::new(&mut world, "bob");
    late.call(&mut world, Draft::allocate()).error(508);
    for _ in 0..5 {
        client.refresh(&mut world, 600).success();
        client.permit(&mut world, peer);
        client.bind(&mut world, 0x4000, peer).success();
        assert!(client.hears(&mut world, relayed, peer).is_some());
        world.advance(Duration::from_secs(290));
    }
    assert!(late.binding(&mut world).stun().is_success());
    client.refresh(&mut world, 0).success();
    client.call(&mut world, Draft::allocate()).error(508);
    assert_eq!(world.allocations(), 0);
}

#[test]
fn a_draining_server_answers_a_retransmission_of_an_allocate_request_alike() {
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice");
    client.challenge(&mut world);
    let bytes = client.sign(Draft::allocate());
    let (first, _) = client.call_with_bytes(&mut world, &bytes);
    world.servers[0].drain();
    let (again, _) = client.call_with_bytes(&mut world, &bytes);
    assert_eq!(again.success(), first.success());
}

#[test]
fn a_draining_server_tells_strangers_nothing_else_than_before() {
    let mut world = World::new();
    world.servers[0].drain();
    let mut client = Client::new(&mut world, "alice");
    client.challenge(&mut world);
}

#[test]
fn closing_ends_everything() {
    let mut world = World::two();
    for number in 0..10 {
        let user = format!("user {number}");
        let transport = if number % 2 == 0 {
            Transport::Udp
        } else {
            Transport::Tls
        };
        let family = turn_relay_proto::address::Family::V4;
        let client = Client::over(&mut world, &user, transport, family);
        let mut client = client.on_server(number % 2);
        let request = if number % 3 == 0 {
            Draft::allocate().additional_family(2)
        } else {
            Draft::allocate()
        };
        client.call(&mut world, request).success();
    }
    let open = world.open_sockets().count();
    let outcome = world.close();
    assert_eq!(outcome.closed.len(), open);
    assert_eq!(world.open_sockets().count(), 0);
    assert_eq!(world.allocations(), 0);
    let again = world.close();
    assert!(again.closed.is_empty());
}

#[test]
fn a_stream_that_closes_takes_its_allocation_with_it() {
    for transport in [Transport::Tcp, Transport::Tls, Transport::Dtls] {
        let mut world = World::new();
        let (client, relayed) = Client::allocated_over(&mut world, "alice", transport);
        let (_, other) = Client::allocated_over(&mut world, "bob", transport);
        let outcome = world.client_closed(0, client.five_tuple);
        assert_eq!(outcome.closed.len(), 1);
        assert_eq!(outcome.closed[0].advertised, relayed);
        assert!(outcome.to_clients.is_empty());
        assert_eq!(world.allocations(), 1);
        assert!(world.relay(other).is_some());
        // once more, and one that never had an allocation
        world.client_closed(0, client.five_tuple).silence();
        let stranger = Client::over(
            &mut world,
            "x",
            transport,
            turn_relay_proto::address::Family::V4,
        );
        world.client_closed(0, stranger.five_tuple).silence();
    }
}

#[test]
fn ports_come_back_however_an_allocation_ends() {
    let mut config = config();
    config.relay_addresses.truncate(1);
    let mut world = World::of(2, config, 50_000..=50_003, 1);
    for round in 0..40 {
        let mut clients: Vec<_> = (0..4)
            .map(|number| {
                let family = turn_relay_proto::address::Family::V4;
                let client = Client::over(&mut world, "alice", Transport::Tcp, family);
                let mut client = client.on_server(number % 2);
                client.allocate(&mut world);
                client
            })
            .collect();
        match round % 4 {
            0 => clients.iter_mut().for_each(|client| {
                client.refresh(&mut world, 0).success();
            }),
            1 => {
                world.advance(Duration::from_secs(600));
            }
            2 => {
                for client in &clients {
                    world.client_closed(client.server, client.five_tuple);
                }
            }
            _ => {
                world.close();
            }
        }
        assert_eq!(world.allocations(), 0);
    }
}

#[test]
fn a_late_timeout_relays_nothing_and_closes_all_the_same() {
    let mut world = World::new();
    let (mut client, relayed) = Client::allocated(&mut world, "alice");
    let peer = socket("198.51.100.1:9");
    world.pass(Duration::from_secs(590));
    client.permit(&mut world, peer);
    world.pass(Duration::from_secs(100));
    assert!(!client.reaches(&mut world, peer));
    assert!(client.hears(&mut world, relayed, peer).is_none());
    assert_eq!(
        world.open_sockets().count(),
        1,
        "until it is told of the time"
    );
    let outcome = world.tick();
    assert_eq!(outcome.closed.len(), 1);
}

#[test]
fn new_lifetimes_are_those_of_the_next_request() {
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    world.reconfigure(|config| {
        config.default_lifetime = Duration::from_secs(60);
        config.max_lifetime = Duration::from_secs(120);
    });
    world.advance(Duration::from_secs(300));
    assert_eq!(world.allocations(), 1, "what was promised stays");
    assert_eq!(client.refresh(&mut world, 1).success().lifetime(), 60);
    assert_eq!(client.refresh(&mut world, 3600).success().lifetime(), 120);
}

#[test]
fn a_new_realm_is_the_one_that_strangers_are_told() {
    let mut world = World::new();
    world.reconfigure(|config| config.realm = "new.example.org".to_owned());
    let mut client = Client::new(&mut world, "alice");
    client.challenge(&mut world);
    assert_eq!(client.realm, "new.example.org");
    client.allocate(&mut world);
}

#[test]
fn allocations_are_counted_by_kind_when_they_are_made_and_when_they_end() {
    let mut world = World::new();
    let (mut udp, _) = Client::allocated(&mut world, "alice");
    Client::dual(&mut world, "alice");
    Client::allocated_over(&mut world, "alice", Transport::Tls);
    let mut v6 = Client::over(
        &mut world,
        "alice",
        Transport::Tcp,
        turn_relay_proto::address::Family::V4,
    );
    v6.call(&mut world, Draft::allocate().family(2)).success();
    let counters: Arc<Counters> = world.counters[0].clone();
    let made = |kind| counters.allocations_made.get(kind);
    let ended = |kind| counters.allocations_ended.get(kind);
    for kind in [
        AllocationKind::UdpV4,
        AllocationKind::UdpDual,
        AllocationKind::TlsV4,
        AllocationKind::TcpV6,
    ] {
        assert_eq!((made(kind), ended(kind)), (1, 0), "{}", kind.label());
    }
    udp.call(&mut world, Draft::request(REFRESH).lifetime(0))
        .success();
    world.advance(Duration::from_secs(600));
    for kind in AllocationKind::ALL {
        assert_eq!(made(*kind), ended(*kind), "{}", kind.label());
    }
    assert_eq!(
        AllocationKind::ALL
            .iter()
            .map(|kind| made(*kind))
            .sum::<u64>(),
        4
    );
}

#[test]
fn a_server_at_rest_wants_to_be_told_of_nothing() {
    let mut world = World::new();
    assert_eq!(world.servers[0].next_timeout(), None);
    let (mut client, _) = Client::allocated(&mut world, "alice");
    assert!(world.servers[0].next_timeout().is_some());
    client.refresh(&mut world, 0).success();
    // what was noted for its end may still be looked at, once
    world.advance(Duration::from_secs(3700));
    assert_eq!(world.servers[0].next_timeout(), None);
}
