//! RFC 8489 §6.3.2: indications are never answered.

use turn_relay_proto::counters::DropReason;

use crate::support::{
    client::Client,
    stun::{BINDING, Draft, SEND, attribute},
    world::{World, socket},
};

#[test]
fn a_binding_indication_is_not_answered() {
    // it keeps a NAT's binding, §6.3.2
    let mut world = World::new();
    let five_tuple = world.five_tuple();
    world
        .client_says(0, five_tuple, &Draft::indication(BINDING).finish())
        .nothing();
    let (client, _) = Client::allocated(&mut world, "alice");
    client
        .put(&mut world, &Draft::indication(BINDING).finish())
        .nothing();
    for reason in [DropReason::BadIndication, DropReason::Malformed] {
        assert_eq!(world.drops(reason), 0, "nothing is wrong with it");
    }
}

#[test]
fn an_indication_with_an_unknown_attribute_that_has_to_be_understood_is_discarded() {
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    let peer = socket("198.51.100.1:9");
    client.permit(&mut world, peer);
    for number in attribute::UNKNOWN_REQUIRED {
        let message = Draft::indication(SEND).peer(peer).data(b"data");
        client
            .put(&mut world, &message.with(number, b"?").finish())
            .nothing();
    }
    assert_eq!(world.drops(DropReason::BadIndication), 3);
}

#[test]
fn an_indication_with_an_unknown_optional_attribute_is_carried_out() {
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    let peer = socket("198.51.100.1:9");
    client.permit(&mut world, peer);
    let message = Draft::indication(SEND)
        .with(attribute::UNKNOWN_OPTIONAL, b"?")
        .with(attribute::SOFTWARE, b"tests")
        .peer(peer)
        .data(b"data");
    let outcome = client.put(&mut world, &message.finish());
    assert_eq!(outcome.to_peer().payload, b"data");
}

#[test]
fn an_indication_needs_no_credentials_and_its_integrity_is_not_looked_at() {
    // RFC 8656 §5: indications are never authenticated
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    let peer = socket("198.51.100.1:9");
    client.permit(&mut world, peer);
    let mut signed = client.sign(Draft::indication(SEND).peer(peer).data(b"data"));
    *signed.last_mut().unwrap() ^= 1;
    let outcome = client.put(&mut world, &signed);
    assert_eq!(outcome.to_peer().payload, b"data");
}
