//! Nothing here yet: the TURN relay comes with a release of its own.
//!
//! The crate holds the relay's place beside the push gateway. No command of this version starts one.
