//! Whether this machine's clock is right.

use serde_json::json;

use crate::web::{Doctor, Page, Report, Web};

/// What doctor finds where the homeserver's clock is ahead by so many seconds.
fn found(ahead: Option<i64>, age: Option<&'static str>) -> Report {
    let homeserver = Web::start(move |asked| {
        let mut page = match asked.path.as_str() {
            "/_matrix/client/versions" => Page::json(200, &json!({"versions": ["v1.11"]})),
            _ => Page::error(404, "M_UNRECOGNIZED"),
        };
        page.ahead = ahead;
        Some(match age {
            Some(age) => page.with("age", age),
            None => page,
        })
    });
    let doctor = Doctor::new();
    doctor.write("push-gateway.yaml", "apps: {a: {type: unifiedpush}}\n");
    doctor.run(&["--homeserver", &homeserver.url()])
}

#[test]
fn an_hour_is_a_failure_and_two_minutes_are_a_warning() {
    for (ahead, outcome, what) in [
        (3600 + 90, "failure", "61 minutes behind"),
        (-3600 - 90, "failure", "61 minutes ahead of"),
        (150, "warning", "minutes behind"),
        (-150, "warning", "minutes ahead of"),
        (0, "good", "agrees"),
    ] {
        found(Some(ahead), None).says("clock", outcome, what);
    }
}

#[test]
fn a_clock_that_nobody_can_be_asked_about_is_not_judged() {
    found(None, None).says("clock", "skipped", "compared with nobody's");
    // what a cache kept is of another time
    found(Some(-7200), Some("7200")).says("clock", "skipped", "compared with nobody's");
    let doctor = Doctor::new();
    doctor.write("push-gateway.yaml", "apps: {a: {type: unifiedpush}}\n");
    let report = doctor.run(&["--homeserver", "http://127.0.0.1:1"]);
    report.says("clock", "skipped", "compared with nobody's");
}
