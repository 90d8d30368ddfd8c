//! A property: whatever happens in people's rooms, neither the providers of push nor whoever reads the
//! gateway's logs and metrics finds anything of it, or anything that two pushes have in common.
//!
//! Every byte of thousands of pushes is looked at, and every line of a log at level `trace`.

mod people;
mod search;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::{Value, json};
use shared::{environment::Environment, random::Random};
use stand_ins::{DeviceKeys, Reply, Seen, homeserver::NOTIFY_PATH, homeserver::device_with};

use self::{
    people::{Dice, Hidden, Keys, Kind, Registration, notification, register, unfortunate},
    search::{Finding, Search},
};
use crate::{
    harness::{APNS, FCM, Gateway, Options, PATIENCE, UP, WEB, World, changed, fresh, merged},
    privacy::{key_id, served_key},
};

const PEOPLE: usize = 12;
/// Of each app, for each person.
const DEVICES: usize = 2;
const NOTIFICATIONS: usize = 3000;
/// Devices of one person that one notification goes to.
const MOST_DEVICES: usize = 4;
/// Requests at once.
const WIDTH: usize = 24;

/// The apps: each provider, `opaque` and `wake`.
const APPS: [(Kind, &str, &str); 8] = [
    (Kind::Apns, APNS, "opaque"),
    (Kind::Apns, "com.example.apns.wake", "wake"),
    (Kind::Fcm, FCM, "opaque"),
    (Kind::Fcm, "com.example.gcm.wake", "wake"),
    (Kind::WebPush, WEB, "opaque"),
    (Kind::WebPush, "com.example.web.wake", "wake"),
    (Kind::UnifiedPush, UP, "opaque"),
    (Kind::UnifiedPush, "com.example.up.wake", "wake"),
];

/// All that others got to see.
struct Exposed {
    /// To whom each push went, and what the provider received of it.
    pushes: Vec<(Arc<Registration>, Seen)>,
    /// Requests to providers that are no pushes.
    asides: Vec<Seen>,
    log: String,
    metrics: String,
    /// Error messages to homeservers.
    errors: String,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_push_and_no_log_line_shows_who_it_is_about() {
    let seed = seed();
    eprintln!("NOCTURNE_SEED={seed} repeats what follows");
    let mut hidden = Hidden::new();
    let exposed = expose(&Dice::new(seed), &mut hidden, &json!({}), NOTIFICATIONS).await;

    // it is about something
    let count = exposed.pushes.len();
    assert!(count > 5000, "{count} pushes");
    assert!(hidden.secrets.len() > 10_000, "{}", hidden.secrets.len());
    let lines = exposed.log.lines().count();
    assert!(lines > count, "{lines} lines of log");
    assert!(exposed.metrics.contains("nocturne_push_delivered_total"));
    assert!(exposed.errors.contains("errcode"));
    assert!(!exposed.asides.is_empty(), "Google was asked for a token");

    let found = leaks(&exposed, &hidden);
    assert!(found.is_empty(), "NOCTURNE_SEED={seed}: {found:#?}");
    let linked = links(&exposed.pushes);
    assert!(linked.is_empty(), "NOCTURNE_SEED={seed}: {linked:#?}");
}

/// The same with what the operator may switch on, so that it is known to find what is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_search_finds_what_mode_sygnal_and_unsafe_identifiers_show() {
    let mut hidden = Hidden::new();
    let loud = json!({
        "payload": "sygnal",
        "log": { "level": "trace", "unsafe_identifiers": true },
    });
    let exposed = expose(&Dice::new(seed()), &mut hidden, &loud, 60).await;
    let found = leaks(&exposed, &hidden);
    for (place, secret) in [
        ("Apns", "event_id "),
        ("Apns", "room_id "),
        ("Apns", "sender_display_name "),
        ("Apns", "default_payload "),
        ("Apns", "a count"),
        ("Fcm", "event_id "),
        ("Fcm", "room_id "),
        ("Fcm", "body "),
        ("Fcm", "a count"),
        ("log", "event_id "),
        ("log", "room_id "),
        ("log", "pushkey "),
    ] {
        let is_it = |finding: &Finding| {
            finding.place.starts_with(place) && finding.secret.starts_with(secret)
        };
        assert!(found.iter().any(is_it), "{secret} in {place}");
    }
    assert!(links(&exposed.pushes).len() > 3);
}

/// Whatever is in it, a sealed push has one of three sizes: all of the request, headers included.
#[tokio::test]
async fn sealed_pushes_of_one_class_are_of_one_size_to_the_byte() {
    let world = World::new().await;
    let apps = json!({
        APNS: opaque(world.apns()), FCM: opaque(world.fcm()),
        WEB: opaque(world.web_push()), UP: opaque(world.unified_push()),
    });
    let gateway = world.gateway(apps).await;
    let dice = Dice::new(seed());
    let keys = DeviceKeys::generate().unwrap();
    let nocturne = json!({ "v": 1, "p256dh": keys.p256dh(), "auth": keys.auth() });
    let push_service = &world.stand_ins.push_service;
    let browser = push_service.subscribe().unwrap();
    let phone = push_service.subscribe_unified_push().unwrap();
    let token = STANDARD.encode(dice.bytes::<32>());
    let classes = [512, 1024, 2048];
    for length in [
        0, 1, 7, 150, 250, 400, 600, 700, 900, 1100, 1500, 1700, 2500,
    ] {
        let default_payload = json!({ "x": "x".repeat(length) });
        let with = |more: Value| merged(json!({ "default_payload": default_payload }), &more);
        let devices = [
            device_with(APNS, &token, with(json!({ "nocturne": nocturne }))),
            device_with(
                FCM,
                "registration:token",
                with(json!({ "nocturne": nocturne })),
            ),
            device_with(
                WEB,
                &browser.p256dh,
                with(json!({ "endpoint": browser.endpoint, "auth": browser.auth })),
            ),
            device_with(
                UP,
                &phone.endpoint,
                with(json!({ "p256dh": phone.p256dh, "auth": phone.auth })),
            ),
        ];
        for members in [
            json!({}),
            json!({ "prio": "low", "counts": { "unread": 123_456 } }),
        ] {
            let event_id = format!("${}", dice.word(1 + dice.below(60)));
            let body = json!({ "notification": {
                "event_id": event_id, "room_id": "!r:x", "devices": devices,
            }});
            let answer = gateway.notify(&changed(body, &members)).await;
            assert_eq!(answer.json(), json!({ "rejected": [] }));
        }
    }

    let mut sizes: BTreeMap<(&str, usize), Sizes> = BTreeMap::new();
    let stand_ins = &world.stand_ins;
    for (provider, seen) in [
        ("Apple", stand_ins.apple.seen()),
        ("Google", stand_ins.google.seen()),
        ("push service", push_service.seen()),
    ] {
        for push in &seen {
            let json = push.json();
            let sealed = [&json["p"], &json["message"]["data"]["p"]]
                .into_iter()
                .find_map(Value::as_str);
            let text = match (sealed, &push.decrypted) {
                (Some(blob), _) => keys.open(&URL_SAFE_NO_PAD.decode(blob).unwrap()).unwrap(),
                (None, decrypted) => decrypted.clone().unwrap(),
            };
            let provider = match provider {
                "push service" if push.device == phone.endpoint => "UnifiedPush",
                other => other,
            };
            // the size that the text needs, not the one that it got
            let class = classes
                .into_iter()
                .find(|class| text.len() < *class)
                .unwrap();
            let headers = push
                .headers
                .iter()
                .map(|(name, value)| name.as_str().len() + value.len())
                .sum();
            let sizes = sizes.entry((provider, class)).or_default();
            sizes.of_requests.insert((push.body.len(), headers));
            sizes.of_texts.insert(text.len());
        }
    }
    assert_eq!(sizes.len(), 4 * classes.len(), "{sizes:?}");
    for (class, sizes) in &sizes {
        assert!(sizes.of_texts.len() > 3, "{class:?}: {sizes:?}");
        assert_eq!(sizes.of_requests.len(), 1, "{class:?}: {sizes:?}");
    }
}

/// The sizes that were seen in one class.
#[derive(Debug, Default)]
struct Sizes {
    /// Body and headers.
    of_requests: HashSet<(usize, usize)>,
    /// What the device reads.
    of_texts: HashSet<usize>,
}

fn opaque(mut app: Value) -> Value {
    app["payload"] = json!("opaque");
    app
}

fn seed() -> u64 {
    let given = Environment::of_process();
    let given = given.get("NOCTURNE_SEED").map(|seed| seed.parse().unwrap());
    given.unwrap_or_else(|| u64::from_be_bytes(Random::system().bytes()))
}

/// Has notifications pushed to everybody's devices, and keeps all that is seen of them.
async fn expose(dice: &Dice, hidden: &mut Hidden, loud: &Value, notifications: usize) -> Exposed {
    let world = World::new().await;
    let (gateway, key) = gateway(&world, loud).await;
    let push_service = &world.stand_ins.push_service;
    let mut registrations: Vec<Vec<Arc<Registration>>> = Vec::new();
    for person in 0..PEOPLE {
        let mut of_person = Vec::new();
        for (place, (kind, app_id, _)) in APPS.into_iter().enumerate() {
            for device in 0..DEVICES {
                let keys = [Keys::None, Keys::Tags, Keys::Blob][(person + place + device) % 3];
                let sealed_to = ((person / 3 + device) % 2 == 0).then_some(&*key);
                let registration = register(
                    (dice, &mut *hidden),
                    push_service,
                    (kind, app_id, keys),
                    person,
                    sealed_to,
                );
                of_person.push(Arc::new(registration));
            }
        }
        registrations.push(of_person);
    }
    let by_target: HashMap<String, Arc<Registration>> = registrations
        .iter()
        .flatten()
        .map(|registration| (registration.target.clone(), Arc::clone(registration)))
        .collect();

    let key_id = key_id(&key);
    let mut requests = Vec::new();
    for number in 0..notifications {
        let of_person = &registrations[dice.below(PEOPLE)];
        let first = dice.below(of_person.len());
        let mut devices: Vec<_> = (0..=dice.below(MOST_DEVICES))
            .map(|step| &of_person[(first + 5 * step) % of_person.len()])
            .map(|registration| registration.json.clone())
            .collect();
        if number % 97 == 0 {
            devices.extend(unfortunate((dice, &mut *hidden), APNS, key_id));
        }
        let body = notification((dice, &mut *hidden), &devices).to_string();
        let [client, address] = [dice.word(20), dice.word(16)];
        for name in [&client, &address] {
            hidden.secrets.add("homeserver", name);
        }
        let headers = HeaderMap::from_iter([
            (
                http::header::USER_AGENT,
                HeaderValue::try_from(client).unwrap(),
            ),
            (
                http::HeaderName::from_static("x-forwarded-for"),
                HeaderValue::try_from(address).unwrap(),
            ),
        ]);
        requests.push((headers, body));
    }
    troubles(&world);
    let errors = send(&gateway, requests).await;

    let stand_ins = &world.stand_ins;
    let servers = [&*stand_ins.apple, &*stand_ins.google, &**push_service];
    let metrics = gateway.metrics().await;
    let log = finished(gateway).await;
    let pushes = servers
        .iter()
        .flat_map(|server| server.seen())
        .filter_map(|seen| {
            let target = seen.device.rsplit('/').next().unwrap();
            Some((Arc::clone(by_target.get(target)?), seen))
        })
        .collect();
    Exposed {
        pushes,
        asides: servers.iter().flat_map(|server| server.asides()).collect(),
        log,
        metrics,
        errors,
    }
}

async fn gateway(world: &World, loud: &Value) -> (Gateway, String) {
    let apps = APPS.map(|(kind, app_id, mode)| {
        let mut app = match kind {
            Kind::Apns => world.apns(),
            Kind::Fcm => world.fcm(),
            Kind::WebPush => world.web_push(),
            Kind::UnifiedPush => world.unified_push(),
        };
        app["payload"] = loud.get("payload").cloned().unwrap_or_else(|| mode.into());
        app["opaque"] = json!({ "sealed_content": true, "badge_pushes": true });
        (app_id.to_owned(), app)
    });
    let key = world.directory().join("pushkeys.key");
    let mut command = world.command();
    command.arg("keygen").arg(&key);
    assert!(crate::harness::run(command).await.status.success());
    let mut config = json!({
        "pushkey_keys": [key],
        "limits": { "per_pushkey_per_minute": "off", "request_budget": "30s" },
    });
    if let Some(log) = loud.get("log") {
        config["log"] = log.clone();
    }
    let options = Options {
        config,
        environment: vec![("RUST_LOG".to_owned(), "trace".to_owned())],
    };
    let gateway = world
        .gateway_with(Value::Object(apps.into_iter().collect()), options)
        .await;
    let key = served_key(&gateway).await;
    (gateway, key)
}

/// Providers that refuse a push now and then, and say to whom it would have gone.
fn troubles(world: &World) {
    let refusal = |seen: &Seen, before: usize| {
        let code = match before % 40 {
            7 => 400,
            17 => 403,
            27 => 410,
            37 => 413,
            _ => return None,
        };
        Some(Reply::text(code, &format!("not to {}", seen.device)))
    };
    world.stand_ins.apple.script(refusal);
    world.stand_ins.google.script(refusal);
    world.stand_ins.push_service.script(refusal);
}

/// Posts everything, many at once; gives the error messages in the answers.
async fn send(gateway: &Gateway, requests: Vec<(HeaderMap, String)>) -> String {
    let homeserver = gateway.homeserver();
    let broken: Vec<_> = requests
        .iter()
        .step_by(50)
        .map(|(headers, body)| {
            let half = &body[..body.floor_char_boundary(body.len() / 2)];
            (headers.clone(), half.to_owned())
        })
        .collect();
    let mut all: Vec<_> = requests.into_iter().chain(broken).collect();
    let share = all.len().div_ceil(WIDTH);
    let mut senders = tokio::task::JoinSet::new();
    while !all.is_empty() {
        let own = all.split_off(all.len().saturating_sub(share));
        senders.spawn(async move {
            let mut errors = String::new();
            for (headers, body) in own {
                let answer = homeserver
                    .request(Method::POST, NOTIFY_PATH, headers, body.into())
                    .await
                    .unwrap();
                if answer.status != StatusCode::OK {
                    errors.push_str(&answer.text());
                    errors.push('\n');
                }
            }
            errors
        });
    }
    senders.join_all().await.concat()
}

/// The whole log of a gateway that was told to stop.
async fn finished(mut gateway: Gateway) -> String {
    gateway.signal("TERM");
    gateway.ended().await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !gateway.log().contains("stopped") && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    gateway.log()
}

/// Everything hidden that can be seen.
///
/// Among as many random bytes as are in thousands of pushes, eight that are also in one of tens of
/// thousands of secrets come by chance about once in some hundred runs; two such, or nine in a row,
/// never do.
fn leaks(exposed: &Exposed, hidden: &Hidden) -> Vec<Finding> {
    let mut search = hidden.secrets.search();
    for (registration, push) in &exposed.pushes {
        for (place, bytes) in parts(push) {
            let place = format!("{} {place}", provider(registration));
            let bytes = without(&bytes, registration.target.as_bytes());
            search.read(&place, &bytes);
            counts(&place, &bytes, hidden, &mut search);
        }
    }
    for request in &exposed.asides {
        for (place, bytes) in parts(request) {
            search.read(&format!("aside {place}"), &bytes);
        }
    }
    for (place, text) in [
        ("log", &exposed.log),
        ("metrics", &exposed.metrics),
        ("errors", &exposed.errors),
    ] {
        for line in text.lines() {
            search.read(place, line.as_bytes());
        }
        counts(place, text.as_bytes(), hidden, &mut search);
    }
    let mut findings = search.findings;
    if findings.len() == 1 && findings[0].length == search::FRAGMENT {
        eprintln!("by chance: {:?}", findings.pop());
    }
    findings
}

/// Numbers are looked for as a whole: nobody is known by eight digits of one.
fn counts(place: &str, bytes: &[u8], hidden: &Hidden, search: &mut Search<'_>) {
    let digits = bytes.split(|byte| !byte.is_ascii_digit());
    for number in digits.filter(|digits| digits.len() == 15) {
        let number = String::from_utf8(number.to_vec()).unwrap();
        if hidden.counts.contains(&number) {
            search.findings.push(Finding {
                place: place.to_owned(),
                secret: "a count".to_owned(),
                length: number.len(),
                text: number,
            });
        }
    }
}

fn provider(registration: &Registration) -> String {
    let app_id = registration.json["app_id"].as_str().unwrap();
    let (kind, _, mode) = APPS.into_iter().find(|(_, id, _)| *id == app_id).unwrap();
    format!("{kind:?} {mode}")
}

/// Every byte of a request, by place.
fn parts(push: &Seen) -> Vec<(String, Vec<u8>)> {
    let mut parts = vec![
        ("path".to_owned(), push.path.clone().into_bytes()),
        ("body".to_owned(), push.body.to_vec()),
    ];
    for (name, value) in &push.headers {
        parts.push((name.to_string(), name.as_str().as_bytes().to_vec()));
        parts.push((name.to_string(), value.as_bytes().to_vec()));
    }
    parts
}

fn without(bytes: &[u8], target: &[u8]) -> Vec<u8> {
    match bytes
        .windows(target.len())
        .position(|window| window == target)
    {
        Some(at) => [&bytes[..at], b" ", &bytes[at + target.len()..]].concat(),
        None => bytes.to_vec(),
    }
}

/// What tells that two pushes are for the same device or the same person, other than its token.
///
/// At each place of an app's requests, either no two pushes have the same value, nor the same sixteen
/// bytes at the same place in it; or there are a few values, each of which several people's devices get.
fn links(pushes: &[(Arc<Registration>, Seen)]) -> Vec<String> {
    const FEW: usize = 12;
    let mut places: BTreeMap<String, BTreeMap<Vec<u8>, Receivers>> = BTreeMap::new();
    for (registration, push) in pushes {
        for (place, value) in values(push) {
            let value = without(&value, registration.target.as_bytes());
            let place = format!("{} {place}", provider(registration));
            let receivers = places.entry(place).or_default().entry(value).or_default();
            receivers.pushes += 1;
            receivers.people.insert(registration.person);
        }
    }
    let mut links = Vec::new();
    for (place, values) in places {
        let is_shared = |receivers: &Receivers| receivers.people.len() > 1;
        if values.len() <= FEW && values.values().all(is_shared) {
            continue;
        }
        for (value, Receivers { pushes, .. }) in &values {
            if *pushes > 1 {
                links.push(format!("{place}: {pushes} times {}", value.escape_ascii()));
            }
        }
        let mut chunks = HashSet::new();
        for value in values.keys() {
            for (number, chunk) in value.chunks_exact(16).enumerate() {
                if !chunks.insert((number, chunk)) {
                    links.push(format!("{place}: twice {}", chunk.escape_ascii()));
                }
            }
        }
    }
    links
}

/// Who got a value.
#[derive(Default)]
struct Receivers {
    pushes: usize,
    people: HashSet<usize>,
}

/// Every value of a request with its place: of a JSON body each value of its own.
fn values(push: &Seen) -> Vec<(String, Vec<u8>)> {
    let mut values = vec![("path".to_owned(), push.path.clone().into_bytes())];
    for (name, value) in &push.headers {
        values.push((name.to_string(), value.as_bytes().to_vec()));
    }
    match serde_json::from_slice(&push.body) {
        Ok(json) => leaves("body", &json, &mut values),
        Err(_) => values.push(("body".to_owned(), push.body.to_vec())),
    }
    values
}

fn leaves(place: &str, json: &Value, values: &mut Vec<(String, Vec<u8>)>) {
    match json {
        Value::Object(members) => {
            let names: Vec<_> = members.keys().map(String::as_str).collect();
            values.push((format!("{place} members"), names.join(" ").into_bytes()));
            for (name, member) in members {
                leaves(&format!("{place}.{name}"), member, values);
            }
        }
        Value::Array(items) => {
            for item in items {
                leaves(&format!("{place}[]"), item, values);
            }
        }
        Value::String(text) => values.push((place.to_owned(), text.clone().into_bytes())),
        Value::Null | Value::Bool(_) | Value::Number(_) => {
            values.push((place.to_owned(), json.to_string().into_bytes()));
        }
    }
}

/// The check itself: planted links are found, and what is constant or new each time is none.
#[tokio::test]
async fn values_that_tell_devices_apart_are_found() {
    let world = World::new().await;
    let gateway = world.gateway(json!({ APNS: opaque(world.apns()) })).await;
    let mut pushes = Vec::new();
    for person in 0..4 {
        for _ in 0..3 {
            let token = STANDARD.encode([u8::try_from(person).unwrap(); 32]);
            let json = device_with(APNS, &token, json!({}));
            let body = fresh(stand_ins::homeserver::event_id_only(std::slice::from_ref(
                &json,
            )));
            gateway.notify(&body).await;
            let seen = world.stand_ins.apple.seen().pop().unwrap();
            let target = seen.device.clone();
            let registration = Registration {
                person,
                json,
                target,
            };
            pushes.push((Arc::new(registration), seen));
        }
    }
    assert_eq!(links(&pushes), Vec::<String>::new());

    let planted = |plant: &dyn Fn(usize, &mut Value)| {
        let mut planted = pushes.clone();
        for (number, (_, seen)) in planted.iter_mut().enumerate() {
            let mut json = seen.json();
            plant(number, &mut json);
            seen.body = json.to_string().into();
        }
        links(&planted)
    };
    let half = |number: usize| {
        let number = u64::try_from(number + 1).unwrap();
        format!("{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    };
    let id = |number: usize| half(number) + &half(number + 100);
    // of a person, of a device once again, of what two devices share, within a value that is new each time
    assert!(!planted(&|number, json| json["x"] = id(number / 3).into()).is_empty());
    assert!(!planted(&|number, json| json["x"] = id(number.max(1)).into()).is_empty());
    assert!(!planted(&|number, json| json["x"] = id(number % 11).into()).is_empty());
    let inside = |number: usize| half(number) + &half(number / 3);
    assert!(!planted(&|number, json| json["x"] = inside(number).into()).is_empty());
    let member = |number: usize| format!("x{}", number / 3);
    assert!(!planted(&|number, json| json[member(number)] = 1.into()).is_empty());
    // new each time, and one of a few that everybody gets
    assert!(planted(&|number, json| json["x"] = id(number).into()).is_empty());
    assert!(planted(&|number, json| json["x"] = (number % 3).into()).is_empty());
}
