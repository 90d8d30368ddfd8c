//! What is relayed.

use std::net::UdpSocket;

use turn_relay_proto::{
    counters::{Direction, Handshake},
    stun::{AttributeType, Method},
};

use crate::{
    Relay, certificate,
    client::{Client, PATIENCE, Wire, send_indication, udp_client},
    session::{DtlsWire, dtls_client},
    wait_until,
};

pub(crate) fn peer() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.set_read_timeout(Some(PATIENCE)).expect("not zero");
    socket
}

/// Channel data of many lengths to a peer and back.
pub(crate) fn relays_both_ways<W: Wire>(client: &mut Client<W>, lengths: &[usize]) {
    let relayed = client.allocate();
    let peer = peer();
    let channel = client.bind(0x4000, peer.local_addr().expect("bound"));
    let mut buffer = vec![0; 65_536];
    for len in lengths {
        let payload = vec![len.to_le_bytes()[0]; *len];
        client.wire.send(&channel.message(&payload));
        let (len, from) = peer.recv_from(&mut buffer).expect("relayed");
        assert_eq!(from, relayed);
        assert!(buffer[..len] == payload, "{len}");
        peer.send_to(&payload, relayed).expect("sent");
        assert!(client.channel_data() == Some(payload), "{len}");
    }
}

#[test]
fn channel_data_goes_both_ways() {
    let relay = Relay::start();
    let mut client = dtls_client(relay.dtls());
    let lengths = [1, 2, 3, 4, 0, 160, 1_000, 1_200, 9_000, 16_000, 7];
    relays_both_ways(&mut client, &lengths);
    assert_eq!(relay.handshakes(Handshake::Completed), 1);
    assert_eq!(relay.sessions(), 1);
}

#[test]
fn indications_go_both_ways() {
    let relay = Relay::start();
    let mut client = dtls_client(relay.dtls());
    let relayed = client.allocate();
    let peer = peer();
    let address = peer.local_addr().expect("bound");
    client.permit(address);
    client.wire.send(&send_indication(address, b"there", false));
    let mut buffer = [0; 100];
    let (len, from) = peer.recv_from(&mut buffer).expect("relayed");
    assert_eq!((&buffer[..len], from), (b"there".as_slice(), relayed));
    peer.send_to(b"back", relayed).expect("sent");
    let indication = client.indication(Method::Data);
    let data = indication.message();
    assert_eq!(data.value(AttributeType::DATA), Some(b"back".as_slice()));
}

/// Packets that come together are decrypted where they lie: none may overwrite another.
#[test]
fn many_packets_at_once_stay_apart() {
    let relay = Relay::start();
    let mut client = dtls_client(relay.dtls());
    let relayed = client.allocate();
    let peer = peer();
    let channel = client.bind(0x4000, peer.local_addr().expect("bound"));
    let mut buffer = vec![0; 65_536];
    for round in 0..20_u8 {
        let lengths: Vec<usize> = (0..24).map(|index| (index % 5) * 250 + 1).collect();
        for (index, len) in (0_u8..).zip(&lengths) {
            let payload = vec![round ^ index; *len];
            client.wire.send(&channel.message(&payload));
        }
        for (index, len) in (0_u8..).zip(&lengths) {
            let (got, _) = peer.recv_from(&mut buffer).expect("relayed");
            assert!(
                buffer[..got] == vec![round ^ index; *len],
                "{round} {index}"
            );
            peer.send_to(&buffer[..got], relayed).expect("sent");
        }
        for (index, len) in (0_u8..).zip(&lengths) {
            assert!(client.channel_data() == Some(vec![round ^ index; *len]));
        }
    }
}

#[test]
fn several_records_in_one_datagram_are_as_many_messages() {
    let relay = Relay::start();
    let mut client = dtls_client(relay.dtls());
    client.allocate();
    let peer = peer();
    let channel = client.bind(0x4000, peer.local_addr().expect("bound"));
    let before = client.wire.sent.len();
    let payloads: Vec<_> = (1..=7_u8).map(|n| vec![n; 40]).collect();
    let messages: Vec<_> = payloads.iter().map(|p| channel.message(p)).collect();
    client.wire.send_together(&messages);
    assert_eq!(client.wire.sent.len(), before + 1, "in one datagram");
    let mut buffer = [0; 100];
    for payload in payloads {
        let (len, _) = peer.recv_from(&mut buffer).expect("relayed");
        assert_eq!(buffer[..len], payload);
    }
}

/// On two threads: some pairs are on one, some on both.
#[test]
fn clients_over_dtls_and_udp_reach_each_other_straight_across() {
    let relay = Relay::start();
    for _ in 0..8 {
        let mut one = dtls_client(relay.dtls());
        let mut other = udp_client(relay.udp());
        let (of_one, of_other) = (one.allocate(), other.allocate());
        let to_other = one.bind(0x4000, of_other);
        let to_one = other.bind(0x4001, of_one);
        for payload in [b"a".as_slice(), &[7; 1_200]] {
            one.wire.send(&to_other.message(payload));
            assert_eq!(other.channel_data().as_deref(), Some(payload));
            Wire::send(&mut other.wire, &to_one.message(payload));
            assert_eq!(one.channel_data().as_deref(), Some(payload));
        }
    }
    let across = relay.count(|counters| counters.packets.get(Direction::ClientToClient));
    assert_eq!(across, 8 * 4);
}

#[test]
fn two_clients_over_dtls_reach_each_other() {
    let relay = Relay::start();
    for _ in 0..6 {
        let mut one = dtls_client(relay.dtls());
        let mut other = dtls_client(relay.dtls());
        let (of_one, of_other) = (one.allocate(), other.allocate());
        let to_other = one.bind(0x4000, of_other);
        other.permit(of_one);
        one.wire.send(&to_other.message(b"without a channel"));
        let indication = other.indication(Method::Data);
        let data = indication
            .message()
            .value(AttributeType::DATA)
            .map(<[u8]>::to_vec);
        assert_eq!(data.as_deref(), Some(b"without a channel".as_slice()));
    }
}

#[test]
fn handshakes_in_small_pieces_come_about() {
    let relay = Relay::start();
    let names: Vec<String> = (0..100).map(|n| format!("host-{n}.example.org")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let long = certificate(&relay.authority, &names);
    relay.certificate.store(std::sync::Arc::new(long));
    // both sides have more to say than fits into a datagram
    let mut wire = DtlsWire::new(relay.dtls(), 130);
    wire.shake_hands();
    assert!(wire.certificate.len() > 2_000);
    assert!(wire.sent.iter().all(|datagram| datagram.len() <= 130));
    relays_both_ways(&mut Client::new(wire), &[100]);
}

#[test]
fn a_renewed_certificate_is_for_new_sessions() {
    let relay = Relay::start();
    let mut old = dtls_client(relay.dtls());
    let renewed = certificate(&relay.authority, &["other.example.org"]);
    relay.certificate.store(std::sync::Arc::new(renewed));
    let new = dtls_client(relay.dtls());
    assert_ne!(old.wire.certificate, new.wire.certificate);
    relays_both_ways(&mut old, &[100]);
    wait_until("two sessions", || relay.sessions() == 2);
}
