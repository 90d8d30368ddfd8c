//! What both services need, and nothing that only one does.

pub use address_policy;

pub mod clock;
pub mod environment;
pub mod epoch_key;
pub mod files;
pub mod http_client;
pub mod http_server;
pub mod key_file;
pub mod lifecycle;
pub mod log_gate;
pub mod open_files;
pub mod process;
pub mod pseudonym;
pub mod random;
pub mod rate_limit;
pub mod secret;
pub mod supervised;
pub mod telemetry;
pub mod tls;
pub mod yaml;
