//! A machine: a host of the network with an `/etc`, processes and an admin of its own.

use std::{
    fs::{self, Permissions},
    io::{BufRead as _, BufReader},
    os::unix::{fs::PermissionsExt as _, net::UnixDatagram},
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread,
};

use stand_ins::Authority;
use tempfile::TempDir;

use crate::{network::Host, time::PATIENCE};

/// Makes the machine, in namespaces of its own. What is written below these folders stays in memory.
const MAKE: &str = r#"
set -e
cd "$0"
mkdir layers
mount -t tmpfs tmpfs layers
for place in etc usr/local/bin; do
    mkdir -p "layers/$place" "layers/$place.work"
    mount -t overlay overlay -o "lowerdir=/$place,upperdir=layers/$place,workdir=layers/$place.work" "/$place"
done
rm -rf /etc/nocturne /etc/systemd/system/nocturne* /etc/letsencrypt /etc/nginx /etc/nftables.conf /etc/resolv.conf
mkdir -p /etc/systemd/system /etc/letsencrypt/live /etc/nginx /etc/ssl/certs
sed -i '/^nocturne:/d' /etc/passwd /etc/shadow /etc/group /etc/gshadow
cp hosts resolv.conf nsswitch.conf /etc/
cat authority.pem >>/etc/ssl/certs/ca-certificates.crt
echo made
exec cat
"#;

/// The rest of sudo's behaviour is to leave nothing of the environment but what it is told to.
const SUDO: &str = r#"#!/bin/sh
set -e
user=root
names=
while :; do
    case $1 in
        -u) user=$2; shift 2 ;;
        --preserve-env=*) names=${1#*=}; shift ;;
        -*) echo "sudo: $1?" >&2; exit 1 ;;
        *) break ;;
    esac
done
for name in $(echo "$names" | tr , ' '); do
    eval "value=\${$name-}"
    if [ -n "$value" ]; then
        set -- "$name=$value" "$@"
    fi
done
exec setpriv --reuid "$user" --regid "$user" --init-groups env -i "PATH=$PATH" "$@"
"#;

/// What SETUP.md wants of systemd. It does not wait until a service is ready: the test does.
const SYSTEMCTL: &str = r#"#!/bin/sh
set -e
unit=/etc/systemd/system/nocturne.service
value() { sed -n "s/^$1=//p" "$unit"; }
start() {
    [ "$(value AmbientCapabilities)$(value CapabilityBoundingSet)" = "" ]
    setpriv --reuid "$(value User)" --regid "$(value Group)" --clear-groups --inh-caps=-all --bounding-set=-all \
        --no-new-privs env -i "PATH=$PATH" "NOTIFY_SOCKET=FOLDER/notify" $(value ExecStart) \
        </dev/null >/dev/null 2>>FOLDER/nocturne.log &
    echo $! >FOLDER/nocturne.pid
}
stop() {
    pid=$(cat FOLDER/nocturne.pid)
    kill "$pid"
    until_ended "$pid"
}
# A process that has ended has no program, even if nobody waits for it.
until_ended() {
    for process; do
        while readlink -q "/proc/$process/exe" >/dev/null; do sleep 0.05; done
    done
}
# It returns when nobody answers any more as before.
reload_nginx() {
    nginx=$(cat FOLDER/nginx.pid)
    workers=$(cat "/proc/$nginx/task/$nginx/children")
    nginx -e stderr -s reload
    until_ended $workers
}
case $* in
    daemon-reload) ;;
    "enable --now nocturne") start ;;
    "restart nocturne") stop; start ;;
    "reload nocturne") kill -HUP "$(cat FOLDER/nocturne.pid)" ;;
    "reload nginx") reload_nginx ;;
    "reload nftables") nft -f /etc/nftables.conf ;;
    *) echo "systemctl: $*?" >&2; exit 1 ;;
esac
"#;

/// An authority that signs for a name which is in DNS.
const CERTBOT: &str = r#"#!/bin/sh
set -e
[ "$1 $2 $3" = "certonly --nginx -d" ]
getent ahosts "$4" >/dev/null || { echo "certbot: $4 is not in DNS" >&2; exit 1; }
mkdir -p "/etc/letsencrypt/live/$4"
cp "FOLDER/issued/$4/"* "/etc/letsencrypt/live/$4/"
"#;

/// Dropped: every process on it is killed.
pub(crate) struct Machine {
    pub(crate) host: Host,
    folder: TempDir,
    holder: Child,
    ready: UnixDatagram,
}

impl Machine {
    /// With a name server at the next router, and trust in `authority` as in all others.
    pub(crate) fn start(host: Host, authority: &Authority) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        // the services' user goes through it
        set_mode(&path, 0o755);
        let [first, second, third, _] = host.v4.octets();
        for (name, text) in [
            ("hosts", "127.0.0.1 localhost\n::1 localhost\n"),
            (
                "resolv.conf",
                &format!("nameserver {first}.{second}.{third}.1\n"),
            ),
            (
                "nsswitch.conf",
                "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n",
            ),
            ("authority.pem", authority.pem()),
        ] {
            fs::write(path.join(name), text).unwrap();
        }
        fs::create_dir(path.join("bin")).unwrap();
        for (name, script) in [
            ("sudo", SUDO),
            ("systemctl", SYSTEMCTL),
            ("certbot", CERTBOT),
        ] {
            let file = path.join("bin").join(name);
            fs::write(&file, script.replace("FOLDER", path.to_str().unwrap())).unwrap();
            set_mode(&file, 0o755);
        }
        let ready = UnixDatagram::bind(path.join("notify")).unwrap();
        ready.set_read_timeout(Some(PATIENCE)).unwrap();
        set_mode(&path.join("notify"), 0o666);

        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-c", MAKE])
            .arg(&path)
            // the end of this process ends it, too
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut holder = host.namespace.inside(|| command.spawn()).unwrap();
        let mut said = String::new();
        let mut output = BufReader::new(holder.stdout.take().unwrap());
        output.read_line(&mut said).unwrap();
        assert_eq!(said, "made\n", "the machine is not made");
        Self {
            host,
            folder,
            holder,
            ready,
        }
    }

    /// A folder that is the same on all machines, and outside.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Lets `certbot` find a certificate for `name`.
    pub(crate) fn issue(&self, authority: &Authority, name: &str, names: &[&str]) {
        let folder = self.folder().join("issued").join(name);
        fs::create_dir_all(&folder).unwrap();
        let identity = authority.server_identity(names).unwrap();
        fs::write(folder.join("fullchain.pem"), &identity.certificate_pem).unwrap();
        fs::write(folder.join("privkey.pem"), &identity.key_pem).unwrap();
    }

    /// A shell on it, in its folder.
    fn shell(&self, script: &str, variables: &[(&str, &str)]) -> Command {
        let namespace =
            |kind: &str, name: &str| format!("--{kind}=/proc/{}/ns/{name}", self.holder.id());
        let path = format!(
            "{}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            self.folder().display()
        );
        let mut command = Command::new("timeout");
        command
            .arg(PATIENCE.as_secs().to_string())
            .arg("nsenter")
            .arg(namespace("mount", "mnt"))
            .arg(namespace("net", "net"))
            .arg(namespace("pid", "pid_for_children"))
            .args(["--", "sh", "-ec"])
            .arg(format!("cd {}\n{script}", self.folder().display()))
            .env_clear()
            .env("PATH", path)
            .env("LC_ALL", "C.UTF-8")
            .envs(variables.iter().copied())
            .stdin(Stdio::null());
        command
    }

    /// Has the shell do this, and gives what came of it.
    pub(crate) fn tries(&self, script: &str, variables: &[(&str, &str)]) -> Output {
        let output = self.shell(script, variables).output().unwrap();
        eprintln!(
            "--- {script}\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        output
    }

    /// Has the shell do this, which must succeed; what it prints.
    #[track_caller]
    pub(crate) fn does(&self, script: &str) -> String {
        let output = self.tries(script, &[]);
        assert!(output.status.success(), "{}: {script}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Whether a command succeeds, without a word.
    pub(crate) fn is_true(&self, script: &str) -> bool {
        let output = self.shell(script, &[]).output().unwrap();
        output.status.success()
    }

    /// Starts something that goes on, with what it says in `NAME.log`.
    pub(crate) fn starts(&self, name: &str, script: &str) {
        let log = self.folder().join(format!("{name}.log"));
        self.does(&format!("{script} </dev/null >>{} 2>&1 &", log.display()));
    }

    /// Writes a file of the machine.
    pub(crate) fn writes(&self, file: &str, text: &str) {
        let outside = self.folder().join("to-be-written");
        fs::write(&outside, text).unwrap();
        self.does(&format!("cp {} {file}", outside.display()));
    }

    /// Waits until a service says to its systemd what has this line in it.
    #[track_caller]
    pub(crate) fn hears(&self, wanted: &str) {
        let mut buffer = [0; 4096];
        loop {
            let length = self.ready.recv(&mut buffer).expect("it says that in time");
            let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if message.lines().any(|line| line == wanted) {
                return;
            }
        }
    }

    /// What is in `NAME.log`.
    pub(crate) fn log(&self, name: &str) -> String {
        let bytes = fs::read(self.folder().join(format!("{name}.log"))).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        if thread::panicking() {
            for name in ["nocturne", "nginx", "synapse"] {
                eprintln!("--- what {name} printed:\n{}", self.log(name));
            }
        }
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}
