//! A real Synapse and the credential service, behind a real nginx that tells them apart as
//! `docs/turn-credentials.md` says.
//!
//! `NOCTURNE_SYNAPSE_PYTHON` names the Python of a virtual environment with `matrix-synapse` in it, and nginx
//! has to be installed (CONTRIBUTING.md). Where one of them is missing, these tests say so and do nothing.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use http::Method;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use shared::{clock::Clock, environment::Environment, lifecycle::ShutdownTrigger, random::Random};
use stand_ins::{Authority, homeserver::Answer};
use tempfile::TempDir;
use turn_relay::credentials::{Metrics, Service, Settings, World};

use crate::{
    PATIENCE,
    client::Client,
    harness::{Credential, HOUR, START, V3, at, request, serve, settings},
    process::{Process, free_address},
    relay::{self, Relay, SECRET},
    synapse::{SERVER_NAME, Synapse},
};

/// The document whose snippet nginx is configured with.
const DOCUMENT: &str = include_str!("../../docs/turn-credentials.md");
/// Where the service listens in it.
const LISTENS: &str = "127.0.0.1:3480";
/// What the homeserver signs credentials of its own with.
const HOMESERVERS_SECRET: &str = "of the homeserver";

/// Everything, running.
struct Stage {
    nginx: SocketAddr,
    synapse: Synapse,
    service: Service,
    settings: Settings,
    clock: Clock,
    _nginx: Process,
    _folder: TempDir,
    _running: ShutdownTrigger,
}

#[tokio::test]
async fn a_users_token_gets_credentials_that_name_nobody() {
    let Some(stage) = Stage::set().await else {
        return;
    };
    let alice = stage.synapse.register("alicewonder").await;
    let bob = stage.synapse.register("bobbuilder").await;

    // what the homeserver itself would have said
    let own = ask(stage.synapse.address, V3, &alice.token).await.json();
    assert!(own["username"].to_string().contains(&alice.id), "{own}");

    let mut names = Vec::new();
    for path in [
        V3,
        "/_matrix/client/r0/voip/turnServer",
        "/_matrix/client/unstable/voip/turnServer",
    ] {
        let answer = ask(stage.nginx, path, &alice.token).await;
        let everything = format!("{:?} {}", answer.headers, answer.text());
        for secret in ["alice", SERVER_NAME, HOMESERVERS_SECRET] {
            assert!(!everything.contains(secret), "{everything}");
        }
        assert_eq!(answer.headers["access-control-allow-origin"], "*");
        names.push(Credential::of(&answer).name);
    }
    assert!(names.iter().all(|name| *name == names[0]), "{names:?}");
    let of_bob = Credential::of(&ask(stage.nginx, V3, &bob.token).await);
    assert_ne!(of_bob.name, names[0]);

    stage.clock.advance(24 * HOUR);
    let next_day = Credential::of(&ask(stage.nginx, V3, &alice.token).await);
    assert_ne!(next_day.name, names[0]);

    // the rest is the homeserver's
    let whoami = ask(
        stage.nginx,
        "/_matrix/client/v3/account/whoami",
        &alice.token,
    )
    .await;
    assert_eq!(whoami.json()["user_id"], *alice.id);
}

#[tokio::test]
async fn what_comes_through_the_proxy_allocates_on_the_relay() {
    let (Some(python), Some(nginx)) = (synapse_python(), nginx()) else {
        return;
    };
    let synapse = Synapse::start(&python).await;
    let relay = Relay::start_with(
        &format!(
            "credentials: {{homeserver: 'http://{}'}}\n",
            synapse.address
        ),
        &[],
    );
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    let (_nginx, address) = start_nginx(&nginx, folder.path(), relay.http, synapse.address).await;
    let alice = synapse.register("alicewonder").await;
    let answer = ask(address, V3, &alice.token).await;
    let username = Credential::signed_by(SECRET, &answer).username;
    let password = answer.json()["password"].clone();
    let password = password.as_str().expect("a text");
    let mut client = Client::with_credential(relay.udp, &username, password);
    let relayed = client.allocate().expect("the relay takes it");
    let peer = relay::peer();
    let peer_address = peer.local_addr().expect("it is bound");
    client.permit(peer_address).expect("the relay takes it");
    client.talk(&peer, relayed);

    call(address, "/logout", Some(&alice.token), &json!({})).await;
    assert_eq!(ask(address, V3, &alice.token).await.status, 401);
    // a call that is under way goes on
    client.refresh(600).expect("the relay takes it");
    assert!(!relay.log().contains("alicewonder"), "{}", relay.log());
}

#[tokio::test]
async fn a_logged_out_token_is_refused_at_once() {
    let Some(stage) = Stage::set().await else {
        return;
    };
    let alice = stage.synapse.register("alicewonder").await;
    Credential::of(&ask(stage.nginx, V3, &alice.token).await);
    let logged_out = call(stage.nginx, "/logout", Some(&alice.token), &json!({})).await;
    assert_eq!(logged_out.status, 200, "{}", logged_out.text());

    let refused = ask(stage.nginx, V3, &alice.token).await;
    assert_eq!(refused.status, 401);
    assert_eq!(refused.json()["errcode"], "M_UNKNOWN_TOKEN");
    let by_synapse = ask(stage.synapse.address, V3, &alice.token).await;
    assert_eq!(refused.json(), by_synapse.json());
}

#[tokio::test]
async fn a_token_that_ran_out_is_to_be_renewed() {
    let Some(stage) = Stage::set().await else {
        return;
    };
    stage.synapse.register("alicewonder").await;
    let login = json!({
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": "alicewonder"},
        "password": "correct horse battery staple",
        "refresh_token": true,
    });
    let session = call(stage.nginx, "/login", None, &login).await.json();
    let token = session["access_token"].as_str().expect("a token");
    // until Synapse says that it has run out
    let ran_out = tokio::time::timeout(PATIENCE, async {
        loop {
            let answer = ask(stage.synapse.address, V3, token).await;
            if answer.status == 401 {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let by_synapse = ran_out.await.expect("the token runs out");
    let refused = ask(stage.nginx, V3, token).await;
    assert_eq!(refused.status, 401);
    assert_eq!(refused.json(), by_synapse.json());
    assert_eq!(refused.json()["soft_logout"], true);

    let renew = json!({"refresh_token": session["refresh_token"]});
    let renewed = call(stage.nginx, "/refresh", None, &renew).await.json();
    let token = renewed["access_token"].as_str().expect("a token");
    let answer = ask(stage.nginx, V3, token).await;
    // unless it has run out again meanwhile
    if answer.status != 401 {
        Credential::of(&answer);
    }
}

#[tokio::test]
async fn a_guest_is_refused_until_guests_may() {
    let Some(mut stage) = Stage::set().await else {
        return;
    };
    let guest = call(stage.nginx, "/register?kind=guest", None, &json!({}))
        .await
        .json();
    let token = guest["access_token"].as_str().expect("a token");
    let refused = ask(stage.nginx, V3, token).await;
    assert_eq!(refused.status, 403);
    assert_eq!(refused.json()["errcode"], "M_GUEST_ACCESS_FORBIDDEN");
    stage.settings.allow_guests = true;
    stage.service.reload(&stage.settings).expect("it is valid");
    Credential::of(&ask(stage.nginx, V3, token).await);
}

#[tokio::test]
async fn what_is_no_token_is_refused_as_synapse_refuses_it() {
    let Some(stage) = Stage::set().await else {
        return;
    };
    for token in ["nonsense", "syt_bm9ib2R5_AAAAAAAAAAAAAAAAAAAA_000000"] {
        let refused = ask(stage.nginx, V3, token).await;
        let by_synapse = ask(stage.synapse.address, V3, token).await;
        assert_eq!(refused.status, 401);
        assert_eq!(refused.json(), by_synapse.json());
    }
    let none = request(stage.nginx, Method::GET, V3, &[], "").await;
    let by_synapse = request(stage.synapse.address, Method::GET, V3, &[], "").await;
    assert_eq!(none.status, by_synapse.status);
    assert_eq!(none.json()["errcode"], by_synapse.json()["errcode"]);
    let preflight = request(stage.nginx, Method::OPTIONS, V3, &[], "").await;
    let by_synapse = request(stage.synapse.address, Method::OPTIONS, V3, &[], "").await;
    assert_eq!(preflight.status, by_synapse.status);
    for header in [
        "access-control-allow-origin",
        "access-control-allow-headers",
    ] {
        assert!(preflight.headers.contains_key(header), "{header}");
        assert!(by_synapse.headers.contains_key(header), "{header}");
    }
}

impl Stage {
    async fn set() -> Option<Self> {
        let (python, nginx) = (synapse_python()?, nginx()?);
        let synapse = Synapse::start_with(&python, |configuration| {
            let more = json!({
                "allow_guest_access": true,
                "refreshable_access_token_lifetime": "3s",
                "turn_uris": ["turn:turn.homeserver.example"],
                "turn_shared_secret": HOMESERVERS_SECRET,
            });
            if let (Some(all), Value::Object(more)) = (configuration.as_object_mut(), more) {
                all.extend(more);
            }
        })
        .await;
        let mut settings = settings();
        let url = format!("http://{}", synapse.address);
        settings.homeserver = Some(url.parse().expect("it is a URL"));
        let clock = Clock::manual(at(START));
        let authority = Authority::new().expect("an authority can be made");
        let world = World {
            clock: clock.clone(),
            random: Random::system(),
            roots: Arc::new(authority.roots().expect("its certificate is valid")),
            metrics: Metrics::new(&mut Registry::default()),
        };
        let service = Service::new(&settings, world).expect("the settings are valid");
        let (listens, running) = serve(&service).await;
        let folder = tempfile::tempdir().expect("there is room for temporary files");
        let (process, address) = start_nginx(&nginx, folder.path(), listens, synapse.address).await;
        Some(Self {
            nginx: address,
            synapse,
            service,
            settings,
            clock,
            _nginx: process,
            _folder: folder,
            _running: running,
        })
    }
}

/// The Python that has Synapse, or word that this test is left out.
fn synapse_python() -> Option<PathBuf> {
    let python = Environment::of_process()
        .get("NOCTURNE_SYNAPSE_PYTHON")
        .map(PathBuf::from);
    if python.is_none() {
        eprintln!("skipped: NOCTURNE_SYNAPSE_PYTHON names no Python with matrix-synapse");
    }
    python
}

/// nginx, or word that this test is left out.
fn nginx() -> Option<PathBuf> {
    let environment = Environment::of_process();
    let path = environment.get("PATH").unwrap_or_default();
    let nginx = path
        .split(':')
        .chain(["/usr/sbin", "/usr/local/sbin"])
        .map(|folder| Path::new(folder).join("nginx"))
        .find(|file| file.is_file());
    if nginx.is_none() {
        eprintln!("skipped: there is no nginx (Debian: nginx-light)");
    }
    nginx
}

/// nginx in front of both, with the snippet of the document.
async fn start_nginx(
    nginx: &Path,
    folder: &Path,
    service: SocketAddr,
    homeserver: SocketAddr,
) -> (Process, SocketAddr) {
    let snippet = DOCUMENT
        .split_once("```nginx\n")
        .and_then(|(_, rest)| rest.split_once("```"))
        .map(|(snippet, _)| snippet)
        .expect("the document has a snippet for nginx");
    assert!(snippet.contains(LISTENS), "{snippet}");
    let snippet = snippet.replace(LISTENS, &service.to_string());
    let address = free_address();
    let configuration = format!(
        "daemon off;
master_process off;
pid nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen {address};
        {snippet}
        location / {{
            proxy_pass http://{homeserver};
        }}
    }}
}}
"
    );
    fs::write(folder.join("nginx.conf"), configuration).expect("the folder can be written to");
    let mut command = Command::new(nginx);
    command
        .env_clear()
        .arg("-p")
        .arg(folder)
        .args(["-c", "nginx.conf", "-e", "stderr"]);
    let mut process = Process::start("nginx", &mut command, folder);
    process
        .wait_until_ready(address, "/_matrix/client/versions")
        .await;
    (process, address)
}

async fn ask(address: SocketAddr, path: &str, token: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    request(
        address,
        Method::GET,
        path,
        &[("authorization", &bearer)],
        "",
    )
    .await
}

async fn call(address: SocketAddr, path: &str, token: Option<&str>, body: &Value) -> Answer {
    let path = format!("/_matrix/client/v3{path}");
    let bearer = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<_> = bearer
        .iter()
        .map(|bearer| ("authorization", bearer.as_str()))
        .collect();
    request(address, Method::POST, &path, &headers, &body.to_string()).await
}
