//! Clients over DTLS, of a `nocturne` that was built with the feature `dtls`: OpenSSL's and coturn's.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use shared::{environment::Environment, random::Random};

use crate::{
    client::Credentials,
    relay::{Relay, Setup},
    time::eventually,
};

fn relay() -> Relay {
    setup().start()
}

fn setup() -> Setup {
    Setup::new(&json!({"listen": {"dtls": ["127.0.0.1:0"]}})).with_tls(&[])
}

/// It comes last.
fn address(relay: &Relay) -> SocketAddr {
    *relay.tcp.last().unwrap()
}

/// Whether a program is there. In CI it has to be.
fn has(program: &str, package: &str) -> bool {
    let found = Command::new(program)
        .arg("-h")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok();
    if !found {
        let in_ci = Environment::of_process().get("CI").is_some();
        assert!(!in_ci, "{package} is not installed");
        eprintln!("skipped: {package} is not installed");
    }
    found
}

/// How long a client is put up with that hears nothing, in seconds.
const PATIENCE: &str = "60";

/// Allocations of coturn's client, which send each other messages, or to somebody who sends them back.
///
/// It draws by lot whether it speaks DTLS 1.0, which nobody should any more (RFC 8996), or 1.2, and draws again when it is told that its
/// version is not spoken.
fn uclient(relay: &Relay, echo: Option<SocketAddr>, flags: &str) -> Output {
    let credentials = Credentials::of("alice");
    let authority = relay.folder().join("authority.pem");
    fs::write(&authority, relay.authority()).unwrap();
    let peer = echo.map_or_else(
        || vec!["-y".to_owned()],
        |echo| {
            ["-e", "127.0.0.1", "-r", &echo.port().to_string()]
                .map(str::to_owned)
                .to_vec()
        },
    );
    Command::new("timeout")
        .args([PATIENCE, "turnutils_uclient", "-S", "-c", "-n", "10", "-E"])
        .arg(authority)
        .args(["-u", &credentials.username, "-w", &credentials.password])
        .args(["-p", &address(relay).port().to_string()])
        .args(peer)
        .args(flags.split_whitespace())
        .arg("127.0.0.1")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Sends everything back, until the test ends.
fn echo() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            // whoever is gone does not want it
            let _ = socket.send_to(&buffer[..len], from);
        }
    });
    address
}

#[test]
fn coturns_client_loses_nothing() {
    if !has("turnutils_uclient", "coturn") {
        return;
    }
    let relay = relay();
    let echo = echo();
    let runs = [
        (Some(echo), "-s", 10),
        (Some(echo), "-s -l 1200", 10),
        (None, "-s -g", 20),
        (None, "-s -m 3", 40),
    ];
    for (echo, flags, messages) in runs {
        let output = uclient(&relay, echo, flags);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{flags}: {text}");
        // start_mclient: tot_send_msgs=10, tot_recv_msgs=10
        let count = |name: &str| -> u64 {
            let (_, rest) = text.rsplit_once(&format!("{name}=")).unwrap();
            let digits = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap();
            digits.parse().unwrap()
        };
        assert_eq!(count("tot_send_msgs"), messages, "{flags}: {text}");
        assert_eq!(count("tot_recv_msgs"), messages, "{flags}: {text}");
    }
    assert!(relay.metric("dtls_handshakes_total", "completed") >= 3);
    assert!(relay.metric("allocations_made_total", "transport=\"dtls\"") >= 3);
}

/// The certificate that a new session gets, as PEM.
fn certificate(relay: &Relay) -> String {
    let output = Command::new("openssl")
        .args(["s_client", "-dtls1_2", "-connect"])
        .arg(address(relay).to_string())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (_, rest) = text
        .split_once("-----BEGIN CERTIFICATE-----")
        .unwrap_or_else(|| panic!("{text}"));
    rest.split_once("-----END CERTIFICATE-----")
        .unwrap()
        .0
        .to_owned()
}

#[test]
fn a_renewed_certificate_is_taken_without_a_signal_and_by_a_reload() {
    if !has("openssl", "openssl") {
        return;
    }
    let mut relay = relay();
    let first = certificate(&relay);
    relay.renew_certificate(&[]);
    assert!(eventually(|| certificate(&relay) != first));
    let second = certificate(&relay);
    relay.renew_certificate(&[]);
    relay.reload(&json!({}));
    assert_ne!(certificate(&relay), second);
}

#[test]
fn sessions_end_in_peace_with_the_relay() {
    if !has("openssl", "openssl") {
        return;
    }
    let relay = relay();
    certificate(&relay);
    assert!(eventually(|| relay
        .metric("connections", "transport=\"dtls\"")
        == 0));
    assert_eq!(relay.metric("dtls_handshakes_total", "completed"), 1);
    assert_eq!(relay.metric("handshakes_total", "completed"), 0);
}

#[test]
fn without_a_certificate_there_is_no_dtls() {
    let no_tls: Value = json!({"listen": {"dtls": ["127.0.0.1:0"]}});
    let refusal = Setup::new(&no_tls).refusal();
    assert!(refusal.contains("DTLS takes a certificate"), "{refusal}");
}

/// A `ClientHello` with nothing in it but what has to be: one cipher suite, and the extended master secret.
fn hello(number: u8, random: [u8; 32], cookie: &[u8]) -> Vec<u8> {
    let len = |len: usize| u8::try_from(len).unwrap();
    let mut body = vec![0xfe, 0xfd];
    body.extend_from_slice(&random);
    body.extend_from_slice(&[0, len(cookie.len())]);
    body.extend_from_slice(cookie);
    body.extend_from_slice(&[0, 2, 0xc0, 0x2b, 1, 0, 0, 4, 0, 23, 0, 0]);
    let mut record = vec![22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, number, 0];
    record.push(len(12 + body.len()));
    let length = [0, 0, len(body.len())];
    record.push(1);
    record.extend_from_slice(&length);
    record.extend_from_slice(&[0, number, 0, 0, 0]);
    record.extend_from_slice(&length);
    record.extend_from_slice(&body);
    record
}

fn socket(relay: &Relay, local: Ipv4Addr) -> UdpSocket {
    let socket = UdpSocket::bind((local, 0)).unwrap();
    socket.connect(address(relay)).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

#[cfg(target_os = "linux")]
#[test]
fn a_flood_of_hellos_from_forged_addresses_takes_no_memory() {
    let relay = relay();
    let sockets: Vec<_> = (0..100)
        .map(|n| socket(&relay, Ipv4Addr::new(127, 1, n, 1)))
        .collect();
    let mut sent = 0_u64;
    let mut flood = |rounds| {
        for _ in 0..rounds {
            for socket in &sockets {
                let mut buffer = [0; 2_000];
                let mut random = [0; 32];
                Random::system().fill(&mut random);
                for datagram in [hello(0, random, &[]), hello(1, random, &[9; 32])] {
                    sent += u64::from(socket.send(&datagram).is_ok());
                }
                while let Ok(len) = socket.recv(&mut buffer) {
                    assert_eq!(len, 60);
                }
            }
        }
    };
    flood(50);
    let before = relay.resident();
    flood(200);
    let grown = relay.resident().saturating_sub(before);
    // a session takes 9 kB
    assert!(grown < 2_000, "{grown} KiB more");
    assert_eq!(relay.metric("connections", "transport=\"dtls\""), 0);
    assert_eq!(relay.metric("dtls_handshakes_total", ""), 0);
    assert!(sent > 40_000, "{sent}");
    assert!(relay.dropped("malformed") > 10_000);
}

/// Whoever has shown a cookie may still send what is no handshake: what waits for the rest of it is bounded.
#[cfg(target_os = "linux")]
#[test]
fn handshakes_that_never_go_on_take_little_memory() {
    const CLIENTS: u8 = 50;
    let relay = relay();
    let mut fragment = vec![22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0];
    fragment.extend_from_slice(&2_000_u16.to_be_bytes());
    // of a message that is still to come
    fragment.extend_from_slice(&[16, 0xff, 0xff, 0xff, 0, 9, 0, 0, 0, 0, 0x07, 0xc4]);
    fragment.resize(13 + 2_000, 0);
    let begin = |n| {
        let socket = socket(&relay, Ipv4Addr::new(127, 2, n, 1));
        socket.set_nonblocking(false).unwrap();
        socket.send(&hello(0, [7; 32], &[])).unwrap();
        let mut request = [0; 100];
        assert_eq!(socket.recv(&mut request).unwrap(), 60);
        socket.send(&hello(1, [7; 32], &request[28..60])).unwrap();
        // ServerHello
        let mut answer = vec![0; 2_000];
        assert!(socket.recv(&mut answer).unwrap() > 100);
        socket
    };
    let sockets: Vec<_> = (0..CLIENTS).map(begin).collect();
    let before = relay.resident();
    for number in 0..60 {
        for socket in &sockets {
            fragment[18] = 9 + number;
            socket.send(&fragment).unwrap();
        }
        thread::sleep(Duration::from_millis(5));
    }
    let ended = || relay.metric("dtls_handshakes_total", "failed") == u64::from(CLIENTS);
    assert!(eventually(ended), "{}", relay.metrics());
    // eight of each wait at the most: all that was sent would be 120 kB each, and more with what is kept beside it
    let grown = relay.resident().saturating_sub(before);
    assert!(grown < u64::from(CLIENTS) * 80, "{grown} KiB more");
    assert_eq!(relay.metric("connections", "transport=\"dtls\""), 0);
}
