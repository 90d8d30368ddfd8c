//! Child processes that end with the test, and ports for them.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    thread,
};

use shared::clock::Clock;

use crate::{PATIENCE, PAUSE};

/// A process that is killed when this is dropped. If a test is failing then, what it printed is shown.
pub(crate) struct Process {
    name: String,
    child: Child,
    output: PathBuf,
}

/// What a process left behind.
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    /// Standard output and standard error.
    pub(crate) output: String,
}

impl Process {
    /// Starts `command`; what it prints goes into a file in `folder`.
    pub(crate) fn start(name: &str, command: &mut Command, folder: &Path) -> Self {
        static STARTED: AtomicU16 = AtomicU16::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let output = folder.join(format!("{name}-{number}.log"));
        let file = File::create(&output).expect("the folder can be written to");
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a file can be opened twice"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self {
            name: name.to_owned(),
            child,
            output,
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `condition` holds, and fails if the process ends before that.
    pub(crate) fn wait_until(&mut self, what: &str, condition: impl Fn() -> bool) {
        let clock = Clock::system();
        let end = clock.now() + PATIENCE;
        while !condition() {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("{} ended before it was {what}: {status}", self.name);
            }
            assert!(clock.now() < end, "{} is not {what}", self.name);
            thread::sleep(PAUSE);
        }
    }

    /// Waits until it ends by itself.
    pub(crate) fn finish(mut self) -> Finished {
        let clock = Clock::system();
        let end = clock.now() + PATIENCE;
        loop {
            let status = self.child.try_wait().expect("a child can be waited for");
            if let Some(status) = status {
                return Finished {
                    status,
                    output: self.printed(),
                };
            }
            assert!(clock.now() < end, "{} does not end", self.name);
            thread::sleep(PAUSE);
        }
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        let status = self.child.try_wait().expect("a child can be waited for");
        status.is_some()
    }

    fn printed(&self) -> String {
        let output = fs::read(&self.output).unwrap_or_default();
        String::from_utf8_lossy(&output).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // it may have ended by itself
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- what {} printed:\n{}", self.name, self.printed());
        }
    }
}

/// A port that nothing uses on loopback, for UDP and TCP, IPv4 and IPv6: below those that outgoing connections and
/// relayed addresses get.
pub(crate) fn free_port() -> u16 {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let of_this_process = u16::try_from(std::process::id() % 250).expect("less than 250");
    for _ in 0..1000 {
        let port = 20_000 + of_this_process * 40 + TAKEN.fetch_add(1, Ordering::Relaxed);
        let is_free = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
            && TcpListener::bind((Ipv6Addr::LOCALHOST, port)).is_ok()
            && UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
            && UdpSocket::bind((Ipv6Addr::LOCALHOST, port)).is_ok();
        if is_free {
            return port;
        }
    }
    panic!("no free port");
}

/// Whether the network of process `id` has somebody listening on `port`, for IPv4 and IPv6.
pub(crate) fn listens(id: u32, protocol: &str, port: u16) -> bool {
    ["", "6"].iter().all(|version| {
        // proc(5): a line for each socket; the second column is its address, the fourth its state
        let table = fs::read_to_string(format!("/proc/{id}/net/{protocol}{version}"));
        let listening = if protocol == "tcp" { "0A" } else { "07" };
        table.unwrap_or_default().lines().skip(1).any(|line| {
            let columns: Vec<_> = line.split_whitespace().collect();
            let [_, local, _, state, ..] = columns.as_slice() else {
                return false;
            };
            local.ends_with(&format!(":{port:04X}")) && *state == listening
        })
    })
}
