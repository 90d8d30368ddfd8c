//! `init --rotate`: a fresh secret in front, and the old ones still good.

use std::{fmt, path::Path};

use shared::{
    clock::Clock,
    environment::Environment,
    random::Random,
    secret::Secret,
    yaml::{self, CannotEdit, Diagnostics, Value},
};
use turn_relay::config::{self, Config};
use zeroize::Zeroizing;

use super::{
    SETUP, TURN,
    configuration::fresh_secret,
    folder::{Folder, SECRET, Staged, commit},
    setup,
};

/// More than that many the relay does not take.
const MOST_SECRETS: usize = 16;

/// What was done.
#[derive(Debug)]
pub(super) struct Rotated {
    /// What it is the first of now: `secrets` of the configuration, or the file that has them.
    pub(super) place: String,
    /// Whether SETUP.md had the old secret, and has the new one.
    pub(super) setup: bool,
    /// After so many hours nobody has a credential any more that the old one signed.
    pub(super) hours: u64,
    /// Whether the relay makes credentials by itself.
    pub(super) issues: bool,
}

impl fmt::Display for Rotated {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            place,
            setup,
            hours,
            issues,
        } = self;
        writeln!(
            formatter,
            "a new secret is the first of {place}; the old one goes on working, and nothing else in it is different"
        )?;
        if *setup {
            writeln!(
                formatter,
                "{SETUP} has the new one now, wherever the old one was"
            )?;
        }
        writeln!(formatter)?;
        writeln!(
            formatter,
            "  1. reload the relay: systemctl reload nocturne"
        )?;
        let source = if *setup {
            "SETUP.md has it in all snippets"
        } else {
            "it is the first of the list"
        };
        let note = if *issues {
            ". What Nocturne makes itself is signed with it from the reload on"
        } else {
            ""
        };
        writeln!(
            formatter,
            "  2. give the new secret to whatever else signs credentials (Synapse, LiveKit, …): {source}{note}"
        )?;
        writeln!(
            formatter,
            "  3. {hours} hours after that (24 with Nextcloud Talk) take the old one out, and reload again"
        )?;
        writeln!(formatter, "\nNext: systemctl reload nocturne")
    }
}

/// Changes the files.
pub(super) fn rotate(path: &Path, random: &Random, clock: &Clock) -> Result<Rotated, String> {
    let folder = Folder::open(path)?;
    let config = load(&folder, TURN, clock)?;
    if config.secrets.len() >= MOST_SECRETS {
        return Err(format!(
            "{} has {MOST_SECRETS} secrets, and more are not possible: take out those that nobody signs with any more",
            folder.join(TURN).display()
        ));
    }
    let text = folder.read(TURN)?;
    let fresh = fresh_secret(random);
    let shown = folder.join(TURN).display().to_string();
    match yaml::prepend(&text, "secrets", fresh.expose()) {
        Ok(edited) => {
            let edited = Zeroizing::new(edited);
            let staged = folder.stage(TURN, &edited, SECRET)?;
            check(&load(&folder, &staged.temporary(), clock)?, &fresh, &config).map_err(|problem| {
                format!("{shown}: {problem}: put a new secret in front by hand (openssl rand -base64 32)")
            })?;
            finish(
                &folder,
                staged,
                &config,
                &fresh,
                format!("`secrets` of {shown}"),
            )
        }
        Err(CannotEdit::Absent(_)) => {
            let file = secrets_file(&text).ok_or_else(|| {
                format!("{shown} has neither `secrets` nor `secrets_file` as text")
            })?;
            in_file(&folder, &file, &config, &fresh)
        }
        Err(problem) => Err(format!(
            "{shown}: {problem}: put a new secret in front by hand (openssl rand -base64 32)"
        )),
    }
}

/// The file of `secrets_file`, which may be elsewhere.
fn in_file(
    folder: &Folder,
    file: &str,
    config: &Config,
    fresh: &Secret<String>,
) -> Result<Rotated, String> {
    let path = std::path::absolute(file).map_err(|error| format!("{file}: {error}"))?;
    let (Some(parent), Some(name)) = (
        path.parent(),
        path.file_name().and_then(|name| name.to_str()),
    ) else {
        return Err(format!("{file} is not the name of a file"));
    };
    let place = format!("the list in {}", path.display());
    let other;
    let holder = if parent == folder.path() {
        folder
    } else {
        other = Folder::open(parent)?;
        &other
    };
    let text = holder.read(name)?;
    let is_secret = |line: &str| !line.trim().is_empty() && !line.trim().starts_with('#');
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        if is_secret(line) {
            break;
        }
        start += line.len();
    }
    let edited = Zeroizing::new(format!(
        "{}{}\n{}",
        &text[..start],
        fresh.expose(),
        &text[start..]
    ));
    let staged = holder.stage(name, &edited, SECRET)?;
    finish(folder, staged, config, fresh, place)
}

/// Brings SETUP.md along, and puts everything in its place.
fn finish(
    folder: &Folder,
    staged: Staged<'_>,
    config: &Config,
    fresh: &Secret<String>,
    place: String,
) -> Result<Rotated, String> {
    let setup = if folder.has(SETUP)? {
        let text = folder.read(SETUP)?;
        config
            .secrets
            .first()
            .and_then(|old| setup::with_another_secret(&text, old.expose(), fresh.expose()))
    } else {
        None
    };
    let mut files = vec![staged];
    if let Some(text) = &setup {
        files.push(folder.stage(SETUP, text, SECRET)?);
    }
    commit(files)?;
    Ok(Rotated {
        place,
        setup: setup.is_some(),
        hours: setup::hours(config),
        issues: config.credentials.is_used(),
    })
}

/// Whether the list of secrets is the old one with the fresh one in front.
fn check(edited: &Config, fresh: &Secret<String>, before: &Config) -> Result<(), &'static str> {
    let expected = std::iter::once(fresh).chain(&before.secrets);
    let secrets_are_right = edited.secrets.len() == before.secrets.len() + 1
        && expected
            .zip(&edited.secrets)
            .all(|(one, other)| one.expose() == other.expose());
    if secrets_are_right {
        Ok(())
    } else {
        Err("its list of secrets is written in a way that is not understood here")
    }
}

fn load(folder: &Folder, name: &str, clock: &Clock) -> Result<Config, String> {
    let path = folder.join(name);
    let loaded = config::load(&path, &Environment::default(), clock.wall());
    loaded.config.ok_or_else(|| {
        format!(
            "{} cannot be used as it is; nothing was changed:\n  {}",
            path.display(),
            loaded.errors.join("\n  ")
        )
    })
}

fn secrets_file(text: &str) -> Option<String> {
    let diagnostics = Diagnostics::new("");
    let root = yaml::parse(text, &diagnostics)?;
    let section = Value::root(&root, &diagnostics).section();
    Some(section.get("secrets_file")?.text()?.to_owned())
}
