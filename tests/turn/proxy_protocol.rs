//! `listen.proxy_protocol`: a proxy in front of the relay says who its clients are (PROXY protocol, version 2).

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
};

use serde_json::json;

use crate::{
    client::{BINDING, Client, XOR_MAPPED_ADDRESS},
    relay::{Relay, Setup},
    time::eventually,
    wire,
};

const PROXY: Ipv4Addr = Ipv4Addr::new(127, 44, 0, 1);
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn relay() -> Relay {
    Setup::new(&json!({
        "listen": {"proxy_protocol": [format!("{PROXY}/32")]},
        "timeouts": {"first_request": "2s", "tls_handshake": "2s"},
    }))
    .with_tls(&[])
    .start()
}

/// A connection from there that has said so much.
fn connection(from: impl Into<IpAddr>, relay: &Relay, said: &[u8]) -> TcpStream {
    let mut stream = wire::connect_from(from.into(), relay.tcp[0]);
    stream.write_all(said).unwrap();
    stream
}

fn proxied(relay: &Relay, said: &[u8]) -> TcpStream {
    connection(PROXY, relay, said)
}

/// A header: version and command, family and protocol, and what follows.
fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    header.extend([command, family]);
    header.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
    header.extend(rest);
    header
}

/// That of a client which came over TCP.
fn header_of(client: SocketAddr) -> Vec<u8> {
    let (family, mut rest) = match client.ip() {
        IpAddr::V4(address) => (0x11, [address.octets(), [127, 0, 0, 1]].concat()),
        IpAddr::V6(address) => (0x21, [address.octets(), [1; 16]].concat()),
    };
    rest.extend(client.port().to_be_bytes());
    rest.extend(3478_u16.to_be_bytes());
    header(0x21, family, &rest)
}

fn assert_closed(mut stream: TcpStream) {
    let mut said = Vec::new();
    // closed or reset
    let _ = stream.read_to_end(&mut said);
    assert_eq!(said, b"");
}

/// Who the relay thinks is there.
fn mapped(client: &mut Client) -> SocketAddr {
    client.ask(BINDING, &[]).xor(XOR_MAPPED_ADDRESS).unwrap()
}

#[test]
fn the_client_is_who_the_proxy_says() {
    let relay = relay();
    for claimed in ["8.8.7.7:1234", "[2606:4700::77]:4321"] {
        let claimed: SocketAddr = claimed.parse().unwrap();
        let stream = proxied(&relay, &header_of(claimed));
        let mut client = Client::new(wire::tcp_on(stream));
        assert_eq!(mapped(&mut client), claimed);
        client.allocate();
        // over TLS behind the header
        let stream = proxied(&relay, &header_of(claimed));
        let wire = wire::try_tls(stream, &relay.tls_config(&[])).unwrap();
        let mut client = Client::new(wire);
        assert_eq!(mapped(&mut client), claimed);
        client.allocate();
    }
}

#[test]
fn a_header_may_come_in_pieces_with_more_in_it_and_the_first_request_right_behind() {
    let relay = relay();
    let claimed: SocketAddr = "8.8.7.7:1234".parse().unwrap();
    let mut with_tlvs = header_of(claimed);
    // PP2_TYPE_NOOP, and one of the proxy's own
    let more = [&[4, 0, 2, 0, 0][..], &[0xE0, 1, 0], &[7; 256]].concat();
    let len = u16::try_from(12 + more.len()).unwrap();
    with_tlvs[14..16].copy_from_slice(&len.to_be_bytes());
    with_tlvs.extend(more);
    let mut stream = proxied(&relay, &[]);
    for byte in &with_tlvs {
        stream.write_all(&[*byte]).unwrap();
    }
    assert_eq!(mapped(&mut Client::new(wire::tcp_on(stream))), claimed);

    let question = crate::client::request(BINDING, &[]);
    let mut stream = proxied(&relay, &[header_of(claimed), question].concat());
    let mut answer = [0; 32];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(
        crate::client::Answer(answer.to_vec()).xor(XOR_MAPPED_ADDRESS),
        Some(claimed)
    );
}

/// A proxy that asks on its own behalf, whether the relay is there.
#[test]
fn a_proxys_own_connection_is_its_own() {
    let relay = relay();
    for said in [header(0x20, 0, &[]), header(0x20, 0x11, &[9; 12])] {
        let stream = proxied(&relay, &said);
        let here = stream.local_addr().unwrap();
        assert_eq!(mapped(&mut Client::new(wire::tcp_on(stream))), here);
    }
}

#[test]
fn a_proxy_that_does_not_say_who_it_is_for_is_not_served() {
    let relay = relay();
    let claimed: SocketAddr = "8.8.7.7:1234".parse().unwrap();
    let good = header_of(claimed);
    let changed = |index: usize, byte: u8| {
        let mut header = good.clone();
        header[index] = byte;
        header
    };
    for said in [
        crate::client::request(BINDING, &[]),
        b"PROXY TCP4 8.8.7.7 127.0.0.1 1234 3478\r\n".to_vec(),
        changed(0, b'\n'),
        changed(11, b'Q'),
        changed(12, 0x11),
        changed(12, 0x22),
        header(0x21, 0x11, &[1; 4]),
        header(0x21, 0x21, &[1; 12]),
        vec![22, 3, 1, 0, 100],
    ] {
        assert_closed(proxied(&relay, &said));
    }
    // nor one that takes its time, or ends in the middle of it
    assert_closed(proxied(&relay, &good[..20]));
    assert_closed(proxied(&relay, &[]));
    let cut = proxied(&relay, &good[..20]);
    cut.shutdown(std::net::Shutdown::Write).unwrap();
    assert_closed(cut);
    assert!(eventually(|| relay.metric("connections", "") == 0));
}

#[test]
fn nobody_else_is_believed() {
    let relay = relay();
    let claimed: SocketAddr = "8.8.7.7:1234".parse().unwrap();
    assert_closed(connection([127, 44, 0, 2], &relay, &header_of(claimed)));
    // and who is no proxy needs no header
    let stream = connection([127, 44, 0, 2], &relay, &[]);
    let here = stream.local_addr().unwrap();
    assert_eq!(mapped(&mut Client::new(wire::tcp_on(stream))), here);
}

#[test]
fn strangers_are_counted_by_their_own_prefix_and_not_the_proxys() {
    let mut relay = relay();
    relay.reload(
        &json!({"quotas": {"connections_per_prefix": 2}, "timeouts": {"first_request": "5m"}}),
    );
    let from = |text: &str| {
        let claimed: SocketAddr = text.parse().unwrap();
        Client::new(wire::tcp_on(proxied(&relay, &header_of(claimed))))
    };
    let mut kept = Vec::new();
    for text in [
        "8.8.7.1:1",
        "8.8.7.2:1",
        "8.8.8.1:1",
        "8.8.8.2:1",
        "8.8.9.1:1",
    ] {
        let mut client = from(text);
        mapped(&mut client);
        kept.push(client);
    }
    let mut one_more = from("8.8.7.3:1");
    let question = crate::client::request(BINDING, &[]);
    assert!(one_more.exchange(&question).is_none(), "it is served");
}

#[test]
fn a_reload_changes_who_is_a_proxy() {
    let mut relay = relay();
    relay.reload(&json!({"listen": {"proxy_protocol": ["127.45.0.0/16"]}}));
    let claimed: SocketAddr = "8.8.7.7:1234".parse().unwrap();
    assert_closed(proxied(&relay, &header_of(claimed)));
    let stream = connection([127, 45, 3, 3], &relay, &header_of(claimed));
    assert_eq!(mapped(&mut Client::new(wire::tcp_on(stream))), claimed);
}
