//! The TURN relay's life as its operator sees it: the real `nocturne turn` with signals, files and HTTP on one
//! side, and a client with a call under way on the other.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod client;
mod command;
mod life;
mod relay;
mod reload;
