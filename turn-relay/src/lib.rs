//! A TURN relay (RFC 8656) that knows as little as possible about who talks to whom: input and output around
//! [`turn_relay_proto`], and what an operator sees of it.

use std::{sync::Arc, time::Duration};

use shared::{
    http_server::{self, Limits},
    lifecycle::{self, Shutdown, ShutdownTrigger},
};
use tokio::{net::TcpListener, task::JoinSet};
use tracing::{info, warn};

pub mod addresses;
pub mod certificates;
pub mod config;
pub mod credentials;
pub mod http;
pub mod io;
pub mod metrics;
pub mod relay;
pub mod workers;

mod worker;

use config::Config;
use relay::{Relay, World};

/// Connections to `http.listen` at once: twice as many as questions to a homeserver can be under way, so that
/// health and metrics are there while it is slow.
const HTTP_CONNECTIONS: usize = 1024;

/// How long an answer to an HTTP request may take once everything else has ended.
const HTTP_END: Duration = Duration::from_millis(500);

/// A relay that listens, so that what is wrong with its addresses has been seen. Clients are served already.
pub struct Bound {
    relay: Arc<Relay>,
    http: Vec<TcpListener>,
}

/// Starts a relay and binds its HTTP listeners.
///
/// # Errors
///
/// A text that names what cannot work.
pub async fn bind(config: Config, world: World) -> Result<Bound, String> {
    let mut http = Vec::new();
    for address in &config.http_listen {
        http.push(http_server::bind(*address).await?);
    }
    let relay = Arc::new(Relay::start(config, world)?);
    Ok(Bound { relay, http })
}

impl Bound {
    /// The relay itself, for a reload.
    #[must_use]
    pub fn relay(&self) -> Arc<Relay> {
        Arc::clone(&self.relay)
    }

    /// Where HTTP is served.
    pub fn http_addresses(&self) -> impl Iterator<Item = std::net::SocketAddr> {
        self.http
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
    }

    /// Serves until the shutdown begins and the last allocation is gone, or the shutdown expires.
    pub async fn serve(self, shutdown: Shutdown) {
        let Self { relay, http } = self;
        for address in relay.listeners() {
            info!(%address, "listening");
        }
        // Health and metrics are there to the end.
        let (http_trigger, http_shutdown) = lifecycle::shutdown();
        let mut servers = JoinSet::new();
        for listener in http {
            if let Ok(address) = listener.local_addr() {
                info!(%address, "serving health and metrics");
            }
            servers.spawn(http_server::serve(
                listener,
                http::router(Arc::clone(&relay)),
                Limits {
                    connections: HTTP_CONNECTIONS,
                    ..Limits::default()
                },
                http_shutdown.clone(),
            ));
        }
        let mut chores = JoinSet::new();
        chores.spawn({
            let relay = Arc::clone(&relay);
            async move { relay.keep_house().await }
        });
        chores.spawn({
            let relay = Arc::clone(&relay);
            async move { relay.watch_certificates().await }
        });
        chores.spawn({
            let credentials = relay.credentials().clone();
            async move { credentials.keep_house().await }
        });

        shutdown.begun().await;
        tokio::select! {
            () = relay.drain() => info!("no allocation is left"),
            () = shutdown.expired() => {}
        }
        chores.shutdown().await;
        http_trigger.begin();
        let ended = async { while servers.join_next().await.is_some() {} };
        if tokio::time::timeout(HTTP_END, ended).await.is_err() {
            servers.shutdown().await;
        }
        let stopped = tokio::task::spawn_blocking(move || {
            if let Some(relay) = Arc::into_inner(relay) {
                relay.stop();
            } else {
                warn!("the relay is in use and ends with the process");
            }
        });
        let _ = stopped.await;
    }
}

/// Serves until a signal stops it; SIGHUP reloads.
///
/// # Errors
///
/// When the operating system lets no signal handler be set.
pub async fn run(
    bound: Bound,
    trigger: ShutdownTrigger,
    shutdown: Shutdown,
) -> std::io::Result<()> {
    let relay = Arc::downgrade(&bound.relay);
    let drain = || {
        let relay = relay.upgrade();
        relay.map_or(Duration::ZERO, |relay| relay.drain_timeout())
    };
    let reload = || {
        let relay = relay.clone();
        async move {
            if let Some(relay) = relay.upgrade() {
                relay.reload().await;
            }
        }
    };
    let is_alive = || relay.upgrade().is_some_and(|relay| relay.is_alive());
    lifecycle::run(bound.serve(shutdown), trigger, drain, reload, is_alive).await
}
