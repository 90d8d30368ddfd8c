//! What the homeserver's address tells clients about TURN, and who tells it.

use std::{
    fmt::Write as _,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
};

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use shared::clock::Clock;

use crate::web::{Asked, Doctor, Page, Report, Web};

const SECRET: &str = "the secret of the relay in these tests";
const ALICE: &str = "@alicewonder:homeserver.example";
const TOKEN: &str = "syt_the_access_token_of_a_test";
const OURS: [&str; 2] = [
    "turns:localhost:5349?transport=tcp",
    "turn:localhost:3478?transport=tcp",
];

/// A relay's configuration; with `credentials.homeserver`, if there is one.
fn relay(homeserver: Option<&str>) -> String {
    let homeserver = homeserver.map_or(Value::Null, Value::from);
    json!({
        "realm": "localhost",
        "secrets": [SECRET, "another secret, which is older than that"],
        "listen": {"udp": [], "tcp": ["127.0.0.1:0"], "tls": []},
        "relay": {"addresses": "127.0.0.1"},
        "http": {"listen": "127.0.0.1:0"},
        "credentials": {"uris": OURS, "homeserver": homeserver},
        "log": {"format": "json"},
    })
    .to_string()
}

/// A homeserver that gives a user this answer at the route for TURN.
fn homeserver(turn_server: impl Fn(&Asked) -> Option<Page> + Send + Sync + 'static) -> Web {
    Web::start(move |asked| {
        let is_alice = asked.authorization.as_deref() == Some(&format!("Bearer {TOKEN}"));
        match asked.path.as_str() {
            "/_matrix/client/versions" => Some(Page::json(200, &json!({"versions": ["v1.11"]}))),
            "/_matrix/client/v3/account/whoami" if is_alice => Some(Page::json(
                200,
                &json!({"user_id": ALICE, "is_guest": false}),
            )),
            "/_matrix/client/v3/account/whoami" => Some(Page::error(401, "M_UNKNOWN_TOKEN")),
            "/_matrix/client/v3/voip/turnServer" if is_alice => turn_server(asked),
            "/_matrix/client/v3/voip/turnServer" => Some(Page::error(401, "M_MISSING_TOKEN")),
            _ => Some(Page::error(404, "M_UNRECOGNIZED")),
        }
    })
}

fn password(secret: &str, username: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes());
    STANDARD.encode(hmac::sign(&key, username.as_bytes()))
}

/// As homeservers make it.
fn credential(secret: &str, name: &str) -> Value {
    let username = format!("{}:{name}", Clock::system().unix_seconds() + 12 * 3600);
    json!({
        "password": password(secret, &username),
        "username": username,
        "ttl": 12 * 3600,
        "uris": OURS,
    })
}

/// What doctor finds at a homeserver that gives a user this, with `credentials.homeserver` set.
fn found(turn_server: impl Fn() -> Option<Page> + Send + Sync + 'static) -> Report {
    let homeserver = homeserver(move |_| turn_server());
    let doctor = Doctor::new().with("NOCTURNE_ACCESS_TOKEN", TOKEN);
    doctor.write("turn-relay.yaml", &relay(Some(&homeserver.url())));
    doctor.run(&["--homeserver", &homeserver.url()])
}

fn found_with(change: impl Fn(&mut Value)) -> Report {
    let mut answer = credential(SECRET, "AAAAAAAAAAAAAAAAAAAAAA");
    change(&mut answer);
    found(move || Some(Page::json(200, &answer)))
}

#[test]
fn a_matrix_id_in_the_username_is_a_failure() {
    for name in [
        ALICE,
        "alicewonder",
        "homeserver.example",
        "@charliesummer:else.example",
    ] {
        let answer = credential(SECRET, name);
        let [username, password] = ["username", "password"].map(|key| answer[key].clone());
        let report = found(move || Some(Page::json(200, &answer)));
        report.says("homeserver", "failure", "Matrix ID in clear");
        // a password that is right does not make it better
        report.says("homeserver", "good", "the relay takes it");
        report.says("homeserver", "good", "sent to this relay");
        report.hides(&[TOKEN, SECRET, "alicewonder", "charliesummer"]);
        report.hides(&[username.as_str().unwrap(), password.as_str().unwrap()]);
    }
}

#[test]
fn a_homeserver_in_nocturnes_place_is_told_from_it() {
    let homeserver = homeserver(|_| Some(Page::json(200, &credential(SECRET, ALICE))));
    for (inside, outcome) in [(Some(homeserver.url()), "failure"), (None, "warning")] {
        let doctor = Doctor::new();
        doctor.write("turn-relay.yaml", &relay(inside.as_deref()));
        let report = doctor.run(&["--homeserver", &homeserver.url()]);
        let finding = report.says("homeserver", outcome, "and not Nocturne");
        assert!(
            finding["remedy"]
                .as_str()
                .unwrap()
                .contains("reverse proxy")
        );
        report.says("homeserver", "skipped", "access token");
        report.says("homeserver", "good", "a homeserver answers");
    }
}

#[test]
fn other_peoples_relays_are_named() {
    let report = found_with(|answer| {
        answer["uris"] = json!(["turns:turn.elsewhere.example?transport=tcp"]);
        answer["password"] = json!("something");
    });
    report.says(
        "homeserver",
        "failure",
        "other relays: turn.elsewhere.example",
    );
    // some of each
    let report = found_with(|answer| {
        answer["uris"] = json!([OURS[0], "turn:turn.elsewhere.example:3478"]);
    });
    report.says(
        "homeserver",
        "warning",
        "does not know: turn.elsewhere.example",
    );
    // by a name that the configuration does not have
    let report = found_with(|answer| answer["uris"] = json!(["turns:[2001:db8::1]:5349"]));
    report.says("homeserver", "warning", "does not know: 2001:db8::1");
    report.says("homeserver", "good", "the relay takes it");
}

#[test]
fn a_password_by_another_secret_is_a_failure_and_one_by_the_older_secret_is_good() {
    let report = found(|| {
        Some(Page::json(
            200,
            &credential("somebody else's secret", "nobody"),
        ))
    });
    report.says("homeserver", "failure", "none of the secrets");
    let older = "another secret, which is older than that";
    let report = found(|| {
        Some(Page::json(
            200,
            &credential("another secret, which is older than that", "nobody"),
        ))
    });
    report.says("homeserver", "good", "the relay takes it");
    report.hides(&[older, "somebody else"]);
}

#[test]
fn what_makes_calls_worse_is_a_warning() {
    let report = found_with(|answer| answer["ttl"] = json!(600));
    report.says("homeserver", "warning", "good for 600 seconds");
    let report = found_with(|answer| answer["ttl"] = json!(601));
    report.says("homeserver", "good", "good for 10 minutes");
    let report = found_with(|answer| answer["uris"] = json!([OURS[1], OURS[0]]));
    report.says("homeserver", "warning", "is not a `turns:` one");
    let report = found_with(|answer| answer["uris"] = json!([OURS[1]]));
    report.says("homeserver", "warning", "none of the URIs");
    let report =
        found_with(|answer| answer["uris"] = json!([OURS[0], OURS[1], OURS[1], OURS[1], OURS[1]]));
    report.says("homeserver", "warning", "5 URIs");
}

#[test]
fn an_answer_that_clients_can_do_nothing_with_is_a_failure() {
    for (change, what) in [
        (json!({"ttl": null}), "`ttl` is missing"),
        (json!({"ttl": "soon"}), "`ttl` is missing"),
        (json!({"uris": []}), "no TURN URI"),
        (json!({"uris": ["stun:localhost"]}), "no TURN URI"),
        (
            json!({"uris": "turn:localhost"}),
            "is missing in the answer",
        ),
        (json!({"username": 7}), "is missing in the answer"),
        (json!({"password": ""}), "is missing in the answer"),
        (
            json!({"username": "1000000000:nobody"}),
            "expired when they are handed out",
        ),
    ] {
        let report = found_with(|answer| {
            for (key, value) in change.as_object().unwrap() {
                answer[key] = value.clone();
            }
        });
        report.says("homeserver", "failure", what);
    }
    let report = found(|| Some(Page::json(200, &json!({}))));
    report.says("homeserver", "failure", "no TURN server configured");
}

#[test]
fn nonsense_is_a_failure() {
    for (page, what) in [
        (
            Page::new(200, "<html>"),
            "no answer of the Matrix specification: 200 OK, not JSON",
        ),
        (
            Page::json(200, &json!([])),
            "no answer of the Matrix specification",
        ),
        (
            Page::error(404, "M_NOT_FOUND"),
            "a user gets no credentials: 404 Not Found, M_NOT_FOUND",
        ),
        (
            Page::error(403, "M_FORBIDDEN"),
            "the user gets no credentials: 403",
        ),
        (Page::new(502, "<html>"), "a user gets no credentials: 502"),
        (
            Page::error(500, "../\u{1b}[31m"),
            "500 Internal Server Error, JSON without",
        ),
    ] {
        let (status, body) = (page.status, page.body);
        let report = found(move || Some(Page::new(status, body.clone())));
        report.says("homeserver", "failure", what);
    }
    let report = found(|| Some(Page::error(429, "M_LIMIT_EXCEEDED")));
    report.says("homeserver", "warning", "too many requests");
}

#[test]
fn an_access_token_that_is_not_known_is_a_failure() {
    let homeserver = homeserver(|_| None);
    let doctor = Doctor::new();
    doctor.write("turn-relay.yaml", &relay(Some(&homeserver.url())));
    let file = doctor.write("token", "syt_logged_out\n");
    let report = doctor.run(&[
        "--homeserver",
        &homeserver.url(),
        "--access-token-file",
        &file,
    ]);
    report.says(
        "homeserver",
        "failure",
        "the access token is refused: 401 Unauthorized, M_MISSING_TOKEN",
    );
    report.hides(&["syt_logged_out"]);
}

#[test]
fn a_homeserver_that_never_answers_is_given_up() {
    let homeserver = Web::start(|_| None);
    let doctor = Doctor::new()
        .with("NOCTURNE_ACCESS_TOKEN", TOKEN)
        .hurried(1);
    doctor.write("turn-relay.yaml", &relay(Some(&homeserver.url())));
    let report = doctor.run(&["--homeserver", &homeserver.url()]);
    for finding in report.of("homeserver") {
        assert_eq!(finding["outcome"], "failure", "{finding}");
    }
    report.says(
        "homeserver",
        "failure",
        "it cannot be reached: no answer in time",
    );
    report.says(
        "homeserver",
        "failure",
        "no answer to a user: no answer in time",
    );
}

#[test]
fn a_homeserver_that_is_gone_and_one_that_is_none_are_failures() {
    let doctor = Doctor::new();
    doctor.write("turn-relay.yaml", &relay(Some("http://127.0.0.1:1")));
    let report = doctor.run(&[]);
    let finding = report.says("homeserver", "failure", "it cannot be reached");
    assert!(
        finding["remedy"]
            .as_str()
            .unwrap()
            .contains("credentials.homeserver")
    );
    // clients cannot be where this machine is
    report.says("homeserver", "skipped", "address for clients is not known");

    let other = Web::start(|_| Some(Page::new(200, "<html>a page for people</html>")));
    let report = doctor.run(&["--homeserver", &other.url()]);
    report.says(
        "homeserver",
        "failure",
        "is no homeserver: 200 OK, not JSON",
    );
    report.says("homeserver", "failure", "cannot be told who answers");
}

#[test]
fn credentials_for_everybody_are_a_failure() {
    let generous = Web::start(|asked| {
        Some(if asked.path.ends_with("/voip/turnServer") {
            Page::json(200, &credential(SECRET, "nobody"))
        } else {
            Page::error(404, "M_UNRECOGNIZED")
        })
    });
    let doctor = Doctor::new();
    doctor.write("turn-relay.yaml", &relay(None));
    let report = doctor.run(&["--homeserver", &generous.url()]);
    report.says("homeserver", "failure", "to everybody");
}

#[test]
fn without_any_address_there_is_nothing_to_ask() {
    let doctor = Doctor::new();
    doctor.write("turn-relay.yaml", &relay(None));
    let report = doctor.run(&[]);
    report.says("homeserver", "skipped", "nothing says where it is");
    report.says("homeserver", "skipped", "address for clients is not known");
}

#[test]
fn a_gateway_behind_a_private_address_needs_a_word_to_the_homeserver() {
    let address = |is_routed: bool| {
        Web::start(move |asked| {
            Some(match asked.path.as_str() {
                "/_matrix/push/v1/notify" if is_routed => {
                    Page::json(200, &json!({"gateway": "matrix"}))
                }
                _ => Page::error(404, "M_UNRECOGNIZED"),
            })
        })
    };
    for is_routed in [true, false] {
        let address = address(is_routed);
        let doctor = Doctor::new();
        doctor.write("push-gateway.yaml", "apps: {a: {type: unifiedpush}}\n");
        let report = doctor.run(&["--homeserver", &address.url()]);
        if is_routed {
            report.says("homeserver", "good", "the push gateway answers");
        } else {
            report.says("homeserver", "warning", "no push gateway answers");
        }
        let finding = report.says("homeserver", "warning", "private IP address: 127.0.0.1");
        assert!(
            finding["remedy"]
                .as_str()
                .unwrap()
                .contains("ip_range_whitelist")
        );
    }
}

/// `nocturne turn`. Dropped: killed.
struct Relay {
    child: Child,
    http: SocketAddr,
}

impl Relay {
    fn start(configuration: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_nocturne"))
            .args(["turn", "--config", configuration])
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut http = None;
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        while http.is_none() {
            let Some(Ok(line)) = lines.next() else {
                panic!("the relay does not come up:\n{said}");
            };
            writeln!(said, "{line}").unwrap();
            let line: Value = serde_json::from_str(&line).unwrap_or_default();
            if line["message"] == "serving health and metrics" {
                http = line["address"]
                    .as_str()
                    .and_then(|address| address.parse().ok());
            }
        }
        // so that it never waits for somebody to read
        std::thread::spawn(move || lines.count());
        Self {
            child,
            http: http.unwrap(),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks another server, as a reverse proxy does.
fn passed_on(to: SocketAddr, asked: &Asked) -> Page {
    let mut stream = TcpStream::connect(to).unwrap();
    let authorization = asked.authorization.as_deref().unwrap_or_default();
    write!(
        stream,
        "GET {} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: {authorization}\r\n\r\n",
        asked.path
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Page::new(status, body).with("content-type", "application/json")
}

#[test]
fn nocturne_in_the_homeservers_place_is_good_from_end_to_end() {
    let homeserver = homeserver(|_| Some(Page::json(200, &credential(SECRET, ALICE))));
    let doctor = Doctor::new().with("NOCTURNE_ACCESS_TOKEN", TOKEN);
    let configuration = doctor.write("turn-relay.yaml", &relay(Some(&homeserver.url())));
    let relay = Relay::start(&configuration);
    let (http, behind) = (relay.http, homeserver.url());
    let behind: SocketAddr = behind.strip_prefix("http://").unwrap().parse().unwrap();
    let proxy = Web::start(move |asked| {
        let is_nocturnes = asked.path.ends_with("/voip/turnServer");
        Some(passed_on(if is_nocturnes { http } else { behind }, asked))
    });
    let report = doctor.run(&["--homeserver", &proxy.url()]);
    report.is_all_good("homeserver");
    report.says("homeserver", "good", "Nocturne answers here");
    report.says("homeserver", "good", "does not say who they are");
    report.says("homeserver", "good", "sent to this relay");
    report.says("homeserver", "good", "the relay takes it");
    report.hides(&[TOKEN, SECRET, "alicewonder"]);
}

#[test]
fn nocturne_without_a_homeserver_is_a_failure() {
    let doctor = Doctor::new();
    let configuration = doctor.write("turn-relay.yaml", &relay(None));
    let relay = Relay::start(&configuration);
    let report = doctor.run(&["--homeserver", &format!("http://{}", relay.http)]);
    let finding = report.says("homeserver", "failure", "does not know the homeserver");
    assert!(
        finding["remedy"]
            .as_str()
            .unwrap()
            .contains("credentials.homeserver")
    );
}
