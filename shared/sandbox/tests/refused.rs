//! What is given up is really gone: this program starts itself, gives everything up as a service does, and
//! then tries.
//!
//! It has no harness, since that has threads from the start.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("skipped: there is no sandbox but on Linux");
}

#[cfg(target_os = "linux")]
fn main() {
    linux::main();
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        fs, io,
        net::{TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket},
        os::unix::process::{CommandExt as _, ExitStatusExt as _},
        process::{Command, ExitStatus},
        thread,
    };

    use nix::{
        mount::MsFlags,
        sched::CloneFlags,
        sys::{ptrace, signal::kill},
        unistd::Pid,
    };
    use sandbox::{Needs, enter, enter_as_reader};

    /// SIGSYS.
    const KILLED: i32 = libc::SIGSYS;

    type Attempt = (&'static str, fn());

    /// Each in a process of its own, for these are killed.
    const DEADLY: [Attempt; 5] = [
        ("exec", || {
            let _ = Command::new("/bin/true").exec();
        }),
        ("ptrace", || {
            let _ = ptrace::attach(Pid::parent());
        }),
        ("unshare", || {
            let _ = nix::sched::unshare(CloneFlags::CLONE_NEWUSER);
        }),
        ("setns", || {
            let file = fs::File::open("/dev/null").unwrap();
            let _ = nix::sched::setns(file, CloneFlags::empty());
        }),
        ("mount", || {
            let none = None::<&str>;
            let _ = nix::mount::mount(none, "/tmp", none, MsFlags::empty(), none);
        }),
    ];

    /// Those that go on.
    const OTHERS: [Attempt; 3] = [
        ("service", service),
        ("reader", reader),
        ("threads", threads),
    ];

    pub(super) fn main() {
        let arguments: Vec<_> = std::env::args().collect();
        let wanted = |name: &str| arguments.get(1..) == Some(&["try".to_owned(), name.to_owned()]);
        if let Some((_, attempt)) = DEADLY.iter().find(|(name, _)| wanted(name)) {
            give_up();
            attempt();
            return;
        }
        if let Some((_, attempt)) = OTHERS.iter().find(|(name, _)| wanted(name)) {
            attempt();
            return;
        }
        // as cargo calls it, perhaps with a filter that is none of ours
        for (name, _) in DEADLY {
            let status = try_it(name);
            assert_eq!(status.signal(), Some(KILLED), "{name}: {status}");
            eprintln!("{name}: killed");
        }
        for (name, _) in OTHERS {
            let status = try_it(name);
            assert!(status.success(), "{name}: {status}");
            eprintln!("{name}: as it should be");
        }
    }

    fn try_it(name: &str) -> ExitStatus {
        let program = std::env::current_exe().unwrap();
        let secret = "nobody else's business";
        Command::new(program)
            .args(["try", name])
            .env("SECRET", secret)
            .status()
            .unwrap()
    }

    fn give_up() {
        enter(&needs(), None).unwrap().close().unwrap();
    }

    fn needs() -> Needs {
        Needs {
            tcp_ports: Some(vec![0]),
            ..Needs::default()
        }
    }

    #[track_caller]
    fn assert_refused<T>(result: io::Result<T>) {
        let error = result.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
    }

    fn service() {
        let own = std::env::current_exe().unwrap();
        let folder = std::env::temp_dir();
        let parent = Pid::parent();
        let entered = enter(&needs(), None).unwrap();
        // what comes between is what sockets are opened for
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        entered.close().unwrap();

        // files: public ones are read, nothing else, and nothing is written
        fs::read("/etc/hosts").unwrap();
        fs::read_to_string("/proc/self/status").unwrap();
        assert!(fs::read_dir("/proc/self/fd").unwrap().count() > 0);
        assert_refused(fs::read("/etc/passwd"));
        assert_refused(fs::read(&own));
        assert_refused(fs::read_dir("/etc"));
        assert_refused(fs::write(folder.join("nocturne-must-not-be-there"), "x"));
        assert_refused(fs::write("/etc/hosts", "x"));
        assert_refused(fs::remove_file(&own));
        assert_refused(fs::create_dir(folder.join("nocturne-must-not-be-there")));
        // other processes
        assert_refused(fs::read(format!("/proc/{parent}/environ")));
        assert_refused(fs::read(format!("/proc/{parent}/maps")));
        assert_refused(kill(parent, None).map_err(io::Error::from));
        #[expect(unsafe_code, reason = "no library has it")]
        // SAFETY: the call takes numbers alone
        let sent = unsafe { libc::syscall(libc::SYS_tgkill, parent.as_raw(), parent.as_raw(), 0) };
        assert_eq!(sent, -1);
        assert_refused::<()>(Err(io::Error::last_os_error()));
        assert_refused(Command::new("/bin/true").status());
        // the network: as it was needed
        let address = listener.local_addr().unwrap();
        let accepted = thread::spawn(move || listener.accept().unwrap());
        TcpStream::connect(address).unwrap();
        accepted.join().unwrap();
        UdpSocket::bind("127.0.0.1:0").unwrap();
        let others_port = address.port();
        assert_refused(TcpListener::bind(("127.0.0.1", others_port)));
        // names
        assert!(("localhost", 1).to_socket_addrs().unwrap().count() > 0);
    }

    fn reader() {
        let own = std::env::current_exe().unwrap();
        let folder = std::env::temp_dir();
        enter_as_reader();
        fs::read("/etc/passwd").unwrap();
        assert!(!fs::read(&own).unwrap().is_empty());
        assert_refused(fs::write(folder.join("nocturne-must-not-be-there"), "x"));
        assert_refused(UdpSocket::bind("127.0.0.1:0"));
        assert_refused(TcpStream::connect("127.0.0.1:1"));
        assert_refused(Command::new("/bin/true").status());
    }

    /// Those that there were before, and those that come after.
    fn threads() {
        let entered = enter(&needs(), None).unwrap();
        let (ask, asked) = std::sync::mpsc::channel();
        let before = thread::spawn(move || {
            asked.recv().unwrap();
            assert_refused(fs::read("/etc/passwd"));
            assert_refused(Command::new("/bin/true").status());
        });
        entered.close().unwrap();
        ask.send(()).unwrap();
        before.join().unwrap();
        let after = thread::spawn(|| assert_refused(fs::read("/etc/passwd")));
        after.join().unwrap();
    }
}
