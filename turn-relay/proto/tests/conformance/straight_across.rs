//! Two clients of one relay: a packet goes from one to the other without touching a socket of a relayed address, and everything is asked that would be
//! asked if it went the long way (RFC 8656 §9, §11, §12).

use std::{net::SocketAddr, time::Duration};

use turn_relay_proto::{
    address::{Family, Transport},
    counters::{Direction, DropReason},
    effect::Purpose,
};

use crate::support::{
    client::Client,
    stun::{DATA_METHOD, Draft, SEND},
    world::{RELAY_V6, START, World, config, relay_address, socket},
};

/// Two clients that permit each other, on one server or on two, over these transports.
fn pair(
    world: &mut World,
    servers: [usize; 2],
    transports: [Transport; 2],
) -> [(Client, SocketAddr); 2] {
    let mut clients = ["alice", "bob"].map(|user| {
        let number = usize::from(user == "bob");
        let client = Client::over(world, user, transports[number], Family::V4);
        let mut client = client.on_server(servers[number]);
        let relayed = client.allocate(world);
        (client, relayed)
    });
    let (at_alice, at_bob) = (clients[0].1, clients[1].1);
    clients[0].0.permit(world, at_bob);
    clients[1].0.permit(world, at_alice);
    clients
}

const UDP: [Transport; 2] = [Transport::Udp; 2];

#[test]
fn a_packet_goes_straight_to_the_other_client() {
    for servers in [[0, 0], [0, 1], [1, 0]] {
        let mut world = World::two();
        let [(alice, at_alice), (bob, at_bob)] = pair(&mut world, servers, UDP);
        let outcome = alice.send(&mut world, at_bob, b"hello");
        assert!(outcome.to_peers.is_empty());
        let message = outcome.stun();
        assert_eq!(message.method, DATA_METHOD);
        assert_eq!(
            message.peer(),
            at_alice,
            "it comes from where it would have come"
        );
        assert_eq!(message.data(), b"hello");
        assert_eq!(outcome.to_clients[0].client, bob.five_tuple);
        assert_eq!(outcome.to_clients[0].purpose, Purpose::Relayed);
        let outcome = bob.send(&mut world, at_alice, b"hello, too");
        assert_eq!(outcome.stun().peer(), at_bob);
        assert_eq!(outcome.to_clients[0].client, alice.five_tuple);
        let counters = &world.counters[servers[0]];
        assert!(counters.packets.get(Direction::ClientToClient) >= 1);
    }
}

#[test]
fn channels_of_either_side_are_used() {
    for servers in [[0, 0], [0, 1]] {
        let mut world = World::two();
        let [(mut alice, at_alice), (mut bob, at_bob)] = pair(&mut world, servers, UDP);
        // only the sender's
        alice.bind(&mut world, 0x4001, at_bob).success();
        let outcome = alice.send_on(&mut world, 0x4001, b"1");
        assert_eq!(outcome.stun().peer(), at_alice);
        // both
        bob.bind(&mut world, 0x4002, at_alice).success();
        let outcome = alice.send_on(&mut world, 0x4001, b"2");
        assert_eq!(outcome.channel_data(), (0x4002, &b"2"[..]));
        assert_eq!(outcome.to_clients[0].client, bob.five_tuple);
        // only the receiver's
        let outcome = alice.send(&mut world, at_bob, b"3");
        assert_eq!(outcome.channel_data(), (0x4002, &b"3"[..]));
        let outcome = bob.send_on(&mut world, 0x4002, b"4");
        assert_eq!(outcome.channel_data(), (0x4001, &b"4"[..]));
    }
}

#[test]
fn every_length_goes_across_as_it_is_and_padded_for_who_gets_it() {
    for transports in [
        [Transport::Udp, Transport::Tcp],
        [Transport::Tcp, Transport::Udp],
        [Transport::Tls, Transport::Tls],
        [Transport::Dtls, Transport::Tcp],
    ] {
        for room in [0, 4, 48, 100] {
            let mut world = World::two();
            let [(mut alice, at_alice), (mut bob, at_bob)] = pair(&mut world, [0, 1], transports);
            alice.bind(&mut world, 0x4001, at_bob).success();
            world.rooms.head = room;
            for channel in [false, true] {
                if channel {
                    bob.bind(&mut world, 0x4002, at_alice).success();
                }
                for len in (0..12).chain([1200, 60_000]) {
                    let data: Vec<u8> =
                        (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
                    for outcome in [
                        alice.send_on(&mut world, 0x4001, &data),
                        alice.send(&mut world, at_bob, &data),
                    ] {
                        if channel {
                            assert_eq!(outcome.channel_data(), (0x4002, data.as_slice()));
                        } else {
                            assert_eq!(outcome.stun().data(), data);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn without_the_receivers_permission_nothing_goes_across() {
    for servers in [[0, 0], [0, 1]] {
        let mut world = World::two();
        let mut alice = Client::new(&mut world, "alice").on_server(servers[0]);
        let at_alice = alice.allocate(&mut world);
        let mut bob = Client::new(&mut world, "bob").on_server(servers[1]);
        let at_bob = bob.allocate(&mut world);
        alice.permit(&mut world, at_bob);
        alice.send(&mut world, at_bob, b"hello").nothing();
        // nobody who permits nothing at the relay's own addresses can be reached there
        let drops = [DropReason::NoPermission, DropReason::NoSuchRelay];
        assert_eq!(
            drops.map(|reason| world.drops(reason)).iter().sum::<u64>(),
            1
        );
        // a permission for somebody else is none for her
        bob.permit(&mut world, socket("198.51.100.1:9"));
        alice.send(&mut world, at_bob, b"hello").nothing();
        bob.permit(&mut world, at_alice);
        assert_eq!(alice.send(&mut world, at_bob, b"hello").to_clients.len(), 1);
    }
}

#[test]
fn without_the_senders_permission_nothing_goes_across() {
    for servers in [[0, 0], [0, 1]] {
        let mut world = World::two();
        let mut alice = Client::new(&mut world, "alice").on_server(servers[0]);
        let at_alice = alice.allocate(&mut world);
        let mut bob = Client::new(&mut world, "bob").on_server(servers[1]);
        let at_bob = bob.allocate(&mut world);
        bob.permit(&mut world, at_alice);
        alice.send(&mut world, at_bob, b"hello").nothing();
    }
}

#[test]
fn permissions_of_either_side_expire() {
    for servers in [[0, 0], [0, 1]] {
        for expires in [0, 1] {
            let mut world = World::two();
            let mut clients = pair(&mut world, servers, UDP);
            let (at_alice, at_bob) = (clients[0].1, clients[1].1);
            world.pass(Duration::from_secs(200));
            let refreshed = 1 - expires;
            let peer = [at_bob, at_alice][refreshed];
            clients[refreshed].0.permit(&mut world, peer);
            world.pass(Duration::from_secs(100).saturating_sub(Duration::from_nanos(1)));
            for (client, to) in [(&clients[0].0, at_bob), (&clients[1].0, at_alice)] {
                assert_eq!(client.send(&mut world, to, b"hello").to_clients.len(), 1);
            }
            world.pass(Duration::from_nanos(1));
            for (client, to) in [(&clients[0].0, at_bob), (&clients[1].0, at_alice)] {
                client.send(&mut world, to, b"hello").nothing();
            }
        }
    }
}

#[test]
fn data_that_go_across_refresh_no_permission() {
    let mut world = World::two();
    let [(alice, at_alice), (bob, at_bob)] = pair(&mut world, [0, 1], UDP);
    for _ in 0..30 {
        assert_eq!(alice.send(&mut world, at_bob, b"hello").to_clients.len(), 1);
        assert_eq!(bob.send(&mut world, at_alice, b"hello").to_clients.len(), 1);
        world.pass(Duration::from_secs(10));
    }
    alice.send(&mut world, at_bob, b"hello").nothing();
    bob.send(&mut world, at_alice, b"hello").nothing();
}

#[test]
fn a_channel_of_the_receiver_expires() {
    for servers in [[0, 0], [0, 1]] {
        let mut world = World::two();
        let [(mut alice, at_alice), (mut bob, at_bob)] = pair(&mut world, servers, UDP);
        alice.refresh(&mut world, 3600).success();
        bob.refresh(&mut world, 3600).success();
        bob.bind(&mut world, 0x4002, at_alice).success();
        world.pass(Duration::from_secs(600).saturating_sub(Duration::from_nanos(1)));
        alice.permit(&mut world, at_bob);
        bob.permit(&mut world, at_alice);
        let outcome = alice.send(&mut world, at_bob, b"hello");
        assert_eq!(outcome.channel_data().0, 0x4002);
        world.pass(Duration::from_nanos(1));
        let outcome = alice.send(&mut world, at_bob, b"hello");
        assert_eq!(outcome.stun().peer(), at_alice);
    }
}

#[test]
fn a_receiver_whose_allocation_has_ended_gets_nothing() {
    for servers in [[0, 0], [0, 1]] {
        for how in 0..4 {
            let mut world = World::two();
            let transports = [Transport::Udp, Transport::Tcp];
            let [(mut alice, at_alice), (mut bob, at_bob)] = pair(&mut world, servers, transports);
            match how {
                0 => {
                    bob.refresh(&mut world, 0).success();
                }
                1 => {
                    world.client_closed(bob.server, bob.five_tuple);
                }
                2 | 3 => {
                    // the permissions of both live on
                    alice.refresh(&mut world, 3600).success();
                    world.pass(Duration::from_secs(590));
                    alice.permit(&mut world, at_bob);
                    bob.permit(&mut world, at_alice);
                    assert_eq!(alice.send(&mut world, at_bob, b"hello").to_clients.len(), 1);
                    world.pass(Duration::from_secs(10));
                    if how == 3 {
                        world.tick();
                    }
                }
                _ => unreachable!(),
            }
            alice.send(&mut world, at_bob, b"hello").nothing();
        }
    }
}

#[test]
fn a_receiver_who_has_refreshed_is_reached_for_as_long_as_that_gives() {
    for servers in [[0, 0], [0, 1]] {
        let mut world = World::two();
        let [(mut alice, at_alice), (mut bob, at_bob)] = pair(&mut world, servers, UDP);
        alice.refresh(&mut world, 3600).success();
        bob.refresh(&mut world, 900).success();
        for at in [0, 300, 600, 899] {
            world.pass(Duration::from_secs(at).saturating_sub(world.now.time.since(START)));
            alice.permit(&mut world, at_bob);
            bob.permit(&mut world, at_alice);
            assert_eq!(
                alice.send(&mut world, at_bob, b"hello").to_clients.len(),
                1,
                "{at}"
            );
        }
        world.pass(Duration::from_secs(1));
        alice.send(&mut world, at_bob, b"hello").nothing();
    }
}

#[test]
fn an_address_that_somebody_else_has_now_reaches_him_only_with_his_permission() {
    let mut config = config();
    config.relay_addresses.truncate(1);
    let mut world = World::of(2, config, 50_000..=50_001, 1);
    let [(alice, at_alice), (mut bob, at_bob)] = pair(&mut world, [0, 1], UDP);
    bob.refresh(&mut world, 0).success();
    let mut carol = Client::new(&mut world, "carol");
    assert_eq!(carol.allocate(&mut world), at_bob);
    alice.send(&mut world, at_bob, b"for bob").nothing();
    carol.permit(&mut world, at_alice);
    let outcome = alice.send(&mut world, at_bob, b"for carol");
    assert_eq!(outcome.to_clients[0].client, carol.five_tuple);
}

#[test]
fn bandwidth_of_both_users_is_used() {
    for exhausted in [0, 1] {
        let mut config = config();
        config.quotas.bandwidth_per_user = Some(100_000);
        let mut world = World::of(2, config, 50_000..=50_999, 1);
        let [(mut alice, _), (mut bob, at_bob)] = pair(&mut world, [0, 1], UDP);
        let peer = socket("198.51.100.1:9");
        alice.permit(&mut world, peer);
        bob.permit(&mut world, peer);
        if exhausted == 0 {
            while !alice.send(&mut world, peer, &[0; 1000]).to_peers.is_empty() {}
        } else {
            while !world
                .peer_says(at_bob, peer, &[0; 1000])
                .to_clients
                .is_empty()
            {}
        }
        alice.send(&mut world, at_bob, &[0; 1000]).nothing();
        world.pass(Duration::from_secs(1));
        let mut through = 0;
        while !alice
            .send(&mut world, at_bob, &[0; 1000])
            .to_clients
            .is_empty()
        {
            through += 1;
        }
        assert!((95..=105).contains(&through), "{through}");
        let outcome = alice.send(&mut world, peer, &[0; 1000]);
        assert!(outcome.to_peers.is_empty(), "it was her bandwidth");
        let outcome = world.peer_says(at_bob, peer, &[0; 1000]);
        assert!(outcome.to_clients.is_empty(), "and his");
    }
}

#[test]
fn dscp_and_ecn_go_across_between_datagrams_and_not_to_streams() {
    for (transports, expected) in [
        (UDP, 0xBA),
        ([Transport::Udp, Transport::Tcp], 0),
        ([Transport::Tcp, Transport::Tcp], 0),
    ] {
        let mut world = World::new();
        let [(alice, _), (_, at_bob)] = pair(&mut world, [0, 0], transports);
        let class = if transports[0] == Transport::Udp {
            0xBA
        } else {
            0
        };
        let send = Draft::indication(SEND).peer(at_bob).data(b"hello").finish();
        let outcome = world.client_says_marked(0, alice.five_tuple, &send, class);
        assert_eq!(outcome.to_clients[0].traffic_class, expected);
    }
}

#[test]
fn a_packet_over_ipv6_goes_across_too() {
    let mut world = World::two();
    let mut alice = Client::new(&mut world, "alice");
    let at_alice = alice
        .call(&mut world, Draft::allocate().family(2))
        .success()
        .relayed()[0];
    let mut bob = Client::over(&mut world, "bob", Transport::Udp, Family::V6).on_server(1);
    let at_bob = bob
        .call(&mut world, Draft::allocate().family(2))
        .success()
        .relayed()[0];
    alice.permit(&mut world, at_bob);
    bob.permit(&mut world, at_alice);
    let outcome = alice.send(&mut world, at_bob, b"hello");
    assert_eq!(outcome.stun().peer(), at_alice);
    assert_eq!(outcome.to_clients[0].client, bob.five_tuple);
}

#[test]
fn each_family_of_dual_allocations_goes_across_by_itself() {
    let mut world = World::two();
    let (mut alice, alice_v4, alice_v6) = Client::dual(&mut world, "alice");
    let mut bob = Client::new(&mut world, "bob").on_server(1);
    let answer = bob
        .call(&mut world, Draft::allocate().additional_family(2))
        .success();
    let mut at_bob = answer.relayed();
    at_bob.sort_by_key(SocketAddr::is_ipv6);
    alice.create_permissions(&mut world, &at_bob).success();
    bob.permit(&mut world, alice_v4);
    let outcome = alice.send(&mut world, at_bob[0], b"hello");
    assert_eq!(outcome.stun().peer(), alice_v4);
    alice.send(&mut world, at_bob[1], b"hello").nothing();
    bob.permit(&mut world, alice_v6);
    let outcome = alice.send(&mut world, at_bob[1], b"hello");
    assert_eq!(outcome.stun().peer(), alice_v6);
    // a deleted family is gone at once
    let request = Draft::request(crate::support::stun::REFRESH)
        .family(2)
        .lifetime(0);
    bob.call(&mut world, request).success();
    alice.send(&mut world, at_bob[1], b"hello").nothing();
    assert_eq!(
        alice.send(&mut world, at_bob[0], b"hello").to_clients.len(),
        1
    );
}

#[test]
fn a_permission_for_one_relay_address_is_none_for_another() {
    let mut config = config();
    config.relay_addresses = ["203.0.113.7", "203.0.113.8", RELAY_V6]
        .map(relay_address)
        .to_vec();
    config.quotas.allocations_per_user = 100;
    let mut world = World::of(1, config, 50_000..=50_999, 1);
    let mut on = |address: &str| loop {
        let (client, relayed) = Client::allocated(&mut world, "alice");
        if relayed.ip().to_string() == address {
            return (client, relayed);
        }
    };
    let (mut alice, at_alice) = on("203.0.113.7");
    let (mut bob, at_bob) = on("203.0.113.8");
    let (mut carol, at_carol) = on("203.0.113.7");
    alice.permit(&mut world, at_bob);
    bob.permit(&mut world, socket("203.0.113.8:1"));
    alice.send(&mut world, at_bob, b"hello").nothing();
    bob.permit(&mut world, at_alice);
    assert_eq!(
        alice.send(&mut world, at_bob, b"hello").stun().peer(),
        at_alice
    );
    // on one address: a permission knows no ports, and a channel does
    bob.bind(&mut world, 0x4000, at_alice).success();
    carol.permit(&mut world, at_bob);
    assert_eq!(
        carol.send(&mut world, at_bob, b"hello").stun().peer(),
        at_carol
    );
    assert_eq!(
        alice.send(&mut world, at_bob, b"hello").channel_data().0,
        0x4000
    );
}

#[test]
fn behind_a_nat_it_is_the_advertised_addresses_that_clients_reach_each_other_at() {
    let mut config = config();
    config.relay_addresses[0].bind = "10.0.0.5".parse().unwrap();
    let mut world = World::of(2, config, 50_000..=50_999, 1);
    let [(mut alice, at_alice), (_, at_bob)] = pair(&mut world, [0, 1], UDP);
    let outcome = alice.send(&mut world, at_bob, b"hello");
    assert_eq!(outcome.stun().peer(), at_alice);
    let inside = SocketAddr::new("10.0.0.5".parse().unwrap(), at_bob.port());
    alice.create_permissions(&mut world, &[inside]).error(403);
    alice.send(&mut world, inside, b"hello").nothing();
}

#[test]
fn a_client_may_reach_itself() {
    let mut world = World::new();
    let (mut client, relayed) = Client::allocated(&mut world, "alice");
    client.permit(&mut world, relayed);
    let outcome = client.send(&mut world, relayed, b"echo");
    assert_eq!(outcome.stun().peer(), relayed);
    assert_eq!(outcome.to_clients[0].client, client.five_tuple);
}

#[test]
fn after_new_settings_packets_go_across_as_before() {
    let mut world = World::two();
    let [(alice, at_alice), (_, at_bob)] = pair(&mut world, [0, 1], UDP);
    world.reconfigure(|config| config.realm = "new.example.org".to_owned());
    let outcome = alice.send(&mut world, at_bob, b"hello");
    assert_eq!(outcome.stun().peer(), at_alice);
}

#[test]
fn a_datagram_that_comes_the_long_way_is_taken_as_any() {
    // from a relayed address of another relay on the same host, or from a NAT that turns packets round
    let mut world = World::new();
    let [_, (bob, at_bob)] = pair(&mut world, [0, 0], UDP);
    let outcome = world.peer_says(at_bob, socket("203.0.113.7:50998"), b"hello");
    for message in outcome.to_clients {
        assert_eq!(message.client, bob.five_tuple);
    }
}
