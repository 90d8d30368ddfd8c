//! Reload and stop.

use crate::harness::{PUSH, Setup, Systemd, TURN, eventually, kill, text};

#[test]
fn a_stop_is_passed_on_and_waited_for() {
    for signal in ["TERM", "INT"] {
        let systemd = Systemd::new();
        let mut run = Setup::new()
            .with_environment("NOTIFY_SOCKET", &text(&systemd.path))
            .start();
        systemd.hears("READY=1", &["STATUS="]);
        run.signal(signal);
        systemd.hears("STOPPING=1", &["STATUS="]);
        assert_eq!(run.ended().code(), Some(0), "{}", run.log());
        run.assert_nothing_is_left();
        // each of the three says so
        assert_eq!(run.count("\"message\":\"stopped\""), 3, "{}", run.log());
    }
}

#[test]
fn a_second_stop_ends_even_what_hangs() {
    let mut run = Setup::new().start();
    kill("STOP", run.ready("turn").unwrap());
    run.signal("TERM");
    assert!(eventually(|| run.count("finish what is under way") > 0));
    run.signal("TERM");
    assert_eq!(run.ended().code(), Some(3), "{}", run.log());
    run.assert_nothing_is_left();
}

#[test]
fn a_reload_reaches_both_and_systemd_hears_when_it_is_over() {
    let systemd = Systemd::new();
    let run = Setup::new()
        .with_environment("NOTIFY_SOCKET", &text(&systemd.path))
        .start();
    systemd.hears("READY=1", &["STATUS="]);
    let pids = [run.ready("push"), run.ready("turn")];
    for round in 1..=3 {
        run.signal("HUP");
        let reloading = systemd.hears("RELOADING=1", &["STATUS="]);
        assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
        systemd.hears("READY=1", &["STATUS="]);
        let reloaded = run.count("the configuration is reloaded");
        assert_eq!(reloaded, 2 * round, "{}", run.log());
    }
    assert_eq!([run.ready("push"), run.ready("turn")], pids);
}

#[test]
fn a_reload_with_bad_configurations_changes_nothing() {
    let run = Setup::new().start();
    let pids = [run.ready("push"), run.ready("turn")];
    run.write(PUSH, "apps: [");
    run.write(TURN, "realm: [");
    run.signal("HUP");
    let refused = eventually(|| run.count("the old one stays in force") == 2);
    assert!(refused, "{}", run.log());
    assert_eq!([run.ready("push"), run.ready("turn")], pids);
}
