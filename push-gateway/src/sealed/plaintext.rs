//! The plaintext of a sealed notification (spec/opaque-push.md §5).

/// What is encrypted for a device: JSON and how far it is padded.
#[derive(Clone, PartialEq, Eq)]
pub struct Plaintext {
    /// UTF-8 JSON, at most [`MAX_JSON`] bytes.
    pub json: Vec<u8>,
    /// The size of the whole record before encryption: JSON, delimiter and zeros; more than `json.len()`.
    pub padded_to: usize,
}

/// The most JSON that fits into one `aes128gcm` message of 4096 bytes: without the header (86), the
/// delimiter (1) and the authentication tag (16). RFC 8291 §4.
pub const MAX_JSON: usize = 3993;

impl Plaintext {
    /// The record as it is encrypted: JSON, the delimiter 0x02 of RFC 8188 §2 and zeros up to `padded_to`.
    #[must_use]
    pub fn record(&self) -> Vec<u8> {
        todo!("in work")
    }
}
