//! Whose store it is that answers: the identity of a store, copies of a cluster, and other clusters under the same id.

use crate::support::{Etcd, Proxy, assert_nothing_left, eventually};
use etcd_client::Permission;
use etcd_rules::events::EventKind;
use etcd_rules::health::Reason;
use etcd_rules::{
    Channel, Condition, Engine, EngineBuilder, Error, Firing, Health, Outcome, Rule, RunningEngine, key,
};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);
const IDENTITY: &str = "/etcd-rules/app/identity";

fn acknowledge() -> Rule {
    Rule::new("acknowledge").when(key("/jobs/:id").exists() & key("/done/:id").absent()).run(
        |firing: Firing| async move { Ok::<Outcome, Error>(firing.commit().put("/done/:id", "").into()) },
    )
}

async fn started(builder: EngineBuilder) -> RunningEngine {
    let engine = builder.build().expect("a sound configuration").start().await.expect("it starts");
    timeout(60 * SECOND, engine.ready()).await.expect("it is ready");
    engine
}

/// Does one thing more than a hundred times, so that revisions are higher than those of any other store here.
async fn outgrow(etcd: &mut Etcd) {
    // Each start is an election.
    etcd.restart().await;
    etcd.restart().await;
    for number in 0..500 {
        etcd.put("/filler", format!("{number}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_identity_is_written_by_the_first_engine_and_stays() {
    let etcd = Etcd::start().await;
    let first = started(Engine::builder("app", [etcd.endpoint()]).rule(acknowledge())).await;
    let identity = etcd.get(IDENTITY).await.expect("the store has an identity");
    assert!(identity.len() == 32 && identity.bytes().all(|digit| digit.is_ascii_hexdigit()), "{identity}");
    let second = started(Engine::builder("app", [etcd.endpoint()]).rule(acknowledge())).await;
    let other = started(Engine::builder("other", [etcd.endpoint()]).rule(acknowledge())).await;
    assert_ne!(etcd.get("/etcd-rules/other/identity").await, Some(identity.clone()), "each has its own");
    for engine in [first, second, other] {
        engine.shutdown(SECOND).await.unwrap();
    }
    assert_nothing_left(&etcd, "/etcd-rules/", SECOND).await;
    let found = etcd.client().await.kv_client().get(IDENTITY, None).await.unwrap();
    let kv = &found.kvs()[0];
    assert_eq!((kv.value(), kv.version(), kv.lease()), (identity.as_bytes(), 1, 0), "as it was written once");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_that_is_deleted_by_hand_is_written_again_and_nothing_is_cancelled() {
    let etcd = Etcd::start().await;
    let (may_end, _) = watch::channel(false);
    let runs = Arc::new(AtomicUsize::new(0));
    let (gate, counted) = (may_end.clone(), runs.clone());
    let long = Rule::new("long").when(key("/long/:id").exists()).run(move |firing: Firing| {
        let (gate, runs) = (gate.clone(), counted.clone());
        async move {
            runs.fetch_add(1, Ordering::SeqCst);
            gate.subscribe().wait_for(|may| *may).await.expect("the test goes on");
            Ok::<Outcome, Error>(firing.commit().delete("/long/:id").into())
        }
    });
    let engines =
        [(); 2].map(|()| Engine::builder("app", [etcd.endpoint()]).rules([acknowledge(), long.clone()]));
    let mut running = Vec::new();
    for engine in engines {
        running.push(started(engine).await);
    }
    let identity = etcd.get(IDENTITY).await;
    for id in 0..10 {
        etcd.put(&format!("/long/{id}"), "").await;
    }
    eventually(20 * SECOND, "they run", async || runs.load(Ordering::SeqCst) == 10).await;
    for round in 0..5 {
        etcd.delete(IDENTITY).await;
        for id in 0..20 {
            etcd.put(&format!("/jobs/{round}-{id}"), "").await;
        }
        eventually(20 * SECOND, "all is done", async || etcd.keys("/done/").await.len() == 20 * (round + 1))
            .await;
        assert_eq!(etcd.get(IDENTITY).await, identity, "it is the same");
    }
    may_end.send_replace(true);
    eventually(20 * SECOND, "they end", async || etcd.keys("/long/").await.is_empty()).await;
    assert_eq!(runs.load(Ordering::SeqCst), 10, "none was cancelled and run again");
    for engine in running {
        eventually(20 * SECOND, "it is well", async || engine.health() == Health::Ready).await;
        engine.shutdown(SECOND).await.unwrap();
    }
    assert_nothing_left(&etcd, "/etcd-rules/", SECOND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_identity_is_another_store_and_the_engine_starts_again_with_it() {
    let etcd = Etcd::start().await;
    let engine = started(Engine::builder("app", [etcd.endpoint()]).rule(acknowledge())).await;
    etcd.put("/jobs/1", "").await;
    eventually(20 * SECOND, "it works", async || etcd.get("/done/1").await.is_some()).await;
    etcd.put(IDENTITY, "by hand").await;
    etcd.put("/jobs/2", "").await;
    eventually(20 * SECOND, "it goes on", async || etcd.get("/done/2").await.is_some()).await;
    assert_eq!(etcd.get(IDENTITY).await.as_deref(), Some("by hand"), "nobody changes it");
    eventually(20 * SECOND, "it is well", async || engine.health() == Health::Ready).await;
    engine.shutdown(SECOND).await.unwrap();
    // The lease of before has to end by itself: the engine wrote nothing more to what was another store to it.
    assert_nothing_left(&etcd, "/etcd-rules/", 20 * SECOND).await;
}

/// What another store under the same id is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Other {
    /// A cluster that was made alike, in which no engine has been.
    Nameless,
    /// A cluster that was made alike, with engines of its own.
    Named,
    /// A copy of the cluster's data with the identity in it.
    Clone,
}

impl Other {
    /// Starts it, and has it live on by itself. Its revision and its term are higher than the first one's will be.
    async fn start(
        self,
        etcd: &mut Etcd,
        engine: impl AsyncFn(&Etcd) -> RunningEngine,
    ) -> (Etcd, RunningEngine) {
        let before = etcd.save();
        let running = engine(etcd).await;
        etcd.put("/jobs/early", "").await;
        eventually(20 * SECOND, "it works", async || etcd.get("/done/early").await.is_some()).await;
        let mut other = match self {
            Other::Nameless => Etcd::start_copy(&before).await,
            Other::Named => {
                let other = Etcd::start_copy(&before).await;
                let resident = started(Engine::builder("app", [other.endpoint()]).rule(acknowledge())).await;
                resident.shutdown(SECOND).await.unwrap();
                other
            }
            Other::Clone => {
                let saved = etcd.save();
                // What comes after a copy was made is what tells it.
                etcd.put("/jobs/after", "").await;
                eventually(20 * SECOND, "that is done", async || etcd.get("/done/after").await.is_some())
                    .await;
                Etcd::start_copy(&saved).await
            }
        };
        outgrow(&mut other).await;
        other.put("/jobs/there", "").await;
        assert_eq!(etcd.cluster_id().await, other.cluster_id().await, "{self:?}: it has the same id");
        assert_eq!(etcd.get(IDENTITY).await == other.get(IDENTITY).await, self == Other::Clone, "{self:?}");
        (other, running)
    }
}

/// Behind one of three endpoints there is another store under the same id: nothing is written there.
async fn is_left(kind: Other) {
    let mut etcd = Etcd::start().await;
    let proxies: Vec<Proxy> = (0..3).map(|_| Proxy::start(etcd.endpoint())).collect();
    let endpoints: Vec<String> = proxies.iter().map(Proxy::endpoint).collect();
    let engine =
        async |_: &Etcd| started(Engine::builder("app", endpoints.clone()).rule(acknowledge())).await;
    let (other, running) = kind.start(&mut etcd, engine).await;
    let before = other.revision().await;
    proxies[2].lead_to(&other.endpoint());
    // Connections to it are attempted until there was one.
    let connected = proxies[2].accepted();
    for round in 0.. {
        for proxy in &proxies {
            proxy.cut();
        }
        // For a moment there is nothing else.
        proxies[2].heal();
        sleep(SECOND / 2).await;
        proxies.iter().for_each(Proxy::heal);
        let job = format!("/jobs/{round}");
        etcd.put(&job, "").await;
        let done = job.replace("jobs", "done");
        eventually(30 * SECOND, "it is done", async || etcd.get(&done).await.is_some()).await;
        if proxies[2].accepted() >= connected + 3 {
            break;
        }
        assert!(round < 20, "{kind:?}: nobody asks the other store who it is");
    }
    sleep(SECOND).await;
    assert_eq!(other.revision().await, before, "{kind:?}: nothing took effect there");
    assert_eq!(other.get("/done/there").await, None);
    eventually(20 * SECOND, "it is well", async || running.health() == Health::Ready).await;
    running.shutdown(SECOND).await.unwrap();
    assert_eq!(other.revision().await, before, "{kind:?}: nothing took effect there");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_of_a_cluster_that_was_made_alike_is_left() {
    is_left(Other::Nameless).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_of_a_cluster_that_was_made_alike_and_has_engines_is_left() {
    is_left(Other::Named).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_of_a_clone_is_left() {
    is_left(Other::Clone).await;
}

/// A channel that connects again by itself, to whatever is there.
fn channel(proxy: &Proxy) -> Channel {
    let uri = format!("http://{}", proxy.endpoint());
    Channel::Tonic(tonic::transport::Endpoint::from_shared(uri).expect("a URI").connect_lazy())
}

/// Rules that end their firings in every way there is, once they may.
fn every_way(may_end: &watch::Sender<bool>, runs: &Arc<Mutex<BTreeMap<String, usize>>>) -> Vec<Rule> {
    let ways = ["commit", "ttl", "unlock", "fail", "retry", "give-up", "optimistic"];
    let rule = |way: &'static str| {
        let when = key(format!("/{way}/:id")).exists() & key(format!("/end/{way}/:id")).absent();
        let (may_end, runs) = (may_end.clone(), runs.clone());
        let rule = Rule::new(way).when(when).run(move |firing: Firing| {
            let (may_end, runs) = (may_end.clone(), runs.clone());
            async move {
                *runs.lock().unwrap().entry(way.to_owned()).or_default() += 1;
                may_end.subscribe().wait_for(|may| *may).await.expect("the test goes on");
                let end = format!("/end/{way}/:id");
                Ok::<Outcome, Error>(match way {
                    "ttl" => firing.commit().put_ttl(&end, "", 60 * SECOND).into(),
                    "unlock" => Outcome::done(),
                    "fail" => return Err(firing.get("/nothing").await.unwrap_err().into()),
                    "retry" => Outcome::retry_after(60 * SECOND),
                    "give-up" => Outcome::give_up("it is enough"),
                    _ => firing.commit().put(&end, "").into(),
                })
            }
        });
        if way == "optimistic" { rule.optimistic() } else { rule }
    };
    ways.map(rule).into()
}

/// The application's own channel leads to another store under the same id, and the engine is not asked: the
/// transactions are refused there, whatever they are.
async fn refuses_everything(kind: Other) {
    let mut etcd = Etcd::start().await;
    let proxy = Proxy::start(etcd.endpoint());
    let (may_end, _) = watch::channel(false);
    let runs = Arc::default();
    let engine = async |_: &Etcd| {
        let rules = every_way(&may_end, &runs).into_iter().chain([acknowledge()]);
        started(Engine::builder_with_channel("app", channel(&proxy)).lock_ttl(60 * SECOND).rules(rules)).await
    };
    let (other, running) = kind.start(&mut etcd, engine).await;
    for way in ["commit", "ttl", "unlock", "fail", "retry", "give-up", "optimistic"] {
        etcd.put(&format!("/{way}/1"), "").await;
    }
    eventually(20 * SECOND, "all of them run", async || runs.lock().unwrap().len() == 7).await;
    assert!(kind == Other::Nameless || other.get(IDENTITY).await.is_some());
    let mut events = running.events();
    let committed = Arc::new(AtomicBool::new(false));
    let saw = committed.clone();
    let listening = tokio::spawn(async move {
        while let Some(Ok(event)) = events.recv().await {
            if let EventKind::Closed { result, .. } = &event.kind {
                saw.fetch_or(result.is_committed(), Ordering::SeqCst);
            }
        }
    });
    other.delete("/jobs/there").await;
    // Each lease of locks has a key there, also the one of an engine that has started again.
    let but_of_leases = async || {
        let mut keys = other.keys("/").await;
        keys.retain(|key| !key.starts_with("/etcd-rules/app/format/"));
        keys
    };
    let before = but_of_leases().await;
    proxy.lead_to(&other.endpoint());
    proxy.cut();
    proxy.heal();
    may_end.send_replace(true);
    let wrong = async || running.health().to_string().contains("wrong") || running.health() == Health::Ready;
    eventually(20 * SECOND, "it notices", wrong).await;
    sleep(3 * SECOND).await;
    assert!(!committed.load(Ordering::SeqCst), "no answer from there ends a firing as done");
    // It has started again with what there is, and nothing of what was.
    let mut after = but_of_leases().await;
    after.retain(|key| key != IDENTITY || kind != Other::Nameless);
    assert_eq!(after, before, "nothing took effect there");
    may_end.send_replace(false);
    proxy.lead_to(&etcd.endpoint());
    proxy.cut();
    proxy.heal();
    may_end.send_replace(true);
    for way in ["commit", "ttl", "optimistic"] {
        let end = format!("/end/{way}/1");
        eventually(90 * SECOND, "it is done at home", async || etcd.get(&end).await.is_some()).await;
    }
    listening.abort();
    running.shutdown(5 * SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_was_made_alike_refuses_whatever_a_channel_of_the_applications_brings() {
    refuses_everything(Other::Nameless).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn and_so_does_one_with_engines_of_its_own() {
    refuses_everything(Other::Named).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_permission_for_the_identity_the_engine_says_so_and_heals() {
    let etcd = Etcd::start().await;
    etcd.put(IDENTITY, "chosen").await;
    let own = ["lock/", "backoff/", "format/"].map(|own| format!("/etcd-rules/app/{own}"));
    let permitted: Vec<&str> = own.iter().map(String::as_str).chain(["/jobs/", "/done/"]).collect();
    let root = etcd.enable_auth(&permitted).await;
    let options = etcd_rules::ConnectOptions::new().with_user("engine", "secret");
    let builder = Engine::builder("app", [etcd.endpoint()]).connect_options(options).rule(acknowledge());
    let engine = builder.build().expect("a sound configuration").start().await.expect("it starts");
    root.kv_client().put("/jobs/1", "", None).await.unwrap();
    eventually(20 * SECOND, "it says so", async || engine.health().has(Reason::Permission)).await;
    assert!(root.kv_client().get("/done/1", None).await.unwrap().kvs().is_empty(), "nothing is sent");
    let permission = Permission::read_write("/etcd-rules/app/").with_prefix();
    root.auth_client().role_grant_permission("engine", permission).await.unwrap();
    let done = async || !root.kv_client().get("/done/1", None).await.unwrap().kvs().is_empty();
    eventually(20 * SECOND, "it goes on", done).await;
    let found = root.kv_client().get(IDENTITY, None).await.unwrap();
    assert_eq!(found.kvs()[0].value(), b"chosen", "the one that was there is as good");
    engine.shutdown(SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_transactions_have_room_for_the_identity() {
    let etcd = Etcd::start().await;
    let present = (0..124).map(|number| key(format!("/many/{number}")).exists());
    let when = Condition::all(present) & key("/large").absent();
    let rule = Rule::new("large").when(when).run(|firing: Firing| async move {
        let commit =
            (0..125).fold(firing.commit(), |commit, number| commit.put(&format!("/out/{number}"), ""));
        Ok::<Outcome, Error>(commit.put("/large", "").expect_unchanged("/many/0").into())
    });
    for number in 0..124 {
        etcd.put(&format!("/many/{number}"), "").await;
    }
    let engine = started(Engine::builder("app", [etcd.endpoint()]).rule(rule)).await;
    eventually(20 * SECOND, "it is done", async || etcd.get("/large").await.is_some()).await;
    assert_eq!(etcd.keys("/out/").await.len(), 125);
    engine.shutdown(SECOND).await.unwrap();
}
