//! What reading a configuration gave, as lines for people.

use std::path::Path;

use super::{App, Collapse, Loaded, OpaqueOptions, PayloadMode, Provider};

/// The whole report on the file at `path`: [`lines`], and a last one that says how it went.
#[must_use]
pub fn text(path: &Path, loaded: &Loaded) -> String {
    let count = |number: usize, what: &str| match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    };
    let mut text = lines(loaded).join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    text + &format!(
        "{}: {}, {}\n",
        path.display(),
        count(loaded.errors.len() + loaded.failing.len(), "error"),
        count(loaded.warnings.len(), "warning")
    )
}

/// Errors, warnings, what the environment had a say in, then a line for each app that says what its provider gets to see.
#[must_use]
pub fn lines(loaded: &Loaded) -> Vec<String> {
    let errors = loaded.errors.iter().chain(&loaded.failing);
    let errors = errors.map(|text| format!("error: {text}"));
    let warnings = loaded
        .warnings
        .iter()
        .map(|text| format!("warning: {text}"));
    let apps = loaded.config.iter().flat_map(|config| &config.apps);
    errors
        .chain(warnings)
        .chain(loaded.from_environment.clone())
        .chain(apps.map(app_line))
        .collect()
}

/// `app "im.example.ios" (apns, opaque): Apple sees …`
#[must_use]
pub fn app_line(app: &App) -> String {
    let what = match app.payload {
        PayloadMode::Opaque => opaque(app),
        PayloadMode::Wake => wake(&app.provider).to_owned(),
        PayloadMode::Sygnal => sygnal(&app.provider).to_owned(),
    };
    format!(
        "app {:?} ({}, {}): {} sees {what}",
        app.id,
        app.provider.label(),
        app.payload.label(),
        who(&app.provider)
    )
}

fn who(provider: &Provider) -> &'static str {
    match provider {
        Provider::Apns(_) => "Apple",
        Provider::Fcm(_) => "Google",
        Provider::WebPush(_) => "the browser's push service",
        Provider::UnifiedPush(_) => "the user's push server",
    }
}

fn opaque(app: &App) -> String {
    let mut what = match &app.provider {
        Provider::Apns(_) => {
            "the device token, the app's topic, the time, and a random-looking identifier that \
             changes with every push; for devices with keys also data that only they can read"
        }
        Provider::Fcm(_) => {
            "the device's token, the app's project, the time, and a random-looking identifier that \
             changes with every push; for devices with keys also data that only they can read"
        }
        Provider::WebPush(_) => {
            "the subscription, the time, and a padded message that only the browser can \
             read"
        }
        Provider::UnifiedPush(_) => {
            "the subscription, the time, and a padded message that only the device can \
             read; for devices without keys the room ID, the event ID and all else that the \
             homeserver sent"
        }
    }
    .to_owned();
    for addition in additions(&app.opaque, &app.provider) {
        what.push_str("; ");
        what.push_str(addition);
    }
    what
}

/// What the options let through beyond the least.
fn additions(options: &OpaqueOptions, provider: &Provider) -> Vec<&'static str> {
    let has_badge_pushes = matches!(provider, Provider::Apns(_) | Provider::Fcm(_));
    [
        (
            options.collapse == Collapse::Room,
            "which pushes are of one room, within an epoch (`collapse: room`)",
        ),
        (
            options.low_priority,
            "which pushes the homeserver holds for less urgent (`low_priority`)",
        ),
        (
            options.badge_pushes && has_badge_pushes,
            "when a counter changes, so when messages are read (`badge_pushes`)",
        ),
    ]
    .into_iter()
    .filter_map(|(applies, text)| applies.then_some(text))
    .collect()
}

fn wake(provider: &Provider) -> &'static str {
    match provider {
        Provider::Apns(_) => {
            "the device token, the app's topic and the time; every push has the same content"
        }
        Provider::Fcm(_) => {
            "the device's token, the app's project and the time; every push has the same content"
        }
        Provider::WebPush(_) | Provider::UnifiedPush(_) => {
            "the subscription and the time; every push has the same content"
        }
    }
}

fn sygnal(provider: &Provider) -> &'static str {
    match provider {
        Provider::Apns(_) => {
            "the device token, the app's topic, the time, room ID, event ID and unread counts; \
             where the pusher's format is not event_id_only also the sender, the room's name and the \
             text of unencrypted messages"
        }
        Provider::Fcm(_) => {
            "the device's token, the app's project, the time, room ID, event ID and unread counts; \
             where the pusher's format is not event_id_only also the sender, the room's name and the \
             content of unencrypted messages"
        }
        Provider::WebPush(_) => {
            "the subscription, the time, the urgency and the length of a message that only the \
             browser can read"
        }
        Provider::UnifiedPush(_) => {
            "the subscription, the time, room ID, event ID and all else that the homeserver sent"
        }
    }
}
