//! The operator's own files: configuration, keys, certificates.
//!
//! A service that is sandboxed cannot open them. It [asks](ask_for_files) a reader, a process that it started
//! before, and that does nothing else. The reader reads the configuration itself, and hands out what that
//! names, nothing that only the service names: so a service that was taken over learns nothing from it that
//! it has not learned already. Files may change their place, as certificates do when they are renewed, and a
//! reload finds them.
//!
//! Everything here is about whole, small files. Without a reader they are opened directly.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    io::{self, ErrorKind, Read, Write},
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _, net::UnixStream},
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use zeroize::Zeroizing;

/// Far more than any of these files has.
const LARGEST: u64 = 16 << 20;

/// The longest path that Linux opens.
const LONGEST_PATH: usize = 4096;

const READ: u8 = b'r';
const FACTS: u8 = b'f';

const DONE: u8 = 0;
const FAILED: u8 = 1;
const NOT_NAMED: u8 = 2;

static ACCESS: OnceLock<Access> = OnceLock::new();

enum Access {
    /// From the reader.
    Asked(Mutex<UnixStream>),
    /// In the reader: directly, and what was asked for is taken down.
    TakenDown(Mutex<BTreeSet<PathBuf>>),
}

/// What can be known of a file without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Whether it is a file, and no folder, pipe or device.
    pub is_file: bool,
    /// Bytes in it.
    pub length: u64,
    /// Who may do what with it, as in `chmod`.
    pub mode: u32,
    /// When it was changed last.
    pub modified: SystemTime,
    /// Its number on its disk.
    pub inode: u64,
}

/// What is in a file.
///
/// # Errors
///
/// As of [`std::fs::read`]. Files of more than 16 MiB are refused.
pub fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    match ACCESS.get() {
        Some(Access::Asked(reader)) => {
            let mut stream = request(reader, READ, path)?;
            let length = u64::from_be_bytes(bytes(&mut &*stream)?);
            let length = usize::try_from(length.min(LARGEST)).unwrap_or(0);
            let mut content = Zeroizing::new(vec![0; length]);
            stream.read_exact(&mut content)?;
            Ok(content)
        }
        Some(Access::TakenDown(paths)) => {
            take_down(paths, path);
            read_directly(path)
        }
        None => read_directly(path),
    }
}

/// What can be known of a file.
///
/// # Errors
///
/// As of [`std::fs::metadata`].
pub fn facts(path: &Path) -> io::Result<Facts> {
    match ACCESS.get() {
        Some(Access::Asked(reader)) => {
            let stream = request(reader, FACTS, path)?;
            Facts::decoded(&mut &*stream)
        }
        Some(Access::TakenDown(paths)) => {
            take_down(paths, path);
            facts_directly(path)
        }
        None => facts_directly(path),
    }
}

/// Whether there is something at that place that this process can see.
#[must_use]
pub fn exists(path: &Path) -> bool {
    facts(path).is_ok()
}

/// From now on, all of this process' files come from the reader at the other end.
pub fn ask_for_files(reader: UnixStream) {
    // Once is enough for a process.
    let _ = ACCESS.set(Access::Asked(Mutex::new(reader)));
}

/// Is the reader: hands out `always` and what `load` reads, until the other end is closed. `load` reads the
/// configuration and all that it names; it is called again whenever something is asked for that the last
/// call did not read.
///
/// # Errors
///
/// When what comes is no request, or the other end is closed in the middle of one.
pub fn hand_out(
    mut stream: UnixStream,
    always: &[PathBuf],
    mut load: impl FnMut(),
) -> io::Result<()> {
    let access = ACCESS.get_or_init(|| Access::TakenDown(Mutex::default()));
    let Access::TakenDown(named) = access else {
        return Err(io::Error::other("this process asks for files itself"));
    };
    loop {
        let mut kind = [0];
        if stream.read(&mut kind)? == 0 {
            return Ok(());
        }
        let length = usize::from(u16::from_be_bytes(bytes(&mut stream)?));
        if length > LONGEST_PATH {
            return Err(ErrorKind::InvalidData.into());
        }
        let mut path = vec![0; length];
        stream.read_exact(&mut path)?;
        let path = PathBuf::from(OsStr::from_bytes(&path));
        let is_named = || names(named).contains(&path);
        if !always.contains(&path) && !is_named() {
            names(named).clear();
            load();
            if !is_named() {
                stream.write_all(&[NOT_NAMED])?;
                continue;
            }
        }
        match kind {
            [READ] => answer(
                &mut stream,
                read_directly(&path).map(|content| content_encoded(&content)),
            )?,
            [FACTS] => answer(&mut stream, facts_directly(&path).map(Facts::encoded))?,
            _ => return Err(ErrorKind::InvalidData.into()),
        }
    }
}

fn names(paths: &Mutex<BTreeSet<PathBuf>>) -> std::sync::MutexGuard<'_, BTreeSet<PathBuf>> {
    paths.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take_down(paths: &Mutex<BTreeSet<PathBuf>>, path: &Path) {
    names(paths).insert(path.to_owned());
}

/// The stream, at the beginning of a good answer.
fn request<'a>(
    reader: &'a Mutex<UnixStream>,
    kind: u8,
    path: &Path,
) -> io::Result<std::sync::MutexGuard<'a, UnixStream>> {
    let stream = reader.lock().unwrap_or_else(PoisonError::into_inner);
    let gone = |_| {
        io::Error::other("the process that reads files for this one is gone (restart the service)")
    };
    let path = path.as_os_str().as_bytes();
    let length = u16::try_from(path.len()).ok();
    let length = length.filter(|length| usize::from(*length) <= LONGEST_PATH);
    let length = length.ok_or_else(|| io::Error::from(ErrorKind::InvalidFilename))?;
    let mut message = vec![kind];
    message.extend(length.to_be_bytes());
    message.extend(path);
    (&*stream).write_all(&message).map_err(gone)?;
    match bytes(&mut &*stream).map_err(gone)? {
        [DONE] => Ok(stream),
        [FAILED] => {
            let number = i32::from_be_bytes(bytes(&mut &*stream).map_err(gone)?);
            Err(match number {
                0 => io::Error::new(
                    ErrorKind::FileTooLarge,
                    format!("it has more than {LARGEST} bytes"),
                ),
                number => io::Error::from_raw_os_error(number),
            })
        }
        [_] => Err(io::Error::new(
            ErrorKind::PermissionDenied,
            "the configuration, as it is on disk now, does not name it, and landlock keeps this process from other \
             files (reload again)",
        )),
    }
}

fn answer(stream: &mut UnixStream, result: io::Result<Zeroizing<Vec<u8>>>) -> io::Result<()> {
    match result {
        Ok(content) => {
            stream.write_all(&[DONE])?;
            stream.write_all(&content)
        }
        Err(error) => {
            let number = error.raw_os_error().unwrap_or(0);
            stream.write_all(&[FAILED])?;
            stream.write_all(&number.to_be_bytes())
        }
    }
}

fn content_encoded(content: &[u8]) -> Zeroizing<Vec<u8>> {
    let length = u64::try_from(content.len()).unwrap_or(u64::MAX);
    // With its capacity from the start: growing would leave copies behind.
    let mut encoded = Zeroizing::new(Vec::with_capacity(8 + content.len()));
    encoded.extend(length.to_be_bytes());
    encoded.extend_from_slice(content);
    encoded
}

impl Facts {
    fn encoded(self) -> Zeroizing<Vec<u8>> {
        let since = self.modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut encoded = vec![u8::from(self.is_file)];
        encoded.extend(self.length.to_be_bytes());
        encoded.extend(self.mode.to_be_bytes());
        encoded.extend(since.as_secs().to_be_bytes());
        encoded.extend(since.subsec_nanos().to_be_bytes());
        encoded.extend(self.inode.to_be_bytes());
        Zeroizing::new(encoded)
    }

    fn decoded(from: &mut impl Read) -> io::Result<Self> {
        let [is_file] = bytes(from)?;
        Ok(Self {
            is_file: is_file == 1,
            length: u64::from_be_bytes(bytes(from)?),
            mode: u32::from_be_bytes(bytes(from)?),
            modified: {
                let seconds = u64::from_be_bytes(bytes(from)?);
                let nanos = u32::from_be_bytes(bytes(from)?);
                let since = Duration::from_secs(seconds)
                    .saturating_add(Duration::from_nanos(u64::from(nanos)));
                UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
            },
            inode: u64::from_be_bytes(bytes(from)?),
        })
    }
}

fn bytes<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn read_directly(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = std::fs::File::open(path)?;
    let mut content = Zeroizing::new(Vec::new());
    file.take(LARGEST + 1).read_to_end(&mut content)?;
    if u64::try_from(content.len()).is_ok_and(|length| length > LARGEST) {
        return Err(io::Error::new(
            ErrorKind::FileTooLarge,
            format!("it has more than {LARGEST} bytes"),
        ));
    }
    Ok(content)
}

fn facts_directly(path: &Path) -> io::Result<Facts> {
    let metadata = std::fs::metadata(path)?;
    Ok(Facts {
        is_file: metadata.is_file(),
        length: metadata.len(),
        mode: metadata.mode(),
        modified: metadata.modified()?,
        inode: metadata.ino(),
    })
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// One process can be only one of both, so that the service's side is written by hand here.
    fn asked(stream: &mut UnixStream, kind: u8, path: &Path) -> [u8; 1] {
        let path = path.as_os_str().as_bytes();
        let length = u16::try_from(path.len()).expect("a short path");
        stream.write_all(&[kind]).expect("it listens");
        stream.write_all(&length.to_be_bytes()).expect("it listens");
        stream.write_all(path).expect("it listens");
        bytes(stream).expect("it answers")
    }

    #[test]
    fn the_reader_hands_out_what_the_configuration_names_and_nothing_else() {
        let folder = std::env::temp_dir().join(format!("nocturne-files-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for the test");
        let file = |name: &str| folder.join(name);
        std::fs::write(file("configuration"), file("a").as_os_str().as_bytes()).expect("write");
        std::fs::write(file("a"), "first").expect("write");
        std::fs::write(file("b"), "second").expect("write");

        let (mut service, reader) = UnixStream::pair().expect("a pair of sockets");
        let configuration = file("configuration");
        let running = thread::spawn(move || {
            hand_out(reader, std::slice::from_ref(&configuration), || {
                let named = read(&configuration).expect("the configuration is there");
                let _ = read(Path::new(OsStr::from_bytes(&named)));
            })
        });
        let content = |stream: &mut UnixStream| {
            let length = u64::from_be_bytes(bytes(stream).expect("a length"));
            let mut content = vec![0; usize::try_from(length).expect("short")];
            stream.read_exact(&mut content).expect("content");
            content
        };
        assert_eq!(asked(&mut service, READ, &file("a")), [DONE]);
        assert_eq!(content(&mut service), b"first");
        assert_eq!(asked(&mut service, READ, &file("b")), [NOT_NAMED]);
        assert_eq!(asked(&mut service, FACTS, &file("b")), [NOT_NAMED]);
        // the operator names another one: the old one is gone
        std::fs::write(file("configuration"), file("b").as_os_str().as_bytes()).expect("write");
        assert_eq!(asked(&mut service, READ, &file("b")), [DONE]);
        assert_eq!(content(&mut service), b"second");
        assert_eq!(asked(&mut service, READ, &file("a")), [NOT_NAMED]);
        assert_eq!(asked(&mut service, FACTS, &file("b")), [DONE]);
        let facts = Facts::decoded(&mut service).expect("facts");
        assert_eq!(facts, facts_directly(&file("b")).expect("it is there"));
        std::fs::remove_file(file("b")).expect("it is there");
        assert_eq!(asked(&mut service, READ, &file("b")), [FAILED]);
        let number = i32::from_be_bytes(bytes(&mut service).expect("a number"));
        assert_eq!(
            io::Error::from_raw_os_error(number).kind(),
            ErrorKind::NotFound
        );

        drop(service);
        running.join().expect("it ends").expect("it ends well");
        std::fs::remove_dir_all(&folder).expect("it is there");
    }
}
