//! `nocturne demo`: what each party sees, shown and checked on loopback.
//!
//! [`push`] is the part about notifications. A part plays its story for real, prints it on
//! [`paper`], and gives back the [`check::Check`]s that the exit code depends on.

use std::{io, process::ExitCode};

use clap::Args;
use shared::environment::Environment;

use super::{block_on, failed, say};

mod check;
mod paper;
mod push;

use paper::Paper;

/// Show on this machine alone what Apple, Google and a push service see
///
/// Starts stand-ins for them and a gateway on loopback, sends notifications as Synapse does, and
/// prints who saw what. There is nothing to configure, and nothing is left behind. Exit code 0 only
/// if every step was seen to work.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  nocturne demo")]
pub(crate) struct Arguments {}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, environment: &Environment) -> ExitCode {
    let Arguments {} = arguments;
    let paper = Paper::of_stdout(environment);
    block_on(async {
        let push = match push::play(&paper).await {
            Ok(push) => push,
            Err(problem) => return failed(&format!("the demo cannot be played: {problem}")),
        };
        say(&mut io::stdout(), &push.story);
        say(&mut io::stdout(), &check::text(&push.checks, &paper));
        say(&mut io::stdout(), &push.conclusion);
        let problems = check::problems(&push.checks);
        if problems.is_empty() {
            ExitCode::SUCCESS
        } else {
            failed(&format!("not seen to work:\n  {}", problems.join("\n  ")))
        }
    })
}

/// A part of the demo after it was played.
struct Played {
    /// What happened, for a person.
    story: String,
    /// What it comes down to.
    conclusion: String,
    /// Whether it is what has to happen.
    checks: Vec<check::Check>,
}
