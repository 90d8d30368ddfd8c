//! `nocturne check`: everything that is wrong with a configuration, at once.

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use shared::{
    clock::Clock,
    environment::Environment,
    tls,
    yaml::{self, Diagnostics, Value},
};

use super::{
    Configured, PUSH_FILE as PUSH, TURN_FILE as TURN, configured, failed, push, say, turn,
};

/// Check configurations, keys and certificates without starting anything
///
/// Reports every problem with its file and line, or the environment variable. Exit code 1 if there is any; warnings alone are none.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  nocturne check sygnal.yaml\n  nocturne check --config-dir /etc/nocturne"
)]
pub(crate) struct Arguments {
    /// A folder with push-gateway.yaml, turn-relay.yaml or both in it. Without it and without files:
    /// /etc/nocturne, else ./config, else the files that `nocturne push` and `nocturne turn` would take.
    #[arg(long, value_name = "DIR", conflicts_with = "files")]
    config_dir: Option<PathBuf>,
    /// Configurations to check, of the push gateway or of the TURN relay.
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Whose configuration a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Push,
    Turn,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, environment: &Environment) -> ExitCode {
    let files = match files(arguments, environment) {
        Ok(files) => files,
        Err(problem) => return failed(&problem),
    };
    let now = Clock::system().wall();
    let mut sound = true;
    let mut pushes = false;
    for path in files {
        match kind(&path) {
            Kind::Push => {
                use push_gateway::config::{load, report};

                let loaded = load(&path, environment, now);
                sound &= loaded.errors.is_empty() && loaded.failing.is_empty();
                pushes = true;
                say(&mut io::stdout(), &report::text(&path, &loaded));
            }
            Kind::Turn => {
                use turn_relay::config::{load, report};

                let report = report::report(&path, &load(&path, environment, now));
                sound &= report.sound;
                say(&mut io::stdout(), &report.text);
            }
        }
    }
    // The relay talks to nobody whose certificate it would check.
    if pushes && let Err(problem) = tls::roots(environment) {
        sound = false;
        say(&mut io::stdout(), &format!("error: {problem}\n"));
    }
    if sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn files(arguments: &Arguments, environment: &Environment) -> Result<Vec<PathBuf>, String> {
    if arguments.files.is_empty() {
        usual_files(arguments.config_dir.as_deref(), environment)
    } else {
        Ok(arguments.files.clone())
    }
}

/// The files of the folder that was named, else where they usually are; there is at least one. One that need
/// not be there, since its variables are set, is among them.
///
/// # Errors
///
/// A text that says where there is none.
pub(super) fn usual_files(
    config_dir: Option<&Path>,
    environment: &Environment,
) -> Result<Vec<PathBuf>, String> {
    match configured(config_dir, environment) {
        Ok(Configured { folder, files }) => {
            Ok(files.iter().map(|file| folder.join(file)).collect())
        }
        Err(looked) if config_dir.is_some() => Err(format!(
            "nothing to check: there is no {PUSH} and no {TURN} in {}",
            looked.join(" or ")
        )),
        Err(_) => {
            let push = push::default_path(environment);
            let found: Vec<_> = push
                .into_iter()
                .chain(turn::default_path(environment))
                .collect();
            if found.is_empty() {
                return Err(format!(
                    "nothing to check: name a file, or a folder with --config-dir; there is no {PUSH} and no \
                     {TURN} in /etc/nocturne or ./config"
                ));
            }
            Ok(found)
        }
    }
}

/// Whose a file is, by the keys at its top; by its name where they do not tell.
pub(super) fn kind(path: &Path) -> Kind {
    const OF_PUSH: [&str; 6] = [
        "apps",
        "metrics",
        "outbound",
        "limits",
        "proxy",
        "pushkey_keys",
    ];
    const OF_TURN: [&str; 11] = [
        "realm",
        "secrets",
        "secrets_file",
        "listen",
        "relay",
        "peers",
        "quotas",
        "lifetime",
        "timeouts",
        "credentials",
        "tls",
    ];
    let keys = top_keys(path);
    let count = |known: &[&str]| {
        keys.iter()
            .filter(|key| known.contains(&key.as_str()))
            .count()
    };
    match count(&OF_TURN).cmp(&count(&OF_PUSH)) {
        std::cmp::Ordering::Greater => Kind::Turn,
        std::cmp::Ordering::Less => Kind::Push,
        std::cmp::Ordering::Equal => {
            let name = path.file_name().map(|name| name.to_string_lossy());
            let is_turn = name.is_some_and(|name| name.to_lowercase().contains("turn"));
            if is_turn { Kind::Turn } else { Kind::Push }
        }
    }
}

/// None when there is no such file, or it is no YAML: that is told when it is loaded.
fn top_keys(path: &Path) -> Vec<String> {
    let diagnostics = Diagnostics::new("");
    let text = yaml::read(path, &diagnostics).unwrap_or_default();
    let Some(root) = yaml::parse(&text, &diagnostics) else {
        return Vec::new();
    };
    Value::root(&root, &diagnostics)
        .entries()
        .into_iter()
        .map(|(key, _)| key.to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind_of(name: &str, text: &str) -> Kind {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("write a file of the test");
        kind(&path)
    }

    #[test]
    fn a_file_is_known_by_its_keys_and_else_by_its_name() {
        for (name, text, expected) in [
            ("a.yaml", "apps: {}\nlog: {}\n", Kind::Push),
            ("a.yaml", "realm: r\nhttp: {}\n", Kind::Turn),
            ("turn-relay.yaml", "apps: {}\n", Kind::Push),
            ("push-gateway.yaml", "realm: r\nsecrets: s\n", Kind::Turn),
            ("turn-relay.yaml", "", Kind::Turn),
            ("my-TURN.yml", "realm: [\n", Kind::Turn),
            ("sygnal.yaml", "log: {}\n", Kind::Push),
        ] {
            assert_eq!(kind_of(name, text), expected, "{name}: {text:?}");
        }
        assert_eq!(kind(Path::new("/nonexistent/turn.yaml")), Kind::Turn);
        assert_eq!(kind(Path::new("/nonexistent/sygnal.yaml")), Kind::Push);
    }
}
