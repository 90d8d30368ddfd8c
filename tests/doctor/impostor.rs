//! Servers that are not the relay: a TURN server over UDP that does what a test says, written with `stun-types`.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;
use stun_types::{
    attribute::{AttributeType, RawAttribute, XorSocketAddr},
    message::{
        IntegrityAlgorithm, LongTermCredentials, Message, MessageClass, MessageType,
        MessageWrite as _, MessageWriteExt as _, MessageWriteVec, Method,
    },
};

use crate::harness::{Installation, Report, SECRET};

const REALM: &str = "localhost";
const ALLOCATE: u16 = 0x003;
const SEND: u16 = 0x006;
const CREATE_PERMISSION: u16 = 0x008;
const USERNAME: u16 = 0x0006;
const XOR_RELAYED_ADDRESS: u16 = 0x0016;
const PAUSE: Duration = Duration::from_millis(20);

/// What is different from a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Permissions get this error.
    Permissions(u16),
    /// Allocations get this error.
    Allocations(u16),
    /// Packets are not passed on.
    Silence,
    /// Its answers are signed with another secret.
    OtherKey,
    /// What it sends is no STUN.
    NoStun,
}

/// A running server. Dropped: it ends.
struct Impostor {
    address: SocketAddr,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Impostor {
    fn start(fault: Fault) -> Self {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        socket.set_read_timeout(Some(PAUSE)).unwrap();
        let address = socket.local_addr().unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&over);
        let thread = thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !ends.load(Ordering::Relaxed) {
                let Ok((len, from)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                if let Some(answer) = answer(fault, &buffer[..len], from) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Self {
            address,
            over,
            thread: Some(thread),
        }
    }

    /// What doctor says of it in the relay's place.
    fn examined(&self) -> Report {
        let uri = format!("turn:{}?transport=udp", self.address);
        Installation::new()
            .with(&json!({"credentials": {"uris": [uri]}}))
            .examine(&["--timeout", "2"])
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(fault: Fault, bytes: &[u8], from: SocketAddr) -> Option<Vec<u8>> {
    if fault == Fault::NoStun {
        return Some(b"220 mail.example.org ESMTP\r\n".to_vec());
    }
    let request = Message::from_bytes(bytes).ok()?;
    let method = request.method().value();
    if method == SEND {
        return None;
    }
    let username = request.raw_attribute(AttributeType::new(USERNAME));
    let username = username.map(|raw| String::from_utf8(raw.value.to_vec()).unwrap());
    let code = match (fault, method) {
        _ if username.is_none() => Some(401),
        (Fault::Permissions(code), CREATE_PERMISSION) | (Fault::Allocations(code), ALLOCATE) => {
            Some(code)
        }
        _ => None,
    };
    let class = if code.is_some() {
        MessageClass::Error
    } else {
        MessageClass::Success
    };
    let id = request.transaction_id();
    let kind = MessageType::from_class_method(class, Method::new(method));
    let mut writer = Message::builder(kind, id, MessageWriteVec::new());
    let mut add = |kind: u16, value: &[u8]| {
        let raw = RawAttribute::new(AttributeType::new(kind), value);
        writer.add_attribute(&raw).unwrap();
    };
    if let Some(code) = code {
        let [class, number] = [code / 100, code % 100].map(|part| u8::try_from(part).unwrap());
        add(0x0009, &[0, 0, class, number]);
        add(0x0014, REALM.as_bytes());
        add(0x0015, b"a nonce");
    } else {
        let relayed = XorSocketAddr::new(SocketAddr::from(([127, 0, 0, 1], from.port())), id);
        let relayed = relayed.to_raw(AttributeType::new(XOR_RELAYED_ADDRESS));
        writer.add_attribute(&relayed).unwrap();
    }
    if let Some(username) = username {
        let secret = if fault == Fault::OtherKey {
            "another"
        } else {
            SECRET
        };
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes());
        let password = STANDARD.encode(hmac::sign(&key, username.as_bytes()));
        let key = LongTermCredentials::new(username, password).to_key(REALM.to_owned());
        writer
            .add_message_integrity(&key.into(), IntegrityAlgorithm::Sha1)
            .unwrap();
    }
    Some(writer.finish())
}

#[test]
fn each_fault_is_told_apart() {
    for (fault, what, remedy) in [
        (
            Fault::Permissions(403),
            "for a permission the relay refuses the peer with 403",
            "peer policy",
        ),
        (
            Fault::Allocations(486),
            "the quota is full (486)",
            "quotas.allocations_per_user",
        ),
        (Fault::Allocations(500), "error 500", "log"),
        (
            Fault::Silence,
            "no packet goes from one to the other",
            "nocturne_turn_drops",
        ),
        (
            Fault::OtherKey,
            "not signed with the credential's key",
            "leads to this relay",
        ),
        (Fault::NoStun, "is no TURN server", "ss -lntup"),
    ] {
        let impostor = Impostor::start(fault);
        let report = impostor.examined();
        report.assert_fails("turn", "transport=udp", what, remedy);
    }
}
