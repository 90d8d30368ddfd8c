//! What one user and one relay may have: RFC 8656 §5, §7.2 and §21.3.1, and the documentation of [`turn_relay_proto::config::Quotas`].

use std::time::Duration;

use turn_relay_proto::counters::{DropReason, QuotaHit};

use crate::support::{
    client::Client,
    stun::Draft,
    world::{World, config, socket},
};

#[test]
fn a_user_with_all_allocations_gets_486() {
    let mut world = World::with(|config| config.quotas.allocations_per_user = 3);
    let mut clients: Vec<_> = (0..3)
        .map(|_| Client::allocated(&mut world, "alice").0)
        .collect();
    let mut late = Client::new(&mut world, "alice");
    late.call(&mut world, Draft::allocate()).error(486);
    assert_eq!(world.allocations(), 3);
    assert_eq!(
        world.counters[0].quota_hits.get(QuotaHit::UserAllocations),
        1
    );
    Client::allocated(&mut world, "bob");
    // what ends makes place: deleted, expired, or its stream closed
    clients[0].refresh(&mut world, 0).success();
    late.allocate(&mut world);
    Client::new(&mut world, "alice")
        .call(&mut world, Draft::allocate())
        .error(486);
    world.advance(Duration::from_secs(600));
    for _ in 0..3 {
        Client::allocated(&mut world, "alice");
    }
}

#[test]
fn a_user_is_the_part_behind_the_expiry() {
    let mut world = World::with(|config| config.quotas.allocations_per_user = 2);
    let expiry = world.now.unix_seconds + 1000;
    let mut ask = |username: String| {
        let mut client = Client::new(&mut world, "").with_username(&username);
        client.call(&mut world, Draft::allocate())
    };
    ask(format!("{expiry}:alice")).success();
    ask(format!("{}:alice", expiry + 1)).success();
    ask(format!("{}:alice", expiry + 2)).error(486);
    ask(format!("{expiry}:alice2")).success();
    ask(format!("{expiry}:alic")).success();
    ask(format!("{expiry}:bob:alice")).success();
}

#[test]
fn usernames_without_a_user_are_users_of_their_own() {
    // `<expiry>` alone, and `<expiry>:`: the whole username counts
    let mut world = World::with(|config| config.quotas.allocations_per_user = 1);
    let expiry = world.now.unix_seconds + 1000;
    let mut ask = |username: String| {
        let mut client = Client::new(&mut world, "").with_username(&username);
        client.call(&mut world, Draft::allocate())
    };
    ask(format!("{expiry}")).success();
    ask(format!("{expiry}")).error(486);
    ask(format!("{}", expiry + 1)).success();
    ask(format!("{}:", expiry + 2)).success();
    ask(format!("{}:", expiry + 2)).error(486);
}

#[test]
fn a_users_allocations_are_counted_over_all_servers() {
    let mut config = config();
    config.quotas.allocations_per_user = 3;
    let mut world = World::of(2, config, 50_000..=50_999, 1);
    for server in [0, 1, 0] {
        let mut client = Client::new(&mut world, "alice").on_server(server);
        client.allocate(&mut world);
    }
    for server in [0, 1] {
        let mut client = Client::new(&mut world, "alice").on_server(server);
        client.call(&mut world, Draft::allocate()).error(486);
    }
}

#[test]
fn a_dual_allocation_is_one() {
    let mut world = World::with(|config| config.quotas.allocations_per_user = 1);
    let (mut client, ..) = Client::dual(&mut world, "alice");
    let mut late = Client::new(&mut world, "alice");
    late.call(&mut world, Draft::allocate()).error(486);
    client
        .call(
            &mut world,
            Draft::request(crate::support::stun::REFRESH)
                .family(1)
                .lifetime(0),
        )
        .success();
    late.call(&mut world, Draft::allocate()).error(486);
    client.refresh(&mut world, 0).success();
    late.allocate(&mut world);
}

#[test]
fn allocations_in_total_are_bounded() {
    let mut config = config();
    config.quotas.allocations_total = 5;
    let mut world = World::of(2, config, 50_000..=50_999, 1);
    let mut clients = Vec::new();
    for number in 0..5 {
        let client = Client::new(&mut world, &format!("user {number}"));
        let mut client = client.on_server(number % 2);
        client.allocate(&mut world);
        clients.push(client);
    }
    for server in [0, 1] {
        let mut late = Client::new(&mut world, "late").on_server(server);
        let answer = late.call(&mut world, Draft::allocate());
        assert!(matches!(answer.code(), Some(486 | 508)), "{answer:?}");
    }
    let hits = |world: &World| {
        let counters = world.counters.iter();
        counters
            .map(|counters| counters.quota_hits.get(QuotaHit::TotalAllocations))
            .sum::<u64>()
    };
    assert_eq!(hits(&world), 2);
    clients[0].refresh(&mut world, 0).success();
    Client::allocated(&mut world, "late");
}

#[test]
fn a_request_that_failed_counts_for_nothing() {
    let mut world = World::with(|config| config.quotas.allocations_per_user = 1);
    let mut client = Client::new(&mut world, "alice");
    for _ in 0..5 {
        world.failures = [Some(turn_relay_proto::RelayFailure::Other)].into();
        client.call(&mut world, Draft::allocate()).error(508);
        client
            .call(&mut world, Draft::allocate().token(&[0; 8]))
            .error(508);
        client
            .call(&mut world, Draft::allocate().family(9))
            .error(440);
    }
    client.allocate(&mut world);
}

#[test]
fn a_quota_that_a_reload_lowers_takes_no_allocation_away() {
    let mut world = World::new();
    let mut clients: Vec<_> = (0..4)
        .map(|_| Client::allocated(&mut world, "alice").0)
        .collect();
    world.reconfigure(|config| config.quotas.allocations_per_user = 2);
    Client::new(&mut world, "alice")
        .call(&mut world, Draft::allocate())
        .error(486);
    for client in &mut clients {
        client.refresh(&mut world, 600).success();
    }
    for client in &mut clients[..2] {
        client.refresh(&mut world, 0).success();
    }
    Client::new(&mut world, "alice")
        .call(&mut world, Draft::allocate())
        .error(486);
    clients[2].refresh(&mut world, 0).success();
    Client::allocated(&mut world, "alice");
}

const PEER: &str = "198.51.100.1:9";

/// A world with a bandwidth, and a client with a permission and a channel.
fn with_bandwidth(bandwidth: u64) -> (World, Client, std::net::SocketAddr) {
    let mut world = World::with(|config| config.quotas.bandwidth_per_user = Some(bandwidth));
    let (mut client, relayed) = Client::allocated(&mut world, "alice");
    client.bind(&mut world, 0x4000, socket(PEER)).success();
    (world, client, relayed)
}

/// How many of the datagrams of 1000 bytes go through that are offered 1000 times a second for `seconds`.
fn offer(world: &mut World, seconds: u64, send: &mut dyn FnMut(&mut World) -> bool) -> usize {
    let mut through = 0;
    for _ in 0..seconds * 1000 {
        through += usize::from(send(world));
        world.pass(Duration::from_millis(1));
    }
    through
}

#[test]
fn what_a_client_sends_is_bounded_by_its_bandwidth() {
    let (mut world, client, _) = with_bandwidth(100_000);
    for channel in [true, false] {
        let mut send = |world: &mut World| {
            let outcome = if channel {
                client.send_on(world, 0x4000, &[0; 1000])
            } else {
                client.send(world, socket(PEER), &[0; 1000])
            };
            !outcome.to_peers.is_empty()
        };
        // a second's worth at once, and then 100 a second
        let through = offer(&mut world, 10, &mut send);
        assert!((1050..=1110).contains(&through), "{through}");
        world.pass(Duration::from_secs(10));
    }
    assert!(world.drops(DropReason::Bandwidth) > 15_000);
}

#[test]
fn empty_datagrams_take_as_much_as_their_headers() {
    let (mut world, client, relayed) = with_bandwidth(100_000);
    let up = (0..10_000).filter(|_| {
        let outcome = client.send_on(&mut world, 0x4000, b"");
        !outcome.to_peers.is_empty()
    });
    assert_eq!(up.count(), 100_000 / 28);
    let down = (0..10_000).filter(|_| {
        let outcome = world.peer_says(relayed, socket(PEER), b"");
        !outcome.to_clients.is_empty()
    });
    assert_eq!(down.count(), 100_000 / 28);
}

#[test]
fn what_peers_send_is_bounded_by_the_bandwidth_too() {
    let (mut world, _, relayed) = with_bandwidth(100_000);
    let mut send = |world: &mut World| {
        let outcome = world.peer_says(relayed, socket(PEER), &[0; 1000]);
        !outcome.to_clients.is_empty()
    };
    let through = offer(&mut world, 10, &mut send);
    assert!((1050..=1110).contains(&through), "{through}");
}

#[test]
fn each_direction_has_a_bandwidth_of_its_own() {
    let (mut world, client, relayed) = with_bandwidth(100_000);
    while !client
        .send_on(&mut world, 0x4000, &[0; 1000])
        .to_peers
        .is_empty()
    {}
    let outcome = world.peer_says(relayed, socket(PEER), &[0; 1000]);
    assert_eq!(outcome.to_clients.len(), 1);
}

#[test]
fn a_bandwidth_is_that_of_all_allocations_of_a_user() {
    let (mut world, client, _) = with_bandwidth(100_000);
    let (mut second, _) = Client::allocated(&mut world, "alice");
    second.permit(&mut world, socket(PEER));
    let (mut other, _) = Client::allocated(&mut world, "bob");
    other.permit(&mut world, socket(PEER));
    while !client
        .send_on(&mut world, 0x4000, &[0; 1000])
        .to_peers
        .is_empty()
    {}
    second.send(&mut world, socket(PEER), &[0; 1000]).silence();
    assert!(
        other.reaches(&mut world, socket(PEER)),
        "another user's is another"
    );
}

#[test]
fn a_small_bandwidth_lets_the_longest_datagram_through() {
    let (mut world, client, _) = with_bandwidth(1000);
    let outcome = client.send_on(&mut world, 0x4000, &vec![0; 65_000]);
    assert_eq!(outcome.to_peers.len(), 1);
    client
        .send_on(&mut world, 0x4000, &vec![0; 65_000])
        .silence();
    world.pass(Duration::from_secs(70));
    let outcome = client.send_on(&mut world, 0x4000, &vec![0; 65_000]);
    assert_eq!(outcome.to_peers.len(), 1);
}

#[test]
fn without_a_bandwidth_everything_goes_through() {
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    client.permit(&mut world, socket(PEER));
    for _ in 0..10_000 {
        client.send(&mut world, socket(PEER), &[0; 1000]).to_peer();
    }
}

#[test]
fn requests_are_answered_whatever_the_bandwidth() {
    let (mut world, mut client, _) = with_bandwidth(1000);
    while !client
        .send_on(&mut world, 0x4000, &[0; 1000])
        .to_peers
        .is_empty()
    {}
    for _ in 0..100 {
        client.refresh(&mut world, 600).success();
    }
}
