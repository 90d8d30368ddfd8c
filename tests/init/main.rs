//! `nocturne init`: what it writes starts, stays and rotates, and what SETUP.md says to paste is fed to the
//! programs that it is for.
//!
//! Synapse is that of `NOCTURNE_SYNAPSE_PYTHON` (CONTRIBUTING.md). Where a program is missing, the test that
//! needs it says so and does nothing.

mod command;
mod evening;
mod folder;
mod programs;
mod proxies;
mod rotation;
mod services;
mod snippets;

#[expect(
    dead_code,
    clippy::unwrap_used,
    reason = "more than these tests need; a test may panic"
)]
#[path = "../credentials/client.rs"]
mod client;
#[path = "../synapse/process.rs"]
mod process;
#[expect(
    dead_code,
    reason = "rooms are what the tests of the gateway do with it"
)]
#[path = "../synapse/synapse.rs"]
mod synapse;

/// What the client wants to know of the relay.
mod relay {
    pub(crate) use crate::PATIENCE;
    pub(crate) const REALM: &str = "turn.example.org";
}

use std::time::Duration;

/// How long anything is waited for. Nothing waits this long unless it is about to fail.
const PATIENCE: Duration = Duration::from_mins(2);
