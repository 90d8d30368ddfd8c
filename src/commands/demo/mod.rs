//! `nocturne demo`: what each party sees, shown and checked on loopback.
//!
//! [`push`] is the part about notifications, [`turn`] the one about calls. A part plays its story for real, prints it on
//! [`paper`], and gives back the [`check::Check`]s that the exit code depends on.

use std::{io, process::ExitCode};

use clap::Args;
use shared::environment::Environment;

use super::{block_on, failed, say};

mod check;
mod folder;
mod paper;
mod push;
mod search;
mod turn;

use paper::Paper;

/// Show on this machine alone what Apple, Google, a push service and a listener on the wire see
///
/// Starts stand-ins for them and a gateway on loopback, and sends notifications as Synapse does; then
/// starts a relay, and two clients make a call through it. Prints who saw what. There is nothing to
/// configure, and nothing is left behind. Exit code 0 only if every step was seen to work.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  nocturne demo")]
pub(crate) struct Arguments {}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, environment: &Environment) -> ExitCode {
    let Arguments {} = arguments;
    let paper = Paper::of_stdout(environment);
    block_on(async {
        let mut problems = Vec::new();
        // what follows is played even if this one fails
        for (part, played) in [
            ("push", push::play(&paper).await),
            ("TURN", turn::play(&paper).await),
        ] {
            match played {
                Ok(played) => problems.extend(show(&played, &paper)),
                Err(problem) => problems.push(format!("{part}: {problem}")),
            }
        }
        if problems.is_empty() {
            ExitCode::SUCCESS
        } else {
            failed(&format!("not seen to work:\n  {}", problems.join("\n  ")))
        }
    })
}

/// Prints a part; what was not seen to work in it.
fn show(played: &Played, paper: &Paper) -> Vec<String> {
    say(&mut io::stdout(), &played.story);
    say(&mut io::stdout(), &check::text(&played.checks, paper));
    say(&mut io::stdout(), &played.conclusion);
    check::problems(&played.checks)
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
