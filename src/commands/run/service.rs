//! One service: its process, and what is to become of it next.

use std::{
    fmt, io,
    os::unix::{net::UnixStream, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, WaitStatus, kill_process};
use shared::{environment::Environment, lifecycle::STOPPING};
use tracing::{error, info, warn};

use crate::commands::program;

/// How long a child may take until it serves.
const START: Duration = Duration::from_secs(90);

/// How long a child may take after a second signal.
const AT_ONCE: Duration = Duration::from_secs(5);

/// A deadline that is looked at so much too late says more of who looks.
const LATE: Duration = Duration::from_secs(2);

/// How long is waited before a service is started again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// After the first end, and after each that came when the service had run well.
    first: Duration,
    /// Each pause is twice as long as the one before, up to this.
    longest: Duration,
    /// How long a service has to serve to have run well.
    well: Duration,
    /// A service that says nothing for so long is killed and started again. It says something in half of
    /// that.
    silence: Duration,
}

impl Patience {
    /// 250 ms make 30 s at the most, 10 s of good service, and 30 s of silence.
    pub(super) fn with_first_pause(first: Duration) -> Self {
        Self {
            first,
            longest: first * 120,
            well: first * 40,
            silence: first * 120,
        }
    }
}

/// A service and its process, if it has one now.
#[derive(Debug)]
pub(super) struct Service {
    /// The subcommand.
    pub(super) name: &'static str,
    configuration: PathBuf,
    privileges: Vec<String>,
    /// Variables that are none of its business: the other's settings and keys, and who watches the
    /// supervisor.
    hidden: Vec<String>,
    patience: Patience,
    pause: Duration,
    /// Whether it has served since the supervisor started.
    has_served: bool,
    /// What is started: this very program, until an upgrade.
    program: Option<PathBuf>,
    pub(super) state: State,
    /// The process that the one in `state` takes over from.
    predecessor: Option<Predecessor>,
    /// What `program` was before an upgrade, until the new one has served.
    fallback: Option<Before>,
}

/// A process that serves until its successor does, and then ends.
#[derive(Debug)]
struct Predecessor {
    process: Process,
    program: Option<PathBuf>,
}

/// What a service is doing.
#[derive(Debug)]
pub(super) enum State {
    /// It has a process.
    Running(Process),
    /// It is started then.
    Waiting(Instant),
    /// It is not started any more.
    Ended,
}

/// The program before an upgrade, as in [`Service::program`].
#[derive(Debug)]
struct Before(Option<PathBuf>);

/// A process of a service.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is true for itself: there is no order of states"
)]
pub(super) struct Process {
    pub(super) pid: Pid,
    /// When it said that it serves.
    ready: Option<Instant>,
    reload: Reload,
    is_stopping: bool,
    /// Whether the service is to stop with it.
    is_asked: bool,
    /// No word wins time any more.
    is_stopping_at_once: bool,
    /// So that another signal is its second.
    has_said_that_it_stops: bool,
    /// What it is sent once it can tell a second signal from the first.
    second: Option<Signal>,
    /// When it is killed, unless it says something before.
    deadline: Instant,
    /// Whether its deadline has passed once while nobody looked.
    was_forgiven: bool,
}

/// How far a reload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reload {
    None,
    /// It came before the child could take signals.
    Wanted,
    UnderWay,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Code(i32),
    Signal(i32),
}

impl End {
    pub(super) fn of(status: WaitStatus) -> Option<Self> {
        let code = status.exit_status().map(Self::Code);
        code.or_else(|| status.terminating_signal().map(Self::Signal))
    }

    /// As a shell says it.
    pub(super) fn exit_code(self) -> u8 {
        let code = match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        };
        u8::try_from(code).unwrap_or(u8::MAX)
    }
}

impl fmt::Display for End {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(formatter, "exit code {code}"),
            Self::Signal(signal) => write!(formatter, "killed by signal {signal}"),
        }
    }
}

/// What an end means for the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is started again.
    Restart,
    /// It never served: with this configuration, or on this machine, it cannot.
    CannotStart,
}

impl Service {
    pub(super) fn new(
        name: &'static str,
        configuration: PathBuf,
        privileges: Vec<String>,
        environment: &Environment,
        patience: Patience,
    ) -> Self {
        let is_hidden = |variable: &&str| is_hidden_from(name, variable);
        Self {
            name,
            configuration,
            privileges,
            hidden: environment
                .names()
                .filter(is_hidden)
                .map(str::to_owned)
                .collect(),
            patience,
            pause: patience.first,
            has_served: false,
            program: None,
            state: State::Ended,
            predecessor: None,
            fallback: None,
        }
    }

    /// Starts a process; its end of the line is returned.
    pub(super) fn start(&mut self, now: Instant) -> io::Result<UnixStream> {
        let (line, childs_end) = UnixStream::pair()?;
        line.set_nonblocking(true)?;
        let mut command = Command::new(match &self.program {
            Some(program) => program.clone(),
            None => program()?,
        });
        command
            .arg0("nocturne")
            .args([self.name, "--supervised", "--config"])
            .arg(&self.configuration)
            .args(&self.privileges)
            .args(self.predecessor.is_some().then_some("--beside"))
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(childs_end)))
            // Ctrl-C on a terminal is the supervisor's, who passes it on: otherwise it came twice.
            .process_group(0);
        for variable in &self.hidden {
            command.env_remove(variable);
        }
        // systemd's is among those: this one is the supervisor's own
        command.env(
            "WATCHDOG_USEC",
            self.patience.silence.as_micros().to_string(),
        );
        let child = command.spawn()?;
        // Whoever waits for it does so by its ID.
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("a process without an ID"))?;
        info!(
            service = self.name,
            pid = pid.as_raw_nonzero().get(),
            "started"
        );
        self.state = State::Running(Process {
            pid,
            ready: None,
            reload: Reload::None,
            is_stopping: false,
            is_asked: false,
            is_stopping_at_once: false,
            has_said_that_it_stops: false,
            second: None,
            deadline: now + START,
            was_forgiven: false,
        });
        Ok(line)
    }

    /// It could not even be started.
    pub(super) fn not_started(&mut self, error: &io::Error, now: Instant) -> Verdict {
        error!(service = self.name, %error, "no process can be started");
        if self.predecessor_goes_on() {
            return Verdict::Restart;
        }
        self.fall_back();
        self.decide(Duration::ZERO, now)
    }

    /// Has `program` take the place of the one that runs; true if a process of it is to be started now, beside
    /// the one that there is.
    pub(super) fn make_way(&mut self, program: &Path, now: Instant) -> bool {
        if self.predecessor.is_some() {
            warn!(service = self.name, "the last upgrade is still under way");
            return false;
        }
        let before = self.program.replace(program.to_owned());
        if !self.is_ready() {
            if matches!(&self.state, State::Running(process) if !process.is_stopping) {
                self.program = before;
                warn!(
                    service = self.name,
                    "it is just starting and stays as it is: send the signal again when it serves"
                );
            }
            return false;
        }
        if !self.is_gateway() {
            self.fallback = Some(Before(before));
            // Two relays cannot have the same ports: it is started again when the last call is over.
            if let State::Running(process) = &mut self.state {
                process.stop(Signal::TERM, now);
            }
            return false;
        }
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Running(process) => {
                self.predecessor = Some(Predecessor {
                    process,
                    program: before,
                });
                true
            }
            other @ (State::Waiting(_) | State::Ended) => {
                self.state = other;
                false
            }
        }
    }

    /// Gives up an upgrade whose program has not served yet.
    fn fall_back(&mut self) {
        if let Some(Before(program)) = self.fallback.take() {
            error!(
                service = self.name,
                "the other version does not start: the one before is started again"
            );
            self.program = program;
        }
    }

    /// Gives up an upgrade if the old process still serves.
    fn predecessor_goes_on(&mut self) -> bool {
        let is_to_reload = self.is_reloading();
        match self.predecessor.take() {
            Some(predecessor) if !predecessor.process.is_stopping => {
                error!(
                    service = self.name,
                    "the other version does not start: the one that runs goes on"
                );
                self.program = predecessor.program;
                self.state = State::Running(predecessor.process);
                if is_to_reload {
                    self.reload();
                }
                true
            }
            other => {
                self.predecessor = other;
                false
            }
        }
    }

    /// The gateway goes on until the relay has ended, and a second one can be there at the same time.
    pub(super) fn is_gateway(&self) -> bool {
        self.name == "push"
    }

    /// Whether it has no process and gets none any more.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended) && self.predecessor.is_none()
    }

    /// Whether its end is what is wanted.
    pub(super) fn is_asked_to_stop(&self) -> bool {
        match &self.state {
            State::Running(process) => process.is_asked,
            State::Waiting(_) => false,
            State::Ended => true,
        }
    }

    /// Whether one of its processes is this one.
    pub(super) fn has(&self, pid: Pid) -> bool {
        self.pid() == Some(pid) || self.is_predecessor(pid)
    }

    fn is_predecessor(&self, pid: Pid) -> bool {
        let predecessor = self.predecessor.as_ref();
        predecessor.is_some_and(|predecessor| predecessor.process.pid == pid)
    }

    /// Takes note of the end of the old process of an upgrade; false if it was another one.
    pub(super) fn predecessor_ended(&mut self, pid: Pid, end: End) -> bool {
        let is_it = self.is_predecessor(pid);
        if is_it {
            info!(service = self.name, pid = pid.as_raw_nonzero().get(), %end, "the old version ended");
            self.predecessor = None;
        }
        is_it
    }

    pub(super) fn pid(&self) -> Option<Pid> {
        match &self.state {
            State::Running(process) => Some(process.pid),
            State::Waiting(_) | State::Ended => None,
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(&self.state, State::Running(process) if process.ready.is_some() && !process.is_stopping)
    }

    pub(super) fn is_reloading(&self) -> bool {
        matches!(&self.state, State::Running(process) if process.reload != Reload::None)
    }

    /// What a process says of itself.
    pub(super) fn hear(&mut self, pid: Pid, word: &str, now: Instant) {
        if self.is_predecessor(pid) {
            if let Some(predecessor) = &mut self.predecessor {
                predecessor.process.hear(word, self.patience.silence, now);
            }
            return;
        }
        let State::Running(process) = &mut self.state else {
            return;
        };
        if word == "READY=1" {
            if process.ready.is_none() {
                info!(
                    service = self.name,
                    pid = process.pid.as_raw_nonzero().get(),
                    "ready"
                );
                process.ready = Some(now);
                self.has_served = true;
                self.fallback = None;
                if process.reload == Reload::Wanted {
                    process.signal(Signal::HUP);
                }
                if let Some(predecessor) = &mut self.predecessor {
                    predecessor.process.stop(Signal::TERM, now);
                }
            }
            process.reload = match process.reload {
                Reload::Wanted => Reload::UnderWay,
                Reload::None | Reload::UnderWay => Reload::None,
            };
        }
        process.hear(word, self.patience.silence, now);
    }

    /// Has the process read its files again; before it can, that is kept for later.
    pub(super) fn reload(&mut self) {
        if let State::Running(process) = &mut self.state
            && !process.is_stopping
        {
            if process.ready.is_some() {
                process.reload = Reload::UnderWay;
                process.signal(Signal::HUP);
            } else {
                process.reload = Reload::Wanted;
            }
        }
    }

    /// Has the processes finish what is under way; it is not started again.
    pub(super) fn stop(&mut self, signal: Signal, now: Instant) {
        match &mut self.state {
            State::Running(process) => {
                process.is_asked = true;
                // A second signal would have it stop at once.
                if !process.is_stopping {
                    process.stop(signal, now);
                }
            }
            State::Waiting(_) | State::Ended => self.state = State::Ended,
        }
        if let Some(predecessor) = &mut self.predecessor
            && !predecessor.process.is_stopping
        {
            predecessor.process.stop(signal, now);
        }
    }

    /// The same, and at once.
    pub(super) fn stop_at_once(&mut self, signal: Signal, now: Instant) {
        match &mut self.state {
            State::Running(process) => {
                process.is_asked = true;
                process.stop_at_once(signal, now);
            }
            State::Waiting(_) | State::Ended => self.state = State::Ended,
        }
        if let Some(predecessor) = &mut self.predecessor {
            predecessor.process.stop_at_once(signal, now);
        }
    }

    /// When something is to be done that nobody asks for.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let next = match &self.state {
            State::Running(process) => Some(process.deadline),
            State::Waiting(until) => Some(*until),
            State::Ended => None,
        };
        let predecessor = self.predecessor.as_ref();
        next.into_iter()
            .chain(predecessor.map(|predecessor| predecessor.process.deadline))
            .min()
    }

    /// Kills processes that have been silent for too long; true if there was one.
    pub(super) fn kill_if_silent(&mut self, now: Instant) -> bool {
        let current = match &mut self.state {
            State::Running(process) => Some(process),
            State::Waiting(_) | State::Ended => None,
        };
        let predecessor = self.predecessor.as_mut();
        let processes = current
            .into_iter()
            .chain(predecessor.map(|predecessor| &mut predecessor.process));
        let mut was_killed = false;
        for process in processes.filter(|process| process.deadline <= now) {
            // Whoever looks so late was away, and so may have been the process (`docker pause`).
            let is_late = now.duration_since(process.deadline) > LATE;
            if is_late && !process.is_stopping_at_once && !process.was_forgiven {
                process.was_forgiven = true;
                process.deadline = now + self.patience.silence / 2 + LATE;
                continue;
            }
            error!(
                service = self.name,
                pid = process.pid.as_raw_nonzero().get(),
                "silent for too long: killed"
            );
            process.signal(Signal::KILL);
            process.deadline = now + AT_ONCE;
            was_killed = true;
        }
        was_killed
    }

    /// The process ended without being asked to.
    pub(super) fn ended(&mut self, end: End, now: Instant) -> Verdict {
        let served = match &self.state {
            State::Running(process) => process.ready.map(|since| now.duration_since(since)),
            State::Waiting(_) | State::Ended => None,
        };
        if served.is_none() && self.predecessor_goes_on() {
            return Verdict::Restart;
        }
        if served.is_none() {
            self.fall_back();
        }
        let verdict = self.decide(served.unwrap_or_default(), now);
        if let State::Waiting(until) = &self.state {
            let pause = until.duration_since(now);
            warn!(
                service = self.name,
                %end,
                pause_milliseconds = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
                "ended: it is started again after a pause"
            );
        } else {
            error!(service = self.name, %end, "it cannot be started");
        }
        verdict
    }

    /// It ended as it was asked to.
    pub(super) fn is_over(&mut self) {
        self.state = State::Ended;
    }

    fn decide(&mut self, served: Duration, now: Instant) -> Verdict {
        if !self.has_served {
            self.state = State::Ended;
            return Verdict::CannotStart;
        }
        if served >= self.patience.well {
            self.pause = self.patience.first;
        }
        self.state = State::Waiting(now + self.pause);
        self.pause = (self.pause * 2).min(self.patience.longest);
        Verdict::Restart
    }
}

/// What a child says that is stopping and not done yet. How much more it asks for is not looked at: it gets
/// [`STOPPING`], which is what it asks for.
pub(super) const MORE_TIME: &str = "EXTEND_TIMEOUT_USEC=";

impl Process {
    fn signal(&self, signal: Signal) {
        // It has not been waited for, so that the ID is still its own.
        if let Err(error) = kill_process(self.pid, signal) {
            error!(%error, "a signal could not be passed on");
        }
    }

    /// A word wins time: a stop as much as systemd gives for it, anything else `silence`.
    fn hear(&mut self, word: &str, silence: Duration, now: Instant) {
        let patience = match word {
            "READY=1" | "WATCHDOG=1" | "RELOADING=1"
                if self.ready.is_some() && !self.is_stopping =>
            {
                silence
            }
            // Perhaps somebody stopped this process alone: it has its time, too.
            word if word == "STOPPING=1" || word.starts_with(MORE_TIME) => {
                self.is_stopping = true;
                self.has_said_that_it_stops = true;
                if let Some(second) = self.second.take() {
                    self.signal(second);
                }
                STOPPING
            }
            _ => return,
        };
        self.was_forgiven = false;
        if !self.is_stopping_at_once {
            self.deadline = now + patience;
        }
    }

    fn stop(&mut self, signal: Signal, now: Instant) {
        self.is_stopping = true;
        self.deadline = now + STOPPING;
        self.signal(signal);
    }

    /// It takes two signals, of which the second would be lost if it came before the first was seen.
    fn stop_at_once(&mut self, signal: Signal, now: Instant) {
        if !self.has_said_that_it_stops {
            self.second = Some(signal);
        }
        if self.has_said_that_it_stops || !self.is_stopping {
            self.signal(signal);
        }
        self.is_stopping = true;
        self.is_stopping_at_once = true;
        self.deadline = now + AT_ONCE;
    }
}

fn is_hidden_from(service: &str, variable: &str) -> bool {
    const OF_THE_SUPERVISOR: [&str; 6] = [
        "NOTIFY_SOCKET",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
        "LISTEN_PID",
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
    ];
    const OF_PUSH: [&str; 2] = ["NOCTURNE_PUSH_", "SYGNAL_"];
    const OF_TURN: [&str; 1] = ["NOCTURNE_TURN_"];
    let others: &[&str] = if service == "push" {
        &OF_TURN
    } else {
        &OF_PUSH
    };
    OF_THE_SUPERVISOR.contains(&variable)
        || others.iter().any(|prefix| variable.starts_with(prefix))
}
