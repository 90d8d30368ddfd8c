//! What is meant for the device alone: its keys, the plaintext, and how it is encrypted to them
//! (spec/opaque-push.md §2, §4, §5 and §7).

pub mod aes128gcm;
pub mod keys;
pub mod plaintext;
pub mod pushkey;
pub mod tags;
