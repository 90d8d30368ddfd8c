//! `nocturne doctor`: a set-up that works is sound, and each thing that can be wrong with one is found, by its
//! topic, with what to do about it; nothing hides another.
//!
//! The services are the real ones, on loopback, and doctor is the real program.
//!
//! | module | what |
//! |---|---|
//! | [`sound`] | a set-up that works, and what is said of it |
//! | [`relay`] | what can be wrong with the relay, one test each |
//! | [`certificates`] | what can be wrong with its certificate |
//! | [`livekit`] | LiveKit's configuration |

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod certificates;
mod harness;
mod livekit;
mod relay;
mod sound;
