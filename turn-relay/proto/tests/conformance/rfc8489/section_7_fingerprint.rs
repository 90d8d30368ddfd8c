//! RFC 8489 §7 and §14.7: FINGERPRINT.

use crate::support::{
    client::Client,
    stun::{BINDING, Draft, REFRESH, SEND, attribute},
    world::{World, socket},
};

#[test]
fn a_right_fingerprint_is_no_hindrance() {
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    let binding = Draft::request(BINDING).fingerprint().finish();
    assert!(client.put(&mut world, &binding).stun().is_success());

    let refresh = client.identify(Draft::request(REFRESH).lifetime(700));
    let refresh = refresh.integrity(client.protection.hmac(), &client.key());
    let (answer, _) = client.call_with_bytes(&mut world, &refresh.fingerprint().finish());
    assert_eq!(answer.success().lifetime(), 700);

    let peer = socket("198.51.100.1:9");
    client.permit(&mut world, peer);
    let send = Draft::indication(SEND).peer(peer).data(b"data");
    let outcome = client.put(&mut world, &send.fingerprint().finish());
    assert_eq!(outcome.to_peer().payload, b"data");
}

#[test]
fn a_message_with_a_wrong_fingerprint_is_discarded() {
    let mut world = World::new();
    let (client, _) = Client::allocated(&mut world, "alice");
    let right = Draft::request(BINDING).fingerprint().finish();
    for byte in 8..right.len() {
        let mut wrong = right.clone();
        wrong[byte] ^= 0x10;
        if (20..24).contains(&byte) {
            continue; // type and length of the attribute: another message, not a wrong fingerprint
        }
        client.put(&mut world, &wrong).nothing();
    }
}

#[test]
fn a_message_with_something_behind_its_fingerprint_is_discarded() {
    let mut world = World::new();
    let (client, _) = Client::allocated(&mut world, "alice");
    let message = Draft::request(BINDING).fingerprint();
    let message = message.with(attribute::SOFTWARE, b"behind").finish();
    client.put(&mut world, &message).nothing();
}

#[test]
fn strangers_get_no_fingerprint_that_they_did_not_ask_for() {
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice");
    assert!(!client.challenge(&mut world).has(attribute::FINGERPRINT));
    let outcome = client.binding(&mut world);
    assert!(!outcome.stun().has(attribute::FINGERPRINT));
}

#[test]
fn an_answer_to_an_authentic_request_with_a_fingerprint_has_one() {
    // that it is right, and the last attribute, is asserted of every one
    let mut world = World::new();
    let (client, _) = Client::allocated(&mut world, "alice");
    for (request, code) in [
        (Draft::request(REFRESH), None),
        (Draft::allocate(), Some(437)),
        (
            Draft::request(REFRESH).with(attribute::UNKNOWN_REQUIRED[0], b""),
            Some(420),
        ),
    ] {
        let request = client.identify(request);
        let request = request.integrity(client.protection.hmac(), &client.key());
        let (answer, _) = client.call_with_bytes(&mut world, &request.clone().finish());
        assert_eq!(answer.code(), code);
        assert!(!answer.has(attribute::FINGERPRINT));
        let (answer, _) = client.call_with_bytes(&mut world, &request.fingerprint().finish());
        assert_eq!(answer.code(), code);
        assert!(answer.has(attribute::FINGERPRINT));
    }
}
