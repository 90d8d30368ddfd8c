//! `nocturne turn` and `nocturne credentials`, the real program: what the service hands out, the relay takes.

use http::Method;
use serde_json::Value;
use stand_ins::{Authority, ClientServer, homeserver::Answer};

use crate::{
    client::Client,
    harness::{ALICE, API_KEY, Credential, V3, request},
    relay::{Relay, SECRET, nocturne},
};

/// A relay that lets a user have one allocation, for users of a homeserver and for a service.
pub(crate) struct Stage {
    pub(crate) relay: Relay,
    pub(crate) homeserver: ClientServer,
}

impl Stage {
    pub(crate) async fn set() -> Self {
        let authority = Authority::new().expect("an authority can be made");
        let homeserver = ClientServer::start(&authority, &[b"http/1.1"])
            .await
            .expect("loopback has free ports");
        let directory = tempfile::tempdir().expect("there is room for temporary files");
        let roots = directory.path().join("ca.pem");
        std::fs::write(&roots, authority.pem()).expect("the folder can be written to");
        let roots = roots.to_str().expect("a path of ours").to_owned();
        let configuration = format!(
            "quotas: {{allocations_per_user: 1}}\ncredentials: {{homeserver: '{}/', api_keys: {API_KEY}}}\n",
            homeserver.url()
        );
        let relay = Relay::start_in(directory, &configuration, &[("SSL_CERT_FILE", &roots)]);
        Self { relay, homeserver }
    }

    pub(crate) async fn get(&self, path: &str, token: &str) -> Answer {
        let bearer = format!("Bearer {token}");
        self.get_with(path, &[("authorization", &bearer)]).await
    }

    pub(crate) async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        request(self.relay.http, Method::GET, path, headers, "").await
    }

    fn client(&self, answer: &Value) -> Client {
        let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
        Client::with_credential(self.relay.udp, &text("username"), &text("password"))
    }
}

#[tokio::test]
async fn what_the_routes_hand_out_allocates_and_counts_as_one_user() {
    let stage = Stage::set().await;
    let phone = stage.homeserver.log_in(ALICE);
    let laptop = stage.homeserver.log_in(ALICE);
    let bob = stage.homeserver.log_in("@bobbuilder:homeserver.example");
    let for_service = "/turn/credentials?service=turn&username=alicewonder";

    let answers = [
        (stage.get(V3, &phone).await, true),
        // the same user from another device has what a user may have
        (stage.get(V3, &laptop).await, false),
        (stage.get(V3, &bob).await, true),
        (stage.get(for_service, API_KEY).await, true),
        (stage.get(for_service, API_KEY).await, false),
    ];
    for (number, (answer, is_new_user)) in answers.iter().enumerate() {
        let credential = Credential::signed_by(SECRET, answer);
        assert!(credential.uris[0].starts_with("turn:turn.example.org:"));
        let allocated = stage.client(&answer.json()).allocate();
        if *is_new_user {
            assert!(allocated.is_ok(), "{number}: {allocated:?}");
        } else {
            assert_eq!(allocated, Err(486), "{number}");
        }
    }
    let issued = |route: &str| {
        let line =
            format!("nocturne_turn_credentials_total{{route=\"{route}\",result=\"issued\"}}");
        stage.relay.metric(&line)
    };
    assert_eq!((issued("matrix"), issued("rest")), (3, 2));
    let log = stage.relay.log();
    for secret in ["alice", "bobbuilder", API_KEY, &phone, &laptop, SECRET] {
        assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
    }
}

#[tokio::test]
async fn a_password_for_another_name_does_not_allocate() {
    let stage = Stage::set().await;
    let token = stage.homeserver.log_in(ALICE);
    let mut answer = stage.get(V3, &token).await.json();
    let username = answer["username"].as_str().unwrap_or_default();
    answer["username"] = username.replacen('1', "2", 1).into();
    assert_eq!(stage.client(&answer).allocate(), Err(401));
}

#[tokio::test]
async fn a_reload_puts_the_service_on_and_off_and_calls_go_on() {
    let mut stage = Stage::set().await;
    let token = stage.homeserver.log_in(ALICE);
    let before = stage.get(V3, &token).await;
    let mut call = stage.client(&before.json());
    call.allocate().expect("it is good");

    stage.relay.configure("");
    stage.relay.reload();
    assert_eq!(stage.get(V3, &token).await.status, 404);
    let path = "/turn/credentials?service=turn&username=u";
    assert_eq!(stage.get(path, API_KEY).await.status, 401);
    call.refresh(600).expect("the call goes on");

    let homeserver = stage.homeserver.url();
    stage
        .relay
        .configure(&format!("credentials: {{homeserver: '{homeserver}'}}\n"));
    stage.relay.reload();
    let after = Credential::signed_by(SECRET, &stage.get(V3, &token).await);
    assert_eq!(after.name, Credential::signed_by(SECRET, &before).name);
    // what else is served beside it
    assert_eq!(stage.relay.get("/health").0, 200);
    assert_eq!(stage.relay.get("/turn").0, 404);
}

#[tokio::test]
async fn the_command_prints_what_the_relay_takes() {
    let stage = Stage::set().await;
    let configuration = stage.relay.directory().join("turn-relay.yaml");
    let configuration = configuration.to_str().expect("a path of ours");
    let run = |arguments: &[&str]| {
        let output = nocturne(&[&["credentials", "--config", configuration], arguments].concat())
            .stdout(std::process::Stdio::piped())
            .output()
            .expect("the command can be started");
        assert!(output.status.success(), "{output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
        let printed = String::from_utf8(output.stdout).expect("text");
        serde_json::from_str::<Value>(&printed).unwrap_or_else(|_| panic!("{printed}"))
    };
    let name = |printed: &Value| {
        let username = printed["username"].as_str().unwrap_or_default();
        let (_, name) = username.split_once(':').expect("two parts");
        name.to_owned()
    };
    let nobody = run(&[]);
    assert_ne!(name(&run(&[])), name(&nobody));
    stage.client(&nobody).allocate().expect("it is good");

    let alice = run(&["--user", "alice"]);
    // unless the day ends in between
    assert_eq!(name(&run(&["--user", "alice"])), name(&alice));
    assert_ne!(name(&run(&["--user", "bob"])), name(&alice));
    assert!(!alice.to_string().contains("alice"));
    stage.client(&alice).allocate().expect("it is good");
    assert_eq!(alice["ttl"], 12 * 3600);
    assert!(
        alice["uris"]
            .as_array()
            .is_some_and(|uris| !uris.is_empty())
    );
}

#[test]
fn the_command_says_what_it_lacks() {
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    let run = |arguments: &[&str]| {
        let output = nocturne(arguments)
            .current_dir(folder.path())
            .stderr(std::process::Stdio::piped())
            .output()
            .expect("the command can be started");
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).expect("text")
    };
    std::fs::write(
        folder.path().join("nameless.yaml"),
        "realm: My Relay\nsecrets: kPlaXzQyVqFhMEUwbzcx\nlisten: {tls: []}\n",
    )
    .expect("the folder can be written to");
    let said = run(&["credentials", "--config", "nameless.yaml"]);
    assert!(said.contains("set `credentials.uris`"), "{said}");
    std::fs::write(folder.path().join("empty.yaml"), "realm: r\n")
        .expect("the folder can be written to");
    let said = run(&["credentials", "--config", "empty.yaml"]);
    assert!(said.contains("secrets"), "{said}");
}
