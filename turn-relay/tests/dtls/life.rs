//! How sessions begin and end, by a clock that the tests move.

use std::{
    net::UdpSocket,
    time::{Duration, UNIX_EPOCH},
};

use shared::clock::Clock;
use turn_relay::workers::Reloadable;
use turn_relay_proto::{
    counters::{Handshake, QuotaHit},
    stun::{AttributeType, Method},
};

use crate::{
    Relay,
    client::{Client, Wire},
    now, relay,
    session::{DtlsWire, dtls_client},
    traffic::{peer, relays_both_ways},
    wait_until,
};

fn clock() -> Clock {
    Clock::manual(UNIX_EPOCH + Duration::from_hours(500_000))
}

fn with(clock: &Clock, change: impl FnOnce(&mut Reloadable)) -> Relay {
    let mut reloadable = relay::reloadable();
    change(&mut reloadable);
    Relay::with(relay::settings(), reloadable, clock.clone())
}

/// A client that has shown its cookie, and has taken nothing of what it was sent then.
fn half_open(relay: &Relay) -> DtlsWire {
    let mut wire = DtlsWire::new(relay.dtls(), 1_200);
    wire.tick();
    let request = datagram(&mut wire);
    assert_eq!(request.len(), 60, "a HelloVerifyRequest");
    wire.take(&request);
    wire
}

fn datagram(wire: &mut DtlsWire) -> Vec<u8> {
    let deadline = now() + crate::client::PATIENCE;
    loop {
        if let Some(datagram) = wire.datagram() {
            return datagram;
        }
        assert!(now() < deadline, "nothing comes");
    }
}

#[test]
fn a_flight_that_got_lost_comes_again() {
    let clock = clock();
    let relay = with(&clock, |_| {});
    let mut wire = half_open(&relay);
    let lost = datagram(&mut wire);
    assert!(lost.len() > 100, "ServerHello and more");
    // all of it: what comes from now on was sent again
    while wire.datagram().is_some() {}
    clock.advance(Duration::from_secs(2));
    let again = datagram(&mut wire);
    wire.take(&again);
    let deadline = now() + crate::client::PATIENCE;
    while !wire.is_open {
        assert!(now() < deadline, "no session comes about");
        wire.step();
    }
    relays_both_ways(&mut Client::new(wire), &[100]);
    assert_eq!(relay.handshakes(Handshake::Completed), 1);
}

#[test]
fn a_handshake_that_is_not_done_in_time_is_given_up() {
    let clock = clock();
    let relay = with(&clock, |reloadable| reloadable.connections_per_prefix = 1);
    let wire = half_open(&relay);
    wait_until("a session", || relay.sessions() == 1);
    // its prefix has no other one
    let _second = half_open(&relay);
    wait_until("a refusal", || {
        relay.quota_hits(QuotaHit::ConnectionsOfPrefix) == 1
    });
    clock.advance(Duration::from_secs(11));
    wait_until("the end", || relay.sessions() == 0);
    assert_eq!(relay.handshakes(Handshake::TimedOut), 1);
    assert_eq!(relay.handshakes(Handshake::Failed), 0);
    drop(wire);
    // and its place is free again
    let mut client = dtls_client(relay.dtls());
    client.allocate();
    // whoever has credentials is no stranger
    dtls_client(relay.dtls());
}

#[test]
fn a_session_without_credentials_ends_with_a_word() {
    let clock = clock();
    let relay = with(&clock, |_| {});
    let mut wire = DtlsWire::open(relay.dtls());
    wait_until("a session", || relay.sessions() == 1);
    clock.advance(Duration::from_secs(11));
    assert_eq!(wire.receive(), None);
    assert!(wire.is_ended);
    wait_until("the end", || relay.sessions() == 0);
}

#[test]
fn a_session_outlives_its_allocation_by_the_idle_time() {
    let clock = clock();
    let relay = with(&clock, |_| {});
    let mut client = dtls_client(relay.dtls());
    client.allocate();
    clock.advance(Duration::from_mins(9));
    client.ask(Method::Refresh, &|writer| {
        writer.attribute(AttributeType::LIFETIME, &0_u32.to_be_bytes());
    });
    wait_until("no allocation", || relay.workers.allocations() == 0);
    clock.advance(Duration::from_secs(5));
    client.allocate();
    assert_eq!(relay.sessions(), 1);
    // the allocation ends, and ten seconds after it the session
    clock.advance(Duration::from_mins(11));
    wait_until("no allocation", || relay.workers.allocations() == 0);
    assert_eq!(relay.sessions(), 1);
    clock.advance(Duration::from_secs(11));
    wait_until("the end", || relay.sessions() == 0);
}

#[test]
fn an_allocation_ends_with_its_session() {
    let relay = Relay::start();
    let mut client = dtls_client(relay.dtls());
    let relayed = client.allocate();
    assert_eq!(relay.workers.allocations(), 1);
    client.wire.close();
    wait_until("no allocation", || relay.workers.allocations() == 0);
    assert_eq!(relay.sessions(), 0);
    // its port is somebody else's again
    wait_until("a free port", || UdpSocket::bind(relayed).is_ok());
}

/// RFC 6347 §4.2.8: a client that has lost its session begins another from the same address.
#[test]
fn a_new_session_from_the_same_address_takes_the_place_of_the_old_one() {
    let relay = Relay::start();
    let mut client = dtls_client(relay.dtls());
    client.allocate();
    let socket = client.wire.socket.try_clone().expect("open files are left");
    // somebody who sends in its name, and sees no answers, ends nothing
    let mut forged = DtlsWire::new(relay.dtls(), 1_200);
    forged.tick();
    socket.send(&forged.sent[0]).expect("the relay is there");
    let request = datagram(&mut client.wire);
    assert_eq!(request.len(), 60, "a HelloVerifyRequest");
    assert_eq!(relay.workers.allocations(), 1);

    let mut wire = DtlsWire::on(socket, relay.dtls(), 1_200);
    wire.shake_hands();
    wait_until("no allocation", || relay.workers.allocations() == 0);
    assert_eq!(relay.sessions(), 1);
    relays_both_ways(&mut Client::new(wire), &[100]);
}

#[test]
fn the_end_of_the_relay_is_said_to_its_clients() {
    let relay = Relay::start();
    let mut client = dtls_client(relay.dtls());
    client.allocate();
    relay.workers.stop();
    assert_eq!(client.wire.receive(), None);
    assert!(client.wire.is_ended);
}

/// As the system does with port scans: what is sent to a closed port comes back as an error, to the next call.
#[test]
fn a_client_that_is_gone_does_no_harm_to_others() {
    let relay = Relay::start();
    let mut client = dtls_client(relay.dtls());
    let relayed = client.allocate();
    let peer = peer();
    let channel = client.bind(0x4000, peer.local_addr().expect("bound"));
    client.wire.send(&channel.message(b"first"));
    drop(client);
    for _ in 0..50 {
        peer.send_to(b"nobody is there", relayed).expect("sent");
    }
    relays_both_ways(&mut dtls_client(relay.dtls()), &[100]);
}
