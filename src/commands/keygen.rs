//! `nocturne keygen`: a key for sealed pushkeys.

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
    process::ExitCode,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::Args;
use shared::{random::Random, secret::Secret};

use super::{failed, say};

/// Write a fresh key for sealed pushkeys
///
/// The file is readable by its owner alone, and one that is there already is never written over. Put
/// its path first in the list `pushkey_keys` and reload the gateway; clients find the public key at
/// /_nocturne/v1/keys.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  nocturne keygen /etc/nocturne/pushkeys.key")]
pub(crate) struct Arguments {
    /// Where to write the key.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let key = Secret::new(Random::system().bytes::<32>());
    let text = Secret::new(format!("{}\n", STANDARD.encode(key.expose())));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&arguments.file)
        .and_then(|mut file| {
            file.write_all(text.expose().as_bytes())?;
            file.sync_all()
        });
    let path = arguments.file.display();
    match written {
        Ok(()) => {
            say(
                &mut io::stdout(),
                &format!(
                    "wrote {path}\nput it first in the list: pushkey_keys: [\"{path}\"]\n\
                     keep a copy: without it, pushkeys that were sealed to it are rejected\n"
                ),
            );
            ExitCode::SUCCESS
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => failed(&format!(
            "{path} is there already and is not written over: pushkeys may be sealed to it"
        )),
        Err(error) => failed(&format!("{path} cannot be written: {error}")),
    }
}
