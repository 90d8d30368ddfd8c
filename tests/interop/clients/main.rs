//! Other people's TURN clients against the relay, or against coturn with `INTEROP_RELAY=coturn`.
//!
//! README.md says what is driven and what has to be installed for it.

use std::time::Duration;

mod aioice;
mod authority;
mod browser;
mod network;
mod process;
mod relay;
mod requirements;
mod turn_client;
mod turnutils;
mod webrtc_rs;

/// How long anything is waited for. Nothing waits this long unless it is about to fail.
const PATIENCE: Duration = Duration::from_mins(2);

/// How long to wait before asking again.
const PAUSE: Duration = Duration::from_millis(20);
