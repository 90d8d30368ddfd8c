//! RFC 8656 §5: what holds for all messages: whose allocation a 5-tuple is, and who may do something with it.

use std::time::Duration;

use turn_relay_proto::{
    address::{Family, Link, Transport},
    counters::{AuthFailure, DropReason},
};

use crate::support::{
    client::{Client, Protection},
    stun::{ALLOCATE, CHANNEL_BIND, CREATE_PERMISSION, Draft, REFRESH, attribute},
    world::{World, socket},
};

const PEER: &str = "198.51.100.1:9";

/// Requests for which an allocation has to be there.
fn requests() -> [Draft; 3] {
    [
        Draft::request(REFRESH).lifetime(600),
        Draft::request(CREATE_PERMISSION).peer(socket(PEER)),
        Draft::request(CHANNEL_BIND)
            .channel(0x4000)
            .peer(socket(PEER)),
    ]
}

#[test]
fn a_request_without_an_allocation_gets_437() {
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice");
    for request in requests() {
        client.call(&mut world, request).error(437);
    }
    client.refresh(&mut world, 0).error(437);
}

#[test]
fn a_request_without_an_allocation_gets_437_before_its_attributes_are_looked_at() {
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice");
    for request in [
        Draft::request(CREATE_PERMISSION),
        Draft::request(CHANNEL_BIND),
        Draft::request(CREATE_PERMISSION).peer(socket("127.0.0.1:9")),
        Draft::request(REFRESH).family(2),
    ] {
        client.call(&mut world, request).error(437);
    }
}

#[test]
fn an_indication_or_channel_data_without_an_allocation_is_ignored_in_silence() {
    let mut world = World::new();
    let client = Client::new(&mut world, "alice");
    client.send(&mut world, socket(PEER), b"data").nothing();
    client.send_on(&mut world, 0x4000, b"data").nothing();
    assert_eq!(world.drops(DropReason::NoAllocation), 2);
}

#[test]
fn a_request_after_the_allocation_has_expired_gets_437() {
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    // whether the server was told of the time or not
    world.pass(Duration::from_secs(600));
    for request in requests() {
        client.call(&mut world, request).error(437);
    }
    world.tick();
    for request in requests() {
        client.call(&mut world, request).error(437);
    }
}

#[test]
fn a_request_with_another_username_gets_441() {
    for protection in Protection::ALL {
        let mut world = World::new();
        let mut alice = Client::new(&mut world, "alice").protected_by(protection);
        alice.allocate(&mut world);
        let username = format!("{}:mallory", world.now.unix_seconds + 86_400);
        let mut mallory = alice.clone().with_username(&username);
        for request in requests() {
            mallory.call(&mut world, request).error(441);
        }
        mallory.refresh(&mut world, 0).error(441);
        assert_eq!(
            world.counters[0].auth_failures.get(AuthFailure::OtherUser),
            4
        );
        assert!(!alice.reaches(&mut world, socket(PEER)), "nothing was done");
        alice.refresh(&mut world, 600).success();
    }
}

#[test]
fn a_request_with_another_username_gets_441_before_its_attributes_are_looked_at() {
    let mut world = World::new();
    let (alice, _) = Client::allocated(&mut world, "alice");
    let username = format!("{}:mallory", world.now.unix_seconds + 86_400);
    let mut mallory = alice.with_username(&username);
    for request in [
        Draft::request(CREATE_PERMISSION),
        Draft::request(CHANNEL_BIND),
        Draft::request(REFRESH).family(2),
    ] {
        mallory.call(&mut world, request).error(441);
    }
}

#[test]
fn an_allocate_request_with_another_username_on_a_5_tuple_in_use_gets_437() {
    // §5: 441 is for requests that are no Allocate
    let mut world = World::new();
    let (alice, _) = Client::allocated(&mut world, "alice");
    let username = format!("{}:mallory", world.now.unix_seconds + 86_400);
    let mut mallory = alice.with_username(&username);
    mallory.call(&mut world, Draft::allocate()).error(437);
}

#[test]
fn the_protection_may_change_from_request_to_request() {
    // it is the username that has to stay
    let mut world = World::new();
    let (client, _) = Client::allocated(&mut world, "alice");
    for protection in Protection::ALL {
        let mut client = client.clone().protected_by(protection);
        for request in requests() {
            client.call(&mut world, request).success();
        }
    }
}

#[test]
fn an_allocation_belongs_to_its_whole_5_tuple() {
    let mut world = World::new();
    let (alice, relayed) = Client::allocated(&mut world, "alice");
    let mut five_tuples = [alice.five_tuple; 4];
    five_tuples[0]
        .client
        .set_port(alice.five_tuple.client.port() + 1);
    five_tuples[1].client.set_ip([192, 0, 2, 250].into());
    five_tuples[2].link = Link(2);
    five_tuples[3].transport = Transport::Tcp;
    five_tuples[3].link = Link(77);
    for five_tuple in five_tuples {
        let mut other = alice.clone();
        other.five_tuple = five_tuple;
        other.challenge(&mut world);
        for request in requests() {
            other.call(&mut world, request).error(437);
        }
        other.send_on(&mut world, 0x4000, b"data").nothing();
        let its_own = other.allocate(&mut world);
        assert_ne!(its_own, relayed);
    }
    assert_eq!(world.allocations(), 5);
}

#[test]
fn all_transports_and_families_are_served() {
    let mut world = World::new();
    for transport in [
        Transport::Udp,
        Transport::Tcp,
        Transport::Tls,
        Transport::Dtls,
    ] {
        for family in [Family::V4, Family::V6] {
            for requested in [Family::V4, Family::V6] {
                let user = format!("{transport:?}{family:?}{requested:?}");
                let mut client = Client::over(&mut world, &user, transport, family);
                let request = Draft::allocate().family(requested.number());
                let relayed = client.call(&mut world, request).success().relayed();
                assert_eq!(Family::of(relayed[0].ip()), requested);
                let peer = match requested {
                    Family::V4 => socket(PEER),
                    Family::V6 => socket("[2001:db8:5::1]:9"),
                };
                client.permit(&mut world, peer);
                assert!(client.reaches(&mut world, peer));
                assert!(client.hears(&mut world, relayed[0], peer).is_some());
            }
        }
    }
}

#[test]
fn a_new_client_is_given_a_new_nonce() {
    // §5: the server SHOULD generate a new nonce when an allocation is first attempted
    let mut world = World::new();
    let mut first = Client::new(&mut world, "alice");
    let mut second = Client::new(&mut world, "alice");
    first.challenge(&mut world);
    second.challenge(&mut world);
    assert_ne!(first.nonce, second.nonce);
}

#[test]
fn an_allocation_of_one_server_is_not_one_of_another() {
    // a 5-tuple belongs to one thread; were its packets to come to another one, nothing is there
    let mut world = World::two();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    client.server = 1;
    client.call(&mut world, Draft::request(REFRESH)).error(437);
    client.send_on(&mut world, 0x4000, b"data").nothing();
    client.server = 0;
    client.call(&mut world, Draft::request(REFRESH)).success();
    let request = Draft::request(ALLOCATE).transport(17);
    client.call(&mut world, request).error(437);
}

#[test]
fn answers_to_allocate_and_refresh_name_the_software_without_its_version() {
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice");
    let answers = [
        client.call(&mut world, Draft::request(REFRESH)).error(437),
        client.call(&mut world, Draft::request(ALLOCATE)).error(400),
        client.call(&mut world, Draft::allocate()).success(),
        client.refresh(&mut world, 600).success(),
    ];
    for answer in answers {
        let software = answer.value(attribute::SOFTWARE).expect("it is named");
        assert!(!software.is_empty());
        assert!(!software.iter().any(u8::is_ascii_digit), "{software:?}");
    }
}
