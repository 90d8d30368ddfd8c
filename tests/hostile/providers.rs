//! What a provider can answer.

use std::{sync::Mutex, time::Duration};

use serde_json::{Value, json};
use stand_ins::{Reply, Seen, Server, Then};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    draw::{Draw, Known},
    gateway::{MODES, TYPES, World},
    wire::{Connection, post},
};

/// Requests in all; some of them wait for an answer that never comes.
const REQUESTS: usize = 400;
/// Requests at once.
const CLIENTS: usize = 16;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_providers_answer_a_request_is_answered_in_time() {
    let world = World::new().await;
    let servers = &world.stand_ins;
    let known = Known::new(&servers.push_service);
    let mut gateway = world
        .gateway(&json!({"limits": {"request_budget": "2s", "per_pushkey_per_minute": 100_000}}))
        .await;
    answer_anything(&servers.apple, 1);
    answer_anything(&servers.google, 2);
    answer_anything(&servers.push_service, 3);
    servers
        .google
        .queue_token_replies((0..3).map(|number| draw_reply(&mut Draw::new(number), "")));

    let mut draw = Draw::new(4);
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let bodies: Vec<_> = (0..REQUESTS / CLIENTS)
            .map(|number| notification(&mut draw, &known, client + number))
            .collect();
        let address = gateway.address;
        clients.spawn(async move {
            let mut connection = Connection::open(address).await.expect("a connection");
            for body in bodies {
                let began = Instant::now();
                connection
                    .send(&post(body.to_string().as_bytes()))
                    .await
                    .expect("sent");
                let answer = connection
                    .answer()
                    .await
                    .expect("an answer")
                    .expect("an answer");
                let took = began.elapsed();
                assert!(took < Duration::from_secs(12), "{took:?}");
                assert!(
                    matches!(answer.status, 200 | 502),
                    "{}: {}",
                    answer.status,
                    answer.json()
                );
                answer.assert_well_formed();
            }
        });
    }
    clients.join_all().await;
    gateway.assert_sound(
        draw.secrets
            .iter()
            .map(String::as_str)
            .chain(known.secrets()),
    );

    // and when they come to their senses, so does the gateway
    for server in [&*servers.apple, &*servers.google, &*servers.push_service] {
        server.unscript();
    }
    let deadline = Instant::now() + crate::PATIENCE;
    for kind in TYPES {
        loop {
            let mut body = notification(&mut draw, &known, 0);
            body["notification"]["devices"] =
                json!([device(kind, "opaque", &known, draw.number())]);
            let answer = gateway.notify(&body).await;
            if answer.status == 200 {
                break;
            }
            assert!(Instant::now() < deadline, "{kind} never recovers");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

fn answer_anything(server: &Server, seed: u64) {
    let draw = Mutex::new(Draw::new(seed));
    server.script(move |seen: &Seen, _| {
        let mut draw = draw.lock().expect("no panic");
        // every other one is as usual, so that the breaker does not end the test
        (!draw.chance(50)).then(|| draw_reply(&mut draw, &seen.device))
    });
}

/// Some answer; it may quote what must not be written down.
fn draw_reply(draw: &mut Draw, quoted: &str) -> Reply {
    let status = match draw.below(10) {
        0 => 200,
        1 => 410,
        2 => 400,
        3 => 429,
        4 => 503,
        5 => 401,
        6 => 403,
        7 => 404,
        _ => 200 + u16::try_from(draw.below(400)).expect("less than 400"),
    };
    let reason = draw
        .one_of(&[
            "Unregistered",
            "BadDeviceToken",
            "ExpiredProviderToken",
            "UNREGISTERED",
            "TooManyRequests",
        ])
        .to_owned();
    let mut reply = match draw.below(12) {
        0 => Reply::status(status),
        1 => Reply::apns(status, &reason),
        2 => Reply::fcm(status, &reason),
        3 => Reply::apns(status, quoted),
        4 => Reply::fcm(status, quoted),
        5 => Reply::text(status, &format!("<html>{quoted}")),
        6 => Reply::text(status, &"x".repeat(2_000_000)),
        7 => Reply::text(status, &"[".repeat(100_000)),
        8 => Reply::json(
            status,
            &json!({"reason": [quoted], "timestamp": -1.5, "error": quoted}),
        ),
        9 => Reply::json(
            status,
            &json!({"error": {"details": [[], {"@type": quoted}, 7]}}),
        ),
        10 => Reply::json(
            status,
            &json!({"access_token": quoted, "expires_in": "1e300"}),
        ),
        _ => {
            let mut reply = Reply::status(status);
            reply.body = b"\xff\xfe{\"reason\":".as_slice().into();
            reply
        }
    };
    if draw.chance(20) {
        reply = reply.timestamp(draw.number());
    }
    for name in [
        "retry-after",
        "content-type",
        "content-encoding",
        "location",
        "x-odd",
        "apns-id",
    ] {
        if draw.chance(25) {
            let value = draw
                .one_of(&[
                    "-1",
                    "0",
                    "99999999999999999999",
                    "1.5",
                    "gzip",
                    "Fri, 31 Dec 9999 23:59:59 GMT",
                    "Thu, 01 Jan 1970 00:00:00 GMT",
                    "soon",
                    "",
                    "\u{e9}",
                    "application/json; charset=\"",
                ])
                .to_owned();
            reply = reply.header(name, &value);
        }
    }
    let then = match draw.below(30) {
        0 => Then::HangForever,
        1 => Then::DropConnection,
        2 => Then::GoAway,
        _ => Then::Normal,
    };
    let delay = if draw.chance(10) { draw.below(300) } else { 0 };
    reply
        .after(Duration::from_millis(u64::try_from(delay).expect("small")))
        .then(then)
}

fn notification(draw: &mut Draw, known: &Known, number: usize) -> Value {
    let mode = MODES[number % MODES.len()];
    let kind = TYPES[number / MODES.len() % TYPES.len()];
    json!({"notification": {
        "event_id": format!("${}", draw.secret()),
        "room_id": format!("!{}", draw.secret()),
        "devices": [device(kind, mode, known, draw.number())],
    }})
}

fn device(kind: &str, mode: &str, known: &Known, number: u64) -> Value {
    let pushkey = match kind {
        "webpush" => known.browser.p256dh.clone(),
        "unifiedpush" => known.phone.endpoint.clone(),
        _ => Draw::token(number),
    };
    json!({
        "app_id": format!("{kind}.{mode}"),
        "pushkey": pushkey,
        "pushkey_ts": 1_700_000_000,
        "data": {"endpoint": known.browser.endpoint, "auth": known.browser.auth},
    })
}
