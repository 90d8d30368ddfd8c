//! `nocturne health`, and services that are configured by the environment.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Command, Stdio},
    thread,
};

use serde_json::json;

use crate::harness::{PUSH, Setup, TURN, eventually, is_healthy, text};

/// Exit code and standard output.
fn health(
    folder: &Path,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_nocturne"))
        .arg("health")
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[test]
fn services_that_run_are_up_and_those_that_do_not_are_down() {
    let run = Setup::new().start();
    let folder = text(run.configuration(PUSH).parent().unwrap());
    let ask = || health(Path::new("/"), &["--config-dir", &folder], &[]);
    let (push, turn) = (run.push, run.turn);
    assert_eq!(
        ask(),
        (
            Some(0),
            format!(
                "push gateway (http://{push}): up and ready\nTURN relay (http://{turn}): up and ready\n"
            )
        )
    );
    let url = format!("http://{turn}/");
    let (code, said) = health(Path::new("/"), &[&url], &[]);
    assert_eq!((code, said.lines().count()), (Some(0), 1), "{said}");

    // the file is asked for addresses alone: what else is wrong with it stops no service that runs
    let broken = json!({"realm": 1, "http": {"listen": turn.to_string()}});
    run.write(TURN, &broken.to_string());
    assert_eq!(ask().0, Some(0));

    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let free = nobody.local_addr().unwrap();
    drop(nobody);
    run.write(
        TURN,
        &json!({"http": {"listen": free.to_string()}}).to_string(),
    );
    let (code, said) = ask();
    assert_eq!(code, Some(1));
    assert!(said.contains("): up and ready\nTURN relay"), "{said}");
    assert!(said.contains(&format!("(http://{free}): DOWN: ")), "{said}");
}

#[test]
fn a_listener_on_every_address_is_asked_on_loopback() {
    for (listen, asked) in [("0.0.0.0", "127.0.0.1"), ("[::]", "[::1]")] {
        let folder = tempfile::tempdir().unwrap();
        let variables = [("NOCTURNE_TURN__HTTP__LISTEN", format!("{listen}:9"))];
        let variables: Vec<_> = variables.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let (code, said) = health(folder.path(), &[], &variables);
        assert_eq!(code, Some(1), "{said}");
        assert!(
            said.contains(&format!("TURN relay (http://{asked}:9): DOWN")),
            "{said}"
        );
    }
}

#[test]
fn a_service_that_is_up_but_not_ready_fails_only_whoever_asks_for_that() {
    let unready = r#"{"ready":false,"reasons":["im.example.app: the provider is down"]}"#;
    for (ready, body, arguments, expected) in [
        (
            503,
            unready,
            &[][..],
            (
                Some(0),
                "up, not ready: im.example.app: the provider is down\n",
            ),
        ),
        (
            503,
            unready,
            &["--ready"],
            (
                Some(1),
                "up, not ready: im.example.app: the provider is down\n",
            ),
        ),
        (200, "{}", &["--ready"], (Some(0), "up and ready\n")),
        (
            500,
            "\u{1b}[31m",
            &["--ready"],
            (Some(1), "up, not ready: /ready answers 500:  [31m\n"),
        ),
    ] {
        let address = service(200, ready, body);
        let url = format!("http://{address}");
        let arguments = [arguments, &[url.as_str()]].concat();
        let (code, said) = health(Path::new("/"), &arguments, &[]);
        assert_eq!(code, expected.0, "{said}");
        assert!(said.ends_with(expected.1), "{said}");
    }
    let address = service(503, 200, "{\"error\":\"a thread is stuck\"}");
    let (code, said) = health(Path::new("/"), &[&format!("http://{address}")], &[]);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("DOWN: /health answers 503: {\"error\":\"a thread"),
        "{said}"
    );
}

#[test]
fn what_cannot_be_asked_is_a_failure_that_says_why() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, expected) in [
        (
            &["--config-dir", "absent"][..],
            "no push-gateway.yaml and no turn-relay.yaml in absent",
        ),
        (&["https://127.0.0.1:1"], "DOWN: expected http://HOST:PORT"),
    ] {
        let (code, said) = health(folder.path(), arguments, &[]);
        assert_eq!(code, Some(1));
        assert!(said.contains(expected), "{said}");
    }
    let (code, said) = health(folder.path(), &[], &[("NOCTURNE_TURN__HTTP__LISTEN", "[]")]);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("TURN relay: DOWN: it is not configured to listen"),
        "{said}"
    );
}

#[test]
fn a_service_whose_variables_are_set_needs_no_file() {
    let setup = Setup::new();
    let turn = setup.turn_configuration();
    let http = turn["http"]["listen"][0].as_str().unwrap().to_owned();
    setup.remove(TURN);
    let secrets = setup.configurations().join("secrets");
    std::fs::write(&secrets, "a secret that is long enough\n").unwrap();
    let mut run = setup
        .with_environment("NOCTURNE_TURN__REALM", "turn.example.org")
        .with_environment("NOCTURNE_TURN__SECRETS_FILE", "configurations/secrets")
        .with_environment(
            "NOCTURNE_TURN__LISTEN",
            "{udp: '127.0.0.1:0', tcp: [], tls: []}",
        )
        .with_environment("NOCTURNE_TURN__RELAY__ADDRESSES", "127.0.0.1")
        .with_environment("NOCTURNE_TURN__HTTP__LISTEN", &http)
        .with_environment("NOCTURNE_TURN__WORKERS", "1")
        .spawn();
    let http: SocketAddr = http.parse().unwrap();
    assert!(
        eventually(|| is_healthy(http) || run.has_ended().is_some()),
        "{}",
        run.log()
    );
    assert!(
        is_healthy(http) && eventually(|| run.ready("turn").is_some()),
        "{}",
        run.log()
    );
    assert_eq!(
        run.count("from the environment: NOCTURNE_TURN__HTTP__LISTEN, "),
        1
    );
    assert!(!run.log().contains("long enough"), "{}", run.log());

    // the file that a variable names is read again, by way of the process that reads files
    run.write("secrets", "another secret that is long enough\n");
    run.signal("HUP");
    let reloaded = || {
        run.lines().iter().any(|line| {
            line["message"]
                .as_str()
                .is_some_and(|text| text.contains("the configuration is reloaded"))
        })
    };
    assert!(eventually(reloaded), "{}", run.log());
    run.signal("TERM");
    assert_eq!(run.ended().code(), Some(0));
}

/// Answers two requests, the first for `/health`, the second for `/ready`.
fn service(health: u16, ready: u16, body: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for (path, status) in [("/health", health), ("/ready", ready)] {
            let Ok((mut stream, _)) = listener.accept() else {
                return;
            };
            let mut request = [0; 1024];
            let length = stream.read(&mut request).unwrap();
            assert!(request[..length].starts_with(format!("GET {path} HTTP/1.1\r\n").as_bytes()));
            let length = body.len();
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{body}");
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    address
}
