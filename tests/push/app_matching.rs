//! Which entry of `apps` an `app_id` means.

use serde_json::{Value, json};
use stand_ins::homeserver::{device, dummy};

use crate::harness::{Gateway, PUSHKEY, World, assert_rejected, fresh};

async fn apps(world: &World, ids: &[&str]) -> Gateway {
    let apps: Value = ids
        .iter()
        .map(|id| ((*id).to_owned(), world.apns()))
        .collect::<serde_json::Map<_, _>>()
        .into();
    world.gateway(apps).await
}

const SYGNALS: [&str; 3] = ["com.example.apns", "*.example.*", "com.example.a*"];

/// S9 `test_with_specific_appid`
#[tokio::test]
async fn s09_with_specific_appid() {
    let world = World::new().await;
    let gateway = apps(&world, &SYGNALS).await;
    let body = dummy(&[device("com.example.apns", PUSHKEY)]);
    assert_rejected(&gateway.notify(&body).await, &[]);
    assert_eq!(world.stand_ins.apple.seen_count(), 1);
}

/// S10 `test_with_matching_appid`
#[tokio::test]
async fn s10_with_matching_appid() {
    let world = World::new().await;
    let gateway = apps(&world, &SYGNALS).await;
    let body = dummy(&[device("com.example.bpns", PUSHKEY)]);
    assert_rejected(&gateway.notify(&body).await, &[]);
    assert_eq!(world.stand_ins.apple.seen_count(), 1);
}

/// S11 `test_with_ambigious_appid`
#[tokio::test]
async fn s11_with_ambiguous_appid() {
    let world = World::new().await;
    let gateway = apps(&world, &SYGNALS).await;
    let body = dummy(&[device("com.example.apns2", PUSHKEY)]);
    assert_rejected(&gateway.notify(&body).await, &[PUSHKEY]);
    assert_eq!(world.stand_ins.apple.seen_count(), 0);
}

#[tokio::test]
async fn globs_are_anchored_case_sensitive_and_know_star_and_question_mark_alone() {
    let world = World::new().await;
    let gateway = apps(&world, &["com.?xample.*", "org.[ab].x"]).await;
    for (app_id, matches) in [
        ("com.example.", true),
        ("com.example.a.b", true),
        ("com.xample.a", false),
        ("com.example", false),
        ("xcom.example.a", false),
        ("Com.example.a", false),
        ("com_example_a", false),
        ("com.?xample.*", true),
        ("org.[ab].x", true),
        ("org.a.x", false),
        ("", false),
    ] {
        world.stand_ins.apple.forget();
        let answer = gateway
            .notify(&fresh(dummy(&[device(app_id, PUSHKEY)])))
            .await;
        let rejected: &[&str] = if matches { &[] } else { &[PUSHKEY] };
        assert_rejected(&answer, rejected);
        assert_eq!(
            world.stand_ins.apple.seen_count(),
            usize::from(matches),
            "{app_id}"
        );
    }
}

#[tokio::test]
async fn an_unknown_app_is_rejected_and_the_others_are_served() {
    let world = World::new().await;
    let gateway = apps(&world, &["com.example.apns"]).await;
    let devices = [
        device("org.other", "first"),
        device("com.example.apns", PUSHKEY),
    ];
    let answer = gateway.notify(&dummy(&devices)).await;
    assert_rejected(&answer, &["first"]);
    assert_eq!(world.stand_ins.apple.seen_count(), 1);
    let body = dummy(&[json!({ "app_id": "org.other", "pushkey": "" })]);
    assert_rejected(&gateway.notify(&body).await, &[""]);
}
