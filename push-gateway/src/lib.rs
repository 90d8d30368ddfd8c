//! A Matrix push gateway, drop-in for Sygnal, that tells providers as little as possible.

pub mod config;
pub mod notification;
pub mod opaque;
pub mod outcome;
pub mod provider;
mod python_json;
mod retry_after;
pub mod sealed;
