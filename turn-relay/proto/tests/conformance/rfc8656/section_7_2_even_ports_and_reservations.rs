//! RFC 8656 §7.2, checks 5 and 8: EVEN-PORT and RESERVATION-TOKEN.

use std::{collections::HashSet, net::SocketAddr, time::Duration};

use turn_relay_proto::{
    RelayFailure,
    address::{Family, Transport},
};

use crate::support::{
    client::Client,
    stun::{Draft, attribute},
    world::{World, config},
};

/// A client with an even port, the port above which is held, and the token.
fn reserve(world: &mut World) -> (Client, SocketAddr, Vec<u8>) {
    let mut client = Client::new(world, "alice");
    let answer = client.call(world, Draft::allocate().even_port_and_next());
    let answer = answer.success();
    let token = answer.value(attribute::RESERVATION_TOKEN).unwrap().to_vec();
    (client, answer.relayed()[0], token)
}

#[test]
fn an_even_port_is_even() {
    let mut world = World::with(|config| config.quotas.allocations_per_user = 100);
    for _ in 0..50 {
        let mut client = Client::new(&mut world, "alice");
        let answer = client
            .call(&mut world, Draft::allocate().even_port())
            .success();
        assert_eq!(answer.relayed()[0].port() % 2, 0);
        assert!(
            !answer.has(attribute::RESERVATION_TOKEN),
            "the R bit was not set"
        );
    }
}

#[test]
fn the_other_bits_of_even_port_are_ignored() {
    let mut world = World::new();
    for (flags, reserved) in [(0x7F, false), (0xFF, true)] {
        let mut client = Client::new(&mut world, "alice");
        let request = Draft::allocate().with(attribute::EVEN_PORT, &[flags]);
        let answer = client.call(&mut world, request).success();
        assert_eq!(answer.has(attribute::RESERVATION_TOKEN), reserved);
    }
}

#[test]
fn without_even_ports_there_is_508() {
    let mut config = config();
    config.relay_addresses.truncate(1);
    let mut world = World::of(1, config, 50_001..=50_001, 1);
    for request in [
        Draft::allocate().even_port(),
        Draft::allocate().even_port_and_next(),
    ] {
        Client::new(&mut world, "alice")
            .call(&mut world, request)
            .error(508);
    }
    Client::new(&mut world, "alice")
        .call(&mut world, Draft::allocate())
        .success();
}

#[test]
fn a_pair_needs_two_ports() {
    let mut config = config();
    config.relay_addresses.truncate(1);
    // 50000 is even, and 50001 is not of the range
    let mut world = World::of(1, config, 49_999..=50_000, 1);
    let mut client = Client::new(&mut world, "alice");
    client
        .call(&mut world, Draft::allocate().even_port_and_next())
        .error(508);
    assert_eq!(world.allocations(), 0);
    // nothing was left taken
    for _ in 0..2 {
        Client::allocated(&mut world, "alice");
    }
}

#[test]
fn a_token_gives_the_port_above_on_the_same_address() {
    let mut world = World::new();
    let (_, first, token) = reserve(&mut world);
    assert_eq!(first.port() % 2, 0);
    let mut second = Client::new(&mut world, "alice");
    let answer = second
        .call(&mut world, Draft::allocate().token(&token))
        .success();
    assert_eq!(
        answer.relayed(),
        [SocketAddr::new(first.ip(), first.port() + 1)]
    );
    assert!(!answer.has(attribute::RESERVATION_TOKEN));
}

#[test]
fn a_token_may_be_shown_over_another_transport_by_another_address_and_on_another_server() {
    let mut world = World::two();
    for (server, transport, family) in [
        (1, Transport::Udp, Family::V4),
        (1, Transport::Tcp, Family::V6),
        (0, Transport::Tls, Family::V4),
    ] {
        let (mut client, first, token) = reserve(&mut world);
        let second = Client::over(&mut world, "alice", transport, family);
        let mut second = second.on_server(server);
        let answer = second
            .call(&mut world, Draft::allocate().token(&token))
            .success();
        assert_eq!(answer.relayed()[0].port(), first.port() + 1);
        client.refresh(&mut world, 0).success();
    }
}

#[test]
fn a_token_is_good_for_one_allocation() {
    let mut world = World::two();
    let (_, _, token) = reserve(&mut world);
    let mut second = Client::new(&mut world, "alice").on_server(1);
    second
        .call(&mut world, Draft::allocate().token(&token))
        .success();
    let mut third = Client::new(&mut world, "alice");
    third
        .call(&mut world, Draft::allocate().token(&token))
        .error(508);
    // not even when the port is free again
    second.refresh(&mut world, 0).success();
    third
        .call(&mut world, Draft::allocate().token(&token))
        .error(508);
}

#[test]
fn a_reservation_is_held_for_30_seconds_at_least() {
    let mut world = World::new();
    let (_, first, token) = reserve(&mut world);
    world.advance(Duration::from_millis(29_999));
    let mut second = Client::new(&mut world, "alice");
    let answer = second
        .call(&mut world, Draft::allocate().token(&token))
        .success();
    assert_eq!(answer.relayed()[0].port(), first.port() + 1);
}

#[test]
fn a_reservation_outlives_the_allocation_that_made_it() {
    let mut world = World::new();
    let (mut client, first, token) = reserve(&mut world);
    client.refresh(&mut world, 0).success();
    let mut second = Client::new(&mut world, "alice");
    let answer = second
        .call(&mut world, Draft::allocate().token(&token))
        .success();
    assert_eq!(answer.relayed()[0].port(), first.port() + 1);
}

#[test]
fn a_user_holds_no_more_ports_than_it_may_have_allocations() {
    // otherwise one user could hold all ports by making and ending allocations
    let mut world = World::with(|config| config.quotas.allocations_per_user = 3);
    for _ in 0..3 {
        let (mut client, ..) = reserve(&mut world);
        client.refresh(&mut world, 0).success();
    }
    let pair = || Draft::allocate().even_port_and_next();
    let mut client = Client::new(&mut world, "alice");
    client.call(&mut world, pair()).error(486);
    // others may, and an allocation without a pair is no matter of it
    let mut other = Client::new(&mut world, "bob");
    other.call(&mut world, pair()).success();
    client.call(&mut world, Draft::allocate()).success();
    client.refresh(&mut world, 0).success();
    world.advance(Duration::from_secs(31));
    client.call(&mut world, pair()).success();
}

#[test]
fn a_reservation_that_nobody_wanted_is_given_back() {
    let mut config = config();
    config.relay_addresses.truncate(1);
    let mut world = World::of(1, config, 50_000..=50_001, 1);
    let (mut client, _, token) = reserve(&mut world);
    let mut second = Client::new(&mut world, "alice");
    second.call(&mut world, Draft::allocate()).error(508);
    // §7.2 allows to hold it as long as the allocation lives
    world.advance(Duration::from_secs(31));
    client.refresh(&mut world, 0).success();
    world.advance(Duration::from_secs(31));
    second
        .call(&mut world, Draft::allocate().token(&token))
        .error(508);
    let relayed: HashSet<_> = (0..2)
        .map(|_| Client::allocated(&mut world, "alice").1)
        .collect();
    assert_eq!(relayed.len(), 2);
}

#[test]
fn a_held_port_is_given_to_nobody_else() {
    let mut world = World::of(2, config(), 50_000..=50_009, 3);
    let mut tokens = Vec::new();
    let mut held = HashSet::new();
    for _ in 0..4 {
        let (_, first, token) = reserve(&mut world);
        tokens.push(token);
        assert!(held.insert(first.port() + 1));
    }
    // two are left
    for server in 0..2 {
        let mut client = Client::new(&mut world, "bob").on_server(server);
        assert!(!held.contains(&client.allocate(&mut world).port()));
    }
    let mut client = Client::new(&mut world, "bob");
    client.call(&mut world, Draft::allocate()).error(508);
    for token in tokens {
        let mut client = Client::new(&mut world, "alice");
        client
            .call(&mut world, Draft::allocate().token(&token))
            .success();
    }
}

#[test]
fn a_token_cannot_be_guessed_from_another() {
    let mut world = World::with(|config| config.quotas.allocations_per_user = 100);
    let tokens: Vec<u64> = (0..50)
        .map(|_| u64::from_be_bytes(reserve(&mut world).2.try_into().unwrap()))
        .collect();
    assert_eq!(tokens.iter().collect::<HashSet<_>>().len(), 50);
    for pair in tokens.windows(2) {
        assert!(pair[0].abs_diff(pair[1]) > 1 << 32, "{pair:x?}");
    }
}

#[test]
fn an_ipv6_pair_is_one_of_ipv6() {
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice");
    let request = Draft::allocate().family(2).even_port_and_next();
    let answer = client.call(&mut world, request).success();
    let first = answer.relayed()[0];
    assert!(first.is_ipv6() && first.port().is_multiple_of(2));
    let token = answer.value(attribute::RESERVATION_TOKEN).unwrap().to_vec();
    let mut second = Client::new(&mut world, "alice");
    let answer = second
        .call(&mut world, Draft::allocate().token(&token))
        .success();
    assert_eq!(
        answer.relayed(),
        [SocketAddr::new(first.ip(), first.port() + 1)]
    );
}

#[test]
fn check_8_a_pair_of_ports_and_two_families_get_400() {
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice");
    let request = Draft::allocate().even_port_and_next().additional_family(2);
    client.call(&mut world, request).error(400);
    assert_eq!(world.allocations(), 0);
}

#[test]
fn an_even_port_of_two_families_is_even_in_both() {
    let mut world = World::new();
    for _ in 0..10 {
        let mut client = Client::new(&mut world, "alice");
        let request = Draft::allocate().even_port().additional_family(2);
        let relayed = client.call(&mut world, request).success().relayed();
        assert!(relayed.iter().all(|address| address.port() % 2 == 0));
    }
}

#[test]
fn a_malformed_even_port_gets_an_error() {
    let mut world = World::new();
    for value in [&[][..], &[0, 0], &[0x80, 0, 0, 0]] {
        let mut client = Client::new(&mut world, "alice");
        let request = Draft::allocate().with(attribute::EVEN_PORT, value);
        client.call(&mut world, request).error(400);
    }
}

#[test]
fn a_pair_whose_port_something_else_has_is_looked_for_elsewhere() {
    let mut world = World::new();
    world.failures = [Some(RelayFailure::PortInUse)].into();
    let (_, first, token) = reserve(&mut world);
    let mut second = Client::new(&mut world, "alice");
    let answer = second
        .call(&mut world, Draft::allocate().token(&token))
        .success();
    assert_eq!(answer.relayed()[0].port(), first.port() + 1);
}

#[test]
fn a_held_port_that_something_else_has_by_then_gets_508() {
    let mut world = World::new();
    let (_, _, token) = reserve(&mut world);
    let mut second = Client::new(&mut world, "alice");
    world.failures = [Some(RelayFailure::PortInUse)].into();
    second
        .call(&mut world, Draft::allocate().token(&token))
        .error(508);
    assert_eq!(world.allocations(), 1);
}

#[test]
fn a_refused_request_uses_no_reservation_up() {
    // who may not have an allocation does not take the port from who may
    let mut world = World::with(|config| config.quotas.allocations_per_user = 2);
    let (_, first, token) = reserve(&mut world);
    Client::allocated(&mut world, "alice");
    let mut over_quota = Client::new(&mut world, "alice");
    over_quota
        .call(&mut world, Draft::allocate().token(&token))
        .error(486);
    let mut bob = Client::new(&mut world, "bob");
    let answer = bob
        .call(&mut world, Draft::allocate().token(&token))
        .success();
    assert_eq!(answer.relayed()[0].port(), first.port() + 1);
}

#[test]
fn a_pair_that_did_not_come_about_holds_nothing() {
    let mut config = config();
    config.relay_addresses.truncate(1);
    let mut world = World::of(1, config, 50_000..=50_001, 1);
    world.failures = [Some(RelayFailure::Other)].into();
    let mut client = Client::new(&mut world, "alice");
    client
        .call(&mut world, Draft::allocate().even_port_and_next())
        .error(508);
    assert_eq!(client.allocate(&mut world).port(), 50_001);
}
