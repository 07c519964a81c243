//! Locks, compared with a real etcd.

use crate::both::{Both, Dice, seeds, shown};
use crate::kv::grant;
use crate::support::eventually;
use etcd_client::{AlarmAction, AlarmType, Client, Error, GetOptions, LockOptions, LockResponse};
use etcd_rules::embedded::{EmbeddedEtcd, Fault, RequestKind, RpcError};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

const OPERATIONS: u64 = 200;
const LEASES: [i64; 5] = [-5, 1, 10, 11, i64::MAX];
/// None is a prefix of another and a `/`: that lock would wait for the other, in etcd too.
const NAMES: [&str; 4] = ["", "a", "ab", "z/"];
const SECOND: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(60);

async fn lock(client: Client, name: &str, lease: i64) -> Result<LockResponse, Error> {
    client.lock_client().lock(name, Some(LockOptions::new().with_lease(lease))).await
}

fn key_of(name: &str, lease: i64) -> String {
    let sign = if lease < 0 { "-" } else { "" };
    format!("{name}/{sign}{:x}", lease.unsigned_abs())
}

async fn exists(client: &Client, key: &str) -> bool {
    client.kv_client().get(key, None).await.expect("get").count() == 1
}

/// One client that waits for a lock, at each of the two servers.
struct Waiter {
    lease: i64,
    /// At the real one, at the embedded one.
    asked: [JoinHandle<Result<LockResponse, Error>>; 2],
}

impl Waiter {
    async fn ask(both: &Both, name: &'static str, lease: i64) -> Self {
        let asked = [&both.real, &both.embedded].map(|c| tokio::spawn(lock(c.clone(), name, lease)));
        for client in [&both.real, &both.embedded] {
            eventually(SOON, "it has a place", async || exists(client, &key_of(name, lease)).await).await;
        }
        Self { lease, asked }
    }

    fn got_nothing(&self) -> bool {
        self.asked.iter().all(|asked| !asked.is_finished())
    }

    /// Its answers, which have to come now.
    async fn holds(self, both: &Both) {
        let mut answers = Vec::new();
        for asked in self.asked {
            answers.push(shown(&timeout(SOON, asked).await.expect("in time").expect("no panic")));
        }
        assert_eq!(answers[1], answers[0], "{}", both.context());
    }
}

/// Leases that take, wait for, give up and release locks. `queues` knows who has to hold which.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_are_given_to_whom_etcd_gives_them() {
    for seed in seeds() {
        let mut both = Both::start(seed).await;
        let mut dice = Dice(seed);
        for id in LEASES {
            grant(&mut both, id, 600).await;
        }
        let mut holders: BTreeMap<&str, i64> = BTreeMap::new();
        let mut queues: BTreeMap<&str, VecDeque<Waiter>> = BTreeMap::new();
        for _ in 0..OPERATIONS {
            let (name, lease) = (dice.one(&NAMES), dice.one(&LEASES));
            let queue = queues.entry(name).or_default();
            let holder = holders.get(name).copied();
            match dice.below(20) {
                0..10 => match holder {
                    Some(holder) if holder != lease => {
                        if queue.iter().all(|waiter| waiter.lease != lease) {
                            queue.push_back(Waiter::ask(&both, name, lease).await);
                        }
                    }
                    // Free, or held by the same lease, which gets the same answer again.
                    _ => {
                        both.same(format!("lock {name:?} by {lease}"), async |client| {
                            lock(client, name, lease).await
                        })
                        .await;
                        holders.insert(name, lease);
                    }
                },
                10..16 => {
                    // The holder's key, or one that nobody has.
                    let key = holder.map_or("nobody's".to_owned(), |holder| key_of(name, holder));
                    both.same(format!("unlock {key}"), async |mut client| client.unlock(key.as_str()).await)
                        .await;
                    holders.remove(name);
                    if let Some(next) = queue.pop_front() {
                        holders.insert(name, next.lease);
                        next.holds(&both).await;
                    }
                }
                16..18 => {
                    if let Some(waiter) = queue.pop_back() {
                        waiter.asked.iter().for_each(JoinHandle::abort);
                        for client in [&both.real, &both.embedded] {
                            let key = key_of(name, waiter.lease);
                            let gone = async || !exists(client, &key).await;
                            eventually(SOON, "its place is given up", gone).await;
                        }
                    }
                }
                18 => {
                    both.same(format!("lock {name:?} by a lease that is none"), async |client| {
                        lock(client, name, 99).await
                    })
                    .await;
                }
                _ => {
                    both.same("unlock nothing".to_owned(), async |mut client| client.unlock("").await).await;
                }
            }
            assert!(queues.values().flatten().all(Waiter::got_nothing), "{}", both.context());
        }
        let everything = GetOptions::new().with_all_keys();
        both.same("all keys".to_owned(), async |mut client| client.get("", Some(everything.clone())).await)
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_lease_gives_its_lock_away_and_a_place_in_the_queue_too() {
    let mut both = Both::start(0).await;
    for id in [1, 2, 3] {
        grant(&mut both, id, 600).await;
    }
    both.same("lock by 1".to_owned(), async |client| lock(client, "n", 1).await).await;
    let second = Waiter::ask(&both, "n", 2).await;
    let third = Waiter::ask(&both, "n", 3).await;
    both.same("revoke 2".to_owned(), async |mut client| client.lease_revoke(2).await).await;
    sleep(SECOND / 2).await;
    assert!(second.got_nothing() && third.got_nothing());
    both.same("revoke 1".to_owned(), async |mut client| client.lease_revoke(1).await).await;
    // As etcd 3.4 has it, the second is not told that its place has gone.
    second.holds(&both).await;
    third.holds(&both).await;
}

/// Without a lease, etcd grants one of 60 s. Its id is the server's choice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_lease_one_is_granted() {
    let both = Both::start(0).await;
    for mut client in [both.real.clone(), both.embedded.clone()] {
        let key = lock(client.clone(), "n", 0).await.expect("the lock").key().to_vec();
        let leases = client.leases().await.expect("leases");
        let id = leases.leases()[0].id();
        assert_eq!(String::from_utf8(key).expect("text"), key_of("n", id));
        assert_eq!(client.lease_time_to_live(id, None).await.expect("a lease").granted_ttl(), 60);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_space_there_is_no_new_lock() {
    let mut both = Both::start(0).await;
    for id in [1, 2] {
        grant(&mut both, id, 600).await;
    }
    both.same("lock by 1".to_owned(), async |client| lock(client, "n", 1).await).await;
    for client in [&mut both.real, &mut both.embedded] {
        client.alarm(AlarmAction::Activate, AlarmType::Nospace, None).await.expect("alarm");
    }
    for (name, lease) in [("n", 1), ("n", 2), ("m", 2), ("m", 0)] {
        both.same(format!("lock {name} by {lease}"), async |client| lock(client, name, lease).await).await;
    }
    both.same("unlock".to_owned(), async |mut client| client.unlock("n/1").await).await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_lives_as_long_as_its_client_waits() {
    let etcd = EmbeddedEtcd::in_process();
    let client = etcd.client().await.expect("a client");
    for (id, ttl) in [(1, 100), (2, 3)] {
        let options = etcd_client::LeaseGrantOptions::new().with_id(id);
        client.lease_client().grant(ttl, Some(options)).await.expect("a lease");
    }
    lock(client.clone(), "n", 1).await.expect("the lock");
    let start = Instant::now();
    lock(client.clone(), "n", 2).await.expect("the lock, when the other's lease is over");
    assert_eq!(start.elapsed().as_secs(), 100);
    sleep(4 * SECOND).await;
    assert!(!exists(&client, "n/2").await, "nobody renews it any more");
}

#[tokio::test(start_paused = true)]
async fn faults_hit_locks_before_and_after_their_effect() {
    let etcd = EmbeddedEtcd::in_process();
    let client = etcd.client().await.expect("a client");
    let options = etcd_client::LeaseGrantOptions::new().with_id(1);
    client.lease_client().grant(600, Some(options)).await.expect("a lease");
    etcd.faults().inject(Fault::on(RequestKind::Lock).fail(RpcError::STOPPED));
    assert_eq!(shown(&lock(client.clone(), "n", 1).await), "Unavailable: etcdserver: server stopped");
    assert!(!exists(&client, "n/1").await);
    etcd.faults().inject(Fault::on(RequestKind::Lock).fail_after(RpcError::STOPPED));
    assert_eq!(shown(&lock(client.clone(), "n", 1).await), "Unavailable: etcdserver: server stopped");
    assert!(exists(&client, "n/1").await);
    etcd.faults().inject(Fault::on(RequestKind::Unlock).lose_answer());
    assert!(timeout(SECOND, client.lock_client().unlock("n/1")).await.is_err());
    assert!(!exists(&client, "n/1").await);
}

/// Who waited before a restart has no connection after it; its place stays until its lease is over.
#[tokio::test(start_paused = true)]
async fn a_restart_keeps_the_places_of_those_who_waited() {
    let etcd = EmbeddedEtcd::in_process();
    let client = etcd.client().await.expect("a client");
    for id in [1, 2, 3] {
        let options = etcd_client::LeaseGrantOptions::new().with_id(id);
        client.lease_client().grant(600, Some(options)).await.expect("a lease");
    }
    lock(client.clone(), "n", 1).await.expect("the lock");
    let mut waiting = Vec::new();
    for id in [2, 3] {
        let ask = tokio::spawn(lock(etcd.client().await.expect("a client"), "n", id));
        eventually(SOON, "it has a place", async || exists(&client, &key_of("n", id)).await).await;
        waiting.push(ask);
    }
    etcd.faults().restart();
    for waiter in waiting {
        assert!(waiter.await.expect("no panic").is_err());
    }
    // The first request after a restart may still meet the old connection.
    let _ = client.kv_client().get("n", None).await;
    assert!(exists(&client, "n/2").await && exists(&client, "n/3").await);
}
