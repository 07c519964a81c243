//! One member of a cluster: a process, its files, and its ports.

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Child;

use crate::etcd::free_port;
use crate::guard;
use crate::proxy::Proxy;
use crate::server::Server;

pub struct Member {
    pub name: String,
    server: Server,
    dir: tempfile::TempDir,
    client_port: u16,
    peer_port: u16,
    /// Others reach it through this.
    pub peers: Proxy,
    child: Option<Child>,
    paused: bool,
    scheme: &'static str,
    pub flags: Vec<String>,
    /// `--initial-cluster`, its token, and whether it is `new` or `existing`.
    pub join: (String, String, &'static str),
}

impl Member {
    /// Not yet started. `tls`: clients come with TLS.
    pub fn new(name: String, server: Server, tls: bool, flags: Vec<String>) -> Self {
        let dir = tempfile::Builder::new().prefix("etcd-rules-faults-").tempdir().expect("a folder");
        let [client_port, peer_port] = [(); 2].map(|()| free_port().expect("a free port on loopback"));
        let peers = Proxy::between_members(SocketAddr::from(([127, 0, 0, 1], peer_port)));
        let join = (String::new(), String::new(), "new");
        let scheme = if tls { "https" } else { "http" };
        Self {
            name,
            server,
            dir,
            client_port,
            peer_port,
            peers,
            child: None,
            paused: false,
            scheme,
            flags,
            join,
        }
    }

    /// Where clients reach it directly.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.client_port))
    }

    /// Where the other members reach it.
    pub fn peer_url(&self) -> String {
        format!("http://{}", self.peers.endpoint())
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Starts its process, and does not wait until it answers.
    pub fn start(&mut self) {
        if self.child.is_some() {
            return;
        }
        let client_url = format!("{}://127.0.0.1:{}", self.scheme, self.client_port);
        let (cluster, token, state) = &self.join;
        let log = File::options().create(true).append(true).open(self.log_path()).expect("a log file");
        let mut arguments = vec![
            format!("--name={}", self.name),
            format!("--data-dir={}", self.data_dir().display()),
            format!("--listen-client-urls={client_url}"),
            format!("--advertise-client-urls={client_url}"),
            format!("--listen-peer-urls=http://127.0.0.1:{}", self.peer_port),
            format!("--initial-advertise-peer-urls={}", self.peer_url()),
            format!("--initial-cluster={cluster}"),
            format!("--initial-cluster-token={token}"),
            format!("--initial-cluster-state={state}"),
        ];
        arguments.extend_from_slice(&self.flags);
        if self.server.knows_no_fsync {
            arguments.push("--unsafe-no-fsync".to_owned());
        }
        let mut command = guard::command(&self.server.program, &arguments);
        command.stdout(log.try_clone().expect("a log file")).stderr(log);
        self.child = Some(command.spawn().expect("a process of a member"));
    }

    /// What it said when it ended by itself.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        let log = fs::read(self.log_path()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(8)..].join("\n");
        Some(format!("{} ended ({status}):\n{last}", self.name))
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("etcd.log")
    }

    fn pid(&self) -> Option<Pid> {
        self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok()).map(Pid::from_raw)
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            // Fails only if it has ended, and then there is nothing to tell it.
            let _ = kill(pid, signal);
        }
    }

    /// As a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only if it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
        self.paused = false;
    }

    /// In order, and within 10 s; else as a crash would.
    pub async fn stop(&mut self) {
        self.resume();
        self.signal(Signal::SIGTERM);
        for _ in 0..1000 {
            let runs = self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)));
            if !runs {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        self.kill();
    }

    /// It stands still, and its connections stay open. Proven: the system says that it is stopped.
    pub fn pause(&mut self) {
        let Some(pid) = self.pid() else { return };
        if !self.paused {
            self.signal(Signal::SIGSTOP);
            waitpid(pid, Some(WaitPidFlag::WUNTRACED)).expect("a child can be waited for");
            self.paused = true;
        }
    }

    pub fn resume(&mut self) {
        if self.paused {
            self.signal(Signal::SIGCONT);
            self.paused = false;
        }
    }

    pub fn forget_data(&self) {
        remove_dir(&self.data_dir()).expect("the data can be removed");
    }

    /// Copies the data as it is; the member should stand still.
    pub fn save(&self, to: &Path) {
        copy_dir(&self.data_dir(), to).expect("the data can be copied");
    }

    pub fn restore(&self, from: &Path) {
        self.forget_data();
        copy_dir(from, &self.data_dir()).expect("the data can be copied");
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
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
