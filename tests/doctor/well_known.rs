//! What clients find under the server name.

use serde_json::{Value, json};
use stand_ins::Authority;

use crate::web::{Doctor, Page, Report, Web};

const PATH: &str = "/.well-known/matrix/client";

/// What doctor finds where this page is the well-known, and everything else a homeserver.
fn found(page: impl Fn(&str) -> Page + Send + Sync + 'static) -> Report {
    let authority = Authority::new().unwrap();
    let homeserver = Web::start(|asked| {
        Some(match asked.path.as_str() {
            "/_matrix/client/versions" => Page::json(200, &json!({"versions": ["v1.11"]})),
            _ => Page::error(404, "M_UNRECOGNIZED"),
        })
    });
    let base = homeserver.url();
    let server = Web::start_tls(&authority, move |asked| {
        Some(match asked.path.as_str() {
            PATH => page(&base),
            "/elsewhere" => good(&base),
            _ => Page::new(404, ""),
        })
    });
    let doctor = Doctor::new().trusting(&authority);
    doctor.write("push-gateway.yaml", "apps: {a: {type: unifiedpush}}\n");
    doctor.run(&["--server-name", &server.name()])
}

fn file(base: &str) -> Value {
    json!({
        "m.homeserver": {"base_url": format!("{base}/")},
        "io.element.voip": {"disable_fallback_ice": true},
    })
}

fn good(base: &str) -> Page {
    Page::json(200, &file(base)).with("access-control-allow-origin", "*")
}

#[test]
fn a_whole_well_known_is_good_and_leads_to_the_homeserver() {
    let report = found(good);
    report.is_all_good("well_known");
    report.says("homeserver", "good", "a homeserver answers");
}

#[test]
fn a_redirect_is_followed() {
    found(|_| Page::new(302, "").with("location", "/elsewhere")).is_all_good("well_known");
    // not to where anybody on the way could answer, and not for ever
    let report = found(|base| Page::new(302, "").with("location", format!("{base}/elsewhere")));
    report.says("well_known", "failure", "the answer is 302");
    let report = found(|_| Page::new(302, "").with("location", PATH));
    report.says("well_known", "failure", "the answer is 302");
}

#[test]
fn a_missing_one_is_a_warning_and_a_broken_server_a_failure() {
    let report = found(|_| Page::new(404, "<html>"));
    let finding = report.says("well_known", "warning", "there is none");
    assert!(finding["why"].as_str().unwrap().contains("turn.matrix.org"));
    let report = found(|_| Page::new(500, ""));
    report.says("well_known", "failure", "the answer is 500");
}

#[test]
fn what_is_no_json_object_is_a_failure() {
    for body in ["<html>", "[]", "{", "\"text\"", ""] {
        let report = found(move |_| Page::new(200, body));
        report.says("well_known", "failure", "no JSON object");
    }
    let long = format!("{{\"a\": \"{}\"}}", "a".repeat(1 << 20));
    let report = found(move |_| Page::new(200, long.clone()));
    report.says("well_known", "failure", "no JSON object");
}

#[test]
fn without_cors_web_clients_cannot_read_it() {
    let report = found(|base| Page::json(200, &file(base)));
    report.says("well_known", "failure", "Access-Control-Allow-Origin");
    report.says("well_known", "good", "clients are led to");
    // for other origins alone
    let report = found(|base| {
        Page::json(200, &file(base)).with("access-control-allow-origin", "https://chat.example.org")
    });
    report.says("well_known", "failure", "Access-Control-Allow-Origin");
}

#[test]
fn without_the_key_clients_fall_back_to_a_third_party() {
    for voip in [
        json!(null),
        json!({}),
        json!({"disable_fallback_ice": false}),
        json!({"disable_fallback_ice": "true"}),
        json!(true),
    ] {
        let report = found(move |base| {
            let mut file = file(base);
            file["io.element.voip"] = voip.clone();
            Page::json(200, &file).with("access-control-allow-origin", "*")
        });
        let finding = report.says("well_known", "warning", "disable_fallback_ice");
        assert!(finding["why"].as_str().unwrap().contains("turn.matrix.org"));
    }
}

#[test]
fn a_base_url_that_is_none_is_a_failure() {
    for base_url in [
        json!(null),
        json!(7),
        json!("matrix.example.org"),
        json!("ftp://matrix.example.org"),
    ] {
        let report = found(move |base| {
            let mut file = file(base);
            file["m.homeserver"]["base_url"] = base_url.clone();
            Page::json(200, &file).with("access-control-allow-origin", "*")
        });
        report.says("well_known", "failure", "`base_url`");
    }
}

#[test]
fn a_server_that_cannot_be_trusted_or_reached_is_a_failure() {
    let authority = Authority::new().unwrap();
    let server = Web::start_tls(&authority, |_| Some(Page::new(200, "{}")));
    let doctor = Doctor::new().trusting(&Authority::new().unwrap());
    doctor.write("push-gateway.yaml", "apps: {a: {type: unifiedpush}}\n");
    let report = doctor.run(&["--server-name", &server.name()]);
    report.says("well_known", "failure", "it cannot be had");
    let name = server.name();
    drop(server);
    let report = doctor.run(&["--server-name", &name]);
    report.says("well_known", "failure", "it cannot be had");
}

#[test]
fn without_a_server_name_it_is_not_looked_for() {
    let doctor = Doctor::new();
    doctor.write("push-gateway.yaml", "apps: {a: {type: unifiedpush}}\n");
    let report = doctor.run(&[]);
    let finding = report.says("well_known", "skipped", "server name is not known");
    assert!(
        finding["remedy"]
            .as_str()
            .unwrap()
            .contains("--server-name")
    );
}

#[test]
fn the_homeserver_is_asked_for_the_server_name_if_nobody_says_it() {
    let authority = Authority::new().unwrap();
    let server = Web::start_tls(&authority, |asked| {
        (asked.path == PATH).then(|| good("http://127.0.0.1:1"))
    });
    let name = server.name();
    let homeserver = Web::start(move |asked| {
        Some(match asked.path.as_str() {
            "/_matrix/key/v2/server" => Page::json(200, &json!({"server_name": name})),
            _ => Page::error(404, "M_UNRECOGNIZED"),
        })
    });
    let doctor = Doctor::new().trusting(&authority);
    doctor.write("push-gateway.yaml", "apps: {a: {type: unifiedpush}}\n");
    let report = doctor.run(&["--homeserver", &homeserver.url()]);
    report.says("well_known", "good", "may read it");
    report.says("well_known", "warning", "and not to");
}
