//! The stand-ins against clients that do things right, and wrong.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{Request, StatusCode, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rustls::{ClientConfig, pki_types::ServerName};
use serde_json::{Value, json};
use stand_ins::{
    ApnsKey, Apple, Authority, DeviceKeys, Google, KEY_ID, PROJECT_ID, Proxy, PushService, Reply,
    ServiceAccount, StandIns, TEAM_ID, TOPIC, Then, VapidKey,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

const PATIENCE: Duration = Duration::from_secs(20);
const TOKEN: &str = "b29aabb29aabb29aabb29aabb29aabb29aabb29aabb29aabb29aabb29aabb29a";

type Headers<'a> = &'a [(&'a str, &'a str)];

/// One HTTP/2 connection to a stand-in.
struct Client {
    sender: SendRequest<Full<Bytes>>,
    authority: String,
}

impl Client {
    async fn connect(authority: &Authority, address: SocketAddr) -> Self {
        let tls = authority.client_config(&[b"h2"]).unwrap();
        Self::with(tls, address).await.unwrap()
    }

    async fn with(tls: Arc<ClientConfig>, address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let stream = TlsConnector::from(tls).connect(name, stream).await?;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        tokio::spawn(connection);
        Ok(Self {
            sender,
            authority: address.to_string(),
        })
    }

    async fn post(
        &mut self,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> hyper::Result<(StatusCode, http::HeaderMap, Bytes)> {
        let mut request =
            Request::post(format!("https://{}{path}", self.authority)).version(Version::HTTP_2);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        self.sender.ready().await?;
        let (head, body) = self.sender.send_request(request).await?.into_parts();
        Ok((head.status, head.headers, body.collect().await?.to_bytes()))
    }
}

fn seconds() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "tokens carry the real time")]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn provider_token(key: &ApnsKey, issued_at: u64) -> String {
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some(key.key_id().to_owned());
    let key_pem = EncodingKey::from_ec_pem(key.pem().as_bytes()).unwrap();
    let claims = json!({ "iss": key.team_id(), "iat": issued_at });
    format!("bearer {}", encode(&header, &claims, &key_pem).unwrap())
}

fn reason(body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap();
    body["reason"].as_str().unwrap().to_owned()
}

fn path() -> String {
    format!("/3/device/{TOKEN}")
}

#[tokio::test]
async fn apple_takes_a_push_that_is_in_order_and_keeps_it() {
    let authority = Authority::new().unwrap();
    let apple = Apple::start(&authority).await.unwrap();
    let mut client = Client::connect(&authority, apple.address()).await;
    let token = provider_token(apple.key(), seconds());
    let headers = [
        ("authorization", token.as_str()),
        ("apns-topic", TOPIC),
        ("apns-push-type", "alert"),
        ("apns-priority", "10"),
    ];
    let body = r#"{"aps":{"alert":"hello"}}"#;
    let (status, headers, answer) = client.post(&path(), &headers, body).await.unwrap();
    assert_eq!(status, 200);
    assert!(headers.contains_key("apns-id"));
    assert!(answer.is_empty());
    let seen = apple.wait_for(1, PATIENCE).await;
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].device, TOKEN);
    assert_eq!(seen[0].json()["aps"]["alert"], "hello");
    assert_eq!(seen[0].complaint, None);
    assert_eq!(seen[0].version, Version::HTTP_2);
    assert_eq!(apple.connections().opened, 1);
    assert_eq!(apple.provider_tokens(), 1);
}

#[tokio::test]
async fn apple_refuses_provider_tokens_that_are_not_good() {
    let authority = Authority::new().unwrap();
    let apple = Apple::start(&authority).await.unwrap();
    let mut client = Client::connect(&authority, apple.address()).await;
    let key = apple.key();
    let stranger = ApnsKey::generate(KEY_ID, TEAM_ID).unwrap();
    let other_team = {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(KEY_ID.to_owned());
        let pem = EncodingKey::from_ec_pem(key.pem().as_bytes()).unwrap();
        let claims = json!({ "iss": "OTHERTEAM1", "iat": seconds() });
        format!("bearer {}", encode(&header, &claims, &pem).unwrap())
    };
    for (token, expected) in [
        (None, "MissingProviderToken"),
        (
            Some(provider_token(&stranger, seconds())),
            "InvalidProviderToken",
        ),
        (Some(other_team), "InvalidProviderToken"),
        (
            Some(provider_token(key, seconds() - 3700)),
            "ExpiredProviderToken",
        ),
        (
            Some(provider_token(key, seconds() + 600)),
            "InvalidProviderToken",
        ),
        (Some("bearer x.y".to_owned()), "InvalidProviderToken"),
    ] {
        let mut headers = vec![("apns-topic", TOPIC)];
        if let Some(token) = &token {
            headers.push(("authorization", token));
        }
        let (status, _, body) = client.post(&path(), &headers, "{}").await.unwrap();
        assert_eq!((status.as_u16(), reason(&body).as_str()), (403, expected));
    }
    assert_eq!(apple.provider_tokens(), 0);
    let token = provider_token(key, seconds());
    let headers = [("authorization", token.as_str()), ("apns-topic", TOPIC)];
    assert_eq!(client.post(&path(), &headers, "{}").await.unwrap().0, 200);
    apple.expire_tokens();
    let (_, _, body) = client.post(&path(), &headers, "{}").await.unwrap();
    assert_eq!(reason(&body), "ExpiredProviderToken");
    apple.limit_token_updates(true);
    let next = provider_token(key, seconds() - 1);
    let headers = [("authorization", next.as_str()), ("apns-topic", TOPIC)];
    let (status, _, body) = client.post(&path(), &headers, "{}").await.unwrap();
    assert_eq!(
        (status.as_u16(), reason(&body).as_str()),
        (429, "TooManyProviderTokenUpdates")
    );
}

#[tokio::test]
async fn apple_names_what_is_wrong_with_a_request() {
    let authority = Authority::new().unwrap();
    let apple = Apple::start(&authority).await.unwrap();
    let mut client = Client::connect(&authority, apple.address()).await;
    let token = provider_token(apple.key(), seconds());
    let long = "x".repeat(65);
    let large = format!("{{\"x\":\"{}\"}}", "x".repeat(4096));
    let cases: &[(&str, Headers<'_>, &str, u16, &str)] = &[
        (
            "/3/device/",
            &[("apns-topic", TOPIC)],
            "{}",
            400,
            "MissingDeviceToken",
        ),
        (
            "/3/device/xyz",
            &[("apns-topic", TOPIC)],
            "{}",
            400,
            "BadDeviceToken",
        ),
        (
            "/3/token/00",
            &[("apns-topic", TOPIC)],
            "{}",
            404,
            "BadPath",
        ),
        (&path(), &[], "{}", 400, "MissingTopic"),
        (
            &path(),
            &[("apns-topic", "com.other")],
            "{}",
            400,
            "BadTopic",
        ),
        (&path(), &[("apns-topic", TOPIC)], "", 400, "PayloadEmpty"),
        (
            &path(),
            &[("apns-topic", TOPIC)],
            &large,
            413,
            "PayloadTooLarge",
        ),
        (
            &path(),
            &[("apns-topic", TOPIC)],
            "{",
            400,
            "PayloadNotJson",
        ),
        (
            &path(),
            &[("apns-topic", TOPIC), ("apns-priority", "7")],
            "{}",
            400,
            "BadPriority",
        ),
        (
            &path(),
            &[
                ("apns-topic", TOPIC),
                ("apns-push-type", "background"),
                ("apns-priority", "10"),
            ],
            "{}",
            400,
            "BadPriority",
        ),
        (
            &path(),
            &[("apns-topic", TOPIC), ("apns-push-type", "x")],
            "{}",
            400,
            "InvalidPushType",
        ),
        (
            &path(),
            &[("apns-topic", TOPIC), ("apns-expiration", "x")],
            "{}",
            400,
            "BadExpirationDate",
        ),
        (
            &path(),
            &[("apns-topic", TOPIC), ("apns-collapse-id", &long)],
            "{}",
            400,
            "BadCollapseId",
        ),
        (
            &path(),
            &[("apns-topic", TOPIC), ("apns-id", "7")],
            "{}",
            400,
            "BadMessageId",
        ),
    ];
    for (path, headers, body, status, expected) in cases {
        let mut all = vec![("authorization", token.as_str())];
        all.extend_from_slice(headers);
        let body = (*body).to_owned();
        let (got, _, answer) = client.post(path, &all, body).await.unwrap();
        assert_eq!(
            (got.as_u16(), reason(&answer).as_str()),
            (*status, *expected)
        );
    }
    let seen = apple.seen();
    assert_eq!(seen.len(), cases.len());
    assert!(seen.iter().all(|push| push.complaint.is_some()));
}

#[tokio::test]
async fn apple_takes_a_client_certificate_for_its_own_topic() {
    let authority = Authority::new().unwrap();
    let apple = Apple::start(&authority).await.unwrap();
    let year = Duration::from_hours(365 * 24);
    let identity = authority
        .client_identity(
            "com.certified",
            UNIX_EPOCH + Duration::from_secs(seconds()) + year,
        )
        .unwrap();
    let tls = authority.client_config_with(&identity, &[b"h2"]).unwrap();
    let mut client = Client::with(tls, apple.address()).await.unwrap();
    assert_eq!(client.post(&path(), &[], "{}").await.unwrap().0, 200);
    let headers = [("apns-topic", "com.certified")];
    assert_eq!(client.post(&path(), &headers, "{}").await.unwrap().0, 200);
    let headers = [("apns-topic", "com.other")];
    let (_, _, body) = client.post(&path(), &headers, "{}").await.unwrap();
    assert_eq!(reason(&body), "TopicDisallowed");
    let stranger = Authority::new().unwrap();
    let foreign = stranger.client_config(&[b"h2"]).unwrap();
    assert!(Client::with(foreign, apple.address()).await.is_err());
}

#[tokio::test]
async fn scripts_delays_outages_and_goaway() {
    let authority = Authority::new().unwrap();
    let apple = Apple::start(&authority).await.unwrap();
    let token = provider_token(apple.key(), seconds());
    let headers = [("authorization", token.as_str()), ("apns-topic", TOPIC)];
    let mut client = Client::connect(&authority, apple.address()).await;
    apple.queue([Reply::apns(503, "ServiceUnavailable")]);
    apple.queue_for(TOKEN, [Reply::apns(410, "Unregistered").timestamp(1234)]);
    apple.script(|_, before| (before == 2).then(|| Reply::apns(429, "TooManyRequests")));
    let (status, _, body) = client.post(&path(), &headers, "{}").await.unwrap();
    assert_eq!(status, 410);
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body, json!({ "reason": "Unregistered", "timestamp": 1234 }));
    assert_eq!(client.post(&path(), &headers, "{}").await.unwrap().0, 503);
    assert_eq!(client.post(&path(), &headers, "{}").await.unwrap().0, 429);
    assert_eq!(client.post(&path(), &headers, "{}").await.unwrap().0, 200);
    apple.unscript();

    apple.queue([Reply::status(200).then(Then::GoAway)]);
    assert_eq!(client.post(&path(), &headers, "{}").await.unwrap().0, 200);
    let ended = async { while client.post(&path(), &headers, "{}").await.is_ok() {} };
    tokio::time::timeout(PATIENCE, ended).await.unwrap();

    let mut client = Client::connect(&authority, apple.address()).await;
    apple.queue([Reply::drop_connection()]);
    assert!(client.post(&path(), &headers, "{}").await.is_err());

    let mut client = Client::connect(&authority, apple.address()).await;
    assert_eq!(client.post(&path(), &headers, "{}").await.unwrap().0, 200);
    apple.stop().await;
    assert!(client.post(&path(), &headers, "{}").await.is_err());
    assert!(TcpStream::connect(apple.address()).await.is_err());
    apple.start_again().unwrap();
    let mut client = Client::connect(&authority, apple.address()).await;
    assert_eq!(client.post(&path(), &headers, "{}").await.unwrap().0, 200);
    apple.queue([Reply::hang_forever()]);
    let path = path();
    let hanging = client.post(&path, &headers, "{}");
    assert!(
        tokio::time::timeout(Duration::from_millis(200), hanging)
            .await
            .is_err()
    );
    apple.forget();
    apple.hold();
    let mut held = Box::pin(client.post(&path, &headers, "{}"));
    tokio::select! {
        _ = &mut held => panic!("answered while held"),
        seen = apple.wait_for(1, PATIENCE) => assert_eq!(seen.len(), 1),
    }
    apple.release();
    assert_eq!(held.await.unwrap().0, 200);
    apple.set_quiet(true);
    apple.forget();
    assert_eq!(client.post(&path, &headers, "{}").await.unwrap().0, 200);
    assert_eq!((apple.seen_count(), apple.seen().len()), (1, 0));
}

fn assertion(account: &Value, token_uri: &str, scope: &str, lifetime: u64) -> String {
    let key = account["private_key"].as_str().unwrap();
    let claims = json!({
        "iss": account["client_email"],
        "scope": scope,
        "aud": token_uri,
        "iat": seconds(),
        "exp": seconds() + lifetime,
    });
    encode(
        &Header::new(Algorithm::RS256),
        &claims,
        &EncodingKey::from_rsa_pem(key.as_bytes()).unwrap(),
    )
    .unwrap()
}

async fn fetch(client: &mut Client, assertion: &str) -> (StatusCode, Value) {
    let body = format!(
        "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={assertion}"
    );
    let (status, _, body) = client.post("/token", &[], body).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";

#[tokio::test]
async fn google_gives_access_for_a_good_assertion_alone() {
    let authority = Authority::new().unwrap();
    let google = Google::start(&authority).await.unwrap();
    let mut client = Client::connect(&authority, google.address()).await;
    let account: Value = serde_json::from_str(&google.service_account_json()).unwrap();
    let uri = google.token_uri();
    let stranger = ServiceAccount::generate(PROJECT_ID).unwrap();
    let stranger: Value = serde_json::from_str(&stranger.json(&uri)).unwrap();
    for (assertion, expected) in [
        (assertion(&stranger, &uri, SCOPE, 3600), "invalid_grant"),
        (
            assertion(&account, "https://elsewhere/", SCOPE, 3600),
            "invalid_grant",
        ),
        (assertion(&account, &uri, "other", 3600), "invalid_scope"),
        (assertion(&account, &uri, SCOPE, 7200), "invalid_grant"),
    ] {
        let (status, body) = fetch(&mut client, &assertion).await;
        assert_eq!(
            (status.as_u16(), body["error"].as_str()),
            (400, Some(expected))
        );
    }
    let (status, body) = fetch(&mut client, &assertion(&account, &uri, SCOPE, 3600)).await;
    assert_eq!(
        (status.as_u16(), body["token_type"].as_str()),
        (200, Some("Bearer"))
    );
    assert_eq!(google.token_fetches(), 5);
    assert_eq!(google.seen_count(), 0);

    let path = format!("/v1/projects/{PROJECT_ID}/messages:send");
    let bearer = format!("Bearer {}", body["access_token"].as_str().unwrap());
    let headers = [("authorization", bearer.as_str())];
    let message = json!({ "message": { "token": "spqr", "data": { "a": "b" } } }).to_string();
    let (status, _, body) = client.post(&path, &headers, message.clone()).await.unwrap();
    assert_eq!(status, 200, "{body:?}");
    assert_eq!(google.seen()[0].device, "spqr");
    let (status, _, _) = client.post(&path, &[], message.clone()).await.unwrap();
    assert_eq!(status, 401);
    let other = "/v1/projects/other/messages:send";
    let (status, _, _) = client.post(other, &headers, message.clone()).await.unwrap();
    assert_eq!(status, 403);
    google.revoke_tokens();
    let (status, _, body) = client.post(&path, &headers, message).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        (status.as_u16(), body["error"]["status"].as_str()),
        (401, Some("UNAUTHENTICATED"))
    );
}

#[tokio::test]
async fn google_refuses_messages_that_it_documents_as_wrong() {
    let authority = Authority::new().unwrap();
    let google = Google::start(&authority).await.unwrap();
    let mut client = Client::connect(&authority, google.address()).await;
    let account: Value = serde_json::from_str(&google.service_account_json()).unwrap();
    let assertion = assertion(&account, &google.token_uri(), SCOPE, 3600);
    let (_, body) = fetch(&mut client, &assertion).await;
    let bearer = format!("Bearer {}", body["access_token"].as_str().unwrap());
    let path = format!("/v1/projects/{PROJECT_ID}/messages:send");
    let headers = [("authorization", bearer.as_str())];
    for message in [
        json!({}),
        json!({ "data": {} }),
        json!({ "token": "a", "topic": "b" }),
        json!({ "token": "" }),
        json!({ "token": "a b" }),
        json!({ "token": 1 }),
        json!({ "token": "a", "data": { "n": 1 } }),
        json!({ "token": "a", "data": { "aps": {} } }),
        json!({ "token": "a", "data": { "from": "x" } }),
        json!({ "token": "a", "data": { "x": "x".repeat(4096) } }),
        json!({ "token": "a", "android": { "priority": "urgent" } }),
        json!({ "token": "a", "android": { "ttl": 60 } }),
        json!({ "token": "a", "android": { "ttl": "60" } }),
        json!({ "token": "a", "android": { "ttl": "2419201s" } }),
        json!({ "token": "a", "android": { "collapse_key": 1 } }),
        json!({ "token": "a", "registration_ids": [] }),
    ] {
        let body = json!({ "message": message }).to_string();
        let (status, _, answer) = client.post(&path, &headers, body).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(status, 400, "{message}");
        assert_eq!(answer["error"]["status"], "INVALID_ARGUMENT");
        assert!(answer["error"]["details"][0]["@type"].is_string());
    }
    let good = json!({ "message": {
        "fid": "cnVzdC1pcy1hLWNyYWItMQ",
        "data": { "n": "x" },
        "android": { "priority": "high", "ttl": "86400s", "collapse_key": "wake" },
        "apns": { "payload": { "aps": {} } },
    }});
    let answer = client
        .post(&path, &headers, good.to_string())
        .await
        .unwrap();
    assert_eq!(answer.0, 200);
}

#[tokio::test]
async fn a_push_service_demands_what_the_standards_demand() {
    let authority = Authority::new().unwrap();
    let service = PushService::start(&authority).await.unwrap();
    let mut client = Client::connect(&authority, service.address()).await;
    let key = VapidKey::generate().unwrap();
    let vapid = |aud: &str, exp: u64, k: &str| {
        let claims = json!({ "aud": aud, "exp": exp, "sub": "mailto:a@example.org" });
        let pem = EncodingKey::from_ec_pem(key.pem().as_bytes()).unwrap();
        let token = encode(&Header::new(Algorithm::ES256), &claims, &pem).unwrap();
        format!("vapid t={token}, k={k}")
    };
    let (origin, soon) = (service.url(), seconds() + 3600);
    let good = vapid(&origin, soon, &key.public());
    let other_key = VapidKey::generate().unwrap().public();
    let subscription = service.subscribe().unwrap();
    let path = subscription
        .endpoint
        .strip_prefix(&origin)
        .unwrap()
        .to_owned();
    let aes = ("content-encoding", "aes128gcm");
    let long = "x".repeat(33);
    let later = vapid(&origin, seconds() + 2 * 86400, &key.public());
    let elsewhere = vapid("https://127.0.0.1", soon, &key.public());
    let forged = vapid(&origin, soon, &other_key);
    let cases: &[(Headers<'_>, usize, u16)] = &[
        (&[("authorization", &good), aes], 100, 400),
        (&[("ttl", "60"), ("authorization", &good), aes], 4097, 413),
        (&[("ttl", "60"), ("authorization", &good)], 100, 400),
        (&[("ttl", "60"), aes], 100, 401),
        (
            &[("ttl", "60"), ("authorization", &elsewhere), aes],
            100,
            403,
        ),
        (&[("ttl", "60"), ("authorization", &later), aes], 100, 403),
        (&[("ttl", "60"), ("authorization", &forged), aes], 100, 403),
        (
            &[
                ("ttl", "60"),
                ("authorization", &good),
                aes,
                ("topic", &long),
            ],
            100,
            400,
        ),
        (
            &[
                ("ttl", "60"),
                ("authorization", &good),
                aes,
                ("topic", "a=="),
            ],
            100,
            400,
        ),
        (
            &[
                ("ttl", "60"),
                ("authorization", &good),
                aes,
                ("urgency", "top"),
            ],
            100,
            400,
        ),
        (
            &[
                ("ttl", "60"),
                ("authorization", &good),
                aes,
                ("urgency", "high"),
            ],
            100,
            201,
        ),
    ];
    for (headers, length, expected) in cases {
        let body = vec![0; *length];
        let (status, answer, text) = client.post(&path, headers, body).await.unwrap();
        assert_eq!(status.as_u16(), *expected, "{text:?}");
        assert_eq!(answer.contains_key("location"), *expected == 201);
    }
    // the last one was taken, and the browser could not have read it
    let last = service.seen().pop().unwrap();
    assert_eq!(last.device, subscription.endpoint);
    assert!(last.decrypted.is_none() && last.complaint.is_some());

    let headers = [("ttl", "60"), ("authorization", good.as_str()), aes];
    let restricted = service.subscribe_for(&other_key).unwrap();
    let restricted = restricted
        .endpoint
        .strip_prefix(&origin)
        .unwrap()
        .to_owned();
    assert_eq!(
        client
            .post(&restricted, &headers, vec![0; 9])
            .await
            .unwrap()
            .0,
        403
    );
    assert_eq!(
        client.post("/push/none", &headers, "").await.unwrap().0,
        404
    );
    service.unsubscribe(&subscription);
    assert_eq!(client.post(&path, &headers, "").await.unwrap().0, 410);

    let up = service.subscribe_unified_push().unwrap();
    let path = up.endpoint.strip_prefix(&origin).unwrap().to_owned();
    assert_eq!(client.post(&path, &[], "anything").await.unwrap().0, 201);
    assert_eq!(service.seen().pop().unwrap().body, "anything");
    assert_eq!(client.post(&path, &[], vec![0; 4097]).await.unwrap().0, 413);
}

#[tokio::test]
async fn a_proxy_tunnels_to_mapped_names_and_to_nowhere_else() {
    let stand_ins = StandIns::start().await.unwrap();
    let proxy = Proxy::start().await.unwrap();
    proxy.map("api.push.apple.com:443", stand_ins.apple.address());
    proxy.require("user", "secret");
    let connect = async |target: &str, credentials: &str| {
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        let head = format!("CONNECT {target} HTTP/1.0\r\n{credentials}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[9..]).into_owned()
    };
    let credentials = "Proxy-Authorization: basic dXNlcjpzZWNyZXQ=\r\n";
    assert_eq!(connect("api.push.apple.com:443", "").await, "407");
    assert_eq!(connect("api.push.apple.com:443", credentials).await, "200");
    assert_eq!(connect("example.org:443", credentials).await, "502");
    let tls = stand_ins.authority.client_config(&[b"h2"]).unwrap();
    let mut tunnel = TcpStream::connect(proxy.address()).await.unwrap();
    let head = format!("CONNECT api.push.apple.com:443 HTTP/1.1\r\n{credentials}\r\n");
    tunnel.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(tunnel.read_u8().await.unwrap());
    }
    let name = ServerName::try_from("api.push.apple.com").unwrap();
    let through = TlsConnector::from(tls).connect(name, tunnel).await;
    assert!(through.is_ok());
    proxy.refuse(Some(503));
    assert_eq!(connect("api.push.apple.com:443", credentials).await, "503");
    let tunnels = proxy.wait_for(5, PATIENCE).await;
    let answered: Vec<_> = tunnels.iter().map(|tunnel| tunnel.answered).collect();
    assert_eq!(answered, [407, 200, 502, 200, 503]);
    assert_eq!(tunnels[1].target, "api.push.apple.com:443");
    assert_eq!(
        tunnels[1].authorization.as_deref(),
        Some("basic dXNlcjpzZWNyZXQ=")
    );
    proxy.stop().await;
    assert!(TcpStream::connect(proxy.address()).await.is_err());
    proxy.start_again().unwrap();
    assert_eq!(connect("api.push.apple.com:443", credentials).await, "503");
}

#[tokio::test]
async fn files_are_written_for_a_gateway() {
    let stand_ins = StandIns::start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let files = stand_ins.write_files(directory.path()).unwrap();
    let read = |path| std::fs::read_to_string(path).unwrap();
    assert!(read(&files.ca).starts_with("-----BEGIN CERTIFICATE-----"));
    assert!(read(&files.apns_key).starts_with("-----BEGIN PRIVATE KEY-----"));
    let certificate = read(&files.apns_certificate);
    assert!(certificate.contains("BEGIN CERTIFICATE") && certificate.contains("PRIVATE KEY"));
    let account: Value = serde_json::from_str(&read(&files.service_account)).unwrap();
    assert_eq!(account["token_uri"], stand_ins.google.token_uri());
    assert!(read(&files.vapid_key).contains("PRIVATE KEY"));
    assert!(DeviceKeys::generate().unwrap().p256dh().len() == 87);
}
