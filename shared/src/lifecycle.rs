//! Starting, reloading and stopping as systemd and an operator expect.
//!
//! SIGTERM or SIGINT begins a shutdown: nothing new is accepted, what is under way may finish until
//! the deadline; a second one ends it at once. SIGHUP asks for a reload. systemd is told of all of it, so
//! that its own timeouts neither end a shutdown too early nor leave a service that hangs alone. Under
//! `nocturne run` the supervisor is told in systemd's place ([`supervised`]).

use std::{future::Future, io, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};
use tracing::{info, warn};

use crate::supervised;

pub use sd_notify::NotifyState;

/// The progress of a shutdown. Clones see the same one.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<Phase>);

/// What makes a shutdown begin and expire.
#[derive(Debug)]
pub struct ShutdownTrigger(watch::Sender<Phase>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Running,
    Begun,
    Expired,
}

/// A shutdown that has not begun.
#[must_use]
pub fn shutdown() -> (ShutdownTrigger, Shutdown) {
    let (sender, receiver) = watch::channel(Phase::Running);
    (ShutdownTrigger(sender), Shutdown(receiver))
}

impl ShutdownTrigger {
    /// Nothing new from now on.
    pub fn begin(&self) {
        self.0.send_if_modified(|phase| {
            std::mem::replace(phase, (*phase).max(Phase::Begun)) < Phase::Begun
        });
    }

    /// What is still under way is cut off.
    pub fn expire(&self) {
        self.0.send_replace(Phase::Expired);
    }
}

impl Shutdown {
    /// Waits until the shutdown begins.
    pub async fn begun(&self) {
        self.reached(Phase::Begun).await;
    }

    /// Waits until the time for what was under way is over.
    pub async fn expired(&self) {
        self.reached(Phase::Expired).await;
    }

    /// Whether the shutdown has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        *self.0.borrow() >= Phase::Begun
    }

    async fn reached(&self, wanted: Phase) {
        let mut receiver = self.0.clone();
        // An error means that the trigger is gone without a shutdown: there will be none.
        if receiver.wait_for(|phase| *phase >= wanted).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// How long systemd waits for the next word of a service that is stopping; it gets one in half of that.
pub const STOPPING: Duration = Duration::from_secs(30);

/// Runs `service` until it ends by itself or a signal ends it; `reload` is called for each SIGHUP.
///
/// `drain` is how long what is under way may take after SIGTERM or SIGINT, asked when one comes.
/// `is_alive` says whether all of the service works; while it does not, systemd's watchdog is not fed.
///
/// # Errors
///
/// When the operating system lets no signal handler be set.
pub async fn run<S, R, F>(
    service: S,
    trigger: ShutdownTrigger,
    drain: impl Fn() -> Duration,
    reload: R,
    is_alive: impl Fn() -> bool,
) -> io::Result<()>
where
    S: Future<Output = ()>,
    R: Fn() -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    notify(&[NotifyState::Ready]);
    let mut service = std::pin::pin!(service);
    let mut watchdog = Watchdog::new();
    // In a task of its own: a file system that hangs must not keep the service from stopping.
    let mut reloads = JoinSet::new();
    let mut asked_meanwhile = false;
    loop {
        tokio::select! {
            () = service.as_mut() => return Ok(()),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = supervised::gone() => break,
            _ = hangup.recv() => {
                if reloads.is_empty() {
                    notify_reloading();
                    reloads.spawn(reload());
                } else {
                    asked_meanwhile = true;
                }
            }
            Some(_) = reloads.join_next() => {
                if std::mem::take(&mut asked_meanwhile) {
                    reloads.spawn(reload());
                } else {
                    notify(&[NotifyState::Ready]);
                }
            }
            () = watchdog.tick() => if is_alive() {
                notify(&[NotifyState::Watchdog]);
            }
        }
    }
    let drain = drain();
    notify(&[NotifyState::Stopping]);
    info!(
        at_most_seconds = drain.as_secs(),
        "stopping: nothing new is accepted, what is under way may finish"
    );
    trigger.begin();
    let mut deadline = std::pin::pin!(tokio::time::sleep(drain));
    let mut still_stopping = tokio::time::interval(STOPPING / 2);
    loop {
        tokio::select! {
            () = service.as_mut() => return Ok(()),
            _ = terminate.recv() => {
                warn!("a second signal: stopping at once");
                break;
            }
            _ = interrupt.recv() => {
                warn!("a second signal: stopping at once");
                break;
            }
            () = supervised::gone() => {
                warn!("the supervisor is gone: stopping at once");
                break;
            }
            () = deadline.as_mut() => {
                warn!("the time to finish is over: what is still under way is cut off");
                break;
            }
            _ = still_stopping.tick() => {
                let more = u32::try_from(STOPPING.as_micros()).unwrap_or(u32::MAX);
                notify(&[NotifyState::ExtendTimeoutUsec(more)]);
            }
        }
    }
    trigger.expire();
    // What was cut off needs a moment to see it.
    let _ = tokio::time::timeout(Duration::from_secs(1), service).await;
    Ok(())
}

/// Tells systemd that a reload has begun; [`NotifyState::Ready`] tells that it is over.
pub fn notify_reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(_) => notify(&[NotifyState::Reloading]),
    }
}

/// Tells the supervisor of `nocturne run`, else systemd where it asked to be told.
pub fn notify(states: &[NotifyState<'_>]) {
    let told = supervised::tell(states).unwrap_or_else(|| sd_notify::notify(states));
    if let Err(error) = told {
        warn!(%error, "systemd, or the supervisor, could not be notified");
    }
}

/// Half of the interval after which systemd takes a silent service for dead.
#[derive(Debug)]
pub struct Watchdog(Option<tokio::time::Interval>);

impl Watchdog {
    /// As the environment asks for it.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it depends on the environment")]
    pub fn new() -> Self {
        Self(sd_notify::watchdog_enabled().map(|interval| tokio::time::interval(interval / 2)))
    }

    /// Waits until it is time for [`NotifyState::Watchdog`]: for ever, where nobody asked for it.
    pub async fn tick(&mut self) {
        match &mut self.0 {
            Some(interval) => {
                interval.tick().await;
            }
            None => std::future::pending().await,
        }
    }
}
