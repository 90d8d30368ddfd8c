//! What SETUP.md says to paste, fed to the programs that it is for, or to a reader of its language.

use std::{fs, net::IpAddr, path::Path, process::Command};

use serde_json::{Value, json};
use stand_ins::Authority;

use crate::{
    folder::{Folder, Setup, nocturne, yaml},
    programs::{program, run, toml_python},
};

/// What every list of URIs has.
const URIS: [&str; 3] = [
    "turns:turn.example.org:5349?transport=tcp",
    "turn:turn.example.org:3478?transport=udp",
    "turn:turn.example.org:3478?transport=tcp",
];

#[test]
fn dns_has_a_record_for_each_address() {
    let folder = Folder::made();
    let zone = folder.setup().block("1. DNS", "zone");
    let records: Vec<Vec<_>> = zone
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    for record in &records {
        let [name, ttl, class, kind, address] = record.as_slice() else {
            panic!("{zone}");
        };
        assert_eq!((*name, *class), ("turn.example.org.", "IN"));
        ttl.parse::<u32>().expect("a number of seconds");
        let address: IpAddr = address.parse().expect("an address");
        assert_eq!(*kind, if address.is_ipv4() { "A" } else { "AAAA" });
    }
    assert!(zone.contains(" 127.0.0.1\n"), "{zone}");
}

#[test]
fn nftables_takes_the_rules() {
    let Some(nft) = program("nft", "nftables") else {
        return;
    };
    let folder = Folder::made();
    let rules = folder.path().with_file_name("rules.nft");
    let snippet = folder.setup().block("With nftables", "nft");
    assert!(
        snippet.contains("udp dport { 3478, 49152-65535 } accept"),
        "{snippet}"
    );
    assert!(
        snippet.contains("tcp dport { 3478, 5349 } accept"),
        "{snippet}"
    );
    fs::write(&rules, &snippet).expect("written");
    let direct = run(Command::new(&nft).args(["-c", "-f"]).arg(&rules));
    // nft asks the kernel, which answers only root, or whoever has a network of his own
    let outcome = if direct.0 {
        direct
    } else {
        let unshared = Command::new("unshare")
            .args(["--user", "--map-root-user", "--net"])
            .arg(&nft)
            .args(["-c", "-f"])
            .arg(&rules)
            .output();
        let refused = |text: &str| {
            text.contains("Operation not permitted") || text.contains("unshare failed")
        };
        match unshared {
            Ok(output) if output.status.success() => (true, String::new()),
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stderr).into_owned();
                if refused(&text) && refused(&direct.1) {
                    eprintln!("skipped: nft may not ask the kernel here: {text}");
                    return;
                }
                (false, format!("{}\n{text}", direct.1))
            }
            Err(_) => direct,
        }
    };
    assert!(outcome.0, "{}", outcome.1);
    // that a mistake would have been seen
    fs::write(&rules, snippet.replace("dport", "dprot")).expect("written");
    assert!(!run(Command::new(&nft).args(["-c", "-f"]).arg(&rules)).0);
}

#[test]
fn ufw_takes_the_rules() {
    let Some(ufw) = program("ufw", "ufw") else {
        return;
    };
    let folder = Folder::made();
    let snippet = folder.setup().block("With ufw", "sh");
    assert_eq!(snippet.lines().count(), 4, "{snippet}");
    for line in snippet.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let ["sudo", "ufw", arguments @ ..] = words.as_slice() else {
            panic!("{line}");
        };
        let (succeeded, said) = run(Command::new(&ufw).arg("--dry-run").args(arguments));
        if said.contains("You need to be root")
            || said.contains("Couldn't determine iptables version")
        {
            eprintln!("skipped: ufw does not work for this user: {said}");
            return;
        }
        assert!(succeeded, "{line}: {said}");
    }
}

#[test]
fn systemd_takes_the_units() {
    let Some(analyze) = program("systemd-analyze", "systemd") else {
        return;
    };
    let folder = Folder::made();
    let name = "nocturne.service";
    let written = folder.read(name);
    let line = format!(
        "ExecStart=/usr/local/bin/nocturne run --config-dir {}\n",
        folder.path().display()
    );
    assert!(written.contains(&line), "{written}");
    // those for one service alone are written by hand
    let by_hand = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("config/systemd")
            .join(name);
        // systemd 252 does not know the type, which the unit says
        let text = fs::read_to_string(path).expect("it is there");
        text.replace("Type=notify-reload", "Type=notify")
    };
    for (name, text) in [
        (name, written),
        ("nocturne-push.service", by_hand("nocturne-push.service")),
        ("nocturne-turn.service", by_hand("nocturne-turn.service")),
    ] {
        // systemd looks whether the program is there
        let text = text.replace("/usr/local/bin/nocturne", env!("CARGO_BIN_EXE_nocturne"));
        let unit = folder.path().with_file_name(name);
        fs::write(&unit, &text).expect("written");
        let verify = |unit: &Path| {
            run(Command::new(&analyze)
                .args(["verify", "--man=no"])
                .arg(unit))
        };
        let (succeeded, said) = verify(&unit);
        // of other units it may say what it likes
        let about_ours: Vec<_> = said.lines().filter(|line| line.contains(name)).collect();
        if !succeeded && about_ours.is_empty() {
            eprintln!("skipped: systemd-analyze does not work here: {said}");
            return;
        }
        assert!(succeeded && about_ours.is_empty(), "{said}");
        // that a mistake would have been seen
        fs::write(
            &unit,
            text.replace("Restart=on-failure", "Restart=on-holiday"),
        )
        .expect("written");
        assert!(verify(&unit).1.contains("on-holiday"));
    }
}

#[test]
fn every_shell_takes_the_commands() {
    let setup = Folder::made().setup();
    let blocks = setup.all("sh");
    assert!(blocks.len() >= 8, "{}", blocks.len());
    for block in blocks {
        let (succeeded, said) = run(Command::new("sh").args(["-n", "-c", &block]));
        assert!(succeeded, "{said}\n{block}");
        // and those that the commands write
        for script in block.split("<<'END'\n").skip(1) {
            let (script, _) = script.split_once("\nEND\n").expect("it ends");
            let (succeeded, said) = run(Command::new("sh").args(["-n", "-c", script]));
            assert!(succeeded, "{said}\n{script}");
        }
    }
}

#[test]
fn the_commands_that_switch_tls_on_do() {
    let folder = Folder::made();
    let before = folder.read("turn-relay.yaml");
    let setup = folder.setup();
    let authority = Authority::new().expect("a key");
    let identity = authority
        .server_identity(&["turn.example.org"])
        .expect("a certificate");

    // a certificate as certbot leaves it, and as Caddy does
    let live = folder.path().with_file_name("live");
    let caddy = folder.path().with_file_name("certificates");
    for (place, certificate, key) in [
        (
            live.join("turn.example.org"),
            "fullchain.pem",
            "privkey.pem",
        ),
        (
            caddy.join("some-ca/turn.example.org"),
            "turn.example.org.crt",
            "turn.example.org.key",
        ),
    ] {
        fs::create_dir_all(&place).expect("made");
        fs::write(place.join(certificate), identity.pem()).expect("written");
        fs::write(place.join(key), identity.pem()).expect("written");
    }
    for heading in ["With certbot", "With Caddy"] {
        let block = setup.block(heading, "sh");
        let (_, script) = block.split_once("<<'END'\n").expect("it writes a script");
        let (script, _) = script.split_once("\nEND\n").expect("it ends");
        let script = script
            .replace("/etc/letsencrypt/live", live.to_str().expect("UTF-8"))
            .replace(
                "/var/lib/caddy/.local/share/caddy/certificates",
                caddy.to_str().expect("UTF-8"),
            )
            // there is no such user here
            .replace("-o nocturne -g nocturne ", "");
        let (succeeded, said) = run(Command::new("sh").args(["-c", &script]));
        assert!(succeeded, "{said}\n{script}");
        for name in ["fullchain.pem", "key.pem"] {
            assert_eq!(folder.read(name), identity.pem(), "{heading}");
            fs::remove_file(folder.file(name)).expect("it was copied");
        }
        let (succeeded, _) = run(Command::new("sh").args(["-c", &script]));
        assert!(succeeded);
    }

    let switch = setup.block("Then switch TLS on", "sh");
    let sed = switch
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("sudo "))
        .expect("a command");
    let (succeeded, said) = run(Command::new("sh").args(["-c", sed]));
    assert!(succeeded, "{said}");
    let after = folder.read("turn-relay.yaml");
    assert_eq!(after, before.replacen("\n#tls:", "\ntls:", 1));
    let checked = folder.check();
    assert!(checked.succeeded, "{checked:?}");
    assert!(
        checked.out.contains("TLS on 0.0.0.0:5349"),
        "{}",
        checked.out
    );
    assert!(
        checked.out.contains("\ncertificate for "),
        "{}",
        checked.out
    );
}

#[test]
fn the_commands_of_the_last_step_are_this_programs() {
    let setup = Folder::made().setup();
    let commands: Vec<_> = setup
        .all("sh")
        .join("\n")
        .lines()
        .filter_map(|line| {
            let line = line.strip_prefix("sudo ")?;
            let line = line.strip_prefix("-u nocturne ").unwrap_or(line);
            let kept = "--preserve-env=NOCTURNE_ACCESS_TOKEN ";
            let line = line.strip_prefix(kept).unwrap_or(line);
            Some(line.strip_prefix("nocturne ")?.to_owned())
        })
        .collect();
    assert!(commands.len() >= 3, "{commands:?}");
    assert!(
        commands
            .iter()
            .any(|command| command.starts_with("doctor --config-dir ")),
        "{commands:?}"
    );
    for command in commands {
        let words: Vec<_> = command.split_whitespace().collect();
        let help = nocturne()
            .args([words[0], "--help"])
            .output()
            .expect("the program starts");
        let help = String::from_utf8_lossy(&help.stdout).into_owned();
        for flag in words.iter().filter(|word| word.starts_with("--")) {
            assert!(help.contains(flag), "nocturne {command}");
        }
    }
}

#[test]
fn synapse_and_dendrite_get_uris_and_secret() {
    let folder = Folder::made();
    let (setup, secret) = (folder.setup(), &folder.secrets()[0]);
    let expected = json!({
        "turn_uris": URIS,
        "turn_shared_secret": secret,
        "turn_user_lifetime": "12h",
        "turn_allow_guests": false,
    });
    assert_eq!(yaml(&setup.block("Synapse", "yaml")), expected);
    let expected = json!({"client_api": {"turn": {
        "turn_uris": URIS,
        "turn_shared_secret": secret,
        "turn_user_lifetime": "12h",
    }}});
    assert_eq!(yaml(&setup.block("Dendrite", "yaml")), expected);
    let whitelist = yaml(&setup.block("Notifications to a private address", "yaml"));
    let addresses = whitelist["ip_range_whitelist"].as_array().expect("a list");
    assert!(addresses.contains(&json!("127.0.0.1")), "{whitelist}");
}

#[test]
fn tuwunel_and_conduit_get_uris_and_secret() {
    let Some(python) = toml_python() else {
        return;
    };
    let toml = |text: &str| -> Value {
        let code = "import json, sys, tomllib; print(json.dumps(tomllib.loads(sys.argv[1])))";
        let (succeeded, said) = run(Command::new(&python).args(["-c", code, text]));
        assert!(succeeded, "{said}\n{text}");
        serde_json::from_str(&said).expect("JSON")
    };
    let folder = Folder::made();
    let (setup, secret) = (folder.setup(), &folder.secrets()[0]);
    assert_eq!(
        toml(&setup.block("Tuwunel", "toml")),
        json!({"global": {"turn_uris": URIS, "turn_secret": secret, "turn_ttl": 43_200, "turn_allow_guests": false}})
    );
    assert_eq!(
        toml(&setup.block("Conduit", "toml")),
        json!({"global": {"turn": {"uris": URIS, "secret": secret}}})
    );
}

#[test]
fn live_kit_gets_servers_so_that_it_takes_none_of_others() {
    let folder = Folder::made();
    let (setup, secret) = (folder.setup(), &folder.secrets()[0]);
    let blocks = setup.blocks("LiveKit", "yaml");
    let server = |port: u16, protocol: &str| json!({"host": "turn.example.org", "port": port, "protocol": protocol, "secret": secret, "ttl": 14_400});
    assert_eq!(
        yaml(&blocks[0]),
        json!({"rtc": {
            "stun_servers": ["turn.example.org:3478"],
            "turn_servers": [server(5349, "tls"), server(3478, "udp"), server(3478, "tcp")],
        }})
    );
    // what is for the relay's own configuration, the relay takes
    folder.append("turn-relay.yaml", &blocks[1]);
    let checked = folder.check();
    assert!(checked.succeeded, "{checked:?}");
    assert!(
        checked.out.contains(
            "clients reach public addresses and other clients of this relay, and 127.0.0.1"
        )
    );
}

#[test]
fn well_known_says_that_there_is_no_fallback() {
    let setup = Folder::made().setup();
    let file: Value = serde_json::from_str(&setup.block("7. Well-known", "json")).expect("JSON");
    assert_eq!(
        file,
        json!({
            "m.homeserver": {"base_url": "https://matrix.example.org"},
            "io.element.voip": {"disable_fallback_ice": true},
        })
    );
}

#[test]
fn lua_takes_what_is_for_prosody() {
    let found = ["luac5.4", "luac5.3", "luac"]
        .into_iter()
        .find_map(|name| program(name, "lua5.4"));
    let Some(luac) = found else {
        return;
    };
    let folder = Folder::made();
    let blocks = folder.setup().all("lua");
    assert_eq!(blocks.len(), 2);
    for block in blocks {
        assert!(
            block.contains(&format!("\"{}\"", folder.secrets()[0])),
            "{block}"
        );
        let file = folder.path().with_file_name("snippet.lua");
        fs::write(&file, &block).expect("written");
        let (succeeded, said) = run(Command::new(&luac).arg("-p").arg(&file));
        assert!(succeeded, "{said}\n{block}");
    }
}

#[test]
fn ejabberd_gets_services_and_secret() {
    let folder = Folder::made();
    let (setup, secret) = (folder.setup(), &folder.secrets()[0]);
    let disco = yaml(&setup.block("XMPP: ejabberd", "yaml"))["modules"]["mod_stun_disco"].clone();
    assert_eq!(disco["secret"], **secret);
    let services: Vec<_> = disco["services"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|service| {
            assert_eq!(service["host"], "turn.example.org");
            let text = |key: &str| service[key].as_str().unwrap_or_default().to_owned();
            (
                text("type"),
                service["port"].as_u64().unwrap_or_default(),
                text("transport"),
                service["restricted"].clone(),
            )
        })
        .collect();
    let service = |kind: &str, port, transport: &str, restricted: bool| {
        (
            kind.to_owned(),
            port,
            transport.to_owned(),
            json!(restricted),
        )
    };
    assert_eq!(
        services,
        [
            service("stun", 3478, "udp", false),
            service("turns", 5349, "tcp", true),
            service("turn", 3478, "udp", true),
            service("turn", 3478, "tcp", true),
        ]
    );
}

#[test]
fn ports_and_addresses_are_those_of_the_configuration() {
    let folder = Folder::made();
    let yaml = folder.read("turn-relay.yaml");
    folder.write(
        "turn-relay.yaml",
        &(yaml.replace("127.0.0.1:3480", "[::]:4480")
            + "listen: {udp: '0.0.0.0:4478', tcp: [], tls: []}\ncredentials_are_below: 1\n")
            .replace("credentials_are_below: 1\n", ""),
    );
    fs::remove_file(folder.file("SETUP.md")).expect("removed");
    let said = folder.init(&[]);
    assert!(said.succeeded, "{said:?}");
    let Setup(text) = folder.setup();
    assert!(text.contains("http://[::1]:4480"), "{text}");
    assert!(text.contains("udp dport { 4478, 49152-65535 }"), "{text}");
    assert!(
        text.contains("\"turn:turn.example.org:4478?transport=udp\""),
        "{text}"
    );
    for absent in [
        "3478",
        "3480",
        "transport=tcp\"\n  - \"turn:turn.example.org:4478?transport=tcp",
    ] {
        assert!(!text.contains(absent), "{absent} is in {text}");
    }
}
