//! What a test needs and this machine may not have.

use std::{
    env,
    fmt::Display,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use shared::environment::Environment;

/// Says why a test does nothing. Where `CI` is set, everything has to be there, and this fails.
pub(crate) fn skip(reason: impl Display) {
    assert!(
        Environment::of_process().get("CI").is_none(),
        "{reason}: on CI no test is skipped"
    );
    say_skipped(reason);
}

/// Says that something is left out, also where the test runner keeps what a test prints.
pub(crate) fn say_skipped(what: impl Display) {
    // who has closed standard error does not want to know
    let _ = writeln!(io::stderr(), "skipped: {what}");
}

/// The path of the first of these programs that is installed, or nothing and a skipped test.
pub(crate) fn program(names: &[&str], package: &str) -> Option<PathBuf> {
    let found = find_program(names);
    if found.is_none() {
        skip(format_args!(
            "no {} (Debian package {package})",
            names.join(", ")
        ));
    }
    found
}

/// What an environment variable names, or nothing and a skipped test.
pub(crate) fn named_by(variable: &str, what: &str) -> Option<PathBuf> {
    let environment = Environment::of_process();
    let named = environment.get(variable).map(PathBuf::from);
    if named.is_none() {
        skip(format_args!("{variable} does not name {what}"));
    }
    named
}

fn find_program(names: &[&str]) -> Option<PathBuf> {
    let environment = Environment::of_process();
    // administrators' programs are not on everybody's PATH
    let folders: Vec<_> = env::split_paths(environment.get("PATH").unwrap_or_default())
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .collect();
    names
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)))
        .find(|path| is_file(path))
}

fn is_file(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file())
}
