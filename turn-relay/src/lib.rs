//! The TURN relay: input and output around [`turn_relay_proto`], and what an operator sees of it.

pub mod addresses;
pub mod certificates;
pub mod config;
pub mod workers;
