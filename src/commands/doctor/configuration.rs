//! What `nocturne check` says.

use std::path::{Path, PathBuf};

use shared::tls;
use turn_relay::addresses;

use super::{
    Context,
    finding::{Finding, Topic},
};

const TOPIC: Topic = Topic::Configuration;

const BAD: &str = "the service does not start with this file";
const FAILING: &str = "the service starts, but without what this is for";
const MEND: &str = "mend the file, and try again; `nocturne check` says the same faster";
/// Only the services' user may read what init writes.
const OPEN: &str = "run doctor as the user of the services: `sudo -u nocturne nocturne doctor …`; if you did, let it read \
                    the file";

/// What reading one file gave, as its service tells it.
struct Told {
    path: PathBuf,
    errors: Vec<String>,
    failing: Vec<String>,
    warnings: Vec<String>,
}

/// Reads the push gateway's configuration into the context.
pub(super) fn read_push(context: &mut Context, path: PathBuf) {
    let loaded = push_gateway::config::load(&path, &context.environment, context.clock.wall());
    context.push = loaded.config.filter(|_| loaded.errors.is_empty());
    let mut errors = loaded.errors;
    errors.extend(tls::roots(&context.environment).err());
    let told = Told {
        path: path.clone(),
        errors,
        failing: loaded.failing,
        warnings: loaded.warnings,
    };
    let good = context.push.as_ref().map(|config| {
        let count = config.apps.len();
        format!("sound; apps: {count}")
    });
    context.read.extend(findings(told, good));
    context.push_path = Some(path);
}

/// Reads the relay's configuration into the context.
pub(super) fn read_turn(context: &mut Context, path: PathBuf) {
    let loaded = turn_relay::config::load(&path, &context.environment, context.clock.wall());
    context.turn = loaded.config.filter(|_| loaded.errors.is_empty());
    let mut told = Told {
        path: path.clone(),
        errors: loaded.errors,
        failing: loaded.failing,
        warnings: loaded.warnings,
    };
    let mut good = None;
    if let Some(config) = &context.turn {
        // What this machine has says nothing of another one, nor what a relay would do here with the few keys that
        // doctor needs of it.
        if context.elsewhere {
            told.warnings.clear();
            good = Some(format!("can be read; realm {}", config.realm));
        } else {
            match addresses::find(&config.relay) {
                // Whether clients can use them is judged under DNS.
                Ok(_) => good = Some(format!("sound; realm {}", config.realm)),
                Err(problem) => told.errors.push(problem.to_string()),
            }
        }
    }
    context.read.extend(findings(told, good));
    context.turn_path = Some(path);
}

pub(super) fn examine(context: &Context) -> Vec<Finding> {
    context.read.clone()
}

/// One finding for each problem; a good one if there are warnings at the most.
fn findings(told: Told, good: Option<String>) -> Vec<Finding> {
    let Told {
        path,
        errors,
        failing,
        warnings,
    } = told;
    let subject = path.display().to_string();
    let errors: Vec<_> = errors
        .iter()
        .map(|text| (text, BAD))
        .chain(failing.iter().map(|text| (text, FAILING)))
        .map(|(text, why)| {
            let is_closed = text.contains("Permission denied");
            let remedy = if is_closed { OPEN } else { MEND };
            Finding::failure(TOPIC, &subject, without_path(text, &path), why, remedy)
        })
        .collect();
    let good = good.filter(|_| errors.is_empty());
    let warnings = warnings.iter().map(|text| {
        let what = without_path(text, &path);
        let why = "the service starts, but this may not be what you want";
        Finding::warning(TOPIC, &subject, what, why, "look at this line of the file")
    });
    good.into_iter()
        .map(|what| Finding::good(TOPIC, &subject, what))
        .chain(errors)
        .chain(warnings)
        .collect()
}

/// A problem begins with its file, which is the finding's subject, and mostly with a line.
fn without_path(text: &str, path: &Path) -> String {
    let place = path.display().to_string();
    let rest = text.strip_prefix(&place).unwrap_or(text);
    let rest = rest.trim_start_matches([':', ' ']);
    match rest.split_once(':') {
        Some((line, _)) if line.parse::<u32>().is_ok() => format!("line {rest}"),
        Some(_) | None => rest.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_said_once_and_the_line_as_a_line() {
        let path = Path::new("/etc/nocturne/turn-relay.yaml");
        for (text, expected) in [
            (
                "/etc/nocturne/turn-relay.yaml:3: realm: is empty",
                "line 3: realm: is empty",
            ),
            (
                "/etc/nocturne/turn-relay.yaml: cannot be read",
                "cannot be read",
            ),
            (
                "no certificate authorities found: install some",
                "no certificate authorities found: install some",
            ),
        ] {
            assert_eq!(without_path(text, path), expected);
        }
    }
}
