//! RFC 8489 §9.2.1: the nonce cookie says which security features there are, so that nobody on the path can take them away.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD};

use crate::support::{
    client::{Client, Protection},
    stun::{Draft, REFRESH, attribute},
    world::World,
};

#[test]
fn a_nonce_begins_with_the_cookie_and_says_password_algorithms() {
    // bit 0 of 24 is the leftmost by the text of §18.1, and the rightmost by erratum 6290 and the example of appendix B.1
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice");
    client.challenge(&mut world);
    let rest = client.nonce.strip_prefix(b"obMatJos2").expect("the cookie");
    let features = BASE64_STANDARD.decode(&rest[..4]).unwrap();
    // bit 1, username anonymity, is not set by either: usernames are not known beforehand
    assert_eq!(features, [0x80, 0, 0x01]);
}

#[test]
fn both_algorithms_are_offered_and_without_parameters() {
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice");
    client.challenge(&mut world);
    let mut offered: Vec<_> = client.algorithms.chunks(4).collect();
    offered.sort_unstable();
    assert_eq!(offered, [[0, 1, 0, 0], [0, 2, 0, 0]]);
}

#[test]
fn a_list_of_algorithms_that_was_shortened_on_the_way_gets_400() {
    let mut world = World::new();
    for list in [
        &[0, 1, 0, 0][..],
        &[0, 2, 0, 0],
        &[],
        &[0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0],
        &[0, 1, 0, 0, 0, 1, 0, 0],
    ] {
        for protection in [Protection::Sha256, Protection::Sha256WithMd5Key] {
            let mut client = Client::new(&mut world, "alice").protected_by(protection);
            client.challenge(&mut world);
            list.clone_into(&mut client.algorithms);
            let bytes = client.sign(Draft::allocate());
            client.ask(&mut world, &bytes).error(400);
        }
    }
    assert_eq!(world.allocations(), 0);
}

#[test]
fn a_list_of_algorithms_in_another_order_gets_400() {
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice").protected_by(Protection::Sha256);
    client.challenge(&mut world);
    client.algorithms.rotate_left(4);
    let bytes = client.sign(Draft::allocate());
    client.ask(&mut world, &bytes).error(400);
}

#[test]
fn one_of_the_two_attributes_alone_gets_400() {
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice");
    client.challenge(&mut world);
    let algorithms = client.algorithms.clone();
    for (number, value) in [
        (attribute::PASSWORD_ALGORITHMS, algorithms.as_slice()),
        (attribute::PASSWORD_ALGORITHM, &[0, 1, 0, 0]),
        (attribute::PASSWORD_ALGORITHM, &[0, 2, 0, 0]),
    ] {
        let bytes = client.sign(Draft::allocate().with(number, value));
        client.ask(&mut world, &bytes).error(400);
    }
}

#[test]
fn an_algorithm_that_was_not_offered_gets_400() {
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice");
    client.challenge(&mut world);
    let algorithms = client.algorithms.clone();
    for algorithm in [
        &[0, 3, 0, 0][..],
        &[0, 0, 0, 0],
        &[0xFF, 0xFF, 0, 0],
        &[0, 2],
        &[],
        &[0, 2, 0, 4, 1, 2, 3, 4],
    ] {
        let request = Draft::allocate()
            .with(attribute::PASSWORD_ALGORITHMS, &algorithms)
            .with(attribute::PASSWORD_ALGORITHM, algorithm);
        let bytes = client.sign(request);
        client.ask(&mut world, &bytes).error(400);
    }
}

#[test]
fn a_nonce_whose_features_were_taken_away_is_not_valid() {
    let mut world = World::new();
    for features in [b"AAAA", b"QAAC", b"wAAB", b"gAAA", b"AAAB"] {
        let (mut client, _) = Client::allocated(&mut world, "alice");
        client.nonce[9..13].copy_from_slice(features);
        client.refresh(&mut world, 600).error(438);
    }
}

#[test]
fn a_nonce_without_a_cookie_is_not_valid() {
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    let whole = client.nonce.clone();
    for nonce in [&whole[13..], &whole[9..], b"x", b"499k9f"] {
        nonce.clone_into(&mut client.nonce);
        client.refresh(&mut world, 600).error(438);
    }
}

#[test]
fn a_new_nonce_has_the_cookie_too() {
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    client
        .call(&mut world, Draft::request(REFRESH).lifetime(3600))
        .success();
    world.pass(Duration::from_secs(3550));
    client.refresh(&mut world, 3600).success();
    world.pass(Duration::from_secs(3500));
    let answer = client.refresh(&mut world, 3600).error(438);
    assert!(
        answer
            .value(attribute::NONCE)
            .unwrap()
            .starts_with(b"obMatJos2gAAB")
    );
}
