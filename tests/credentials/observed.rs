//! What an operator sees of it: lines of the log, and metrics.

use std::{
    io,
    sync::{Arc, Mutex},
};

use stand_ins::Reply;
use tracing_subscriber::{filter::LevelFilter, fmt::MakeWriter};

use crate::harness::{ALICE, API_KEY, Credential, Stage, V3};

/// A log that stays in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no writer panics").extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Log {
    fn text(&self) -> String {
        let bytes = self.0.lock().expect("no writer panics");
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

#[tokio::test]
async fn neither_the_log_at_its_loudest_nor_a_metric_names_anybody() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(log.clone())
        .finish();
    // of this thread, which is all that this test runs on
    let _guard = tracing::subscriber::set_default(subscriber);

    let stage = Stage::set().await;
    let token = stage.homeserver.log_in(ALICE);
    let guest = stage
        .homeserver
        .log_in_guest("@guest-4711:homeserver.example");
    let bearer = format!("Bearer {token}");
    let from = "198.51.100.77";
    let headers = [
        ("authorization", bearer.as_str()),
        ("x-forwarded-for", from),
        ("user-agent", "program-of-alice"),
    ];
    let issued = Credential::of(&stage.get(V3, &headers).await);
    stage.get(&format!("{V3}?access_token={token}"), &[]).await;
    stage.turn_server(&guest).await;
    stage.turn_server("token-of-nobody").await;
    stage.turn_server(API_KEY).await;
    for nonsense in [
        Reply::text(200, "nonsense-about-alicewonder"),
        Reply::text(500, "nonsense-about-alicewonder"),
        Reply::drop_connection(),
        Reply::drop_connection(),
    ] {
        stage.homeserver.queue([nonsense]);
        stage.turn_server(&token).await;
    }
    stage.homeserver.stop().await;
    stage.turn_server(&token).await;
    let path = format!("/turn/credentials?service=turn&username=alicewonder&key={API_KEY}");
    let by_key = Credential::of(&stage.get(&path, &headers[1..]).await);
    stage
        .get(
            "/turn/credentials?username=alicewonder&key=wrong-key-4711",
            &headers,
        )
        .await;
    stage.post(&path, &headers, "not a form").await;

    let metrics = stage.metrics();
    for line in [
        r#"nocturne_turn_credentials_total{route="matrix",result="issued"} 4"#,
        r#"nocturne_turn_credentials_total{route="matrix",result="guest"} 1"#,
        r#"nocturne_turn_credentials_total{route="matrix",result="unauthorized"} 2"#,
        r#"nocturne_turn_credentials_total{route="rest",result="issued"} 1"#,
        r#"nocturne_turn_credentials_total{route="rest",result="unauthorized"} 1"#,
        r#"nocturne_turn_credentials_total{route="rest",result="bad_request"} 1"#,
        r#"nocturne_turn_credentials_total{route="matrix",result="homeserver_nonsense"} 2"#,
        "nocturne_turn_whoami_seconds_count 9",
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line}:\n{metrics}"
        );
    }
    let log = log.text();
    for said in [
        "the homeserver does not say whose access tokens are",
        "the reverse proxy does not say for whom it asks",
        r#"route="matrix" result="issued""#,
        r#"route="rest" result="unauthorized""#,
    ] {
        assert!(log.contains(said), "{said}:\n{log}");
    }
    for (what, text) in [("log", &log), ("metrics", &metrics)] {
        for secret in [
            "alice",
            "4711",
            "homeserver.example",
            &token,
            &guest,
            "token-of-nobody",
            API_KEY,
            &issued.name,
            &issued.expiry.to_string(),
            &by_key.name,
            from,
            crate::harness::SECRET,
        ] {
            assert!(!text.contains(secret), "{secret} is in the {what}:\n{text}");
        }
    }
}
