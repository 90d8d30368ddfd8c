//! What happens when: ends, words, signals and time.

use std::{io, path::PathBuf, process::ExitCode, time::Instant};

use rustix::process::{Pid, Signal, WaitOptions, wait};
use shared::{
    clock::Clock,
    lifecycle::{self, NotifyState, STOPPING},
};
use tokio::{
    io::AsyncReadExt as _,
    signal::unix::{Signal as Signals, SignalKind, signal},
    sync::mpsc,
};
use tracing::{error, info, warn};

use super::service::{End, MORE_TIME, Service, State, Verdict};

/// Stopped, but not as it should.
const UNCLEAN: u8 = 3;

/// Words of children that wait to be heard.
const WORDS: usize = 64;

/// The longest word of a child; more is forgotten.
const LONGEST_WORD: usize = 1024;

/// The supervisor of the services.
pub(super) struct Supervisor {
    services: Vec<Service>,
    clock: Clock,
    speaker: mpsc::Sender<(Pid, String)>,
    words: mpsc::Receiver<(Pid, String)>,
    children: Signals,
    hangup: Signals,
    terminate: Signals,
    interrupt: Signals,
    upgrade: Signals,
    /// Where this program was when it started, and where its other version is by the time of an upgrade.
    program: Option<PathBuf>,
    watchdog: lifecycle::Watchdog,
    /// Whether systemd was told that everything serves.
    has_been_ready: bool,
    is_reloading: bool,
    /// The exit code, once everything is to stop.
    stopping: Option<u8>,
    /// What the gateway is stopped with when the relay has ended.
    goodbye: Option<Signal>,
}

impl Supervisor {
    pub(super) fn new(services: Vec<Service>) -> io::Result<Self> {
        let (speaker, words) = mpsc::channel(WORDS);
        Ok(Self {
            services,
            clock: Clock::system(),
            speaker,
            words,
            children: signal(SignalKind::child())?,
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            upgrade: signal(SignalKind::user_defined2())?,
            program: std::env::current_exe().ok(),
            watchdog: lifecycle::Watchdog::new(),
            has_been_ready: false,
            is_reloading: false,
            stopping: None,
            goodbye: None,
        })
    }

    /// Runs until all services have ended. The exit code says how that came.
    pub(super) async fn run(mut self) -> ExitCode {
        for index in 0..self.services.len() {
            self.start(index);
        }
        loop {
            if let Some(code) = self.stopping
                && self.services.iter().all(Service::has_ended)
            {
                info!("stopped");
                return ExitCode::from(code);
            }
            let deadline = self
                .services
                .iter()
                .filter_map(Service::next_deadline)
                .min();
            let time = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // What was said comes before the time that has passed: this process may have been held up.
                biased;
                Some((pid, word)) = self.words.recv() => self.hear(pid, &word),
                _ = self.children.recv() => self.reap(),
                _ = self.terminate.recv() => self.stop(Signal::TERM),
                _ = self.interrupt.recv() => self.stop(Signal::INT),
                _ = self.hangup.recv() => self.reload(),
                _ = self.upgrade.recv() => self.exchange(),
                () = self.watchdog.tick() => lifecycle::notify(&[NotifyState::Watchdog]),
                () = time => self.look_at_the_time(),
            }
        }
    }

    fn now(&self) -> Instant {
        self.clock.now()
    }

    fn start(&mut self, index: usize) {
        let now = self.now();
        let service = &mut self.services[index];
        let started = service.start(now);
        let listening = started.and_then(|line| {
            let pid = service.pid().ok_or(io::ErrorKind::NotFound)?;
            Ok((pid, tokio::net::UnixStream::from_std(line)?))
        });
        match listening {
            Ok((pid, line)) => {
                tokio::spawn(listen(line, pid, self.speaker.clone()));
            }
            // With a process the line is closed now, so that the process ends by itself.
            Err(error) if service.pid().is_some() => {
                error!(service = service.name, %error, "a process cannot be listened to");
            }
            Err(error) => {
                let verdict = service.not_started(&error, now);
                self.judge(verdict, 1);
            }
        }
    }

    fn hear(&mut self, pid: Pid, word: &str) {
        let now = self.now();
        let Some(service) = self.service_of(pid) else {
            return;
        };
        service.hear(pid, word, now);
        if self.stopping.is_some() {
            if word.starts_with(MORE_TIME) {
                let more = u32::try_from(STOPPING.as_micros()).unwrap_or(u32::MAX);
                lifecycle::notify(&[NotifyState::ExtendTimeoutUsec(more)]);
            }
        } else {
            self.tell();
        }
    }

    /// Tells systemd how things are.
    fn tell(&mut self) {
        let status = self
            .services
            .iter()
            .map(|service| {
                let state = match &service.state {
                    State::Running(_) if service.is_ready() => "running",
                    State::Running(_) => "starting or ending",
                    State::Waiting(_) => "about to be started again",
                    State::Ended => "ended",
                };
                format!("{}: {state}", service.name)
            })
            .collect::<Vec<_>>()
            .join(", ");
        let status = NotifyState::Status(&status);
        let is_first = !self.has_been_ready && self.services.iter().all(Service::is_ready);
        let has_reloaded = self.is_reloading && !self.services.iter().any(Service::is_reloading);
        if is_first || has_reloaded {
            self.has_been_ready |= is_first;
            self.is_reloading = false;
            lifecycle::notify(&[NotifyState::Ready, status]);
        } else {
            lifecycle::notify(&[status]);
        }
    }

    /// Takes note of ended children, and of those who were left to this process because it is the first of
    /// its container.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let Some(end) = End::of(status) else {
                continue;
            };
            let (now, stopping) = (self.now(), self.stopping);
            let Some(service) = self.service_of(pid) else {
                continue;
            };
            if service.predecessor_ended(pid, end) {
                continue;
            }
            if stopping.is_none() || !service.is_asked_to_stop() {
                let verdict = service.ended(end, now);
                self.judge(verdict, end.exit_code());
                if self.stopping.is_none() {
                    self.tell();
                }
                continue;
            }
            info!(service = service.name, %end, "ended");
            service.is_over();
            let as_asked = [End::Code(0), Self::by(Signal::TERM), Self::by(Signal::INT)];
            if stopping == Some(0) && !as_asked.contains(&end) {
                self.stopping = Some(UNCLEAN);
            }
        }
        self.say_goodbye();
    }

    fn by(signal: Signal) -> End {
        End::Signal(signal.as_raw())
    }

    fn judge(&mut self, verdict: Verdict, code: u8) {
        match verdict {
            Verdict::Restart => {}
            Verdict::CannotStart => {
                // A service that ends before it served did not do what it is for.
                self.begin_stop(Signal::TERM, code.max(1));
            }
        }
    }

    fn stop(&mut self, signal: Signal) {
        if self.stopping.is_none() {
            info!(
                "stopping: both services finish what is under way, the gateway when the relay has ended"
            );
            self.begin_stop(signal, 0);
        } else {
            warn!("a second signal: stopping at once");
            self.goodbye = None;
            let now = self.now();
            for service in &mut self.services {
                service.stop_at_once(signal, now);
            }
        }
    }

    fn begin_stop(&mut self, signal: Signal, code: u8) {
        if self.stopping.is_some() {
            return;
        }
        self.stopping = Some(code);
        lifecycle::notify(&[NotifyState::Stopping]);
        let now = self.now();
        // The relay waits for calls to end, and there must be no hours without notifications for that.
        for service in &mut self.services {
            if !service.is_gateway() {
                service.stop(signal, now);
            }
        }
        self.goodbye = Some(signal);
        self.say_goodbye();
    }

    /// Stops the gateway, if everything is to stop and nothing but it is left.
    fn say_goodbye(&mut self) {
        let is_alone = |service: &Service| service.is_gateway() || service.has_ended();
        if self.services.iter().all(is_alone)
            && let Some(signal) = self.goodbye.take()
        {
            let now = self.now();
            for service in self
                .services
                .iter_mut()
                .filter(|service| service.is_gateway())
            {
                service.stop(signal, now);
            }
        }
    }

    /// Has the version of this program that is in its place by now take over.
    fn exchange(&mut self) {
        let Some(program) = self.program.clone() else {
            error!("no upgrade: it is unknown where this program is");
            return;
        };
        if self.stopping.is_some() {
            return;
        }
        info!(
            "upgrading to {}: the gateway at once, the relay when the last call is over",
            program.display()
        );
        for index in 0..self.services.len() {
            let now = self.now();
            if self.services[index].make_way(&program, now) {
                self.start(index);
            }
        }
    }

    fn reload(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        info!("reloading: passed on");
        for service in &mut self.services {
            service.reload();
        }
        if self.has_been_ready {
            self.is_reloading = true;
            lifecycle::notify_reloading();
            // There may be nobody to wait for.
            self.tell();
        }
    }

    fn look_at_the_time(&mut self) {
        let now = self.now();
        for index in 0..self.services.len() {
            // also one that an upgrade has left behind
            if self.services[index].kill_if_silent(now) && self.stopping == Some(0) {
                self.stopping = Some(UNCLEAN);
            }
            if let State::Waiting(until) = self.services[index].state
                && until <= now
            {
                self.start(index);
            }
        }
    }

    fn service_of(&mut self, pid: Pid) -> Option<&mut Service> {
        self.services.iter_mut().find(|service| service.has(pid))
    }
}

/// Passes on what a child says, word for word, until it has nothing more to say.
async fn listen(mut line: tokio::net::UnixStream, pid: Pid, speaker: mpsc::Sender<(Pid, String)>) {
    let mut buffer = Vec::new();
    let mut chunk = [0; LONGEST_WORD];
    while let Ok(length @ 1..) = line.read(&mut chunk).await {
        buffer.extend(chunk.iter().take(length));
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let word: Vec<u8> = buffer.drain(..=end).collect();
            let word = String::from_utf8_lossy(&word).trim_end().to_owned();
            if speaker.send((pid, word)).await.is_err() {
                return;
            }
        }
        if buffer.len() > LONGEST_WORD {
            buffer.clear();
        }
    }
}
