//! The TURN relay: input and output around [`turn_relay_proto`].

pub mod credentials;
pub mod workers;
