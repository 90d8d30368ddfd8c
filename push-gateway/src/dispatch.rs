//! From one notification to its devices' providers, and from their outcomes to one answer.
//!
//! Devices are independent of each other: a failure, or even a panic, of one changes nothing for the
//! others. The homeserver is told to try again when any failed, and a device that got the event is
//! not reached by that retry.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt as _, StreamExt as _, future::join_all, stream};
use tracing::{debug, error, info, warn};

use crate::{
    app::App,
    breaker::{Breaker, Change, Health},
    dedupe::Making,
    gateway::{Gateway, State},
    metrics::InFlight,
    notification::{Device, Notification, Pushkey},
    notify::Request,
    outcome::{Cause, Failure, Outcome, Rejected, Retry, Suppressed},
    provider::{Attempt, Push},
};

/// Attempts for one device within one request, retries at once not counted.
const ATTEMPTS: u32 = 3;
/// Retries at once: after a token was renewed, or a connection went away with the request untouched.
const IMMEDIATE_RETRIES: u32 = 2;
/// Before the second attempt; three times as long before the third. Half of it is random.
const BACKOFF: Duration = Duration::from_secs(1);
/// How long a push waits for a place among those to the same push service.
const PLACE_PATIENCE: Duration = Duration::from_secs(1);
/// Devices of one request that are under way at once, for one app.
const WIDTH: usize = 64;
/// Pushes of one app that wait out their `opaque.jitter`, at the most.
const DELAYED: usize = 65_536;

/// For how long a push whose homeserver was answered before (`opaque.jitter`) is tried, and with what
/// pauses.
const DELAYED_PATIENCE: Duration = Duration::from_mins(10);
const DELAYED_BACKOFF: Duration = Duration::from_secs(2);
const DELAYED_LONGEST_BACKOFF: Duration = Duration::from_mins(1);

/// What the homeserver is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Every device was delivered or rejected: the rejected pushkeys, in the order of the devices.
    Done(Vec<String>),
    /// A provider failed for some devices: try again.
    ProviderFailed {
        /// How many of the devices.
        failed: usize,
        /// Of how many.
        devices: usize,
    },
    /// All that failed did so because they get too many pushes.
    RateLimited {
        /// How long to wait.
        wait: Duration,
    },
}

/// Sends one notification to all of its devices, and ends by `deadline`.
pub(crate) async fn dispatch(
    gateway: &Arc<Gateway>,
    state: &Arc<State>,
    request: Request,
    deadline: Instant,
) -> Answer {
    let Request {
        notification,
        devices,
    } = request;
    let notification = Arc::new(notification);
    let mut outcomes: Vec<Option<Outcome>> = vec![None; devices.len()];
    let mut by_app: Vec<(&Arc<App>, Vec<usize>)> = Vec::new();
    for (index, device) in devices.iter().enumerate() {
        match state.apps.find(&device.app_id) {
            Ok(app) => match by_app.iter_mut().find(|(known, _)| Arc::ptr_eq(known, app)) {
                Some((_, indices)) => indices.push(index),
                None => by_app.push((app, vec![index])),
            },
            Err(reason) => {
                gateway.metrics.unmatched(reason);
                if state.unsafe_identifiers {
                    debug!(app_id = %device.app_id, "an app_id that matches no app, or several");
                }
                if let Some(held_back) = gateway.unmatched_log.pass(gateway.clock.now()) {
                    info!(
                        reason = reason.label(),
                        more_since_last_line = held_back,
                        "a pushkey is rejected: its app_id matches no app of the configuration, or several"
                    );
                }
                if let Some(outcome) = outcomes.get_mut(index) {
                    *outcome = Some(Outcome::Rejected(reason));
                }
            }
        }
    }
    let groups = by_app.into_iter().map(|(app, indices)| {
        let (notification, devices) = (&notification, &devices);
        async move {
            let job = |index| {
                devices.get(index).map(|device| Job {
                    gateway,
                    state,
                    app,
                    notification,
                    device,
                    deadline,
                })
            };
            push_group(app, indices, &job).await
        }
    });
    for (index, result) in join_all(groups).await.into_iter().flatten() {
        if let Some(outcome) = outcomes.get_mut(index) {
            *outcome = Some(result);
        }
    }
    answer(&devices, &outcomes)
}

/// One answer from all outcomes.
fn answer(devices: &[Device], outcomes: &[Option<Outcome>]) -> Answer {
    let mut rejected = Vec::new();
    let mut failed = 0;
    let mut limited = 0;
    let mut longest = Duration::ZERO;
    for (device, outcome) in devices.iter().zip(outcomes) {
        match outcome {
            Some(Outcome::Delivered | Outcome::Suppressed(_)) => {}
            Some(Outcome::Rejected(_)) => rejected.push(device.pushkey.expose().to_owned()),
            Some(Outcome::Failed(failure)) => {
                failed += 1;
                if let (Cause::RateLimited, Retry::After(wait)) = (failure.cause, failure.retry) {
                    limited += 1;
                    longest = longest.max(wait);
                }
            }
            None => failed += 1,
        }
    }
    if failed == 0 {
        Answer::Done(rejected)
    } else if failed == limited {
        Answer::RateLimited { wait: longest }
    } else {
        Answer::ProviderFailed {
            failed,
            devices: devices.len(),
        }
    }
}

/// All devices of one app: side by side as far as its in-flight limit goes, one after the other when
/// only one permit is left, and none when there is none.
async fn push_group<'a>(
    app: &App,
    indices: Vec<usize>,
    job: &impl Fn(usize) -> Option<Job<'a>>,
) -> Vec<(usize, Outcome)> {
    let count = indices.len();
    app.metrics
        .devices
        .inc_by(count.try_into().unwrap_or(u64::MAX));
    let mut permits = Vec::new();
    while permits.len() < count.min(WIDTH) {
        let Ok(permit) = app.in_flight.try_acquire() else {
            break;
        };
        permits.push(permit);
    }
    if permits.is_empty() {
        app.metrics
            .in_flight_limit_drops
            .inc_by(count.try_into().unwrap_or(u64::MAX));
        let failure = Failure::new(Cause::InFlightLimit, "inflight_request_limit", Retry::Never);
        return indices
            .into_iter()
            .map(|index| {
                (
                    index,
                    settle(app, None, None, Outcome::Failed(failure.clone())),
                )
            })
            .collect();
    }
    let run = |index| async move {
        let outcome = match job(index) {
            Some(job) => job.run().await,
            None => internal(),
        };
        (index, outcome)
    };
    // Nearly every notification is for one device, which needs none of the machinery for many.
    if let [index] = indices[..] {
        return vec![run(index).await];
    }
    stream::iter(indices)
        .map(|index| async move {
            // Making the payloads of a crowd is work without a pause: others come in between.
            tokio::task::yield_now().await;
            run(index).await
        })
        .buffer_unordered(permits.len())
        .collect()
        .await
}

fn internal() -> Outcome {
    Failure::new(Cause::Internal, "internal", Retry::Never).into()
}

fn over_budget() -> Outcome {
    Failure::new(Cause::Budget, "request_budget", Retry::Never).into()
}

/// One device of one request.
struct Job<'a> {
    gateway: &'a Arc<Gateway>,
    state: &'a Arc<State>,
    app: &'a Arc<App>,
    notification: &'a Arc<Notification>,
    device: &'a Device,
    deadline: Instant,
}

impl Job<'_> {
    async fn run(self) -> Outcome {
        let Ok(outcome) = AssertUnwindSafe(self.push()).catch_unwind().await else {
            error!(app = %self.app.name, "a fault in the gateway: one push failed, the others go on");
            return settle(self.app, None, None, internal());
        };
        let of = Some((self.device, &**self.notification));
        settle(self.app, Some(self.gateway), of, outcome)
    }

    async fn push(&self) -> Outcome {
        let pushkey = self.device.pushkey.expose();
        match self.state.pushkey_keys.open(&self.device.app_id, pushkey) {
            Ok(None) => self.push_to(self.device).await,
            Ok(Some(token)) => {
                let device = Device {
                    pushkey: Pushkey::new(token),
                    ..self.device.clone()
                };
                self.push_to(&device).await
            }
            Err(reason) => {
                self.gateway.metrics.unopened(reason);
                if let Some(held_back) = self.app.unopened_log.pass(self.gateway.clock.now()) {
                    info!(
                        app = %self.app.name,
                        reason = reason.label(),
                        more_since_last_line = held_back,
                        "a sealed pushkey cannot be opened: {}",
                        reason.explanation()
                    );
                }
                Outcome::Rejected(Rejected::Sealed)
            }
        }
    }

    /// Pushes to a device whose pushkey is a provider's token, whatever the homeserver calls it.
    async fn push_to(&self, device: &Device) -> Outcome {
        let pending = InFlight::new(&self.app.metrics.provider.pending);
        let began = self.gateway.clock.now();
        // What comes now may be long work on a long notification, once for each of thousands of devices.
        if began >= self.deadline {
            return over_budget();
        }
        if let Some(limit) = &self.state.pushkey_limit
            && let Err(wait) = limit.take((&*self.app.name, device.pushkey.expose()), began)
        {
            return Failure::new(
                Cause::RateLimited,
                "per_pushkey_per_minute",
                Retry::After(wait),
            )
            .into();
        }
        // A push without an event is not where a rejection is reported: Synapse ignores it there.
        if self.notification.event_id().is_some()
            && let Some(reason) = self.app.late_rejections.take(&device.pushkey)
        {
            return Outcome::Rejected(reason);
        }
        let deliveries = &self.gateway.deliveries;
        let making = match deliveries.of(self.notification.event_id(), self.device) {
            None => None,
            Some(delivery) => {
                let turn = deliveries.begin(delivery, &self.gateway.clock);
                match tokio::time::timeout_at(self.deadline.into(), turn).await {
                    Ok(Some(making)) => Some(making),
                    Ok(None) => return Outcome::Suppressed(Suppressed::Duplicate),
                    Err(_) => return over_budget(),
                }
            }
        };
        let push = match self
            .app
            .provider
            .prepare(&self.app.context, self.notification, device)
        {
            Ok(push) => push,
            Err(outcome) => return outcome,
        };
        drop(pending);
        self.app.metrics.provider.queue_time.observe(
            self.gateway
                .clock
                .now()
                .saturating_duration_since(began)
                .as_secs_f64(),
        );
        let jitter = self.app.context.opaque.jitter;
        if !jitter.is_zero() && self.app.context.mode != crate::config::PayloadMode::Sygnal {
            let delay = jitter.mul_f64(self.gateway.random.fraction());
            return self.send_later(device, push, making, delay);
        }
        let outcome = send(self.gateway, self.app, &push, self.deadline).await;
        if outcome == Outcome::Delivered {
            self.remember(making);
        }
        outcome
    }

    fn remember(&self, making: Option<Making<'_>>) {
        if let Some(making) = making {
            making.made(self.gateway.clock.now());
        }
    }

    /// As much of device and notification as a log may name: the rest can be large, and is in the push.
    fn names(&self, device: &Device) -> (Device, Notification) {
        let device = Device {
            app_id: String::new(),
            pushkey: device.pushkey.clone(),
            pushkey_ts: None,
            data: None,
        };
        let mut notification = Notification::default();
        if self.state.unsafe_identifiers {
            notification
                .event_id
                .clone_from(&self.notification.event_id);
            notification.room_id.clone_from(&self.notification.room_id);
        }
        (device, notification)
    }

    /// Sends after a delay; the homeserver is answered before.
    fn send_later(
        &self,
        device: &Device,
        push: Push,
        making: Option<Making<'_>>,
        delay: Duration,
    ) -> Outcome {
        let Ok(slot) = Arc::clone(&self.gateway.delayed).try_acquire_owned() else {
            return Failure::new(Cause::InFlightLimit, "delayed pushes", Retry::Never).into();
        };
        self.remember(making);
        let (gateway, state, app) = (
            Arc::clone(self.gateway),
            Arc::clone(self.state),
            Arc::clone(self.app),
        );
        let (device, notification) = self.names(device);
        let alive = gateway.alive();
        tokio::spawn(async move {
            let (_slot, _alive) = (slot, alive);
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = gateway.shutdown.begun() => {}
            }
            let give_up = gateway.clock.now() + DELAYED_PATIENCE;
            let mut pause = DELAYED_BACKOFF;
            let outcome = loop {
                let outcome = send_delayed(&gateway, &state, &app, &push).await;
                let Outcome::Failed(failure) = &outcome else {
                    break outcome;
                };
                // Nobody but the gateway has this push any more.
                let again = gateway.clock.now() + pause;
                if !failure.cause.may_pass() || again >= give_up || gateway.shutdown.has_begun() {
                    break outcome;
                }
                tokio::select! {
                    () = tokio::time::sleep_until(again.into()) => {}
                    () = gateway.shutdown.begun() => {}
                }
                pause = (pause * 2).min(DELAYED_LONGEST_BACKOFF);
            };
            if let Outcome::Rejected(reason) = &outcome {
                app.late_rejections.insert(&device.pushkey, *reason);
            }
            // What is said of other failures, that the homeserver tries again, is not true of this one.
            if let Outcome::Failed(failure) = &outcome {
                warn!(
                    app = %app.name,
                    cause = failure.cause.label(),
                    detail = %failure.detail,
                    "a push that had waited out its jitter is lost: its homeserver was answered before"
                );
                settle(&app, None, None, outcome);
                return;
            }
            settle(
                &app,
                Some(&gateway),
                Some((&device, &notification)),
                outcome,
            );
        });
        Outcome::Suppressed(Suppressed::Delayed)
    }
}

/// Sends a push that has waited out its jitter, within one request's budget.
async fn send_delayed(gateway: &Gateway, state: &State, app: &App, push: &Push) -> Outcome {
    let deadline = gateway.clock.now() + state.limits.request_budget;
    match tokio::time::timeout_at(deadline.into(), app.in_flight.acquire()).await {
        Ok(Ok(_permit)) => send(gateway, app, push, deadline).await,
        Ok(Err(_)) | Err(_) => {
            Failure::new(Cause::InFlightLimit, "inflight_request_limit", Retry::Never).into()
        }
    }
}

/// Bounds the pushes that wait out their jitter.
pub(crate) const fn delayed_pushes() -> usize {
    DELAYED
}

/// Sends a push, again where that makes sense, until `deadline`.
async fn send(gateway: &Gateway, app: &App, push: &Push, deadline: Instant) -> Outcome {
    let mut immediate = 0;
    let mut attempts = 0;
    loop {
        let mut began = gateway.clock.now();
        if began >= deadline {
            return over_budget();
        }
        let destination = app.destination(push, began);
        // A service that has not been heard of has few places until it takes its first push: soon, if it is
        // well. Waiting longer would let slow ones fill the app.
        let place = if let Ok(place) = destination.in_flight.try_acquire() {
            Some(place)
        } else {
            let patience = deadline.min(began + PLACE_PATIENCE);
            let place = destination.in_flight.acquire();
            let place = tokio::time::timeout_at(patience.into(), place).await;
            // The wait is not the provider's.
            began = gateway.clock.now();
            place.ok().and_then(Result::ok)
        };
        let Some(_place) = place else {
            return Failure::new(
                Cause::InFlightLimit,
                "places for one push service",
                Retry::Never,
            )
            .into();
        };
        let breaker = &destination.breaker;
        let Some(permit) = breaker.admit(began) else {
            return Failure::new(Cause::BreakerOpen, "breaker", Retry::Never).into();
        };
        let full = began + app.request_timeout;
        let active = InFlight::new(&app.metrics.provider.active);
        let Attempt { outcome, status } = app.provider.attempt(push, full.min(deadline)).await;
        drop(active);
        let now = gateway.clock.now();
        let took = now.saturating_duration_since(began).as_secs_f64();
        app.metrics.provider.request_time.observe(took);
        app.metrics.provider_time.observe(took);
        if let Some(status) = status {
            app.metrics.status(status);
        }
        let failure = match outcome {
            Outcome::Delivered | Outcome::Rejected(_) | Outcome::Suppressed(_) => {
                if outcome == Outcome::Delivered {
                    destination.delivered();
                }
                if status.is_some() {
                    app.set_credentials(true, now);
                }
                report(app, Breaker::record(permit, Health::Up, now), None);
                return outcome;
            }
            Outcome::Failed(failure) => failure,
        };
        if failure.cause == Cause::Credentials {
            app.set_credentials(false, now);
        }
        // A timeout that came early because the request's budget was nearly used up shows nothing.
        if failure.cause != Cause::Timeout || full <= deadline {
            let health = if failure.cause.is_outage() {
                Health::Down
            } else {
                Health::Up
            };
            report(app, Breaker::record(permit, health, now), Some(&failure));
        }
        let wait = match failure.retry {
            Retry::Never => return failure.into(),
            Retry::Now if immediate < IMMEDIATE_RETRIES => {
                immediate += 1;
                Duration::ZERO
            }
            Retry::Now | Retry::Backoff => {
                attempts += 1;
                backoff(attempts, gateway.random.fraction())
            }
            Retry::After(wait) => {
                attempts += 1;
                wait
            }
        };
        let again = gateway.clock.now() + wait;
        if attempts >= ATTEMPTS || again >= deadline {
            return failure.into();
        }
        app.metrics.retries.inc();
        if !wait.is_zero() {
            tokio::time::sleep_until(again.into()).await;
        }
    }
}

/// How long to wait after so many attempts: one and three seconds, half of it random.
fn backoff(attempts: u32, fraction: f64) -> Duration {
    let whole = BACKOFF * 3_u32.saturating_pow(attempts.saturating_sub(1).min(4));
    whole.mul_f64(0.5 + fraction / 2.0)
}

/// Logs a change of a breaker, with the failure that made it.
fn report(app: &App, change: Option<Change>, failure: Option<&Failure>) {
    match change {
        None => {}
        Some(Change::Opened { pause }) => {
            warn!(
                app = %app.name,
                cause = failure.map(|failure| failure.cause.label()),
                detail = failure.map(|failure| failure.detail.as_str()),
                pause_seconds = pause.as_secs(),
                "the provider is down: pushes fail at once, the homeserver is told to try again, and one push probes after the pause"
            );
        }
        Some(Change::Closed) => info!(app = %app.name, "the provider is back"),
    }
}

/// Counts an outcome and logs what an operator may want to know, without naming anybody.
fn settle(
    app: &App,
    gateway: Option<&Gateway>,
    of: Option<(&Device, &Notification)>,
    outcome: Outcome,
) -> Outcome {
    match &outcome {
        Outcome::Delivered => {
            app.metrics.delivered.inc();
        }
        Outcome::Suppressed(reason) => app.metrics.suppressed(*reason),
        Outcome::Rejected(reason) => {
            app.metrics.rejected(*reason);
            if let (Some(gateway), Some((device, _))) = (gateway, of)
                && let Some(held_back) = app.rejection_log.pass(gateway.clock.now())
            {
                let device = gateway.pseudonyms.of(device.pushkey.expose());
                info!(
                    app = %app.name,
                    %device,
                    reason = reason.label(),
                    more_since_last_line = held_back,
                    "a pushkey is rejected"
                );
            }
        }
        Outcome::Failed(failure) => {
            app.metrics.failed(failure.cause);
            // That the breaker is open was said when it opened, with the reason.
            if failure.cause != Cause::BreakerOpen
                && let Some(gateway) = gateway
                && let Some(held_back) = app.failure_log.pass(gateway.clock.now())
            {
                warn!(
                    app = %app.name,
                    cause = failure.cause.label(),
                    detail = %failure.detail,
                    more_since_last_line = held_back,
                    "a push did not get through; the homeserver is told to try again"
                );
            }
        }
    }
    if let (Some(gateway), Some((device, notification))) = (gateway, of) {
        trace(app, gateway, device, notification, &outcome);
    }
    outcome
}

/// One line per push for whoever debugs; with identifiers only where they were switched on.
fn trace(
    app: &App,
    gateway: &Gateway,
    device: &Device,
    notification: &Notification,
    outcome: &Outcome,
) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let (word, reason) = match outcome {
        Outcome::Delivered => ("delivered", ""),
        Outcome::Suppressed(reason) => ("suppressed", reason.label()),
        Outcome::Rejected(reason) => ("rejected", reason.label()),
        Outcome::Failed(failure) => ("failed", failure.cause.label()),
    };
    let name = gateway.pseudonyms.of(device.pushkey.expose());
    if gateway.state().unsafe_identifiers {
        debug!(
            app = %app.name,
            device = %name,
            pushkey = device.pushkey.expose(),
            event_id = notification.event_id(),
            room_id = notification.room_id(),
            outcome = word,
            reason,
            "push"
        );
    } else {
        debug!(app = %app.name, device = %name, outcome = word, reason, "push");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    fn device(pushkey: &str) -> Device {
        Device {
            app_id: "app".to_owned(),
            pushkey: Pushkey::new(pushkey),
            pushkey_ts: None,
            data: None,
        }
    }

    fn failed(cause: Cause, retry: Retry) -> Outcome {
        Failure::new(cause, "", retry).into()
    }

    #[test]
    fn rejected_pushkeys_come_in_the_order_of_the_devices() {
        let devices = [device("a"), device("b"), device("c")];
        let reject = Some(Outcome::Rejected(Rejected::Unregistered));
        assert_eq!(
            answer(
                &devices,
                &[reject.clone(), Some(Outcome::Delivered), reject]
            ),
            Answer::Done(vec!["a".to_owned(), "c".to_owned()])
        );
    }

    #[test]
    fn one_failure_makes_the_homeserver_try_again_whatever_the_others_gave() {
        let devices = [device("a"), device("b"), device("c")];
        let outcomes = [
            Some(Outcome::Delivered),
            Some(failed(Cause::Timeout, Retry::Backoff)),
            Some(Outcome::Rejected(Rejected::Unregistered)),
        ];
        assert_eq!(
            answer(&devices, &outcomes),
            Answer::ProviderFailed {
                failed: 1,
                devices: 3
            }
        );
        assert_eq!(
            answer(&devices[..1], &[None]),
            Answer::ProviderFailed {
                failed: 1,
                devices: 1
            }
        );
    }

    #[test]
    fn only_rate_limits_make_a_rate_limit() {
        let devices = [device("a"), device("b")];
        let limited = |seconds| {
            Some(failed(
                Cause::RateLimited,
                Retry::After(Duration::from_secs(seconds)),
            ))
        };
        assert_eq!(
            answer(&devices, &[limited(3), limited(5)]),
            Answer::RateLimited {
                wait: Duration::from_secs(5)
            }
        );
        assert_eq!(
            answer(
                &devices,
                &[limited(3), Some(failed(Cause::Connect, Retry::Backoff))]
            ),
            Answer::ProviderFailed {
                failed: 2,
                devices: 2
            }
        );
    }

    #[test]
    fn backoff_grows_and_stays_within_its_bounds() {
        assert_eq!(backoff(1, 0.0), Duration::from_millis(500));
        assert_eq!(backoff(1, 1.0), Duration::from_secs(1));
        assert_eq!(backoff(2, 0.0), Duration::from_millis(1500));
        assert_eq!(backoff(2, 1.0), Duration::from_secs(3));
    }
}
