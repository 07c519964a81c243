//! A private cluster of three members: own ports on loopback, own data directories, ended on drop.

use super::etcd::{free_port, without_flags};
use etcd_client::{Client, ConnectOptions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

const START_LIMIT: Duration = Duration::from_secs(60);

/// Three members. Killed on drop, even those that stand still.
pub struct Cluster {
    dir: TempDir,
    program: String,
    flags: Vec<String>,
    client_ports: Vec<u16>,
    peer_ports: Vec<u16>,
    children: Vec<Option<Child>>,
}

impl Cluster {
    /// Starts three members of the `etcd` on the PATH and waits until all of them answer.
    pub async fn start() -> Self {
        Self::start_with("etcd", &[]).await
    }

    /// Another program, and further flags.
    pub async fn start_with(program: &str, flags: &[&str]) -> Self {
        let ports = |_: usize| free_port().expect("a free port on loopback");
        let mut cluster = Self {
            dir: tempfile::Builder::new().prefix("etcd-rules-cluster-").tempdir().expect("a directory"),
            program: program.to_owned(),
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            client_ports: (0..3).map(ports).collect(),
            peer_ports: (0..3).map(ports).collect(),
            children: vec![None, None, None],
        };
        for member in 0..3 {
            cluster.spawn(member);
        }
        let deadline = Instant::now() + START_LIMIT;
        for member in 0..3 {
            while cluster.leader_by(member).await.is_none() {
                assert!(Instant::now() < deadline, "a cluster within {START_LIMIT:?}");
                sleep(Duration::from_millis(50)).await;
            }
        }
        cluster
    }

    /// `127.0.0.1:PORT` of a member.
    pub fn endpoint(&self, member: usize) -> String {
        format!("127.0.0.1:{}", self.client_ports[member])
    }

    /// Of all members.
    pub fn endpoints(&self) -> Vec<String> {
        (0..3).map(|member| self.endpoint(member)).collect()
    }

    /// A client of one member.
    pub async fn client(&self, member: usize) -> Client {
        Client::connect([self.endpoint(member)], None).await.expect("a connection to the private cluster")
    }

    /// The member that leads.
    pub async fn leader(&self) -> usize {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            for member in 0..3 {
                if let Some((id, leader)) = self.leader_by(member).await
                    && id == leader
                {
                    return member;
                }
            }
            assert!(Instant::now() < deadline, "a leader within {START_LIMIT:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// A member stands still (SIGSTOP): its connections stay open, and new ones are accepted by the kernel.
    pub fn pause(&self, member: usize) {
        self.signal(member, Signal::SIGSTOP);
    }

    /// Ends a [`pause`](Self::pause).
    pub fn resume(&self, member: usize) {
        self.signal(member, Signal::SIGCONT);
    }

    /// Ends a member, as a crash would.
    pub fn kill(&mut self, member: usize) {
        if let Some(mut child) = self.children[member].take() {
            // Both fail only if it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts a member that was killed, on its data.
    pub async fn restart(&mut self, member: usize) {
        self.kill(member);
        self.spawn(member);
        let deadline = Instant::now() + START_LIMIT;
        while self.leader_by(member).await.is_none() {
            assert!(Instant::now() < deadline, "the member is back within {START_LIMIT:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn signal(&self, member: usize, signal: Signal) {
        let child = self.children[member].as_ref().expect("the member runs");
        let pid = i32::try_from(child.id()).expect("a process id");
        kill(Pid::from_raw(pid), signal).expect("the member takes a signal");
    }

    /// The ids of the member and of its leader, if it answers and has one.
    async fn leader_by(&self, member: usize) -> Option<(u64, u64)> {
        let asking = async {
            let limit = Duration::from_secs(1);
            let options = ConnectOptions::new().with_connect_timeout(limit).with_timeout(limit);
            let mut client = Client::connect([self.endpoint(member)], Some(options)).await.ok()?;
            let status = client.status().await.ok()?;
            let id = status.header()?.member_id();
            (status.leader() != 0).then(|| (id, status.leader()))
        };
        timeout(Duration::from_secs(2), asking).await.ok().flatten()
    }

    fn spawn(&mut self, member: usize) {
        let peer = |member: usize| format!("http://127.0.0.1:{}", self.peer_ports[member]);
        let members: Vec<String> = (0..3).map(|member| format!("m{member}={}", peer(member))).collect();
        let client = format!("http://{}", self.endpoint(member));
        let log = self.dir.path().join(format!("m{member}.log"));
        let log = File::options().create(true).append(true).open(log).expect("a log");
        let mut command = Command::new(&self.program);
        command
            .arg(format!("--name=m{member}"))
            .arg(format!("--data-dir={}", self.dir.path().join(format!("m{member}")).display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={}", peer(member)))
            .arg(format!("--initial-advertise-peer-urls={}", peer(member)))
            .arg(format!("--initial-cluster={}", members.join(",")))
            .arg(format!("--initial-cluster-token={}", self.peer_ports[0]))
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log);
        without_flags(&mut command);
        self.children[member] = Some(command.spawn().expect("etcd is on the PATH"));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        (0..3).for_each(|member| self.kill(member));
    }
}
