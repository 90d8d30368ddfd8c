//! Whatever is in the file, reading it ends with a list of problems and not with a panic.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::Fixture;

/// Most keys, in a form that mutations turn into almost everything.
const VALID: &str = "\
http: {port: 5000, bind_addresses: ['127.0.0.1', \"::1\"]}
log: &log
  level: info
  setup: {version: 1}
metrics: {prometheus: {enabled: on, port: 0x1F40}, sentry: {enabled: off}}
limits: {max_body: 512KiB, request_budget: 25s, per_source_per_second: off}
outbound: {allow_private: [10.0.0.0/8], deny: fd00::/8}
proxy: http://user:secret@proxy.example:8080
apps:
  im.*.ios: &ios
    type: apns
    keyfile: /nonexistent/key.p8
    key_id: 'ABC'
    opaque: {epoch: 1d, jitter: 1.5, collapse: room}
  im.*.dev: {<<: *ios, platform: sandbox}
  im.android: {type: gcm, api_version: v1, fcm_options: {a: [1, 2.5, ~, {b: yes}]}}
  im.web: {type: webpush, allowed_endpoints: ['*.example'], ttl: 1_000}
  im.up: {type: unifiedpush, payload: wake}
";

fn mutation() -> impl Strategy<Value = (usize, usize, String)> {
    (
        0..VALID.len(),
        0_usize..12,
        "[-\\[\\]{}:,#&*!|>'\"%@?<~ \n\tab01._=/é]{0,4}",
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn mutations_never_panic(mutations in proptest::collection::vec(mutation(), 1..6)) {
        let mut text: Vec<char> = VALID.chars().collect();
        for (start, length, replacement) in mutations {
            let start = start.min(text.len());
            let end = (start + length).min(text.len());
            text.splice(start..end, replacement.chars());
        }
        let text: String = text.into_iter().collect();
        let loaded = FIXTURE.with(|fixture| fixture.load(&text));
        // Its keys do not exist, so that there is always something to say.
        prop_assert!(loaded.config.is_some() || !loaded.errors.is_empty());
    }
}

/// Would take minutes if each problem were compared with all before it.
#[test]
fn a_file_full_of_problems_is_read_whole() {
    let mut text = String::from("apps:\n");
    for index in 0..5_000 {
        writeln!(
            text,
            "  a{index}: {{type: unifiedpush, payload: wake, k{index}: 1}}"
        )
        .expect("text");
    }
    for index in 0..5_000 {
        writeln!(text, "k{index}: 1").expect("text");
    }
    let loaded = Fixture::new().load(&text);
    assert_eq!(loaded.warnings.len(), 10_000);
}

thread_local! {
    static FIXTURE: Fixture = Fixture::new();
}
