//! Who watches from the outside: a client of its own, directly at the members, that records every revision.

use crate::access::Access;
use crate::history::{Change, Epoch, KEPT, Seen, sum};
use crate::jobs;
use crate::moment::now;
use etcd_client::{Client, EventType, GetOptions, KeyValue, WatchOptions};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

/// Where clients reach members directly; it changes with the members.
pub type Addresses = Arc<Mutex<Vec<SocketAddr>>>;

const PATIENCE: Duration = Duration::from_secs(2);
/// A key that the observer itself puts, to know that it has seen everything before.
const MARK: &str = "/observer/mark";

pub struct Observer {
    addresses: Addresses,
    access: Access,
    record: Arc<Mutex<Record>>,
    task: AbortHandle,
}

#[derive(Default)]
struct Record {
    epochs: Vec<Epoch>,
    /// The jobs that are not done.
    open: BTreeSet<Vec<u8>>,
    /// Up to here everything was seen.
    position: i64,
}

impl Observer {
    /// Takes a snapshot, and watches from then on.
    pub async fn start(addresses: Addresses, access: Access) -> Self {
        let record = Arc::new(Mutex::new(Record::default()));
        let task = tokio::spawn(watch(addresses.clone(), access.clone(), record.clone())).abort_handle();
        let observer = Self { addresses, access, record, task };
        while observer.with(|record| record.epochs.is_empty()) {
            sleep(Duration::from_millis(10)).await;
        }
        observer
    }

    fn with<T>(&self, look: impl FnOnce(&mut Record) -> T) -> T {
        look(&mut self.record.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    /// Jobs that are not done, at present.
    pub fn open(&self) -> BTreeSet<Vec<u8>> {
        self.with(|record| record.open.clone())
    }

    /// The last revision that it has seen.
    pub fn position(&self) -> i64 {
        self.with(|record| record.position)
    }

    /// The cluster that it watches.
    pub fn cluster(&self) -> u64 {
        self.with(|record| record.epochs.last().map_or(0, |epoch| epoch.cluster))
    }

    /// Waits until it has seen everything up to now.
    pub async fn catch_up(&self) {
        let put = async {
            loop {
                for address in addresses(&self.addresses) {
                    let put = async {
                        let mut client = self.access.admin(&address.to_string()).await?;
                        client.put(MARK, "", None).await
                    };
                    if let Ok(Ok(answer)) = timeout(PATIENCE, put).await {
                        return answer.header().map_or(0, |header| header.revision());
                    }
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        let limit = Duration::from_secs(60);
        let caught_up = timeout(limit, async {
            let revision = put.await;
            while self.position() < revision {
                sleep(Duration::from_millis(10)).await;
            }
        });
        caught_up.await.expect("the observer sees what it wrote");
    }

    /// The store is about to be another one: what was seen so far is an epoch of its own. Watches again from
    /// [`resume`](Self::resume) on.
    pub fn suspend(&mut self) {
        self.task.abort();
        self.with(|record| {
            if let Some(epoch) = record.epochs.last_mut() {
                epoch.ended = Some(now());
            }
        });
    }

    /// The other store answers: takes a snapshot of it, and watches.
    pub async fn resume(&mut self) {
        let epochs = self.with(|record| record.epochs.len());
        self.task = tokio::spawn(watch(self.addresses.clone(), self.access.clone(), self.record.clone()))
            .abort_handle();
        while self.with(|record| record.epochs.len()) == epochs {
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Everything that was seen.
    pub fn finish(self) -> Vec<Epoch> {
        self.task.abort();
        self.with(|record| std::mem::take(&mut record.epochs))
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn addresses(addresses: &Addresses) -> Vec<SocketAddr> {
    addresses.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
}

/// A snapshot, and then the changes, whatever members come and go.
async fn watch(members: Addresses, access: Access, record: Arc<Mutex<Record>>) {
    let mut position = None;
    loop {
        for address in addresses(&members) {
            let address = address.to_string();
            let Ok(Ok(mut client)) = timeout(PATIENCE, access.admin(&address)).await else { continue };
            let from = match position {
                Some(position) => position,
                None => match timeout(PATIENCE * 10, snapshot(&mut client, &record)).await {
                    Ok(Ok(revision)) => revision,
                    // The next member may answer.
                    Ok(Err(_)) | Err(_) => continue,
                },
            };
            position = Some(from);
            // However it ends, the next member goes on from there.
            let _ = follow(&mut client, &record, &mut position).await;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

async fn snapshot(client: &mut Client, record: &Mutex<Record>) -> Result<i64, etcd_client::Error> {
    let everything = GetOptions::new().with_all_keys();
    let answer = client.get("", Some(everything)).await?;
    let (cluster, revision) =
        answer.header().map_or((0, 0), |header| (header.cluster_id(), header.revision()));
    let keys = answer.kvs().iter().map(|kv| (kv.key().to_vec(), seen(kv))).collect();
    let epoch = Epoch { cluster, began: now(), ended: None, revision, snapshot: keys, changes: Vec::new() };
    let mut record = record.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    record.open = epoch.snapshot.keys().filter(|key| is_todo(key)).cloned().collect();
    record.position = revision;
    record.epochs.push(epoch);
    Ok(revision)
}

fn is_todo(key: &[u8]) -> bool {
    matches!(jobs::parse(key), Some(("todo", ..)))
}

fn seen(kv: &KeyValue) -> Seen {
    let value = kv.value();
    Seen { value: value[..value.len().min(KEPT)].to_vec(), sum: sum(value), lease: kv.lease() }
}

async fn follow(
    client: &mut Client,
    record: &Mutex<Record>,
    position: &mut Option<i64>,
) -> Result<(), etcd_client::Error> {
    let start = position.unwrap_or_default() + 1;
    let options = WatchOptions::new().with_all_keys().with_start_revision(start);
    let Ok(opened) = timeout(PATIENCE, client.watch("", Some(options))).await else { return Ok(()) };
    let mut stream = opened?;
    let mut heard = Instant::now();
    loop {
        match timeout(Duration::from_millis(500), stream.message()).await {
            // It is asked for a sign of life, and left if none comes.
            Err(_) if heard.elapsed() > PATIENCE => return Ok(()),
            Err(_) => stream.request_progress().await?,
            Ok(message) => {
                let Some(message) = message? else { return Ok(()) };
                if message.canceled() {
                    return Ok(());
                }
                heard = Instant::now();
                let mut record = record.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                for event in message.events() {
                    let Some(kv) = event.kv() else { continue };
                    let is_put = event.event_type() == EventType::Put;
                    let (revision, key) = (kv.mod_revision(), kv.key().to_vec());
                    if is_todo(&key) {
                        match is_put {
                            true => record.open.insert(key.clone()),
                            false => record.open.remove(&key),
                        };
                    }
                    let change = Change { at: now(), revision, key, seen: is_put.then(|| seen(kv)) };
                    record.position = revision;
                    *position = Some(revision);
                    record.epochs.last_mut().expect("a snapshot comes first").changes.push(change);
                }
            }
        }
    }
}
