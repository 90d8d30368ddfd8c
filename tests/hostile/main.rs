//! The gateway under attack: hostile homeservers, clients, push services and operators in a hurry.
//!
//! What is asserted everywhere: an answer of the kinds that the interface promises, a process that
//! lives, memory that stays, and a log in which nobody is named.

use std::time::Duration;

mod bodies;
mod clients;
mod devices;
mod draw;
mod endpoints;
mod gateway;
mod lifecycle;
mod memory;
mod providers;
mod wire;

/// How long a test waits for what has to come. Never reached on a machine that is not stuck.
const PATIENCE: Duration = Duration::from_mins(1);
