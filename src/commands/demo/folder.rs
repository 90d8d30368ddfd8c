//! A place for what the services of the demo read when they start.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use shared::random::Random;

use super::search::hex;

/// A folder for this user alone that is gone when this is dropped.
pub(super) struct Folder(PathBuf);

impl Folder {
    /// A new one where temporary files are.
    pub(super) fn create(random: &Random) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;

        let name = format!("nocturne-demo-{}", hex(&random.bytes::<8>()));
        let path = std::env::temp_dir().join(name);
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // nobody can be told of what is left behind; it is what the system's cleaning of temporary files is for
        let _ = fs::remove_dir_all(&self.0);
    }
}
