//! The TURN relay: input and output around [`turn_relay_proto`].

pub mod io;
pub mod workers;

mod worker;
