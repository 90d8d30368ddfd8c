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

// the relay and its client, as the tests of the relay have them
#[expect(
    dead_code,
    clippy::unwrap_used,
    reason = "calls are what the tests of the relay do with it; a test may panic"
)]
#[path = "../turn/client.rs"]
mod client;
#[expect(
    dead_code,
    clippy::unwrap_used,
    reason = "signals and reloads are what the tests of the relay do with it; a test may panic"
)]
#[path = "../turn/relay.rs"]
mod relay;

use std::time::Duration;

/// How long anything is waited for. Nothing waits this long unless it is about to fail.
const PATIENCE: Duration = Duration::from_mins(2);
