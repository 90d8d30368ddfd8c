//! The file itself.

use std::path::Path;

use zeroize::Zeroizing;

use super::{Diagnostics, Severity};
use crate::files;

/// The text of the file at `path`. What keeps it from being read is reported as an error.
#[must_use]
pub fn read(path: &Path, diagnostics: &Diagnostics) -> Option<String> {
    let bytes = match files::read(path) {
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
    match text_of(bytes) {
        Ok(text) => Some(text),
        Err(line) => {
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

/// The text of a file, or the first line that is none.
pub(super) fn text_of(mut bytes: Zeroizing<Vec<u8>>) -> Result<String, usize> {
    String::from_utf8(std::mem::take(&mut *bytes)).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        error.as_bytes()[..valid]
            .split(|byte| *byte == b'\n')
            .count()
    })
}
