//! What the services may still do, as the kernel sees it.
//!
//! `/proc` says of each thread what it has given up. That what is given up is really refused is tried in
//! `shared/sandbox/tests`, by a process that gives up the same. The reader is asked here what a service that
//! was taken over would ask it.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    process::{Command, Stdio},
};

use crate::harness::{PUSH, Run, Setup, TURN, eventually, kill, text};

const SERVICES: [&str; 2] = ["push", "turn"];

/// Of every thread of the service.
fn status(run: &Run, service: &str, name: &str) -> Vec<String> {
    let pid = run.ready(service).unwrap();
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let values: Vec<_> = threads
        .map(|thread| {
            let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap().trim_start_matches(':').trim().to_owned()
        })
        .collect();
    assert!(values.len() > 1, "{values:?}");
    values
}

fn is_root() -> bool {
    fs::read_to_string("/proc/self/status")
        .unwrap()
        .lines()
        .any(|line| line.starts_with("Uid:\t0\t0"))
}

#[test]
fn every_thread_is_filtered_and_has_no_capability() {
    let run = Setup::new().start();
    for service in SERVICES {
        for (name, expected) in [
            ("Seccomp", "2"),
            ("NoNewPrivs", "1"),
            ("CapEff", "0000000000000000"),
            ("CapPrm", "0000000000000000"),
            ("CapInh", "0000000000000000"),
            ("CapAmb", "0000000000000000"),
        ] {
            let values = status(&run, service, name);
            assert!(
                values.iter().all(|value| value == expected),
                "{service}: {name} is {values:?}"
            );
        }
        let filters = status(&run, service, "Seccomp_filters");
        assert!(filters.iter().all(|count| count == "3"), "{filters:?}");
        let pid = run.ready(service).unwrap();
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"));
        let words: Vec<_> = core.unwrap().split_whitespace().collect();
        assert_eq!(words[4..6], ["0", "0"]);
    }
    // what was refused would be in the log
    for word in ["landlock", "seccomp", "capabilities cannot"] {
        assert_eq!(run.count(word), 0, "{}", run.log());
    }
}

#[test]
fn without_the_sandbox_there_is_none_of_it_and_the_log_says_so() {
    let run = Setup::new().with_arguments(&["--no-sandbox"]).start();
    for service in SERVICES {
        let values = status(&run, service, "Seccomp");
        assert!(values.iter().all(|value| value == "0"), "{values:?}");
    }
    assert_eq!(run.count("--no-sandbox: this process is not restricted"), 2);
}

#[test]
fn root_becomes_who_is_named_and_reloads_what_only_root_can_read() {
    if !is_root() {
        println!("skipped: takes root");
        return;
    }
    let run = Setup::new()
        .with_arguments(&["--user", "65432:65431"])
        .start();
    for service in SERVICES {
        let ids = |name| status(&run, service, name);
        assert!(
            ids("Uid")
                .iter()
                .all(|ids| ids == "65432\t65432\t65432\t65432")
        );
        assert!(
            ids("Gid")
                .iter()
                .all(|ids| ids == "65431\t65431\t65431\t65431")
        );
        assert!(ids("Groups").iter().all(String::is_empty));
        let capabilities = ids("CapEff");
        assert!(
            capabilities.iter().all(|set| set == "0000000000000000"),
            "{capabilities:?}"
        );
    }
    for file in [PUSH, TURN] {
        use std::os::unix::fs::PermissionsExt as _;

        let permissions = fs::Permissions::from_mode(0o600);
        fs::set_permissions(run.configuration(file), permissions).unwrap();
    }
    run.signal("HUP");
    let reloaded = eventually(|| run.count("the configuration is reloaded") == 2);
    assert!(reloaded, "{}", run.log());
}

#[test]
fn a_user_that_cannot_be_had_keeps_the_services_from_starting() {
    let mut run = Setup::new()
        .with_arguments(&["--user", "nobody-of-this-name"])
        .spawn();
    assert_eq!(run.ended().code(), Some(1));
    assert!(
        run.count("there is no user \"nobody-of-this-name\" here") > 0,
        "{}",
        run.log()
    );
}

/// As editors and configuration management do it: another file takes the place of the old one. A rule about
/// the old file would not cover the new one.
#[test]
fn files_that_are_replaced_and_moved_are_found_by_a_reload() {
    let run = Setup::new().start();
    let pids = SERVICES.map(|service| run.ready(service));
    let outside = tempfile::tempdir().unwrap();
    let secrets = outside.path().join("secrets");
    fs::write(&secrets, "another secret, long enough\n").unwrap();
    let old = fs::read_to_string(run.configuration(TURN)).unwrap();
    let new = old.replace(
        r#""secrets":["a secret that is long enough"]"#,
        &format!(r#""secrets_file":"{}""#, text(&secrets)),
    );
    assert_ne!(new, old);
    run.replace(TURN, &new);
    let push = fs::read_to_string(run.configuration(PUSH)).unwrap();
    run.replace(PUSH, &push);
    run.signal("HUP");
    let reloaded = eventually(|| run.count("the configuration is reloaded") == 2);
    assert!(reloaded, "{}", run.log());
    assert_eq!(SERVICES.map(|service| run.ready(service)), pids);
}

/// The reader is what a service has that was taken over: it is started as services start it, and asked for
/// what it should not hand out.
#[test]
fn a_service_cannot_have_the_files_of_the_other_handed_out() {
    let setup = Setup::new();
    let folder = setup.configurations();
    let (mut service, end) = UnixStream::pair().unwrap();
    let mut reader = Command::new(env!("CARGO_BIN_EXE_nocturne"))
        .args(["reader", "push", "--config"])
        .arg(folder.join(PUSH))
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(end)))
        .spawn()
        .unwrap();
    let mut ask = |path: &Path| {
        let path = text(path);
        let length = u16::try_from(path.len()).unwrap();
        service.write_all(b"r").unwrap();
        service.write_all(&length.to_be_bytes()).unwrap();
        service.write_all(path.as_bytes()).unwrap();
        let mut answer = [0];
        service.read_exact(&mut answer).unwrap();
        if answer == [0] {
            let mut length = [0; 8];
            service.read_exact(&mut length).unwrap();
            let mut content = vec![0; usize::try_from(u64::from_be_bytes(length)).unwrap()];
            service.read_exact(&mut content).unwrap();
        }
        answer[0]
    };
    let (handed_out, not_named) = (0, 2);
    assert_eq!(ask(&folder.join(PUSH)), handed_out);
    assert_eq!(ask(&folder.join(TURN)), not_named);
    assert_eq!(ask(&folder.join(".").join(TURN)), not_named);
    assert_eq!(ask(Path::new("/etc/passwd")), not_named);
    // in vain: it can do no more than read
    let pid = reader.id();
    for signal in ["HUP", "INT", "TERM"] {
        kill(signal, pid);
    }
    assert_eq!(ask(&folder.join(PUSH)), handed_out);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    for line in ["Seccomp:\t2", "NoNewPrivs:\t1"] {
        assert!(status.contains(line), "{status}");
    }
    drop(service);
    assert!(reader.wait().unwrap().success());
}
