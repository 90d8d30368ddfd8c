//! The commands around the gateway: `check`, `notify`, `keygen`, and their help.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Output};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;
use stand_ins::Reply;

use crate::harness::{APNS, PUSHKEY, PUSHKEY_HEX, World, run};

async fn nocturne(world: &World, arguments: &[&str]) -> Output {
    let mut command = world.command();
    command.args(arguments);
    run(command).await
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn written(world: &World, text: &str) -> PathBuf {
    let path = world.directory().join("sygnal.yaml");
    fs::write(&path, text).unwrap();
    path
}

#[tokio::test]
async fn check_finds_nothing_in_a_good_file() {
    let world = World::new().await;
    let config = json!({ "apps": world.all_apps() }).to_string();
    let path = written(&world, &config);
    let output = nocturne(&world, &["check", path.to_str().unwrap()]).await;
    assert!(output.status.success(), "{}", said(&output));
}

#[tokio::test]
async fn check_reports_all_problems_at_once_with_their_lines() {
    let world = World::new().await;
    let path = written(
        &world,
        "apps:
  com.example.one:
    type: apns
    keyfile: /nonexistent/one.p8
    key_id: K
    team_id: T
    topic: x
  com.example.two:
    type: pigeon
  com.example.three:
    type: gcm
    api_version: legacy
    api_key: k
",
    );
    let output = nocturne(&world, &["check", path.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(1));
    let said = said(&output);
    for part in [
        "one.p8",
        "pigeon",
        "api_version",
        "sygnal.yaml:4",
        "sygnal.yaml:9",
        "sygnal.yaml:12",
    ] {
        assert!(said.contains(part), "{part} is not in:\n{said}");
    }
}

#[tokio::test]
async fn check_of_a_file_that_is_not_there_or_not_yaml() {
    let world = World::new().await;
    let output = nocturne(&world, &["check", "/nonexistent/sygnal.yaml"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("/nonexistent/sygnal.yaml"));
    let path = written(&world, "apps: [");
    let output = nocturne(&world, &["check", path.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("sygnal.yaml"));
}

#[tokio::test]
async fn notify_sends_a_test_notification_and_explains_the_answer() {
    let world = World::new().await;
    let gateway = world.gateway(json!({ APNS: world.apns() })).await;
    let url = format!("http://{}", gateway.address);
    let arguments = [
        "notify",
        "--gateway",
        &url,
        "--app-id",
        APNS,
        "--pushkey",
        PUSHKEY,
    ];
    let output = nocturne(&world, &arguments).await;
    assert!(output.status.success(), "{}", said(&output));
    let seen = world.stand_ins.apple.seen();
    assert_eq!(seen[0].device, PUSHKEY_HEX);

    world
        .stand_ins
        .apple
        .script(|_, _| Some(Reply::apns(410, "Unregistered")));
    let output = nocturne(&world, &arguments).await;
    assert!(said(&output).contains("rejected"), "{}", said(&output));

    world
        .stand_ins
        .apple
        .script(|_, _| Some(Reply::apns(429, "TooManyRequests")));
    let output = nocturne(&world, &arguments).await;
    assert!(!output.status.success());
    assert!(said(&output).contains("502"), "{}", said(&output));
}

#[tokio::test]
async fn keygen_writes_a_key_that_only_its_owner_can_read() {
    let world = World::new().await;
    let path = world.directory().join("pushkeys.key");
    let name = path.to_str().unwrap();
    let output = nocturne(&world, &["keygen", name]).await;
    assert!(output.status.success(), "{}", said(&output));
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(STANDARD.decode(text.trim()).unwrap().len(), 32);
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // a key that is in use is not written over
    let output = nocturne(&world, &["keygen", name]).await;
    assert!(!output.status.success());
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    // and it is not printed
    assert!(!said(&output).contains(text.trim()));
}

#[tokio::test]
async fn every_command_has_help_with_an_example() {
    let world = World::new().await;
    for command in ["push", "turn", "check", "notify", "keygen", "demo"] {
        let output = nocturne(&world, &[command, "--help"]).await;
        assert!(output.status.success(), "{command}");
        let help = said(&output);
        assert!(help.contains("Example"), "{command}:\n{help}");
        assert!(help.contains(&format!("nocturne {command}")), "{command}");
    }
}
