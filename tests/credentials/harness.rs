//! A credential service in this process, and who asks it.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::hmac;
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use prometheus_client::registry::Registry;
use shared::{
    clock::Clock,
    http_server::{self, Limits},
    lifecycle::{self, ShutdownTrigger},
    random::Random,
    secret::Secret,
};
use stand_ins::{
    Authority, ClientServer,
    homeserver::{Answer, Homeserver as Client},
};
use turn_relay::credentials::{Metrics, Service, Settings, World};
use url::Url;

pub(crate) const SECRET: &str = "north";
pub(crate) const API_KEY: &str = "key-of-the-first-service";
pub(crate) const OTHER_API_KEY: &str = "key-of-the-second-service";
pub(crate) const ALICE: &str = "@alicewonder:homeserver.example";
pub(crate) const V3: &str = "/_matrix/client/v3/voip/turnServer";
pub(crate) const HOUR: Duration = Duration::from_hours(1);

/// When the clock of a stage starts: not on a whole hour.
pub(crate) const START: u64 = 1_800_000_123;

/// A running service; it ends when this is dropped.
pub(crate) struct Stage {
    pub(crate) address: SocketAddr,
    pub(crate) service: Service,
    pub(crate) settings: Settings,
    pub(crate) clock: Clock,
    pub(crate) homeserver: ClientServer,
    _running: ShutdownTrigger,
}

/// What a client does with an answer of 200.
pub(crate) struct Credential {
    pub(crate) username: String,
    pub(crate) expiry: u64,
    pub(crate) name: String,
    pub(crate) ttl: u64,
    pub(crate) uris: Vec<String>,
}

impl Stage {
    pub(crate) async fn set() -> Self {
        Self::set_with(|_| ()).await
    }

    /// With other settings than usual; `homeserver` is the stand-in's.
    pub(crate) async fn set_with(change: impl FnOnce(&mut Settings)) -> Self {
        let authority = Authority::new().expect("an authority can be made");
        let homeserver = ClientServer::start(&authority, &[b"http/1.1"])
            .await
            .expect("loopback has free ports");
        Self::set_before(authority, homeserver, change).await
    }

    /// Before this homeserver.
    pub(crate) async fn set_before(
        authority: Authority,
        homeserver: ClientServer,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let mut settings = settings();
        settings.homeserver = Some(homeserver.url().parse().expect("it is a URL"));
        change(&mut settings);
        let clock = Clock::manual(at(START));
        let roots = authority.roots().expect("its certificate is valid");
        let world = World {
            clock: clock.clone(),
            random: Random::system(),
            roots: Arc::new(roots),
            metrics: Metrics::new(&mut Registry::default()),
        };
        let service = Service::new(&settings, world).expect("the settings are valid");
        let (address, running) = serve(&service).await;
        Self {
            address,
            service,
            settings,
            clock,
            homeserver,
            _running: running,
        }
    }

    /// Other settings from now on.
    pub(crate) fn reload(&mut self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings);
        self.service
            .reload(&self.settings)
            .expect("the settings are valid");
    }

    pub(crate) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        request(self.address, Method::GET, path, headers, "").await
    }

    pub(crate) async fn post(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        request(self.address, Method::POST, path, headers, body).await
    }

    /// What the Matrix route answers to a token.
    pub(crate) async fn turn_server(&self, token: &str) -> Answer {
        let bearer = format!("Bearer {token}");
        self.get(V3, &[("authorization", &bearer)]).await
    }
}

impl Credential {
    /// Reads an answer, and checks what holds for each: it is for nobody but who asked, the secret made the
    /// password, and it names nobody.
    pub(crate) fn of(answer: &Answer) -> Self {
        Self::signed_by(SECRET, answer)
    }

    pub(crate) fn signed_by(secret: &str, answer: &Answer) -> Self {
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.headers["cache-control"], "no-store");
        assert_eq!(answer.headers["content-type"], "application/json");
        let body = answer.json();
        let members: Vec<_> = body
            .as_object()
            .expect("it is an object")
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(members, ["username", "password", "ttl", "uris"]);
        let username = body["username"].as_str().expect("a text").to_owned();
        assert_eq!(body["password"], password(secret, &username));
        let (expiry, name) = username.split_once(':').expect("two parts");
        assert_eq!(name.len(), 22, "{name}");
        assert!(URL_SAFE_NO_PAD.decode(name).is_ok(), "{name}");
        let uris = body["uris"].as_array().expect("a list");
        Self {
            expiry: expiry.parse().expect("seconds"),
            name: name.to_owned(),
            ttl: body["ttl"].as_u64().expect("seconds"),
            uris: uris
                .iter()
                .map(|uri| uri.as_str().expect("a text").to_owned())
                .collect(),
            username,
        }
    }
}

/// Settings as they mostly are, without a homeserver.
pub(crate) fn settings() -> Settings {
    Settings {
        secrets: vec![
            Secret::new(SECRET.to_owned()),
            Secret::new("the one before".to_owned()),
        ],
        ttl: 12 * HOUR,
        uris: [
            "turns:turn.example.org:5349?transport=tcp",
            "turn:turn.example.org:3478?transport=udp",
            "turn:turn.example.org:3478?transport=tcp",
        ]
        .map(str::to_owned)
        .to_vec(),
        api_keys: vec![
            Secret::new(API_KEY.to_owned()),
            Secret::new(OTHER_API_KEY.to_owned()),
        ],
        homeserver: None::<Url>,
        homeserver_deadline: Duration::from_mins(1),
        allow_guests: false,
        trusted_proxies: Vec::new(),
        pseudonym_epoch: 24 * HOUR,
    }
}

/// Serves on a free port of loopback until the trigger is dropped.
pub(crate) async fn serve(service: &Service) -> (SocketAddr, ShutdownTrigger) {
    let listener = http_server::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
        .await
        .expect("loopback has free ports");
    let address = listener.local_addr().expect("it is bound");
    let (trigger, shutdown) = lifecycle::shutdown();
    let router = service.router();
    tokio::spawn(http_server::serve(
        listener,
        router,
        Limits::default(),
        shutdown,
    ));
    (address, trigger)
}

pub(crate) async fn request(
    address: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let headers: HeaderMap = headers
        .iter()
        .map(|(name, value)| {
            let name = HeaderName::try_from(*name).expect("a header's name");
            (name, HeaderValue::try_from(*value).expect("a value"))
        })
        .collect();
    Client::new(address)
        .request(method, path, headers, Bytes::from(body.to_owned()))
        .await
        .unwrap_or_else(|error| panic!("{path} is not answered: {error}"))
}

/// The password of a username, as the relay and every other TURN server makes it.
pub(crate) fn password(secret: &str, username: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes());
    STANDARD.encode(hmac::sign(&key, username.as_bytes()))
}

pub(crate) fn at(unix_seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(unix_seconds)
}
