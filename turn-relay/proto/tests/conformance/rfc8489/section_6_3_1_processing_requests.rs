//! RFC 8489 §6.3.1: requests with attributes that nobody knows, the Binding method, and requests that come twice.

use std::time::Duration;

use turn_relay_proto::address::{Family, Transport};

use crate::support::{
    client::{Client, Protection},
    stun::{ALLOCATE, BINDING, CHANNEL_BIND, CREATE_PERMISSION, Draft, REFRESH, attribute},
    world::{World, socket},
};

#[test]
fn a_binding_request_is_answered_with_where_it_came_from() {
    let mut world = World::new();
    for transport in [
        Transport::Udp,
        Transport::Tcp,
        Transport::Tls,
        Transport::Dtls,
    ] {
        for family in [Family::V4, Family::V6] {
            let client = Client::over(&mut world, "nobody", transport, family);
            let outcome = client.binding(&mut world);
            let answer = outcome.stun().clone().success();
            assert_eq!(answer.mapped(), client.five_tuple.client);
        }
    }
}

#[test]
fn a_binding_answer_is_as_short_as_it_can_be() {
    // 20 bytes of header and one address: 1.6 times the shortest request over IPv4. An IPv6 address alone makes it 2.2
    // times.
    let mut world = World::new();
    for (family, len) in [(Family::V4, 32), (Family::V6, 44)] {
        let client = Client::over(&mut world, "nobody", Transport::Udp, family);
        let outcome = client.binding(&mut world);
        assert_eq!(outcome.stun().bytes.len(), len);
    }
}

#[test]
fn a_binding_request_with_credentials_is_answered_as_one_without() {
    // the Binding method is not authenticated, RFC 8489 §12 and §9.2: whoever asks may ask
    let mut world = World::new();
    let (client, _) = Client::allocated(&mut world, "alice");
    let signed = client.sign(Draft::request(BINDING));
    let outcome = client.put(&mut world, &signed);
    let answer = outcome.stun().clone().success();
    assert_eq!(answer.mapped(), client.five_tuple.client);
}

#[test]
fn an_unknown_attribute_that_has_to_be_understood_gets_420_and_its_number() {
    for protection in Protection::ALL {
        let mut world = World::new();
        let mut client = Client::new(&mut world, "alice").protected_by(protection);
        client.allocate(&mut world);
        for method in [ALLOCATE, REFRESH, CREATE_PERMISSION, CHANNEL_BIND] {
            for number in attribute::UNKNOWN_REQUIRED {
                let request = Draft::request(method).with(number, b"what is this?");
                let answer = client.call(&mut world, request).error(420);
                assert_eq!(answer.unknown_attributes(), [number]);
            }
        }
    }
}

#[test]
fn all_unknown_attributes_are_named_once_each() {
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice");
    let unknown = attribute::UNKNOWN_REQUIRED;
    let request = Draft::allocate()
        .with(unknown[0], b"")
        .with(unknown[1], b"1")
        .with(attribute::UNKNOWN_OPTIONAL, b"2")
        .with(unknown[0], b"3")
        .with(unknown[2], b"4");
    let answer = client.call(&mut world, request).error(420);
    assert_eq!(answer.unknown_attributes(), unknown);
    assert_eq!(world.allocations(), 0);
}

#[test]
fn a_binding_request_with_an_unknown_attribute_gets_420() {
    let mut world = World::new();
    let client = Client::new(&mut world, "nobody");
    let request = Draft::request(BINDING).with(attribute::UNKNOWN_REQUIRED[0], b"");
    let answer = client.ask(&mut world, &request.finish()).error(420);
    assert_eq!(
        answer.unknown_attributes(),
        attribute::UNKNOWN_REQUIRED[..1]
    );
}

#[test]
fn who_has_not_authenticated_is_challenged_before_unknown_attributes_are_looked_at() {
    // §6.3: the checks of the authentication mechanism come first
    let mut world = World::new();
    let client = Client::new(&mut world, "alice");
    let request = Draft::allocate().with(attribute::UNKNOWN_REQUIRED[0], b"");
    client.ask(&mut world, &request.finish()).error(401);
}

#[test]
fn unknown_attributes_are_looked_at_before_what_the_method_asks() {
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice");
    let unknown = attribute::UNKNOWN_REQUIRED[0];
    // neither of them has an allocation, and the second lacks REQUESTED-TRANSPORT
    for method in [REFRESH, ALLOCATE] {
        let request = Draft::request(method).with(unknown, b"");
        client.call(&mut world, request).error(420);
    }
}

#[test]
fn a_retransmitted_allocate_request_is_answered_alike_and_makes_nothing_new() {
    for protection in Protection::ALL {
        let mut world = World::new();
        let mut client = Client::new(&mut world, "alice").protected_by(protection);
        client.challenge(&mut world);
        let bytes = client.sign(Draft::allocate().lifetime(1200));
        let (first, outcome) = client.call_with_bytes(&mut world, &bytes);
        assert_eq!(outcome.opened.len(), 1);
        for _ in 0..7 {
            let (again, outcome) = client.call_with_bytes(&mut world, &bytes);
            assert!(outcome.opened.is_empty());
            assert_eq!(again, first);
        }
        assert_eq!(world.allocations(), 1);
    }
}

#[test]
fn an_allocate_request_that_comes_again_40_seconds_later_names_the_same_address() {
    // a client sends the last one 39.5 seconds after the first, §6.2.1
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice");
    client.challenge(&mut world);
    let bytes = client.sign(Draft::allocate());
    let (first, _) = client.call_with_bytes(&mut world, &bytes);
    world.advance(Duration::from_millis(39_500));
    let (again, _) = client.call_with_bytes(&mut world, &bytes);
    assert_eq!(again.success().relayed(), first.success().relayed());
}

#[test]
fn a_retransmitted_allocate_request_is_answered_alike_after_permissions_and_refreshes() {
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice");
    client.challenge(&mut world);
    let bytes = client.sign(Draft::allocate());
    let (first, _) = client.call_with_bytes(&mut world, &bytes);
    client.permit(&mut world, socket("198.51.100.1:9"));
    client.refresh(&mut world, 600).success();
    let (again, outcome) = client.call_with_bytes(&mut world, &bytes);
    assert_eq!(again.success().relayed(), first.success().relayed());
    assert!(outcome.opened.is_empty());
    assert!(client.reaches(&mut world, socket("198.51.100.1:9")));
}

#[test]
fn a_retransmission_of_a_reserving_allocate_request_names_the_same_token() {
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice");
    client.challenge(&mut world);
    let bytes = client.sign(Draft::allocate().even_port_and_next());
    let (first, _) = client.call_with_bytes(&mut world, &bytes);
    let (again, _) = client.call_with_bytes(&mut world, &bytes);
    assert!(first.has(attribute::RESERVATION_TOKEN));
    assert_eq!(again, first);
}

#[test]
fn a_retransmission_of_a_partly_met_dual_request_names_the_same_error() {
    let mut world = World::with(|config| config.relay_addresses.truncate(1));
    let mut client = Client::new(&mut world, "alice");
    client.challenge(&mut world);
    let bytes = client.sign(Draft::allocate().additional_family(2));
    let (first, _) = client.call_with_bytes(&mut world, &bytes);
    let (again, _) = client.call_with_bytes(&mut world, &bytes);
    assert!(first.has(attribute::ADDRESS_ERROR_CODE));
    assert_eq!(again, first);
}

#[test]
fn a_retransmission_of_an_allocate_request_that_used_a_token_is_answered_alike() {
    let mut world = World::new();
    let mut first = Client::new(&mut world, "alice");
    let answer = first.call(&mut world, Draft::allocate().even_port_and_next());
    let token = answer.value(attribute::RESERVATION_TOKEN).unwrap().to_vec();
    let mut second = Client::new(&mut world, "alice");
    second.challenge(&mut world);
    let bytes = second.sign(Draft::allocate().token(&token));
    let (answer, _) = second.call_with_bytes(&mut world, &bytes);
    let (again, _) = second.call_with_bytes(&mut world, &bytes);
    assert_eq!(again.success(), answer.success());
}

#[test]
fn an_allocate_request_of_another_transaction_is_none_that_came_again() {
    let mut world = World::new();
    let (mut client, relayed) = Client::allocated(&mut world, "alice");
    client.call(&mut world, Draft::allocate()).error(437);
    assert_eq!(world.allocations(), 1);
    assert!(world.relay(relayed).is_some());
}

#[test]
fn a_retransmitted_channel_bind_request_is_answered_alike() {
    let mut world = World::new();
    let (client, _) = Client::allocated(&mut world, "alice");
    let peer = socket("198.51.100.1:9");
    let bytes = client.sign(Draft::request(CHANNEL_BIND).channel(0x4001).peer(peer));
    let (first, _) = client.call_with_bytes(&mut world, &bytes);
    let (again, _) = client.call_with_bytes(&mut world, &bytes);
    assert_eq!(again.success(), first.success());
}

#[test]
fn a_retransmitted_create_permission_request_is_answered_alike() {
    let mut world = World::new();
    let (client, _) = Client::allocated(&mut world, "alice");
    let peer = socket("198.51.100.1:9");
    let bytes = client.sign(Draft::request(CREATE_PERMISSION).peer(peer));
    let (first, _) = client.call_with_bytes(&mut world, &bytes);
    let (again, _) = client.call_with_bytes(&mut world, &bytes);
    assert_eq!(again.success(), first.success());
}

#[test]
fn a_retransmitted_refresh_request_is_answered_alike() {
    let mut world = World::new();
    let (client, _) = Client::allocated(&mut world, "alice");
    let bytes = client.sign(Draft::request(REFRESH).lifetime(1800));
    let (first, _) = client.call_with_bytes(&mut world, &bytes);
    let (again, _) = client.call_with_bytes(&mut world, &bytes);
    assert_eq!(again.success(), first.success());
}

#[test]
fn a_retransmitted_refresh_request_that_deletes_is_answered_alike() {
    let mut world = World::new();
    for wait in [0, 500, 39_500] {
        let (client, _) = Client::allocated(&mut world, "alice");
        let bytes = client.sign(Draft::request(REFRESH).lifetime(0));
        let (first, _) = client.call_with_bytes(&mut world, &bytes);
        assert_eq!(first.clone().success().lifetime(), 0);
        world.advance(Duration::from_millis(wait));
        let (again, outcome) = client.call_with_bytes(&mut world, &bytes);
        assert!(outcome.closed.is_empty());
        assert_eq!(again, first);
    }
}

#[test]
fn what_is_remembered_of_deleted_allocations_is_bounded() {
    // RFC 8656 §8.3: 437 says to a client that deletes that it has succeeded
    let mut world = World::new();
    let mut deleted = Vec::new();
    for _ in 0..3000 {
        let (client, _) = Client::allocated(&mut world, "alice");
        let bytes = client.sign(Draft::request(REFRESH).lifetime(0));
        client.call_with_bytes(&mut world, &bytes).0.success();
        deleted.push((client, bytes));
    }
    let mut alike = 0;
    for (client, bytes) in deleted {
        let (again, _) = client.call_with_bytes(&mut world, &bytes);
        if again.is_success() {
            alike += 1;
        } else {
            again.error(437);
        }
    }
    assert!((100..3000).contains(&alike), "{alike}");
}

#[test]
fn a_late_copy_of_a_refresh_request_does_not_delete_the_next_allocation() {
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    let bytes = client.sign(Draft::request(REFRESH).lifetime(0));
    client.call_with_bytes(&mut world, &bytes).0.success();
    let next = client.allocate(&mut world);
    world.advance(Duration::from_secs(30));
    let (again, outcome) = client.call_with_bytes(&mut world, &bytes);
    assert!(outcome.closed.is_empty());
    assert_eq!(again.success().lifetime(), 0);
    assert!(world.relay(next).is_some());
}

#[test]
fn the_transaction_id_of_another_user_makes_no_retransmission() {
    let mut world = World::new();
    let mut alice = Client::new(&mut world, "alice");
    alice.challenge(&mut world);
    let request = Draft::allocate();
    let bytes = alice.sign(request.clone());
    alice.call_with_bytes(&mut world, &bytes).0.success();
    let username = format!("{}:mallory", world.now.unix_seconds + 1000);
    let mallory = alice.with_username(&username);
    let bytes = mallory.sign(request);
    mallory.call_with_bytes(&mut world, &bytes).0.error(437);
}

#[test]
fn a_retransmission_after_the_allocation_ended_makes_no_second_one_of_the_first_name() {
    // the transaction ID alone is no proof that the allocation of then is the one of now
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice");
    client.challenge(&mut world);
    let bytes = client.sign(Draft::allocate());
    client.call_with_bytes(&mut world, &bytes).0.success();
    client.refresh(&mut world, 0).success();
    assert_eq!(world.allocations(), 0);
    // a late copy makes an allocation as any request does, and it ends as any does
    let (late, _) = client.call_with_bytes(&mut world, &bytes);
    late.success();
    assert_eq!(world.allocations(), 1);
    client.refresh(&mut world, 0).success();
    assert_eq!(world.open_sockets().count(), 0);
}

#[test]
fn the_same_transaction_id_from_two_clients_is_two_transactions() {
    let mut world = World::new();
    let mut alice = Client::new(&mut world, "alice");
    let mut bob = Client::new(&mut world, "bob");
    alice.challenge(&mut world);
    bob.challenge(&mut world);
    let request = Draft::allocate();
    let from_alice = alice.sign(request.clone());
    let from_bob = bob.sign(request);
    let (first, _) = alice.call_with_bytes(&mut world, &from_alice);
    let (second, _) = bob.call_with_bytes(&mut world, &from_bob);
    assert_ne!(first.success().relayed(), second.success().relayed());
}
