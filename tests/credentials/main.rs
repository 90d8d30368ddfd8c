//! The credential service over HTTP: before a stand-in for the homeserver, before a real Synapse with a real
//! nginx in front of both, and as part of `nocturne turn`, whose relay takes what it hands out.

mod harness;
mod hostile;
mod matrix;
mod observed;
#[path = "../synapse/process.rs"]
mod process;
mod program;
mod proxied;
mod rest;
#[expect(
    dead_code,
    reason = "rooms and pushers are what the tests of the gateway do with it"
)]
#[path = "../synapse/synapse.rs"]
mod synapse;

// a relay with a client, for what is handed out
#[expect(
    dead_code,
    clippy::unwrap_used,
    reason = "more than these tests need; a test may panic"
)]
mod client;
#[expect(
    dead_code,
    clippy::unwrap_used,
    reason = "more than these tests need; a test may panic"
)]
mod relay;

use std::time::Duration;

/// How long anything is waited for. Nothing waits this long unless it is about to fail.
const PATIENCE: Duration = Duration::from_mins(2);
