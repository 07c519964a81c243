//! Which etcd: the one that all tests use, and a current one.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{LazyLock, Mutex};

/// A program that is an etcd server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `3.4.23`, for example.
    pub version: String,
    pub program: PathBuf,
    pub knows_no_fsync: bool,
}

/// Chooses the current server; see `make faults`.
const CURRENT: &str = "FAULTS_ETCD36";

/// The program that restores with bumped revisions.
pub fn restore_program() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/etcd-restore36")
}

impl Server {
    /// The server of all tests: `etcd` on the PATH, unless the environment names another.
    pub fn usual() -> Self {
        static FOUND: LazyLock<Server> = LazyLock::new(|| {
            let program = crate::etcd::program();
            Server::found(PathBuf::from(&program)).unwrap_or_else(|| {
                panic!(
                    "`{program}` does not run; install it: `apt-get install -y etcd-server` (Debian, Ubuntu)"
                )
            })
        });
        FOUND.clone()
    }

    /// A current server.
    pub fn current() -> Self {
        static FOUND: Mutex<Option<Server>> = Mutex::new(None);
        let mut found = FOUND.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        found.get_or_insert_with(|| {
            let built = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/etcd36");
            let program = std::env::var_os(CURRENT).map_or(built, PathBuf::from);
            Server::found(program.clone()).unwrap_or_else(|| {
                let program = program.display();
                panic!("no current etcd at {program}; build it with `make target/etcd36` (needs Go), or name one in {CURRENT}")
            })
        }).clone()
    }

    fn found(program: PathBuf) -> Option<Self> {
        let output = Command::new(&program).arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.lines().find_map(|line| line.strip_prefix("etcd Version: "))?.trim().to_owned();
        let mut probe = Command::new(&program);
        probe.args(["--unsafe-no-fsync", "--version"]).stdin(Stdio::null());
        let knows_no_fsync = probe.output().is_ok_and(|output| output.status.success());
        Some(Self { version, program, knows_no_fsync })
    }
}
