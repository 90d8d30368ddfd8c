//! The evening.

use std::net::{IpAddr, SocketAddr};

use rustix::process::geteuid;
use serde_json::Value;
use shared::environment::Environment;
use stand_ins::Authority;

use crate::{
    before::{self, CERTIFICATES, PUSH_SERVER, WELL_KNOWN},
    client::{Client, Credentials, Relayed},
    dns::Zone,
    folder::Setup,
    machine::Machine,
    network::Network,
    programs::{program, synapse_python},
    report::Report,
    wire::{self, Wire},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_nocturne");

const TURNS: &str = "turns:turn.example.org:5349?transport=tcp";
const UDP: &str = "turn:turn.example.org:3478?transport=udp";
const TCP: &str = "turn:turn.example.org:3478?transport=tcp";

const TURN_SERVER: &str = "https://matrix.example.org/_matrix/client/v3/voip/turnServer";
const TOKEN: &str = "NOCTURNE_ACCESS_TOKEN";

/// All that takes part.
struct Evening {
    authority: Authority,
    server: Machine,
    caller: Machine,
    friend: Machine,
    zone: Zone,
}

#[test]
fn from_an_empty_folder_to_a_doctor_who_finds_nothing() {
    let Some(evening) = Evening::begin() else {
        // on CI nobody reads why
        let is_ci = Environment::of_process().get("CI").is_some();
        assert!(!is_ci || !geteuid().is_root(), "skipped on CI");
        return;
    };
    let setup = evening.paste_everything();
    let (alice, bob) = (
        register(&evening.caller, "alice"),
        register(&evening.friend, "bob"),
    );

    let step_8 = setup.block("8. Try it", "sh");
    evening.assert_green_here(&step_8, &alice);
    evening.assert_who_forgets_sudo_is_told();
    evening.assert_green_elsewhere(&alice);
    evening.assert_the_urls_of_step_8(&setup.blocks("8. Try it", "sh")[1]);
    evening.assert_calls_work(&alice, &bob);
    evening.assert_pushes_work();

    // the gateway looked a name up in its sandbox; the relay has had no reason to so far
    let server = &evening.server;
    let homeserver = "s,http://127.0.0.1:8008,https://matrix.example.org,";
    server.does(&format!(
        "sed -i {homeserver} /etc/nocturne/turn-relay.yaml"
    ));
    evening.reload();
    evening.assert_green_here(&step_8, &alice);

    // that green means something: step 5 undone
    before::paste_into_nginx(server, "");
    doctor(server, &step_8, &alice).assert_red(&[
        [
            "homeserver",
            TURN_SERVER,
            "the homeserver answers here, and not Nocturne",
        ],
        ["homeserver", TURN_SERVER, "has their Matrix ID in clear"],
    ]);
    before::paste_into_nginx(server, &setup.block("With nginx", "nginx"));

    // a certificate that is somebody else's
    evening.renew_with(&["turn.example.com"]);
    doctor(server, &step_8, &alice).assert_red(&[
        ["certificates", "turn.example.org", ""],
        ["turn", &format!("{TURNS} ({})", server.host.v4), ""],
        ["turn", &format!("{TURNS} ({})", server.host.v6), ""],
    ]);
    evening.renew_with(&["turn.example.org"]);

    // step 2 undone, which is seen from elsewhere
    before::paste_into_firewall(server, "");
    evening.assert_green_here(&step_8, &alice);
    let uris = [TURNS, UDP, TCP].map(|uri| format!("{uri} ({})", server.host.v4));
    let [turns, udp, tcp] = uris.each_ref().map(|uri| ["turn", uri.as_str(), ""]);
    let elsewhere = format!("{ELSEWHERE} --timeout 2");
    doctor(&evening.caller, &elsewhere, &alice).assert_red(&[turns, udp, tcp]);
}

/// With the file that docs/install.md has for it.
const ELSEWHERE: &str = "nocturne doctor --elsewhere --config-dir here --server-name example.org";

impl Evening {
    /// Somebody's homeserver, as it is at 19:00; none, with a word about it, where that cannot be had.
    fn begin() -> Option<Self> {
        for (name, package) in [
            ("nginx", "nginx-light"),
            ("nft", "nftables"),
            ("curl", "curl"),
            ("useradd", "passwd"),
            ("setpriv", "util-linux"),
        ] {
            program(name, package)?;
        }
        let synapse = synapse_python()?;
        let network = Network::new()?;
        let authority = Authority::new().unwrap();
        let zone = Zone::serve(&network);
        let [server, caller, friend] =
            [1, 2, 3].map(|number| Machine::start(network.host(number), &authority));
        before::set_up(&server, &zone, &authority, &synapse);
        before::start_push_server(&friend, &zone, &authority);
        Some(Self {
            authority,
            server,
            caller,
            friend,
            zone,
        })
    }

    /// docs/install.md until step 4, and all steps of SETUP.md; nothing in it is changed.
    fn paste_everything(&self) -> Setup {
        let Self { server, zone, .. } = self;
        server.does(&format!("sudo install -m 755 {PROGRAM} {INSTALLED}"));
        server.does("sudo nocturne init --server-name example.org");
        let setup = Setup(server.does("sudo cat /etc/nocturne/SETUP.md"));
        zone.paste(&setup.block("1. DNS", "zone"));
        before::paste_into_firewall(server, &setup.block("With nftables", "nft"));
        server.does(&setup.block("3. Start the services", "sh"));
        server.hears("READY=1");
        server.issue(&self.authority, "turn.example.org", &["turn.example.org"]);
        server.does(&setup.block("With certbot", "sh"));
        server.does(&setup.block("Then switch TLS on", "sh"));
        server.hears("READY=1");
        before::paste_into_nginx(server, &setup.block("With nginx", "nginx"));
        // of the two ways of step 6 the better one has nothing to paste
        server.writes(WELL_KNOWN, &setup.block("7. Well-known", "json"));
        setup
    }

    /// The last step on the server. What it leaves out is for others than this machine.
    #[track_caller]
    fn assert_green_here(&self, step_8: &str, token: &str) {
        let report = doctor(&self.server, step_8, token);
        let through = "a packet goes through from one client to another and back";
        let mut good = vec![
            ["dns", "turn.example.org", "leads to"],
            ["ports", "UDP 127.0.0.1:3478", "the relay answers"],
            ["ports", "UDP [::1]:3478", "the relay answers"],
            ["ports", "HTTP 127.0.0.1:3480", "up and ready"],
            ["ports", "HTTP 127.0.0.1:5000", "up and ready"],
            ["certificates", "turn.example.org", "take the certificate"],
            ["homeserver", TURN_SERVER, "Nocturne answers here"],
            ["homeserver", TURN_SERVER, "does not say who they are"],
            [
                "homeserver",
                "https://matrix.example.org/_matrix/push/v1/notify",
                "the push gateway answers here",
            ],
            [
                "well_known",
                "https://example.org/.well-known/matrix/client",
                "do not fall back",
            ],
            ["clock", "matrix.example.org", ""],
        ];
        let tries = self.every_way();
        good.extend(tries.iter().map(|uri| ["turn", uri.as_str(), through]));
        report.assert_green(&good, &[["ports", "from outside"], ["livekit", "LiveKit"]]);
    }

    fn assert_who_forgets_sudo_is_told(&self) {
        let nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups";
        let doctor = "nocturne doctor --config-dir /etc/nocturne";
        let output = self.server.tries(&format!("{nobody} {doctor}"), &[]);
        let said = String::from_utf8(output.stdout).unwrap();
        for expected in [
            "/etc/nocturne/turn-relay.yaml: cannot be read: Permission denied",
            "sudo -u nocturne nocturne doctor",
        ] {
            assert!(said.contains(expected), "{said}");
        }
    }

    /// A computer of the caller, as docs/install.md says.
    #[track_caller]
    fn assert_green_elsewhere(&self, token: &str) {
        let Self { server, caller, .. } = self;
        let secret =
            server.does("sudo sed -n '/^secrets:/{n;s/^  - //p}' /etc/nocturne/turn-relay.yaml");
        let (_, text) = INSTALL.split_once("# here/turn-relay.yaml\n").unwrap();
        let (text, _) = text.split_once("```").unwrap();
        let placeholder = "\"the first of `secrets` in /etc/nocturne/turn-relay.yaml\"";
        assert!(text.contains(placeholder), "{text}");
        caller.does(&format!("mkdir here; install -m 755 {PROGRAM} {INSTALLED}"));
        caller.writes(
            "here/turn-relay.yaml",
            &text.replace(placeholder, secret.trim()),
        );
        let through = "a packet goes through from one client to another and back";
        let tries = self.every_way();
        let good: Vec<_> = tries
            .iter()
            .map(|uri| ["turn", uri.as_str(), through])
            .collect();
        let here = "here/turn-relay.yaml";
        // that is what --elsewhere is
        let skipped = [
            ["ports", here],
            ["ports", "push gateway"],
            ["certificates", here],
            ["livekit", "LiveKit"],
            ["push", "push gateway"],
        ];
        doctor(caller, ELSEWHERE, token).assert_green(&good, &skipped);
    }

    /// Each URI at each address of its host, as doctor names them.
    fn every_way(&self) -> Vec<String> {
        let host = &self.server.host;
        let addresses = [IpAddr::from(host.v4), IpAddr::from(host.v6)];
        [TURNS, UDP, TCP]
            .iter()
            .flat_map(|uri| addresses.map(|address| format!("{uri} ({address})")))
            .collect()
    }

    fn assert_the_urls_of_step_8(&self, block: &str) {
        let [discovery, credentials] = block.lines().collect::<Vec<_>>()[..] else {
            panic!("{block}");
        };
        assert_eq!(json(&self.caller, discovery)["gateway"], "matrix");
        let refused = json(&self.caller, credentials);
        assert_eq!(refused["errcode"], "M_MISSING_TOKEN");
    }

    /// Two users get credentials as their clients do, and talk over every way there is, and with somebody who has no
    /// relay.
    fn assert_calls_work(&self, alice: &str, bob: &str) {
        let (uris, of_alice) = credentials(&self.caller, alice);
        let (_, of_bob) = credentials(&self.friend, bob);
        assert_eq!(uris, [TURNS, UDP, TCP]);
        for uri in &uris {
            for database in ["ahostsv4", "ahostsv6"] {
                let mut alices = self.client(&self.caller, uri, database, &of_alice);
                let mut bobs = self.client(&self.friend, UDP, "ahostsv4", &of_bob);
                let (here, there) = (alices.allocate(), bobs.allocate());
                assert_eq!(here.ip(), self.server.host.v4);
                assert_eq!(alices.bind(0x4000, there), None);
                assert_eq!(bobs.permit(here.ip()), None);
                alices.send_on(0x4000, b"hello");
                assert_eq!(bobs.relayed(), Relayed::From(here, b"hello".to_vec()));
                bobs.send_to(here, b"who is it?");
                assert_eq!(
                    alices.relayed(),
                    Relayed::On(0x4000, b"who is it?".to_vec())
                );

                // who speaks first, so that the firewall has to let it in
                let peer = self.friend.host.peer();
                assert_eq!(alices.permit(self.friend.host.v4), None);
                peer.send(here, b"it is me");
                let expected = Relayed::From(peer.address(), b"it is me".to_vec());
                assert_eq!(alices.relayed(), expected);
            }
        }
    }

    /// A homeserver elsewhere has something for a phone whose push server is the friend's.
    fn assert_pushes_work(&self) {
        let pushkey = format!("https://{PUSH_SERVER}/up4LVdtH");
        self.caller.does(&format!(
            "nocturne notify --gateway https://matrix.example.org --app-id org.example.app --pushkey {pushkey}"
        ));
        assert_eq!(self.friend.log("pushes"), "POST /up4LVdtH\n");
    }

    fn client(&self, on: &Machine, uri: &str, database: &str, credentials: &Credentials) -> Client {
        let found = on.does(&format!("getent {database} turn.example.org"));
        let address: IpAddr = found.split_whitespace().next().unwrap().parse().unwrap();
        let connect = || -> Wire {
            match uri {
                UDP => wire::udp((address, 3478).into()),
                TCP => wire::tcp((address, 3478).into()),
                TURNS => {
                    let stream = wire::connect(SocketAddr::new(address, 5349));
                    let config = self.authority.client_config(&[]).unwrap();
                    wire::try_tls_to("turn.example.org", stream, &config).unwrap()
                }
                _ => panic!("{uri}"),
            }
        };
        Client::with(on.host.namespace.inside(connect), credentials.clone())
    }

    /// Lets `certbot` renew the certificate for `turn.example.org`, with these names in it.
    fn renew_with(&self, names: &[&str]) {
        let Self {
            server, authority, ..
        } = self;
        server.issue(authority, "turn.example.org", names);
        server.does(&format!(
            "certbot certonly --nginx -d turn.example.org
             {CERTIFICATES}/renewal-hooks/deploy/nocturne"
        ));
        // it would see that by itself, within seconds
        self.reload();
    }

    fn reload(&self) {
        self.server.does("sudo systemctl reload nocturne");
        self.server.hears("READY=1");
    }
}

const INSTALLED: &str = "/usr/local/bin/nocturne";
const INSTALL: &str = include_str!("../../docs/install.md");

/// What doctor says in JSON, with a user's access token.
fn doctor(on: &Machine, command: &str, token: &str) -> Report {
    let output = on.tries(&format!("{} --json", command.trim_end()), &[(TOKEN, token)]);
    Report::of(&output)
}

/// The access token of a new user.
fn register(from: &Machine, name: &str) -> String {
    let body = format!(
        r#"{{"username":"{name}","password":"correct horse","auth":{{"type":"m.login.dummy"}}}}"#
    );
    let url = "https://matrix.example.org/_matrix/client/v3/register";
    let account = json(from, &format!("curl -s {url} -d '{body}'"));
    account["access_token"].as_str().unwrap().to_owned()
}

/// URIs and credentials as a user's client gets them.
fn credentials(from: &Machine, token: &str) -> (Vec<String>, Credentials) {
    let answer = json(
        from,
        &format!("curl -s -H 'Authorization: Bearer {token}' {TURN_SERVER}"),
    );
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let uris = answer["uris"].as_array().unwrap().iter().map(text);
    let credentials = Credentials {
        username: text(&answer["username"]),
        password: text(&answer["password"]),
    };
    (uris.collect(), credentials)
}

fn json(from: &Machine, command: &str) -> Value {
    let said = from.does(command);
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {command}: {said}"))
}
