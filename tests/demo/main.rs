//! `nocturne demo` as a person starts it.

use std::{
    fs,
    process::{Command, Output},
};

use tempfile::TempDir;

#[test]
fn shows_what_got_through_and_says_that_every_step_was_seen_to_work() {
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    let output = demo(&folder);
    let text = String::from_utf8(output.stdout).expect("the demo writes UTF-8");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    assert_eq!(errors, "");

    for line in [
        "! room_id             !jWqX",
        "✗ room_id             !jWqX",
        "~ room_id             !jWqX",
        "✗ 0 of 10 got through in clear.",
        "~ the phone found: r fits \"Oncology follow-up\" alone of its 5 rooms",
        "~ the phone opened p: {\"v\":1,\"event_id\":\"$3nVx",
        "~ pushkey             nk1.",
        "✓ All 51 pushes arrived",
        "✓ The same search finds none of it in 39 pushes",
        "event ID         YES       rotating  YES       rotating  encrypted encrypted YES       encrypted",
        "message text     YES       no        YES       no        encrypted no        YES       no",
        "device token     yes       yes       yes       yes       yes       yes       yes       yes",
        "Sygnal                  8 of 10   10 of 10",
        "  sealed                0 of 10   0 of 10   event ID, room ID, homeserver, unread count",
        "A call is made. Who gets to see what?",
        "ALICE'S WIRE, UDP                             │ BOB'S WIRE, TLS",
        ":@alice:example.org          │   • as ",
        "~ 160 bytes in channel 0x4000",
        "DEBUG allocation made allocation=2 transport=\"tls\"",
        "nocturne_turn_allocations_made_total{transport=\"udp\",family=\"ipv4\"} 2",
        "✓ The same search finds nothing of the kind in 16 packets on Alice's wire.",
        "✓ The relay's log has every allocation.",
        "Matrix ID             YES            no             no             no             no",
        "a name that returns   for good       for a day      no             no             no",
        "credentials fetched   to the second  to the hour    no             no             no",
        "the client's address  yes            yes            yes            no             no",
    ] {
        assert!(text.contains(line), "{line:?} is missing in\n{text}");
    }
    assert!(!text.contains("FAILED"), "{text}");
    assert!(!text.contains('\x1b'), "colours without a terminal\n{text}");
    assert!(
        text.lines().all(|line| line.chars().count() <= 100),
        "{text}"
    );
}

#[test]
fn leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    assert!(demo(&folder).status.success());
    let left = fs::read_dir(folder.path()).expect("the folder is there");
    assert_eq!(left.count(), 0);
}

#[test]
fn a_step_that_fails_is_named_and_so_is_the_part_that_it_is_of() {
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    let output = command()
        .env("TMPDIR", folder.path().join("missing"))
        .output()
        .expect("the command can be started");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    let step = "TURN: the step \"the relay starts\" failed: No such file or directory";
    for problem in ["push: No such file or directory", step] {
        assert!(
            errors.contains(problem),
            "{problem:?} is missing in\n{errors}"
        );
    }
}

/// Runs the demo with a proxy that does not exist: it stays on loopback.
fn demo(folder: &TempDir) -> Output {
    command()
        .env("TMPDIR", folder.path())
        .output()
        .expect("the command can be started")
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nocturne"));
    command
        .arg("demo")
        .env_clear()
        .env("HTTPS_PROXY", "http://192.0.2.1:1");
    command
}
