//! A TURN relay (RFC 8656) that knows as little as possible about who talks to whom.

pub mod addresses;
pub mod certificates;
pub mod config;
