//! What a request has to be like: the rules of Sygnal's parser, with a Matrix error object for each.

use http::StatusCode;
use serde_json::{Value, json};
use stand_ins::homeserver::{device, dummy};

use crate::harness::{APNS, PUSHKEY, World, assert_rejected, changed, errcode, fresh};

#[tokio::test]
async fn what_is_not_a_json_object_with_a_notification_gets_400() {
    let world = World::new().await;
    let gateway = world.gateway(json!({ APNS: world.apns() })).await;
    let good = dummy(&[device(APNS, PUSHKEY)]).to_string();
    let bodies: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"{".to_vec(),
        b"\xff\xfe".to_vec(),
        good.replace("Major Tom", "\u{0}").into_bytes(),
        [b"\xef\xbb\xbf", good.as_bytes()].concat(),
        format!("{good} x").into_bytes(),
        good.replace("42", "NaN").into_bytes(),
        good.replace("42", "Infinity").into_bytes(),
        b"null".to_vec(),
        b"7".to_vec(),
        b"\"notification\"".to_vec(),
        b"[\"notification\"]".to_vec(),
        b"{\"notification\":null}".to_vec(),
        b"{\"notification\":[]}".to_vec(),
        b"{\"notification\":\"x\"}".to_vec(),
    ];
    for body in bodies {
        let shown = String::from_utf8_lossy(&body)
            .chars()
            .take(80)
            .collect::<String>();
        let answer = gateway.post(body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{shown}");
        errcode(&answer);
    }
    assert_eq!(world.stand_ins.apple.seen_count(), 0);
}

#[tokio::test]
async fn members_of_the_wrong_type_get_400_and_nobody_gets_a_push() {
    let world = World::new().await;
    let gateway = world.gateway(json!({ APNS: world.apns() })).await;
    let with_device = |members: Value| {
        let mut broken = device(APNS, "cccc");
        for (name, member) in members.as_object().unwrap() {
            broken[name] = member.clone();
        }
        // the device before it is in order: all or nothing
        dummy(&[device(APNS, PUSHKEY), broken])
    };
    let without = |name: &str| {
        let mut broken = device(APNS, "cccc");
        broken.as_object_mut().unwrap().remove(name);
        dummy(&[device(APNS, PUSHKEY), broken])
    };
    let whole = || dummy(&[device(APNS, PUSHKEY)]);
    let bodies = [
        changed(whole(), &json!({ "devices": null })),
        changed(whole(), &json!({ "devices": {} })),
        changed(whole(), &json!({ "devices": "x" })),
        changed(whole(), &json!({ "devices": [] })),
        changed(whole(), &json!({ "counts": { "unread": 1.5 } })),
        changed(whole(), &json!({ "counts": { "unread": "2" } })),
        changed(whole(), &json!({ "counts": { "missed_calls": "2" } })),
        dummy(&[device(APNS, PUSHKEY), Value::Null]),
        dummy(&[device(APNS, PUSHKEY), json!(7)]),
        dummy(&[device(APNS, PUSHKEY), json!("x")]),
        dummy(&[device(APNS, PUSHKEY), json!([])]),
        without("app_id"),
        without("pushkey"),
        with_device(json!({ "app_id": 7 })),
        with_device(json!({ "app_id": null })),
        with_device(json!({ "pushkey": 7 })),
        with_device(json!({ "pushkey": null })),
        with_device(json!({ "pushkey_ts": "7" })),
        with_device(json!({ "pushkey_ts": 7.5 })),
        with_device(json!({ "data": [] })),
        with_device(json!({ "data": "x" })),
        with_device(json!({ "tweaks": "x" })),
        with_device(json!({ "tweaks": { "sound": 7 } })),
    ];
    for body in bodies {
        let answer = gateway.notify(&body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}");
        errcode(&answer);
    }
    assert_eq!(world.stand_ins.apple.seen_count(), 0);
}

/// Sygnal refuses some of these, although the specification lets each be absent.
#[tokio::test]
async fn null_is_as_good_as_absent_where_the_specification_lets_a_member_be_absent() {
    let world = World::new().await;
    let gateway = world.gateway(json!({ APNS: world.apns() })).await;
    let with_device = |name: &str| {
        let mut odd = device(APNS, PUSHKEY);
        odd[name] = Value::Null;
        dummy(&[odd])
    };
    let whole = || dummy(&[device(APNS, PUSHKEY)]);
    let bodies = [
        changed(whole(), &json!({ "counts": null })),
        changed(
            whole(),
            &json!({ "counts": { "unread": null, "missed_calls": null } }),
        ),
        with_device("pushkey_ts"),
        with_device("data"),
        with_device("tweaks"),
    ];
    let count = bodies.len();
    for body in bodies {
        let answer = gateway.notify(&fresh(body)).await;
        assert_eq!(answer.status, StatusCode::OK);
    }
    assert_eq!(world.stand_ins.apple.seen_count(), count);
}

/// Sygnal answers 500 to some of these; what no rule speaks of must never be a 5xx.
#[tokio::test]
async fn what_no_rule_speaks_of_is_taken_or_refused_and_never_a_500() {
    let world = World::new().await;
    let gateway = world.gateway(json!({ APNS: world.apns() })).await;
    let whole = || fresh(dummy(&[device(APNS, PUSHKEY)]));
    for members in [
        json!({ "counts": [] }),
        json!({ "counts": "x" }),
        json!({ "counts": 7 }),
        json!({ "counts": { "unread": true } }),
        json!({ "room_name": 7 }),
        json!({ "room_alias": {} }),
        json!({ "sender": [] }),
        json!({ "sender_display_name": 7 }),
        json!({ "content": "x" }),
        json!({ "content": { "msgtype": 7, "body": [] } }),
        json!({ "type": 7 }),
        json!({ "prio": 7 }),
        json!({ "prio": "urgent" }),
        json!({ "membership": {} }),
        json!({ "user_is_target": "yes" }),
        json!({ "room_id": 7 }),
        json!({ "unknown": { "deep": [1, 2, 3] } }),
    ] {
        let answer = gateway.notify(&changed(whole(), &members)).await;
        assert!(
            matches!(answer.status, StatusCode::OK | StatusCode::BAD_REQUEST),
            "{members}: {}",
            answer.status
        );
    }
    let mut nulls = whole();
    for name in ["sender", "content", "room_name", "type", "counts"] {
        nulls["notification"][name] = Value::Null;
    }
    let answer = gateway.notify(&nulls).await;
    assert!(answer.status.as_u16() < 500);
    let mut event = whole();
    event["notification"]["event_id"] = json!(7);
    assert!(gateway.notify(&event).await.status.as_u16() < 500);
}

#[tokio::test]
async fn json_nested_as_deep_as_it_goes_does_not_end_the_gateway() {
    let world = World::new().await;
    let gateway = world.gateway(json!({ APNS: world.apns() })).await;
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    let answer = gateway.post(format!("{{\"notification\":{deep}}}")).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert_eq!(gateway.get("/health").await.status, StatusCode::OK);
}

#[tokio::test]
async fn what_synapse_sends_when_messages_were_read_is_understood() {
    let world = World::new().await;
    let gateway = world.gateway(json!({ APNS: world.apns() })).await;
    let body = stand_ins::homeserver::synapse_badge(3, &device(APNS, PUSHKEY));
    let answer = gateway.notify(&body).await;
    assert_rejected(&answer, &[]);
    let seen = world.stand_ins.apple.seen();
    assert_eq!(seen[0].json(), json!({ "aps": { "badge": 3 } }));
}
