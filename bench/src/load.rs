//! The load: notifications over keep-alive HTTP/1.1 connections, every answer checked.
//!
//! It shares its cores with the stand-ins, so it does as little as possible: requests are made
//! beforehand, and an answer is compared with the only one that is right.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use hdrhistogram::Histogram;
use shared::{clock::Clock, random::Random};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
    task::JoinSet,
};

use crate::notifications::Notifications;

/// The body of the only right answer.
const ACCEPTED: &[u8] = b"{\"rejected\": []}";
/// Nobody waits longer than this for one answer.
const PATIENCE: Duration = Duration::from_secs(40);
/// Microseconds; a latency beyond is written down as this.
const LONGEST: u64 = 60_000_000;

/// Connections to a device under test.
pub(crate) struct Load {
    connections: Vec<Connection>,
    notifications: Arc<Notifications>,
    clock: Clock,
}

/// What came of a load.
pub(crate) struct Served {
    /// Notifications answered.
    count: u64,
    /// From the first request to the last answer.
    pub(crate) took: Duration,
    /// Microseconds until the answer: since the request was sent in a closed loop, since it was due in
    /// an open one.
    pub(crate) latency: Histogram<u64>,
}

struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    answer: Vec<u8>,
}

/// When the requests of an open loop are due, for whichever connection is free.
struct Schedule {
    due: Mutex<VecDeque<Instant>>,
    /// One permit for each in `due`; closed after the last.
    released: Semaphore,
}

impl Load {
    /// Opens the connections.
    pub(crate) async fn open(
        address: SocketAddr,
        connections: usize,
        notifications: Arc<Notifications>,
        clock: Clock,
    ) -> Result<Self> {
        let mut opened = Vec::with_capacity(connections);
        for _ in 0..connections {
            let stream = TcpStream::connect(address)
                .await
                .context("connect to the device under test")?;
            stream.set_nodelay(true)?;
            opened.push(Connection {
                stream,
                request: Vec::new(),
                answer: vec![0; 1024],
            });
        }
        Ok(Self {
            connections: opened,
            notifications,
            clock,
        })
    }

    /// Sends one notification.
    pub(crate) async fn once(&mut self) -> Result<()> {
        let connection = self.connections.first_mut().context("no connection")?;
        connection.exchange(&self.notifications).await
    }

    /// For so long, every connection sends a request as soon as it has the answer to the one before.
    pub(crate) async fn closed_loop(&mut self, duration: Duration) -> Result<Served> {
        let began = self.clock.now();
        let end = began + duration;
        self.run(
            began,
            |mut connection, notifications, clock, latency| async move {
                let mut sent = clock.now();
                while sent < end {
                    connection.exchange(&notifications).await?;
                    let answered = clock.now();
                    record(&latency, answered.saturating_duration_since(sent));
                    sent = answered;
                }
                Ok(connection)
            },
        )
        .await
    }

    /// Sends `rate` requests a second for so long, whether or not those before are answered, at random
    /// intervals (a Poisson process) that are the same for the same rate and duration.
    ///
    /// A request that has to wait for a free connection has been waiting since it was due: a slow
    /// device cannot slow the measurement down and look fast thereby.
    pub(crate) async fn open_loop(&mut self, rate: f64, duration: Duration) -> Result<Served> {
        let schedule = Arc::new(Schedule {
            due: Mutex::default(),
            released: Semaphore::new(0),
        });
        let began = self.clock.now();
        let releasing = {
            let (schedule, clock) = (Arc::clone(&schedule), self.clock.clone());
            // A thread: tokio's timers are no finer than a millisecond.
            std::thread::spawn(move || schedule.release(&clock, began, rate, duration))
        };
        let served = self
            .run(began, |mut connection, notifications, clock, latency| {
                let schedule = Arc::clone(&schedule);
                async move {
                    while let Some(due) = schedule.next().await {
                        connection.exchange(&notifications).await?;
                        record(&latency, clock.now().saturating_duration_since(due));
                    }
                    Ok(connection)
                }
            })
            .await;
        schedule.released.close();
        releasing
            .join()
            .map_err(|_| anyhow!("the schedule failed"))?;
        served
    }

    /// Runs one task for each connection until all have ended.
    async fn run<F>(
        &mut self,
        began: Instant,
        task: impl Fn(Connection, Arc<Notifications>, Clock, Arc<Mutex<Histogram<u64>>>) -> F,
    ) -> Result<Served>
    where
        F: Future<Output = Result<Connection>> + Send + 'static,
    {
        let latency = Arc::new(Mutex::new(Histogram::new_with_max(LONGEST, 3)?));
        let mut tasks = JoinSet::new();
        for connection in self.connections.drain(..) {
            let (notifications, clock) = (Arc::clone(&self.notifications), self.clock.clone());
            tasks.spawn(task(connection, notifications, clock, Arc::clone(&latency)));
        }
        while let Some(ended) = tasks.join_next().await {
            self.connections.push(ended??);
        }
        let took = self.clock.now().saturating_duration_since(began);
        let latency = lock(&latency).clone();
        Ok(Served {
            count: latency.len(),
            took,
            latency,
        })
    }
}

impl Served {
    /// Notifications a second.
    pub(crate) fn rate(&self) -> Result<f64> {
        Ok(f64::from(u32::try_from(self.count)?) / self.took.as_secs_f64())
    }
}

impl Connection {
    /// Sends the next notification and reads the answer, which must be the right one.
    async fn exchange(&mut self, notifications: &Notifications) -> Result<()> {
        notifications.next(&mut self.request);
        tokio::time::timeout(PATIENCE, self.send_and_read())
            .await
            .context("no answer of the device under test in time")?
    }

    async fn send_and_read(&mut self) -> Result<()> {
        self.stream
            .write_all(&self.request)
            .await
            .context("send a notification")?;
        let mut read = 0;
        loop {
            let free = self.answer.get_mut(read..).unwrap_or_default();
            let more = self.stream.read(free).await.context("read an answer")?;
            read += more;
            let answer = self.answer.get(..read).unwrap_or_default();
            if answer.ends_with(ACCEPTED) && answer.starts_with(b"HTTP/1.1 200 ") {
                return Ok(());
            }
            if more == 0 || !answer.starts_with(b"HTTP/1.1 200 ") && answer.len() > 12 {
                bail!(
                    "the device under test answered {:?}",
                    String::from_utf8_lossy(answer)
                );
            }
        }
    }
}

impl Schedule {
    /// Releases each request when it is due.
    fn release(&self, clock: &Clock, began: Instant, rate: f64, duration: Duration) {
        let random = Random::seeded(1);
        let mut due = began;
        while due < began + duration && !self.released.is_closed() {
            let wait = due.saturating_duration_since(clock.now());
            if !wait.is_zero() {
                std::thread::sleep(wait);
            }
            lock(&self.due).push_back(due);
            self.released.add_permits(1);
            due += Duration::from_secs_f64(-(1.0 - random.fraction()).ln() / rate);
        }
        // Those released before are still to be taken.
        while !lock(&self.due).is_empty() && !self.released.is_closed() {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.released.close();
    }

    /// Waits for a request to be due; none after the last.
    async fn next(&self) -> Option<Instant> {
        self.released.acquire().await.ok()?.forget();
        lock(&self.due).pop_front()
    }
}

fn record(latency: &Mutex<Histogram<u64>>, took: Duration) {
    lock(latency).saturating_record(u64::try_from(took.as_micros()).unwrap_or(LONGEST));
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
