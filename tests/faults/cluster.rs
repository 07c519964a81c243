//! A cluster of one or three members, and what can happen to it.

use etcd_client::{Client, ConnectOptions, GetOptions};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use crate::access::Access;
use crate::member::Member;
use crate::proxy::Weather;
use crate::server::Server;

/// How long a cluster may take until it answers.
const START: Duration = Duration::from_secs(90);

pub struct Cluster {
    pub members: Vec<Member>,
    pub access: Access,
    pub server: Server,
    token: String,
    added: usize,
}

/// Copies of the data of all members.
pub struct Saved(Vec<TempDir>);

impl Cluster {
    /// Starts one and waits until every member answers.
    pub async fn start(server: Server, size: usize, access: Access, flags: &[String], token: &str) -> Self {
        let mut all_flags = access.flags();
        all_flags.extend_from_slice(flags);
        let member =
            |n| Member::new(format!("{token}-{n}"), server.clone(), access.has_tls(), all_flags.clone());
        let members: Vec<Member> = (0..size).map(member).collect();
        let mut cluster = Self { members, access, server, token: token.to_owned(), added: 0 };
        let initial = cluster.initial_cluster();
        for member in &mut cluster.members {
            member.join = (initial.clone(), token.to_owned(), "new");
            member.start();
        }
        cluster.wait().await;
        cluster
    }

    fn initial_cluster(&self) -> String {
        let entries = self.members.iter().map(|member| format!("{}={}", member.name, member.peer_url()));
        entries.collect::<Vec<_>>().join(",")
    }

    /// Where clients reach the members directly.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.members.iter().map(Member::address).collect()
    }

    /// A client of one member, as the administrator.
    pub async fn client(&self, member: usize) -> Result<Client, etcd_client::Error> {
        self.access.admin(&self.members[member].address().to_string()).await
    }

    /// A client of any member that answers a linearizable read.
    pub async fn any_client(&self) -> Client {
        let deadline = Instant::now() + START;
        loop {
            for (number, member) in self.members.iter().enumerate() {
                if !member.is_running() || member.is_paused() {
                    continue;
                }
                let look = async {
                    let mut client = self.client(number).await?;
                    client.get("\0", Some(GetOptions::new().with_count_only())).await?;
                    Ok::<_, etcd_client::Error>(client)
                };
                if let Ok(Ok(client)) = timeout(self.patience(), look).await {
                    return client;
                }
            }
            assert!(Instant::now() < deadline, "no member of the cluster answers");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until every member that runs answers a linearizable read.
    pub async fn wait(&mut self) {
        let deadline = Instant::now() + START;
        for number in 0..self.members.len() {
            if !self.members[number].is_running() {
                continue;
            }
            loop {
                if let Some(ended) = self.members[number].ended() {
                    panic!("{ended}");
                }
                if self.answers(number).await {
                    break;
                }
                assert!(Instant::now() < deadline, "{} does not answer", self.members[number].name);
                sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// How long one look may take. Servers that check passwords may be busy with those of others.
    fn patience(&self) -> Duration {
        Duration::from_secs(if self.access.users { 20 } else { 2 })
    }

    /// Whether a member answers a linearizable read.
    pub async fn answers(&self, member: usize) -> bool {
        let look = async {
            let mut client = self.client(member).await?;
            client.get("\0", Some(GetOptions::new().with_count_only())).await
        };
        matches!(timeout(self.patience(), look).await, Ok(Ok(_)))
    }

    /// The ids of members, by their places; asked of each itself.
    pub async fn id(&self, member: usize) -> Option<u64> {
        let look = async {
            let status = self.client(member).await?.status().await?;
            Ok::<_, etcd_client::Error>(status.header().map(|header| header.member_id()))
        };
        timeout(self.patience(), look).await.ok()?.ok()?
    }

    /// The place of the leader.
    pub async fn leader(&self) -> usize {
        let deadline = Instant::now() + START;
        loop {
            for member in 0..self.members.len() {
                if !self.members[member].is_running() || self.members[member].is_paused() {
                    continue;
                }
                let look = async {
                    let status = self.client(member).await?.status().await?;
                    let own = status.header().map(|header| header.member_id());
                    Ok::<_, etcd_client::Error>(own == Some(status.leader()))
                };
                if let Ok(Ok(true)) = timeout(self.patience(), look).await {
                    return member;
                }
            }
            assert!(Instant::now() < deadline, "the cluster has no leader");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// No other member hears it or is heard by it; clients reach it.
    pub async fn isolate(&self, member: usize) {
        let id = self.id(member).await.expect("the member tells its id");
        for (number, other) in self.members.iter().enumerate() {
            match number == member {
                true => other.peers.set(Weather::silent()),
                false => other.peers.set(Weather { without: BTreeSet::from([id]), ..Weather::default() }),
            }
        }
    }

    /// Everything that can be undone is: members run, and hear each other.
    pub async fn heal(&mut self) {
        for member in &mut self.members {
            member.peers.heal();
            member.resume();
            member.start();
        }
        self.wait().await;
    }

    /// The data of all members at one moment: they stand still meanwhile.
    pub fn save(&mut self) -> Saved {
        self.members.iter_mut().for_each(Member::pause);
        let saved = self.members.iter().map(|member| {
            let folder = tempfile::Builder::new().prefix("etcd-rules-saved-").tempdir().expect("a folder");
            member.save(folder.path());
            folder
        });
        let saved = Saved(saved.collect());
        self.members.iter_mut().for_each(Member::resume);
        saved
    }

    /// All members are killed and start on older data: the same ids, lower revisions.
    pub async fn restore(&mut self, saved: &Saved) {
        self.members.iter_mut().for_each(Member::kill);
        for (member, folder) in self.members.iter_mut().zip(&saved.0) {
            member.restore(folder.path());
            member.start();
        }
        self.wait().await;
    }

    /// All members are made anew from the database that one of them had, with revisions that are higher by `bump`, as
    /// operators do with `etcdutl snapshot restore`.
    pub async fn restore_bumped(&mut self, saved: &Saved, bump: u64) {
        let program = crate::server::restore_program();
        let database = saved.0[0].path().join("member/snap/db");
        let initial = self.initial_cluster();
        // None of the old ones may talk to a new one: they have the same ids.
        self.members.iter_mut().for_each(Member::kill);
        for member in &self.members {
            member.forget_data();
            let made = std::process::Command::new(&program)
                .arg(&database)
                .arg(&member.name)
                .arg(member.data_dir())
                .args([&initial, &self.token, &member.peer_url(), &bump.to_string()])
                .output()
                .unwrap_or_else(|error| {
                    let program = program.display();
                    panic!("{program}: {error}; build it with `make target/etcd-restore36` (needs Go)")
                });
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        }
        self.members.iter_mut().for_each(Member::start);
        self.wait().await;
    }

    /// A member is taken out, with its data, and another one comes in its place, at other addresses. Returns the ids.
    pub async fn replace(&mut self, place: usize) -> (u64, u64) {
        let ids = self.exchange(place, false).await;
        self.wait().await;
        ids
    }

    /// A member is taken out, and one that only learns comes in its place.
    pub async fn replace_by_learner(&mut self, place: usize) {
        let (_, id) = self.exchange(place, true).await;
        let deadline = Instant::now() + START;
        while self.id(place).await != Some(id) {
            assert!(Instant::now() < deadline, "the learner does not answer");
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn exchange(&mut self, place: usize, learns: bool) -> (u64, u64) {
        let old = self.id(place).await.expect("the member tells its id");
        self.members[place].kill();
        let mut client = self.any_client().await;
        client.member_remove(old).await.expect("the cluster removes a member");
        self.added += 1;
        let name = format!("{}-new{}", self.token, self.added);
        let flags = self.members[place].flags.clone();
        let new = Member::new(name, self.server.clone(), self.access.has_tls(), flags);
        let options = learns.then(|| etcd_client::MemberAddOptions::new().with_is_learner());
        let deadline = Instant::now() + START;
        let id = loop {
            // A cluster that has just lost a member may refuse to take another one for a while.
            match client.member_add([new.peer_url()], options.clone()).await {
                Ok(added) => break added.member().expect("the new member").id(),
                Err(error) => assert!(Instant::now() < deadline, "the cluster adds no member: {error}"),
            }
            sleep(Duration::from_millis(200)).await;
            client = self.any_client().await;
        };
        self.members[place] = new;
        let initial = self.initial_cluster();
        self.members[place].join = (initial, self.token.clone(), "existing");
        self.members[place].start();
        (old, id)
    }

    /// A learner votes from now on.
    pub async fn promote(&mut self, place: usize) {
        let id = self.id(place).await.expect("the learner tells its id");
        let deadline = Instant::now() + START;
        // It is promoted when it has learned enough.
        while let Err(error) = self.any_client().await.member_promote(id).await {
            assert!(Instant::now() < deadline, "the learner is not promoted: {error}");
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// A cluster of one member, without relation to this one but for its data, if that is given: then it is a clone.
    pub async fn lone(&mut self, clone_of: Option<usize>) -> Member {
        // A clone has the id of a member of the cluster, and asks that one's peers for messages until it has applied
        // that it is alone. If one of them speaks of an entry that the clone has cut off, etcd ends.
        const TRIES: usize = 5;
        let mut ended = String::new();
        for _ in 0..TRIES {
            match self.try_lone(clone_of).await {
                Ok(lone) => return lone,
                Err(reason) => ended = reason,
            }
        }
        panic!("no other cluster in {TRIES} attempts: {ended}");
    }

    async fn try_lone(&mut self, clone_of: Option<usize>) -> Result<Member, String> {
        self.added += 1;
        let mut flags = self.access.flags();
        let name = match clone_of {
            Some(place) => self.members[place].name.clone(),
            None => format!("{}-foreign{}", self.token, self.added),
        };
        if clone_of.is_some() {
            flags.push("--force-new-cluster".to_owned());
        }
        let mut lone = Member::new(name, self.server.clone(), self.access.has_tls(), flags);
        lone.join = (format!("{}={}", lone.name, lone.peer_url()), lone.name.clone(), "new");
        if let Some(place) = clone_of {
            self.members[place].pause();
            lone.restore(&self.members[place].data_dir());
            self.members[place].resume();
        }
        lone.start();
        let deadline = Instant::now() + START;
        let address = lone.address().to_string();
        loop {
            let look = async {
                let mut client = self.access.admin(&address).await?;
                client.get("\0", Some(GetOptions::new().with_count_only())).await
            };
            if let Ok(Ok(_)) = timeout(self.patience(), look).await {
                return Ok(lone);
            }
            if let Some(ended) = lone.ended() {
                return Err(ended);
            }
            assert!(Instant::now() < deadline, "the other cluster does not answer");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Options of a client that notices quickly what has gone.
pub fn impatient() -> ConnectOptions {
    let second = Duration::from_secs(1);
    ConnectOptions::new()
        .with_connect_timeout(second)
        .with_keep_alive(second, 3 * second)
        .with_keep_alive_while_idle(true)
}

impl Cluster {
    /// From now on there is `engine`, who may read and write everything that the work needs, and `root`.
    pub async fn enable_users(&mut self) {
        use crate::access::PASSWORD;
        use etcd_client::Permission;
        let mut client = self.any_client().await;
        for user in ["root", "engine"] {
            client.user_add(user, PASSWORD, None).await.expect("etcd adds a user");
            client.role_add(user).await.expect("etcd adds a role");
            client.user_grant_role(user, user).await.expect("etcd grants a role");
        }
        for prefix in ["/todo/", "/done/", crate::world::NAMESPACE] {
            let permission = Permission::read_write(prefix).with_prefix();
            client.role_grant_permission("engine", permission).await.expect("etcd grants a permission");
        }
        // For the key alone.
        let permission = Permission::read(crate::jobs::NEVER);
        client.role_grant_permission("engine", permission).await.expect("etcd grants a permission");
        client.auth_enable().await.expect("etcd enables authentication");
        self.access.users = true;
    }
}
