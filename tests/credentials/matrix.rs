//! The Client-Server API's route, before a stand-in for the homeserver.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use stand_ins::{Reply, homeserver::Answer};

use crate::harness::{ALICE, API_KEY, Credential, HOUR, START, Stage, V3, request};

const PATHS: [&str; 5] = [
    V3,
    "/_matrix/client/r0/voip/turnServer",
    "/_matrix/client/v1/voip/turnServer",
    "/_matrix/client/unstable/voip/turnServer",
    "/_matrix/client/api/v1/voip/turnServer",
];

/// Checks a Matrix error that a web client may read.
fn assert_error(answer: &Answer, status: u16, errcode: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.json()["errcode"], errcode, "{}", answer.text());
    assert!(answer.json()["error"].is_string(), "{}", answer.text());
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_cors(answer);
}

fn assert_cors(answer: &Answer) {
    assert_eq!(answer.headers["access-control-allow-origin"], "*");
    assert_eq!(
        answer.headers["access-control-allow-methods"],
        "GET, POST, PUT, DELETE, OPTIONS"
    );
    assert_eq!(
        answer.headers["access-control-allow-headers"],
        "X-Requested-With, Content-Type, Authorization"
    );
}

#[tokio::test]
async fn an_access_token_gets_credentials_on_every_path_for_one_question_each() {
    let stage = Stage::set().await;
    let token = stage.homeserver.log_in(ALICE);
    let bearer = format!("Bearer {token}");
    let mut names = Vec::new();
    for path in PATHS {
        let answer = stage.get(path, &[("authorization", &bearer)]).await;
        assert_cors(&answer);
        let credential = Credential::of(&answer);
        assert_eq!(credential.ttl, 12 * 3600);
        assert!(credential.expiry >= START + 12 * 3600);
        assert!(credential.uris[0].starts_with("turns:"));
        assert!(!answer.text().contains("alice"), "{}", answer.text());
        names.push(credential.name);
    }
    assert!(names.iter().all(|name| *name == names[0]), "{names:?}");
    let asked = stage.homeserver.seen();
    assert_eq!(asked.len(), PATHS.len());
    assert!(asked.iter().all(|asked| asked.complaint.is_none()));
    let connections = stage.homeserver.connections();
    assert_eq!(connections.opened, 1, "the connection is kept");
}

#[tokio::test]
async fn a_user_has_one_name_for_an_epoch_and_another_after_it() {
    let stage = Stage::set().await;
    let phone = stage.homeserver.log_in(ALICE);
    let laptop = stage.homeserver.log_in(ALICE);
    let bob = stage.homeserver.log_in("@bobbuilder:homeserver.example");
    let first = Credential::of(&stage.turn_server(&phone).await);
    let same = Credential::of(&stage.turn_server(&laptop).await);
    let other = Credential::of(&stage.turn_server(&bob).await);
    assert_eq!(same.username, first.username);
    assert_ne!(other.name, first.name);
    // nor is it the name that a service with an API key gets for the same user
    let path = format!("/turn/credentials?username=alicewonder&key={API_KEY}");
    assert_ne!(
        Credential::of(&stage.get(&path, &[]).await).name,
        first.name
    );
    stage.clock.advance(24 * HOUR);
    assert_ne!(
        Credential::of(&stage.turn_server(&phone).await).name,
        first.name
    );
}

#[tokio::test]
async fn a_logged_out_token_is_refused_at_once_in_the_homeservers_words() {
    let stage = Stage::set().await;
    let token = stage.homeserver.log_in(ALICE);
    Credential::of(&stage.turn_server(&token).await);
    stage.homeserver.log_out(&token);
    let answer = stage.turn_server(&token).await;
    assert_error(&answer, 401, "M_UNKNOWN_TOKEN");
    assert_eq!(
        answer.json(),
        json!({
            "errcode": "M_UNKNOWN_TOKEN",
            "error": "Invalid access token passed.",
            "soft_logout": false,
        })
    );
}

#[tokio::test]
async fn an_expired_token_is_refused_so_that_the_client_renews_it() {
    let stage = Stage::set().await;
    let token = stage.homeserver.log_in(ALICE);
    stage.homeserver.expire(&token);
    let answer = stage.turn_server(&token).await;
    assert_error(&answer, 401, "M_UNKNOWN_TOKEN");
    assert_eq!(answer.json()["soft_logout"], true);
}

#[tokio::test]
async fn the_token_is_taken_from_the_query_as_old_clients_send_it() {
    let stage = Stage::set().await;
    let token = stage.homeserver.log_in(ALICE);
    let encoded = token.replace('_', "%5F");
    let answer = stage
        .get(&format!("{V3}?access_token={encoded}"), &[])
        .await;
    Credential::of(&answer);
    let asked = stage.homeserver.seen();
    assert_eq!(asked[0].path, "/_matrix/client/v3/account/whoami");
}

#[tokio::test]
async fn without_a_token_nobody_is_asked() {
    let stage = Stage::set().await;
    for (path, authorization) in [
        (V3.to_owned(), None),
        (format!("{V3}?access_token="), None),
        (V3.to_owned(), Some("Bearer")),
        (V3.to_owned(), Some("Bearer ")),
        (V3.to_owned(), Some("Basic YWxpY2U6cHc=")),
    ] {
        let headers: Vec<_> = authorization
            .map(|value| ("authorization", value))
            .into_iter()
            .collect();
        let answer = stage.get(&path, &headers).await;
        assert_error(&answer, 401, "M_MISSING_TOKEN");
    }
    // what cannot be put into a header is nobody's token
    let answer = stage.get(&format!("{V3}?access_token=a%0Ab"), &[]).await;
    assert_error(&answer, 401, "M_UNKNOWN_TOKEN");
    assert_eq!(stage.homeserver.seen_count(), 0);
}

#[tokio::test]
async fn an_api_key_in_place_of_a_token_stays_here() {
    let stage = Stage::set().await;
    let answer = stage.turn_server(API_KEY).await;
    assert_error(&answer, 401, "M_UNKNOWN_TOKEN");
    assert!(
        answer.text().contains("API key of /turn/credentials"),
        "{}",
        answer.text()
    );
    assert_eq!(stage.homeserver.seen_count(), 0);
}

#[tokio::test]
async fn guests_get_credentials_where_they_may() {
    let mut stage = Stage::set().await;
    let guest = stage.homeserver.log_in_guest("@1:homeserver.example");
    let answer = stage.turn_server(&guest).await;
    assert_error(&answer, 403, "M_GUEST_ACCESS_FORBIDDEN");
    stage.reload(|settings| settings.allow_guests = true);
    Credential::of(&stage.turn_server(&guest).await);
}

#[tokio::test]
async fn a_homeserver_that_is_down_is_502_until_it_is_back() {
    let stage = Stage::set().await;
    let token = stage.homeserver.log_in(ALICE);
    Credential::of(&stage.turn_server(&token).await);
    stage.homeserver.stop().await;
    for _ in 0..3 {
        let answer = stage.turn_server(&token).await;
        assert_error(&answer, 502, "M_UNKNOWN");
        assert!(
            answer.text().contains("cannot be reached"),
            "{}",
            answer.text()
        );
    }
    stage.homeserver.start_again().expect("its port is free");
    Credential::of(&stage.turn_server(&token).await);
}

#[tokio::test]
async fn a_homeserver_that_does_not_answer_in_time_is_502() {
    let mut stage = Stage::set().await;
    let token = stage.homeserver.log_in(ALICE);
    stage.reload(|settings| settings.homeserver_deadline = Duration::from_millis(300));
    stage.homeserver.hold();
    let answer = stage.turn_server(&token).await;
    assert_error(&answer, 502, "M_UNKNOWN");
    stage.homeserver.release();
    stage.reload(|settings| settings.homeserver_deadline = Duration::from_mins(1));
    Credential::of(&stage.turn_server(&token).await);
}

#[tokio::test]
async fn nonsense_of_the_homeserver_is_502_and_ends_no_session() {
    let stage = Stage::set().await;
    let token = stage.homeserver.log_in(ALICE);
    let html = "<html>Please sign in</html>";
    let not_found = json!({"errcode": "M_UNRECOGNIZED", "error": "Unrecognized request"});
    let forbidden = json!({"errcode": "M_FORBIDDEN", "error": "no"});
    let long = format!("@{}:homeserver.example", "a".repeat(2000));
    for nonsense in [
        Reply::text(200, html),
        Reply::text(200, ""),
        Reply::json(200, &json!({})),
        Reply::json(200, &json!([])),
        Reply::json(200, &json!({"user_id": 7})),
        Reply::json(200, &json!({"user_id": ""})),
        Reply::json(200, &json!({"user_id": "alice"})),
        Reply::json(200, &json!({"user_id": long})),
        Reply::json(200, &json!({"user_id": ALICE, "is_guest": "no"})),
        Reply::json(
            200,
            &json!({"user_id": ALICE, "x": "x".repeat(1024 * 1024)}),
        ),
        Reply::status(204),
        Reply::status(302).header("location", "https://elsewhere.example/"),
        Reply::text(401, html),
        Reply::json(401, &json!({"error": "who are you?"})),
        Reply::text(403, html),
        Reply::json(403, &forbidden),
        Reply::json(404, &not_found),
        Reply::text(429, html),
        Reply::status(500),
        Reply::text(503, html),
    ] {
        let said = format!("{nonsense:?}");
        stage.homeserver.queue([nonsense]);
        let answer = stage.turn_server(&token).await;
        assert_error(&answer, 502, "M_UNKNOWN");
        assert!(!answer.text().contains("sign in"), "{said}");
    }
    Credential::of(&stage.turn_server(&token).await);
}

#[tokio::test]
async fn a_connection_that_breaks_off_is_tried_once_more() {
    let stage = Stage::set().await;
    let token = stage.homeserver.log_in(ALICE);
    stage.homeserver.queue([Reply::drop_connection()]);
    Credential::of(&stage.turn_server(&token).await);
    assert_eq!(stage.homeserver.seen_count(), 2);
    stage
        .homeserver
        .queue([Reply::drop_connection(), Reply::drop_connection()]);
    let answer = stage.turn_server(&token).await;
    assert_error(&answer, 502, "M_UNKNOWN");
    assert_eq!(stage.homeserver.seen_count(), 4);
}

#[tokio::test]
async fn a_homeserver_that_wants_to_be_asked_less_is_passed_on() {
    let stage = Stage::set().await;
    let token = stage.homeserver.log_in(ALICE);
    let body = json!({"errcode": "M_LIMIT_EXCEEDED", "error": "Too Many Requests", "retry_after_ms": 9000});
    stage
        .homeserver
        .queue([Reply::json(429, &body).retry_after("9")]);
    let answer = stage.turn_server(&token).await;
    assert_error(&answer, 429, "M_LIMIT_EXCEEDED");
    assert_eq!(answer.json(), body);
    assert_eq!(answer.headers["retry-after"], "9");
}

#[tokio::test]
async fn a_preflight_asks_nobody_and_other_methods_are_405() {
    let stage = Stage::set().await;
    for path in PATHS {
        let answer = request(stage.address, Method::OPTIONS, path, &[], "").await;
        assert_eq!(answer.status, 204);
        assert!(answer.body.is_empty());
        assert_cors(&answer);
        let answer = stage.post(path, &[], "{}").await;
        assert_error(&answer, 405, "M_UNRECOGNIZED");
    }
    assert_eq!(stage.homeserver.seen_count(), 0);
}

#[tokio::test]
async fn there_is_no_such_route_without_a_homeserver() {
    let mut stage = Stage::set_with(|settings| settings.homeserver = None).await;
    assert_error(&stage.turn_server("token").await, 404, "M_UNRECOGNIZED");
    let url = stage.homeserver.url();
    stage.reload(|settings| settings.homeserver = Some(format!("{url}/").parse().expect("a URL")));
    let token = stage.homeserver.log_in(ALICE);
    Credential::of(&stage.turn_server(&token).await);
}

#[tokio::test]
async fn the_homeserver_learns_of_the_client_what_it_would_without_this_service() {
    let stage = Stage::set().await;
    let token = stage.homeserver.log_in(ALICE);
    let bearer = format!("Bearer {token}");
    stage
        .get(
            V3,
            &[
                ("authorization", &bearer),
                ("user-agent", "Element/1.0"),
                ("x-forwarded-for", "198.51.100.7"),
                ("x-forwarded-proto", "https"),
                ("cookie", "not=yours"),
            ],
        )
        .await;
    let asked = &stage.homeserver.seen()[0];
    assert_eq!(asked.header("user-agent"), Some("Element/1.0"));
    assert_eq!(asked.header("x-forwarded-for"), Some("198.51.100.7"));
    assert_eq!(asked.header("x-forwarded-proto"), Some("https"));
    assert_eq!(asked.header("cookie"), None);
}

#[tokio::test]
async fn an_application_service_gets_credentials_of_the_user_that_it_speaks_for() {
    let stage = Stage::set().await;
    let bridge = stage
        .homeserver
        .register_bridge("@bridge:homeserver.example");
    let bearer = format!("Bearer {bridge}");
    let alice = stage.homeserver.log_in(ALICE);
    let path = format!("{V3}?user_id=%40alicewonder%3Ahomeserver.example");
    let as_alice = stage.get(&path, &[("authorization", &bearer)]).await;
    let as_itself = stage.turn_server(&bridge).await;
    let name = Credential::of(&stage.turn_server(&alice).await).name;
    assert_eq!(Credential::of(&as_alice).name, name);
    assert_ne!(Credential::of(&as_itself).name, name);
}

#[tokio::test]
async fn questions_to_the_homeserver_are_limited_by_source() {
    let stage = Stage::set().await;
    let ask = async |from: &str| {
        let headers = [("authorization", "Bearer bogus"), ("x-forwarded-for", from)];
        stage.get(V3, &headers).await
    };
    for _ in 0..100 {
        assert_eq!(ask("198.51.100.7").await.status, 401);
    }
    let answer = ask("198.51.100.7").await;
    assert_error(&answer, 429, "M_LIMIT_EXCEEDED");
    assert_eq!(answer.json()["retry_after_ms"], 100);
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(stage.homeserver.seen_count(), 100);
    assert_eq!(ask("198.51.100.8").await.status, 401);
    stage.clock.advance(Duration::from_millis(100));
    assert_eq!(ask("198.51.100.7").await.status, 401);
}

#[tokio::test]
async fn a_slow_homeserver_leaves_room_for_everything_else() {
    let _ = shared::open_files::raise();
    let stage = Stage::set().await;
    let token = stage.homeserver.log_in(ALICE);
    stage.homeserver.hold();
    let bearer = format!("Bearer {token}");
    let mut asked: tokio::task::JoinSet<_> = (0..513)
        .map(|number| {
            let (address, bearer) = (stage.address, bearer.clone());
            // of so many sources that none is limited
            let from = format!("198.51.100.{}", number % 250);
            async move {
                let headers = [("authorization", &*bearer), ("x-forwarded-for", &from)];
                request(address, Method::GET, V3, &headers, "").await
            }
        })
        .collect();
    // one is too many, and it alone is answered
    let too_many = asked
        .join_next()
        .await
        .expect("there are some")
        .expect("no panic");
    assert_error(&too_many, 429, "M_LIMIT_EXCEEDED");
    assert_eq!(too_many.headers["retry-after"], "1");
    let path = format!("/turn/credentials?username=u&key={API_KEY}");
    Credential::of(&stage.get(&path, &[]).await);
    stage.homeserver.release();
    let answers = asked.join_all().await;
    assert_eq!(answers.len(), 512);
    for answer in &answers {
        Credential::of(answer);
    }
    assert!(stage.homeserver.connections().opened <= 64);
}

#[tokio::test]
async fn a_stop_of_the_homeserver_by_http2_is_survived() {
    // a homeserver behind a proxy that speaks HTTP/2
    let authority = stand_ins::Authority::new().expect("an authority can be made");
    let homeserver = stand_ins::ClientServer::start(&authority, &[b"h2", b"http/1.1"])
        .await
        .expect("loopback has free ports");
    let stage = Stage::set_before(authority, homeserver, |_| ()).await;
    let token = stage.homeserver.log_in(ALICE);
    Credential::of(&stage.turn_server(&token).await);
    stage.homeserver.go_away();
    Credential::of(&stage.turn_server(&token).await);
    stage.homeserver.drop_connections();
    Credential::of(&stage.turn_server(&token).await);
    let seen = stage.homeserver.seen();
    assert!(
        seen.iter()
            .all(|seen| seen.version == http::Version::HTTP_2)
    );
    assert_eq!(seen[0].json(), Value::Null, "a question has no body");
}
