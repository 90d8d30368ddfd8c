//! STUN (RFC 8489) and TURN (RFC 8656, RFC 6062) without input and output.
//!
//! [`Server`] is the relay of one thread: it takes packets, the time and the events of sockets, and gives
//! [`Effect`]s, in the order in which they are to be carried out. It opens no socket, reads no clock, starts no thread and knows no runtime.
//! Servers of several threads share a [`Commons`]: who has how many allocations, which ports are taken, and how a
//! packet goes straight to a client whose allocation another thread owns.
//!
//! What a user of this crate has to do is said at [`Server`].

// what the network sends decides about many an index here
#![warn(clippy::indexing_slicing)]

pub mod address;
pub mod commons;
pub mod config;
pub mod counters;
pub mod credential;
pub mod effect;
pub mod nonce;
pub mod packet;
pub mod policy;
pub mod ports;
pub mod quota;
pub mod stun;
pub mod time;

mod budget;
mod connections;
mod rate;
#[expect(
    clippy::indexing_slicing,
    reason = "places of the families and of the headers that it writes"
)]
mod server;

pub use address::{FiveTuple, Link, RelayId, Transport};
pub use commons::Commons;
pub use config::Config;
pub use effect::{Data, Effect, Effects};
pub use packet::Packet;
pub use server::{ConnectFailure, IcmpError, Payer, RelayFailure, Server};
pub use time::{Now, Time};
