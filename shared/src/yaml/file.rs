//! The file itself.

use std::path::Path;

use super::{Diagnostics, Severity};
use crate::files;

/// The text of the file at `path`. What keeps it from being read is reported as an error.
#[must_use]
pub fn read(path: &Path, diagnostics: &Diagnostics) -> Option<String> {
    let mut bytes = match files::read(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
            diagnostics.report(
                Severity::Error,
                0,
                "",
                format_args!(
                    "cannot be read: {error} (looked for {})",
                    absolute.display()
                ),
            );
            return None;
        }
    };
    match String::from_utf8(std::mem::take(&mut *bytes)) {
        Ok(text) => Some(text),
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let line = error.as_bytes()[..valid]
                .split(|byte| *byte == b'\n')
                .count();
            diagnostics.report(
                Severity::Error,
                line,
                "",
                "found bytes that are not UTF-8 (save the file in the encoding UTF-8)",
            );
            None
        }
    }
}
