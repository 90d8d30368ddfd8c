//! A Matrix push gateway, drop-in for Sygnal, that tells providers as little as possible.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use shared::{
    http_server::{self, Limits},
    lifecycle, open_files,
};
use tokio::{net::TcpListener, task::JoinSet};
use tracing::info;

pub mod app;
pub mod breaker;
pub mod config;
pub mod dedupe;
pub mod dispatch;
pub mod gateway;
pub mod metrics;
pub mod notification;
pub mod notify;
pub mod opaque;
pub mod outcome;
pub mod provider;
mod python_json;
mod retry_after;
pub mod router;
pub mod sealed;

use config::Config;
use gateway::{Gateway, World};

/// Connections to the metrics at once.
const METRICS_CONNECTIONS: usize = 16;

/// A gateway whose listeners are bound, so that what is wrong with them has been seen.
pub struct Bound {
    gateway: Arc<Gateway>,
    unfinished: gateway::Unfinished,
    listeners: Vec<TcpListener>,
    metrics_listener: Option<TcpListener>,
}

/// Makes a gateway ready and binds its listeners.
///
/// # Errors
///
/// A text that names what cannot work.
pub async fn bind(config: Config, world: World) -> Result<Bound, String> {
    open(config, world, http_server::bind).await
}

/// The same, where another gateway of this user has the ports and is to be stopped: new connections come to this
/// one from now on.
///
/// # Errors
///
/// As with [`bind`].
pub async fn bind_beside(config: Config, world: World) -> Result<Bound, String> {
    open(config, world, async |address| {
        http_server::bind_beside(address)
    })
    .await
}

async fn open(
    config: Config,
    world: World,
    bind: impl AsyncFn(SocketAddr) -> Result<TcpListener, String>,
) -> Result<Bound, String> {
    let (addresses, metrics_address) = (config.listen.clone(), config.metrics_listen);
    // From the moment on that it listens it may be the one who gets all connections: so that comes last.
    let (gateway, unfinished) = Gateway::new(config, world)?;
    let mut listeners = Vec::new();
    for address in addresses {
        listeners.push(bind(address).await?);
    }
    let metrics_listener = match metrics_address {
        Some(address) => Some(bind(address).await?),
        None => None,
    };
    Ok(Bound {
        gateway,
        unfinished,
        listeners,
        metrics_listener,
    })
}

impl Bound {
    /// The gateway itself, for a reload.
    #[must_use]
    pub fn gateway(&self) -> Arc<Gateway> {
        Arc::clone(&self.gateway)
    }

    /// Where the gateway listens.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.listeners
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
    }

    /// Serves until the shutdown begins and everything under way is finished.
    pub async fn serve(self) {
        let Self {
            gateway,
            unfinished,
            listeners,
            metrics_listener,
        } = self;
        let shutdown = gateway.shutdown.clone();
        let limits = connection_limits(open_files::raise(), listeners.len());
        let mut servers = JoinSet::new();
        for listener in listeners {
            if let Ok(address) = listener.local_addr() {
                info!(%address, "listening");
            }
            let router = router::gateway(Arc::clone(&gateway));
            servers.spawn(http_server::serve(
                listener,
                router,
                limits,
                shutdown.clone(),
            ));
        }
        let metrics_server = metrics_listener.map(|listener| {
            if let Ok(address) = listener.local_addr() {
                info!(%address, "serving metrics");
            }
            let router = router::metrics(Arc::clone(&gateway));
            let limits = Limits {
                connections: METRICS_CONNECTIONS,
                ..limits
            };
            tokio::spawn(http_server::serve(
                listener,
                router,
                limits,
                shutdown.clone(),
            ))
        });
        let housekeeping = tokio::spawn({
            let gateway = Arc::clone(&gateway);
            async move { gateway.keep_house().await }
        });
        while servers.join_next().await.is_some() {}
        housekeeping.abort();
        if let Some(server) = metrics_server {
            server.abort();
            let _ = server.await;
        }
        let _ = housekeeping.await;
        drop(gateway);
        tokio::select! {
            () = unfinished.finished() => {}
            () = shutdown.expired() => {}
        }
    }
}

/// Half of the open files are left for providers, so that nobody who only connects keeps a push from
/// getting out.
fn connection_limits(open_files: u64, listeners: usize) -> Limits {
    let most = Limits::default();
    let half = usize::try_from(open_files / 2).unwrap_or(usize::MAX);
    Limits {
        connections: most.connections.min(half / listeners.max(1)).max(1),
        ..most
    }
}

/// Serves until a signal stops it; SIGHUP reloads.
///
/// # Errors
///
/// When the operating system lets no signal handler be set.
pub async fn run(bound: Bound, trigger: lifecycle::ShutdownTrigger) -> std::io::Result<()> {
    let gateway = Arc::downgrade(&bound.gateway());
    let drain = || {
        let gateway = gateway.upgrade();
        gateway.map_or(Duration::ZERO, |gateway| gateway.drain())
    };
    let reload = || {
        let gateway = gateway.clone();
        async move {
            if let Some(gateway) = gateway.upgrade() {
                gateway.reload().await;
            }
        }
    };
    lifecycle::run(bound.serve(), trigger, drain, reload, || true).await
}
