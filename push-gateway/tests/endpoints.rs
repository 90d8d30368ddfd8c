//! Web Push and UnifiedPush, from a notification to a push service that checks all of it.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that fails is a test that fails"
)]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use push_gateway::{
    config::{self, Glob, OpaqueOptions, PayloadMode},
    notification::{Device, Notification, Pushkey},
    opaque::Identifiers,
    outcome::{Cause, Failure, Outcome, Rejected, Retry, Suppressed},
    provider::{
        AppContext, Attempt, Counters, Provider, Push, Shortfalls, unified_push::UnifiedPush,
        web_push::WebPush,
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
use stand_ins::{Authority, PushService, Reply, Subscription, VapidKey};

const EVENT_ID: &str = "$event:example.org";
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_browser_reads_what_its_push_service_cannot() {
    let world = World::start().await;
    let browser = world.push_service.subscribe().unwrap();
    let attempt = world.push(&world.web_push(), &subscribed(&browser)).await;
    assert_eq!(attempt.outcome, Outcome::Delivered);
    assert_eq!(attempt.status, Some(201));

    let seen = world.push_service.seen().remove(0);
    assert_eq!(seen.complaint, None);
    assert_eq!(seen.decrypted_json()["event_id"], EVENT_ID);
    // header of RFC 8188 with the key, 512 bytes of padded plaintext, tag
    assert_eq!(seen.body.len(), 86 + 512 + 16);
    assert_eq!(seen.header("ttl"), Some("86400"));
    assert_eq!(seen.header("urgency"), Some("high"));
    assert_eq!(seen.header("topic"), None);
}

#[tokio::test]
async fn one_vapid_token_serves_many_pushes_and_nothing_else_repeats() {
    let world = World::start().await;
    let browser = world.push_service.subscribe().unwrap();
    let provider = world.web_push();
    for _ in 0..2 {
        world.push(&provider, &subscribed(&browser)).await;
    }
    let seen = world.push_service.seen();
    assert_eq!(
        seen[0].header("authorization"),
        seen[1].header("authorization")
    );
    assert_ne!(seen[0].body[..86], seen[1].body[..86]);
}

#[tokio::test]
async fn a_subscription_that_ended_is_rejected() {
    let world = World::start().await;
    let browser = world.push_service.subscribe().unwrap();
    world.push_service.unsubscribe(&browser);
    let attempt = world.push(&world.web_push(), &subscribed(&browser)).await;
    assert_eq!(attempt.outcome, Outcome::Rejected(Rejected::Unregistered));
}

#[tokio::test]
async fn a_subscription_for_another_vapid_key_keeps_its_pusher() {
    let world = World::start().await;
    let other = VapidKey::generate().unwrap();
    let browser = world.push_service.subscribe_for(&other.public()).unwrap();
    let attempt = world.push(&world.web_push(), &subscribed(&browser)).await;
    assert_eq!(attempt.status, Some(403));
    assert_eq!(failed(&attempt), (Cause::Refused, Retry::Never));
}

#[tokio::test]
async fn a_literal_address_that_is_not_allowed_fails_before_anything_is_sent() {
    let world = World::start().await;
    let provider = world.web_push_with(&config(), AddressPolicy::default());
    let browser = world.push_service.subscribe().unwrap();
    let port = world.push_service.address().port();
    for host in [
        "127.0.0.1",
        "127.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "10.0.0.1",
    ] {
        for scheme in ["http", "https"] {
            let device = at(&browser, &format!("{scheme}://{host}:{port}/push/x"));
            let outcome = world.prepare(&provider, &device).err();
            let Some(Outcome::Failed(failure)) = outcome else {
                panic!("{scheme}://{host}: {outcome:?}");
            };
            assert_eq!(
                failure,
                Failure::new(
                    Cause::Refused,
                    "denied: outbound.allow_private",
                    Retry::Never
                ),
                "{scheme}://{host}"
            );
        }
    }
    assert_eq!(world.push_service.connections().opened, 0);
}

#[tokio::test]
async fn a_name_that_leads_to_a_denied_address_is_not_connected_to_and_not_rejected() {
    let world = World::start().await;
    let provider = world.web_push_with(&config(), AddressPolicy::default());
    let browser = world.push_service.subscribe().unwrap();
    let port = world.push_service.address().port();
    let device = at(&browser, &format!("https://localhost:{port}/push/x"));
    let attempt = world.push(&provider, &device).await;
    assert_eq!(failed(&attempt), (Cause::Refused, Retry::Never));
    let Outcome::Failed(failure) = &attempt.outcome else {
        unreachable!();
    };
    assert_eq!(failure.detail, "denied: outbound.allow_private");
    assert_eq!(world.push_service.connections().opened, 0);
}

#[tokio::test]
async fn an_endpoint_that_is_not_allowed_by_name_is_passed_over() {
    let world = World::start().await;
    let browser = world.push_service.subscribe().unwrap();
    let config = config::WebPush {
        allowed_endpoints: Some(vec![Glob::new("*.push.example")]),
        ..config()
    };
    let provider = world.web_push_with(&config, loopback());
    let outcome = world.prepare(&provider, &subscribed(&browser)).err();
    let suppressed = Outcome::Suppressed(Suppressed::EndpointNotAllowed);
    assert_eq!(outcome, Some(suppressed));
}

#[tokio::test]
async fn a_device_without_a_whole_subscription_is_rejected() {
    let world = World::start().await;
    let browser = world.push_service.subscribe().unwrap();
    let whole = subscribed(&browser);
    let mut devices = vec![Device {
        data: None,
        ..whole.clone()
    }];
    for name in ["endpoint", "auth"] {
        let mut device = whole.clone();
        device.data.as_mut().unwrap().remove(name);
        devices.push(device);
    }
    devices.push(Device {
        pushkey: Pushkey::new("not a key"),
        ..whole.clone()
    });
    // well-formed, but no point on the curve
    let off_the_curve = format!("{}AAAA", &browser.p256dh[..83]);
    devices.push(Device {
        pushkey: Pushkey::new(off_the_curve),
        ..whole
    });
    for device in devices {
        let outcome = world.prepare(&world.web_push(), &device).err();
        assert_eq!(outcome, Some(Outcome::Rejected(Rejected::InvalidData)));
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let world = World::start().await;
    let browser = world.push_service.subscribe().unwrap();
    let elsewhere = world.push_service.subscribe().unwrap();
    let redirect = Reply::status(307).header("location", &elsewhere.endpoint);
    world.push_service.queue([redirect]);
    let attempt = world.push(&world.web_push(), &subscribed(&browser)).await;
    assert_eq!(failed(&attempt), (Cause::Refused, Retry::Never));
    assert_eq!(world.push_service.seen_count(), 1);
}

#[tokio::test]
async fn trouble_at_the_push_service_is_told_apart() {
    let world = World::start().await;
    let browser = world.push_service.subscribe().unwrap();
    let provider = world.web_push();
    let device = subscribed(&browser);
    let minute = Retry::After(Duration::from_mins(1));
    for (reply, expected) in [
        (
            Reply::status(429).retry_after("60"),
            (Cause::Throttled, minute),
        ),
        (
            Reply::status(503).retry_after("60"),
            (Cause::ProviderError, minute),
        ),
        (Reply::status(502), (Cause::ProviderError, Retry::Backoff)),
        (Reply::status(413), (Cause::TooLarge, Retry::Never)),
    ] {
        world.push_service.queue([reply]);
        assert_eq!(failed(&world.push(&provider, &device).await), expected);
    }
    world.push_service.stop().await;
    let attempt = world.push(&provider, &device).await;
    assert_eq!(failed(&attempt).0, Cause::Connect);
    assert_eq!(attempt.status, None);
}

#[tokio::test]
async fn a_push_service_that_never_answers_is_given_up() {
    let world = World::start().await;
    let browser = world.push_service.subscribe().unwrap();
    world.push_service.queue([Reply::hang_forever()]);
    let provider = world.web_push();
    let push = world
        .prepare(&provider, &subscribed(&browser))
        .ok()
        .unwrap();
    let deadline = world.clock.now() + Duration::from_millis(200);
    let attempt = provider.attempt(&push, deadline).await;
    assert_eq!(failed(&attempt), (Cause::Timeout, Retry::Backoff));
}

#[tokio::test]
async fn pushes_are_told_apart_by_push_service_and_not_by_device() {
    let world = World::start().await;
    let provider = world.web_push();
    let browser = world.push_service.subscribe().unwrap();
    let key = |endpoint: &str| {
        let push = world
            .prepare(&provider, &at(&browser, endpoint))
            .ok()
            .unwrap();
        push.origin_key().cloned().unwrap()
    };
    assert_eq!(
        key("https://push.example/a"),
        key("https://PUSH.example:443/b")
    );
    assert_ne!(
        key("https://push.example/a"),
        key("https://push.example:8443/a")
    );
    assert_ne!(
        key("https://push.example/a"),
        key("https://other.example/a")
    );
}

#[tokio::test]
async fn a_unified_push_device_with_keys_gets_what_its_push_server_cannot_read() {
    let world = World::start().await;
    let phone = world.push_service.subscribe_unified_push().unwrap();
    let device = device(
        &phone.endpoint,
        json!({"nocturne": {"v": 1, "p256dh": phone.p256dh, "auth": phone.auth}}),
    );
    let attempt = world.push(&world.unified_push(), &device).await;
    assert_eq!(attempt.outcome, Outcome::Delivered);
    let seen = world.push_service.seen().remove(0);
    assert_eq!(seen.complaint, None);
    assert_eq!(seen.decrypted_json()["event_id"], EVENT_ID);
    assert_eq!(seen.header("authorization"), None);
    assert_eq!(seen.header("ttl"), Some("86400"));
}

#[tokio::test]
async fn a_unified_push_device_without_keys_gets_the_json_of_today() {
    let world = World::start().await;
    let phone = world.push_service.subscribe_unified_push().unwrap();
    let device = device(&phone.endpoint, json!({}));
    let attempt = world.push(&world.unified_push(), &device).await;
    assert_eq!(attempt.outcome, Outcome::Delivered);
    let seen = world.push_service.seen().remove(0);
    assert_eq!(seen.json()["notification"]["event_id"], EVENT_ID);
    assert_eq!(seen.json()["notification"].get("devices"), None);
    assert_eq!(seen.header("ttl"), Some("86400"));
    assert_eq!(seen.header("urgency"), Some("high"));
    assert_eq!(seen.header("content-encoding"), Some("aes128gcm"));
    assert_eq!(seen.header("content-type"), None);
}

#[tokio::test]
async fn keys_that_do_not_work_never_make_a_unified_push_go_out_in_clear() {
    let world = World::start().await;
    let phone = world.push_service.subscribe_unified_push().unwrap();
    let off_the_curve = format!("{}AAAA", &phone.p256dh[..83]);
    for keys in [
        json!({"v": 1, "p256dh": off_the_curve, "auth": phone.auth}),
        json!({"v": 1, "p256dh": phone.p256dh, "auth": "short"}),
        json!({"v": 2}),
    ] {
        let device = device(&phone.endpoint, json!({ "nocturne": keys }));
        let attempt = world.push(&world.unified_push(), &device).await;
        assert_eq!(attempt.outcome, Outcome::Delivered);
        let seen = world.push_service.seen().pop().unwrap();
        assert_eq!(seen.body, r#"{"notification":{}}"#, "{keys}");
    }
}

#[tokio::test]
async fn a_pushkey_that_is_no_endpoint_is_rejected() {
    let world = World::start().await;
    for pushkey in [
        "",
        "token",
        "http//push.example",
        "ftp://push.example/x",
        "https://a@b/x",
    ] {
        let outcome = world
            .prepare(&world.unified_push(), &device(pushkey, json!({})))
            .err();
        assert_eq!(
            outcome,
            Some(Outcome::Rejected(Rejected::InvalidToken)),
            "{pushkey}"
        );
    }
    let forbidden = device("http://push.example/x", json!({}));
    let outcome = world.prepare(&world.unified_push(), &forbidden).err();
    let Some(Outcome::Failed(failure)) = outcome else {
        panic!("it is an endpoint, if not one to be used: {outcome:?}");
    };
    assert_eq!(
        (failure.cause, failure.retry),
        (Cause::Refused, Retry::Never)
    );
    assert!(failure.detail.starts_with("denied: http://"));
}

/// A push service and what providers are made with.
struct World {
    push_service: PushService,
    roots: Arc<RootCertStore>,
    clock: Clock,
    random: Random,
    context: AppContext,
}

impl World {
    async fn start() -> Self {
        let authority = Authority::new().unwrap();
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(authority.pem().as_bytes()) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let (clock, random) = (Clock::system(), Random::seeded(1));
        let opaque = OpaqueOptions::default();
        let identifiers = Identifiers::new(&opaque, clock.clone(), random.clone());
        Self {
            push_service: PushService::start(&authority).await.unwrap(),
            roots: Arc::new(roots),
            clock: clock.clone(),
            random: random.clone(),
            context: AppContext {
                mode: PayloadMode::Opaque,
                opaque,
                identifiers: Arc::new(identifiers),
                shortfalls: Arc::new(Shortfalls::new(
                    "app".into(),
                    Counters::default(),
                    clock.clone(),
                )),
                clock,
                random,
            },
        }
    }

    fn web_push(&self) -> Provider {
        self.web_push_with(&config(), loopback())
    }

    fn web_push_with(&self, config: &config::WebPush, policy: AddressPolicy) -> Provider {
        let (clock, random) = (self.clock.clone(), self.random.clone());
        let http = self.http_client(policy);
        Provider::WebPush(WebPush::new(config, REQUEST_TIMEOUT, http, clock, random).unwrap())
    }

    fn unified_push(&self) -> Provider {
        let config = config::UnifiedPush {
            allowed_endpoints: None,
            max_connections: 20,
        };
        let (clock, random) = (self.clock.clone(), self.random.clone());
        let http = self.http_client(loopback());
        Provider::UnifiedPush(
            UnifiedPush::new(&config, REQUEST_TIMEOUT, http, clock, random).unwrap(),
        )
    }

    fn http_client(&self, policy: AddressPolicy) -> HttpClient {
        HttpClient::new(ClientConfig {
            roots: Arc::clone(&self.roots),
            identity: None,
            proxy: None,
            no_proxy: None,
            versions: Versions::Http2Or1,
            policy: Some(Arc::new(policy)),
            connect_timeout: REQUEST_TIMEOUT,
            max_connections: 20,
            max_response_body: 4096,
        })
        .unwrap()
    }

    fn prepare(&self, provider: &Provider, device: &Device) -> Result<Push, Outcome> {
        let notification = Notification {
            event_id: json!(EVENT_ID),
            room_id: json!("!room:example.org"),
            unread: Some(1),
            ..Notification::default()
        };
        provider.prepare(&self.context, &notification, device)
    }

    async fn push(&self, provider: &Provider, device: &Device) -> Attempt {
        let push = self
            .prepare(provider, device)
            .unwrap_or_else(|outcome| panic!("the push is prepared: {outcome:?}"));
        provider.attempt(&push, self.deadline()).await
    }

    fn deadline(&self) -> Instant {
        self.clock.now() + 2 * REQUEST_TIMEOUT
    }
}

fn config() -> config::WebPush {
    config::WebPush {
        vapid_key: Arc::new(Secret::new([7; 32])),
        vapid_subject: "mailto:push@example.org".to_owned(),
        allowed_endpoints: None,
        ttl: 900,
        max_connections: 20,
    }
}

fn loopback() -> AddressPolicy {
    AddressPolicy {
        allow: vec![parse_network("127.0.0.0/8").unwrap()],
        deny: Vec::new(),
    }
}

fn subscribed(browser: &Subscription) -> Device {
    at(browser, &browser.endpoint)
}

/// The browser's device, with another endpoint.
fn at(browser: &Subscription, endpoint: &str) -> Device {
    device(
        &browser.p256dh,
        json!({"endpoint": endpoint, "auth": browser.auth}),
    )
}

fn device(pushkey: &str, data: Value) -> Device {
    let Value::Object(data) = data else {
        unreachable!("the tests' data is an object")
    };
    Device {
        app_id: "org.example.app".to_owned(),
        pushkey: Pushkey::new(pushkey),
        pushkey_ts: None,
        data: Some(data),
    }
}

fn failed(attempt: &Attempt) -> (Cause, Retry) {
    let Outcome::Failed(failure) = &attempt.outcome else {
        panic!("the attempt fails: {:?}", attempt.outcome)
    };
    (failure.cause, failure.retry)
}
