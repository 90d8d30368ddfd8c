//! What both services need, and nothing that only one does.

pub mod address_policy;
pub mod clock;
pub mod environment;
pub mod http_client;
pub mod random;
pub mod secret;
pub mod telemetry;
pub mod yaml;
