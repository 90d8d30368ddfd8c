//! LiveKit's configuration.

use crate::harness::{Installation, Report, SECRET, write};

fn examined(installation: &Installation, config: &str) -> Report {
    let path = installation.path("livekit.yaml");
    write(&path, config);
    installation.examine(&["--livekit", path.to_str().unwrap()])
}

/// An entry of `rtc.turn_servers` for the relay over UDP.
fn entry(installation: &Installation, proof: &str) -> String {
    let port = installation.ports.udp;
    format!("- {{host: localhost, port: {port}, protocol: udp, {proof}}}")
}

#[test]
fn the_snippet_of_init_is_good() {
    let installation = Installation::new();
    let entry = entry(&installation, &format!("secret: '{SECRET}', ttl: 14400"));
    let port = installation.ports.udp;
    let report = examined(
        &installation,
        &format!("rtc:\n  stun_servers: ['localhost:{port}']\n  turn_servers:\n    {entry}\n"),
    );
    report.assert_says(
        "livekit",
        "turn_servers (localhost",
        "good",
        "with its secret",
    );
    report.assert_says("livekit", "stun_servers", "good", "localhost");
}

#[test]
fn by_default_clients_are_sent_to_google_and_twilio() {
    let report = examined(&Installation::new(), "port: 7880\nrtc: {tcp_port: 7881}\n");
    report.assert_fails(
        "livekit",
        "stun_servers",
        "stun.l.google.com",
        "rtc.stun_servers",
    );
    report.assert_fails(
        "livekit",
        "turn_servers",
        "does not name this relay",
        "SETUP.md",
    );
    let named = "rtc: {stun_servers: ['stun.l.google.com:19302']}\n";
    let report = examined(&Installation::new(), named);
    report.assert_fails(
        "livekit",
        "stun_servers",
        "names stun.l.google.com",
        "rtc.stun_servers",
    );
}

#[test]
fn the_relays_secret_is_compared_and_not_shown() {
    let installation = Installation::new();
    let other = "a secret of LiveKit's alone";
    for (proof, what) in [
        (format!("secret: {other}"), "another secret"),
        (
            "username: livekit, credential: hunter2hunter2".to_owned(),
            "fixed username, which it does not know",
        ),
        (
            "username: '4102444800:x', credential: hunter2hunter2".to_owned(),
            "that another secret signed",
        ),
        ("ttl: 14400".to_owned(), "without a secret"),
    ] {
        let entry = entry(&installation, &proof);
        let report = examined(
            &installation,
            &format!("rtc:\n  turn_servers:\n    {entry}\n"),
        );
        report.assert_fails("livekit", "turn_servers (localhost", what, "secrets");
        let text = report.whole.to_string();
        assert!(!text.contains(other) && !text.contains("hunter2"), "{text}");
    }
}

#[test]
fn a_secret_file_is_read() {
    let installation = Installation::new();
    write(&installation.path("turn-secret"), &format!("{SECRET}\n"));
    let entry = entry(&installation, "secret_file: turn-secret");
    let report = examined(
        &installation,
        &format!("rtc:\n  turn_servers:\n    {entry}\n"),
    );
    report.assert_says(
        "livekit",
        "turn_servers (localhost",
        "good",
        "with its secret",
    );
}

#[test]
fn two_relays_on_one_port_are_warned_of() {
    let installation = Installation::new();
    let port = installation.ports.udp;
    let config = format!("turn: {{enabled: true, udp_port: {port}}}\n");
    let report = examined(&installation, &config);
    report.assert_says("livekit", "turn", "warning", &format!("wants port {port}"));
    report.assert_says("livekit", "turn_servers", "warning", "LiveKit's own relay");
}

#[test]
fn a_file_that_is_not_there_is_a_failure() {
    let report = Installation::new().examine(&["--livekit", "/nonexistent/livekit.yaml"]);
    report.assert_fails(
        "livekit",
        "/nonexistent/livekit.yaml",
        "cannot be read",
        "LiveKit",
    );
}
