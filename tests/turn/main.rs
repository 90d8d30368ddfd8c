//! The TURN relay's behaviour, seen from outside: the real `nocturne turn` on one side, clients, peers and attackers
//! with sockets of their own on the other.
//!
//! The client is written for these tests with `stun-types`, and uses nothing of the relay's code: what the relay
//! sends is judged by somebody else's reading of the RFCs.
//!
//! | module | what |
//! |---|---|
//! | [`start`], [`command`] | what an operator is told at start, or why there is none; `nocturne check` |
//! | [`strangers`] | what those get who have no credentials |
//! | [`allocations`] | credentials, quotas and lifetimes |
//! | [`peers`], [`calls`] | whom clients may reach: peers, and each other |
//! | [`reload`], [`stop`] | signals, and systemd |
//! | [`eyes`] | health, metrics, logs |

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod allocations;
mod calls;
mod client;
mod command;
mod eyes;
#[cfg(target_os = "linux")]
mod namespaces;
mod peers;
mod relay;
mod reload;
mod start;
mod stop;
mod strangers;
mod time;
mod wire;
