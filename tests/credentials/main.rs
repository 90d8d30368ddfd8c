//! The credential service over HTTP: before a stand-in for the homeserver, and before a real Synapse with a
//! real nginx in front of both.

mod harness;
mod hostile;
mod matrix;
mod observed;
#[path = "../synapse/process.rs"]
mod process;
mod proxied;
mod rest;
#[expect(
    dead_code,
    reason = "rooms and pushers are what the tests of the gateway do with it"
)]
#[path = "../synapse/synapse.rs"]
mod synapse;

use std::time::Duration;

/// How long anything is waited for. Nothing waits this long unless it is about to fail.
const PATIENCE: Duration = Duration::from_mins(2);
