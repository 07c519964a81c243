//! Engines and the server that they share.

use crate::Bench;
use crate::engine::EngineProcess;
use crate::member::{Counts, Spec};
use crate::server::{Counters, Running};
use etcd_client::GetOptions;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Below it are the keys of the members. The engines' application is `bench`.
pub const MEMBERS: &str = "/etcd-rules/bench/members/1/";

/// For so long after the members have changed, engines try also what they owned before.
const GRACE: Duration = Duration::from_millis(2500);

/// How long engines may take to become members.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Fleet {
    pub server: Running,
    pub engines: Vec<EngineProcess>,
}

impl Fleet {
    /// Engines with this work, which differ in name. Each has read everything, and sees the others.
    pub async fn start(server: Running, engines: usize, spec: &Spec) -> Self {
        let mut this = Self { server, engines: Vec::new() };
        for number in 0..engines {
            this.join(&Spec { name: format!("engine-{number}"), ..spec.clone() }).await;
        }
        this.settle(spec.owners).await;
        this
    }

    /// One on a fresh server, with nothing below `/jobs/`.
    pub async fn fresh(bench: &Bench, engines: usize, spec: &Spec) -> Self {
        Self::start(bench.server.fresh().await, engines, spec).await
    }

    /// Starts one more. Returns in how many seconds it was ready.
    pub async fn join(&mut self, spec: &Spec) -> f64 {
        let spec = Spec { endpoint: self.server.endpoint(), ..spec.clone() };
        let (engine, ready) = EngineProcess::start(&spec).await;
        self.engines.push(engine);
        ready.seconds
    }

    /// Waits until all see each other.
    pub async fn settle(&self, owners: bool) {
        if !owners {
            sleep(Duration::from_millis(200)).await;
            return;
        }
        let begin = Instant::now();
        loop {
            let options = GetOptions::new().with_prefix().with_count_only();
            let keys = self.server.client.kv_client().get(MEMBERS, Some(options)).await.expect("a count");
            if keys.count() as usize == 2 * self.engines.len() {
                break;
            }
            assert!(begin.elapsed() < PATIENCE, "{} keys of members after {PATIENCE:?}", keys.count());
            sleep(Duration::from_millis(20)).await;
        }
        sleep(GRACE).await;
    }

    /// What each engine has counted, and the server.
    pub async fn counts(&mut self) -> (Vec<Counts>, Counters) {
        let mut counts = Vec::new();
        for engine in &mut self.engines {
            counts.push(engine.counts().await);
        }
        (counts, self.server.counters().await)
    }

    /// Lets all end.
    pub async fn end(self) {
        for engine in self.engines {
            engine.end().await;
        }
    }
}
