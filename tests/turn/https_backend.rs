//! `listen.https_backend`: one address and port for TURN and web pages.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixListener,
    thread,
    time::Duration,
};

use rustls::{ClientConnection, StreamOwned};
use serde_json::{Value, json};

use crate::{
    client::Client,
    relay::{Relay, Setup},
    time::{PATIENCE, SILENCE, eventually, now},
    wire::{self, Wire},
};

const HTTP: &[u8] = b"http/1.1";
const TURN: &[u8] = b"stun.turn";
const QUESTION: &[u8] = b"GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

/// A TLS client's end.
type Tls = StreamOwned<ClientConnection, TcpStream>;

/// A web server of which the test does each step.
struct Backend(TcpListener);

impl Backend {
    fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    fn address(&self) -> String {
        self.0.local_addr().unwrap().to_string()
    }

    /// The next connection that the relay makes.
    #[track_caller]
    fn accept(&self) -> TcpStream {
        self.0.set_nonblocking(true).unwrap();
        let deadline = now() + PATIENCE;
        let stream = loop {
            match self.0.accept() {
                Ok((stream, _)) => break stream,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            assert!(now() < deadline, "nothing is handed over");
            thread::sleep(Duration::from_millis(5));
        };
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// That nobody is handed over.
    #[track_caller]
    fn assert_is_left_alone(&self) {
        thread::sleep(SILENCE);
        self.0.set_nonblocking(true).unwrap();
        let accepted = self.0.accept();
        assert_eq!(accepted.unwrap_err().kind(), ErrorKind::WouldBlock);
    }

    /// Takes a question and answers it.
    #[track_caller]
    fn serve(&self) -> TcpStream {
        let mut stream = self.accept();
        assert_hears(&mut stream, QUESTION);
        stream.write_all(ANSWER).unwrap();
        stream
    }
}

/// With TLS on 127.0.0.1, and without it in the list on 127.0.0.2.
fn setup(backend: &str, more: &Value) -> Setup {
    let listen = json!({"tls": ["127.0.0.1:0"], "tcp": ["127.0.0.2:0"], "https_backend": backend});
    let mut config = json!({"listen": listen});
    for (key, value) in more.as_object().unwrap() {
        if let Value::Object(of_key) = &mut config[key] {
            of_key.extend(value.as_object().unwrap().clone());
        } else {
            config[key] = value.clone();
        }
    }
    Setup::new(&config).with_tls(&["127.0.0.1"])
}

fn relay(backend: &Backend, more: &Value) -> Relay {
    setup(&backend.address(), more).start()
}

/// Where HTTP is taken.
fn tls_address(relay: &Relay) -> SocketAddr {
    relay.tcp[1]
}

fn tls(relay: &Relay, address: SocketAddr, offered: &[&[u8]]) -> Tls {
    on_stream(relay, wire::connect(address), offered)
}

fn on_stream(relay: &Relay, stream: TcpStream, offered: &[&[u8]]) -> Tls {
    match wire::try_tls(stream, &relay.tls_config(offered)).unwrap() {
        Wire::Tls(framed) => framed.stream,
        Wire::Udp(_) | Wire::Tcp(_) => unreachable!("it is TLS"),
    }
}

fn https(relay: &Relay) -> Tls {
    tls(relay, tls_address(relay), &[HTTP])
}

#[track_caller]
fn assert_hears(stream: &mut impl io::Read, expected: &[u8]) {
    let mut heard = vec![0; expected.len()];
    stream.read_exact(&mut heard).unwrap();
    assert!(
        heard == expected,
        "{:?}",
        String::from_utf8_lossy(&heard[..heard.len().min(200)])
    );
}

/// That a question is answered by the backend.
#[track_caller]
fn assert_served(client: &mut Tls, backend: &Backend) -> TcpStream {
    client.write_all(QUESTION).unwrap();
    let stream = backend.serve();
    assert_hears(client, ANSWER);
    stream
}

/// All that comes until the end, which TLS says is one.
#[track_caller]
fn all_of(client: &mut Tls) -> Vec<u8> {
    let mut said = Vec::new();
    client.read_to_end(&mut said).unwrap();
    said
}

/// What no compression and no repetition hides.
fn body(len: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(len).collect()
}

#[test]
fn one_port_takes_turn_and_http_by_what_was_agreed_on_or_else_by_the_first_bytes() {
    let backend = Backend::new();
    let relay = relay(&backend, &json!({}));
    let at = tls_address(&relay);
    for (offered, agreed) in [
        (vec![HTTP], Some(HTTP)),
        (vec![b"h2", HTTP], Some(HTTP)),
        (vec![], None),
        (vec![b"h2"], None),
    ] {
        let mut client = tls(&relay, at, &offered);
        assert_eq!(client.conn.alpn_protocol(), agreed, "{offered:?}");
        assert_served(&mut client, &backend);
    }
    // the last is what coturn's client offers
    let with_turn: [&[&[u8]]; 5] = [
        &[TURN],
        &[b"stun.nat-discovery"],
        &[],
        &[b"h2"],
        &[HTTP, TURN],
    ];
    for offered in with_turn {
        let wire = wire::tls(at, &relay.tls_config(offered));
        Client::new(wire).allocate();
    }
    backend.assert_is_left_alone();
    assert_eq!(relay.metric("handovers_total", "done"), 4);
    assert_eq!(relay.metric("handovers_total", ""), 4);
}

#[test]
fn only_the_first_bytes_tell_and_one_at_a_time_is_enough() {
    let backend = Backend::new();
    let relay = relay(&backend, &json!({}));
    for offered in [&[HTTP][..], &[]] {
        let mut client = tls(&relay, tls_address(&relay), offered);
        for byte in QUESTION {
            client.write_all(&[*byte]).unwrap();
        }
        let mut stream = backend.serve();
        assert_hears(&mut client, ANSWER);
        // what comes later is nobody's business
        let later = [0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42, 0x40, 0];
        client.write_all(&later).unwrap();
        assert_hears(&mut stream, &later);
    }
}

#[test]
fn http_is_not_taken_in_clear_nor_where_tls_is_not_in_the_list_nor_by_what_is_meant_for_turn() {
    let backend = Backend::new();
    let relay = relay(&backend, &json!({}));
    for address in relay.tcp.clone() {
        let mut stream = wire::connect(address);
        stream.write_all(QUESTION).unwrap();
        let mut said = Vec::new();
        // closed or reset
        let _ = stream.read_to_end(&mut said);
        assert_eq!(said, b"");
    }
    for (address, offered) in [
        (relay.tcp[0], vec![HTTP]),
        (relay.tcp[0], vec![]),
        (tls_address(&relay), vec![TURN]),
    ] {
        let mut client = tls(&relay, address, &offered);
        assert_ne!(client.conn.alpn_protocol(), Some(HTTP));
        client.write_all(QUESTION).unwrap();
        let mut said = Vec::new();
        let _ = client.read_to_end(&mut said);
        assert_eq!(said, b"");
    }
    backend.assert_is_left_alone();
    assert_eq!(relay.metric("handovers_total", ""), 0);
}

#[test]
fn an_address_in_both_lists_is_one_listener_for_everything() {
    let backend = Backend::new();
    // nobody else on this machine has the address
    let [.., high, low] = std::process::id().to_be_bytes();
    let both = json!([format!("127.57.{high}.{low}:14443")]);
    let relay = relay(&backend, &json!({"listen": {"tcp": both, "tls": both}}));
    let at = relay.tcp[0];
    assert_eq!(relay.tcp.len(), 1);
    assert_served(&mut tls(&relay, at, &[HTTP]), &backend);
    Client::new(wire::tls(at, &relay.tls_config(&[TURN]))).allocate();
    Client::new(wire::tcp(at)).allocate();
}

#[test]
fn large_bodies_pass_both_ways_whole_even_to_slow_readers_of_whom_little_waits_here() {
    const LEN: usize = 48 << 20;
    let backend = Backend::new();
    let relay = relay(&backend, &json!({}));
    let mut client = https(&relay);
    let mut stream = assert_served(&mut client, &backend);
    let before = relay.resident();
    let sent = body(LEN);
    // down, while nobody reads
    let expected = sent.clone();
    let writer = thread::spawn(move || {
        stream.write_all(&sent).unwrap();
        (stream, sent)
    });
    thread::sleep(2 * SILENCE);
    assert!(!writer.is_finished(), "somebody has taken all of it");
    let more = relay.resident().saturating_sub(before);
    assert!(more < 4 * 1024, "{more} KiB wait here");
    assert_hears(&mut client, &expected);
    let (mut stream, sent) = writer.join().unwrap();
    // up
    let writer = thread::spawn(move || {
        client.write_all(&sent).unwrap();
        client
    });
    thread::sleep(2 * SILENCE);
    assert!(!writer.is_finished(), "somebody has taken all of it");
    let more = relay.resident().saturating_sub(before);
    assert!(more < 4 * 1024, "{more} KiB wait here");
    assert_hears(&mut stream, &expected);
    let mut client = writer.join().unwrap();
    stream.write_all(ANSWER).unwrap();
    assert_hears(&mut client, ANSWER);
}

#[test]
fn whoever_has_sent_everything_still_gets_the_answer_and_both_ends_are_passed_on() {
    let backend = Backend::new();
    let relay = relay(&backend, &json!({}));
    for together in [true, false] {
        let mut client = https(&relay);
        client.conn.writer().write_all(QUESTION).unwrap();
        if !together {
            client.flush().unwrap();
        }
        client.conn.send_close_notify();
        client.flush().unwrap();
        let mut stream = backend.accept();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, QUESTION);
        stream.write_all(ANSWER).unwrap();
        drop(stream);
        assert_eq!(all_of(&mut client), ANSWER);
    }
    assert!(eventually(|| relay.metric("connections", "") == 0));
}

#[test]
fn a_backend_that_answers_and_closes_before_it_has_heard_everything_is_heard() {
    let backend = Backend::new();
    let relay = relay(&backend, &json!({}));
    let mut client = https(&relay);
    client
        .write_all(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n")
        .unwrap();
    let mut stream = backend.accept();
    client.write_all(&body(1 << 20)).unwrap();
    stream.write_all(b"HTTP/1.1 413 Too Large\r\n\r\n").unwrap();
    // with unread bytes: the system resets the connection
    drop(stream);
    // as clients do which do not look before they have sent everything
    for _ in 0..100 {
        let _ = client.write_all(&body(1 << 16));
    }
    let mut said = [0; 26];
    client.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"HTTP/1.1 413 Too Large\r\n\r\n");
    // it may not have been everything
    let end = client.read(&mut [0; 1]);
    assert_eq!(end.unwrap_err().kind(), ErrorKind::UnexpectedEof);
}

#[test]
fn a_backend_that_breaks_off_does_not_look_like_one_that_has_finished() {
    let backend = Backend::new();
    let relay = relay(&backend, &json!({}));
    let mut client = https(&relay);
    client.write_all(QUESTION).unwrap();
    let stream = backend.accept();
    client.write_all(b"more that nobody reads").unwrap();
    thread::sleep(SILENCE);
    drop(stream);
    let end = client.read(&mut [0; 1]);
    assert_eq!(end.unwrap_err().kind(), ErrorKind::UnexpectedEof);
}

#[test]
fn without_its_backend_a_client_hears_502_and_others_are_served_until_it_is_back() {
    let backend = Backend::new();
    let address: SocketAddr = backend.address().parse().unwrap();
    let relay = relay(&backend, &json!({}));
    drop(backend);
    for offered in [&[HTTP][..], &[]] {
        let mut client = tls(&relay, tls_address(&relay), offered);
        client.write_all(QUESTION).unwrap();
        let said = String::from_utf8(all_of(&mut client)).unwrap();
        assert!(said.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{said}");
        assert!(said.ends_with("\r\n\r\n"), "{said}");
        let wire = wire::tls(tls_address(&relay), &relay.tls_config(offered));
        drop(wire);
    }
    let mut client = Client::new(wire::tls(tls_address(&relay), &relay.tls_config(&[TURN])));
    client.allocate();
    assert_eq!(relay.metric("handovers_total", "failed"), 2);
    assert!(eventually(|| relay.metric("connections", "https") == 0));
    relay.assert_says("`listen.https_backend` does not take connections at");
    let complaints = relay.log().matches("https_backend").count();
    assert!(complaints <= 2, "once for each thread: {}", relay.log());
    assert_eq!(client.refresh(0), Ok(0));

    let backend = Backend(TcpListener::bind(address).unwrap());
    assert_served(&mut https(&relay), &backend);
}

#[test]
fn a_prefix_has_so_many_connections_and_all_together_so_many() {
    let backend = Backend::new();
    let quotas = json!({"https_connections_per_prefix": 2, "https_connections": 3,
        "connections_per_prefix": 1});
    let relay = relay(&backend, &json!({"quotas": quotas}));
    let from = |last: [u8; 2]| {
        let local = IpAddr::from([127, 0, last[0], last[1]]);
        on_stream(
            &relay,
            wire::connect_from(local, tls_address(&relay)),
            &[HTTP],
        )
    };
    let refused = |last| {
        let mut client = from(last);
        client.write_all(QUESTION).unwrap();
        String::from_utf8(all_of(&mut client)).unwrap()
    };
    // one after the other: who was handed over is no stranger
    let mut first = from([7, 1]);
    let of_first = assert_served(&mut first, &backend);
    let mut second = from([7, 2]);
    let _of_second = assert_served(&mut second, &backend);
    assert!(refused([7, 3]).starts_with("HTTP/1.1 503 "));
    let mut third = from([8, 1]);
    let _of_third = assert_served(&mut third, &backend);
    assert!(refused([9, 1]).starts_with("HTTP/1.1 503 "));
    backend.assert_is_left_alone();
    assert_eq!(relay.metric("handovers_total", "refused"), 2);
    assert_eq!(relay.metric("connections", "https"), 3);
    assert_eq!(relay.metric("connections", "tls"), 0);
    // a place is free as soon as somebody has left
    drop((first, of_first));
    assert!(eventually(|| relay.metric("connections", "https") == 2));
    assert_served(&mut from([7, 3]), &backend);
}

#[test]
fn a_client_that_does_not_come_to_the_end_of_its_first_head_never_gets_to_the_backend() {
    let backend = Backend::new();
    let relay = relay(&backend, &json!({"timeouts": {"first_request": "1s"}}));
    for offered in [&[HTTP][..], &[]] {
        for said in [
            &b""[..],
            b"GE",
            b"GET / HTTP/1.1\r\nHost: localhost\r\nX: y\r\n",
        ] {
            let mut client = tls(&relay, tls_address(&relay), offered);
            client.write_all(said).unwrap();
            assert_eq!(all_of(&mut client), b"");
        }
    }
    backend.assert_is_left_alone();
    // a head beyond all measure is for the backend to judge
    let mut client = https(&relay);
    let long = [&b"GET / HTTP/1.1\r\nX: "[..], &vec![b'y'; 20_000]].concat();
    client.write_all(&long).unwrap();
    assert_hears(&mut backend.accept(), &long);
}

#[test]
fn a_connection_on_which_nothing_happens_is_closed_and_one_that_is_used_is_not() {
    let backend = Backend::new();
    let relay = relay(&backend, &json!({"timeouts": {"https_idle": "2s"}}));
    let mut idle = https(&relay);
    let _of_idle = assert_served(&mut idle, &backend);
    let mut busy = https(&relay);
    let mut of_busy = assert_served(&mut busy, &backend);
    let begun = now();
    while now() < begun + Duration::from_secs(4) {
        thread::sleep(Duration::from_millis(100));
        of_busy.write_all(b".").unwrap();
        assert_hears(&mut busy, b".");
    }
    assert_eq!(all_of(&mut idle), b"");
    busy.write_all(b"?").unwrap();
    assert_hears(&mut of_busy, b"?");
}

/// A header of the PROXY protocol, version 2, for IPv4.
fn header(client: SocketAddr, server: SocketAddr) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0C".to_vec();
    for address in [client, server] {
        let IpAddr::V4(ip) = address.ip() else {
            unreachable!("it is IPv4");
        };
        header.extend(ip.octets());
    }
    header.extend(client.port().to_be_bytes());
    header.extend(server.port().to_be_bytes());
    header
}

#[test]
fn the_backend_is_told_who_the_client_is_also_by_way_of_a_proxy_in_front() {
    const PROXY: [u8; 4] = [127, 44, 0, 1];
    let backend = Backend::new();
    let listen = json!({"https_backend_proxy_protocol": true, "proxy_protocol": ["127.44.0.1/32"]});
    let relay = relay(&backend, &json!({"listen": listen}));
    let at = tls_address(&relay);

    let stream = wire::connect_from([127, 0, 0, 9].into(), at);
    let here = stream.local_addr().unwrap();
    let mut client = on_stream(&relay, stream, &[HTTP]);
    client.write_all(QUESTION).unwrap();
    let mut heard = backend.accept();
    assert_hears(&mut heard, &header(here, at));
    assert_hears(&mut heard, QUESTION);

    let claimed: SocketAddr = "8.8.7.7:1234".parse().unwrap();
    let mut stream = wire::connect_from(PROXY.into(), at);
    stream.write_all(&header(claimed, at)).unwrap();
    let mut client = on_stream(&relay, stream, &[HTTP]);
    client.write_all(QUESTION).unwrap();
    let mut heard = backend.accept();
    assert_hears(&mut heard, &header(claimed, at));
    assert_hears(&mut heard, QUESTION);
    // the log says nothing of who was there
    let log = relay.log();
    assert!(
        !log.contains("8.8.7.7") && !log.contains("127.0.0.9"),
        "{log}"
    );
}

#[test]
fn a_unix_socket_is_a_backend_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("web.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let relay = setup(&format!("unix:{}", path.display()), &json!({})).start();
    let mut client = https(&relay);
    client.write_all(QUESTION).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    assert_hears(&mut stream, QUESTION);
    let answer = body(3 << 20);
    let expected = answer.clone();
    let writer = thread::spawn(move || {
        stream.write_all(&answer).unwrap();
        stream.shutdown(Shutdown::Both).unwrap();
    });
    assert!(all_of(&mut client) == expected);
    writer.join().unwrap();
    drop(listener);
    let mut client = https(&relay);
    client.write_all(QUESTION).unwrap();
    assert!(all_of(&mut client).starts_with(b"HTTP/1.1 502 "));
}

#[test]
fn a_reload_brings_the_backend_and_takes_it_away_and_touches_no_connection() {
    let (one, other) = (Backend::new(), Backend::new());
    let mut relay = relay(&one, &json!({}));
    let mut client = https(&relay);
    let mut of_client = assert_served(&mut client, &one);
    relay.reload(&json!({"listen": {"https_backend": other.address()}}));
    assert!(eventually(|| {
        let mut client = https(&relay);
        client.write_all(QUESTION).unwrap();
        other.0.set_nonblocking(true).unwrap();
        one.0.set_nonblocking(true).unwrap();
        eventually(|| other.0.accept().is_ok() || one.0.accept().is_ok()) && one.0.accept().is_err()
    }));
    of_client.write_all(b"still here").unwrap();
    assert_hears(&mut client, b"still here");
    relay.reload(&json!({"listen": {"https_backend": null}}));
    assert!(eventually(|| https(&relay).conn.alpn_protocol().is_none()));
    of_client.write_all(b"still here").unwrap();
    assert_hears(&mut client, b"still here");
}
