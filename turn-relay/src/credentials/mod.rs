//! The credential service: TURN usernames that name nobody, for whoever may have them.
//!
//! Two kinds of callers get them: services with an API key (`rest`) and users of a Matrix homeserver, who
//! show the access token that the homeserver gave them (`matrix`, `whoami`). Both get a username that the
//! relay takes, since service and relay share their secrets, here or on another machine (`names`).
//!
//! A [`Service`] gives a [`Router`]; who listens and who reads the configuration is not its business.

use std::{fmt, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use aws_lc_rs::{constant_time, hmac};
use axum::Router;
use ipnet::IpNet;
use rustls::RootCertStore;
use shared::{
    clock::Clock, epoch_key::EpochKey, log_gate::LogGate, random::Random, secret::Secret,
};
use tokio::sync::Semaphore;
use turn_relay_proto::credential::Secrets;
use url::Url;

use crate::config::Config;

mod limits;
mod matrix;
mod metrics;
mod names;
mod reply;
mod rest;
mod whoami;

pub use matrix::{NO_BEARER, NO_HOMESERVER};
pub use metrics::Metrics;
pub use names::Credential;

use limits::Limits;
use names::Issuer;
use rest::ApiKeys;
use whoami::Homeserver;

/// How long a homeserver may take to say whose an access token is.
pub const HOMESERVER_DEADLINE: Duration = Duration::from_secs(10);

/// URIs that a client is told at the most: browsers warn of five servers, and each one takes its time when a
/// call is set up.
pub const MAX_URIS: usize = 4;

/// Questions to the homeserver under way at once. While it is slow, there have to be connections left for
/// everything else that is served beside this.
const QUESTIONS: usize = 512;

/// `secrets` and `credentials:` of a configuration, valid.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `secrets`, the newest first: it signs. At least one.
    pub secrets: Vec<Secret<String>>,
    /// `credentials.ttl` (1 min to 30 days): for how long a credential is good, at the least.
    pub ttl: Duration,
    /// `credentials.uris` of RFC 7065; at least one, if anybody may ask. Those of `turns:` are told first, and no
    /// more than [`MAX_URIS`].
    pub uris: Vec<String>,
    /// `credentials.api_keys`: who may use the REST route; none: nobody.
    pub api_keys: Vec<Secret<String>>,
    /// `credentials.homeserver`: its base URL, with or without a slash at the end. None: no Matrix route.
    pub homeserver: Option<Url>,
    /// How long the homeserver may take, connecting included: [`HOMESERVER_DEADLINE`].
    pub homeserver_deadline: Duration,
    /// `credentials.allow_guests`
    pub allow_guests: bool,
    /// `credentials.pseudonym_epoch` (1 h to 30 days): how long one user keeps one name.
    pub pseudonym_epoch: Duration,
    /// `http.trusted_proxies`: whose word counts on who asks. None: that of everything that is not at a public address.
    pub trusted_proxies: Vec<IpNet>,
}

/// What a service is made from besides its configuration.
#[derive(Clone, Debug)]
pub struct World {
    /// Where the time comes from.
    pub clock: Clock,
    /// Where randomness comes from.
    pub random: Random,
    /// Whom the homeserver must have its certificate from.
    pub roots: Arc<RootCertStore>,
    /// Where is counted.
    pub metrics: Metrics,
}

/// The running service; clones are the same one.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

struct Inner {
    /// What the configuration decides; replaced as a whole.
    state: ArcSwap<State>,
    /// Drawn at the start: what API keys are hashed with.
    hash: hmac::Key,
    limits: Limits,
    /// Room for questions to the homeserver that are under way.
    questions: Semaphore,
    homeserver_log: LogGate,
    world: World,
}

/// Settings that only have to be [put](Service::put) in the place of others.
pub struct Prepared(Arc<State>);

impl fmt::Debug for Prepared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Prepared")
    }
}

/// What one configuration gives.
struct State {
    issuer: Issuer,
    names: Arc<EpochKey>,
    api_keys: ApiKeys,
    homeserver: Option<Homeserver>,
    allow_guests: bool,
    trusted_proxies: Vec<IpNet>,
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        let credentials = &config.credentials;
        Self {
            secrets: config.secrets.clone(),
            ttl: credentials.ttl,
            uris: credentials.uris.clone(),
            api_keys: credentials.api_keys.clone(),
            homeserver: credentials.homeserver.clone(),
            homeserver_deadline: HOMESERVER_DEADLINE,
            allow_guests: credentials.allow_guests,
            pseudonym_epoch: credentials.pseudonym_epoch,
            trusted_proxies: config.trusted_proxies.clone(),
        }
    }
}

impl Service {
    /// Makes the service ready; connects to nothing yet.
    ///
    /// # Errors
    ///
    /// A text that names the key of the configuration that cannot work.
    pub fn new(settings: &Settings, world: World) -> Result<Self, String> {
        let names = Arc::new(EpochKey::new(
            settings.pseudonym_epoch,
            world.clock.clone(),
            world.random.clone(),
        ));
        let hash = hmac::Key::new(hmac::HMAC_SHA256, &world.random.bytes::<32>());
        Ok(Self(Arc::new(Inner {
            state: ArcSwap::from_pointee(State::new(settings, &world, names, &hash)?),
            hash,
            limits: Limits::new(world.clock.now()),
            questions: Semaphore::new(QUESTIONS),
            homeserver_log: LogGate::new(world.clock.now()),
            world,
        })))
    }

    /// Puts new settings in the place of the old ones.
    ///
    /// # Errors
    ///
    /// As [`Service::new`]; the old settings stay then.
    pub fn reload(&self, settings: &Settings) -> Result<(), String> {
        self.put(self.prepare(settings)?);
        Ok(())
    }

    /// Makes new settings ready for [`Service::put`], which cannot fail. Users keep their names unless `pseudonym_epoch` is
    /// another.
    ///
    /// # Errors
    ///
    /// As [`Service::new`].
    pub fn prepare(&self, settings: &Settings) -> Result<Prepared, String> {
        let world = &self.0.world;
        let mut names = Arc::clone(&self.0.state.load().names);
        if names.epoch() != settings.pseudonym_epoch {
            names = Arc::new(EpochKey::new(
                settings.pseudonym_epoch,
                world.clock.clone(),
                world.random.clone(),
            ));
        }
        let state = State::new(settings, world, names, &self.0.hash)?;
        Ok(Prepared(Arc::new(state)))
    }

    /// Puts prepared settings in the place of the old ones. Requests under way keep those that they began with.
    pub fn put(&self, Prepared(state): Prepared) {
        self.0.state.store(state);
    }

    /// The routes, for [`shared::http_server::serve`]; no fallback, so that they can be merged with others.
    pub fn router(&self) -> Router {
        rest::routes()
            .merge(matrix::routes())
            .with_state(self.clone())
    }

    /// Erases keys of past epochs and closes idle connections, until it is dropped.
    pub async fn keep_house(&self) {
        let mut minutes = tokio::time::interval(Duration::from_mins(1));
        loop {
            minutes.tick().await;
            let state = self.state();
            state.names.expire();
            if let Some(homeserver) = &state.homeserver {
                homeserver.close_idle();
            }
        }
    }

    fn state(&self) -> Arc<State> {
        self.0.state.load_full()
    }
}

/// A credential for `nocturne credentials`, which is a process of its own each time: `user` gets the same name
/// from every run within an epoch, by a key that is derived from the newest secret. Without a user it is a name
/// of nobody's.
#[must_use]
pub fn by_hand(
    settings: &Settings,
    user: Option<&str>,
    clock: &Clock,
    random: &Random,
) -> Credential {
    let name = match user {
        Some(user) => names::of_an_operators_user(settings, user, clock.unix_seconds()),
        None => names::of_nobody(random),
    };
    Issuer::new(settings).issue(&name, clock.unix_seconds())
}

/// Whether one of `settings.secrets` made the password of a username, whoever issued the two: the relay takes
/// them then.
#[must_use]
pub fn is_signed(settings: &Settings, username: &str, password: &str) -> bool {
    settings.secrets.iter().any(|secret| {
        let secrets = Secrets::new(vec![secret.expose().as_bytes().to_vec()]);
        let expected = secrets.password(username.as_bytes());
        constant_time::verify_slices_are_equal(expected.as_bytes(), password.as_bytes()).is_ok()
    })
}

impl State {
    fn new(
        settings: &Settings,
        world: &World,
        names: Arc<EpochKey>,
        hash: &hmac::Key,
    ) -> Result<Self, String> {
        if settings.secrets.is_empty() {
            return Err("secrets: there is none that credentials could be signed with".to_owned());
        }
        let is_used = settings.homeserver.is_some() || !settings.api_keys.is_empty();
        if is_used && settings.uris.is_empty() {
            return Err(
                "credentials.uris: there is none that clients could be told to connect to"
                    .to_owned(),
            );
        }
        let homeserver = settings
            .homeserver
            .as_ref()
            .map(|url| Homeserver::new(url, settings.homeserver_deadline, world))
            .transpose()?;
        Ok(Self {
            issuer: Issuer::new(settings),
            names,
            api_keys: ApiKeys::new(&settings.api_keys, hash.clone()),
            homeserver,
            allow_guests: settings.allow_guests,
            trusted_proxies: settings.trusted_proxies.clone(),
        })
    }
}

impl Settings {
    fn signing(&self) -> Secrets {
        let newest = self.secrets.iter().take(1);
        Secrets::new(
            newest
                .map(|secret| secret.expose().as_bytes().to_vec())
                .collect(),
        )
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Service")
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    fn settings() -> Settings {
        Settings {
            secrets: vec![Secret::new("north".to_owned())],
            ttl: Duration::from_hours(12),
            uris: vec!["turn:turn.example.org".to_owned()],
            api_keys: vec![Secret::new("an api key of some length".to_owned())],
            homeserver: Some("https://matrix.example.org".parse().unwrap()),
            homeserver_deadline: HOMESERVER_DEADLINE,
            allow_guests: false,
            pseudonym_epoch: Duration::from_hours(24),
            trusted_proxies: Vec::new(),
        }
    }

    fn service(settings: &Settings) -> Result<Service, String> {
        let world = World {
            clock: Clock::system(),
            random: Random::system(),
            roots: Arc::new(RootCertStore::empty()),
            metrics: Metrics::new(&mut Registry::default()),
        };
        Service::new(settings, world)
    }

    #[test]
    fn what_cannot_work_is_said_by_the_key_that_is_wrong() {
        let mut none = settings();
        none.secrets.clear();
        let mut nowhere = settings();
        nowhere.uris.clear();
        let mut elsewhere = settings();
        elsewhere.homeserver = Some("ftp://matrix.example.org".parse().unwrap());
        for (settings, says) in [
            (&none, "secrets: there is none"),
            (&nowhere, "credentials.uris: there is none"),
            (&elsewhere, "credentials.homeserver: "),
        ] {
            let error = service(settings).unwrap_err();
            assert!(error.starts_with(says), "{error}");
        }
        // where nobody may ask, nobody has to be told anything
        nowhere.api_keys.clear();
        nowhere.homeserver = None;
        assert!(service(&nowhere).is_ok());
    }

    #[test]
    fn a_password_is_known_by_any_of_the_secrets_and_no_other() {
        let mut old = settings();
        let clock = Clock::system();
        let credential = by_hand(&old, None, &clock, &Random::system()).to_json();
        let credential: serde_json::Value = serde_json::from_str(&credential).unwrap();
        let [username, password] =
            ["username", "password"].map(|key| credential[key].as_str().unwrap());
        old.secrets.insert(0, Secret::new("south".to_owned()));
        assert!(is_signed(&old, username, password));
        assert!(!is_signed(&old, &format!("{username}x"), password));
        assert!(!is_signed(&old, username, ""));
        old.secrets.pop();
        assert!(!is_signed(&old, username, password));
    }

    #[test]
    fn a_refused_reload_leaves_the_old_settings() {
        let service = service(&settings()).unwrap();
        let before = service.state();
        let mut bad = settings();
        bad.secrets.clear();
        assert!(service.reload(&bad).is_err());
        assert!(Arc::ptr_eq(&before, &service.state()));
    }

    #[test]
    fn names_outlive_a_reload_but_for_another_epoch() {
        let service = service(&settings()).unwrap();
        let before = Arc::clone(&service.state().names);
        service.reload(&settings()).unwrap();
        assert!(Arc::ptr_eq(&before, &service.state().names));
        let mut other = settings();
        other.pseudonym_epoch = Duration::from_hours(1);
        service.reload(&other).unwrap();
        assert!(!Arc::ptr_eq(&before, &service.state().names));
    }

    #[test]
    fn nothing_secret_is_printed_by_accident() {
        let printed = format!("{:?} {:?}", settings(), service(&settings()));
        for secret in ["north", "an api key"] {
            assert!(!printed.contains(secret), "{printed}");
        }
    }
}
