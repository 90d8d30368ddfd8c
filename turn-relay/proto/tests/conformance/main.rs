//! What the RFCs and the documentation of [`turn_relay_proto`] say, asked of the server as a stranger would: each folder is a document, each
//! file a section of it. Every message is written and read with `stun-types`.

#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::duration_suboptimal_units, reason = "the RFCs count seconds")]

#[expect(dead_code, reason = "each test binary uses a part of it")]
#[path = "../support/mod.rs"]
mod support;

mod life;
mod logs;
mod quotas;
mod rest_credentials;
mod rfc6062;
mod rfc7983;
mod rfc8489;
mod rfc8656;
mod straight_across;
