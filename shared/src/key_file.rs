//! Files with keys, certificates and other secrets that a configuration names.
//!
//! A problem names the file and what is wrong with it, never anything that is in it.

use std::{fmt::Display, path::Path};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use zeroize::Zeroizing;

use crate::{files, yaml::Value};

/// Far more than any key, certificate chain or service account has.
const LARGEST_FILE: u64 = 1 << 20;

/// A file that a value names, with the value as the place of its problems.
pub struct KeyFile<'v, 'a> {
    value: &'v Value<'a>,
    name: &'a str,
    content: Zeroizing<Vec<u8>>,
}

impl<'v, 'a> KeyFile<'v, 'a> {
    /// Reads the file that `value` names, and warns when everybody may read it. What keeps it from being
    /// read is reported.
    #[must_use]
    pub fn read(value: &'v Value<'a>) -> Option<Self> {
        let file = Self::read_public(value)?;
        file.check_permissions();
        Some(file)
    }

    /// As [`KeyFile::read`], for a file that everybody may read, such as a certificate.
    #[must_use]
    pub fn read_public(value: &'v Value<'a>) -> Option<Self> {
        let name = value.filled_text()?;
        let path = Path::new(name);
        if looks_like_a_key(name) {
            value.error(
                "expected the path of a file, found what looks like the key itself (write it to a \
                 file that only the service's user may read)",
            );
            return None;
        }
        match content(path) {
            Ok(content) => Some(Self {
                value,
                name,
                content,
            }),
            Err(problem) => {
                // As in Sygnal, the configuration's own folder plays no part.
                let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
                let note = if path.is_relative() {
                    "; relative paths start at the working directory"
                } else {
                    ""
                };
                value.error(format_args!(
                    "the file {name:?} cannot be read: {problem} (looked for {}{note})",
                    absolute.display()
                ));
                None
            }
        }
    }

    fn check_permissions(&self) {
        const READABLE_BY_OTHERS: u32 = 0o004;
        let mode = files::facts(Path::new(self.name)).map_or(0, |facts| facts.mode);
        if mode & READABLE_BY_OTHERS != 0 {
            self.warning(format_args!(
                "holds a key and can be read by other users, mode {:04o} (chmod 600 {})",
                mode & 0o7777,
                self.name
            ));
        }
    }

    /// The path as it is written in the configuration.
    #[must_use]
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// What is in the file.
    #[must_use]
    pub fn content(&self) -> &[u8] {
        &self.content
    }

    /// What is in the file, when that has to be PEM.
    #[must_use]
    pub fn text(&self) -> Option<Zeroizing<String>> {
        let Ok(text) = std::str::from_utf8(&self.content) else {
            self.error(
                "is not a PEM file (lines of text between `-----BEGIN …-----` and `-----END …-----`)",
            );
            return None;
        };
        Some(Zeroizing::new(text.to_owned()))
    }

    /// Reports an error about the file.
    pub fn error(&self, text: impl Display) {
        self.value
            .error(format_args!("the file {:?}: {text}", self.name));
    }

    /// Reports what stops a part of the whole.
    pub fn failing(&self, text: impl Display) {
        self.value
            .failing(format_args!("the file {:?}: {text}", self.name));
    }

    /// Reports a warning about the file.
    pub fn warning(&self, text: impl Display) {
        self.value
            .warning(format_args!("the file {:?}: {text}", self.name));
    }
}

/// What is in a file of at most 1 MiB.
///
/// # Errors
///
/// A text that says why it cannot be read, without the path.
pub fn content(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let facts = files::facts(path).map_err(|error| error.to_string())?;
    // A pipe or a device could block the start for ever.
    if !facts.is_file {
        return Err("it is not a file".to_owned());
    }
    if facts.length > LARGEST_FILE {
        return Err(format!("it has more than {LARGEST_FILE} bytes"));
    }
    files::read(path).map_err(|error| error.to_string())
}

/// Whether a path is rather the text that belongs into the file. Such a text is not printed.
fn looks_like_a_key(name: &str) -> bool {
    const SHORTEST: usize = 32;
    name.contains(['\n', '\r', '{'])
        || name.contains("-----BEGIN")
        || (decode_base64(name).is_some_and(|bytes| bytes.len() >= SHORTEST)
            && !files::exists(Path::new(name)))
}

/// Which kinds of PEM blocks a text has, for a message. Only known kinds are named: a damaged file could
/// have anything there.
#[must_use]
pub fn pem_blocks(text: &str) -> String {
    const KNOWN: [&str; 10] = [
        "CERTIFICATE",
        "CERTIFICATE REQUEST",
        "EC PARAMETERS",
        "EC PRIVATE KEY",
        "ENCRYPTED PRIVATE KEY",
        "OPENSSH PRIVATE KEY",
        "PRIVATE KEY",
        "PUBLIC KEY",
        "RSA PRIVATE KEY",
        "RSA PUBLIC KEY",
    ];
    let blocks: Vec<_> = KNOWN
        .into_iter()
        .filter(|kind| text.contains(&format!("-----BEGIN {kind}-----")))
        .map(|kind| format!("`{kind}`"))
        .collect();
    if blocks.is_empty() {
        "found no PEM block".to_owned()
    } else {
        format!("found {}", blocks.join(" and "))
    }
}

/// Base64 of either alphabet, with or without padding and white space.
#[must_use]
pub fn decode_base64(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let text = Zeroizing::new(text.split_whitespace().collect::<String>());
    if text.is_empty() {
        return None;
    }
    [alphabet::URL_SAFE, alphabet::STANDARD]
        .iter()
        .find_map(|alphabet| {
            let engine = GeneralPurpose::new(alphabet, LENIENT);
            engine.decode(text.as_bytes()).ok().map(Zeroizing::new)
        })
}
