//! A private etcd for one test: the process, and short ways to read and change its keys.
//!
//! Every failure panics with its reason. Without a server a test fails; it is never skipped.

use std::path::PathBuf;

use etcd_client::{
    AlarmAction, AlarmOptions, AlarmType, Client, CompactionOptions, ConnectOptions, DeleteOptions,
    GetOptions, Permission, PutOptions, ResponseHeader, Txn, TxnOp,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::etcd::{EtcdProcess, LaunchError, LaunchOptions, Saved};

/// A private etcd server with a client. Killed on drop, even when paused.
pub struct Etcd {
    process: EtcdProcess,
    client: Client,
}

/// Options of a server to start; made by [`Etcd::builder`].
#[derive(Debug, Clone)]
pub struct EtcdBuilder(LaunchOptions);

impl EtcdBuilder {
    /// One more command-line flag, such as `--quota-backend-bytes=16777216`.
    pub fn flag(self, flag: impl Into<String>) -> Self {
        Self(self.0.flag(flag))
    }

    /// Another program instead of `etcd`: a name on the PATH, or a path.
    pub fn program(self, program: impl Into<String>) -> Self {
        Self(self.0.program(program))
    }

    /// The server and its clients have certificates of this authority.
    #[cfg(feature = "tls")]
    pub fn certificates(mut self, certificates: &super::Certificates) -> Self {
        for flag in certificates.server_flags() {
            self = self.flag(flag);
        }
        Self(self.0.secure(ConnectOptions::new().with_tls(certificates.client_options())))
    }

    /// Starts the server and waits until it answers.
    pub async fn start(self) -> Etcd {
        let process = launched(self.0.launch().await);
        let client = connect(&process, None).await;
        Etcd { process, client }
    }
}

impl Etcd {
    /// Starts a server with default flags and waits until it answers.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// A server with other flags.
    pub fn builder() -> EtcdBuilder {
        EtcdBuilder(EtcdProcess::options())
    }

    /// `127.0.0.1:PORT`, the same after every restart.
    pub fn endpoint(&self) -> String {
        self.process.endpoint()
    }

    /// The file with everything the server logged.
    pub fn log_path(&self) -> PathBuf {
        self.process.log_path()
    }

    /// A client with a connection of its own.
    pub async fn client(&self) -> Client {
        connect(&self.process, None).await
    }

    /// A client with options, such as a user and a password.
    pub async fn client_with(&self, options: ConnectOptions) -> Client {
        connect(&self.process, Some(options)).await
    }

    /// What every client needs to connect.
    pub fn connect_options(&self) -> ConnectOptions {
        self.process.connect_options().unwrap_or_default()
    }

    /// Ends the server at once, as a crash would (SIGKILL).
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Asks the server to end (SIGTERM), and waits for it.
    pub async fn stop(&mut self) {
        self.process.stop().await;
    }

    /// Starts the server on the same ports and data. If it still runs, it is stopped first.
    pub async fn restart(&mut self) {
        launched(self.process.restart().await);
        self.reconnect().await;
    }

    /// Starts an empty server on the same ports. It has another cluster id, and revision 1.
    pub async fn restart_empty(&mut self) {
        launched(self.process.restart_empty().await);
        self.reconnect().await;
    }

    /// Copies the data of a running or stopped server. A running one is frozen meanwhile.
    pub fn save(&mut self) -> Saved {
        launched(self.process.save())
    }

    /// Kills the server and starts it on older data. It has the same cluster id, and a lower revision.
    pub async fn restore(&mut self, saved: &Saved) {
        launched(self.process.restore(saved).await);
        self.reconnect().await;
    }

    /// Starts a server of its own on a copy of another one's data: a second cluster with the id of the first.
    pub async fn start_copy(saved: &Saved) -> Self {
        let process = launched(EtcdProcess::options().launch_copy(saved).await);
        let client = connect(&process, None).await;
        Self { process, client }
    }

    /// Freezes the server (SIGSTOP). Connections stay open and nothing answers.
    pub fn pause(&mut self) {
        self.process.pause();
    }

    /// Ends a [`pause`](Self::pause).
    pub fn resume(&mut self) {
        self.process.resume();
    }

    /// Puts a key. Returns the new revision.
    pub async fn put(&self, key: &str, value: impl Into<Vec<u8>>) -> i64 {
        let done = self.client.kv_client().put(key, value, None).await.expect("put");
        revision_of(done.header())
    }

    /// Puts empty keys, a hundred in a transaction.
    pub async fn put_all(&self, keys: impl IntoIterator<Item = String>) {
        let puts: Vec<_> = keys.into_iter().map(|key| TxnOp::put(key, "", None)).collect();
        for chunk in puts.chunks(100) {
            self.client.kv_client().txn(Txn::new().and_then(chunk)).await.expect("puts");
        }
    }

    /// Puts a key under a lease. Returns the new revision.
    pub async fn put_leased(&self, key: &str, value: impl Into<Vec<u8>>, lease: i64) -> i64 {
        let options = PutOptions::new().with_lease(lease);
        let done = self.client.kv_client().put(key, value, Some(options)).await.expect("put with a lease");
        revision_of(done.header())
    }

    /// Grants a lease. Returns its id.
    pub async fn grant(&self, ttl_seconds: i64) -> i64 {
        self.client.lease_client().grant(ttl_seconds, None).await.expect("lease grant").id()
    }

    /// The value of a key as text, or `None` if it is absent.
    pub async fn get(&self, key: &str) -> Option<String> {
        let found = self.client.kv_client().get(key, None).await.expect("get");
        found.kvs().first().map(|kv| String::from_utf8_lossy(kv.value()).into_owned())
    }

    /// Deletes a key. Returns the revision afterwards.
    pub async fn delete(&self, key: &str) -> i64 {
        let done = self.client.kv_client().delete(key, None).await.expect("delete");
        revision_of(done.header())
    }

    /// Deletes every key under a prefix in one revision. Returns the revision afterwards.
    pub async fn delete_prefix(&self, prefix: &str) -> i64 {
        let options = DeleteOptions::new().with_prefix();
        let done = self.client.kv_client().delete(prefix, Some(options)).await.expect("delete a prefix");
        revision_of(done.header())
    }

    /// The keys under a prefix, in order.
    pub async fn keys(&self, prefix: &str) -> Vec<String> {
        let options = GetOptions::new().with_prefix().with_keys_only();
        let found = self.client.kv_client().get(prefix, Some(options)).await.expect("get a prefix");
        found.kvs().iter().map(|kv| String::from_utf8_lossy(kv.key()).into_owned()).collect()
    }

    /// The ids of all leases that live.
    pub async fn leases(&self) -> Vec<i64> {
        let found = self.client.lease_client().leases().await.expect("list of leases");
        found.leases().iter().map(|lease| lease.id()).collect()
    }

    /// The server's current revision, by a linearizable read.
    pub async fn revision(&self) -> i64 {
        revision_of(self.header().await.as_ref())
    }

    /// The id of the cluster, which [`restart_empty`](Self::restart_empty) changes.
    pub async fn cluster_id(&self) -> u64 {
        self.header().await.expect("a response has a header").cluster_id()
    }

    /// Compacts the history before `revision`. Returns when it is really gone.
    pub async fn compact(&self, revision: i64) {
        let options = CompactionOptions::new().with_physical();
        self.client.kv_client().compact(revision, Some(options)).await.expect("compaction");
    }

    /// The server's own metrics, as it shows them without TLS.
    pub async fn metrics(&self) -> String {
        let mut stream = TcpStream::connect(self.endpoint()).await.expect("etcd listens");
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.expect("a request");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("an answer");
        text
    }

    /// The sum of all lines of its [metrics](Self::metrics) that begin so: a name, or one with its first labels, which
    /// are in alphabetic order. None: 0, as a counter with labels is not there before it counts.
    pub async fn metric(&self, beginning: &str) -> f64 {
        let text = self.metrics().await;
        let lines = text.lines().filter(|line| line.starts_with(beginning));
        lines.map(|line| line.rsplit(' ').next().expect("a figure").parse::<f64>().expect("a number")).sum()
    }

    async fn header(&self) -> Option<ResponseHeader> {
        let options = GetOptions::new().with_count_only();
        self.client.kv_client().get("\0", Some(options)).await.expect("get").header().cloned()
    }

    /// Makes a new connection, so that no request uses the remains of the old one.
    async fn reconnect(&mut self) {
        self.client = connect(&self.process, None).await;
    }
}

async fn connect(process: &EtcdProcess, options: Option<ConnectOptions>) -> Client {
    let options = options.or_else(|| process.connect_options());
    Client::connect([process.endpoint()], options).await.expect("connection to the private etcd")
}

fn launched<T>(result: Result<T, LaunchError>) -> T {
    result.unwrap_or_else(|error| panic!("this test needs a private etcd: {error}"))
}

fn revision_of(header: Option<&ResponseHeader>) -> i64 {
    header.expect("a response has a header").revision()
}

/// Faults.
impl Etcd {
    /// Fills it until it has no more space. `--quota-backend-bytes` should be small.
    pub async fn fill(&self) {
        let mut client = self.client().await;
        for n in 0..100 {
            if client.put(format!("/filler/{n}"), vec![b'x'; 1 << 20], None).await.is_err() {
                return;
            }
        }
        panic!("etcd has too much space");
    }

    /// Makes space after [`fill`](Self::fill), and disarms the alarm.
    pub async fn make_space(&self) {
        self.delete_prefix("/filler/").await;
        self.compact(self.revision().await).await;
        let mut client = self.client().await;
        client.defragment().await.expect("etcd defragments");
        let alarms =
            client.alarm(AlarmAction::Get, AlarmType::None, None).await.expect("etcd tells its alarms");
        let mut member = AlarmOptions::new();
        member.with_member(alarms.alarms()[0].member_id());
        let disarmed = client.alarm(AlarmAction::Deactivate, AlarmType::Nospace, Some(member)).await;
        disarmed.expect("etcd disarms the alarm");
    }

    /// Enables authentication. The user `engine` may read and write below these prefixes. The client that
    /// this returns is `root`. Both passwords are `secret`.
    pub async fn enable_auth(&self, prefixes: &[&str]) -> Client {
        let mut client = self.client().await;
        for user in ["root", "engine"] {
            client.user_add(user, "secret", None).await.expect("etcd adds a user");
            client.role_add(user).await.expect("etcd adds a role");
            client.user_grant_role(user, user).await.expect("etcd grants a role");
        }
        for prefix in prefixes {
            let permission = Permission::read_write(*prefix).with_prefix();
            client.role_grant_permission("engine", permission).await.expect("etcd grants a permission");
        }
        client.auth_enable().await.expect("etcd enables authentication");
        self.client_with(self.connect_options().with_user("root", "secret")).await
    }

    /// Makes this many changes of a key, several at a time.
    pub async fn flood(&self, key: &str, changes: usize) {
        const WRITERS: usize = 64;
        let client = self.client().await;
        let writers = (0..WRITERS).map(|_| {
            let mut kv = client.kv_client();
            async move {
                for _ in 0..changes / WRITERS {
                    kv.put(key, "", None).await.expect("etcd takes a put");
                }
            }
        });
        futures_util::future::join_all(writers).await;
    }
}
