//! `nocturne doctor`, the real program, beside servers that are as they should be and others.

mod clock;
mod homeserver;
mod push;
mod web;
mod well_known;
