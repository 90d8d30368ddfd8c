//! What is written, how, and when not.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, symlink},
        process::ExitStatusExt as _,
    },
    process::Command,
};

use stand_ins::Authority;

use crate::folder::{FILES, Folder, HOMESERVER, Said, mode, nocturne};

#[test]
fn everything_is_written_for_its_owner_alone() {
    let folder = Folder::none();
    let said = folder.init(&[]);
    assert!(said.succeeded, "{said:?}");
    assert_eq!(folder.names(), FILES);
    assert_eq!(mode(&folder.path()), 0o700);
    for name in [
        "turn-relay.yaml",
        "push-gateway.yaml",
        "pushkeys.key",
        "SETUP.md",
    ] {
        assert_eq!(mode(&folder.file(name)), 0o600, "{name}");
    }
    for name in FILES {
        assert!(
            said.out.contains(&format!("wrote     {name}\n")),
            "{}",
            said.out
        );
    }
    let last = said.out.lines().last().expect("it says something");
    assert!(
        last.starts_with("Next: open ") && last.contains("SETUP.md"),
        "{last}"
    );
}

#[test]
fn a_lax_umask_changes_no_mode() {
    let folder = Folder::none();
    let line = format!(
        "umask 0; exec {} init --server-name example.org --offline --public-address 127.0.0.1 --homeserver {HOMESERVER} \
         --out {}",
        env!("CARGO_BIN_EXE_nocturne"),
        folder.path().display()
    );
    let done = Command::new("sh")
        .args(["-c", &line])
        .output()
        .expect("a shell");
    assert!(done.status.success(), "{done:?}");
    assert_eq!(mode(&folder.path()), 0o700);
    assert_eq!(mode(&folder.file("turn-relay.yaml")), 0o600);
    assert_eq!(mode(&folder.file("nocturne.service")), 0o644);
}

#[test]
fn what_is_written_passes_check_at_once() {
    let folder = Folder::made();
    let said = folder.check();
    assert!(said.succeeded, "{said:?}");
    assert!(
        said.out
            .contains("push-gateway.yaml: 0 errors, 0 warnings\n"),
        "{}",
        said.out
    );
    assert!(
        said.out.contains("turn-relay.yaml: 0 errors, "),
        "{}",
        said.out
    );
    assert!(
        said.out
            .contains("credentials are for users of http://127.0.0.1:8008"),
        "{}",
        said.out
    );
    for line in said.out.lines().filter(|line| line.starts_with("warning:")) {
        // there is no certificate yet, and loopback is no place for a relay
        let expected =
            line.contains("there is no `tls`") || line.contains("127.0.0.1 cannot be reached from");
        assert!(expected, "{line}");
    }
}

#[test]
fn running_it_again_changes_nothing_and_is_no_error() {
    let folder = Folder::made();
    folder.append("push-gateway.yaml", "# mine\n");
    let before = folder.content();
    let said = folder.init(&[]);
    assert!(said.succeeded, "{said:?}");
    assert!(said.out.contains("nothing was changed"), "{}", said.out);
    assert_eq!(folder.content(), before);
}

#[test]
fn what_is_missing_is_written_and_what_is_there_is_kept() {
    let folder = Folder::made();
    folder.append("push-gateway.yaml", "# mine\n");
    let before = folder.content();
    // SETUP.md is made of the relay's file as it is now
    let yaml = folder.read("turn-relay.yaml") + "relay: {ports: 30000-30999}\n";
    let yaml = yaml.replace("relay:\n  addresses: [\"127.0.0.1\"]\n", "");
    folder.write(
        "turn-relay.yaml",
        &yaml.replace("{ports", "{addresses: 127.0.0.1, ports"),
    );
    fs::remove_file(folder.file("SETUP.md")).expect("removed");
    let said = folder.init(&[]);
    assert!(said.succeeded, "{said:?}");
    assert!(said.out.contains("wrote     SETUP.md\n"), "{}", said.out);
    assert!(
        said.out.contains("kept      turn-relay.yaml\n"),
        "{}",
        said.out
    );
    assert_eq!(
        folder.read("push-gateway.yaml"),
        before["push-gateway.yaml"].1
    );
    assert_eq!(folder.read("pushkeys.key"), before["pushkeys.key"].1);
    let setup = folder.setup();
    assert!(
        setup.block("With nftables", "nft").contains("30000-30999"),
        "{}",
        setup.0
    );
    assert!(setup.0.contains(&folder.secrets()[0]));
}

#[test]
fn a_gateway_that_is_there_gets_a_relay_beside_it() {
    let folder = Folder::none();
    fs::create_dir(folder.path()).expect("made");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o750)).expect("set");
    let mine = "http: {port: 5005}\napps: {a: {type: unifiedpush, payload: opaque}}\n";
    folder.write("push-gateway.yaml", mine);
    let said = folder.init(&[]);
    assert!(said.succeeded, "{said:?}");
    assert_eq!(folder.read("push-gateway.yaml"), mine);
    assert_eq!(folder.names(), FILES);
    assert_eq!(
        mode(&folder.path()),
        0o750,
        "a folder that is there stays as it is"
    );
    let nginx = folder.setup().block("With nginx", "nginx");
    assert!(
        nginx.contains("proxy_pass http://127.0.0.1:5005;"),
        "{nginx}"
    );
}

#[test]
fn force_writes_anew_with_the_same_secrets_and_keeps_what_was() {
    let folder = Folder::made();
    let secrets = folder.secrets();
    folder.append("turn-relay.yaml", "# mine\nworkers: 1\n");
    let before = folder.content();
    let said = folder.init(&["--force", "--turn-host", "calls.example.org"]);
    assert!(said.succeeded, "{said:?}");
    assert!(
        said.out.contains("rewrote   turn-relay.yaml\n"),
        "{}",
        said.out
    );
    assert!(
        said.out.contains("kept      pushkeys.key\n"),
        "{}",
        said.out
    );
    assert_eq!(folder.secrets(), secrets);
    assert_eq!(folder.read("pushkeys.key"), before["pushkeys.key"].1);
    assert_eq!(
        folder.read("turn-relay.yaml.old"),
        before["turn-relay.yaml"].1
    );
    assert_eq!(mode(&folder.file("turn-relay.yaml.old")), 0o600);
    assert!(
        folder
            .read("turn-relay.yaml")
            .contains("realm: \"calls.example.org\"\n")
    );
    assert!(!folder.read("turn-relay.yaml").contains("workers"));
    assert!(folder.read("SETUP.md").contains("calls.example.org"));
    // what is the same is not written again
    assert!(!folder.file("push-gateway.yaml.old").exists());
    assert!(folder.check().succeeded);

    // nor is what was written by hand lost the second time
    folder.append("turn-relay.yaml", "# mine, too\n");
    let second = folder.read("turn-relay.yaml");

    // and what an old file says of the addresses and the homeserver is still so
    let said = folder.run(&[
        "init",
        "--server-name",
        "example.org",
        "--offline",
        "--force",
    ]);
    assert!(said.succeeded, "{said:?}");
    let yaml = folder.read("turn-relay.yaml");
    assert!(yaml.contains("addresses: [\"127.0.0.1\"]"), "{yaml}");
    assert!(yaml.contains(HOMESERVER), "{yaml}");
    assert!(yaml.contains("realm: \"calls.example.org\"\n"), "{yaml}");
    assert_eq!(
        folder.read("turn-relay.yaml.old"),
        before["turn-relay.yaml"].1
    );
    assert_eq!(folder.read("turn-relay.yaml.old2"), second);
}

#[test]
fn a_relay_without_a_homeserver_is_told_how_to_get_one() {
    let folder = Folder::made();
    let secret = folder.secrets().remove(0);
    let yaml = format!("realm: a realm\nsecrets: {secret}\nrelay: {{addresses: 127.0.0.1}}\n");
    folder.write("turn-relay.yaml", &yaml);
    fs::remove_file(folder.file("SETUP.md")).expect("removed");
    let said = folder.init(&[]);
    assert!(said.succeeded, "{said:?}");
    assert!(said.out.contains("names no homeserver"), "{}", said.out);
    let setup = folder.setup();
    let lines = setup.block("5. Reverse proxy", "yaml");
    folder.append("turn-relay.yaml", &lines);
    let checked = folder.check();
    // a realm that is no host name takes URIs of its own, which `check` says
    assert!(checked.out.contains("credentials.uris"), "{}", checked.out);
    assert!(
        setup.0.contains("turn:turn.example.org:3478?transport=udp"),
        "{}",
        setup.0
    );
}

#[test]
fn a_relays_file_that_cannot_be_used_stops_everything_but_force() {
    let folder = Folder::made();
    folder.write("turn-relay.yaml", "realm: [\n");
    fs::remove_file(folder.file("SETUP.md")).expect("removed");
    let before = folder.content();
    let said = folder.init(&[]);
    assert!(!said.succeeded, "{said:?}");
    assert!(
        said.err.contains("turn-relay.yaml:2: not valid YAML"),
        "{}",
        said.err
    );
    assert!(said.err.contains("nothing was changed"), "{}", said.err);
    assert_eq!(folder.content(), before);

    let said = folder.init(&["--force"]);
    assert!(said.succeeded, "{said:?}");
    assert!(
        said.out.contains("lost      the old secrets"),
        "{}",
        said.out
    );
    assert_eq!(folder.read("turn-relay.yaml.old"), "realm: [\n");
    assert!(folder.check().succeeded);
}

#[test]
fn no_secret_is_printed() {
    let folder = Folder::none();
    let mut said = vec![folder.init(&[])];
    let mut secrets = folder.secrets();
    secrets.push(folder.read("pushkeys.key").trim().to_owned());
    said.push(folder.init(&[]));
    said.push(folder.init(&["--force", "--turn-host", "calls.example.org"]));
    said.push(folder.rotate());
    secrets.extend(folder.secrets());
    // also not from a file with a mistake in it
    folder.append("turn-relay.yaml", "secret: x\n");
    said.push(folder.rotate());
    said.push(folder.init(&["--force"]));
    secrets.extend(folder.secrets());
    assert_eq!(
        said.iter().filter(|said| said.succeeded).count(),
        5,
        "{said:#?}"
    );
    assert!(
        secrets.iter().all(|secret| secret.len() > 40),
        "{}",
        secrets.len()
    );
    for said in said {
        for secret in &secrets {
            assert!(!said.everything().contains(secret), "{said:?}");
        }
    }
}

#[test]
fn behind_a_nat_it_says_what_it_needs_and_makes_nothing() {
    let folder = Folder::none();
    let arguments = ["init", "--server-name", "example.org", "--offline"];
    let said = folder.run(&arguments);
    if said.succeeded {
        println!("skipped: this machine has a public address");
        return;
    }
    assert!(said.err.contains("--public-address"), "{}", said.err);
    assert!(!folder.path().exists());
}

#[test]
fn whoever_is_stopped_while_writing_has_nothing_half() {
    let folder = Folder::none();
    let start = |limit: &str| {
        let line = format!(
            "{limit} exec {} init --server-name example.org --offline --public-address 127.0.0.1 --homeserver \
             {HOMESERVER} --out {}",
            env!("CARGO_BIN_EXE_nocturne"),
            folder.path().display()
        );
        Command::new("sh")
            .args(["-c", &line])
            .output()
            .expect("a shell")
    };
    // SETUP.md is the longest: the system kills the process in the middle of it
    let killed = start("ulimit -c 0; ulimit -f 8;");
    assert!(!killed.status.success(), "{killed:?}");
    for name in FILES {
        assert!(!folder.file(name).exists(), "{name}");
    }
    // where the signal is ignored it is an error like any other, and nothing is left behind
    let was_killed = killed.status.signal().is_some();
    let left_behind = folder.file(".turn-relay.yaml.new");
    assert_eq!(left_behind.exists(), was_killed, "{killed:?}");
    if was_killed {
        assert_eq!(mode(&left_behind), 0o600);
    }
    // and the next run is not in its way
    let done = start("");
    assert!(done.status.success(), "{done:?}");
    assert_eq!(folder.names(), FILES);
}

#[test]
fn no_symbolic_link_is_followed() {
    for name in FILES {
        let folder = Folder::made();
        let target = folder.path().with_file_name("target");
        fs::rename(folder.file(name), &target).expect("moved");
        symlink(&target, folder.file(name)).expect("linked");
        let before = fs::read_to_string(&target).expect("readable");
        for said in [folder.init(&["--force"]), folder.init(&[])] {
            assert!(!said.succeeded, "{name}: {said:?}");
            assert!(
                said.err.contains(&format!("{name} is a symbolic link")),
                "{}",
                said.err
            );
        }
        assert_eq!(fs::read_to_string(&target).expect("readable"), before);
        assert_eq!(folder.names(), FILES);
    }
}

#[test]
fn a_folder_of_others_is_no_place_for_secrets() {
    let folder = Folder::none();
    fs::create_dir(folder.path()).expect("made");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("set");
    let said = folder.init(&[]);
    assert!(!said.succeeded, "{said:?}");
    assert!(
        said.err.contains("can be written to by others, mode 0777"),
        "{}",
        said.err
    );
    assert_eq!(folder.names(), [""; 0]);
}

#[test]
fn files_keep_belonging_to_the_services_user() {
    const SOMEBODY: u32 = 12_345;
    let folder = Folder::made();
    let metadata = fs::metadata(folder.path()).expect("it is there");
    if metadata.uid() != 0 {
        println!("skipped: only root can give files away");
        return;
    }
    let give =
        |path: &std::path::Path| std::os::unix::fs::chown(path, Some(SOMEBODY), Some(SOMEBODY));
    give(&folder.path()).expect("given");
    for name in FILES {
        give(&folder.file(name)).expect("given");
    }
    fs::remove_file(folder.file("SETUP.md")).expect("removed");
    for said in [
        folder.init(&[]),
        folder.rotate(),
        folder.init(&["--force", "--turn-host", "calls.example.org"]),
    ] {
        assert!(said.succeeded, "{said:?}");
        for name in folder.names() {
            let metadata = fs::metadata(folder.file(&name)).expect("it is there");
            assert_eq!(
                (metadata.uid(), metadata.gid()),
                (SOMEBODY, SOMEBODY),
                "{name}"
            );
        }
    }
}

#[test]
fn a_certificate_that_is_there_is_used() {
    let folder = Folder::none();
    fs::create_dir(folder.path()).expect("made");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).expect("set");
    let authority = Authority::new().expect("a key");
    let identity = authority
        .server_identity(&["turn.example.org"])
        .expect("a certificate");
    for name in ["fullchain.pem", "key.pem"] {
        stand_ins::write_secret(&folder.file(name), &identity.pem()).expect("written");
    }
    let said = folder.init(&[]);
    assert!(said.succeeded, "{said:?}");
    let checked = folder.check();
    assert!(
        checked.out.contains("TLS on 0.0.0.0:5349"),
        "{}",
        checked.out
    );
    assert!(
        !checked.out.contains("there is no `tls`"),
        "{}",
        checked.out
    );
    let setup = folder.setup();
    assert!(setup.0.contains("It is there: "), "{}", setup.0);
    assert!(setup.blocks("With certbot", "sh").is_empty());
}

#[test]
fn a_name_that_is_none_is_refused() {
    for name in ["10.0.0.1", "https://example.org", "example"] {
        let output = nocturne()
            .args([
                "init",
                "--offline",
                "--server-name",
                name,
                "--out",
                "/nonexistent/x",
            ])
            .output();
        let said = Said::of(&output.expect("the program starts"));
        assert!(!said.succeeded);
        assert!(
            said.err
                .contains("this is no host name such as example.org"),
            "{}",
            said.err
        );
    }
}
