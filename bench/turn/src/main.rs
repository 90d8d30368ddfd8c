//! How fast the TURN relay is, and what it costs, beside coturn on the same cores; and the soak.
//!
//! One command starts everything, each in a process of its own: the relays ([`relay`]) on their
//! core, and here, on the other cores, clients and peers ([`crowd`], [`traffic`], [`stream`]). All of it is on
//! loopback and ends with this process. What is measured and how: README.md.

#[cfg(target_os = "linux")]
mod client;
#[cfg(target_os = "linux")]
mod command;
#[cfg(target_os = "linux")]
mod crowd;
#[cfg(target_os = "linux")]
mod floor;
#[cfg(target_os = "linux")]
mod measure;
#[cfg(target_os = "linux")]
mod process;
#[cfg(target_os = "linux")]
mod relay;
#[cfg(target_os = "linux")]
mod report;
#[cfg(target_os = "linux")]
mod soak;
#[cfg(target_os = "linux")]
mod stage;
#[cfg(target_os = "linux")]
mod stream;
#[cfg(target_os = "linux")]
mod stun;
#[cfg(target_os = "linux")]
mod traffic;
#[cfg(target_os = "linux")]
mod wire;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    command::run()
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    say("bench-turn: needs Linux: it is about how Linux moves packets");
    ExitCode::FAILURE
}

/// Tells the person at the terminal how far it is. Nobody to read it is not an error.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
