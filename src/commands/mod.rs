//! One module per command: arguments in, exit code out.

use std::{
    ffi::CStr,
    future::Future,
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use shared::{environment::Environment, supervised};
use tokio::runtime;

pub(crate) mod check;
pub(crate) mod credentials;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod health;
pub(crate) mod init;
pub(crate) mod keygen;
pub(crate) mod notify;
pub(crate) mod push;
#[cfg(target_os = "linux")]
pub(crate) mod reader;
pub(crate) mod run;
pub(crate) mod sandboxed;
pub(crate) mod turn;
mod turn_uri;

/// What a folder with configurations has: the push gateway's, the relay's, or both.
const PUSH_FILE: &str = "push-gateway.yaml";
const TURN_FILE: &str = "turn-relay.yaml";

/// Folders with configurations, when the command line names none.
const USUAL_FOLDERS: [&str; 2] = ["/etc/nocturne", "config"];

/// A folder, and which of [`PUSH_FILE`] and [`TURN_FILE`] are in it, or need not be since their variables are
/// set.
#[derive(Debug)]
struct Configured {
    folder: PathBuf,
    files: Vec<&'static str>,
}

/// The folder that is named, else the first of the usual ones that has a configuration, else the first of
/// them if variables are set. An error has the folders that have none.
fn configured(named: Option<&Path>, environment: &Environment) -> Result<Configured, Vec<String>> {
    let folders = match named {
        Some(folder) => vec![folder],
        None => USUAL_FOLDERS.iter().map(Path::new).collect(),
    };
    // A file of which cannot be told whether it is there counts: its service says what is wrong.
    let is_in = |folder: &Path, file: &str| folder.join(file).try_exists().unwrap_or(true);
    let has_any = |folder: &&&Path| is_in(folder, PUSH_FILE) || is_in(folder, TURN_FILE);
    let folder = *folders.iter().find(has_any).unwrap_or(&folders[0]);
    let variables = [
        (PUSH_FILE, push_gateway::config::VARIABLES),
        (TURN_FILE, turn_relay::config::VARIABLES),
    ];
    let files: Vec<_> = variables
        .into_iter()
        .filter(|(file, variables)| is_in(folder, file) || variables.are_set(environment))
        .map(|(file, _)| file)
        .collect();
    if files.is_empty() {
        let shown = |folder: &&Path| folder.display().to_string();
        return Err(folders.iter().map(shown).collect());
    }
    Ok(Configured {
        folder: folder.to_owned(),
        files,
    })
}

/// Runs a future on a runtime with a thread for each core that the process may use.
fn block_on(future: impl Future<Output = ExitCode>) -> ExitCode {
    block_on_runtime(runtime::Builder::new_multi_thread(), future)
}

/// Runs a future on a runtime with this thread alone.
fn block_on_one_thread(future: impl Future<Output = ExitCode>) -> ExitCode {
    block_on_runtime(runtime::Builder::new_current_thread(), future)
}

fn block_on_runtime(
    mut builder: runtime::Builder,
    future: impl Future<Output = ExitCode>,
) -> ExitCode {
    match builder.enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(future);
            // A name that is still being looked up is not waited for.
            runtime.shutdown_timeout(Duration::from_millis(100));
            code
        }
        Err(error) => failed(&format!("the runtime cannot be started: {error}")),
    }
}

/// Under `nocturne run`: tells it what happens, and ends when it does.
fn answer_to_supervisor(is_supervised: bool) -> Result<(), String> {
    if !is_supervised {
        return Ok(());
    }
    supervised::begin().map_err(|error| {
        format!("standard input is no line to a supervisor (--supervised is for `nocturne run`): {error}")
    })
}

/// Names this process as `ps` and `top` show it: started as [`program`], it would be `exe`.
fn name_process(name: &CStr) {
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::set_name(name);
    #[cfg(not(target_os = "linux"))]
    let _ = name;
}

/// This very program, also when another version has taken its place in the meantime.
fn program() -> io::Result<PathBuf> {
    if cfg!(target_os = "linux") {
        Ok(PathBuf::from("/proc/self/exe"))
    } else {
        std::env::current_exe()
    }
}

/// Says on standard error what a configuration cannot be used for, with its warnings; the exit code is 1.
fn refused(path: &Path, errors: &[String], warnings: &[String]) -> ExitCode {
    for problem in warnings {
        say(&mut io::stderr(), &format!("warning: {problem}\n"));
    }
    for problem in errors {
        say(&mut io::stderr(), &format!("error: {problem}\n"));
    }
    failed(&format!(
        "{} cannot be used; problems: {}",
        path.display(),
        errors.len()
    ))
}

/// Says on standard error what went wrong; the exit code is 1.
fn failed(problem: &str) -> ExitCode {
    say(&mut io::stderr(), &format!("nocturne: {problem}\n"));
    ExitCode::FAILURE
}

/// Writes text for a person. Nobody to read it (a closed pipe) is not an error.
fn say(to: &mut impl io::Write, text: &str) {
    let _ = to.write_all(text.as_bytes()).and_then(|()| to.flush());
}
