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
//! | [`streams`], [`connections`] | clients over TCP and TLS, and those who only look like clients |
//! | [`certificates`] | renewals |
//! | `dtls` | clients over DTLS, with the feature of that name |
//! | [`proxy_protocol`], [`https_backend`], [`tcp_allocations`] | what is off unless the operator wants it |
//! | [`one_port`] | the same as `https_backend` with nginx and curl, as docs/one-port.md says |
//! | [`eyes`] | health, metrics, logs |
//! | `namespaces` | hosts, routers and NATs around the relay, on Linux as root |

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod allocations;
mod calls;
mod certificates;
mod client;
mod command;
mod connections;
#[cfg(feature = "dtls")]
mod dtls;
mod eyes;
mod https_backend;
#[cfg(target_os = "linux")]
mod namespaces;
mod one_port;
mod peers;
mod proxy_protocol;
mod relay;
mod reload;
mod start;
mod stop;
mod strangers;
mod streams;
mod tcp_allocations;
mod time;
mod wire;
