//! What there has to be, and what is said when there is not.

use std::{fs, thread, time::Duration};

use serde_json::json;

use crate::harness::{PUSH, Setup, Systemd, TURN, eventually, is_healthy, nocturne, text};

#[test]
fn systemd_is_told_when_both_services_serve() {
    let systemd = Systemd::new();
    let run = Setup::new()
        .with_environment("NOTIFY_SOCKET", &text(&systemd.path))
        .start();
    systemd.hears("READY=1", &["STATUS="]);
    assert!(is_healthy(run.push) && is_healthy(run.turn));
}

#[test]
fn systemd_hears_from_the_supervisor_for_as_long_as_that_works() {
    let systemd = Systemd::new();
    let _run = Setup::new()
        .with_environment("NOTIFY_SOCKET", &text(&systemd.path))
        .with_environment("WATCHDOG_USEC", "200000")
        .start();
    for _ in 0..3 {
        systemd.hears("WATCHDOG=1", &["STATUS=", "READY=1"]);
    }
}

#[test]
fn without_a_configuration_it_says_how_to_make_one_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("empty")).unwrap();
    for name in ["empty", "absent"] {
        let (code, said) = nocturne(folder.path(), &["run", "--config-dir", name]);
        assert_eq!(code, Some(1));
        assert_eq!(
            said,
            format!(
                "nocturne: there is no push-gateway.yaml and no turn-relay.yaml in {name}; make them: nocturne init \
                 --server-name example.org --out {name}\n"
            )
        );
    }
    let usual = std::path::Path::new("/etc/nocturne");
    if usual.join(PUSH).exists() || usual.join(TURN).exists() {
        println!("skipped: this machine has configurations in /etc/nocturne");
        return;
    }
    let (code, said) = nocturne(folder.path(), &["run"]);
    assert_eq!(code, Some(1));
    assert!(
        said.contains(" in /etc/nocturne or config; make them: "),
        "{said}"
    );
    assert!(said.contains("--out /etc/nocturne\n"), "{said}");
}

#[test]
fn with_one_configuration_that_service_runs_alone() {
    for (missing, other) in [(PUSH, "turn"), (TURN, "push")] {
        let setup = Setup::new();
        setup.remove(missing);
        let mut run = setup.start();
        let path = text(&run.configuration(missing));
        assert_eq!(
            run.count(&format!("there is no {path}")),
            1,
            "{}",
            run.log()
        );
        assert!(is_healthy(run.address(other)));
        run.signal("TERM");
        assert_eq!(run.ended().code(), Some(0));
    }
}

#[test]
fn a_configuration_that_is_bad_to_begin_with_ends_everything() {
    for file in [PUSH, TURN] {
        let mut setup = Setup::new();
        setup.write(file, &json!({"apps": {}, "realm": 1}));
        let mut run = setup.spawn();
        assert_eq!(run.ended().code(), Some(1));
        let path = text(&run.configuration(file));
        let said = format!("nocturne: {path} cannot be used; problems: ");
        assert!(run.log().contains(&said), "{}", run.log());
        run.assert_nothing_is_left();
    }
}

/// What systemd expects of the supervisor is not what that expects of the services.
#[test]
fn with_systemds_watchdog_the_services_are_heard() {
    let run = Setup::new()
        .with_environment("WATCHDOG_USEC", "30000000")
        .with_first_pause("10")
        .start();
    let pids = ["push", "turn"].map(|service| run.ready(service).unwrap());
    for pid in pids {
        let variables = fs::read(format!("/proc/{pid}/environ")).unwrap();
        let variables = String::from_utf8(variables).unwrap();
        assert!(variables.contains("WATCHDOG_USEC="), "{variables}");
    }
    // longer than the services may be silent with this pause
    thread::sleep(Duration::from_secs(4));
    assert_eq!(run.count("silent for too long"), 0, "{}", run.log());
    assert_eq!(
        ["push", "turn"].map(|service| run.ready(service).unwrap()),
        pids
    );
}

#[test]
fn neither_service_gets_the_settings_of_the_other() {
    let run = Setup::new()
        .with_environment("NOCTURNE_PUSH_A", "of-push")
        .with_environment("NOCTURNE_TURN_A", "of-turn")
        .with_environment("WATCHDOG_PID", "1")
        .start();
    for (service, own, others) in [
        ("push", "of-push", "of-turn"),
        ("turn", "of-turn", "of-push"),
    ] {
        let pid = run.ready(service).unwrap();
        let variables = fs::read(format!("/proc/{pid}/environ")).unwrap();
        let variables = String::from_utf8(variables).unwrap();
        assert!(variables.contains(own), "{variables}");
        assert!(!variables.contains(others), "{variables}");
        assert!(!variables.contains("WATCHDOG_PID"), "{variables}");
    }
}

#[test]
fn a_service_knows_its_own_configuration_alone_and_has_its_name() {
    let run = Setup::new().start();
    for (service, other) in [("push", TURN), ("turn", PUSH)] {
        let pid = run.ready(service).unwrap();
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        let line = String::from_utf8(line).unwrap();
        assert!(!line.contains(other), "{line}");
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
        assert_eq!(name, format!("nocturne-{service}\n"));
        let open: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
            .map(|path| text(&path))
            .collect();
        assert!(!open.iter().any(|path| path.contains("yaml")), "{open:?}");
    }
    assert!(eventually(|| is_healthy(run.push)));
}
