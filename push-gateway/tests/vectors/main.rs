//! `clients/test-vectors.json`: what the receiving side of the scheme is tested with, in every language.
//!
//! What the gateway makes (tags, blobs, payloads) is made by its own code. What it would open, and what a
//! device is to read in it, comes from implementations of their own: `web-push-native` for blobs, a second
//! HPKE in `hpke` for pushkeys. Nothing in the file is random, so it changes only with the scheme.
//!
//! `NOCTURNE_WRITE_VECTORS=1 cargo test -p push-gateway --test vectors` writes the file.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that fails is a test that fails"
)]

use std::{fs, path::Path};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use push_gateway::{
    notification::{Device, Notification, Priority, Pushkey},
    opaque::Identifier,
    sealed::{
        aes128gcm::seal,
        keys::{DeviceKeys, ReceiverKeys},
        plaintext::{Contents, Plaintext},
        tags,
    },
};
use serde_json::{Value, json};
use shared::{environment::Environment, random::Random, secret::Secret};
use web_push_native::{Auth, p256};

mod hpke;
mod pushes;
mod pushkeys;

const APP_ID: &str = "org.example.app";
const EVENT_ID: &str = "$qTOWWTEL48yPm3uT-gdNhFcoHxfKbZuqRVnnWWSkGBs";
const ROOM_ID: &str = "!slw48wfj34rtnrf:example.org";
/// A Tuesday in November 2023.
const NOW: u64 = 1_700_000_000;

#[tokio::test]
async fn the_vectors_are_those_in_the_file() {
    let vectors = json!({
        "comment": [
            "Test vectors of spec/opaque-push.md, version 1, for whoever receives its pushes.",
            "Written by push-gateway/tests/vectors with the gateway's own code; not to be changed by hand.",
            "Bytes are base64url without padding. A private_key is the scalar of a P-256 or X25519 key.",
            "JSON objects are to be compared as JSON, not byte by byte.",
        ],
        "device_keys": device_keys(),
        "pusher_data": pusher_data(),
        "tags": tag_vectors(),
        "blobs": blobs(),
        "broken_blobs": broken_blobs(),
        "pushkeys": pushkeys::vectors(),
        "pushes": pushes::vectors().await,
    });
    let vectors = serde_json::to_string_pretty(&vectors).unwrap() + "\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../clients/test-vectors.json");
    let environment = Environment::of_process();
    if environment.get("NOCTURNE_WRITE_VECTORS").is_some() {
        fs::write(path, vectors).unwrap();
        return;
    }
    let file = fs::read_to_string(path).unwrap_or_default();
    let differing = file.lines().zip(vectors.lines()).position(|(a, b)| a != b);
    assert!(
        file == vectors,
        "clients/test-vectors.json is not what the gateway does now, from line {:?} on; \
         NOCTURNE_WRITE_VECTORS=1 writes it anew",
        differing.map(|line| line + 1)
    );
}

/// A device: what it keeps, and what it tells the gateway.
struct Keys {
    private: p256::SecretKey,
    receiver: ReceiverKeys,
    secret: [u8; 32],
}

impl Keys {
    fn new(seed: u64) -> Self {
        let random = Random::seeded(seed);
        let scalar: [u8; 32] = random.bytes();
        let private = p256::SecretKey::from_slice(&scalar).unwrap();
        let p256dh = (*private.public_key().to_sec1_bytes()).try_into().unwrap();
        let auth = Secret::new(random.bytes());
        Self {
            private,
            receiver: ReceiverKeys { p256dh, auth },
            secret: random.bytes(),
        }
    }

    fn p256dh(&self) -> String {
        base64url(&self.receiver.p256dh)
    }

    fn auth(&self) -> String {
        base64url(self.receiver.auth.expose())
    }

    /// What the device keeps to open blobs.
    fn for_blobs(&self) -> Value {
        json!({
            "private_key": base64url(&self.private.to_bytes()),
            "p256dh": self.p256dh(),
            "auth": self.auth(),
        })
    }

    /// What the device keeps to match tags.
    fn for_tags(&self) -> Value {
        json!({ "secret": base64url(&self.secret) })
    }

    /// The JSON in a message, as another implementation than the gateway's opens it.
    fn open(&self, message: &[u8]) -> Value {
        let auth = Auth::from(*self.receiver.auth.expose());
        let plaintext = web_push_native::decrypt(message.to_vec(), &self.private, &auth).unwrap();
        serde_json::from_slice(&plaintext).unwrap()
    }
}

/// What the gateway reads from a pusher's `data`.
fn device_keys() -> Value {
    let keys = Keys::new(1);
    let secret = base64url(&keys.secret);
    let standard = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let blob = json!({ "v": 1, "p256dh": keys.p256dh(), "auth": keys.auth() });
    let tags = json!({ "v": 1, "secret": secret });
    let cases = [
        ("keys for a blob", json!({ "nocturne": blob })),
        ("a secret for tags", json!({ "nocturne": tags })),
        (
            "with both, the blob wins",
            json!({ "nocturne": {
                "v": 1, "secret": secret, "p256dh": keys.p256dh(), "auth": keys.auth(),
            }}),
        ),
        (
            "in default_payload, where a client can set nothing else",
            json!({ "default_payload": { "nocturne": tags } }),
        ),
        (
            "data.nocturne wins over default_payload.nocturne",
            json!({ "nocturne": blob, "default_payload": { "nocturne": tags } }),
        ),
        (
            "base64url with padding",
            json!({ "nocturne": {
                "v": 1, "p256dh": format!("{}=", keys.p256dh()), "auth": format!("{}==", keys.auth()),
            }}),
        ),
        (
            "base64 of the standard alphabet, with padding",
            json!({ "nocturne": { "v": 1, "secret": standard(&keys.secret) } }),
        ),
        (
            "members that version 1 does not know are passed over",
            json!({ "nocturne": { "v": 1, "secret": secret, "later": true } }),
        ),
        (
            "version and nothing else",
            json!({ "nocturne": { "v": 1 } }),
        ),
        ("no nocturne object", json!({ "format": "event_id_only" })),
        (
            "another version",
            json!({ "nocturne": { "v": 2, "secret": secret } }),
        ),
        (
            "a version that is no number",
            json!({ "nocturne": { "v": "1", "secret": secret } }),
        ),
        ("no version", json!({ "nocturne": { "secret": secret } })),
        ("not an object", json!({ "nocturne": secret })),
        (
            "a secret of 31 bytes",
            json!({ "nocturne": { "v": 1, "secret": base64url(&keys.secret[..31]) } }),
        ),
        (
            "a secret that is not base64",
            json!({ "nocturne": { "v": 1, "secret": "not base64!" } }),
        ),
        (
            "p256dh without auth",
            json!({ "nocturne": { "v": 1, "p256dh": keys.p256dh() } }),
        ),
        (
            "p256dh as a compressed point",
            json!({ "nocturne": {
                "v": 1,
                "p256dh": base64url(&[&[3], &keys.receiver.p256dh[1..33]].concat()),
                "auth": keys.auth(),
            }}),
        ),
        (
            "auth of 15 bytes",
            json!({ "nocturne": {
                "v": 1,
                "p256dh": keys.p256dh(),
                "auth": base64url(&keys.receiver.auth.expose()[..15]),
            }}),
        ),
    ];
    let vector = |(comment, data): (&str, Value)| {
        let (keys, ignored) = match DeviceKeys::of_device(&device("", &data)) {
            Ok(None) => (Value::Null, Value::Null),
            Ok(Some(DeviceKeys::Tags(secret))) => {
                (json!({ "secret": base64url(secret.expose()) }), Value::Null)
            }
            Ok(Some(DeviceKeys::Blob(keys))) => (
                json!({ "p256dh": base64url(&keys.p256dh), "auth": base64url(keys.auth.expose()) }),
                Value::Null,
            ),
            Err(reason) => (Value::Null, reason.label().into()),
        };
        json!({ "comment": comment, "data": data, "keys": keys, "ignored": ignored })
    };
    cases.into_iter().map(vector).collect()
}

/// The object that a client with these keys has to put into its pusher's `data`.
fn pusher_data() -> Value {
    let keys = Keys::new(2);
    let secret = base64url(&keys.secret);
    let merged = |mut keys: Value, more: Value| {
        let more = more.as_object().unwrap().clone();
        keys.as_object_mut().unwrap().extend(more);
        keys
    };
    let cases = [
        (
            "for tags",
            keys.for_tags(),
            json!({ "v": 1, "secret": secret }),
        ),
        (
            "for blobs: the private key stays on the device",
            keys.for_blobs(),
            json!({ "v": 1, "p256dh": keys.p256dh(), "auth": keys.auth() }),
        ),
        (
            "for both",
            merged(keys.for_tags(), keys.for_blobs()),
            json!({ "v": 1, "secret": secret, "p256dh": keys.p256dh(), "auth": keys.auth() }),
        ),
    ];
    let vector = |(comment, keys, nocturne): (&str, Value, Value)| {
        let of_device = DeviceKeys::of_device(&device("", &json!({ "nocturne": nocturne })));
        assert!(matches!(of_device, Ok(Some(_))), "the gateway takes it");
        json!({ "comment": comment, "keys": keys, "nocturne": nocturne })
    };
    cases.into_iter().map(vector).collect()
}

fn tag_vectors() -> Value {
    let keys = Keys::new(3);
    let random = Random::seeded(4);
    let [first, second] = [(); 2].map(|()| Identifier(random.bytes()));
    let other_room = "!0ther:example.org";
    let cases = [
        ("a room and an event", first, ROOM_ID, EVENT_ID),
        ("the same in another push", second, ROOM_ID, EVENT_ID),
        ("another room", first, other_room, EVENT_ID),
        (
            "a room ID without a server name, as from room version 12 on",
            first,
            "!31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM",
            "$Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg",
        ),
        (
            "IDs are hashed as UTF-8",
            first,
            "!zimmer-äöü-🌙:example.org",
            "$ereignis-é",
        ),
        (
            "an identifier of zeros",
            Identifier([0; 16]),
            ROOM_ID,
            EVENT_ID,
        ),
    ];
    let vector = |(comment, n, room_id, event_id): (&str, Identifier, &str, &str)| {
        json!({
            "comment": comment,
            "secret": base64url(&keys.secret),
            "n": n.to_base64url(),
            "room_id": room_id,
            "event_id": event_id,
            "r": tags::room(&keys.secret, n, room_id),
            "e": tags::event(&keys.secret, n, event_id),
        })
    };
    cases.into_iter().map(vector).collect()
}

/// A message as homeservers send it without a format.
fn message(body: &str) -> Notification {
    Notification {
        event_id: EVENT_ID.into(),
        room_id: ROOM_ID.into(),
        kind: "m.room.message".into(),
        sender: "@alice:example.org".into(),
        sender_display_name: "Alice".into(),
        room_name: "Mission Control".into(),
        room_alias: "#mission:example.org".into(),
        content: json!({ "msgtype": "m.text", "body": body }),
        unread: Some(2),
        missed_calls: Some(1),
        ..Notification::default()
    }
}

fn blobs() -> Value {
    let keys = Keys::new(5);
    let short = "I'm floating in a most peculiar way.";
    let low = Notification {
        priority: Priority::Low,
        ..message(short)
    };
    let counts = Notification {
        unread: Some(0),
        ..Notification::default()
    };
    let bare = Notification {
        room_id: ROOM_ID.into(),
        event_id: EVENT_ID.into(),
        ..Notification::default()
    };
    let payload = |length: usize| json!({ "cs": "client-secret", "filler": "x".repeat(length) });
    let cases = [
        ("512 bytes", bare, Value::Null, false, 512),
        (
            "counts and default_payload, whose nocturne object is left out",
            message(short),
            json!({ "cs": "client-secret", "nocturne": { "v": 1 } }),
            false,
            512,
        ),
        ("low priority", low, Value::Null, false, 512),
        (
            "counts alone: no event, no room",
            counts,
            Value::Null,
            false,
            512,
        ),
        ("1024 bytes", message(short), payload(600), false, 1024),
        ("2048 bytes", message(short), payload(1500), false, 2048),
        (
            "past 2048 bytes, data is dropped",
            message(short),
            payload(3000),
            false,
            512,
        ),
        (
            "sealed_content: the event itself",
            message(short),
            Value::Null,
            true,
            512,
        ),
        (
            "sealed_content, not in ASCII",
            message(&"Grüße vom Mond 🌙 ¿cómo estás? Привет, 世界 ".repeat(6)),
            Value::Null,
            true,
            1024,
        ),
        (
            "sealed_content past 2048 bytes: data goes first, then content",
            message(&"long ".repeat(500)),
            payload(100),
            true,
            512,
        ),
    ];
    let vector = |(index, (comment, notification, default_payload, sealed_content, size)): (
        usize,
        (&str, Notification, Value, bool, usize),
    )| {
        let plaintext = Plaintext::of(Contents {
            notification: &notification,
            default_payload: default_payload.as_object(),
            sealed_content,
            now: NOW,
        });
        assert_eq!(plaintext.padded_to, size, "{comment}");
        blob(comment, &keys, &plaintext, 100 + index as u64)
    };
    let mut blobs: Vec<_> = cases.into_iter().enumerate().map(vector).collect();
    let mut padded = blobs[0].clone();
    padded["comment"] = "the first one with base64 padding".into();
    let p = padded["p"].as_str().unwrap();
    padded["p"] = format!("{p}{}", "=".repeat((4 - p.len() % 4) % 4)).into();
    blobs.push(padded);
    let other = Keys::new(6);
    blobs.push(blob(
        "for other keys",
        &other,
        &Plaintext::of(Contents {
            notification: &message(short),
            default_payload: None,
            sealed_content: false,
            now: NOW,
        }),
        199,
    ));
    blobs.into()
}

fn blob(comment: &str, keys: &Keys, plaintext: &Plaintext, seed: u64) -> Value {
    let message = seal(&keys.receiver, plaintext, &Random::seeded(seed)).unwrap();
    assert_eq!(message.len(), 86 + plaintext.padded_to + 16);
    json!({
        "comment": comment,
        "keys": keys.for_blobs(),
        "p": base64url(&message),
        "padded_to": plaintext.padded_to,
        "json": keys.open(&message),
    })
}

/// Blobs that must not open.
fn broken_blobs() -> Value {
    let keys = Keys::new(5);
    let padded = |json: &str| Plaintext::padded(json.into());
    let message = |plaintext: &Plaintext, seed| {
        seal(&keys.receiver, plaintext, &Random::seeded(seed)).unwrap()
    };
    let good = message(&padded(r#"{"v":1,"prio":"high","ts":1700000000}"#), 200);
    let changed = |place: usize, bit: u8| {
        let mut message = good.clone();
        message[place] ^= bit;
        base64url(&message)
    };
    let other = Keys::new(6);
    let for_other = seal(&other.receiver, &padded(r#"{"v":1}"#), &Random::seeded(201)).unwrap();
    let point_at_infinity = {
        let mut message = good.clone();
        message[22..86].fill(0);
        base64url(&message)
    };
    let small_record = {
        let mut message = good.clone();
        message[16..20].copy_from_slice(&100_u32.to_be_bytes());
        base64url(&message)
    };
    let all_padding = {
        // JSON that ends in what looks like the delimiter of a record that is not the last one
        let plaintext = Plaintext {
            json: Vec::new(),
            padded_to: 512,
            left_out: None,
        };
        message(&plaintext, 202)
    };
    let cases = [
        ("nothing", "form", String::new()),
        ("not base64url", "form", "no blob!".to_owned()),
        ("a header and nothing in it", "form", base64url(&good[..86])),
        ("cut off within the header", "form", base64url(&good[..50])),
        ("a key ID of 64 bytes", "form", changed(20, 1)),
        (
            "a record size smaller than the message: there would be a second record",
            "form",
            small_record,
        ),
        (
            "a sender's key that is not on the curve",
            "sealed",
            point_at_infinity,
        ),
        (
            "cut off at the end",
            "sealed",
            base64url(&good[..good.len() - 1]),
        ),
        ("one bit of the salt changed", "sealed", changed(0, 1)),
        (
            "one bit of the ciphertext changed",
            "sealed",
            changed(100, 0x80),
        ),
        (
            "one bit of the tag changed",
            "sealed",
            changed(good.len() - 1, 1),
        ),
        ("for another device", "sealed", base64url(&for_other)),
        (
            "nothing before the padding",
            "content",
            base64url(&all_padding),
        ),
        (
            "not JSON",
            "content",
            base64url(&message(&padded("hello"), 203)),
        ),
        (
            "not a JSON object",
            "content",
            base64url(&message(&padded("[1]"), 204)),
        ),
        (
            "not UTF-8",
            "content",
            base64url(&message(
                &Plaintext::padded(b"{\"v\":1,\"prio\":\"\xff\"}".to_vec()),
                205,
            )),
        ),
        (
            "a version that is not known",
            "version",
            base64url(&message(&padded(r#"{"v":2,"event_id":"$x"}"#), 206)),
        ),
    ];
    let vector = |(comment, problem, p): (&str, &str, String)| json!({ "comment": comment, "problem": problem, "keys": keys.for_blobs(), "p": p });
    cases.into_iter().map(vector).collect()
}

fn device(pushkey: &str, data: &Value) -> Device {
    Device {
        app_id: APP_ID.to_owned(),
        pushkey: Pushkey::new(pushkey),
        pushkey_ts: None,
        data: data.as_object().cloned(),
    }
}

fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn decode(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text).unwrap()
}
