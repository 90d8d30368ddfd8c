//! Configurations in the documentation can be used as they are.

use std::{fs, path::Path};

use push_gateway::config;
use shared::{clock::Clock, environment::Environment};
use stand_ins::{ApnsKey, Authority, ServiceAccount, VapidKey, write_secret};

use crate::{DOCUMENTS, code_blocks, read};

/// Begin blocks that are another program's.
const OTHERS: [&str; 2] = ["# homeserver.yaml", "# prometheus.yml"];

/// Begins a block for a computer that is not the relay's, on which not all that clients are told is served.
const ELSEWHERE: &str = "# here/turn-relay.yaml";

/// Is in the blocks that are the relay's.
const RELAY: &str = "\nrealm: ";

#[test]
fn every_configuration_loads_without_an_error_and_without_a_warning() {
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    write_keys(folder.path());
    let mut loaded_some = 0;
    for document in DOCUMENTS {
        for (index, block) in code_blocks(&read(document), "yaml").into_iter().enumerate() {
            if OTHERS.iter().any(|other| block.starts_with(other)) {
                continue;
            }
            let file = folder.path().join("configuration.yaml");
            let keys = format!("{}/", folder.path().display());
            fs::write(&file, block.replace("/etc/nocturne/", &keys))
                .expect("the folder can be written to");
            let now = Clock::system().wall();
            let problems = if block.starts_with(ELSEWHERE) {
                turn_relay::config::load(&file, &Environment::default(), now).errors
            } else if block.contains(RELAY) {
                let loaded = turn_relay::config::load(&file, &Environment::default(), now);
                [loaded.errors, loaded.failing, loaded.warnings].concat()
            } else {
                let loaded = config::load(&file, &Environment::default(), now);
                [loaded.errors, loaded.failing, loaded.warnings].concat()
            };
            assert_eq!(problems, [""; 0], "block {} of {document}", index + 1);
            loaded_some += 1;
        }
    }
    assert!(loaded_some >= 12, "{loaded_some}");
}

fn write_keys(folder: &Path) {
    let apns = ApnsKey::generate("ABCDEF1234", "TEAM123456").expect("a key");
    let account = ServiceAccount::generate("example-project").expect("a key");
    let vapid = VapidKey::generate().expect("a key");
    let authority = Authority::new().expect("a key");
    let identity = authority
        .server_identity(&["turn.example.org"])
        .expect("a certificate")
        .pem();
    for (name, text) in [
        ("apns.p8", apns.pem()),
        (
            "service-account.json",
            &account.json("https://oauth2.googleapis.com/token"),
        ),
        ("vapid.pem", vapid.pem()),
        ("fullchain.pem", &identity),
        ("key.pem", &identity),
        ("turn-secrets", "kPlaXzQyVqFhMEUwbzcx\n"),
        (
            "pushkeys.key",
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        ),
    ] {
        write_secret(&folder.join(name), text).expect("the folder can be written to");
    }
}
