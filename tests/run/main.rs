//! `nocturne run` as an operator sees it: two services below a supervisor, and what becomes of them when
//! something happens to one of the three.
//!
//! | module | what |
//! |---|---|
//! | [`start`] | what there has to be, and what is said when there is not |
//! | [`ends`] | a service that dies or hangs; a supervisor that dies |
//! | [`signals`] | reload and stop |
//! | [`privileges`] | what the services may still do |
//! | [`upgrade`] | another version takes over; the gateway outlives the relay |

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod ends;
mod harness;
mod health;
mod privileges;
mod signals;
mod start;
mod upgrade;
