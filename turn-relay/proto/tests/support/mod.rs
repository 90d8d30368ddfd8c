//! What the tests of the core have in common: messages written and read with `stun-types`, a client, and a world in which servers, sockets and
//! time are moved by hand. Nothing here uses the writer or the parser of the crate under test.

pub(crate) mod client;
pub(crate) mod random;
pub(crate) mod stun;
pub(crate) mod world;
