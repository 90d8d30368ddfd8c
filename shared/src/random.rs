//! Randomness as an argument.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use aws_lc_rs::{digest, rand::SystemRandom};

/// Where a service takes random bytes from.
#[derive(Clone, Debug)]
pub struct Random(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Seeded(u64, Arc<AtomicU64>),
}

impl Random {
    /// The cryptographic generator of the operating system and the cryptography library.
    #[must_use]
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// A generator that repeats itself for the same seed. For tests alone: it is not secret.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(Source::Seeded(seed, Arc::new(AtomicU64::new(0))))
    }

    /// Fills `bytes`.
    ///
    /// # Panics
    ///
    /// When the operating system has no randomness to give; nothing safe can be done then.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that asks the system for randomness"
    )]
    pub fn fill(&self, bytes: &mut [u8]) {
        match &self.0 {
            Source::System => {
                use aws_lc_rs::rand::SecureRandom as _;
                SystemRandom::new()
                    .fill(bytes)
                    .expect("the operating system gives random bytes");
            }
            Source::Seeded(seed, counter) => {
                for chunk in bytes.chunks_mut(32) {
                    let count = counter.fetch_add(1, Ordering::Relaxed);
                    let mut input = [0; 16];
                    input[..8].copy_from_slice(&seed.to_be_bytes());
                    input[8..].copy_from_slice(&count.to_be_bytes());
                    let block = digest::digest(&digest::SHA256, &input);
                    chunk.copy_from_slice(&block.as_ref()[..chunk.len()]);
                }
            }
        }
    }

    /// `N` random bytes.
    #[must_use]
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }

    /// A number evenly distributed in `0.0..1.0`, for jitter.
    #[must_use]
    pub fn fraction(&self) -> f64 {
        let bits = u32::from_be_bytes(self.bytes());
        f64::from(bits) / (f64::from(u32::MAX) + 1.0)
    }
}
