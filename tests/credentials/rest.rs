//! `/turn/credentials`, for services with an API key.

use http::Method;

use crate::harness::{API_KEY, Credential, HOUR, OTHER_API_KEY, START, Stage, request};
use shared::secret::Secret;

const PATH: &str = "/turn/credentials";
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

fn for_user(user: &str, key: &str) -> String {
    format!("{PATH}?service=turn&username={user}&key={key}")
}

#[tokio::test]
async fn a_key_gets_credentials_for_twelve_hours_that_name_nobody() {
    let stage = Stage::set().await;
    let answer = stage.get(&for_user("alicewonder", API_KEY), &[]).await;
    let credential = Credential::of(&answer);
    assert_eq!(credential.ttl, 12 * 3600);
    assert!(!answer.text().contains("alice"), "{}", answer.text());
    // for as long as it says at the least, to the next full hour for everybody
    assert!(credential.expiry >= START + 12 * 3600);
    assert!(credential.expiry < START + 13 * 3600);
    assert_eq!(credential.expiry % 3600, 0);
    assert_eq!(credential.uris, stage.settings.uris);
}

#[tokio::test]
async fn the_key_is_taken_wherever_it_belongs() {
    let stage = Stage::set().await;
    let bearer = format!("Bearer {API_KEY}");
    let in_header = [("authorization", bearer.as_str())];
    let without = format!("{PATH}?service=turn&username=u");
    let form = format!("service=turn&username=u&key={API_KEY}");
    let answers = [
        stage.get(&for_user("u", API_KEY), &[]).await,
        stage.get(&without, &in_header).await,
        stage
            .get(
                &without,
                &[("authorization", &format!("bearer  {API_KEY}"))],
            )
            .await,
        stage.post(&for_user("u", API_KEY), &[], "").await,
        stage.post(&without, &in_header, "").await,
        stage.post(PATH, &[FORM], &form).await,
        stage
            .post(
                PATH,
                &[(
                    "content-type",
                    "application/x-www-form-urlencoded; charset=utf-8",
                )],
                &form,
            )
            .await,
        // both in the query and in the form
        stage.post(&for_user("u", API_KEY), &[FORM], &form).await,
        // with another's header that a proxy may have added
        stage
            .get(&for_user("u", API_KEY), &[("authorization", "Basic dTpw")])
            .await,
        stage.get(&for_user("u", OTHER_API_KEY), &in_header).await,
    ];
    let names: Vec<_> = answers
        .iter()
        .map(|answer| Credential::of(answer).name)
        .collect();
    assert!(names.iter().all(|name| *name == names[0]), "{names:?}");
    let head = request(
        stage.address,
        Method::HEAD,
        &for_user("u", API_KEY),
        &[],
        "",
    )
    .await;
    assert_eq!(head.status, 200);
}

#[tokio::test]
async fn without_a_good_key_it_is_401_and_says_where_one_belongs() {
    let stage = Stage::set().await;
    let missing = format!("{PATH}?service=turn&username=u");
    let with = |more: &str| format!("{missing}&{more}");
    let place = "send it as `Authorization: Bearer KEY` or as the parameter `key`";
    for (path, headers, says) in [
        (
            missing.clone(),
            vec![],
            format!("there is no API key: {place}"),
        ),
        (
            with("key="),
            vec![],
            format!("there is no API key: {place}"),
        ),
        (
            with("key=wrong"),
            vec![],
            "the API key is none of `credentials.api_keys`".to_owned(),
        ),
        (
            missing.clone(),
            vec![("authorization", "Bearer syt_YWxpY2U_abcdef_123456")],
            "belongs to /_matrix/client/v3/voip/turnServer".to_owned(),
        ),
        (
            missing.clone(),
            vec![("authorization", API_KEY)],
            "`Authorization` has no `Bearer KEY`".to_owned(),
        ),
        (
            missing.clone(),
            vec![("x-api-key", API_KEY)],
            format!("an API key does not belong into the header `X-API-Key`: {place}"),
        ),
        (
            with(&format!("api_key={API_KEY}")),
            vec![],
            format!("an API key does not belong into the parameter `api_key`: {place}"),
        ),
        (
            with(&format!("access_token={API_KEY}")),
            vec![],
            format!("an API key does not belong into the parameter `access_token`: {place}"),
        ),
        // nearly right is wrong
        (
            with(&format!("key={API_KEY}x")),
            vec![],
            "is none of".to_owned(),
        ),
        (
            with(&format!("key={}", &API_KEY[1..])),
            vec![],
            "is none of".to_owned(),
        ),
        (
            with(&format!("key={}", API_KEY.to_uppercase())),
            vec![],
            "is none of".to_owned(),
        ),
    ] {
        let answer = stage.get(&path, &headers).await;
        assert_eq!(answer.status, 401, "{path} {headers:?}");
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
        assert_eq!(answer.headers["cache-control"], "no-store");
        let error = answer.json()["error"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        assert!(error.contains(&says), "{path} {headers:?}: {error}");
        assert!(!error.contains(API_KEY), "{error}");
    }
}

#[tokio::test]
async fn nobody_may_ask_where_no_key_is_configured() {
    let stage = Stage::set_with(|settings| settings.api_keys.clear()).await;
    for key in ["", "anything"] {
        let answer = stage.get(&for_user("u", key), &[]).await;
        assert_eq!(answer.status, 401);
        assert!(
            answer.text().contains("`credentials.api_keys` is empty"),
            "{}",
            answer.text()
        );
    }
}

#[tokio::test]
async fn a_user_has_one_name_for_an_epoch_and_another_after_it() {
    let stage = Stage::set().await;
    let path = for_user("alicewonder", API_KEY);
    let first = Credential::of(&stage.get(&path, &[]).await);
    stage.clock.advance(23 * HOUR);
    let later = Credential::of(&stage.get(&path, &[]).await);
    assert_eq!(later.name, first.name);
    assert_eq!(later.expiry, first.expiry + 23 * 3600);
    stage.clock.advance(HOUR);
    let next = Credential::of(&stage.get(&path, &[]).await);
    assert_ne!(next.name, first.name);
}

#[tokio::test]
async fn all_who_ask_within_an_hour_get_the_same_expiry() {
    let stage = Stage::set().await;
    let first = Credential::of(&stage.get(&for_user("a", API_KEY), &[]).await);
    stage.clock.advance(HOUR / 4);
    let second = Credential::of(&stage.get(&for_user("b", API_KEY), &[]).await);
    assert_eq!(second.expiry, first.expiry);
}

#[tokio::test]
async fn names_differ_by_user_by_service_and_by_process() {
    let stage = Stage::set().await;
    let mut names = Vec::new();
    for path in [
        for_user("a", API_KEY),
        for_user("b", API_KEY),
        for_user("a", OTHER_API_KEY),
        // somebody else each time
        format!("{PATH}?service=turn&key={API_KEY}"),
        format!("{PATH}?service=turn&key={API_KEY}"),
        for_user("", API_KEY),
        for_user("", API_KEY),
    ] {
        names.push(Credential::of(&stage.get(&path, &[]).await).name);
    }
    // whoever has the secret and a list of users cannot tell who it was: another key makes another name
    let started_anew = Stage::set().await;
    let answer = started_anew.get(&for_user("a", API_KEY), &[]).await;
    names.push(Credential::of(&answer).name);
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count, "{names:?}");
}

#[tokio::test]
async fn what_means_nothing_is_400_and_says_why() {
    let stage = Stage::set().await;
    let long = "u".repeat(256);
    for (path, says) in [
        (
            for_user("%40alice%3Aexample.org", API_KEY),
            "`username` has a colon in it",
        ),
        (
            for_user("1800000000:alice", API_KEY),
            "`username` has a colon in it",
        ),
        (for_user(&long, API_KEY), "longer than 255 bytes"),
        (
            format!("{PATH}?service=stun&username=u&key={API_KEY}"),
            "`service` is not `turn`",
        ),
    ] {
        let answer = stage.get(&path, &[]).await;
        assert_eq!(answer.status, 400, "{path}");
        assert!(answer.text().contains(says), "{path}: {}", answer.text());
        assert!(!answer.text().contains("alice"));
    }
    let fits = stage.get(&for_user(&long[1..], API_KEY), &[]).await;
    Credential::of(&fits);
    // older clients say nothing of the service
    let answer = stage
        .get(&format!("{PATH}?username=u&key={API_KEY}"), &[])
        .await;
    Credential::of(&answer);
}

#[tokio::test]
async fn a_body_that_is_no_form_is_refused_with_the_way_to_do_it() {
    let stage = Stage::set().await;
    let json = format!(r#"{{"service":"turn","username":"u","key":"{API_KEY}"}}"#);
    let answer = stage
        .post(PATH, &[("content-type", "application/json")], &json)
        .await;
    assert_eq!(answer.status, 415);
    assert!(answer.text().contains("is not a form"), "{}", answer.text());
    let answer = stage.post(PATH, &[FORM], &"x".repeat(8 * 1024 + 1)).await;
    assert_eq!(answer.status, 413);
    let answer = request(
        stage.address,
        Method::DELETE,
        &for_user("u", API_KEY),
        &[],
        "",
    )
    .await;
    assert_eq!(answer.status, 405);
    assert_eq!(answer.headers["allow"], "GET, HEAD, POST");
}

#[tokio::test]
async fn trying_keys_is_stopped_at_its_source_alone() {
    let stage = Stage::set().await;
    let from = |address: &'static str| [("x-forwarded-for", address)];
    let good = for_user("u", API_KEY);
    let wrong = for_user("u", "wrong");
    for _ in 0..20 {
        assert_eq!(stage.get(&wrong, &from("198.51.100.7")).await.status, 401);
    }
    for path in [&wrong, &good] {
        let answer = stage.get(path, &from("198.51.100.7")).await;
        assert_eq!(answer.status, 429);
        assert_eq!(answer.headers["retry-after"], "3");
    }
    // what a client puts before it does not help
    let answer = stage.get(&wrong, &from("192.0.2.1, 198.51.100.7")).await;
    assert_eq!(answer.status, 429);
    assert_eq!(stage.get(&good, &from("198.51.100.8")).await.status, 200);
    assert_eq!(stage.get(&good, &[]).await.status, 200);
    // an IPv6 host can choose among the addresses of a /64
    for host in 0..20 {
        let address = format!("2001:db8:1:1::{host:x}");
        assert_eq!(
            stage
                .get(&wrong, &[("x-forwarded-for", &address)])
                .await
                .status,
            401
        );
    }
    assert_eq!(
        stage
            .get(&wrong, &from("2001:db8:1:1:ffff::1"))
            .await
            .status,
        429
    );
    assert_eq!(
        stage.get(&wrong, &from("2001:db8:1:2::1")).await.status,
        401
    );
    stage.clock.advance(std::time::Duration::from_secs(3));
    assert_eq!(stage.get(&good, &from("198.51.100.7")).await.status, 200);
}

#[tokio::test]
async fn a_good_key_is_never_limited() {
    let stage = Stage::set().await;
    for _ in 0..200 {
        let answer = stage
            .get(
                &for_user("u", API_KEY),
                &[("x-forwarded-for", "198.51.100.7")],
            )
            .await;
        assert_eq!(answer.status, 200);
    }
}

#[tokio::test]
async fn a_reload_takes_new_keys_and_secrets_and_leaves_the_names() {
    let mut stage = Stage::set().await;
    let path = for_user("u", API_KEY);
    let before = Credential::of(&stage.get(&path, &[]).await);
    stage.reload(|settings| settings.secrets.insert(0, Secret::new("south".to_owned())));
    let after = Credential::signed_by("south", &stage.get(&path, &[]).await);
    assert_eq!(after.username, before.username);
    stage.reload(|settings| {
        settings.api_keys.remove(0);
    });
    assert_eq!(stage.get(&path, &[]).await.status, 401);
}

#[tokio::test]
async fn clients_are_told_four_uris_at_the_most_and_tls_first() {
    let uris = [
        "turn:a.example?transport=udp",
        "turn:a.example?transport=tcp",
        "turn:b.example?transport=udp",
        "turn:b.example?transport=tcp",
        "turns:a.example:443?transport=tcp",
        "turns:b.example:443?transport=tcp",
    ];
    let stage = Stage::set_with(|settings| settings.uris = uris.map(str::to_owned).to_vec()).await;
    let credential = Credential::of(&stage.get(&for_user("u", API_KEY), &[]).await);
    assert_eq!(credential.uris, [uris[4], uris[5], uris[0], uris[1]]);
}

#[tokio::test]
async fn a_service_in_a_web_page_is_not_meant() {
    let stage = Stage::set().await;
    let headers = [("origin", "https://app.example.org")];
    let answer = stage.get(&for_user("u", API_KEY), &headers).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers.get("access-control-allow-origin"), None);
}
