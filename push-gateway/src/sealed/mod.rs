//! What is meant for the device alone: its keys, and the plaintext that is encrypted to them
//! (spec/opaque-push.md §2 and §5).

pub mod keys;
pub mod plaintext;
