//! Files in the shapes that people have them in.

use std::{path::Path, time::Duration};

use shared::environment::Environment;

use super::{
    super::{ApnsAuth, ApnsPushType, LogFormat, PayloadMode, Provider, report},
    Fixture,
};

/// Every section of Sygnal's own sample, filled in.
const SYGNAL: &str = r#"
# This is a configuration for the push gateway.
## Logging
log:
  setup:
    version: 1
    formatters:
      normal:
        format: "%(asctime)s [%(process)d] %(levelname)-5s %(name)s %(message)s"
    handlers:
      stderr:
        class: "logging.StreamHandler"
        formatter: "normal"
        stream: "ext://sys.stderr"
    loggers:
      sygnal.access:
        propagate: false
        handlers: ["stderr"]
        level: "INFO"
    root:
      handlers: ["stderr"]
      level: "INFO"
    disable_existing_loggers: false
  access:
    x_forwarded_for: false

http:
  bind_addresses: ['127.0.0.1', '::1']
  port: 5000

# proxy: 'http://user:secret@prox:8080'

metrics:
  prometheus:
    enabled: false
    address: '127.0.0.1'
    port: 8000
  opentracing:
    enabled: false
    implementation: jaeger
    jaeger:
      sampler:
        type: 'const'
        param: 1
    service_name: sygnal
  sentry:
    enabled: false
    dsn: "https://key@sentry.example.org/1"

apps:
  com.example.myapp.ios:
    type: apns
    certfile: DIR/apns.pem
    platform: sandbox
    push_type:
  com.example.otherapp.ios:
    type: apns
    keyfile: DIR/apns.p8
    key_id: MY_KEY_ID
    team_id: MY_TEAM_ID
    topic: com.example.otherapp
    push_type: alert
    inflight_request_limit: 0x200
  com.example.myapp.android:
    type: gcm
    api_version: v1
    project_id: example-project
    service_account_file: DIR/service-account.json
    fcm_options:
      apns:
        payload:
          aps: {content-available: 1, mutable-content: 1, alert: ""}
      android: {ttl: 1.5}
  com.example.myapp.web:
    type: webpush
    vapid_private_key: DIR/vapid.pem
    vapid_contact_email: admin@example.org
    allowed_endpoints: ["*.push.apple.com", "updates.push.services.mozilla.com"]
    ttl: 1_800
"#;

#[test]
fn sygnals_own_sample() {
    let fixture = Fixture::new();
    let loaded = fixture.load(SYGNAL);
    assert_eq!(loaded.errors, Vec::<String>::new());
    let about: Vec<_> = loaded
        .warnings
        .iter()
        .map(|warning| warning.split(": ").nth(1).unwrap_or(""))
        .collect();
    assert_eq!(
        about,
        [
            "log.setup",
            "apps.\"com.example.myapp.ios\"",
            "apps.\"com.example.otherapp.ios\"",
            "apps.\"com.example.myapp.android\"",
            "apps.\"com.example.myapp.web\"",
        ]
    );

    let config = loaded.config.expect("no error");
    assert_eq!(
        config.listen,
        ["127.0.0.1:5000", "[::1]:5000"].map(|text| text.parse().expect("address"))
    );
    assert_eq!(config.metrics_listen, None);
    assert!(config.proxy.is_none());
    let [first, second, third, fourth] = config.apps.as_slice() else {
        panic!("four apps");
    };
    let Provider::Apns(apns) = &first.provider else {
        panic!("{first:?}");
    };
    assert_eq!(apns.endpoint, "https://api.sandbox.push.apple.com");
    assert_eq!(apns.push_type, None);
    assert!(apns.convert_device_token_to_hex && apns.send_badge_counts);
    let ApnsAuth::Certificate {
        topic, not_after, ..
    } = &apns.auth
    else {
        panic!("{apns:?}");
    };
    assert_eq!(topic, "im.example.certificate");
    assert_eq!(*not_after, 1_767_225_600 + 365 * 86_400);

    assert_eq!(second.inflight_request_limit, 512);
    let Provider::Apns(apns) = &second.provider else {
        panic!("{second:?}");
    };
    assert_eq!(apns.endpoint, "https://api.push.apple.com");
    assert_eq!(apns.push_type, Some(ApnsPushType::Alert));
    let ApnsAuth::Token {
        key_id,
        team_id,
        topic,
        ..
    } = &apns.auth
    else {
        panic!("{apns:?}");
    };
    assert_eq!(
        [key_id, team_id, topic],
        ["MY_KEY_ID", "MY_TEAM_ID", "com.example.otherapp"]
    );

    let Provider::Fcm(fcm) = &third.provider else {
        panic!("{third:?}");
    };
    assert_eq!(fcm.endpoint, "https://fcm.googleapis.com");
    assert_eq!(fcm.project_id, "example-project");
    assert_eq!(
        serde_json::to_string(&fcm.fcm_options).expect("JSON"),
        r#"{"apns":{"payload":{"aps":{"content-available":1,"mutable-content":1,"alert":""}}},"android":{"ttl":1.5}}"#
    );
    assert_eq!(
        fcm.service_account.client_email,
        "push@example-project.iam.gserviceaccount.com"
    );

    let Provider::WebPush(web_push) = &fourth.provider else {
        panic!("{fourth:?}");
    };
    assert_eq!(web_push.vapid_subject, "mailto:admin@example.org");
    assert_eq!(web_push.ttl, 1800);
    let hosts: Vec<_> = web_push
        .allowed_endpoints
        .iter()
        .flatten()
        .map(super::super::Glob::as_str)
        .collect();
    assert_eq!(
        hosts,
        ["*.push.apple.com", "updates.push.services.mozilla.com"]
    );
    for app in &config.apps {
        assert_eq!(
            (app.payload, app.payload_given),
            (PayloadMode::Opaque, false)
        );
    }
}

#[test]
fn a_container_with_anchors_and_environment() {
    let fixture = Fixture::new();
    let text = r"---
x-ios: &ios
  type: apns
  keyfile: DIR/apns.p8
  key_id: &key ABCDEF1234
  team_id: TEAM123456
  payload: sygnal
http: {port: 5000, bind_addresses: [0.0.0.0]}
metrics: {prometheus: {enabled: on, address: '', port: 9090}}
apps:
  im.example.ios: {<<: *ios, topic: im.example}
  im.example.ios.dev:
    <<: *ios
    topic: im.example.dev
    platform: sandbox
    key_id: *key
log: {level: WARN, format: json, unsafe_identifiers: Yes}
limits:
  max_body: 1048576
  request_budget: 20
  per_pushkey_per_minute: off
  per_source_per_second: 50
outbound:
  allow_private: 10.0.0.5
  deny: [203.0.113.0/24, '2001:db8::/32']
...
";
    let environment: Environment = [
        ("HTTPS_PROXY", ""),
        ("https_proxy", "http://user:secret@proxy.example:3128"),
        ("NO_PROXY", "push.example"),
    ]
    .into_iter()
    .collect();
    let loaded = fixture.load_with(text, &environment);
    assert_eq!(loaded.errors, Vec::<String>::new());
    assert_eq!(loaded.warnings, ["f.yaml:2: x-ios: unknown key, ignored"]);
    let config = loaded.config.expect("no error");
    assert_eq!(config.listen, ["0.0.0.0:5000".parse().expect("address")]);
    assert_eq!(
        config.metrics_listen,
        Some("0.0.0.0:9090".parse().expect("address"))
    );
    assert_eq!(
        config.proxy.as_ref().map(|proxy| proxy.expose().as_str()),
        Some("http://user:secret@proxy.example:3128")
    );
    assert_eq!(config.no_proxy.as_deref(), Some("push.example"));
    assert_eq!(config.log.level, "warn");
    assert_eq!(config.log.format, LogFormat::Json);
    assert!(config.log.unsafe_identifiers);
    assert_eq!(config.limits.max_body, 1 << 20);
    assert_eq!(config.limits.request_budget, Duration::from_secs(20));
    assert_eq!(config.limits.per_pushkey_per_minute, None);
    assert_eq!(config.limits.per_source_per_second, Some(50));
    assert_eq!(config.outbound.allow.len(), 1);
    assert_eq!(config.outbound.deny.len(), 2);
    let ids: Vec<_> = config.apps.iter().map(|app| app.id.as_str()).collect();
    assert_eq!(ids, ["im.example.ios", "im.example.ios.dev"]);
    assert_eq!(config.apps[0].payload, PayloadMode::Sygnal);
    // The file's own proxy wins over the environment's.
    let text = format!(
        "proxy: http://other.example\n{}",
        text.trim_start_matches("---\n")
    );
    let loaded = fixture.load_with(&text, &environment);
    let proxy = loaded.config.and_then(|config| config.proxy);
    assert_eq!(
        proxy.as_ref().map(|proxy| proxy.expose().as_str()),
        Some("http://other.example")
    );
}

#[test]
fn the_report_says_what_each_provider_sees() {
    let fixture = Fixture::new();
    let loaded = fixture.load(
        "apps:\n\
         \x20 im.example.ios: {type: apns, payload: opaque, certfile: DIR/apns.pem}\n\
         \x20 up: {type: unifiedpush, payload: wake, plyload: 1}\n\
         \x20 up.*: {type: unifiedpush, payload: opaque, opaque: {collapse: room, badge_pushes: true}}\n",
    );
    assert_eq!(
        report::lines(&loaded),
        [
            "warning: f.yaml:3: apps.up.plyload: unknown key, ignored (did you mean `payload`?)",
            "app \"im.example.ios\" (apns, opaque): Apple sees the device token, the app's topic, \
             the time, and a random-looking identifier that changes with every push; for devices with \
             keys also data that only they can read",
            "app \"up\" (unifiedpush, wake): the user's push server sees the subscription and the \
             time; every push has the same content",
            "app \"up.*\" (unifiedpush, opaque): the user's push server sees the subscription, the \
             time, and a padded message that only the device can read; for devices without \
             keys the room ID, the event ID and all else that the homeserver sent; which pushes are \
             of one room, within an epoch (`collapse: room`)",
        ]
    );
    let broken = fixture.load("apps:\n");
    assert_eq!(report::lines(&broken).len(), 1);
    assert!(report::lines(&broken)[0].starts_with("error: f.yaml: apps: No app IDs"));
    let text = report::text(Path::new("f.yaml"), &broken);
    assert!(text.ends_with("\nf.yaml: 1 error, 0 warnings\n"), "{text}");
}
