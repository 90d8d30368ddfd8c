//! Programs that may be here or not, and word of it where they are not.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use shared::environment::Environment;

/// A program of the system, or word that a test is left out.
pub(crate) fn program(name: &str, package: &str) -> Option<PathBuf> {
    let environment = Environment::of_process();
    let path = environment.get("PATH").unwrap_or_default();
    let found = path
        .split(':')
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"])
        .map(|folder| Path::new(folder).join(name))
        .find(|file| file.is_file());
    if found.is_none() {
        eprintln!("skipped: there is no {name} (Debian: {package})");
    }
    found
}

/// The Python that has Synapse, or word that a test is left out.
pub(crate) fn synapse_python() -> Option<PathBuf> {
    let environment = Environment::of_process();
    let python = environment
        .get("NOCTURNE_SYNAPSE_PYTHON")
        .map(PathBuf::from);
    if python.is_none() {
        eprintln!("skipped: NOCTURNE_SYNAPSE_PYTHON names no Python with matrix-synapse");
    }
    python
}

/// A Python that reads TOML, or word that a test is left out.
pub(crate) fn toml_python() -> Option<PathBuf> {
    let environment = Environment::of_process();
    let synapse = environment
        .get("NOCTURNE_SYNAPSE_PYTHON")
        .map(PathBuf::from);
    let found = synapse
        .into_iter()
        .chain(["python3", "/usr/bin/python3"].map(PathBuf::from))
        .find(|python| {
            let asked = Command::new(python).args(["-c", "import tomllib"]).output();
            asked.is_ok_and(|output| output.status.success())
        });
    if found.is_none() {
        eprintln!("skipped: there is no Python with tomllib (3.11 or newer)");
    }
    found
}

/// Runs a program, and takes its output.
pub(crate) fn run(command: &mut Command) -> (bool, String) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}
