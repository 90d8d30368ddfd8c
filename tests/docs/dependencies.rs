//! The list of dependencies is whole.

use std::collections::BTreeSet;

use crate::read;

const MANIFESTS: [&str; 12] = [
    "Cargo.toml",
    "bench/Cargo.toml",
    "bench/credentials/Cargo.toml",
    "bench/turn/Cargo.toml",
    "push-gateway/Cargo.toml",
    "shared/Cargo.toml",
    "shared/address-policy/Cargo.toml",
    "shared/sandbox/Cargo.toml",
    "stand-ins/Cargo.toml",
    "tests/interop/Cargo.toml",
    "turn-relay/Cargo.toml",
    "turn-relay/proto/Cargo.toml",
];

#[test]
fn every_direct_dependency_has_its_reason_and_no_other_has_one() {
    let manifest = read("Cargo.toml");
    let wanted: BTreeSet<_> = section(&manifest, "[workspace.dependencies]")
        .filter(|line| !line.contains("path = "))
        .filter_map(|line| line.split_once(" = "))
        .map(|(name, _)| name)
        .collect();
    assert!(wanted.contains("tokio"));
    let document = read("docs/dependencies.md");
    let (used, unused) = document
        .split_once("## Not used")
        .expect("a chapter of what is not used");
    let listed: BTreeSet<_> = names(used).collect();
    assert_eq!(listed, wanted);
    for name in names(unused) {
        assert!(!wanted.contains(name), "{name} is used");
    }
}

#[test]
fn every_manifest_takes_its_dependencies_from_the_workspace() {
    for path in MANIFESTS {
        let manifest = read(path);
        for heading in [
            "[dependencies]",
            "[dev-dependencies]",
            "[build-dependencies]",
            "[target.'cfg(target_os = \"linux\")'.dependencies]",
            "[target.'cfg(target_os = \"linux\")'.dev-dependencies]",
        ] {
            for line in section(&manifest, heading) {
                let from_workspace =
                    line.ends_with(".workspace = true") || line.contains("= { workspace = true,");
                assert!(from_workspace, "{path}: {line}");
            }
        }
    }
}

fn section<'a>(manifest: &'a str, heading: &'a str) -> impl Iterator<Item = &'a str> {
    manifest
        .lines()
        .skip_while(move |line| *line != heading)
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// The names in the first column of the document's tables.
fn names(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter_map(|line| line.strip_prefix("| "))
        .filter_map(|line| line.split(" | ").next())
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
}
