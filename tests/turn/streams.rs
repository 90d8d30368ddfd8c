//! Clients over TCP and TLS: framing, one port for both, ALPN.

use std::{
    io::{Read as _, Write as _},
    sync::Arc,
    thread,
    time::Duration,
};

use rustls::{
    ClientConfig, ProtocolVersion, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
    version::{TLS12, TLS13},
};
use serde_json::{Value, json};

use crate::{
    client::{BINDING, Client, Peer, Relayed, XOR_MAPPED_ADDRESS, request},
    relay::{Relay, Setup},
    time::{PATIENCE, eventually},
    wire::{self, Received, Wire},
};

fn relay_with_tls(more: &Value) -> Relay {
    Setup::new(more).with_tls(&[]).start()
}

/// That a client does what clients do.
fn assert_serves(client: &mut Client) {
    let mapped = client.ask(BINDING, &[]).xor(XOR_MAPPED_ADDRESS);
    assert_eq!(mapped, Some(client.wire.local_address()));
    let relayed = client.allocate();
    let peer = Peer::new();
    assert_eq!(client.bind(0x4000, peer.address()), None);
    for len in [0, 1, 2, 3, 4, 1200, 9000] {
        let payload = vec![7; len];
        client.send_on(0x4000, &payload);
        assert_eq!(peer.receive(), (payload.clone(), relayed));
        peer.send(relayed, &payload);
        assert_eq!(client.relayed(), Relayed::On(0x4000, payload.clone()));
        client.send_to(peer.address(), &payload);
        assert_eq!(peer.receive(), (payload, relayed));
    }
    assert_eq!(client.refresh(600), Ok(600));
}

#[test]
fn one_port_takes_clients_in_clear_and_in_tls() {
    let relay =
        relay_with_tls(&json!({"listen": {"tls": ["127.0.0.1:0"], "tcp": ["127.0.0.2:0"]}}));
    for address in relay.tcp.clone() {
        assert_serves(&mut Client::new(wire::tcp(address)));
        assert_serves(&mut Client::new(wire::tls(address, &relay.tls_config(&[]))));
    }
    assert_eq!(relay.tcp.len(), 2);
    assert_eq!(
        relay.metric("allocations_made_total", "transport=\"tcp\""),
        2
    );
    assert_eq!(
        relay.metric("allocations_made_total", "transport=\"tls\""),
        2
    );
    assert_eq!(relay.metric("handshakes_total", "completed"), 2);
}

#[test]
fn without_a_certificate_there_is_no_tls_and_whoever_tries_is_not_kept_waiting() {
    let relay = Relay::start(&json!({}));
    let stream = wire::connect(relay.tcp[0]);
    assert!(wire::try_tls(stream, &relay.tls_config(&[])).is_err());
    assert_serves(&mut relay.tcp_client());
}

#[test]
fn tls_1_2_and_1_3_are_spoken_and_nothing_older() {
    let relay = relay_with_tls(&json!({}));
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(relay.authority().as_bytes()).unwrap())
        .unwrap();
    for (version, expected) in [
        (&TLS12, ProtocolVersion::TLSv1_2),
        (&TLS13, ProtocolVersion::TLSv1_3),
    ] {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        let wire = wire::tls(relay.tcp[0], &Arc::new(config));
        let Wire::Tls(framed) = &wire else {
            unreachable!("it is TLS");
        };
        assert_eq!(framed.stream.conn.protocol_version(), Some(expected));
        assert_serves(&mut Client::new(wire));
    }
    // a ClientHello of TLS 1.0, whose record is as long as it says
    let mut stream = wire::connect(relay.tcp[0]);
    let mut hello = vec![22, 3, 1, 0, 47, 1, 0, 0, 43, 3, 1];
    hello.extend([1; 32]);
    hello.extend([0, 0, 4, 0, 0x2F, 0, 0x35, 1, 0]);
    stream.write_all(&hello).unwrap();
    let mut answer = Vec::new();
    // an alert (21), and the end
    let _ = stream.read_to_end(&mut answer);
    assert_eq!(answer.first(), Some(&21), "{answer:?}");
    assert!(eventually(
        || relay.metric("handshakes_total", "failed") == 1
    ));
}

/// RFC 7443: the first that the client offers of those that there are; and none is no reason to refuse.
#[test]
fn the_clients_first_protocol_is_taken_and_an_unknown_one_is_no_error() {
    let relay = relay_with_tls(&json!({}));
    let turn: &[u8] = b"stun.turn";
    let nat: &[u8] = b"stun.nat-discovery";
    for (offered, selected) in [
        (vec![], None),
        (vec![turn], Some(turn)),
        (vec![nat], Some(nat)),
        (vec![nat, turn], Some(nat)),
        (vec![turn, nat], Some(turn)),
        (vec![b"h2", nat, turn], Some(nat)),
        (vec![b"h2", b"http/1.1"], None),
    ] {
        let wire = wire::tls(relay.tcp[0], &relay.tls_config(&offered));
        let Wire::Tls(framed) = &wire else {
            unreachable!("it is TLS");
        };
        assert_eq!(framed.stream.conn.alpn_protocol(), selected, "{offered:?}");
        Client::new(wire).allocate();
    }
}

#[test]
fn messages_come_in_pieces_and_several_at_once() {
    let relay = relay_with_tls(&json!({}));
    for mut client in [relay.tcp_client(), relay.tls_client()] {
        let relayed = client.allocate();
        let peer = Peer::new();
        assert_eq!(client.bind(0x4000, peer.address()), None);
        // byte by byte
        let question = request(BINDING, &[]);
        for byte in &question {
            client.wire.send(&[*byte]).unwrap();
        }
        let Received::Message(answer) = client.wire.receive(PATIENCE) else {
            panic!("no answer");
        };
        assert_eq!(answer[8..20], question[8..20]);
        // ChannelData of odd lengths, all in one
        let mut all = Vec::new();
        for len in 0..200_u8 {
            all.extend([0x40, 0, 0, len]);
            all.extend(vec![len; len.into()]);
            all.resize(all.len().next_multiple_of(4), 0);
        }
        client.wire.send(&all).unwrap();
        for len in 0..200_u8 {
            assert_eq!(peer.receive(), (vec![len; len.into()], relayed));
        }
        // and cut where it hurts most
        for cut in [1, 3, 4, 5, 20] {
            let message = [&[0x40, 0, 0, 17][..], &[9; 17], &[0; 3]].concat();
            client.wire.send(&message[..cut]).unwrap();
            thread::sleep(Duration::from_millis(20));
            client.wire.send(&message[cut..]).unwrap();
            assert_eq!(peer.receive().0, [9; 17]);
        }
    }
}

#[test]
fn the_longest_messages_are_relayed() {
    let relay = relay_with_tls(&json!({}));
    for mut client in [relay.tcp_client(), relay.tls_client()] {
        let relayed = client.allocate();
        let peer = Peer::new();
        assert_eq!(client.bind(0x4000, peer.address()), None);
        let payload: Vec<u8> = (0..=255).cycle().take(65_000).collect();
        client.send_on(0x4000, &payload);
        assert!(peer.receive().0 == payload);
        peer.send(relayed, &payload);
        assert!(client.relayed().payload() == payload);
        assert_eq!(client.refresh(600), Ok(600));
    }
}

#[test]
fn what_is_neither_stun_nor_channel_data_ends_the_connection() {
    let relay = relay_with_tls(&json!({}));
    let mut odd = request(BINDING, &[]);
    odd[3] = 2;
    odd.extend([0, 0]);
    for garbage in [
        b"GET / HTTP/1.1\r\nHost: turn.example.org\r\n\r\n".to_vec(),
        b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(),
        vec![0xFF; 64],
        vec![0x50; 64],
        odd,
    ] {
        let mut stream = wire::connect(relay.tcp[0]);
        stream.write_all(&garbage).unwrap();
        let mut answer = Vec::new();
        // closed or reset
        let _ = stream.read_to_end(&mut answer);
        assert_eq!(answer, b"", "{garbage:?}");
    }
    assert!(eventually(|| relay.metric("connections", "") == 0));
}

#[test]
fn an_allocation_ends_with_its_connection() {
    let relay = relay_with_tls(&json!({}));
    for connect in [Relay::tcp_client, Relay::tls_client] {
        let mut client = connect(&relay);
        client.allocate();
        assert_eq!(relay.allocations(), 1);
        client.wire.close();
        drop(client);
        assert!(eventually(|| relay.allocations() == 0));
        assert!(eventually(|| relay.metric("connections", "") == 0));
    }
    // by what TLS says of its end, too
    let mut client = relay.tls_client();
    client.allocate();
    let Wire::Tls(framed) = &mut client.wire else {
        unreachable!("it is TLS");
    };
    framed.stream.conn.send_close_notify();
    framed.stream.flush().unwrap();
    assert!(eventually(|| relay.allocations() == 0));
}

/// RFC 8489 §6.2.2: the server leaves the connection open for the client to end, for a while.
#[test]
fn a_connection_is_of_use_after_its_allocation_until_it_has_been_idle() {
    let relay = relay_with_tls(&json!({"timeouts": {"idle": "2s"}}));
    for mut client in [relay.tcp_client(), relay.tls_client()] {
        client.allocate();
        assert_eq!(client.refresh(0), Ok(0));
        client.allocate();
        assert_eq!(client.refresh(0), Ok(0));
        assert_eq!(client.wire.receive(PATIENCE), Received::Closed);
    }
}

#[test]
fn connections_are_counted_while_they_are_there() {
    let relay = relay_with_tls(&json!({}));
    let clients = [relay.tcp_client(), relay.tcp_client(), relay.tls_client()];
    assert!(eventually(|| relay.metric("connections", "tcp") == 2));
    assert!(eventually(|| relay.metric("connections", "tls") == 1));
    drop(clients);
    assert!(eventually(|| relay.metric("connections", "") == 0));
}
