//! `nocturne doctor`: a set-up that works is sound, and each thing that can be wrong with one is found, by its
//! topic, with what to do about it; nothing hides another.
//!
//! The services are the real ones, on loopback, and doctor is the real program.
//!
//! | module | what |
//! |---|---|
//! | [`sound`] | a set-up that works, and what is said of it |
//! | [`relay`] | what can be wrong with the relay |
//! | [`impostor`] | servers that are not the relay, or break its promises |
//! | [`certificates`] | what can be wrong with its certificate |
//! | [`homeserver`], [`well_known`] | what clients find at the homeserver and under its name |
//! | [`livekit`] | LiveKit's configuration |
//! | [`push`] | what providers say to the gateway's credentials |
//! | [`clock`] | a clock that is wrong |

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod certificates;
mod clock;
mod harness;
mod homeserver;
mod impostor;
mod livekit;
mod push;
mod relay;
mod sound;
mod web;
mod well_known;
