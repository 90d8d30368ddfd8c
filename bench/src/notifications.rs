//! What a homeserver sends: Synapse's notifications of the format `event_id_only`, ready to be written
//! to a connection.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use serde_json::{Value, json};
use shared::random::Random;

use crate::{Kind, device::What, providers::Subscription};

/// The app that every notification is for.
pub(crate) const APP_ID: &str = "org.example.app";

/// Different devices: enough that the default limit of 240 notifications a minute for each lets
/// 40,000 a second through.
pub(crate) const DEVICES: usize = 10_000;

const EVENT_ID: &str = "$EVENTIDEVENTIDEVENTIDEVENTIDEVENTIDEVENTID0";
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Requests to different devices about different events.
pub(crate) struct Notifications {
    /// Each device's request, and where in it the digits of the event ID are.
    requests: Vec<(Vec<u8>, usize)>,
    next: AtomicU64,
}

impl Notifications {
    /// Notifications for a provider's devices, for the gateway at `address`.
    pub(crate) fn new(
        kind: Kind,
        what: What,
        address: SocketAddr,
        subscriptions: &[Subscription],
        random: &Random,
    ) -> Self {
        let keys = |number: usize| {
            let browser = subscriptions.get(number).filter(|_| what == What::Sealed)?;
            Some(json!({"v": 1, "p256dh": browser.p256dh, "auth": browser.auth}))
        };
        let device = |number: usize| {
            let mut device = match kind {
                Kind::Apns => json!({
                    "app_id": APP_ID,
                    "pushkey": base64(&random.bytes::<32>(), b'+', b'/') + "=",
                    "pushkey_ts": 1_767_225_600,
                    "data": {
                        "format": "event_id_only",
                        "default_payload": {
                            "aps": {"mutable-content": 1, "alert": {"loc-key": "SINGLE_UNREAD", "loc-args": []}},
                        },
                    },
                }),
                Kind::Fcm => json!({
                    "app_id": APP_ID,
                    "pushkey": format!(
                        "{}:APA91b{}",
                        base64(&random.bytes::<16>(), b'-', b'_'),
                        base64(&random.bytes::<100>(), b'-', b'_')
                    ),
                    "pushkey_ts": 1_767_225_600,
                    "data": {"format": "event_id_only"},
                }),
                Kind::WebPush => subscriptions.get(number).map_or(Value::Null, |browser| {
                    json!({
                        "app_id": APP_ID,
                        "pushkey": browser.p256dh,
                        "pushkey_ts": 1_767_225_600,
                        "data": {"format": "event_id_only", "endpoint": browser.endpoint, "auth": browser.auth},
                    })
                }),
            };
            if let Some(keys) = keys(number) {
                device["data"]["nocturne"] = keys;
            }
            device
        };
        Self {
            requests: (0..DEVICES)
                .map(|number| request(address, &device(number)))
                .collect(),
            next: AtomicU64::new(0),
        }
    }

    /// Writes the next request into `buffer`: the next device in turn, and an event that never was before.
    pub(crate) fn next(&self, buffer: &mut Vec<u8>) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let turn = usize::try_from(number).unwrap_or_default() % self.requests.len();
        buffer.clear();
        if let Some((request, digits)) = self.requests.get(turn) {
            buffer.extend_from_slice(request);
            for (place, byte) in buffer.iter_mut().skip(*digits).take(11).enumerate() {
                let digit = usize::try_from(number >> (6 * place).min(63) & 63).unwrap_or_default();
                *byte = ALPHABET.get(digit).copied().unwrap_or(b'A');
            }
        }
    }
}

/// A request as Synapse writes it, and where the event ID's digits begin.
fn request(address: SocketAddr, device: &Value) -> (Vec<u8>, usize) {
    let body = json!({"notification": {
        "event_id": EVENT_ID,
        "room_id": "!OGEhHVWSdvArJzumhm:example.org",
        "counts": {"unread": 2},
        "prio": "high",
        "devices": [device],
    }})
    .to_string();
    let head = format!(
        "POST /_matrix/push/v1/notify HTTP/1.1\r\nContent-Length: {}\r\nUser-Agent: Synapse/1.150.0\r\nContent-Type: \
         application/json\r\nHost: {address}\r\n\r\n",
        body.len()
    );
    let digits = body.find(EVENT_ID).unwrap_or_default() + head.len() + 1;
    ((head + &body).into_bytes(), digits)
}

/// Base64 without padding, with a choice of the last two characters.
pub(crate) fn base64(bytes: &[u8], plus: u8, slash: u8) -> String {
    let mut text = String::with_capacity(bytes.len() * 4 / 3 + 1);
    let (mut bits, mut count) = (0_u32, 0);
    let mut push = |sextet: u32| {
        let digit = usize::try_from(sextet & 63).unwrap_or_default();
        text.push(char::from(match ALPHABET.get(digit) {
            Some(b'-') => plus,
            Some(b'_') => slash,
            other => other.copied().unwrap_or(b'A'),
        }));
    };
    for byte in bytes {
        bits = bits << 8 | u32::from(*byte);
        count += 8;
        while count >= 6 {
            count -= 6;
            push(bits >> count);
        }
    }
    if count > 0 {
        push(bits << (6 - count));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn notifications(kind: Kind) -> Notifications {
        let address = SocketAddr::from(([127, 0, 0, 1], 5000));
        Notifications::new(kind, What::Opaque, address, &[], &Random::seeded(1))
    }

    fn body(request: &[u8]) -> Value {
        let text = str::from_utf8(request).expect("UTF-8");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(
            head.contains(&format!("Content-Length: {}\r\n", body.len())),
            "{head}"
        );
        serde_json::from_str(body).expect("JSON")
    }

    #[test]
    fn every_notification_is_about_another_event() {
        let notifications = notifications(Kind::Apns);
        let mut buffer = Vec::new();
        let events: HashSet<String> = (0..DEVICES * 2)
            .map(|_| {
                notifications.next(&mut buffer);
                body(&buffer)["notification"]["event_id"].to_string()
            })
            .collect();
        assert_eq!(events.len(), DEVICES * 2);
    }

    #[test]
    fn devices_take_turns() {
        let notifications = notifications(Kind::Fcm);
        let mut buffer = Vec::new();
        let pushkeys: Vec<String> = (0..=DEVICES)
            .map(|_| {
                notifications.next(&mut buffer);
                body(&buffer)["notification"]["devices"][0]["pushkey"].to_string()
            })
            .collect();
        assert_eq!(pushkeys[0], pushkeys[DEVICES]);
        assert_eq!(pushkeys.iter().collect::<HashSet<_>>().len(), DEVICES);
    }

    #[test]
    fn base64_is_that_of_rfc_4648() {
        for (bytes, expected) in [
            (&b""[..], ""),
            (b"f", "Zg"),
            (b"fo", "Zm8"),
            (b"foobar", "Zm9vYmFy"),
            (b"\xff\xff\xfe", "///+"),
        ] {
            assert_eq!(base64(bytes, b'+', b'/'), expected);
        }
    }
}
