//! `nocturne doctor`, the real program, beside servers that are as they should be and others.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod clock;
mod homeserver;
mod push;
mod web;
mod well_known;
