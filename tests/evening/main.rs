//! An evening as a new admin has it: a homeserver is there, the folder is empty; `nocturne init`, what SETUP.md
//! says, `nocturne run`, and `nocturne doctor` finds nothing to complain of.
//!
//! ```text
//!                internet: routes everything, and has the name server
//!         5.0.1.1 │            5.0.2.1 │            5.0.3.1 │
//!                 │                    │                    │
//!   server 5.0.1.2, firewall    caller 5.0.2.2       friend 5.0.3.2
//!   nginx, Synapse, Nocturne    curl, doctor         a push server
//! ```
//!
//! All of it is on machines of network, mount and process namespaces, which end with the test. nginx, Synapse,
//! nft, curl and useradd are the real ones; `sudo`, `systemctl` and `certbot` are a few lines of shell that do what
//! SETUP.md wants of them. It takes Linux, root, and `NOCTURNE_SYNAPSE_PYTHON` (CONTRIBUTING.md); the test says so
//! where something is missing, and fails of it where the environment has `CI`.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod before;
mod dns;
mod machine;
mod report;
mod walk;

#[expect(dead_code, reason = "the relay's own tests do more with it")]
#[path = "../turn/client.rs"]
mod client;
#[expect(dead_code, reason = "init's own tests do more with it")]
#[path = "../init/folder.rs"]
mod folder;
#[expect(dead_code, reason = "the relay's own tests do more with it")]
#[path = "../turn/namespaces/network.rs"]
mod network;
#[expect(dead_code, reason = "init's own tests do more with it")]
#[path = "../init/programs.rs"]
mod programs;
#[path = "../turn/time.rs"]
mod time;
#[expect(dead_code, reason = "the relay's own tests do more with it")]
#[path = "../turn/wire.rs"]
mod wire;
