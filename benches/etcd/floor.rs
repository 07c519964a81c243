//! The bare client's side of each kind of work: the same etcd operations, batched in the same way, and
//! nothing else.

use crate::clock::{self, Summary};
use crate::load;
use crate::server::connect;
use crate::spec::{Lock, Outcome, Ready, Spec, Work};
use etcd_client::{
    Client, Compare, CompareOp, EventType, GetOptions, KvClient, Txn, TxnOp, TxnOpResponse, WatchOptions,
    WatchStream,
};
use futures_util::StreamExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Transactions in a request, and requests in flight. They are the engine's own numbers.
const BATCH: usize = 64;
const IN_FLIGHT: usize = 4;

/// The value of a lock. It is as long as the engine's.
const HOLDER: &str = r#"{"engine":"bench","nonce":12345678901234567890,"since":1700000000000}"#;

pub async fn run<E: Future<Output = ()>>(spec: Spec, ready: fn(Ready), end: fn() -> E) -> Outcome {
    let client = connect(&spec.endpoint).await;
    let times = Arc::new(Mutex::new(Vec::new()));
    let crawls = Arc::new(Mutex::new(Vec::new()));
    match spec.work {
        Work::Latency(options) => {
            let stream = watch(&client, "/jobs/").await;
            let lease = client.lease_client().grant(60, None).await.expect("a lease").id();
            tokio::spawn(latency(client, stream, lease, times.clone()));
            let mut reading = JoinSet::new();
            if let Some(interval) = options.crawl {
                // It has a connection of its own, as in an engine.
                let reader = connect(&spec.endpoint).await;
                reading.spawn(crawl(reader, Duration::from_millis(interval), crawls.clone()));
            }
            ready(Ready { seconds: 0.0, keys: 0 });
            end().await;
            reading.shutdown().await;
        }
        Work::Burst { lock, jobs, .. } => {
            let mut go = watch(&client, "/go").await;
            let lease = client.lease_client().grant(60, None).await.expect("a lease").id();
            let keys = jobs_to_do(&client).await;
            assert_eq!(keys.len(), jobs);
            ready(Ready { seconds: 0.0, keys: jobs });
            let switch = loop {
                let message = go.message().await.expect("a stream").expect("a message");
                if let Some(kv) = message.events().first().and_then(|event| event.kv()) {
                    break kv.mod_revision();
                }
            };
            burst(&client, keys, lock, lease, switch).await;
            end().await;
        }
        Work::Stream { lock } => {
            let stream = watch(&client, "/jobs/").await;
            let lease = client.lease_client().grant(60, None).await.expect("a lease").id();
            let mut lanes = stream_lanes(&client, stream, lock, lease);
            ready(Ready { seconds: 0.0, keys: 0 });
            end().await;
            lanes.shutdown().await;
        }
        Work::Lag => {
            let stream = watch(&client, "/load/").await;
            tokio::spawn(lag(stream, times.clone()));
            ready(Ready { seconds: 0.0, keys: 0 });
            end().await;
        }
        Work::Ready => {
            let begin = Instant::now();
            let keys = read(&client).await;
            ready(Ready { seconds: begin.elapsed().as_secs_f64(), keys });
            end().await;
        }
    }
    let times = std::mem::take(&mut *times.lock().expect("no panic"));
    let crawls = std::mem::take(&mut *crawls.lock().expect("no panic"));
    Outcome { latency: Summary::of(times), crawls, ..Outcome::default() }
}

/// Reads everything again and again.
async fn crawl(client: Client, interval: Duration, crawls: Arc<Mutex<Vec<f64>>>) {
    loop {
        sleep(interval).await;
        let begin = Instant::now();
        read(&client).await;
        crawls.lock().expect("no panic").push(begin.elapsed().as_secs_f64());
    }
}

async fn watch(client: &Client, prefix: &str) -> WatchStream {
    let mut watch = client.watch_client().max_decoding_message_size(usize::MAX >> 1);
    watch.watch(prefix, Some(WatchOptions::new().with_prefix())).await.expect("a watch")
}

/// Sends one transaction for each event, at once.
async fn latency(client: Client, mut stream: WatchStream, lease: i64, times: Arc<Mutex<Vec<u64>>>) {
    while let Ok(Some(response)) = stream.message().await {
        for event in response.events().iter().filter(|event| event.event_type() == EventType::Put) {
            let kv = event.kv().expect("a key");
            let key = kv.key_str().expect("text").to_owned();
            let start: u64 = kv.value_str().ok().and_then(|text| text.parse().ok()).unwrap_or(0);
            let (mut kv, times) = (client.kv_client(), times.clone());
            tokio::spawn(async move {
                let exists = Compare::create_revision(key.as_str(), CompareOp::Greater, 0);
                let answer = kv.txn(take(&key, vec![exists], lease)).await.expect("a lock");
                if start > 0 {
                    times.lock().expect("no panic").push(clock::now().saturating_sub(start));
                }
                let fence = answer.header().map_or(0, |header| header.revision());
                let _ = kv.txn(give_back(&key, fence, TxnOp::delete(key.as_str(), None))).await;
            });
        }
    }
}

fn lock_key(key: &str) -> String {
    format!("/locks{key}")
}

/// Lock and verify.
fn take(key: &str, verify: Vec<Compare>, lease: i64) -> Txn {
    let lock = lock_key(key);
    let mark = format!("/marks{key}");
    let mut compares = vec![
        Compare::create_revision(lock.as_str(), CompareOp::Equal, 0),
        Compare::mod_revision(mark, CompareOp::Equal, 0),
    ];
    compares.extend(verify);
    Txn::new()
        .when(compares)
        .and_then([TxnOp::put(lock.as_str(), HOLDER, load::leased(lease))])
        .or_else([TxnOp::get(lock.as_str(), None), TxnOp::get(key, None)])
}

/// Commit and unlock.
fn give_back(key: &str, fence: i64, effect: TxnOp) -> Txn {
    let lock = lock_key(key);
    Txn::new()
        .when([Compare::create_revision(lock.as_str(), CompareOp::Equal, fence)])
        .and_then([effect, TxnOp::delete(lock.as_str(), None)])
}

async fn jobs_to_do(client: &Client) -> Vec<(String, i64)> {
    let mut kv = client.kv_client().max_decoding_message_size(usize::MAX >> 1);
    let found = kv.get("/jobs/", Some(GetOptions::new().with_prefix())).await.expect("the jobs");
    found.kvs().iter().map(|kv| (kv.key_str().expect("text").to_owned(), kv.mod_revision())).collect()
}

async fn burst(client: &Client, jobs: Vec<(String, i64)>, lock: Lock, lease: i64, switch: i64) {
    let jobs = Arc::new(jobs);
    let next = Arc::new(AtomicUsize::new(0));
    let lanes = (0..IN_FLIGHT).map(|_| {
        let (mut kv, jobs, next) = (client.kv_client(), jobs.clone(), next.clone());
        tokio::spawn(async move {
            loop {
                let first = next.fetch_add(BATCH, Ordering::Relaxed);
                match jobs.get(first..jobs.len().min(first + BATCH)) {
                    None | Some([]) => return,
                    Some(mine) => fire(&mut kv, mine, lock, lease, Some(switch)).await,
                }
            }
        })
    });
    for lane in lanes.collect::<Vec<_>>() {
        lane.await.expect("no panic");
    }
}

/// Events that come while requests are in flight go with the next request.
fn stream_lanes(client: &Client, mut stream: WatchStream, lock: Lock, lease: i64) -> JoinSet<()> {
    let (came, queue) = tokio::sync::mpsc::channel(65_536);
    let queue = Arc::new(tokio::sync::Mutex::new(queue));
    let mut lanes = JoinSet::new();
    lanes.spawn(async move {
        while let Ok(Some(response)) = stream.message().await {
            for kv in response.events().iter().filter_map(|event| event.kv()) {
                if kv.value() == b"new" {
                    let job = (kv.key_str().expect("text").to_owned(), kv.mod_revision());
                    came.send(job).await.expect("the lanes");
                }
            }
        }
    });
    for _ in 0..IN_FLIGHT {
        let (mut kv, queue) = (client.kv_client(), queue.clone());
        lanes.spawn(async move {
            let mut mine = Vec::new();
            while queue.lock().await.recv_many(&mut mine, BATCH).await > 0 {
                fire(&mut kv, &mine, lock, lease, None).await;
                mine.clear();
            }
        });
    }
    lanes
}

/// Commits the effects of some jobs, in one request or two.
async fn fire(kv: &mut KvClient, jobs: &[(String, i64)], lock: Lock, lease: i64, switch: Option<i64>) {
    let effect = |key: &str| TxnOp::put(key, "done", None);
    let txns: Vec<TxnOp> = match lock {
        Lock::None => {
            let unchanged = |key: &str, revision| Compare::mod_revision(key, CompareOp::Equal, revision);
            let txn = |(key, revision): &(String, i64)| {
                let mut compares = vec![unchanged(key, *revision), unchanged(&format!("/marks{key}"), 0)];
                let mut otherwise = vec![TxnOp::get(key.as_str(), None)];
                if let Some(switch) = switch {
                    compares.push(unchanged("/go", switch));
                    otherwise.push(TxnOp::get("/go", None));
                }
                TxnOp::txn(Txn::new().when(compares).and_then([effect(key)]).or_else(otherwise))
            };
            jobs.iter().map(txn).collect()
        }
        Lock::Own => {
            let locks = jobs.iter().map(|(key, _)| {
                let mut verify = vec![Compare::value(key.as_str(), CompareOp::Equal, "new")];
                if switch.is_some() {
                    verify.push(Compare::create_revision("/go", CompareOp::Greater, 0));
                }
                TxnOp::txn(take(key, verify, lease))
            });
            let locks = Txn::new().and_then(locks.collect::<Vec<_>>());
            let answer = kv.txn(locks).await.expect("locks");
            let fence = answer.header().map_or(0, |header| header.revision());
            let won = |answer: TxnOpResponse| {
                assert!(matches!(answer, TxnOpResponse::Txn(txn) if txn.succeeded()));
            };
            answer.op_responses().into_iter().for_each(won);
            jobs.iter().map(|(key, _)| TxnOp::txn(give_back(key, fence, effect(key)))).collect()
        }
    };
    kv.txn(Txn::new().and_then(txns)).await.expect("commits");
}

async fn lag(mut stream: WatchStream, times: Arc<Mutex<Vec<u64>>>) {
    while let Ok(Some(response)) = stream.message().await {
        let now = clock::now();
        let mut times = times.lock().expect("no panic");
        for kv in response.events().iter().filter_map(|event| event.kv()) {
            if kv.key().ends_with(b"hot") {
                let start = kv.value_str().ok().and_then(|text| text.parse::<u64>().ok());
                times.push(now.saturating_sub(start.unwrap_or(0)));
            }
        }
    }
}

/// Reads everything below `/items/` at one revision, in 256 ranges, four at a time. The split points are
/// known.
async fn read(client: &Client) -> usize {
    const RANGES: usize = 256;
    let kv = || client.kv_client().max_decoding_message_size(usize::MAX >> 1);
    let count = GetOptions::new().with_prefix().with_count_only();
    let counted = kv().get("/items/", Some(count)).await.expect("a count");
    let all = counted.count() as usize;
    let revision = counted.header().map_or(0, |header| header.revision());
    let point = |range: usize| match range {
        RANGES => "/items0".to_owned(),
        range => load::item(all * range / RANGES).0,
    };
    let reads = (0..RANGES).map(|range| {
        let options = GetOptions::new().with_range(point(range + 1)).with_revision(revision);
        let (mut kv, start) = (kv(), point(range));
        async move { kv.get(start, Some(options)).await.expect("a range").kvs().len() }
    });
    let read = futures_util::stream::iter(reads).buffer_unordered(IN_FLIGHT);
    let keys = read.fold(0, |sum, keys| async move { sum + keys }).await;
    assert_eq!(keys, all);
    keys
}
