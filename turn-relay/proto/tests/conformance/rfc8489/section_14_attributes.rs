//! RFC 8489 §14: which attributes count, §14.5 MESSAGE-INTEGRITY, §14.6 MESSAGE-INTEGRITY-SHA256.

use crate::support::{
    client::{Client, Protection},
    stun::{CREATE_PERMISSION, Draft, Hmac, REFRESH, attribute},
    world::{World, socket},
};

#[test]
fn of_two_attributes_of_one_type_the_first_counts() {
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    let request = Draft::request(REFRESH)
        .lifetime(900)
        .lifetime(0)
        .lifetime(700);
    assert_eq!(client.call(&mut world, request).success().lifetime(), 900);
    assert_eq!(world.allocations(), 1);
}

#[test]
fn attributes_behind_message_integrity_are_ignored() {
    // somebody on the path may have added them
    for protection in Protection::ALL {
        let mut world = World::new();
        let mut client = Client::new(&mut world, "alice").protected_by(protection);
        client.allocate(&mut world);
        let request = client
            .identify(Draft::request(REFRESH))
            .integrity(protection.hmac(), &client.key())
            .lifetime(0);
        let (answer, outcome) = client.call_with_bytes(&mut world, &request.finish());
        assert_eq!(answer.success().lifetime(), 600);
        assert!(outcome.closed.is_empty());
    }
}

#[test]
fn a_peer_address_behind_message_integrity_gets_no_permission() {
    for protection in Protection::ALL {
        let mut world = World::new();
        let mut client = Client::new(&mut world, "alice").protected_by(protection);
        client.allocate(&mut world);
        let (meant, added) = (socket("198.51.100.1:9"), socket("198.51.100.2:9"));
        let request = client
            .identify(Draft::request(CREATE_PERMISSION).peer(meant))
            .integrity(protection.hmac(), &client.key())
            .peer(added);
        let (answer, _) = client.call_with_bytes(&mut world, &request.finish());
        answer.success();
        assert!(client.reaches(&mut world, meant));
        assert!(!client.reaches(&mut world, added));
    }
}

#[test]
fn an_unknown_attribute_behind_message_integrity_does_not_get_420() {
    for protection in Protection::ALL {
        let mut world = World::new();
        let mut client = Client::new(&mut world, "alice").protected_by(protection);
        client.allocate(&mut world);
        let request = client
            .identify(Draft::request(REFRESH))
            .integrity(protection.hmac(), &client.key())
            .with(attribute::UNKNOWN_REQUIRED[0], b"?");
        let (answer, _) = client.call_with_bytes(&mut world, &request.finish());
        answer.success();
    }
}

#[test]
fn a_fingerprint_behind_both_integrities_is_seen() {
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice").protected_by(Protection::Sha256WithMd5Key);
    client.allocate(&mut world);
    let key = client.key();
    let mut request = client
        .identify(Draft::request(REFRESH))
        .integrity(Hmac::Sha1, &key)
        .integrity(Hmac::Sha256, &key)
        .fingerprint()
        .finish();
    client.call_with_bytes(&mut world, &request).0.success();
    *request.last_mut().unwrap() ^= 1;
    client.put(&mut world, &request).nothing();
}

#[test]
fn a_truncated_sha256_of_16_bytes_or_more_is_taken() {
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice").protected_by(Protection::Sha256);
    client.allocate(&mut world);
    for len in [16, 20, 24, 28, 32] {
        let request = client.identify(Draft::request(REFRESH));
        let request = request.truncated_sha256(len, &client.key());
        let (answer, _) = client.call_with_bytes(&mut world, &request.finish());
        answer.success();
    }
}

#[test]
fn a_truncated_sha256_of_less_than_16_bytes_is_not_taken() {
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice").protected_by(Protection::Sha256);
    client.allocate(&mut world);
    for len in [0, 1, 4, 8, 12, 15, 17, 18, 30, 31] {
        let request = client.identify(Draft::request(REFRESH).lifetime(0));
        let request = request.truncated_sha256(len, &client.key());
        let outcome = client.put(&mut world, &request.finish());
        for message in &outcome.to_clients {
            let crate::support::world::FromServer::Stun(answer) = &message.message else {
                panic!("{outcome:?}");
            };
            assert!(matches!(answer.code(), Some(400 | 401)), "{answer:?}");
        }
        assert_eq!(world.allocations(), 1);
    }
}

#[test]
fn a_sha256_that_is_too_long_is_not_taken() {
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice").protected_by(Protection::Sha256);
    client.allocate(&mut world);
    let draft = client.identify(Draft::request(REFRESH).lifetime(0));
    let bytes = draft
        .with(attribute::MESSAGE_INTEGRITY_SHA256, &[0; 36])
        .finish();
    let outcome = client.put(&mut world, &bytes);
    assert!(outcome.closed.is_empty());
}

#[test]
fn a_message_integrity_of_another_length_is_not_taken() {
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    client.protection = Protection::Sha1;
    let right = client.sign(Draft::request(REFRESH).lifetime(0));
    let hmac = &right[right.len() - 20..];
    for value in [
        &hmac[..0],
        &hmac[..16],
        &hmac[..19],
        &[hmac, &[0; 4]].concat(),
    ] {
        let draft = client.identify(Draft::request(REFRESH).lifetime(0));
        let bytes = draft.with(attribute::MESSAGE_INTEGRITY, value).finish();
        let outcome = client.put(&mut world, &bytes);
        assert!(outcome.closed.is_empty());
    }
    assert_eq!(world.allocations(), 1);
}

#[test]
fn the_contents_of_padding_do_not_matter() {
    // §14: they are ignored by the receiver. The integrity is over them all the same.
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    let peer = socket("198.51.100.1:9");
    client.permit(&mut world, peer);
    let mut bytes = Draft::indication(crate::support::stun::SEND)
        .peer(peer)
        .data(b"hello")
        .finish();
    let end = bytes.len();
    bytes[end - 3..].copy_from_slice(b"xyz");
    let outcome = client.put(&mut world, &bytes);
    assert_eq!(outcome.to_peer().payload, b"hello");
}
