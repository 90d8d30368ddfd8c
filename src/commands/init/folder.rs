//! The folder that `init` writes into: nobody else can read or change what is made there, no symbolic link
//! is followed, and a file is there whole or not at all.
//!
//! All is done relative to the opened folder, so that nobody can put another in its place meanwhile, and
//! under a lock, so that two runs cannot mix.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::{MetadataExt as _, fchown},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, fchmod, flock, fsync, mkdirat,
        openat, renameat, statat, unlinkat,
    },
    io::Errno,
    process::geteuid,
};
use zeroize::Zeroizing;

/// The mode of what has secrets in it.
pub(super) const SECRET: Mode = Mode::RUSR.union(Mode::WUSR);
/// The mode of what has none.
pub(super) const PUBLIC: Mode = SECRET.union(Mode::RGRP).union(Mode::ROTH);

/// Far more than any of these files has.
const LARGEST_FILE: u64 = 1 << 20;

/// An opened and locked folder.
#[derive(Debug)]
pub(super) struct Folder {
    handle: OwnedFd,
    path: PathBuf,
    owner: Owner,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owner {
    user: u32,
    group: u32,
}

/// A file that is written but does not have its name yet. Dropped: it is gone again.
#[derive(Debug)]
pub(super) struct Staged<'a> {
    folder: &'a Folder,
    name: String,
    has_its_name: bool,
}

impl Folder {
    /// Opens a folder, or makes one that only its owner may enter.
    pub(super) fn open_or_make(path: &Path) -> Result<Self, String> {
        let path = absolute(path)?;
        match mkdirat(CWD, &path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(Errno::NOENT) => {
                return Err(format!(
                    "{} cannot be made: the folder that it is to be in is not there",
                    path.display()
                ));
            }
            Err(error) => {
                return Err(format!(
                    "{} cannot be made: {error} (run this with sudo, or choose another folder with --out)",
                    path.display()
                ));
            }
        }
        Self::open(&path)
    }

    /// Opens a folder that is there.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let path = absolute(path)?;
        let shown = path.display();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = openat(CWD, &path, flags, Mode::empty()).map_err(|error| match error {
            Errno::NOENT => format!("{shown} is not there"),
            Errno::NOTDIR | Errno::LOOP | Errno::MLINK => format!(
                "{shown} is not a folder, or is a symbolic link to one: name the folder itself"
            ),
            error => format!("{shown} cannot be opened: {error}"),
        })?;
        let file = File::from(handle);
        let metadata = file
            .metadata()
            .map_err(|error| format!("{shown} cannot be looked at: {error}"))?;
        let mode = metadata.mode() & 0o7777;
        if mode & 0o022 != 0 {
            return Err(format!(
                "{shown} can be written to by others, mode {mode:04o}, and secrets are to be put there (chmod 700 \
                 {shown}, or choose another with --out)"
            ));
        }
        let own = geteuid().as_raw();
        if metadata.uid() != own && own != 0 {
            return Err(format!(
                "{shown} belongs to another user (run this as that user or as root, or choose another with --out)"
            ));
        }
        let handle = OwnedFd::from(file);
        match flock(&handle, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(format!("another `nocturne init` is at work in {shown}"));
            }
            Err(error) => return Err(format!("{shown} cannot be locked: {error}")),
        }
        Ok(Self {
            handle,
            owner: Owner {
                user: metadata.uid(),
                group: metadata.gid(),
            },
            path,
        })
    }

    /// Where it is, from the root on.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where a file of that name is.
    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Whether there is a file of that name. Anything else of that name is an error.
    pub(super) fn has(&self, name: &str) -> Result<bool, String> {
        let shown = self.join(name);
        let shown = shown.display();
        match statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(format!("{shown} cannot be looked at: {error}")),
            Ok(found) => {
                let kind = FileType::from_raw_mode(found.st_mode);
                if kind == FileType::RegularFile {
                    Ok(true)
                } else if kind == FileType::Symlink {
                    Err(format!(
                        "{shown} is a symbolic link, and none is followed here: put the file itself there"
                    ))
                } else {
                    Err(format!("{shown} is not a file"))
                }
            }
        }
    }

    /// What is in a file of that name.
    pub(super) fn read(&self, name: &str) -> Result<Zeroizing<String>, String> {
        let shown = self.join(name);
        let shown = shown.display();
        if !self.has(name)? {
            return Err(format!("{shown} is not there"));
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let handle = openat(&self.handle, name, flags, Mode::empty())
            .map_err(|error| format!("{shown} cannot be read: {error}"))?;
        let mut text = Zeroizing::new(String::new());
        File::from(handle)
            .take(LARGEST_FILE + 1)
            .read_to_string(&mut text)
            .map_err(|error| format!("{shown} cannot be read: {error}"))?;
        if text.len() as u64 > LARGEST_FILE {
            return Err(format!("{shown} has more than {LARGEST_FILE} bytes"));
        }
        Ok(text)
    }

    /// Writes a file under a name of its own, for [`commit`]. It belongs to whom the file belongs that has
    /// its name so far, with the same mode; a new one to whom the folder belongs.
    pub(super) fn stage(&self, name: &str, text: &str, mode: Mode) -> Result<Staged<'_>, String> {
        let shown = self.join(name);
        let failed = |error: &dyn std::fmt::Display| {
            format!("{} cannot be written: {error}", shown.display())
        };
        let (owner, mode) = if self.has(name)? {
            let found = statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| failed(&error))?;
            let owner = Owner {
                user: found.st_uid,
                group: found.st_gid,
            };
            (owner, Mode::from_raw_mode(found.st_mode))
        } else {
            (self.owner, mode)
        };
        let staged = Staged {
            folder: self,
            name: name.to_owned(),
            has_its_name: false,
        };
        let temporary = staged.temporary();
        // what a run left behind that was killed; none other is at work
        match unlinkat(&self.handle, &temporary, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(failed(&error)),
        }
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle =
            openat(&self.handle, &temporary, flags, SECRET).map_err(|error| failed(&error))?;
        let mut file = File::from(handle);
        file.write_all(text.as_bytes())
            .map_err(|error| failed(&error))?;
        let metadata = file.metadata().map_err(|error| failed(&error))?;
        if (metadata.uid(), metadata.gid()) != (owner.user, owner.group) {
            fchown(&file, Some(owner.user), Some(owner.group)).map_err(|error| failed(&error))?;
        }
        fchmod(file.as_fd(), mode).map_err(|error| failed(&error))?;
        file.sync_all().map_err(|error| failed(&error))?;
        Ok(staged)
    }
}

impl Staged<'_> {
    /// The name that it has so far.
    pub(super) fn temporary(&self) -> String {
        format!(".{}.new", self.name)
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        if !self.has_its_name {
            let _ = unlinkat(&self.folder.handle, self.temporary(), AtFlags::empty());
        }
    }
}

/// Gives the files their names, in this order. Nothing is half-written at any time; whoever is stopped in
/// between has the first ones.
pub(super) fn commit(files: Vec<Staged<'_>>) -> Result<(), String> {
    for mut staged in files {
        let handle = &staged.folder.handle;
        renameat(handle, staged.temporary(), handle, &staged.name)
            .and_then(|()| fsync(handle))
            .map_err(|error| {
                format!(
                    "{} cannot be put in its place: {error}",
                    staged.folder.join(&staged.name).display()
                )
            })?;
        staged.has_its_name = true;
    }
    Ok(())
}

/// The path from the root on, for files that name others.
fn absolute(path: &Path) -> Result<PathBuf, String> {
    let absolute =
        std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()))?;
    // a slash at the end would follow a symbolic link
    Ok(absolute.components().collect())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn mode_of(path: &Path) -> u32 {
        fs::symlink_metadata(path)
            .expect("it is there")
            .permissions()
            .mode()
            & 0o7777
    }

    fn folder() -> (tempfile::TempDir, Folder) {
        let outer = tempfile::tempdir().expect("a folder for the test");
        let folder = Folder::open_or_make(&outer.path().join("inner")).expect("it can be made");
        (outer, folder)
    }

    fn names(folder: &Folder) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder.path())
            .expect("it can be listed")
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .into_string()
                    .expect("UTF-8")
            })
            .collect();
        names.sort();
        names
    }

    #[test]
    fn folder_and_files_are_their_owners_alone() {
        let (_outer, folder) = folder();
        assert_eq!(mode_of(folder.path()), 0o700);
        let staged = vec![
            folder.stage("a", "secret", SECRET).expect("written"),
            folder.stage("b", "open", PUBLIC).expect("written"),
        ];
        commit(staged).expect("named");
        assert_eq!(mode_of(&folder.join("a")), 0o600);
        assert_eq!(mode_of(&folder.join("b")), 0o644);
        assert_eq!(*folder.read("a").expect("readable"), "secret");
    }

    #[test]
    fn what_is_not_committed_was_never_there() {
        let (_outer, folder) = folder();
        fs::write(folder.join("a"), "old").expect("written");
        let staged = folder.stage("a", "new", SECRET).expect("written");
        assert_eq!(*folder.read("a").expect("readable"), "old");
        drop(staged);
        assert_eq!(names(&folder), ["a"]);
        assert_eq!(*folder.read("a").expect("readable"), "old");
    }

    #[test]
    fn what_a_killed_run_left_behind_is_in_nobodys_way() {
        let (_outer, folder) = folder();
        fs::write(folder.join(".a.new"), "half a sec").expect("written");
        commit(vec![folder.stage("a", "whole", SECRET).expect("written")]).expect("named");
        assert_eq!(names(&folder), ["a"]);
        assert_eq!(*folder.read("a").expect("readable"), "whole");
    }

    #[test]
    fn a_file_that_is_replaced_keeps_its_mode() {
        let (_outer, folder) = folder();
        fs::write(folder.join("a"), "old").expect("written");
        fs::set_permissions(folder.join("a"), fs::Permissions::from_mode(0o640)).expect("set");
        commit(vec![folder.stage("a", "new", SECRET).expect("written")]).expect("named");
        assert_eq!(mode_of(&folder.join("a")), 0o640);
        assert_eq!(*folder.read("a").expect("readable"), "new");
    }

    #[test]
    fn no_symbolic_link_is_followed() {
        let (outer, folder) = folder();
        let target = outer.path().join("target");
        fs::write(&target, "untouched").expect("written");
        std::os::unix::fs::symlink(&target, folder.join("a")).expect("linked");
        let refused = folder.stage("a", "new", SECRET).expect_err("refused");
        assert!(refused.contains("is a symbolic link"), "{refused}");
        assert!(folder.read("a").is_err());
        // not even where the file is written first
        std::os::unix::fs::symlink(&target, folder.join(".b.new")).expect("linked");
        commit(vec![folder.stage("b", "new", SECRET).expect("written")]).expect("named");
        assert!(!folder.join("b").is_symlink());
        assert_eq!(fs::read_to_string(&target).expect("readable"), "untouched");

        let link = outer.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).expect("linked");
        for path in [link.clone(), link.join("")] {
            let refused = Folder::open_or_make(&path).expect_err("refused");
            assert!(refused.contains("is a symbolic link"), "{refused}");
        }
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused() {
        let outer = tempfile::tempdir().expect("a folder for the test");
        for mode in [0o777, 0o770, 0o1777] {
            fs::set_permissions(outer.path(), fs::Permissions::from_mode(mode)).expect("set");
            let refused = Folder::open_or_make(outer.path()).expect_err("refused");
            assert!(refused.contains("can be written to by others"), "{refused}");
        }
        fs::set_permissions(outer.path(), fs::Permissions::from_mode(0o750)).expect("set");
        Folder::open_or_make(outer.path()).expect("others may only look");
        assert_eq!(mode_of(outer.path()), 0o750);
    }

    #[test]
    fn two_runs_do_not_mix() {
        let (_outer, folder) = folder();
        let refused = Folder::open(folder.path()).expect_err("refused");
        assert!(
            refused.contains("another `nocturne init` is at work"),
            "{refused}"
        );
        let path = folder.path().to_owned();
        drop(folder);
        Folder::open(&path).expect("it is free");
    }

    #[test]
    fn what_cannot_be_opened_is_named() {
        let outer = tempfile::tempdir().expect("a folder for the test");
        let deep = outer.path().join("a/b");
        let refused = Folder::open_or_make(&deep).expect_err("refused");
        assert!(refused.contains("is to be in is not there"), "{refused}");
        let file = outer.path().join("file");
        fs::write(&file, "").expect("written");
        let refused = Folder::open_or_make(&file).expect_err("refused");
        assert!(refused.contains("is not a folder"), "{refused}");
        assert!(
            Folder::open(&deep)
                .expect_err("refused")
                .contains("is not there")
        );
    }
}
