//! The HTTP client against servers and proxies that speak real TLS and HTTP/2 on loopback.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use shared::{
    address_policy::AddressPolicy,
    clock::Clock,
    environment::Environment,
    http_client::{ClientConfig, Error, ErrorKind, HttpClient, Response, Versions},
    secret::Secret,
    tls,
};
use stand_ins::{Authority, Proxy, PushService, Reply};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server that takes anything at `/up/…`, and a client that trusts it.
struct Fixture {
    server: PushService,
    config: ClientConfig,
    _directory: Directory,
}

/// A folder that is gone afterwards.
struct Directory(std::path::PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn fixture() -> Fixture {
    let authority = Authority::new().expect("an authority");
    let server = PushService::start(&authority).await.expect("a server");
    let unique = format!(
        "nocturne-http-client-{}-{}",
        std::process::id(),
        server.address().port()
    );
    let directory = Directory(std::env::temp_dir().join(unique));
    std::fs::create_dir_all(&directory.0).expect("a folder");
    let pem = directory.0.join("ca.pem");
    std::fs::write(&pem, authority.pem()).expect("a file");
    let environment = [("SSL_CERT_FILE", pem.to_str().expect("UTF-8"))]
        .into_iter()
        .collect::<Environment>();
    let config = ClientConfig {
        roots: Arc::new(tls::roots(&environment).expect("roots")),
        identity: None,
        proxy: None,
        no_proxy: None,
        versions: Versions::Http2Or1,
        policy: None,
        connect_timeout: PATIENCE,
        max_connections: 4,
        max_response_body: 1024,
    };
    Fixture {
        server,
        config,
        _directory: directory,
    }
}

impl Fixture {
    fn client(&self) -> HttpClient {
        HttpClient::new(self.config.clone()).expect("a client")
    }

    fn url(&self) -> String {
        self.server
            .subscribe_unified_push()
            .expect("a subscription")
            .endpoint
    }
}

async fn post(client: &HttpClient, url: &str) -> Result<Response, Error> {
    post_by(client, url, Clock::system().now() + PATIENCE).await
}

async fn post_by(client: &HttpClient, url: &str, deadline: Instant) -> Result<Response, Error> {
    let request = http::Request::post(url)
        .header("ttl", "60")
        .header("content-encoding", "aes128gcm")
        .body(Bytes::from_static(b"hello"))
        .expect("a request");
    let origin = client.origin(request.uri())?;
    origin.send(request, deadline).await
}

#[tokio::test]
async fn one_connection_carries_many_requests() {
    let fixture = fixture().await;
    let (client, url) = (fixture.client(), fixture.url());
    for _ in 0..20 {
        assert_eq!(post(&client, &url).await.expect("answered").status, 201);
    }
    assert_eq!(fixture.server.connections().opened, 1);
    assert_eq!(fixture.server.seen()[0].version, http::Version::HTTP_2);
}

#[tokio::test]
async fn more_connections_are_opened_when_the_servers_stream_limit_asks_for_them_but_not_more_than_configured()
 {
    let fixture = fixture().await;
    fixture.server.set_max_concurrent_streams(2);
    fixture.server.set_delay(Duration::from_millis(300));
    let (client, url) = (fixture.client(), fixture.url());
    let requests = (0..40).map(|_| {
        let (client, url) = (client.clone(), url.clone());
        tokio::spawn(async move { post(&client, &url).await.map(|response| response.status) })
    });
    for request in requests.collect::<Vec<_>>() {
        assert_eq!(request.await.expect("no panic").expect("answered"), 201);
    }
    let connections = fixture.server.connections();
    assert!(
        connections.opened > 1,
        "one connection was not enough: {connections:?}"
    );
    assert!(connections.opened <= 4, "{connections:?}");
    assert!(
        connections.most_streams <= 2,
        "the server's limit was kept: {connections:?}"
    );
}

#[tokio::test]
async fn http_1_is_spoken_where_the_server_knows_nothing_else() {
    let fixture = fixture().await;
    let mut config = fixture.config.clone();
    config.versions = Versions::Http2Or1;
    let client = HttpClient::new(config).expect("a client");
    let server = one_shot_http1(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await;
    let response = post(&client, &format!("http://{server}/path"))
        .await
        .expect("answered");
    assert_eq!(
        (response.status.as_u16(), &response.body[..]),
        (200, &b"hi"[..])
    );
}

/// A connection is kept for the next request, also one that was just made.
#[tokio::test]
async fn http_1_connections_are_used_again() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a listener");
    let address = listener.local_addr().expect("an address");
    let opened = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    tokio::spawn({
        let opened = Arc::clone(&opened);
        async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                opened.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                tokio::spawn(async move {
                    let mut buffer = Vec::new();
                    while stream
                        .read_buf(&mut buffer)
                        .await
                        .is_ok_and(|read| read > 0)
                    {
                        // The requests of this test end with their body.
                        if buffer.ends_with(b"hello") {
                            buffer.clear();
                            let answer = b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n";
                            if stream.write_all(answer).await.is_err() {
                                return;
                            }
                        }
                    }
                });
            }
        }
    });
    let client = fixture().await.client();
    for _ in 0..20 {
        let response = post(&client, &format!("http://{address}/"))
            .await
            .expect("answered");
        assert_eq!(response.status, 201);
    }
    assert_eq!(opened.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_server_that_does_not_speak_http_is_an_error_and_no_more() {
    let fixture = fixture().await;
    let client = fixture.client();
    let server = one_shot_http1(b"220 mail.example.org ESMTP\r\n").await;
    let error = post(&client, &format!("http://{server}/path"))
        .await
        .expect_err("not HTTP");
    assert_eq!(error.kind, ErrorKind::Protocol);
}

#[tokio::test]
async fn a_dead_connection_is_replaced() {
    let fixture = fixture().await;
    let (client, url) = (fixture.client(), fixture.url());
    post(&client, &url).await.expect("answered");
    fixture.server.stop().await;
    let error = post(&client, &url).await.expect_err("nobody listens");
    assert!(
        matches!(error.kind, ErrorKind::Connect | ErrorKind::Closed),
        "{error:?}"
    );
    fixture.server.start_again().expect("the same port");
    let mut answered = false;
    for _ in 0..50 {
        if post(&client, &url).await.is_ok() {
            answered = true;
            break;
        }
    }
    assert!(answered, "the client found its way back");
}

#[tokio::test]
async fn requests_go_on_over_a_new_connection_after_goaway() {
    let fixture = fixture().await;
    let (client, url) = (fixture.client(), fixture.url());
    for _ in 0..5 {
        assert_eq!(post(&client, &url).await.expect("answered").status, 201);
        fixture.server.go_away();
    }
    assert!(fixture.server.connections().opened > 1);
}

#[tokio::test]
async fn a_connection_that_answers_nothing_is_given_up() {
    let fixture = fixture().await;
    let (client, url) = (fixture.client(), fixture.url());
    post(&client, &url).await.expect("answered");
    fixture.server.queue([Reply::hang_forever()]);
    let soon = Clock::system().now() + Duration::from_millis(1200);
    let error = post_by(&client, &url, soon).await.expect_err("no answer");
    assert_eq!(error.kind, ErrorKind::Timeout);
    assert!(!error.unprocessed, "it may have been processed");
    assert_eq!(post(&client, &url).await.expect("answered").status, 201);
    assert_eq!(
        fixture.server.connections().opened,
        2,
        "the next request took a connection of its own"
    );
}

/// Whoever sends a body slowly decides how little time is left for the provider.
#[tokio::test]
async fn a_connection_outlives_requests_that_had_no_time_for_an_answer() {
    let fixture = fixture().await;
    let (client, url) = (fixture.client(), fixture.url());
    post(&client, &url).await.expect("answered");
    for _ in 0..5 {
        fixture.server.queue([Reply::hang_forever()]);
        let soon = Clock::system().now() + Duration::from_millis(50);
        let error = post_by(&client, &url, soon).await.expect_err("no answer");
        assert_eq!(error.kind, ErrorKind::Timeout);
    }
    assert_eq!(post(&client, &url).await.expect("answered").status, 201);
    assert_eq!(fixture.server.connections().opened, 1);
}

#[tokio::test]
async fn long_answers_are_cut() {
    let fixture = fixture().await;
    let (client, url) = (fixture.client(), fixture.url());
    let mut reply = Reply::status(200);
    reply.body = Bytes::from(vec![b'x'; 1024 * 1024]);
    fixture.server.queue([reply]);
    assert_eq!(
        post(&client, &url).await.expect("answered").body.len(),
        1024
    );
    assert_eq!(
        post(&client, &url).await.expect("answered").status,
        201,
        "and the next request works"
    );
}

/// What a server may send without being asked for more is memory that it can take.
#[tokio::test]
async fn a_server_may_not_send_megabytes_ahead() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let url = format!("http://{}/x", listener.local_addr().expect("an address"));
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a connection");
        let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
        let accepted = connection.accept().await.expect("a request");
        let (_request, mut respond) = accepted.expect("a request");
        let mut body = respond
            .send_response(http::Response::new(()), false)
            .expect("open");
        body.reserve_capacity(10_000_000);
        let granted = std::future::poll_fn(|context| body.poll_capacity(context)).await;
        body.send_data(Bytes::new(), true).expect("open");
        let granted = granted.expect("open").expect("a window");
        tokio::spawn(async move { while connection.accept().await.is_some() {} });
        granted
    });
    let fixture = fixture().await;
    let client = HttpClient::new(ClientConfig {
        versions: Versions::Http2,
        ..fixture.config.clone()
    });
    let response = post(&client.expect("a client"), &url).await;
    assert_eq!(response.expect("answered").status, 200);
    let granted = server.await.expect("no panic");
    assert!(granted <= 64 * 1024, "{granted}");
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let fixture = fixture().await;
    let (client, url) = (fixture.client(), fixture.url());
    fixture
        .server
        .queue([Reply::status(307).header("location", &url)]);
    assert_eq!(post(&client, &url).await.expect("answered").status, 307);
    assert_eq!(fixture.server.seen_count(), 1);
}

#[tokio::test]
async fn only_certificates_of_the_roots_are_trusted() {
    let fixture = fixture().await;
    let stranger = PushService::start(&Authority::new().expect("an authority"))
        .await
        .expect("a server");
    let error = post(
        &fixture.client(),
        &stranger
            .subscribe_unified_push()
            .expect("a subscription")
            .endpoint,
    )
    .await
    .expect_err("not trusted");
    assert_eq!(error.kind, ErrorKind::Tls);
    assert_eq!(stranger.seen_count(), 0);
}

#[tokio::test]
async fn a_policy_denies_literals_and_names_alike_and_names_no_host() {
    let fixture = fixture().await;
    let mut config = fixture.config.clone();
    config.policy = Some(Arc::new(AddressPolicy::default()));
    let client = HttpClient::new(config).expect("a client");
    let port = fixture.server.address().port();
    for host in [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "2130706433",
        "127.1",
    ] {
        let result = post(&client, &format!("https://{host}:{port}/up/x")).await;
        let error = result.expect_err(host);
        assert!(
            matches!(error.kind, ErrorKind::Denied | ErrorKind::Dns),
            "{host}: {error:?}"
        );
        assert!(
            !error.detail.contains("127.0.0.1") && !error.detail.contains("localhost"),
            "{error:?}"
        );
    }
    assert_eq!(fixture.server.connections().opened, 0);
}

#[tokio::test]
async fn a_policy_lets_through_what_it_allows() {
    let fixture = fixture().await;
    let mut config = fixture.config.clone();
    let allow = vec!["127.0.0.0/8".parse().expect("a network")];
    config.policy = Some(Arc::new(AddressPolicy {
        allow,
        deny: Vec::new(),
    }));
    let client = HttpClient::new(config).expect("a client");
    assert_eq!(
        post(&client, &fixture.url())
            .await
            .expect("answered")
            .status,
        201
    );
}

fn through(fixture: &Fixture, proxy: &str) -> HttpClient {
    let mut config = fixture.config.clone();
    config.proxy = Some(Secret::new(proxy.to_owned()));
    HttpClient::new(config).expect("a client")
}

#[tokio::test]
async fn a_proxy_is_asked_for_a_tunnel_without_credentials_when_there_are_none() {
    let fixture = fixture().await;
    let proxy = Proxy::start().await.expect("a proxy");
    let client = through(&fixture, &proxy.url());
    assert_eq!(
        post(&client, &fixture.url())
            .await
            .expect("answered")
            .status,
        201
    );
    let tunnels = proxy.tunnels();
    assert_eq!(tunnels.len(), 1);
    assert_eq!(tunnels[0].target, fixture.server.address().to_string());
    assert_eq!(tunnels[0].authorization, None);
}

#[tokio::test]
async fn the_scheme_of_a_proxys_url_may_be_in_capitals() {
    let fixture = fixture().await;
    let proxy = Proxy::start().await.expect("a proxy");
    let client = through(&fixture, &proxy.url().replace("http:", "HTTP:"));
    assert_eq!(
        post(&client, &fixture.url())
            .await
            .expect("answered")
            .status,
        201
    );
    assert_eq!(proxy.tunnels().len(), 1);
}

#[tokio::test]
async fn a_proxy_gets_the_credentials_of_its_url() {
    let fixture = fixture().await;
    let proxy = Proxy::start().await.expect("a proxy");
    proxy.require("user", "secret");
    let client = through(&fixture, &proxy.url_with("user", "secret"));
    assert_eq!(
        post(&client, &fixture.url())
            .await
            .expect("answered")
            .status,
        201
    );
    assert_eq!(
        proxy.tunnels()[0].authorization.as_deref(),
        Some("Basic dXNlcjpzZWNyZXQ=")
    );
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named_with_what_it_said_and_never_with_the_password() {
    let fixture = fixture().await;
    let proxy = Proxy::start().await.expect("a proxy");
    proxy.require("user", "right");
    let client = through(&fixture, &proxy.url_with("user", "wrong-password"));
    let error = post(&client, &fixture.url()).await.expect_err("refused");
    assert_eq!(error.kind, ErrorKind::Proxy);
    assert!(
        error.detail.contains("407") && error.detail.contains(&proxy.address().to_string()),
        "{error:?}"
    );
    assert!(!error.detail.contains("wrong-password"), "{error:?}");
    let proxy = Proxy::start().await.expect("a proxy");
    proxy.refuse(Some(403));
    let client = through(&fixture, &proxy.url());
    let error = post(&client, &fixture.url()).await.expect_err("refused");
    assert!(error.detail.contains("403"), "{error:?}");
    assert_eq!(fixture.server.seen_count(), 0);
}

#[tokio::test]
async fn old_proxies_and_split_answers_are_understood() {
    let fixture = fixture().await;
    let proxy = Proxy::start().await.expect("a proxy");
    proxy.answer_in_http_1_0(true);
    proxy.split_answer(true);
    let client = through(&fixture, &proxy.url());
    assert_eq!(
        post(&client, &fixture.url())
            .await
            .expect("answered")
            .status,
        201
    );
}

#[tokio::test]
async fn bytes_that_come_with_the_proxys_answer_belong_to_the_tunnel() {
    let fixture = fixture().await;
    let proxy = Proxy::start().await.expect("a proxy");
    // A TLS alert "handshake_failure": only a client that reads the surplus as TLS says so.
    proxy.send_surplus(&[21, 3, 3, 0, 2, 2, 40]);
    let error = post(&through(&fixture, &proxy.url()), &fixture.url())
        .await
        .expect_err("an alert");
    assert_eq!(error.kind, ErrorKind::Tls);
    assert!(error.detail.contains("HandshakeFailure"), "{error:?}");
}

#[tokio::test]
async fn a_client_recovers_when_its_proxy_is_restarted() {
    let fixture = fixture().await;
    let proxy = Proxy::start().await.expect("a proxy");
    let (client, url) = (through(&fixture, &proxy.url()), fixture.url());
    post(&client, &url).await.expect("answered");
    proxy.stop().await;
    let error = post(&client, &url).await.expect_err("no proxy");
    assert!(
        matches!(error.kind, ErrorKind::Proxy | ErrorKind::Closed),
        "{error:?}"
    );
    proxy.start_again().expect("the same port");
    let mut answered = false;
    for _ in 0..50 {
        if post(&client, &url).await.is_ok() {
            answered = true;
            break;
        }
    }
    assert!(answered, "the client found its way back");
}

#[tokio::test]
async fn no_proxy_names_hosts_that_are_reached_directly() {
    let fixture = fixture().await;
    let proxy = Proxy::start().await.expect("a proxy");
    let mut config = fixture.config.clone();
    config.proxy = Some(Secret::new(proxy.url()));
    config.no_proxy = Some("example.org,127.0.0.1".to_owned());
    let client = HttpClient::new(config).expect("a client");
    assert_eq!(
        post(&client, &fixture.url())
            .await
            .expect("answered")
            .status,
        201
    );
    assert!(proxy.tunnels().is_empty());
}

#[tokio::test]
async fn a_policy_holds_behind_a_proxy_too() {
    let fixture = fixture().await;
    let proxy = Proxy::start().await.expect("a proxy");
    let mut config = fixture.config.clone();
    config.proxy = Some(Secret::new(proxy.url()));
    config.policy = Some(Arc::new(AddressPolicy::default()));
    let client = HttpClient::new(config).expect("a client");
    let port = fixture.server.address().port();
    let error = post(&client, &format!("https://localhost:{port}/up/x"))
        .await
        .expect_err("denied");
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(proxy.tunnels().is_empty());
}

#[tokio::test]
async fn urls_without_a_host_or_with_another_scheme_are_refused() {
    let client = fixture().await.client();
    for url in ["/path", "ftp://example.org/", "example.org:443"] {
        let error = client.origin(&url.parse().expect("a URI")).expect_err(url);
        assert_eq!(error.kind, ErrorKind::Protocol);
    }
}

/// A server that gives every connection the same answer, whatever it is asked.
async fn one_shot_http1(answer: &'static [u8]) -> SocketAddr {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a listener");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(answer).await;
                let _ = stream.read(&mut buffer).await;
            });
        }
    });
    address
}
