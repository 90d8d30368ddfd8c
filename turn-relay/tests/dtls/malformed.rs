//! Sessions without a network: what is damaged comes before what is whole, at every step of a handshake and after it. Nothing of it may end
//! in a panic, since a thread has many clients.

use std::{net::SocketAddr, sync::Arc};

use dimpl::{Config, Dtls, DtlsCertificate, Output};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use shared::random::Random;
use stand_ins::Authority;
use turn_relay::io::dtls::{
    ServerConfig, Session,
    hello::{ClientHello, hello_verify_request},
};
use turn_relay_proto::{Link, Time};

use crate::now;

/// Handshakes.
const ROUNDS: usize = 200;

/// Damaged datagrams for each whole one.
const DAMAGED: usize = 60;

struct Dice(Random);

impl Dice {
    fn below(&self, limit: usize) -> usize {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        usize::try_from(u64::from_be_bytes(bytes) >> 8).expect("64 bits") % limit.max(1)
    }

    fn byte(&self) -> u8 {
        self.below(256).to_le_bytes()[0]
    }

    /// A datagram with something wrong with it.
    fn damaged(&self, whole: &[u8]) -> Vec<u8> {
        let mut datagram = whole.to_vec();
        for _ in 0..=self.below(3) {
            let at = self.below(datagram.len());
            // what says how long something is, and which it is, stands at the beginning
            let near = self.below(30).min(datagram.len().saturating_sub(1));
            match self.below(7) {
                0 => datagram.truncate(at),
                1 => datagram.extend_from_within(at..),
                2 => datagram.extend_from_slice(whole),
                3 | 4 if !datagram.is_empty() => datagram[near] = self.byte(),
                5 if !datagram.is_empty() => datagram[near] ^= 1,
                _ if !datagram.is_empty() => datagram[at] = self.byte(),
                _ => {}
            }
        }
        datagram
    }
}

fn drain(poll: &mut dyn FnMut(&mut [u8]) -> Option<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut buffer = vec![0; 70_000];
    std::iter::from_fn(|| poll(&mut buffer))
        .filter(|packet| !packet.is_empty())
        .collect()
}

/// What the client sends.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the rest is nothing that is sent"
)]
fn of_client(client: &mut Dtls) -> Vec<Vec<u8>> {
    drain(&mut |buffer| match client.poll_output(buffer) {
        Output::Timeout(_) => None,
        Output::Packet(packet) => Some(packet.to_vec()),
        _ => Some(Vec::new()),
    })
}

/// What the session sends.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the rest is nothing that is sent"
)]
fn of_session(session: &mut Session) -> Vec<Vec<u8>> {
    drain(&mut |buffer| match session.poll(buffer) {
        Output::Timeout(_) => None,
        Output::Packet(packet) => Some(packet.to_vec()),
        Output::Connected => {
            session.is_open = true;
            Some(Vec::new())
        }
        _ => Some(Vec::new()),
    })
}

fn config(authority: &Authority) -> (ServerConfig, DtlsCertificate) {
    let identity = authority.server_identity(&[]).expect("possible");
    let certificate = CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes());
    let certificate = certificate.expect("it is PEM").to_vec();
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).expect("it is PEM");
    let private_key = key.secret_der().to_vec();
    let server = ServerConfig::new(&certificate, &private_key).expect("an ECDSA key");
    let client = DtlsCertificate {
        certificate,
        private_key,
    };
    (server, client)
}

#[test]
fn whatever_comes_to_a_session_it_ends_in_no_panic() {
    let dice = Dice(Random::system());
    let authority = Authority::new().expect("keys can be made");
    let (server, certificate) = config(&authority);
    let settings = Arc::new(Config::builder().build().expect("good settings"));
    let address = SocketAddr::from(([192, 0, 2, 1], 1));
    let (mut opened, mut ended) = (0, 0);
    for round in 0..ROUNDS {
        let mut client = Dtls::new_12(Arc::clone(&settings), certificate.clone(), now());
        client.set_active(true);
        client.handle_timeout(now()).expect("there is time");
        of_client(&mut client);
        let request = hello_verify_request(&[7; 32]);
        client.handle_packet(&request).expect("it is one");
        let mut flight = of_client(&mut client);
        let hello = ClientHello::read(&flight[0]).expect("it is one");
        assert_eq!((hello.number, hello.cookie), (1, [7; 32].as_slice()));
        let times = (Time::default(), now());
        let mut session =
            Session::new(&server, Link(1), address, Link(0), &hello, times).expect("it can begin");
        // from one step on, so that each is come to in good order
        let from = round % 4;
        let mut is_broken = false;
        for step in 0..6 {
            for datagram in std::mem::take(&mut flight) {
                for _ in 0..if step >= from { DAMAGED } else { 0 } {
                    let damaged = dice.damaged(&datagram);
                    is_broken |= session.receive(&damaged, now()).is_err();
                    of_session(&mut session);
                    if is_broken {
                        break;
                    }
                }
                is_broken = is_broken || session.receive(&datagram, now()).is_err();
                for answer in of_session(&mut session) {
                    // it may not have understood the question
                    let _ = client.handle_packet(&answer);
                }
            }
            if is_broken {
                break;
            }
            flight = of_client(&mut client);
            if session.is_open {
                let _ = client.send_application_data(&[9; 100]);
                flight.extend(of_client(&mut client));
            }
        }
        opened += usize::from(session.is_open);
        ended += usize::from(is_broken);
    }
    // both happen, or nothing was tried
    assert!(opened > ROUNDS / 10, "{opened} opened, {ended} ended");
    assert!(ended > 0, "{opened} opened, {ended} ended");
}
