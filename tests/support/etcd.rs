//! Launches a private `etcd` from the PATH. It has its own ports on loopback and its own data directory, and
//! ends on drop.
//!
//! Self-contained, so that a benchmark can take it with `#[path = "../tests/support/etcd.rs"] mod etcd;`.

#![allow(dead_code, unreachable_pub, reason = "each program takes a part")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

/// How long a server may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long a server may take to end by itself after SIGTERM; then it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(15);
/// How often a start is tried with other ports, if somebody else took the chosen ones in between.
const PORT_ATTEMPTS: usize = 5;
/// How often to check whether a server has started or ended.
const POLL: Duration = Duration::from_millis(10);

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error(
        "`{program}` is not on the PATH; install it: `apt-get install -y etcd-server` (Debian, Ubuntu), \
         `brew install etcd` (macOS), or see https://etcd.io/docs/latest/install/"
    )]
    Missing { program: String },
    #[error("no free port on loopback")]
    NoPort,
    #[error("etcd ended while it was starting ({status}); its log:\n{log}")]
    Ended { status: ExitStatus, log: String },
    #[error("etcd did not answer within {START_LIMIT:?}; its log:\n{log}")]
    Silent { log: String },
    #[error("files or the process of etcd: {0}")]
    Io(#[from] io::Error),
}

/// What to launch. Made by [`EtcdProcess::options`].
#[derive(Debug, Clone)]
pub struct LaunchOptions {
    program: String,
    flags: Vec<String>,
    /// With TLS: how to connect.
    secure: Option<ConnectOptions>,
}

impl LaunchOptions {
    /// Another program instead of `etcd`: a name on the PATH, or a path.
    pub fn program(mut self, program: impl Into<String>) -> Self {
        self.program = program.into();
        self
    }

    /// One more command-line flag, such as `--quota-backend-bytes=16777216`.
    pub fn flag(mut self, flag: impl Into<String>) -> Self {
        self.flags.push(flag.into());
        self
    }

    /// The server has TLS, by its flags. `options` have what its clients need.
    pub fn secure(mut self, options: ConnectOptions) -> Self {
        self.secure = Some(options);
        self
    }

    /// Starts the server and waits until it answers.
    pub async fn launch(self) -> Result<EtcdProcess, LaunchError> {
        self.launch_on(None).await
    }

    /// Starts a server of its own on a copy of another one's data: a second cluster with the id of the first.
    pub async fn launch_copy(self, saved: &Saved) -> Result<EtcdProcess, LaunchError> {
        self.launch_on(Some(saved)).await
    }

    /// Starts a server of its own on a database, as another server's snapshot has it.
    pub async fn launch_on_file(self, database: &[u8]) -> Result<EtcdProcess, LaunchError> {
        let saved = tempfile::Builder::new().prefix("etcd-rules-saved-").tempdir()?;
        let place = saved.path().join("member").join("snap");
        fs::create_dir_all(&place)?;
        fs::write(place.join("db"), database)?;
        self.launch_copy(&Saved(saved)).await
    }

    async fn launch_on(self, saved: Option<&Saved>) -> Result<EtcdProcess, LaunchError> {
        let mut attempt = 1;
        loop {
            match EtcdProcess::launch_once(&self, saved).await {
                Err(LaunchError::Ended { log, .. })
                    if attempt < PORT_ATTEMPTS && log.contains("address already in use") =>
                {
                    attempt += 1;
                }
                result => return result,
            }
        }
    }
}

/// A copy of a server's data directory, which can be restored. Removed on drop.
#[derive(Debug)]
pub struct Saved(TempDir);

/// A private etcd server. Killed on drop, even when paused, and its files are removed.
#[derive(Debug)]
pub struct EtcdProcess {
    options: LaunchOptions,
    dir: TempDir,
    client_port: u16,
    peer_port: u16,
    /// Counts the clusters that this server has been. Each needs an id of its own.
    cluster: u32,
    child: Option<Child>,
    paused: bool,
}

impl EtcdProcess {
    /// The server of all tests ([`program`]), with the flags that a private server needs.
    pub fn options() -> LaunchOptions {
        LaunchOptions { program: program(), flags: Vec::new(), secure: None }
    }

    async fn launch_once(options: &LaunchOptions, saved: Option<&Saved>) -> Result<Self, LaunchError> {
        let dir = tempfile::Builder::new().prefix("etcd-rules-").tempdir()?;
        let client_port = free_port().ok_or(LaunchError::NoPort)?;
        let peer_port = free_port().ok_or(LaunchError::NoPort)?;
        let options = options.clone();
        let mut process =
            Self { options, dir, client_port, peer_port, cluster: 0, child: None, paused: false };
        if let Some(saved) = saved {
            copy_dir(saved.0.path(), &process.data_dir())?;
        }
        process.start().await?;
        Ok(process)
    }

    /// `127.0.0.1:PORT`, the same for the whole life of this value.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.client_port)
    }

    /// How to connect.
    pub fn connect_options(&self) -> Option<ConnectOptions> {
        self.options.secure.clone()
    }

    /// The file with everything the server logged.
    pub fn log_path(&self) -> PathBuf {
        self.dir.path().join("etcd.log")
    }

    /// The server's process id, or `None` while it is not running.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Starts the server on its ports and data, and waits until it answers. Does nothing while it runs.
    pub async fn start(&mut self) -> Result<(), LaunchError> {
        if self.child.is_some() {
            return Ok(());
        }
        self.child = Some(self.spawn()?);
        let started = self.wait_until_healthy().await;
        if started.is_err() {
            self.kill();
        }
        started
    }

    /// Ends the server at once, as a crash would (SIGKILL).
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // SIGKILL ends a stopped process too. Both calls fail only if the process has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
        self.paused = false;
    }

    /// Asks the server to end (SIGTERM), and kills it if that takes too long.
    pub async fn stop(&mut self) {
        self.resume();
        self.signal(Signal::SIGTERM);
        let deadline = Instant::now() + STOP_LIMIT;
        while let Some(child) = &mut self.child {
            if !matches!(child.try_wait(), Ok(None)) || Instant::now() >= deadline {
                break;
            }
            sleep(POLL).await;
        }
        self.kill();
    }

    /// Stops the server and starts it again, on the same ports and data.
    pub async fn restart(&mut self) -> Result<(), LaunchError> {
        self.stop().await;
        self.start().await
    }

    /// Kills the server and starts an empty one, a new cluster with another id, on the same ports.
    pub async fn restart_empty(&mut self) -> Result<(), LaunchError> {
        self.kill();
        remove_dir(&self.data_dir())?;
        self.cluster += 1;
        self.start().await
    }

    /// Freezes the server (SIGSTOP). Connections stay open and nothing answers. Returns when it has stopped.
    pub fn pause(&mut self) {
        if self.paused || self.child.is_none() {
            return;
        }
        self.signal(Signal::SIGSTOP);
        if let Some(pid) = self.os_pid() {
            // Fails only if the process has ended, which the next call that needs it reports.
            let _ = waitpid(pid, Some(WaitPidFlag::WUNTRACED));
        }
        self.paused = true;
    }

    /// Ends a [`pause`](Self::pause).
    pub fn resume(&mut self) {
        if self.paused {
            self.signal(Signal::SIGCONT);
            self.paused = false;
        }
    }

    /// Copies the data of a running or stopped server. A running one is frozen meanwhile.
    pub fn save(&mut self) -> Result<Saved, LaunchError> {
        let saved = tempfile::Builder::new().prefix("etcd-rules-saved-").tempdir()?;
        let was_paused = self.paused;
        self.pause();
        let copied = copy_dir(&self.data_dir(), saved.path());
        if !was_paused {
            self.resume();
        }
        copied?;
        Ok(Saved(saved))
    }

    /// Kills the server and starts it on older data: the same cluster, with a lower revision.
    pub async fn restore(&mut self, saved: &Saved) -> Result<(), LaunchError> {
        self.kill();
        remove_dir(&self.data_dir())?;
        copy_dir(saved.0.path(), &self.data_dir())?;
        self.start().await
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn os_pid(&self) -> Option<Pid> {
        self.pid().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw)
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.os_pid() {
            // Fails only if the process has ended, and then there is nothing to tell it.
            let _ = kill(pid, signal);
        }
    }

    /// The member's name. It is different for every server, so it proves that our server answers.
    fn name(&self) -> String {
        format!("private-{}-{}", std::process::id(), self.client_port)
    }

    fn spawn(&self) -> Result<Child, LaunchError> {
        let scheme = if self.options.secure.is_some() { "https" } else { "http" };
        let client_url = format!("{scheme}://127.0.0.1:{}", self.client_port);
        let peer_url = format!("http://127.0.0.1:{}", self.peer_port);
        let name = self.name();
        let log = File::options().create(true).append(true).open(self.log_path())?;

        let mut command = Command::new(&self.options.program);
        command
            .arg(format!("--name={name}"))
            .arg(format!("--data-dir={}", self.data_dir().display()))
            .arg(format!("--listen-client-urls={client_url}"))
            .arg(format!("--advertise-client-urls={client_url}"))
            .arg(format!("--listen-peer-urls={peer_url}"))
            .arg(format!("--initial-advertise-peer-urls={peer_url}"))
            .arg(format!("--initial-cluster={name}={peer_url}"))
            .arg(format!("--initial-cluster-token={name}-{}", self.cluster))
            .args(&self.options.flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        if knows_no_fsync(&self.options.program) {
            command.arg("--unsafe-no-fsync");
        }
        without_flags(&mut command);
        command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => LaunchError::Missing { program: self.options.program.clone() },
            _ => LaunchError::Io(error),
        })
    }

    async fn wait_until_healthy(&mut self) -> Result<(), LaunchError> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if let Some(status) = self.child.as_mut().map(Child::try_wait).transpose()?.flatten() {
                return Err(LaunchError::Ended { status, log: self.log_excerpt() });
            }
            if self.answers().await {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(LaunchError::Silent { log: self.log_excerpt() });
            }
            sleep(POLL).await;
        }
    }

    /// True once the server is ours, has a leader, and serves requests.
    async fn answers(&self) -> bool {
        let probe = async {
            let limit = Duration::from_secs(1);
            let options = self.connect_options().unwrap_or_default();
            let options = options.with_connect_timeout(limit).with_timeout(limit);
            let mut client = Client::connect([self.endpoint()], Some(options)).await?;
            let leader = client.status().await?.leader();
            let ours =
                client.member_list().await?.members().iter().any(|member| member.name() == self.name());
            Ok::<_, etcd_client::Error>(leader != 0 && ours)
        };
        match timeout(Duration::from_secs(2), probe).await {
            Ok(Ok(healthy)) => healthy,
            // With authentication enabled, newer servers refuse these requests. That is an answer too.
            Ok(Err(etcd_client::Error::GRpcStatus(status))) => {
                status.message().contains("user name is empty")
                    || status.message().contains("permission denied")
            }
            Ok(Err(_)) | Err(_) => false,
        }
    }

    /// The first and the last lines of the server's log. A refused flag is named first, a failure last.
    fn log_excerpt(&self) -> String {
        const FIRST: usize = 5;
        const LAST: usize = 20;
        let log = fs::read(self.log_path()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let mut lines: Vec<&str> = log.lines().collect();
        if lines.len() > FIRST + LAST {
            lines.splice(FIRST..lines.len() - LAST, ["…"]);
        }
        lines.join("\n")
    }
}

impl Drop for EtcdProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The server of all tests: `etcd` from the PATH, unless the environment names another. `make test ETCD=path` does.
pub fn program() -> String {
    std::env::var("ETCD_RULES_TEST_ETCD").unwrap_or_else(|_| "etcd".to_owned())
}

/// A server, a proxy too, also reads flags from the environment. A private one takes none from there.
pub fn without_flags(command: &mut Command) {
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("ETCD_") {
            command.env_remove(variable);
        }
    }
}

/// A free port on loopback that nobody chose before, in this process or in another one that runs these tests. Whatever
/// an earlier port was for may be down at the moment, and needs it again.
///
/// A port is claimed by a UDP socket, which etcd has no use for, until this process ends.
pub fn free_port() -> Option<u16> {
    static CLAIMED: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());
    let claim = |port| Some((port, UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).ok()?));
    let (port, claim) = (0..PORT_ATTEMPTS).filter_map(|_| portpicker::pick_unused_port()).find_map(claim)?;
    CLAIMED.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(claim);
    Some(port)
}

/// True if the program takes `--unsafe-no-fsync`, which some versions know but do not list in their help.
fn knows_no_fsync(program: &str) -> bool {
    static KNOWN: Mutex<BTreeMap<String, bool>> = Mutex::new(BTreeMap::new());
    let ask = || {
        let mut command = Command::new(program);
        command.args(["--unsafe-no-fsync", "--version"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let mut known = KNOWN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    *known.entry(program.to_owned()).or_insert_with(ask)
}

fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn copy_dir(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
