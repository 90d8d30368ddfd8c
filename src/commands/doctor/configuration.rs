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
    let loaded = turn_relay::config::load(&path, context.clock.wall());
    context.turn = loaded.config.filter(|_| loaded.errors.is_empty());
    let mut told = Told {
        path: path.clone(),
        errors: loaded.errors,
        failing: loaded.failing,
        warnings: loaded.warnings,
    };
    let mut good = None;
    if let Some(config) = &context.turn {
        match addresses::find(&config.relay) {
            // Whether clients can use them is judged under DNS.
            Ok(_) => good = Some(format!("sound; realm {}", config.realm)),
            Err(problem) => told.errors.push(problem.to_string()),
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
        .map(|(text, why)| Finding::failure(TOPIC, &subject, without_path(text, &path), why, MEND))
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

/// A problem begins with its file, which is the finding's subject; the line stays.
fn without_path<'a>(text: &'a str, path: &Path) -> &'a str {
    let place = path.display().to_string();
    let rest = text.strip_prefix(&place).unwrap_or(text);
    rest.trim_start_matches([':', ' '])
}
