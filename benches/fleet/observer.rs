//! Sees by bare watches when jobs are done and when a member is gone.

use etcd_client::{Client, EventType, WatchOptions, WatchStream};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

type Times = Arc<Mutex<HashMap<String, Instant>>>;

/// Sees jobs below `/jobs/` that become `done`.
pub struct Observer {
    times: Times,
    done: watch::Receiver<usize>,
    watching: JoinHandle<()>,
}

async fn watch_prefix(client: &Client, prefix: &str) -> WatchStream {
    let mut client = client.watch_client().max_decoding_message_size(usize::MAX >> 1);
    client.watch(prefix, Some(WatchOptions::new().with_prefix())).await.expect("a watch")
}

impl Observer {
    pub async fn start(client: &Client) -> Self {
        let mut stream = watch_prefix(client, "/jobs/").await;
        let (times, (counted, done)) = (Times::default(), watch::channel(0));
        let theirs = times.clone();
        let watching = tokio::spawn(async move {
            while let Ok(Some(response)) = stream.message().await {
                let now = Instant::now();
                let mut new = 0;
                let mut times = theirs.lock().expect("no panic");
                for kv in response.events().iter().filter_map(|event| event.kv()) {
                    if kv.value() == b"done" {
                        let twice = times.insert(String::from_utf8_lossy(kv.key()).into_owned(), now);
                        assert!(twice.is_none(), "a job was done twice");
                        new += 1;
                    }
                }
                drop(times);
                counted.send_modify(|count| *count += new);
            }
        });
        Self { times, done, watching }
    }

    /// How many are done.
    pub fn done(&self) -> usize {
        *self.done.borrow()
    }

    /// When each was done.
    pub fn times(&self) -> HashMap<String, Instant> {
        self.times.lock().expect("no panic").clone()
    }

    /// Waits for so many, for at most this time. Returns how many are done then.
    pub async fn wait(&mut self, count: usize, patience: Duration) -> usize {
        // Whether it was in time is seen by the number.
        let _ = timeout(patience, self.done.wait_for(|done| *done >= count)).await;
        self.done()
    }

    /// Waits for so many, which come in a minute unless something is broken.
    pub async fn until(&mut self, count: usize) {
        const PATIENCE: Duration = Duration::from_secs(60);
        let done = self.wait(count, PATIENCE).await;
        assert!(done >= count, "{done} of {count} were done after {PATIENCE:?}");
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

/// When the first key with this prefix is deleted.
pub async fn deletion(client: &Client, prefix: &str) -> JoinHandle<Instant> {
    let mut stream = watch_prefix(client, prefix).await;
    tokio::spawn(async move {
        loop {
            let response = stream.message().await.expect("a watch").expect("it goes on");
            if response.events().iter().any(|event| event.event_type() == EventType::Delete) {
                return Instant::now();
            }
        }
    })
}
