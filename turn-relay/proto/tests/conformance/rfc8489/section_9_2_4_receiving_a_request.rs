//! RFC 8489 §9.2.4: the long-term credential mechanism, check by check in its order, and §9.2.2 about what answers are protected with.

use std::time::Duration;

use stun_types::attribute::Userhash;
use turn_relay_proto::counters::AuthFailure;

use crate::support::{
    client::{Client, Protection},
    stun::{
        ALLOCATE, CHANNEL_BIND, CONNECT, CREATE_PERMISSION, Decoded, Draft, Hmac, KeyKind, REFRESH,
        attribute, long_term_key,
    },
    world::{REALM, World, socket},
};

const METHODS: [crate::support::stun::Method; 4] =
    [ALLOCATE, REFRESH, CREATE_PERMISSION, CHANNEL_BIND];

/// Asserts what RFC 8489 says of an answer to somebody who has not authenticated.
#[track_caller]
fn check_challenge(answer: &Decoded) {
    assert_eq!(answer.value(attribute::REALM), Some(REALM.as_bytes()));
    assert!(answer.value(attribute::NONCE).unwrap().len() <= 127);
    assert!(answer.has(attribute::PASSWORD_ALGORITHMS));
    assert_eq!(answer.hmac(), None, "nobody has a key for it");
    for number in [attribute::USERNAME, attribute::USERHASH] {
        assert!(!answer.has(number));
    }
}

#[test]
fn a_request_without_integrity_is_challenged() {
    let mut world = World::new();
    let client = Client::new(&mut world, "alice");
    for method in METHODS {
        let bytes = Draft::request(method).finish();
        check_challenge(&client.ask(&mut world, &bytes).error(401));
    }
}

#[test]
fn a_request_with_a_username_and_without_integrity_is_challenged() {
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice");
    client.challenge(&mut world);
    let bytes = client.identify(Draft::allocate()).finish();
    check_challenge(&client.ask(&mut world, &bytes).error(401));
}

#[test]
fn challenges_are_the_shortest_that_say_everything() {
    // 28 bytes of Allocate: 92 of answer, 3.3 times. No SOFTWARE, no FINGERPRINT, no reason.
    let mut world = World::new();
    let client = Client::new(&mut world, "alice");
    let request = Draft::allocate().finish();
    assert_eq!(request.len(), 28);
    let answer = client.ask(&mut world, &request).error(401);
    assert!(
        answer.bytes.len() * 10 <= request.len() * 33,
        "{}",
        answer.bytes.len()
    );
    assert_eq!(answer.value(attribute::ERROR_CODE), Some(&[0, 0, 4, 1][..]));
    let mut numbers: Vec<_> = answer.attributes.iter().map(|(n, _)| *n).collect();
    numbers.sort_unstable();
    assert_eq!(
        numbers,
        [
            attribute::ERROR_CODE,
            attribute::REALM,
            attribute::NONCE,
            attribute::PASSWORD_ALGORITHMS
        ]
    );
}

#[test]
fn a_request_with_integrity_that_lacks_what_it_needs_gets_400() {
    for protection in Protection::ALL {
        let mut world = World::new();
        let mut client = Client::new(&mut world, "alice").protected_by(protection);
        client.challenge(&mut world);
        for missing in [attribute::USERNAME, attribute::REALM, attribute::NONCE] {
            let parts = [
                (attribute::USERNAME, client.username.as_bytes()),
                (attribute::REALM, client.realm.as_bytes()),
                (attribute::NONCE, client.nonce.as_slice()),
            ];
            let present = parts.iter().filter(|(number, _)| *number != missing);
            let draft = present.fold(Draft::allocate(), |draft, (number, value)| {
                draft.with(*number, value)
            });
            let bytes = draft.integrity(protection.hmac(), &client.key()).finish();
            let answer = client.ask(&mut world, &bytes).error(400);
            for number in [attribute::REALM, attribute::NONCE, attribute::USERNAME] {
                assert!(!answer.has(number), "{number:#06x}: {answer:?}");
            }
            assert_eq!(answer.hmac(), None);
        }
    }
}

#[test]
fn attributes_behind_the_integrity_do_not_count_as_being_there() {
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice");
    client.challenge(&mut world);
    let draft = Draft::allocate().integrity(Hmac::Sha1, &client.key());
    let bytes = client.identify(draft).finish();
    client.ask(&mut world, &bytes).error(400);
}

#[test]
fn what_lacks_is_looked_at_before_who_it_is() {
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice").with_username("nobody in particular");
    client.challenge(&mut world);
    let draft = Draft::allocate()
        .with(attribute::USERNAME, client.username.as_bytes())
        .with(attribute::REALM, client.realm.as_bytes());
    let bytes = draft.integrity(Hmac::Sha1, &client.key()).finish();
    client.ask(&mut world, &bytes).error(400);
}

#[test]
fn an_unknown_username_gets_401() {
    let mut world = World::new();
    for username in [
        "alice",
        "",
        ":",
        "a:b",
        "-1:alice",
        "1800086400x:alice",
        " 1800086400:alice",
    ] {
        let mut client = Client::new(&mut world, "").with_username(username);
        client.challenge(&mut world);
        let bytes = client.sign(Draft::allocate());
        let answer = client.ask(&mut world, &bytes);
        check_challenge(&answer.error(401));
    }
}

#[test]
fn a_userhash_gets_401_since_usernames_are_not_known_beforehand() {
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice");
    client.challenge(&mut world);
    let hash = Userhash::compute(&client.username, &client.realm);
    let draft = Draft::allocate()
        .with(attribute::USERHASH, &hash)
        .with(attribute::REALM, client.realm.as_bytes())
        .with(attribute::NONCE, &client.nonce);
    let bytes = draft.integrity(Hmac::Sha1, &client.key()).finish();
    check_challenge(&client.ask(&mut world, &bytes).error(401));
}

#[test]
fn a_wrong_password_gets_401() {
    for protection in Protection::ALL {
        let mut world = World::new();
        let mut client = Client::new(&mut world, "alice").protected_by(protection);
        client.challenge(&mut world);
        for password in ["", "wrong", &client.password.clone()[1..]] {
            password.clone_into(&mut client.password);
            let bytes = client.sign(Draft::allocate());
            let answer = client.ask(&mut world, &bytes).error(401);
            assert_eq!(answer.value(attribute::REALM), Some(REALM.as_bytes()));
        }
        assert_eq!(world.allocations(), 0);
        assert_eq!(
            world.counters[0]
                .auth_failures
                .get(AuthFailure::BadPassword),
            3
        );
    }
}

#[test]
fn a_request_of_which_one_bit_was_changed_on_the_way_is_not_authentic() {
    for protection in Protection::ALL {
        let mut world = World::new();
        let mut client = Client::new(&mut world, "alice").protected_by(protection);
        client.challenge(&mut world);
        let right = client.sign(Draft::allocate().lifetime(1000));
        for bit in 0..right.len() * 8 {
            let mut wrong = right.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            let outcome = world.client_says(0, client.five_tuple, &wrong);
            for to_client in &outcome.to_clients {
                let crate::support::world::FromServer::Stun(answer) = &to_client.message else {
                    panic!("{outcome:?}");
                };
                assert!(!answer.is_success() || answer.method != ALLOCATE);
            }
            assert_eq!(world.allocations(), 0);
        }
        client.call_with_bytes(&mut world, &right).0.success();
    }
}

#[test]
fn the_key_is_made_with_the_realm_of_the_server() {
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice");
    client.challenge(&mut world);
    "another.example.org".clone_into(&mut client.realm);
    let bytes = client.sign(Draft::allocate());
    client.ask(&mut world, &bytes).error(401);
}

#[test]
fn who_it_is_is_looked_at_before_the_nonce() {
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice");
    client.challenge(&mut world);
    world.pass(Duration::from_secs(7200));
    "wrong".clone_into(&mut client.password);
    let bytes = client.sign(Draft::allocate());
    client.ask(&mut world, &bytes).error(401);
}

#[test]
fn a_nonce_of_59_minutes_is_good_and_one_of_61_minutes_gets_438() {
    for protection in Protection::ALL {
        let mut world = World::new();
        let mut client = Client::new(&mut world, "alice").protected_by(protection);
        client.challenge(&mut world);
        let old = client.nonce.clone();
        world.pass(Duration::from_secs(59 * 60));
        client.call(&mut world, Draft::allocate()).success();
        world.pass(Duration::from_secs(2 * 60));
        let answer = client.refresh(&mut world, 600).error(438);
        assert_eq!(answer.value(attribute::REALM), Some(REALM.as_bytes()));
        assert_ne!(answer.value(attribute::NONCE), Some(old.as_slice()));
        client.remember(&answer);
        client.refresh(&mut world, 600).success();
    }
}

#[test]
fn the_nonce_of_a_438_is_good_for_an_hour_again() {
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice");
    client
        .call(&mut world, Draft::allocate().lifetime(3600))
        .success();
    for _ in 0..20 {
        world.advance(Duration::from_secs(3500));
        let answer = client.refresh(&mut world, 3600);
        if answer.code() == Some(438) {
            client.remember(&answer);
            client.refresh(&mut world, 3600).success();
        }
    }
    assert_eq!(world.allocations(), 1);
}

#[test]
fn a_nonce_is_for_one_address_and_port() {
    let mut world = World::new();
    let mut alice = Client::new(&mut world, "alice");
    alice.challenge(&mut world);
    let other_address = world.five_tuple();
    let mut other_port = alice.five_tuple;
    other_port
        .client
        .set_port(alice.five_tuple.client.port() + 1);
    for five_tuple in [other_address, other_port] {
        let mut thief = alice.clone();
        thief.five_tuple = five_tuple;
        let bytes = thief.sign(Draft::allocate());
        let answer = thief.ask(&mut world, &bytes).error(438);
        assert_ne!(answer.value(attribute::NONCE), Some(alice.nonce.as_slice()));
    }
    alice.call(&mut world, Draft::allocate()).success();
}

#[test]
fn two_clients_never_get_the_same_nonce() {
    let mut world = World::new();
    let mut nonces = std::collections::HashSet::new();
    for _ in 0..500 {
        let mut client = Client::new(&mut world, "alice");
        client.challenge(&mut world);
        assert!(nonces.insert(client.nonce));
    }
}

#[test]
fn a_nonce_that_was_made_up_gets_438() {
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice");
    client.challenge(&mut world);
    let whole = client.nonce.clone();
    let mut made_up: Vec<Vec<u8>> = (13..whole.len())
        .map(|at| {
            let mut nonce = whole.clone();
            nonce[at] = if nonce[at] == b'A' { b'B' } else { b'A' };
            nonce
        })
        .collect();
    made_up.push(whole[..whole.len() - 1].to_vec());
    made_up.push([&whole[..], b"A"].concat());
    made_up.push(b"obMatJos2gAAB".to_vec());
    made_up.push(vec![b'x'; 127]);
    made_up.push(vec![0xFF; 28]);
    made_up.push(Vec::new());
    for nonce in made_up {
        let mut client = client.clone();
        client.nonce = nonce;
        let bytes = client.sign(Draft::allocate());
        client.ask(&mut world, &bytes).error(438);
    }
    assert_eq!(world.allocations(), 0);
}

#[test]
fn servers_of_two_threads_know_each_others_nonces() {
    let mut world = World::two();
    let mut client = Client::new(&mut world, "alice");
    client.challenge(&mut world);
    let mut client = client.on_server(1);
    client.call(&mut world, Draft::allocate()).success();
}

#[test]
fn an_answer_is_protected_as_its_request_was() {
    for protection in Protection::ALL {
        let mut world = World::new();
        let mut client = Client::new(&mut world, "alice").protected_by(protection);
        // Client::call asserts it of each of these
        client.call(&mut world, Draft::request(ALLOCATE)).error(400);
        client.call(&mut world, Draft::request(REFRESH)).error(437);
        client.call(&mut world, Draft::allocate()).success();
        client.call(&mut world, Draft::allocate()).error(437);
        client.refresh(&mut world, 600).success();
        client
            .call(&mut world, Draft::request(CREATE_PERMISSION))
            .error(400);
        let denied = socket("127.0.0.1:80");
        client.create_permissions(&mut world, &[denied]).error(403);
        let wrong_family = socket("[2001:db8:5::1]:80");
        client
            .create_permissions(&mut world, &[wrong_family])
            .error(443);
        client.permit(&mut world, socket("198.51.100.1:80"));
        client
            .bind(&mut world, 0x4000, socket("198.51.100.1:80"))
            .success();
        client
            .bind(&mut world, 0x3FFF, socket("198.51.100.1:80"))
            .error(400);
        client.refresh(&mut world, 0).success();
    }
}

#[test]
fn answers_to_authentic_requests_repeat_nothing_of_the_credentials() {
    for protection in Protection::ALL {
        let mut world = World::new();
        let mut client = Client::new(&mut world, "alice").protected_by(protection);
        let answers = [
            client.call(&mut world, Draft::request(REFRESH)).error(437),
            client.call(&mut world, Draft::allocate()).success(),
            client.refresh(&mut world, 600).success(),
        ];
        for answer in answers {
            for number in [
                attribute::USERNAME,
                attribute::USERHASH,
                attribute::REALM,
                attribute::NONCE,
            ] {
                assert!(!answer.has(number), "{answer:?}");
            }
        }
    }
}

#[test]
fn the_stronger_integrity_counts_if_there_are_both() {
    // a client that does not know yet what the server supports may send both, §9.1.2 and §14.6
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice").protected_by(Protection::Sha256WithMd5Key);
    client.challenge(&mut world);
    let key = client.key();
    let both = client
        .identify(Draft::allocate())
        .integrity(Hmac::Sha1, &key)
        .integrity(Hmac::Sha256, &key)
        .finish();
    let answer = client.ask(&mut world, &both).success();
    assert_eq!(answer.hmac(), Some(Hmac::Sha256));
    assert!(answer.is_authentic(&key));

    let wrong = long_term_key(&client.username, "wrong", REALM, KeyKind::Md5);
    let mut second = Client::new(&mut world, "alice").protected_by(Protection::Sha256WithMd5Key);
    second.challenge(&mut world);
    let weaker_right = second
        .identify(Draft::allocate())
        .integrity(Hmac::Sha1, &second.key())
        .integrity(Hmac::Sha256, &wrong)
        .finish();
    second.ask(&mut world, &weaker_right).error(401);
}

#[test]
fn a_password_algorithm_decides_the_key_and_no_other_key_is_tried() {
    let mut world = World::new();
    for (said, used) in [
        (Protection::Sha256, KeyKind::Md5),
        (Protection::Sha256WithMd5Key, KeyKind::Sha256),
        (Protection::Sha1, KeyKind::Sha256),
    ] {
        let mut client = Client::new(&mut world, "alice").protected_by(said);
        client.challenge(&mut world);
        let key = long_term_key(&client.username, &client.password, REALM, used);
        let draft = client.identify(Draft::allocate());
        let bytes = draft.integrity(said.hmac(), &key).finish();
        client.ask(&mut world, &bytes).error(401);
        // also if there is an allocation that was made with that key
        client.protection = match used {
            KeyKind::Md5 => Protection::Sha256WithMd5Key,
            KeyKind::Sha256 => Protection::Sha256,
        };
        client.allocate(&mut world);
        let client = client.protected_by(said);
        let draft = client.identify(Draft::request(REFRESH));
        let bytes = draft.integrity(said.hmac(), &key).finish();
        client.ask(&mut world, &bytes).error(401);
    }
}

#[test]
fn credentials_are_asked_for_before_anything_else_is_said_about_a_request() {
    let mut world = World::new();
    let (client, _) = Client::allocated(&mut world, "alice");
    // of each of these something else is wrong, too
    for draft in [
        Draft::request(ALLOCATE),
        Draft::request(ALLOCATE).transport(132),
        Draft::allocate(),
        Draft::request(REFRESH).lifetime(0),
        Draft::request(REFRESH).family(2),
        Draft::request(CREATE_PERMISSION),
        Draft::request(CREATE_PERMISSION).peer(socket("127.0.0.1:1")),
        Draft::request(CHANNEL_BIND).channel(1),
    ] {
        client.ask(&mut world, &draft.finish()).error(401);
    }
    assert_eq!(world.allocations(), 1);
}

#[test]
fn the_methods_of_tcp_allocations_are_authenticated_like_the_others() {
    let mut world = World::with(|config| config.tcp_relay = true);
    let transport = turn_relay_proto::address::Transport::Tcp;
    let (client, _) = Client::allocated_over(&mut world, "alice", transport);
    for method in [CONNECT, crate::support::stun::CONNECTION_BIND] {
        let bytes = Draft::request(method)
            .peer(socket("198.51.100.1:9"))
            .connection_id(1)
            .finish();
        let outcome = client.put(&mut world, &bytes);
        check_challenge(&outcome.stun().clone().error(401));
        assert!(outcome.authenticated.is_empty());
    }
}

#[test]
fn a_sha256_integrity_without_a_word_of_algorithms_is_made_with_the_md5_key() {
    // "as though PASSWORD-ALGORITHM were MD5"; the answer is one that the client can check
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice");
    client.challenge(&mut world);
    let md5 = long_term_key(&client.username, &client.password, REALM, KeyKind::Md5);
    let sha256 = long_term_key(&client.username, &client.password, REALM, KeyKind::Sha256);
    let draft = client.identify(Draft::allocate());
    let wrong = draft.clone().integrity(Hmac::Sha256, &sha256).finish();
    client.ask(&mut world, &wrong).error(401);
    let right = draft.integrity(Hmac::Sha256, &md5).finish();
    let answer = client.ask(&mut world, &right).success();
    assert!(answer.is_authentic(&md5));
}
