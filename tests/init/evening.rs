//! A real Synapse, with what SETUP.md says about it: alone, and behind a real nginx with Nocturne beside it.

use serde_json::{Value, json};

use crate::{
    client::Client,
    folder::{Folder, yaml},
    programs::{program, synapse_python},
    proxies::{get_with_token, start_nginx, with_ports},
    services::{Relay, start_gateway},
    synapse::{SERVER_NAME, Synapse},
};

const TURN_SERVER: &str = "/_matrix/client/v3/voip/turnServer";

#[tokio::test]
async fn synapse_starts_with_its_snippet_and_what_it_hands_out_allocates() {
    let Some(python) = synapse_python() else {
        return;
    };
    let folder = Folder::made();
    let setup = folder.setup();
    let synapse = Synapse::start_with(&python, |configuration| {
        extend(configuration, yaml(&setup.block("Synapse", "yaml")));
        // in the place of what the tests have there
        extend(
            configuration,
            yaml(&setup.block("Notifications to a private address", "yaml")),
        );
    })
    .await;
    let relay = Relay::start(&folder).await;
    let alice = synapse.register("alicewonder").await;

    let answer = get_with_token(synapse.address, TURN_SERVER, Some(&alice.token))
        .await
        .json();
    assert_eq!(answer["ttl"], 12 * 3600);
    assert_eq!(answer["uris"].as_array().map(Vec::len), Some(3), "{answer}");
    // as SETUP.md says of this way
    assert!(
        answer["username"].to_string().contains(&alice.id),
        "{answer}"
    );
    client(&relay, &answer)
        .allocate()
        .expect("Synapse has the relay's secret");
}

#[tokio::test]
async fn synapse_posts_to_a_private_address_that_its_snippet_names() {
    let Some(python) = synapse_python() else {
        return;
    };
    let folder = Folder::made();
    let setup = folder.setup();
    let synapse = Synapse::start_with(&python, |configuration| {
        if let Value::Object(all) = configuration {
            all.remove("ip_range_whitelist");
        }
        extend(
            configuration,
            yaml(&setup.block("Notifications to a private address", "yaml")),
        );
    })
    .await;
    let (gateway, _process) = start_gateway(&folder).await;
    let (alice, bob) = (
        synapse.register("alice").await,
        synapse.register("bob").await,
    );
    let room = alice.create_room_with(&bob).await;
    // no push server has such an address: the gateway says so, and Synapse removes the pusher
    alice
        .set_pusher(gateway, "an.app", "not an endpoint", json!({}))
        .await;
    assert_eq!(alice.pushers().await.len(), 1);
    bob.send(&room, "are you there?").await;
    alice.wait_for_pushers(0).await;
}

#[tokio::test]
async fn an_evening_later_users_get_credentials_that_name_nobody_and_allocate() {
    let (Some(python), Some(nginx)) = (synapse_python(), program("nginx", "nginx-light")) else {
        return;
    };
    let synapse = Synapse::start_with(&python, |_| ()).await;
    let folder = Folder::none();
    let said = folder.init(&["--homeserver", &format!("http://{}", synapse.address)]);
    assert!(said.succeeded, "{said:?}");
    let setup = folder.setup();
    let relay = Relay::start(&folder).await;
    let (gateway, _process) = start_gateway(&folder).await;
    let nginx_folder = tempfile::tempdir().expect("there is room for temporary files");
    let snippet = with_ports(&setup.block("With nginx", "nginx"), gateway, relay.http);
    let server = format!(
        "location / {{ proxy_pass http://{}; }}\n{snippet}",
        synapse.address
    );
    let (_nginx, address) = start_nginx(&nginx, nginx_folder.path(), &server).await;

    let alice = synapse.register("alicewonder").await;
    let answer = get_with_token(address, TURN_SERVER, Some(&alice.token)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    for secret in ["alice", SERVER_NAME, &alice.id] {
        assert!(!answer.text().contains(secret), "{}", answer.text());
    }
    let answer = answer.json();
    assert_eq!(
        answer["uris"],
        json!([format!(
            "turn:turn.example.org:{}?transport=udp",
            relay.udp.port()
        )])
    );
    client(&relay, &answer)
        .allocate()
        .expect("the relay takes it");

    // as its last step says
    let refused = get_with_token(address, TURN_SERVER, None).await;
    assert_eq!(refused.status, 401);
    assert_eq!(refused.json()["errcode"], "M_MISSING_TOKEN");
    let discovery = get_with_token(address, "/_matrix/push/v1/notify", None).await;
    assert_eq!(discovery.json()["gateway"], "matrix");
}

fn extend(configuration: &mut Value, more: Value) {
    if let (Some(all), Value::Object(more)) = (configuration.as_object_mut(), more) {
        assert!(!more.is_empty());
        all.extend(more);
    }
}

fn client(relay: &Relay, answer: &Value) -> Client {
    let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
    Client::with_credential(relay.udp, &text("username"), &text("password"))
}
