//! RFC 8489 §6.3: what is checked of every message before anything else. What does not pass is discarded in silence.

use crate::support::{
    client::Client,
    stun::{
        ALLOCATE, BINDING, CHANNEL_BIND, CONNECT, CONNECTION_BIND, CREATE_PERMISSION, DATA_METHOD,
        Draft, MessageClass, Method, REFRESH, SEND, attribute, fresh_id,
    },
    world::{World, socket},
};

#[test]
fn a_message_with_one_of_the_first_two_bits_set_is_not_answered() {
    let mut world = World::new();
    let five_tuple = world.five_tuple();
    for bits in [0x80, 0xC0] {
        let mut bytes = Draft::request(BINDING).finish();
        bytes[0] |= bits;
        world.client_says(0, five_tuple, &bytes).nothing();
    }
}

#[test]
fn a_message_without_the_magic_cookie_is_not_answered() {
    let mut world = World::new();
    let five_tuple = world.five_tuple();
    for byte in 4..8 {
        let mut bytes = Draft::request(BINDING).finish();
        bytes[byte] ^= 1;
        world.client_says(0, five_tuple, &bytes).nothing();
    }
}

#[test]
fn a_message_whose_length_is_not_that_of_the_datagram_is_not_answered() {
    let mut world = World::new();
    let five_tuple = world.five_tuple();
    let whole = Draft::request(BINDING)
        .with(attribute::SOFTWARE, b"tests")
        .finish();
    for len in 0..whole.len() {
        world.client_says(0, five_tuple, &whole[..len]).nothing();
    }
    for more in [1, 4, 20] {
        let mut longer = whole.clone();
        longer.resize(whole.len() + more, 0);
        world.client_says(0, five_tuple, &longer).nothing();
    }
    assert!(world.client_says(0, five_tuple, &whole).stun().is_success());
}

#[test]
fn a_message_whose_length_is_no_multiple_of_four_is_not_answered() {
    let mut world = World::new();
    let five_tuple = world.five_tuple();
    for more in 1..4 {
        let mut bytes = Draft::request(BINDING).finish();
        bytes.resize(20 + usize::from(more), 0);
        bytes[3] = more;
        world.client_says(0, five_tuple, &bytes).nothing();
    }
}

#[test]
fn an_attribute_that_reaches_beyond_the_message_is_not_answered() {
    let mut world = World::new();
    let five_tuple = world.five_tuple();
    for claimed in [5, 6, 100, 0xFFFF_u16] {
        let mut bytes = Draft::request(BINDING)
            .with(attribute::SOFTWARE, b"four")
            .finish();
        bytes[22..24].copy_from_slice(&claimed.to_be_bytes());
        world.client_says(0, five_tuple, &bytes).nothing();
    }
}

#[test]
fn methods_that_do_not_exist_are_not_answered() {
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice");
    client.allocate(&mut world);
    for method in [0x000, 0x002, 0x005, 0x00D, 0x00F, 0x080, 0x555, 0xFFF] {
        let request = Draft::request(Method::new(method));
        client.put(&mut world, &request.clone().finish()).silence();
        let signed = client.sign(request);
        client.put(&mut world, &signed).silence();
    }
}

#[test]
fn a_class_that_its_method_does_not_have_is_not_answered() {
    // RFC 8656 §17
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice");
    client.allocate(&mut world);
    for method in [SEND, DATA_METHOD] {
        let peer = socket("198.51.100.1:9");
        let request = Draft::request(method).peer(peer).data(b"data");
        client.put(&mut world, &request.clone().finish()).silence();
        let signed = client.sign(request);
        client.put(&mut world, &signed).silence();
    }
    for method in [
        ALLOCATE,
        REFRESH,
        CREATE_PERMISSION,
        CHANNEL_BIND,
        CONNECT,
        CONNECTION_BIND,
    ] {
        let indication = Draft::indication(method).transport(17).lifetime(0);
        let signed = client.sign(indication);
        client.put(&mut world, &signed).silence();
    }
    client.refresh(&mut world, 600).success();
}

#[test]
fn answers_to_requests_that_the_server_never_sent_are_not_answered() {
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice");
    client.allocate(&mut world);
    for method in [BINDING, ALLOCATE, REFRESH, CREATE_PERMISSION, CHANNEL_BIND] {
        for class in [MessageClass::Success, MessageClass::Error] {
            let message = Draft::new(class, method, fresh_id()).lifetime(0);
            client.put(&mut world, &message.clone().finish()).silence();
            let signed = client.sign(message);
            client.put(&mut world, &signed).silence();
        }
    }
    client.refresh(&mut world, 600).success();
}

#[test]
fn a_data_indication_from_a_client_goes_nowhere() {
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    let peer = socket("198.51.100.1:9");
    client.permit(&mut world, peer);
    let message = Draft::indication(DATA_METHOD).peer(peer).data(b"data");
    client.put(&mut world, &message.finish()).silence();
}

#[test]
fn unknown_optional_attributes_are_ignored() {
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    let request = Draft::request(REFRESH).with(attribute::UNKNOWN_OPTIONAL, b"?");
    client.call(&mut world, request).success();
    let binding = Draft::request(BINDING).with(attribute::UNKNOWN_OPTIONAL, b"?");
    let outcome = client.put(&mut world, &binding.finish());
    assert!(outcome.stun().is_success());
}

#[test]
fn known_attributes_that_do_not_belong_to_the_request_are_ignored() {
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    let peer = socket("198.51.100.1:9");
    let request = Draft::request(CREATE_PERMISSION)
        .peer(peer)
        .lifetime(0)
        .channel(0x4000)
        .data(b"data")
        .dont_fragment();
    client.call(&mut world, request).success();
    assert!(client.reaches(&mut world, peer));
    let binding = Draft::request(BINDING).peer(peer).lifetime(7);
    let outcome = client.put(&mut world, &binding.finish());
    assert!(outcome.stun().is_success());
}
