//! What an operator sees of it: lines of the program's log, and metrics.

use stand_ins::Reply;

use crate::{
    harness::{ALICE, API_KEY, Credential, V3},
    program::Stage,
    relay::SECRET,
};

#[tokio::test]
async fn neither_the_log_at_its_loudest_nor_a_metric_names_anybody() {
    let stage = Stage::set().await;
    let token = stage.homeserver.log_in(ALICE);
    let guest = stage
        .homeserver
        .log_in_guest("@guest-zebra:homeserver.example");
    let bearer = format!("Bearer {token}");
    let from = "198.51.100.77";
    let headers = [
        ("authorization", bearer.as_str()),
        ("x-forwarded-for", from),
        ("user-agent", "program-of-alice"),
    ];
    let by_token = stage.get_with(V3, &headers).await;
    let by_token = Credential::signed_by(SECRET, &by_token);
    let in_query = format!("{V3}?access_token={token}");
    stage.get_with(&in_query, &[]).await;
    stage.get(V3, &guest).await;
    stage.get(V3, "token-of-nobody").await;
    stage.get(V3, API_KEY).await;
    for nonsense in [
        Reply::text(200, "nonsense-about-alicewonder"),
        Reply::text(500, "nonsense-about-alicewonder"),
    ] {
        stage.homeserver.queue([nonsense]);
        stage.get(V3, &token).await;
    }
    stage.homeserver.stop().await;
    stage.get(V3, &token).await;
    let with_key = format!("/turn/credentials?service=turn&username=alicewonder&key={API_KEY}");
    let by_key = stage.get_with(&with_key, &headers[1..]).await;
    let by_key = Credential::signed_by(SECRET, &by_key);
    let with_wrong_key = "/turn/credentials?username=alicewonder&key=wrong-key-zebra";
    stage.get_with(with_wrong_key, &headers).await;
    let with_colon = format!("/turn/credentials?username=alice:wonder&key={API_KEY}");
    stage.get_with(&with_colon, &headers).await;

    let (_, metrics) = stage.relay.get("/metrics");
    for line in [
        r#"nocturne_turn_credentials_total{route="matrix",result="issued"} 2"#,
        r#"nocturne_turn_credentials_total{route="matrix",result="guest"} 1"#,
        r#"nocturne_turn_credentials_total{route="matrix",result="unauthorized"} 2"#,
        r#"nocturne_turn_credentials_total{route="matrix",result="homeserver_nonsense"} 2"#,
        r#"nocturne_turn_credentials_total{route="matrix",result="homeserver_unreachable"} 1"#,
        r#"nocturne_turn_credentials_total{route="rest",result="issued"} 1"#,
        r#"nocturne_turn_credentials_total{route="rest",result="unauthorized"} 1"#,
        r#"nocturne_turn_credentials_total{route="rest",result="bad_request"} 1"#,
        "nocturne_turn_whoami_seconds_count 7",
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line}:\n{metrics}"
        );
    }
    let log = stage.relay.log();
    for said in [
        "the homeserver does not say whose access tokens are",
        "the reverse proxy does not say for whom it asks",
        r#""route":"matrix","result":"issued""#,
        r#""route":"rest","result":"unauthorized""#,
    ] {
        assert!(log.contains(said), "{said}:\n{log}");
    }
    for (what, text) in [("log", &log), ("metrics", &metrics)] {
        for secret in [
            "alice",
            "zebra",
            "homeserver.example",
            &token,
            &guest,
            "token-of-nobody",
            API_KEY,
            SECRET,
            &by_token.name,
            &by_token.expiry.to_string(),
            &by_key.name,
            from,
        ] {
            assert!(!text.contains(secret), "{secret} is in the {what}:\n{text}");
        }
    }
}
