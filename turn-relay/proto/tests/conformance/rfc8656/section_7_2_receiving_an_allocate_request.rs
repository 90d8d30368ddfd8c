//! RFC 8656 §7.2: an Allocate request's checks, one by one and in their order, and what a success says.

use std::{collections::HashSet, time::Duration};

use turn_relay_proto::{
    RelayFailure,
    address::{Family, Transport},
    config::RelayAddress,
    effect::RelayKind,
};

use crate::support::{
    client::Client,
    random::Seeded,
    stun::{ALLOCATE, Draft, attribute},
    world::{RELAY_V4, RELAY_V6, World, config, relay_address},
};

/// Asks as a new client.
fn ask(world: &mut World, request: Draft) -> crate::support::stun::Decoded {
    Client::new(world, "alice").call(world, request)
}

#[test]
fn a_success_says_the_relayed_address_the_mapped_address_and_the_lifetime() {
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice");
    client.challenge(&mut world);
    let (answer, outcome) = client.call_with_outcome(&mut world, Draft::allocate());
    let answer = answer.success();
    let [socket] = outcome.opened[..] else {
        panic!("{outcome:?}")
    };
    assert_eq!(answer.relayed(), [socket.advertised]);
    assert_eq!(socket.kind, RelayKind::Udp);
    assert_eq!(answer.mapped(), client.five_tuple.client);
    assert_eq!(answer.lifetime(), 600);
    assert!(!answer.has(attribute::RESERVATION_TOKEN));
    assert!(!answer.has(attribute::ADDRESS_ERROR_CODE));
    assert_eq!(world.allocations(), 1);
}

#[test]
fn the_relayed_address_is_ipv4_unless_something_else_is_requested() {
    let mut world = World::new();
    let mut client = Client::over(&mut world, "alice", Transport::Udp, Family::V6);
    assert_eq!(
        client.allocate(&mut world).ip().to_string(),
        RELAY_V4,
        "also if the client comes over IPv6"
    );
    let relayed = ask(&mut world, Draft::allocate().family(1)).relayed();
    assert_eq!(relayed[0].ip().to_string(), RELAY_V4);
    let relayed = ask(&mut world, Draft::allocate().family(2)).relayed();
    assert_eq!(relayed[0].ip().to_string(), RELAY_V6);
}

#[test]
fn behind_a_nat_clients_are_told_the_address_outside() {
    let outside = relay_address("203.0.113.99").advertised;
    let inside = relay_address("10.0.0.5").bind;
    let mut world = World::with(|config| {
        config.relay_addresses[0] = RelayAddress {
            bind: inside,
            advertised: outside,
        };
    });
    let mut client = Client::new(&mut world, "alice");
    let (answer, outcome) = client.call_with_outcome(&mut world, Draft::allocate());
    assert_eq!(outcome.opened[0].bound.ip(), inside);
    assert_eq!(answer.success().relayed()[0].ip(), outside);
}

#[test]
fn check_2_a_5_tuple_in_use_gets_437() {
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    client.call(&mut world, Draft::allocate()).error(437);
    // before what follows is looked at
    client.call(&mut world, Draft::request(ALLOCATE)).error(437);
    client
        .call(&mut world, Draft::request(ALLOCATE).transport(132))
        .error(437);
}

#[test]
fn a_5_tuple_whose_allocation_has_expired_is_not_in_use() {
    let mut world = World::new();
    let (mut client, first) = Client::allocated(&mut world, "alice");
    world.pass(Duration::from_secs(600));
    client.allocate(&mut world);
    world.tick();
    assert_eq!(world.allocations(), 1);
    assert!(
        world.relay(first).is_none() || world.open_sockets().count() == 1,
        "the old socket was closed"
    );
}

#[test]
fn check_3_a_missing_or_malformed_requested_transport_gets_400() {
    let mut world = World::new();
    for request in [
        Draft::request(ALLOCATE),
        Draft::request(ALLOCATE).with(attribute::REQUESTED_TRANSPORT, &[]),
        Draft::request(ALLOCATE).with(attribute::REQUESTED_TRANSPORT, &[17]),
        Draft::request(ALLOCATE).with(attribute::REQUESTED_TRANSPORT, &[17, 0, 0]),
        Draft::request(ALLOCATE).with(attribute::REQUESTED_TRANSPORT, &[17, 0, 0, 0, 0]),
    ] {
        ask(&mut world, request).error(400);
    }
}

#[test]
fn check_3_the_reserved_bytes_of_requested_transport_are_ignored() {
    let mut world = World::new();
    let request = Draft::request(ALLOCATE).with(attribute::REQUESTED_TRANSPORT, &[17, 1, 2, 3]);
    ask(&mut world, request).success();
}

#[test]
fn check_3_another_transport_than_udp_gets_442() {
    let mut world = World::new();
    for protocol in [0, 1, 6, 16, 18, 33, 58, 132, 136, 255] {
        ask(&mut world, Draft::request(ALLOCATE).transport(protocol)).error(442);
    }
}

#[test]
fn check_3_comes_before_the_checks_of_tokens_and_families() {
    let mut world = World::new();
    let request = Draft::request(ALLOCATE).transport(132);
    for request in [
        request.clone().token(&[0; 8]),
        request.clone().token(&[0; 8]).even_port(),
        request.clone().family(1).additional_family(2),
        request.family(3),
    ] {
        ask(&mut world, request).error(442);
    }
}

#[test]
fn check_4_dont_fragment_is_supported() {
    let mut world = World::new();
    ask(&mut world, Draft::allocate().dont_fragment()).success();
}

#[test]
fn check_5_a_token_with_what_contradicts_it_gets_400() {
    let mut world = World::new();
    let token = [7; 8];
    for request in [
        Draft::allocate().token(&token).even_port(),
        Draft::allocate().token(&token).even_port_and_next(),
        Draft::allocate().token(&token).family(1),
        Draft::allocate().token(&token).family(2),
        Draft::allocate().token(&token).additional_family(2),
    ] {
        ask(&mut world, request).error(400);
    }
}

#[test]
fn check_5_a_token_that_nobody_gave_out_gets_508() {
    let mut world = World::new();
    for token in [[0; 8], [0xFF; 8], [1, 2, 3, 4, 5, 6, 7, 8]] {
        ask(&mut world, Draft::allocate().token(&token)).error(508);
    }
}

#[test]
fn check_5_a_token_of_another_length_is_not_valid() {
    let mut world = World::new();
    for len in [0, 1, 4, 7, 9, 12] {
        let answer = ask(&mut world, Draft::allocate().token(&vec![0; len]));
        assert!(matches!(answer.code(), Some(400 | 508)), "{answer:?}");
    }
}

#[test]
fn check_6_both_family_attributes_get_400() {
    let mut world = World::new();
    for (requested, additional) in [(1, 2), (2, 2), (1, 1), (3, 2)] {
        let request = Draft::allocate().family(requested);
        ask(&mut world, request.additional_family(additional)).error(400);
    }
}

#[test]
fn check_7_a_family_that_does_not_exist_gets_440() {
    let mut world = World::new();
    for family in [0, 3, 4, 255] {
        ask(&mut world, Draft::allocate().family(family)).error(440);
    }
}

#[test]
fn check_7_a_family_without_a_relay_address_gets_440() {
    let mut only_v4 = World::with(|config| config.relay_addresses.truncate(1));
    ask(&mut only_v4, Draft::allocate().family(2)).error(440);
    ask(&mut only_v4, Draft::allocate().family(1)).success();
    let mut only_v6 = World::with(|config| {
        config.relay_addresses.remove(0);
    });
    ask(&mut only_v6, Draft::allocate().family(1)).error(440);
    ask(&mut only_v6, Draft::allocate()).error(440);
    ask(&mut only_v6, Draft::allocate().family(2)).success();
}

#[test]
fn check_7_comes_before_the_ports_are_looked_at() {
    let mut world = World::with(|config| config.relay_addresses.truncate(1));
    ask(&mut world, Draft::allocate().family(2).even_port_and_next()).error(440);
}

#[test]
fn check_7_a_malformed_family_gets_an_error() {
    let mut world = World::new();
    for value in [&[][..], &[1], &[1, 0, 0], &[1, 0, 0, 0, 0]] {
        let request = Draft::allocate().with(attribute::REQUESTED_ADDRESS_FAMILY, value);
        let answer = ask(&mut world, request);
        assert!(matches!(answer.code(), Some(400 | 440)), "{answer:?}");
    }
}

#[test]
fn check_7_the_reserved_bytes_of_a_family_are_ignored() {
    let mut world = World::new();
    let request = Draft::allocate().with(attribute::REQUESTED_ADDRESS_FAMILY, &[2, 1, 2, 3]);
    assert!(ask(&mut world, request).success().relayed()[0].is_ipv6());
}

#[test]
fn check_8_without_free_ports_there_is_508() {
    let mut config = config();
    config.relay_addresses.truncate(1);
    let mut world = World::of(1, config, 50_000..=50_002, 1);
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Client::allocated(&mut world, "alice").0);
    }
    ask(&mut world, Draft::allocate()).error(508);
    assert_eq!(world.allocations(), 3);
    // a port that is given back is a free port
    clients[1].refresh(&mut world, 0).success();
    ask(&mut world, Draft::allocate()).success();
    ask(&mut world, Draft::allocate()).error(508);
}

#[test]
fn a_socket_that_cannot_be_opened_gets_508() {
    let mut world = World::new();
    world.failures = [Some(RelayFailure::Other)].into();
    ask(&mut world, Draft::allocate()).error(508);
    assert_eq!(world.allocations(), 0);
    assert_eq!(world.open_sockets().count(), 0);
    ask(&mut world, Draft::allocate()).success();
}

#[test]
fn a_port_that_something_else_has_is_not_the_only_one() {
    let mut world = World::new();
    for failures in 1..=3 {
        world.failures = vec![Some(RelayFailure::PortInUse); failures].into();
        ask(&mut world, Draft::allocate()).success();
    }
    assert_eq!(world.allocations(), 3);
}

#[test]
fn when_every_port_is_had_by_something_else_there_is_508_after_a_while() {
    let mut world = World::new();
    world.failures = vec![Some(RelayFailure::PortInUse); 100_000].into();
    ask(&mut world, Draft::allocate()).error(508);
    let tried = 100_000 - world.failures.len();
    assert!(tried >= 2, "it was tried again");
    assert!(tried <= 100, "and not for ever: {tried}");
    assert_eq!(world.allocations(), 0);
}

#[test]
fn a_request_that_failed_leaves_its_5_tuple_free() {
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice");
    world.failures = [Some(RelayFailure::Other)].into();
    client.call(&mut world, Draft::allocate()).error(508);
    client.call(&mut world, Draft::request(ALLOCATE)).error(400);
    client.call(&mut world, Draft::allocate()).success();
}

#[test]
fn a_retry_of_a_request_that_failed_is_tried_again() {
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice");
    client.challenge(&mut world);
    world.failures = [Some(RelayFailure::Other)].into();
    let bytes = client.sign(Draft::allocate());
    client.call_with_bytes(&mut world, &bytes).0.error(508);
    // the same transaction: a copy of the request on its way, or a client that tries again
    let (answer, _) = client.call_with_bytes(&mut world, &bytes);
    assert!(answer.is_success() || answer.code() == Some(508));
}

#[test]
fn ports_are_of_the_configured_range_and_drawn_at_random() {
    // RFC 6056; also: each run draws others
    let draw = |seed| {
        let mut world = World::of(1, config(), 50_000..=50_999, seed);
        let ports: Vec<_> = (0..100)
            .map(|number| {
                let (_, relayed) = Client::allocated(&mut world, &format!("user {number}"));
                assert!((50_000..=50_999).contains(&relayed.port()));
                relayed.port()
            })
            .collect();
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), 100);
        ports
    };
    let (one, two) = (draw(1), draw(2));
    assert_ne!(one, two);
    for ports in [one, two] {
        let rising = ports.windows(2).filter(|pair| pair[0] < pair[1]).count();
        assert!((20..80).contains(&rising), "no order: {ports:?}");
        let low = ports.iter().filter(|port| **port < 50_500).count();
        assert!((20..80).contains(&low), "the whole range: {ports:?}");
    }
}

#[test]
fn every_port_of_the_range_is_used_when_it_is_needed() {
    let mut config = config();
    config.quotas.allocations_per_user = 1000;
    config.relay_addresses.truncate(1);
    let mut world = World::of(1, config, 50_001..=50_100, 1);
    let ports: HashSet<_> = (0..100)
        .map(|_| Client::allocated(&mut world, "alice").1.port())
        .collect();
    assert_eq!(ports.len(), 100);
    ask(&mut world, Draft::allocate()).error(508);
}

#[test]
fn all_relay_addresses_of_a_family_are_used() {
    let mut world = World::with(|config| {
        config.relay_addresses = ["203.0.113.7", "203.0.113.8", RELAY_V6]
            .map(relay_address)
            .to_vec();
        config.quotas.allocations_per_user = 100;
    });
    let used: HashSet<_> = (0..40)
        .map(|_| Client::allocated(&mut world, "alice").1.ip())
        .collect();
    assert_eq!(used.len(), 2);
}

#[test]
fn a_relay_address_whose_ports_are_all_taken_is_no_hindrance_for_another() {
    let mut config = config();
    config.relay_addresses = ["203.0.113.7", "203.0.113.8"].map(relay_address).to_vec();
    let mut world = World::of(1, config, 50_000..=50_003, 1);
    let relayed: HashSet<_> = (0..8)
        .map(|_| Client::allocated(&mut world, "alice").1)
        .collect();
    assert_eq!(
        relayed.len(),
        8,
        "both addresses are used up to the last port"
    );
    ask(&mut world, Draft::allocate()).error(508);
}

#[test]
fn a_lifetime_is_between_the_default_and_the_most() {
    let mut world = World::new();
    for (requested, given) in [
        (0, 600),
        (1, 600),
        (599, 600),
        (600, 600),
        (601, 601),
        (3599, 3599),
        (3600, 3600),
        (3601, 3600),
        (u32::MAX, 3600),
    ] {
        let mut client = Client::new(&mut world, "alice");
        let request = Draft::allocate().lifetime(requested);
        let answer = client.call(&mut world, request).success();
        assert_eq!(answer.lifetime(), given);
        client.refresh(&mut world, 0).success();
    }
}

#[test]
fn a_malformed_lifetime_makes_no_endless_allocation() {
    let mut world = World::new();
    for value in [&[][..], &[0xFF], &[0xFF; 3], &[0xFF; 5], &[0xFF; 8]] {
        let mut client = Client::new(&mut world, "alice");
        let request = Draft::allocate().with(attribute::LIFETIME, value);
        let answer = client.call(&mut world, request);
        if answer.code() != Some(400) {
            assert!(answer.success().lifetime() <= 3600);
        }
    }
    world.advance(Duration::from_secs(3601));
    assert_eq!(world.allocations(), 0);
}

#[test]
fn an_allocation_lives_as_long_as_was_said_and_no_longer() {
    let mut world = World::new();
    for seconds in [600, 777, 3600] {
        let mut client = Client::new(&mut world, "alice");
        client
            .call(&mut world, Draft::allocate().lifetime(seconds))
            .success();
        let peer = crate::support::world::socket("198.51.100.1:9");
        let most = Duration::from_secs(seconds.into());
        world.pass(most.saturating_sub(Duration::from_millis(2)));
        client.permit(&mut world, peer);
        assert!(client.reaches(&mut world, peer));
        world.pass(Duration::from_millis(2));
        assert!(!client.reaches(&mut world, peer));
        world.tick();
        assert_eq!(world.allocations(), 0);
        assert_eq!(world.open_sockets().count(), 0);
    }
}

#[test]
fn an_allocation_ends_at_the_time_that_the_server_names() {
    let mut world = World::new();
    Client::allocated(&mut world, "alice");
    let start = world.now.time;
    let mut last = start;
    while world.allocations() > 0 {
        last = world.servers[0]
            .next_timeout()
            .expect("something is to be done");
        world.pass(last.since(world.now.time));
        world.tick();
    }
    assert_eq!(last.since(start), Duration::from_secs(600));
    assert_eq!(
        world.servers[0].next_timeout(),
        None,
        "and then there is rest"
    );
}

#[test]
fn what_comes_to_a_socket_that_was_closed_is_ignored() {
    let mut world = World::new();
    let (mut client, relayed) = Client::allocated(&mut world, "alice");
    let peer = crate::support::world::socket("198.51.100.1:9");
    client.permit(&mut world, peer);
    let (server, relay) = world.relay(relayed).unwrap();
    client.refresh(&mut world, 0).success();
    // also when another allocation has its place now
    for _ in 0..3 {
        world
            .peer_says_to(server, relay, peer, b"late", 0)
            .nothing();
        let (mut next, _) = Client::allocated(&mut world, "bob");
        next.permit(&mut world, peer);
    }
}

#[test]
fn a_draw_of_ports_does_not_repeat_from_client_to_client() {
    // somebody who sees one relayed address learns nothing about the next
    let mut seed = Seeded::new(9);
    let mut next_to_each_other = 0;
    for _ in 0..20 {
        let mut world = World::of(1, config(), 49_152..=65_535, seed.next());
        let (_, first) = Client::allocated(&mut world, "alice");
        let (_, second) = Client::allocated(&mut world, "bob");
        next_to_each_other += u32::from(first.port().abs_diff(second.port()) < 16);
    }
    assert!(next_to_each_other <= 2);
}
