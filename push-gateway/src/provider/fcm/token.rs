//! The access token for FCM: fetched once for all who wait, renewed before it expires.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use http::HeaderValue;
use shared::clock::Clock;
use tokio::task::AbortHandle;

use crate::outcome::{Cause, Failure, Retry};

/// How long before its expiry a token is replaced.
const REFRESH_BEFORE: Duration = Duration::from_mins(5);

/// A token this young that FCM refuses is not refused for its age: another one would not help.
const FRESH: Duration = Duration::from_secs(10);

/// What a token's lifetime is taken to be at least and at most, whatever the answer says.
const LIFETIMES: (Duration, Duration) = (Duration::from_mins(1), Duration::from_hours(24));

/// How long a failure stands before the token endpoint is asked again: at first, and at most by doubling.
const DELAYS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The longest `Retry-After` of the token endpoint that is followed.
const LONGEST_WAIT: Duration = Duration::from_mins(5);

/// The access token of one service account.
///
/// Reading it is one atomic load. Within five minutes of its expiry the first request to notice starts
/// the fetch of the next one, and all go on with the old one meanwhile. Without a token all wait for the
/// same fetch, which is a task of its own: a request that gives up stops nothing for the others. A fetch
/// that failed answers all requests for a second, then twice as long each time, up to half a minute.
pub(super) struct AccessTokens {
    shared: Arc<Inner>,
}

/// What the token endpoint gave.
#[derive(Debug)]
pub(super) struct Grant {
    /// The value of `authorization`, marked sensitive.
    pub(super) authorization: HeaderValue,
    /// `expires_in`
    pub(super) lifetime: Duration,
}

/// One access token.
#[derive(Debug)]
pub(super) struct AccessToken {
    /// The value of `authorization`, marked sensitive.
    pub(super) authorization: HeaderValue,
    fetched_at: Instant,
    refresh_at: Instant,
    expires_at: Instant,
    expires_at_unix: u64,
}

struct Inner {
    fetch: Box<dyn Fn() -> BoxFuture<'static, Result<Grant, Failure>> + Send + Sync>,
    clock: Clock,
    current: ArcSwapOption<AccessToken>,
    /// `current` is written only under this lock.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    fetching: Option<Fetching>,
    failed: Option<Failed>,
}

type Fetched = Result<Arc<AccessToken>, Failure>;

struct Fetching {
    task: AbortHandle,
    result: Shared<BoxFuture<'static, Fetched>>,
}

/// The last fetch failed.
struct Failed {
    failure: Failure,
    delay: Duration,
    until: Instant,
}

/// What a request for the token meets.
enum Next {
    Use(Arc<AccessToken>),
    Wait(Shared<BoxFuture<'static, Fetched>>),
    Fail(Failure),
}

impl AccessTokens {
    /// Tokens that `fetch` gets; it is not called yet.
    pub(super) fn new<F, Fut>(clock: Clock, fetch: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Grant, Failure>> + Send + 'static,
    {
        Self {
            shared: Arc::new(Inner {
                fetch: Box::new(move || fetch().boxed()),
                clock,
                current: ArcSwapOption::empty(),
                state: Mutex::default(),
            }),
        }
    }

    /// The token to send now; waits for one until `deadline` if there is none.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub(super) async fn get(&self, deadline: Instant) -> Fetched {
        match self.shared.next(self.shared.clock.now()) {
            Next::Use(token) => Ok(token),
            Next::Fail(failure) => Err(failure),
            Next::Wait(result) => tokio::time::timeout_at(deadline.into(), result)
                .await
                .unwrap_or_else(|_| {
                    Err(Failure::new(
                        Cause::Timeout,
                        "oauth timeout",
                        Retry::Backoff,
                    ))
                }),
        }
    }

    /// Drops a token that FCM refused; says whether a push may be tried with another one.
    ///
    /// It may not if the token was fetched within the last minute: the refusal is then about the
    /// account, and the token endpoint is left in peace.
    pub(super) fn renew(&self, refused: &Arc<AccessToken>) -> bool {
        let now = self.shared.clock.now();
        let _guard = self.shared.lock();
        match self.shared.current.load_full() {
            Some(token) if Arc::ptr_eq(&token, refused) => {
                let old = now.saturating_duration_since(token.fetched_at) >= FRESH;
                if old {
                    self.shared.current.store(None);
                }
                old
            }
            Some(_) | None => true,
        }
    }

    /// When the current token expires, in seconds since 1970.
    pub(super) fn expires_at(&self) -> Option<u64> {
        Some(self.shared.current.load_full()?.expires_at_unix)
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(self: &Arc<Self>, now: Instant) -> Next {
        if let Some(token) = self.current.load_full()
            && now < token.refresh_at
        {
            return Next::Use(token);
        }
        let mut state = self.lock();
        let current = self.current.load_full();
        if let Some(token) = &current
            && now < token.refresh_at
        {
            return Next::Use(Arc::clone(token));
        }
        let usable = current.filter(|token| now < token.expires_at);
        // a task that ended without saying so was torn down, by a panic or by the end of the runtime
        let fetching = match state.fetching.take() {
            Some(fetching) if !fetching.task.is_finished() => fetching,
            Some(_) | None => match &state.failed {
                Some(failed) if now < failed.until => {
                    return usable.map_or_else(|| Next::Fail(failed.answer(now)), Next::Use);
                }
                Some(_) | None => self.start(),
            },
        };
        let result = fetching.result.clone();
        state.fetching = Some(fetching);
        usable.map_or(Next::Wait(result), Next::Use)
    }

    fn start(self: &Arc<Self>) -> Fetching {
        let inner = Arc::clone(self);
        let task = tokio::spawn(async move {
            let granted = (inner.fetch)().await;
            inner.finish(granted)
        });
        Fetching {
            task: task.abort_handle(),
            result: async move {
                task.await.unwrap_or_else(|_| {
                    Err(Failure::new(Cause::Internal, "oauth task", Retry::Backoff))
                })
            }
            .boxed()
            .shared(),
        }
    }

    fn finish(&self, granted: Result<Grant, Failure>) -> Fetched {
        let now = self.clock.now();
        let mut state = self.lock();
        state.fetching = None;
        match granted {
            Ok(grant) => {
                let token = Arc::new(AccessToken::new(grant, now, self.clock.unix_seconds()));
                self.current.store(Some(Arc::clone(&token)));
                state.failed = None;
                Ok(token)
            }
            Err(failure) => {
                let failed = Failed::after(state.failed.as_ref(), failure, now);
                tracing::warn!(
                    cause = failed.failure.cause.label(),
                    detail = failed.failure.detail,
                    seconds_until_next = failed.delay.as_secs(),
                    "no access token for FCM"
                );
                let answer = failed.answer(now);
                state.failed = Some(failed);
                Err(answer)
            }
        }
    }
}

impl AccessToken {
    fn new(grant: Grant, now: Instant, unix_seconds: u64) -> Self {
        let lifetime = grant.lifetime.clamp(LIFETIMES.0, LIFETIMES.1);
        Self {
            authorization: grant.authorization,
            fetched_at: now,
            refresh_at: now + lifetime.saturating_sub(REFRESH_BEFORE).max(lifetime / 2),
            expires_at: now + lifetime,
            expires_at_unix: unix_seconds.saturating_add(lifetime.as_secs()),
        }
    }
}

impl Failed {
    fn after(last: Option<&Self>, failure: Failure, now: Instant) -> Self {
        let doubled = last.map_or(DELAYS.0, |last| (last.delay * 2).min(DELAYS.1));
        let delay = match failure.retry {
            Retry::After(asked) => doubled.max(asked.min(LONGEST_WAIT)),
            Retry::Never | Retry::Now | Retry::Backoff => doubled,
        };
        Self {
            failure,
            delay,
            until: now + delay,
        }
    }

    /// The failure, as a push meets it now.
    fn answer(&self, now: Instant) -> Failure {
        let mut failure = self.failure.clone();
        failure.retry = match failure.retry {
            Retry::Never => Retry::Never,
            Retry::Now | Retry::Backoff | Retry::After(_) => {
                Retry::After(self.until.saturating_duration_since(now))
            }
        };
        failure
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::UNIX_EPOCH,
    };

    use tokio::sync::Semaphore;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Access tokens whose endpoint answers what the test says, when the test says.
    struct Fixture {
        tokens: Arc<AccessTokens>,
        clock: Clock,
        endpoint: Arc<Endpoint>,
    }

    struct Endpoint {
        asked: AtomicUsize,
        may_answer: Semaphore,
        answer: Mutex<Result<Duration, Failure>>,
    }

    impl Fixture {
        fn new() -> Self {
            let endpoint = Arc::new(Endpoint {
                asked: AtomicUsize::new(0),
                may_answer: Semaphore::new(0),
                answer: Mutex::new(Ok(3600 * SECOND)),
            });
            let clock = Clock::manual(UNIX_EPOCH + 1_767_225_600 * SECOND);
            let fetch = {
                let endpoint = Arc::clone(&endpoint);
                move || {
                    let endpoint = Arc::clone(&endpoint);
                    async move { endpoint.fetch().await }
                }
            };
            Self {
                tokens: Arc::new(AccessTokens::new(clock.clone(), fetch)),
                clock,
                endpoint,
            }
        }

        /// A fixture whose endpoint answers everything at once.
        fn answering(answer: Result<Duration, Failure>) -> Self {
            let fixture = Self::new();
            fixture.endpoint.answer(answer);
            fixture.endpoint.may_answer.add_permits(1000);
            fixture
        }

        async fn get(&self) -> Fetched {
            self.tokens.get(self.deadline()).await
        }

        /// Real time: far enough for every test, near enough for a hung one to end.
        fn deadline(&self) -> Instant {
            self.clock.now() + 30 * SECOND
        }

        fn asked(&self) -> usize {
            self.endpoint.asked.load(Ordering::SeqCst)
        }

        /// Lets a fetch in the background come to its end.
        async fn settle(&self) {
            while self.tokens.shared.lock().fetching.is_some() {
                tokio::task::yield_now().await;
            }
        }
    }

    impl Endpoint {
        async fn fetch(&self) -> Result<Grant, Failure> {
            let number = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
            self.may_answer
                .acquire()
                .await
                .expect("an open semaphore")
                .forget();
            let answer = self.answer.lock().expect("no panic").clone();
            answer.map(|lifetime| Grant {
                authorization: HeaderValue::try_from(format!("Bearer {number}")).expect("a value"),
                lifetime,
            })
        }

        fn answer(&self, answer: Result<Duration, Failure>) {
            *self.answer.lock().expect("no panic") = answer;
        }
    }

    fn outage(retry: Retry) -> Failure {
        Failure::new(Cause::ProviderError, "oauth 503", retry)
    }

    fn credentials() -> Failure {
        Failure::new(Cause::Credentials, "oauth 400 invalid_grant", Retry::Never)
    }

    #[tokio::test]
    async fn all_who_wait_share_one_fetch() {
        let fixture = Fixture::new();
        let waiting: Vec<_> = (0..100)
            .map(|_| {
                let tokens = Arc::clone(&fixture.tokens);
                let deadline = fixture.deadline();
                tokio::spawn(async move { tokens.get(deadline).await })
            })
            .collect();
        tokio::task::yield_now().await;
        fixture.endpoint.may_answer.add_permits(1);
        for task in waiting {
            let token = task.await.expect("no panic").expect("a token");
            assert_eq!(token.authorization, "Bearer 1");
        }
        assert_eq!(fixture.asked(), 1);
    }

    #[tokio::test]
    async fn a_waiter_that_gives_up_stops_nothing_for_the_others() {
        let fixture = Fixture::new();
        let gave_up = fixture.tokens.get(fixture.clock.now()).await;
        assert_eq!(
            gave_up.expect_err("no time"),
            Failure::new(Cause::Timeout, "oauth timeout", Retry::Backoff)
        );
        let dropped = tokio::spawn({
            let tokens = Arc::clone(&fixture.tokens);
            let deadline = fixture.deadline();
            async move { tokens.get(deadline).await }
        });
        tokio::task::yield_now().await;
        dropped.abort();
        fixture.endpoint.may_answer.add_permits(1);
        let token = fixture.get().await.expect("a token");
        assert_eq!(token.authorization, "Bearer 1");
        assert_eq!(fixture.asked(), 1);
    }

    #[tokio::test]
    async fn the_old_token_is_used_while_the_next_one_is_fetched() {
        let fixture = Fixture::new();
        fixture.endpoint.may_answer.add_permits(1);
        let first = fixture.get().await.expect("a token");
        fixture.clock.advance((55 * 60 - 1) * SECOND);
        assert!(Arc::ptr_eq(&first, &fixture.get().await.expect("a token")));
        tokio::task::yield_now().await;
        assert_eq!(fixture.asked(), 1);

        fixture.clock.advance(SECOND);
        for _ in 0..10 {
            assert!(Arc::ptr_eq(&first, &fixture.get().await.expect("a token")));
            tokio::task::yield_now().await;
        }
        assert_eq!(fixture.asked(), 2);
        fixture.endpoint.may_answer.add_permits(1);
        fixture.settle().await;
        let second = fixture.get().await.expect("a token");
        assert_eq!(second.authorization, "Bearer 2");
        assert_eq!(fixture.asked(), 2);
    }

    #[tokio::test]
    async fn an_expired_token_is_not_used() {
        let fixture = Fixture::answering(Ok(3600 * SECOND));
        fixture.get().await.expect("a token");
        fixture.clock.advance(3600 * SECOND);
        let second = fixture.get().await.expect("a token");
        assert_eq!(second.authorization, "Bearer 2");
    }

    #[tokio::test]
    async fn odd_lifetimes_neither_hammer_the_endpoint_nor_last_for_ever() {
        for (given, refreshed_after) in [
            (Duration::ZERO, 30 * SECOND),
            (400 * SECOND, 200 * SECOND),
            (Duration::MAX, (24 * 60 - 5) * 60 * SECOND),
        ] {
            let fixture = Fixture::answering(Ok(given));
            fixture.get().await.expect("a token");
            fixture
                .clock
                .advance(refreshed_after.saturating_sub(SECOND));
            fixture.get().await.expect("a token");
            assert_eq!(fixture.asked(), 1);
            fixture.clock.advance(SECOND);
            fixture.get().await.expect("a token");
            fixture.settle().await;
            assert_eq!(fixture.asked(), 2);
        }
    }

    #[tokio::test]
    async fn failures_are_kept_for_a_second_growing_to_thirty() {
        let fixture = Fixture::answering(Err(outage(Retry::Backoff)));
        let mut asked = 0;
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            let delay = seconds * SECOND;
            let failure = fixture.get().await.expect_err("no token");
            asked += 1;
            assert_eq!(failure, outage(Retry::After(delay)));
            fixture.clock.advance(delay.saturating_sub(SECOND / 2));
            let failure = fixture.get().await.expect_err("no token");
            assert_eq!(failure, outage(Retry::After(SECOND / 2)));
            assert_eq!(fixture.asked(), asked);
            fixture.clock.advance(SECOND / 2);
        }

        fixture.endpoint.answer(Ok(3600 * SECOND));
        fixture.get().await.expect("a token");
        fixture.clock.advance(3600 * SECOND);
        fixture.endpoint.answer(Err(outage(Retry::Backoff)));
        let failure = fixture.get().await.expect_err("no token");
        assert_eq!(failure, outage(Retry::After(SECOND)));
    }

    #[tokio::test]
    async fn the_endpoints_retry_after_is_followed_within_reason() {
        for (asked, followed) in [(20, 20), (0, 1), (100_000, 300)] {
            let fixture = Fixture::answering(Err(outage(Retry::After(asked * SECOND))));
            let failure = fixture.get().await.expect_err("no token");
            assert_eq!(failure, outage(Retry::After(followed * SECOND)));
        }
    }

    #[tokio::test]
    async fn refused_credentials_are_kept_too_but_never_tried_again_by_the_push() {
        let fixture = Fixture::answering(Err(credentials()));
        assert_eq!(fixture.get().await.expect_err("no token"), credentials());
        assert_eq!(fixture.get().await.expect_err("no token"), credentials());
        assert_eq!(fixture.asked(), 1);
    }

    #[tokio::test]
    async fn a_failed_refresh_leaves_the_old_token_in_use() {
        let fixture = Fixture::answering(Ok(3600 * SECOND));
        let first = fixture.get().await.expect("a token");
        fixture.endpoint.answer(Err(outage(Retry::Backoff)));
        fixture.clock.advance(56 * 60 * SECOND);
        for _ in 0..10 {
            assert!(Arc::ptr_eq(&first, &fixture.get().await.expect("a token")));
            fixture.settle().await;
        }
        assert_eq!(fixture.asked(), 2);
        fixture.clock.advance(4 * 60 * SECOND);
        assert_eq!(
            fixture.get().await.expect_err("no token"),
            outage(Retry::After(2 * SECOND))
        );
    }

    #[tokio::test]
    async fn a_refused_token_is_replaced_once_for_all() {
        let fixture = Fixture::answering(Ok(3600 * SECOND));
        let first = fixture.get().await.expect("a token");
        fixture.clock.advance(FRESH);
        assert!(fixture.tokens.renew(&first));
        assert!(fixture.tokens.renew(&first));
        let second = fixture.get().await.expect("a token");
        assert_eq!(second.authorization, "Bearer 2");
        assert!(fixture.tokens.renew(&first));
        assert!(Arc::ptr_eq(&second, &fixture.get().await.expect("a token")));
        assert_eq!(fixture.asked(), 2);
    }

    #[tokio::test]
    async fn a_fresh_token_that_is_refused_is_kept() {
        let fixture = Fixture::answering(Ok(3600 * SECOND));
        let token = fixture.get().await.expect("a token");
        fixture.clock.advance(FRESH.saturating_sub(SECOND));
        assert!(!fixture.tokens.renew(&token));
        assert!(Arc::ptr_eq(&token, &fixture.get().await.expect("a token")));
        assert_eq!(fixture.asked(), 1);
    }

    #[tokio::test]
    async fn a_fetch_that_panics_is_a_failure_and_the_next_one_is_tried() {
        let count = Arc::new(AtomicUsize::new(0));
        let clock = Clock::manual(UNIX_EPOCH);
        let tokens = AccessTokens::new(clock.clone(), {
            let count = Arc::clone(&count);
            move || {
                let number = count.fetch_add(1, Ordering::SeqCst);
                async move {
                    assert!(number > 0, "the first fetch panics");
                    Ok(Grant {
                        authorization: HeaderValue::from_static("Bearer 2"),
                        lifetime: 3600 * SECOND,
                    })
                }
            }
        });
        let deadline = clock.now() + 30 * SECOND;
        let failure = tokens.get(deadline).await.expect_err("no token");
        assert_eq!(failure.cause, Cause::Internal);
        tokens.get(deadline).await.expect("a token");
    }

    #[tokio::test]
    async fn the_expiry_is_given_in_wall_clock_time() {
        let fixture = Fixture::answering(Ok(3600 * SECOND));
        assert_eq!(fixture.tokens.expires_at(), None);
        fixture.get().await.expect("a token");
        assert_eq!(fixture.tokens.expires_at(), Some(1_767_225_600 + 3600));
    }
}
