//! Each kind of error and warning, with its exact place and words.

use shared::environment::Environment;

use super::{super::Provider, Fixture, service_account, set_mode};

/// An app without any problem, on one line.
const GOOD: &str = "apps: {a: {type: unifiedpush, payload: opaque}}\n";

/// A text with the one problem that it gives.
type Case = (&'static str, &'static str);

/// Each case's first problem begins with the words given, and there is no second.
fn assert_each(fixture: &Fixture, cases: &[Case], problems: impl Fn(&str) -> Vec<String>) {
    for (text, expected) in cases {
        let expected = expected.replace("DIR", &fixture.path().display().to_string());
        let found = problems(text);
        assert!(
            found.len() == 1 && found[0].starts_with(&expected),
            "{text}\n  expected {expected}\n  found {found:#?}"
        );
    }
}

#[test]
fn errors_outside_of_apps() {
    let fixture = Fixture::new();
    let cases: &[Case] = &[
        (
            "http: 5000\n",
            "f.yaml:1: http: found the number 5000, expected a mapping",
        ),
        (
            "http:\n  port: '5000'\n",
            "f.yaml:2: http.port: found \"5000\", expected a whole number from 0 to 65535 (without quotes)",
        ),
        (
            "http:\n  port: 70000\n",
            "f.yaml:2: http.port: found the number 70000, expected a whole number from 0 to 65535",
        ),
        (
            "http:\n  bind_addresses: []\n",
            "f.yaml:2: http.bind_addresses: found an empty list, expected at least one address",
        ),
        (
            "http:\n  bind_addresses:\n    - 127.0.0.1\n    - example.org\n",
            "f.yaml:4: http.bind_addresses[1]: found \"example.org\", expected an IP address of this host",
        ),
        (
            "http:\n  bind_addresses: ['127.0.0.1:5000']\n",
            "f.yaml:2: http.bind_addresses[0]: found \"127.0.0.1:5000\", expected an IP address of this host",
        ),
        (
            "metrics:\n  prometheus:\n    enabled: 1\n",
            "f.yaml:3: metrics.prometheus.enabled: found the number 1, expected true or false",
        ),
        (
            "metrics:\n  prometheus: {enabled: yes, port: 5000}\n",
            "f.yaml:2: metrics.prometheus: cannot listen on 127.0.0.1:5000, since `http` listens on 127.0.0.1:5000 (choose another port)",
        ),
        (
            "log: {level: inof}\n",
            "f.yaml:1: log.level: found \"inof\", expected one of off, error, warn, info, debug, trace (did you mean `info`?)",
        ),
        (
            "log: {level: 'info,a=loud'}\n",
            "f.yaml:1: log.level: found \"info,a=loud\", expected directives",
        ),
        (
            "log: {format: xml}\n",
            "f.yaml:1: log.format: found \"xml\", expected one of auto, text, json",
        ),
        (
            "limits: {max_body: 12}\n",
            "f.yaml:1: limits.max_body: found the number 12, expected a size from 1KiB to 1GiB",
        ),
        (
            "limits: {max_body: big}\n",
            "f.yaml:1: limits.max_body: found \"big\", expected a size: a number of bytes",
        ),
        (
            "limits: {request_budget: 500ms}\n",
            "f.yaml:1: limits.request_budget: found \"500ms\", expected a duration from 1s to 1h",
        ),
        (
            "limits: {per_pushkey_per_minute: 0}\n",
            "f.yaml:1: limits.per_pushkey_per_minute: found the number 0, expected a whole number of at least 1, or `off`",
        ),
        (
            "limits: {per_source_per_second: yes}\n",
            "f.yaml:1: limits.per_source_per_second: found the boolean yes, expected a whole number",
        ),
        (
            "outbound: {deny: [10.0.0.0/33]}\n",
            "f.yaml:1: outbound.deny[0]: \"10.0.0.0/33\": the prefix length",
        ),
        (
            "outbound:\n  allow_private: localhost\n",
            "f.yaml:2: outbound.allow_private: \"localhost\" is not an IP address or network",
        ),
        (
            "pushkey_keys: [a]\n",
            "f.yaml:1: pushkey_keys[0]: the file \"a\" cannot be read",
        ),
        (
            "proxy: 12\n",
            "f.yaml:1: proxy: found a number, expected text",
        ),
        (
            "proxy: https://user:secret@host\n",
            "f.yaml:1: proxy: found a URL with `https://`, expected `http://[user:password@]host[:port]`",
        ),
        (
            "proxy: user:secret@host\n",
            "f.yaml:1: proxy: found a URL that does not start with `http://`",
        ),
        (
            "proxy: 'http:host'\n",
            "f.yaml:1: proxy: found a URL that does not start with `http://`",
        ),
        (
            "proxy: 'http://user:secret@'\n",
            "f.yaml:1: proxy: found something that is not a URL",
        ),
    ];
    assert_each(&fixture, cases, |text| {
        fixture.load(&(text.to_owned() + GOOD)).errors
    });
}

#[test]
fn keys_for_sealed_pushkeys() {
    let fixture = Fixture::new();
    fixture.write("short.key", "AAAA\n");
    fixture.write(
        "other.key",
        "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWg=\n",
    );
    fixture.write("no.key", "not base64!\n");
    fixture.write("same.key", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY\n");
    let cases: &[Case] = &[
        (
            "pushkey_keys: [DIR/short.key]\n",
            "f.yaml:1: pushkey_keys[0]: the file \"DIR/short.key\": expected 32 bytes in base64 (make one: nocturne keygen FILE)",
        ),
        (
            "pushkey_keys:\n  - DIR/key.b64\n  - DIR/no.key\n",
            "f.yaml:3: pushkey_keys[1]: the file \"DIR/no.key\": expected 32 bytes in base64",
        ),
        (
            "pushkey_keys: [DIR/apns.p8]\n",
            "f.yaml:1: pushkey_keys[0]: the file \"DIR/apns.p8\": expected 32 bytes in base64",
        ),
        (
            "log: {level: info}\npushkey_keys:\n- DIR/key.b64\n- DIR/other.key\n- DIR/same.key\n",
            "f.yaml:5: pushkey_keys[2]: has the key ID 159, as has \"DIR/key.b64\": a sealed pushkey would not say which",
        ),
    ];
    assert_each(&fixture, cases, |text| {
        fixture.load(&format!("{text}{GOOD}")).errors
    });
    let both = fixture.config(&format!("pushkey_keys: [DIR/key.b64]\n{GOOD}"));
    assert_eq!(both.pushkey_keys.iter().count(), 1);
}

#[test]
fn files_that_say_nothing_usable() {
    let fixture = Fixture::new();
    let cases: &[Case] = &[
        ("", "f.yaml: the file is empty"),
        ("[]", "f.yaml:1: found a list at the top of the file"),
        ("http:\n\tport: 1\n", "f.yaml:2: not valid YAML"),
        (
            "a: 1\n---\nb: 1\n",
            "f.yaml:2: a second document starts here",
        ),
        ("{}", "f.yaml: apps: No app IDs are configured"),
        (
            "http: null\napps:\n",
            "f.yaml: apps: No app IDs are configured",
        ),
        ("\napps: {}\n", "f.yaml:2: apps: No app IDs are configured"),
        (
            "\napps: [a]\n",
            "f.yaml:2: apps: found a list, expected a mapping",
        ),
        (
            "apps:\n  12: {type: unifiedpush}\n",
            "f.yaml:2: apps.12: found a key that is not text",
        ),
    ];
    assert_each(&fixture, cases, |text| fixture.load(text).errors);
}

#[test]
fn errors_of_every_app() {
    let fixture = Fixture::new();
    let cases: &[Case] = &[
        (
            "",
            "f.yaml:2: apps.\"im.app\": `type` is missing (one of apns, gcm, webpush, unifiedpush)",
        ),
        (
            "type: apsn",
            "f.yaml:3: apps.\"im.app\".type: found \"apsn\", expected one of apns, gcm, webpush, unifiedpush (did you mean `apns`?)",
        ),
        (
            "type: my.module.Pushkin",
            "f.yaml:3: apps.\"im.app\".type: found \"my.module.Pushkin\", expected one of apns, gcm, webpush, unifiedpush: Python classes are not supported",
        ),
        (
            "type: unifiedpush\n    inflight_request_limit: 0",
            "f.yaml:4: apps.\"im.app\".inflight_request_limit: found the number 0, expected a whole number of at least 1",
        ),
        (
            "type: unifiedpush\n    payload: secret",
            "f.yaml:4: apps.\"im.app\".payload: found \"secret\", expected one of opaque, wake, sygnal",
        ),
        (
            "type: unifiedpush\n    request_timeout: 0",
            "f.yaml:4: apps.\"im.app\".request_timeout: found the number 0, expected a duration from 100ms to 10m",
        ),
        (
            "type: unifiedpush\n    max_connections: 0",
            "f.yaml:4: apps.\"im.app\".max_connections: found the number 0",
        ),
        (
            "type: unifiedpush\n    allowed_endpoints: [1]",
            "f.yaml:4: apps.\"im.app\".allowed_endpoints[0]: found the number 1, expected text",
        ),
        (
            "type: unifiedpush\n    opaque: {epoch: 10}",
            "f.yaml:4: apps.\"im.app\".opaque.epoch: found the number 10, expected a duration from 1m to 366d",
        ),
        (
            "type: unifiedpush\n    opaque: {collapse: rooms}",
            "f.yaml:4: apps.\"im.app\".opaque.collapse: found \"rooms\", expected one of none, room (did you mean `room`?)",
        ),
        (
            "type: unifiedpush\n    opaque: {key_file: DIR/empty.pem}",
            "f.yaml:4: apps.\"im.app\".opaque.key_file: the file \"DIR/empty.pem\": expected 32 bytes in base64",
        ),
    ];
    assert_each(&fixture, cases, |entry| {
        fixture
            .load(&format!("apps:\n  im.app:\n    {entry}\n"))
            .errors
    });
}

#[test]
fn errors_of_apns_apps() {
    const TOKEN: &str = "key_id: K123456789\n    team_id: T123456789\n    topic: im.app\n    ";
    let fixture = Fixture::new();
    let vapid = fixture.path().join("vapid.pem");
    let pkcs8 = std::fs::read_to_string(vapid).expect("key");
    fixture.write("public.pem", &pkcs8.replace("PRIVATE", "PUBLIC"));
    fixture.write("locked.pem", &pkcs8.replace("PRIVATE", "ENCRYPTED PRIVATE"));
    let with_certificate: &[Case] = &[
        (
            "certfile: DIR/none.pem",
            "f.yaml:4: apps.a.certfile: the file \"DIR/none.pem\" cannot be read: No such file or directory (os error 2) (looked for DIR/none.pem)",
        ),
        (
            "certfile: DIR",
            "f.yaml:4: apps.a.certfile: the file \"DIR\" cannot be read: it is not a file",
        ),
        (
            "certfile: DIR/empty.pem",
            "f.yaml:4: apps.a.certfile: the file \"DIR/empty.pem\": no certificate can be read from it: found no PEM block, expected",
        ),
        (
            "certfile: DIR/apns.p8",
            "f.yaml:4: apps.a.certfile: the file \"DIR/apns.p8\": no certificate can be read from it: found `PRIVATE KEY`, expected",
        ),
        (
            "certfile: DIR/without-key.pem",
            "f.yaml:4: apps.a.certfile: the file \"DIR/without-key.pem\": no private key can be read from it: found `CERTIFICATE`, expected",
        ),
        (
            "certfile: DIR/other-key.pem",
            "f.yaml:4: apps.a.certfile: the file \"DIR/other-key.pem\": the private key does not belong to the certificate",
        ),
        (
            "certfile: DIR/without-uid.pem",
            "f.yaml:4: apps.a.certfile: the file \"DIR/without-uid.pem\": the certificate's subject has no UID",
        ),
        (
            "certfile: 5",
            "f.yaml:4: apps.a.certfile: found the number 5, expected text",
        ),
        (
            "certfile: DIR/apns.pem\n    platform: live",
            "f.yaml:5: apps.a.platform: found \"live\", expected one of production, prod, \"\", sandbox",
        ),
        (
            "certfile: DIR/apns.pem\n    push_type: Alert",
            "f.yaml:5: apps.a.push_type: found \"Alert\", expected one of alert, background, voip, complication, fileprovider, mdm (did you mean `alert`?)",
        ),
        (
            "certfile: DIR/apns.pem\n    convert_device_token_to_hex: 'no'",
            "f.yaml:5: apps.a.convert_device_token_to_hex: found \"no\", expected true or false (without quotes)",
        ),
        (
            "certfile: DIR/apns.pem\n    send_badge_counts: 0",
            "f.yaml:5: apps.a.send_badge_counts: found the number 0, expected true or false",
        ),
        (
            "certfile: DIR/apns.pem\n    endpoint: api.push.apple.com",
            "f.yaml:5: apps.a.endpoint: expected `https://host[:port]`",
        ),
        (
            "certfile: DIR/apns.pem\n    endpoint: https://a.example/path",
            "f.yaml:5: apps.a.endpoint: expected `https://host[:port]`",
        ),
        (
            "certfile: DIR/apns.pem\n    endpoint: https://user@a.example",
            "f.yaml:5: apps.a.endpoint: expected `https://host[:port]`",
        ),
        (
            "platform: sandbox",
            "f.yaml:2: apps.a: neither `keyfile` nor `certfile` is set",
        ),
    ];
    assert_each(&fixture, with_certificate, |keys| {
        let text = format!("apps:\n  a:\n    type: apns\n    {keys}\n");
        fixture.load(&text).errors
    });

    let with_token: &[Case] = &[
        (
            "keyfile: DIR/none.p8",
            "f.yaml:7: apps.a.keyfile: the file \"DIR/none.p8\" cannot be read",
        ),
        (
            "keyfile: DIR/p384.p8",
            "f.yaml:7: apps.a.keyfile: the file \"DIR/p384.p8\": holds another kind of private key, expected the `.p8` file from Apple",
        ),
        (
            "keyfile: DIR/public.pem",
            "f.yaml:7: apps.a.keyfile: the file \"DIR/public.pem\": found `PUBLIC KEY`, expected the `.p8` file",
        ),
        (
            "keyfile: DIR/locked.pem",
            "f.yaml:7: apps.a.keyfile: the file \"DIR/locked.pem\": found `ENCRYPTED PRIVATE KEY`, expected the `.p8` file",
        ),
        (
            "keyfile: DIR/without-key.pem",
            "f.yaml:7: apps.a.keyfile: the file \"DIR/without-key.pem\": found `CERTIFICATE`, expected the `.p8` file",
        ),
    ];
    assert_each(&fixture, with_token, |keys| {
        let text = format!("apps:\n  a:\n    type: apns\n    {TOKEN}{keys}\n");
        fixture.load(&text).errors
    });

    let loaded = fixture.load(
        "apps:\n  a: {type: apns, keyfile: DIR/apns.p8, key_id: K, team_id: T, topic: \"im.äpp\\n\"}\n",
    );
    let [error] = &loaded.errors[..] else {
        panic!("{:?}", loaded.errors);
    };
    assert!(
        error.starts_with("f.yaml:2: apps.a.topic: found \"im.äpp"),
        "{error}"
    );

    let loaded = fixture
        .load("apps:\n  a:\n    type: apns\n    keyfile: DIR/apns.p8\n    key_id: 1234567890\n");
    assert_eq!(
        loaded.errors,
        [
            "f.yaml:2: apps.a: `team_id` is missing (with `keyfile` it is required: the 10 characters that name the team)",
            "f.yaml:2: apps.a: `topic` is missing (with `keyfile` it is required: the app's bundle ID)",
            "f.yaml:5: apps.a.key_id: found the number 1234567890, expected text (put it in quotes: \"1234567890\")",
        ]
    );
}

#[test]
fn errors_of_gcm_apps() {
    const GOOD: &str = "api_version: v1\n    project_id: p\n    service_account_file: DIR/service-account.json\n    ";
    let fixture = Fixture::new();
    fixture.write("not.json", "{\"private_key\": \"MIIsecret\n\"}");
    fixture.write("list.json", "[]");
    fixture.write("bad-key.json", &service_account("MIIsecret"));
    fixture.write("user.json", "{\"type\": \"authorized_user\"}");
    fixture.write(
        "google-services.json",
        "{\"project_info\": {}, \"client\": []}",
    );
    let p256 = std::fs::read_to_string(fixture.path().join("apns.p8")).expect("key");
    fixture.write("ec-key.json", &service_account(&p256));
    let loaded = fixture.load(&format!(
        "apps:\n  a:\n    type: gcm\n    {}\n",
        GOOD.replace(": p\n", ": my app\n")
    ));
    let [error] = &loaded.errors[..] else {
        panic!("{:?}", loaded.errors);
    };
    assert!(
        error.starts_with(
            "f.yaml:5: apps.a.project_id: found \"my app\", expected the project's ID"
        ),
        "{error}"
    );
    let accounts: &[Case] = &[
        (
            "none.json",
            "f.yaml:6: apps.a.service_account_file: the file \"DIR/none.json\" cannot be read",
        ),
        (
            "not.json",
            "f.yaml:6: apps.a.service_account_file: the file \"DIR/not.json\": not valid JSON at its line 2 column 0",
        ),
        (
            "list.json",
            "f.yaml:6: apps.a.service_account_file: the file \"DIR/list.json\": expected a JSON object",
        ),
        (
            "user.json",
            "f.yaml:6: apps.a.service_account_file: the file \"DIR/user.json\": its `type` is not `service_account`",
        ),
        (
            "google-services.json",
            "f.yaml:6: apps.a.service_account_file: the file \"DIR/google-services.json\": this is the app's google-services.json",
        ),
        (
            "bad-key.json",
            "f.yaml:6: apps.a.service_account_file: the file \"DIR/bad-key.json\": the field `private_key` is not an RSA private key",
        ),
        (
            "ec-key.json",
            "f.yaml:6: apps.a.service_account_file: the file \"DIR/ec-key.json\": the field `private_key` is not an RSA private key",
        ),
    ];
    assert_each(&fixture, accounts, |file| {
        let text = format!(
            "apps:\n  a:\n    type: gcm\n    api_version: v1\n    project_id: p\n    \
             service_account_file: DIR/{file}\n"
        );
        fixture.load(&text).errors
    });

    let cases: &[Case] = &[
        (
            "fcm_options: [a]",
            "f.yaml:7: apps.a.fcm_options: found a list, expected a mapping",
        ),
        (
            "fcm_options: {data: {}}",
            "f.yaml:7: apps.a.fcm_options.data: cannot be set here",
        ),
        (
            "fcm_options:\n      priority: high",
            "f.yaml:8: apps.a.fcm_options.priority: cannot be set here",
        ),
        (
            "fcm_options: {token: a}",
            "f.yaml:7: apps.a.fcm_options.token: cannot be set here",
        ),
        (
            "fcm_options: {android: {ttl: .nan}}",
            "f.yaml:7: apps.a.fcm_options.android.ttl: found the number .nan, expected a number that JSON knows",
        ),
        (
            "fcm_options: {android: {day: 2026-01-01}}",
            "f.yaml:7: apps.a.fcm_options.android.day: found the date 2026-01-01, expected text (put it in quotes",
        ),
        (
            "token_kind: both",
            "f.yaml:7: apps.a.token_kind: found \"both\", expected one of auto, token, fid",
        ),
    ];
    assert_each(&fixture, cases, |keys| {
        let text = format!("apps:\n  a:\n    type: gcm\n    {GOOD}{keys}\n");
        fixture.load(&text).errors
    });

    let versions: &[Case] = &[
        (
            "api_key: AIzaSecret",
            "f.yaml:2: apps.a: `api_version` is missing, which means `legacy`: Google retired that interface in 2024 (set `api_version: v1`, `project_id` and `service_account_file`)",
        ),
        (
            "api_version: legacy",
            "f.yaml:4: apps.a.api_version: found \"legacy\": Google retired that interface in 2024",
        ),
        (
            "api_version: v2",
            "f.yaml:4: apps.a.api_version: found \"v2\", expected v1",
        ),
    ];
    assert_each(&fixture, versions, |keys| {
        let text = format!("apps:\n  a:\n    type: gcm\n    {keys}\n");
        fixture.load(&text).errors
    });

    fixture.write("fields.json", "{\"type\": \"service_account\"}");
    let text = "apps:\n  a: {type: gcm, api_version: v1, service_account_file: DIR/fields.json}\n";
    let errors = fixture.load(text).errors.join("\n");
    for part in [
        "`project_id` is missing",
        "the field `client_email` is missing",
        "the field `private_key` is missing",
    ] {
        assert!(errors.contains(part), "{part}: {errors}");
    }
}

#[test]
fn errors_of_webpush_apps() {
    let fixture = Fixture::new();
    let cases: &[Case] = &[
        (
            "vapid_contact_email: a@b.example",
            "f.yaml:2: apps.a: `vapid_private_key` is missing",
        ),
        (
            "vapid_private_key: DIR/vapid.pem",
            "f.yaml:2: apps.a: `vapid_contact_email` is missing",
        ),
        (
            "{vapid_contact_email: a@b.example, vapid_private_key: DIR/p384.p8}",
            "f.yaml:3: apps.a.vapid_private_key: the file \"DIR/p384.p8\": holds no such key, expected a P-256 private key",
        ),
        (
            "{vapid_contact_email: a@b.example, vapid_private_key: DIR/without-key.pem}",
            "f.yaml:3: apps.a.vapid_private_key: the file \"DIR/without-key.pem\": found `CERTIFICATE`, expected a P-256 private key",
        ),
        (
            "{vapid_contact_email: a@b.example, vapid_private_key: DIR/empty.pem}",
            "f.yaml:3: apps.a.vapid_private_key: the file \"DIR/empty.pem\": holds no such key",
        ),
        (
            "{vapid_contact_email: [a@b.example], vapid_private_key: DIR/vapid.pem}",
            "f.yaml:3: apps.a.vapid_contact_email: found a list, expected text",
        ),
        (
            "{vapid_contact_email: a@b.example, vapid_private_key: DIR/vapid.pem, ttl: -1}",
            "f.yaml:3: apps.a.ttl: found the number -1, expected a whole number of at least 0",
        ),
    ];
    assert_each(&fixture, cases, |keys| {
        let keys = keys.trim_matches(['{', '}']);
        let text = format!("apps:\n  a:\n    {{type: webpush, {keys}}}\n");
        fixture.load(&text).errors
    });
}

#[test]
fn every_form_of_a_vapid_key_that_py_vapid_reads() {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    use rustls::pki_types::{PrivateKeyDer, pem::PemObject};

    let fixture = Fixture::new();
    let pem = std::fs::read(fixture.path().join("vapid.pem")).expect("key");
    let der = PrivateKeyDer::from_pem_slice(&pem).expect("PEM");
    let key_of = |file: &str| {
        let config = fixture.config(&format!(
            "apps: {{a: {{type: webpush, vapid_contact_email: a@b.example, vapid_private_key: DIR/{file}}}}}\n"
        ));
        let Provider::WebPush(app) = &config.apps[0].provider else {
            panic!("{config:?}");
        };
        *app.vapid_key.expose()
    };
    let expected = key_of("vapid.pem");

    fixture.write("raw", &URL_SAFE_NO_PAD.encode(expected));
    fixture.write("padded", &(URL_SAFE_NO_PAD.encode(expected) + "=\n"));
    fixture.write("der64", &URL_SAFE_NO_PAD.encode(der.secret_der()));
    std::fs::write(fixture.path().join("der"), der.secret_der()).expect("write");
    // RFC 5915: version 1, the number, the curve.
    let mut sec1 = vec![0x30, 49, 2, 1, 1, 4, 32];
    sec1.extend(expected);
    sec1.extend([0xa0, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7]);
    let body = base64::engine::general_purpose::STANDARD.encode(sec1);
    let block = format!("-----BEGIN EC PRIVATE KEY-----\n{body}\n-----END EC PRIVATE KEY-----\n");
    fixture.write("sec1", &block);
    let parameters =
        "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    fixture.write("with-parameters", &(parameters.to_owned() + &block));
    for file in ["raw", "padded", "der", "der64", "sec1", "with-parameters"] {
        assert_eq!(key_of(file), expected, "{file}");
    }
}

#[test]
fn warnings() {
    let fixture = Fixture::new();
    let cases: &[Case] = &[
        (
            "htpp: {port: 1}\n",
            "f.yaml:1: htpp: unknown key, ignored (did you mean `http`?)",
        ),
        (
            "http: {prot: 1}\n",
            "f.yaml:1: http.prot: unknown key, ignored (did you mean `port`?)",
        ),
        (
            "http:\n  port: 1\n  port: 2\n",
            "f.yaml:3: http.port: is set again (first on line 2); this one counts",
        ),
        (
            "http:\n  bind_addresses: [localhost, 127.0.0.1]\n",
            "f.yaml:2: http.bind_addresses[1]: 127.0.0.1 is in the list already",
        ),
        (
            "log:\n  setup: {version: 1}\n  access: {x_forwarded_for: true}\n",
            "f.yaml:2: log.setup: Sygnal's `log.setup` and `log.access` are ignored",
        ),
        (
            "db: {dbfile: x}\n",
            "f.yaml:1: db: ignored: the gateway stores nothing",
        ),
        (
            "database: {name: x}\n",
            "f.yaml:1: database: ignored: the gateway stores nothing",
        ),
        (
            "metrics: {opentracing: {enabled: true, jaeger: {sampler: x}}}\n",
            "f.yaml:1: metrics.opentracing: not supported, ignored",
        ),
        (
            "metrics: {sentry: {enabled: true, dsn: 'https://secret@sentry'}}\n",
            "f.yaml:1: metrics.sentry: not supported, ignored",
        ),
        (
            "limits: {request_budget: 90s}\n",
            "f.yaml:1: limits.request_budget: homeservers give up after 60s",
        ),
    ];
    assert_each(&fixture, cases, |text| {
        let loaded = fixture.load(&(text.to_owned() + GOOD));
        assert_eq!(loaded.errors, Vec::<String>::new(), "{text}");
        loaded.warnings
    });
    let silent = "metrics: {opentracing: {enabled: false, implementation: null, jaeger: {}, \
                  service_name: sygnal}, sentry: {enabled: false, dsn: x}}\nproxy: null\nlog:\n";
    let loaded = fixture.load(&(silent.to_owned() + GOOD));
    assert_eq!((loaded.errors, loaded.warnings), (vec![], vec![]));
}

#[test]
fn warnings_of_apps() {
    let fixture = Fixture::new();
    let open = fixture.write("open.b64", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=");
    set_mode(&open, 0o644);
    let cases: &[Case] = &[
        (
            "  im.*: {type: unifiedpush, payload: opaque}\n  i*p: {type: unifiedpush, payload: opaque}\n  im.app: {type: unifiedpush, payload: opaque}\n",
            "f.yaml:3: apps.\"i*p\": overlaps with \"im.*\" on line 2: pushkeys of app IDs that match both are rejected",
        ),
        (
            "  aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa: {type: unifiedpush, payload: opaque}\n",
            "f.yaml:2: apps.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa: this app ID has 65 characters",
        ),
        (
            "  a: {type: unifiedpush, payload: opaque, plyload: x}\n",
            "f.yaml:2: apps.a.plyload: unknown key, ignored (did you mean `payload`?)",
        ),
        (
            "  a: {type: unifiedpush, payload: opaque, opaque: {colapse: x}}\n",
            "f.yaml:2: apps.a.opaque.colapse: unknown key, ignored (did you mean `collapse`?)",
        ),
        (
            "  a: {type: unifiedpush, payload: sygnal, opaque: {jitter: 1s}}\n",
            "f.yaml:2: apps.a.opaque: has no effect with `payload: sygnal`",
        ),
        (
            "  a: {type: unifiedpush, payload: opaque, opaque: {key_file: DIR/open.b64}}\n",
            "f.yaml:2: apps.a.opaque.key_file: the file \"DIR/open.b64\": holds a key and can be read by other users, mode 0644 (chmod 600 DIR/open.b64)",
        ),
        (
            "  a: {type: unifiedpush, payload: opaque, allowed_endpoints: ['https://x.example/']}\n",
            "f.yaml:2: apps.a.allowed_endpoints[0]: \"https://x.example/\" has a `/` in it",
        ),
        (
            "  a: {type: apns, payload: wake, certfile: DIR/apns.pem, keyfile: DIR/none}\n",
            "f.yaml:2: apps.a.keyfile: ignored: `certfile` is set as well and wins",
        ),
        (
            "  a: {type: apns, payload: wake, certfile: DIR/apns.pem, topic: im.other}\n",
            "f.yaml:2: apps.a.topic: ignored: with `certfile` the topic is the certificate's UID, \"im.example.certificate\"",
        ),
        (
            "  a: {type: apns, payload: wake, certfile: DIR/expires-soon.pem}\n",
            "f.yaml:2: apps.a.certfile: the file \"DIR/expires-soon.pem\": the certificate expires on Jan 11 00:00:00 2026 +00:00, in 10 days",
        ),
        (
            "  a: {type: apns, certfile: DIR/apns.pem}\n",
            "f.yaml:2: apps.a: `payload` is not set, so it is `opaque`: Apple sees no room, event or sender; Element X iOS and Element Classic iOS show a generic alert.",
        ),
        (
            "  a: {type: gcm, api_version: v1, project_id: p, service_account_file: DIR/service-account.json}\n",
            "f.yaml:2: apps.a: `payload` is not set, so it is `opaque`: Google sees no room, event or sender; Element Classic Android works fully",
        ),
        (
            "  a: {type: unifiedpush}\n",
            "f.yaml:2: apps.a: `payload` is not set, so it is `opaque`: devices without keys, which are all of today's, get in clear what the homeserver sent; for devices with keys it is encrypted and padded. `payload: opaque` ends this warning",
        ),
        (
            "  a: {type: webpush, payload: wake, vapid_contact_email: 'mailto:a@b.example', vapid_private_key: DIR/vapid.pem}\n",
            "f.yaml:2: apps.a.vapid_contact_email: `mailto:` is added automatically",
        ),
        (
            "  a: {type: webpush, payload: wake, vapid_contact_email: admin, vapid_private_key: DIR/vapid.pem}\n",
            "f.yaml:2: apps.a.vapid_contact_email: is not an e-mail address",
        ),
    ];
    assert_each(&fixture, cases, |apps| {
        let loaded = fixture.load(&format!("apps:\n{apps}"));
        assert_eq!(loaded.errors, Vec::<String>::new(), "{apps}");
        loaded.warnings
    });
}

#[test]
fn all_problems_are_told_at_once_in_the_order_of_the_file() {
    let fixture = Fixture::new();
    let loaded = fixture.load(
        "apps:\n  a:\n    type: apns\n    push_type: x\n    keyfile: DIR/none\nhttp:\n  port: x\nprxy: 1\n",
    );
    assert!(loaded.config.is_none());
    let lines: Vec<_> = loaded
        .errors
        .iter()
        .map(|error| error.split(": ").next().unwrap_or(""))
        .collect();
    assert_eq!(
        lines,
        [
            "f.yaml:2", "f.yaml:2", "f.yaml:2", "f.yaml:4", "f.yaml:5", "f.yaml:7"
        ]
    );
    assert_eq!(loaded.warnings.len(), 2);
}

#[test]
fn an_expired_certificate_stops_its_app_alone() {
    let fixture = Fixture::new();
    let loaded = fixture.load(
        "apps:\n  a: {type: apns, payload: wake, certfile: DIR/expired.pem}\n  \
         b: {type: unifiedpush, payload: wake}\n",
    );
    assert_eq!(
        loaded.config.as_ref().map(|config| config.apps.len()),
        Some(2)
    );
    assert_eq!((&loaded.errors, &loaded.warnings), (&vec![], &vec![]));
    let [failing] = &loaded.failing[..] else {
        panic!("{:?}", loaded.failing);
    };
    assert!(
        failing.starts_with("f.yaml:2: apps.a.certfile: "),
        "{failing}"
    );
    assert!(
        failing.contains("EXPIRED on Dec 31") && failing.contains("every push of this app fails"),
        "{failing}"
    );
    let lines = super::super::report::lines(&loaded);
    assert!(lines[0].starts_with("error: f.yaml:2"), "{lines:?}");
}

#[test]
fn a_key_in_the_place_of_its_file_is_not_printed() {
    let fixture = Fixture::new();
    let base64 = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let pem =
        "|\n      -----BEGIN PRIVATE KEY-----\n      MIGHsecret\n      -----END PRIVATE KEY-----";
    let json = "'{\"private_key\": \"MIGHsecret\"}'";
    for (place, text) in [
        (
            "pushkey_keys[0]",
            format!("pushkey_keys: [{base64}]\n{GOOD}"),
        ),
        (
            "apps.a.keyfile",
            format!(
                "apps:\n  a:\n    type: apns\n    key_id: a\n    team_id: b\n    topic: c\n    keyfile: {pem}\n"
            ),
        ),
        (
            "apps.a.service_account_file",
            format!(
                "apps:\n  a:\n    type: gcm\n    api_version: v1\n    project_id: p\n    service_account_file: {json}\n"
            ),
        ),
        (
            "apps.a.vapid_private_key",
            format!(
                "apps:\n  a:\n    type: webpush\n    vapid_contact_email: a@b.example\n    vapid_private_key: {base64}\n"
            ),
        ),
        (
            "apps.a.opaque.key_file",
            format!("apps:\n  a:\n    type: unifiedpush\n    opaque: {{key_file: {base64}}}\n"),
        ),
    ] {
        let loaded = fixture.load(&text);
        let [error] = &loaded.errors[..] else {
            panic!("{place}: {:?}", loaded.errors);
        };
        assert!(
            error.contains(&format!(
                "{place}: expected the path of a file, found what looks like the key itself"
            )),
            "{error}"
        );
        for message in loaded.errors.iter().chain(&loaded.warnings) {
            assert!(
                !message.contains("MIGH") && !message.contains("MDEy"),
                "{message}"
            );
        }
    }
}

#[test]
fn no_secret_is_in_any_message() {
    const SECRET: &str = "hunter2";
    let fixture = Fixture::new();
    fixture.write(
        "secret.pem",
        "-----BEGIN hunter2-----\nhunter2\n-----END hunter2-----\n",
    );
    fixture.write(
        "secret.json",
        "{\"type\": \"hunter2\", \"private_key\": \"hunter2\", hunter2",
    );
    let loaded = fixture.load_with(
        "proxy: https://hunter2:hunter2@host\n\
         prxy: hunter2\n\
         metrics: {sentry: {enabled: true, dsn: hunter2}}\n\
         apps:\n\
         \x20 a: {type: gcm, api_key: hunter2, api_kye: hunter2, service_account_file: DIR/secret.json}\n\
         \x20 b: {type: webpush, vapid_private_key: DIR/secret.pem, vapid_contact_email: 1}\n\
         \x20 c: {type: apns, keyfile: DIR/secret.pem, endpoint: 'https://hunter2@host'}\n\
         \x20 d: {type: apns, certfile: DIR/secret.pem}\n\
         \x20 e: {type: unifiedpush, opaque: {key_file: DIR/secret.pem}}\n",
        &Environment::default(),
    );
    assert!(loaded.errors.len() >= 9, "{:#?}", loaded.errors);
    for message in loaded.errors.iter().chain(&loaded.warnings) {
        assert!(!message.contains(SECRET), "{message}");
    }
    let environment = [("HTTPS_PROXY", "hunter2:hunter2@host")];
    let loaded = fixture.load_with(GOOD, &environment.into_iter().collect());
    assert_eq!(
        loaded.errors,
        [
            "f.yaml: environment variable HTTPS_PROXY: found a URL that does not start with \
             `http://`, expected `http://[user:password@]host[:port]`"
        ]
    );
}

#[test]
fn files_that_cannot_be_read() {
    use std::time::SystemTime;

    use super::super::load;

    let fixture = Fixture::new();
    let path = fixture.path().join("none.yaml");
    let missing = load(&path, &Environment::default(), SystemTime::UNIX_EPOCH);
    let path = path.display();
    assert_eq!(
        missing.errors,
        [format!(
            "{path}: cannot be read: No such file or directory (os error 2) (looked for {path})"
        )]
    );
    let latin1 = fixture.path().join("latin1.yaml");
    std::fs::write(&latin1, b"http:\n  # caf\xe9\n").expect("write");
    let loaded = load(&latin1, &Environment::default(), SystemTime::UNIX_EPOCH);
    assert_eq!(loaded.errors.len(), 1);
    assert!(loaded.errors[0].contains("latin1.yaml:2: found bytes that are not UTF-8"));
}
