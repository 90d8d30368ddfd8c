//! draft-uberti-behave-turn-rest-00 §2.2 and §4: usernames that say until when they are good, and passwords that anybody with a secret can make.

use std::{sync::Arc, time::Duration};

use turn_relay_proto::{address::Transport, counters::AuthFailure, credential::Secrets};

use crate::support::{
    client::{Client, Protection, rest_password},
    stun::{CREATE_PERMISSION, Decoded, Draft, REFRESH},
    world::{SECRET, World, socket},
};

/// Asks for an allocation with a username and the password that belongs to it.
fn ask_as(world: &mut World, username: &str) -> Decoded {
    let mut client = Client::new(world, "").with_username(username);
    client.call(world, Draft::allocate())
}

#[test]
fn a_password_is_the_hmac_of_the_username() {
    // what Synapse, Dendrite, Tuwunel, LiveKit, Nextcloud Talk and Jitsi compute
    let secret = "north";
    let username = "1433895918:myUsername";
    assert_eq!(
        Secrets::new(vec![secret.as_bytes().to_vec()])
            .password(username.as_bytes())
            .as_str(),
        rest_password(secret, username)
    );
}

#[test]
fn every_form_of_username_that_services_issue_is_taken() {
    let mut world = World::new();
    let expiry = world.now.unix_seconds + 3600;
    for user in [
        ":@alice:example.org",
        ":alice",
        ":AAAAAAAAAAAAAAAAAAAAAA",
        ":",
        "",
        ":::",
        ":1234",
        ": with spaces",
        ":\u{fc}nicode",
    ] {
        ask_as(&mut world, &format!("{expiry}{user}")).success();
    }
}

#[test]
fn a_username_is_good_until_its_second() {
    let mut world = World::new();
    let now = world.now.unix_seconds;
    ask_as(&mut world, &format!("{}:alice", now + 1)).success();
    ask_as(&mut world, &format!("{now}:alice")).error(401);
    ask_as(&mut world, &format!("{}:alice", now - 1)).error(401);
    ask_as(&mut world, "0:alice").error(401);
    assert_eq!(world.counters[0].auth_failures.get(AuthFailure::Expired), 3);
}

#[test]
fn what_is_not_a_number_of_seconds_is_no_username() {
    let mut world = World::new();
    for username in [
        "99999999999999999999:alice",  // more than 64 bits
        "184467440737095516150:alice", // 21 digits
        "18446744073709551616:alice",
        "0x7fffffff:alice",
        "+1900000000:alice",
        "1900000000 :alice",
        "1900000000.5:alice",
        "\u{661}\u{669}\u{660}\u{660}\u{660}\u{660}\u{660}\u{660}\u{660}\u{660}:alice",
        "alice:1900000000",
    ] {
        ask_as(&mut world, username).error(401);
    }
    // the last that there is
    ask_as(&mut world, "18446744073709551615:alice").success();
}

#[test]
fn an_allocation_outlives_its_username() {
    // expiry is enforced when an allocation is made, not when it is refreshed
    let mut world = World::new();
    let expiry = world.now.unix_seconds + 60;
    let mut client = Client::new(&mut world, "").with_username(&format!("{expiry}:alice"));
    client.allocate(&mut world);
    let peer = socket("198.51.100.1:9");
    for _ in 0..10 {
        world.advance(Duration::from_secs(300));
        client.refresh(&mut world, 600).success();
        client.permit(&mut world, peer);
        client.bind(&mut world, 0x4000, peer).success();
        assert!(client.reaches(&mut world, peer));
    }
    client.refresh(&mut world, 0).success();
    client.call(&mut world, Draft::allocate()).error(401);
}

#[test]
fn every_configured_secret_makes_passwords() {
    for protection in Protection::ALL {
        let mut world = World::with(|config| {
            let secrets = ["newest", "older", "oldest"];
            let secrets = secrets.map(|secret| secret.as_bytes().to_vec());
            config.secrets = Arc::new(Secrets::new(secrets.to_vec()));
        });
        for secret in ["newest", "older", "oldest"] {
            let mut client = Client::new(&mut world, "alice").protected_by(protection);
            client.password = rest_password(secret, &client.username);
            client.allocate(&mut world);
            client.refresh(&mut world, 600).success();
        }
        let mut client = Client::new(&mut world, "alice").protected_by(protection);
        client.password = rest_password("not one of them", &client.username);
        client.call(&mut world, Draft::allocate()).error(401);
    }
}

#[test]
fn a_secret_may_be_replaced_without_an_allocation_being_lost() {
    let mut world = World::new();
    let (mut old, _) = Client::allocated(&mut world, "alice");
    world.reconfigure(|config| {
        let secrets = ["the new one", SECRET].map(|secret| secret.as_bytes().to_vec());
        config.secrets = Arc::new(Secrets::new(secrets.to_vec()));
    });
    old.refresh(&mut world, 600).success();
    let mut new = Client::new(&mut world, "bob");
    new.password = rest_password("the new one", &new.username);
    new.allocate(&mut world);
    old.refresh(&mut world, 600).success();
}

#[test]
fn a_secret_that_was_taken_away_makes_no_new_allocation() {
    let mut world = World::new();
    let (_, _) = Client::allocated(&mut world, "alice");
    world.reconfigure(|config| {
        config.secrets = Arc::new(Secrets::new(vec![b"the new one".to_vec()]));
    });
    let mut late = Client::new(&mut world, "bob");
    late.call(&mut world, Draft::allocate()).error(401);
    assert_eq!(world.allocations(), 1, "what there was stays");
}

#[test]
fn an_empty_password_is_none() {
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice");
    client.password = String::new();
    client.call(&mut world, Draft::allocate()).error(401);
}

#[test]
fn without_secrets_nobody_is_authentic() {
    let mut world = World::with(|config| config.secrets = Arc::new(Secrets::new(Vec::new())));
    for password in ["", "x"] {
        let mut client = Client::new(&mut world, "alice");
        password.clone_into(&mut client.password);
        client.call(&mut world, Draft::allocate()).error(401);
    }
    let mut client = Client::new(&mut world, "alice");
    client.password = rest_password("", &client.username);
    client.call(&mut world, Draft::allocate()).error(401);
}

#[test]
fn another_username_of_the_same_user_is_another_username() {
    // RFC 8656 §5: the same username, not the same person
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    let later = format!("{}:alice", world.now.unix_seconds + 90_000);
    let mut renewed = client.clone().with_username(&later);
    renewed.refresh(&mut world, 600).error(441);
    client.refresh(&mut world, 600).success();
}

#[test]
fn the_clock_of_the_day_may_go_back_and_takes_no_allocation_with_it() {
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    world.now.unix_seconds -= 100_000_000;
    client.refresh(&mut world, 600).success();
    world.now.unix_seconds += 200_000_000;
    client.refresh(&mut world, 600).success();
    let request = Draft::request(CREATE_PERMISSION).peer(socket("198.51.100.1:9"));
    client.call(&mut world, request).success();
}

#[test]
fn an_authentic_request_over_a_stream_is_told_of() {
    for transport in [Transport::Tcp, Transport::Tls, Transport::Dtls] {
        let mut world = World::new();
        let mut client = Client::over(
            &mut world,
            "alice",
            transport,
            turn_relay_proto::address::Family::V4,
        );
        client.challenge(&mut world);
        let (answer, outcome) = client.call_with_outcome(&mut world, Draft::allocate());
        answer.success();
        assert_eq!(outcome.authenticated, [client.five_tuple]);
        let (answer, outcome) = client.call_with_outcome(&mut world, Draft::request(REFRESH));
        answer.success();
        assert_eq!(outcome.authenticated, [client.five_tuple]);
    }
}

#[test]
fn a_request_over_a_stream_that_is_not_authentic_is_not_told_of() {
    let mut world = World::new();
    let mut client = Client::over(
        &mut world,
        "alice",
        Transport::Tcp,
        turn_relay_proto::address::Family::V4,
    );
    client.challenge(&mut world);
    let outcome = client.binding(&mut world);
    assert!(outcome.authenticated.is_empty());
    "wrong".clone_into(&mut client.password);
    let (answer, outcome) = client.call_with_outcome(&mut world, Draft::allocate());
    answer.error(401);
    assert!(outcome.authenticated.is_empty());
}

#[test]
fn credentials_without_an_allocation_keep_no_connection() {
    // those that have expired, and those of a user who has all allocations: nothing counts how many connections they open
    let mut world = World::with(|config| config.quotas.allocations_per_user = 1);
    let family = turn_relay_proto::address::Family::V4;
    let (_first, _) = Client::allocated(&mut world, "alice");
    let mut client = Client::over(&mut world, "alice", Transport::Tcp, family);
    client.challenge(&mut world);
    for (request, code) in [(Draft::allocate(), 486), (Draft::request(REFRESH), 437)] {
        let (answer, outcome) = client.call_with_outcome(&mut world, request);
        answer.error(code);
        assert!(outcome.authenticated.is_empty());
    }
    let expired = format!("{}:bob", world.now.unix_seconds - 1);
    let mut client = Client::over(&mut world, "bob", Transport::Tcp, family);
    client = client.with_username(&expired);
    let (answer, outcome) = client.call_with_outcome(&mut world, Draft::allocate());
    answer.error(401);
    assert!(outcome.authenticated.is_empty());
}

#[test]
fn the_end_of_an_allocation_over_a_stream_is_told_of() {
    for transport in [Transport::Tcp, Transport::Tls, Transport::Dtls] {
        let mut world = World::new();
        let (mut client, _) = Client::allocated_over(&mut world, "alice", transport);
        let request = Draft::request(REFRESH).lifetime(0);
        let (answer, outcome) = client.call_with_outcome(&mut world, request);
        answer.success();
        assert_eq!(outcome.ended, [client.five_tuple]);

        let (client, _) = Client::allocated_over(&mut world, "alice", transport);
        let outcome = world.advance(Duration::from_secs(601));
        assert_eq!(outcome.ended, [client.five_tuple]);
    }
}
