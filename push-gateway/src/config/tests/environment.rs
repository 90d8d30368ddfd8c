//! Keys from environment variables.

use shared::environment::Environment;

use super::Fixture;
use crate::config::report;

const APPS: &str = "apps: {im.one: {type: unifiedpush}}\n";

fn environment(variables: &[(&str, &str)]) -> Environment {
    variables.iter().copied().collect()
}

#[test]
fn variables_count_instead_of_what_the_file_has() {
    let fixture = Fixture::new();
    let loaded = fixture.load_with(
        &format!("http: {{port: 5001, bind_addresses: [127.0.0.1]}}\n{APPS}"),
        &environment(&[
            ("NOCTURNE_PUSH__HTTP__BIND_ADDRESSES", "['::', 0.0.0.0]"),
            ("NOCTURNE_PUSH__LIMITS__PER_PUSHKEY_PER_MINUTE", "off"),
            ("NOCTURNE_PUSH_CONFIG", "/elsewhere"),
        ]),
    );
    assert_eq!(loaded.errors, [""; 0]);
    let config = loaded.config.expect("no error");
    let expected = ["[::]:5001", "0.0.0.0:5001"].map(|text| text.parse().unwrap());
    assert_eq!(config.listen, expected);
    assert_eq!(config.limits.per_pushkey_per_minute, None);
}

#[test]
fn all_apps_are_one_variable() {
    let fixture = Fixture::new();
    let all = "{im.two: {type: unifiedpush}, 'im.three.*': {type: unifiedpush, payload: wake}}";
    let loaded = fixture.load_with(APPS, &environment(&[("NOCTURNE_PUSH__APPS", all)]));
    assert_eq!(loaded.errors, [""; 0]);
    let config = loaded.config.expect("no error");
    let ids: Vec<_> = config.apps.iter().map(|app| app.id.as_str()).collect();
    assert_eq!(ids, ["im.two", "im.three.*"]);

    let variables = environment(&[("NOCTURNE_PUSH__APPS__IM_TWO__TYPE", "unifiedpush")]);
    let errors = fixture.load_with(APPS, &variables).errors;
    assert!(
        errors[0].contains("set NOCTURNE_PUSH__APPS to the whole of it"),
        "{errors:#?}"
    );
}

/// Of a file, which may be Sygnal's, an unknown key is only a warning.
#[test]
fn an_unknown_key_of_a_variable_is_an_error() {
    let fixture = Fixture::new();
    let variables = environment(&[("NOCTURNE_PUSH__HTTP__PROT", "5000")]);
    let loaded = fixture.load_with(APPS, &variables);
    assert_eq!(
        loaded.errors,
        [
            "environment variable NOCTURNE_PUSH__HTTP__PROT: http.prot: unknown key (did you mean `port`?)"
        ]
    );
    assert!(!report::lines(&loaded).is_empty());
}

#[test]
fn places_in_variables_are_told_by_name() {
    let fixture = Fixture::new();
    let all = "{'im.*': {type: unifiedpush}, 'im.a*': {type: unifiedpush}}";
    let loaded = fixture.load_with("", &environment(&[("NOCTURNE_PUSH__APPS", all)]));
    let warnings = loaded.warnings.join("\n");
    assert!(
        warnings.contains("overlaps with \"im.*\" in NOCTURNE_PUSH__APPS"),
        "{warnings}"
    );
}
