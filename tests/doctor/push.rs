//! Whether providers take what the push gateway shows them.

use serde_json::{Value, json};
use stand_ins::{
    ApnsKey, Files, KEY_ID, PROJECT_ID, Proxy, Reply, ServiceAccount, StandIns, TEAM_ID, TOPIC,
};

use crate::web::{Doctor, Report};

/// Providers, and doctor with the files for them.
struct Stage {
    stand_ins: StandIns,
    files: Files,
    doctor: Doctor,
}

impl Stage {
    async fn set() -> Self {
        let stand_ins = StandIns::start().await.unwrap();
        let doctor = Doctor::new().trusting(&stand_ins.authority);
        let files = stand_ins.write_files(doctor.folder()).unwrap();
        Self {
            stand_ins,
            files,
            doctor,
        }
    }

    fn apns(&self) -> Value {
        json!({
            "type": "apns",
            "keyfile": self.files.apns_key,
            "key_id": KEY_ID,
            "team_id": TEAM_ID,
            "topic": TOPIC,
            "endpoint": self.stand_ins.apple.url(),
        })
    }

    fn fcm(&self) -> Value {
        json!({
            "type": "gcm",
            "api_version": "v1",
            "project_id": PROJECT_ID,
            "service_account_file": self.files.service_account,
            "endpoint": self.stand_ins.google.url(),
        })
    }

    /// What doctor finds of these apps; no push got to any device.
    async fn found(self, apps: Value) -> (Report, StandIns) {
        self.found_with(json!({"apps": apps})).await
    }

    async fn found_with(self, configuration: Value) -> (Report, StandIns) {
        let Self {
            stand_ins, doctor, ..
        } = self;
        doctor.write("push-gateway.yaml", &configuration.to_string());
        let report = doctor.run_aside(Vec::new()).await;
        for push in stand_ins
            .apple
            .seen()
            .iter()
            .chain(&stand_ins.google.seen())
        {
            assert!(push.complaint.is_some(), "{push:?}");
        }
        report.hides(&["BEGIN PRIVATE KEY", "ya29.", "bearer ", "Bearer ", "eyJ"]);
        (report, stand_ins)
    }
}

#[tokio::test]
async fn good_keys_are_shown_to_be_good_without_a_push() {
    let stage = Stage::set().await;
    let apps = json!({
        "com.example.ios": stage.apns(),
        "com.example.android": stage.fcm(),
        "com.example.web": {
            "type": "webpush",
            "vapid_private_key": stage.files.vapid_key,
            "vapid_contact_email": "push@example.org",
        },
        "com.example.up": {"type": "unifiedpush"},
    });
    let (report, stand_ins) = stage.found(apps).await;
    report.is_all_good("push");
    assert_eq!(report.of("push").len(), 4);
    let ios = report.says("push", "good", "Apple takes the key");
    assert_eq!(ios["subject"], "apps.com.example.ios (apns)");
    report.says("push", "good", "Google takes the service account");
    report.says("push", "good", "the VAPID key opens");
    report.says("push", "good", "nothing to authenticate");

    let [to_apple] = &stand_ins.apple.seen()[..] else {
        panic!("{:?}", stand_ins.apple.seen());
    };
    assert_eq!(to_apple.complaint.as_deref(), Some("BadDeviceToken"));
    assert_eq!(to_apple.headers["apns-topic"], TOPIC);
    let [to_google] = &stand_ins.google.seen()[..] else {
        panic!("{:?}", stand_ins.google.seen());
    };
    let message: Value = serde_json::from_slice(&to_google.body).unwrap();
    assert_eq!(message["validate_only"], true);
    assert_eq!(stand_ins.google.token_fetches(), 1);
    assert!(stand_ins.push_service.seen().is_empty());
    // the providers' clocks are compared with, too
    let clocks = report.of("clock");
    assert!(
        clocks
            .iter()
            .any(|finding| finding["subject"].as_str().unwrap().contains("android"))
    );
}

#[tokio::test]
async fn a_key_that_apple_does_not_know_is_a_failure() {
    let stage = Stage::set().await;
    let other = ApnsKey::generate(KEY_ID, TEAM_ID).unwrap();
    stage.stand_ins.apple.register_key(&other);
    let apps = json!({"com.example.ios": stage.apns()});
    let (report, _) = stage.found(apps).await;
    let finding = report.says("push", "failure", "403 InvalidProviderToken");
    let remedy = finding["remedy"].as_str().unwrap();
    assert!(
        remedy.contains("`key_id`") && remedy.contains("`team_id`"),
        "{remedy}"
    );

    let stage = Stage::set().await;
    let mut app = stage.apns();
    app["team_id"] = json!("ANOTHERONE");
    let (report, _) = stage.found(json!({"com.example.ios": app})).await;
    report.says("push", "failure", "403 InvalidProviderToken");
}

#[tokio::test]
async fn a_topic_that_the_key_is_not_for_is_a_failure() {
    let stage = Stage::set().await;
    let mut app = stage.apns();
    app["topic"] = json!("org.example.another");
    let (report, _) = stage.found(json!({"com.example.ios": app})).await;
    let finding = report.says("push", "failure", "400 BadTopic");
    assert!(finding["remedy"].as_str().unwrap().contains("`topic`"));
}

#[tokio::test]
async fn a_service_account_whose_key_was_revoked_is_a_failure() {
    let stage = Stage::set().await;
    // of the same name, with another key
    let other = ServiceAccount::generate(PROJECT_ID).unwrap();
    stage.stand_ins.google.register_account(&other);
    let apps = json!({"com.example.android": stage.fcm()});
    let (report, stand_ins) = stage.found(apps).await;
    let finding = report.says("push", "failure", "oauth 400 invalid_grant");
    assert!(
        finding["remedy"]
            .as_str()
            .unwrap()
            .contains("`service_account_file`")
    );
    assert!(stand_ins.google.seen().is_empty());
    // a wrong clock looks the same, so that Google's is compared with
    report.says("clock", "good", "agrees");
}

#[tokio::test]
async fn a_service_account_of_another_project_is_a_failure() {
    let stage = Stage::set().await;
    let mut app = stage.fcm();
    app["project_id"] = json!("somebody-elses");
    let (report, _) = stage.found(json!({"com.example.android": app})).await;
    let finding = report.says("push", "failure", "403 PERMISSION_DENIED");
    assert!(finding["remedy"].as_str().unwrap().contains("`project_id`"));
}

#[tokio::test]
async fn trouble_of_the_providers_own_says_nothing_of_the_keys() {
    let stage = Stage::set().await;
    stage
        .stand_ins
        .google
        .queue_token_replies([Reply::status(503)]);
    let apps = json!({"com.example.android": stage.fcm()});
    let (report, _) = stage.found(apps).await;
    report.says("push", "warning", "Google answers oauth 503");
}

#[tokio::test]
async fn providers_that_cannot_be_reached_are_a_failure() {
    let stage = Stage::set().await;
    stage.stand_ins.apple.stop().await;
    stage.stand_ins.google.stop().await;
    let apps = json!({"com.example.ios": stage.apns(), "com.example.android": stage.fcm()});
    let (report, _) = stage.found(apps).await;
    report.says("push", "failure", "Apple cannot be reached");
    report.says("push", "failure", "Google cannot be reached");
    report.says("clock", "skipped", "compared with nobody's");
}

#[tokio::test]
async fn providers_are_asked_through_the_proxy() {
    let stage = Stage::set().await;
    let proxy = Proxy::start().await.unwrap();
    let apps = json!({"com.example.ios": stage.apns(), "com.example.android": stage.fcm()});
    let configuration = json!({"apps": apps, "proxy": proxy.url()});
    let (report, _) = stage.found_with(configuration).await;
    report.is_all_good("push");
    assert!(proxy.tunnels().len() >= 2, "{:?}", proxy.tunnels());
}

#[tokio::test]
async fn a_contact_that_nobody_can_write_to_is_a_warning() {
    let stage = Stage::set().await;
    let apps = json!({"com.example.web": {
        "type": "webpush",
        "vapid_private_key": stage.files.vapid_key,
        "vapid_contact_email": "root@localhost",
    }});
    let (report, _) = stage.found(apps).await;
    report.says("push", "warning", "`vapid_contact_email`");
}

#[tokio::test]
async fn without_a_gateway_there_is_nobody_to_ask() {
    let doctor = Doctor::new();
    doctor.write("turn-relay.yaml", "realm: localhost\nsecrets: a secret of this test alone\nlisten: {udp: '127.0.0.1:0', tcp: [], tls: []}\n");
    let report = doctor.run_aside(Vec::new()).await;
    report.says("push", "skipped", "no configuration of the push gateway");
}
