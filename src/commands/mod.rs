//! One module per command: arguments in, exit code out.

use std::{future::Future, io, process::ExitCode, time::Duration};

pub(crate) mod check;
pub(crate) mod demo;
pub(crate) mod keygen;
pub(crate) mod notify;
pub(crate) mod push;

/// Runs a future on a runtime with a thread for each core that the process may use.
fn block_on(future: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => {
            let code = runtime.block_on(future);
            // A name that is still being looked up is not waited for.
            runtime.shutdown_timeout(Duration::from_millis(100));
            code
        }
        Err(error) => failed(&format!("the runtime cannot be started: {error}")),
    }
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
