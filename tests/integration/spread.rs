//! Over which members engines spread, when they leave one, and what a move must not cost.

use super::link::{CALLBACKS, all_end_undisturbed, busy_with};
use crate::support::{Cluster, Etcd, Proxy, eventually};
use etcd_rules::{Engine, EngineBuilder, Error, Firing, Outcome, Rule, RunningEngine, key};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);

/// A rule that counts how often it fired, in place of doing anything.
fn counting(builder: EngineBuilder, fired: &Arc<AtomicUsize>) -> EngineBuilder {
    let fired = fired.clone();
    let rule = Rule::new("work").when(key("/short/:id").exists()).run(move |firing: Firing| {
        let fired = fired.clone();
        async move {
            fired.fetch_add(1, Ordering::SeqCst);
            Ok::<Outcome, Error>(firing.commit().delete("/short/:id").into())
        }
    });
    builder.rule(rule)
}

fn shares(proxies: &[Proxy]) -> Vec<usize> {
    proxies.iter().map(Proxy::connections).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_rolling_restart_no_member_has_more_than_twice_its_share() {
    const ENGINES: usize = 10;
    const WITHIN: Duration = Duration::from_secs(12);
    let mut cluster = Cluster::start().await;
    let proxies: Vec<Proxy> = (0..3).map(|member| Proxy::start(cluster.endpoint(member))).collect();
    let endpoints: Vec<String> = proxies.iter().map(Proxy::endpoint).collect();
    let fired = Arc::new(AtomicUsize::new(0));
    let mut engines: Vec<RunningEngine> = Vec::new();
    for number in 0..ENGINES {
        let builder = Engine::builder("spread", endpoints.clone()).name(format!("engine-{number}"));
        let engine = counting(builder, &fired).rebalance(WITHIN).build().unwrap().start().await.unwrap();
        tokio::time::timeout(60 * SECOND, engine.ready()).await.expect("ready");
        engines.push(engine);
    }
    // All of them use all three links.
    let mut jobs = 0;
    let mut client = cluster.client(0).await;
    for id in 0..100 {
        client.put(format!("/short/{id}"), "", None).await.unwrap();
        jobs += 1;
    }
    let even = ENGINES * 3 / 3;
    eventually(30 * SECOND, "each member has its share", async || shares(&proxies) == [even; 3]).await;

    let mut worst = 0;
    for member in 0..3 {
        cluster.kill(member);
        sleep(SECOND).await;
        cluster.restart(member).await;
        let mut client = cluster.client((member + 1) % 3).await;
        for id in 0..20 {
            client.put(format!("/short/{member}-{id}"), "", None).await.unwrap();
            jobs += 1;
        }
        worst = worst.max(shares(&proxies).into_iter().max().unwrap_or_default());
    }
    assert!(worst > even, "links had to leave: {worst}");
    // Attempts to go home while the member was away may have failed once.
    let spread = async || shares(&proxies).iter().all(|share| *share <= 2 * even);
    eventually(2 * WITHIN, "no member has more than twice its share", spread).await;
    eventually(2 * WITHIN, "and then all are at home", async || shares(&proxies) == [even; 3]).await;
    eventually(30 * SECOND, "everything is done", async || {
        let options = etcd_client::GetOptions::new().with_prefix().with_count_only();
        client.kv_client().get("/short/", Some(options)).await.is_ok_and(|found| found.count() == 0)
    })
    .await;
    assert!(fired.load(Ordering::SeqCst) >= jobs);
    for engine in engines {
        engine.shutdown(5 * SECOND).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_that_leave_a_silent_endpoint_together_stay_on_the_healthy_one() {
    let etcd = Etcd::start().await;
    let (silent, healthy) = (Proxy::start(etcd.endpoint()), Proxy::start(etcd.endpoint()));
    let fired = Arc::new(AtomicUsize::new(0));
    let rules = (0..4).map(|number| {
        let (pattern, fired) = (format!("/jobs/{number}/:id"), fired.clone());
        Rule::new(format!("rule{number}")).when(key(pattern.clone()).exists()).run(move |firing: Firing| {
            let (pattern, fired) = (pattern.clone(), fired.clone());
            async move {
                fired.fetch_add(1, Ordering::SeqCst);
                Ok::<Outcome, Error>(firing.commit().delete(&pattern).into())
            }
        })
    });
    let endpoints = [silent.endpoint(), healthy.endpoint()];
    let builder = Engine::builder("spread", endpoints).watch_silence(SECOND).rules(rules);
    let engine = builder.build().unwrap().start().await.unwrap();
    engine.ready().await;
    etcd.put("/jobs/0/first", "").await;
    eventually(20 * SECOND, "it works", async || fired.load(Ordering::SeqCst) == 1).await;
    // At least one of three links is there.
    assert!(silent.connections() > 0 && healthy.connections() > 0);
    silent.freeze();
    let accepted = silent.accepted();
    eventually(20 * SECOND, "all are on the healthy one", async || healthy.connections() == 3).await;
    for round in 0..10 {
        let asked = Instant::now();
        for number in 0..4 {
            etcd.put(&format!("/jobs/{number}/{round}"), "").await;
        }
        let all = 1 + 4 * (round + 1);
        eventually(10 * SECOND, "all are told", async || fired.load(Ordering::SeqCst) == all).await;
        assert!(asked.elapsed() < 3 * SECOND, "round {round}: {:?}", asked.elapsed());
        sleep(SECOND).await;
    }
    assert_eq!(healthy.connections(), 3);
    assert_eq!(silent.accepted(), accepted, "nobody went back");
    engine.shutdown(5 * SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_loses_nothing_and_cancels_nothing() {
    let etcd = Etcd::start().await;
    let client = etcd.client().await;
    let proxies = [Proxy::start(etcd.endpoint()), Proxy::start(etcd.endpoint())];
    let endpoints: Vec<String> = proxies.iter().map(Proxy::endpoint).collect();
    let set = |builder: EngineBuilder| builder.rebalance(2 * SECOND);
    let (engine, counts) = busy_with(endpoints, &client, 5 * SECOND, 20 * SECOND, set).await;
    let at_home = shares(&proxies);
    // Each is cut off in turn, so that its links leave it and go home when it is back.
    let mut moves = 0;
    for round in 0..4 {
        let proxy = &proxies[round % 2];
        proxy.cut();
        eventually(10 * SECOND, "all have left", async || shares(&proxies)[1 - round % 2] == 3).await;
        proxy.heal();
        eventually(10 * SECOND, "they are at home again", async || shares(&proxies) == at_home).await;
        moves += 1;
    }
    assert_eq!((moves, counts.get()), (4, (CALLBACKS, 0)));
    all_end_undisturbed(engine, &counts, &client).await;
}
