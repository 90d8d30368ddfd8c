//! Landlock, capabilities and users.

use std::{
    io,
    path::{Path, PathBuf},
};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, NetPort, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};
use nix::unistd::{self, Gid, Uid};
use rustix::{
    process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit},
    thread::{
        CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, set_capabilities,
    },
};
use tracing::{info, warn};

use crate::{
    Needs, Problem,
    system_calls::{self, Sockets},
};

/// What these programs are written for; an older kernel enforces what it knows of it.
const KNOWN: ABI = ABI::V6;

/// Files of this host that every program reads: names, and who vouches for them.
const PUBLIC: [&str; 24] = [
    "/etc/hosts",
    "/etc/resolv.conf",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/ld.so.cache",
    // where resolv.conf is a symbolic link to, and is replaced
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    // certificate authorities; not the private keys beside them
    "/etc/ssl/certs",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ca-certificates",
    "/etc/pki/ca-trust",
    "/etc/pki/tls/certs",
    "/usr/share/ca-certificates",
    "/usr/local/share",
    // modules of the C library's resolver
    "/usr/lib",
    "/usr/lib64",
    "/dev/null",
    "/dev/urandom",
    // how much memory and time this process and its container have. Of others, landlock shows what `ps` does
    "/proc",
    "/sys/fs/cgroup",
];

/// Whom a service becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    name: String,
    uid: Uid,
    gid: Gid,
}

impl User {
    /// By name, or by numbers: `UID` or `UID:GID`.
    ///
    /// # Errors
    ///
    /// When there is nobody of that name.
    pub fn find(name: &str) -> Result<Self, Problem> {
        let (uid, gid) = name.split_once(':').unwrap_or((name, name));
        if let (Ok(uid), Ok(gid)) = (uid.parse(), gid.parse()) {
            return Ok(Self {
                name: name.to_owned(),
                uid: Uid::from_raw(uid),
                gid: Gid::from_raw(gid),
            });
        }
        match unistd::User::from_name(name) {
            Ok(Some(user)) => Ok(Self {
                name: name.to_owned(),
                uid: user.uid,
                gid: user.gid,
            }),
            Ok(None) | Err(_) => Err(Problem::UnknownUser(name.to_owned())),
        }
    }

    fn become_them(&self) -> Result<(), Problem> {
        let change = || -> nix::Result<()> {
            // In this order: without the user's rights the groups cannot be changed any more. The C library
            // does it in all threads.
            unistd::setgroups(&[])?;
            unistd::setresgid(self.gid, self.gid, self.gid)?;
            unistd::setresuid(self.uid, self.uid, self.uid)
        };
        change().map_err(|error| Problem::Change(error.into()))?;
        // The kernel hides a process that changed its user from itself: `/proc/self/fd` of the metrics.
        let _ = set_dumpable_behavior(DumpableBehavior::Dumpable);
        info!(user = self.name, "this process is no longer root");
        Ok(())
    }
}

/// A process that has given up files and ports, but not yet its user and system calls.
#[derive(Debug)]
#[must_use = "user and system calls are given up by close()"]
pub struct Entered {
    user: Option<User>,
    system_calls: bool,
}

impl Entered {
    /// Gives up nothing but the user.
    ///
    /// # Errors
    ///
    /// When this process may not become somebody else.
    pub fn only_as(user: Option<User>) -> Result<Self, Problem> {
        Ok(Self {
            user: needed(user)?,
            system_calls: false,
        })
    }

    /// Gives up the user and most system calls, in all threads.
    ///
    /// # Errors
    ///
    /// When the user cannot be changed. What the kernel does not have is warned of.
    pub fn close(self) -> Result<(), Problem> {
        if let Some(user) = &self.user {
            user.become_them()?;
        }
        if !self.system_calls {
            return Ok(());
        }
        keep_capabilities(CapabilitySet::empty());
        if unistd::geteuid().is_root() {
            warn!(
                "runs as root, without root's capabilities; a user of its own is safer (--user NAME, or User= in the \
                 unit)"
            );
        }
        filter_system_calls(Sockets::Yes);
        Ok(())
    }
}

/// Gives up all files but public ones, other TCP ports than those that are needed, and capabilities: in this
/// thread and those that it will start, so that there must not be others.
///
/// # Errors
///
/// When this process may not become `user`. What the kernel does not have is warned of.
pub fn enter(needs: &Needs, user: Option<User>) -> Result<Entered, Problem> {
    let user = needed(user)?;
    // What is in memory does not get on a disk, whatever happens.
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let _ = setrlimit(Resource::Core, none);
    let mut capabilities = CapabilitySet::empty();
    if needs.privileged_ports {
        capabilities |= CapabilitySet::NET_BIND_SERVICE;
    }
    if user.is_some() {
        capabilities |= CapabilitySet::SETUID | CapabilitySet::SETGID;
    }
    keep_capabilities(capabilities);
    let public = PUBLIC.iter().map(PathBuf::from);
    let readable = public.chain(needs.folders.iter().cloned());
    report(restrict(readable, needs.tcp_ports.as_deref()));
    Ok(Entered {
        user,
        system_calls: true,
    })
}

/// For a process that reads files and does nothing else: it writes nothing, starts nothing, and has no
/// network. There must not be other threads.
pub fn enter_as_reader() {
    keep_capabilities(CapabilitySet::DAC_READ_SEARCH);
    // The service has warned already.
    let _ = restrict([Path::new("/")], Some(&[]));
    filter_system_calls(Sockets::No);
}

/// None, if that is who runs this process anyway.
fn needed(user: Option<User>) -> Result<Option<User>, Problem> {
    let Some(user) = user else {
        return Ok(None);
    };
    if user.uid == unistd::geteuid() && !user.uid.is_root() {
        return Ok(None);
    }
    if !unistd::geteuid().is_root() {
        return Err(Problem::NotRoot(user.name));
    }
    Ok(Some(user))
}

/// Of those that it has, this thread keeps these.
fn keep_capabilities(wanted: CapabilitySet) {
    let Ok(present) = capabilities(None) else {
        return;
    };
    let kept = present.permitted & wanted;
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    // A unit may forbid the very call.
    if sets == present {
        return;
    }
    let done = set_capabilities(None, sets);
    if let Err(error) = done {
        warn!(%error, "capabilities cannot be given up");
    }
    let _ = clear_ambient_capability_set();
}

fn restrict(
    readable: impl IntoIterator<Item = impl AsRef<Path>>,
    tcp_ports: Option<&[u16]>,
) -> Result<RulesetStatus, RulesetError> {
    let reading: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))?
        .scope(Scope::Signal)?;
    if tcp_ports.is_some() {
        ruleset = ruleset.handle_access(AccessNet::BindTcp)?;
    }
    let ports = tcp_ports.unwrap_or_default().iter();
    let status = ruleset
        .create()?
        .add_rules(path_beneath_rules(readable, reading))?
        .add_rules(
            ports.map(|port| Ok::<_, RulesetError>(NetPort::new(*port, AccessNet::BindTcp))),
        )?
        .restrict_self()?;
    Ok(status.ruleset)
}

fn report(restricted: Result<RulesetStatus, RulesetError>) {
    match restricted {
        Ok(RulesetStatus::FullyEnforced) => {}
        Ok(RulesetStatus::PartiallyEnforced) => info!(
            "this kernel's landlock is older than Linux 6.12: it keeps this process from files, but not from all ports \
             and signals"
        ),
        Ok(RulesetStatus::NotEnforced) => warn!(
            "this kernel has no landlock (Linux 5.13, and `landlock` in its `lsm=`): this process can read every file \
             that its user can"
        ),
        Err(error) => warn!(
            %error,
            "landlock cannot be used: this process can read every file that its user can"
        ),
    }
}

fn filter_system_calls(sockets: Sockets) {
    if let Err(error) = system_calls::filter(sockets) {
        let error: io::Error = error;
        warn!(%error, "seccomp cannot be used: this process may make every system call");
    }
}
