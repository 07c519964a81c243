//! Watch streams over random changes, compared with a real etcd.

use super::both::{Both, Dice, anonymous, seeds};
use super::kv::{KEYS, Maker, compact, grant, one_operation};
use etcd_client::proto::{PbEvent, PbWatchResponse};
use etcd_client::{Client, WatchFilterType, WatchOptions, WatchRequestSender, WatchResponseStream};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

const ROUNDS: u64 = 40;
const OPERATIONS: u64 = 25;
/// etcd brings watches from the past up to date every 100 ms.
const CATCH_UP: Duration = Duration::from_millis(200);
const SOON: Duration = Duration::from_secs(60);

/// A watch stream, read by a task of its own.
struct Stream {
    sender: WatchRequestSender,
    responses: mpsc::Receiver<PbWatchResponse>,
    seen: Vec<PbWatchResponse>,
}

impl Stream {
    async fn open(client: &Client, key: &str, options: WatchOptions) -> Self {
        let opened = client.watch_client().watch(key, Some(options)).await.expect("a watch stream");
        let (sender, stream) = opened.split();
        let (told, responses) = mpsc::channel(10_000);
        tokio::spawn(read(stream, told));
        let mut this = Self { sender, responses, seen: Vec::new() };
        // Before that it might miss what comes next.
        assert!(this.until(|seen| !seen.is_empty()).await, "the watch is created");
        this
    }

    /// Takes responses until something holds of all that were seen. False if it does not, in time.
    async fn until(&mut self, enough: impl Fn(&[PbWatchResponse]) -> bool) -> bool {
        let taking = async {
            while !enough(&self.seen) {
                let mut response = self.responses.recv().await.expect("the stream goes on");
                anonymous(&mut response.header);
                self.seen.push(response);
            }
        };
        timeout(SOON, taking).await.is_ok()
    }

    /// Takes what is there already.
    fn rest(&mut self) {
        while let Ok(mut response) = self.responses.try_recv() {
            anonymous(&mut response.header);
            self.seen.push(response);
        }
    }
}

async fn read(mut stream: WatchResponseStream, told: mpsc::Sender<PbWatchResponse>) {
    while let Ok(Some(response)) = stream.message().await {
        if told.send(response.0).await.is_err() {
            return;
        }
    }
}

/// What the responses say about each watch. Where a watch began in the past, etcd bundles events as it likes.
#[derive(Debug, Default, PartialEq)]
struct Story {
    control: Vec<PbWatchResponse>,
    /// With the revision in the header, for a watch that was told everything as it happened.
    events: Vec<(Option<i64>, PbEvent)>,
}

fn stories(seen: &[PbWatchResponse], from_past: &[i64]) -> BTreeMap<i64, Story> {
    let mut stories: BTreeMap<i64, Story> = BTreeMap::new();
    for response in seen {
        let story = stories.entry(response.watch_id).or_default();
        if response.events.is_empty() {
            story.control.push(response.clone());
        }
        let revision = response.header.map(|header| header.revision);
        let revision = revision.filter(|_| !from_past.contains(&response.watch_id));
        story.events.extend(response.events.iter().map(|event| (revision, event.clone())));
    }
    stories
}

fn event_count(seen: &[PbWatchResponse]) -> usize {
    seen.iter().map(|response| response.events.len()).sum()
}

fn control_count(seen: &[PbWatchResponse]) -> usize {
    seen.iter().filter(|response| response.events.is_empty()).count()
}

fn random_watch(dice: &mut Dice, start: i64) -> (String, WatchOptions) {
    let key = dice.one(&["a", "a/", "a/1", "b", "b/1", "", "zz"]).to_owned();
    let mut options = WatchOptions::new().with_start_revision(start);
    options = match dice.below(6) {
        0..3 => options.with_prefix(),
        3 => options.with_from_key(),
        4 => options.with_range(dice.one(&["a/3", "b", "~"])),
        _ => options,
    };
    options = match dice.below(6) {
        0 => options.with_filters([WatchFilterType::NoPut]),
        1 => options.with_filters([WatchFilterType::NoDelete]),
        2 => options.with_filters([WatchFilterType::NoPut, WatchFilterType::NoDelete]),
        _ => options,
    };
    if dice.chance(50) {
        options = options.with_prev_key();
    }
    if dice.chance(20) {
        options = options.with_watch_id(dice.below(4) as i64 + 50);
    }
    if dice.chance(20) {
        options = options.with_fragment();
    }
    (key, options)
}

/// Watches on one stream, created between random changes; compacted only while everything is quiet, because
/// etcd's own answers depend on its timing otherwise.
async fn compare_streams(seed: u64) {
    let mut both = Both::start(seed).await;
    let mut maker = Maker { dice: Dice(seed), revision: 1, from_key: false, ends: &KEYS };
    grant(&mut both, 11, 600).await;
    grant(&mut both, 12, 600).await;
    let first = || WatchOptions::new().with_all_keys();
    let mut real = Stream::open(&both.real, "", first()).await;
    let mut embedded = Stream::open(&both.embedded, "", first()).await;
    let mut from_past = Vec::new();
    let mut compacted = 0;
    // By request.
    let mut cancelled = BTreeSet::new();

    for round in 0..ROUNDS {
        // Any from before this round, so that etcd has brought it up to date, but not the first, which tells
        // when a round has ended; 77 never exists.
        let ids = embedded.seen.iter().map(|r| r.watch_id).filter(|&id| id > 0);
        let cancellable: Vec<i64> = ids.chain([77]).collect();
        let mut created_now = Vec::new();
        // Control messages first, so that ids are known and nothing is created between two changes.
        for _ in 0..=maker.dice.below(2) {
            let start = match maker.dice.below(10) {
                0 | 1 => maker.revision + 1 + maker.dice.below(10) as i64,
                // Exactly the compacted revision is where versions of etcd differ.
                2..6 => match maker.revision - maker.dice.below(60) as i64 {
                    start if start == compacted => start + 1,
                    start => start.max(1),
                },
                _ => 0,
            };
            let (key, options) = random_watch(&mut maker.dice, start);
            for stream in [&mut real, &mut embedded] {
                let created = |seen: &[PbWatchResponse]| seen.iter().filter(|r| r.created).count();
                stream.rest();
                let before = created(&stream.seen);
                stream.sender.watch(key.as_str(), Some(options.clone())).await.expect("the stream is open");
                assert!(stream.until(|seen| created(seen) > before).await, "{}", both.context());
            }
            let id = embedded.seen.iter().rev().find(|r| r.created).expect("created").watch_id;
            created_now.push(id);
            cancelled.remove(&id);
            if start > 0 && start <= maker.revision && id != -1 {
                from_past.push(id);
            }
        }
        if maker.dice.chance(40) {
            let id = maker.dice.one(&cancellable);
            let id = if created_now.contains(&id) { 77 } else { id };
            // Also if a compaction has ended it before.
            let is_answered = id != 77 && cancelled.insert(id);
            for stream in [&mut real, &mut embedded] {
                let ends =
                    |seen: &[PbWatchResponse]| seen.iter().filter(|r| r.watch_id == id && r.canceled).count();
                stream.rest();
                let before = ends(&stream.seen);
                stream.sender.cancel(id).await.expect("the stream is open");
                // It must not see what happens from now on.
                assert!(!is_answered || stream.until(|seen| ends(seen) > before).await, "{}", both.context());
            }
        }
        for _ in 0..OPERATIONS {
            one_operation(&mut both, &mut maker).await;
        }
        // Something to wait for: the first watch sees it, and what was sent before on the same stream.
        both.same(format!("end of round {round}"), async |mut client| {
            client.put("end", format!("{round}"), None).await
        })
        .await;
        maker.revision += 1;
        let ended = |seen: &[PbWatchResponse]| seen.iter().flat_map(|r| &r.events).any(|e| is_end(e, round));
        assert!(embedded.until(ended).await, "{}", both.context());
        sleep(Duration::from_millis(5)).await;
        embedded.rest();
        let (events, control) = (event_count(&embedded.seen), control_count(&embedded.seen));
        // If not in time, the comparison shows what is missing.
        real.until(|seen| event_count(seen) >= events && control_count(seen) >= control).await;
        assert_eq!(
            stories(&embedded.seen, &from_past),
            stories(&real.seen, &from_past),
            "{}",
            both.context()
        );
        if maker.dice.chance(40) {
            // Watches from the past without events of theirs have told nothing to wait for.
            sleep(CATCH_UP).await;
            let revision = maker.revision - maker.dice.below(20) as i64;
            compact(&mut both, revision).await;
            compacted = compacted.max(revision);
        }
    }
    sleep(CATCH_UP).await;
    real.rest();
    embedded.rest();
    assert_eq!(stories(&embedded.seen, &from_past), stories(&real.seen, &from_past), "{}", both.context());
}

fn is_end(event: &PbEvent, round: u64) -> bool {
    let kv = event.kv.as_ref().expect("an event has a key");
    kv.key == b"end" && kv.value == format!("{round}").into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_of_one_stream_tell_what_etcd_tells() {
    for seed in seeds() {
        compare_streams(seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_is_told_on_request() {
    let mut both = Both::start(0).await;
    let options = || WatchOptions::new().with_prefix();
    let mut real = Stream::open(&both.real, "a", options()).await;
    let mut embedded = Stream::open(&both.embedded, "a", options()).await;
    both.same("put".to_owned(), async |mut client| client.put("elsewhere", "", None).await).await;
    both.same("put".to_owned(), async |mut client| client.put("a", "", None).await).await;
    both.same("put".to_owned(), async |mut client| client.put("elsewhere", "", None).await).await;
    for stream in [&mut real, &mut embedded] {
        assert!(stream.until(|seen| event_count(seen) == 1).await);
        stream.sender.request_progress().await.expect("the stream is open");
        assert!(stream.until(|seen| seen.len() == 3).await);
    }
    assert_eq!(embedded.seen, real.seen);
    let told = &embedded.seen[2];
    assert_eq!((told.watch_id, told.header.expect("a header").revision), (-1, 4));
}

/// A watch that catches up with more than fits in a response: where it is split is compared too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_responses_come_in_the_fragments_of_etcd() {
    let mut both = Both::start(0).await;
    for size in [900_000, 900_000, 400_000, 1_400_000, 10, 10, 700_000, 700_000, 700_000] {
        let value = vec![b'x'; size];
        both.same(format!("put {size}"), async |client| {
            client.kv_client().put("k", value.clone(), None).await
        })
        .await;
    }
    let mut told = Vec::new();
    for client in [&both.real, &both.embedded] {
        let options = WatchOptions::new().with_start_revision(1).with_fragment();
        let mut stream = Stream::open(client, "k", options).await;
        assert!(stream.until(|seen| event_count(seen) == 9).await, "all events");
        let parts = stream.seen.iter().filter(|response| !response.events.is_empty());
        told.push(parts.map(|part| (part.events.len(), part.fragment)).collect::<Vec<_>>());
    }
    assert_eq!(told[1], told[0]);
    assert!(told[0].len() > 2 && told[0].iter().any(|(_, fragment)| *fragment), "{told:?}");
}

/// A watch that reads nothing for long gets everything in the end, once and in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_gets_every_event_once_and_in_order() {
    let both = Both::start(0).await;
    let mut client = both.embedded.clone();
    let mut slow = client.watch("k", None).await.expect("a watch stream");
    // The watch may begin only after its stream is there.
    let created = timeout(SOON, slow.message()).await.expect("soon").expect("open").expect("an answer");
    assert!(created.created());
    let value = vec![b'x'; 10_000];
    for _ in 0..500 {
        client.put("k", value.clone(), None).await.expect("put");
    }
    let (_sender, mut stream) = slow.split();
    let mut versions = Vec::new();
    while versions.len() < 500 {
        let response = timeout(SOON, stream.message()).await.expect("soon").expect("open").expect("more");
        versions.extend(response.events().iter().map(|event| event.kv().expect("a key").version()));
    }
    assert_eq!(versions, (1..=500).collect::<Vec<i64>>());
}
