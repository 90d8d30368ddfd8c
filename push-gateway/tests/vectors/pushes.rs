//! Whole pushes: prepared and sent by the gateway's providers, taken from the stand-ins that they reached.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use push_gateway::{
    config::{self, ApnsAuth, FcmTokenKind, OpaqueOptions, PayloadMode, ServiceAccount},
    notification::{Device, Notification, TEST_EVENT_ID},
    opaque::Identifiers,
    outcome::Outcome,
    provider::{
        AppContext, Counters, Provider, Shortfalls, apns::Apns, fcm::Fcm,
        unified_push::UnifiedPush, web_push::WebPush,
    },
};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use serde_json::{Value, json};
use shared::{
    address_policy::{AddressPolicy, parse_network},
    clock::Clock,
    http_client::{ClientConfig, HttpClient, Versions},
    random::Random,
    secret::Secret,
};
use stand_ins::{KEY_ID, PROJECT_ID, Seen, Server, StandIns, TEAM_ID, TOPIC};

use crate::{APP_ID, EVENT_ID, Keys, NOW, ROOM_ID, base64url, device, message};

const TIMEOUT: Duration = Duration::from_secs(10);
const OTHER_ROOM: &str = "!0ther:example.org";

/// What a device has to offer.
#[derive(Clone, Copy, PartialEq)]
enum Offers {
    Nothing,
    Tags,
    Blob,
}

/// One push.
struct Case {
    comment: &'static str,
    mode: PayloadMode,
    offers: Offers,
    notification: Notification,
    /// `opaque:` of the app.
    opaque: OpaqueOptions,
    /// The rooms that the device is in.
    rooms: &'static [&'static str],
    about: About,
}

/// What the device is to make of it.
enum About {
    /// That there is something new.
    Wake,
    /// The room and event of these tags.
    Tags(Option<&'static str>),
    /// What is in the blob.
    Sealed,
    /// What is said in clear.
    Clear,
}

/// What only phones get.
const PHONE: [&str; 2] = ["apns", "fcm"];

pub(crate) async fn vectors() -> Value {
    let world = World::start().await;
    let mut vectors = Vec::new();
    for provider in ["apns", "fcm", "webpush", "unifiedpush"] {
        for case in cases() {
            let is_phone = PHONE.contains(&provider);
            let is_wanted = match case.offers {
                // Web Push has the subscription's keys; without them UnifiedPush is not hidden at all
                Offers::Tags | Offers::Nothing => is_phone,
                Offers::Blob => is_phone || !case.opaque.badge_pushes,
            };
            if is_wanted {
                vectors.push(world.vector(provider, case, vectors.len()).await);
            }
        }
    }
    vectors.into()
}

fn cases() -> Vec<Case> {
    let new = |comment, offers, about| Case {
        comment,
        mode: PayloadMode::Opaque,
        offers,
        notification: message("I'm floating in a most peculiar way."),
        opaque: OpaqueOptions::default(),
        rooms: &[OTHER_ROOM, ROOM_ID],
        about,
    };
    let wake = |comment, offers| Case {
        mode: PayloadMode::Wake,
        ..new(comment, offers, About::Wake)
    };
    let test = |comment, offers| Case {
        notification: Notification {
            event_id: TEST_EVENT_ID.into(),
            room_id: "!THIS_IS_A_FAKE_ROOM_ID:example.org".into(),
            ..Notification::default()
        },
        ..new(comment, offers, About::Clear)
    };
    vec![
        new("no keys", Offers::Nothing, About::Wake),
        new("tags", Offers::Tags, About::Tags(Some(ROOM_ID))),
        Case {
            rooms: &[OTHER_ROOM],
            ..new(
                "tags of a room that the device does not know yet",
                Offers::Tags,
                About::Tags(None),
            )
        },
        new("sealed", Offers::Blob, About::Sealed),
        Case {
            opaque: OpaqueOptions {
                sealed_content: true,
                ..OpaqueOptions::default()
            },
            ..new("sealed, with the event", Offers::Blob, About::Sealed)
        },
        Case {
            notification: Notification {
                unread: Some(3),
                ..Notification::default()
            },
            opaque: OpaqueOptions {
                badge_pushes: true,
                ..OpaqueOptions::default()
            },
            ..new("counts alone, silent", Offers::Blob, About::Sealed)
        },
        wake("mode wake", Offers::Tags),
        wake("mode wake, with keys for a blob", Offers::Blob),
        test("the client's own push test", Offers::Tags),
        test(
            "the client's own push test, with keys for a blob",
            Offers::Blob,
        ),
    ]
}

struct World {
    stand_ins: StandIns,
    roots: Arc<RootCertStore>,
}

impl World {
    async fn start() -> Self {
        let stand_ins = StandIns::start().await.unwrap();
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(stand_ins.authority.pem().as_bytes()) {
            roots.add(certificate.unwrap()).unwrap();
        }
        Self {
            stand_ins,
            roots: Arc::new(roots),
        }
    }

    async fn vector(&self, provider: &str, case: Case, number: usize) -> Value {
        let keys = Keys::new(400);
        let random = Random::seeded(500 + number as u64);
        let (sends, server, device) = self.to(provider, &case, &keys, &random);
        let push = sends
            .prepare(&context(&case, random), &case.notification, &device)
            .unwrap_or_else(|outcome| panic!("{provider}, {}: {outcome:?}", case.comment));
        let before = server.seen_count();
        let attempt = sends.attempt(&push, Clock::system().now() + TIMEOUT).await;
        let seen = server.seen().swap_remove(before);
        if provider != "webpush" {
            // that stand-in subscribes with keys of its own, and finds that these are others
            assert_eq!(
                attempt.outcome,
                Outcome::Delivered,
                "{provider}, {}",
                case.comment
            );
        }
        vector(provider, &case, &keys, &seen)
    }

    /// A provider, where it sends to, and the device.
    fn to(
        &self,
        provider: &str,
        case: &Case,
        keys: &Keys,
        random: &Random,
    ) -> (Provider, &Server, Device) {
        let (clock, random) = (Clock::system(), random.clone());
        let stand_ins = &self.stand_ins;
        let nocturne = match case.offers {
            Offers::Nothing => json!({}),
            Offers::Tags => json!({ "nocturne": { "v": 1, "secret": base64url(&keys.secret) } }),
            Offers::Blob => {
                json!({ "nocturne": { "v": 1, "p256dh": keys.p256dh(), "auth": keys.auth() } })
            }
        };
        match provider {
            "apns" => {
                let config = config::Apns {
                    endpoint: stand_ins.apple.url().parse().unwrap(),
                    auth: ApnsAuth::Token {
                        key: Secret::new(stand_ins.apple.key().pem().to_owned()),
                        key_id: KEY_ID.to_owned(),
                        team_id: TEAM_ID.to_owned(),
                        topic: TOPIC.to_owned(),
                    },
                    push_type: None,
                    convert_device_token_to_hex: true,
                    send_badge_counts: true,
                };
                let provider = Apns::new(&config, TIMEOUT, self.http(None), clock, random);
                let device = device("Xl5eXl5eXl5eXl5eXl5eXl5eXl5eXl5eXl5eXl5eXl4=", &nocturne);
                (Provider::Apns(provider.unwrap()), &stand_ins.apple, device)
            }
            "fcm" => {
                let account: Value =
                    serde_json::from_str(&stand_ins.google.service_account_json()).unwrap();
                let text = |name: &str| account[name].as_str().unwrap().to_owned();
                let config = config::Fcm {
                    endpoint: stand_ins.google.url().parse().unwrap(),
                    project_id: PROJECT_ID.to_owned(),
                    service_account: ServiceAccount {
                        client_email: text("client_email"),
                        private_key: Secret::new(text("private_key")),
                        private_key_id: account["private_key_id"].as_str().map(str::to_owned),
                        token_uri: stand_ins.google.token_uri().parse().unwrap(),
                    },
                    fcm_options: serde_json::Map::new(),
                    token_kind: FcmTokenKind::Auto,
                    max_connections: 1,
                    send_badge_counts: true,
                };
                let provider = Fcm::new(&config, TIMEOUT, self.http(None), clock, random);
                let device = device("bk3RNwTe3H0:CI2k_HHwgIpoDKCIZvvDMExUdFQ3P1", &nocturne);
                (Provider::Fcm(provider.unwrap()), &stand_ins.google, device)
            }
            "webpush" => {
                let config = config::WebPush {
                    vapid_key: Arc::new(Secret::new([7; 32])),
                    vapid_subject: "mailto:push@example.org".to_owned(),
                    allowed_endpoints: None,
                    ttl: 900,
                    max_connections: 1,
                };
                let http = self.http(Some(loopback()));
                let provider = WebPush::new(&config, TIMEOUT, http, clock, random).unwrap();
                let endpoint = stand_ins.push_service.subscribe().unwrap().endpoint;
                let data = json!({ "endpoint": endpoint, "auth": keys.auth() });
                let device = device(&keys.p256dh(), &data);
                (Provider::WebPush(provider), &stand_ins.push_service, device)
            }
            _ => {
                let config = config::UnifiedPush {
                    allowed_endpoints: None,
                    max_connections: 1,
                };
                let http = self.http(Some(loopback()));
                let provider = UnifiedPush::new(&config, TIMEOUT, http, clock, random).unwrap();
                let subscription = stand_ins.push_service.subscribe_unified_push().unwrap();
                let device = device(&subscription.endpoint, &nocturne);
                let provider = Provider::UnifiedPush(provider);
                (provider, &stand_ins.push_service, device)
            }
        }
    }

    fn http(&self, policy: Option<AddressPolicy>) -> HttpClient {
        HttpClient::new(ClientConfig {
            roots: Arc::clone(&self.roots),
            identity: None,
            proxy: None,
            no_proxy: None,
            versions: Versions::Http2Or1,
            policy: policy.map(Arc::new),
            connect_timeout: TIMEOUT,
            max_connections: 1,
            max_response_body: 4096,
        })
        .unwrap()
    }
}

fn loopback() -> AddressPolicy {
    AddressPolicy {
        allow: vec![parse_network("127.0.0.0/8").unwrap()],
        deny: Vec::new(),
    }
}

/// The app, with time and randomness that are always the same.
fn context(case: &Case, random: Random) -> AppContext {
    let clock = Clock::manual(UNIX_EPOCH + Duration::from_secs(NOW));
    let identifiers = Identifiers::new(&case.opaque, clock.clone(), random.clone());
    AppContext {
        mode: case.mode,
        opaque: case.opaque.clone(),
        identifiers: Arc::new(identifiers),
        shortfalls: Arc::new(Shortfalls::new(
            "vectors".into(),
            Counters::default(),
            clock.clone(),
        )),
        clock,
        random,
    }
}

fn vector(provider: &str, case: &Case, keys: &Keys, seen: &Seen) -> Value {
    // what an app gets to see of it; a browser opens the message before the service worker does
    let (push, opened) = match provider {
        "apns" => (seen.json(), None),
        "fcm" => (seen.json()["message"]["data"].take(), None),
        _ => {
            let opened = keys.open(&seen.body);
            (json!({ "body": base64url(&seen.body) }), Some(opened))
        }
    };
    let payload = opened.as_ref().unwrap_or(&push);
    let mut about = match case.about {
        About::Wake => json!({ "kind": "wake" }),
        About::Tags(room_id) => {
            json!({ "kind": "tags", "room_id": room_id, "event_id": EVENT_ID })
        }
        About::Sealed => {
            let notification = opened.clone().unwrap_or_else(|| {
                let blob = push["p"].as_str().unwrap();
                keys.open(&super::decode(blob))
            });
            json!({ "kind": "sealed", "notification": notification })
        }
        About::Clear => json!({
            "kind": "clear",
            "event_id": case.notification.event_id,
            "room_id": case.notification.room_id,
        }),
    };
    if let Some(n) = payload.get("n") {
        about["n"] = n.clone();
    }
    let mut vector = json!({
        "comment": case.comment,
        "provider": provider,
        "app_id": APP_ID,
        "keys": match case.offers {
            Offers::Nothing => json!({}),
            Offers::Tags => keys.for_tags(),
            Offers::Blob => keys.for_blobs(),
        },
        "rooms": case.rooms,
        "events": ["$another", EVENT_ID],
        "push": push,
    });
    if let Some(opened) = opened {
        vector["opened"] = opened;
    }
    vector["about"] = about;
    vector
}
