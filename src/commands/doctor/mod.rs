//! `nocturne doctor`: the real thing is tried, and what fails is explained.

use std::{fmt::Write as _, io, path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;
use serde_json::json;
use shared::{clock::Clock, environment::Environment, random::Random, secret::Secret};
use tokio::time::timeout;
use url::Url;

use self::finding::{Finding, Outcome, Topic};
use super::{
    block_on,
    check::{self, Kind},
    failed, say,
};

mod certificates;
mod clock;
mod configuration;
mod dns;
mod finding;
mod homeserver;
mod livekit;
mod places;
mod ports;
mod push;
mod reach;
mod turn;
mod well_known;

/// Where an access token may be, beside `--access-token-file`.
const ACCESS_TOKEN: &str = "NOCTURNE_ACCESS_TOKEN";
/// Larger than any access token.
const MAX_ACCESS_TOKEN: u64 = 16 * 1024;
/// Topics keep to [`Context::timeout`] for each try; one that takes this many times as long is given up.
const TOPIC_TIMEOUTS: u32 = 6;

/// Try a set-up for real, and say what to do about each failure
///
/// Looks at DNS, ports, certificates, a TURN allocation with a packet through it over each URI, the homeserver,
/// the well-known, LiveKit's configuration, and the providers' authentication. It is a client as any other: it
/// needs the configurations, and changes nothing. Exit code 1 if anything fails; warnings alone are none.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  nocturne doctor --config-dir /etc/nocturne\n  nocturne doctor --homeserver https://matrix.example.org --server-name example.org --json"
)]
pub(crate) struct Arguments {
    /// A folder with push-gateway.yaml, turn-relay.yaml or both in it. Without it: /etc/nocturne, else
    /// ./config, else the files that `nocturne push` and `nocturne turn` would take.
    #[arg(long, value_name = "DIR")]
    config_dir: Option<PathBuf>,
    /// Print JSON: {"sound", "findings": [{"topic", "subject", "outcome", "what", "why", "remedy"}]}.
    #[arg(long)]
    json: bool,
    /// The homeserver's base URL, as clients have it.
    ///
    /// Without it, what the well-known of --server-name says, else `credentials.homeserver`.
    #[arg(long, value_name = "URL", value_parser = base_url)]
    homeserver: Option<Url>,
    /// The name behind the colon in user IDs, for `https://NAME/.well-known/matrix/client`.
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// A file with the access token of some user, to ask the homeserver for TURN credentials as a client does.
    ///
    /// Without it, the environment variable `NOCTURNE_ACCESS_TOKEN`.
    #[arg(long, value_name = "FILE")]
    access_token_file: Option<PathBuf>,
    /// LiveKit's configuration: does it name this relay?
    #[arg(long, value_name = "FILE")]
    livekit: Option<PathBuf>,
    /// This machine is not the relay's: look at what clients see alone, and at nothing that is on this machine.
    #[arg(long)]
    elsewhere: bool,
    /// How long one try may take.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = clap::value_parser!(u16).range(1..=300))]
    timeout: u16,
}

/// What topics look at, and what they look with.
struct Context {
    /// The push gateway's configuration file, if there is one.
    push_path: Option<PathBuf>,
    /// What it has in it; none if it cannot be used.
    push: Option<push_gateway::config::Config>,
    /// The TURN relay's configuration file, if there is one.
    turn_path: Option<PathBuf>,
    /// What it has in it; none if it cannot be used. Its certificate may have expired.
    turn: Option<turn_relay::config::Config>,
    /// What reading both files gave, for the topic `configuration`.
    read: Vec<Finding>,
    /// `--homeserver`; without it the topics find it themselves
    homeserver: Option<Url>,
    /// `--server-name`
    server_name: Option<String>,
    /// A user's access token. It is never shown.
    access_token: Option<Secret<String>>,
    /// `--livekit`
    livekit: Option<PathBuf>,
    /// `--elsewhere`: the relay is on another machine.
    elsewhere: bool,
    /// `--timeout`: how long one try may take. A topic makes its tries side by side.
    timeout: Duration,
    clock: Clock,
    random: Random,
    environment: Environment,
    /// What several topics ask of the network.
    reached: reach::Reached,
}

impl Context {
    /// What a topic answers that needs the relay's configuration, without one.
    fn without_turn(&self, topic: Topic) -> Vec<Finding> {
        let kind = "TURN relay";
        vec![without(topic, kind, self.turn_path.as_ref())]
    }

    /// What a topic answers that needs the push gateway's configuration, without one.
    fn without_push(&self, topic: Topic) -> Vec<Finding> {
        let kind = "push gateway";
        vec![without(topic, kind, self.push_path.as_ref())]
    }
}

fn without(topic: Topic, kind: &str, path: Option<&PathBuf>) -> Finding {
    match path {
        Some(path) => Finding::skipped(
            topic,
            path.display().to_string(),
            "not tried, since the configuration cannot be used",
            "mend what is listed under Configuration",
        ),
        None => Finding::skipped(
            topic,
            kind,
            format!("not tried, since there is no configuration of the {kind} here"),
            "nothing, if it runs elsewhere or not at all; else name its folder with --config-dir",
        ),
    }
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, environment: &Environment) -> ExitCode {
    let context = match context(arguments, environment) {
        Ok(context) => context,
        Err(problem) => return failed(&problem),
    };
    block_on(async {
        let findings = examine(&context).await;
        let text = if arguments.json {
            in_json(&findings)
        } else {
            in_words(&findings)
        };
        say(&mut io::stdout(), &text);
        if is_sound(&findings) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    })
}

fn context(arguments: &Arguments, environment: &Environment) -> Result<Context, String> {
    let (clock, random) = (Clock::system(), Random::system());
    let mut context = Context {
        push_path: None,
        push: None,
        turn_path: None,
        turn: None,
        read: Vec::new(),
        homeserver: arguments.homeserver.clone(),
        server_name: arguments.server_name.clone(),
        access_token: access_token(arguments, environment)?,
        livekit: arguments.livekit.clone(),
        elsewhere: arguments.elsewhere,
        timeout: Duration::from_secs(arguments.timeout.into()),
        clock,
        random,
        environment: environment.clone(),
        reached: reach::Reached::default(),
    };
    for path in check::usual_files(arguments.config_dir.as_deref(), environment)? {
        match check::kind(&path) {
            Kind::Push if context.push_path.is_none() => {
                configuration::read_push(&mut context, path);
            }
            Kind::Turn if context.turn_path.is_none() => {
                configuration::read_turn(&mut context, path);
            }
            Kind::Push | Kind::Turn => {
                return Err(format!(
                    "{} is of the same kind as the other file in its folder",
                    path.display()
                ));
            }
        }
    }
    Ok(context)
}

/// An argument would be seen by whoever can list processes.
fn access_token(
    arguments: &Arguments,
    environment: &Environment,
) -> Result<Option<Secret<String>>, String> {
    use std::io::Read as _;

    let Some(path) = &arguments.access_token_file else {
        let token = environment.get(ACCESS_TOKEN).map(str::trim);
        return Ok(token.map(|token| Secret::new(token.to_owned())));
    };
    let refused = |problem: String| format!("--access-token-file {}: {problem}", path.display());
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_ACCESS_TOKEN).read_to_string(&mut text))
        .map_err(|error| refused(error.to_string()))?;
    match text.trim() {
        "" => Err(refused("it is empty".to_owned())),
        token => Ok(Some(Secret::new(token.to_owned()))),
    }
}

fn base_url(text: &str) -> Result<Url, String> {
    let url: Url = text.parse().map_err(|error| format!("{error}"))?;
    if matches!(url.scheme(), "http" | "https") && url.has_host() {
        Ok(url)
    } else {
        Err("give it as https://HOST or http://HOST:PORT".to_owned())
    }
}

/// All topics side by side; a topic that fails or hangs leaves the others as they are.
async fn examine(context: &Context) -> Vec<Finding> {
    let limit = context.timeout * TOPIC_TIMEOUTS;
    let bounded = async |topic: Topic| {
        let found = async {
            match topic {
                Topic::Configuration => configuration::examine(context),
                Topic::Dns => dns::examine(context).await,
                Topic::Ports => ports::examine(context).await,
                Topic::Certificates => certificates::examine(context).await,
                Topic::Turn => turn::examine(context).await,
                Topic::Homeserver => homeserver::examine(context).await,
                Topic::WellKnown => well_known::examine(context).await,
                Topic::LiveKit => livekit::examine(context),
                Topic::Push => push::examine(context).await,
                Topic::Clock => clock::examine(context).await,
            }
        };
        timeout(limit, found).await.unwrap_or_else(|_| {
            vec![Finding::failure(
                topic,
                "all of it",
                format!("not finished after {} seconds", limit.as_secs()),
                "what was tried answers far too slowly, so that nothing can be said about it",
                "try again with a longer --timeout",
            )]
        })
    };
    let topics = Topic::ALL.map(|topic| Box::pin(bounded(topic)));
    futures_util::future::join_all(topics).await.concat()
}

fn is_sound(findings: &[Finding]) -> bool {
    !findings.iter().any(Finding::is_failure)
}

fn in_json(findings: &[Finding]) -> String {
    let all: Vec<_> = findings.iter().map(Finding::json).collect();
    format!(
        "{:#}\n",
        json!({"sound": is_sound(findings), "findings": all})
    )
}

fn in_words(findings: &[Finding]) -> String {
    let mut text = String::new();
    for topic in Topic::ALL {
        let mut of_topic = findings
            .iter()
            .filter(|finding| finding.topic == topic)
            .peekable();
        if of_topic.peek().is_some() {
            let _ = writeln!(text, "{}", topic.title());
            of_topic.for_each(|finding| text.push_str(&finding.text()));
        }
    }
    let count = |is: fn(&Outcome) -> bool| {
        findings
            .iter()
            .filter(|finding| is(&finding.outcome))
            .count()
    };
    text + &format!(
        "good: {}, warnings: {}, failures: {}, skipped: {}\n",
        count(|outcome| matches!(outcome, Outcome::Good { .. })),
        count(|outcome| matches!(outcome, Outcome::Warning { .. })),
        count(|outcome| matches!(outcome, Outcome::Failure { .. })),
        count(|outcome| matches!(outcome, Outcome::Skipped { .. })),
    )
}
